//! What a statement of a migration becomes where every table lives on several servers. Pure.
//!
//! The files of `schemas/clickhouse` say what one server holds and stay the only source. The engine, the window of tokens and
//! `ON CLUSTER` are all that differs, and all of it is written here.

use crate::client::Warehouse;
use crate::error::WarehouseError;

/// Where tables are registered unless the configuration says otherwise. The server replaces what stands in braces.
pub const DEFAULT_PATH: &str = "/clickhouse/tables/{shard}/{database}/{table}";

/// For how long a replicated table remembers tokens, in seconds: as long as an intent may be repeated.
pub(crate) const WINDOW_SECONDS: u64 = 7 * 24 * 3600;

/// How tables are replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// Path of a table in ClickHouse Keeper; it must name `{table}`. All replicas of a shard have the same one.
    pub path: String,
    /// Cluster whose servers run each statement (`ON CLUSTER`); none: `migrate` runs it at each address itself.
    pub cluster: Option<String>,
}

impl Replication {
    /// Every mistake in it, at once.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !self.path.starts_with('/') || !self.path.contains("{table}") || self.path.contains(['\'', '\\']) {
            mistakes.push(format!("replica_path {:?} must begin with / and name {{table}}, without quotes", self.path));
        }
        mistakes.extend(self.cluster.as_deref().and_then(cluster_mistake));
        mistakes
    }

    /// A statement as the replicas of a shard run it.
    pub fn rewrite(&self, statement: &str) -> Result<String, WarehouseError> {
        self.on_cluster(&replicated(statement, &self.path, "{replica}"))
    }

    /// The table of what was applied: with `ON CLUSTER` one for all shards, since it is written once; else each server has its own.
    pub(crate) fn rewrite_history(&self, statement: &str) -> Result<String, WarehouseError> {
        match &self.cluster {
            None => Ok(statement.to_owned()),
            Some(_) => self.on_cluster(&replicated(statement, &self.path.replace("{shard}", "all"), "{shard}-{replica}")),
        }
    }

    /// With `ON CLUSTER` behind the name of what is created, altered or dropped.
    pub(crate) fn on_cluster(&self, statement: &str) -> Result<String, WarehouseError> {
        let Some(cluster) = &self.cluster else { return Ok(statement.to_owned()) };
        // Rows are taken by one replica, and come to the others by themselves.
        if is_insert(statement) {
            return Ok(statement.to_owned());
        }
        let begin = begin_of_code(statement);
        let head = HEADS.iter().find(|head| statement[begin..].starts_with(*head)).ok_or_else(|| {
            let line = statement[begin..].lines().next().unwrap_or_default();
            WarehouseError::Settings(format!("a statement that cannot be run ON CLUSTER: {line}"))
        })?;
        let name = begin + head.len();
        let end = statement[name..].find(|c: char| c.is_whitespace()).map_or(statement.len(), |length| name + length);
        Ok(format!("{} ON CLUSTER `{cluster}`{}", &statement[..end], &statement[end..]))
    }
}

impl Warehouse {
    /// A statement as it is run here: one server's own, or as `rewrite` has it for tables that are replicated.
    pub(crate) fn replicated(
        &self,
        statement: &str,
        rewrite: fn(&Replication, &str) -> Result<String, WarehouseError>,
    ) -> Result<String, WarehouseError> {
        self.settings.replication.as_ref().map_or_else(|| Ok(statement.to_owned()), |replication| rewrite(replication, statement))
    }
}

/// What is wrong with the name of a cluster.
pub(crate) fn cluster_mistake(cluster: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '{' | '}');
    let sound = !cluster.is_empty() && cluster.chars().all(plain);
    (!sound).then(|| "cluster must be made of letters, digits, _, - and .".to_owned())
}

pub(crate) const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS ";

/// How statements of migrations may begin; a name follows.
const HEADS: &[&str] = &[
    "CREATE DATABASE IF NOT EXISTS ",
    CREATE_TABLE,
    "CREATE MATERIALIZED VIEW IF NOT EXISTS ",
    "CREATE VIEW IF NOT EXISTS ",
    "CREATE OR REPLACE VIEW ",
    "ALTER TABLE IF EXISTS ",
    "ALTER TABLE ",
    "DROP TABLE IF EXISTS ",
    "DROP VIEW IF EXISTS ",
];

/// Where a statement begins behind its comments, in bytes.
fn begin_of_code(statement: &str) -> usize {
    statement.split_inclusive('\n').take_while(|line| line.starts_with("--") || line.trim().is_empty()).map(str::len).sum()
}

/// A statement without the comments before it.
pub(crate) fn code(statement: &str) -> &str {
    &statement[begin_of_code(statement)..]
}

/// The name that follows a head such as [`CREATE_TABLE`], where the statement begins with that.
pub(crate) fn named_behind<'a>(head: &str, statement: &'a str) -> Option<&'a str> {
    code(statement).strip_prefix(head)?.split_whitespace().next()
}

