//! What is encoded is what is read back, to the last field and at the edges of every type.

use std::borrow::Cow;

use bounceflow_event::{
    Alert, AlertCategory, CategoryCount, Failure, IgnoredCount, PatternCount, RateBatch, RateRow, RecipientHash, Source, Tags,
};
use bounceflow_warehouse::{Answer, Block, BlockBuilder, LogPosition, Settings, Table, Warehouse, columns};
use serde_json::{Value, json};

use crate::support::{Db, LATER, NOON, alert, failure, failures, rate_row};

const AT: LogPosition<'_> = LogPosition { topic: "té\u{1F4EC}", partition: i32::MAX, offset: i64::MAX };

async fn stored(db: &Db<'_>, block: Block) -> Value {
    let table = block.table();
    assert_eq!(db.warehouse.insert(&block, "t").await, Answer::Written);
    let hash = if table == Table::Failures { "REPLACE (hex(recipient_hash) AS recipient_hash)" } else { "" };
    let row = db.query(&format!(
        "SELECT * {hash} FROM DB.{table} FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0"
    ));
    let row: Value = serde_json::from_str(&row).unwrap();
    let mut names: Vec<_> = columns(table).to_vec();
    names.sort_unstable();
    assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), names, "every column is sent");
    row
}

async fn check_failure(name: &str, failure: &Failure<'_>, expect: Value) {
    let db = Db::new(name).await;
    let mut block = BlockBuilder::new(Table::Failures);
    block.push_failure(failure, AT);
    let row = stored(&db, block.finish()).await;
    for (column, value) in expect.as_object().unwrap() {
        assert_eq!(&row[column], value, "{column}");
    }
    assert_eq!(expect.as_object().unwrap().len(), columns(Table::Failures).len());
}

#[tokio::test]
async fn every_field_of_a_failure() {
    let long = "ü".repeat(2048);
    let tags = vec![("a".into(), "1".into()), ("".into(), Cow::Owned("ö\n\t'\"\\".repeat(100)))];
    let failure = Failure {
        blocked: true,
        pattern: -1,
        diagnostic: &long,
        recipient: "o'brien@example.com",
        feedback_type: "abuse",
        tags: Tags(tags),
        source_item: 3,
        ..failure()
    };
    let expect = json!({
        "event_time": "2026-03-10 12:00:00.000", "sent_time": "2026-03-10 11:59:55.000", "ingested_time": "2026-03-10 12:00:00.100",
        "event_type": "bounce", "severity": "hard", "category": "invalid_recipient", "blocked": true, "root_cause": "list",
        "action": "remove_recipient", "rule": "enhanced/5.1.1", "rules_version": "1", "pattern": u64::MAX, "pattern_version": 1,
        "isp": "gmail", "identity": "news.example", "recipient_domain": "gmail.com",
        "recipient_hash": "30313233343536373839616263646566", "recipient_key_id": "k1", "recipient": "o'brien@example.com",
        "mx_host": "gmail-smtp-in.l.google.com", "from_domain": "news.example", "sending_ip": "192.0.2.1", "pool": "main",
        "campaign": "spring", "message_id": "m1", "event_id": "e1", "reply_code": 550, "enhanced_code": "5.1.1", "diagnostic": long,
        "command": "RCPT", "feedback_type": "abuse", "attempt": 1, "tags": {"a": "1", "": "ö\n\t'\"\\".repeat(100)},
        "source_topic": "delivery.events", "source_partition": 2, "source_offset": 40, "source_item": 3,
        "kafka_topic": "té\u{1F4EC}", "kafka_partition": i32::MAX, "kafka_offset": i64::MAX,
    });
    check_failure("failure", &failure, expect).await;
}

