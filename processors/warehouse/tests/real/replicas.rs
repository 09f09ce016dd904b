//! Two replicas of one shard: the same migrations, a token known at both, and what a replica that is behind may be believed.

use std::time::Duration;

use bounceflow_stack::{ClickHouse, ClickHouseOptions, Keeper};
use bounceflow_warehouse::replication::DEFAULT_PATH;
use bounceflow_warehouse::{
    Answer, AuditOptions, Held, Replicas, Replication, Settings, Table, Verdict, Warehouse, WarehouseError, is_of_the_server,
    judge,
};

use crate::support::{batch, batches, failures, rate_row};

struct Shard {
    keeper: Keeper,
    a: ClickHouse,
    b: ClickHouse,
}

impl Shard {
    fn start() -> Self {
        let keeper = Keeper::start().unwrap();
        let start = |name| ClickHouse::start_own(ClickHouseOptions::default().replica(&keeper, "1", name)).unwrap();
        let (a, b) = (start("a"), start("b"));
        Self { keeper, a, b }
    }

    fn settings(&self) -> Settings {
        settings(&[&self.a, &self.b])
    }

    fn at(&self, server: &ClickHouse) -> Warehouse {
        Warehouse::new(Settings { url: server.url().to_owned(), further: Vec::new(), ..self.settings() }).unwrap()
    }
}

fn settings(servers: &[&ClickHouse]) -> Settings {
    let mut urls = servers.iter().map(|server| server.url().to_owned());
    Settings {
        url: urls.next().unwrap(),
        further: urls.collect(),
        database: "shard".to_owned(),
        pipeline: "test".to_owned(),
        replication: Some(Replication { path: DEFAULT_PATH.to_owned(), cluster: None }),
        ..Settings::default()
    }
}

