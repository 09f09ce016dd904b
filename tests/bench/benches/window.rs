//! Speed and memory of the windows: rows folded and evaluated per second on one thread at 100,000 keys, bytes per key, and how fast
//! a restart gets its windows back. No server. Settings: BENCH_ROWS.
#![allow(clippy::print_stdout, reason = "a benchmark reports to its terminal")]

use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bounceflow_bench::{median, write_figures};
use bounceflow_event::avro::{self, Schemas, WriterSchema};
use bounceflow_event::{CategoryCount, RateBatch, RateRow, Source};
use bounceflow_window::{Rules, Settings, Watch};

const ISPS: usize = 200;
const IDENTITIES: usize = 500;
/// What a busy transaction of 250 ms leaves.
const ROWS_PER_BATCH: usize = 2000;
const BATCHES_PER_SECOND: i64 = 4;
const START: i64 = 1_790_000_000_000;
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    let rows: usize = std::env::var("BENCH_ROWS").ok().and_then(|v| v.parse().ok()).unwrap_or(6_000_000);
    let names = Names::new();
    let batches: Vec<(i64, RateBatch<'_>)> = (0..(rows / ROWS_PER_BATCH) as i64).map(|n| names.batch(n)).collect();
    let rows = batches.len() * ROWS_PER_BATCH;
    println!("\nwindows: {rows} rows in {} batches, {} keys, built-in rules, one thread", batches.len(), ISPS * IDENTITIES);

    let rules = Arc::new(Rules::builtin()?);
    let (mut folds, mut restores, mut bytes_per_key) = (Vec::new(), Vec::new(), 0.0);
    let encoded = encode(&batches)?;
    for round in 1..=ROUNDS {
        let before = resident()?;
        let mut watch = Watch::new(Arc::clone(&rules), Settings::default());
        let mut out = Vec::new();
        let started = Instant::now();
        for (log_time, batch) in &batches {
            watch.fold(batch, *log_time, &mut out);
        }
        let fold = rows as f64 / started.elapsed().as_secs_f64();
        let keys = watch.windows().len();
        ensure!(keys >= ISPS * IDENTITIES, "{keys} keys");
        if round == 1 {
            bytes_per_key = (resident()? - before) as f64 / keys as f64;
            println!(
                "  {keys} keys hold {bytes_per_key:.0} bytes each (resident memory); its own estimate: {}",
                watch.windows().memory_bytes() / keys
            );
        }
        let evaluated_to = watch.evaluated_to();
        drop(black_box((watch, out)));

        let mut schemas = Schemas::default();
        schemas.add(avro::RATE_BATCH)?;
        let mut watch = Watch::resume(Arc::clone(&rules), Settings::default(), evaluated_to, None, Vec::new());
        let mut out = Vec::new();
        let started = Instant::now();
        for (log_time, bytes) in &encoded {
            watch.fold(&schemas.decode(bytes)?, *log_time, &mut out);
        }
        let restore = rows as f64 / started.elapsed().as_secs_f64();
        ensure!(out.is_empty() && watch.evaluated_to() == evaluated_to, "a restart decides nothing again");
        println!("  round {round}: fold and evaluate {fold:>9.0} rows/s   decode and restore {restore:>9.0} rows/s");
        folds.push(fold);
        restores.push(restore);
    }
    let figures =
        [("fold_rows_per_s", median(&folds)), ("bytes_per_key", bytes_per_key), ("restore_rows_per_s", median(&restores))];
    write_figures("window", &figures)
}

struct Names {
    isps: Vec<String>,
    identities: Vec<String>,
}

impl Names {
    fn new() -> Self {
        Self {
            isps: (0..ISPS).map(|n| format!("isp_{n:03}")).collect(),
            identities: (0..IDENTITIES).map(|n| format!("news.sender-{n:03}.example")).collect(),
        }
    }

    /// Rows of pairs drawn evenly, in the order `classify` writes them; three in a hundred fail.
    fn batch(&self, number: i64) -> (i64, RateBatch<'_>) {
        let time = START + number * 1000 / BATCHES_PER_SECOND;
        let bucket = time / 10_000 * 10;
        let mut drawn: Vec<usize> = (0..ROWS_PER_BATCH)
            .map(|i| scatter(number as u64 * ROWS_PER_BATCH as u64 + i as u64) % (ISPS * IDENTITIES))
            .collect();
        drawn.sort_unstable();
        let rows = drawn.into_iter().map(|pair| {
            let failed = i64::from(scatter(pair as u64 ^ number as u64) % 100 < 3);
            let category = CategoryCount { category: "invalid_recipient", bounces: 1, ..CategoryCount::default() };
            RateRow {
                bucket,
                isp: &self.isps[pair / IDENTITIES],
                identity: &self.identities[pair % IDENTITIES],
                deliveries: 20,
                first_attempts: 20,
                hard: failed,
                categories: if failed > 0 { vec![category] } else { Vec::new() },
                ..RateRow::default()
            }
        });
        let source = Source {
            topic: "delivery.events",
            first_offset: number * 100,
            last_offset: number * 100 + 99,
            records: 100,
            max_event_time: Some(time),
            ..Source::default()
        };
        (time, RateBatch { parts: 1, rows: rows.collect(), sources: vec![source], ..RateBatch::default() })
    }
}

/// Spreads numbers: splitmix64.
fn scatter(n: u64) -> usize {
    let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 8) as usize
}

fn encode(batches: &[(i64, RateBatch<'_>)]) -> Result<Vec<(i64, Vec<u8>)>> {
    let schema = WriterSchema::parse(avro::RATE_BATCH)?;
    let mut encoder = schema.encoder();
    batches
        .iter()
        .map(|(time, batch)| {
            let mut bytes = Vec::new();
            encoder.encode(batch, &mut bytes)?;
            Ok((*time, bytes))
        })
        .collect()
}

/// Resident memory of this process, bytes.
fn resident() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).context("statm")?.parse()?;
    Ok(pages * 4096)
}
