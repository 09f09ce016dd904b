//! Before the sink may write: is the schema this binary's, and would the repeat of an insert be dropped everywhere?
//!
//! A token is forgotten after so many blocks per table. Tables behind materialized views have windows of their own, and one that is too
//! short (or missing) doubles counts in silence: so every table an insert reaches is checked, also those behind views of the users.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;

use crate::block::Table;
use crate::client::Warehouse;
use crate::error::{UnprotectedTable, WarehouseError};
use crate::replication::WINDOW_SECONDS;

/// How long the first answer of a server may take. Several that swallow what they are sent must not hold a loop up until it counts as stuck.
const FIRST_ANSWER: Duration = Duration::from_secs(15);

/// Blocks whose tokens a table must remember.
const WINDOW_BLOCKS: u64 = 100_000;

/// The oldest server that knows every setting an insert is sent with. Tested is 26.7.
pub(crate) const OLDEST: (u32, u32) = (25, 3);

#[derive(Row, Deserialize)]
struct TableRow {
    database: String,
    name: String,
    uuid: String,
    engine: String,
    engine_full: String,
    create_table_query: String,
    dependencies_database: Vec<String>,
    dependencies_table: Vec<String>,
}

#[derive(Row, Deserialize)]
struct SettingRow {
    name: String,
    value: String,
}

type Name = (String, String);

impl Warehouse {
    /// Whether the sink may write: the schema is at this binary's version, and every table a token protects remembers it long enough.
    pub async fn check(&self) -> Result<(), WarehouseError> {
        self.check_server(OLDEST).await?;
        self.check_version().await?;
        let tables = self.client().query_raw(
            "SELECT database, name, toString(uuid) AS uuid, engine, engine_full, create_table_query, dependencies_database,
                dependencies_table
            FROM system.tables WHERE NOT is_temporary AND database NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema')",
        );
        let tables = by_name(self.timed("list tables", tables.fetch_all::<TableRow>()).await?);
        let settings = self.client().query_raw(
            "SELECT name, value FROM system.settings WHERE name = 'deduplicate_insert'
            UNION ALL SELECT name, value FROM system.merge_tree_settings WHERE name LIKE '%replicated_deduplication_window%'",
        );
        let settings = self.timed("read settings", settings.fetch_all::<SettingRow>()).await?;
        let settings = settings.into_iter().map(|s| (s.name, s.value)).collect();
        let mut unprotected = unprotected(self.database(), &tables, &settings);
        if self.settings.replication.is_some() {
            unprotected.extend(alone(self.database(), &tables));
        }
        if unprotected.is_empty() { Ok(()) } else { Err(WarehouseError::Unprotected(unprotected)) }
    }

    /// Whether the server is at least of this version: year and month.
    pub async fn check_server(&self, oldest: (u32, u32)) -> Result<(), WarehouseError> {
        let version = self.server().query_raw("SELECT version()").fetch_one();
        let found: String = self.timed_within(FIRST_ANSWER, "say its version", version).await?;
        if at_least(&found, oldest) {
            return Ok(());
        }
        let (url, needed) = (self.settings.url.clone(), format!("{}.{}", oldest.0, oldest.1));
        Err(WarehouseError::OldServer { url, found, needed })
    }
}

/// Whether `26.7.2.1` is at least `26.7`. What cannot be read is not.
fn at_least(version: &str, oldest: (u32, u32)) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    matches!((numbers.next().flatten(), numbers.next().flatten()), (Some(year), Some(month)) if (year, month) >= oldest)
}

/// Tables of the sink and of its views that are not replicated although several servers are to hold them.
fn alone(database: &str, tables: &HashMap<Name, TableRow>) -> Vec<UnprotectedTable> {
    let here = reached(database, tables).into_iter().filter_map(|name| tables.get(&name));
    let alone = here.filter(|t| t.engine != "Null" && !is_replicated(&t.engine));
    alone
        .map(|t| UnprotectedTable {
            table: format!("{}.{}", quote(&t.database), quote(&t.name)),
            reason: format!("engine {} keeps tokens to itself, and several servers are configured", t.engine),
            remedy: "one address alone in [clickhouse] url, or a database of its own that `bounceflow migrate` makes".to_owned(),
        })
        .collect()
}

fn is_replicated(engine: &str) -> bool {
    engine.starts_with("Replicated") || engine.starts_with("Shared")
}

fn by_name(tables: Vec<TableRow>) -> HashMap<Name, TableRow> {
    tables.into_iter().map(|t| ((t.database.clone(), t.name.clone()), t)).collect()
}

