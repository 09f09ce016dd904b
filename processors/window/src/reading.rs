//! What the windows say: counts, rates, categories and patterns of a key at the last step, for rules, evidence and HTTP.
//! Reads only.

use std::ops::Range;

use crate::grid::ms;
use crate::metric::{Metric, Scope, WindowSpec};
use crate::names::EMPTY;
use crate::series::{COUNTERS, Series, sum};
use crate::windows::Windows;

/// What a key counted in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented field by field in the schema of RateBatch")]
pub struct Counts {
    pub deliveries: u64,
    pub first_attempts: u64,
    pub hard: u64,
    pub soft: u64,
    pub deferred: u64,
    pub blocked: u64,
    pub complaints: u64,
    pub late_bounces: u64,
}

/// Failures of one category in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented field by field in the schema of RateBatch")]
pub struct CategoryTotal<'a> {
    pub category: &'a str,
    pub bounces: u64,
    pub deferrals: u64,
    pub late_bounces: u64,
}

/// How often a pattern was listed in a window; what it says is from the ISP that listed it most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented field by field in the schema of RateBatch")]
pub struct PatternTotal<'a> {
    pub pattern: i64,
    pub category: &'a str,
    pub rule: &'a str,
    pub sample: &'a str,
    pub count: u64,
}

impl Counts {
    /// Final answers: deliveries and bounces.
    pub fn outcomes(&self) -> u64 {
        self.deliveries + self.hard + self.soft
    }

    /// Outcomes and deferrals.
    pub fn attempts(&self) -> u64 {
        self.outcomes() + self.deferred
    }

    /// Numerator and denominator of a rate. Those of a category are counted apart: `of_category` bounces.
    pub fn metric(&self, metric: &Metric, of_category: u64) -> (u64, u64) {
        match metric {
            Metric::Bounce => (self.hard + self.soft, self.outcomes()),
            Metric::Hard => (self.hard, self.outcomes()),
            Metric::Soft => (self.soft, self.outcomes()),
            Metric::Blocked => (self.blocked, self.outcomes()),
            Metric::Category(_) => (of_category, self.outcomes()),
            Metric::Deferred => (self.deferred, self.attempts()),
            Metric::Complaint => (self.complaints, self.deliveries),
            Metric::LateBounce => (self.late_bounces, self.deliveries),
        }
    }
}

impl From<[u64; COUNTERS]> for Counts {
    fn from(counts: [u64; COUNTERS]) -> Self {
        let [deliveries, first_attempts, hard, soft, deferred, blocked, complaints, late_bounces] = counts;
        Self { deliveries, first_attempts, hard, soft, deferred, blocked, complaints, late_bounces }
    }
}

/// Keys are named by scope, ISP and identity; the one a scope has not is not looked at. Windows are those the rules ask for:
/// of any other, and before the first step, nothing is known.
impl Windows {
    /// The step (ms) that what is read here stands at.
    pub fn step(&self) -> Option<i64> {
        self.grid.step().map(ms)
    }

