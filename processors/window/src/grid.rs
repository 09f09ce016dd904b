//! Where windows lie on event time, and how wide buckets may be. Owns the arithmetic; holds no counts.
//!
//! Inside the crate event time is counted in ticks: steps since the epoch.

use std::ops::Range;

use crate::metric::{STEP_SECONDS, WindowSpec};

const TICK_MS: i64 = STEP_SECONDS as i64 * 1000;

/// The windows at one step.
#[derive(Debug)]
pub(crate) struct Grid {
    /// Ascending by length, each once.
    windows: Vec<WindowSpec>,
    /// The last step; none: nothing was evaluated yet.
    step: Option<u32>,
    /// From which tick on buckets are how wide, oldest first: what begins before the first is in no window any more.
    widths: Vec<(u32, u32)>,
}

impl Grid {
    pub(crate) fn new(windows: Vec<WindowSpec>) -> Self {
        Self { windows, step: None, widths: Vec::new() }
    }

    pub(crate) fn windows(&self) -> &[WindowSpec] {
        &self.windows
    }

    pub(crate) fn step(&self) -> Option<u32> {
        self.step
    }

    /// The ticks a window covers now; none before the first step, or when it is not one of the rules'.
    pub(crate) fn span(&self, window: WindowSpec) -> Option<Range<u32>> {
        self.windows.binary_search(&window).ok()?;
        Some(span(window, self.step?))
    }

    /// What begins before it is in no window, now or later.
    pub(crate) fn oldest(&self) -> u32 {
        self.widths.first().map_or(0, |(from, _)| *from)
    }

    /// Moves on to a later step.
    ///
    /// No edge of a window may ever fall inside a bucket. Both edges of a window lie on multiples of its slide, so a bucket may be
    /// as wide as the common divisor of the slides of those windows that have not left it behind.
    pub(crate) fn advance(&mut self, step: u32) {
        self.step = Some(step);
        let mut starts: Vec<(u32, u32)> =
            self.windows.iter().map(|window| (span(*window, step).start, window.slide / STEP_SECONDS)).collect();
        starts.sort_unstable();
        self.widths.clear();
        let mut width = 0;
        for (start, slide) in starts {
            width = gcd(width, slide);
            self.widths.push((start, width));
        }
    }

    /// The start of the bucket a tick falls in by now; none: it is in no window any more.
    pub(crate) fn bucket(&self, tick: u32) -> Option<u32> {
        let (_, width) = self.widths.iter().rev().find(|(from, _)| *from <= tick)?;
        Some(tick / width * width)
    }
}

/// The ticks a window covers at a step.
pub(crate) fn span(window: WindowSpec, step: u32) -> Range<u32> {
    let (length, slide) = (window.length / STEP_SECONDS, window.slide / STEP_SECONDS);
    let end = step / slide * slide;
    end.saturating_sub(length)..end
}

/// The tick an instant falls in; none: before the epoch or beyond what a tick can say.
pub(crate) fn tick(ms: i64) -> Option<u32> {
    u32::try_from(ms.div_euclid(TICK_MS)).ok()
}

/// The first instant of a tick, ms.
pub(crate) fn ms(tick: u32) -> i64 {
    i64::from(tick) * TICK_MS
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
