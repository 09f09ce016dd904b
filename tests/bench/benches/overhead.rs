//! What metrics and traces cost the hot loop of `classify`: the same records, decoded, classified, counted and committed to nowhere, with
//! recorder and tracing in force and without, in turn. No server. Processor time of the thread, not of the clock on the wall: neighbours
//! disturb it little. Settings: BENCH_ROUNDS.
#![allow(clippy::print_stdout, reason = "a benchmark reports to its terminal")]

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result};
use bounceflow::config::{Config, RawInput, decoder};
use bounceflow::counts::{Counts, Header, Limits};
use bounceflow::process::{Outcome, Position, Scratch, Tables, process};
use bounceflow::simulate::{Generator, Options, Wire};
use bounceflow::telemetry::SPANS;
use bounceflow::{metrics as own, telemetry};
use bounceflow_bench::{median, percentile, write_figures};
use bounceflow_event::avro::Encoder;
use bounceflow_event::{Decoder, Format};
use bounceflow_warehouse::Table;
use metrics_exporter_prometheus::PrometheusHandle;
use nix::time::{ClockId, clock_gettime};
use tracing_subscriber::layer::SubscriberExt;

const RECORDS: usize = 200_000;
/// Records of one transaction: 250 ms at 80,000 records a second. The fewer there are, the more a transaction's own cost weighs.
const TRANSACTION: usize = 20_000;
const TOPIC: &str = "delivery.events";

fn main() -> Result<()> {
    let rounds: usize = std::env::var("BENCH_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(21);
    // Nobody takes the spans: that costs the sender's thread, not the loop.
    let config = Config::parse("[kafka]\n\"bootstrap.servers\" = \"none\"\n[telemetry]\notlp_endpoint = \"http://127.0.0.1:9\"")?;
    let tables = Tables::new(&config)?;
    let provider = telemetry::provider(&config, config.telemetry.as_ref().context("no telemetry")?)?;
    let subscriber = tracing::Dispatch::new(tracing_subscriber::registry().with(telemetry::layer(&provider)));
    let recorder = own::builder()?.build_recorder();
    println!("\nmetrics and traces: {RECORDS} records, 5 % failures, transactions of {TRANSACTION}, {rounds} rounds");
    let mut figures = Vec::new();
    for (wire, format) in [(Wire::Json, Format::Json), (Wire::Avro, Format::Avro)] {
        let payloads = payloads(wire)?;
        let mut off = Loop::new(&tables, format)?;
        let mut on = metrics::with_local_recorder(&recorder, || Loop::new(&tables, format))?;
        let mut with = |transaction: &[Vec<u8>]| {
            metrics::with_local_recorder(&recorder, || {
                tracing::dispatcher::with_default(&subscriber, || on.transaction(transaction))
            })
        };
        let (mut ratios, mut times) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            for (i, transaction) in payloads.chunks(TRANSACTION).enumerate() {
                // Whoever comes second finds the records in the processor's cache.
                let (without, with) = if (round + i).is_multiple_of(2) {
                    let without = off.transaction(transaction)?;
                    (without, with(transaction)?)
                } else {
                    let with = with(transaction)?;
                    (off.transaction(transaction)?, with)
                };
                // The first round fills caches and lists.
                if round > 0 {
                    ratios.push(with / without - 1.0);
                    times.push(without / transaction.len() as f64);
                }
            }
            // As the process does every two seconds.
            recorder.handle().run_upkeep();
        }
        let (ns, overhead) = (median(&times), median(&ratios));
        println!(
            "  {}: {ns:.0} ns a record without, {:+.2} % with (median of {} pairs; middle half {:+.2} to {:+.2} %)",
            format.as_str(),
            overhead * 100.0,
            ratios.len(),
            percentile(&ratios, 0.25) * 100.0,
            percentile(&ratios, 0.75) * 100.0
        );
        figures.push(overhead);
    }
    let ns_per_row = metrics::with_local_recorder(&recorder, || observed(&recorder.handle()))?;
    println!("  sink: {ns_per_row:.0} ns a row to observe how long it took from its event, sorting into buckets included");
    let worst = figures.iter().copied().fold(f64::MIN, f64::max);
    let figures = [
        ("hot_loop_overhead", worst),
        ("json_overhead", figures[0]),
        ("avro_overhead", figures[1]),
        ("end_to_end_ns_per_row", ns_per_row),
    ];
    write_figures("overhead", &figures)?;
    provider.shutdown_with_timeout(Duration::from_secs(1)).ok();
    Ok(())
}

