//! Speed of `classify` beside the ceiling of reading and decoding alone, its memory over a long topic, and the latency of the whole
//! path at half load. Real servers; everything in one run. Settings: BENCH_RECORDS, BENCH_ROUNDS, BENCH_LONG, BENCH_LATENCY_S.
#![allow(clippy::print_stdout, reason = "a benchmark reports to its terminal")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bounceflow::config::{RawInput, decoder};
use bounceflow::kafka::Reader;
use bounceflow_bench::{median, percentile, write_figures};
use bounceflow_end_to_end::{Pipeline, Process};
use bounceflow_event::{Format, Item};
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord};

const PARTITIONS: i32 = 4;
/// Time without a record after which a topic counts as stuck.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let records = setting("BENCH_RECORDS", 3_000_000);
    let rounds = setting("BENCH_ROUNDS", 3);
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|o| o == name);
    let mut figures = Vec::new();
    let mut peak = 0.0f64;
    if wanted("json") {
        let json = speed("json", Format::Json, records, rounds)?;
        figures.extend([("json_ratio", json.ratio), ("json_per_s", json.per_s)]);
        peak = peak.max(json.peak_mb);
    }
    if wanted("avro") {
        let avro = speed("avro", Format::Avro, records, rounds)?;
        figures.extend([("avro_ratio", avro.ratio), ("avro_per_s", avro.per_s)]);
        peak = peak.max(avro.peak_mb);
    }
    if wanted("memory") {
        peak = peak.max(memory(setting("BENCH_LONG", 10_000_000))?);
    }
    if !figures.is_empty() {
        figures.push(("peak_rss_mb", peak));
        write_figures("classify", &figures)?;
    }
    if wanted("latency") {
        latency(setting("BENCH_LATENCY_S", 30))?;
    }
    Ok(())
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

struct Speed {
    ratio: f64,
    per_s: f64,
    peak_mb: f64,
}

/// Reads and decodes a topic, and classifies it, in turn; the median of the ratios of neighbours.
fn speed(name: &str, format: Format, records: u64, rounds: u64) -> Result<Speed> {
    println!("\nclassify, {name}: {records} records, 5 % failures, one thread, {rounds} rounds");
    let (mut ratios, mut speeds, mut peak_mb) = (Vec::new(), Vec::new(), 0.0f64);
    let pipeline = fill(&format!("bench_{name}"), name, records)?;
    // Once unmeasured: the broker compiles its own hot paths while it serves the first reads and transactions.
    ceiling(&pipeline, format, records)?;
    classify(&pipeline, records)?;
    for round in 1..=rounds {
        let ceiling = records as f64 / ceiling(&pipeline, format, records)?.as_secs_f64();
        let (took, mb) = classify(&pipeline, records)?;
        let speed = records as f64 / took.as_secs_f64();
        println!(
            "  round {round}: read and decode {ceiling:>9.0}/s   classify {speed:>9.0}/s   ratio {:.3}   peak memory {mb:.0} MB",
            speed / ceiling
        );
        ratios.push(speed / ceiling);
        speeds.push(speed);
        peak_mb = peak_mb.max(mb);
    }
    let (ratio, per_s) = (median(&ratios), median(&speeds));
    println!("  median: classify {per_s:.0}/s, ratio {ratio:.3}");
    pipeline.passed();
    Ok(Speed { ratio, per_s, peak_mb })
}

