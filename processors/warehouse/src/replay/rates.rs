//! `delivery_rates` in a replay. Its rows have no places: what the old transactions added is taken out as counts, and what the new
//! ones add is put in.
//!
//! Counts are modulo 2^64, so a difference may be stored as if it were negative: adding it is exact. Such rows stay in
//! `replay_N_difference`; the copy that takes the place of a month is added up before anybody sees it.

use super::{Replay, in_old, of};
use crate::block::Table;
use crate::client::Warehouse;
use crate::counts::{CATEGORIES, COUNTS};
use crate::error::WarehouseError;
use crate::rollups::ROLLUPS;

const KEY: &str = "minute, isp, identity, sending_ip, campaign";

const MAPS: [&str; 3] = [CATEGORIES[0].1, CATEGORIES[1].1, CATEGORIES[2].1];

impl Warehouse {
    /// Fills `replay_N_difference`: what the new rows of batches add less what the old ones added.
    pub(super) async fn subtract(&self, replay: &Replay) -> Result<(), WarehouseError> {
        let id = replay.id;
        let table = format!("replay_{id}_difference");
        self.act("empty the difference", &format!("TRUNCATE TABLE {table}")).await?;
        let counts: Vec<String> = COUNTS.iter().map(|c| format!("toUInt64(-toInt64(rows.{c})) AS {c}")).collect();
        let maps: Vec<String> =
            MAPS.iter().map(|m| format!("mapApply((k, v) -> (k, toUInt64(-toInt64(v))), rows.{m}) AS {m}")).collect();
        let negative = [counts, maps].concat().join(", ");
        let plain: Vec<String> = COUNTS.iter().chain(&MAPS).map(|c| format!("rows.{c} AS {c}")).collect();
        let new = unfolded(&of(id, Table::Batches), &plain.join(", "), "1");
        let old = unfolded("batches", &negative, &in_old(id));
        let sql = format!("INSERT INTO {table} {}", added(&format!("{new} UNION ALL {old}")));
        self.act("subtract old counts from new ones", &sql).await
    }

    /// Fills `to` with `from` and the difference in these months, added up, without rows and categories that count nothing any more.
    pub(super) async fn add_difference(&self, id: u32, from: &str, to: &str, months: &[String]) -> Result<(), WarehouseError> {
        if months.is_empty() {
            return Ok(());
        }
        let columns = format!("{KEY}, {}, {}", COUNTS.join(", "), MAPS.join(", "));
        let sql = format!(
            "INSERT INTO {to} {}",
            added(&format!(
                "SELECT {columns} FROM {from} UNION ALL SELECT {columns} FROM replay_{id}_difference WHERE {}",
                in_months(months)
            ))
        );
        self.act("add the difference to a copy of delivery_rates", &sql).await
    }

    /// Adds to a copy of delivery_rates, and to the copies of its roll-ups, what rows of batches count, those that `condition` names,
    /// in these months.
    pub(super) async fn unfold_into(
        &self,
        to: &str,
        copy: &(dyn Fn(&str) -> String + Sync),
        condition: &str,
        months: &[String],
    ) -> Result<(), WarehouseError> {
        let plain: Vec<String> = COUNTS.iter().chain(&MAPS).map(|c| format!("rows.{c} AS {c}")).collect();
        let rows = unfolded("batches", &plain.join(", "), condition);
        let rows = format!("SELECT * FROM ({rows}) WHERE {}", in_months(months));
        self.act("add what was counted meanwhile", &format!("INSERT INTO {to} {}", added(&rows))).await?;
        self.roll_up(&format!("({rows})"), copy).await
    }

    /// Adds what rows of `from`, a table or a subquery like delivery_rates, come to, to the copy of each roll-up.
    pub(super) async fn roll_up(&self, from: &str, copy: &(dyn Fn(&str) -> String + Sync)) -> Result<(), WarehouseError> {
        for rollup in &ROLLUPS {
            let sql = format!("INSERT INTO {} {}", copy(rollup.table), rollup.select(from));
            self.act("add to the copy of a roll-up", &sql).await?;
        }
        Ok(())
    }

