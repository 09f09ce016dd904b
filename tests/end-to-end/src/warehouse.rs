//! ClickHouse as the tests see it: what the tables of a pipeline hold.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bounceflow_stack::ClickHouse;
use serde_json::Value;

use crate::{Pipeline, until};

/// Tables that the sink or its views write to.
pub const TABLES: [&str; 7] =
    ["failures", "batches", "delivery_rates", "hourly_rates", "daily_rates", "daily_rates_by_identity", "alerts"];

/// What is counted, as the columns of `delivery_rates` and the simulator's file name it.
pub const COUNTS: [&str; 8] = ["deliveries", "first_attempts", "hard", "soft", "deferred", "complaints", "late_bounces", "drops"];

/// Counts by ISP and identity.
pub type Totals = BTreeMap<(String, String), [u64; 8]>;

/// A block that ClickHouse took from the sink, as the log of queries has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the token names them")]
pub struct Insert {
    pub table: String,
    pub topic: String,
    pub partition: i32,
    pub first: i64,
    pub last: i64,
    /// When it began, milliseconds since the epoch.
    pub at: i64,
}

impl Pipeline {
    /// Every insert of this pipeline's sink that ClickHouse took, repeats included, in order of time.
    pub fn inserts(&self) -> Result<Vec<Insert>> {
        self.value("SYSTEM FLUSH LOGS query_log")?;
        let lines = self.value(
            "SELECT Settings['insert_deduplication_token'], toUnixTimestamp64Milli(query_start_time_microseconds) FROM system.query_log
            WHERE type = 'QueryFinish' AND query_kind = 'Insert' AND has(databases, '{db}')
                AND startsWith(Settings['insert_deduplication_token'], '{db}:')
            ORDER BY query_start_time_microseconds",
        )?;
        let insert = |line: &str| -> Result<Insert> {
            let (token, at) = line.split_once('\t').context("a short row")?;
            let mut parts = token.split(':').skip(1);
            let mut part = || parts.next().with_context(|| format!("the token {token:?} is too short"));
            let (table, topic, partition, range) = (part()?, part()?, part()?, part()?);
            let (first, last) = range.split_once('-').context("a token without a range")?;
            Ok(Insert {
                table: table.to_owned(),
                topic: topic.to_owned(),
                partition: partition.parse()?,
                first: first.parse()?,
                last: last.parse()?,
                at: at.parse()?,
            })
        };
        lines.lines().map(insert).collect()
    }

    /// One value; `{db}` stands for the database.
    pub fn value(&self, sql: &str) -> Result<String> {
        Ok(self
            .servers
            .clickhouse
            .query_within(Duration::from_secs(60), &sql.replace("{db}", self.database()))?
            .trim()
            .to_owned())
    }

    /// One number.
    pub fn count(&self, sql: &str) -> Result<u64> {
        let value = self.value(sql)?;
        value.parse().with_context(|| format!("{sql}: {value:?} is no number"))
    }

    /// Waits until a query gives this.
    pub fn wait_for_value(&self, sql: &str, expect: &str) -> Result<()> {
        until(&format!("{sql} to be {expect}"), || {
            let value = self.value(sql)?;
            ensure!(value == expect, "it is {value}");
            Ok(())
        })
    }

    /// Merges every table, so that what merges lose is lost before it is looked for.
    pub fn optimize(&self) -> Result<()> {
        for table in TABLES {
            self.value(&format!("OPTIMIZE TABLE {{db}}.{table} FINAL"))?;
        }
        Ok(())
    }

    /// What ClickHouse counted, by ISP and identity.
    pub fn totals(&self) -> Result<Totals> {
        self.totals_at(&self.servers.clickhouse)
    }

    /// The same at a server of the test's own.
    pub fn totals_at(&self, server: &ClickHouse) -> Result<Totals> {
        self.totals_in(server, self.database())
    }

    /// The same of another database.
    pub fn totals_in(&self, server: &ClickHouse, database: &str) -> Result<Totals> {
        let sums = COUNTS.map(|count| format!("sum({count})")).join(", ");
        let sql = format!("SELECT isp, identity, {sums} FROM {database}.delivery_rates GROUP BY isp, identity");
        let text = server.query_within(Duration::from_secs(60), &sql)?;
        let mut totals = Totals::new();
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let (key, counts) = fields.split_at_checked(2).context("a short row")?;
            let counts = counts.iter().map(|n| n.parse::<u64>()).collect::<std::result::Result<Vec<_>, _>>()?;
            totals.insert((key[0].to_owned(), key[1].to_owned()), counts.try_into().map_err(|_| anyhow::anyhow!("{line}"))?);
        }
        Ok(totals)
    }

    /// What the simulator says it sent, from its file.
    pub fn expected(&self, file: &str) -> Result<(Value, Totals)> {
        let expected: Value = serde_json::from_slice(&std::fs::read(self.folder().join(file))?)?;
        ensure!(expected["complete"] == true, "the simulator did not finish");
        let rows = expected["by_isp_identity"].as_array().context("no rows")?;
        let row = |row: &Value| -> Result<_> {
            let text = |name| row[name].as_str().map(str::to_owned).context("a row without its key");
            Ok(((text("isp")?, text("identity")?), COUNTS.map(|count| row[count].as_u64().unwrap_or(0))))
        };
        let totals = rows.iter().map(row).collect::<Result<Totals>>()?;
        Ok((expected, totals))
    }
}

/// The counts that differ, in words, and how many events are missing and how many too many in total.
pub fn differences(expected: &Totals, found: &Totals) -> (Vec<String>, u64, u64) {
    let (mut words, mut lost, mut doubled) = (Vec::new(), 0, 0);
    let nothing = [0; 8];
    let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        let (expected, found) = (expected.get(key).unwrap_or(&nothing), found.get(key).unwrap_or(&nothing));
        for (i, count) in COUNTS.iter().enumerate().filter(|(i, _)| expected[*i] != found[*i]) {
            words.push(format!("{} × {}: {count}: {} sent, {} counted", key.0, key.1, expected[i], found[i]));
            // First attempts are counted among the others once more.
            if *count != "first_attempts" {
                lost += expected[i].saturating_sub(found[i]);
                doubled += found[i].saturating_sub(expected[i]);
            }
        }
    }
    (words, lost, doubled)
}
