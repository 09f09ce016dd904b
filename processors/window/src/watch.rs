//! Everything that is decided: folds the log of rates, evaluates every step the watermark passed, restores an earlier life.
//! Owns which rule is judged when, and the order of transitions; counting, time and an alert's life have their own modules.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bounceflow_event::RateBatch;

use crate::alerts::{Active, Level, State, Terms, Transition, alert_id};
use crate::grid::{ms, span, tick};
use crate::metric::{AlertSeverity, Metric, Scope, WindowSpec};
use crate::reading::Counts;
use crate::rules::{Rule, Rules};
use crate::watermark::{FORGET_SECONDS, Limits, SourceStatus, Sources};
use crate::windows::{AHEAD_SECONDS, Windows};

/// The rule of the alert that says which sources the watermark went on without.
pub const SOURCE_LEFT_OUT: &str = "pipeline.source_left_out";

/// Categories named by a transition.
const TOP_CATEGORIES: usize = 5;

/// What the rules do not say. Times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How far the watermark stays behind the slowest source: how much out of order events may come.
    pub lateness: u32,
    /// How far behind the log's time a source with nothing more to read is taken to be.
    pub idle: u32,
    /// Log time for which a source that is behind holds the watermark.
    pub hold: u32,
    /// Keys held at most, of all scopes.
    pub max_keys: usize,
    /// Patterns whose details are held at most.
    pub max_patterns: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lateness: 30, idle: 30, hold: 600, max_keys: 200_000, max_patterns: 65_536 }
    }
}

/// The state of one life of `watch`. The same log gives the same transitions.
#[derive(Debug)]
pub struct Watch {
    rules: Arc<Rules>,
    groups: Vec<Group>,
    windows: Windows,
    sources: Sources,
    hold: i64,
    active: BTreeMap<Place, Active>,
    /// Rules the record names and the file does not, sorted: their numbers follow those of the file.
    removed: Vec<String>,
    /// Recorded transitions not yet reached, oldest first.
    recorded: VecDeque<Transition>,
    decided_to: Option<i64>,
    complete_from: Option<i64>,
}

/// Where an alert stands in the order of transitions: number of the rule, ISP, identity.
type Place = (usize, String, String);

/// Rules that look at the same sums.
#[derive(Debug)]
struct Group {
    scope: Scope,
    window: WindowSpec,
    /// The number of the window.
    number: usize,
    /// The numbers of the rules.
    rules: Vec<usize>,
    /// Not judged at the step before, so that every key must be looked at.
    fresh: bool,
}

impl Watch {
    /// Begins at the beginning of the log.
    pub fn new(rules: Arc<Rules>, settings: Settings) -> Self {
        Self::resume(rules, settings, None, None, Vec::new())
    }

    /// Goes on where an earlier life was: same log, same transitions as if there had been no restart.
    ///
    /// - `evaluated_to` (event time, ms): the last step whose transitions were recorded; none: nothing is known to be recorded.
    /// - `complete_from` (event time, ms): every row from then on will be folded; none: the log is read from its very beginning.
    ///   Read from log time L on, that is L + [`AHEAD_SECONDS`](crate::AHEAD_SECONDS). Begin at `evaluated_to` - [`lookback`](Self::lookback).
    /// - `recorded`: the transitions recorded so far, in any order, repeats allowed. What is not judged in this life is taken from them.
    pub fn resume(
        rules: Arc<Rules>,
        settings: Settings,
        evaluated_to: Option<i64>,
        complete_from: Option<i64>,
        mut recorded: Vec<Transition>,
    ) -> Self {
        let windows = rules.windows();
        let known = |name: &str| name == SOURCE_LEFT_OUT || rules.iter().any(|rule| rule.name == name);
        let mut removed: Vec<String> = recorded.iter().map(|t| &t.rule).filter(|name| !known(name)).cloned().collect();
        removed.sort_unstable();
        removed.dedup();
        recorded.sort_by(|a, b| (a.event_time, &a.alert_id, a.state).cmp(&(b.event_time, &b.alert_id, b.state)));
        let [lateness, idle, hold] = [settings.lateness, settings.idle, settings.hold].map(|seconds| i64::from(seconds) * 1000);
        Self {
            groups: groups(&rules, &windows),
            windows: Windows::new(windows, settings.max_keys, settings.max_patterns),
            sources: Sources::new(Limits { lateness, idle, hold }),
            hold,
            active: BTreeMap::new(),
            removed,
            recorded: recorded.into(),
            decided_to: evaluated_to,
            complete_from,
            rules,
        }
    }

