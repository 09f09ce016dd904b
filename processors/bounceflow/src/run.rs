//! `bounceflow run`: one thread per loop, the HTTP side, and an orderly end.

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::board::Board;
use crate::config::{Config, Mistakes};
use crate::health::Health;
use crate::http::guard::Guard;
use crate::metrics::{Exporter, UPKEEP};
use crate::process::Tables;
use crate::secrets::Watched;
use crate::starting::Resume;
use crate::stop::Stop;
use crate::trouble::Fenced;
use crate::{alertmanager, classify, http, kafka, metrics, sink, watch};

/// One of the roles a process can play.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Reads delivery events, writes counts and failures.
    Classify,
    /// Writes counts, failures and alerts to ClickHouse.
    Sink,
    /// Keeps windowed rates, raises alerts, answers `/api/v1`.
    Watch,
}

/// Fenced twice within this time, a loop ends.
const FENCED_AGAIN: Duration = Duration::from_secs(60);
/// How often is looked whether a secret was changed.
const LOOK_AT_SECRETS: Duration = Duration::from_secs(5);
/// How often is looked whether every loop turns.
const LOOK: Duration = Duration::from_secs(1);
/// A loop is stuck when so many looks in a row say so: a process that slept finds old times, and turns at once.
const LOOKS: u32 = 5;
/// How long the other loops have for what is open when one is stuck.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs the roles (all of them where none is named) until a signal asks to stop or a loop cannot go on.
pub fn run(mut config: Config, roles: &[Role], from: Option<Resume>) -> anyhow::Result<()> {
    config.ordinal = config.ordinal.here()?;
    std::panic::set_hook(Box::new(say_where));
    let metrics = metrics::install()?;
    let (stop, round, health) = (Stop::default(), Round::default(), Health::default());
    let tables = Arc::new(Tables::new(&config)?);
    let mut config = Arc::new(config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // Heard from here on in every role, also where no rules are used: unheard, it would end the process.
    let hangups = runtime.block_on(async { signal(SignalKind::hangup()) })?;
    let compiled = &config.classify.compiled;
    tracing::info!(rules_version = compiled.version(), rules = compiled.iter().len(), "Rules loaded");
    let guard = Guard::new(&config.http_secrets).map_err(Mistakes::of_http)?;
    let listener = runtime.block_on(http::bind(config.listen, &guard))?;
    let plays_watch = roles.is_empty() || roles.contains(&Role::Watch);
    let board = plays_watch.then(|| Arc::new(Board::new(Arc::clone(&tables.rules), config.watch.rules.windows())));
    runtime.spawn(keep_up(metrics.clone()));
    let listening = runtime.spawn(http::serve(listener, guard.clone(), health.clone(), metrics, board.clone(), stop.clone()));
    let (asked, current) = (stop.clone(), round.clone());
    runtime.spawn(async move {
        wait_for_signal().await;
        tracing::info!("Asked to stop; finishing what is open");
        asked.set();
        current.end();
    });
    runtime.spawn(reload_on(hangups, Arc::clone(&tables), config.classify.rules.clone()));
    runtime.spawn(renew_secrets(Arc::clone(&config), guard, round.clone()));

    let mut result;
    loop {
        let play = Play { config: &config, roles, from, tables: &tables, board: board.as_ref(), health: &health };
        result = play.until(&round.begin(&stop));
        if result.is_err() || stop.is_set() {
            break;
        }
        // Asked for by nothing but a change of Kafka's secrets: what was open is settled, as when a process ends and another begins.
        match config.with_kafka_renewed() {
            Ok(renewed) => config = Arc::new(renewed),
            Err(error) => tracing::error!(%error, "A secret of Kafka cannot be read; the one before is used"),
        }
        health.clear();
    }
    stop.set();
    match runtime.block_on(listening) {
        Ok(served) => result.and(served),
        Err(e) => result.and(Err(e.into())),
    }
}

/// The flag that asks the loops to end that turn now. A process that is to stop asks it too.
#[derive(Clone, Default)]
struct Round(Arc<Mutex<Stop>>);

impl Round {
    fn begin(&self, process: &Stop) -> Stop {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Stop::default();
        // Set between two rounds, it was said to the one before.
        if process.is_set() {
            current.set();
        }
        current.clone()
    }

    fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).set();
    }
}

