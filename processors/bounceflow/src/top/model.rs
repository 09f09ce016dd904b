//! What the view knows and where the reader stands in it: changed by answers and keys alone. Takes the clock as an argument, asks
//! nobody, draws nothing.

use std::cmp::Ordering;

use crate::api::{Alert, Alerts, Rates, Row, Status};

/// Over which keys the rates are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Scope {
    /// A row per ISP and identity
    IspIdentity,
    /// A row per ISP
    Isp,
    /// A row per identity
    Identity,
    /// One row
    Overall,
}

/// A figure of a row that can be shown and sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Figure {
    /// Deliveries and bounces
    Outcomes,
    /// Outcomes and deferrals
    Attempts,
    /// Bounces of outcomes
    BounceRate,
    /// Hard bounces of outcomes
    HardRate,
    /// Soft bounces of outcomes
    SoftRate,
    /// Refused senders and contents of outcomes
    BlockedRate,
    /// Deferrals of attempts
    DeferredRate,
    /// Complaints of deliveries
    ComplaintRate,
    /// Late bounces of deliveries
    LateBounceRate,
}

/// What is asked of the API.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    pub(super) scope: Scope,
    /// None: the one that fits best of those there are.
    pub(super) window: Option<u32>,
    pub(super) sort: Figure,
    pub(super) ascending: bool,
    pub(super) isp: Option<String>,
    pub(super) identity: Option<String>,
    /// What ISP or identity must contain.
    pub(super) filter: String,
    /// Rows at most.
    pub(super) limit: usize,
}

/// What the API said, as far as it said anything.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: Option<Status>,
    pub(super) alerts: Option<Alerts>,
    /// With the question they answer: it may have changed since.
    pub(super) rates: Option<(Ask, Rates)>,
    /// Why the rest is missing.
    pub(super) trouble: Option<Trouble>,
}

/// Why there is no answer, and what can be done about it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trouble {
    pub(super) said: String,
    pub(super) advice: String,
}

/// Which list the arrows move in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Focus {
    Rows,
    Alerts,
}

/// What stands over the lists.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Page {
    Row { isp: String, identity: String },
    Alert { id: String },
    Status,
    Help,
}

/// A place in a list. It stays with its key when the list is sorted anew, unless it stands at the top unmoved.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// Index selected.
    pub(super) at: usize,
    /// Index of the first one in sight.
    pub(super) first: usize,
    /// How many are in sight, told by the last drawing.
    pub(super) in_sight: usize,
    key: Option<String>,
}

/// The whole state of the view.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) ask: Ask,
    pub(super) url: String,
    /// Wall clock, milliseconds.
    pub(super) now: i64,
    pub(super) status: Option<Status>,
    /// Of the last answer.
    pub(super) rates: Option<Rates>,
    /// Those of its rows that fit the filter, sorted.
    pub(super) rows: Vec<Row>,
    pub(super) alerts: Vec<Alert>,
    /// Wall clock of the last complete answer, milliseconds.
    pub(super) heard: Option<i64>,
    pub(super) trouble: Option<Trouble>,
    pub(super) focus: Focus,
    pub(super) row: Cursor,
    pub(super) alert: Cursor,
    pub(super) page: Option<Page>,
    /// Lines of the page above the first one in sight.
    pub(super) scroll: usize,
    /// Keys go into the filter.
    pub(super) typing: bool,
    /// The reader has had enough.
    pub(super) done: bool,
}

impl Scope {
    pub(super) const ALL: [Self; 4] = [Self::IspIdentity, Self::Isp, Self::Identity, Self::Overall];

    /// The spelling of the API.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::IspIdentity => "isp_identity",
            Self::Isp => "isp",
            Self::Identity => "identity",
            Self::Overall => "overall",
        }
    }
}

impl Figure {
    pub(super) const ALL: [Self; 9] = [
        Self::Outcomes,
        Self::Attempts,
        Self::BounceRate,
        Self::HardRate,
        Self::SoftRate,
        Self::BlockedRate,
        Self::DeferredRate,
        Self::ComplaintRate,
        Self::LateBounceRate,
    ];

    /// The spelling of the API, and of the metrics of rules.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Outcomes => "outcomes",
            Self::Attempts => "attempts",
            Self::BounceRate => "bounce_rate",
            Self::HardRate => "hard_rate",
            Self::SoftRate => "soft_rate",
            Self::BlockedRate => "blocked_rate",
            Self::DeferredRate => "deferred_rate",
            Self::ComplaintRate => "complaint_rate",
            Self::LateBounceRate => "late_bounce_rate",
        }
    }

    /// What a row is sorted by; none: it has no such figure.
    pub(super) fn of(self, row: &Row) -> Option<f64> {
        match self {
            Self::Outcomes => Some(row.outcomes as f64),
            Self::Attempts => Some(row.attempts as f64),
            Self::BounceRate => row.bounce_rate,
            Self::HardRate => row.hard_rate,
            Self::SoftRate => row.soft_rate,
            Self::BlockedRate => row.blocked_rate,
            Self::DeferredRate => row.deferred_rate,
            Self::ComplaintRate => row.complaint_rate,
            Self::LateBounceRate => row.late_bounce_rate,
        }
    }
}

