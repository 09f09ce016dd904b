//! Processes that come and go: killed at random, or joining and leaving all the time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bounceflow_end_to_end::until;

use crate::field::{Field, ROLES};

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
