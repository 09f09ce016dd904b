//! Dead letters are sent again once, whoever sends them and however often that is killed; of a record only what was refused counts again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Incoming, Outgoing, Pipeline, differences};
use bounceflow_event::avro::{DELIVERY_EVENT, WriterSchema};
use bounceflow_event::{DeliveryEvent, EventType, Millis, Number, Text};
use serde_json::{Value, json};

/// Of the one identity nobody else has.
const MENDED: &str = "mended.example";
/// Enough for many transactions.
const LETTERS: usize = 6000;
/// Would steer a terminal.
const ODD: &str = "\u{1b}[2J no JSON, but words enough to be shown as the text they are, with a colour \u{9b}1m";
/// Kills that must strike an open transaction.
const KILLS: usize = 4;

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis())?)
}

/// Bounces by a schema of this id.
fn unreadable(count: usize, id: u32) -> Result<Vec<Outgoing>> {
    let schema = WriterSchema::parse(DELIVERY_EVENT)?;
    let now = now_ms()?;
    (0..count)
        .map(|i| {
            let mut event = DeliveryEvent::new(EventType::Bounce, Millis(now), format!("kim{i}@gmail.com"));
            (event.from_domain, event.reply_code) = (Text::new(MENDED), Number(550));
            let mut bytes = Vec::new();
            schema.encode_confluent(id, &event, &mut bytes)?;
            Ok(Outgoing { key: Some(format!("key-{i}").into()), ..Outgoing::new(bytes) }.with("trace", &i.to_string()))
        })
        .collect()
}

fn letters(pipeline: &Pipeline) -> Result<Vec<Incoming>> {
    let all = pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?;
    Ok(all.into_iter().filter(|record| !record.headers.contains_key("bounceflow.mark")).collect())
}

fn marks(pipeline: &Pipeline) -> Result<usize> {
    let all = pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?;
    Ok(all.iter().filter(|record| record.headers.contains_key("bounceflow.mark")).count())
}

fn list(pipeline: &Pipeline) -> Result<Value> {
    Ok(serde_json::from_str(&pipeline.succeed(&["dead-letter", "list", "--json"])?)?)
}

