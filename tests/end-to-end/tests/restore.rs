//! The handbook's drill: ClickHouse is lost, and comes back from a backup.
#![allow(clippy::print_stdout, reason = "a drill says how long it took")]

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Pipeline, Process, Servers, differences};
use bounceflow_stack::ClickHouseOptions;

fn ends_well(process: &mut Process) -> Result<()> {
    ensure!(process.stop()?.success(), "{} did not end well", process.name());
    Ok(())
}

#[test]
fn a_lost_clickhouse_comes_back_from_its_backup_and_kafka() -> Result<()> {
    let servers = Servers::take()?.with_clickhouse(ClickHouseOptions::default())?;
    let builder = Pipeline::builder("restore")?.servers(servers).inputs(4).set(&["kafka", "session.timeout.ms"], "6000")?;
    let pipeline = builder.build()?;
    let backup = pipeline.servers.clickhouse.backups().context("a ClickHouse of somebody else")?.join("nightly");
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=400000", "--rate=15000", "--failures=0.1", "--seed=11", &expected])?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    pipeline.wait_for_value("SELECT count() > 5000 FROM {db}.failures", "1")?;

    // The backup: with the sinks stopped, their places and their tables say the same.
    ends_well(&mut sink)?;
    let places = pipeline.group("sink")?.committed()?;
    let began = Instant::now();
    pipeline.value(&format!("BACKUP DATABASE {{db}} TO File('{}')", backup.display()))?;
    let (held, took) = (pipeline.count("SELECT count() FROM {db}.failures")?, began.elapsed());
    println!("backup of {held} failures: {took:.1?}");
    let mut sink = pipeline.run("sink", 0, &[])?;
    ensure!(simulate.runs()?, "the traffic was over before the backup");
    ensure!(simulate.end()?.success(), "the simulator failed");
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;

    // The loss, and the way back.
    pipeline.value("DROP DATABASE {db} SYNC")?;
    let began = Instant::now();
    ends_well(&mut sink)?;
    pipeline.value(&format!("RESTORE DATABASE {{db}} FROM File('{}')", backup.display()))?;
    ensure!(pipeline.count("SELECT count() FROM {db}.failures")? == held, "not what was backed up");
    let group = pipeline.group("sink")?;
    group.reset(&places)?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    pipeline.settled("sink")?;
    println!("restored and caught up: {:.1?}", began.elapsed());

    let (said, expected) = pipeline.expected("expected.json")?;
    let (words, ..) = differences(&expected, &pipeline.totals()?);
    ensure!(words.is_empty(), "what was sent and what was counted differ:\n{}", words.join("\n"));
    let failures = said["failures"].as_u64().context("no failures")?;
    ensure!(failures > held, "nothing came after the backup");
    ensure!(pipeline.count("SELECT count() FROM {db}.failures")? == failures, "not {failures} failures");
    pipeline.succeed(&["audit"])?;
    ends_well(&mut classify)?;
    ends_well(&mut sink)?;
    pipeline.passed();
    Ok(())
}