    /// How much log time before the last evaluated step a life that is to go on exactly must begin to read, seconds: all that
    /// the windows hold, all that is remembered of sources, for as long as a firing alert may already be clear.
    pub fn lookback(rules: &Rules, settings: &Settings) -> u32 {
        let windows = rules.windows().iter().map(|window| window.length + window.slide).max().unwrap_or(0);
        let sources = FORGET_SECONDS + settings.hold + settings.idle + settings.lateness;
        rules.longest_keep() + windows.max(sources) + 2 * AHEAD_SECONDS
    }

    /// Folds the next batch of the log, logged at `log_time` (ms), and evaluates every step the watermark passed with it.
    /// Transitions are pushed in a total order: step, rule as in the file, ISP, identity.
    pub fn fold(&mut self, batch: &RateBatch<'_>, log_time: i64, out: &mut Vec<Transition>) {
        batch.rows.iter().for_each(|row| self.windows.add(row, log_time));
        batch.patterns.iter().for_each(|pattern| self.windows.add_pattern(pattern));
        if !self.sources.hear(batch, log_time) {
            return;
        }
        let Some(last) = self.sources.watermark().and_then(tick) else { return };
        let mut step = self.windows.grid.step().map_or(last, |step| step + 1);
        while step <= last {
            self.evaluate(step, out);
            step = self.next_step(step).map_or(last, |next| next.min(last)).max(step + 1);
        }
    }

    /// The last step evaluated, by this life or as told by [`resume`](Self::resume), ms.
    pub fn evaluated_to(&self) -> Option<i64> {
        self.decided_to.max(self.windows.step())
    }

    /// How far event time has come, ms.
    pub fn watermark(&self) -> Option<i64> {
        self.sources.watermark()
    }

