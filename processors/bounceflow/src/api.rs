//! What `/api/v1` says, as JSON. Written by the HTTP side, read by `bounceflow top`: fields are only ever added.

use serde::{Deserialize, Serialize};

/// `/api/v1/rates`: one window over the keys of one scope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Event time the figures stand at, milliseconds; none before the first evaluation.
    pub evaluated_to: Option<i64>,
    /// Length of the window, seconds.
    pub window_seconds: u32,
    /// `overall`, `isp`, `identity` or `isp_identity`.
    pub scope: String,
    /// Keys that fit the filter, before `limit`.
    pub total: usize,
    /// The rows asked for.
    pub rows: Vec<Row>,
}

/// One key's figures. A rate whose denominator is 0 is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Who answered; empty: over all.
    pub isp: String,
    /// Who sent; empty: over all.
    pub identity: String,
    /// Counts over the window.
    pub deliveries: u64,
    /// Counts over the window.
    pub hard: u64,
    /// Counts over the window.
    pub soft: u64,
    /// Counts over the window.
    pub deferred: u64,
    /// Counts over the window.
    pub blocked: u64,
    /// Counts over the window.
    pub complaints: u64,
    /// Counts over the window.
    pub late_bounces: u64,
    /// Counts over the window.
    pub first_attempts: u64,
    /// deliveries + hard + soft.
    pub outcomes: u64,
    /// outcomes + deferred.
    pub attempts: u64,
    /// Of outcomes.
    pub bounce_rate: Option<f64>,
    /// Of outcomes.
    pub hard_rate: Option<f64>,
    /// Of outcomes.
    pub soft_rate: Option<f64>,
    /// Of outcomes.
    pub blocked_rate: Option<f64>,
    /// Of attempts.
    pub deferred_rate: Option<f64>,
    /// Of deliveries.
    pub complaint_rate: Option<f64>,
    /// Of deliveries.
    pub late_bounce_rate: Option<f64>,
    /// (hard + soft + deferred) / attempts in each of at most 20 equal parts of the window, oldest first; null where nothing was sent.
    pub spark: Vec<Option<f64>>,
}

/// `/api/v1/alerts`: pending and firing ones, and those resolved lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alerts {
    /// Event time the figures stand at, milliseconds.
    pub evaluated_to: Option<i64>,
    /// Firing first, then pending, then resolved; newest first within each.
    pub alerts: Vec<Alert>,
}

/// One alert as it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// (rule, key, start of the episode).
    pub id: String,
    /// Name of the rule.
    pub rule: String,
    /// `pending`, `firing` or `resolved`.
    pub state: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// Empty: over all.
    pub isp: String,
    /// Empty: over all.
    pub identity: String,
    /// Event time the threshold was crossed, milliseconds.
    pub since: i64,
    /// Event time it began to fire, milliseconds.
    pub fired_at: Option<i64>,
    /// Event time it was resolved, milliseconds.
    pub resolved_at: Option<i64>,
    /// `hard_rate` and so on.
    pub metric: String,
    /// Length of the window, seconds.
    pub window_seconds: i64,
    /// The rule's threshold, a fraction.
    pub threshold: f64,
    /// At the last evaluation (resolved: at the end).
    pub numerator: i64,
    /// At the last evaluation (resolved: at the end).
    pub denominator: i64,
    /// Largest first.
    pub categories: Vec<(String, i64)>,
    /// Fingerprint of the most frequent pattern; 0: none.
    pub pattern: i64,
    /// One redacted reply of that pattern.
    pub sample: String,
    /// Who must act.
    pub root_cause: String,
    /// What they do.
    pub action: String,
    /// The rule's annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// `/api/v1/status`: how far the watch is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Reads the end of the log and judges every rule.
    pub ready: bool,
    /// Why not, one line each.
    pub problems: Vec<String>,
    /// Event time up to which counts are complete, milliseconds.
    pub watermark: Option<i64>,
    /// Event time of the last evaluation, milliseconds.
    pub evaluated_to: Option<i64>,
    /// Log time of the last batch read, milliseconds.
    pub log_time: Option<i64>,
    /// Batch records not read yet.
    pub lag_records: i64,
    /// Keys in memory.
    pub keys: usize,
    /// Lengths of the windows that can be asked for, seconds, ascending.
    pub windows: Vec<u32>,
    /// Rules whose window the log does not cover yet.
    pub unjudged_rules: Vec<String>,
    /// Partitions of the input topics.
    pub sources: Vec<Source>,
    /// What was not taken into the windows, by reason.
    pub refused: std::collections::BTreeMap<String, u64>,
    /// How sending goes, for each Alertmanager that is configured.
    pub alertmanagers: Vec<Alertmanager>,
}

/// One input partition as the batches tell of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Input topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Largest event time, milliseconds.
    pub max_event_time: Option<i64>,
    /// Log time of its last listing, milliseconds.
    pub listed: i64,
    /// `current`, `idle`, `behind` (it holds the watermark) or `left_out`.
    pub state: String,
    /// Log time since when it is behind, milliseconds.
    pub since: Option<i64>,
}

/// How sending to one Alertmanager goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alertmanager {
    /// Its address.
    pub url: String,
    /// Wall clock of the last send it took, milliseconds.
    pub last_ok: Option<i64>,
    /// What the last try said, where it failed.
    pub error: Option<String>,
}
