//! Two servers as two shards: what is written to either is shown over both as one server would show it, and nothing is added up twice.

use std::collections::BTreeMap;

use bounceflow_event::{Failure, RateRow};
use bounceflow_stack::{ClickHouse, ClickHouseOptions, Keeper};
use bounceflow_warehouse::replication::DEFAULT_PATH;
use bounceflow_warehouse::{
    Answer, AuditOptions, Block, BlockBuilder, Erasure, LogPosition, Person, Replication, Retention, Settings, Sharding, Shards,
    Table, Warehouse,
};

use crate::support::{DAY, NOON, alert, alerts, batch, batches, failure, rate_row};

fn settings(servers: &[&ClickHouse]) -> Settings {
    let mut urls = servers.iter().map(|server| server.url().to_owned());
    Settings {
        url: urls.next().unwrap(),
        sharding: Some(Sharding { cluster: "all".to_owned(), further: urls.map(|url| vec![url]).collect() }),
        database: "parted".to_owned(),
        pipeline: "test".to_owned(),
        // The days of the tests grow old.
        retention: Retention::UNBOUNDED,
        ..Settings::default()
    }
}

async fn migrated(settings: Settings) -> Shards {
    let shards = Shards::new(settings).unwrap();
    shards.migrate(&mut |_| {}).await.unwrap();
    shards.check().await.unwrap();
    shards
}

