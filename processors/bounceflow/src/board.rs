//! What the watch knows, for people to look at: the loop writes, the HTTP side and the senders to Alertmanager read. (Long: its tests.)
//!
//! Owns the lock around [`Watch`] and how its values become `api` answers. It decides nothing.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bounceflow_classify::Rules as Classification;
use bounceflow_event::RateBatch;
use bounceflow_window::{
    Active, AlertSeverity, Counts, Metric, Scope, SourceState, SourceStatus, State, Transition, Watch, WindowSpec,
};
use globset::Glob;
use serde::Deserialize;

use crate::api;
use crate::evidence;
use crate::rules::Current;

/// Alerts that are over are sent to Alertmanager as resolved for this long of wall clock.
const REMEMBER: Duration = Duration::from_secs(15 * 60);
/// More of them are not kept.
const MAX_OVER: usize = 1000;
/// Parts of a sparkline, at most.
const SPARKS: u32 = 20;
/// Rows of one answer unless asked otherwise, and at most.
const ROWS: usize = 100;
const MAX_ROWS: usize = 10_000;

/// What the watch knows.
pub struct Board {
    inner: RwLock<Inner>,
    classification: Arc<Current>,
    windows: Vec<WindowSpec>,
}

#[derive(Default)]
struct Inner {
    watch: Option<Watch>,
    /// When those that fire began to, by id.
    fired: BTreeMap<String, i64>,
    /// Fired once and over now, the newest last.
    over: VecDeque<Over>,
    log_time: Option<i64>,
    lag: i64,
    caught_up: bool,
    /// Counts what a sender would have to tell.
    version: u64,
    senders: BTreeMap<String, api::Alertmanager>,
}

struct Over {
    last: Transition,
    fired_at: i64,
    noticed: Instant,
}

/// An alert to be sent.
pub struct Outgoing {
    /// Its last transition; the figures are those of the last evaluation.
    pub alert: Transition,
    /// Event time it began to fire, milliseconds.
    pub fired_at: i64,
    /// Event time it was resolved, milliseconds.
    pub resolved_at: Option<i64>,
}

/// What `/api/v1/rates` may be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    scope: Option<String>,
    window: Option<u32>,
    isp: Option<String>,
    identity: Option<String>,
    /// What the ISP or the identity contains, in any case.
    contains: Option<String>,
    sort: Option<String>,
    order: Option<String>,
    limit: Option<usize>,
}

impl Board {
    /// Nothing known yet.
    pub fn new(classification: Arc<Current>, windows: Vec<WindowSpec>) -> Self {
        Self { inner: RwLock::default(), classification, windows }
    }

    /// The loop begins anew.
    pub fn clear(&self) {
        let mut inner = self.write();
        (inner.watch, inner.caught_up) = (None, false);
    }

    /// The loop knows what an earlier life left.
    pub fn open(&self, watch: Watch, recorded: Vec<Transition>) {
        let mut inner = self.write();
        inner.watch = Some(watch);
        inner.over.clear();
        inner.fired.clear();
        inner.note(recorded);
    }

    /// Folds a batch of the log.
    pub fn fold(&self, batch: &RateBatch<'_>, log_time: i64, out: &mut Vec<Transition>) {
        let mut inner = self.write();
        inner.log_time = Some(log_time);
        if let Some(watch) = &mut inner.watch {
            watch.fold(batch, log_time, out);
        }
    }

    /// These transitions are written.
    pub fn changed(&self, changes: Vec<Transition>) {
        self.write().note(changes);
    }

    /// The end of the log was seen.
    pub fn caught_up(&self) {
        let mut inner = self.write();
        (inner.caught_up, inner.lag) = (true, 0);
    }

    /// Records of the log that are not read yet.
    pub fn lag(&self, records: i64) {
        self.write().lag = records;
    }

    /// Event time of the last evaluation.
    pub fn evaluated_to(&self) -> Option<i64> {
        self.read().watch.as_ref()?.evaluated_to()
    }