impl Ask {
    /// The window asked for among those there are: by default the shortest of 5 minutes or more, else the longest.
    pub(super) fn window(&self, windows: &[u32]) -> Result<Option<u32>, Trouble> {
        let default = windows.iter().find(|&&seconds| seconds >= 300).or(windows.last()).copied();
        match self.window {
            Some(asked) if windows.is_empty() || windows.contains(&asked) => Ok(Some(asked)),
            Some(asked) => {
                let there: Vec<String> = windows.iter().map(|&s| super::format::length(i64::from(s))).collect();
                Err(Trouble {
                    said: format!("there is no window of {}", super::format::length(i64::from(asked))),
                    advice: format!("Ask for one of these: {}.", there.join(", ")),
                })
            }
            None => Ok(default),
        }
    }
}

impl Model {
    pub(super) fn new(url: String, ask: Ask, now: i64) -> Self {
        Self {
            ask,
            url,
            now,
            status: None,
            rates: None,
            rows: Vec::new(),
            alerts: Vec::new(),
            heard: None,
            trouble: None,
            focus: Focus::Rows,
            row: Cursor::default(),
            alert: Cursor::default(),
            page: None,
            scroll: 0,
            typing: false,
            done: false,
        }
    }

    /// Takes in what the API said. What it did not say stays as it was.
    pub(super) fn hear(&mut self, answer: Answer, now: i64) {
        self.now = now;
        if answer.trouble.is_none() {
            self.heard = Some(now);
        }
        self.trouble = answer.trouble;
        if let Some(status) = answer.status {
            self.status = Some(status);
        }
        if let Some(alerts) = answer.alerts {
            self.alerts = alerts.alerts;
            let keys: Vec<&str> = self.alerts.iter().map(|alert| alert.id.as_str()).collect();
            self.alert.follow(&keys);
        }
        if let Some((ask, rates)) = answer.rates
            && (ask.scope, ask.window) == (self.ask.scope, self.ask.window)
        {
            self.rates = Some(rates);
        }
        self.arrange();
    }

    /// Filters and sorts the rows anew.
    pub(super) fn arrange(&mut self) {
        let wanted = self.ask.filter.to_lowercase();
        let fits = |row: &&Row| [&row.isp, &row.identity].iter().any(|key| key.to_lowercase().contains(&wanted));
        let all = self.rates.as_ref().map(|rates| rates.rows.as_slice()).unwrap_or_default();
        self.rows = all.iter().filter(fits).cloned().collect();
        let (sort, ascending) = (self.ask.sort, self.ask.ascending);
        self.rows.sort_by(|a, b| {
            by(sort.of(a), sort.of(b), ascending)
                .then(b.outcomes.cmp(&a.outcomes))
                .then_with(|| (&a.isp, &a.identity).cmp(&(&b.isp, &b.identity)))
        });
        let keys: Vec<String> = self.rows.iter().map(key_of).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.row.follow(&keys);
    }

    /// The figures shown are not those of now.
    pub(super) fn is_old(&self) -> bool {
        self.trouble.is_some() && self.heard.is_some()
    }

    pub(super) fn selected_row(&self) -> Option<&Row> {
        self.rows.get(self.row.at)
    }

    pub(super) fn selected_alert(&self) -> Option<&Alert> {
        self.alerts.get(self.alert.at)
    }

    /// Moves in the list that has the focus.
    pub(super) fn go(&mut self, to: impl FnOnce(&Cursor, usize) -> usize) {
        match self.focus {
            Focus::Rows => {
                let at = to(&self.row, self.rows.len());
                self.row.put(at, self.rows.len(), |at| key_of(&self.rows[at]));
            }
            Focus::Alerts => {
                let at = to(&self.alert, self.alerts.len());
                self.alert.put(at, self.alerts.len(), |at| self.alerts[at].id.clone());
            }
        }
    }

    /// The loudest alert not resolved on exactly this key: firing before pending.
    pub(super) fn alert_on(&self, isp: &str, identity: &str, metric: Option<Figure>) -> Option<&Alert> {
        // The API lists firing ones first.
        self.alerts.iter().find(|alert| {
            alert.state != "resolved"
                && (alert.isp.as_str(), alert.identity.as_str()) == (isp, identity)
                && metric.is_none_or(|metric| alert.metric == metric.as_str())
        })
    }

    /// The window shown, seconds.
    pub(super) fn window(&self) -> Option<u32> {
        self.rates.as_ref().map(|rates| rates.window_seconds)
    }
}

impl Cursor {
    fn put(&mut self, at: usize, len: usize, key: impl FnOnce(usize) -> String) {
        self.at = at.min(len.saturating_sub(1));
        self.key = (self.at > 0).then(|| key(self.at));
    }

    fn follow(&mut self, keys: &[&str]) {
        let found = self.key.as_ref().and_then(|key| keys.iter().position(|other| other == key));
        self.at = found.unwrap_or(self.at).min(keys.len().saturating_sub(1));
    }

    /// Brings the selected one into sight. `fits(first)` is how many fit in sight from there on.
    pub(super) fn show(&mut self, len: usize, fits: impl Fn(usize) -> usize) {
        self.first = self.first.min(self.at);
        while self.first < self.at && self.first + fits(self.first) <= self.at {
            self.first += 1;
        }
        // No empty space below while there is something above.
        while self.first > 0 && self.first - 1 + fits(self.first - 1) >= len {
            self.first -= 1;
        }
        self.in_sight = fits(self.first);
    }
}

/// Rows without the figure come last, however sorted.
fn by(a: Option<f64>, b: Option<f64>, ascending: bool) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) if ascending => a.total_cmp(&b),
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

fn key_of(row: &Row) -> String {
    format!("{}\n{}", row.isp, row.identity)
}
