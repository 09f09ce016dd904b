//! Exchanges with the real ClickHouse that break on the way: cut, half closed, answered by a gateway.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::field::Field;
use crate::proxy::{Break, Proxy};

/// Of each kind, at least.
const STRIKES: u64 = 3;

pub(crate) fn half_close(field: &mut Field) -> Result<u64> {
    break_in_turn(field, &[Break::CutRequest, Break::HalfClose, Break::CutAnswer])
}

pub(crate) fn error_500(field: &mut Field) -> Result<u64> {
    break_in_turn(field, &[Break::Error500Before, Break::Error500After])
}

fn break_in_turn(field: &mut Field, kinds: &[Break]) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    let broken = |field: &Field, kind| Ok::<_, anyhow::Error>(proxy(field)?.broken(kind));
    for turn in 0.. {
        let kind = kinds[turn % kinds.len()];
        // One in three: a partition gets on, and its neighbours' tokens are remembered in between.
        proxy(field)?.breaks(kind, 3);
        std::thread::sleep(Duration::from_millis(800));
        let enough = kinds.iter().map(|kind| broken(field, *kind)).collect::<Result<Vec<_>>>()?.iter().all(|n| *n >= STRIKES);
        if !field.flowing()? || (enough && turn >= 3 * kinds.len()) {
            break;
        }
    }
    proxy(field)?.breaks(Break::Nothing, 1);
    let mut strikes = 0;
    for kind in kinds {
        let struck = broken(field, *kind)?;
        field.say(&format!("{kind:?} {struck} times"));
        ensure!(struck > 0, "{kind:?} never struck");
        strikes += struck;
    }
    let heard = field.said(super::clickhouse::NOT_TAKEN, "")?;
    ensure!(heard > 0, "no sink noticed");
    Ok(strikes)
}

pub(crate) fn proxy(field: &Field) -> Result<&Proxy> {
    field.proxy.as_ref().context("the cell asked for no proxy")
}