    /// How far the watch is, and what keeps it from judging.
    pub fn status(&self) -> api::Status {
        let inner = self.read();
        let mut status = api::Status {
            log_time: inner.log_time,
            lag_records: inner.lag,
            windows: self.windows.iter().map(|w| w.length).collect(),
            alertmanagers: inner.senders.values().cloned().collect(),
            ..api::Status::default()
        };
        if !inner.caught_up {
            status.problems.push("reading what the rates topic holds".into());
        }
        if let Some(watch) = &inner.watch {
            status.watermark = watch.watermark();
            status.evaluated_to = watch.evaluated_to();
            status.keys = watch.windows().len();
            status.refused = watch.refused().map(|(reason, count)| (reason.to_owned(), count)).collect();
            status.unjudged_rules = watch.unjudged().map(|rule| rule.name.clone()).collect();
            status.sources = watch.sources().map(source).collect();
        }
        if !status.unjudged_rules.is_empty() {
            status.problems.push(format!(
                "the rates topic does not reach back far enough for the windows of {}: not judged until it does",
                status.unjudged_rules.join(", ")
            ));
        }
        status.ready = status.problems.is_empty();
        status
    }

    /// One window over the keys of one scope. An error says which parameter is wrong.
    pub fn rates(&self, query: &Query) -> Result<api::Rates, String> {
        let scope = match query.scope.as_deref().unwrap_or("isp_identity").parse::<Scope>() {
            Ok(scope) => scope,
            Err(_) => return Err("scope: one of overall, isp, identity, isp_identity".into()),
        };
        let window = match query.window {
            None => self.windows.iter().find(|w| w.length >= 300).or(self.windows.last()),
            Some(length) => self.windows.iter().find(|w| w.length == length),
        };
        let Some(window) = window.copied() else {
            let lengths: Vec<String> = self.windows.iter().map(|w| w.length.to_string()).collect();
            return Err(format!("window: one that a rule has, in seconds: {}", lengths.join(", ")));
        };
        let glob = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => Glob::new(text).map(|glob| Some(glob.compile_matcher())).map_err(|e| format!("{name}: {e}")),
        };
        let (isp, identity) = (glob("isp", &query.isp)?, glob("identity", &query.identity)?);
        let key = sort_key(query.sort.as_deref().unwrap_or("attempts"))?;
        let descending = match query.order.as_deref() {
            None | Some("desc") => true,
            Some("asc") => false,
            Some(_) => return Err("order: asc or desc".into()),
        };
        let limit = query.limit.unwrap_or(ROWS).min(MAX_ROWS);
        // Equal parts that buckets can be cut into.
        let fits_buckets =
            |parts: &u32| window.length.is_multiple_of(*parts) && (window.length / parts).is_multiple_of(window.slide);
        let sparks = (1..=SPARKS).rev().find(fits_buckets).unwrap_or(1) as usize;
        let inner = self.read();
        let Some(watch) = &inner.watch else {
            return Ok(api::Rates { window_seconds: window.length, scope: scope.as_str().into(), ..api::Rates::default() });
        };
        let contains = query.contains.as_ref().map(|text| text.to_lowercase());
        let fits = |i: &str, d: &str| {
            isp.as_ref().is_none_or(|g| g.is_match(i))
                && identity.as_ref().is_none_or(|g| g.is_match(d))
                && contains.as_ref().is_none_or(|text| i.to_lowercase().contains(text) || d.to_lowercase().contains(text))
        };
        let mut found: Vec<(&str, &str, Counts, f64)> = watch
            .windows()
            .totals(scope, window)
            .filter(|(i, d, counts)| counts.attempts() + counts.complaints + counts.late_bounces > 0 && fits(i, d))
            .map(|(i, d, counts)| {
                let by = key(&counts);
                (i, d, counts, by)
            })
            .collect();
        let total = found.len();
        // A total order, so that two answers can be compared.
        found.sort_unstable_by(|a, b| {
            let order = a.3.total_cmp(&b.3);
            (if descending { order.reverse() } else { order }).then_with(|| (a.0, a.1).cmp(&(b.0, b.1)))
        });
        found.truncate(limit);
        let rows = found.into_iter().map(|(i, d, counts, _)| {
            let parts = watch.windows().spark(scope, i, d, window, sparks);
            row(i, d, &counts, parts.iter().map(|c| ratio(c.hard + c.soft + c.deferred, c.attempts())).collect())
        });
        Ok(api::Rates {
            evaluated_to: watch.evaluated_to(),
            window_seconds: window.length,
            scope: scope.as_str().into(),
            total,
            rows: rows.collect(),
        })
    }

    /// Pending and firing alerts, and those that are over.
    pub fn alerts(&self) -> api::Alerts {
        let inner = self.read();
        let mut alerts = Vec::new();
        for active in inner.watch.iter().flat_map(Watch::active) {
            alerts.push(self.alert(&shown(active), active.fired_at, None));
        }
        for over in &inner.over {
            alerts.push(self.alert(&over.last, Some(over.fired_at), Some(over.last.event_time)));
        }
        let rank = |alert: &api::Alert| ["firing", "pending", "resolved"].iter().position(|s| *s == alert.state);
        alerts.sort_by(|a, b| {
            let newest = |x: &api::Alert| std::cmp::Reverse(x.resolved_at.or(x.fired_at).unwrap_or(x.since));
            (rank(a), newest(a), &a.id).cmp(&(rank(b), newest(b), &b.id))
        });
        api::Alerts { evaluated_to: inner.watch.as_ref().and_then(Watch::evaluated_to), alerts }
    }

    /// How many alerts are pending, and how many are firing.
    pub fn standing(&self) -> [usize; 2] {
        let inner = self.read();
        let firing = |active: &Active| active.fired_at.is_some();
        let count = |fires| inner.watch.iter().flat_map(Watch::active).filter(|active| firing(active) == fires).count();
        [count(false), count(true)]
    }

    fn alert(&self, t: &Transition, fired_at: Option<i64>, resolved_at: Option<i64>) -> api::Alert {
        let (cause, action) = evidence::cause_and_action(&self.classification(), t);
        api::Alert {
            id: t.alert_id.clone(),
            rule: t.rule.clone(),
            state: t.state.as_str().to_owned(),
            severity: t.severity.as_str().to_owned(),
            isp: t.isp.clone(),
            identity: t.identity.clone(),
            since: t.episode_start,
            fired_at,
            resolved_at,
            metric: t.metric.clone(),
            window_seconds: t.window_seconds,
            threshold: t.threshold,
            numerator: t.numerator,
            denominator: t.denominator,
            categories: t.categories.clone(),
            pattern: t.pattern,
            sample: t.sample.clone(),
            root_cause: cause.as_str().to_owned(),
            action: action.as_str().to_owned(),
            annotations: t.annotations.clone(),
        }
    }

    /// What Alertmanager is to hold, with a number that changes when it does. None: what is read so far is of the past.
    pub fn outgoing(&self) -> Option<(u64, Vec<Outgoing>)> {
        let inner = self.read();
        let watch = inner.watch.as_ref().filter(|_| inner.caught_up)?;
        let firing = watch.active().filter_map(|active| {
            let fired_at = active.fired_at?;
            Some(Outgoing { alert: shown(active), fired_at, resolved_at: None })
        });
        // Alertmanager knows an alert by its labels, whatever its episode, and holds what came last: so there is one of each.
        let mut all: Vec<Outgoing> = firing.collect();
        let mut told: HashSet<_> = watch.firing().map(|active| labels(&active.transition)).collect();
        for over in inner.over.iter().rev().filter(|over| over.noticed.elapsed() < REMEMBER) {
            if told.insert(labels(&over.last)) {
                let resolved_at = Some(over.last.event_time);
                all.push(Outgoing { alert: over.last.clone(), fired_at: over.fired_at, resolved_at });
            }
        }
        Some((inner.version, all))
    }

    /// What changed since.
    pub fn version(&self) -> u64 {
        self.read().version
    }

    /// How sending to an Alertmanager went.
    pub fn sent(&self, how: api::Alertmanager) {
        self.write().senders.insert(how.url.clone(), how);
    }

    /// Root cause and action as the classification rules have them.
    pub fn classification(&self) -> Arc<Classification> {
        self.classification.get()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(|e| e.into_inner())
    }
}

