//! What `classify` adds to a record without Kafka: nanoseconds per record for decoding alone, with enriching, classifying and
//! counting, and with encoding failures. For profilers (`perf record`, `valgrind --tool=callgrind`) rather than for quoting.
#![allow(clippy::print_stdout, reason = "a benchmark reports to its terminal")]

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use bounceflow::config::{Config, RawInput, decoder};
use bounceflow::counts::{Counts, Header, Limits};
use bounceflow::process::{Outcome, Position, Scratch, Tables, process};
use bounceflow::simulate::{Generator, Options, Wire};
use bounceflow_event::Format;

fn main() -> Result<()> {
    let records: usize = std::env::var("BENCH_RECORDS").ok().and_then(|v| v.parse().ok()).unwrap_or(200_000);
    for (wire, format) in [(Wire::Json, Format::Json), (Wire::Avro, Format::Avro)] {
        let payloads = payloads(wire, records)?;
        let bytes: usize = payloads.iter().map(Vec::len).sum();
        println!("{}: {records} records of {} bytes", format.as_str(), bytes / records);
        let decode = best(|| decode_only(&payloads, format))?;
        let count = best(|| classify(&payloads, format, false))?;
        let encode = best(|| classify(&payloads, format, true))?;
        let per = |ns: u128| ns as f64 / records as f64;
        println!(
            "  decode {:.0} ns, enrich + classify + count {:.0} ns, encode failures {:.0} ns",
            per(decode),
            per(count) - per(decode),
            per(encode) - per(count)
        );
    }
    Ok(())
}

/// BENCH_FAILURES: share of failures, 0 to 0.5.
fn share() -> f64 {
    std::env::var("BENCH_FAILURES").ok().and_then(|v| v.parse().ok()).unwrap_or(0.05)
}

fn payloads(wire: Wire, records: usize) -> Result<Vec<Vec<u8>>> {
    let mut generator = Generator::new(Options { wire, garbage: 0.0, failures: share(), ..Options::default() })?;
    let mut out = Vec::new();
    (0..records)
        .map(|_| {
            generator.next(&mut out)?;
            Ok(out.clone())
        })
        .collect()
}

fn best(mut run: impl FnMut() -> Result<u128>) -> Result<u128> {
    (0..5).try_fold(u128::MAX, |best, _| Ok(best.min(run()?)))
}

fn decode_only(payloads: &[Vec<u8>], format: Format) -> Result<u128> {
    let decoder = decoder(&RawInput { format, ..RawInput::default() })?;
    let started = Instant::now();
    for payload in payloads {
        decoder.decode(Some(payload), &mut |item| drop(black_box(item)));
    }
    Ok(started.elapsed().as_nanos())
}

fn classify(payloads: &[Vec<u8>], format: Format, encode: bool) -> Result<u128> {
    let config = Config::parse("[kafka]\n\"bootstrap.servers\" = \"none\"")?;
    let decoder = decoder(&RawInput { format, ..RawInput::default() })?;
    let tables = Tables::new(&config)?;
    let mut encoder = tables.failure_schema.encoder();
    let mut scratch = Scratch::new(&tables);
    let mut counts = Counts::new(Limits { campaigns: 1000, patterns: usize::MAX });
    let mut bytes = Vec::new();
    let started = Instant::now();
    for (offset, payload) in payloads.iter().enumerate() {
        let position =
            Position { topic: "delivery.events", partition: 0, offset: offset as i64, timestamp: Some(1_790_000_100_000) };
        decoder.decode(Some(payload), &mut |item| match process(&tables, &mut scratch, position, 0, &item) {
            Outcome::Count(sample) => counts.add(&sample, None),
            Outcome::Fail(sample, failure) => {
                counts.add(&sample, Some(&failure));
                if encode {
                    bytes.clear();
                    drop(black_box(encoder.encode(&failure, &mut bytes)));
                }
            }
            Outcome::Ignore(_) | Outcome::Reject(_) => {}
        });
    }
    let took = started.elapsed().as_nanos();
    let header = Header { producer: "bench", rules_version: "1", pattern_version: 1 };
    let (mut rows, mut patterns) = (0, std::collections::BTreeSet::new());
    counts.drain(header, &tables.isps, Vec::new(), |batch| {
        rows += batch.rows.len();
        patterns.extend(batch.patterns.iter().map(|p| p.pattern));
    });
    black_box((rows, patterns.len()));
    if std::env::var_os("BENCH_VERBOSE").is_some() {
        println!("  {rows} rows, {} patterns", patterns.len());
    }
    Ok(took)
}
