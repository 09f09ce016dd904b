//! `bounceflow run`: one thread per loop, the HTTP side, and an orderly end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::board::Board;
use crate::config::Config;
use crate::health::Health;
use crate::metrics::{Exporter, UPKEEP};
use crate::process::Tables;
use crate::starting::From;
use crate::stop::Stop;
use crate::trouble::Fenced;
use crate::{alertmanager, classify, http, metrics, sink, watch};

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
/// How often is looked whether every loop turns.
const LOOK: Duration = Duration::from_secs(1);
/// A loop is stuck when so many looks in a row say so: a process that slept finds old times, and turns at once.
const LOOKS: u32 = 5;
/// How long the other loops have for what is open when one is stuck.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs the roles (all of them where none is named) until a signal asks to stop or a loop cannot go on.
pub fn run(config: Config, roles: &[Role], from: Option<From>) -> anyhow::Result<()> {
    std::panic::set_hook(Box::new(say_where));
    let metrics = metrics::install()?;
    let (stop, health) = (Stop::default(), Health::default());
    let playing = |role| roles.is_empty() || roles.contains(&role);
    let tables = Arc::new(Tables::new(&config)?);
    let config = Arc::new(config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // Heard from here on in every role, also where no rules are used: unheard, it would end the process.
    let hangups = runtime.block_on(async { signal(SignalKind::hangup()) })?;
    let compiled = &config.classify.compiled;
    tracing::info!(rules_version = compiled.version(), rules = compiled.iter().len(), "Rules loaded");
    let listener = runtime.block_on(http::bind(config.listen))?;
    let board = playing(Role::Watch).then(|| Arc::new(Board::new(Arc::clone(&tables.rules), config.watch.rules.windows())));
    runtime.spawn(keep_up(metrics.clone()));
    let listening = runtime.spawn(http::serve(listener, health.clone(), metrics, board.clone(), stop.clone()));
    let asked = stop.clone();
    runtime.spawn(async move {
        wait_for_signal().await;
        tracing::info!("Asked to stop; finishing what is open");
        asked.set();
    });

    runtime.spawn(reload_on(hangups, Arc::clone(&tables), config.classify.rules.clone()));

    // A loop that ends says so here; the first that ends by an error ends the process.
    let (ended, ends) = mpsc::channel();
    let mut loops = 0;
    let mut spawn = |name: String, body: Box<dyn FnMut() -> anyhow::Result<()> + Send>| -> anyhow::Result<()> {
        let (ended, context) = (ended.clone(), name.clone());
        thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until_fenced_twice(&context, body)));
            let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")));
            drop(ended.send(result.context(context)));
        })?;
        loops += 1;
        Ok(())
    };
    if playing(Role::Classify) {
        for input in &config.inputs {
            for thread in 0..config.classify.threads {
                let name = format!("classify {} {thread}", input.topic);
                let task = classify::Task {
                    config: Arc::clone(&config),
                    tables: Arc::clone(&tables),
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
        let task = sink::Task { config: Arc::clone(&config), from, stop: stop.clone(), health: health.add("sink") };
        spawn("sink".into(), Box::new(move || sink::run(&task)))?;
    }
    if let Some(board) = board {
        for url in &config.watch.alertmanagers {
            let (url, resend) = (url.clone(), config.watch.resend_interval);
            let task = alertmanager::Task { url, resend, board: Arc::clone(&board), stop: stop.clone() };
            spawn("alertmanager".into(), Box::new(move || alertmanager::run(&task)))?;
        }
        let (config, tables) = (Arc::clone(&config), Arc::clone(&tables));
        let task = watch::Task { config, tables, board, stop: stop.clone(), health: health.add("watch") };
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
            Ok(end) => {
                loops -= 1;
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
    match runtime.block_on(listening) {
        Ok(served) => result.and(served),
        Err(e) => result.and(Err(e.into())),
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

/// Reads the rules anew at each SIGHUP, one after the other and beside the HTTP side: compiling takes a moment.
async fn reload_on(mut hangups: Signal, tables: Arc<Tables>, files: Vec<PathBuf>) {
    while hangups.recv().await.is_some() {
        let (tables, files) = (Arc::clone(&tables), files.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || tables.rules.reload(&files, &tables.isps)).await {
            tracing::error!(%error, "Reading the rules anew failed; those in force stay");
            metrics::rules_reloaded(false);
        }
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
