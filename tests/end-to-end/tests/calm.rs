//! The sink under steady traffic: ClickHouse gets few inserts however many events there are, and each once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use bounceflow_end_to_end::Pipeline;

const PER_SECOND: &str = "50000";
const DURATION: &str = "60s";
const LINGER_MS: i64 = 1000;
/// More than a few, so that the bound says something; far fewer than the traffic lasts, for a machine that cannot keep up.
const FEWEST: usize = 20;

#[test]
fn there_is_at_most_one_insert_per_partition_and_flush_interval() -> Result<()> {
    let pipeline = Pipeline::builder("calm")?.inputs(4).set(&["sink", "linger_ms"], LINGER_MS)?.build()?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    classify.ready()?;
    sink.ready()?;
    let mut simulate = pipeline.simulate(&[
        "--format=avro",
        "--failures=0.05",
        "--garbage=0",
        &format!("--rate={PER_SECOND}"),
        &format!("--duration={DURATION}"),
    ])?;
    while simulate.runs()? {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    ensure!(simulate.end()?.success(), "the simulator failed");
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;

    let mut inserts: BTreeMap<(String, i32), Vec<i64>> = BTreeMap::new();
    let mut ranges = BTreeSet::new();
    for insert in pipeline.inserts()? {
        inserts.entry((insert.table.clone(), insert.partition)).or_default().push(insert.at);
        ensure!(
            ranges.insert((insert.table, insert.partition, insert.first)),
            "a range was inserted twice though nothing failed"
        );
    }
    let places: Vec<(&str, i32)> = inserts.keys().map(|(table, partition)| (table.as_str(), *partition)).collect();
    ensure!(places == [("batches", 0), ("failures", 0), ("failures", 1), ("failures", 2), ("failures", 3)], "{places:?}");
    for ((table, partition), at) in &inserts {
        let (Some(first), Some(last)) = (at.first(), at.last()) else { continue };
        // Both ends count, and one more: an insert that begins late makes the first interval look short.
        let allowed = (last - first) / LINGER_MS + 2;
        let count = at.len();
        ensure!(count >= FEWEST, "{table}/{partition}: {count} inserts are too few to judge by");
        ensure!(count as i64 <= allowed, "{table}/{partition}: {count} inserts where {allowed} are allowed");
    }
    for role in [&mut classify, &mut sink] {
        ensure!(role.stop()?.success(), "{} did not end well", role.name());
    }
    pipeline.passed();
    Ok(())
}
