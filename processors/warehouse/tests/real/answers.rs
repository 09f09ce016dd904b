//! Every kind of refusal, provoked on a real server, and what it is judged to be.

use bounceflow_warehouse::{Answer, Block, BlockBuilder, Settings, Table, Verdict, Warehouse, columns, judge};
use bytes::Bytes;

use crate::support::{DAY, Db, batch, batches, failures, mortal, rate_row};

fn check(answer: &Answer, code: u32, words: &str, verdict: Verdict) {
    let Answer::Refused { code: Some(got), message } = answer else { panic!("refused, not {answer:?}") };
    assert_eq!(*got, code, "{message}");
    assert!(message.contains(words), "{message}");
    assert_eq!(judge(answer), verdict, "{message}");
}

async fn insert(db: &Db<'_>) -> Answer {
    db.warehouse.insert(&failures(0, 3, 0), "t").await
}

/// An insert as the warehouse sends it, with one more setting.
async fn insert_with(db: &Db<'_>, setting: &str, value: &str) -> Answer {
    let sql = format!("INSERT INTO failures ({}) FORMAT RowBinary", columns(Table::Failures).join(", "));
    let Settings { url, database, .. } = db.settings();
    let client = clickhouse::Client::default().with_url(url).with_database(database);
    let mut insert = client.insert_formatted_with(sql).with_setting(setting, value);
    insert.send(failures(0, 100_000, 1).bytes().clone()).await.unwrap();
    match insert.end().await {
        Ok(()) => Answer::Written,
        Err(clickhouse::error::Error::BadResponse(text)) => Answer::refused(&text),
        Err(e) => Answer::broken(&e.to_string()),
    }
}

async fn as_user(db: &Db<'_>, user: &str, password: &str, block: &Block) -> Answer {
    let settings = Settings { user: user.to_owned(), password: password.to_owned(), ..db.settings() };
    Warehouse::new(settings).unwrap().insert(block, "t").await
}

#[tokio::test]
async fn what_only_a_person_can_mend_halts() {
    let db = Db::new("halt").await;
    check(&insert_with(&db, "readonly", "1").await, 164, "readonly", Verdict::Halt);
    check(&insert_with(&db, "no_such_setting", "1").await, 115, "no_such_setting", Verdict::Halt);
    db.query("ALTER TABLE DB.failures DROP COLUMN pool");
    check(&insert(&db).await, 16, "pool", Verdict::Halt);
    db.query("DROP TABLE DB.failures");
    check(&insert(&db).await, 60, "failures", Verdict::Halt);
}

#[tokio::test]
async fn a_missing_database_halts() {
    let db = Db::empty("no_database");
    check(&insert(&db).await, 81, "does not exist", Verdict::Halt);
}

#[tokio::test]
async fn whom_the_server_does_not_let_in_halts() {
    let server = mortal().await;
    let db = Db::on(&server, "users").await;
    // Small, and so large that the answer comes while the body is still being sent.
    for block in [failures(0, 1, 0), failures(0, 200_000, 1)] {
        for (user, password) in [("reader", "wrong-word"), ("nobody", "")] {
            let answer = as_user(&db, user, password, &block).await;
            check(&answer, 516, "Authentication failed", Verdict::Halt);
            assert!(!format!("{answer:?}").contains("wrong-word"));
        }
        check(&as_user(&db, "reader", "secret-word", &block).await, 497, "Not enough privileges", Verdict::Halt);
    }
    let settings = Settings { user: "reader".to_owned(), password: "wrong-word".to_owned(), ..db.settings() };
    let error = Warehouse::new(settings).unwrap().ping().await.unwrap_err();
    assert!(!error.may_pass() && error.to_string().contains("check user and password"), "{error}");
    assert!(error.to_string().contains("Authentication failed") && !error.to_string().contains("wrong-word"), "{error}");
}

#[tokio::test]
async fn bytes_that_are_no_rows_are_poison() {
    let db = Db::new("poison").await;
    let whole = failures(0, 2, 0);
    let cut = |bytes: &Bytes, end: usize| Block::from_row_binary(Table::Failures, 2, bytes.slice(..end));
    check(
        &db.warehouse.insert(&cut(whole.bytes(), whole.bytes().len() - 3), "t").await,
        33,
        "Cannot read all data",
        Verdict::Poison,
    );

    // A length beyond every limit where the first text is expected.
    let mut bytes = whole.bytes().to_vec();
    bytes.splice(24..25, [0xff; 9].into_iter().chain([1]));
    check(
        &db.warehouse.insert(&Block::from_row_binary(Table::Failures, 2, bytes.into()), "t").await,
        131,
        "Too large string",
        Verdict::Poison,
    );
    assert_eq!(db.rows("failures"), 0, "nothing of a block that was refused");

    // Two columns of one Nested with different lengths: the first source loses its partition.
    let mut block = BlockBuilder::new(Table::Batches);
    let at = bounceflow_warehouse::LogPosition { topic: "t", partition: 0, offset: 0 };
    block.push_batch(&batch(0, 9, vec![rate_row()]), at, 0);
    let mut bytes = block.finish().bytes().to_vec();
    let topic = b"\x01\x0fdelivery.events";
    let partitions = bytes.windows(topic.len()).position(|w| w == topic).unwrap() + topic.len();
    bytes.splice(partitions..partitions + 5, [0]);
    check(&db.warehouse.insert(&Block::from_row_binary(Table::Batches, 1, bytes.into()), "t").await, 190, "", Verdict::Poison);
}

