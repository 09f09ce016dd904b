//! Alerts on the real servers: one incident is one alert, whoever dies; the same log gives the same transitions.
#![allow(clippy::print_stdout, reason = "a test says what it saw")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Incoming, Pipeline, until};
use bounceflow_event::Alert;
use bounceflow_event::avro::{self, Schemas};
use bounceflow_stack::Alertmanager;
use serde_json::Value;

/// Seconds of event time the watch of these tests waits for what comes late.
const LATENESS: i64 = 5;

/// One incident is one alert: short windows, so that a test sees it end.
const ONE: &str = r#"
[[rule]]
name = "refused"
metric = "bounce_rate"
window = "60s"
threshold = 0.3
clear = 0.15
min_volume = 20
for = "20s"
keep_firing = "10s"
severity = "critical"
annotations = { summary = "A provider refuses a sender" }
"#;

/// Many transitions: low thresholds in every scope.
const MANY: &str = r#"
[[rule]]
name = "pair.bounce"
metric = "bounce_rate"
window = "60s"
threshold = 0.08
min_volume = 10
for = "10s"
keep_firing = "20s"

[[rule]]
name = "isp.deferred"
scope = "isp"
metric = "deferred_rate"
window = "2m"
threshold = 0.05
min_volume = 10
keep_firing = "0s"

[[rule]]
name = "sender.hard"
scope = "identity"
metric = "hard_rate"
window = "5m"
threshold = 0.02
clear = 0.015
min_volume = 50
for = "30s"

[[rule]]
name = "all.content"
scope = "overall"
metric = "category:spam_content"
window = "10m"
threshold = 0.002
min_volume = 100
"#;

fn now() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64)
}

/// RFC 3339 of seconds since the epoch.
fn time_of(seconds: i64) -> Result<String> {
    Ok(jiff::Timestamp::from_second(seconds)?.to_string())
}

/// A pipeline whose watch follows these rules.
fn pipeline(name: &str, rules: &str, more: &[(&[&str], toml::Value)]) -> Result<(Pipeline, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("rules.toml");
    fs::write(&file, rules)?;
    let mut builder = Pipeline::builder(name)?
        .inputs(3)
        .set(&["watch", "rules"], file.to_str().context("a path that is no text")?)?
        .set(&["watch", "lateness_s"], LATENESS)?
        .set(&["watch", "idle_s"], 5)?
        .set(&["watch", "resend_interval_ms"], 1000)?;
    for (path, value) in more {
        builder = builder.set(path, value.clone())?;
    }
    Ok((builder.build()?, folder))
}

/// Sends `count` events over `span` seconds of event time from `start` (seconds since the epoch), and waits until they are sent.
fn send(pipeline: &Pipeline, start: i64, span: i64, count: u64, scenario: Option<&PathBuf>) -> Result<()> {
    let (start, span, count) = (time_of(start)?, format!("{span}s"), count.to_string());
    let mut args = vec!["--start", &start, "--span", &span, "--count", &count, "--format", "json", "--garbage", "0"];
    if let Some(scenario) = scenario {
        args.extend(["--scenario", scenario.to_str().context("a path that is no text")?]);
    }
    let mut simulate = pipeline.simulate(&args)?;
    ensure!(simulate.end()?.success(), "simulate failed: {}", simulate.log());
    Ok(())
}

/// The records of the topic of alerts, by the replica that wrote them, in order.
fn by_replica(pipeline: &Pipeline) -> Result<BTreeMap<String, Vec<Incoming>>> {
    let mut all: BTreeMap<String, Vec<Incoming>> = BTreeMap::new();
    for record in pipeline.kafka.read_all(&pipeline.topic("alerts"))? {
        let by = record.headers.get("bounceflow.replica").context("a transition without its replica")?.clone();
        all.entry(by).or_default().push(record);
    }
    Ok(all)
}

fn payloads(records: &[Incoming]) -> Vec<&[u8]> {
    records.iter().map(|record| record.payload.as_deref().unwrap_or_default()).collect()
}

/// Rule, state, episode start and event time of each.
fn read(records: &[Incoming]) -> Result<Vec<(String, String, i64, i64)>> {
    let mut schemas = Schemas::default();
    schemas.add(avro::ALERT)?;
    records
        .iter()
        .map(|record| {
            let alert: Alert<'_> = schemas.decode(record.payload.as_deref().unwrap_or_default())?;
            Ok((alert.rule.to_owned(), alert.state.to_owned(), alert.episode_start, alert.event_time))
        })
        .collect()
}

