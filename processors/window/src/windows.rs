//! The windows' state: a series per key, fed from rows in any order, moved on step by step.
//! Owns what is counted, refused and forgotten; `reading` sums it up, the rules are judged elsewhere.

use std::collections::BTreeSet;
use std::ops::Range;

use bounceflow_event::{CategoryCount, PatternCount, RateRow};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::grid::{self, Grid, span};
use crate::metric::{STEP_SECONDS, Scope, WindowSpec};
use crate::names::{EMPTY, Names};
use crate::patterns::Patterns;
use crate::series::{COUNTERS, Series};

/// How far ahead of a batch's log time a row may be, seconds: no clock error fills the memory.
pub const AHEAD_SECONDS: u32 = 600;

/// The ISP of what failed at the sender itself. Nobody answered, so it counts for the identity alone.
const LOCAL: &str = "local";
/// Ticks between two tidyings. A bucket stays narrow, and a key stays, that much longer than needed.
const TIDY_EVERY: u32 = 30;
/// Names besides those of keys: categories.
const MORE_NAMES: usize = 1024;
/// The key a row has no place in.
const NOWHERE: u32 = u32::MAX;

/// Everything counted, by key and time.
#[derive(Debug)]
pub struct Windows {
    pub(crate) grid: Grid,
    pub(crate) names: Names,
    pub(crate) patterns: Patterns,
    /// By scope.
    pub(crate) keys: [Keys; 4],
    max_keys: usize,
    /// The ticks at which any key counted anything.
    occupied: BTreeSet<u32>,
    /// By window: a row behind the last step fell into it.
    late: Vec<bool>,
    /// By window: it may say something else than at the step before.
    changed: Vec<bool>,
    /// Where the last row went: the next is often the same key, or the same ISP.
    here: Option<Here>,
    refused: Refused,
    /// Of the row at hand; kept so that a row allocates nothing.
    categories: Vec<(u32, [u32; 3])>,
}

/// The series of one scope, and where the one of a key is.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// By numbers of ISP and identity.
    places: HashMap<(u32, u32), u32, FixedState>,
    pub(crate) all: Vec<Series>,
}

#[derive(Clone, Copy, Debug)]
struct Here {
    tick: u32,
    isp: u32,
    identity: u32,
    places: [u32; 4],
}

/// Why rows and patterns are refused, as it is spelled in metrics.
pub const REFUSALS: [&str; 5] = ["too_old", "too_far_ahead", "keys_full", "patterns_full", "pattern_without_key"];

#[derive(Debug, Default)]
struct Refused {
    too_old: u64,
    too_far_ahead: u64,
    keys_full: u64,
    patterns_full: u64,
    pattern_without_key: u64,
}

impl Windows {
    pub(crate) fn new(windows: Vec<WindowSpec>, max_keys: usize, max_patterns: usize) -> Self {
        Self {
            late: vec![false; windows.len()],
            changed: vec![true; windows.len()],
            grid: Grid::new(windows),
            names: Names::new(),
            patterns: Patterns::new(max_patterns),
            keys: Default::default(),
            max_keys,
            occupied: BTreeSet::new(),
            here: None,
            refused: Refused::default(),
            categories: Vec::new(),
        }
    }

