//! What is refused rather than counted wrongly: a schema from the future, an edited migration, a name taken by another Kafka cluster,
//! a topic that is not the one that was counted.

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Outgoing, Pipeline, Process};
use bounceflow_stack::{Kafka, KafkaOptions};
use serde_json::json;

const DELIVERIES: &str = "SELECT sum(deliveries) FROM {db}.delivery_rates";

fn deliveries(count: usize) -> Result<Vec<Outgoing>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    let event =
        json!({"event": "delivery", "timestamp": now as u64, "recipient": "kim@gmail.com", "from_domain": "news.example"});
    Ok(vec![Outgoing::new(event.to_string()); count])
}

/// A sink that writes nothing, says why, and is not ready.
fn refuses(pipeline: &Pipeline, process: &mut Process, words: &[&str]) -> Result<()> {
    let line = process.wait_for("Waiting for ClickHouse")?;
    let error = line["error"].as_str().unwrap_or_default();
    ensure!(words.iter().all(|word| error.contains(word)), "{line}");
    let (status, body) = process.get("/readyz")?;
    ensure!(status == 503 && body.contains(words[0]), "{status} {body}");
    ensure!(pipeline.group("sink")?.committed()?.iter().all(|c| c.offset.is_none()), "it has begun");
    Ok(())
}

#[test]
fn a_schema_of_another_version_is_refused_by_migrate_and_run() -> Result<()> {
    let pipeline = Pipeline::builder("schema_versions")?.build()?;
    pipeline.value("INSERT INTO {db}.schema_migrations VALUES (9999, 'future', '', now())")?;
    let output = pipeline.command(&["migrate"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("schema version 9999"), "{}: {said}", output.status);
    let mut sink = pipeline.run("sink", 0, &[])?;
    refuses(&pipeline, &mut sink, &["schema version 9999", "a newer bounceflow migrated it"])?;
    // Mended, it goes on by itself.
    pipeline.value("ALTER TABLE {db}.schema_migrations DELETE WHERE version = 9999 SETTINGS mutations_sync = 2")?;
    sink.ready()?;
    ensure!(sink.stop()?.success(), "it did not end well");

    let edit = "ALTER TABLE {db}.schema_migrations UPDATE checksum = 'x' WHERE version = 3 SETTINGS mutations_sync = 2";
    pipeline.value(edit)?;
    let output = pipeline.command(&["migrate"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("0003_delivery_rates.sql was changed"), "{}: {said}", output.status);
    let mut sink = pipeline.run("sink", 0, &[])?;
    let line = sink.wait_for("Waiting for ClickHouse")?;
    ensure!(line["error"].as_str().is_some_and(|e| e.contains("0003_delivery_rates.sql was changed")), "{line}");
    pipeline.passed();
    Ok(())
}

#[test]
fn a_pipeline_of_the_same_name_on_another_kafka_is_refused() -> Result<()> {
    let pipeline = Pipeline::builder("namesake")?.build()?;
    let mut first = pipeline.run("all", 0, &[])?;
    first.ready()?;
    pipeline.kafka.write(&pipeline.topic("events"), &deliveries(100)?)?;
    pipeline.wait_for_value(DELIVERIES, "100")?;

    let elsewhere = Kafka::start_own(KafkaOptions::default())?;
    let config = pipeline.config_with(&["kafka", "bootstrap.servers"], elsewhere.bootstrap())?;
    let path = config.to_str().context("a path that is no text")?;
    ensure!(
        pipeline.command_on(path, &["create-topics", "--failures-partitions", "4", "--inputs", "1"])?.status.success(),
        "topics"
    );
    let mut second = pipeline.run_on(&config, "all", 0, &[])?;
    let line = second.wait_for("Waiting for ClickHouse")?;
    let error = line["error"].as_str().unwrap_or_default();
    ensure!(
        error.contains("pipeline \"namesake\"") && error.contains("from the Kafka cluster") && error.contains("deployment"),
        "{line}"
    );
    let (status, body) = second.get("/readyz")?;
    ensure!(status == 503 && body.contains("from the Kafka cluster"), "{status} {body}");

    // The first, started again, still owns its name.
    ensure!(first.stop()?.success(), "it did not end well");
    let mut first = pipeline.run("all", 0, &[])?;
    first.ready()?;
    pipeline.kafka.write(&pipeline.topic("events"), &deliveries(20)?)?;
    pipeline.wait_for_value(DELIVERIES, "120")?;
    ensure!(first.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn a_topic_deleted_and_created_again_halts_and_explains() -> Result<()> {
    let pipeline = Pipeline::builder("made_anew")?.build()?;
    let events = pipeline.topic("events");
    let mut process = pipeline.run("all", 0, &[])?;
    pipeline.kafka.write(&events, &deliveries(100)?)?;
    pipeline.wait_for_value(DELIVERIES, "100")?;
    pipeline.settled("sink")?;
    ensure!(process.stop()?.success(), "it did not end well");

    // Shorter than what was counted, then longer: offsets alone would fit.
    for (written, words) in [(50, "ends at 50: the topic was deleted and created again"), (150, "or the topic was deleted")] {
        pipeline.kafka.delete_topic(&events)?;
        pipeline.succeed(&["create-topics", "--failures-partitions", "4", "--inputs", "1"])?;
        pipeline.kafka.write(&events, &deliveries(written)?)?;
        let mut process = pipeline.run("all", 0, &[])?;
        let line = process.wait_for("A partition halts; the others go on")?;
        ensure!(line["topic"] == *events && line["why"].as_str().is_some_and(|why| why.contains(words)), "{line}");
        let (status, body) = process.get("/readyz")?;
        ensure!(status == 503 && body.contains(words), "{status} {body}");
        ensure!(process.stop()?.success(), "it did not end well");
        ensure!(pipeline.value(DELIVERIES)? == "100", "it was counted all the same");
    }
    pipeline.passed();
    Ok(())
}
