//! The schema: numbered files of `schemas/clickhouse`, applied once each and recorded with their checksum.
//!
//! Every statement can run again (`IF NOT EXISTS`), so a migration interrupted between two statements is simply run once more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::check::OLDEST;
use crate::client::Warehouse;
use crate::error::WarehouseError;
use crate::replication::{CREATE_TABLE, Replication, code, created, is_insert, named_behind};
use crate::sharding::{Sharding, is_shown};

/// A migration this binary holds.
pub(crate) struct Migration {
    pub(crate) version: u32,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
    /// Checksums of texts it had before, under which a database is as right as under this one.
    former: &'static [&'static str],
}

macro_rules! migrations {
    ($($version:literal $name:literal $file:literal $(formerly $former:literal)*)*) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../../schemas/clickhouse/", $file)),
            former: &[$($former),*],
        }),*]
    };
}

pub(crate) const MIGRATIONS: &[Migration] = migrations! {
    // Before, `failures` was sorted by (isp, identity, event_time) in granules of 8192: as right, slower by ISP.
    1 "failures" "0001_failures.sql" formerly "36c84b06ba9e80d3f4db747fbe46e913b38d536db5b71d26db5336a651500c2e"
    2 "batches" "0002_batches.sql"
    3 "delivery_rates" "0003_delivery_rates.sql"
    4 "views" "0004_views.sql"
    5 "alerts" "0005_alerts.sql"
    6 "pipelines" "0006_pipelines.sql"
    7 "erasure" "0007_erasure.sql"
    8 "replays" "0008_replays.sql"
    9 "rollups" "0009_rollups.sql"
    10 "views" "0010_views.sql"
    11 "weeks" "0011_weeks.sql"
    12 "storage" "0012_storage.sql"
    13 "shards" "0013_shards.sql"
    14 "samples" "0014_samples.sql"
};

/// A migration that was applied just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
}

#[derive(Row, Deserialize)]
struct Recorded {
    version: u32,
    checksum: String,
}

const HISTORY: &str = "CREATE TABLE IF NOT EXISTS schema_migrations
(
    version UInt32,
    name String,
    checksum String COMMENT 'SHA-256 of the file',
    applied_at DateTime('UTC')
)
ENGINE = MergeTree ORDER BY version
COMMENT 'Which migrations of bounceflow were applied: the sink refuses a database that does not match its binary'";

const HISTORY_TABLE: &str = "schema_migrations";

/// How long `migrate` waits for a replica to learn a change of a table that another one made.
const CATCH_UP_S: u64 = 60;

const UNKNOWN_TABLE: u32 = 60;
const UNKNOWN_DATABASE: u32 = 81;

