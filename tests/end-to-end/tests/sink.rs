//! The sink against a ClickHouse that dies, sleeps and refuses, and against its own double.

use std::cell::Cell;

use anyhow::{Context, Result, bail, ensure};
use bounceflow_end_to_end::{Incoming, Outgoing, Pipeline, Process, Totals, differences, until};
use serde_json::json;

const EVENTS: &str = "40000";

/// Small batches, so that there are many; and a short memory of members that are gone.
fn builder(name: &str) -> Result<bounceflow_end_to_end::Builder> {
    Pipeline::builder(name)?.set(&["sink", "max_rows"], 400)?.set(&["kafka", "session.timeout.ms"], "6000")
}

/// Counts and failures of simulated events in Kafka, ready for a sink. What they add up to, and how many failures there are.
fn fill(pipeline: &Pipeline) -> Result<(Totals, u64)> {
    let file = pipeline.folder().join("expected.json");
    let count = format!("--count={EVENTS}");
    let mut simulate =
        pipeline.simulate(&["--failures=0.5", "--garbage=0", &count, &format!("--expected={}", file.display())])?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    pipeline.settled("classify")?;
    ensure!(classify.stop()?.success(), "classify did not end well");
    let (said, totals) = pipeline.expected("expected.json")?;
    Ok((totals, said["failures"].as_u64().context("no failures")?))
}

/// Everything is there, once.
fn exact(pipeline: &Pipeline, (expected, failures): &(Totals, u64)) -> Result<()> {
    pipeline.settled("sink")?;
    pipeline.optimize()?;
    let (words, ..) = differences(expected, &pipeline.totals()?);
    ensure!(words.is_empty(), "what was sent and what was counted differ:\n{}", words.join("\n"));
    let stored = pipeline.value("SELECT count(), uniqExact(kafka_partition, kafka_offset) FROM {db}.failures")?;
    ensure!(stored == format!("{failures}\t{failures}"), "{stored} rows of {failures} failures");
    let batches = pipeline.value("SELECT count() = uniqExact(kafka_offset) FROM {db}.batches")?;
    ensure!(batches == "1", "a batch is there twice");
    Ok(())
}

/// Strikes while an intent is open, until one is open after the stroke as well; `heal` undoes a stroke that missed.
fn strike(pipeline: &Pipeline, stroke: impl Fn() -> Result<()>, heal: impl Fn() -> Result<()>) -> Result<()> {
    let group = pipeline.group("sink")?;
    for _ in 0..20 {
        until_now("an intent to be open", || Ok(!group.open_intents()?.is_empty()))?;
        stroke()?;
        if !group.open_intents()?.is_empty() {
            return Ok(());
        }
        heal()?;
    }
    bail!("no stroke met an open intent")
}

/// Asks without a pause: what is waited for lasts milliseconds.
fn until_now(what: &str, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = std::time::Instant::now() + bounceflow_end_to_end::LONG;
    while !ask()? {
        ensure!(std::time::Instant::now() < deadline, "{what}: in vain");
    }
    Ok(())
}

