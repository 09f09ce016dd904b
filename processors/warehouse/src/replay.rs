//! ClickHouse's side of `bounceflow replay`: a past range of input offsets is counted again into tables of its own, compared with
//! what is there, and put in its place.
//!
//! The unit is the transaction that was counted: a replay takes whole rows of `batches`, and counts exactly the offsets those cover.
//! So old rows and new rows speak of the same offsets to the last one, and putting the new ones in their place leaves no gap and no
//! overlap. What is replaced is known by place: rows of `failures` by the input offset they came from, rows of `batches` by their
//! position in Kafka. `delivery_rates` has no places; there the difference of new and old counts is added ([`rates`]).
//!
//! Here is what the tables hold and how they change. What is read from Kafka, and when, is the command's business.
//!
//! | table | what it holds |
//! |---|---|
//! | `replays` | each change of each replay: the document below |
//! | `replay_N_old` | the positions of the rows of `batches` that replay N takes away |
//! | `replay_N_failures`, `replay_N_batches` | what was counted anew |
//! | `replay_N_erased` | the positions of failures left out of these, because who they are about was erased ([`erased`]) |
//! | `replay_N_difference` | new counts less old ones, by the key of `delivery_rates`, in two's complement |
//! | `replay_N_SWAP_…` | copies made by one attempt to swap, of the tables above and of the roll-ups, gone when it ends ([`swap`]) |

mod plan;
mod rates;
mod compare;
mod erased;
mod fence;
mod swap;

use std::time::Duration;

use clickhouse::query::Query;
use clickhouse::{Row, RowOwned, RowRead};
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::block::{Block, Table};
use crate::client::{SPILL_BYTES, Warehouse};
use crate::error::WarehouseError;

pub use compare::{Comparison, Move, Pair};
pub use swap::{Begun, Replaced, Swap};

/// Copying, comparing and rewriting a month take their time; the server works on, so this bounds a dead connection only.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);
/// How often it is looked again, a second apart, whether a change was written down, where ClickHouse does not say.
const SAVED_LOOKS: u32 = 5;
/// Ranges that one replay may cover: they are written into conditions.
const MAX_RANGES: usize = 1000;

/// A replay, as it stands. Kept as JSON in the table `replays`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replay {
    /// Its number.
    pub id: u32,
    /// Counts its changes.
    pub sequence: u32,
    /// How far it is.
    pub state: State,
    /// When it was planned, milliseconds since the epoch. The rows it counts carry this as their log time.
    pub created: i64,
    /// What it counts by: the same for all of it, or it is refused.
    pub by: By,
    /// The offsets asked for.
    pub asked: Vec<Range>,
    /// The offsets of the transactions that these belong to: what is counted again.
    pub ranges: Vec<Range>,
    /// What those transactions hold.
    pub old: Holdings,
    /// What has changed, once it is counted.
    pub comparison: Option<Comparison>,
    /// The swap, once it was begun.
    pub swap: Option<Swap>,
}

impl Replay {
    /// One that is not planned yet: see [`Warehouse::plan_replay`].
    pub fn draft(created: i64, by: By, asked: Vec<Range>) -> Self {
        Self {
            id: 0,
            sequence: 0,
            state: State::Planning,
            created,
            by,
            asked,
            ranges: Vec::new(),
            old: Holdings::default(),
            comparison: None,
            swap: None,
        }
    }
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its tables are made. Interrupted here, it is only good to be discarded.
    Planning,
    /// The range is read and counted.
    Counting,
    /// Everything is counted and compared: it waits for a decision.
    Counted,
    /// The new rows are put in the place of the old ones. From here it only goes forward.
    Swapping,
    /// The new rows are in place.
    Swapped,
    /// Given up; nothing of it is left.
    Discarded,
}

impl State {
    /// As it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Counting => "counting",
            Self::Counted => "counted",
            Self::Swapping => "swapping",
            Self::Swapped => "swapped",
            Self::Discarded => "discarded",
        }
    }
}

/// What a replay counts by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// Rule files, or folders of them; none: the built-in rules alone.
    pub rules: Vec<String>,
    /// Version of the rules.
    pub rules_version: String,
    /// Hash of whatever else decides what a record becomes: identities, recipient key, decoders, this program's version.
    pub settings: String,
}

/// Offsets `first..=last` of an input partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Row)]
pub struct Range {
    /// Input topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset.
    pub first: i64,
    /// Last offset.
    pub last: i64,
}

impl Range {
    /// How many offsets.
    pub fn offsets(&self) -> u64 {
        u64::try_from(self.last - self.first + 1).unwrap_or(0)
    }
}

/// What transactions hold, in total.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Row)]
#[allow(missing_docs, reason = "as the columns of batches")]
pub struct Holdings {
    pub transactions: u64,
    pub records: u64,
    pub items: u64,
    pub dead_lettered: u64,
    pub ignored: u64,
    pub deliveries: u64,
    pub first_attempts: u64,
    pub hard: u64,
    pub soft: u64,
    pub deferred: u64,
    pub blocked: u64,
    pub blocked_deferrals: u64,
    pub complaints: u64,
    pub late_bounces: u64,
    pub drops: u64,
}