/// What the loops of a round have in common.
struct Play<'a> {
    config: &'a Arc<Config>,
    roles: &'a [Role],
    from: Option<Resume>,
    tables: &'a Arc<Tables>,
    board: Option<&'a Arc<Board>>,
    health: &'a Health,
}

impl Play<'_> {
    /// One thread per loop, until asked to stop or one of them cannot go on.
    fn until(&self, stop: &Stop) -> anyhow::Result<()> {
        let Self { config, roles, from, tables, board, health } = *self;
        let playing = |role| roles.is_empty() || roles.contains(&role);
        // A loop that ends says so here; the first that ends by an error ends the process.
        let (ended, ends) = mpsc::channel();
        let mut loops = 0;
        let mut spawn = |name: String, body: Box<dyn FnMut() -> anyhow::Result<()> + Send>| -> anyhow::Result<()> {
            let (ended, context) = (ended.clone(), name.clone());
            thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until_fenced_twice(&context, body)));
                let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")));
                drop(ended.send((context.clone(), result.context(context))));
            })?;
            loops += 1;
            Ok(())
        };
        if playing(Role::Classify) {
            for input in &config.inputs {
                for thread in 0..config.classify.threads {
                    let name = format!("classify {} {thread}", input.topic);
                    let task = classify::Task {
                        config: Arc::clone(config),
                        tables: Arc::clone(tables),
                        input: input.clone(),
                        thread,
                        from,
                        stop: stop.clone(),
                        health: health.add(&name),
                    };
                    spawn(name, Box::new(move || classify::run(&task)))?;
                }
            }
        }
        if playing(Role::Sink) {
            let task = sink::Task { config: Arc::clone(config), from, stop: stop.clone(), health: health.add("sink") };
            spawn("sink".into(), Box::new(move || sink::run(&task)))?;
        }
        if let Some(board) = board {
            for url in &config.watch.alertmanagers {
                let (url, resend) = (url.clone(), config.watch.resend_interval);
                let task = alertmanager::Task { url, resend, board: Arc::clone(board), stop: stop.clone() };
                spawn("alertmanager".into(), Box::new(move || alertmanager::run(&task)))?;
            }
            let (config, tables) = (Arc::clone(config), Arc::clone(tables));
            let task = watch::Task { config, tables, board: Arc::clone(board), stop: stop.clone(), health: health.add("watch") };
            spawn("watch".into(), Box::new(move || watch::run(&task)))?;
        }
        drop(ended);
        let mut result = Ok(());
        let mut fail = |e: anyhow::Error| {
            tracing::error!(error = format!("{e:#}"), "A loop cannot go on; the process ends");
            stop.set();
            if result.is_ok() {
                result = Err(e);
            }
        };
        let (mut stuck, mut leave) = (0, None::<Instant>);
        while loops > 0 && leave.is_none_or(|when| Instant::now() < when) {
            match ends.recv_timeout(LOOK) {
                Ok((name, end)) => {
                    loops -= 1;
                    health.ended(&name);
                    end.unwrap_or_else(&mut fail);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    loops = 0;
                    fail(anyhow::anyhow!("a loop ended without a word"));
                }
                Err(RecvTimeoutError::Timeout) => stuck = if health.stuck().is_empty() { 0 } else { stuck + 1 },
            }
            // A call of a client did not return, and never may. What was open is settled by whoever is started next.
            if leave.is_none() && stuck >= LOOKS {
                fail(anyhow::anyhow!("{}; nothing is lost, start it again", health.stuck().join("; ")));
                leave = Some(Instant::now() + FAREWELL);
            }
        }
        stop.set();
        result
    }
}