#[tokio::test]
async fn a_failure_beyond_every_range_is_clamped() {
    let failure = Failure {
        event_time: i64::MAX,
        sent_time: 0,
        ingested_time: i64::MIN,
        event_type: "",
        severity: "",
        category: "",
        blocked: false,
        root_cause: "",
        action: "",
        rule: "",
        rules_version: "",
        pattern: i64::MIN,
        pattern_version: i32::MIN,
        isp: "",
        identity: "",
        recipient_domain: "",
        recipient_hash: RecipientHash([0xff; 16]),
        recipient_key_id: "",
        recipient: "",
        mx_host: "",
        from_domain: "",
        sending_ip: "",
        pool: "",
        campaign: "",
        message_id: "",
        event_id: "",
        reply_code: i32::MAX,
        enhanced_code: "",
        diagnostic: "\0",
        command: "",
        feedback_type: "",
        attempt: i32::MAX,
        tags: Tags::default(),
        source_topic: "",
        source_partition: i32::MIN,
        source_offset: i64::MIN,
        source_item: -1,
    };
    let expect = json!({
        "event_time": "2106-02-07 06:28:15.999", "sent_time": "1970-01-01 00:00:00.000", "ingested_time": "1970-01-01 00:00:00.000",
        "event_type": "", "severity": "", "category": "", "blocked": false, "root_cause": "", "action": "", "rule": "",
        "rules_version": "", "pattern": 1_u64 << 63, "pattern_version": 0, "isp": "", "identity": "", "recipient_domain": "",
        "recipient_hash": "F".repeat(32), "recipient_key_id": "", "recipient": "", "mx_host": "", "from_domain": "",
        "sending_ip": "", "pool": "", "campaign": "", "message_id": "", "event_id": "", "reply_code": u16::MAX,
        "enhanced_code": "", "diagnostic": "\0", "command": "", "feedback_type": "", "attempt": i32::MAX, "tags": {},
        "source_topic": "", "source_partition": i32::MIN, "source_offset": i64::MIN, "source_item": 0,
        "kafka_topic": "té\u{1F4EC}", "kafka_partition": i32::MAX, "kafka_offset": i64::MAX,
    });
    check_failure("clamped", &failure, expect).await;
}

#[tokio::test]
async fn every_field_of_a_batch() {
    let db = Db::new("batch").await;
    let heartbeat = Source {
        topic: "b",
        partition: -1,
        first_offset: i64::MIN,
        last_offset: i64::MAX,
        records: -5,
        items: i64::MAX,
        dead_lettered: 1,
        max_event_time: None,
        end_reached: true,
    };
    let batch = RateBatch {
        producer: "p/0/1",
        part: 1,
        parts: 2,
        rules_version: "r",
        pattern_version: 3,
        rows: vec![
            rate_row(),
            RateRow {
                bucket: i64::MAX,
                isp: "",
                deliveries: -1,
                drops: 2,
                categories: vec![CategoryCount { category: "x", bounces: -7, deferrals: 0, late_bounces: 9 }],
                ..RateRow::default()
            },
        ],
        ignored: vec![IgnoredCount { reason: "örtlich", count: 6 }],
        patterns: vec![PatternCount {
            pattern: -2,
            isp: "gmail",
            identity: "i",
            category: "policy",
            rule: "r1",
            count: 5,
            sample: "550 no",
        }],
        sources: vec![
            Source { topic: "a", partition: 3, first_offset: 1, last_offset: 2, records: 2, items: 4, ..Source::default() },
            heartbeat,
        ],
    };
    let mut block = BlockBuilder::new(Table::Batches);
    block.push_batch(&batch, AT, LATER + 1);
    let expect = json!({
        "kafka_topic": "té\u{1F4EC}", "kafka_partition": i32::MAX, "kafka_offset": i64::MAX, "log_time": "2100-01-01 00:00:00.001",
        "producer": "p/0/1", "part": 1, "parts": 2, "rules_version": "r", "pattern_version": 3,
        "items": 109, "deliveries": 90, "first_attempts": 95, "hard": 4, "soft": 3, "deferred": 3, "blocked": 2,
        "blocked_deferrals": 1, "complaints": 1, "late_bounces": 1, "drops": 7,
        "categorized_bounces": 7, "categorized_deferrals": 3, "categorized_late_bounces": 10,
        "sources.topic": ["a", "b"], "sources.partition": [3, -1], "sources.first_offset": [1, i64::MIN],
        "sources.last_offset": [2, i64::MAX], "sources.records": [2, 0], "sources.items": [4, i64::MAX],
        "sources.dead_lettered": [0, 1], "sources.max_event_time": [null, null], "sources.end_reached": [false, true],
        "ignored.reason": ["örtlich"], "ignored.count": [6],
        "patterns.pattern": [u64::MAX - 1], "patterns.isp": ["gmail"], "patterns.identity": ["i"], "patterns.category": ["policy"],
        "patterns.rule": ["r1"], "patterns.count": [5], "patterns.sample": ["550 no"],
        "rows.bucket": ["2026-03-10 12:00:00", "2106-02-07 06:28:15"], "rows.isp": ["gmail", ""],
        "rows.identity": ["news.example", ""], "rows.sending_ip": ["192.0.2.1", ""], "rows.campaign": ["spring", ""],
        "rows.deliveries": [90, 0], "rows.first_attempts": [95, 0], "rows.hard": [4, 0], "rows.soft": [3, 0],
        "rows.deferred": [3, 0], "rows.blocked": [2, 0], "rows.blocked_deferrals": [1, 0], "rows.complaints": [1, 0],
        "rows.late_bounces": [1, 0], "rows.drops": [5, 2],
        "rows.bounce_categories": [{"invalid_recipient": 4, "spam_content": 3}, {}],
        "rows.deferral_categories": [{"spam_content": 3}, {}],
        "rows.late_bounce_categories": [{"invalid_recipient": 1}, {"x": 9}],
    });
    assert_eq!(stored(&db, block.finish()).await, expect);
}