fn unprotected(database: &str, tables: &HashMap<Name, TableRow>, defaults: &HashMap<String, String>) -> Vec<UnprotectedTable> {
    let mut found = Vec::new();
    if let Some(value) = defaults.get("deduplicate_insert").filter(|value| value.contains("disable")) {
        found.push(UnprotectedTable {
            table: "every table".to_owned(),
            reason: format!("the user's setting deduplicate_insert is {value}"),
            remedy: "deduplicate_insert = 'enable' in the user's settings profile".to_owned(),
        });
    }
    for name in reached(database, tables) {
        let Some(table) = tables.get(&name) else {
            found.push(UnprotectedTable {
                table: format!("{}.{}", name.0, name.1),
                reason: "an insert reaches it, but it does not exist or is hidden from this user".to_owned(),
                remedy: format!("GRANT SHOW TABLES ON {}.{} to this user, or drop the view that writes to it", name.0, name.1),
            });
            continue;
        };
        found.extend(judge_table(table, defaults));
    }
    found
}

/// Every table an insert of the sink writes to, through however many views.
fn reached(database: &str, tables: &HashMap<Name, TableRow>) -> BTreeSet<Name> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<Name> = Table::ALL.iter().map(|t| (database.to_owned(), t.name().to_owned())).collect();
    while let Some(name) = open.pop() {
        if let Some(table) = tables.get(&name) {
            let views = table.dependencies_database.iter().cloned().zip(table.dependencies_table.iter().cloned());
            open.extend(views.filter_map(|view| tables.get(&view).and_then(target)).filter(|name| !reached.contains(name)));
        }
        reached.insert(name);
    }
    reached
}

fn judge_table(table: &TableRow, defaults: &HashMap<String, String>) -> Option<UnprotectedTable> {
    let setting = |name: &str| {
        let value = value_in(&table.engine_full, name).or_else(|| defaults.get(name).map(String::as_str));
        value.and_then(|v| v.parse::<u64>().ok()).unwrap_or(0)
    };
    let name = format!("{}.{}", quote(&table.database), quote(&table.name));
    let needed: &[(&str, u64)] = match table.engine.as_str() {
        "Null" => return None,
        engine if !engine.ends_with("MergeTree") => {
            return Some(UnprotectedTable {
                table: name,
                reason: format!("engine {engine} knows no tokens, and a view writes to it"),
                remedy: "a table of the MergeTree family as the view's target".to_owned(),
            });
        }
        engine if is_replicated(engine) => {
            &[("replicated_deduplication_window", WINDOW_BLOCKS), ("replicated_deduplication_window_seconds", WINDOW_SECONDS)]
        }
        _ => &[("non_replicated_deduplication_window", WINDOW_BLOCKS)],
    };
    let short: Vec<_> = needed.iter().filter(|(setting_name, least)| setting(setting_name) < *least).collect();
    if short.is_empty() {
        return None;
    }
    let reasons: Vec<_> = short.iter().map(|(s, least)| format!("{s} is {} and must be at least {least}", setting(s))).collect();
    let changes: Vec<_> = short.iter().map(|(s, least)| format!("{s} = {least}")).collect();
    let remedy = format!("ALTER TABLE {name} MODIFY SETTING {}", changes.join(", "));
    Some(UnprotectedTable { table: name, reason: reasons.join(", "), remedy })
}

/// The table a materialized view writes to on every insert; none for a view that refreshes by the clock.
fn target(view: &TableRow) -> Option<Name> {
    let rest = view.create_table_query.strip_prefix("CREATE MATERIALIZED VIEW ")?;
    let (_, rest) = qualified(rest)?;
    if let Some(rest) = rest.strip_prefix(" TO ") {
        return qualified(rest).map(|(name, _)| name);
    }
    if rest.starts_with(" REFRESH") {
        return None;
    }
    let no_uuid = view.uuid.bytes().all(|b| b == b'0' || b == b'-');
    let inner = if no_uuid { format!(".inner.{}", view.name) } else { format!(".inner_id.{}", view.uuid) };
    Some((view.database.clone(), inner))
}

/// Reads `database.name` and gives back what follows.
fn qualified(text: &str) -> Option<(Name, &str)> {
    let (database, rest) = identifier(text)?;
    let (name, rest) = identifier(rest.strip_prefix('.')?)?;
    Some(((database, name), rest))
}

fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('`') else {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '`' => return Some((name, &quoted[i + 1..])),
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => name.push(c),
        }
    }
    None
}

/// A name as the server writes it.
pub(crate) fn quote(name: &str) -> String {
    if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        name.to_owned()
    } else {
        format!("`{}`", name.replace('`', "\\`"))
    }
}