/// Begins a loop anew where it was fenced: when Kafka loses a broker, that happens to whoever waited for the broker's answer. Where
/// another process goes by the same id, the two fence each other, and whoever is fenced again so soon ends.
fn until_fenced_twice(name: &str, mut body: Box<dyn FnMut() -> anyhow::Result<()> + Send>) -> anyhow::Result<()> {
    let mut fenced: Option<Instant> = None;
    loop {
        match body() {
            Err(e) if e.is::<Fenced>() && fenced.is_none_or(|when| when.elapsed() > FENCED_AGAIN) => {
                tracing::warn!(loop_name = name, error = format!("{e:#}"), "Fenced; beginning anew from the committed offsets");
                fenced = Some(Instant::now());
            }
            end => return end,
        }
    }
}

/// A panic is told by its place. Its words may quote a record, and somebody's address with it: only fixed ones are repeated.
fn say_where(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    tracing::error!(place, why = panic.payload().downcast_ref::<&'static str>(), "Panicked");
}

/// Looks again and again whether a file of a secret holds another one. ClickHouse and the HTTP side take theirs up at once, Kafka's
/// clients are made anew.
async fn renew_secrets(config: Arc<Config>, guard: Guard, round: Round) {
    let http = &config.http_secrets;
    let of_http = http.token_file.iter().chain(http.tls.iter().flat_map(|(certificate, key)| [certificate, key]));
    let mut of_http = Watched::new(of_http.cloned().collect());
    let mut of_clickhouse = Watched::new(config.clickhouse_secrets.files());
    let (mut of_kafka, mut refused) = (Watched::new(config.files_of_kafka()), false);
    loop {
        tokio::time::sleep(LOOK_AT_SECRETS).await;
        let files = of_http.changed();
        if !files.is_empty() {
            match guard.renew(http).map_err(Mistakes::of_http) {
                Ok(()) => tracing::info!(?files, "Secrets of the HTTP side read anew"),
                Err(error) => tracing::error!(?files, %error, "Secrets of the HTTP side are refused; those before stay"),
            }
        }
        let files = of_clickhouse.changed();
        if !files.is_empty() {
            let read = config.clickhouse_secrets.read().map_err(|found| format!("{found:?}"));
            match read.and_then(|credentials| config.clickhouse.access.replace(&credentials)) {
                Ok(()) => tracing::info!(?files, "Secrets of ClickHouse read anew"),
                Err(error) => tracing::error!(?files, error, "Secrets of ClickHouse are refused; those before stay"),
            }
        }
        let files = of_kafka.changed();
        if !files.is_empty() || refused {
            let renewed = config.with_kafka_renewed().map_err(|found| found.to_string());
            match renewed.and_then(|renewed| kafka::can_be_made(&renewed.kafka)) {
                Ok(()) => {
                    refused = false;
                    tracing::info!(
                        ?files,
                        "Secrets of Kafka changed; every loop finishes what is open and begins anew with them"
                    );
                    round.end();
                }
                // A certificate is written before its key, or behind it: looked at again, also where no more changes.
                Err(error) => {
                    if !files.is_empty() {
                        tracing::error!(
                            ?files,
                            error,
                            "Secrets of Kafka are refused; those before stay, and they are looked at again"
                        );
                    }
                    refused = true;
                }
            }
        }
    }
}

/// Reads the rules anew at each SIGHUP, one after the other and beside the HTTP side: compiling takes a moment.
async fn reload_on(mut hangups: Signal, tables: Arc<Tables>, files: Vec<PathBuf>) {
    while hangups.recv().await.is_some() {
        let (tables, files) = (Arc::clone(&tables), files.clone());
        let reloaded = tokio::task::spawn_blocking(move || tables.rules.reload(&files, &tables.isps)).await;
        metrics::rules_reloaded(reloaded.unwrap_or_else(|error| {
            tracing::error!(%error, "Reading the rules anew failed; those in force stay");
            false
        }));
    }
}

/// Where nobody asks for metrics, what histograms observed would pile up.
async fn keep_up(metrics: Exporter) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.upkeep();
    }
}

async fn wait_for_signal() {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
