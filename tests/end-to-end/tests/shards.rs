//! The sink on two shards, alone or with replicas: whatever dies, whenever, and however their number changes, both together hold everything
//! once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Dice, Pipeline, Process, Swallower, TABLES, differences, until};
use bounceflow_stack::{ClickHouse, ClickHouseOptions, Keeper};

struct Shards {
    servers: Vec<ClickHouse>,
    /// Of those that are replicas.
    keeper: Option<Keeper>,
}

impl Shards {
    fn start() -> Result<Self> {
        let options = [ClickHouseOptions::default(), ClickHouseOptions::default()];
        Ok(Self { servers: ClickHouse::start_shards(&options)?, keeper: None })
    }

    /// Two replicas of each: those of the first, then those of the second.
    fn start_replicated() -> Result<Self> {
        let keeper = Keeper::start()?;
        let replica = |shard, name| ClickHouseOptions::default().replica(&keeper, shard, name);
        let options = [replica("1", "a"), replica("1", "b"), replica("2", "a"), replica("2", "b")];
        Ok(Self { servers: ClickHouse::start_shards(&options)?, keeper: Some(keeper) })
    }

    /// Waits until each replica has what the other has.
    fn sync(&self, pipeline: &Pipeline) -> Result<()> {
        for server in &self.servers {
            for table in TABLES {
                // Looks at once for parts that stood in doubt when a server died; else it does so after five minutes.
                server.query(&format!("SYSTEM RESTART REPLICA {}.{table}", pipeline.database()))?;
                until(&format!("{table} to be in sync"), || {
                    server.query(&format!("SYSTEM SYNC REPLICA {}.{table}", pipeline.database()))
                })?;
            }
        }
        Ok(())
    }

    /// Waits until all is settled, merges everything, and compares what both hold with what was sent.
    fn exact(&self, pipeline: &Pipeline, simulate: &mut Process) -> Result<()> {
        ensure!(simulate.end()?.success(), "the simulator failed");
        pipeline.settled("classify")?;
        pipeline.settled("sink")?;
        let (_, expected) = pipeline.expected("expected.json")?;
        if self.keeper.is_some() {
            self.sync(pipeline)?;
        }
        for server in &self.servers {
            for table in TABLES {
                server.query(&format!("OPTIMIZE TABLE {}.{table} FINAL", pipeline.database()))?;
            }
        }
        for server in &self.servers {
            let found = pipeline.totals_in(server, &format!("{}_all", pipeline.database()))?;
            let (words, lost, doubled) = differences(&expected, &found);
            ensure!(words.is_empty(), "lost {lost}, doubled {doubled} as shown at {}: {words:?}", server.url());
            ensure!(rows(server, pipeline, "failures")? > 0, "{} holds no failures", server.url());
        }
        // Every failure that was counted is stored, and none twice.
        pipeline.succeed(&["audit"])?;
        Ok(())
    }
}

fn rows(server: &ClickHouse, pipeline: &Pipeline, table: &str) -> Result<u64> {
    Ok(server.query(&format!("SELECT count() FROM {}.{table}", pipeline.database()))?.trim().parse()?)
}

fn more_rows(server: &ClickHouse, pipeline: &Pipeline, table: &str, more: u64) -> Result<()> {
    let before = rows(server, pipeline, table)?;
    until(&format!("{table} at {}", server.url()), || {
        let now = rows(server, pipeline, table)?;
        ensure!(now >= before + more, "{before} before, {now} now");
        Ok(())
    })
}

/// Waits until an insert of each of these partitions of the failures was not taken, as far as the sink knows.
fn not_taken(sink: &Process, pipeline: &Pipeline, partitions: &[i64]) -> Result<()> {
    until("inserts to fail", || {
        let said = sink.said("An insert was not taken; it is repeated");
        let of = |partition: &i64| {
            said.iter().any(|line| line["topic"] == pipeline.topic("failures") && line["partition"] == *partition)
        };
        ensure!(partitions.iter().all(of), "{:?}", said.last());
        Ok(())
    })
}

