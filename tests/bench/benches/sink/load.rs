//! The whole path under a steady load: how often the sink inserts, how many parts that leaves, how it comes out of an outage.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bounceflow_end_to_end::{Pipeline, Process};

use crate::memory;

const LINGER_MS: u64 = 1000;
const INPUTS: i32 = 4;
/// Between two looks.
const SAMPLE: Duration = Duration::from_secs(2);

/// Every role that takes part, each in a process of its own, and the traffic.
struct Load {
    pipeline: Pipeline,
    classify: Process,
    sink: Process,
    simulate: Process,
    started: Instant,
}

impl Load {
    fn start(name: &str, rate: u64, seconds: u64) -> Result<Self> {
        let pipeline = Pipeline::builder(name)?
            .inputs(INPUTS)
            .set(&["inputs", "0", "format"], "avro")?
            .set(&["sink", "linger_ms"], i64::try_from(LINGER_MS)?)?
            .build()?;
        let mut classify = pipeline.run("classify", 0, &[])?;
        let mut sink = pipeline.run("sink", 0, &[])?;
        classify.wait_for("Partitions given")?;
        sink.wait_for("Partitions given")?;
        let (rate, duration) = (rate.to_string(), format!("{seconds}s"));
        let simulate = pipeline.simulate(&[
            "--rate",
            &rate,
            "--duration",
            &duration,
            "--format",
            "avro",
            "--failures",
            "0.05",
            "--garbage",
            "0",
        ])?;
        Ok(Self { pipeline, classify, sink, simulate, started: Instant::now() })
    }

    /// Failures and batches that classify wrote and the sink has not moved past.
    fn lag(&self) -> Result<u64> {
        self.pipeline.group("sink")?.behind(&self.pipeline.kafka)
    }

    /// Events a second that really were sent by now: a machine that is busy sends fewer than it is asked to.
    fn rate(&self) -> Result<f64> {
        let sent: i64 = self.pipeline.kafka.ends(&self.pipeline.topic("events"), false)?.iter().sum();
        Ok(sent as f64 / self.started.elapsed().as_secs_f64())
    }

    /// Waits until everything sent is settled and covered once.
    fn finish(&mut self) -> Result<()> {
        ensure!(self.simulate.end()?.success(), "simulate failed: {}", self.simulate.log());
        self.pipeline.settled("classify")?;
        self.pipeline.settled("sink")?;
        self.pipeline.succeed(&["audit"])?;
        for role in [&mut self.classify, &mut self.sink] {
            ensure!(role.stop()?.success(), "{} failed: {}", role.name(), role.log());
        }
        self.pipeline.passed();
        Ok(())
    }
}

/// Inserts per table, partition and flush interval; at most one is aimed at.
pub(crate) fn calm(rate: u64, seconds: u64) -> Result<Vec<(&'static str, f64)>> {
    println!("\nsink, steady state: {rate} events/s for {seconds} s, flush interval {LINGER_MS} ms");
    let mut load = Load::start("bench_calm", rate, seconds)?;
    while load.simulate.runs()? {
        std::thread::sleep(SAMPLE);
    }
    let (rate, lag) = (load.rate()?, load.lag()?);
    load.finish()?;
    let mut times: BTreeMap<(String, i32), Vec<i64>> = BTreeMap::new();
    for insert in load.pipeline.inserts()? {
        times.entry((insert.table, insert.partition)).or_default().push(insert.at);
    }
    let mut most = 0.0f64;
    for ((table, partition), mut at) in times {
        at.sort_unstable();
        let span = at.last().zip(at.first()).map_or(0, |(last, first)| last - first);
        let intervals = span as f64 / LINGER_MS as f64 + 1.0;
        let per_interval = at.len() as f64 / intervals;
        println!("  {table}/{partition}: {} inserts in {intervals:.1} intervals: {per_interval:.2} each", at.len());
        most = most.max(per_interval);
    }
    println!("  {rate:.0} events/s were sent; {lag} records were waiting as the traffic ended");
    Ok(vec![("inserts_per_flush_interval", most), ("calm_events_per_s", rate)])
}

/// Active parts over a long run.
pub(crate) fn parts(rate: u64, seconds: u64) -> Result<Vec<(&'static str, f64)>> {
    println!("\nsink, parts: {rate} events/s for {seconds} s; the most active parts of each table in each 5 minutes");
    let mut load = Load::start("bench_parts", rate, seconds)?;
    let (mut most, mut span): (u64, BTreeMap<String, u64>) = Default::default();
    let mut minutes = 0;
    while load.simulate.runs()? {
        std::thread::sleep(SAMPLE);
        let parts = load
            .pipeline
            .value("SELECT table, count() FROM system.parts WHERE active AND database = '{db}' GROUP BY table ORDER BY table")?;
        for line in parts.lines() {
            let Some((table, count)) = line.split_once('\t') else { continue };
            let count: u64 = count.parse()?;
            let seen = span.entry(table.to_owned()).or_default();
            *seen = count.max(*seen);
            most = count.max(most);
        }
        if load.started.elapsed().as_secs() / 300 > minutes || !load.simulate.runs()? {
            println!("  {:>3} s: {span:?}, sink {:.0} MB", load.started.elapsed().as_secs(), load.sink.memory_mib("VmRSS")?);
            minutes = load.started.elapsed().as_secs() / 300;
            span.clear();
        }
    }
    let rate = load.rate()?;
    println!("  {rate:.0} events/s were sent");
    load.finish()?;
    Ok(vec![("max_parts", most as f64), ("parts_run_s", seconds as f64), ("parts_events_per_s", rate)])
}

/// ClickHouse is killed for a while under load: the time from its return until the sink is as close behind as before.
pub(crate) fn outage(rate: u64, seconds: u64) -> Result<Vec<(&'static str, f64)>> {
    const BEFORE: Duration = Duration::from_secs(20);
    println!("\nsink, outage: ClickHouse is gone for {seconds} s at {rate} events/s");
    let mut load = Load::start("bench_outage", rate, BEFORE.as_secs() + seconds + 60)?;
    let mut usual = 0;
    while load.started.elapsed() < BEFORE {
        std::thread::sleep(SAMPLE / 4);
        usual = usual.max(load.lag()?);
    }
    let before = load.sink.memory_mib("VmHWM")?;
    load.pipeline.servers.clickhouse.kill()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let behind = load.lag()?;
    load.pipeline.servers.clickhouse.restart()?;
    let back = Instant::now();
    while load.lag()? > usual {
        ensure!(back.elapsed() < Duration::from_secs(300), "the sink does not catch up: {} records behind", load.lag()?);
        std::thread::sleep(SAMPLE / 8);
    }
    let (took, rate) = (back.elapsed().as_secs_f64(), load.rate()?);
    ensure!(load.simulate.runs()?, "the traffic ended before the sink had caught up");
    let peak = load.sink.memory_mib("VmHWM")?;
    let bound = memory::bound_mb(INPUTS as usize + 2);
    println!(
        "  {rate:.0} events/s; {behind} records behind, usually up to {usual}; caught up {took:.1} s after ClickHouse was back; \
         sink {before:.0} MB before, {peak:.0} MB at most, bound {bound:.0} MB"
    );
    load.finish()?;
    Ok(vec![
        ("outage_catch_up_s", took),
        ("outage_peak_mb", peak),
        ("bound_mb", bound),
        ("outage_events_per_s", rate),
        ("outage_records_behind", behind as f64),
    ])
}
