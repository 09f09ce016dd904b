//! Every metric: name, kind, labels, what it says and when to look at it. What is not here does not exist, and what is here is on
//! every `/metrics` of its role (`docs/metrics.md`; tests compare).

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// What a metric is for Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// As of now.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Name.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts or measures.
    pub what: &'static str,
    /// What an operator looks for.
    pub look: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    what: &'static str,
    look: &'static str,
) -> Described {
    Described { name, kind, labels, what, look }
}

/// Every metric, in the order of the documentation: of every process, then role by role.
#[rustfmt::skip]
pub const CATALOGUE: &[(&str, &[Described])] = &[
    ("Every process", &[
        metric("bounceflow_build_info", Kind::Gauge, &["version"], "1; the version of the program", "more than one version for longer than a roll-out takes"),
        metric("bounceflow_lag_records", Kind::Gauge, &["role", "topic"], "Records between what was read and the end of the log, over the partitions of this process", "grows: the role reads slower than the topic is written"),
        metric("bounceflow_lag_seconds", Kind::Gauge, &["role", "topic"], "Age of the oldest record that was read and is not settled (committed, in ClickHouse, folded), by its Kafka timestamp, or of the last one where more is to be read; 0 where all is settled", "stays above a minute: the role is behind or does not get on"),
        metric("bounceflow_rules_reloads_total", Kind::Counter, &["result"], "Reloads of the classification rules, by result (ok, refused)", "refused: the rules of before stay in force; the log says why"),
        metric("bounceflow_telemetry_spans_total", Kind::Counter, &["result"], "Spans of traces, by result: sent, failed (the collector did not take them), dropped (the queue was full); the last two are lost. 0 without `[telemetry]`", "failed or dropped grow: the collector is gone or slow"),
    ]),
    ("classify", &[
        metric("bounceflow_classify_records_total", Kind::Counter, &["topic"], "Input records read and committed", "its rate is the throughput; 0 while lag grows: it is stuck"),
        metric("bounceflow_classify_items_total", Kind::Counter, &["topic", "outcome"], "Items committed: `counted`, every one of them; `failure`, those of them that left a failure", "the share of failures"),
        metric("bounceflow_classify_events_total", Kind::Counter, &["topic", "event_type"], "Items committed that are delivery events, by type (delivery, deferral, bounce, oob_bounce, complaint, drop)", "deliveries stop, deferrals or bounces rise against deliveries"),
        metric("bounceflow_classify_ignored_total", Kind::Counter, &["topic", "reason"], "Items committed that say nothing about a delivery, by reason", "rises suddenly: a source changed what it writes"),
        metric("bounceflow_classify_dead_lettered_total", Kind::Counter, &["topic", "reason"], "Items committed that went to the dead letter, by reason", "any: `bounceflow dead-letter show`; internal_error is a bug"),
        metric("bounceflow_classify_failures_total", Kind::Counter, &["topic", "category", "severity"], "Failures by the category and severity the rules gave them (hard, soft, deferred; complaints: none)", "which category rises"),
        metric("bounceflow_classify_unmatched_total", Kind::Counter, &["topic"], "Failures whose words no rule knew: category unknown, or decided by a last resort on codes alone", "its share of failures rises: `bounceflow rules unmatched`"),
        metric("bounceflow_classify_cache_lookups_total", Kind::Counter, &["topic", "result"], "Replies looked up in the cache of verdicts, by result (hit, miss), transactions that were aborted too", "few hits: replies carry parts the masking does not know"),
        metric("bounceflow_classify_transactions_total", Kind::Counter, &["topic", "result"], "Transactions, by result (committed, aborted)", "aborted grows steadily: rebalances, or Kafka refuses"),
        metric("bounceflow_classify_commit_seconds", Kind::Histogram, &["topic"], "Time from the end of reading to the end of the commit: writing counts, waiting for the broker", "above transaction_interval_ms: Kafka is slow"),
        metric("bounceflow_classify_halted_partitions", Kind::Gauge, &["topic"], "Input partitions that wait for an operator", "any: /readyz and the log say why"),
    ]),
    ("sink", &[
        metric("bounceflow_sink_rows_total", Kind::Counter, &["table"], "Records settled in ClickHouse: inserted, and their offsets moved past", "0 while lag grows: inserts fail"),
        metric("bounceflow_sink_batches_total", Kind::Counter, &["table", "verdict"], "Answers of ClickHouse to inserts, by what they mean (written, retry, halt, poison, split)", "anything but written"),
        metric("bounceflow_sink_retries_total", Kind::Counter, &["table"], "Batches that were not taken and are sent again: what is refused for now, and where nobody answers, so no batch either", "grows: ClickHouse is overloaded or gone"),
        metric("bounceflow_sink_insert_seconds", Kind::Histogram, &["table"], "Time of one insert", "near clickhouse.insert_timeout_ms"),
        metric("bounceflow_sink_dead_lettered_total", Kind::Counter, &["table", "reason"], "Records that ClickHouse or the decoder refused, by reason", "any: `bounceflow dead-letter show`"),
        metric("bounceflow_sink_halted_partitions", Kind::Gauge, &["table"], "Partitions that wait for an operator", "any: /readyz and the log say why"),
        metric("bounceflow_end_to_end_seconds", Kind::Histogram, &["table"], "From the event to its row: until ClickHouse has said OK and the offset is moved. failures: each row by its event time; batches: the newest event of each input partition they count; alerts: each transition", "its 99th percentile; what a source delivers late counts in"),
    ]),
    ("watch", &[
        metric("bounceflow_watch_batches_total", Kind::Counter, &[], "Rate batches folded", "0: no counts arrive"),
        metric("bounceflow_watch_malformed_total", Kind::Counter, &[], "Rate batches that could not be read", "any: their counts are missing in windows"),
        metric("bounceflow_watch_refused_total", Kind::Counter, &["reason"], "Rows and patterns not taken into windows, by reason", "grows: watch.max_keys or watch.max_patterns is too small"),
        metric("bounceflow_watch_evaluated_timestamp_seconds", Kind::Gauge, &[], "Event time of the last evaluation, in seconds since 1970", "`time()` minus it above two minutes: alerts come late"),
        metric("bounceflow_watch_keys", Kind::Gauge, &[], "Keys of windows in memory", "near watch.max_keys"),
        metric("bounceflow_watch_sources", Kind::Gauge, &["state"], "Input partitions, by how event time takes them (current, idle, behind, left_out)", "behind or left_out: windows wait for them, or go on without"),
        metric("bounceflow_watch_unjudged_rules", Kind::Gauge, &[], "Rules whose window the rates topic does not cover yet", "stays above 0 for longer than the longest window"),
        metric("bounceflow_watch_alerts", Kind::Gauge, &["state"], "Alerts as of now, by state (pending, firing)", "compare with what Alertmanager holds"),
        metric("bounceflow_watch_transitions_total", Kind::Counter, &["state"], "Transitions of alerts written, by the new state (pending, firing, resolved)", "firing often: thresholds too near to what is normal"),
        metric("bounceflow_watch_sends_total", Kind::Counter, &["url", "result"], "Sends to an Alertmanager, by result (ok, failed)", "failed: nobody is paged"),
    ]),
];