impl Holdings {
    /// Items that left a failure.
    pub fn failures(&self) -> u64 {
        self.hard + self.soft + self.deferred + self.complaints + self.late_bounces
    }

    /// Each by its name, as they are compared.
    pub fn named(&self) -> [(&'static str, u64); 14] {
        [
            ("records", self.records),
            ("items", self.items),
            ("deliveries", self.deliveries),
            ("first attempts", self.first_attempts),
            ("hard", self.hard),
            ("soft", self.soft),
            ("deferred", self.deferred),
            ("blocked", self.blocked),
            ("blocked deferrals", self.blocked_deferrals),
            ("complaints", self.complaints),
            ("late bounces", self.late_bounces),
            ("drops", self.drops),
            ("ignored", self.ignored),
            ("dead-lettered", self.dead_lettered),
        ]
    }
}

/// Sums over rows of `batches`, in the order of [`Holdings`].
const HOLDINGS: &str = "countIf(part = 0) AS transactions, sum(arraySum(sources.records)) AS records,
    sum(arraySum(sources.items)) AS items, sum(arraySum(sources.dead_lettered)) AS dead_lettered,
    sum(arraySum(ignored.count)) AS ignored, sum(deliveries) AS deliveries, sum(first_attempts) AS first_attempts, sum(hard) AS hard,
    sum(soft) AS soft, sum(deferred) AS deferred, sum(blocked) AS blocked, sum(blocked_deferrals) AS blocked_deferrals,
    sum(complaints) AS complaints, sum(late_bounces) AS late_bounces, sum(drops) AS drops";

impl Warehouse {
    /// Every replay there ever was, as it stands.
    pub async fn replays(&self) -> Result<Vec<Replay>, WarehouseError> {
        let sql = "SELECT argMax(document, (sequence, changed_at)) FROM replays GROUP BY id ORDER BY id";
        let documents: Vec<String> = self.ask_all("list replays", sql).await?;
        let read = |document: &String| {
            serde_json::from_str(document)
                .map_err(|e| WarehouseError::Replay(format!("a document in the table replays cannot be read: {e}")))
        };
        documents.iter().map(read).collect()
    }

    /// Writes down how a replay stands now. Refused where another process wrote since it was read: what that one did would be forgotten.
    pub async fn save_replay(&self, replay: &mut Replay, now: i64) -> Result<(), WarehouseError> {
        replay.sequence += 1;
        let saved = self.save(replay, now).await;
        if saved.is_err() {
            replay.sequence -= 1;
        }
        saved
    }

    async fn save(&self, replay: &Replay, now: i64) -> Result<(), WarehouseError> {
        let Replay { id, sequence, .. } = replay;
        let document = serde_json::to_string(replay).map_err(|e| WarehouseError::Replay(e.to_string()))?;
        let held: &[Replaced] = replay.swap.as_ref().map_or(&[], |swap| &swap.replaced);
        let list = |value: &dyn Fn(&Replaced) -> String| held.iter().map(value).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "INSERT INTO replays SELECT {}, {}, fromUnixTimestamp64Milli({now}), '{}', {}, CAST([{}], 'Array(String)'),
                CAST([{}], 'Array(String)'), CAST([{}], 'Array(Int32)'), CAST([{}], 'Array(Int64)')
            FROM (SELECT max(sequence) AS last FROM replays WHERE id = {id}) WHERE last = {sequence} - 1",
            id,
            sequence,
            replay.state.as_str(),
            text(&document),
            list(&|h| text(&h.table)),
            list(&|h| text(&h.topic)),
            list(&|h| h.partition.to_string()),
            list(&|h| h.last_offset.to_string()),
        );
        let written = self.act("write down how a replay stands", &sql).await;
        // Looked for whatever the answer was, which may be lost. Two that wrote at the same moment both see that.
        let ours = format!("document = {}", text(&document));
        let sql = format!("SELECT count() = 1 AND countIf({ours}) = 1 FROM replays WHERE id = {id} AND sequence >= {sequence}");
        let mut there = self.ask::<u8>("read how a replay stands", &sql).await;
        for _ in 0..SAVED_LOOKS {
            if there.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            there = self.ask::<u8>("read how a replay stands", &sql).await;
        }
        if there? == 1 {
            return Ok(());
        }
        written?;
        Err(WarehouseError::Replay(format!(
            "another process works on replay {id}: wait for it (`bounceflow replay list` shows how far it is), then run this again"
        )))
    }

    /// Sends one block of rows counted by a replay.
    pub async fn insert_replayed(&self, id: u32, block: &Block, token: &str) -> Answer {
        self.insert_into(&of(id, block.table()), block, token).await
    }

    /// How many rows counted by a replay come from a range of the input.
    pub async fn count_replayed(&self, id: u32, table: Table, range: &Range) -> Result<u64, WarehouseError> {
        let sql = format!(
            "SELECT count() FROM {} WHERE kafka_topic = {} AND kafka_partition = {} AND kafka_offset BETWEEN {} AND {}",
            of(id, table),
            text(&log_of(id, &range.topic)),
            range.partition,
            place(range.first, 0)?,
            place(range.last, ITEMS - 1)?
        );
        self.ask("count a range", &sql).await
    }

