//! Progress of a long reading, on standard error: a spinner on a terminal, elsewhere a line now and then.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Between two turns of the spinner, so that one sees it waits.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks at the spinner.
const LOOK_EVERY: u64 = 256;

/// How far something is.
pub(crate) struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    count: u64,
    said: Instant,
}

impl Progress {
    /// `what` completes "1,234 …".
    pub(crate) fn new(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = format!("{{elapsed_precise}} {{spinner}} {{human_pos}} {what}");
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { what, bar, count: 0, said: Instant::now() }
    }

    /// One more.
    pub(crate) fn step(&mut self) {
        self.count += 1;
        if !self.count.is_multiple_of(LOOK_EVERY) {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_position(self.count),
            None if self.said.elapsed() >= LINE_EVERY => {
                self.said = Instant::now();
                note(format_args!("{} {}", self.count, self.what));
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A line on standard error. Progress is a courtesy: where nobody can read it, the work goes on.
pub(crate) fn note(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