    /// One number for all counts of a month of a table made like delivery_rates. It is linear: that of two tables together is the sum of theirs.
    pub(super) async fn checksum(&self, table: &str, month: &str) -> Result<u64, WarehouseError> {
        let sql = format!("SELECT {} FROM {table} WHERE {}", checksum(), in_months(&[month.to_owned()]));
        self.ask("add up a month", &sql).await
    }

    /// Whether the difference is that of new and old rows of batches: expired since, or made twice at once, it is not.
    pub(super) async fn check_difference(&self, replay: &Replay) -> Result<(), WarehouseError> {
        let id = replay.id;
        let plain: Vec<String> = COUNTS.iter().chain(&MAPS).map(|c| format!("rows.{c} AS {c}")).collect();
        let rows = |table: &str, condition: &str| unfolded(table, &plain.join(", "), condition);
        let sum = |rows: String| format!("SELECT {} FROM ({rows})", checksum());
        let sums = [
            sum(format!("SELECT * FROM replay_{id}_difference")),
            sum(rows(&of(id, Table::Batches), "1")),
            sum(rows("batches", &in_old(id))),
        ];
        let (mut found, what) = (Vec::new(), "add up the difference");
        for sum in sums {
            found.push(self.ask::<u64>(what, &sum).await?);
        }
        if found[0] == found[1].wrapping_sub(found[2]) {
            return Ok(());
        }
        Err(WarehouseError::Replay(format!(
            "the counts of old or new transactions have expired since replay {id} was counted, or two processes compared it at once. \
             Nothing was changed; give it up with `bounceflow replay discard {id}` and start again"
        )))
    }

    /// That number of what rows of batches count, those that `condition` names.
    pub(super) async fn checksum_of_batches(&self, condition: &str, month: &str) -> Result<u64, WarehouseError> {
        let plain: Vec<String> = COUNTS.iter().chain(&MAPS).map(|c| format!("rows.{c} AS {c}")).collect();
        let rows = unfolded("batches", &plain.join(", "), condition);
        let sql = format!("SELECT {} FROM ({rows}) WHERE {}", checksum(), in_months(&[month.to_owned()]));
        self.ask("add up a month of batches", &sql).await
    }
}

fn in_months(months: &[String]) -> String {
    format!("toYYYYMM(minute) IN ({})", months.join(", "))
}

/// Rows of batches as rows of delivery_rates, not added up. As the view `delivery_rates_mv` has it.
fn unfolded(table: &str, counts: &str, condition: &str) -> String {
    format!(
        "SELECT toStartOfMinute(rows.bucket) AS minute, rows.isp AS isp, rows.identity AS identity, rows.sending_ip AS sending_ip,
            rows.campaign AS campaign, {counts} FROM {table} ARRAY JOIN rows WHERE {condition}"
    )
}

/// Rows of one key added up, those that count something.
fn added(rows: &str) -> String {
    let map = |m: &&str| format!("mapFilter((k, v) -> v != 0, sumMap(r.{m}))");
    let sums: Vec<String> = COUNTS.iter().map(|c| format!("sum(r.{c})")).chain(MAPS.iter().map(&map)).collect();
    let counts = COUNTS.iter().map(|c| format!("sum(r.{c}) != 0"));
    let anything: Vec<String> = counts.chain(MAPS.iter().map(|m| format!("notEmpty({})", map(m)))).collect();
    format!("SELECT {KEY}, {} FROM ({rows}) AS r GROUP BY {KEY} HAVING {}", sums.join(", "), anything.join(" OR "))
}

fn checksum() -> String {
    let hash = |name: &str, more: &str| format!("cityHash64('{name}', {KEY}{more})");
    let counts = COUNTS.iter().map(|c| format!("sum({c} * {})", hash(c, "")));
    let maps = MAPS.iter().map(|m| {
        let key = hash(m, ", k");
        format!("sum(arraySum((k, v) -> v * {key}, mapKeys({m}), mapValues({m})))")
    });
    counts.chain(maps).collect::<Vec<_>>().join(" + ")
}
