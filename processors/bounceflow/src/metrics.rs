//! Every metric: name, labels and description in one place. Counters end in `_total`; units are base units.

use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use bounceflow_window::Transition;

use crate::api;

/// Installs the recorder and describes every metric.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
    let handle =
        PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &seconds)?.install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    describe_counter!("bounceflow_classify_records_total", "Input records read and committed. Labels: topic");
    describe_counter!("bounceflow_classify_items_total", "Items committed, by what they were. Labels: topic, outcome");
    describe_counter!("bounceflow_classify_dead_lettered_total", "Items sent to the dead letter. Labels: topic, reason");
    describe_counter!("bounceflow_classify_ignored_total", "Items that say nothing about a delivery. Labels: topic, reason");
    describe_counter!("bounceflow_classify_transactions_total", "Transactions. Labels: topic, result (committed, aborted)");
    describe_histogram!("bounceflow_classify_commit_seconds", Unit::Seconds, "Time to commit a transaction. Labels: topic");
    describe_gauge!("bounceflow_classify_halted_partitions", "Input partitions that wait for an operator. Labels: topic");
    describe_counter!("bounceflow_rules_reloads_total", "Reloads of the classification rules. Labels: result (ok, refused)");
    describe_counter!("bounceflow_sink_rows_total", "Records settled in ClickHouse. Labels: table");
    describe_counter!("bounceflow_sink_batches_total", "Answers of ClickHouse to inserts. Labels: table, verdict");
    describe_counter!("bounceflow_sink_dead_lettered_total", "Records ClickHouse or the decoder refused. Labels: table, reason");
    describe_histogram!("bounceflow_sink_insert_seconds", Unit::Seconds, "Time of one insert. Labels: table");
    describe_gauge!("bounceflow_sink_halted_partitions", "Partitions that wait for an operator. Labels: table");
    describe_counter!("bounceflow_watch_batches_total", "Rate batches folded");
    describe_counter!("bounceflow_watch_malformed_total", "Rate batches that could not be read");
    describe_counter!("bounceflow_watch_transitions_total", "Transitions of alerts written. Labels: state");
    describe_counter!("bounceflow_watch_refused_total", "Rows and patterns not taken into windows. Labels: reason");
    describe_gauge!("bounceflow_watch_evaluated_timestamp_seconds", Unit::Seconds, "Event time of the last evaluation");
    describe_gauge!("bounceflow_watch_keys", "Keys in memory");
    describe_gauge!("bounceflow_watch_sources", "Input partitions. Labels: state (current, idle, behind, left_out)");
    describe_gauge!("bounceflow_watch_unjudged_rules", "Rules whose window the rates topic does not cover yet");
    describe_counter!("bounceflow_watch_sends_total", "Sends to Alertmanager. Labels: url, result (ok, failed)");
    describe_gauge!(
        "bounceflow_lag_records",
        "Records between what was read and the end of the log, over the partitions of this process. Labels: role, topic"
    );
}

/// How far a role is behind in a topic, over the partitions of this process. Records.
pub fn lag(role: &'static str, topic: &str, records: i64) {
    gauge!("bounceflow_lag_records", "role" => role, "topic" => topic.to_owned()).set(records as f64);
}

/// The classification rules were read anew, or refused.
pub fn rules_reloaded(ok: bool) {
    counter!("bounceflow_rules_reloads_total", "result" => if ok { "ok" } else { "refused" }).increment(1);
}

/// What the classify loop counts, once it is committed.
pub struct Classify {
    topic: String,
    /// Records committed.
    pub records: Counter,
    /// Items counted.
    pub counted: Counter,
    /// Failures written.
    pub failures: Counter,
    /// Transactions committed.
    pub committed: Counter,
    /// Transactions aborted.
    pub aborted: Counter,
    /// Time to commit.
    pub commit_seconds: Histogram,
    /// Partitions that wait for an operator.
    pub halted: Gauge,
}