/// The alerts of the rule that Alertmanager holds.
fn held(alertmanager: &Alertmanager, rule: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_json::from_str(&alertmanager.alerts()?)?;
    Ok(all.into_iter().filter(|alert| alert["labels"]["alertname"] == rule).collect())
}

/// Promise 2. One provider refuses one sender: one alert, in time, on both replicas, in a real Alertmanager, although one replica
/// and Alertmanager itself are killed; it ends when the incident does.
#[test]
fn one_incident_is_one_alert_whoever_dies() -> Result<()> {
    let alertmanager = Alertmanager::start_own()?;
    let urls = toml::Value::Array(vec![alertmanager.url().into()]);
    let (pipeline, folder) = pipeline("watch_ha", ONE, &[(&["watch", "alertmanagers"], urls)])?;
    let scenario = folder.path().join("scenario.toml");
    let (from, until_s, span) = (200, 285, 300);
    fs::write(
        &scenario,
        format!(
            "[[incident]]\nfrom = {from}\nuntil = {until_s}\nisp = 'gmail'\nidentity = 'news.shopwave.example'\n\
             outcome = 'gmail-domain-reputation'\nshare = 0.9\n"
        ),
    )?;
    let start = now()? / 1000 - span;
    send(&pipeline, start, span, 300_000, Some(&scenario))?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    pipeline.settled("classify")?;
    let mut first = pipeline.run("watch", 0, &[])?;
    let mut second = pipeline.run("watch", 1, &[])?;

    // It fires, in both; then one of them dies, and Alertmanager with it.
    let firing = until("both replicas to fire", || {
        let records = by_replica(&pipeline)?;
        for id in ["watch_ha/0/watch", "watch_ha/1/watch"] {
            let states = read(records.get(id).map_or(&[], |r| &r[..]))?;
            ensure!(states.iter().any(|(_, state, ..)| state == "firing"), "{id}: {states:?}");
        }
        Ok(records)
    })?;
    second.kill()?;
    let one = until("Alertmanager to hold the alert", || {
        let alerts = held(&alertmanager, "refused")?;
        ensure!(!alerts.is_empty(), "nothing");
        Ok(alerts)
    })?;
    ensure!(one.len() == 1, "{one:#?}");
    let alert = &one[0];
    ensure!(alert["labels"]["isp"] == "gmail" && alert["labels"]["identity"] == "news.shopwave.example", "{alert:#}");
    ensure!(alert["labels"]["severity"] == "critical" && alert["labels"].as_object().is_some_and(|l| l.len() == 4), "{alert:#}");
    ensure!(alert["status"]["state"] == "active", "{alert:#}");
    let says = |name: &str, part: &str| alert["annotations"][name].as_str().is_some_and(|text| text.contains(part));
    ensure!(says("root_cause", "reputation") && says("action", "request_delisting"), "{alert:#}");
    ensure!(says("top_categories", "reputation") && says("sample", "reputation") && says("rate", "%"), "{alert:#}");
    alertmanager.kill()?;
    let mut second = pipeline.run("watch", 1, &[])?;
    alertmanager.restart()?;
    until("Alertmanager to be told again", || {
        ensure!(held(&alertmanager, "refused")?.len() == 1, "nothing");
        Ok(())
    })?;

    // In time: the window is the minute before T, so the threshold is crossed at the first T whose minute holds enough of it.
    let states = read(&firing["watch_ha/0/watch"])?;
    let (_, _, episode, fired) = states.iter().find(|(_, state, ..)| state == "firing").context("not firing")?.clone();
    let begun = 1000 * (start + from);
    let crossed = begun + 1000 * 60 * 30 / 90;
    ensure!(episode >= begun && episode <= crossed + 20_000, "crossed at about {crossed}, noticed at {episode}");
    ensure!(fired == episode + 20_000, "`for` is 20 s, it took {} ms", fired - episode);

    // It ends by itself: the sources are idle, and event time follows the log.
    until("both replicas to resolve", || {
        let records = by_replica(&pipeline)?;
        for (id, records) in &records {
            let states = read(records)?;
            ensure!(states.last().is_some_and(|(_, state, ..)| state == "resolved"), "{id}: {states:?}");
        }
        Ok(())
    })?;
    let records = by_replica(&pipeline)?;
    ensure!(records.len() == 2, "{:?}", records.keys());
    let (a, b) = (payloads(&records["watch_ha/0/watch"]), payloads(&records["watch_ha/1/watch"]));
    ensure!(a == b, "the replicas differ: {:?} {:?}", read(&records["watch_ha/0/watch"])?, read(&records["watch_ha/1/watch"])?);
    let states: Vec<String> = read(&records["watch_ha/0/watch"])?.into_iter().map(|(_, state, ..)| state).collect();
    ensure!(states == ["pending", "firing", "resolved"], "{states:?}");
    until("Alertmanager to call it resolved", || {
        let (alerts, now) = (held(&alertmanager, "refused")?, time_of(now()? / 1000)?);
        ensure!(alerts.iter().all(|alert| alert["endsAt"].as_str() <= Some(&*now)), "{alerts:#?}");
        Ok(())
    })?;

    // The HTTP side says the same.
    let (status, body) = first.get("/api/v1/alerts")?;
    let body: Value = serde_json::from_str(&body)?;
    ensure!(
        status == 200 && body["alerts"][0]["state"] == "resolved" && body["alerts"].as_array().is_some_and(|a| a.len() == 1),
        "{body:#}"
    );
    let (status, body) = first.get("/api/v1/rates?scope=isp&window=60&isp=g*&sort=hard_rate")?;
    ensure!(status == 200, "{body}");
    let (status, body) = first.get("/api/v1/rates?window=61")?;
    ensure!(status == 400 && body.contains("60"), "{status} {body}");
    for process in [&mut first, &mut second, &mut classify] {
        ensure!(process.stop()?.success(), "{}: it did not end well: {}", process.name(), process.log());
    }
    pipeline.passed();
    Ok(())
}

