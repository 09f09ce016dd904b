//! The program itself is wrong over a record: that costs no other record, and nothing once the record is sent again.

use anyhow::{Result, ensure};
use bounceflow_end_to_end::until;

use crate::field::{Field, STRUCK};
use crate::tally::{INTERNAL_ERROR, reason_of};

/// Records each process panics over.
const RECORDS: u64 = 3;

pub(crate) fn classify(field: &mut Field) -> Result<u64> {
    field.start_role("sink")?;
    let step = "classify.record";
    for ordinal in 0..2 {
        // The first in the middle of a transaction, the next with the first thing that is read after it.
        field.join("classify", ordinal, Some(&format!("{step}=20000*off->{RECORDS}*return(panic)")))?;
    }
    // A record whose partition moves to the other is read there without a panic.
    until("both to have partitions", || {
        let group = field.pipeline.group("classify")?;
        for ordinal in 0..2 {
            ensure!(!group.assigned(&field.pipeline.id("classify", ordinal))?.is_empty(), "classify {ordinal} has none");
        }
        Ok(())
    })?;
    field.start_traffic()?;
    let topic = field.pipeline.topic("dead-letter");
    until("every record to be set aside", || {
        let letters = field.pipeline.kafka.read_all(&topic)?;
        let aside = letters.iter().filter(|letter| reason_of(letter) == INTERNAL_ERROR).count() as u64;
        ensure!(aside == 2 * RECORDS, "{aside}");
        Ok(())
    })?;
    field.all_alive()?;
    // What an aborted transaction leaves unsent is dropped, not waited for until it times out.
    ensure!(field.said("timed out", "")? == 0, "aborting waited for records that nobody sends");
    field.pipeline.succeed(&["dead-letter", "resend", "--reason", INTERNAL_ERROR, "--yes"])?;
    field.said(STRUCK, step)
}
