//! Processes whose clocks are wrong, in both directions.

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Pipeline, Process, differences, until};
use bounceflow_stack::Clocks;
use jiff::Timestamp;

/// More than the windows, the hold and what a row may be ahead of the log.
const SKEW: i64 = 3600;

/// Starts a role on a host whose clock is wrong.
fn run(pipeline: &Pipeline, clocks: &Clocks, role: &str, ordinal: u32, seconds: i64) -> Result<Process> {
    let environment = clocks.ahead(seconds);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    pipeline.run_in(&environment, role, ordinal)
}

#[test]
fn wrong_clocks_change_no_count_and_no_watermark() -> Result<()> {
    let pipeline = Pipeline::builder("skew")?.inputs(4).set(&["kafka", "session.timeout.ms"], "6000")?.build()?;
    let (clocks, mut team) = (Clocks::build()?, Vec::new());
    for role in ["classify", "sink", "watch"] {
        for (ordinal, seconds) in [(0, SKEW), (1, -SKEW)] {
            team.push(run(&pipeline, &clocks, role, ordinal, seconds)?);
        }
    }
    // The clocks are wrong indeed: every line of a log has the process's own time.
    for (process, ahead) in team.iter_mut().zip([SKEW, -SKEW].into_iter().cycle()) {
        let line = process.wait_for("Serving /healthz")?;
        let said: Timestamp = line["timestamp"].as_str().context("a line without its time")?.parse()?;
        ensure!((said.as_second() - Timestamp::now().as_second() - ahead).abs() < 300, "{}: {line}", process.name());
    }
    let expected = format!("--expected={}", pipeline.folder().join("expected.json").display());
    let mut simulate = pipeline.simulate(&["--count=200000", "--rate=10000", "--failures=0.1", "--seed=5", &expected])?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    for role in ["classify", "sink"] {
        pipeline.settled(role)?;
    }

    let (_, expected) = pipeline.expected("expected.json")?;
    let (words, ..) = differences(&expected, &pipeline.totals()?);
    ensure!(words.is_empty(), "what was sent and what was counted differ:\n{}", words.join("\n"));
    pipeline.succeed(&["audit"])?;
    for process in team.iter_mut().filter(|process| process.name().starts_with("watch")) {
        // As far as the brokers' clock and the events say, whatever the process's own does.
        until("watch to come to the end", || {
            let evaluated = process.metric("bounceflow_watch_evaluated_timestamp_seconds", &[])?;
            let behind = Timestamp::now().as_second() - evaluated as i64;
            ensure!((0..180).contains(&behind), "evaluated to {behind} s before now");
            Ok(())
        })?;
        ensure!(process.metric("bounceflow_watch_refused_total", &[])? == 0.0, "rows were refused");
        ensure!(!process.log().contains("pipeline.source_left_out"), "a source was left out");
    }
    for process in &mut team {
        ensure!(process.stop()?.success(), "{} did not end well", process.name());
    }
    pipeline.passed();
    Ok(())
}