#[test]
fn the_sink_and_each_shard_die_while_events_flow() -> Result<()> {
    let shards = Shards::start()?;
    let [a, b] = &shards.servers[..] else { anyhow::bail!("two") };
    let pipeline = Pipeline::builder("shards")?.inputs(2).clickhouse(&[a.url()]).without_tables().build()?;
    pipeline.shards(&[&[a.url()], &[b.url()]])?;
    pipeline.succeed(&["migrate"])?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=600000", "--rate=8000", &expected])?;
    sink.ready()?;

    let mut dice = Dice::new(6);
    for _ in 0..5 {
        more_rows(b, &pipeline, "failures", 200)?;
        std::thread::sleep(Duration::from_millis(dice.below(300)));
        sink.kill()?;
        sink = pipeline.run("sink", 0, &[])?;
    }
    // Each dies once: what is the other's goes on meanwhile, and what is its own waits for it.
    for (dies, lives, waiting) in [(b, a, 1), (a, b, 0)] {
        more_rows(dies, &pipeline, "failures", 200)?;
        dies.kill()?;
        not_taken(&sink, &pipeline, &[waiting])?;
        more_rows(lives, &pipeline, "failures", 1000)?;
        dies.restart()?;
    }
    shards.exact(&pipeline, &mut simulate)?;
    ensure!(sink.said("A partition halts").is_empty(), "it halted");
    ensure!(classify.stop()?.success() && sink.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn a_replica_of_each_shard_and_the_sink_die_while_events_flow() -> Result<()> {
    let shards = Shards::start_replicated()?;
    let [a, b, c, d] = &shards.servers[..] else { anyhow::bail!("four") };
    let pipeline = Pipeline::builder("replicated_shards")?.inputs(2).clickhouse(&[a.url()]).without_tables().build()?;
    pipeline.shards(&[&[a.url(), b.url()], &[c.url(), d.url()]])?;
    pipeline.succeed(&["migrate"])?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=400000", "--rate=8000", &expected])?;

    // The one of each shard that is written to dies, and the other goes on alone; so does the other shard.
    for (dies, goes_on, other) in [(a, b, c), (c, d, b)] {
        more_rows(dies, &pipeline, "failures", 200)?;
        dies.kill()?;
        more_rows(goes_on, &pipeline, "failures", 1000)?;
        more_rows(other, &pipeline, "failures", 200)?;
        sink.kill()?;
        sink = pipeline.run("sink", 0, &[])?;
        more_rows(goes_on, &pipeline, "failures", 200)?;
        dies.restart()?;
    }
    shards.exact(&pipeline, &mut simulate)?;
    for [one, other] in [[a, b], [c, d]] {
        let (one, other) = (rows(one, &pipeline, "failures")?, rows(other, &pipeline, "failures")?);
        ensure!(one == other, "replicas differ: {one} and {other} failures");
    }
    ensure!(sink.said("A partition halts").is_empty(), "it halted");
    ensure!(classify.stop()?.success() && sink.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn a_second_shard_joins_while_inserts_are_open() -> Result<()> {
    let shards = Shards::start()?;
    let [a, b] = &shards.servers[..] else { anyhow::bail!("two") };
    let front = Swallower::start(a)?;
    let pipeline = Pipeline::builder("growing")?.inputs(2).clickhouse(&[front.url()]).build()?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=400000", "--rate=10000", &expected])?;
    more_rows(a, &pipeline, "failures", 200)?;

    // Stored, and nobody hears of it: every partition has an open intent when the second shard joins.
    front.swallow(usize::MAX);
    not_taken(&sink, &pipeline, &[0, 1, 2, 3])?;
    sink.kill()?;
    front.swallow(0);
    pipeline.shards(&[&[front.url()], &[b.url()]])?;
    pipeline.succeed(&["migrate"])?;
    sink = pipeline.run("sink", 0, &[])?;
    more_rows(b, &pipeline, "failures", 200)?;
    let repeated = sink.said("An insert may be half done");
    ensure!(repeated.iter().any(|line| line["partition"] == 1), "no open intent of a partition that moved: {repeated:?}");

    // It is taken out of the configuration while it may have stored what is open.
    b.kill()?;
    not_taken(&sink, &pipeline, &[1, 3])?;
    sink.kill()?;
    pipeline.shards(&[&[front.url()]])?;
    sink = pipeline.run("sink", 0, &[])?;
    let halts = sink.wait_for("A partition halts")?;
    let why = halts["why"].as_str().context("no reason")?;
    ensure!(why.contains("begun at clickhouse.shards[1]") && why.contains("list that shard again"), "{why}");
    more_rows(a, &pipeline, "failures", 200)?;
    sink.kill()?;
    b.restart()?;
    pipeline.shards(&[&[front.url()], &[b.url()]])?;
    sink = pipeline.run("sink", 0, &[])?;
    shards.exact(&pipeline, &mut simulate)?;
    ensure!(sink.said("A partition halts").is_empty(), "it halted");

    // Neither order nor replays are taken that cannot be right.
    ensure!(sink.stop()?.success() && classify.stop()?.success(), "they did not end well");
    pipeline.shards(&[&[b.url()], &[front.url()]])?;
    let mut swapped = pipeline.run("sink", 0, &[])?;
    let waits = swapped.wait_for("Waiting for ClickHouse")?;
    let why = waits["error"].as_str().context("no reason")?;
    ensure!(why.contains(&format!("in this order: {}, {}", front.url(), b.url())), "{why}");
    let refused = pipeline.command(&["replay", "list"])?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("replay works on one shard"), "{refused:?}");
    pipeline.passed();
    Ok(())
}
