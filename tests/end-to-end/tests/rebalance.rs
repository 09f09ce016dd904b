//! A process joins while another one is in the middle of something.

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Pipeline, Servers, differences, until};
use bounceflow_stack::ClickHouseOptions;

#[test]
fn a_transaction_with_records_still_under_way_is_dropped_and_its_process_goes_on() -> Result<()> {
    // Records wait in the producer for longer than it takes to lose the partitions: the transaction is aborted with them in it.
    let builder = Pipeline::builder("rebalance")?.inputs(4).set(&["kafka", "linger.ms"], "3000")?;
    let pipeline = builder.set(&["classify", "transaction_interval_ms"], 3000)?.build()?;
    let expected = pipeline.folder().join("expected.json");
    let mut simulate =
        pipeline.simulate(&["--count=60000", "--rate=4000", "--garbage=0", &format!("--expected={}", expected.display())])?;
    let mut first = pipeline.run("classify", 0, &[])?;
    first.wait_for("Partitions given")?;
    let id = pipeline.id("classify", 0);
    let mut second = pipeline.run("classify", 1, &[])?;
    first.wait_for("Partitions taken away")?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    pipeline.settled("classify")?;
    let aborted = first.metric("bounceflow_classify_transactions_total", &[("result", "aborted")])?;
    ensure!(aborted >= 1.0, "no transaction was open when the partitions went");
    ensure!(!pipeline.group("classify")?.assigned(&id)?.is_empty(), "the first works no more");

    let mut sink = pipeline.run("sink", 0, &[])?;
    pipeline.settled("sink")?;
    let (said, expected) = pipeline.expected("expected.json")?;
    let (words, ..) = differences(&expected, &pipeline.totals()?);
    ensure!(words.is_empty(), "what was sent and what was counted differ:\n{}", words.join("\n"));
    let failures = said["failures"].as_u64().context("no failures")?;
    ensure!(pipeline.count("SELECT count() FROM {db}.failures")? == failures, "not {failures} failures");
    for process in [&mut first, &mut second, &mut sink] {
        ensure!(process.stop()?.success(), "{} did not end well", process.name());
    }
    pipeline.passed();
    Ok(())
}

#[test]
fn partitions_that_waited_for_clickhouse_are_read_on_after_a_rebalance() -> Result<()> {
    let servers = Servers::take()?.with_clickhouse(ClickHouseOptions::default())?;
    let builder = Pipeline::builder("paused")?.servers(servers).inputs(4).set(&["kafka", "session.timeout.ms"], "6000")?;
    let pipeline = builder.build()?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    let (mut first, mut second) = (pipeline.run("sink", 0, &[])?, pipeline.run("sink", 1, &[])?);
    let (group, ids) = (pipeline.group("sink")?, [0, 1].map(|ordinal| pipeline.id("sink", ordinal)));
    until("both to have partitions of failures", || {
        for id in &ids {
            let of_failures = group.assigned(id)?.iter().filter(|(topic, _)| *topic == pipeline.topic("failures")).count();
            ensure!(of_failures == 2, "{id} has {of_failures}");
        }
        Ok(())
    })?;
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=100000", "--rate=10000", "--failures=0.2", "--garbage=0", &expected])?;
    until("every partition to be under way", || {
        let partitions = pipeline.count("SELECT uniqExact(kafka_partition) FROM {db}.failures")?;
        ensure!(partitions == 4, "{partitions}");
        Ok(())
    })?;
    pipeline.servers.clickhouse.kill()?;
    // An insert of each is repeated, and it is read no further meanwhile.
    until("every partition to wait", || {
        let repeated = "An insert was not taken; it is repeated";
        let waiting = [first.said(repeated), second.said(repeated)].concat();
        let waits = |n: &i64| waiting.iter().any(|line| line["topic"] == pipeline.topic("failures") && line["partition"] == *n);
        ensure!((0..4).all(|n| waits(&n)), "not all of them");
        Ok(())
    })?;
    // The first loses its own, to get all.
    let before = first.said("Partitions taken away").len();
    second.kill()?;
    until("the first to lose its partitions", || {
        ensure!(first.said("Partitions taken away").len() > before, "it has them");
        Ok(())
    })?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    pipeline.servers.clickhouse.restart()?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    let (said, expected) = pipeline.expected("expected.json")?;
    let (words, ..) = differences(&expected, &pipeline.totals()?);
    ensure!(words.is_empty(), "what was sent and what was counted differ:\n{}", words.join("\n"));
    let failures = said["failures"].as_u64().context("no failures")?;
    ensure!(pipeline.count("SELECT count() FROM {db}.failures")? == failures, "not {failures} failures");
    for process in [&mut classify, &mut first] {
        ensure!(process.stop()?.success(), "{} did not end well", process.name());
    }
    pipeline.passed();
    Ok(())
}

#[test]
fn of_two_processes_with_one_ordinal_one_ends_and_says_why() -> Result<()> {
    let pipeline = Pipeline::builder("twins")?.inputs(4).set(&["kafka", "session.timeout.ms"], "6000")?.build()?;
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=60000", "--rate=4000", "--garbage=0", &expected])?;
    let mut twins = [pipeline.run("classify", 0, &[])?, pipeline.run("classify", 0, &[])?];
    // Each begins anew once, as it does when Kafka loses a broker: they cannot know that they are two.
    until("one of them to end", || {
        let running = twins.iter_mut().map(|twin| twin.runs()).collect::<Result<Vec<_>>>()?;
        ensure!(running.contains(&false), "both run");
        Ok(())
    })?;
    let [one, other] = &mut twins;
    let (ended, left) = if one.runs()? { (other, one) } else { (one, other) };
    ensure!(ended.end()?.code() == Some(1), "it ended without an error");
    let log = ended.log();
    ensure!(log.contains("was taken over") && log.contains("`ordinal`"), "it does not say why: {log}");
    ensure!(ended.said("Fenced; beginning anew").len() == 1, "it did not try once more: {log}");
    ensure!(simulate.end()?.success(), "the simulator failed");
    let mut sink = pipeline.run("sink", 0, &[])?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    let (_, expected) = pipeline.expected("expected.json")?;
    let (words, ..) = differences(&expected, &pipeline.totals()?);
    ensure!(words.is_empty(), "what was sent and what was counted differ:\n{}", words.join("\n"));
    for process in [left, &mut sink] {
        ensure!(process.stop()?.success(), "{} did not end well", process.name());
    }
    pipeline.passed();
    Ok(())
}
