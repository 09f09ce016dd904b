//! Which transactions a replay takes, and whether it may: all of it is decided before anything is counted.

use super::{HOLDINGS, MAX_RANGES, Range, Replay, State, from_ranges, in_old, of, text};
use crate::block::Table;
use crate::client::Warehouse;
use crate::error::WarehouseError;
use crate::rollups::ROLLUPS;

const EXISTS_ALREADY: u32 = 57;

impl Warehouse {
    /// Finds the transactions that cover offsets asked for, makes the tables, and writes the plan down. `draft` has no id yet.
    pub async fn plan_replay(&self, mut draft: Replay, now: i64) -> Result<Replay, WarehouseError> {
        self.check_tables().await?;
        self.make_old(&mut draft).await?;
        self.save_replay(&mut draft, now).await?;
        match self.fill(&mut draft).await {
            Ok(()) => {
                draft.state = State::Counting;
                self.save_replay(&mut draft, now).await?;
                Ok(draft)
            }
            Err(e) => {
                self.clear_replay(draft.id).await?;
                draft.state = State::Discarded;
                self.save_replay(&mut draft, now).await?;
                Err(e)
            }
        }
    }

    /// Only plain tables on one server can be swapped.
    async fn check_tables(&self) -> Result<(), WarehouseError> {
        let sql = format!(
            "SELECT name || ' is ' || engine FROM system.tables WHERE database = {}
                AND name IN ({}) AND engine NOT IN ('MergeTree', 'AggregatingMergeTree')",
            text(self.database()),
            ["failures", "batches", "delivery_rates"]
                .into_iter()
                .chain(ROLLUPS.map(|r| r.table))
                .map(text)
                .collect::<Vec<_>>()
                .join(", ")
        );
        let others: Vec<String> = self.ask_all("look at the tables", &sql).await?;
        if let Some((_, fence)) = self.fences().await?.first() {
            return Err(WarehouseError::Replay(format!(
                "{fence}: another replay is being swapped. Wait for it, or let it go on with `bounceflow replay resume`"
            )));
        }
        if others.is_empty() {
            return Ok(());
        }
        Err(WarehouseError::Replay(format!(
            "replay works on tables of one server only (MergeTree, not replicated, not distributed), and {}",
            others.join(", ")
        )))
    }

    /// Takes the next free number by making the table of that number: of two at once, one is refused and takes the next.
    async fn make_old(&self, draft: &mut Replay) -> Result<(), WarehouseError> {
        let mut id = 1 + self.replays().await?.iter().map(|r| r.id).max().unwrap_or(0);
        loop {
            let sql = format!(
                "CREATE TABLE replay_{id}_old (kafka_topic LowCardinality(String), kafka_partition Int32, kafka_offset Int64)
                ENGINE = MergeTree ORDER BY (kafka_topic, kafka_partition, kafka_offset)
                COMMENT 'Positions of the rows of batches that bounceflow replay {id} takes away'"
            );
            match self.act("make the tables of a replay", &sql).await {
                Err(WarehouseError::Refused { code: Some(EXISTS_ALREADY), .. }) => id += 1,
                made => {
                    draft.id = id;
                    return made;
                }
            }
        }
    }

