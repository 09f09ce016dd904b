//! Traces of a real run, at a collector that comes and goes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Collector, Pipeline, Process, Span, until};

const EVENTS: u64 = 5000;

fn send(pipeline: &Pipeline, events: u64) -> Result<()> {
    let mut simulate = pipeline.simulate(&["--failures=0.2", "--garbage=0.01", &format!("--count={events}")])?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    Ok(())
}

/// The spans of a name, and the sum of one of their fields.
fn sum(spans: &[Span], name: &str, field: &str) -> Result<u64> {
    let values = spans.iter().filter(|span| span.name == name).map(|span| span.fields.get(field));
    values.map(|value| Ok(value.with_context(|| format!("{name} without {field}"))?.parse::<u64>()?)).sum()
}

#[test]
fn stages_are_traced_and_go_on_without_a_collector() -> Result<()> {
    let mut collector = Collector::start()?;
    let pipeline = Pipeline::builder("traces")?
        .set(&["telemetry", "otlp_endpoint"], collector.url())?
        .set(&["telemetry", "export_timeout_ms"], 1000)?
        .set(&["sink", "max_rows"], 200)?
        .build()?;
    // Building it has run `migrate`.
    let migrations: Vec<Span> = collector.spans().into_iter().filter(|span| span.name == "migrate").collect();
    ensure!(migrations.len() == 1 && migrations[0].fields["applied"] != "0", "{migrations:?}");

    send(&pipeline, EVENTS)?;
    let mut all = pipeline.run("all", 0, &[])?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    let failures = pipeline.count("SELECT count() FROM {db}.failures")?;
    until("every transaction and batch to be traced", || {
        let spans = collector.spans();
        let items = sum(&spans, "classify transaction", "items")?;
        ensure!(items >= EVENTS, "{items} items");
        let classified = sum(&spans, "classify transaction", "failures")?;
        ensure!(classified == failures, "{classified} of {failures} failures");
        let batches: Vec<Span> =
            spans.iter().filter(|s| s.name == "sink batch" && s.fields["table"] == "failures").cloned().collect();
        let rows = sum(&batches, "sink batch", "rows")?;
        ensure!(rows == failures, "{rows} of {failures} rows");
        ensure!(sum(&spans, "watch batch", "rows")? > 0, "no rates were folded");
        Ok(())
    })?;
    let spans = collector.spans();
    let by_id: BTreeMap<&[u8], &Span> = spans.iter().map(|span| (&*span.id, span)).collect();
    ensure!(by_id.len() == spans.len(), "a span came twice");
    let mut parts: BTreeMap<&[u8], BTreeSet<&str>> = BTreeMap::new();
    for span in spans.iter().filter(|span| !span.parent.is_empty()) {
        // What is part of something that ended later may be here before it.
        let Some(whole) = by_id.get(&*span.parent) else { continue };
        ensure!(whole.trace == span.trace, "{span:?} is part of {whole:?} and of another trace");
        parts.entry(&*span.parent).or_default().insert(&*span.name);
    }
    for span in &spans {
        let expect: &[&str] = match &*span.name {
            "classify transaction" => &["commit"],
            "sink batch" => &["commit", "insert", "intent"],
            _ => continue,
        };
        let found: Vec<&str> = parts.get(&*span.id).into_iter().flatten().copied().collect();
        ensure!(found == expect && span.parent.is_empty() && span.error.is_none(), "{span:?} has {found:?}");
    }
    let insert = spans.iter().find(|span| span.name == "insert").context("no insert")?;
    ensure!(insert.fields["verdict"] == "written" && insert.fields["try_number"] == "1", "{insert:?}");
    ensure!(insert.fields["server"].starts_with("http://"), "{insert:?}");
    let expect =
        [("service.name", "bounceflow"), ("service.namespace", "traces"), ("service.version", env!("CARGO_PKG_VERSION"))];
    for (key, value) in expect {
        ensure!(insert.resource.get(key).is_some_and(|v| v == value), "{key}: {:?}", insert.resource);
    }
    // Nobody's address is in a trace.
    ensure!(!format!("{spans:?}").contains('@'), "an address is traced");

    // An insert that is not taken shows as an error.
    pipeline.servers.clickhouse.kill()?;
    send(&pipeline, 100)?;
    until("a refused insert to be traced", || {
        let failed = collector.spans().into_iter().find(|span| span.name == "insert" && span.error.is_some());
        let failed = failed.context("none")?;
        ensure!(failed.fields["verdict"] == "retry", "{failed:?}");
        Ok(())
    })?;
    pipeline.servers.clickhouse.restart()?;

    // The collector is gone: it says so once, and the pipeline goes on.
    collector.stop();
    send(&pipeline, EVENTS)?;
    let lost = |all: &mut Process| all.metric("bounceflow_telemetry_spans_total", &[("result", "failed")]);
    until("spans to be lost", || {
        let lost = lost(&mut all)?;
        ensure!(lost > 0.0, "{lost}");
        Ok(())
    })?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    let before = collector.spans().len();
    collector.restart()?;
    all.wait_for("The collector takes spans again")?;
    until("spans to come again", || {
        ensure!(collector.spans().len() > before, "none did");
        Ok(())
    })?;
    ensure!(all.said("The collector does not take spans").len() == 1, "said more than once: {}", all.log());
    ensure!(all.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}
