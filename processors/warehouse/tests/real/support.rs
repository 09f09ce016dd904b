//! Servers, fresh databases, and records to write.

use std::sync::LazyLock;
use std::time::Duration;

use bounceflow_event::{Alert, AlertCategory, CategoryCount, Failure, RateBatch, RateRow, RecipientHash, Source, Tags};
use bounceflow_stack::{ClickHouse, ClickHouseOptions, ClickHouseUser};
use bounceflow_warehouse::{Block, BlockBuilder, LogPosition, Retention, Settings, Table, Warehouse};
use tokio::sync::{Mutex, MutexGuard};

/// 2026-03-10 12:00:00 UTC in milliseconds.
pub(crate) const NOON: i64 = 1_773_144_000_000;
pub(crate) const DAY: i64 = 86_400_000;
/// 2100-01-01 00:00:00 UTC: the log time of batches whose rows must not expire while a test runs.
pub(crate) const LATER: i64 = 4_102_444_800_000;

static SHARED: LazyLock<ClickHouse> = LazyLock::new(|| ClickHouse::start().expect("a ClickHouse server"));

static MORTAL: LazyLock<Mutex<ClickHouse>> = LazyLock::new(|| {
    let user = |name: &str, grant: &str| ClickHouseUser {
        name: name.to_owned(),
        password: "secret-word".to_owned(),
        grants: vec![grant.to_owned()],
    };
    let options = ClickHouseOptions::default().user(user("reader", "GRANT SELECT ON *.*"));
    Mutex::new(ClickHouse::start_own(options).expect("a ClickHouse server"))
});

/// A server that the holder may kill and freeze; it must run when it is given back.
pub(crate) async fn mortal() -> MutexGuard<'static, ClickHouse> {
    let server = MORTAL.lock().await;
    if server.query_within(Duration::from_secs(2), "SELECT 1").is_err() {
        let _ = server.resume();
        server.restart().expect("ClickHouse starts again");
    }
    server
}

/// A migrated database of one test.
pub(crate) struct Db<'a> {
    server: &'a ClickHouse,
    pub(crate) warehouse: Warehouse,
}

impl Db<'static> {
    pub(crate) async fn new(name: &str) -> Self {
        Db::on(&SHARED, name).await
    }

    pub(crate) fn empty(name: &str) -> Self {
        Db::empty_on(&SHARED, name)
    }
}

impl<'a> Db<'a> {
    pub(crate) fn empty_on(server: &'a ClickHouse, name: &str) -> Self {
        let database = format!("warehouse_{name}_{}", std::process::id());
        server.query(&format!("DROP DATABASE IF EXISTS {database}")).unwrap();
        let warehouse = Warehouse::new(settings(server, &database)).unwrap();
        Self { server, warehouse }
    }

    pub(crate) async fn on(server: &'a ClickHouse, name: &str) -> Self {
        let db = Self::empty_on(server, name);
        db.warehouse.migrate(&mut |_| {}).await.unwrap();
        db.warehouse.check().await.unwrap();
        db
    }

    pub(crate) fn settings(&self) -> Settings {
        settings(self.server, self.warehouse.database())
    }

    /// Runs a statement in which `DB` stands for the database.
    pub(crate) fn query(&self, sql: &str) -> String {
        let sql = sql
            .replace("DB.", &format!("{}.", self.warehouse.database()))
            .replace("'DB'", &format!("'{}'", self.warehouse.database()));
        self.server.query(&sql).unwrap().trim().to_owned()
    }

    /// Runs a statement inside the database, as people do: no table is qualified.
    pub(crate) fn query_inside(&self, sql: &str) -> String {
        self.server.query_as("default", "", self.warehouse.database(), sql).unwrap()
    }

    pub(crate) fn rows(&self, table: &str) -> u64 {
        self.query(&format!("SELECT count() FROM DB.{table}")).parse().unwrap()
    }
}

fn settings(server: &ClickHouse, database: &str) -> Settings {
    Settings {
        url: server.url().to_owned(),
        database: database.to_owned(),
        pipeline: "test".to_owned(),
        // The days of the tests grow old.
        retention: Retention::UNBOUNDED,
        ..Settings::default()
    }
}

pub(crate) fn failure() -> Failure<'static> {
    Failure {
        event_time: NOON,
        sent_time: NOON - 5000,
        ingested_time: NOON + 100,
        event_type: "bounce",
        severity: "hard",
        category: "invalid_recipient",
        blocked: false,
        root_cause: "list",
        action: "remove_recipient",
        rule: "enhanced/5.1.1",
        rules_version: "1",
        pattern: 7,
        pattern_version: 1,
        isp: "gmail",
        identity: "news.example",
        recipient_domain: "gmail.com",
        recipient_hash: RecipientHash(*b"0123456789abcdef"),
        recipient_key_id: "k1",
        recipient: "",
        mx_host: "gmail-smtp-in.l.google.com",
        from_domain: "news.example",
        sending_ip: "192.0.2.1",
        pool: "main",
        campaign: "spring",
        message_id: "m1",
        event_id: "e1",
        reply_code: 550,
        enhanced_code: "5.1.1",
        diagnostic: "550 5.1.1 no such user",
        command: "RCPT",
        feedback_type: "",
        attempt: 1,
        tags: Tags::default(),
        source_topic: "delivery.events",
        source_partition: 2,
        source_offset: 40,
        source_item: 0,
    }
}