#[test]
fn letters_are_sent_again_once_although_the_command_is_killed_and_run_by_two_at_once() -> Result<()> {
    let pipeline = Pipeline::builder("resend")?.inputs(2).build()?;
    let events = pipeline.topic("events");
    let file = pipeline.folder().join("expected.json");
    let expected = format!("--expected={}", file.display());
    let mut simulate = pipeline.simulate(&["--failures=0.2", "--garbage=0", "--count=20000", &expected])?;
    let mut process = pipeline.run("all", 0, &[])?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    let mut bad = unreadable(LETTERS, 7)?;
    bad.extend(unreadable(LETTERS, 8)?);
    pipeline.kafka.write(&events, &bad)?;
    pipeline.settled("classify")?;
    ensure!(process.stop()?.success(), "it did not end well");
    let before = list(&pipeline)?;
    ensure!(before["letters"] == 2 * LETTERS && before["reasons"][0]["reason"] == "unknown_schema", "{before}");

    // Killed again and again while a transaction is open, until one run comes to its end.
    let id = "resend/dead-letter";
    let (mut kills, mut pause) = (0, 0_u64);
    while kills < KILLS {
        let sent = marks(&pipeline)?;
        ensure!(sent < 2 * LETTERS, "all were sent after {kills} kills");
        let mut command = pipeline.start(&["dead-letter", "resend", "--yes"])?;
        while !pipeline.transaction(id)?.is_open_on(&events) {
            ensure!(command.runs()?, "it ended before a transaction was seen: {}", command.log());
        }
        pause = (pause + 7) % 25;
        std::thread::sleep(Duration::from_millis(pause));
        command.kill()?;
        kills += usize::from(pipeline.transaction(id)?.is_open_on(&events));
    }
    let left = 2 * LETTERS - marks(&pipeline)?;
    ensure!(left > 0, "nothing is left for two at once");
    // Two at once: the later one ends the earlier one, or comes when it is done.
    let mut two = [pipeline.start(&["dead-letter", "resend", "--yes"])?, pipeline.start(&["dead-letter", "resend", "--yes"])?];
    let ends = [two[0].end()?, two[1].end()?];
    ensure!(ends.iter().any(|end| end.success()), "neither came to an end: {}{}", two[0].log(), two[1].log());
    for (end, command) in ends.iter().zip(&two).filter(|(end, _)| !end.success()) {
        ensure!(end.code() == Some(1) && command.log().contains("another process took over"), "{}", command.log());
    }
    let again = pipeline.succeed(&["dead-letter", "resend", "--yes"])?;
    ensure!(again.contains("0 dead letters were sent"), "{again}");
    ensure!(marks(&pipeline)? == 2 * LETTERS, "{} marks", marks(&pipeline)?);
    let after = list(&pipeline)?;
    ensure!(after["letters"] == 2 * LETTERS && after["resent"] == 2 * LETTERS, "{after}");

    // The cause is mended: the schemas are known.
    let config = pipeline.config_with(&["inputs", "0", "schema_ids"], "none")?;
    let text =
        std::fs::read_to_string(&config)?.replace("schema_ids = \"none\"", "schema_ids = { 7 = \"builtin\", 8 = \"builtin\" }");
    std::fs::write(&config, text)?;
    let mut process = pipeline.run_on(&config, "all", 0, &[])?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.optimize()?;
    let (said, expected) = pipeline.expected("expected.json")?;
    let mut found = pipeline.totals()?;
    let mended = found.remove(&("gmail".to_owned(), MENDED.to_owned())).context("nothing mended")?;
    ensure!(mended[2] + mended[3] == 2 * LETTERS as u64, "{mended:?}");
    let (words, ..) = differences(&expected, &found);
    ensure!(words.is_empty(), "what was sent and what was counted differ:\n{}", words.join("\n"));
    let failures = said["failures"].as_u64().context("no failures")? + 2 * LETTERS as u64;
    let stored = pipeline.value("SELECT count(), uniqExact(source_partition, source_offset, source_item) FROM {db}.failures")?;
    ensure!(stored == format!("{failures}\t{failures}"), "{stored} of {failures}");
    pipeline.succeed(&["audit"])?;

    // Back in its partition, with key, bytes and headers of its own.
    let records = pipeline.kafka.read_all(&events)?;
    let resent = |record: &&Incoming| record.headers.contains_key("bounceflow.resent");
    ensure!(records.iter().filter(resent).count() == 2 * LETTERS, "not so many records came again");
    let again = records.iter().find(resent).context("none")?;
    let origin = again.headers["bounceflow.resent.origin"].as_str();
    let first = records.iter().find(|r| origin == format!("{}/{}", r.partition, r.offset)).context("no such record")?;
    let same = (&first.key, &first.payload, first.partition, first.headers.get("trace"));
    ensure!(same == (&again.key, &again.payload, again.partition, again.headers.get("trace")), "{first:?} and {again:?}");
    ensure!(again.headers["bounceflow.resent.timestamp"] == first.timestamp.to_string(), "{again:?}");
    pipeline.passed();
    Ok(())
}

