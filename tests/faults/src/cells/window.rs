//! The deduplication window is made small behind the sinks' back, while inserts hang in the air: what cannot be repeated safely halts.

use anyhow::{Result, ensure};
use bounceflow_end_to_end::until;

use super::answers::proxy;
use crate::field::{Field, ROLES};
use crate::proxy::Break;

const TABLES: [&str; 3] = ["failures", "batches", "delivery_rates"];
/// Less than a sink works with, and more than there are inserts in the air: putting it back puts everything right.
const SMALL: u64 = 20;

/// Four of failures, one of rates.
const PARTITIONS: usize = 5;

pub(crate) fn small(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    share_out(field)?;
    // Every insert from here on is taken and not answered, so that each partition hangs on its first.
    let broken = |field: &Field| Ok::<_, anyhow::Error>(proxy(field)?.broken(Break::CutAnswer));
    for table in TABLES {
        let sql = format!("ALTER TABLE {{db}}.{table} MODIFY SETTING non_replicated_deduplication_window = {SMALL}");
        field.pipeline.value(&sql)?;
    }
    proxy(field)?.breaks(Break::CutAnswer, 1);
    let partitions = PARTITIONS as u64;
    let halts = until("every partition to halt", || {
        let halts = field.said("A partition halts", "non_replicated_deduplication_window")?;
        ensure!(halts >= partitions, "{halts} of {partitions} halted");
        Ok(halts)
    })?;
    ensure!(broken(field)? >= partitions, "only {} inserts hung in the air", broken(field)?);
    for ordinal in 0..2 {
        let (status, body) = field.member("sink", ordinal)?.get("/readyz")?;
        ensure!(status == 503 && body.contains("halted"), "sink {ordinal} halts, but says it is ready: {status} {body}");
    }
    let doubled = field.pipeline.count(
        "SELECT count() - uniqExact(kafka_topic, kafka_partition, kafka_offset) FROM (SELECT kafka_topic, kafka_partition, kafka_offset \
         FROM {db}.failures UNION ALL SELECT kafka_topic, kafka_partition, kafka_offset FROM {db}.batches)",
    )?;
    ensure!(doubled == 0, "{doubled} rows are there twice");
    field.say(&format!("{halts} partitions halted, nothing doubled"));

    // What the halt says: put the window back, then start the sinks again.
    proxy(field)?.breaks(Break::Nothing, 1);
    for table in TABLES {
        field
            .pipeline
            .value(&format!("ALTER TABLE {{db}}.{table} MODIFY SETTING non_replicated_deduplication_window = 100000"))?;
    }
    for ordinal in 0..2 {
        let status = field.member(ROLES[1], ordinal)?.stop()?;
        ensure!(status.success(), "a sink that halted does not end well: {status}");
        field.join(ROLES[1], ordinal, None)?;
    }
    Ok(halts)
}

/// Waits until both sinks have partitions and each of these was written since: nobody repeats what another one began.
fn share_out(field: &Field) -> Result<()> {
    let group = field.pipeline.group("sink")?;
    until("both sinks to have partitions", || {
        for ordinal in 0..2 {
            ensure!(!group.assigned(&field.pipeline.id("sink", ordinal))?.is_empty(), "sink {ordinal} has none");
        }
        Ok(())
    })?;
    let before = group.committed()?;
    until("every partition to be written", || {
        let now = group.committed()?;
        let moved = now.iter().zip(&before).filter(|(now, before)| now.offset > before.offset).count();
        ensure!(moved == PARTITIONS, "{moved} were");
        Ok(())
    })
}