/// A pipeline whose input topic holds `records` records.
fn fill(name: &str, format: &str, records: u64) -> Result<Pipeline> {
    let pipeline = Pipeline::builder(name)?
        .inputs(PARTITIONS)
        .set(&["inputs", "0", "format"], format)?
        .set(&["kafka", "session.timeout.ms"], "6000")?
        .build()?;
    let started = Instant::now();
    let count = records.to_string();
    let mut simulate =
        pipeline.simulate(&["--count", &count, "--format", format, "--failures", "0.05", "--garbage", "0", "--seed", "7"])?;
    while simulate.runs()? {
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(simulate.end()?.success(), "simulate failed: {}", simulate.log());
    println!("  filled in {:.0} s", started.elapsed().as_secs_f64());
    Ok(pipeline)
}

/// The time to read a topic and decode every record, and do nothing with it.
fn ceiling(pipeline: &Pipeline, format: Format, records: u64) -> Result<Duration> {
    let decoder = decoder(&RawInput { format, ..RawInput::default() })?;
    let properties: BTreeMap<String, String> =
        [("bootstrap.servers", pipeline.servers.kafka.bootstrap()), ("broker.address.family", "v4")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
    let started = Instant::now();
    let (mut read, mut time) = (0u64, 0i64);
    Reader::open(&properties, &pipeline.topic("events"))?.to_end(PATIENCE, |record| {
        decoder.decode(record.payload(), &mut |item| {
            if let Item::Event(event) = std::hint::black_box(item) {
                time = time.max(event.timestamp.0);
            }
        });
        read += 1;
    })?;
    let took = started.elapsed();
    std::hint::black_box(time);
    ensure!(read == records, "{read} records were read instead of {records}");
    Ok(took)
}

/// The time the classify role takes for the topic, from its partitions to its last commit, and its peak memory in MB.
fn classify(pipeline: &Pipeline, records: u64) -> Result<(Duration, f64)> {
    let mut role = pipeline.run("classify", 0, &["--from", "beginning"])?;
    role.wait_for("Partitions given")?;
    let started = Instant::now();
    while metric(&mut role, "bounceflow_classify_records_total")? < records as f64 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = started.elapsed();
    let mb = role.memory_mib("VmHWM")?;
    let commits = metric(&mut role, "bounceflow_classify_commit_seconds_count")?;
    let committing = metric(&mut role, "bounceflow_classify_commit_seconds_sum")?;
    println!("           {commits:.0} transactions, {:.0} ms to commit each", 1000.0 * committing / commits);
    ensure!(role.stop()?.success(), "classify failed: {}", role.log());
    // The next round begins at the beginning again.
    pipeline.kafka.delete_group(&pipeline.group_name("classify"))?;
    Ok((took, mb))
}

/// Memory while a long topic is classified. Returns the peak in MB.
fn memory(records: u64) -> Result<f64> {
    println!("\nclassify, memory over {records} records of Avro");
    let pipeline = fill("bench_memory", "avro", records)?;
    let mut role = pipeline.run("classify", 0, &[])?;
    role.wait_for("Partitions given")?;
    for tenth in 1..=10 {
        while metric(&mut role, "bounceflow_classify_records_total")? < (records * tenth / 10) as f64 {
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("  {:>3} %: {:.0} MB", tenth * 10, role.memory_mib("VmRSS")?);
    }
    let peak = role.memory_mib("VmHWM")?;
    println!("  peak: {peak:.0} MB");
    role.stop()?;
    pipeline.passed();
    Ok(peak)
}

/// Time from producing a bounce to seeing its row in ClickHouse and its count in the rates, while the whole path on this machine
/// carries half of what it can.
fn latency(seconds: u64) -> Result<()> {
    println!("\nlatency of the whole path, default settings");
    let backlog = setting("BENCH_BACKLOG", 1_000_000);
    let pipeline = Pipeline::builder("bench_latency")?
        .inputs(PARTITIONS)
        .set(&["inputs", "0", "format"], "json")?
        .set(&["sink", "linger_ms"], 1000)?
        .build()?;
    let count = backlog.to_string();
    let mut simulate = pipeline.simulate(&["--count", &count, "--format", "json", "--failures", "0.05", "--garbage", "0"])?;
    while simulate.runs()? {
        std::thread::sleep(Duration::from_millis(200));
    }
    let started = Instant::now();
    let mut all = pipeline.run("all", 0, &[])?;
    all.wait_for("Partitions given")?;
    let query = |sql: &str| pipeline.servers.clickhouse.query(sql);
    let database = pipeline.database();
    loop {
        let counted = query(&format!("SELECT sum(arraySum(sources.records)) FROM {database}.batches"))?;
        if counted.trim().parse::<u64>().unwrap_or(0) >= backlog {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let capacity = backlog as f64 / started.elapsed().as_secs_f64();
    let rate = capacity / 2.0;
    println!("  a backlog of {backlog} went through at {capacity:.0}/s, start included; half load: {rate:.0}/s for {seconds} s");
    let (rate, duration) = (format!("{rate:.0}"), format!("{}s", seconds + 5));
    let mut load = pipeline.simulate(&[
        "--rate",
        &rate,
        "--duration",
        &duration,
        "--format",
        "json",
        "--failures",
        "0.05",
        "--garbage",
        "0",
    ])?;
    std::thread::sleep(Duration::from_secs(3));

    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", pipeline.servers.kafka.bootstrap())
        .set("broker.address.family", "v4")
        .set("linger.ms", "0")
        .create()?;
    let topic = pipeline.topic("events");
    let (mut sent, mut seen): (BTreeMap<String, Instant>, BTreeMap<String, f64>) = Default::default();
    let begun = Instant::now();
    let mut next = 0u32;
    while begun.elapsed() < Duration::from_secs(seconds) || seen.len() < sent.len() {
        ensure!(begun.elapsed() < Duration::from_secs(seconds + 30), "probes do not arrive: {} of {}", seen.len(), sent.len());
        if begun.elapsed() < Duration::from_secs(seconds) {
            let id = format!("probe{next}");
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
            let text = format!(
                "{{\"event\":\"bounce\",\"timestamp\":{now},\"recipient\":\"{id}@example.org\",\"from_domain\":\"{id}.example\",\
                 \"message_id\":\"{id}\",\"diagnostic\":\"550 5.1.1 user unknown\"}}"
            );
            sent.insert(id, Instant::now());
            let record = BaseRecord::<str, str>::to(&topic).partition((next % PARTITIONS as u32) as i32).payload(&text);
            producer.send(record).map_err(|(e, _)| e)?;
            producer.poll(Duration::ZERO);
            next += 1;
        }
        // Visible: the failure as a row, and the bounce in the rates.
        let rows = query(&format!(
            "SELECT identity FROM {database}.failures WHERE identity LIKE 'probe%' AND identity IN \
             (SELECT identity FROM {database}.delivery_rates WHERE identity LIKE 'probe%')"
        ))?;
        for identity in rows.lines() {
            let id = identity.trim_end_matches(".example");
            if let Some(at) = sent.get(id) {
                seen.entry(id.to_owned()).or_insert_with(|| at.elapsed().as_secs_f64() * 1000.0);
            }
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    load.end()?;
    let values: Vec<f64> = seen.into_values().collect();
    let (p50, p99) = (percentile(&values, 0.5), percentile(&values, 0.99));
    println!("  {} probes: p50 {p50:.0} ms, p99 {p99:.0} ms", values.len());
    write_figures("latency", &[("p50_ms", p50), ("p99_ms", p99)])?;
    all.stop()?;
    pipeline.passed();
    Ok(())
}

/// The sum of a metric over its labels.
fn metric(role: &mut Process, name: &str) -> Result<f64> {
    let (_, text) = role.get("/metrics")?;
    let values = text.lines().filter(|l| l.starts_with(name) && l[name.len()..].starts_with(['{', ' ']));
    Ok(values.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
