//! A process joins while another one is in the middle of a transaction.

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Pipeline, differences};

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
