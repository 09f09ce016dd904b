//! What a database shows of several shards: `<database>_all`, at every server the same tables and views over all of them. Pure.
//!
//! Its tables are Distributed ones and hold nothing; its views are the statements of `schemas/clickhouse` as they stand, which name no
//! database. The sink never writes there: a block that a server hands on by itself has lost its token.

use crate::migrations::{MIGRATIONS, statements};
use crate::replication::{CREATE_TABLE, cluster_mistake, code, named_behind};

/// Shards besides the first, and how readers reach all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharding {
    /// Cluster of the servers' configuration (`remote_servers`) whose shards these are.
    pub cluster: String,
    /// Addresses of each shard behind the first, in this order for ever.
    pub further: Vec<Vec<String>>,
}

/// What each shard keeps for itself: added up over shards it would say nothing.
const OWN: [&str; 3] = ["pipelines", "replays", "retention"];

/// Every shard has the seeded rows, and an operator edits one of them: the newest row of any shard holds.
pub(crate) const THRESHOLDS: &str = "thresholds";

/// The database over all shards.
pub(crate) fn over_all(database: &str) -> String {
    format!("{database}_all")
}

/// The database of each shard behind such a one, and any other name as it is.
pub(crate) fn behind_all(database: &str) -> &str {
    database.strip_suffix("_all").unwrap_or(database)
}

impl Sharding {
    /// Every mistake in it, at once.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        if self.cluster.is_empty() {
            return vec!["cluster is missing: name the one of the servers' remote_servers that has these shards".to_owned()];
        }
        cluster_mistake(&self.cluster).into_iter().collect()
    }

    /// What the database over all shards of `database` holds besides views. Made anew at every run: they follow their tables.
    pub(crate) fn tables(&self, database: &str) -> Vec<String> {
        let cluster = &self.cluster;
        let created = MIGRATIONS
            .iter()
            .flat_map(|m| statements(m.sql))
            .filter_map(|statement| Some((named_behind(CREATE_TABLE, statement)?, statement.rsplit_once("\nCOMMENT ")?.1)));
        let shown = created.filter(|(name, _)| !OWN.contains(name)).map(|(name, comment)| match name {
            THRESHOLDS => format!(
                "CREATE OR REPLACE VIEW {name} AS SELECT * FROM cluster('{cluster}', '{database}', '{name}')
                ORDER BY changed_at DESC, watch, critical, least LIMIT 1 BY subject, metric
                COMMENT 'Over all shards; the newest row of any holds. To change one, write to {database}.{name} of any server, as its comment says.'"
            ),
            _ => format!(
                "CREATE OR REPLACE TABLE {name} AS `{database}`.{name} ENGINE = Distributed('{cluster}', '{database}', '{name}')
                COMMENT {comment}"
            ),
        });
        shown.collect()
    }
}

/// Whether a statement of a migration is also one of the database over all shards.
pub(crate) fn is_shown(statement: &str) -> bool {
    ["CREATE VIEW ", "CREATE OR REPLACE VIEW ", "DROP VIEW "].iter().any(|head| code(statement).starts_with(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_shown_once_and_what_is_each_shards_own_is_not() {
        let sharding = Sharding { cluster: "c".to_owned(), further: Vec::new() };
        let tables = sharding.tables("d");
        let of = |name: &str| tables.iter().filter(|sql| sql.contains(&format!(" {name} AS "))).count();
        for name in ["failures", "batches", "delivery_rates", "daily_rates", "alerts", "erased_rows", THRESHOLDS] {
            assert_eq!(of(name), 1, "{name}: {tables:#?}");
        }
        assert!(OWN.iter().all(|name| of(name) == 0), "{tables:#?}");
        assert!(tables[0].contains("failures AS `d`.failures ENGINE = Distributed('c', 'd', 'failures')"), "{}", tables[0]);
        assert!(tables[0].ends_with("see delivery_rates.'"), "{}", tables[0]);
    }

    #[test]
    fn only_views_are_taken_over() {
        for (statement, expect) in [
            ("-- why\nCREATE OR REPLACE VIEW v AS SELECT 1", true),
            ("CREATE VIEW IF NOT EXISTS v AS SELECT 1", true),
            ("CREATE MATERIALIZED VIEW IF NOT EXISTS v TO t AS SELECT 1", false),
            ("CREATE TABLE IF NOT EXISTS t (x Int)", false),
            ("ALTER TABLE t ADD COLUMN x Int", false),
            ("INSERT INTO thresholds VALUES (1)", false),
        ] {
            assert_eq!(is_shown(statement), expect, "{statement}");
        }
    }
}