impl Warehouse {
    /// Brings the database to this binary's schema; creates it where it does not exist. `progress` is told each step.
    pub async fn migrate(&self, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Applied>, WarehouseError> {
        let applied = self.apply(None, progress).await?;
        self.keep(progress).await?;
        Ok(applied)
    }

    /// Applies what this server lacks: by itself, or as a replica that `lead` is ahead of.
    pub(crate) async fn apply(
        &self,
        lead: Option<&Self>,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Vec<Applied>, WarehouseError> {
        let recorded = self.prepare().await?;
        let mut applied = Vec::new();
        for migration in MIGRATIONS.iter().filter(|m| !recorded.contains_key(&m.version)) {
            let Migration { version, name, .. } = migration;
            progress(&format!("{version:04} {name}"));
            self.run(migration, lead).await?;
            self.record(migration).await?;
            applied.push(Applied { version: *version, name });
        }
        self.define_views().await?;
        Ok(applied)
    }

    /// Makes the database and its history, and says what was applied.
    pub(crate) async fn prepare(&self) -> Result<BTreeMap<u32, String>, WarehouseError> {
        self.check_server(OLDEST).await?;
        let database = self.database();
        let create = format!("CREATE DATABASE IF NOT EXISTS `{database}`");
        let create = self.replicated(&create, Replication::on_cluster)?;
        self.timed("create the database", self.server().query_raw(&create).execute()).await?;
        let history = self.replicated(HISTORY, Replication::rewrite_history)?;
        self.timed("create schema_migrations", self.client().query_raw(&history).execute()).await?;
        let recorded = self.recorded().await?;
        self.compare(&recorded)?;
        Ok(recorded)
    }

    /// Runs the statements of a migration: by itself, or as a replica that `lead` is ahead of.
    async fn run(&self, migration: &Migration, lead: Option<&Self>) -> Result<(), WarehouseError> {
        let what = format!("apply migration {:04} ({})", migration.version, migration.name);
        for statement in statements(migration.sql) {
            let statement = self.replicated(statement, Replication::rewrite)?;
            let own = match lead {
                None => Some(statement),
                Some(lead) => self.own_part(lead, statement).await?,
            };
            if let Some(statement) = own {
                self.timed(&what, self.client().query_raw(&statement).execute()).await?;
            }
        }
        Ok(())
    }

    /// Makes here what `lead` has and this server lacks of what was applied, without `ON CLUSTER`: it came when the history, which is one
    /// for the cluster, said of everything that it was done.
    pub(crate) async fn join(
        &self,
        lead: &Self,
        recorded: &BTreeMap<u32, String>,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), WarehouseError> {
        let missing = self.missing(made(recorded, |_| true)).await?;
        // What an operator has dropped everywhere is nothing to take over.
        let of_lead = lead.missing(made(recorded, |_| true)).await?;
        if missing.iter().all(|name| of_lead.contains(name)) {
            return Ok(());
        }
        let url = &self.settings.url;
        if missing.contains(&HISTORY_TABLE) {
            return Err(WarehouseError::Settings(format!(
                "{url} is not one of the servers of [clickhouse] cluster: what runs ON CLUSTER makes nothing there. Name it in remote_servers \
                 of each server, or take it out of url"
            )));
        }
        progress(&format!("at {url}, which lacks {}", missing.join(", ")));
        let mut alone = self.clone();
        if let Some(replication) = &mut alone.settings.replication {
            replication.cluster = None;
        }
        alone.check_server(OLDEST).await?;
        for migration in MIGRATIONS.iter().filter(|m| recorded.contains_key(&m.version)) {
            alone.run(migration, Some(lead)).await?;
        }
        alone.define_views().await
    }

    /// Brings what this server shows of all shards to this binary's schema, once every shard is there. How many shards it sees.
    pub(crate) async fn show_all(&self, sharding: &Sharding) -> Result<u64, WarehouseError> {
        let all = self.over_all();
        let database = all.database();
        let create = format!("CREATE DATABASE IF NOT EXISTS `{database}`");
        all.timed("create the database", all.server().query_raw(&create).execute()).await?;
        all.timed("create schema_migrations", all.client().query_raw(HISTORY).execute()).await?;
        let recorded = all.recorded().await?;
        all.compare(&recorded)?;
        for statement in sharding.tables(self.database()) {
            all.timed("show tables of all shards", all.client().query_raw(&statement).execute()).await?;
        }
        for migration in MIGRATIONS.iter().filter(|m| !recorded.contains_key(&m.version)) {
            for statement in statements(migration.sql).filter(|statement| is_shown(statement)) {
                let what = format!("apply migration {:04} ({}) over all shards", migration.version, migration.name);
                all.timed(&what, all.client().query_raw(statement).execute()).await?;
            }
            all.record(migration).await?;
        }
        all.define_views().await?;
        let seen = all.client().query("SELECT count() FROM cluster(?, system.one)").bind(&sharding.cluster);
        all.timed("reach all shards", seen.fetch_one()).await
    }

    async fn record(&self, migration: &Migration) -> Result<(), WarehouseError> {
        let record = self
            .client()
            .query("INSERT INTO schema_migrations SELECT ?, ?, ?, now('UTC')")
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum(migration.sql));
        self.timed("record a migration", record.execute()).await
    }

    /// The newest migration that was applied here (0: none), and how much of what was applied is missing all the same.
    pub(crate) async fn version(&self) -> Result<(u32, usize), WarehouseError> {
        let recorded = self.recorded_if_any().await?;
        let missing = self.missing(made(&recorded, |_| true)).await?;
        Ok((recorded.last_key_value().map_or(0, |(version, _)| *version), missing.len()))
    }

    /// Which of these tables and views are not here.
    async fn missing(&self, made: BTreeSet<&'static str>) -> Result<Vec<&'static str>, WarehouseError> {
        let query = self.server().query("SELECT name FROM system.tables WHERE database = ?").bind(self.database());
        let there: BTreeSet<String> = self.timed("list tables", query.fetch_all::<String>()).await?.into_iter().collect();
        Ok(made.into_iter().filter(|name| !there.contains(*name)).collect())
    }

    /// Whether this server has everything that rows are stored in. Where the history is one for a cluster it does not say so, and a block
    /// that came before the view behind its table would never be counted.
    pub(crate) async fn check_whole(&self, recorded: &BTreeMap<u32, String>) -> Result<(), WarehouseError> {
        if self.settings.replication.as_ref().is_none_or(|replication| replication.cluster.is_none()) {
            return Ok(());
        }
        let missing = self.missing(made(recorded, |statement| !is_shown(statement))).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let (url, database) = (self.settings.url.clone(), self.database().to_owned());
        Err(WarehouseError::Incomplete { url, database, missing: missing.join(", ") })
    }

    /// What is left of a statement for a replica whose tables `lead` holds as they are to be; none: it has nothing to do.
    ///
    /// A table that joins others in Keeper must be as they are now, not as it once was created. Rows and columns come from there by
    /// themselves; views and settings do not.
    async fn own_part(&self, lead: &Self, statement: String) -> Result<Option<String>, WarehouseError> {
        if is_insert(&statement) {
            return Ok(None);
        }
        if let Some(table) = named_behind(CREATE_TABLE, &statement) {
            let created = lead.definition(table).await?;
            return Ok(created.map(|sql| sql.replacen("CREATE TABLE ", CREATE_TABLE, 1)));
        }
        match named_behind("ALTER TABLE ", &statement) {
            Some(table) if !code(&statement).contains(" MODIFY SETTING ") => self.catch_up(lead, table).await.map(|()| None),
            _ => Ok(Some(statement)),
        }
    }

    async fn definition(&self, table: &str) -> Result<Option<String>, WarehouseError> {
        let query = "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = ?";
        let query = self.client().query(query).bind(table);
        self.timed("read system.tables", query.fetch_optional::<String>()).await
    }

    /// Waits until a table is here as it is at `lead`, but for its settings.
    async fn catch_up(&self, lead: &Self, table: &str) -> Result<(), WarehouseError> {
        let shape = |sql: Option<String>| sql.and_then(|sql| sql.split(" SETTINGS ").next().map(str::to_owned));
        for _ in 0..CATCH_UP_S * 10 {
            if shape(self.definition(table).await?) == shape(lead.definition(table).await?) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(WarehouseError::Behind(format!(
            "{}.{table} is not yet changed as it was at {} {CATCH_UP_S} s ago; when this replica reaches Keeper again, run this once more",
            self.database(),
            lead.settings.url
        )))
    }

    /// Whether the database is exactly at this binary's schema.
    pub(crate) async fn check_version(&self) -> Result<(), WarehouseError> {
        let recorded = self.recorded_if_any().await?;
        self.compare(&recorded)?;
        match MIGRATIONS.iter().find(|m| !recorded.contains_key(&m.version)) {
            None => self.check_whole(&recorded).await,
            Some(_) => Err(WarehouseError::TooOld {
                database: self.database().to_owned(),
                found: recorded.last_key_value().map_or(0, |(version, _)| *version),
                needed: newest(),
            }),
        }
    }

    async fn recorded_if_any(&self) -> Result<BTreeMap<u32, String>, WarehouseError> {
        match self.recorded().await {
            Err(WarehouseError::Refused { code: Some(UNKNOWN_TABLE | UNKNOWN_DATABASE), .. }) => Ok(BTreeMap::new()),
            recorded => recorded,
        }
    }

    async fn recorded(&self) -> Result<BTreeMap<u32, String>, WarehouseError> {
        let query = self.client().query_raw("SELECT DISTINCT version, checksum FROM schema_migrations ORDER BY version");
        let rows = self.timed("read schema_migrations", query.fetch_all::<Recorded>()).await?;
        Ok(rows.into_iter().map(|row| (row.version, row.checksum)).collect())
    }

    fn compare(&self, recorded: &BTreeMap<u32, String>) -> Result<(), WarehouseError> {
        let database = || self.database().to_owned();
        if let Some((found, _)) = recorded.last_key_value().filter(|(version, _)| **version > newest()) {
            return Err(WarehouseError::TooNew { database: database(), found: *found, known: newest() });
        }
        for migration in MIGRATIONS {
            let embedded = checksum(migration.sql);
            let known = |applied: &str| applied == embedded || migration.former.contains(&applied);
            if let Some(applied) = recorded.get(&migration.version).filter(|applied| !known(applied)) {
                return Err(WarehouseError::Edited {
                    version: migration.version,
                    name: migration.name.to_owned(),
                    database: database(),
                    applied: applied.clone(),
                    embedded,
                });
            }
        }
        Ok(())
    }
}

/// Names of what the recorded migrations have made by statements that are `wanted`, and of their history.
fn made(recorded: &BTreeMap<u32, String>, wanted: fn(&str) -> bool) -> BTreeSet<&'static str> {
    let applied = MIGRATIONS.iter().filter(|m| recorded.contains_key(&m.version));
    let made = applied.flat_map(|m| statements(m.sql)).filter(|statement| wanted(statement)).filter_map(created);
    made.chain([HISTORY_TABLE]).collect()
}

fn newest() -> u32 {
    MIGRATIONS.last().map_or(0, |m| m.version)
}

fn checksum(sql: &str) -> String {
    Sha256::digest(sql).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The statements of a file: each ends with `;` at the end of a line, and no other line does.
pub(crate) fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_embedded_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/clickhouse");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".sql"))
            .collect();
        files.sort();
        let embedded: Vec<_> = MIGRATIONS.iter().map(|m| format!("{:04}_{}.sql", m.version, m.name)).collect();
        assert_eq!(files, embedded);
        assert!(MIGRATIONS.iter().zip(1..).all(|(m, n)| m.version == n));
    }

    #[test]
    fn what_the_recorded_migrations_made_is_known_by_name() {
        let recorded =
            |versions: &[u32]| -> BTreeMap<u32, String> { versions.iter().map(|version| (*version, String::new())).collect() };
        assert_eq!(made(&recorded(&[]), |_| true), BTreeSet::from([HISTORY_TABLE]));
        let third = made(&recorded(&[1, 3]), |_| true);
        assert_eq!(third, BTreeSet::from(["failures", "delivery_rates", "delivery_rates_mv", HISTORY_TABLE]));
        let all: Vec<u32> = MIGRATIONS.iter().map(|m| m.version).collect();
        let (all, stored) = (made(&recorded(&all), |_| true), made(&recorded(&all), |statement| !is_shown(statement)));
        assert!(stored.is_subset(&all), "{stored:?}");
        for (name, is_stored) in [
            ("batches", true),
            ("daily_rates_mv", true),
            ("retention", true),
            ("failure_details", false),
            ("isp_profiles", false),
        ] {
            assert!(all.contains(name) && stored.contains(name) == is_stored, "{name}: {stored:?}");
        }
    }

    #[test]
    fn every_statement_can_run_again() {
        for migration in MIGRATIONS {
            assert!(migration.sql.ends_with(";\n"), "{}", migration.name);
            for statement in statements(migration.sql) {
                let code = statement.lines().find(|line| !line.is_empty() && !line.starts_with("--")).unwrap();
                // The rows of thresholds are replaced by themselves, and the newest of retention holds.
                let repeatable =
                    ["IF NOT EXISTS", "IF EXISTS", "CREATE OR REPLACE VIEW", "INSERT INTO thresholds", "INSERT INTO retention"];
                let repeatable = repeatable.iter().any(|words| code.contains(words));
                assert!(repeatable, "{code}");
            }
        }
    }

    #[test]
    fn nothing_depends_on_the_clock_of_the_server() {
        for migration in MIGRATIONS {
            assert!(!migration.sql.contains(" DEFAULT "), "{}", migration.name);
            // A view that nothing is stored of may ask for the day, and a comment may name it.
            for statement in statements(migration.sql).filter(|s| !s.contains("CREATE OR REPLACE VIEW reporting_day")) {
                let code = statement.split("\nCOMMENT '").next().unwrap().to_lowercase();
                assert!(["now(", "now64(", "today("].iter().all(|clock| !code.contains(clock)), "{code}");
            }
        }
    }

    #[test]
    fn every_view_says_rates_and_levels_alike() {
        let all: String = MIGRATIONS.iter().filter(|m| m.version > 8).map(|m| m.sql).collect();
        let alike = |made: Vec<&str>, expect: &str, least: usize| {
            assert!(made.len() >= least && made.iter().all(|m| *m == expect), "{expect}: {made:?}");
        };
        for (rate, n, of) in [
            ("bounce_rate", "bounces", "outcomes"),
            ("hard_rate", "hard", "outcomes"),
            ("soft_rate", "soft", "outcomes"),
            ("blocked_rate", "blocked", "outcomes"),
            ("deferred_rate", "deferred", "attempts"),
            ("complaint_rate", "complaints", "deliveries"),
            ("late_bounce_rate", "late_bounces", "deliveries"),
        ] {
            for suffix in ["", "_last_week"] {
                let expect = format!("{n}{suffix} / nullIf({of}{suffix}, 0) AS {rate}{suffix}");
                let wanted = format!(" AS {rate}{suffix},");
                let made = all.lines().filter_map(|line| line.trim().strip_suffix(',').filter(|_| line.ends_with(&wanted)));
                alike(made.collect(), &expect, 5);
            }
        }
        let levels = all.split("][1 + arrayMax(").skip(1).filter_map(|rest| rest.split_once("] AS "));
        let levels: Vec<&str> = levels.map(|(level, _)| level).collect();
        assert!(levels.len() == 10 && levels.iter().all(|l| *l == levels[0]), "{levels:?}");
    }
}
