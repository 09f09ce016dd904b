//! The recorder of metrics, and what the roles count. Counters end in `_total`; units are base units. What each metric means stands in the
//! [`catalogue`].
//!
//! Nothing here is called for a record: the loops count in plain integers and publish when a transaction is committed.

pub mod catalogue;

use std::time::Duration;

use bounceflow_classify::{Lookups, Rules};
use bounceflow_event::{EventType, IgnoreReason, RejectReason, Severity};
use bounceflow_warehouse::{Table, Verdict};
use bounceflow_window::{REFUSALS, State};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::counts::Counts;
use crate::dead_letter::REFUSED_BY_CLICKHOUSE;
use crate::process::COMPLAINT;
use crate::{api, lag};

/// Observations of histograms are put into their buckets this often; until then each takes 16 bytes.
pub const UPKEEP: Duration = Duration::from_secs(2);

/// Of times within the program.
const SECONDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// From event to ClickHouse: a second or two when all is well, hours after an outage, a day for what a source delivers late.
const END_TO_END: [f64; 15] = [0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0];

/// What `/metrics` answers from.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    /// The text of `/metrics`.
    pub fn render(&self) -> String {
        lag::tell(jiff::Timestamp::now().as_millisecond());
        self.0.render()
    }

    /// Puts what was observed into the buckets of histograms. Left out for long, observations pile up, unless somebody asks for them.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Installs the recorder and describes every metric.
pub fn install() -> anyhow::Result<Exporter> {
    let exporter = Exporter(builder()?.install_recorder()?);
    begin();
    Ok(exporter)
}

/// The recorder, with buckets for every histogram, so that none is a summary.
pub fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("bounceflow_end_to_end_seconds".into()), &END_TO_END)
}

/// What every process has.
fn begin() {
    catalogue::describe();
    gauge!("bounceflow_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for result in ["ok", "refused"] {
        drop(counter!("bounceflow_rules_reloads_total", "result" => result));
    }
    for result in ["sent", "failed", "dropped"] {
        spans(result, 0);
    }
}

/// The classification rules were read anew, or refused.
pub fn rules_reloaded(ok: bool) {
    counter!("bounceflow_rules_reloads_total", "result" => if ok { "ok" } else { "refused" }).increment(1);
}

/// How spans fared.
pub fn spans(result: &'static str, count: u64) {
    counter!("bounceflow_telemetry_spans_total", "result" => result).increment(count);
}

/// What the classify loop counts, once it is committed.
pub struct Classify {
    topic: String,
    records: Counter,
    counted: Counter,
    failed: Counter,
    hits: Counter,
    misses: Counter,
    committed: Counter,
    commit_seconds: Histogram,
    /// Transactions aborted.
    pub aborted: Counter,
    /// Partitions that wait for an operator.
    pub halted: Gauge,
}

/// What a transaction adds once it is committed.
pub struct Additions(Vec<(Counter, u64)>);

/// A transaction that was committed.
pub struct Transaction {
    /// Records settled.
    pub records: u64,
    /// Items settled.
    pub items: u64,
    /// Failures written.
    pub failures: u64,
    /// What was counted of it.
    pub additions: Additions,
    /// Time to commit.
    pub commit: Duration,
}

impl Classify {
    /// For one input topic.
    pub fn new(topic: &str) -> Self {
        let t = topic.to_owned();
        let new = Self {
            records: counter!("bounceflow_classify_records_total", "topic" => t.clone()),
            counted: counter!("bounceflow_classify_items_total", "topic" => t.clone(), "outcome" => "counted"),
            failed: counter!("bounceflow_classify_items_total", "topic" => t.clone(), "outcome" => "failure"),
            hits: counter!("bounceflow_classify_cache_lookups_total", "topic" => t.clone(), "result" => "hit"),
            misses: counter!("bounceflow_classify_cache_lookups_total", "topic" => t.clone(), "result" => "miss"),
            committed: counter!("bounceflow_classify_transactions_total", "topic" => t.clone(), "result" => "committed"),
            aborted: counter!("bounceflow_classify_transactions_total", "topic" => t.clone(), "result" => "aborted"),
            commit_seconds: histogram!("bounceflow_classify_commit_seconds", "topic" => t.clone()),
            halted: gauge!("bounceflow_classify_halted_partitions", "topic" => t.clone()),
            topic: t,
        };
        drop(new.unmatched());
        for event in EventType::ALL {
            drop(new.event(event));
        }
        for reason in IgnoreReason::ALL {
            drop(new.ignored(reason));
        }
        for reason in RejectReason::ALL {
            drop(new.dead_lettered(reason.as_str()));
        }
        new
    }

    /// The rules in force may give these: they are there from now on.
    pub fn rules(&self, rules: &Rules) {
        drop(self.failure(COMPLAINT, None));
        for rule in rules.iter() {
            for severity in Severity::ALL {
                drop(self.failure(rule.category().as_str(), Some(severity)));
            }
        }
    }