fn payloads(wire: Wire) -> Result<Vec<Vec<u8>>> {
    let mut generator = Generator::new(Options { wire, garbage: 0.0, failures: 0.05, ..Options::default() })?;
    let mut out = Vec::new();
    (0..RECORDS)
        .map(|_| {
            generator.next(&mut out)?;
            Ok(out.clone())
        })
        .collect()
}

/// What a thread of `classify` does, but for Kafka.
struct Loop<'t> {
    tables: &'t Tables,
    decoder: Decoder,
    scratch: Scratch,
    counts: Counts,
    failures_to_avro: Encoder<'t>,
    batches_to_avro: Encoder<'t>,
    bytes: Vec<u8>,
    metrics: own::Classify,
}

impl<'t> Loop<'t> {
    fn new(tables: &'t Tables, format: Format) -> Result<Self> {
        Ok(Self {
            tables,
            decoder: decoder(&RawInput { format, ..RawInput::default() })?,
            scratch: Scratch::new(tables),
            counts: Counts::new(Limits { campaigns: 1000, patterns: 64 }),
            failures_to_avro: tables.failure_schema.encoder(),
            batches_to_avro: tables.batch_schema.encoder(),
            bytes: Vec::new(),
            metrics: own::Classify::new(TOPIC),
        })
    }

    /// Processor time of one transaction. Nanoseconds.
    fn transaction(&mut self, payloads: &[Vec<u8>]) -> Result<f64> {
        let Self { tables, decoder, scratch, counts, failures_to_avro, batches_to_avro, bytes, metrics } = self;
        let started = thread_time()?;
        let span = tracing::trace_span!(target: SPANS, "classify transaction", topic = TOPIC, records = tracing::field::Empty);
        let mut failures = 0;
        for (offset, payload) in payloads.iter().enumerate() {
            let position = Position { topic: TOPIC, partition: 0, offset: offset as i64, timestamp: Some(1_790_000_100_000) };
            decoder.decode(Some(payload), &mut |item| match process(tables, scratch, position, 0, &item) {
                Outcome::Count(sample) => counts.add(&sample, None),
                Outcome::Fail(sample, failure) => {
                    counts.add(&sample, Some(&failure));
                    failures += 1;
                    bytes.clear();
                    drop(black_box(failures_to_avro.encode(&failure, bytes)));
                }
                Outcome::Ignore(_) | Outcome::Reject(_) => {}
            });
        }
        let commit = tracing::trace_span!(target: SPANS, parent: &span, "commit");
        let additions = metrics.additions(counts);
        let header = Header { producer: "bench", rules_version: "1", pattern_version: 1 };
        counts.drain(header, &tables.isps, Vec::new(), |batch| {
            bytes.clear();
            drop(black_box(batches_to_avro.encode(batch, bytes)));
        });
        drop(commit);
        let records = payloads.len() as u64;
        let done = own::Transaction { records, items: records, failures, additions, commit: Duration::from_millis(1) };
        metrics.committed(done, scratch.take_lookups());
        span.record("records", records);
        drop(span);
        Ok((thread_time()? - started) as f64)
    }
}

/// Nanoseconds for each row of a batch that is settled.
fn observed(handle: &PrometheusHandle) -> Result<f64> {
    let sink = own::Sink::new(Table::Failures);
    let times: Vec<i64> = (0..100_000).map(|i| i * 7919 % 60_000).collect();
    let mut all = Vec::new();
    for _ in 0..21 {
        let started = thread_time()?;
        sink.arrived(&times, 60_000);
        handle.run_upkeep();
        all.push((thread_time()? - started) as f64 / times.len() as f64);
    }
    Ok(median(&all))
}

fn thread_time() -> Result<i64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}
