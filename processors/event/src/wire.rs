//! What bounceflow itself writes to Kafka: `Failure`, `RateBatch` and `Alert`, field for field as in `schemas/avro`.
//!
//! These structs are a promise: fields are only ever added, each with a default on both sides. A field that comes after version 1
//! needs `#[serde(default)]` here and `"default"` in its schema, else a reader already upgraded refuses what a writer not yet
//! upgraded sends. `schemas/avro/history` holds every schema that was released; `tests/evolution.rs` reads them all.
//! Text is borrowed from the record when read, and from the loop's tables when written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::text::Tags;

/// One classified failure. See `schemas/avro/Failure.avsc` for the meaning of each field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented field by field in the schema")]
pub struct Failure<'a> {
    pub event_time: i64,
    pub sent_time: i64,
    pub ingested_time: i64,
    pub event_type: &'a str,
    pub severity: &'a str,
    pub category: &'a str,
    pub blocked: bool,
    pub root_cause: &'a str,
    pub action: &'a str,
    pub rule: &'a str,
    pub rules_version: &'a str,
    pub pattern: i64,
    pub pattern_version: i32,
    pub isp: &'a str,
    pub identity: &'a str,
    pub recipient_domain: &'a str,
    pub recipient_hash: RecipientHash,
    pub recipient_key_id: &'a str,
    pub recipient: &'a str,
    pub mx_host: &'a str,
    pub from_domain: &'a str,
    pub sending_ip: &'a str,
    pub pool: &'a str,
    pub campaign: &'a str,
    pub message_id: &'a str,
    pub event_id: &'a str,
    pub reply_code: i32,
    pub enhanced_code: &'a str,
    pub diagnostic: &'a str,
    pub command: &'a str,
    pub feedback_type: &'a str,
    pub attempt: i32,
    #[serde(borrow)]
    pub tags: Tags<'a>,
    pub source_topic: &'a str,
    pub source_partition: i32,
    pub source_offset: i64,
    pub source_item: i32,
}

/// First 16 bytes of HMAC-SHA-256 over the lower-cased recipient address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RecipientHash(pub [u8; 16]);

impl Serialize for RecipientHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RecipientHash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = RecipientHash;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("16 bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<RecipientHash, E> {
                v.try_into().map(RecipientHash).map_err(|_| E::invalid_length(v.len(), &self))
            }
        }
        d.deserialize_bytes(V)
    }
}

/// The counts of one classify transaction, or a part of them. See `schemas/avro/RateBatch.avsc`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented field by field in the schema")]
pub struct RateBatch<'a> {
    pub producer: &'a str,
    pub part: i32,
    pub parts: i32,
    pub rules_version: &'a str,
    pub pattern_version: i32,
    #[serde(borrow)]
    pub rows: Vec<RateRow<'a>>,
    pub ignored: Vec<IgnoredCount<'a>>,
    pub patterns: Vec<PatternCount<'a>>,
    pub sources: Vec<Source<'a>>,
}

/// Counts of one 10 s bucket × ISP × identity × sending IP × campaign.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented field by field in the schema")]
pub struct RateRow<'a> {
    pub bucket: i64,
    pub isp: &'a str,
    pub identity: &'a str,
    pub sending_ip: &'a str,
    pub campaign: &'a str,
    pub deliveries: i64,
    pub first_attempts: i64,
    pub hard: i64,
    pub soft: i64,
    pub deferred: i64,
    pub blocked: i64,
    pub blocked_deferrals: i64,
    pub complaints: i64,
    pub late_bounces: i64,
    pub drops: i64,
    #[serde(borrow)]
    pub categories: Vec<CategoryCount<'a>>,
}

impl RateRow<'_> {
    /// How many items the row counts: each is in exactly one of these.
    pub fn items(&self) -> i64 {
        self.deliveries + self.hard + self.soft + self.deferred + self.complaints + self.late_bounces + self.drops
    }
}

/// Failures of one category within a [`RateRow`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented field by field in the schema")]
pub struct CategoryCount<'a> {
    pub category: &'a str,
    pub bounces: i64,
    pub deferrals: i64,
    pub late_bounces: i64,
}

/// Items that say nothing about a delivery, by reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented field by field in the schema")]
pub struct IgnoredCount<'a> {
    pub reason: &'a str,
    pub count: i64,
}

/// One of the most frequent patterns of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented field by field in the schema")]
pub struct PatternCount<'a> {
    pub pattern: i64,
    pub isp: &'a str,
    pub identity: &'a str,
    pub category: &'a str,
    pub rule: &'a str,
    pub count: i64,
    pub sample: &'a str,
}

/// What a transaction covers of one input partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented field by field in the schema")]
pub struct Source<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub first_offset: i64,
    pub last_offset: i64,
    pub records: i64,
    pub items: i64,
    pub dead_lettered: i64,
    pub max_event_time: Option<i64>,
    pub end_reached: bool,
}

/// One transition in the life of an alert. See `schemas/avro/Alert.avsc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented field by field in the schema")]
pub struct Alert<'a> {
    pub alert_id: &'a str,
    pub rule: &'a str,
    pub state: &'a str,
    pub severity: &'a str,
    pub isp: &'a str,
    pub identity: &'a str,
    pub episode_start: i64,
    pub event_time: i64,
    pub metric: &'a str,
    pub window_seconds: i64,
    pub threshold: f64,
    pub numerator: i64,
    pub denominator: i64,
    #[serde(borrow)]
    pub categories: Vec<AlertCategory<'a>>,
    pub pattern: i64,
    #[serde(default)]
    pub pattern_rule: &'a str,
    pub sample: &'a str,
    pub root_cause: &'a str,
    pub action: &'a str,
    pub annotations: BTreeMap<String, String>,
}

/// One of the top categories behind an [`Alert`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "documented field by field in the schema")]
pub struct AlertCategory<'a> {
    pub category: &'a str,
    pub count: i64,
}
