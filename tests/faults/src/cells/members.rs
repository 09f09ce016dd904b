//! Processes that come and go: killed at random, or joining and leaving all the time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bounceflow_end_to_end::{cpu_s, until};

use crate::field::{Field, Member, ROLES};

const KILLS: u64 = 30;

pub(crate) fn random_kills(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    let mut strikes = 0;
    while strikes < KILLS {
        // Some while they work, some before they have even started.
        std::thread::sleep(Duration::from_millis(field.dice.below(1300)));
        let role = ROLES[field.dice.below(2) as usize];
        let ordinal = field.dice.below(2) as u32;
        field.all_alive()?;
        field.member(role, ordinal)?.kill()?;
        field.join(role, ordinal, None)?;
        strikes += 1;
        if !field.flowing()? {
            break;
        }
    }
    let needed = KILLS.min(field.order.events / 50_000);
    ensure!(strikes >= needed, "the traffic was over after {strikes} kills");
    Ok(strikes)
}

pub(crate) fn storm(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    // Traffic for a minute; with fewer events, as long as it lasts.
    let given = |field: &Field| field.said("Partitions given", "");
    let (before, mut changes, mut here) = (given(field)?, 0, false);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) && field.flowing()? {
        for role in ROLES {
            if here {
                let status = field.member(role, 2)?.stop()?;
                ensure!(status.success(), "{role} 2 did not leave well: {status}");
                field.team.retain(|member| (member.role, member.ordinal) != (role, 2));
            } else {
                field.join(role, 2, None)?;
            }
            changes += 1;
        }
        here = !here;
        std::thread::sleep(Duration::from_secs(5));
    }
    // Each change of a role was one rebalance at least, and each gave two processes or three their partitions.
    let rebalances = (given(field)? - before) / 2;
    field.say(&format!("{changes} joined or left, {rebalances} rebalances"));
    ensure!(rebalances >= changes / 2 && changes > 1, "{changes} joined or left, but only {rebalances} rebalances");
    until("everybody to have partitions", || {
        for role in ROLES {
            ensure!(!field.pipeline.group(role)?.assigned(&field.pipeline.id(role, 0))?.is_empty(), "{role} 0 has none");
        }
        Ok(())
    })?;
    Ok(changes)
}

/// As an upgrade does it: one process after the other, each ready again before the next. What it measures is the slowest of each:
/// start with empty topics to ready, SIGTERM to exit, start under load to ready, SIGTERM to the role's usual lag.
pub(crate) fn rolling_restart(field: &mut Field) -> Result<u64> {
    for role in ROLES.into_iter().chain(["watch"]) {
        for ordinal in 0..2 {
            start(field, role, ordinal, &format!("{role}_ready_empty_s"))?;
        }
    }
    field.start_traffic()?;
    field.under_way()?;
    let mut usual = [0; 2];
    let (began, before) = (Instant::now(), consumed(field)?);
    while began.elapsed() < Duration::from_secs(10) {
        for (role, usual) in ROLES.into_iter().zip(&mut usual) {
            *usual = field.behind(role)?.max(*usual);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    for ((role, cpu, memory), (_, cpu_before, _)) in consumed(field)?.into_iter().zip(before) {
        field.measure(&format!("{role}_cores"), (cpu - cpu_before) / seconds);
        field.measure(&format!("{role}_peak_mib"), memory);
    }
    field.say(&format!("usual lag in records: {:?}", ROLES.into_iter().zip(usual).collect::<Vec<_>>()));
    let mut restarts = 0;
    for ordinal in [1, 0] {
        for (role, usual) in ROLES.into_iter().zip(usual.map(Some)).chain([("watch", None)]) {
            let told = Instant::now();
            let status = field.member(role, ordinal)?.stop()?;
            ensure!(status.success(), "{role} {ordinal} did not end well: {status}");
            let exit = told.elapsed().as_secs_f64();
            field.measure("exit_s", exit);
            start(field, role, ordinal, "ready_under_load_s")?;
            // `watch` is ready when it has caught up; nobody else reads for it.
            if let Some(usual) = usual {
                until(&format!("{role} to lag as usual"), || {
                    let behind = field.behind(role)?;
                    ensure!(behind <= usual, "{behind} records, usually {usual}");
                    Ok(())
                })?;
            }
            let back = told.elapsed().as_secs_f64();
            field.measure("lag_back_s", back);
            field.say(&format!("{role} {ordinal}: exit after {exit:.1} s, lag as usual after {back:.1} s"));
            restarts += 1;
        }
    }
    ensure!(field.flowing()?, "the traffic was over before the last restart");
    let events = field.pipeline.count("SELECT sum(items) FROM {db}.batches")? as f64;
    field.measure("events_per_s", events / field.seconds_of_traffic());
    Ok(restarts)
}

/// Of each process: its role, seconds of CPU so far, the most memory it ever took (MiB).
fn consumed(field: &Field) -> Result<Vec<(&'static str, f64, f64)>> {
    let one = |Member { role, process, .. }: &Member| Ok((*role, cpu_s(process.pid())?, process.memory_mib("VmHWM")?));
    field.team.iter().map(one).collect()
}

/// Starts a process and waits until it is ready; keeps how long that took.
fn start(field: &mut Field, role: &'static str, ordinal: u32, measure: &str) -> Result<()> {
    let began = Instant::now();
    field.join(role, ordinal, None)?;
    field.member(role, ordinal)?.ready()?;
    field.measure(measure, began.elapsed().as_secs_f64());
    Ok(())
}