impl Inner {
    /// Keeps what is over; transitions of replicas come twice.
    fn note(&mut self, changes: Vec<Transition>) {
        for change in changes {
            self.version += 1;
            match change.state {
                State::Pending => {}
                // Recorded by a replica that was behind.
                State::Firing if self.over.iter().any(|over| over.last.alert_id == change.alert_id) => {}
                State::Firing => drop(self.fired.insert(change.alert_id, change.event_time)),
                // One that never fired is nobody's business any more.
                State::Resolved => {
                    if let Some(fired_at) = self.fired.remove(&change.alert_id) {
                        self.over.push_back(Over { last: change, fired_at, noticed: Instant::now() });
                    }
                }
            }
        }
        while self.over.len() > MAX_OVER {
            self.over.pop_front();
        }
    }
}

fn source(status: SourceStatus<'_>) -> api::Source {
    let (state, since) = match status.state {
        SourceState::Current => ("current", None),
        SourceState::Idle => ("idle", None),
        SourceState::Behind { since } => ("behind", Some(since)),
        SourceState::LeftOut { since } => ("left_out", Some(since)),
    };
    api::Source {
        topic: status.topic.to_owned(),
        partition: status.partition,
        max_event_time: status.max_event_time,
        listed: status.listed,
        state: state.to_owned(),
        since,
    }
}

