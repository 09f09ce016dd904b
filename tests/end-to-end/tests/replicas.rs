//! The sink on two replicas of one shard: whichever dies, whenever, both hold everything once in the end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use bounceflow_end_to_end::{Pipeline, Process, Totals, differences, until};
use bounceflow_stack::{ClickHouse, ClickHouseOptions, Keeper};

const TABLES: [&str; 4] = ["failures", "batches", "delivery_rates", "alerts"];

struct Shard {
    keeper: Keeper,
    a: ClickHouse,
    b: ClickHouse,
}

impl Shard {
    fn start() -> Result<Self> {
        let keeper = Keeper::start()?;
        let start = |name| ClickHouse::start_own(ClickHouseOptions::default().replica(&keeper, "1", name));
        let (a, b) = (start("a")?, start("b")?);
        Ok(Self { keeper, a, b })
    }

    fn fetches(&self, server: &ClickHouse, pipeline: &Pipeline, verb: &str) -> Result<()> {
        for table in TABLES {
            server.query(&format!("SYSTEM {verb} FETCHES {}.{table}", pipeline.database()))?;
        }
        Ok(())
    }

    /// Waits until each has what the other has, merges everything, and compares both with what was sent.
    fn exact(&self, pipeline: &Pipeline, expected: &Totals) -> Result<()> {
        for server in [&self.a, &self.b] {
            for table in TABLES {
                // Looks at once for parts that stood in doubt when Keeper died; else a server does so after five minutes.
                server.query(&format!("SYSTEM RESTART REPLICA {}.{table}", pipeline.database()))?;
                until(&format!("{table} to be in sync"), || {
                    server.query(&format!("SYSTEM SYNC REPLICA {}.{table}", pipeline.database()))
                })?;
            }
        }
        for server in [&self.a, &self.b] {
            for table in TABLES {
                server.query(&format!("OPTIMIZE TABLE {}.{table} FINAL", pipeline.database()))?;
            }
            let (words, lost, doubled) = differences(expected, &pipeline.totals_at(server)?);
            ensure!(words.is_empty(), "lost {lost}, doubled {doubled} at {}: {words:?}", server.url());
        }
        pipeline.succeed(&["audit"])?;
        Ok(())
    }
}

fn rows(server: &ClickHouse, pipeline: &Pipeline) -> Result<u64> {
    Ok(server.query(&format!("SELECT count() FROM {}.failures", pipeline.database()))?.trim().parse()?)
}

/// Simulates, waits until all of it is settled, and says what was sent.
fn finish(pipeline: &Pipeline, simulate: &mut Process, process: &mut Process) -> Result<Totals> {
    ensure!(simulate.end()?.success(), "the simulator failed");
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    ensure!(process.runs()?, "it ended: {}", process.log());
    let (_, expected) = pipeline.expected("expected.json")?;
    Ok(expected)
}

