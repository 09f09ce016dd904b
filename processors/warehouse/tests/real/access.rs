//! The users of `deploy/clickhouse/users.xml` on a server that has this very file: each can do its work, and nothing beyond.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use bounceflow_event::Failure;
use bounceflow_stack::{ClickHouse, ClickHouseOptions};
use bounceflow_warehouse::replay::{By, Range, log_of, place};
use bounceflow_warehouse::{
    Access, Answer, AuditOptions, Block, BlockBuilder, Erasure, LogPosition, Person, Replay, Retention, Settings, Sharding,
    Shards, State, Table, UnmatchedQuery, Warehouse, WarehouseError,
};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, MutexGuard};

use crate::support::{LATER, NOON, alert, alerts, batch, batches, failure, rate_row};

/// The name in the file: the grants speak of this database.
const DATABASE: &str = "bounceflow";
const MIGRATE: &str = "bounceflow_migrate";
const WRITER: &str = "bounceflow";
const READER: &str = "bounceflow_bi";
const VARIABLES: [(&str, &str); 3] = [
    (MIGRATE, "BOUNCEFLOW_MIGRATE_PASSWORD_SHA256"),
    (WRITER, "BOUNCEFLOW_PASSWORD_SHA256"),
    (READER, "BOUNCEFLOW_BI_PASSWORD_SHA256"),
];

/// One database, and therefore one test at a time.
static SERVER: LazyLock<Mutex<ClickHouse>> =
    LazyLock::new(|| Mutex::new(ClickHouse::start_own(with_users()).expect("a ClickHouse server")));

fn with_users() -> ClickHouseOptions {
    let options = ClickHouseOptions::default().user_file(file("users.xml"));
    VARIABLES.iter().fold(options, |options, (user, variable)| {
        let digest: String = Sha256::digest(password(user)).iter().map(|byte| format!("{byte:02x}")).collect();
        options.environment(*variable, digest)
    })
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/clickhouse").join(name)
}

fn password(user: &str) -> String {
    format!("secret of {user}")
}

fn settings(server: &ClickHouse, user: &str, password: &str) -> Settings {
    Settings {
        url: server.url().to_owned(),
        database: DATABASE.to_owned(),
        pipeline: "test".to_owned(),
        user: user.to_owned(),
        access: Access::with_password(password),
        retention: Retention::UNBOUNDED,
        ..Settings::default()
    }
}

