//! One run: makes records at the pace asked for, sends them, keeps the file of expected totals current, shows progress.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::producer::Producer;
use super::{Args, Expected, Generator, Key};

/// Records between two looks at the clock.
const BURST: u64 = 1000;
/// Between two states of the file of expected totals.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Runs until all is sent, or until SIGINT or SIGTERM; what was made by then is sent, and counted in what is returned.
pub fn run(args: Args) -> anyhow::Result<Expected> {
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(Arc::clone(&stop))?;
    run_until(args, &stop)
}

/// [`run`] that is stopped by `stop` alone.
pub fn run_until(args: Args, stop: &AtomicBool) -> anyhow::Result<Expected> {
    let options = args.options(jiff::Timestamp::now().as_millisecond())?;
    let mut generator = Generator::new(options)?;
    let producer = if args.dry_run { None } else { Some(Producer::connect(&args, stop)?) };
    let mut files = Files::new(&args)?;
    let records = args.records().unwrap_or(u64::MAX);
    let mut progress = Progress::new(&args);
    let mut payload = Vec::new();
    let started = Instant::now();
    let mut saved = started;
    while generator.records() < records && !stop.load(Ordering::Relaxed) {
        let elapsed = started.elapsed();
        if args.rate.is_none() && args.duration.is_some_and(|duration| elapsed >= duration) {
            break;
        }
        let due = match args.rate {
            None => u64::MAX,
            // The one due now is the first, not the second.
            Some(rate) => (elapsed.as_secs_f64() * rate) as u64 + 1,
        };
        let burst = due.min(records).saturating_sub(generator.records()).min(BURST);
        if burst == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..burst {
            let made = generator.next(&mut payload)?;
            if made.garbage {
                files.garbage(&payload)?;
            }
            if let Some(producer) = &producer {
                producer.send((args.key == Key::MessageId).then_some(made.key), &payload)?;
            }
            files.label(generator.labels())?;
        }
        if let Some(producer) = &producer {
            producer.poll(Duration::ZERO)?;
        }
        if saved.elapsed() >= SAVE_EVERY {
            saved = Instant::now();
            files.save(&generator.expected())?;
        }
        progress.show(&generator, started);
    }
    if let Some(producer) = &producer {
        producer.finish()?;
    }
    let expected = Expected { complete: true, ..generator.expected() };
    files.save(&expected)?;
    progress.end(&expected, started.elapsed());
    Ok(expected)
}

/// The first signal ends the run, the second one the process.
fn stop_on_signal(stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signals")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt()).context("SIGINT")?, signal(SignalKind::terminate()).context("SIGTERM")?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if stop.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    })?;
    Ok(())
}

struct Files {
    expected: Option<PathBuf>,
    garbage: Option<BufWriter<File>>,
    labels: Option<BufWriter<File>>,
}

impl Files {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let create = |path: &Option<PathBuf>, what: &str| match path {
            None => Ok(None),
            Some(path) => {
                File::create(path).map(|file| Some(BufWriter::new(file))).with_context(|| format!("{what} {}", path.display()))
            }
        };
        Ok(Self {
            expected: args.expected.clone(),
            garbage: create(&args.garbage_file, "--garbage-file")?,
            labels: create(&args.labels, "--labels")?,
        })
    }

    fn label(&mut self, lines: &[u8]) -> anyhow::Result<()> {
        self.labels.as_mut().map_or(Ok(()), |file| file.write_all(lines)).context("--labels")
    }

    fn garbage(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        if let Some(file) = &mut self.garbage {
            for byte in payload {
                write!(file, "{byte:02x}").context("--garbage-file")?;
            }
            file.write_all(b"\n").context("--garbage-file")?;
        }
        Ok(())
    }

    fn save(&mut self, expected: &Expected) -> anyhow::Result<()> {
        if let Some(file) = &mut self.garbage {
            file.flush().context("--garbage-file")?;
        }
        if let Some(file) = &mut self.labels {
            file.flush().context("--labels")?;
        }
        match &self.expected {
            None => Ok(()),
            Some(path) => replace(path, expected).with_context(|| format!("--expected {}", path.display())),
        }
    }
}

/// A reader sees the old file or the new one, never a part.
fn replace(path: &Path, expected: &Expected) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let mut text = serde_json::to_vec_pretty(expected)?;
    text.push(b'\n');
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)?;
    Ok(())
}

/// On a terminal a bar, elsewhere a line now and then, both on stderr.
struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    shown: Instant,
}

impl Progress {
    fn new(args: &Args) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let template = if args.records().is_some() {
            "{elapsed_precise} {wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta} left"
        } else {
            "{elapsed_precise} {spinner} {human_pos} records, {per_sec}"
        };
        let bar = (terminal && !args.quiet).then(|| {
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            args.records().map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_style(style)
        });
        Self { bar, lines: !terminal && !args.quiet, shown: Instant::now() }
    }

    fn show(&mut self, generator: &Generator, started: Instant) {
        if let Some(bar) = &self.bar {
            bar.set_position(generator.records());
        } else if self.lines && self.shown.elapsed() >= LINE_EVERY {
            self.shown = Instant::now();
            line(format_args!("{} records, {:.0}/s", generator.records(), speed(generator.records(), started.elapsed())));
        }
    }

    fn end(&mut self, expected: &Expected, took: Duration) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.bar.is_some() || self.lines {
            line(format_args!(
                "{} records sent in {:.1} s ({:.0}/s): {} deliveries, {} failures, {} drops, {} ignored, {} unreadable",
                expected.records,
                took.as_secs_f64(),
                speed(expected.records, took),
                expected.totals.deliveries,
                expected.failures,
                expected.drops,
                expected.ignored,
                expected.garbage.count,
            ));
        }
    }
}

fn speed(records: u64, took: Duration) -> f64 {
    records as f64 / took.as_secs_f64().max(1e-9)
}

/// Progress is a courtesy: a closed stderr must not end the run.
fn line(text: std::fmt::Arguments) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