#[tokio::test]
async fn too_many_parts_pass_and_too_many_partitions_are_split() {
    let db = Db::new("parts252").await;
    // 120 months in one block.
    let wide = db.warehouse.insert(&failures(0, 120, 31 * DAY), "wide").await;
    check(&wide, 252, "Too many partitions", Verdict::Split);
    assert_eq!(db.rows("failures"), 0);

    db.query("SYSTEM STOP MERGES DB.failures");
    db.query("ALTER TABLE DB.failures MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 0");
    assert_eq!(insert(&db).await, Answer::Written);
    let answer = db.warehouse.insert(&failures(10, 3, 0), "more").await;
    check(&answer, 252, "Too many parts", Verdict::Retry);
    db.query("ALTER TABLE DB.failures MODIFY SETTING parts_to_throw_insert = 3000");
    assert_eq!(db.warehouse.insert(&failures(10, 3, 0), "more").await, Answer::Written);
    assert_eq!(db.rows("failures"), 6);
}

#[tokio::test]
async fn a_batch_of_many_months_is_written_whole() {
    let db = Db::new("months").await;
    let row = |month: i64| bounceflow_event::RateRow { bucket: month * 31 * DAY / 1000, ..rate_row() };
    let block = batches(0, &[batch(0, 9, (0..150).map(row).collect())]);
    for _ in 0..2 {
        assert_eq!(db.warehouse.insert(&block, "t").await, Answer::Written);
        assert_eq!(db.query("SELECT sum(deliveries), uniqExact(_partition_id) FROM DB.delivery_rates"), "13500\t150");
    }
}

#[tokio::test]
async fn what_passes_by_itself_is_sent_again() {
    let db = Db::new("passes").await;
    check(&insert_with(&db, "max_memory_usage", "1000000").await, 241, "memory limit", Verdict::Retry);
    assert_eq!(db.rows("failures"), 0);
}

/// Rows are in the base table by then: only the identical block may follow, and it completes what is missing.
async fn failing_view(name: &str, expression: &str, code: u32) {
    let db = Db::new(name).await;
    let sum = |expression: &str| format!("SELECT toStartOfMinute(log_time) AS minute, {expression} AS n FROM DB.batches");
    db.query(
        "CREATE TABLE DB.target (minute DateTime, n UInt64) ENGINE = MergeTree ORDER BY minute
        SETTINGS non_replicated_deduplication_window = 100000",
    );
    db.query(&format!("CREATE MATERIALIZED VIEW DB.zz_failing TO DB.target AS {}", sum(expression)));
    db.warehouse.check().await.unwrap();
    let block = batches(0, &[batch(0, 9, vec![rate_row()]), batch(10, 19, vec![rate_row()])]);
    for _ in 0..3 {
        check(&db.warehouse.insert(&block, "t").await, code, "while pushing to view", Verdict::Retry);
    }
    assert_eq!(db.rows("batches"), 2, "written although refused");
    db.query(&format!("ALTER TABLE DB.zz_failing MODIFY QUERY {}", sum("1")));
    for _ in 0..2 {
        assert_eq!(db.warehouse.insert(&block, "t").await, Answer::Written);
    }
    assert_eq!((db.rows("batches"), db.rows("target")), (2, 2));
    assert_eq!(db.query("SELECT sum(deliveries) FROM DB.delivery_rates"), "180");
}

#[tokio::test]
async fn a_view_that_throws_is_repeated() {
    failing_view("view_throws", "throwIf(deliveries > 0)", 395).await;
}

#[tokio::test]
async fn a_parse_error_of_a_view_is_not_the_rows_fault() {
    failing_view("view_parses", "toUInt64(producer)", 6).await;
}

#[tokio::test]
async fn a_view_without_its_table_is_not_the_rows_fault() {
    let db = Db::new("view_orphan").await;
    db.query("CREATE TABLE DB.target (n UInt64) ENGINE = MergeTree ORDER BY n");
    db.query("CREATE MATERIALIZED VIEW DB.orphan TO DB.target AS SELECT deliveries AS n FROM DB.batches");
    db.query("DROP TABLE DB.target");
    let answer = db.warehouse.insert(&batches(0, &[batch(0, 9, vec![rate_row()])]), "t").await;
    assert!(matches!(judge(&answer), Verdict::Halt | Verdict::Retry), "{answer:?}");
    let error = db.warehouse.check().await.unwrap_err();
    assert!(error.to_string().contains(".target"), "{error}");
}
