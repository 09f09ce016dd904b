//! Replicated tables on two servers: what one takes the other gets, a repeat at the other is known there, and each may die.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::thread;
use std::time::{Duration, Instant};

use bounceflow_stack::{ClickHouse, ClickHouseOptions, Keeper};

const TABLE: &str = "CREATE TABLE d.t (n UInt64, text String) ENGINE = ReplicatedMergeTree('/t/{shard}', '{replica}') ORDER BY n
    SETTINGS min_bytes_for_wide_part = 1000000";

fn start(keeper: &Keeper, name: &str) -> ClickHouse {
    let server = ClickHouse::start_own(ClickHouseOptions::default().replica(keeper, "1", name)).unwrap();
    server.query("CREATE DATABASE d").unwrap();
    server.query(TABLE).unwrap();
    server
}

/// Rows `from` to `to`, under a token that names them.
fn insert(server: &ClickHouse, from: u64, to: u64) {
    let sql = format!(
        "INSERT INTO d.t SETTINGS insert_deduplication_token = '{from}-{to}'
        SELECT number, repeat(toString(cityHash64(number)), 5) FROM numbers({from}, {})",
        to - from
    );
    server.query(&sql).unwrap();
}

fn synced(server: &ClickHouse) -> String {
    // A server that has just come back may still hold the session of before.
    until(|| server.query("SYSTEM SYNC REPLICA d.t"));
    server.query("SELECT count(), sum(n), sum(cityHash64(text)) FROM d.t").unwrap()
}

#[test]
fn parts_reach_the_other_replica_and_repeats_are_known_there() {
    let keeper = Keeper::start().unwrap();
    let (a, b) = (start(&keeper, "a"), start(&keeper, "b"));
    // A compact part, and one large enough to be wide.
    insert(&a, 0, 10);
    insert(&a, 10, 200_000);
    insert(&b, 0, 10);
    insert(&b, 200_000, 200_100);
    let whole = synced(&a);
    assert!(whole.starts_with("200100\t20019904950\t"), "{whole}");
    assert_eq!(synced(&b), whole);
    let kinds = b.query("SELECT DISTINCT part_type FROM system.parts WHERE table = 't' ORDER BY part_type").unwrap();
    assert_eq!(kinds, "Compact\nWide\n");
    assert_eq!(b.query("SELECT count() FROM system.replication_queue WHERE last_exception != ''").unwrap(), "0\n");

    // What the dead one took and nobody has yet comes when it is back.
    b.query("SYSTEM STOP FETCHES d.t").unwrap();
    insert(&a, 200_100, 200_200);
    a.kill().unwrap();
    b.query("SYSTEM START FETCHES d.t").unwrap();
    assert!(b.query_within(Duration::from_secs(3), "SYSTEM SYNC REPLICA d.t").is_err(), "there is nobody to give it");
    insert(&b, 200_100, 200_200);
    assert_eq!(b.query("SELECT count() FROM d.t").unwrap(), "200100\n", "known as inserted, though not here yet");
    a.restart().unwrap();
    assert_eq!(synced(&a), synced(&b));
    assert_eq!(b.query("SELECT count() FROM d.t").unwrap(), "200200\n");

    // Without the keeper nothing is taken; with it again everything is. (By default an insert is tried for minutes.)
    keeper.kill().unwrap();
    until(|| match a.query("INSERT INTO d.t SETTINGS insert_keeper_max_retries = 5 VALUES (1, '')") {
        Err(e) if e.to_string().contains("Code: 242") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    keeper.restart().unwrap();
    until(|| a.query("INSERT INTO d.t SETTINGS insert_deduplication_token = 'after' VALUES (1, '')"));
    for replica in [&a, &b] {
        until(|| replica.query("SYSTEM SYNC REPLICA d.t"));
        assert_eq!(replica.query("SELECT count() FROM d.t").unwrap(), "200201\n");
    }
}

/// Asks until it is so.
fn until<T, E: std::fmt::Debug>(mut ask: impl FnMut() -> Result<T, E>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(e) = ask() {
        assert!(Instant::now() < deadline, "{e:?}");
        thread::sleep(Duration::from_millis(100));
    }
}
