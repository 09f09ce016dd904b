//! The sink beside what the same server takes of the same bytes; how calm it is; how many parts it leaves; how it comes out of an
//! outage. Real servers; each ratio in one run. Settings: BENCH_ONLY (speed, calm, parts, outage), BENCH_EVENTS, BENCH_ROUNDS,
//! BENCH_CALM_S, BENCH_CALM_RATE, BENCH_PARTS_S, BENCH_PARTS_RATE, BENCH_OUTAGE_S, BENCH_OUTAGE_RATE.
//!
//! The figures of parts that did not run are kept as they were in `sink.json`.
#![allow(clippy::print_stdout, reason = "a benchmark reports to its terminal")]

mod blocks;
mod load;
mod memory;
mod speed;

use anyhow::Result;
use bounceflow_bench::{read_figures, write_figures};

fn main() -> Result<()> {
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|o| o == name);
    let mut figures = Vec::new();
    if wanted("speed") {
        figures.extend(speed::run(setting("BENCH_EVENTS", 4_500_000), setting("BENCH_ROUNDS", 3))?);
    }
    if wanted("calm") {
        figures.extend(load::calm(setting("BENCH_CALM_RATE", 50_000), setting("BENCH_CALM_S", 60))?);
    }
    if wanted("parts") {
        figures.extend(load::parts(setting("BENCH_PARTS_RATE", 20_000), setting("BENCH_PARTS_S", 120))?);
    }
    if wanted("outage") {
        figures.extend(load::outage(setting("BENCH_OUTAGE_RATE", 50_000), setting("BENCH_OUTAGE_S", 60))?);
    }
    let mut all = read_figures("sink")?;
    all.extend(figures.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let all: Vec<(&str, f64)> = all.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    write_figures("sink", &all)
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}