/// The name of the table or view that a statement of a migration creates, where it creates one.
pub(crate) fn created(statement: &str) -> Option<&str> {
    HEADS.iter().filter(|head| head.starts_with("CREATE ")).find_map(|head| named_behind(head, statement))
}

pub(crate) fn is_insert(statement: &str) -> bool {
    code(statement).starts_with("INSERT INTO ")
}

/// `ENGINE = XMergeTree` with its settings as a replicated table has them; other statements stay as they are.
fn replicated(statement: &str, path: &str, replica: &str) -> String {
    const ENGINE: &str = "\nENGINE = ";
    let windows = |rest: &str| {
        rest.replace(
            "non_replicated_deduplication_window = ",
            &format!("replicated_deduplication_window_seconds = {WINDOW_SECONDS}, replicated_deduplication_window = "),
        )
    };
    let Some(at) = statement.find(ENGINE) else { return windows(statement) };
    let (before, after) = statement.split_at(at + ENGINE.len());
    let end = after.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(after.len());
    let (engine, rest) = after.split_at(end);
    if !engine.ends_with("MergeTree") {
        return statement.to_owned();
    }
    let arguments = format!("'{path}', '{replica}'");
    let rest = match rest.strip_prefix('(') {
        Some(rest) if !rest.starts_with(')') => format!("({arguments}, {rest}"),
        Some(rest) => format!("({arguments}{rest}"),
        None => format!("({arguments}){rest}"),
    };
    format!("{before}Replicated{engine}{}", windows(&rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::{MIGRATIONS, statements};

    fn replication(cluster: Option<&str>) -> Replication {
        Replication { path: DEFAULT_PATH.to_owned(), cluster: cluster.map(str::to_owned) }
    }

    fn check(cluster: Option<&str>, statement: &str, expect: &str) {
        assert_eq!(replication(cluster).rewrite(statement).unwrap(), expect);
    }

    #[test]
    fn engines_and_windows_are_those_of_replicated_tables() {
        check(
            None,
            "CREATE TABLE IF NOT EXISTS t (x Int)\nENGINE = MergeTree\nORDER BY x\nSETTINGS non_replicated_deduplication_window = 100000, a = 1",
            "CREATE TABLE IF NOT EXISTS t (x Int)\nENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', \
             '{replica}')\nORDER BY x\nSETTINGS replicated_deduplication_window_seconds = 604800, replicated_deduplication_window = 100000, a = 1",
        );
        check(
            Some("main"),
            "-- Why.\nCREATE TABLE IF NOT EXISTS t\n(\n    x Int\n)\nENGINE = ReplacingMergeTree(x) ORDER BY x",
            "-- Why.\nCREATE TABLE IF NOT EXISTS t ON CLUSTER `main`\n(\n    x Int\n)\nENGINE = \
             ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', x) ORDER BY x",
        );
        check(Some("main"), "CREATE OR REPLACE VIEW v AS SELECT 1", "CREATE OR REPLACE VIEW v ON CLUSTER `main` AS SELECT 1");
        check(
            Some("main"),
            "CREATE MATERIALIZED VIEW IF NOT EXISTS v TO t AS SELECT 1",
            "CREATE MATERIALIZED VIEW IF NOT EXISTS v ON CLUSTER `main` TO t AS SELECT 1",
        );
        check(
            Some("main"),
            "ALTER TABLE t MODIFY SETTING non_replicated_deduplication_window = 7",
            "ALTER TABLE t ON CLUSTER `main` MODIFY SETTING replicated_deduplication_window_seconds = 604800, replicated_deduplication_window = 7",
        );
        check(None, "CREATE VIEW IF NOT EXISTS v AS SELECT 1", "CREATE VIEW IF NOT EXISTS v AS SELECT 1");
        assert!(replication(Some("main")).rewrite("TRUNCATE t").unwrap_err().to_string().contains("TRUNCATE t"));
    }

    #[test]
    fn every_statement_of_every_migration_can_be_replicated() {
        for migration in MIGRATIONS {
            for statement in statements(migration.sql) {
                let rewritten = replication(Some("main")).rewrite(statement).unwrap();
                if is_insert(statement) {
                    assert_eq!(rewritten, statement);
                    continue;
                }
                assert_eq!(rewritten.matches(" ON CLUSTER `main`").count(), 1, "{rewritten}");
                assert!(!rewritten.contains("non_replicated"), "{rewritten}");
                let (engines, replicated) =
                    (statement.matches("MergeTree\n").count(), rewritten.matches("ENGINE = Replicated").count());
                assert_eq!(statement.matches("\nENGINE = ").count(), replicated, "{engines} {rewritten}");
            }
        }
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = Replication { path: "tables/{shard}".to_owned(), cluster: Some("a b".to_owned()) };
        assert_eq!(wrong.mistakes().len(), 2);
        assert_eq!(replication(Some("main-1")).mistakes(), [""; 0]);
    }
}