struct Server(MutexGuard<'static, ClickHouse>);

impl Server {
    /// Fresh tables, made by the user that migrates.
    async fn migrated() -> Self {
        let server = Self(SERVER.lock().await);
        server.0.query(&format!("DROP DATABASE IF EXISTS {DATABASE} SYNC")).unwrap();
        server.warehouse(MIGRATE).migrate(&mut |_| {}).await.unwrap();
        server
    }

    fn warehouse(&self, user: &str) -> Warehouse {
        self.warehouse_with(user, &password(user))
    }

    fn warehouse_with(&self, user: &str, password: &str) -> Warehouse {
        Warehouse::new(settings(&self.0, user, password)).unwrap()
    }

    /// What the server answers a user: the text, or its error.
    fn ask(&self, user: &str, sql: &str) -> Result<String, String> {
        let asked = self.0.query_as(user, &password(user), DATABASE, sql);
        asked.map(|text| text.trim().to_owned()).map_err(|e| e.to_string())
    }

    fn allowed(&self, user: &str, sql: &str) -> String {
        self.ask(user, sql).unwrap_or_else(|e| panic!("{user} may not {sql}: {e}"))
    }

    /// That the user may not, for the reason of this code.
    fn refused(&self, user: &str, sql: &str, code: &str) {
        let error = self.ask(user, sql).expect_err(sql);
        assert!(error.contains(code), "{user}: {sql}: {error}");
    }

    fn names(&self, condition: &str) -> BTreeSet<String> {
        let sql = format!("SELECT name FROM system.tables WHERE database = '{DATABASE}' AND {condition}");
        self.0.query(&sql).unwrap().lines().map(str::to_owned).collect()
    }
}

const DENIED: &str = "ACCESS_DENIED";

/// A failure of each item a row of rates counts, of the same input.
fn failures_of(topic: &str, position: impl Fn(i64) -> i64) -> Block {
    let mut block = BlockBuilder::new(Table::Failures);
    for i in 0..12 {
        let failure = Failure { source_partition: 0, source_offset: i / 2, source_item: (i % 2) as i32, ..failure() };
        block.push_failure(&failure, LogPosition { topic, partition: 0, offset: position(i) });
    }
    block.finish()
}

#[tokio::test]
async fn the_reader_reads_every_view_and_no_table_behind() {
    let server = Server::migrated().await;
    let writer = server.warehouse(WRITER);
    assert_eq!(writer.insert(&failures_of("f", |i| i), "f").await, Answer::Written);
    assert_eq!(writer.insert(&batches(0, &[batch(0, 9, vec![rate_row()])]), "b").await, Answer::Written);

    let views = server.names("engine = 'View'");
    assert!(views.len() >= 20, "{views:?}");
    for view in &views {
        server.allowed(READER, &format!("SELECT * FROM {view} FORMAT Null"));
    }
    let rollups = ["hourly_rates", "daily_rates", "daily_rates_by_identity", "thresholds"].map(str::to_owned);
    for table in &rollups {
        server.allowed(READER, &format!("SELECT * FROM {table} FORMAT Null"));
    }
    // A tool that lists tables shows exactly these.
    let listed: BTreeSet<String> = server.allowed(READER, "SHOW TABLES").lines().map(str::to_owned).collect();
    assert_eq!(listed, views.iter().cloned().chain(rollups).collect());

    for table in server.names("engine != 'View'").difference(&listed) {
        server.refused(READER, &format!("SELECT * FROM {table}"), DENIED);
        server.refused(READER, &format!("SELECT count() FROM {table}"), DENIED);
    }
    for column in ["recipient", "recipient_hash", "diagnostic"] {
        server.refused(READER, &format!("SELECT {column} FROM failures"), DENIED);
    }
    // No view shows an address.
    let columns = format!("SELECT count() FROM system.columns WHERE database = '{DATABASE}' AND name = 'recipient'");
    assert_eq!(server.allowed(READER, &columns), "0");
    let seen = server.allowed(READER, "SELECT count(), sum(deliveries) FROM isp_profiles");
    assert_eq!(seen, "1\t90");
    assert_eq!(server.allowed(READER, "SELECT count() FROM failure_details"), "12");
}

#[tokio::test]
async fn with_several_shards_the_reader_reads_all_of_them() {
    let servers = ClickHouse::start_shards(&[with_users(), with_users()]).unwrap();
    let [one, two] = &servers[..] else { panic!("{servers:?}") };
    let as_user = |user: &str| {
        let sharding = Sharding { cluster: "all".to_owned(), further: vec![vec![two.url().to_owned()]] };
        Shards::new(Settings { sharding: Some(sharding), ..settings(one, user, &password(user)) }).unwrap()
    };
    as_user(MIGRATE).migrate(&mut |_| {}).await.unwrap();
    let writer = as_user(WRITER);
    writer.check().await.unwrap();
    for server in &servers {
        let shard = Warehouse::new(settings(server, WRITER, &password(WRITER))).unwrap();
        assert_eq!(shard.insert(&failures_of("f", |i| i), "f").await, Answer::Written);
    }
    writer.reader().await.unwrap().audit(&AuditOptions::default()).await.unwrap();

    let all = format!("{DATABASE}_all");
    let ask = |sql: &str| one.query_as(READER, &password(READER), &all, sql);
    let listed = ask("SHOW TABLES").unwrap();
    let listed: BTreeSet<&str> = listed.lines().collect();
    assert!(listed.len() >= 24 && listed.contains("thresholds"), "{listed:?}");
    for name in &listed {
        ask(&format!("SELECT * FROM {name} FORMAT Null")).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert_eq!(ask("SELECT count() FROM failure_details").unwrap().trim(), "24", "of both shards");
    for table in ["failures", "batches", "erased_recipients"] {
        let error = ask(&format!("SELECT count() FROM {table}")).unwrap_err().to_string();
        assert!(error.contains(DENIED), "{table}: {error}");
    }
}

#[tokio::test]
async fn the_reader_changes_nothing_and_stays_within_its_limits() {
    let server = Server::migrated().await;
    let read_only = "READONLY";
    for (sql, code) in [
        ("INSERT INTO thresholds SELECT * FROM thresholds", DENIED),
        ("ALTER TABLE daily_rates DELETE WHERE 1", DENIED),
        ("DROP VIEW isp_profiles", DENIED),
        ("TRUNCATE TABLE daily_rates", DENIED),
        ("CREATE VIEW v AS SELECT 1", DENIED),
        ("CREATE OR REPLACE VIEW reporting_day AS SELECT today() AS today", DENIED),
        ("ALTER TABLE failure_details MODIFY SQL SECURITY NONE", DENIED),
        ("CREATE TEMPORARY TABLE t (x Int)", DENIED),
        ("SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'x Int')", DENIED),
        ("SELECT * FROM file('/etc/passwd', 'CSV', 'x String')", DENIED),
        ("SYSTEM FLUSH LOGS", DENIED),
        ("SET readonly = 0", read_only),
        ("SELECT 1 SETTINGS readonly = 0", read_only),
        ("SELECT 1 SETTINGS max_execution_time = 31", "CONSTRAINT"),
        ("SELECT 1 SETTINGS max_execution_time = 0", "CONSTRAINT"),
        ("SELECT 1 SETTINGS max_result_rows = 0", "CONSTRAINT"),
        ("SELECT 1 SETTINGS max_result_rows = 1000001", "CONSTRAINT"),
        ("SELECT 1 SETTINGS max_memory_usage = 0", "CONSTRAINT"),
        ("SELECT 1 SETTINGS result_overflow_mode = 'break'", "CONSTRAINT"),
        ("SELECT 1 SETTINGS timeout_overflow_mode = 'break'", "CONSTRAINT"),
        ("SELECT 1 SETTINGS max_concurrent_queries_for_user = 0", "CONSTRAINT"),
        // The limits strike.
        ("SELECT * FROM numbers(1000001) FORMAT Null", "TOO_MANY_ROWS_OR_BYTES"),
        (
            "SELECT sleepEachRow(1) FROM numbers(9) SETTINGS max_execution_time = 1, max_block_size = 1 FORMAT Null",
            "TIMEOUT_EXCEEDED",
        ),
        ("SELECT groupArray(number) FROM numbers(100000000) SETTINGS max_memory_usage = 100000000 FORMAT Null", "MEMORY_LIMIT"),
    ] {
        server.refused(READER, sql, code);
    }
    // What drivers set.
    server.allowed(READER, "SELECT 1 SETTINGS max_execution_time = 10, max_result_rows = 5, session_timezone = 'Europe/Berlin'");
    server.allowed(READER, "SELECT * FROM numbers(1000000) FORMAT Null");
    let quota = server.allowed(READER, "SELECT max_queries, max_execution_time FROM system.quota_usage");
    assert_eq!(quota, "20000\t7200");
}

#[tokio::test]
async fn the_writer_does_what_the_sink_and_its_commands_do() {
    let server = Server::migrated().await;
    let writer = server.warehouse(WRITER);
    writer.check().await.unwrap();
    writer.claim("kafka-1", 0, NOON).await.unwrap();
    for again in 0..2 {
        assert_eq!(writer.insert(&failures_of("f", |i| i), "f").await, Answer::Written, "{again}");
        assert_eq!(writer.insert(&batches(0, &[batch(0, 9, vec![rate_row()])]), "b").await, Answer::Written);
        assert_eq!(writer.insert(&alerts(0, "0", &[alert("a", "firing", 0, 5)]), "a").await, Answer::Written);
    }
    assert_eq!(writer.held(Table::Failures, "f", 0, 0, 11).await.unwrap().rows, 12);
    assert_eq!(writer.last_offset(Table::Failures, "f", 0).await.unwrap(), Some(11));
    assert_eq!(writer.audit(&AuditOptions::default()).await.unwrap().findings(), [""; 0]);
    writer.unmatched(UnmatchedQuery { since: 0, rules: "generic.", limit: 9 }).await.unwrap();

    replay(&writer).await;
    assert_eq!(server.names("startsWith(name, 'replay_')"), BTreeSet::new());
    assert_eq!(writer.audit(&AuditOptions::default()).await.unwrap().findings(), [""; 0]);

    let person = Person { key_id: "k1".to_owned(), hash: *b"0123456789abcdef" };
    let (people, settled) = ([person], BTreeMap::from([(0, 100)]));
    let erasure = Erasure { people: &people, salt: "", digests: &[], topic: "f", settled: &settled };
    assert_eq!(writer.count_rows_of(&erasure).await.unwrap(), BTreeMap::from([("k1".to_owned(), 12)]));
    writer.remember_erased(&people, NOON).await.unwrap();
    writer.erase_rows_of(&erasure).await.unwrap();
    assert_eq!(server.0.query(&format!("SELECT count() FROM {DATABASE}.erased_recipients")).unwrap().trim(), "1");
    writer.old_parts_lifetime().await.unwrap();
    assert_eq!(server.0.query(&format!("SELECT count() FROM {DATABASE}.failures")).unwrap().trim(), "0");
}

/// From the plan to the swap, by hand: the same is counted again.
async fn replay(writer: &Warehouse) {
    let asked = vec![Range { topic: "delivery.events".to_owned(), partition: 0, first: 0, last: 9 }];
    let by = By { rules: Vec::new(), rules_version: "2".to_owned(), settings: String::new() };
    let mut replay = writer.plan_replay(Replay::draft(LATER, by, asked), NOON).await.unwrap();
    let log = log_of(replay.id, "delivery.events");
    let again = failures_of(&log, |i| place(i / 2, i % 2).unwrap());
    assert_eq!(writer.insert_replayed(replay.id, &again, "rf").await, Answer::Written);
    let mut block = BlockBuilder::new(Table::Batches);
    let position = LogPosition { topic: &log, partition: 0, offset: place(0, 0).unwrap() };
    block.push_batch(&batch(0, 9, vec![rate_row()]), position, LATER);
    assert_eq!(writer.insert_replayed(replay.id, &block.finish(), "rb").await, Answer::Written);
    let range = replay.ranges[0].clone();
    assert_eq!(writer.count_replayed(replay.id, Table::Failures, &range).await.unwrap(), 12);
    replay.comparison = Some(writer.compare_replay(&replay).await.unwrap());
    replay.state = State::Counted;
    writer.save_replay(&mut replay, NOON).await.unwrap();
    writer.held_by_replay(&replay).await.unwrap();
    writer.swap_replay(&mut replay, "abc", &|| NOON, &|| Ok(Vec::new()), &mut |_| {}).await.unwrap();
    assert_eq!(replay.state, State::Swapped);
}

#[tokio::test]
async fn the_writer_drops_and_changes_no_table() {
    let server = Server::migrated().await;
    let tables = server.names("NOT endsWith(name, '_mv')");
    for table in &tables {
        server.refused(WRITER, &format!("DROP TABLE {table}"), DENIED);
    }
    for sql in [
        "TRUNCATE TABLE failures",
        "ALTER TABLE failures DROP COLUMN diagnostic",
        "ALTER TABLE failures MODIFY TTL toDateTime(event_time) + INTERVAL 1 DAY",
        "ALTER TABLE alerts DELETE WHERE 1",
        "INSERT INTO thresholds SELECT * FROM thresholds",
        "CREATE TABLE t (x Int) ENGINE = MergeTree ORDER BY x",
        "CREATE TABLE replay_1_old (x Int) ENGINE = Log",
        "CREATE VIEW v AS SELECT 1",
        "CREATE DATABASE other",
        "DROP DATABASE bounceflow",
        "CREATE USER somebody",
        "GRANT SELECT ON bounceflow.* TO bounceflow_bi",
    ] {
        server.refused(WRITER, sql, DENIED);
    }
}

#[tokio::test]
async fn who_migrates_later_defines_the_views_anew() {
    let server = Server::migrated().await;
    let defined_by = |user: &str| {
        let condition =
            format!("engine = 'View' AND position(create_table_query, ' DEFINER = {user} SQL SECURITY DEFINER ') > 0");
        server.names(&condition).len()
    };
    let all = server.names("engine = 'View'").len();
    assert_eq!(defined_by(MIGRATE), all);
    // An operator's own hand, or a later migration.
    server.allowed(MIGRATE, "CREATE OR REPLACE VIEW reporting_day AS SELECT toDate('2026-03-10') AS today");
    assert_eq!(defined_by(MIGRATE), all - 1);
    // One that is the operators' own is none of ours.
    server.allowed(MIGRATE, "CREATE VIEW own AS SELECT 1 AS x");
    server.warehouse(MIGRATE).migrate(&mut |_| {}).await.unwrap();
    assert_eq!(defined_by(MIGRATE), all);
    server.warehouse_with("", "").migrate(&mut |_| {}).await.unwrap();
    assert_eq!(defined_by("default"), all);
    server.allowed(READER, "SELECT * FROM failure_details");
}

#[tokio::test]
async fn a_password_is_never_told() {
    let server = Server::migrated().await;
    let wrong = server.warehouse_with(WRITER, "hunter2-hunter2");
    let mut told = vec![wrong.ping().await.unwrap_err().to_string(), wrong.check().await.unwrap_err().to_string()];
    match wrong.insert(&failures_of("f", |i| i), "f").await {
        Answer::Written => panic!("written with a wrong password"),
        answer => told.push(format!("{answer:?}")),
    }
    let nobody = Settings {
        url: "http://127.0.0.1:1".to_owned(),
        access: Access::with_password("hunter2-hunter2"),
        query_timeout: Duration::from_secs(5),
        ..Settings::default()
    };
    told.push(format!("{nobody:?}"));
    let error: WarehouseError = Warehouse::new(nobody).unwrap().ping().await.unwrap_err();
    told.push(format!("{error} {error:?}"));
    assert!(told.iter().all(|text| !text.contains("hunter2")), "{told:?}");
    assert!(told[0].contains("AUTHENTICATION_FAILED") || told[0].contains("516"), "{told:?}");
}

/// These servers have nowhere to keep users made by SQL, but they read it.
#[tokio::test]
async fn the_sql_is_understood() {
    let server = Server(SERVER.lock().await);
    let sql = std::fs::read_to_string(file("access.sql")).unwrap();
    let statements: Vec<&str> = sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()).collect();
    assert!(statements.len() > 60, "{}", statements.len());
    for statement in statements {
        server.0.query(&format!("SELECT formatQuery($statement${statement}$statement$)")).unwrap();
    }
}

#[test]
fn both_files_grant_the_same() {
    let text = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    let (xml, sql) = (text("users.xml"), text("access.sql"));
    let of_user = |user: &str| -> Vec<String> {
        let (_, rest) = xml.split_once(&format!("<{user}>\n            <password")).unwrap();
        let (own, _) = rest.split_once("</grants>").unwrap();
        own.lines().filter_map(|line| line.trim().strip_prefix("<query>")?.strip_suffix("</query>")).map(str::to_owned).collect()
    };
    for (user, role) in [(MIGRATE, "bounceflow_migrator"), (WRITER, "bounceflow_writer"), (READER, "bounceflow_reader")] {
        let suffix = format!(" TO {role};");
        let granted: Vec<String> = sql
            .lines()
            .filter(|line| line.contains(" ON "))
            .filter_map(|line| line.strip_suffix(&suffix))
            .map(str::to_owned)
            .collect();
        assert_eq!(of_user(user), granted, "{user}");
    }
    let (_, profile) = xml.split_once("<profiles>").unwrap();
    let (profile, _) = profile.split_once("<constraints>").unwrap();
    let (_, constraints) = sql.split_once("CREATE SETTINGS PROFILE").unwrap();
    for line in profile.lines().filter_map(|line| line.trim().strip_prefix('<')?.split_once('>')) {
        let (name, rest) = line;
        if let Some((value, _)) = rest.split_once("</") {
            let value = if value.parse::<u64>().is_ok() { value.to_owned() } else { format!("'{value}'") };
            assert!(constraints.contains(&format!("    {name} = {value}")), "{name} = {value} in access.sql");
        }
    }
}