    /// What of the input a replay has counted so far.
    pub async fn replayed(&self, id: u32) -> Result<Vec<Range>, WarehouseError> {
        let sql = format!(
            "SELECT source.1 AS topic, source.2 AS partition, source.3 AS first, source.4 AS last FROM
                (SELECT arrayJoin(arrayZip(sources.topic, sources.partition, sources.first_offset, sources.last_offset)) AS source
                FROM {} WHERE part = 0)
            ORDER BY topic, partition, first",
            of(id, Table::Batches)
        );
        self.ask_all("read what was counted", &sql).await
    }

    /// Removes every table and every fence of a replay.
    pub async fn clear_replay(&self, id: u32) -> Result<(), WarehouseError> {
        self.drop_copies(id).await?;
        self.lift_fences(id).await?;
        self.drop_tables(&format!("replay_{id}_")).await
    }

    async fn drop_tables(&self, prefix: &str) -> Result<(), WarehouseError> {
        let sql = format!(
            "SELECT name FROM system.tables WHERE database = {} AND startsWith(name, {}) ORDER BY name",
            text(self.database()),
            text(prefix)
        );
        let names: Vec<String> = self.ask_all("list the tables of a replay", &sql).await?;
        for name in names {
            self.act("remove a table of a replay", &format!("DROP TABLE IF EXISTS {name} SYNC")).await?;
        }
        Ok(())
    }

    /// Whatever belongs to one statement.
    async fn act(&self, what: &str, sql: &str) -> Result<(), WarehouseError> {
        let query = self.long(sql);
        let query = query.with_setting("mutations_sync", "2").with_setting("alter_sync", "2").with_setting("async_insert", "0");
        // Rows are told apart by what they are, not by tokens: two equal blocks are two blocks.
        let query = query.with_setting("insert_deduplicate", "0");
        let query = query.with_setting("max_partitions_per_insert_block", "0");
        self.timed_within(PATIENCE, what, query.execute()).await
    }

    async fn ask<T: RowOwned + RowRead>(&self, what: &str, sql: &str) -> Result<T, WarehouseError> {
        self.timed_within(PATIENCE, what, self.long(sql).fetch_one()).await
    }

    async fn ask_all<T: RowOwned + RowRead>(&self, what: &str, sql: &str) -> Result<Vec<T>, WarehouseError> {
        self.timed_within(PATIENCE, what, self.long(sql).fetch_all()).await
    }

    /// A statement that may be long, and take long.
    fn long(&self, sql: &str) -> Query {
        let query = self.client().query_raw(sql).with_setting("max_query_size", "33554432");
        query.with_setting("max_execution_time", "0").with_setting("max_bytes_before_external_group_by", SPILL_BYTES)
    }
}

/// A table of a replay that is made like one of the sink's.
fn of(id: u32, table: Table) -> String {
    format!("replay_{id}_{table}")
}

/// What stands for the topic in the rows of a replay. No Kafka topic can have this name.
pub fn log_of(id: u32, topic: &str) -> String {
    format!("replay/{id}/{topic}")
}

/// Items of one record that have places of their own.
const ITEMS: i64 = 1 << 20;

/// What stands for the offset in the rows of a replay: made of the input offset and the number of an item or part, so that it is the
/// same however often and from wherever a range is counted.
pub fn place(offset: i64, item: i64) -> Result<i64, WarehouseError> {
    if !(0..1 << 43).contains(&offset) || !(0..ITEMS).contains(&item) {
        return Err(WarehouseError::Replay(format!(
            "offset {offset}, item {item} is beyond what a replay can number: a record may have {ITEMS} items"
        )));
    }
    Ok(offset * ITEMS + item)
}

/// A literal.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Rows of failures that come from these ranges of the input.
fn from_ranges(ranges: &[Range]) -> String {
    let one = |r: &Range| {
        format!(
            "(source_topic = {} AND source_partition = {} AND source_offset BETWEEN {} AND {})",
            text(&r.topic),
            r.partition,
            r.first,
            r.last
        )
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(" OR ")
}

/// Rows of batches that a replay takes away.
fn in_old(id: u32) -> String {
    format!(
        "(kafka_topic, kafka_partition, kafka_offset) IN (SELECT kafka_topic, kafka_partition, kafka_offset FROM replay_{id}_old)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_the_order_of_items_and_never_meet() {
        assert!(place(3, ITEMS - 1).unwrap() < place(4, 0).unwrap());
        assert!(place((1 << 43) - 1, ITEMS - 1).unwrap() > 0);
        for (offset, item) in [(-1, 0), (1 << 43, 0), (0, ITEMS), (0, -1)] {
            assert!(place(offset, item).is_err());
        }
    }

    #[test]
    fn literals_are_quoted() {
        assert_eq!(text(r"a'b\c"), r"'a\'b\\c'");
    }
}