fn failures(partition: i32, failures: &[Failure<'_>]) -> (i32, Block) {
    let mut block = BlockBuilder::new(Table::Failures);
    for (offset, failure) in (0..).zip(failures) {
        block.push_failure(failure, LogPosition { topic: "bounceflow.failures", partition, offset });
    }
    (partition, block.finish())
}

/// Blocks of everything, each with its partition: rates of both weeks, failures on three partitions, alerts of two watchers.
fn blocks() -> Vec<(i32, Block)> {
    let bucket = rate_row().bucket;
    let rows = |shift: i64| {
        vec![
            RateRow { bucket: bucket - shift, ..rate_row() },
            RateRow { bucket: bucket - shift, campaign: "summer", sending_ip: "::ffff:192.0.2.1", ..rate_row() },
            RateRow { isp: "local", identity: "other.example", soft: 2, bucket: bucket - shift, ..RateRow::default() },
            RateRow { bucket: bucket - shift, isp: "yahoo", deliveries: 300, hard: 40, ..rate_row() },
            RateRow { bucket: bucket - shift - 7 * DAY / 1000, hard: 14, ..rate_row() },
        ]
    };
    let kinds = |n: i64| {
        [
            Failure { event_time: NOON + n, ..failure() },
            Failure {
                event_time: NOON + n,
                event_type: "complaint",
                severity: "",
                category: "",
                isp: "local",
                pattern: 0,
                ..failure()
            },
            Failure { event_time: NOON + DAY + n, blocked: true, attempt: 2, recipient_domain: "b.example", ..failure() },
            Failure { event_time: NOON - 7 * DAY + n, category: "mailbox_full", pattern: 9, diagnostic: "452 full", ..failure() },
        ]
    };
    let batch_block = |partition, first: i64, shift| (partition, batches(first, &[batch(first, first + 9, rows(shift))]));
    let fates = ["pending", "firing", "resolved"].map(|state| alert("a", state, if state == "pending" { 0 } else { 60 }, 210));
    vec![
        batch_block(0, 0, 0),
        batch_block(1, 10, 3600),
        failures(0, &kinds(0)),
        failures(1, &kinds(1)),
        failures(2, &kinds(2)),
        (0, alerts(0, "p/0/watch", &fates)),
        (1, alerts(100, "p/1/watch", &fates)),
    ]
}

const READERS: &str =
    "SELECT name FROM system.tables WHERE database = 'DB' AND engine = 'View' AND name != 'thresholds' ORDER BY name";

fn ask(server: &ClickHouse, database: &str, sql: &str) -> String {
    server.query(&sql.replace("DB", database)).unwrap().trim_end().to_owned()
}

/// What every view shows, as text.
fn shown(server: &ClickHouse, database: &str) -> BTreeMap<String, String> {
    ask(server, database, "CREATE OR REPLACE VIEW DB.reporting_day AS SELECT toDate('2026-03-11') AS today");
    let views = ask(server, database, READERS);
    let all = |view: &str| (view.to_owned(), ask(server, database, &format!("SELECT * FROM DB.{view} ORDER BY ALL")));
    views.lines().map(all).collect()
}

#[tokio::test]
async fn views_over_all_shards_say_what_one_server_would() {
    let servers = ClickHouse::start_shards(&[ClickHouseOptions::default(), ClickHouseOptions::default()]).unwrap();
    let [a, b] = &servers[..] else { panic!("two") };
    let shards = Shards::new(settings(&[a, b])).unwrap();
    shards.check().await.unwrap_err();
    let applied = shards.migrate(&mut |_| {}).await.unwrap();
    assert_eq!(shards.migrate(&mut |_| {}).await.unwrap(), [], "once");
    shards.check().await.unwrap();
    let single = Warehouse::new(Settings { sharding: None, database: "whole".to_owned(), ..settings(&[a]) }).unwrap();
    let once = single.migrate(&mut |_| {}).await.unwrap();
    assert_eq!(applied.len(), 2 * once.len());

    for (i, (partition, block)) in blocks().iter().enumerate() {
        let token = format!("t{i}");
        let shard = shards.get(shards.of(*partition)).unwrap().writable().await.unwrap();
        assert_eq!(shard.insert(block, &token).await, Answer::Written);
        assert_eq!(single.insert(block, &token).await, Answer::Written);
    }
    for table in ["failures", "batches", "delivery_rates", "alerts"] {
        let rows =
            |server: &ClickHouse| ask(server, "parted", &format!("SELECT count() FROM DB.{table}")).parse::<u64>().unwrap();
        assert!(rows(a) > 0 && rows(b) > 0, "{table} stands in one shard");
        let sum = (rows(a) + rows(b)).to_string();
        assert_eq!(ask(b, "parted_all", &format!("SELECT count() FROM DB.{table}")), sum, "{table}");
    }

    let without = "SELECT name FROM system.tables WHERE database = 'DB' AND comment = ''";
    assert_eq!(ask(a, "parted_all", without), "", "all is explained");

    // The same at whichever server it is asked, and as if one had everything.
    let expect = shown(a, "whole");
    assert!(expect.len() > 18 && expect.values().all(|rows| !rows.is_empty()), "{expect:#?}");
    for server in [a, b] {
        let found = shown(server, "parted_all");
        for (view, rows) in &expect {
            assert_eq!(found.get(view), Some(rows), "{view}");
        }
        assert_eq!(found.len(), expect.len());
    }

    // A threshold is edited at one shard, whichever, and holds over all.
    let level = "SELECT DISTINCT status FROM DB.isp_profiles WHERE isp = 'yahoo' AND date = '2026-03-10'";
    let seeded = "SELECT count(), uniqExact(subject, metric) FROM DB.thresholds";
    assert_eq!(ask(a, "parted_all", seeded), "11\t11");
    assert_eq!(ask(a, "parted_all", level), "Critical", "80 of 686 are 12 %");
    ask(
        b,
        "parted",
        "INSERT INTO DB.thresholds SELECT * REPLACE (0.5 AS critical, now() AS changed_at) FROM DB.thresholds FINAL
        WHERE subject = 'isp' AND metric = 'hard_rate'",
    );
    for server in [a, b] {
        assert_eq!(ask(server, "parted_all", seeded), "11\t11");
        assert_eq!(ask(server, "parted_all", level), "Watch");
    }
    // Neither is undone by another run.
    shards.migrate(&mut |_| {}).await.unwrap();
    assert_eq!(ask(a, "parted_all", level), "Watch");
    assert_eq!(ask(a, "parted_all", "SELECT today FROM DB.reporting_day"), "2026-03-11");

    // How far a partition was counted is known whichever shard holds it.
    assert_eq!(shards.last_offset(Table::Failures, "bounceflow.failures", 1).await.unwrap(), Some(3));
    assert_eq!(shards.last_offset(Table::Failures, "bounceflow.failures", 2).await.unwrap(), Some(3));
    assert_eq!(shards.last_offset(Table::Failures, "bounceflow.failures", 3).await.unwrap(), None);

    // One shard gone is an error, never half of the figures.
    let (all, one) = (shards.reader().await.unwrap(), single.audit(&AuditOptions::default()).await.unwrap());
    assert_eq!(all.audit(&AuditOptions::default()).await.unwrap(), one);
    b.kill().unwrap();
    shards.reader().await.unwrap().audit(&AuditOptions::default()).await.unwrap_err();
    assert!(shards.check().await.unwrap_err().to_string().contains(b.url()));
}

#[tokio::test]
async fn a_person_is_erased_from_every_shard() {
    let servers = ClickHouse::start_shards(&[ClickHouseOptions::default(), ClickHouseOptions::default()]).unwrap();
    let [a, b] = &servers[..] else { panic!("two") };
    let shards = migrated(settings(&[a, b])).await;
    for (i, (partition, block)) in blocks().iter().enumerate() {
        let shard = shards.get(shards.of(*partition)).unwrap().writable().await.unwrap();
        assert_eq!(shard.insert(block, &format!("t{i}")).await, Answer::Written);
    }
    let person = Person { key_id: failure().recipient_key_id.to_owned(), hash: failure().recipient_hash.0 };
    let settled = BTreeMap::from([(0, 100), (1, 100), (2, 100)]);
    let erasure = Erasure { people: &[person], salt: "", digests: &[], topic: "bounceflow.failures", settled: &settled };
    assert_eq!(shards.count_rows_of(&erasure).await.unwrap().values().sum::<u64>(), 12);
    shards.remember_erased(erasure.people, NOON).await.unwrap();
    shards.erase_rows_of(&erasure).await.unwrap();
    assert_eq!(shards.count_rows_of(&erasure).await.unwrap(), BTreeMap::new());
    for server in [a, b] {
        let left = "SELECT (SELECT count() FROM DB.failures), (SELECT count() > 0 FROM DB.erased_rows),
            (SELECT count() FROM DB.erased_recipients)";
        assert_eq!(ask(server, "parted", left), "0\t1\t1");
    }
    let report = shards.reader().await.unwrap().audit(&AuditOptions::default()).await.unwrap();
    assert_eq!((report.failures_stored, report.failures_erased), (0, 12));
}

#[tokio::test]
async fn shards_that_are_not_what_they_were_are_refused() {
    let keeper = Keeper::start().unwrap();
    let of = |shard, name| ClickHouseOptions::default().replica(&keeper, shard, name);
    let servers = ClickHouse::start_shards(&[of("1", "a"), of("2", "a")]).unwrap();
    let [a, b] = &servers[..] else { panic!("two") };
    let check = async |settings: Settings, words: &str| {
        let shards = Shards::new(settings).unwrap();
        let error = match shards.check().await {
            Ok(()) => shards.claim("kafka", 2000).await.unwrap_err(),
            Err(e) => e,
        };
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.may_pass(), "{error}");
    };

    // What was one server becomes the first of two.
    Shards::new(Settings { sharding: None, ..settings(&[a]) }).unwrap().migrate(&mut |_| {}).await.unwrap();
    Shards::new(Settings { sharding: None, ..settings(&[a]) }).unwrap().claim("kafka", 1000).await.unwrap();
    let too_few = Shards::new(settings(&[a])).unwrap().migrate(&mut |_| {}).await.unwrap_err();
    assert!(too_few.to_string().contains("cluster all has 2 shards at"), "{too_few}");
    Shards::new(settings(&[b, a])).unwrap().migrate(&mut |_| {}).await.unwrap();
    check(settings(&[b, a]), &format!("in this order: {}, {}", a.url(), b.url())).await;
    let two = Shards::new(settings(&[a, b])).unwrap();
    two.check().await.unwrap();
    two.claim("kafka", 1000).await.unwrap();
    two.claim("kafka", 3000).await.unwrap();
    two.claim("another", 3000).await.unwrap_err();
    check(settings(&[b, a]), &format!("{} holds shard 1 and stands at clickhouse.shards[0]", b.url())).await;
    check(settings(&[b]), "shard 0, which is not configured now").await;
    check(Settings { sharding: None, ..settings(&[b]) }, "shard 0, which is not configured now").await;
    let twice = settings(&[a, b]);
    let slash = Sharding { further: vec![vec![format!("{}/", a.url())]], ..twice.sharding.clone().unwrap() };
    check(Settings { sharding: Some(slash), ..twice }, "both hold shard 0").await;

    // Migrated by another configuration.
    let longer = Settings { retention: Retention { rates: 9, ..Retention::UNBOUNDED }, sharding: None, ..settings(&[b]) };
    Shards::new(longer).unwrap().migrate(&mut |_| {}).await.unwrap();
    check(settings(&[a, b]), "do not keep data for the same time").await;

    // Replicas of one shard are no two shards.
    let path = Replication { path: DEFAULT_PATH.to_owned(), cluster: None };
    let c = ClickHouse::start_own(of("2", "b")).unwrap();
    let twins = Settings { database: "twins".to_owned(), replication: Some(path), ..settings(&[b, &c]) };
    let one = Settings { sharding: None, further: vec![c.url().to_owned()], ..twins.clone() };
    Shards::new(one).unwrap().migrate(&mut |_| {}).await.unwrap();
    // The cluster of the third is another.
    Shards::new(twins.clone()).unwrap().migrate(&mut |_| {}).await.unwrap_err();
    check(twins, "are replicas of one shard").await;
}
