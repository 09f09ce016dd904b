//! `bounceflow top`: failure rates and alerts of a running `watch` role, live in the terminal or as plain lines.
//!
//! This file is the edge: arguments, clock, threads, terminal. What the reader sees is [`model`], changed by answers and keys, and
//! drawn from there alone. Nothing here counts or judges: every figure is the API's.

mod model;
mod keys;
mod format;
mod columns;
mod words;
mod pages;
mod draw;
mod plain;
mod client;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use ratatui::crossterm::event::{self, Event, KeyEvent};
use tokio::signal::unix::{SignalKind, signal};

pub use model::{Figure, Scope};

use crate::secrets;

use client::Client;
use model::{Answer, Ask, Model};
use words::Palette;

/// Rows asked for where they can be scrolled; a filter is asked for as well, so that it finds the others.
const ROWS: usize = 500;
/// Ages on the screen move on at least this often.
const TICK: Duration = Duration::from_secs(1);

/// Show failure rates and alerts of a running watch role, live
///
/// Keys: s sorts, / filters, tab changes the scope, w the window, a goes to the alerts, ⏎ shows one in detail, ? explains
/// everything, q quits. Where standard output is no terminal, plain lines come every interval instead.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Colours are left out where NO_COLOR is set; they say nothing the text does not say.

Examples:
  What goes wrong now, worst rate of blocked mail first:
    bounceflow top --sort blocked_rate

  One sender at every provider over a day, once, for a ticket:
    bounceflow top --once --window 24h --scope isp --identity news.example.com

  In Kubernetes:
    kubectl port-forward service/bounceflow-watch 9090 &
    bounceflow top")]
pub struct Args {
    /// Where the watch role listens (http.listen)
    #[arg(long, env = "BOUNCEFLOW_URL", default_value = "http://127.0.0.1:9090")]
    pub url: String,

    /// File with a token of the server's http.token_file; with several lines, the first is shown
    #[arg(long, env = "BOUNCEFLOW_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Certificates (PEM) of the authority that signed the server's; without it, the public ones are trusted
    #[arg(long, env = "BOUNCEFLOW_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// Window: 5m, 1h, or seconds. Without it, the shortest there is of 5 minutes or more
    #[arg(long, value_parser = window)]
    pub window: Option<u32>,

    /// A row for each of what
    #[arg(long, value_enum, default_value_t = Scope::IspIdentity)]
    pub scope: Scope,

    /// Only these ISPs: gmail, microsoft*
    #[arg(long, value_name = "GLOB")]
    pub isp: Option<String>,

    /// Only these identities: *.example.com
    #[arg(long, value_name = "GLOB")]
    pub identity: Option<String>,

    /// Figure to sort by, the highest first
    #[arg(long, value_enum, default_value_t = Figure::Outcomes)]
    pub sort: Figure,

    /// Rows of a plain report
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub rows: usize,

    /// How often to ask: 2s, 500ms
    #[arg(long, value_parser = interval, default_value = "2s")]
    pub interval: Duration,

    /// Print one report in plain lines and end
    #[arg(long)]
    pub once: bool,
}

/// What the live view waits for.
enum Input {
    Key(KeyEvent),
    /// Another size, or something else that wants a new frame.
    Redraw,
    Answer(Box<Answer>),
    /// A signal asks to end.
    Stop,
    /// The terminal hands out no more keys.
    Lost(std::io::Error),
}

/// Shows until the reader leaves.
pub fn run(args: Args) -> anyhow::Result<()> {
    let named = |what: &str, file: &Option<PathBuf>| {
        file.as_deref().map(|file| secrets::read(file).map_err(|e| anyhow::anyhow!("--{what}-file: {e}"))).transpose()
    };
    let (token, ca) = (named("token", &args.token_file)?, named("ca", &args.ca_file)?);
    let client = Client::new(&args.url, token.as_deref(), ca.as_deref())?;
    let live = !args.once && std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let ask = Ask {
        scope: args.scope,
        window: args.window,
        sort: args.sort,
        ascending: false,
        isp: args.isp,
        identity: args.identity,
        filter: String::new(),
        limit: if live { ROWS } else { args.rows },
    };
    let model = Model::new(client.url().to_owned(), ask, now());
    if live { show(client, model, args.interval) } else { print(&client, model, args.interval, args.once) }
}