#[test]
fn clickhouse_killed_during_inserts_costs_nothing() -> Result<()> {
    let pipeline = builder("killed")?.build()?;
    let expected = fill(&pipeline)?;
    let clickhouse = &pipeline.servers.clickhouse;
    let mut sink = pipeline.run("sink", 0, &[])?;
    for _ in 0..3 {
        let before = Cell::new(0);
        let kill = || {
            before.set(sink.said("An insert was not taken").len());
            clickhouse.kill()
        };
        strike(&pipeline, kill, || clickhouse.restart())?;
        until("the sink to notice", || {
            ensure!(sink.said("An insert was not taken").len() > before.get(), "it did not");
            Ok(())
        })?;
        clickhouse.restart()?;
    }
    exact(&pipeline, &expected)?;
    ensure!(sink.stop()?.success(), "the sink did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn an_insert_that_is_not_answered_in_time_is_repeated_and_not_doubled() -> Result<()> {
    let pipeline = builder("paused")?.set(&["clickhouse", "insert_timeout_ms"], 500)?.build()?;
    let expected = fill(&pipeline)?;
    let clickhouse = &pipeline.servers.clickhouse;
    let mut sink = pipeline.run("sink", 0, &[])?;
    for _ in 0..3 {
        let timeouts = |sink: &Process| sink.log().matches("no answer within").count();
        let before = Cell::new(0);
        let pause = || {
            before.set(timeouts(&sink));
            clickhouse.pause()
        };
        strike(&pipeline, pause, || clickhouse.resume())?;
        until("an insert to time out", || {
            ensure!(timeouts(&sink) > before.get(), "none did");
            Ok(())
        })?;
        clickhouse.resume()?;
    }
    exact(&pipeline, &expected)?;
    ensure!(sink.stop()?.success(), "the sink did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn a_sink_that_slept_through_its_expulsion_is_refused() -> Result<()> {
    let pipeline = builder("zombie")?.build()?;
    let expected = fill(&pipeline)?;
    let mut first = pipeline.run("sink", 0, &[])?;
    let id = pipeline.id("sink", 0);
    // Frozen between the intent and the offset: an intent is open, and no transaction under way.
    let group = pipeline.group("sink")?;
    until_now("the sink to be caught within an insert", || {
        if group.open_intents()?.is_empty() {
            return Ok(false);
        }
        first.pause()?;
        let caught = !group.open_intents()?.is_empty() && pipeline.transaction(&id)?.state == "CompleteCommit";
        if !caught {
            first.resume()?;
        }
        Ok(caught)
    })?;
    let open = group.open_intents()?;
    let mut second = pipeline.run("sink", 1, &[])?;
    let repeated = second.wait_for("An insert may be half done; it is repeated")?;
    ensure!(
        open.iter().any(|intent| repeated["topic"] == *intent.topic && repeated["partition"] == intent.partition),
        "{repeated}"
    );
    exact(&pipeline, &expected)?;

    first.resume()?;
    first.wait_for("A transaction failed; what it was to settle is read again")?;
    // Now both work, each with its own partitions, and nothing has changed.
    until("both to have partitions", || {
        let (first, second) = (group.assigned(&id)?, group.assigned(&pipeline.id("sink", 1))?);
        ensure!(!first.is_empty() && !second.is_empty(), "{first:?} {second:?}");
        Ok(())
    })?;
    exact(&pipeline, &expected)?;
    for sink in [&mut first, &mut second] {
        ensure!(sink.stop()?.success(), "{} did not end well", sink.name());
    }
    pipeline.passed();
    Ok(())
}

#[test]
fn a_record_clickhouse_cannot_take_costs_only_itself() -> Result<()> {
    let pipeline = builder("poison")?.build()?;
    // Fails with a parse error for one value, as a column of a narrower type would.
    pipeline.value("ALTER TABLE {db}.failures ADD CONSTRAINT poison CHECK toUInt8(if(campaign = 'poison', 'boom', '1')) = 1")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
    let bounce = |campaign: &str| {
        let event = json!({"event": "bounce", "timestamp": now, "recipient": "kim@gmail.com", "from_domain": "poison.example",
            "reply_code": 550, "campaign": campaign});
        Outgoing::new(event.to_string())
    };
    pipeline.kafka.write(&pipeline.topic("events"), &[bounce("good"), bounce("poison"), bounce("good")])?;
    let (_, failures) = fill(&pipeline)?;
    let topic = pipeline.topic("failures");
    let written = pipeline.kafka.read_all(&topic)?;
    let holds =
        |record: &&Incoming, text: &[u8]| record.payload.as_deref().is_some_and(|p| p.windows(text.len()).any(|w| w == text));
    let poison = written.iter().find(|record| holds(record, b"\x0cpoison")).context("no poison")?.clone();
    // Two more that are no Avro at all, among good ones behind.
    let truncated = poison.payload.clone().unwrap_or_default()[..40].to_vec();
    let garbage = [Outgoing::new(&b"no avro"[..]).to(1), Outgoing::new(truncated.clone()).to(2)];
    let at = pipeline.kafka.write(&topic, &garbage)?;
    pipeline.kafka.write(&pipeline.topic("events"), &vec![bounce("good"); 50])?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    pipeline.settled("classify")?;
    ensure!(classify.stop()?.success(), "classify did not end well");

    let mut sink = pipeline.run("sink", 0, &[])?;
    pipeline.settled("sink")?;
    let good = failures + 2 + 50;
    let stored = pipeline
        .value("SELECT count(), uniqExact(kafka_partition, kafka_offset), countIf(campaign = 'good') FROM {db}.failures")?;
    ensure!(stored == format!("{good}\t{good}\t52"), "{stored} instead of {good}");
    let counted = pipeline.value("SELECT sum(hard + soft) FROM {db}.delivery_rates WHERE identity = 'poison.example'")?;
    ensure!(counted == "53", "the counts are another matter: {counted}");

    let mut expect = vec![
        (1, at[0], b"no avro".to_vec(), "malformed_avro"),
        (2, at[1], truncated, "malformed_avro"),
        (poison.partition, poison.offset, poison.payload.clone().unwrap_or_default(), "refused_by_clickhouse"),
    ];
    for letter in pipeline.kafka.read_all(&pipeline.topic("dead-letter"))? {
        let header = |name: &str| letter.headers.get(&format!("bounceflow.{name}")).map(String::as_str).unwrap_or_default();
        let place = (header("source.partition").parse::<i32>()?, header("source.offset").parse::<i64>()?);
        let i = expect.iter().position(|e| (e.0, e.1) == place).with_context(|| format!("unexpected: {letter:?}"))?;
        let (_, _, payload, reason) = expect.swap_remove(i);
        ensure!(letter.payload == Some(payload), "not byte for byte: {letter:?}");
        ensure!(header("by") == "sink" && header("reason") == reason && header("source.topic") == topic, "{letter:?}");
        ensure!(!header("detail").is_empty() && header("source.timestamp").parse::<i64>()? > 0, "{letter:?}");
    }
    ensure!(expect.is_empty(), "not in the dead letter: {expect:?}");
    let name = "bounceflow_sink_dead_lettered_total";
    let metrics =
        [sink.metric(name, &[("reason", "refused_by_clickhouse")])?, sink.metric(name, &[("reason", "malformed_avro")])?];
    ensure!(metrics == [1.0, 2.0], "{name}: {metrics:?}");
    ensure!(sink.stop()?.success(), "the sink did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn a_deduplication_window_made_small_keeps_the_sink_from_working() -> Result<()> {
    let pipeline = builder("window")?.build()?;
    let expected = fill(&pipeline)?;
    pipeline.value("ALTER TABLE {db}.delivery_rates MODIFY SETTING non_replicated_deduplication_window = 10")?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    let line = sink.wait_for("Waiting for ClickHouse")?;
    let why = line["error"].as_str().unwrap_or_default();
    let remedy = "ALTER TABLE window.delivery_rates MODIFY SETTING non_replicated_deduplication_window = 100000";
    ensure!(line["level"] == "WARN" && why.contains("window.delivery_rates") && why.contains(remedy), "{line}");
    let (status, body) = sink.get("/readyz")?;
    ensure!(status == 503 && body.contains(remedy), "{status} {body}");
    ensure!(pipeline.value("SELECT count() FROM {db}.batches")? == "0", "it works all the same");
    // What it says is what helps.
    pipeline.value(remedy)?;
    sink.ready()?;
    exact(&pipeline, &expected)?;
    ensure!(sink.stop()?.success(), "the sink did not end well");
    pipeline.passed();
    Ok(())
}