/// What makes an alert the same one to Alertmanager.
fn labels(alert: &Transition) -> (&str, AlertSeverity, &str, &str) {
    (&alert.rule, alert.severity, &alert.isp, &alert.identity)
}

/// The last transition with the figures of the last evaluation.
fn shown(active: &Active) -> Transition {
    Transition { numerator: active.numerator, denominator: active.denominator, ..active.transition.clone() }
}

fn sort_key(name: &str) -> Result<impl Fn(&Counts) -> f64 + use<>, String> {
    let metric = name.parse::<Metric>().ok();
    let count: Option<fn(&Counts) -> u64> = match name {
        "attempts" => Some(Counts::attempts),
        "outcomes" => Some(Counts::outcomes),
        "deliveries" => Some(|c| c.deliveries),
        "hard" => Some(|c| c.hard),
        "soft" => Some(|c| c.soft),
        "deferred" => Some(|c| c.deferred),
        "blocked" => Some(|c| c.blocked),
        "complaints" => Some(|c| c.complaints),
        "late_bounces" => Some(|c| c.late_bounces),
        "first_attempts" => Some(|c| c.first_attempts),
        _ => None,
    };
    if count.is_none() && metric.as_ref().is_none_or(|m| matches!(m, Metric::Category(_))) {
        return Err(format!(
            "sort: {name:?} is neither a count (attempts, outcomes, deliveries, hard, soft, deferred, blocked, complaints, \
             late_bounces, first_attempts) nor a rate (bounce_rate, hard_rate, soft_rate, blocked_rate, deferred_rate, \
             complaint_rate, late_bounce_rate)"
        ));
    }
    Ok(move |counts: &Counts| match (count, &metric) {
        (Some(count), _) => count(counts) as f64,
        (None, Some(metric)) => {
            let (numerator, denominator) = counts.metric(metric, 0);
            ratio(numerator, denominator).unwrap_or(-1.0)
        }
        (None, None) => 0.0,
    })
}