fn print(client: &Client, mut model: Model, interval: Duration, once: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    loop {
        let answer = client.ask(&model.ask);
        if let Some(trouble) = answer.trouble.as_ref().filter(|_| once) {
            bail!("{}. {}", trouble.said, trouble.advice);
        }
        model.hear(answer, now());
        for line in plain::report(&model) {
            writeln!(out, "{line}")?;
        }
        if once {
            return Ok(());
        }
        writeln!(out)?;
        out.flush()?;
        thread::sleep(interval);
    }
}

fn show(client: Client, mut model: Model, interval: Duration) -> anyhow::Result<()> {
    let palette = Palette { colour: std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()) };
    let (input, inputs) = mpsc::channel();
    let (asking, asked) = mpsc::channel();
    listen_for_signals(input.clone())?;
    let mut screen = Screen::open()?;
    let asker = {
        let (input, ask) = (input.clone(), model.ask.clone());
        thread::Builder::new().name("top-ask".into()).spawn(move || keep_asking(&client, ask, &asked, &input, interval))?
    };
    thread::Builder::new().name("top-keys".into()).spawn(move || read_keys(&input))?;
    while !model.done {
        model.now = now();
        screen.0.draw(|frame| draw::draw(&mut model, palette, frame))?;
        // All that has come meanwhile goes into one frame.
        let mut next = inputs.recv_timeout(TICK);
        loop {
            match next {
                Ok(Input::Key(key)) => {
                    let before = model.ask.clone();
                    keys::press(&mut model, key);
                    if model.ask != before {
                        asking.send(model.ask.clone()).ok();
                    }
                }
                Ok(Input::Redraw) => {}
                Ok(Input::Answer(answer)) => model.hear(*answer, now()),
                Ok(Input::Stop) => model.done = true,
                Ok(Input::Lost(error)) => return Err(error).context("reading keys"),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => bail!("nothing reads the keys any more"),
            }
            next = inputs.recv_timeout(Duration::ZERO);
        }
        if asker.is_finished() {
            bail!("nothing asks the server any more");
        }
    }
    Ok(())
}

/// Asks every interval, and at once when the question changes. Ends with the view.
fn keep_asking(client: &Client, mut ask: Ask, asked: &Receiver<Ask>, input: &Sender<Input>, interval: Duration) {
    while input.send(Input::Answer(Box::new(client.ask(&ask)))).is_ok() {
        match asked.recv_timeout(interval) {
            // While one was answered, others may have come: only the last one counts.
            Ok(next) => ask = asked.try_iter().last().unwrap_or(next),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn read_keys(input: &Sender<Input>) {
    loop {
        let next = match event::read() {
            Ok(Event::Key(key)) if key.is_release() => continue,
            Ok(Event::Key(key)) => Input::Key(key),
            Ok(_) => Input::Redraw,
            Err(error) => Input::Lost(error),
        };
        let last = matches!(next, Input::Lost(_));
        if input.send(next).is_err() || last {
            return;
        }
    }
}

/// A signal that would end the process has to leave the terminal as it was.
fn listen_for_signals(input: Sender<Input>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminated, mut hung_up, mut interrupted) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?)
    };
    thread::Builder::new().name("top-signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = hung_up.recv() => {}
                _ = interrupted.recv() => {}
            }
        });
        input.send(Input::Stop).ok();
    })?;
    Ok(())
}

/// The terminal in raw mode on its other screen; given back however this ends (a panic gives it back by itself, before it speaks).
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                drop(ratatui::try_restore());
                Err(error).context("the terminal cannot be drawn on; --once prints plain lines")
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Given back twice, the cursor would go back over what the panic said.
        if !thread::panicking() {
            drop(ratatui::try_restore());
        }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn window(text: &str) -> Result<u32, String> {
    let seconds = crate::simulate::duration(text)?.as_secs();
    u32::try_from(seconds).ok().filter(|&seconds| seconds > 0).ok_or_else(|| "write it as 5m, 1h or 300".to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = crate::simulate::duration(text)?;
    if interval < Duration::from_millis(100) { Err("must be 100ms or more".to_owned()) } else { Ok(interval) }
}