    /// What these counts will add; to be asked before they are handed out.
    pub fn additions(&self, counts: &Counts) -> Additions {
        let mut all = vec![(self.unmatched(), counts.unmatched())];
        for (event, count) in counts.events() {
            all.push((self.event(event), count));
            if event == EventType::Complaint {
                all.push((self.failure(COMPLAINT, None), count));
            }
        }
        all.extend(counts.ignored().map(|(reason, count)| (self.ignored(reason), count)));
        all.extend(counts.failures().map(|(category, severity, count)| (self.failure(category, severity), count)));
        all.retain(|(_, count)| *count > 0);
        Additions(all)
    }

    /// A transaction is committed.
    pub fn committed(&self, done: Transaction, lookups: Lookups) {
        self.records.increment(done.records);
        self.counted.increment(done.items);
        self.failed.increment(done.failures);
        self.hits.increment(lookups.hits);
        self.misses.increment(lookups.misses);
        self.committed.increment(1);
        self.commit_seconds.record(done.commit);
        done.additions.0.into_iter().for_each(|(counter, count)| counter.increment(count));
    }

    /// Items that went to the dead letter.
    pub fn dead_lettered(&self, reason: &'static str) -> Counter {
        counter!("bounceflow_classify_dead_lettered_total", "topic" => self.topic.clone(), "reason" => reason)
    }

    fn ignored(&self, reason: IgnoreReason) -> Counter {
        counter!("bounceflow_classify_ignored_total", "topic" => self.topic.clone(), "reason" => reason.as_str())
    }

    fn event(&self, event: EventType) -> Counter {
        counter!("bounceflow_classify_events_total", "topic" => self.topic.clone(), "event_type" => event.as_str())
    }

    fn failure(&self, category: &str, severity: Option<Severity>) -> Counter {
        counter!(
            "bounceflow_classify_failures_total",
            "topic" => self.topic.clone(),
            "category" => category.to_owned(),
            "severity" => severity.map_or("none", Severity::as_str)
        )
    }

    fn unmatched(&self) -> Counter {
        counter!("bounceflow_classify_unmatched_total", "topic" => self.topic.clone())
    }
}

/// What the sink loop counts, by table.
pub struct Sink {
    table: &'static str,
    /// Records settled.
    pub rows: Counter,
    /// Batches to be sent again.
    pub retries: Counter,
    /// Time of one insert.
    pub insert_seconds: Histogram,
    /// Partitions that wait for an operator.
    pub halted: Gauge,
    end_to_end: Histogram,
}

impl Sink {
    /// For one table.
    pub fn new(table: Table) -> Self {
        let table = table.name();
        let new = Self {
            table,
            rows: counter!("bounceflow_sink_rows_total", "table" => table),
            retries: counter!("bounceflow_sink_retries_total", "table" => table),
            insert_seconds: histogram!("bounceflow_sink_insert_seconds", "table" => table),
            halted: gauge!("bounceflow_sink_halted_partitions", "table" => table),
            end_to_end: histogram!("bounceflow_end_to_end_seconds", "table" => table),
        };
        for verdict in Verdict::ALL {
            drop(new.answered(verdict));
        }
        for reason in [RejectReason::MalformedAvro.as_str(), REFUSED_BY_CLICKHOUSE] {
            drop(new.dead_lettered(reason));
        }
        new
    }

    /// What ClickHouse answered to inserts.
    pub fn answered(&self, verdict: Verdict) -> Counter {
        counter!("bounceflow_sink_batches_total", "table" => self.table, "verdict" => verdict.as_str())
    }

    /// Records that went to the dead letter.
    pub fn dead_lettered(&self, reason: &'static str) -> Counter {
        counter!("bounceflow_sink_dead_lettered_total", "table" => self.table, "reason" => reason)
    }

    /// What happened at these times was in ClickHouse `now`. Milliseconds.
    pub fn arrived(&self, event_times: &[i64], now: i64) {
        event_times.iter().for_each(|time| self.end_to_end.record((now - time).max(0) as f64 / 1000.0));
    }
}

/// A send to an Alertmanager.
pub fn alertmanager_sent(url: &str, ok: bool) {
    let result = if ok { "ok" } else { "failed" };
    alertmanager_sends(url, result).increment(1);
}

/// Sends to an Alertmanager, by result.
fn alertmanager_sends(url: &str, result: &'static str) -> Counter {
    counter!("bounceflow_watch_sends_total", "url" => url.to_owned(), "result" => result)
}

/// What the watch loop counts.
pub struct Watch {
    /// Batches folded.
    pub batches: Counter,
    /// Batches that could not be read.
    pub malformed: Counter,
}

