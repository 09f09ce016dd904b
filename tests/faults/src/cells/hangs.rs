//! A call never returns: the process sees that a loop of it stands still, ends, and is started again.

use anyhow::{Result, ensure};
use bounceflow_end_to_end::until;

use crate::field::{ENDED, Field, STRUCK};

pub(crate) fn both(field: &mut Field) -> Result<u64> {
    field.join("classify", 0, Some("classify.before-commit=20*off->1*return(hang)"))?;
    field.join("classify", 1, None)?;
    field.join("sink", 0, Some("sink.after-intent=20*off->1*return(hang)"))?;
    field.join("sink", 1, None)?;
    field.start_traffic()?;
    for role in ["classify", "sink"] {
        field.member(role, 0)?.wait_for(STRUCK)?;
        field.say(&format!("{role} 0 hangs"));
    }
    until("both to end by themselves", || {
        field.all_alive()?;
        let ended = field.measured.get(ENDED).copied().unwrap_or_default();
        ensure!(ended >= 2.0, "{ended} did");
        Ok(())
    })?;
    ensure!(field.said("A loop cannot go on", "has not turned for")? == 2, "they ended for another reason");
    field.said(STRUCK, "hang")
}