    /// What was counted.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Every source heard of, by topic and partition.
    pub fn sources(&self) -> impl Iterator<Item = SourceStatus<'_>> {
        self.sources.iter()
    }

    /// Pending and firing alerts, in the order of their rules and keys.
    pub fn active(&self) -> impl Iterator<Item = &Active> {
        self.active.values()
    }

    /// Firing alerts, in the order of their rules and keys.
    pub fn firing(&self) -> impl Iterator<Item = &Active> {
        self.active().filter(|alert| alert.fired_at.is_some())
    }

    /// Rules that are not judged yet, because the log as read does not cover their window.
    pub fn unjudged(&self) -> impl Iterator<Item = &Rule> {
        let step = self.windows.grid.step();
        let covered = move |rule: &Rule| self.complete_from.is_none() || step.is_some_and(|step| self.covers(rule.window, step));
        self.rules.iter().filter(move |rule| !covered(rule))
    }

    /// How many rows and patterns were refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.windows.refused().into_iter()
    }

    fn evaluate(&mut self, step: u32, out: &mut Vec<Transition>) {
        let first = self.windows.grid.step().is_none();
        self.windows.advance(step);
        self.recall(step, first);
        // Ordered by place: that is the order of transitions.
        let mut changes = BTreeMap::new();
        self.follow(step, &mut changes);
        self.begin(step, &mut changes);
        self.watch_sources(step, &mut changes);
        for (place, change) in changes {
            match change.state {
                State::Resolved => _ = self.active.remove(&place),
                State::Pending | State::Firing => _ = self.active.insert(place, Active::new(change.clone())),
            }
            out.push(change);
        }
    }

    /// The next step that may differ from this one, if no row comes; none: none will. Makes a jump over an outage cheap.
    fn next_step(&self, step: u32) -> Option<u32> {
        let waiting = !self.active.is_empty() || !self.recorded.is_empty() || self.groups.iter().any(|group| group.fresh);
        if waiting || self.sources.left_out().next().is_some() {
            return Some(step + 1);
        }
        self.windows.next_change()
    }

    /// Takes over what was recorded of this step and is not judged now, and at the first step all that was before.
    fn recall(&mut self, step: u32, first: bool) {
        while let Some(recorded) = self.recorded.pop_front_if(|next| tick(next.event_time).is_none_or(|at| at <= step)) {
            let before = tick(recorded.event_time).is_none_or(|at| at < step);
            let place = (self.number(&recorded.rule), recorded.isp.clone(), recorded.identity.clone());
            if (first && before) || !self.is_judged(place.0, step) {
                match recorded.state {
                    State::Pending | State::Firing => _ = self.active.insert(place, Active::new(recorded)),
                    State::Resolved => _ = self.active.remove(&place),
                }
            }
        }
    }

    /// How the active alerts go on.
    fn follow(&mut self, step: u32, changes: &mut BTreeMap<Place, Transition>) {
        let mut active = std::mem::take(&mut self.active);
        for (place, alert) in active.iter_mut().filter(|(place, _)| place.0 != self.rules.len()) {
            let judged = self.is_judged(place.0, step);
            let change = match self.rules.iter().nth(place.0).filter(|rule| judges(rule, &place.1, &place.2)) {
                Some(rule) if self.covers(rule.window, step) => {
                    let figures = self.figures(rule, place, step);
                    (alert.numerator, alert.denominator) = (signed(figures.0), signed(figures.1));
                    // Also where the record decides: since when a firing alert is clear is not recorded.
                    let state = alert.judge(Terms::from(rule), Level::of(rule, figures), step);
                    state.filter(|_| judged).map(|state| Transition {
                        episode_start: alert.transition.episode_start,
                        alert_id: alert.transition.alert_id.clone(),
                        ..self.transition(rule, state, place, step, figures)
                    })
                }
                Some(_) => None,
                // The rule is gone, or looks at other keys now.
                None => judged.then(|| Transition { state: State::Resolved, event_time: ms(step), ..alert.transition.clone() }),
            };
            if let Some(change) = change {
                changes.insert(place.clone(), change);
            }
        }
        self.active = active;
    }

    /// Alerts that begin.
    fn begin(&mut self, step: u32, changes: &mut BTreeMap<Place, Transition>) {
        let mut groups = std::mem::take(&mut self.groups);
        for group in &mut groups {
            let judged = self.decides(step) && self.covers(group.window, step);
            if judged && (group.fresh || self.windows.changed(group.number)) {
                self.begin_in(group, step, changes);
            }
            group.fresh = !judged;
        }
        self.groups = groups;
    }

    fn begin_in(&self, group: &Group, step: u32, changes: &mut BTreeMap<Place, Transition>) {
        let span = span(group.window, step);
        let rules: Vec<(usize, &Rule)> = group.rules.iter().filter_map(|n| Some((*n, self.rules.iter().nth(*n)?))).collect();
        let least = rules.iter().map(|(_, rule)| rule.min_volume).min().unwrap_or(0);
        for series in self.windows.series_of(group.scope) {
            let counts = Counts::from(series.counts.sum(&span));
            if counts.attempts() < least {
                continue;
            }
            for (number, rule) in &rules {
                let figures = counts.metric(&rule.metric, self.windows.of_category(series, &rule.metric, &span));
                let (isp, identity) = (self.windows.names.get(series.isp), self.windows.names.get(series.identity));
                if Level::of(rule, figures) != Level::Breach || !judges(rule, isp, identity) {
                    continue;
                }
                let place = (*number, isp.to_owned(), identity.to_owned());
                if !self.active.contains_key(&place) {
                    let change = self.transition(rule, Terms::from(*rule).first(), &place, step, figures);
                    changes.insert(place, change);
                }
            }
        }
    }

    /// The alert of the pipeline itself.
    fn watch_sources(&mut self, step: u32, changes: &mut BTreeMap<Place, Transition>) {
        let place = (self.rules.len(), String::new(), String::new());
        let left_out: Vec<String> = self.sources.left_out().map(|s| format!("{}/{}", s.topic, s.partition)).collect();
        let (numerator, denominator) = (signed(left_out.len() as u64), signed(self.sources.len() as u64));
        let change = match self.active.get_mut(&place) {
            Some(alert) => {
                (alert.numerator, alert.denominator) = (numerator, denominator);
                let resolved = Transition {
                    state: State::Resolved,
                    event_time: ms(step),
                    numerator,
                    denominator,
                    ..alert.transition.clone()
                };
                left_out.is_empty().then_some(resolved)
            }
            None => (!left_out.is_empty()).then(|| Transition {
                alert_id: alert_id(SOURCE_LEFT_OUT, "", "", step),
                rule: SOURCE_LEFT_OUT.to_owned(),
                state: State::Firing,
                severity: AlertSeverity::Warning,
                isp: String::new(),
                identity: String::new(),
                episode_start: ms(step),
                event_time: ms(step),
                metric: "sources_left_out".to_owned(),
                window_seconds: 0,
                threshold: 1.0,
                numerator,
                denominator,
                categories: Vec::new(),
                pattern: 0,
                pattern_rule: String::new(),
                pattern_category: String::new(),
                sample: String::new(),
                annotations: BTreeMap::from([("sources".to_owned(), left_out.join(", "))]),
            }),
        };
        if let Some(change) = change.filter(|_| self.is_judged(place.0, step)) {
            changes.insert(place, change);
        }
    }

    /// A transition of a rule at a step, with its evidence; as if the episode began there.
    fn transition(&self, rule: &Rule, state: State, place: &Place, step: u32, figures: (u64, u64)) -> Transition {
        let (_, isp, identity) = place;
        let categories = self.windows.categories(rule.scope, isp, identity, rule.window).into_iter();
        let mut categories: Vec<(String, i64)> = categories
            .map(|total| {
                let count = match rule.metric {
                    Metric::Deferred => total.deferrals,
                    Metric::LateBounce => total.late_bounces,
                    _ => total.bounces,
                };
                (total.category.to_owned(), signed(count))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        categories.sort_unstable_by(|(a, count), (b, other)| other.cmp(count).then_with(|| a.cmp(b)));
        categories.truncate(TOP_CATEGORIES);
        let pattern = self.windows.patterns(rule.scope, isp, identity, rule.window, 1).pop();
        let said = |text: Option<&str>| text.unwrap_or_default().to_owned();
        Transition {
            alert_id: alert_id(&rule.name, isp, identity, step),
            rule: rule.name.clone(),
            state,
            severity: rule.severity,
            isp: isp.clone(),
            identity: identity.clone(),
            episode_start: ms(step),
            event_time: ms(step),
            metric: rule.metric.to_string(),
            window_seconds: i64::from(rule.window.length),
            threshold: rule.threshold,
            numerator: signed(figures.0),
            denominator: signed(figures.1),
            categories,
            pattern: pattern.map_or(0, |pattern| pattern.pattern),
            pattern_rule: said(pattern.map(|pattern| pattern.rule)),
            pattern_category: said(pattern.map(|pattern| pattern.category)),
            sample: said(pattern.map(|pattern| pattern.sample)),
            annotations: rule.annotations.clone(),
        }
    }

    /// The figures of a key; a key that is not held counted nothing.
    fn figures(&self, rule: &Rule, (_, isp, identity): &Place, step: u32) -> (u64, u64) {
        let series = self.windows.series(rule.scope, isp, identity);
        series.map_or((0, 0), |series| self.windows.figures(series, &rule.metric, &span(rule.window, step)))
    }

    /// The number of a rule: as in the file, then that of the sources, then those removed.
    fn number(&self, name: &str) -> usize {
        let all =
            self.rules.iter().map(|rule| &*rule.name).chain([SOURCE_LEFT_OUT]).chain(self.removed.iter().map(|name| &**name));
        all.take_while(|known| *known != name).count()
    }

    /// Whether this life decides on a rule (by its number) at a step.
    fn is_judged(&self, number: usize, step: u32) -> bool {
        let covered = match self.rules.iter().nth(number) {
            Some(rule) => self.covers(rule.window, step),
            // Whoever begins to read does not know yet who was left out before.
            None if number == self.rules.len() => self.complete_from.is_none_or(|from| ms(step) >= from + self.hold),
            None => true,
        };
        covered && self.decides(step)
    }

    /// Whether a step is later than those an earlier life decided.
    fn decides(&self, step: u32) -> bool {
        self.decided_to.is_none_or(|to| ms(step) > to)
    }

    /// Whether all of a window was read.
    fn covers(&self, window: WindowSpec, step: u32) -> bool {
        self.complete_from.is_none_or(|from| ms(span(window, step).start) >= from)
    }
}

/// The rules by what they look at.
fn groups(rules: &Rules, windows: &[WindowSpec]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (n, rule) in rules.iter().enumerate() {
        match groups.iter_mut().find(|group| group.scope == rule.scope && group.window == rule.window) {
            Some(group) => group.rules.push(n),
            None => {
                let number = windows.iter().position(|window| *window == rule.window).unwrap_or(0);
                groups.push(Group { scope: rule.scope, window: rule.window, number, rules: vec![n], fresh: true });
            }
        }
    }
    groups
}

/// Whether a key is one the rule is judged over.
fn judges(rule: &Rule, isp: &str, identity: &str) -> bool {
    let shaped = isp.is_empty() != rule.scope.has_isp() && identity.is_empty() != rule.scope.has_identity();
    shaped && rule.applies(isp, identity)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
