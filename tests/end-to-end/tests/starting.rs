//! How a process starts, waits, refuses, halts and stops.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Committed, LONG, Outgoing, Pipeline, Process, until};
use serde_json::json;

fn now_ms() -> Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis().try_into()?)
}

/// Deliveries, spread over the partitions in turn.
fn deliveries(count: usize, partitions: i32) -> Result<Vec<Outgoing>> {
    let event = json!({"event": "delivery", "timestamp": now_ms()?, "recipient": "kim@gmail.com", "from_domain": "news.example"});
    let partitions = (0..partitions).cycle();
    Ok(partitions.take(count).map(|partition| Outgoing::new(event.to_string()).to(partition)).collect())
}

/// The same of bounces.
fn bounces(count: usize, partitions: i32) -> Result<Vec<Outgoing>> {
    let event = json!({"event": "bounce", "timestamp": now_ms()?, "recipient": "kim@gmail.com", "from_domain": "news.example",
        "reply_code": 550, "diagnostic": "550 5.1.1 no such user"});
    Ok((0..partitions).cycle().take(count).map(|partition| Outgoing::new(event.to_string()).to(partition)).collect())
}

const DELIVERIES: &str = "SELECT sum(deliveries) FROM {db}.delivery_rates";

/// Waits for something it cannot do without: says so, is alive, is not ready.
fn waits(process: &mut Process, message: &str, field: &str, part: &str) -> Result<()> {
    let line = process.wait_for(message)?;
    ensure!(line["level"] == "WARN" && line[field].as_str().is_some_and(|text| text.contains(part)), "{line}");
    ensure!(process.get("/healthz")?.0 == 200, "not alive");
    let (status, body) = process.get("/readyz")?;
    ensure!(status == 503 && !body.trim().is_empty(), "/readyz: {status} {body}");
    ensure!(process.runs()?, "it ended");
    Ok(())
}