fn row(isp: &str, identity: &str, c: &Counts, spark: Vec<Option<f64>>) -> api::Row {
    let (outcomes, attempts) = (c.outcomes(), c.attempts());
    api::Row {
        isp: isp.to_owned(),
        identity: identity.to_owned(),
        deliveries: c.deliveries,
        hard: c.hard,
        soft: c.soft,
        deferred: c.deferred,
        blocked: c.blocked,
        complaints: c.complaints,
        late_bounces: c.late_bounces,
        first_attempts: c.first_attempts,
        outcomes,
        attempts,
        bounce_rate: ratio(c.hard + c.soft, outcomes),
        hard_rate: ratio(c.hard, outcomes),
        soft_rate: ratio(c.soft, outcomes),
        blocked_rate: ratio(c.blocked, outcomes),
        deferred_rate: ratio(c.deferred, attempts),
        complaint_rate: ratio(c.complaints, c.deliveries),
        late_bounce_rate: ratio(c.late_bounces, c.deliveries),
        spark,
    }
}

fn ratio(numerator: u64, denominator: u64) -> Option<f64> {
    (denominator > 0).then(|| numerator as f64 / denominator as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use bounceflow_event::{RateRow, Source};
    use bounceflow_window::{Rules, Settings};

    use super::*;

    const NOW: i64 = 1_790_000_000_000;

    fn board() -> Board {
        let rules =
            "[[rule]]\nname = 'r'\nmetric = 'bounce_rate'\nwindow = '5m'\nthreshold = 0.5\nmin_volume = 1\nkeep_firing = '0s'\n";
        let rules = Arc::new(Rules::parse(rules, "r").unwrap());
        let board = Board::new(Arc::new(Current::new(Arc::new(Classification::builtin().unwrap()))), rules.windows());
        board.open(Watch::new(rules, Settings::default()), Vec::new());
        board
    }

    /// One that fires.
    pub(crate) fn firing() -> Transition {
        fold(&board(), 0, vec![row("gmail", "a.example", 10, 90)]).remove(0)
    }

    fn row(isp: &'static str, identity: &'static str, deliveries: i64, hard: i64) -> RateRow<'static> {
        RateRow { bucket: NOW / 1000 - 60, isp, identity, deliveries, hard, ..RateRow::default() }
    }

    /// One of gmail in the minute before a second after NOW.
    fn row_at(second: i64, deliveries: i64, hard: i64) -> RateRow<'static> {
        RateRow { bucket: NOW / 1000 + second - 60, ..row("gmail", "a.example", deliveries, hard) }
    }

    /// Folds rows and lets event time reach `second` after NOW.
    fn fold(board: &Board, second: i64, rows: Vec<RateRow<'_>>) -> Vec<Transition> {
        let time = NOW + 1000 * second;
        let source = Source { topic: "t", max_event_time: Some(time + 30_000), ..Source::default() };
        let mut out = Vec::new();
        let batch = RateBatch { parts: 1, rows, sources: vec![source], ..RateBatch::default() };
        board.fold(&batch, time + 30_000, &mut out);
        board.changed(out.clone());
        out
    }

    fn keys(board: &Board, query: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let object: serde_json::Map<String, serde_json::Value> =
            query.iter().map(|(k, v)| ((*k).to_owned(), v.parse::<u32>().map_or_else(|_| (*v).into(), Into::into))).collect();
        let query: Query = serde_json::from_value(object.into()).map_err(|e| e.to_string())?;
        board.rates(&query).map(|rates| rates.rows.iter().map(|r| format!("{}×{}", r.isp, r.identity)).collect())
    }

    #[test]
    fn rates_are_filtered_sorted_and_cut() {
        let board = board();
        assert_eq!(keys(&board, &[]), Ok(vec![]), "nothing read yet");
        let rows = vec![row("gmail", "a.example", 90, 10), row("yahoo", "a.example", 50, 1), row("gmail", "b.example", 10, 5)];
        fold(&board, 0, rows);
        let check = |query: &[(&str, &str)], expect: &[&str]| assert_eq!(keys(&board, query).unwrap(), expect, "{query:?}");
        check(&[], &["gmail×a.example", "yahoo×a.example", "gmail×b.example"]);
        check(&[("sort", "hard_rate")], &["gmail×b.example", "gmail×a.example", "yahoo×a.example"]);
        check(&[("sort", "hard_rate"), ("order", "asc"), ("limit", "1")], &["yahoo×a.example"]);
        check(&[("isp", "g*")], &["gmail×a.example", "gmail×b.example"]);
        check(&[("identity", "{b,c}.example")], &["gmail×b.example"]);
        check(&[("contains", "YAH")], &["yahoo×a.example"]);
        check(&[("scope", "identity")], &["×a.example", "×b.example"]);
        check(&[("scope", "overall"), ("window", "300")], &["×"]);
        for (name, value) in [("scope", "all"), ("window", "61"), ("sort", "luck"), ("order", "up"), ("isp", "[")] {
            let refused = keys(&board, &[(name, value)]).unwrap_err();
            assert!(refused.starts_with(name), "{refused}");
        }
        assert!(keys(&board, &[("color", "red")]).unwrap_err().contains("color"));
        let rates = board.rates(&Query::default()).unwrap();
        assert_eq!((rates.total, rates.window_seconds), (3, 300));
        let first = &rates.rows[0];
        assert_eq!((first.outcomes, first.hard_rate, first.complaint_rate), (100, Some(0.1), Some(0.0)));
        assert_eq!(first.spark.iter().flatten().count(), 1, "all in one bucket: {:?}", first.spark);
    }

    #[test]
    fn what_two_replicas_recorded_is_over_once() {
        let first = board();
        let mut life = fold(&first, 0, vec![row("gmail", "a.example", 10, 90)]);
        life.extend(fold(&first, 400, vec![]));
        assert_eq!(life.iter().map(|t| t.state).collect::<Vec<_>>(), [State::Firing, State::Resolved]);
        // One replica was far behind the other.
        let (rules, both) = (Arc::new(Rules::builtin().unwrap()), [life.clone(), life].concat());
        first.open(Watch::new(rules, Settings::default()), both);
        assert_eq!(first.alerts().alerts.len(), 1);
    }

    #[test]
    fn an_alert_that_fires_again_is_not_taken_back_by_its_last_episode() {
        let board = board();
        board.caught_up();
        for episode in 0..3 {
            assert_eq!(fold(&board, 1000 * episode, vec![row_at(1000 * episode, 10, 90)]).len(), 1, "it fires");
            let (_, sent) = board.outgoing().unwrap();
            assert_eq!((sent.len(), sent[0].resolved_at), (1, None), "Alertmanager keeps what it is told last");
            assert_eq!(fold(&board, 1000 * episode + 400, vec![]).len(), 1, "it is over");
            let (_, sent) = board.outgoing().unwrap();
            assert_eq!((sent.len(), sent[0].resolved_at), (1, Some(NOW + 1000 * (1000 * episode + 250))), "the newest episode");
        }
        assert_eq!(board.alerts().alerts.len(), 3);
    }

    #[test]
    fn what_fires_is_sent_once_the_end_was_seen_and_what_is_over_for_a_while() {
        let board = board();
        let fired = fold(&board, 0, vec![row("gmail", "a.example", 10, 90)]);
        assert_eq!(fired.len(), 1);
        assert!(board.outgoing().is_none(), "what is read so far is of the past");
        assert!(!board.status().ready);
        board.caught_up();
        let (version, sent) = board.outgoing().unwrap();
        assert_eq!((sent.len(), sent[0].resolved_at), (1, None));
        assert_eq!(board.alerts().alerts[0].state, "firing");
        assert_eq!(board.standing(), [0, 1]);
        fold(&board, 400, vec![]);
        let (after, sent) = board.outgoing().unwrap();
        assert!(after > version && sent.len() == 1);
        assert_eq!(sent[0].resolved_at, Some(sent[0].alert.event_time));
        let alerts = board.alerts().alerts;
        assert_eq!((alerts.len(), &*alerts[0].state), (1, "resolved"));
        assert_eq!(alerts[0].fired_at, Some(sent[0].fired_at));
        assert_eq!(board.standing(), [0, 0]);
        assert!(board.status().ready);
    }
}
