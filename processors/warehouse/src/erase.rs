//! Erasure: the rows of `failures` that are about a person, counted and deleted, and the memory of who was erased.
//!
//! No address is ever sent to the server, whose logs keep queries: people are known by their hashes, and plain addresses by salted
//! digests. Rows the sink has not settled are left alone, because it counts what it inserted: the caller waits for it first. Nor are
//! the tables of a replay looked into: the caller asks whether there is one ([`Shards::check_no_replay`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;

use crate::client::Warehouse;
use crate::error::WarehouseError;
use crate::shards::Shards;

/// A mutation rewrites every part that holds a row, so it may take long on a large table.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);
/// Room for the hashes of many people in one query.
const MAX_QUERY_BYTES: &str = "67108864";

/// A person under one key, as `failures` knows them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Person {
    /// Which key made the hash.
    pub key_id: String,
    /// The hash.
    pub hash: [u8; 16],
}

/// Whose rows are meant, and how far they may be touched.
#[derive(Clone, Debug)]
pub struct Erasure<'a> {
    /// Every person under every key.
    pub people: &'a [Person],
    /// Before each plain address, when its digest is made.
    pub salt: &'a str,
    /// SHA-256 of salt and lower-cased address, as upper-case hex.
    pub digests: &'a [String],
    /// The failures topic.
    pub topic: &'a str,
    /// Of each of its partitions, the first offset the sink has not settled.
    pub settled: &'a BTreeMap<i32, i64>,
}

#[derive(Row, Deserialize)]
struct ByKey {
    key_id: String,
    rows: u64,
}

impl Erasure<'_> {
    /// The rows meant, as a condition.
    fn condition(&self) -> String {
        let people: Vec<String> = self.people.iter().map(|p| format!("({},'{}')", quoted(&p.key_id), hex(&p.hash))).collect();
        let digests: Vec<String> = self.digests.iter().map(|digest| quoted(digest)).collect();
        let mut about = Vec::new();
        if !people.is_empty() {
            about.push(format!("(toString(recipient_key_id), hex(recipient_hash)) IN ({})", people.join(",")));
        }
        if !digests.is_empty() {
            about.push(format!(
                "(recipient != '' AND hex(SHA256(concat({}, lowerUTF8(recipient)))) IN ({}))",
                quoted(self.salt),
                digests.join(",")
            ));
        }
        if about.is_empty() {
            return "false".to_owned();
        }
        let (partitions, offsets): (Vec<String>, Vec<String>) =
            self.settled.iter().map(|(partition, offset)| (partition.to_string(), offset.to_string())).unzip();
        let settled = if partitions.is_empty() {
            "0".to_owned()
        } else {
            format!("transform(kafka_partition, [{}], [{}], 0)", partitions.join(","), offsets.join(","))
        };
        format!("({}) AND (kafka_topic != {} OR kafka_offset < {settled})", about.join(" OR "), quoted(self.topic))
    }
}

impl Warehouse {
    /// How many rows are meant, by key id.
    pub async fn count_rows_of(&self, erasure: &Erasure<'_>) -> Result<BTreeMap<String, u64>, WarehouseError> {
        let sql = format!(
            "SELECT toString(recipient_key_id) AS key_id, count() AS rows FROM failures WHERE {} GROUP BY key_id",
            erasure.condition()
        );
        let query = self.client().query_raw(&sql).with_setting("max_query_size", MAX_QUERY_BYTES);
        let rows = self.timed_within(PATIENCE, "count the rows of people", query.fetch_all::<ByKey>()).await?;
        Ok(rows.into_iter().map(|row| (row.key_id, row.rows)).collect())
    }