/// A block of `rows` failures at offsets from `first`, `step` milliseconds apart.
pub(crate) fn failures(first: i64, rows: i64, step: i64) -> Block {
    let mut block = BlockBuilder::new(Table::Failures);
    for i in 0..rows {
        let at = LogPosition { topic: "bounceflow.failures", partition: 1, offset: first + i };
        block.push_failure(&Failure { event_time: NOON + i * step, source_offset: first + i, ..failure() }, at);
    }
    block.finish()
}

pub(crate) fn rate_row() -> RateRow<'static> {
    RateRow {
        bucket: NOON / 1000,
        isp: "gmail",
        identity: "news.example",
        sending_ip: "192.0.2.1",
        campaign: "spring",
        deliveries: 90,
        first_attempts: 95,
        hard: 4,
        soft: 3,
        deferred: 3,
        blocked: 2,
        blocked_deferrals: 1,
        complaints: 1,
        late_bounces: 1,
        drops: 5,
        categories: vec![
            CategoryCount { category: "invalid_recipient", bounces: 4, deferrals: 0, late_bounces: 1 },
            CategoryCount { category: "spam_content", bounces: 3, deferrals: 3, late_bounces: 0 },
        ],
    }
}

pub(crate) fn source(first_offset: i64, last_offset: i64, items: i64) -> Source<'static> {
    Source {
        topic: "delivery.events",
        partition: 0,
        first_offset,
        last_offset,
        records: last_offset + 1 - first_offset,
        items,
        dead_lettered: 0,
        max_event_time: Some(NOON),
        end_reached: false,
    }
}

/// A whole transaction that covers a range and counts `rows`.
pub(crate) fn batch(first_offset: i64, last_offset: i64, rows: Vec<RateRow<'static>>) -> RateBatch<'static> {
    let items = rows.iter().map(RateRow::items).sum();
    RateBatch {
        producer: "test/0/0",
        part: 0,
        parts: 1,
        rules_version: "1",
        pattern_version: 1,
        rows,
        sources: vec![source(first_offset, last_offset, items)],
        ..RateBatch::default()
    }
}

/// A block of batches at offsets from `first`, a second apart.
pub(crate) fn batches(first: i64, batches: &[RateBatch<'_>]) -> Block {
    batches_at(LATER, first, batches)
}

/// The same with a log time of one's own.
pub(crate) fn batches_at(log_time: i64, first: i64, batches: &[RateBatch<'_>]) -> Block {
    let mut block = BlockBuilder::new(Table::Batches);
    for (offset, batch) in (first..).zip(batches) {
        let at = LogPosition { topic: "bounceflow.rates", partition: 0, offset };
        block.push_batch(batch, at, log_time + offset * 1000);
    }
    block.finish()
}

/// A transition of the alert `id`, whose episode started at noon.
pub(crate) fn alert(id: &'static str, state: &'static str, after_seconds: i64, numerator: i64) -> Alert<'static> {
    Alert {
        alert_id: id,
        rule: "blocked",
        state,
        severity: "critical",
        isp: "gmail",
        identity: "news.example",
        episode_start: NOON,
        event_time: NOON + after_seconds * 1000,
        metric: "blocked_rate",
        window_seconds: 900,
        threshold: 0.2,
        numerator,
        denominator: 1000,
        categories: vec![
            AlertCategory { category: "reputation", count: numerator - 1 },
            AlertCategory { category: "policy", count: 1 },
        ],
        pattern: -7,
        pattern_rule: "generic.blocked",
        sample: "550 5.7.1 blocked",
        root_cause: "reputation",
        action: "request_delisting",
        annotations: [("summary".to_owned(), format!("as {state}"))].into(),
    }
}

/// A block of alerts at offsets from `first`, a second apart, as `replica` wrote them.
pub(crate) fn alerts(first: i64, replica: &str, alerts: &[Alert<'_>]) -> Block {
    let mut block = BlockBuilder::new(Table::Alerts);
    for (offset, alert) in (first..).zip(alerts) {
        let at = LogPosition { topic: "bounceflow.alerts", partition: 0, offset };
        block.push_alert(alert, at, replica, NOON + offset * 1000);
    }
    block.finish()
}
