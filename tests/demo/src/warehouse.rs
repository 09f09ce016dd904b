//! The questions put to ClickHouse. Figures come from its views and tables as they are; nothing is worked out here that they say.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bounceflow_stack::ClickHouse;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::expected::{Pair, Totals};

/// The name bounceflow has by default.
pub(crate) const DATABASE: &str = "bounceflow";

const WITHIN: Duration = Duration::from_secs(10);
/// Over how many seconds the present is looked at.
pub(crate) const RECENT: u32 = 30;
/// A rate of fewer outcomes says nothing.
const LEAST_OUTCOMES: u32 = 100;

pub(crate) struct Warehouse<'a> {
    server: &'a ClickHouse,
}

/// What `batches` and `failures` add up to.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Stored {
    pub(crate) records: u64,
    pub(crate) ignored: u64,
    pub(crate) dead_lettered: u64,
    /// Failures counted in `batches`.
    pub(crate) counted_failures: u64,
    /// Rows of `failures`.
    pub(crate) failures: u64,
}

/// A row of `failure_breakdown`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Breakdown {
    pub(crate) event_type: String,
    pub(crate) severity: String,
    pub(crate) category: String,
    pub(crate) n: u64,
}

/// A row of `isp_profiles` or `identity_profiles`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) deliveries: u64,
    pub(crate) hard: u64,
    pub(crate) soft: u64,
    pub(crate) deferred: u64,
    pub(crate) bounce_rate: Option<f64>,
    /// Bounces by category.
    pub(crate) categories: BTreeMap<String, u64>,
}

/// Whose mail bounces most just now.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Worst {
    pub(crate) isp: String,
    pub(crate) identity: String,
    pub(crate) bounces: u64,
    pub(crate) outcomes: u64,
    pub(crate) categories: BTreeMap<String, u64>,
}

impl<'a> Warehouse<'a> {
    pub(crate) fn new(server: &'a ClickHouse) -> Self {
        Self { server }
    }

    /// What is compared at the end must not be mixed with what was there before.
    pub(crate) fn is_new(&self) -> Result<()> {
        let there = self.server.query_within(WITHIN, &format!("EXISTS DATABASE {DATABASE}"))?;
        ensure!(there.trim() == "0", "this ClickHouse already has a database {DATABASE}: the demo needs one without");
        Ok(())
    }

    /// Adds up what merges will add up some day, so that what they would lose is lost before it is looked for.
    pub(crate) fn merge(&self) -> Result<()> {
        self.server.query(&format!("OPTIMIZE TABLE {DATABASE}.delivery_rates FINAL")).map(drop)
    }

    pub(crate) fn stored(&self) -> Result<Stored> {
        let stored = self.rows(&format!(
            "SELECT sum(arraySum(sources.records)) AS records, sum(arraySum(ignored.count)) AS ignored,
                sum(arraySum(sources.dead_lettered)) AS dead_lettered,
                sum(hard + soft + deferred + late_bounces + complaints) AS counted_failures,
                (SELECT count() FROM {DATABASE}.failures) AS failures
            FROM {DATABASE}.batches"
        ))?;
        stored.into_iter().next().context("ClickHouse gave no row")
    }

    pub(crate) fn breakdown(&self) -> Result<Vec<Breakdown>> {
        self.rows(&format!(
            "SELECT event_type, severity, category, sum(failures) AS n FROM {DATABASE}.failure_breakdown
            GROUP BY event_type, severity, category ORDER BY n DESC, category"
        ))
    }

    pub(crate) fn isps(&self) -> Result<Vec<Profile>> {
        self.profiles("isp_profiles", "isp")
    }

    pub(crate) fn identities(&self) -> Result<Vec<Profile>> {
        self.profiles("identity_profiles", "identity")
    }

    /// The views are by day; a demo may run past midnight.
    fn profiles(&self, view: &str, key: &str) -> Result<Vec<Profile>> {
        self.rows(&format!(
            "SELECT {key} AS name, sum(p.deliveries) AS deliveries, sum(p.hard) AS hard, sum(p.soft) AS soft,
                sum(p.deferred) AS deferred, sum(p.bounces) / nullIf(sum(p.outcomes), 0) AS bounce_rate,
                sumMap(p.bounce_categories) AS categories
            FROM {DATABASE}.{view} AS p GROUP BY name ORDER BY sum(p.attempts) DESC, name LIMIT 40"
        ))
    }

    /// Of 10 s buckets, as `batches` keeps them: `delivery_rates` knows minutes only.
    pub(crate) fn worst(&self) -> Result<Option<Worst>> {
        let worst = self.rows(&format!(
            "SELECT rows.isp AS isp, rows.identity AS identity, sum(rows.hard + rows.soft) AS bounces,
                sum(rows.deliveries) + bounces AS outcomes, sumMap(rows.bounce_categories) AS categories
            FROM {DATABASE}.batches ARRAY JOIN rows
            WHERE log_time >= now() - {RECENT} AND rows.bucket >= now() - {RECENT}
            GROUP BY isp, identity HAVING outcomes >= {LEAST_OUTCOMES}
            ORDER BY bounces / outcomes DESC, isp, identity LIMIT 1"
        ))?;
        Ok(worst.into_iter().next())
    }

    /// Everything counted, by ISP and identity.
    pub(crate) fn pairs(&self) -> Result<Vec<Pair>> {
        let sums = Totals::COLUMNS.map(|column| format!("sum(r.{column}) AS {column}")).join(", ");
        self.rows(&format!("SELECT isp, identity, {sums} FROM {DATABASE}.delivery_rates AS r GROUP BY isp, identity"))
    }

    fn rows<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>> {
        let sql = format!("{sql} SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow");
        let text = self.server.query_within(WITHIN, &sql)?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("ClickHouse gave {line}"))).collect()
    }
}