impl Watch {
    /// With these Alertmanagers.
    pub fn new(alertmanagers: &[String]) -> Self {
        for state in State::ALL {
            drop(Self::transitions(state));
        }
        for url in alertmanagers {
            for result in ["ok", "failed"] {
                drop(alertmanager_sends(url, result));
            }
        }
        for reason in REFUSALS {
            drop(Self::refused(reason.to_owned()));
        }
        drop(gauge!("bounceflow_watch_evaluated_timestamp_seconds"));
        let new =
            Self { batches: counter!("bounceflow_watch_batches_total"), malformed: counter!("bounceflow_watch_malformed_total") };
        new.report(&api::Status::default(), [0, 0]);
        new
    }

    /// Transitions were written.
    pub fn changed(&self, changes: &[bounceflow_window::Transition]) {
        changes.iter().for_each(|change| Self::transitions(change.state).increment(1));
    }

    fn transitions(state: State) -> Counter {
        counter!("bounceflow_watch_transitions_total", "state" => state.as_str())
    }

    /// How the watch stands, and how many alerts are pending and firing.
    pub fn report(&self, status: &api::Status, [pending, firing]: [usize; 2]) {
        if let Some(step) = status.evaluated_to {
            gauge!("bounceflow_watch_evaluated_timestamp_seconds").set(step as f64 / 1000.0);
        }
        gauge!("bounceflow_watch_keys").set(status.keys as f64);
        gauge!("bounceflow_watch_unjudged_rules").set(status.unjudged_rules.len() as f64);
        for state in ["current", "idle", "behind", "left_out"] {
            let count = status.sources.iter().filter(|s| s.state == state).count();
            gauge!("bounceflow_watch_sources", "state" => state).set(count as f64);
        }
        for (state, count) in [(State::Pending, pending), (State::Firing, firing)] {
            gauge!("bounceflow_watch_alerts", "state" => state.as_str()).set(count as f64);
        }
        for (reason, count) in &status.refused {
            Self::refused(reason.clone()).absolute(*count);
        }
    }

    fn refused(reason: String) -> Counter {
        counter!("bounceflow_watch_refused_total", "reason" => reason)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
pub(crate) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bounceflow_event::{DeliveryEvent, Item, Millis};

    use super::*;
    use crate::config::Config;
    use crate::counts::Limits;
    use crate::lag::Lag;
    use crate::process::{Outcome, Position, Scratch, Tables, process};

    /// What is on `/metrics` after this, with a recorder of its own.
    pub(crate) fn recorded(act: impl FnOnce()) -> String {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, act);
        recorder.handle().render()
    }

    /// The value of one series, written as on `/metrics`.
    pub(crate) fn value(text: &str, series: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Kind and labels of each metric on a page.
    fn listed(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let mut all = BTreeMap::new();
        for line in text.lines() {
            if let Some(r#type) = line.strip_prefix("# TYPE ") {
                let (name, kind) = r#type.split_once(' ').unwrap();
                all.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            } else if let Some((series, _)) = line.rsplit_once(' ')
                && !line.starts_with('#')
            {
                let (series, labels) = series.split_once('{').unwrap_or((series, ""));
                let of = |name: &str| ["", "_bucket", "_sum", "_count"].iter().any(|end| series.strip_suffix(end) == Some(name));
                let (_, (_, names)) = all.iter_mut().find(|(name, _)| of(name)).unwrap();
                let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| Some(label.split_once('=')?.0));
                names.extend(labels.filter(|name| *name != "le").map(str::to_owned));
            }
        }
        all
    }

    #[test]
    fn all_roles_have_the_metrics_of_the_catalogue_from_the_start_and_no_others() {
        let text = recorded(|| {
            begin();
            let lags = [Lag::new("classify", "t"), Lag::new("sink", "u"), Lag::new("watch", "u")];
            Classify::new("t").rules(&Rules::builtin().unwrap());
            let _sinks = Table::ALL.map(Sink::new);
            Watch::new(&["http://a:9093".to_owned()]);
            lag::tell(0);
            drop(lags);
        });
        let described = |d: &catalogue::Described| {
            let labels = d.labels.iter().map(|label| (*label).to_owned()).collect();
            (d.name.to_owned(), (d.kind.as_str().to_owned(), labels))
        };
        assert_eq!(listed(&text), catalogue::all().map(described).collect(), "{text}");
        for d in catalogue::all() {
            assert!(text.contains(&format!("# HELP {} {}\n", d.name, d.what.replace('\n', " "))), "{}: {text}", d.name);
        }
        for series in [
            "bounceflow_classify_failures_total{topic=\"t\",category=\"mailbox_full\",severity=\"soft\"}",
            "bounceflow_classify_dead_lettered_total{topic=\"t\",reason=\"internal_error\"}",
            "bounceflow_sink_batches_total{table=\"failures\",verdict=\"halt\"}",
            "bounceflow_watch_sends_total{url=\"http://a:9093\",result=\"failed\"}",
            "bounceflow_end_to_end_seconds_bucket{table=\"alerts\",le=\"86400\"}",
            "bounceflow_classify_commit_seconds_bucket{topic=\"t\",le=\"+Inf\"}",
        ] {
            assert_eq!(value(&text, series), Some(0.0), "{series}: {text}");
        }
    }

