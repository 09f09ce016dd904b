//! The life of an alert: pending, firing, resolved. Owns the states and what a transition carries; counts nothing itself.

use std::collections::BTreeMap;

use crate::grid::{ms, tick};
use crate::metric::{AlertSeverity, STEP_SECONDS};
use crate::rules::Rule;

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// It breaches, not yet for long enough.
    Pending,
    /// Somebody is to know.
    Firing,
    /// It is over; a pending one that never fired ends here too.
    Resolved,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Firing, Self::Resolved];

    /// The spelling on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

impl std::str::FromStr for State {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == s).ok_or(())
    }
}

/// One transition in the life of an alert, with the evidence at that instant. Times are event times, ms.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// Rule, key and start of the episode: a replay repeats it.
    pub alert_id: String,
    /// Name of the rule.
    pub rule: String,
    /// What it became.
    pub state: State,
    /// As the rule says.
    pub severity: AlertSeverity,
    /// Empty: over all.
    pub isp: String,
    /// Empty: over all.
    pub identity: String,
    /// When the threshold was crossed.
    pub episode_start: i64,
    /// When this happened.
    pub event_time: i64,
    /// Spelled as in the rule file.
    pub metric: String,
    /// Length of the window, seconds.
    pub window_seconds: i64,
    /// Fraction from which on it breaches.
    pub threshold: f64,
    /// The rate's numerator.
    pub numerator: i64,
    /// The rate's denominator.
    pub denominator: i64,
    /// The five categories that failed most, in what the metric counts: bounces, deferrals or late bounces.
    pub categories: Vec<(String, i64)>,
    /// The most frequent pattern; 0: none.
    pub pattern: i64,
    /// Rule of classification that decided it.
    pub pattern_rule: String,
    /// Its category.
    pub pattern_category: String,
    /// One redacted diagnostic of it.
    pub sample: String,
    /// As the rule says.
    pub annotations: BTreeMap<String, String>,
}

/// An alert that is not resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    /// Its last transition.
    pub transition: Transition,
    /// Event time it began to fire, ms; none: pending.
    pub fired_at: Option<i64>,
    /// The rate's numerator at the last step.
    pub numerator: i64,
    /// The rate's denominator at the last step.
    pub denominator: i64,
    /// The first step of those in a row at which it was clear.
    clear_since: Option<u32>,
}

/// Where a rate stands to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// At the threshold or above.
    Breach,
    /// Neither.
    Between,
    /// Below the level of clear, or too little volume to say.
    Clear,
}

/// How long an alert must breach and be clear, ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) hold_for: u32,
    pub(crate) keep_firing: u32,
}

impl Level {
    /// Integers below 2^53 and one division, rounded as the threshold was when it was read: 7 of 100 is 0.07, on every machine.
    pub(crate) fn of(rule: &Rule, (numerator, denominator): (u64, u64)) -> Self {
        let rate = numerator as f64 / denominator as f64;
        if denominator < rule.min_volume.max(1) {
            Self::Clear
        } else if rate >= rule.threshold {
            Self::Breach
        } else if rate < rule.clear {
            Self::Clear
        } else {
            Self::Between
        }
    }
}

impl From<&Rule> for Terms {
    fn from(rule: &Rule) -> Self {
        Self { hold_for: rule.hold_for / STEP_SECONDS, keep_firing: rule.keep_firing / STEP_SECONDS }
    }
}

impl Terms {
    /// What an alert begins as.
    pub(crate) fn first(self) -> State {
        if self.hold_for == 0 { State::Firing } else { State::Pending }
    }
}

impl Active {
    /// One that begins or goes on with a transition.
    pub(crate) fn new(transition: Transition) -> Self {
        Self {
            fired_at: (transition.state == State::Firing).then_some(transition.event_time),
            numerator: transition.numerator,
            denominator: transition.denominator,
            clear_since: None,
            transition,
        }
    }

    /// Takes in how it stands at a step, and says what it becomes; none: it stays.
    pub(crate) fn judge(&mut self, terms: Terms, level: Level, step: u32) -> Option<State> {
        if self.transition.state != State::Firing {
            let since = tick(self.transition.episode_start).unwrap_or(step);
            return match level {
                Level::Breach => (step.saturating_sub(since) >= terms.hold_for).then_some(State::Firing),
                Level::Between | Level::Clear => Some(State::Resolved),
            };
        }
        self.clear_since = (level == Level::Clear).then(|| self.clear_since.unwrap_or(step));
        self.clear_since.filter(|since| step - since >= terms.keep_firing).map(|_| State::Resolved)
    }
}

/// `{rule}/{isp}/{identity}/{episode_start, seconds}`.
pub(crate) fn alert_id(rule: &str, isp: &str, identity: &str, episode_start: u32) -> String {
    format!("{rule}/{isp}/{identity}/{}", ms(episode_start) / 1000)
}