#[test]
fn replicas_and_keeper_die_in_turn_while_events_flow() -> Result<()> {
    let shard = Shard::start()?;
    let pipeline = Pipeline::builder("replicas")?.inputs(2).clickhouse(&[shard.a.url(), shard.b.url()]).build()?;
    let mut process = pipeline.run("all", 0, &[])?;
    process.ready()?;
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=400000", "--rate=20000", &expected])?;
    let refused = |process: &Process| process.said("An insert was not taken; it is repeated").len();

    // The one written to dies in the middle of inserts; the other goes on alone.
    until("rows at the first", || {
        ensure!(rows(&shard.a, &pipeline)? > 2000, "too few");
        Ok(())
    })?;
    shard.a.kill()?;
    let before = rows(&shard.b, &pipeline)?;
    until("rows at the second", || {
        ensure!(rows(&shard.b, &pipeline)? > before + 2000, "too few");
        Ok(())
    })?;
    let struck = refused(&process);
    ensure!(struck > 0, "the first died unnoticed");

    // Back, it has to catch up, and is then all there is.
    shard.a.restart()?;
    shard.b.kill()?;
    until("the sink to turn back", || {
        ensure!(refused(&process) > struck, "the second died unnoticed");
        Ok(())
    })?;
    let before = rows(&shard.a, &pipeline)?;
    until("rows at the first again", || {
        ensure!(rows(&shard.a, &pipeline)? > before, "none");
        Ok(())
    })?;
    shard.b.restart()?;

    // Nobody takes anything without Keeper.
    shard.keeper.kill()?;
    until("the sink to be refused", || {
        let said = process.said("An insert was not taken; it is repeated");
        let refused = said.iter().any(|line| line["answer"].as_str().is_some_and(|a| a.contains("Code: 242")));
        ensure!(refused, "no read-only table: {:?}", said.last());
        Ok(())
    })?;
    shard.keeper.restart()?;

    let expected = finish(&pipeline, &mut simulate, &mut process)?;
    shard.exact(&pipeline, &expected)?;
    ensure!(process.said("A partition halts").is_empty(), "it halted");
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn what_the_dead_replica_took_alone_comes_when_it_is_back() -> Result<()> {
    let shard = Shard::start()?;
    let pipeline = Pipeline::builder("acknowledged")?.inputs(2).clickhouse(&[shard.a.url(), shard.b.url()]).build()?;
    let mut process = pipeline.run("all", 0, &[])?;
    process.ready()?;
    shard.fetches(&shard.b, &pipeline, "STOP")?;
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=100000", "--rate=20000", &expected])?;
    // Taken by the first and settled in Kafka; the second has none of it.
    until("rows at the first", || {
        ensure!(rows(&shard.a, &pipeline)? > 1000, "too few");
        Ok(())
    })?;
    shard.a.kill()?;
    ensure!(rows(&shard.b, &pipeline)? == 0, "the second has fetched");
    shard.fetches(&shard.b, &pipeline, "START")?;
    until("rows at the second", || {
        ensure!(rows(&shard.b, &pipeline)? > 0, "none");
        Ok(())
    })?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    shard.a.restart()?;
    let expected = finish(&pipeline, &mut simulate, &mut process)?;
    shard.exact(&pipeline, &expected)?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

/// In front of a server: passes everything on, but of as many answers to inserts as it is told, nothing comes back.
struct Swallower {
    address: String,
    answers: Arc<AtomicUsize>,
}

impl Swallower {
    fn start(server: &ClickHouse) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}", listener.local_addr()?);
        let answers = Arc::<AtomicUsize>::default();
        let target = server.url().trim_start_matches("http://").to_owned();
        let shared = Arc::clone(&answers);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let swallow = Arc::clone(&shared);
                thread::spawn(move || pass(&client, &server, &swallow));
            }
        });
        Ok(Self { address, answers })
    }
}

/// One connection, until either side ends it.
fn pass(client: &TcpStream, server: &TcpStream, swallow: &AtomicUsize) {
    let inserting = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to) = (client, server);
            let mut buffer = vec![0; 1 << 16];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if buffer[..n].windows(26).any(|w| w == b"insert_deduplication_token") {
                    inserting.store(1, Ordering::SeqCst);
                }
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = server.shutdown(Shutdown::Both);
        });
        let (mut from, mut to) = (server, client);
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let insert = inserting.swap(0, Ordering::SeqCst) == 1;
            let take = |left: usize| left.checked_sub(1);
            if insert && swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                break;
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}

#[test]
fn a_replica_that_knows_the_token_but_not_yet_the_rows_is_waited_for() -> Result<()> {
    let shard = Shard::start()?;
    let front = Swallower::start(&shard.a)?;
    let pipeline = Pipeline::builder("behind")?.clickhouse(&[&front.address, shard.b.url()]).build()?;
    let mut process = pipeline.run("all", 0, &[])?;
    process.ready()?;
    shard.fetches(&shard.b, &pipeline, "STOP")?;
    // The first insert is stored at the first replica, and nobody hears of it. Repeated at the second it is known, and not there.
    front.answers.store(1, Ordering::SeqCst);
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=60000", "--rate=20000", &expected])?;
    until("the sink to wait for the second", || {
        let said = process.said("An insert was not taken; it is repeated");
        let waits =
            said.iter().any(|line| line["answer"].as_str().is_some_and(|a| a.contains("inserts of other replicas to fetch")));
        ensure!(waits, "{:?}", said.last());
        Ok(())
    })?;
    ensure!(front.answers.load(Ordering::SeqCst) == 0, "no answer was swallowed");
    ensure!(process.said("inserting under a new token").is_empty(), "it was taken for lost");
    shard.fetches(&shard.b, &pipeline, "START")?;
    let expected = finish(&pipeline, &mut simulate, &mut process)?;
    shard.exact(&pipeline, &expected)?;
    ensure!(process.said("inserting under a new token").is_empty(), "it was taken for lost");
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}