/// Every metric.
pub fn all() -> impl Iterator<Item = &'static Described> {
    CATALOGUE.iter().flat_map(|(_, metrics)| *metrics)
}

/// Tells the recorder in force what each is.
pub(super) fn describe() {
    for Described { name, kind, what, .. } in all() {
        let unit = if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        match kind {
            Kind::Counter => describe_counter!(*name, unit, *what),
            Kind::Gauge => describe_gauge!(*name, unit, *what),
            Kind::Histogram => describe_histogram!(*name, unit, *what),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    /// `docs/metrics.md` up to the first role.
    const HEAD: &str = include_str!("head.md");

    #[test]
    fn the_page_lists_every_metric() {
        let mut new = HEAD.to_owned();
        for (who, metrics) in CATALOGUE {
            write!(new, "\n## {who}\n\n| metric | type | labels | what it says | look for |\n|---|---|---|---|---|\n").unwrap();
            for Described { name, kind, labels, what, look } in *metrics {
                let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
                writeln!(new, "| `{name}` | {} | {} | {what} | {look} |", kind.as_str(), labels.join(", ")).unwrap();
            }
        }
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let old = std::fs::read_to_string(&page).unwrap_or_default();
        if old != new && std::env::var_os("UPDATE").is_some() {
            return std::fs::write(page, new).unwrap();
        }
        let line = old.lines().zip(new.lines()).take_while(|(old, new)| old == new).count();
        assert!(old == new, "docs/metrics.md differs from line {} on; UPDATE=1 writes it anew. New:\n{new}", line + 1);
    }

    #[test]
    fn names_follow_prometheus() {
        for Described { name, kind, .. } in all() {
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(*kind != Kind::Histogram || name.ends_with("_seconds"), "{name}: a histogram without its buckets");
        }
    }
}
