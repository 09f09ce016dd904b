//! During an upgrade a sink meets records of a newer writer: it reads them where their schema is left in the topic of schemas,
//! and waits where it is not.

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Incoming, Outgoing, Pipeline};
use bounceflow_event::avro::{FAILURE, RATE_BATCH, WriterSchema};
use serde_json::{Value, json};

/// The schema with one more field at its end.
fn newer(schema: &str) -> Result<WriterSchema> {
    let mut schema: Value = serde_json::from_str(schema)?;
    let fields = schema["fields"].as_array_mut().context("no fields")?;
    fields.push(json!({"name": "from_the_future", "type": "string", "default": ""}));
    Ok(WriterSchema::parse(&schema.to_string())?)
}

/// The record as that writer would have written it: a record is its fields, one after the other.
fn rewritten(record: &Incoming, schema: &WriterSchema) -> Result<Outgoing> {
    let old = record.payload.as_deref().and_then(|payload| payload.get(10..)).context("no single-object record")?;
    let mut bytes = vec![0xC3, 0x01];
    bytes.extend_from_slice(&schema.fingerprint().to_le_bytes());
    bytes.extend_from_slice(old);
    bytes.extend_from_slice(b"\x0ahello"); // a string of five bytes
    Ok(Outgoing::new(bytes).to(record.partition))
}

fn bounces(count: usize) -> Result<Vec<Outgoing>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
    let event = |i: usize| {
        json!({"event": "bounce", "timestamp": now, "recipient": format!("kim{i}@gmail.com"), "from_domain": "news.example",
            "reply_code": 550, "enhanced_code": "5.1.1"})
    };
    Ok((0..count).map(|i| Outgoing::new(event(i).to_string())).collect())
}

#[test]
fn records_of_a_newer_writer_are_read_by_its_schema_and_waited_for_without() -> Result<()> {
    let pipeline = Pipeline::builder("rolling")?.build()?;
    let (failures, rates) = (pipeline.topic("failures"), pipeline.topic("rates"));
    let mut classify = pipeline.run("classify", 0, &[])?;
    pipeline.kafka.write(&pipeline.topic("events"), &bounces(40)?)?;
    pipeline.settled("classify")?;
    ensure!(classify.stop()?.success(), "classify did not end well");
    let mut sink = pipeline.run("sink", 0, &[])?;
    pipeline.wait_for_value("SELECT count() FROM {db}.failures", "40")?;
    pipeline.wait_for_value("SELECT sum(hard) FROM {db}.delivery_rates", "40")?;

    // Written again by a newer version, which has left its schemas, as every writer does first.
    let (newer_failure, newer_batch) = (newer(FAILURE)?, newer(RATE_BATCH)?);
    let left = |schema: &WriterSchema| Outgoing {
        key: Some(format!("{:016x}", schema.fingerprint()).into_bytes()),
        ..Outgoing::new(schema.json())
    };
    pipeline.kafka.write(&pipeline.topic("schemas"), &[left(&newer_failure), left(&newer_batch)])?;
    let again = |topic: &str, schema: &WriterSchema| -> Result<Vec<Outgoing>> {
        pipeline.kafka.read_all(topic)?.iter().map(|record| rewritten(record, schema)).collect()
    };
    let (more_failures, more_batches) = (again(&failures, &newer_failure)?, again(&rates, &newer_batch)?);
    pipeline.kafka.write(&failures, &more_failures)?;
    pipeline.kafka.write(&rates, &more_batches)?;
    pipeline.wait_for_value("SELECT count() FROM {db}.failures", "80")?;
    pipeline.wait_for_value("SELECT sum(hard) FROM {db}.delivery_rates", "80")?;
    let alike = "SELECT uniqExact(* EXCEPT (kafka_topic, kafka_partition, kafka_offset)) FROM {db}.failures";
    ensure!(pipeline.value(alike)? == "40", "read otherwise than the same in the older schema");

    // One by a schema nobody left: its partition waits, the others go on, and nothing is thrown away.
    let mut unknown: Value = serde_json::from_str(newer_failure.json())?;
    unknown["fields"].as_array_mut().context("no fields")?.push(json!({"name": "and_one_more", "type": "string", "default": ""}));
    let unknown = WriterSchema::parse(&unknown.to_string())?;
    let mut stray = more_failures.first().context("no failure")?.clone();
    let payload = stray.payload.as_mut().context("no payload")?;
    payload[2..10].copy_from_slice(&unknown.fingerprint().to_le_bytes());
    payload.extend_from_slice(b"\x0aagain");
    stray.partition = 0;
    let at = pipeline.kafka.write(&failures, &[stray])?;
    let line = sink.wait_for("A partition halts; the others go on")?;
    let why = line["why"].as_str().unwrap_or_default();
    ensure!(line["topic"] == *failures && line["partition"] == 0, "{line}");
    ensure!(why.contains(&format!("offset {}", at[0])) && why.contains("schema") && why.contains("upgrade"), "{why}");
    let (status, body) = sink.get("/readyz")?;
    ensure!(status == 503 && body.contains(&format!("{failures}/0")), "{status} {body}");
    let others = more_failures.iter().filter(|record| record.partition != 0).count() as u64;
    let behind: Vec<Outgoing> = more_failures.clone();
    pipeline.kafka.write(&failures, &behind)?;
    pipeline.wait_for_value("SELECT count() FROM {db}.failures", &(80 + others).to_string())?;
    ensure!(pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?.is_empty(), "thrown away");
    ensure!(sink.stop()?.success(), "the sink did not end well");

    // With its schema, it and all behind it are read.
    pipeline.kafka.write(&pipeline.topic("schemas"), &[left(&unknown)])?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    pipeline.wait_for_value("SELECT count() FROM {db}.failures", "121")?;
    pipeline.settled("sink")?;
    ensure!(
        pipeline.value("SELECT count(), uniqExact(kafka_partition, kafka_offset) FROM {db}.failures")? == "121\t121",
        "doubled"
    );
    ensure!(sink.stop()?.success(), "the sink did not end well");
    pipeline.passed();
    Ok(())
}
