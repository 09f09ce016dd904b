//! The failures no rule knew the words of, by pattern. Owns the question; what counts as unmatched is told by the caller.

use clickhouse::Row;
use serde::Deserialize;

use crate::client::{SPILL_BYTES, Warehouse};
use crate::error::WarehouseError;

/// Which failures are looked at.
#[derive(Clone, Copy, Debug)]
pub struct UnmatchedQuery<'a> {
    /// Event time from which on, milliseconds since the epoch.
    pub since: i64,
    /// Failures of these rules, by the beginning of their id, besides those of the category `unknown`.
    pub rules: &'a str,
    /// Patterns, the most frequent first.
    pub limit: u64,
}

/// A pattern, with its latest reply as the sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Row, Deserialize)]
pub struct Unmatched {
    /// Fingerprint.
    pub pattern: u64,
    /// How many failures.
    pub failures: u64,
    /// When the latest happened, milliseconds since the epoch.
    pub last: i64,
    /// Most frequent providers, at most four.
    pub isps: Vec<String>,
    /// The reply, redacted.
    pub diagnostic: String,
    /// Its code; 0: not known.
    pub reply_code: u16,
    /// Its enhanced code.
    pub enhanced_code: String,
    /// The command it answered.
    pub command: String,
    /// deferral, bounce or oob_bounce.
    pub event_type: String,
    /// The provider.
    pub isp: String,
    /// The host that answered.
    pub mx_host: String,
    /// The recipient's domain.
    pub recipient_domain: String,
    /// The rule that decided.
    pub rule: String,
    /// What it decided.
    pub category: String,
}

impl Warehouse {
    /// The patterns of failures that no rule knew the words of.
    pub async fn unmatched(&self, query: UnmatchedQuery<'_>) -> Result<Vec<Unmatched>, WarehouseError> {
        let sql = "SELECT pattern, count() AS n,
                toUnixTimestamp64Milli(max(event_time)) AS last,
                arrayMap(isp -> toString(isp), topK(4)(isp)) AS isps,
                argMax((diagnostic, reply_code, toString(enhanced_code), toString(command), toString(event_type), toString(isp),
                    mx_host, recipient_domain, toString(rule), toString(category)),
                    (event_time, kafka_partition, kafka_offset)) AS sample
            FROM failures
            WHERE event_time >= fromUnixTimestamp64Milli(?) AND event_type != 'complaint'
                AND (category = 'unknown' OR rule = 'none' OR startsWith(rule, ?))
            GROUP BY pattern, pattern_version ORDER BY n DESC, pattern, pattern_version LIMIT ?";
        let sql = format!(
            "SELECT pattern, n AS failures, last, isps, sample.1 AS diagnostic, sample.2 AS reply_code, sample.3 AS enhanced_code,
                sample.4 AS command, sample.5 AS event_type, sample.6 AS isp, sample.7 AS mx_host, sample.8 AS recipient_domain,
                sample.9 AS rule, sample.10 AS category
            FROM ({sql}) ORDER BY n DESC, pattern"
        );
        let asked = self.client().query(&sql).bind(query.since).bind(query.rules).bind(query.limit);
        let asked = asked.with_setting("max_bytes_before_external_group_by", SPILL_BYTES);
        self.timed("list unmatched failures", asked.fetch_all()).await
    }
}
