//! The questions behind `bounceflow audit`: was every offset of every source counted once, and did every count arrive everywhere?
//!
//! Everything is computed by the server over streams and spilling sorts: memory stays bounded over millions of batches.
//! While the sink runs, two questions may see different moments: exact when it has caught up.

mod report;

use clickhouse::query::Query;
use clickhouse::{Row, RowOwned, RowRead};
use serde::Deserialize;

use crate::client::{SPILL_BYTES, Warehouse};
use crate::counts::{CATEGORIES, COUNTS};
use crate::error::WarehouseError;
use crate::rollups::{ROLLUPS, Rollup};

pub use report::{AuditOptions, AuditReport, Count, Coverage, Duplicates, Items, OffsetRange};

/// Every range that was covered, heartbeats too. Parts other than the first list none; one that does shows up as an overlap.
const RANGES: &str = "SELECT sources.topic AS topic, sources.partition AS partition, sources.first_offset AS first,
    sources.last_offset AS last, sources.records AS records, sources.items AS items, sources.dead_lettered AS dead_lettered
    FROM batches ARRAY JOIN sources";

/// The last offset covered before a range. Looking back one range streams; it is exact as long as no ranges overlap.
const PREVIOUS: &str = "lagInFrame(last, 1, first - 1) OVER (PARTITION BY topic, partition ORDER BY first, last
    ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)";

/// The same when ranges overlap, and a long one may reach past its successor. Holds a partition's ranges in memory.
const FURTHEST: &str = "ifNull(maxOrNull(last) OVER (PARTITION BY topic, partition ORDER BY first, last
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), first - 1)";

#[derive(Row, Deserialize)]
struct CoverageRow {
    topic: String,
    partition: i32,
    ranges: u64,
    heartbeats: u64,
    first_offset: i64,
    last_offset: i64,
    records: u64,
    items: u64,
    dead_lettered: u64,
}

#[derive(Row, Deserialize)]
struct FaultRow {
    topic: String,
    partition: i32,
    gaps: u64,
    missing: u64,
    overlaps: u64,
    repeated: u64,
}

#[derive(Row, Deserialize)]
struct DuplicateRow {
    key: String,
    keys: u64,
    surplus: i64,
}

impl Warehouse {
    /// Compares everything with everything. Reads all of `batches`, `delivery_rates`, its roll-ups and the positions in `failures` and `alerts`.
    pub async fn audit(&self, options: &AuditOptions) -> Result<AuditReport, WarehouseError> {
        let auditor = Auditor { warehouse: self, options };
        // Asked first: what arrives while the rest is read can only be more.
        let behind = self.behind().await?;
        let (partitions, gaps, overlaps) = auditor.coverage().await?;
        let items = auditor.one(
            "SELECT sum(arraySum(sources.items)) AS read, sum(items) AS counted, sum(arraySum(ignored.count)) AS ignored,
                sum(arraySum(sources.dead_lettered)) AS dead_lettered FROM batches",
        );
        let items: Items = items.await?;
        let failures_counted = auditor.one("SELECT sum(hard + soft + deferred + late_bounces + complaints) FROM batches").await?;
        let failures_stored = auditor.one("SELECT count() FROM failures").await?;
        // Noted before they go: those that are still there are stored, not erased.
        let failures_erased = auditor
            .one(
                "SELECT uniqExact(kafka_topic, kafka_partition, kafka_offset) FROM erased_rows
                WHERE (kafka_topic, kafka_partition, kafka_offset) NOT IN
                    (SELECT kafka_topic, kafka_partition, kafka_offset FROM failures WHERE (kafka_topic, kafka_partition, kafka_offset)
                        IN (SELECT kafka_topic, kafka_partition, kafka_offset FROM erased_rows))",
            )
            .await?;
        let counts = auditor.counts().await?;
        let mut duplicates = Vec::new();
        for (table, key) in [
            ("batches", "kafka_topic, kafka_partition, kafka_offset"),
            ("failures", "kafka_topic, kafka_partition, kafka_offset"),
            ("failures", "source_topic, source_partition, source_offset, source_item"),
            // By position alone: every replica of the watch role writes every transition.
            ("alerts", "kafka_topic, kafka_partition, kafka_offset"),
        ] {
            duplicates.push(auditor.duplicates(table, key).await?);
        }
        let (torn_transactions, unfinished_transactions) = auditor.transactions().await?;
        Ok(AuditReport {
            behind,
            partitions,
            gaps,
            overlaps,
            items,
            counts,
            failures_counted,
            failures_stored,
            failures_erased,
            duplicates,
            torn_transactions,
            unfinished_transactions,
        })
    }
}