/// Promise 2. Ten replicas read one log: at different speeds, in different bites, some frozen, some killed and started again.
#[test]
fn the_same_log_gives_the_same_transitions_ten_times() -> Result<()> {
    let (pipeline, folder) = pipeline("watch_replay", MANY, &[])?;
    let scenario = folder.path().join("scenario.toml");
    let incident = |from: i64, until: i64, isp: &str, outcome: &str, share: f64| {
        format!("[[incident]]\nfrom = {from}\nuntil = {until}\nisp = '{isp}'\noutcome = '{outcome}'\nshare = {share}\n")
    };
    let all = [
        incident(100, 260, "gmail", "reputation/soft", 0.3),
        incident(300, 420, "yahoo", "reputation/deferred", 0.5),
        incident(500, 530, "gmail", "invalid_recipient/hard", 0.6),
        incident(700, 1100, "gmail", "spam_content/soft", 0.2),
    ];
    fs::write(&scenario, all.concat())?;
    let span = 1500;
    send(&pipeline, now()? / 1000 - span - 60, span, 450_000, Some(&scenario))?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    pipeline.settled("classify")?;
    ensure!(classify.stop()?.success(), "classify did not end well");

    for replica in 0..10u32 {
        let fetch = ["1048576", "2000", "50000", "300", "1000000"][replica as usize % 5];
        let more = pipeline.config_with(&["kafka", "fetch.message.max.bytes"], fetch)?;
        let mut watch = pipeline.run_on(&more, "watch", replica, &[])?;
        // Killed or frozen at another point each time: after so many transitions of its own.
        if replica >= 3 {
            let id = format!("watch_replay/{replica}/watch");
            for enough in [1, 5 * replica as usize] {
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_secs(20) {
                    if by_replica(&pipeline)?.get(&id).is_some_and(|records| records.len() >= enough) {
                        break;
                    }
                }
                if replica % 2 == 0 {
                    watch.pause()?;
                    std::thread::sleep(Duration::from_millis(300));
                    watch.resume()?;
                } else {
                    watch.kill()?;
                    watch = pipeline.run_on(&more, "watch", replica, &[])?;
                }
            }
        }
        watch.ready()?;
        ensure!(watch.stop()?.success(), "watch {replica} did not end well: {}", watch.log());
    }
    let records = by_replica(&pipeline)?;
    ensure!(records.len() == 10, "{:?}", records.keys());
    let expect = &records["watch_replay/0/watch"];
    let states = read(expect)?;
    let rules: BTreeSet<&str> = states.iter().map(|(rule, ..)| &**rule).collect();
    ensure!(states.len() >= 40 && rules.len() == 4, "too little happened to compare: {} transitions of {rules:?}", states.len());
    for (replica, records) in &records {
        ensure!(payloads(records) == payloads(expect), "{replica} differs:\n{:?}\n{states:?}", read(records)?);
    }
    println!("{} transitions, ten times the same", states.len());
    pipeline.passed();
    Ok(())
}