    #[test]
    fn what_a_transaction_adds_is_told_once_it_is_committed() {
        let tables = Tables::new(&Config::parse("[kafka]\n\"bootstrap.servers\" = \"x\"\n").unwrap()).unwrap();
        let mut scratch = Scratch::new(&tables);
        let mut counts = Counts::new(Limits { campaigns: 10, patterns: 10 });
        let mut failures = 0;
        let mut take = |event, diagnostic: &str| {
            let now = 1_790_000_000_000;
            let position = Position { topic: "t", partition: 0, offset: 0, timestamp: Some(now) };
            let mut event = DeliveryEvent::new(event, Millis(now), "kim@example.org");
            event.diagnostic = diagnostic.into();
            match process(&tables, &mut scratch, position, 0, &Item::Event(event)) {
                Outcome::Count(sample) => counts.add(&sample, None),
                Outcome::Fail(sample, failure) => {
                    failures += 1;
                    counts.add(&sample, Some(&failure));
                }
                Outcome::Ignore(_) | Outcome::Reject(_) => {}
            }
        };
        take(EventType::Delivery, "");
        take(EventType::Delivery, "");
        take(EventType::Drop, "");
        take(EventType::Bounce, "550 5.1.1 user unknown");
        take(EventType::Bounce, "550 5.1.1 user unknown");
        take(EventType::Deferral, "452 4.2.2 mailbox full");
        take(EventType::OobBounce, "550 zxcvb qwert");
        take(EventType::Complaint, "");
        counts.ignore(IgnoreReason::Tombstone);
        let (records, items, commit) = (9, 9, Duration::from_millis(3));
        let told = |commits: bool| {
            recorded(|| {
                let classify = Classify::new("t");
                let additions = classify.additions(&counts);
                if commits {
                    let lookups = Lookups { hits: 1, misses: 3 };
                    classify.committed(Transaction { records, items, failures, additions, commit }, lookups);
                }
            })
        };
        let sum = |text: &str, name: &str| -> f64 {
            let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
            text.lines().filter(of).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        let (open, text) = (told(false), told(true));
        for name in ["events", "failures", "unmatched", "ignored"].map(|n| format!("bounceflow_classify_{n}_total")) {
            assert_eq!(sum(&open, &name), 0.0, "{name} before the commit");
        }
        let check = |name: &str, labels: &str, expect: f64| {
            let series = format!("bounceflow_classify_{name}_total{{topic=\"t\"{labels}}}");
            assert_eq!(value(&text, &series), Some(expect), "{series}: {text}");
        };
        check("events", ",event_type=\"delivery\"", 2.0);
        check("events", ",event_type=\"bounce\"", 2.0);
        check("events", ",event_type=\"oob_bounce\"", 1.0);
        check("failures", ",category=\"invalid_recipient\",severity=\"hard\"", 2.0);
        check("failures", ",category=\"mailbox_full\",severity=\"deferred\"", 1.0);
        check("failures", ",category=\"complaint\",severity=\"none\"", 1.0);
        check("unmatched", "", 1.0);
        check("ignored", ",reason=\"tombstone\"", 1.0);
        check("cache_lookups", ",result=\"miss\"", 3.0);
        // Every item is somewhere.
        let all = |name: &str| sum(&text, &format!("bounceflow_classify_{name}_total"));
        assert_eq!(all("events") + all("ignored"), items as f64);
        assert_eq!(all("failures"), failures as f64);
        assert_eq!(value(&text, "bounceflow_classify_commit_seconds_bucket{topic=\"t\",le=\"0.005\"}"), Some(1.0));
    }

    #[test]
    fn rows_are_observed_from_their_events_on() {
        let text = recorded(|| Sink::new(Table::Failures).arrived(&[1_000, 8_200, 9_000, 99_000], 10_000));
        let series = |rest: &str| format!("bounceflow_end_to_end_seconds_{rest}");
        assert_eq!(value(&text, &series("bucket{table=\"failures\",le=\"1\"}")), Some(2.0), "1 s, and one that is ahead of us");
        assert_eq!(value(&text, &series("bucket{table=\"failures\",le=\"2\"}")), Some(3.0));
        assert_eq!(value(&text, &series("sum{table=\"failures\"}")), Some(11.8));
        assert_eq!(value(&text, &series("count{table=\"failures\"}")), Some(4.0));
    }
}
