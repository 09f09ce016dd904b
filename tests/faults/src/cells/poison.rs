//! ClickHouse refuses one row of each partition of failures: the first, a middle one, the last of a batch of known size.

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Incoming, until};

use super::Setting;
use crate::field::Field;

/// Records in a batch.
const BATCH: usize = 500;

/// What makes batches of that size, and no smaller ones: they close by size alone.
pub(crate) const BATCHES: &[Setting] = &[(&["sink", "max_rows"], BATCH as i64), (&["sink", "linger_ms"], 2000)];

pub(crate) fn first(field: &mut Field) -> Result<u64> {
    poison(field, 0)
}

pub(crate) fn middle(field: &mut Field) -> Result<u64> {
    poison(field, BATCH / 2)
}

pub(crate) fn last(field: &mut Field) -> Result<u64> {
    poison(field, BATCH - 1)
}

fn poison(field: &mut Field, place: usize) -> Result<u64> {
    field.start_role("classify")?;
    field.start_traffic()?;
    // Enough of each partition for the batches before and around the poisoned one; more comes while the sinks are at it.
    let batches = if field.order.events >= 1_000_000 { 4 } else { 1 };
    let topic = field.pipeline.topic("failures");
    let records = until("failures to choose from", || {
        let ends = field.pipeline.kafka.ends(&topic, true)?;
        let enough = (batches * BATCH * 11 / 10) as i64; // markers of transactions take offsets too
        ensure!(ends.iter().all(|end| *end > enough), "{ends:?}");
        field.pipeline.kafka.read_all(&topic)
    })?;
    let mut conditions = Vec::new();
    for number in 0..4 {
        let of: Vec<&Incoming> = records.iter().filter(|record| record.partition == number).collect();
        let poisoned = of.get((batches - 1) * BATCH + place).context("too few records")?;
        conditions.push(format!("(kafka_partition = {number} AND kafka_offset = {})", poisoned.offset));
        field.refused.push(poisoned.payload.clone().unwrap_or_default());
    }
    // Fails with a parse error for these rows, as a column of a narrower type would.
    let sql = format!(
        "ALTER TABLE {{db}}.failures ADD CONSTRAINT poison CHECK toUInt8(if({}, 'boom', '1')) = 1",
        conditions.join(" OR ")
    );
    field.pipeline.value(&sql)?;
    field.start_role("sink")?;
    let struck = until("every poisoned record to be refused", || {
        let refused = field.said("ClickHouse refuses a record; it goes to the dead letter", "")?;
        ensure!(refused >= 4, "{refused} of 4");
        Ok(refused)
    })?;
    Ok(struck)
}