struct Auditor<'a> {
    warehouse: &'a Warehouse,
    options: &'a AuditOptions,
}

impl Auditor<'_> {
    async fn coverage(&self) -> Result<(Vec<Coverage>, Vec<OffsetRange>, Vec<OffsetRange>), WarehouseError> {
        let covered: Vec<CoverageRow> = self
            .all(&format!(
                "SELECT topic, partition, countIf(last >= first) AS ranges, countIf(last < first) AS heartbeats,
                    minIf(first, last >= first) AS first_offset, maxIf(last, last >= first) AS last_offset,
                    sum(records) AS records, sum(items) AS items, sum(dead_lettered) AS dead_lettered
                FROM ({RANGES}) GROUP BY topic, partition ORDER BY topic, partition"
            ))
            .await?;
        let mut faults = self.faults(PREVIOUS).await?;
        let mut previous = PREVIOUS;
        if faults.iter().any(|fault| fault.overlaps > 0) {
            previous = FURTHEST;
            faults = self.faults(previous).await?;
        }
        let partitions = covered.into_iter().map(|row| coverage(row, &faults)).collect();
        let gaps = self.listed(&faults, |f| f.gaps, previous, "previous + 1 AS from, first - 1 AS to", "first > previous + 1");
        let gaps = gaps.await?;
        let overlaps =
            self.listed(&faults, |f| f.overlaps, previous, "first AS from, least(last, previous) AS to", "first <= previous");
        Ok((partitions, gaps, overlaps.await?))
    }

    async fn faults(&self, previous: &str) -> Result<Vec<FaultRow>, WarehouseError> {
        let sql = format!(
            "SELECT topic, partition, countIf(first > previous + 1) AS gaps,
                toUInt64(sumIf(first - previous - 1, first > previous + 1)) AS missing, countIf(first <= previous) AS overlaps,
                toUInt64(sumIf(least(last, previous) - first + 1, first <= previous)) AS repeated
            FROM ({}) GROUP BY topic, partition HAVING gaps > 0 OR overlaps > 0",
            steps(previous)
        );
        self.all(&sql).await
    }

    async fn listed(
        &self,
        faults: &[FaultRow],
        number: fn(&FaultRow) -> u64,
        previous: &str,
        bounds: &str,
        condition: &str,
    ) -> Result<Vec<OffsetRange>, WarehouseError> {
        if faults.iter().all(|fault| number(fault) == 0) {
            return Ok(Vec::new());
        }
        self.all(&format!(
            "SELECT topic, partition, {bounds} FROM ({}) WHERE {condition} ORDER BY topic, partition, from LIMIT {}",
            steps(previous),
            self.options.list
        ))
        .await
    }

    async fn counts(&self) -> Result<Vec<Count>, WarehouseError> {
        let in_batches: Vec<_> =
            COUNTS.into_iter().chain(CATEGORIES.map(|(total, _)| total)).map(|c| format!("sum({c})")).collect();
        let in_rates = COUNTS.into_iter().map(|c| format!("sum({c})"));
        let maps = CATEGORIES.map(|(_, map)| format!("sum(arraySum(mapValues({map})))"));
        let in_rates: Vec<_> = in_rates.chain(maps).collect();
        let batches: Vec<u64> = self.one(&format!("SELECT [{}] FROM batches", in_batches.join(", "))).await?;
        let rates: Vec<u64> = self.one(&format!("SELECT [{}] FROM delivery_rates", in_rates.join(", "))).await?;
        let names = COUNTS.into_iter().chain(CATEGORIES.map(|(_, map)| map));
        let sums = batches.into_iter().zip(rates);
        let count = |(name, (batches, delivery_rates))| Count { name, batches, delivery_rates, rollups: Vec::new() };
        let mut counts: Vec<Count> = names.zip(sums).map(count).collect();
        for Rollup { table, .. } in ROLLUPS {
            let sums: Vec<u64> = self.one(&format!("SELECT [{}] FROM {table}", in_rates.join(", "))).await?;
            std::iter::zip(&mut counts, sums).for_each(|(count, sum)| count.rollups.push((table, sum)));
        }
        Ok(counts)
    }

    async fn duplicates(&self, table: &'static str, key: &'static str) -> Result<Duplicates, WarehouseError> {
        let shown: Vec<_> = key.split(", ").map(|column| format!("toString({column})")).collect();
        let rows: Vec<DuplicateRow> = self
            .all(&format!(
                "SELECT concatWithSeparator('/', {}) AS key, count() OVER () AS keys, sum(more) OVER () AS surplus
                FROM (SELECT {key}, count() - 1 AS more FROM {table} GROUP BY {key} HAVING more > 0)
                ORDER BY {key} LIMIT {}",
                shown.join(", "),
                self.options.list.max(1)
            ))
            .await?;
        let (keys, surplus_rows) = rows.first().map_or((0, 0), |row| (row.keys, row.surplus.unsigned_abs()));
        let examples = rows.into_iter().map(|row| row.key).take(self.options.list).collect();
        Ok(Duplicates { table, key, keys, surplus_rows, examples })
    }

    /// Parts of one transaction stand in the log in order, among those of other producers. Most transactions have one part: only the
    /// others are sorted.
    async fn transactions(&self) -> Result<(u64, u64), WarehouseError> {
        let broken: u64 = self
            .one(
                "SELECT countIf(expected = of ? part != 0 : (part != expected OR parts != of)) FROM
                    (SELECT part, parts, lagInFrame(part + 1, 1, 0) OVER log AS expected, lagInFrame(parts, 1, 0) OVER log AS of
                    FROM batches WHERE parts != 1 WINDOW log AS (PARTITION BY kafka_topic, kafka_partition, producer
                        ORDER BY kafka_offset ROWS BETWEEN 1 PRECEDING AND CURRENT ROW))",
            )
            .await?;
        // The last part seen of a producer's last split transaction: followed by another transaction it is torn, else unfinished.
        let (abandoned, unfinished): (u64, u64) = self
            .one(
                "SELECT countIf(unended AND last_split < last), countIf(unended AND last_split = last) FROM
                    (SELECT maxIf(kafka_offset, parts != 1) AS last_split, max(kafka_offset) AS last, countIf(parts != 1) AS split,
                        split > 0 AND argMaxIf(part + 1 < parts, kafka_offset, parts != 1) AS unended
                    FROM batches GROUP BY kafka_topic, kafka_partition, producer)",
            )
            .await?;
        Ok((broken + abandoned, unfinished))
    }

    fn query(&self, sql: &str) -> Query {
        let query = self.warehouse.client().query_raw(sql);
        query
            .with_setting("max_bytes_before_external_sort", SPILL_BYTES)
            .with_setting("max_bytes_before_external_group_by", SPILL_BYTES)
            .with_setting("optimize_aggregation_in_order", "1")
    }

    async fn one<T: RowOwned + RowRead>(&self, sql: &str) -> Result<T, WarehouseError> {
        self.warehouse.timed_within(self.options.timeout, "audit", self.query(sql).fetch_one()).await
    }

    async fn all<T: RowOwned + RowRead>(&self, sql: &str) -> Result<Vec<T>, WarehouseError> {
        self.warehouse.timed_within(self.options.timeout, "audit", self.query(sql).fetch_all()).await
    }
}

/// Each range that covers something, beside the last offset covered before it.
fn steps(previous: &str) -> String {
    format!("SELECT topic, partition, first, last, {previous} AS previous FROM ({RANGES}) WHERE last >= first")
}

fn coverage(row: CoverageRow, faults: &[FaultRow]) -> Coverage {
    let CoverageRow { topic, partition, ranges, heartbeats, first_offset, last_offset, records, items, dead_lettered } = row;
    let fault = faults.iter().find(|fault| fault.topic == topic && fault.partition == partition);
    Coverage {
        first_offset: (ranges > 0).then_some(first_offset),
        last_offset: (ranges > 0).then_some(last_offset),
        gaps: fault.map_or(0, |f| f.gaps),
        missing_offsets: fault.map_or(0, |f| f.missing),
        overlaps: fault.map_or(0, |f| f.overlaps),
        repeated_offsets: fault.map_or(0, |f| f.repeated),
        topic,
        partition,
        ranges,
        heartbeats,
        records,
        items,
        dead_lettered,
    }
}