/// Works after all: takes in records and ends in good order.
fn works(pipeline: &Pipeline, process: &mut Process) -> Result<()> {
    process.ready()?;
    pipeline.kafka.write(&pipeline.topic("events"), &deliveries(100, 1)?)?;
    pipeline.wait_for_value(DELIVERIES, "100")?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn kafka_missing_at_start_is_waited_for() -> Result<()> {
    let pipeline = Pipeline::builder("without_kafka")?.build()?;
    pipeline.servers.kafka.kill()?;
    let mut process = pipeline.run("all", 0, &[])?;
    waits(&mut process, "Waiting for Kafka", "problem", pipeline.servers.kafka.bootstrap())?;
    pipeline.servers.kafka.restart()?;
    works(&pipeline, &mut process)
}

#[test]
fn clickhouse_missing_at_start_is_waited_for() -> Result<()> {
    let pipeline = Pipeline::builder("without_clickhouse")?.build()?;
    pipeline.servers.clickhouse.kill()?;
    let mut process = pipeline.run("all", 0, &[])?;
    waits(&mut process, "Waiting for ClickHouse", "error", pipeline.servers.clickhouse.url())?;
    // What does not need it goes on meanwhile.
    pipeline.kafka.write(&pipeline.topic("events"), &deliveries(50, 1)?)?;
    pipeline.settled("classify")?;
    pipeline.servers.clickhouse.restart()?;
    pipeline.wait_for_value(DELIVERIES, "50")?;
    process.ready()?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn tables_missing_at_start_are_waited_for_and_the_command_is_named() -> Result<()> {
    let pipeline = Pipeline::builder("without_tables")?.without_tables().build()?;
    let mut process = pipeline.run("all", 0, &[])?;
    waits(&mut process, "Waiting for ClickHouse", "error", "bounceflow migrate")?;
    pipeline.succeed(&["migrate"])?;
    works(&pipeline, &mut process)
}

#[test]
fn a_wrong_configuration_lists_every_mistake_and_exits_with_2() -> Result<()> {
    let pipeline = Pipeline::builder("wrong")?.build()?;
    let wrong = pipeline.folder().join("wrong.toml");
    let text = "deployment = 'x'\n\
        [kafka]\n'group.id' = 'mine'\n\
        [[inputs]]\ntopic = 'a'\nformat = 'xml'\n[[inputs]]\ntopic = 'b'\nmax_record_bytes = 0\n\
        [classify]\ntransaction_interval_ms = 60000\nthread = 3\n\
        [sink]\nmax_rows = 'many'\n[clickhouse]\nurl = 'localhost'\n[http]\nlisten = '9090'\n";
    std::fs::write(&wrong, text)?;
    let file = wrong.to_str().context("a path that is no text")?;
    for command in ["check-config", "run", "migrate", "create-topics"] {
        let output = pipeline.command_on(file, &[command])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{command}: {}: {said}", output.status);
        for path in [
            "kafka.\"bootstrap.servers\"",
            "kafka.\"group.id\"",
            "inputs[0].format",
            "inputs[1].max_record_bytes",
            "classify.transaction_interval_ms",
            "classify.thread",
            "sink.max_rows",
            "clickhouse.url",
            "http.listen",
        ] {
            ensure!(said.contains(path), "{command} does not name {path}: {said}");
        }
    }
    pipeline.passed();
    Ok(())
}

#[test]
fn records_passed_by_retention_halt_their_partition_and_are_listed_by_the_audit() -> Result<()> {
    let pipeline = Pipeline::builder("retention")?.inputs(3).build()?;
    let events = pipeline.topic("events");
    let mut sink = pipeline.run("sink", 0, &[])?;
    let mut process = pipeline.run("classify", 0, &[])?;
    pipeline.kafka.write(&events, &deliveries(300, 3)?)?;
    pipeline.settled("classify")?;
    ensure!(process.stop()?.success(), "it did not end well");

    // 100 more each; of partition 1, the first 40 of them are gone before anybody reads them.
    pipeline.kafka.write(&events, &deliveries(300, 3)?)?;
    pipeline.kafka.delete_before(&events, 1, 140)?;
    let mut process = pipeline.run("classify", 0, &[])?;
    let line = process.wait_for("A partition halts; the others go on")?;
    let why = line["why"].as_str().unwrap_or_default();
    ensure!(line["level"] == "ERROR" && line["partition"] == 1, "{line}");
    ensure!(why.contains("offsets 100 to 139 are lost") && why.contains("--from beginning"), "{why}");
    pipeline.wait_for_value(DELIVERIES, "500")?;
    let (status, body) = process.get("/readyz")?;
    ensure!(
        status == 503 && body.contains(&format!("{events}/1")) && body.contains("offsets 100 to 139 are lost"),
        "{status} {body}"
    );
    ensure!(process.get("/healthz")?.0 == 200, "a halted partition is no reason to be restarted");
    ensure!(process.metric("bounceflow_classify_halted_partitions", &[("topic", &events)])? == 1.0, "not in /metrics");
    let committed = pipeline.group("classify")?.committed()?;
    let offsets: Vec<_> = committed.iter().map(|c| c.offset).collect();
    ensure!(offsets == [Some(200), Some(100), Some(200)], "{offsets:?}");
    ensure!(process.stop()?.success(), "it did not end well");

    let mut process = pipeline.run("classify", 0, &["--from", "beginning"])?;
    pipeline.wait_for_value(DELIVERIES, "560")?;
    process.ready()?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.settled("sink")?;
    ensure!(sink.stop()?.success(), "it did not end well");

    let output = pipeline.command(&["audit"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    let gap = said.lines().find(|line| line.contains("100") && line.contains("139"));
    ensure!(gap.is_some_and(|line| line.contains(&events)), "the gap is not listed: {said}");
    pipeline.passed();
    Ok(())
}

/// What a transaction wrote ends in a mark that no reader is handed, and retention removes that too.
#[test]
fn partitions_at_rest_that_retention_has_emptied_lost_nothing() -> Result<()> {
    let pipeline = Pipeline::builder("at_rest")?.inputs(2).build()?;
    let failures = "SELECT count() FROM {db}.failures";
    let mut process = pipeline.run("all", 0, &[])?;
    pipeline.kafka.write_in_a_transaction(&pipeline.topic("events"), &bounces(100, 2)?)?;
    pipeline.wait_for_value(failures, "100")?;
    pipeline.settled("sink")?;

    let topics = [pipeline.topic("events"), pipeline.topic("failures")];
    let ends = topics.each_ref().map(|topic| pipeline.kafka.ends(topic, true));
    for (role, topic, ends) in topics.iter().zip(ends).zip(["classify", "sink"]).map(|((t, e), r)| (r, t, e)) {
        let ends = ends?;
        until(&format!("{role} to pass the marks of {topic}"), || {
            let committed = pipeline.group(role)?.committed()?;
            let places: Vec<i64> = committed.iter().filter(|c| c.topic == *topic).map(|c| c.offset.unwrap_or(0)).collect();
            ensure!(places == ends, "at {places:?}, the ends are {ends:?}");
            Ok(())
        })?;
        for (partition, end) in (0..).zip(&ends) {
            pipeline.kafka.delete_before(topic, partition, *end)?;
        }
    }
    ensure!(process.stop()?.success(), "it did not end well");

    let mut process = pipeline.run("all", 0, &[])?;
    process.ready()?;
    pipeline.kafka.write_in_a_transaction(&pipeline.topic("events"), &bounces(100, 1)?)?;
    pipeline.wait_for_value(failures, "200")?;
    pipeline.settled("sink")?;
    ensure!(process.said("A partition halts; the others go on").is_empty(), "it halted");
    pipeline.succeed(&["audit"])?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn offsets_that_are_gone_halt_what_was_counted_before() -> Result<()> {
    let pipeline = Pipeline::builder("expired")?.inputs(2).set(&["kafka", "session.timeout.ms"], "6000")?.build()?;
    let events = pipeline.topic("events");
    let mut process = pipeline.run("all", 0, &[])?;
    // Only partition 0 has been counted when the offsets go.
    let only_first: Vec<_> = deliveries(100, 1)?;
    pipeline.kafka.write(&events, &only_first)?;
    pipeline.wait_for_value(DELIVERIES, "100")?;
    pipeline.settled("sink")?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.kafka.delete_group(&pipeline.group_name("classify"))?;
    pipeline.kafka.delete_group(&pipeline.group_name("sink"))?;

    let more: Vec<_> = deliveries(20, 2)?;
    pipeline.kafka.write(&events, &more)?;
    let mut process = pipeline.run("all", 0, &[])?;
    let halts = until("both roles to halt", || {
        let halts = process.said("A partition halts; the others go on");
        ensure!(halts.len() >= 2, "{halts:?}");
        Ok(halts)
    })?;
    let why = |topic: &str| halts.iter().find(|line| line["topic"] == *topic).and_then(|line| line["why"].as_str());
    ensure!(why(&events).is_some_and(|why| why.contains("counted up to offset 99") && why.contains("--from")), "{halts:?}");
    let rates = pipeline.topic("rates");
    ensure!(why(&rates).is_some_and(|why| why.contains("no committed offset") && why.contains("--from")), "{halts:?}");
    let (status, body) = process.get("/readyz")?;
    ensure!(status == 503 && body.contains("no committed offset"), "{status} {body}");
    // Nothing was counted again, and partition 1, never counted before, is read from its beginning.
    until("partition 1 to be read", || {
        let committed = pipeline.group("classify")?.committed()?;
        ensure!(committed[1].offset == Some(10) && committed[0].offset.is_none(), "{committed:?}");
        Ok(())
    })?;
    ensure!(pipeline.value(DELIVERIES)? == "100", "counted again");
    ensure!(process.stop()?.success(), "it did not end well");

    // As the halt advises: right behind what was counted, neither a record twice nor one left out.
    let mut process = pipeline.run("all", 0, &["--from", "counted"])?;
    pipeline.wait_for_value(DELIVERIES, "120")?;
    process.ready()?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    ensure!(pipeline.value(DELIVERIES)? == "120", "counted again");
    pipeline.succeed(&["audit"])?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn a_partition_added_to_an_input_is_read_from_its_beginning() -> Result<()> {
    let pipeline = Pipeline::builder("added")?.inputs(2).set(&["kafka", "topic.metadata.refresh.interval.ms"], "500")?.build()?;
    let events = pipeline.topic("events");
    let mut process = pipeline.run("all", 0, &[])?;
    pipeline.kafka.write(&events, &deliveries(100, 2)?)?;
    pipeline.wait_for_value(DELIVERIES, "100")?;
    pipeline.kafka.partitions(&events, 3)?;
    until("the new partition to take records", || pipeline.kafka.write(&events, &deliveries(150, 3)?))?;
    pipeline.wait_for_value(DELIVERIES, "250")?;
    process.ready()?;
    pipeline.settled("sink")?;
    pipeline.succeed(&["audit"])?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn an_open_intent_whose_records_are_gone_does_not_hold_its_partition_for_ever() -> Result<()> {
    let pipeline = Pipeline::builder("gone")?.build()?;
    let (events, rates) = (pipeline.topic("events"), pipeline.topic("rates"));
    let mut classify = pipeline.run("classify", 0, &[])?;
    classify.ready()?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    sink.ready()?;
    pipeline.servers.clickhouse.kill()?;
    pipeline.kafka.write(&events, &deliveries(100, 1)?)?;
    until("an intent", || {
        let open = pipeline.group("sink")?.open_intents()?;
        ensure!(!open.is_empty(), "none");
        Ok(())
    })?;
    sink.kill()?;
    pipeline.servers.clickhouse.restart()?;
    let end = pipeline.kafka.ends(&rates, true)?[0];
    pipeline.kafka.delete_before(&rates, 0, end)?;

    let mut sink = pipeline.run("sink", 0, &[])?;
    let line = sink.wait_for("A partition halts; the others go on")?;
    let why = line["why"].as_str().unwrap_or_default();
    ensure!(why.contains("log retention has passed the committed offset") && why.contains("--from beginning"), "{why}");
    ensure!(sink.stop()?.success(), "it did not end well");
    let mut sink = pipeline.run("sink", 0, &["--from", "beginning"])?;
    pipeline.kafka.write(&events, &deliveries(50, 1)?)?;
    pipeline.wait_for_value(DELIVERIES, "50")?;
    sink.ready()?;
    for process in [&mut sink, &mut classify] {
        ensure!(process.stop()?.success(), "it did not end well");
    }
    pipeline.passed();
    Ok(())
}

/// Records settled after ClickHouse was gone in the middle of it, and how the sink's group stood then: with the intent of an insert that
/// is stored by now.
fn settled_late(pipeline: &Pipeline, records: &[Outgoing], which: &str) -> Result<Committed> {
    let mut sink = pipeline.run("sink", 0, &[])?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    classify.ready()?;
    sink.ready()?;
    pipeline.servers.clickhouse.kill()?;
    pipeline.kafka.write(&pipeline.topic("events"), records)?;
    pipeline.settled("classify")?;
    ensure!(classify.stop()?.success(), "it did not end well");
    let topic = pipeline.topic(which);
    let open = until("an intent", || {
        let committed = pipeline.group("sink")?.committed()?;
        committed.into_iter().find(|c| c.topic == topic && c.intent().is_some()).context("none")
    })?;
    sink.kill()?;
    let end = pipeline.kafka.ends(&topic, true)?[open.partition as usize];
    let intent = open.intent().context("no intent")?;
    ensure!(intent.last + 2 >= end, "the intent is not of all there is: {intent:?}, {end}");

    pipeline.servers.clickhouse.restart()?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    until("the sink to be past the intent", || {
        let committed = pipeline.group("sink")?.committed()?;
        let place = committed.iter().find(|c| c.topic == topic && c.partition == open.partition).and_then(|c| c.offset);
        ensure!(place > Some(intent.last), "at {place:?}");
        Ok(())
    })?;
    pipeline.settled("sink")?;
    ensure!(sink.stop()?.success(), "it did not end well");
    Ok(open)
}

#[test]
fn a_token_that_outlived_its_rows_costs_neither_them_nor_a_second_count() -> Result<()> {
    let pipeline = Pipeline::builder("outlived")?
        .set(&["sink", "linger_ms"], 5000)?
        .set(&["kafka", "session.timeout.ms"], "6000")?
        .build()?;
    let open = settled_late(&pipeline, &deliveries(100, 1)?, "rates")?;
    // As if the server had died between remembering the token and storing the rows, before any view heard of them: a mutation leaves
    // tokens, a truncation takes them along.
    pipeline.value("ALTER TABLE {db}.batches DELETE WHERE 1 SETTINGS mutations_sync = 2")?;
    for table in ["delivery_rates", "hourly_rates", "daily_rates", "daily_rates_by_identity"] {
        pipeline.value(&format!("TRUNCATE TABLE {{db}}.{table}"))?;
    }
    pipeline.group("sink")?.leave(&open)?;

    let mut sink = pipeline.run("sink", 0, &[])?;
    sink.wait_for("ClickHouse remembers the insert but has no row of it; inserting under a new token")?;
    pipeline.settled("sink")?;
    ensure!(sink.stop()?.success(), "it did not end well");
    for table in ["delivery_rates", "hourly_rates", "daily_rates", "daily_rates_by_identity"] {
        let deliveries = pipeline.value(&format!("SELECT sum(deliveries) FROM {{db}}.{table}"))?;
        ensure!(deliveries == "100", "{table}: {deliveries}");
    }
    pipeline.succeed(&["audit"])?;
    pipeline.passed();
    Ok(())
}

/// A partition that stands long enough finds its token forgotten, for the others have gone on.
#[test]
fn rows_that_outlived_their_token_are_not_stored_again() -> Result<()> {
    let pipeline = Pipeline::builder("forgotten")?
        .set(&["sink", "linger_ms"], 5000)?
        .set(&["kafka", "session.timeout.ms"], "6000")?
        .build()?;
    let open = settled_late(&pipeline, &bounces(100, 1)?, "failures")?;
    let rows = pipeline.value("SELECT count() FROM {db}.failures")?;
    ensure!(rows == "100", "{rows}");
    // A truncation takes the tokens along; the rows come back without any.
    for sql in [
        "CREATE TABLE {db}.kept ENGINE = MergeTree ORDER BY () AS SELECT * FROM {db}.failures",
        "TRUNCATE TABLE {db}.failures",
        "INSERT INTO {db}.failures SELECT * FROM {db}.kept SETTINGS insert_deduplicate = 0",
        "DROP TABLE {db}.kept",
    ] {
        pipeline.value(sql)?;
    }
    pipeline.group("sink")?.leave(&open)?;

    let mut sink = pipeline.run("sink", 0, &[])?;
    sink.wait_for("An insert may be half done; it is repeated")?;
    pipeline.settled("sink")?;
    ensure!(sink.stop()?.success(), "it did not end well");
    let rows = pipeline.value("SELECT count() FROM {db}.failures")?;
    ensure!(rows == "100", "{rows}");
    pipeline.succeed(&["audit"])?;
    pipeline.passed();
    Ok(())
}

/// One that says nothing, or not all, holds no connection for ever.
#[test]
fn a_request_that_does_not_come_is_not_waited_for() -> Result<()> {
    let pipeline = Pipeline::builder("half_a_request")?.build()?;
    let mut process = pipeline.run("classify", 0, &[])?;
    let line = process.wait_for("Serving /healthz")?;
    let address = line["listen"].as_str().context("no address")?;
    for sent in ["", "GET /healthz HTTP/1.1\r\n"] {
        let mut connection = TcpStream::connect(address)?;
        connection.write_all(sent.as_bytes())?;
        connection.set_read_timeout(Some(LONG))?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).with_context(|| format!("{sent:?}: it is kept"))?;
    }
    ensure!(process.get("/healthz")?.0 == 200, "not alive");
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn sigterm_ends_in_good_order_and_leaves_no_transaction_open() -> Result<()> {
    let pipeline = Pipeline::builder("sigterm")?.inputs(2).set(&["classify", "transaction_interval_ms"], 1000)?.build()?;
    let events = pipeline.topic("events");
    let id = pipeline.id("classify", 0);
    let mut process = pipeline.run("classify", 0, &[])?;
    process.ready()?;
    let expected = pipeline.folder().join("expected.json");
    let mut simulate = pipeline.simulate(&["--count=60000", "--rate=20000", &format!("--expected={}", expected.display())])?;
    until("a transaction to be open", || {
        let transaction = pipeline.transaction(&id)?;
        ensure!(transaction.is_open_on(&pipeline.topic("failures")), "{transaction:?}");
        Ok(())
    })?;
    ensure!(process.stop()?.success(), "it did not end well");
    let transaction = pipeline.transaction(&id)?;
    ensure!(transaction.state == "CompleteCommit" || transaction.state == "PrepareCommit", "{transaction:?}");
    for which in ["failures", "rates", "dead-letter"] {
        let topic = pipeline.topic(which);
        until("readers not to be blocked", || {
            let (stable, ends) = (pipeline.kafka.ends(&topic, true)?, pipeline.kafka.ends(&topic, false)?);
            ensure!(stable == ends, "{topic}: {stable:?} of {ends:?}");
            Ok(())
        })?;
    }
    ensure!(simulate.end()?.success(), "the simulator failed");
    let before = pipeline.group("classify")?.committed()?;
    let read: i64 = before.iter().filter_map(|c| c.offset).sum();
    let there: i64 = pipeline.kafka.ends(&events, false)?.iter().sum();
    ensure!(read > 0 && read < there, "stopped too early or too late: {read} of {there}");

    let mut process = pipeline.run("all", 0, &[])?;
    let (_, expected) = pipeline.expected("expected.json")?;
    until("the rest to be counted", || {
        let (words, ..) = bounceflow_end_to_end::differences(&expected, &pipeline.totals()?);
        ensure!(words.is_empty(), "{words:?}");
        Ok(())
    })?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn watch_becomes_ready_under_steady_traffic() -> Result<()> {
    let pipeline = Pipeline::builder("steady")?.inputs(4).build()?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    classify.ready()?;
    let mut simulate = pipeline.simulate(&["--rate=2000", "--duration=600s", "--garbage=0"])?;
    let rates = pipeline.topic("rates");
    until("rates to flow", || {
        ensure!(pipeline.kafka.ends(&rates, true)? > vec![20], "not yet");
        Ok(())
    })?;
    // At its first start, and where it goes on from its place: the log never stands still, so its end is never told.
    for start in ["first", "second"] {
        let mut watch = pipeline.run("watch", 0, &[])?;
        watch.ready()?;
        until("its place to be committed", || {
            let evaluated = watch.metric("bounceflow_watch_evaluated_timestamp_seconds", &[])?;
            ensure!(evaluated > 0.0, "not yet");
            Ok(())
        })?;
        ensure!(simulate.runs()?, "the traffic was over before the {start} start was ready");
        ensure!(watch.stop()?.success(), "it did not end well");
    }
    simulate.kill()?;
    ensure!(classify.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}