/// The value of a setting in `… SETTINGS a = 1, b = 2`.
fn value_in<'a>(engine_full: &'a str, name: &str) -> Option<&'a str> {
    let (_, settings) = engine_full.rsplit_once(" SETTINGS ")?;
    let pairs = settings.split(", ").filter_map(|pair| pair.split_once(" = "));
    pairs.filter(|(n, _)| n.trim() == name).map(|(_, v)| v.trim().trim_matches('\'')).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, engine: &str, engine_full: &str) -> TableRow {
        TableRow {
            database: "b".to_owned(),
            name: name.to_owned(),
            uuid: "11111111-0000-0000-0000-000000000000".to_owned(),
            engine: engine.to_owned(),
            engine_full: engine_full.to_owned(),
            create_table_query: String::new(),
            dependencies_database: Vec::new(),
            dependencies_table: Vec::new(),
        }
    }

    fn view(name: &str, sql: &str) -> TableRow {
        TableRow { create_table_query: format!("CREATE MATERIALIZED VIEW b.{name}{sql}"), ..table(name, "MaterializedView", "") }
    }

    fn good(name: &str) -> TableRow {
        table(
            name,
            "MergeTree",
            "MergeTree ORDER BY x SETTINGS non_replicated_deduplication_window = 100000, index_granularity = 8192",
        )
    }

    fn names(tables: Vec<TableRow>) -> Vec<String> {
        unprotected("b", &by_name(tables), &HashMap::new()).into_iter().map(|t| t.table).collect()
    }

    #[test]
    fn targets_of_views() {
        let name = |s: &str| Some(("b".to_owned(), s.to_owned()));
        assert_eq!(target(&view("v", " TO b.t (`x` Int) AS SELECT 1")), name("t"));
        assert_eq!(target(&view("v", " TO b.`we\\`ird t` AS SELECT 1")), name("we`ird t"));
        assert_eq!(
            target(&view("v", " (`x` Int) ENGINE = MergeTree AS SELECT 1")),
            name(".inner_id.11111111-0000-0000-0000-000000000000")
        );
        assert_eq!(target(&view("v", " REFRESH EVERY 1 HOUR TO b.t AS SELECT 1")), None);
    }

    #[test]
    fn tables_behind_views_count_too() {
        let batches = TableRow {
            dependencies_database: vec!["b".to_owned(); 2],
            dependencies_table: vec!["v1".to_owned(), "v2".to_owned()],
            ..good("batches")
        };
        let second =
            TableRow { dependencies_database: vec!["b".to_owned()], dependencies_table: vec!["v3".to_owned()], ..good("t1") };
        let tables = vec![
            good("failures"),
            good("alerts"),
            batches,
            second,
            view("v1", " TO b.t1 AS SELECT 1"),
            view("v2", " TO b.t2 AS SELECT 1"),
            view("v3", " TO b.t3 AS SELECT 1"),
            table("t2", "Memory", "Memory"),
            table("t3", "SummingMergeTree", "SummingMergeTree ORDER BY x SETTINGS index_granularity = 8192"),
            table("unrelated", "MergeTree", "MergeTree ORDER BY x"),
        ];
        assert_eq!(names(tables), ["b.t2", "b.t3"]);
    }

    #[test]
    fn replicated_tables_need_blocks_and_seconds() {
        let full = "ReplicatedMergeTree('/p', '{replica}') ORDER BY x SETTINGS replicated_deduplication_window = 100000";
        let tables = vec![good("batches"), good("alerts"), table("failures", "ReplicatedMergeTree", full)];
        let defaults = HashMap::from([("replicated_deduplication_window_seconds".to_owned(), "3600".to_owned())]);
        let found = unprotected("b", &by_name(tables), &defaults);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].remedy, "ALTER TABLE b.failures MODIFY SETTING replicated_deduplication_window_seconds = 604800");
        assert!(found[0].reason.contains("is 3600"));
    }

    #[test]
    fn versions_are_compared_by_number() {
        for (version, oldest, expect) in [
            ("26.7.2.1", (25, 3), true),
            ("25.3.1.1-lts", (25, 3), true),
            ("25.10.1", (25, 3), true),
            ("25.2.9.9", (25, 3), false),
            ("24.12.1", (25, 3), false),
            ("no version", (0, 0), false),
        ] {
            assert_eq!(at_least(version, oldest), expect, "{version}");
        }
    }

    #[test]
    fn several_servers_need_replicated_tables() {
        let replicated = |name: &str| table(name, "ReplicatedMergeTree", "ReplicatedMergeTree('/p', '{replica}') ORDER BY x");
        let tables = by_name(vec![replicated("failures"), good("alerts"), replicated("batches"), good("unrelated")]);
        let found: Vec<_> = alone("b", &tables).into_iter().map(|t| t.table).collect();
        assert_eq!(found, ["b.alerts"]);
    }

    #[test]
    fn the_servers_defaults_count_and_missing_tables_are_named() {
        let defaults = HashMap::from([
            ("non_replicated_deduplication_window".to_owned(), "200000".to_owned()),
            ("deduplicate_insert".to_owned(), "disable".to_owned()),
        ]);
        let found = unprotected("b", &by_name(vec![table("failures", "MergeTree", "MergeTree ORDER BY x")]), &defaults);
        let names: Vec<_> = found.iter().map(|t| t.table.as_str()).collect();
        assert_eq!(names, ["every table", "b.alerts", "b.batches"]);
    }
}
