//! Whether the sink is past everything a swap takes away.
//!
//! A sink that died between an insert and its offset repeats the insert and counts its rows. Were they replaced meanwhile, it would
//! find none, and insert them once more. So the committed offsets must be behind the last row that is taken; from there they only grow.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bounceflow_warehouse::Replaced;
use bounceflow_warehouse::replay::Range;

use crate::config::Config;
use crate::intent::Intent;
use crate::kafka::{self, Committed, Consumer};

/// For how long Kafka may be asked for offsets it cannot tell yet, while a transaction with offsets is open.
const PATIENCE: Duration = Duration::from_secs(30);

/// An error that says which partition the sink is behind in, and by how much.
pub(super) fn check(config: &Config, held: &[Replaced]) -> anyhow::Result<()> {
    // Rows that a replay wrote never were the sink's.
    let held: Vec<&Replaced> = held.iter().filter(|held| !held.topic.starts_with("replay/")).collect();
    let partitions: Vec<(String, i32)> = held.iter().map(|held| (held.topic.clone(), held.partition)).collect();
    if partitions.is_empty() {
        return Ok(());
    }
    let committed = committed(config, &partitions)?;
    for Replaced { table, topic, partition, last_offset } in held {
        let left = committed.iter().find(|c| c.topic == *topic && c.partition == *partition).and_then(|c| c.offset);
        let Some(left) = left else {
            bail!(
                "{topic}/{partition}: the sink's group has no committed offset, so it may write rows of {table} again that a swap would \
                 replace. Start the sink, then swap"
            );
        };
        ensure!(
            left > *last_offset,
            "{topic}/{partition}: the sink is at offset {left}, and rows of {table} up to offset {last_offset} are to be replaced: it may \
             write them once more. Start the sink or wait for it, then swap"
        );
    }
    Ok(())
}

/// The ranges of the topic of rates that the sink has begun to insert: its committed intents.
pub(super) fn begun(config: &Config) -> anyhow::Result<Vec<Range>> {
    let topic = &config.topics.rates;
    let partitions: Vec<(String, i32)> =
        (0..kafka::partitions_in(&config.kafka, topic)?).map(|partition| (topic.clone(), partition)).collect();
    let mut begun = Vec::new();
    for left in committed(config, &partitions)? {
        if let Some(Intent { first, last, .. }) = Intent::from_metadata(&left.metadata).map_err(anyhow::Error::msg)? {
            begun.push(Range { topic: left.topic, partition: left.partition, first, last });
        }
    }
    Ok(begun)
}

fn committed(config: &Config, partitions: &[(String, i32)]) -> anyhow::Result<Vec<Committed>> {
    let consumer = Consumer::alone(&config.kafka, "replay", &format!("{}.sink", config.deployment))?;
    let asked = Instant::now();
    loop {
        match consumer.committed(partitions) {
            Ok(committed) => return Ok(committed),
            Err(e) if asked.elapsed() > PATIENCE => return Err(e).context("asking Kafka how far the sink is"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