/// A log that retention has cut says so, and the rules whose windows it does not cover are not judged.
#[test]
fn a_short_log_is_not_judged() -> Result<()> {
    let rules = "[[rule]]\nname = 'short'\nmetric = 'bounce_rate'\nwindow = '60s'\nthreshold = 0.5\n\
                 [[rule]]\nname = 'long'\nmetric = 'bounce_rate'\nwindow = '6h'\nthreshold = 0.0001\nmin_volume = 1\n";
    let (pipeline, _folder) = pipeline("watch_short", rules, &[])?;
    send(&pipeline, now()? / 1000 - 400, 400, 60_000, None)?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    pipeline.settled("classify")?;
    let rates = pipeline.topic("rates");
    let cut = pipeline.kafka.ends(&rates, true)?[0] / 2;
    pipeline.kafka.delete_before(&rates, 0, cut)?;
    let mut watch = pipeline.run("watch", 0, &[])?;
    // Event times may be ten minutes ahead of the log, so even a minute is not covered at once.
    until("it to say what it cannot judge", || {
        let (status, body) = watch.get("/readyz")?;
        ensure!(status == 503 && body.contains("short, long"), "{status} {body}");
        Ok(())
    })?;
    let (_, body) = watch.get("/api/v1/status")?;
    let status: Value = serde_json::from_str(&body)?;
    ensure!(status["unjudged_rules"] == serde_json::json!(["short", "long"]) && status["lag_records"] == 0, "{status:#}");
    ensure!(by_replica(&pipeline)?.is_empty(), "an alert from half a window");
    ensure!(watch.get("/healthz")?.0 == 200, "not alive");
    ensure!(watch.stop()?.success() && classify.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

/// Ten minutes without Alertmanager: the watch goes on, says so, and tells it everything that fires when it is back.
#[test]
#[ignore = "takes eleven minutes: cargo test --release -p bounceflow-end-to-end --test watch ten_minutes -- --ignored"]
fn alertmanager_gone_for_ten_minutes_is_told_when_it_is_back() -> Result<()> {
    let alertmanager = Alertmanager::start_own()?;
    let urls = toml::Value::Array(vec![alertmanager.url().into()]);
    let (pipeline, folder) = pipeline("watch_gone", ONE, &[(&["watch", "alertmanagers"], urls)])?;
    let scenario = folder.path().join("scenario.toml");
    fs::write(
        &scenario,
        "[[incident]]\nfrom = 0\nuntil = 100000\nisp = 'gmail'\nidentity = 'news.shopwave.example'\n\
         outcome = 'gmail-domain-reputation'\nshare = 0.9\n",
    )?;
    let scenario = scenario.to_str().context("a path that is no text")?;
    let _traffic = pipeline.simulate(&["--rate", "500", "--format", "json", "--garbage", "0", "--scenario", scenario])?;
    let mut all = pipeline.run("all", 0, &[])?;
    let one = until("Alertmanager to hold the alert", || {
        let alerts = held(&alertmanager, "refused")?;
        ensure!(alerts.len() == 1, "{alerts:#?}");
        Ok(alerts)
    })?;
    alertmanager.kill()?;
    let gone = Instant::now();
    while gone.elapsed() < Duration::from_secs(600) {
        std::thread::sleep(Duration::from_secs(20));
        let status: Value = serde_json::from_str(&all.get("/api/v1/status")?.1)?;
        ensure!(status["ready"] == true && all.get("/healthz")?.0 == 200, "{status:#}");
        ensure!(status["alertmanagers"][0]["error"].is_string(), "it does not say so: {status:#}");
    }
    alertmanager.restart()?;
    let back = Instant::now();
    until("Alertmanager to be told again", || {
        let alerts = held(&alertmanager, "refused")?;
        ensure!(alerts.len() == 1 && alerts[0]["status"]["state"] == "active", "{alerts:#?}");
        ensure!(alerts[0]["startsAt"] == one[0]["startsAt"], "another episode: {alerts:#?}");
        Ok(())
    })?;
    println!("told again {:.1} s after it was back", back.elapsed().as_secs_f64());
    let states: Vec<String> =
        read(&by_replica(&pipeline)?["watch_gone/0/watch"])?.into_iter().map(|(_, state, ..)| state).collect();
    ensure!(states == ["pending", "firing"], "{states:?}");
    ensure!(all.stop()?.success(), "it did not end well: {}", all.log());
    pipeline.passed();
    Ok(())
}
