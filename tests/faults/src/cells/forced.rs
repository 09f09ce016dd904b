//! A process dies exactly at a named step, time and again, first of either process of the role.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::field::{Field, STRUCK};

pub(crate) fn sink_before_intent(field: &mut Field) -> Result<u64> {
    kill_at(field, "sink", "sink.before-intent", false)
}

pub(crate) fn sink_after_intent(field: &mut Field) -> Result<u64> {
    kill_at(field, "sink", "sink.after-intent", false)
}

pub(crate) fn sink_during_post(field: &mut Field) -> Result<u64> {
    kill_at(field, "sink", "sink.during-post", true)
}

pub(crate) fn sink_after_ok(field: &mut Field) -> Result<u64> {
    kill_at(field, "sink", "sink.after-ok", false)
}

pub(crate) fn sink_after_commit(field: &mut Field) -> Result<u64> {
    kill_at(field, "sink", "sink.after-commit", false)
}

pub(crate) fn classify_before_commit(field: &mut Field) -> Result<u64> {
    kill_at(field, "classify", "classify.before-commit", false)
}

pub(crate) fn classify_during_commit(field: &mut Field) -> Result<u64> {
    kill_at(field, "classify", "classify.during-commit", true)
}

pub(crate) fn classify_after_commit(field: &mut Field) -> Result<u64> {
    kill_at(field, "classify", "classify.after-commit", false)
}

/// Kills at a step up to six times, as the traffic lets it; once in 500,000 events at least. `lasting`: within a step, somewhere.
fn kill_at(field: &mut Field, role: &'static str, step: &str, lasting: bool) -> Result<u64> {
    let needed = (field.order.events / 500_000).max(1);
    let wanted = if field.order.events < 500_000 { 3 } else { 6 };
    let other = if role == "sink" { "classify" } else { "sink" };
    field.start_role(other)?;
    for ordinal in 0..2 {
        let armed = arm(field, step, lasting);
        field.join(role, ordinal, Some(&armed))?;
    }
    field.start_traffic()?;
    let mut strikes = 0;
    let mut patience = None;
    while strikes < wanted {
        // Behind the traffic there are a few more moments, then none.
        let flowing = field.flowing()?;
        let late = !flowing && patience.get_or_insert_with(|| Instant::now() + Duration::from_secs(5)) <= &mut Instant::now();
        if late {
            break;
        }
        for ordinal in 0..2 {
            let process = field.member(role, ordinal)?;
            if process.runs()? {
                continue;
            }
            let said = process.said(STRUCK);
            let struck = said.iter().any(|line| line["failpoint"] == step);
            ensure!(struck, "{role} {ordinal} died, and not at {step}: {}", process.log());
            strikes += 1;
            field.say(&format!("{role} {ordinal} died at {step}"));
            let armed = (strikes < wanted).then(|| arm(field, step, lasting));
            field.join(role, ordinal, armed.as_deref())?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Whoever is still armed gives way to one who is not.
    for ordinal in 0..2 {
        let process = field.member(role, ordinal)?;
        let died = !process.runs()?;
        process.kill().context("ending one that is armed")?;
        let struck = died && process.said(STRUCK).iter().any(|line| line["failpoint"] == step);
        strikes += u64::from(struck);
        field.join(role, ordinal, None)?;
    }
    ensure!(strikes >= needed, "{step} struck {strikes} times of {needed}");
    Ok(strikes)
}

/// The step's order: not at once but some time on; within one that lasts up to 12 ms after it began, whenever it still lasts then.
fn arm(field: &mut Field, step: &str, lasting: bool) -> String {
    let passes = field.dice.below((field.order.events / 50_000).clamp(1, 20));
    if lasting {
        let micros = field.dice.below(12_000);
        format!("{step}={passes}*off->return(kill {micros})")
    } else {
        format!("{step}={passes}*off->1*return(kill)")
    }
}