    async fn fill(&self, draft: &mut Replay) -> Result<(), WarehouseError> {
        let id = draft.id;
        let asked = |r: &Range| {
            format!("(s.1 = {} AND s.2 = {} AND s.3 <= {} AND s.4 >= {})", text(&r.topic), r.partition, r.last, r.first)
        };
        let asked = draft.asked.iter().map(asked).collect::<Vec<_>>().join(" OR ");
        // `last < first` is a heartbeat: it covers nothing.
        let covers = format!(
            "arrayExists(s -> s.4 >= s.3 AND ({asked}), arrayZip(sources.topic, sources.partition, sources.first_offset, sources.last_offset))"
        );
        self.act(
            "find the transactions",
            &format!(
                "INSERT INTO replay_{id}_old SELECT kafka_topic, kafka_partition, kafka_offset FROM batches WHERE part = 0 AND {covers}"
            ),
        )
        .await?;
        // The other parts of those: they follow in the log, among transactions of other producers.
        self.act(
            "find the parts of the transactions",
            &format!(
                "INSERT INTO replay_{id}_old SELECT kafka_topic, kafka_partition, kafka_offset FROM
                    (SELECT kafka_topic, kafka_partition, kafka_offset, part, maxIf(kafka_offset, part = 0) OVER
                        (PARTITION BY kafka_topic, kafka_partition, producer ORDER BY kafka_offset
                        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS start
                    FROM batches WHERE parts > 1)
                WHERE part > 0 AND (kafka_topic, kafka_partition, start) IN
                    (SELECT kafka_topic, kafka_partition, kafka_offset FROM replay_{id}_old)"
            ),
        )
        .await?;
        let rows: u64 = self.ask("count the parts", &format!("SELECT count() FROM replay_{id}_old")).await?;
        if rows == 0 {
            return Err(WarehouseError::Replay(
                "nothing in this range was counted: no row of batches covers any of its offsets. Look at the times (they are those \
                 of the records in Kafka), and whether the sink has caught up"
                    .into(),
            ));
        }
        let old = in_old(id);
        let parts: u64 = self.ask("count the parts", &format!("SELECT sumIf(parts, part = 0) FROM batches WHERE {old}")).await?;
        if parts != rows {
            return Err(WarehouseError::Replay(format!(
                "transactions of this range have {parts} parts, batches holds {rows}: the sink has not written all of them yet. Try \
                 again when it has caught up, or with an earlier --to"
            )));
        }
        let expired = format!(
            "SELECT countIf(items != arraySum(rows.deliveries) + arraySum(rows.hard) + arraySum(rows.soft) + arraySum(rows.deferred)
                + arraySum(rows.complaints) + arraySum(rows.late_bounces) + arraySum(rows.drops)) FROM batches WHERE {old}"
        );
        let expired: u64 = self.ask("look for expired rows", &expired).await?;
        if expired > 0 {
            return Err(WarehouseError::Replay(format!(
                "the counts of {expired} of {rows} transactions of this range have expired in batches (its column rows is kept for 8 \
                 days): what they added to delivery_rates is not known any more and cannot be taken out. Choose a later --from"
            )));
        }
        draft.ranges = self.covered(id).await?;
        draft.old = self.ask("add up the transactions", &format!("SELECT {HOLDINGS} FROM batches WHERE {old}")).await?;
        self.check_failures(draft).await?;
        for table in [Table::Failures, Table::Batches] {
            self.act("make the tables of a replay", &format!("CREATE TABLE {} AS {table}", of(id, table))).await?;
        }
        self.act("make the tables of a replay", &format!("CREATE TABLE replay_{id}_difference AS delivery_rates")).await
    }

    /// The offsets that the transactions cover, joined where they join.
    async fn covered(&self, id: u32) -> Result<Vec<Range>, WarehouseError> {
        let sql = format!(
            "SELECT s.1 AS topic, s.2 AS partition, s.3 AS first, s.4 AS last FROM
                (SELECT arrayJoin(arrayZip(sources.topic, sources.partition, sources.first_offset, sources.last_offset)) AS s
                FROM batches WHERE part = 0 AND {})
            WHERE last >= first ORDER BY topic, partition, first",
            in_old(id)
        );
        let mut joined: Vec<Range> = Vec::new();
        for range in self.ask_all::<Range>("read what the transactions cover", &sql).await? {
            match joined.last_mut() {
                Some(r) if r.topic == range.topic && r.partition == range.partition && range.first <= r.last => {
                    return Err(WarehouseError::Replay(format!(
                        "offset {} of {}/{} was counted twice: replay cannot take one of the two. See `bounceflow audit`",
                        range.first, range.topic, range.partition
                    )));
                }
                Some(r) if r.topic == range.topic && r.partition == range.partition && range.first == r.last + 1 => {
                    r.last = range.last
                }
                _ => joined.push(range),
            }
        }
        if joined.len() > MAX_RANGES {
            return Err(WarehouseError::Replay(format!(
                "the transactions cover {} separate ranges of offsets, at most {MAX_RANGES} can be replayed at once: choose less",
                joined.len()
            )));
        }
        Ok(joined)
    }

    /// Every failure that was counted must be there to be taken away: one that comes later would be there twice.
    pub(super) async fn check_failures(&self, replay: &Replay) -> Result<(), WarehouseError> {
        let sql = format!("SELECT count() FROM failures WHERE {}", from_ranges(&replay.ranges));
        let stored: u64 = self.ask("count the failures", &sql).await?;
        let counted = replay.old.failures();
        if stored == counted {
            return Ok(());
        }
        Err(WarehouseError::Replay(format!(
            "{counted} failures were counted in this range, and failures holds {stored} of them. Where the sink is behind, wait until \
             it has caught up. Where it refused rows, or where recipients were erased, the range cannot be replayed: they would come back"
        )))
    }
}