impl Classify {
    /// For one input topic.
    pub fn new(topic: &str) -> Self {
        let t = topic.to_owned();
        Self {
            records: counter!("bounceflow_classify_records_total", "topic" => t.clone()),
            counted: counter!("bounceflow_classify_items_total", "topic" => t.clone(), "outcome" => "counted"),
            failures: counter!("bounceflow_classify_items_total", "topic" => t.clone(), "outcome" => "failure"),
            committed: counter!("bounceflow_classify_transactions_total", "topic" => t.clone(), "result" => "committed"),
            aborted: counter!("bounceflow_classify_transactions_total", "topic" => t.clone(), "result" => "aborted"),
            commit_seconds: histogram!("bounceflow_classify_commit_seconds", "topic" => t.clone()),
            halted: gauge!("bounceflow_classify_halted_partitions", "topic" => t.clone()),
            topic: t,
        }
    }

    /// An item went to the dead letter.
    pub fn dead_lettered(&self, reason: &'static str) {
        counter!("bounceflow_classify_dead_lettered_total", "topic" => self.topic.clone(), "reason" => reason).increment(1);
    }

    /// An item was ignored.
    pub fn ignored(&self, reason: &'static str) {
        counter!("bounceflow_classify_ignored_total", "topic" => self.topic.clone(), "reason" => reason).increment(1);
    }
}

/// What the sink loop counts, by table.
pub struct Sink {
    table: &'static str,
    /// Records settled.
    pub rows: Counter,
    /// Time of one insert.
    pub insert_seconds: Histogram,
    /// Partitions that wait for an operator.
    pub halted: Gauge,
}

impl Sink {
    /// For one table.
    pub fn new(table: &'static str) -> Self {
        Self {
            table,
            rows: counter!("bounceflow_sink_rows_total", "table" => table),
            insert_seconds: histogram!("bounceflow_sink_insert_seconds", "table" => table),
            halted: gauge!("bounceflow_sink_halted_partitions", "table" => table),
        }
    }

    /// ClickHouse answered an insert.
    pub fn answered(&self, verdict: &'static str) {
        counter!("bounceflow_sink_batches_total", "table" => self.table, "verdict" => verdict).increment(1);
    }

    /// A record went to the dead letter.
    pub fn dead_lettered(&self, reason: &'static str) {
        counter!("bounceflow_sink_dead_lettered_total", "table" => self.table, "reason" => reason).increment(1);
    }
}

/// A send to an Alertmanager.
pub fn alertmanager_sent(url: &str, ok: bool) {
    let result = if ok { "ok" } else { "failed" };
    counter!("bounceflow_watch_sends_total", "url" => url.to_owned(), "result" => result).increment(1);
}

/// What the watch loop counts.
pub struct Watch {
    /// Batches folded.
    pub batches: Counter,
    /// Batches that could not be read.
    pub malformed: Counter,
}

impl Default for Watch {
    fn default() -> Self {
        Self { batches: counter!("bounceflow_watch_batches_total"), malformed: counter!("bounceflow_watch_malformed_total") }
    }
}

impl Watch {
    /// Transitions were written.
    pub fn changed(&self, changes: &[Transition]) {
        for change in changes {
            counter!("bounceflow_watch_transitions_total", "state" => change.state.as_str()).increment(1);
        }
    }

    /// How the watch stands.
    pub fn report(&self, status: &api::Status) {
        if let Some(step) = status.evaluated_to {
            gauge!("bounceflow_watch_evaluated_timestamp_seconds").set(step as f64 / 1000.0);
        }
        gauge!("bounceflow_watch_keys").set(status.keys as f64);
        gauge!("bounceflow_watch_unjudged_rules").set(status.unjudged_rules.len() as f64);
        for state in ["current", "idle", "behind", "left_out"] {
            let count = status.sources.iter().filter(|s| s.state == state).count();
            gauge!("bounceflow_watch_sources", "state" => state).set(count as f64);
        }
        for (reason, count) in &status.refused {
            counter!("bounceflow_watch_refused_total", "reason" => reason.clone()).absolute(*count);
        }
    }
}
