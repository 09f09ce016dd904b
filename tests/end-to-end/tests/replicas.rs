//! The sink on two replicas of one shard: whichever dies, whenever, both hold everything once in the end.

use anyhow::{Result, ensure};
use bounceflow_end_to_end::{Pipeline, Process, Swallower, TABLES, Totals, differences, until};
use bounceflow_stack::{ClickHouse, ClickHouseOptions, Keeper};

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

#[test]
fn a_replica_that_knows_the_token_but_not_yet_the_rows_is_waited_for() -> Result<()> {
    let shard = Shard::start()?;
    let front = Swallower::start(&shard.a)?;
    let pipeline = Pipeline::builder("behind")?.clickhouse(&[front.url(), shard.b.url()]).build()?;
    let mut process = pipeline.run("all", 0, &[])?;
    process.ready()?;
    shard.fetches(&shard.b, &pipeline, "STOP")?;
    // The first insert is stored at the first replica, and nobody hears of it. Repeated at the second it is known, and not there.
    front.swallow(1);
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=60000", "--rate=20000", &expected])?;
    until("the sink to wait for the second", || {
        let said = process.said("An insert was not taken; it is repeated");
        let waits =
            said.iter().any(|line| line["answer"].as_str().is_some_and(|a| a.contains("inserts of other replicas to fetch")));
        ensure!(waits, "{:?}", said.last());
        Ok(())
    })?;
    ensure!(front.left() == 0, "no answer was swallowed");
    ensure!(process.said("inserting under a new token").is_empty(), "it was taken for lost");
    shard.fetches(&shard.b, &pipeline, "START")?;
    let expected = finish(&pipeline, &mut simulate, &mut process)?;
    shard.exact(&pipeline, &expected)?;
    ensure!(process.said("inserting under a new token").is_empty(), "it was taken for lost");
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}
