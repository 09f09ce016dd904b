//! Alerts into ClickHouse: every replica of the watch role writes every transition, and each is shown once, whoever is killed.

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Outgoing, Pipeline, until};
use bounceflow_event::avro::{self, WriterSchema};
use bounceflow_event::{Alert, AlertCategory};

const ALERTS: u64 = 600;
const START: i64 = 1_790_000_400_000;
const REPLICA: &str = "bounceflow.replica";

/// What one replica writes of `ALERTS` alerts, in the order it decides: half of them fire and end, a quarter fires, a quarter
/// is over before it fires.
fn transitions(name: &str, replica: u32) -> Result<Vec<Outgoing>> {
    let schema = WriterSchema::parse(avro::ALERT)?;
    let fates: [&[&str]; 4] = [
        &["pending", "firing", "resolved"],
        &["pending", "firing"],
        &["pending", "firing", "resolved"],
        &["pending", "resolved"],
    ];
    let mut records = Vec::new();
    for n in 0..ALERTS {
        let (id, identity) = (format!("blocked/gmail/shop{n}.example/{}", START / 1000), format!("shop{n}.example"));
        for (step, state) in (0..).zip(fates[n as usize % 4]) {
            let alert = Alert {
                alert_id: &id,
                rule: "blocked",
                state,
                severity: "critical",
                isp: "gmail",
                identity: &identity,
                episode_start: START,
                event_time: START + step * 60_000,
                metric: "blocked_rate",
                window_seconds: 900,
                threshold: 0.2,
                numerator: 300 - 100 * step,
                denominator: 1000,
                categories: vec![AlertCategory { category: "reputation", count: 300 - 100 * step }],
                pattern: -1,
                pattern_rule: "generic.blocked",
                sample: "550 5.7.1 blocked",
                root_cause: "reputation",
                action: "request_delisting",
                annotations: [("summary".to_owned(), "Stop sending there".to_owned())].into(),
            };
            let mut payload = Vec::new();
            schema.encode(&alert, &mut payload)?;
            let by = format!("{name}/{replica}/watch/0");
            records.push(Outgoing { key: Some(id.clone().into_bytes()), ..Outgoing::new(payload) }.with(REPLICA, &by));
        }
    }
    Ok(records)
}

#[test]
fn every_transition_is_shown_once_whoever_wrote_it_and_whoever_is_killed() -> Result<()> {
    let pipeline = Pipeline::builder("transitions")?
        .set(&["sink", "max_rows"], 100)?
        .set(&["kafka", "session.timeout.ms"], "6000")?
        .build()?;
    let topic = pipeline.topic("alerts");
    // As replicas write: the second is always a little behind the first.
    let (first, second) = (transitions("alerts", 0)?, transitions("alerts", 1)?);
    let each = first.len() as u64;
    let mut records: Vec<Outgoing> = first.chunks(70).zip(second.chunks(70)).flat_map(|(a, b)| [a, b].concat()).collect();
    records.insert(500, Outgoing::new(&b"no avro"[..]));
    pipeline.kafka.write(&topic, &records)?;

    let group = pipeline.group("sink")?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    let mut repeated = 0;
    for _ in 0..30 {
        // Killed with an insert under way.
        let deadline = std::time::Instant::now() + bounceflow_end_to_end::LONG;
        while group.open_intents()?.is_empty() {
            ensure!(std::time::Instant::now() < deadline, "no insert is under way any more");
        }
        sink.kill()?;
        let open = !group.open_intents()?.is_empty();
        sink = pipeline.run("sink", 0, &[])?;
        if open {
            let line = sink.wait_for("An insert may be half done; it is repeated")?;
            ensure!(line["topic"] == *topic, "{line}");
            repeated += 1;
        }
        if repeated == 3 {
            break;
        }
    }
    ensure!(repeated == 3, "only {repeated} kills met an open intent");
    pipeline.settled("sink")?;
    // Merges must take away neither a record nor what is shown of it.
    pipeline.optimize()?;

    let stored = pipeline.value("SELECT count(), uniqExact(kafka_offset), uniqExact(replica) FROM {db}.alerts")?;
    ensure!(stored == format!("{0}\t{0}\t2", 2 * each), "{stored} rows of {each} transitions by two replicas");
    let shown = pipeline.value(
        "SELECT count(), uniqExact(alert_id, state), min(replicas), max(replicas), any(annotations['summary']), min(rate)
        FROM {db}.alert_transitions",
    )?;
    ensure!(shown == format!("{each}\t{each}\t2\t2\tStop sending there\t0.1"), "{shown}");
    let history = pipeline.value(
        "SELECT groupArray((state, outcome, n)) FROM (SELECT state, outcome, count() AS n, uniqExact(alert_id) AS ids
        FROM {db}.alert_history WHERE date = '2026-09-21' GROUP BY ALL HAVING n = ids ORDER BY ALL)",
    )?;
    let expect = "[('firing','open',150),('resolved','lapsed',150),('resolved','resolved',300)]";
    ensure!(history == expect, "{history}");

    let letters = pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?;
    ensure!(letters.len() == 1 && letters[0].payload.as_deref() == Some(b"no avro"), "{letters:?}");
    let source = letters[0].headers.get("bounceflow.source.topic").context("a letter without its source")?;
    ensure!(*source == topic, "{letters:?}");
    let report = pipeline.succeed(&["audit"])?;
    ensure!(!report.contains("Duplicates"), "{report}");

    // What comes while it runs is there within moments, under the table's own name in the metrics.
    let late = transitions("late", 2)?;
    pipeline.kafka.write(&topic, &late[..10])?;
    pipeline.wait_for_value("SELECT count() FROM {db}.alerts WHERE replica = 'late/2/watch/0'", "10")?;
    until("the metrics to say so", || {
        let rows = sink.metric("bounceflow_sink_rows_total", &[("table", "alerts")])?;
        ensure!(rows >= 10.0, "{rows}");
        Ok(())
    })?;
    ensure!(pipeline.count("SELECT count() FROM {db}.alert_transitions")? == each, "a third replica's records show up");
    ensure!(sink.stop()?.success(), "the sink did not end well");
    pipeline.passed();
    Ok(())
}