async fn until<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(mut ask: impl FnMut() -> F) -> T {
    for _ in 0..600 {
        if let Ok(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute: {:?}", ask().await.err());
}

const TABLES: [&str; 5] = ["alerts", "batches", "delivery_rates", "failures", "pipelines"];

fn sync(server: &ClickHouse) {
    for table in TABLES {
        server.query(&format!("SYSTEM SYNC REPLICA shard.{table}")).unwrap();
    }
}

#[tokio::test]
async fn the_same_migrations_make_replicated_tables_and_repeats_are_known_at_every_replica() {
    let shard = Shard::start();
    let replicas = Replicas::new(shard.settings()).unwrap();
    replicas.check().await.unwrap_err();
    // The second one joins when the first one has its tables long since, changed and filled.
    let before = Replicas::new(settings(&[&shard.a])).unwrap().migrate(&mut |_| {}).await.unwrap();
    shard
        .a
        .query("INSERT INTO shard.thresholds SELECT * REPLACE (now() AS changed_at, 0.5 AS watch) FROM shard.thresholds")
        .unwrap();
    let applied = replicas.migrate(&mut |_| {}).await.unwrap();
    assert_eq!(applied, before);
    assert_eq!(replicas.migrate(&mut |_| {}).await.unwrap(), []);
    replicas.check().await.unwrap();
    for server in [&shard.a, &shard.b] {
        let sql =
            "SELECT name, engine LIKE 'Replicated%' FROM system.tables WHERE database = 'shard' AND engine LIKE '%MergeTree'
            ORDER BY name";
        let engines = server.query(sql).unwrap();
        let expected = "alerts\t1\nbatches\t1\ndaily_rates\t1\ndaily_rates_by_identity\t1\ndelivery_rates\t1\nerased_recipients\t1\n\
            erased_rows\t1\nfailures\t1\nhourly_rates\t1\npipelines\t1\nreplays\t1\nretention\t1\nschema_migrations\t0\n\
            thresholds\t1\n";
        assert_eq!(engines, expected);
    }

    // Inserted at one, repeated at the other before and after it has fetched: once, behind the view too.
    let (a, b) = (shard.at(&shard.a), shard.at(&shard.b));
    let rates = batches(0, &[batch(0, 9, vec![rate_row()]), batch(10, 19, vec![rate_row()])]);
    let rows = failures(0, 1000, 1);
    for table in TABLES {
        shard.b.query(&format!("SYSTEM STOP FETCHES shard.{table}")).unwrap();
    }
    assert_eq!(a.insert(&rates, "r").await, Answer::Written);
    assert_eq!(a.insert(&rows, "f").await, Answer::Written);
    for round in 0..2 {
        assert_eq!(b.insert(&rates, "r").await, Answer::Written);
        assert_eq!(b.insert(&rows, "f").await, Answer::Written);
        let held = || b.held(Table::Failures, "bounceflow.failures", 1, 0, 999);
        if round == 0 {
            // The server said OK and has none of it: nobody may take that for lost.
            let Held { rows, awaits, .. } = held().await.unwrap();
            assert_eq!(rows, 0);
            assert!(awaits.is_some_and(|why| why.contains("/replicas/b")), "it must say that more will come");
            let error = b.last_offset(Table::Failures, "bounceflow.failures", 1).await.unwrap_err();
            assert!(matches!(error, WarehouseError::Behind(_)) && error.may_pass(), "{error}");
            let report = b.audit(&AuditOptions::default()).await.unwrap();
            assert!(report.behind.iter().any(|why| why.contains("/failures/replicas/b")), "{report}");
            for table in TABLES {
                shard.b.query(&format!("SYSTEM START FETCHES shard.{table}")).unwrap();
            }
            sync(&shard.b);
        }
        let whole = until(|| async { held().await.map_err(|e| e.to_string()).and_then(|h| h.awaits.clone().map_or(Ok(h), Err)) });
        assert_eq!(whole.await.rows, 1000);
    }
    assert_eq!(b.last_offset(Table::Failures, "bounceflow.failures", 1).await.unwrap(), Some(999));
    // Of the roll-ups too, in a moment.
    until(|| async {
        let report = b.audit(&AuditOptions::default()).await.map_err(|e| e.to_string())?;
        if report.behind.is_empty() { Ok(()) } else { Err(report.to_string()) }
    })
    .await;
    assert_eq!(b.last_offset(Table::Alerts, "bounceflow.alerts", 0).await.unwrap(), None, "never touched is not behind");
    sync(&shard.a);
    for server in [&shard.a, &shard.b] {
        for table in ["batches", "delivery_rates", "failures"] {
            server.query(&format!("OPTIMIZE TABLE shard.{table} FINAL")).unwrap();
        }
        let sums = "SELECT (SELECT count() FROM shard.failures), (SELECT count() FROM shard.batches),
            (SELECT sum(deliveries) FROM shard.delivery_rates)";
        assert_eq!(server.query(sums).unwrap(), "1000\t2\t180\n");
    }

    // Settings of a table are not replicated: each replica is checked.
    shard.b.query("ALTER TABLE shard.delivery_rates MODIFY SETTING replicated_deduplication_window_seconds = 3600").unwrap();
    let error = replicas.check().await.unwrap_err().to_string();
    assert!(error.contains(shard.b.url()) && error.contains("shard.delivery_rates") && error.contains("is 3600"), "{error}");

    // Keeper gone: read-only, which passes.
    shard.keeper.kill().unwrap();
    let refused = until(|| async {
        let answer = a.insert(&failures(5000, 10, 1), "late").await;
        if matches!(answer, Answer::Refused { code: Some(242), .. }) { Ok(answer) } else { Err(answer) }
    });
    let refused = refused.await;
    assert_eq!((judge(&refused), is_of_the_server(&refused)), (Verdict::Retry, true));
    shard.keeper.restart().unwrap();
    until(|| async {
        let answer = a.insert(&failures(5000, 10, 1), "late").await;
        if answer == Answer::Written { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(a.count(Table::Failures, "bounceflow.failures", 1, 5000, 5009).await.unwrap(), 10);
}

#[tokio::test]
async fn servers_that_are_no_replicas_of_each_other_are_refused() {
    let keeper = Keeper::start().unwrap();
    let start = |shard, name| ClickHouse::start_own(ClickHouseOptions::default().replica(&keeper, shard, name)).unwrap();
    let (one, other) = (start("1", "a"), start("2", "a"));
    let replicas = Replicas::new(settings(&[&one, &other])).unwrap();
    replicas.migrate(&mut |_| {}).await.unwrap();
    let error = replicas.check().await.unwrap_err();
    assert!(error.to_string().contains("do not hold the same tables") && error.to_string().contains(other.url()), "{error}");

    // Tables of before, when one server was all there was.
    let alone = Settings { database: "alone".to_owned(), ..settings(&[&one]) };
    let plain = Settings { replication: None, ..alone.clone() };
    Warehouse::new(plain.clone()).unwrap().migrate(&mut |_| {}).await.unwrap();
    let error = Replicas::new(alone).unwrap().check().await.unwrap_err();
    assert!(error.to_string().contains("alone.failures: engine MergeTree keeps tokens to itself"), "{error}");
    let two = Settings { further: vec![other.url().to_owned()], ..plain };
    assert!(Replicas::new(two).err().unwrap().to_string().contains("not replicated"));
}

#[tokio::test]
async fn a_dead_replica_is_passed_by_and_checked_when_its_turn_comes() {
    let shard = Shard::start();
    let replicas = Replicas::new(shard.settings()).unwrap();
    replicas.migrate(&mut |_| {}).await.unwrap();
    shard.a.kill().unwrap();
    replicas.check().await.unwrap();
    let b = replicas.writable().await.unwrap();
    assert_eq!(b.insert(&failures(0, 10, 1), "t").await, Answer::Written);
    shard.a.restart().unwrap();
    until(|| async { shard.a.query("SYSTEM SYNC REPLICA shard.failures") }).await;
    shard.a.query("ALTER TABLE shard.failures MODIFY SETTING replicated_deduplication_window = 5").unwrap();
    replicas.pass_by(b);
    let error = replicas.writable().await.err().unwrap().to_string();
    assert!(error.contains(shard.a.url()) && error.contains("is 5 "), "{error}");
    assert_eq!(replicas.writable().await.unwrap().insert(&failures(0, 10, 1), "t").await, Answer::Written, "the fit one again");
    assert_eq!(shard.b.query("SELECT count() FROM shard.failures").unwrap(), "10\n");
}

/// A commit that Keeper does not answer leaves a part that may go again: the server shows it, and says that it does not know.
#[tokio::test]
async fn rows_of_a_part_in_doubt_are_not_taken_for_doubled() {
    let shard = Shard::start();
    Replicas::new(shard.settings()).unwrap().migrate(&mut |_| {}).await.unwrap();
    let (a, b) = (shard.at(&shard.a), shard.at(&shard.b));
    assert_eq!(a.insert(&failures(0, 10, 1), "source").await, Answer::Written);

    // Keeper's answers fail at random, until the one to a commit does and Keeper has nothing of it.
    let first = (1..200).map(|i| 100 * i).find(|first| {
        let sql = format!(
            "INSERT INTO shard.failures SETTINGS insert_deduplication_token = 't{first}', insert_keeper_max_retries = 0,
                insert_keeper_fault_injection_probability = 0.3, insert_keeper_fault_injection_seed = {first}
            SELECT * REPLACE(kafka_offset + {first} AS kafka_offset) FROM (SELECT * FROM shard.failures WHERE kafka_offset < 10)"
        );
        let in_doubt = shard.a.query(&sql).is_err_and(|e| e.to_string().contains("Code: 319"));
        sync(&shard.b);
        let there = format!("SELECT count() FROM shard.failures WHERE kafka_offset >= {first}");
        in_doubt && shard.b.query(&there).unwrap() == "0\n"
    });
    let first = first.unwrap();
    let (block, token) = (failures(first, 10, 1), format!("t{first}"));
    let held = async |at: &Warehouse| at.held(Table::Failures, "bounceflow.failures", 1, first, first + 9).await.unwrap();
    let Held { rows, doubts, .. } = held(&a).await;
    assert_eq!(rows, 10);
    assert!(doubts.is_some_and(|why| why.contains("/replicas/a")), "it must say that rows may go");

    // The repeat is stored beside it; the other replica has what Keeper has.
    assert_eq!(a.insert(&block, &token).await, Answer::Written);
    let Held { rows, doubts, .. } = held(&a).await;
    assert_eq!((rows, doubts.is_some()), (20, true));
    assert_eq!(b.insert(&block, &token).await, Answer::Written);
    sync(&shard.b);
    shard.a.query("SYSTEM RESTART REPLICA shard.failures").unwrap();
    for replica in [&a, &b] {
        let Held { rows, doubts, .. } = held(replica).await;
        assert_eq!((rows, doubts), (10, None));
    }
}

/// The library has no queue of distributed statements; that a server reads them as meant is what can be tested with it.
#[tokio::test]
async fn statements_on_a_cluster_are_read_as_such() {
    let keeper = Keeper::start().unwrap();
    let server = ClickHouse::start_own(ClickHouseOptions::default().replica(&keeper, "1", "a")).unwrap();
    let replication = Replication { path: DEFAULT_PATH.to_owned(), cluster: Some("all".to_owned()) };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/clickhouse");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let sql = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for statement in sql.split(";\n").map(str::trim).filter(|s| !s.is_empty() && !s.contains("INSERT INTO")) {
            let statement = replication.rewrite(statement).unwrap();
            let quoted = statement.replace('\\', "\\\\").replace('\'', "\\'");
            let read = server.query(&format!("SELECT formatQuery('{quoted}') FORMAT TSVRaw")).unwrap();
            assert!(read.contains(" ON CLUSTER `all`"), "{read}");
            seen += 1;
        }
    }
    assert!(seen > 8, "{seen}");
    let settings = Settings { replication: Some(replication), ..settings(&[&server]) };
    let error = Warehouse::new(settings).unwrap().migrate(&mut |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("Replicated DDL queries are disabled"), "{error}");
}