#[tokio::test]
async fn every_field_of_an_alert() {
    let db = Db::new("alert").await;
    let mut block = BlockBuilder::new(Table::Alerts);
    let annotations = [("summary".to_owned(), "ö\n'\"\\".to_owned()), (String::new(), String::new())];
    let extreme = Alert { annotations: annotations.into(), ..alert("é/gmail/1", "firing", 60, 300) };
    block.push_alert(&extreme, AT, "p/0/watch", NOON + 1);
    let expect = json!({
        "alert_id": "é/gmail/1", "rule": "blocked", "state": "firing", "severity": "critical", "isp": "gmail",
        "identity": "news.example", "episode_start": "2026-03-10 12:00:00.000", "event_time": "2026-03-10 12:01:00.000",
        "metric": "blocked_rate", "window_seconds": 900, "threshold": 0.2, "numerator": 300, "denominator": 1000,
        "categories": {"reputation": 299, "policy": 1}, "pattern": u64::MAX - 6, "pattern_rule": "generic.blocked", "sample": "550 5.7.1 blocked",
        "root_cause": "reputation", "action": "request_delisting", "annotations": {"summary": "ö\n'\"\\", "": ""},
        "replica": "p/0/watch", "log_time": "2026-03-10 12:00:00.001",
        "kafka_topic": "té\u{1F4EC}", "kafka_partition": i32::MAX, "kafka_offset": i64::MAX,
    });
    assert_eq!(stored(&db, block.finish()).await, expect);
}

#[tokio::test]
async fn an_alert_beyond_every_range_is_clamped() {
    let db = Db::new("alert_clamped").await;
    let mut block = BlockBuilder::new(Table::Alerts);
    let empty = Alert {
        episode_start: i64::MIN,
        event_time: i64::MAX,
        window_seconds: -1,
        threshold: -0.0,
        numerator: -1,
        denominator: i64::MIN,
        categories: vec![AlertCategory { category: "", count: -5 }],
        pattern: i64::MIN,
        annotations: Default::default(),
        ..alert("", "", 0, 0)
    };
    block.push_alert(&empty, AT, "", i64::MIN);
    let row = stored(&db, block.finish()).await;
    let expect = json!({
        "episode_start": "1970-01-01 00:00:00.000", "event_time": "2106-02-07 06:28:15.999", "window_seconds": 0,
        "numerator": 0, "denominator": 0, "categories": {"": 0}, "pattern": 1_u64 << 63, "annotations": {}, "replica": "",
        "log_time": "1970-01-01 00:00:00.000",
    });
    for (column, value) in expect.as_object().unwrap() {
        assert_eq!(&row[column], value, "{column}");
    }
}

#[tokio::test]
async fn compressed_blocks_are_the_same_rows() {
    let db = Db::new("compressed").await;
    let compressing = Warehouse::new(Settings { compression: true, ..db.settings() }).unwrap();
    let block = failures(0, 20_000, 1);
    assert_eq!(compressing.insert(&block, "t").await, Answer::Written);
    assert_eq!(db.warehouse.insert(&block, "t").await, Answer::Written);
    assert_eq!(compressing.count(Table::Failures, "bounceflow.failures", 1, 0, 19_999).await.unwrap(), 20_000);
}

#[tokio::test]
async fn ranges_are_counted() {
    let db = Db::new("count").await;
    let mut block = BlockBuilder::new(Table::Failures);
    for offset in [5, 6, 9] {
        block.push_failure(&failure(), LogPosition { topic: "it's", partition: 1, offset });
    }
    block.push_failure(&failure(), LogPosition { topic: "it's", partition: 2, offset: 6 });
    assert_eq!(db.warehouse.insert(&block.finish(), "t").await, Answer::Written);
    let count = async |topic: &'static str, partition, first, last| {
        db.warehouse.count(Table::Failures, topic, partition, first, last).await.unwrap()
    };
    assert_eq!(count("it's", 1, 5, 9).await, 3);
    assert_eq!(count("it's", 1, 6, 8).await, 1);
    assert_eq!(count("other", 1, 5, 9).await, 0);
    assert_eq!(db.warehouse.count(Table::Batches, "it's", 1, 5, 9).await.unwrap(), 0);
}
