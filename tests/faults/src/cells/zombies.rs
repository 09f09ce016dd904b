//! A process sleeps (SIGSTOP) until the group has given its partitions to the other, then wakes and goes on where it was.

use std::time::Duration;

use anyhow::{Result, ensure};
use bounceflow_end_to_end::until;

use crate::field::{Field, STRUCK};

pub(crate) fn classify(field: &mut Field) -> Result<u64> {
    field.start_role("sink")?;
    // The first stops with everything sent and the commit to come; the second anywhere.
    field.join("classify", 0, Some("classify.before-commit=20*off->1*return(stop)"))?;
    field.join("classify", 1, None)?;
    field.start_traffic()?;
    field.member("classify", 0)?.wait_for(STRUCK)?;
    sleep_through(field, "classify", 0, 1)?;
    field.under_way()?;
    field.member("classify", 1)?.pause()?;
    sleep_through(field, "classify", 1, 0)?;
    Ok(2)
}

pub(crate) fn sink(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    let mut strikes = 0;
    for (ordinal, other) in [(0, 1), (1, 0)] {
        catch_with_intent(field, ordinal)?;
        sleep_through(field, "sink", ordinal, other)?;
        strikes += 1;
    }
    Ok(strikes)
}

pub(crate) fn sink_after_intent(field: &mut Field) -> Result<u64> {
    field.start_role("classify")?;
    // Behind the last look at the intent's age: then the insert goes out of an owner of nothing.
    field.join("sink", 0, Some("sink.before-post=10*off->1*return(stop)"))?;
    field.join("sink", 1, None)?;
    field.start_traffic()?;
    let mut strikes = 0;
    for (ordinal, other) in [(0, 1), (1, 0)] {
        if ordinal == 1 {
            // The other one, before that look.
            field.member("sink", 1)?.kill()?;
            field.join("sink", 1, Some("sink.after-intent=3*off->1*return(stop)"))?;
        }
        // Behind the traffic there is no other moment.
        while field.flowing()? && field.member("sink", ordinal)?.said(STRUCK).is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        if field.member("sink", ordinal)?.said(STRUCK).is_empty() {
            field.member("sink", ordinal)?.kill()?;
            field.join("sink", ordinal, None)?;
            continue;
        }
        ensure!(!field.pipeline.group("sink")?.open_intents()?.is_empty(), "asleep, but with no intent open");
        sleep_through(field, "sink", ordinal, other)?;
        strikes += 1;
    }
    Ok(strikes)
}

/// Stops a sink at a moment when an intent of its own is open.
fn catch_with_intent(field: &mut Field, ordinal: u32) -> Result<()> {
    let (group, id) = (field.pipeline.group("sink")?, field.pipeline.id("sink", ordinal));
    until("a sink to be caught with an intent open", || {
        let process = field.member("sink", ordinal)?;
        process.pause()?;
        let mine = group.assigned(&id)?;
        if group.intents(&mine)?.is_empty() {
            process.resume()?;
            anyhow::bail!("none was open");
        }
        Ok(())
    })
}

/// Waits until the other has everything, then wakes the sleeper, and sees it told so.
fn sleep_through(field: &mut Field, role: &'static str, ordinal: u32, other: u32) -> Result<()> {
    let group = field.pipeline.group(role)?;
    let (id, other) = (field.pipeline.id(role, ordinal), field.pipeline.id(role, other));
    let total = group.committed()?.len();
    field.say(&format!("{role} {ordinal} sleeps"));
    until("the group to give everything to the other", || {
        let taken = group.assigned(&other)?.len();
        ensure!(taken == total, "it has {taken} of {total}");
        Ok(())
    })?;
    let process = field.member(role, ordinal)?;
    let told = |process: &bounceflow_end_to_end::Process| {
        process.said("A transaction failed").len() + process.said("Partitions taken away").len()
    };
    let before = told(process);
    process.resume()?;
    until("the sleeper to be told", || {
        ensure!(told(process) > before, "it was not");
        Ok(())
    })?;
    until("the sleeper to have partitions again", || {
        ensure!(!group.assigned(&id)?.is_empty(), "it has none");
        Ok(())
    })
}
