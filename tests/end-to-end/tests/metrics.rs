//! What `/metrics` says of a real run is what the catalogue promises, and what happened.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bounceflow::metrics::catalogue;
use bounceflow_end_to_end::{Pipeline, Process, until};

const EVENTS: u64 = 20_000;

/// Type and label names of each metric of a page.
fn page(text: &str) -> Result<BTreeMap<String, (String, BTreeSet<String>)>> {
    let mut all: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').context("a type without a kind")?;
            last = name.to_owned();
            ensure!(all.insert(last.clone(), (kind.to_owned(), BTreeSet::new())).is_none(), "{name} is there twice");
        } else if !line.is_empty() && !line.starts_with('#') {
            // A series follows its type.
            let rest = line.strip_prefix(&last).with_context(|| format!("{line}: behind {last}"))?;
            let (_, labels) = all.get_mut(&last).context("no type")?;
            if let Some((labelled, _)) = rest.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')) {
                let names = labelled.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
                labels.extend(names.filter(|name| name != "le"));
            }
        }
    }
    Ok(all)
}

#[test]
fn every_stage_says_what_happened_and_lag_grows_while_clickhouse_is_gone() -> Result<()> {
    // Nobody listens there: sends fail, and are counted.
    let pipeline = Pipeline::builder("metrics")?
        .inputs(3)
        .set(&["watch", "alertmanagers"], vec!["http://127.0.0.1:9".to_owned()])?
        .set(&["classify", "threads"], 2)?
        .set(&["sink", "max_rows"], 400)?
        .build()?;
    let file = pipeline.folder().join("expected.json");
    let mut simulate = pipeline.simulate(&[
        "--format=mixed",
        "--failures=0.2",
        "--garbage=0.01",
        &format!("--count={EVENTS}"),
        &format!("--expected={}", file.display()),
    ])?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    let mut all = pipeline.run("all", 0, &[])?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;

    let (_, text) = all.get("/metrics")?;
    let told = page(&text)?;
    let promised: BTreeMap<String, (String, BTreeSet<String>)> = catalogue::all()
        .map(|d| (d.name.to_owned(), (d.kind.as_str().to_owned(), d.labels.iter().map(|label| (*label).to_owned()).collect())))
        .collect();
    for (name, what) in &promised {
        ensure!(told.get(name) == Some(what), "{name}: promised {what:?}, told {:?}", told.get(name));
    }
    ensure!(told.len() == promised.len(), "told and not promised: {:?}", told.keys().collect::<Vec<_>>());

    let (said, _) = pipeline.expected("expected.json")?;
    let (items, failures) = (said["items"].as_f64().context("no items")?, said["failures"].as_f64().context("no failures")?);
    let dead = pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?.len() as f64;
    until("the metrics to say what happened", || {
        let mut sum = |name: &str, labels: &[(&str, &str)]| all.metric(&format!("bounceflow_{name}"), labels);
        let counted = sum("classify_items_total", &[("outcome", "counted")])?;
        let events = sum("classify_events_total", &[])?;
        let (ignored, refused) = (sum("classify_ignored_total", &[])?, sum("classify_dead_lettered_total", &[])?);
        ensure!(
            events + ignored + refused == counted,
            "{events} events, {ignored} ignored, {refused} refused of {counted} items"
        );
        ensure!(refused == dead && dead > 0.0, "{refused} refused, {dead} dead letters");
        ensure!(counted == items, "{counted} of {items} items");
        let failed = sum("classify_items_total", &[("outcome", "failure")])?;
        let by_category = sum("classify_failures_total", &[])?;
        let uneventful: f64 =
            ["delivery", "drop"].iter().map(|e| sum("classify_events_total", &[("event_type", e)])).sum::<Result<f64>>()?;
        ensure!(failed == failures && by_category == failures, "{failed}, {by_category} by category, of {failures} failures");
        ensure!(events - uneventful == failures, "{events} events, {uneventful} without a failure, of {failures} failures");
        let complaints = sum("classify_failures_total", &[("category", "complaint"), ("severity", "none")])?;
        let (hits, misses) = (
            sum("classify_cache_lookups_total", &[("result", "hit")])?,
            sum("classify_cache_lookups_total", &[("result", "miss")])?,
        );
        ensure!(hits > misses && misses > 0.0 && hits + misses >= failures - complaints, "{hits} hits, {misses} misses");
        let unmatched = sum("classify_unmatched_total", &[])?;
        ensure!(unmatched < failures, "{unmatched} of {failures} unmatched");
        let rows = sum("sink_rows_total", &[("table", "failures")])?;
        ensure!(rows == failures, "{rows} rows of {failures} failures");
        // Each row of failures and each batch that counts something was observed.
        for table in ["failures", "batches"] {
            let observed = sum("end_to_end_seconds_count", &[("table", table)])?;
            let infinite = sum("end_to_end_seconds_bucket", &[("table", table), ("le", "+Inf")])?;
            ensure!(observed == infinite, "{table}: {observed} observed, {infinite} in the last bucket");
            ensure!(if table == "failures" { observed == failures } else { observed > 0.0 }, "{table}: {observed} observed");
        }
        for (role, topic) in
            [("classify", "events"), ("sink", "failures"), ("sink", "rates"), ("sink", "alerts"), ("watch", "rates")]
        {
            let series = [("role", role), ("topic", &*pipeline.topic(topic))];
            ensure!(
                text.contains(&format!("bounceflow_lag_seconds{{role=\"{role}\",topic=\"{}\"}}", pipeline.topic(topic))),
                "{role}"
            );
            // The sink lingers, and rates never end: a moment is nothing.
            ensure!(sum("lag_seconds", &series)? < 5.0, "{role} of {topic} is behind");
        }
        ensure!(sum("build_info", &[("version", env!("CARGO_PKG_VERSION"))])? == 1.0, "no version");
        Ok(())
    })?;

    // Everything is read, and nothing of it is settled: the client knows of no lag, the operator does.
    let lag =
        |all: &mut Process| all.metric("bounceflow_lag_seconds", &[("role", "sink"), ("topic", &pipeline.topic("failures"))]);
    pipeline.servers.clickhouse.kill()?;
    let mut simulate = pipeline.simulate(&["--failures=0.5", "--garbage=0", "--count=100"])?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    until("the lag to grow", || {
        let (lag, retries) = (lag(&mut all)?, all.metric("bounceflow_sink_retries_total", &[("table", "failures")])?);
        ensure!(lag > 5.0 && retries > 0.0, "{lag} s after {retries} retries");
        Ok(())
    })?;
    pipeline.servers.clickhouse.restart()?;
    pipeline.settled("sink")?;
    until("the lag to be gone", || {
        let lag = lag(&mut all)?;
        ensure!(lag < 5.0, "{lag} s");
        Ok(())
    })?;
    ensure!(all.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}
