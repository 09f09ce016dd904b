//! Every kind of refusal, provoked on a real server, and what it is judged to be.

use bounceflow_warehouse::{
    Access, Answer, Block, BlockBuilder, Settings, Table, Verdict, Warehouse, advice, columns, is_of_the_server, judge,
};
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
    send(db, &[(setting, value)], &failures(0, 100_000, 1)).await
}

async fn send(db: &Db<'_>, settings: &[(&str, &str)], block: &Block) -> Answer {
    let sql = format!("INSERT INTO failures ({}) FORMAT RowBinary", columns(Table::Failures).join(", "));
    let Settings { url, database, .. } = db.settings();
    let client = clickhouse::Client::default().with_url(url).with_database(database);
    let mut insert = client.insert_formatted_with(sql);
    for (name, value) in settings {
        insert = insert.with_setting(*name, *value);
    }
    insert.send(block.bytes().clone()).await.unwrap();
    match insert.end().await {
        Ok(()) => Answer::Written,
        Err(clickhouse::error::Error::BadResponse(text)) => Answer::refused(&text),
        Err(e) => Answer::broken(&e.to_string()),
    }
}

async fn as_user(db: &Db<'_>, user: &str, password: &str, block: &Block) -> Answer {
    let settings = Settings { user: user.to_owned(), access: Access::with_password(password), ..db.settings() };
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
async fn whom_the_server_does_not_let_in_waits() {
    let server = mortal().await;
    let db = Db::on(&server, "users").await;
    // Small, and so large that the answer comes while the body is still being sent.
    for block in [failures(0, 1, 0), failures(0, 200_000, 1)] {
        for (user, password) in [("reader", "wrong-word"), ("nobody", "")] {
            let answer = as_user(&db, user, password, &block).await;
            check(&answer, 516, "Authentication failed", Verdict::Retry);
            assert!(is_of_the_server(&answer));
            assert!(!format!("{answer:?}").contains("wrong-word"));
        }
        check(&as_user(&db, "reader", "secret-word", &block).await, 497, "Not enough privileges", Verdict::Halt);
    }
    let settings = Settings { user: "reader".to_owned(), access: Access::with_password("wrong-word"), ..db.settings() };
    let error = Warehouse::new(settings).unwrap().ping().await.unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("check user and password"), "{error}");
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

/// A state of the server: such a batch is sent again for as long as that lasts.
fn check_of_the_server(answer: &Answer, code: u32, words: &str) {
    check(answer, code, words, Verdict::Retry);
    assert!(is_of_the_server(answer) && !advice(Some(code)).is_empty(), "{answer:?}");
}

#[tokio::test]
async fn what_passes_by_itself_is_sent_again() {
    let db = Db::new("passes").await;
    check_of_the_server(&insert_with(&db, "max_memory_usage", "1000000").await, 241, "memory limit");
    assert_eq!(db.rows("failures"), 0);
}

#[tokio::test]
async fn a_server_without_time_or_room_is_asked_again() {
    let db = Db::new("busy").await;
    // Its own view, which sleeps, makes the insert last.
    db.query("CREATE TABLE DB.slow (n UInt8) ENGINE = Null");
    db.query("CREATE MATERIALIZED VIEW DB.slow_mv TO DB.slow AS SELECT sleepEachRow(0.5) AS n FROM DB.failures");
    let ten = failures(0, 10, 0);
    let answer = send(&db, &[("max_execution_time", "1"), ("function_sleep_max_microseconds_per_block", "0")], &ten).await;
    check(&answer, 159, "imeout", Verdict::Retry);

    let sent = send(&db, &[("query_id", "victim_of_answers"), ("function_sleep_max_microseconds_per_block", "0")], &ten);
    let kill = async {
        while db.query("SELECT count() FROM system.processes WHERE query_id = 'victim_of_answers'") == "0" {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        db.query("KILL QUERY WHERE query_id = 'victim_of_answers' ASYNC");
    };
    let (answer, ()) = tokio::join!(sent, kill);
    check(&answer, 394, "", Verdict::Retry);
    db.query("DROP VIEW DB.slow_mv");

    // No disk is large enough to leave this much free.
    db.query("ALTER TABLE DB.failures MODIFY SETTING min_free_disk_bytes_to_perform_insert = 1000000000000000");
    check_of_the_server(&insert(&db).await, 243, "free");
    db.query("ALTER TABLE DB.failures RESET SETTING min_free_disk_bytes_to_perform_insert");
    assert_eq!(insert(&db).await, Answer::Written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_too_many_queries_is_asked_again() {
    let db = Db::new("queries").await;
    let running = tokio::spawn({
        let client = clickhouse::Client::default().with_url(db.settings().url).with_setting("query_id", "occupant_of_answers");
        async move { client.query_raw("SELECT sleep(3)").execute().await }
    });
    while db.query("SELECT count() FROM system.processes WHERE query_id = 'occupant_of_answers'") == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    check_of_the_server(&send(&db, &[("max_concurrent_queries_for_all_users", "1")], &failures(0, 1, 0)).await, 202, "oo many");
    running.await.unwrap().unwrap();
}

/// Documented codes that need more than one server, or a Keeper that dies at the right moment; `replicas` provokes 242 and 999.
#[test]
fn what_is_not_provoked_here_is_judged_by_its_code() {
    for (code, verdict, of_the_server) in [
        (209, Verdict::Retry, true),  // SOCKET_TIMEOUT
        (210, Verdict::Retry, true),  // NETWORK_ERROR
        (225, Verdict::Retry, true),  // NO_ZOOKEEPER
        (236, Verdict::Retry, true),  // ABORTED
        (242, Verdict::Retry, true),  // TABLE_IS_READ_ONLY
        (319, Verdict::Retry, true),  // UNKNOWN_STATUS_OF_INSERT
        (999, Verdict::Retry, true),  // KEEPER_EXCEPTION
        (500, Verdict::Retry, false), // a code nobody has heard of here
        (49, Verdict::Retry, false),  // LOGICAL_ERROR
        (47, Verdict::Halt, false),   // UNKNOWN_IDENTIFIER
        (193, Verdict::Retry, true),  // WRONG_PASSWORD
        (53, Verdict::Poison, false), // TYPE_MISMATCH
        (6, Verdict::Poison, false),  // CANNOT_PARSE_TEXT
    ] {
        let answer = Answer::refused(&format!("Code: {code}. DB::Exception: as documented"));
        assert_eq!((judge(&answer), is_of_the_server(&answer)), (verdict, of_the_server), "{code}");
    }
    let broken = Answer::broken("connection reset");
    assert!(is_of_the_server(&broken) && !is_of_the_server(&Answer::Written));
    assert!(!is_of_the_server(&Answer::refused("Code: 252. DB::Exception: Too many partitions for single INSERT block")));
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
