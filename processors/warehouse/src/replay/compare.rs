//! What a replay would change: first whether it counted what it was to count, then old beside new.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{HOLDINGS, Holdings, Range, Replay, from_ranges, of};
use crate::block::Table;
use crate::client::Warehouse;
use crate::error::WarehouseError;

/// Moves that are listed; their sum counts all.
const LISTED: usize = 200;

/// Old and new, side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was counted anew, in total.
    pub new: Holdings,
    /// Failures by severity and category.
    pub categories: Vec<Pair>,
    /// Failures by ISP.
    pub isps: Vec<Pair>,
    /// Failures that are there in both, with another severity, category, ISP, identity or `blocked`.
    pub changed: u64,
    /// Failures that were there before and are not any more.
    pub gone: u64,
    /// Failures that were not there before.
    pub added: u64,
    /// From where to where failures moved, most frequent first.
    pub moves: Vec<Move>,
}

/// A count before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Row)]
pub struct Pair {
    /// Of what.
    pub name: String,
    /// Before.
    pub old: u64,
    /// After.
    pub new: u64,
}

/// Failures that were one thing and are another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Row)]
pub struct Move {
    /// Severity and category before.
    pub from: String,
    /// Severity and category after.
    pub to: String,
    /// How many.
    pub failures: u64,
    /// The rule that decides now, for most of them.
    pub rule: String,
    /// The most frequent pattern among them.
    pub pattern: u64,
    /// A reply, redacted.
    pub sample: String,
}

impl Warehouse {
    /// Checks that a replay counted everything once, then compares.
    pub async fn compare_replay(&self, replay: &Replay) -> Result<Comparison, WarehouseError> {
        self.check_failures(replay).await?;
        let new = self.check_counted(replay).await?;
        self.subtract(replay).await?;
        let (failures, old) = (of(replay.id, Table::Failures), from_ranges(&replay.ranges));
        let pairs = |name: &str| {
            format!(
                "SELECT name, countIf(side = 0) AS old, countIf(side = 1) AS new FROM
                    (SELECT 0 AS side, {name} AS name FROM failures WHERE {old} UNION ALL SELECT 1 AS side, {name} AS name FROM {failures})
                GROUP BY name ORDER BY greatest(old, new) DESC, name"
            )
        };
        let categories = self.ask_all("compare categories", &pairs(CATEGORY)).await?;
        let isps = self.ask_all("compare ISPs", &pairs("toString(isp)")).await?;
        // By place, in groups that may go to disk; a join would be held in memory.
        let what = format!(
            "source_topic, source_partition, source_offset, source_item,
            ({CATEGORY}, isp, identity, blocked) AS what, (toString(rule), pattern, diagnostic) AS why"
        );
        let places = format!(
            "SELECT countIf(side = 0) AS olds, countIf(side = 1) AS news, anyIf(what, side = 0) AS old, anyIf(what, side = 1) AS new,
                anyIf(why, side = 1) AS why
            FROM (SELECT 0 AS side, {what} FROM failures WHERE {old} UNION ALL SELECT 1 AS side, {what} FROM {failures})
            GROUP BY source_topic, source_partition, source_offset, source_item"
        );
        let sums =
            format!("SELECT countIf(olds > 0 AND news > 0 AND old != new), countIf(news = 0), countIf(olds = 0) FROM ({places})");
        let (changed, gone, added): (u64, u64, u64) = self.ask("compare failures", &sums).await?;
        let moves = format!(
            "SELECT old.1 AS from, new.1 AS to, count() AS failures, topK(1)(why.1)[1] AS rule, topK(1)(why.2)[1] AS pattern,
                min(substringUTF8(why.3, 1, 200)) AS sample
            FROM ({places}) WHERE olds > 0 AND news > 0 AND old.1 != new.1
            GROUP BY from, to ORDER BY failures DESC, from, to LIMIT {LISTED}"
        );
        let moves = self.ask_all("list what moved", &moves).await?;
        Ok(Comparison { new, categories, isps, changed, gone, added, moves })
    }

    /// The same offsets, the same records, every failure once. Who was erased is left out first.
    async fn check_counted(&self, replay: &Replay) -> Result<Holdings, WarehouseError> {
        let id = replay.id;
        let wrong = |what: String| {
            WarehouseError::Replay(format!(
                "{what}. Nothing was changed; give it up with `bounceflow replay discard {id}` and start again"
            ))
        };
        let mut joined: Vec<Range> = Vec::new();
        for range in self.replayed(id).await? {
            match joined.last_mut() {
                Some(r) if r.topic == range.topic && r.partition == range.partition && range.first == r.last + 1 => {
                    r.last = range.last
                }
                _ => joined.push(range),
            }
        }
        if joined != replay.ranges {
            return Err(wrong(format!("replay {id} counted other offsets than it was to count")));
        }
        let new: Holdings =
            self.ask("add up what was counted", &format!("SELECT {HOLDINGS} FROM {}", of(id, Table::Batches))).await?;
        if new.records != replay.old.records {
            return Err(wrong(format!(
                "the input holds {} records where {} were counted: the topic was made anew, or compacted",
                new.records, replay.old.records
            )));
        }
        let left_out = self.leave_out_erased(id).await?;
        let sql = format!(
            "SELECT count(), uniqExact(source_topic, source_partition, source_offset, source_item) FROM {}",
            of(id, Table::Failures)
        );
        let (rows, places): (u64, u64) = self.ask("count what was counted", &sql).await?;
        if rows + left_out != new.failures() || places != rows {
            return Err(wrong(format!(
                "{} failures were counted and {rows} rows of {places} places written, and {left_out} left out",
                new.failures()
            )));
        }
        Ok(new)
    }
}

/// How severity and category are shown together; complaints have no severity.
const CATEGORY: &str = "if(severity = '', toString(category), concat(severity, ' ', category))";
