//! The intent: which range of a partition is about to be inserted, kept as the metadata of the committed offset.
//!
//! After a crash it says which range may be half done: that range is read again and inserted with the same token, and ClickHouse
//! drops what it has. **Invariant:** no insert without a committed intent of exactly its range.

use bounceflow_warehouse::{ENCODER_VERSION, Table, TokenRange, Warehouse, columns};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// ClickHouse remembers tokens for this long on replicated tables; an older intent may no longer be repeated. Milliseconds.
pub const MAX_AGE_MS: i64 = 7 * 24 * 3600 * 1000;

/// A range about to be inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// First offset.
    pub first: i64,
    /// Last offset.
    pub last: i64,
    /// Records between them, both included; offsets have holes where transactions ended.
    pub records: u64,
    /// Rows those records give; fewer where records were refused.
    pub rows: u64,
    /// Kafka timestamp of the first record, milliseconds: tells a topic made anew from the old one.
    pub first_time: i64,
    /// When it was first committed, milliseconds since the epoch.
    pub at: i64,
    /// From 0; counts up where ClickHouse remembers a token whose rows it lost.
    pub attempt: u32,
    /// Version of the encoding.
    pub encoder: u32,
    /// Hash of the names of the columns.
    pub columns: String,
    /// Which shard takes it, whatever the number of shards is by the time of a repeat: that one remembers the token. Before there were
    /// several, intents named none.
    #[serde(default)]
    pub shard: u32,
}

impl Intent {
    /// The metadata string.
    pub fn to_metadata(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// None where the metadata is empty; an error where it is something else.
    pub fn from_metadata(metadata: &str) -> Result<Option<Self>, String> {
        if metadata.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(metadata).map(Some).map_err(|e| format!("the metadata of the committed offset is no intent: {e}"))
    }

    /// The name under which ClickHouse remembers the insert.
    pub fn token(&self, warehouse: &Warehouse, table: Table, topic: &str, partition: i32) -> String {
        let Self { first, last, first_time: first_timestamp, attempt, .. } = *self;
        let token = warehouse.token(table, TokenRange { topic, partition, first, last, first_timestamp });
        if attempt == 0 { token } else { format!("{token}:r{attempt}") }
    }

    /// Itself, where the shard it names is one of so many; else why it cannot be repeated.
    pub fn among(self, shards: usize) -> Result<Self, String> {
        if (self.shard as usize) < shards {
            return Ok(self);
        }
        Err(format!(
            "offsets {} to {} were begun at clickhouse.shards[{}], which may have stored them, and the configuration names {shards} of \
             them: list that shard again until the sink has settled what is open",
            self.first, self.last, self.shard
        ))
    }

    /// Why this binary cannot repeat the insert, if so.
    pub fn not_reproducible(&self, table: Table, now: i64) -> Option<String> {
        if self.encoder != ENCODER_VERSION || self.columns != columns_hash(table) {
            return Some(format!(
                "offsets {} to {} were begun by a binary that encodes rows differently (encoder {}, this is {ENCODER_VERSION}): let \
                 that version finish, then upgrade",
                self.first, self.last, self.encoder
            ));
        }
        (now - self.at > MAX_AGE_MS).then(|| {
            format!(
                "offsets {} to {} were begun more than 7 days ago, longer than ClickHouse remembers tokens: count the rows of that range \
                 in {}, and if none are there, reset the group's offset metadata",
                self.first,
                self.last,
                table.name()
            )
        })
    }
}

/// Tells one list of columns from another.
pub fn columns_hash(table: Table) -> String {
    let digest = Sha256::digest(columns(table).join(",").as_bytes());
    digest.iter().take(6).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            first: 3,
            last: 9,
            records: 5,
            rows: 5,
            first_time: 1_700_000_000_000,
            at: 1_700_000_000_500,
            attempt: 0,
            encoder: ENCODER_VERSION,
            columns: columns_hash(Table::Failures),
            shard: 1,
        }
    }

    #[test]
    fn survives_the_metadata_and_fits_into_it() {
        let intent = intent();
        let metadata = intent.to_metadata();
        assert!(metadata.len() < 1024, "brokers take 4096 bytes");
        assert_eq!(Intent::from_metadata(&metadata), Ok(Some(intent)));
        assert_eq!(Intent::from_metadata(""), Ok(None));
        assert!(Intent::from_metadata("something else").is_err());
    }

    #[test]
    fn intents_of_before_there_were_shards_are_the_first_ones() {
        let metadata =
            r#"{"first":3,"last":9,"records":5,"rows":5,"first_time":1,"at":2,"attempt":0,"encoder":1,"columns":"3ec581a2bf82"}"#;
        let intent = Intent::from_metadata(metadata).unwrap().unwrap();
        assert_eq!(intent.among(1).unwrap().shard, 0);
    }

    #[test]
    fn a_shard_that_is_not_configured_halts() {
        let intent = intent();
        assert_eq!(intent.clone().among(2), Ok(intent.clone()));
        assert!(intent.among(1).unwrap_err().contains("clickhouse.shards[1]"));
    }

    #[test]
    fn the_token_names_exactly_the_range() {
        let intent = intent();
        let warehouse = Warehouse::new(bounceflow_warehouse::Settings { pipeline: "p".into(), ..Default::default() }).unwrap();
        let token = |i: &Intent| i.token(&warehouse, Table::Failures, "t", 1);
        assert_eq!(token(&intent), "p:failures:t:1:3-9:1700000000000");
        assert_ne!(token(&intent), token(&Intent { last: 8, ..intent.clone() }));
        assert_ne!(token(&intent), token(&Intent { attempt: 1, ..intent.clone() }));
        assert_eq!(token(&intent), token(&Intent { at: 0, ..intent.clone() }));
    }

    #[test]
    fn intents_of_released_versions_stay_valid() {
        // Committed intents name these: columns that change make every sink halt that finds one open after an upgrade.
        let hashes = Table::ALL.map(|table| (table.name(), columns_hash(table)));
        let expect = [("failures", "3ec581a2bf82"), ("batches", "a5bcfeac35d1"), ("alerts", "1de4dcd104e8")];
        assert_eq!(hashes.each_ref().map(|(name, hash)| (*name, hash.as_str())), expect);
    }

    #[test]
    fn what_cannot_be_repeated_halts() {
        let intent = intent();
        assert_eq!(intent.not_reproducible(Table::Failures, intent.at + 1000), None);
        assert!(intent.not_reproducible(Table::Batches, intent.at).unwrap().contains("encodes rows differently"));
        assert!(intent.not_reproducible(Table::Failures, intent.at + MAX_AGE_MS + 1).unwrap().contains("7 days"));
        let newer = Intent { encoder: ENCODER_VERSION + 1, ..intent };
        assert!(newer.not_reproducible(Table::Failures, newer.at).unwrap().contains("encoder"));
    }
}