    /// Remembers people as erased, before their rows go: a replay leaves out what came of them until `at_ms`.
    pub async fn remember_erased(&self, people: &[Person], at_ms: i64) -> Result<(), WarehouseError> {
        if people.is_empty() {
            return Ok(());
        }
        let rows: Vec<String> = people.iter().map(|p| format!("({},'{}')", quoted(&p.key_id), hex(&p.hash))).collect();
        let sql = format!(
            "INSERT INTO erased_recipients SELECT p.1, toFixedString(unhex(p.2), 16), fromUnixTimestamp64Milli({at_ms}) \
             FROM (SELECT arrayJoin([{}]) AS p)",
            rows.join(",")
        );
        let query = self.client().query_raw(&sql).with_setting("max_query_size", MAX_QUERY_BYTES);
        self.timed_within(PATIENCE, "remember who was erased", query.execute()).await
    }

    /// Deletes the rows meant, on every replica, and returns when they are gone from the table's parts.
    pub async fn erase_rows_of(&self, erasure: &Erasure<'_>) -> Result<(), WarehouseError> {
        let condition = erasure.condition();
        let positions =
            format!("INSERT INTO erased_rows SELECT kafka_topic, kafka_partition, kafka_offset FROM failures WHERE {condition}");
        let positions = self.client().query_raw(&positions).with_setting("max_query_size", MAX_QUERY_BYTES);
        self.timed_within(PATIENCE, "note which rows go", positions.execute()).await?;
        let delete = format!("ALTER TABLE failures DELETE WHERE {condition}");
        let delete =
            self.client().query_raw(&delete).with_setting("max_query_size", MAX_QUERY_BYTES).with_setting("mutations_sync", "2");
        self.timed_within(PATIENCE, "delete the rows of people", delete.execute()).await
    }

    /// For how many seconds the server keeps the files of parts that a deletion has replaced.
    pub async fn old_parts_lifetime(&self) -> Result<u64, WarehouseError> {
        let sql = "SELECT toUInt64(value) FROM system.merge_tree_settings WHERE name = 'old_parts_lifetime'";
        self.timed("read settings", self.client().query_raw(sql).fetch_one::<u64>()).await
    }
}

/// The same in every shard.
impl Shards {
    /// See [`Warehouse::count_rows_of`].
    pub async fn count_rows_of(&self, erasure: &Erasure<'_>) -> Result<BTreeMap<String, u64>, WarehouseError> {
        let mut sum = BTreeMap::new();
        for shard in self.iter() {
            for (key_id, rows) in shard.writable().await?.count_rows_of(erasure).await? {
                *sum.entry(key_id).or_default() += rows;
            }
        }
        Ok(sum)
    }

    /// See [`Warehouse::remember_erased`].
    pub async fn remember_erased(&self, people: &[Person], at_ms: i64) -> Result<(), WarehouseError> {
        for shard in self.iter() {
            shard.writable().await?.remember_erased(people, at_ms).await?;
        }
        Ok(())
    }

    /// See [`Warehouse::erase_rows_of`].
    pub async fn erase_rows_of(&self, erasure: &Erasure<'_>) -> Result<(), WarehouseError> {
        for shard in self.iter() {
            shard.writable().await?.erase_rows_of(erasure).await?;
        }
        Ok(())
    }

    /// The longest [`Warehouse::old_parts_lifetime`].
    pub async fn old_parts_lifetime(&self) -> Result<u64, WarehouseError> {
        let mut longest = 0;
        for shard in self.iter() {
            longest = longest.max(shard.writable().await?.old_parts_lifetime().await?);
        }
        Ok(longest)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02X}");
        out
    })
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_names_people_and_spares_what_is_not_settled() {
        let people = [Person { key_id: "o'1".to_owned(), hash: [0xAB; 16] }];
        let settled = BTreeMap::from([(0, 7), (1, 0)]);
        let mut erasure = Erasure { people: &people, salt: "", digests: &[], topic: "t", settled: &settled };
        let expect = format!(
            "((toString(recipient_key_id), hex(recipient_hash)) IN (('o\\'1','{}'))) AND (kafka_topic != 't' OR kafka_offset < \
             transform(kafka_partition, [0,1], [7,0], 0))",
            "AB".repeat(16)
        );
        assert_eq!(erasure.condition(), expect);
        erasure.people = &[];
        assert_eq!(erasure.condition(), "false");
    }
}
