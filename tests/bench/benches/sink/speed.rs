//! The sink on filled topics beside a bare client that posts the same blocks, in turn.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bounceflow_bench::median;
use bounceflow_end_to_end::{Pipeline, cpu_s};
use bounceflow_warehouse::Table;

use crate::blocks::{self, Stored};
use crate::memory;

/// Time without a record after which a topic counts as stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Partitions of a sink here: four of failures, one of rates, one of alerts.
const ASSIGNED: usize = 6;
/// Connections of the bare client: as many as a sink may use, one per partition of the failures. The fastest is the ceiling.
const CONNECTIONS: [usize; 3] = [1, 2, 4];

/// Topics that hold what classify made, ready for any sink.
pub(crate) struct Filled {
    name: String,
    topics: [String; 3],
    pub(crate) properties: BTreeMap<String, String>,
    failures: u64,
    batches: u64,
    rate_rows: u64,
}

impl Filled {
    /// The topic behind a table.
    pub(crate) fn topic(&self, table: Table) -> &str {
        &self.topics[if table == Table::Batches { 1 } else { 0 }]
    }

    fn records(&self, table: Table) -> u64 {
        if table == Table::Batches { self.batches } else { self.failures }
    }

    /// What a speed is counted in: failures, or rows of rates.
    fn rows(&self, table: Table) -> u64 {
        if table == Table::Batches { self.rate_rows } else { self.failures }
    }

    /// A sink's pipeline of its own (group, tokens, database) with this topic as its only filled one.
    fn pipeline(&self, table: Table, round: &str) -> Result<Pipeline> {
        let which = if table == Table::Batches { "rates" } else { "failures" };
        let builder = Pipeline::builder(&format!("{}_{which}_{round}", self.name))?
            .set(&["topics", which], self.topic(table))?
            .set(&["topics", "schemas"], self.topics[2].as_str())?
            .set(&["sink", "linger_ms"], 1000)?;
        builder.build()
    }
}

/// Fills topics, and measures failures and rates.
pub(crate) fn run(events: u64, rounds: u64) -> Result<Vec<(&'static str, f64)>> {
    println!("\nsink: {events} events, half of them failures");
    let filled = fill(events)?;
    println!("  {} failures; {} batches with {} rows of rates", filled.failures, filled.batches, filled.rate_rows);
    let failures = compare(&filled, Table::Failures, rounds)?;
    let rates = compare(&filled, Table::Batches, rounds)?;
    let held = held(&filled)?;
    Ok(vec![
        ("backlog_outage_peak_mb", held),
        ("bound_mb", memory::bound_mb(ASSIGNED)),
        ("sink_rows_per_s", failures.sink),
        ("server_rows_per_s", failures.server),
        ("ratio_failures", failures.ratio),
        ("sink_us_per_row", failures.sink_us),
        ("sink_peak_mb", failures.peak_mb.max(rates.peak_mb)),
        ("sink_rate_rows_per_s", rates.sink),
        ("server_rate_rows_per_s", rates.server),
        ("ratio_rates", rates.ratio),
        ("sink_us_per_rate_row", rates.sink_us),
    ])
}