    /// How many rows and patterns were refused, by reason.
    pub(crate) fn refused(&self) -> [(&'static str, u64); 5] {
        let Refused { too_old, too_far_ahead, keys_full, patterns_full, pattern_without_key } = self.refused;
        let [a, b, c, d, e] = REFUSALS;
        [(a, too_old), (b, too_far_ahead), (c, keys_full), (d, patterns_full), (e, pattern_without_key)]
    }

    /// Whether a window (by its number) may say something else than at the step before.
    pub(crate) fn changed(&self, window: usize) -> bool {
        self.changed[window]
    }

    /// Counts a row of a batch that was logged at `log_time` (ms).
    pub(crate) fn add(&mut self, row: &RateRow<'_>, log_time: i64) {
        let counts = counters(row);
        if counts == [0; COUNTERS] && row.categories.is_empty() {
            return;
        }
        let Some(tick) = self.admit(row.bucket, log_time) else { return };
        let places = self.place(tick, row.isp, row.identity);
        self.occupy(tick);
        self.number_categories(&row.categories, tick);
        for (keys, place) in std::iter::zip(&mut self.keys, places) {
            let Some(series) = keys.all.get_mut(place as usize) else { continue };
            series.counts.add(tick, 0, counts);
            for (category, counts) in &self.categories {
                series.categories.add(tick, *category, *counts);
            }
        }
    }

    /// Counts a pattern. It names no time: it counts at the newest bucket of its key, where its batch just counted the failures.
    pub(crate) fn add_pattern(&mut self, seen: &PatternCount<'_>) {
        let Some((isp, tick, places)) = self.place_of_pattern(seen) else {
            self.refused.pattern_without_key += 1;
            return;
        };
        let Some(details) = self.patterns.see(isp, seen, tick) else {
            self.refused.patterns_full += 1;
            return;
        };
        // What failed at the sender counts at the identity's newest bucket, which may be of another ISP.
        self.names.keep(isp, tick);
        for (keys, place) in std::iter::zip(&mut self.keys, places) {
            if let Some(series) = keys.all.get_mut(place as usize) {
                series.patterns.add(tick, details, [clamp(seen.count)]);
            }
        }
    }

    /// Moves every window on to a later step.
    pub(crate) fn advance(&mut self, step: u32) {
        let Self { grid, occupied, late, changed, .. } = &mut *self;
        let before = grid.step();
        for ((window, late), changed) in grid.windows().iter().zip(late).zip(changed) {
            let now = span(*window, step);
            *changed = std::mem::take(late)
                || before.is_none_or(|before| {
                    let before = span(*window, before);
                    let mut passed = [before.start..now.start, before.end..now.end].into_iter();
                    passed.any(|ticks| occupied.range(ticks).next().is_some())
                });
        }
        self.here = None;
        if before.is_none_or(|before| before / TIDY_EVERY < step / TIDY_EVERY) {
            // As of the same steps in every life, also in one that jumps over them: what is forgotten shows.
            self.grid.advance(step / TIDY_EVERY * TIDY_EVERY);
            self.tidy();
        }
        self.grid.advance(step);
    }

    /// The next step at which an edge of a window passes something, if no row comes.
    pub(crate) fn next_change(&self) -> Option<u32> {
        let step = self.grid.step()?;
        let passed = self.grid.windows().iter().flat_map(|window| {
            let Range { start, end } = span(*window, step);
            let (length, slide) = (window.length / STEP_SECONDS, window.slide / STEP_SECONDS);
            let next = move |edge, behind| Some((self.occupied.range(edge..).next()? + behind) / slide * slide + slide);
            [next(start, length), next(end, 0)]
        });
        passed.flatten().min()
    }

    /// The tick of a bucket (seconds); none: refused.
    fn admit(&mut self, bucket: i64, log_time: i64) -> Option<u32> {
        let ms = bucket.saturating_mul(1000);
        let tick = grid::tick(ms);
        let too_far_ahead = ms.saturating_sub(log_time) > i64::from(AHEAD_SECONDS) * 1000;
        let too_old = self.grid.windows().is_empty() || tick.is_none_or(|tick| tick < self.grid.oldest());
        if too_far_ahead {
            self.refused.too_far_ahead += 1;
        } else if too_old {
            self.refused.too_old += 1;
        }
        tick.filter(|_| !too_far_ahead && !too_old)
    }

    /// Where the four keys of a row are, made where there is room.
    fn place(&mut self, tick: u32, isp: &str, identity: &str) -> [u32; 4] {
        let near = self.here.filter(|here| here.tick == tick && self.names.get(here.isp) == isp);
        let same = near.filter(|here| self.names.get(here.identity) == identity);
        let places = match same {
            Some(here) => here.places,
            None => self.look_up(near, tick, isp, identity),
        };
        let expected = if isp == LOCAL { 1 } else { 4 };
        if places.iter().filter(|place| **place != NOWHERE).count() < expected {
            self.refused.keys_full += 1;
        }
        places
    }

    fn look_up(&mut self, near: Option<Here>, tick: u32, isp: &str, identity: &str) -> [u32; 4] {
        let room = self.len() < self.max_keys && self.names.len() < self.max_keys + MORE_NAMES;
        let isp_number = near.map(|here| here.isp).or_else(|| self.names.see(isp, tick, room));
        let identity_number = self.names.see(identity, tick, room);
        let mut places = [NOWHERE; 4];
        if isp != LOCAL {
            places[0] = near.map_or_else(|| self.key(Scope::Overall, EMPTY, EMPTY), |here| here.places[0]);
            if let Some(isp) = isp_number {
                places[1] = near.map_or_else(|| self.key(Scope::Isp, isp, EMPTY), |here| here.places[1]);
            }
        }
        if let Some(identity) = identity_number {
            places[2] = self.key(Scope::Identity, EMPTY, identity);
        }
        if let (Some(isp_number), Some(identity)) = (isp_number, identity_number) {
            if isp != LOCAL {
                places[3] = self.key(Scope::IspIdentity, isp_number, identity);
            }
            self.here = Some(Here { tick, isp: isp_number, identity, places });
        }
        places
    }

    /// Where a key's series is; made where there is room.
    fn key(&mut self, scope: Scope, isp: u32, identity: u32) -> u32 {
        let room = self.len() < self.max_keys;
        let keys = &mut self.keys[scope as usize];
        match keys.find(isp, identity) {
            Some(place) => place,
            None if room => keys.add(isp, identity),
            None => NOWHERE,
        }
    }

    fn occupy(&mut self, tick: u32) {
        if self.occupied.last() != Some(&tick) {
            self.occupied.insert(tick);
        }
        let Some(step) = self.grid.step().filter(|step| tick < *step) else { return };
        for (window, late) in std::iter::zip(self.grid.windows(), &mut self.late) {
            *late |= span(*window, step).contains(&tick);
        }
    }

    fn number_categories(&mut self, counted: &[CategoryCount<'_>], tick: u32) {
        self.categories.clear();
        for category in counted {
            let room = self.names.len() < self.max_keys + MORE_NAMES;
            match self.names.see(category.category, tick, room) {
                Some(number) => {
                    let counts = [category.bounces, category.deferrals, category.late_bounces].map(clamp);
                    self.categories.push((number, counts));
                }
                None => self.refused.keys_full += 1,
            }
        }
    }

    /// The number of a pattern's ISP, the tick it counts at, and where.
    fn place_of_pattern(&self, seen: &PatternCount<'_>) -> Option<(u32, u32, [u32; 4])> {
        let (isp, identity) = (self.names.find(seen.isp)?, self.names.find(seen.identity)?);
        let place = |scope: Scope, isp, identity| self.keys[scope as usize].find(isp, identity);
        let (scope, places) = if seen.isp == LOCAL {
            (Scope::Identity, [None, None, place(Scope::Identity, EMPTY, identity), None])
        } else {
            let places = [
                place(Scope::Overall, EMPTY, EMPTY),
                place(Scope::Isp, isp, EMPTY),
                place(Scope::Identity, EMPTY, identity),
                place(Scope::IspIdentity, isp, identity),
            ];
            (Scope::IspIdentity, places)
        };
        let own = places[scope as usize]?;
        let tick = self.keys[scope as usize].all[own as usize].counts.newest()?;
        Some((isp, tick, places.map(|place| place.unwrap_or(NOWHERE))))
    }

    /// Widens buckets and forgets what no window needs any more.
    fn tidy(&mut self) {
        let oldest = self.grid.oldest();
        for keys in &mut self.keys {
            keys.tidy(&self.grid);
        }
        self.patterns.forget_before(oldest);
        self.names.forget_before(oldest);
        self.occupied = self.occupied.split_off(&oldest);
    }
}

impl Keys {
    pub(crate) fn find(&self, isp: u32, identity: u32) -> Option<u32> {
        self.places.get(&(isp, identity)).copied()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.places.allocation_size()
            + self.all.capacity() * size_of::<Series>()
            + self.all.iter().map(Series::heap_bytes).sum::<usize>()
    }

    fn add(&mut self, isp: u32, identity: u32) -> u32 {
        let place = self.all.len() as u32;
        self.all.push(Series::new(isp, identity));
        self.places.insert((isp, identity), place);
        place
    }

    fn tidy(&mut self, grid: &Grid) {
        let mut place = 0;
        while let Some(series) = self.all.get_mut(place) {
            series.tidy(grid);
            if !series.counts.is_empty() {
                place += 1;
                continue;
            }
            let gone = self.all.swap_remove(place);
            self.places.remove(&(gone.isp, gone.identity));
            if let Some(moved) = self.all.get(place) {
                self.places.insert((moved.isp, moved.identity), place as u32);
            }
        }
    }
}

fn counters(row: &RateRow<'_>) -> [u32; COUNTERS] {
    let RateRow { deliveries, first_attempts, hard, soft, deferred, blocked, complaints, late_bounces, .. } = *row;
    [deliveries, first_attempts, hard, soft, deferred, blocked, complaints, late_bounces].map(clamp)
}

fn clamp(count: i64) -> u32 {
    count.clamp(0, i64::from(u32::MAX)) as u32
}