#[test]
fn of_a_record_of_several_items_only_those_refused_are_counted_again() -> Result<()> {
    let pipeline = Pipeline::builder("items")?.build()?;
    let (events, now) = (pipeline.topic("events"), now_ms()?);
    let item = |recipient: &str| json!({"event": "delivery", "timestamp": now, "recipient": recipient, "from_domain": MENDED});
    let bad = json!({"event": "delivery", "timestamp": now, "from_domain": MENDED});
    let mut process = pipeline.run("all", 0, &[])?;
    process.ready()?;
    let record = json!([item("a@gmail.com"), bad, item("b@gmail.com"), bad]);
    pipeline.kafka.write(&events, &[Outgoing::new(record.to_string()), Outgoing::new(ODD)])?;
    pipeline.settled("classify")?;
    pipeline.wait_for_value("SELECT sum(deliveries) FROM {db}.delivery_rates", "2")?;

    // Asked for one of its items, both that were refused go, as one record; and both are refused again.
    let told = pipeline.succeed(&["dead-letter", "resend", "0:0", "--dry-run"])?;
    ensure!(told.contains("2 dead letters would be sent again, as 1 records"), "{told}");
    ensure!(marks(&pipeline)? == 0, "a trial wrote something");
    for times in ["1", "2"] {
        let waiting: Vec<_> =
            letters(&pipeline)?.into_iter().filter(|l| l.headers["bounceflow.reason"] == "missing_recipient").collect();
        let latest = format!("0:{}", waiting.last().context("no letter")?.offset);
        let told = pipeline.succeed(&["dead-letter", "resend", &latest, "--yes"])?;
        ensure!(told.contains("2 dead letters were sent again, as 1 records"), "{told}");
        pipeline.settled("classify")?;
        let now: Vec<_> =
            letters(&pipeline)?.into_iter().filter(|l| l.headers.get("bounceflow.resent").is_some_and(|n| n == times)).collect();
        let items: Vec<_> = now.iter().map(|l| l.headers["bounceflow.source.item"].as_str()).collect();
        ensure!(items == ["1", "3"], "{now:?}");
        ensure!(now.iter().all(|l| l.headers["bounceflow.others_counted"] == "2"), "{now:?}");
        ensure!(now.iter().all(|l| l.payload == waiting[0].payload), "{now:?}");
    }
    // As a later version would read it: one item now counts, another is not there any more and is not lost.
    let mended = json!([item("a@gmail.com"), item("m@gmail.com"), item("b@gmail.com")]).to_string();
    let again = |payload: String, items: &str| {
        Outgoing::new(payload)
            .with("bounceflow.resent", "1")
            .with("bounceflow.resent.items", items)
            .with("bounceflow.resent.others_counted", "2")
    };
    pipeline.kafka.write(&events, &[again(mended, "1,3"), again("no JSON".to_owned(), "1"), again(record.to_string(), "x")])?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    ensure!(pipeline.value("SELECT sum(deliveries) FROM {db}.delivery_rates")? == "3", "not one more");
    let all = letters(&pipeline)?;
    let last: Vec<_> = all[all.len() - 3..]
        .iter()
        .map(|l| [&l.headers["bounceflow.source.item"], &l.headers["bounceflow.reason"], &l.headers["bounceflow.others_counted"]])
        .collect();
    ensure!(last == [["3", "invalid_field", "3"], ["1", "malformed_json", "2"], ["-1", "invalid_field", "2"]], "{last:?}");
    pipeline.succeed(&["audit"])?;

    // What is shown steers no terminal, and --raw is the record itself.
    let odd = all.iter().find(|l| l.headers["bounceflow.reason"] == "malformed_json").context("no such letter")?;
    let place = format!("0:{}", odd.offset);
    let shown = pipeline.succeed(&["dead-letter", "show", &place])?;
    ensure!(shown.contains("malformed_json") && shown.contains(&events) && shown.contains("\\u{1b}[2J no JSON"), "{shown}");
    ensure!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    let raw = pipeline.command(&["dead-letter", "show", &place, "--raw"])?;
    ensure!(Some(raw.stdout) == odd.payload, "not byte for byte");
    let table = pipeline.succeed(&["dead-letter", "list", "--by", "classify", "--from", "1h"])?;
    ensure!(table.contains("missing_recipient") && table.contains("hour (UTC)"), "{table}");
    let none = pipeline.succeed(&["dead-letter", "list", "--reason", "too_old"])?;
    ensure!(none.contains(": 0 dead letters"), "{none}");
    let missing = pipeline.command(&["dead-letter", "show", "0:999999"])?;
    ensure!(missing.status.code() == Some(1), "{}", missing.status);
    let unasked = pipeline.command(&["dead-letter", "resend"])?;
    ensure!(unasked.status.code() == Some(1) && String::from_utf8_lossy(&unasked.stderr).contains("--yes"), "{unasked:?}");
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

/// A letter of each item would be the record sixty times.
#[test]
fn many_refused_items_of_a_large_record_are_one_letter_and_are_counted_again_without_the_others() -> Result<()> {
    let pipeline = Pipeline::builder("several")?.build()?;
    let (events, now) = (pipeline.topic("events"), now_ms()?);
    let good = json!({"event": "delivery", "timestamp": now, "recipient": "a@gmail.com", "from_domain": MENDED,
        "passed_over": "x".repeat(600_000)});
    let bad = json!({"event": "delivery", "timestamp": now, "from_domain": MENDED});
    let record: Vec<_> = std::iter::once(good).chain(std::iter::repeat_n(bad, 60)).collect();
    let mut process = pipeline.run("all", 0, &[])?;
    process.ready()?;
    pipeline.kafka.write(&events, &[Outgoing::new(json!(record).to_string())])?;
    pipeline.settled("classify")?;
    let items = (1..=60).map(|item| item.to_string()).collect::<Vec<_>>().join(",");
    for times in 0..2 {
        let waiting = letters(&pipeline)?;
        let last = waiting.last().context("no letter")?;
        ensure!(waiting.len() == 1 + times, "{} letters", waiting.len());
        ensure!(last.headers["bounceflow.source.items"] == items, "{:?}", last.headers);
        ensure!(last.headers["bounceflow.others_counted"] == "1", "{:?}", last.headers);
        if times == 0 {
            pipeline.succeed(&["dead-letter", "resend", &format!("0:{}", last.offset), "--yes"])?;
            pipeline.settled("classify")?;
        }
    }
    pipeline.settled("sink")?;
    ensure!(pipeline.value("SELECT sum(deliveries) FROM {db}.delivery_rates")? == "1", "the item that was counted counts again");
    ensure!(process.metric("bounceflow_classify_dead_lettered_total", &[])? == 120.0, "not by item");
    pipeline.succeed(&["audit"])?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn what_the_sink_refused_goes_back_to_its_topic_and_is_not_counted_twice_by_watch() -> Result<()> {
    let pipeline = Pipeline::builder("sunk")?.set(&["watch", "lateness_s"], 1)?.set(&["watch", "idle_s"], 1)?.build()?;
    pipeline.value("ALTER TABLE {db}.failures ADD CONSTRAINT poison CHECK toUInt8(if(campaign = 'poison', 'boom', '1')) = 1")?;
    pipeline.value(
        "ALTER TABLE {db}.batches ADD CONSTRAINT poison CHECK toUInt8(if(has(`rows.campaign`, 'poison'), 'boom', '1')) = 1",
    )?;
    let now = now_ms()?;
    let bounce = |campaign: &str| {
        let event = json!({"event": "bounce", "timestamp": now, "recipient": "kim@gmail.com", "from_domain": MENDED, "reply_code": 550,
            "campaign": campaign});
        Outgoing::new(event.to_string())
    };
    let mut process = pipeline.run("all", 0, &[])?;
    process.get("/healthz")?;
    pipeline.settled("classify")?;
    pipeline.kafka.write(&pipeline.topic("events"), &[bounce("poison"), bounce("good")])?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    let reasons = list(&pipeline)?;
    ensure!(reasons["reasons"][0]["reason"] == "refused_by_clickhouse" && reasons["letters"] == 2, "{reasons}");
    // Event time goes on, so that watch sees them in its windows.
    let counted = |process: &mut bounceflow_end_to_end::Process| -> Result<(u64, bool)> {
        let (_, body) = process.get("/api/v1/rates?scope=identity&window=900")?;
        let body: Value = serde_json::from_str(&body)?;
        let row =
            body["rows"].as_array().into_iter().flatten().find(|row| row["identity"] == MENDED).cloned().unwrap_or_default();
        Ok((row["hard"].as_u64().unwrap_or(0) + row["soft"].as_u64().unwrap_or(0), row.is_object()))
    };
    bounceflow_end_to_end::until("watch to count them", || {
        let (bounces, _) = counted(&mut process)?;
        ensure!(bounces == 2, "{bounces}");
        Ok(())
    })?;
    for table in ["failures", "batches"] {
        pipeline.value(&format!("ALTER TABLE {{db}}.{table} DROP CONSTRAINT poison"))?;
    }
    let told = pipeline.succeed(&["dead-letter", "resend", "--by", "sink", "--yes"])?;
    ensure!(told.contains("2 dead letters were sent again"), "{told}");
    pipeline.settled("sink")?;
    pipeline.wait_for_value("SELECT count(), uniqExact(source_offset) FROM {db}.failures", "2\t2")?;
    pipeline.wait_for_value("SELECT sum(hard + soft) FROM {db}.delivery_rates", "2")?;
    pipeline.succeed(&["audit"])?;
    // One that nobody could read is folded, once it can be; here it still cannot, and is a letter again.
    pipeline.kafka.write(&pipeline.topic("rates"), &[Outgoing::new("no avro")])?;
    pipeline.settled("sink")?;
    pipeline.succeed(&["dead-letter", "resend", "--reason", "malformed_avro", "--yes"])?;
    pipeline.settled("sink")?;
    let last = letters(&pipeline)?.pop().context("no letter")?;
    ensure!(last.headers["bounceflow.resent"] == "1" && last.headers["bounceflow.by"] == "sink", "{last:?}");
    // More of the log, so that watch has surely come past what was sent again.
    pipeline.kafka.write(&pipeline.topic("events"), &[bounce("good")])?;
    bounceflow_end_to_end::until("watch to count one more", || {
        let (bounces, _) = counted(&mut process)?;
        ensure!(bounces == 3, "{bounces}");
        Ok(())
    })?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}