/// Failures and rates of simulated events in Kafka, written by classify. Event time runs fast, so that rates have rows: enough of them
/// that the last batch, which waits for its linger, weighs little.
fn fill(events: u64) -> Result<Filled> {
    let started = Instant::now();
    let pipeline = Pipeline::builder("bench_sink")?.inputs(4).set(&["inputs", "0", "format"], "avro")?.build()?;
    let count = events.to_string();
    let mut simulate = pipeline.simulate(&[
        "--count",
        &count,
        "--format",
        "avro",
        "--failures",
        "0.5",
        "--garbage",
        "0",
        "--seed",
        "7",
        "--time-per-event",
        "8ms",
        "--start",
        "2026-09-01T00:00:00Z",
    ])?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    while simulate.runs()? {
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(simulate.end()?.success(), "simulate failed: {}", simulate.log());
    pipeline.settled("classify")?;
    ensure!(classify.stop()?.success(), "classify failed: {}", classify.log());
    let topics = ["failures", "rates", "schemas"].map(|which| pipeline.topic(which));
    let properties: BTreeMap<String, String> =
        [("bootstrap.servers", pipeline.servers.kafka.bootstrap()), ("broker.address.family", "v4")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
    let known = bounceflow::schemas::known()?;
    let (mut failures, mut batches, mut rate_rows) = (0, 0, 0);
    let count = |topic: &str, each: &mut dyn FnMut(&[u8])| {
        bounceflow::kafka::Reader::open(&properties, topic)?.to_end(PATIENCE, |record| {
            each(rdkafka::Message::payload(record).unwrap_or_default());
        })
    };
    count(&topics[0], &mut |_| failures += 1)?;
    count(&topics[1], &mut |payload| {
        batches += 1;
        rate_rows += known.decode::<bounceflow_event::RateBatch>(payload).map_or(0, |batch| batch.rows.len() as u64);
    })?;
    println!("  filled in {:.0} s", started.elapsed().as_secs_f64());
    pipeline.passed();
    Ok(Filled { name: "bench_sink".to_owned(), topics, properties, failures, batches, rate_rows })
}

struct Speed {
    sink: f64,
    server: f64,
    ratio: f64,
    /// Processor time of the sink per row, microseconds.
    sink_us: f64,
    peak_mb: f64,
}

/// What one run of the sink took beside time.
struct Cost {
    sink_s: f64,
    server_s: f64,
    peak_mb: f64,
}

/// The bare client and the sink in turn; medians, and the median of the ratios of neighbours.
fn compare(filled: &Filled, table: Table, rounds: u64) -> Result<Speed> {
    let folder = tempfile::tempdir()?;
    let rows = filled.rows(table) as f64;
    // Once unmeasured: broker and server get warm, and it is this sink's inserts that are posted bare.
    let blocks = {
        let pipeline = filled.pipeline(table, "0")?;
        sink(&pipeline, filled, table, &mut Vec::new())?;
        let blocks = blocks::cut(filled, &pipeline, table, folder.path())?;
        finish(&pipeline)?;
        blocks
    };
    println!("\n  {table}: {} blocks, {rounds} rounds; rows per second", blocks.len());
    let (mut sinks, mut servers, mut ratios, mut costs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let mut ceiling = 0.0f64;
        let mut line = String::new();
        for connections in CONNECTIONS {
            let pipeline = filled.pipeline(table, &format!("{round}_{connections}"))?;
            quiet(&pipeline)?;
            let speed = rows / bare(&pipeline, filled, table, &blocks, connections)?.as_secs_f64();
            line += &format!("   {connections} connections {speed:>7.0}");
            ceiling = ceiling.max(speed);
            finish(&pipeline)?;
        }
        let pipeline = filled.pipeline(table, &round.to_string())?;
        quiet(&pipeline)?;
        let speed = rows / sink(&pipeline, filled, table, &mut costs)?.as_secs_f64();
        finish(&pipeline)?;
        println!("  round {round}: bare{line}   sink {speed:>7.0}   ratio {:.3}", speed / ceiling);
        sinks.push(speed);
        servers.push(ceiling);
        ratios.push(speed / ceiling);
    }
    let column = |of: fn(&Cost) -> f64| median(&costs.iter().map(of).collect::<Vec<_>>());
    let per_row = |seconds: f64| 1e6 * seconds / rows;
    println!(
        "  processor time per row: sink {:.2} µs, ClickHouse {:.2} µs; sink's peak memory {:.0} MB",
        per_row(column(|c| c.sink_s)),
        per_row(column(|c| c.server_s)),
        column(|c| c.peak_mb)
    );
    let speed = Speed {
        sink: median(&sinks),
        server: median(&servers),
        ratio: median(&ratios),
        sink_us: per_row(column(|c| c.sink_s)),
        peak_mb: column(|c| c.peak_mb),
    };
    println!("  median: sink {:.0}/s, server {:.0}/s, ratio {:.3}", speed.sink, speed.server, speed.ratio);
    Ok(speed)
}

/// ClickHouse dies while the sink works through a backlog of failures: its peak memory in MB once nothing moves any more.
fn held(filled: &Filled) -> Result<f64> {
    let pipeline = filled.pipeline(Table::Failures, "held")?;
    let mut role = pipeline.run("sink", 0, &[])?;
    let rows = [("table", Table::Failures.name())];
    while role.metric("bounceflow_sink_rows_total", &rows)? == 0.0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    pipeline.servers.clickhouse.kill()?;
    std::thread::sleep(PATIENCE);
    let peak = role.memory_mib("VmHWM")?;
    println!(
        "\n  backlog without ClickHouse: sink at most {peak:.0} MB, then {:.0} MB, bound {:.0} MB",
        role.memory_mib("VmRSS")?,
        memory::bound_mb(ASSIGNED)
    );
    pipeline.servers.clickhouse.restart()?;
    while role.metric("bounceflow_sink_rows_total", &rows)? < filled.failures as f64 {
        std::thread::sleep(Duration::from_millis(100));
    }
    complete(&pipeline, filled, Table::Failures)?;
    ensure!(role.stop()?.success(), "the sink failed: {}", role.log());
    finish(&pipeline)?;
    Ok(peak)
}

fn bare(pipeline: &Pipeline, filled: &Filled, table: Table, blocks: &[Stored], connections: usize) -> Result<Duration> {
    let took = blocks::post(pipeline, table, blocks, connections)?;
    complete(pipeline, filled, table)?;
    Ok(took)
}

/// The time a sink takes for the topic, from its partitions to the last offset moved.
fn sink(pipeline: &Pipeline, filled: &Filled, table: Table, costs: &mut Vec<Cost>) -> Result<Duration> {
    let mut role = pipeline.run("sink", 0, &[])?;
    role.wait_for("Partitions given")?;
    let server = pipeline.servers.clickhouse.pid().context("ClickHouse does not run")?;
    let (sink_before, server_before) = (cpu_s(role.pid())?, cpu_s(server)?);
    let started = Instant::now();
    let records = filled.records(table) as f64;
    while role.metric("bounceflow_sink_rows_total", &[("table", table.name())])? < records {
        ensure!(started.elapsed() < 10 * PATIENCE, "the sink does not come to its end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = started.elapsed();
    costs.push(Cost {
        sink_s: cpu_s(role.pid())? - sink_before,
        server_s: cpu_s(server)? - server_before,
        peak_mb: role.memory_mib("VmHWM")?,
    });
    complete(pipeline, filled, table)?;
    ensure!(role.stop()?.success(), "the sink failed: {}", role.log());
    Ok(took)
}

/// Every row is there, and once.
fn complete(pipeline: &Pipeline, filled: &Filled, table: Table) -> Result<()> {
    let stored = pipeline.count(&format!("SELECT count() FROM {{db}}.{table}"))?;
    ensure!(stored == filled.records(table), "{stored} rows of {}", filled.records(table));
    Ok(())
}

/// Waits until the server has nothing to do: what one round leaves to merge is not the next one's burden.
fn quiet(pipeline: &Pipeline) -> Result<()> {
    pipeline.wait_for_value("SELECT count() FROM system.merges", "0").context("merges do not end")
}

fn finish(pipeline: &Pipeline) -> Result<()> {
    pipeline.value("DROP DATABASE {db} SYNC")?;
    pipeline.passed();
    Ok(())
}