    /// How many keys are held, of all scopes.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.keys.iter().map(|keys| keys.all.len()).sum()
    }

    /// About how much memory the state takes: what was allocated, without the allocator's own overhead.
    pub fn memory_bytes(&self) -> usize {
        self.keys.iter().map(|keys| keys.bytes()).sum::<usize>() + self.names.bytes() + self.patterns.bytes()
    }

    /// Every key held: scope, ISP, identity (empty: over all). In no order.
    pub fn keys(&self) -> impl Iterator<Item = (Scope, &str, &str)> {
        Scope::ALL.into_iter().flat_map(move |scope| {
            self.series_of(scope).iter().map(move |series| (scope, self.names.get(series.isp), self.names.get(series.identity)))
        })
    }

    /// Every key of a scope (ISP, identity) with what it counted in a window. In no order.
    pub fn totals(&self, scope: Scope, window: WindowSpec) -> impl Iterator<Item = (&str, &str, Counts)> {
        self.grid.span(window).into_iter().flat_map(move |span| {
            self.series_of(scope).iter().map(move |series| {
                (self.names.get(series.isp), self.names.get(series.identity), Counts::from(series.counts.sum(&span)))
            })
        })
    }

    /// What a key counted in a window; none: no such key.
    pub fn counts(&self, scope: Scope, isp: &str, identity: &str, window: WindowSpec) -> Option<Counts> {
        let series = self.series(scope, isp, identity)?;
        Some(series.counts.sum(&self.grid.span(window)?).into())
    }

    /// Numerator and denominator of a rate of a key in a window; none: no such key.
    pub fn metric(&self, scope: Scope, isp: &str, identity: &str, window: WindowSpec, metric: &Metric) -> Option<(u64, u64)> {
        let series = self.series(scope, isp, identity)?;
        Some(self.figures(series, metric, &self.grid.span(window)?))
    }

    /// A window of a key cut in equal parts, oldest first. A bucket counts where it begins: a part should be whole slides long
    /// (`slots` a divisor of length / slide). Empty: no such key.
    pub fn spark(&self, scope: Scope, isp: &str, identity: &str, window: WindowSpec, slots: usize) -> Vec<Counts> {
        let (Some(series), Some(span)) = (self.series(scope, isp, identity), self.grid.span(window)) else { return Vec::new() };
        let mut parts = vec![[0; COUNTERS]; slots];
        let length = u64::from(window.length / crate::metric::STEP_SECONDS);
        for cell in series.counts.within(&span) {
            // From the newer end: a window that reaches back before the epoch has no older one.
            let back = u64::from(span.end - 1 - cell.start()) * slots as u64 / length;
            if let Some(part) = parts.iter_mut().rev().nth(back as usize) {
                for (sum, count) in std::iter::zip(part, cell.counts) {
                    *sum += u64::from(count);
                }
            }
        }
        parts.into_iter().map(Counts::from).collect()
    }

    /// The categories a key counted in a window, the most failures first.
    pub fn categories(&self, scope: Scope, isp: &str, identity: &str, window: WindowSpec) -> Vec<CategoryTotal<'_>> {
        let (Some(series), Some(span)) = (self.series(scope, isp, identity), self.grid.span(window)) else { return Vec::new() };
        let totals = by_kind(series.categories.within(&span).iter().map(|cell| (cell.kind, cell.counts)));
        let mut totals: Vec<CategoryTotal<'_>> = totals
            .into_iter()
            .map(|(category, [bounces, deferrals, late_bounces])| CategoryTotal {
                category: self.names.get(category),
                bounces,
                deferrals,
                late_bounces,
            })
            .filter(|total| total.failures() > 0)
            .collect();
        totals.sort_unstable_by(|a, b| b.failures().cmp(&a.failures()).then_with(|| a.category.cmp(b.category)));
        totals
    }

    /// The patterns a key was listed with since a window began, the most frequent first. Also behind its end, as far as the log is
    /// read: a transaction lists its patterns without a time, and in a backlog one transaction spans minutes.
    pub fn patterns(&self, scope: Scope, isp: &str, identity: &str, window: WindowSpec, limit: usize) -> Vec<PatternTotal<'_>> {
        let (Some(series), Some(span)) = (self.series(scope, isp, identity), self.grid.span(window)) else { return Vec::new() };
        let totals = by_kind(series.patterns.within(&(span.start..u32::MAX)).iter().map(|cell| (cell.kind, cell.counts)));
        let mut totals: Vec<_> = totals.into_iter().map(|(place, [count])| (self.patterns.get(place), count)).collect();
        // One pattern of several ISPs becomes one total: the most frequent comes first and lends its details.
        totals.sort_unstable_by(|(a, count), (b, other)| {
            let name = |isp| self.names.get(isp);
            a.pattern.cmp(&b.pattern).then_with(|| other.cmp(count)).then_with(|| name(a.isp).cmp(name(b.isp)))
        });
        let mut merged: Vec<PatternTotal<'_>> = Vec::new();
        for (details, count) in totals {
            match merged.last_mut().filter(|last| last.pattern == details.pattern) {
                Some(last) => last.count += count,
                None => merged.push(PatternTotal {
                    pattern: details.pattern,
                    category: &details.category,
                    rule: &details.rule,
                    sample: &details.sample,
                    count,
                }),
            }
        }
        merged.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.pattern.cmp(&b.pattern)));
        merged.truncate(limit);
        merged
    }

    pub(crate) fn series_of(&self, scope: Scope) -> &[Series] {
        &self.keys[scope as usize].all
    }

    pub(crate) fn series(&self, scope: Scope, isp: &str, identity: &str) -> Option<&Series> {
        let number = |has, name| if has { self.names.find(name) } else { Some(EMPTY) };
        let keys = &self.keys[scope as usize];
        let place = keys.find(number(scope.has_isp(), isp)?, number(scope.has_identity(), identity)?)?;
        keys.all.get(place as usize)
    }

    /// Numerator and denominator of a rate within a range of ticks.
    pub(crate) fn figures(&self, series: &Series, metric: &Metric, span: &Range<u32>) -> (u64, u64) {
        Counts::from(series.counts.sum(span)).metric(metric, self.of_category(series, metric, span))
    }

    /// The bounces of the category a metric asks for; 0 when it asks for none.
    pub(crate) fn of_category(&self, series: &Series, metric: &Metric, span: &Range<u32>) -> u64 {
        let Metric::Category(category) = metric else { return 0 };
        let Some(number) = self.names.find(category) else { return 0 };
        let cells = series.categories.within(span).iter().filter(|cell| cell.kind == number);
        cells.map(|cell| u64::from(cell.counts[0])).sum()
    }
}

impl CategoryTotal<'_> {
    fn failures(&self) -> u64 {
        self.bounces + self.deferrals + self.late_bounces
    }
}

/// The sums per kind, in ascending order of kind.
fn by_kind<const N: usize>(cells: impl Iterator<Item = (u32, [u32; N])>) -> Vec<(u32, [u64; N])> {
    let mut cells: Vec<(u32, [u32; N])> = cells.collect();
    cells.sort_unstable_by_key(|(kind, _)| *kind);
    cells.chunk_by(|(a, _), (b, _)| a == b).map(|same| (same[0].0, sum(same.iter().map(|(_, counts)| counts)))).collect()
}
