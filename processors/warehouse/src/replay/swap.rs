//! The swap: new rows in the place of old ones, while the sink goes on writing.
//!
//! Every partition that the replay touches is copied, the copy is changed, and takes the partition's place by `REPLACE PARTITION`,
//! which readers see whole or not at all. Partitions are replaced one after the other, within a moment: over several of them, or over
//! two tables, a reader may see that moment.
//!
//! **The fence.** A constraint that no row meets is put on `failures` and `batches` (`delivery_rates` is written through `batches`
//! alone): the server refuses inserts, the sink takes that for a passing trouble and tries again, for minutes. Inserts that began
//! before are waited for. It stands twice, and for moments: while the copies are taken (links to the same files), so that all of them
//! show one instant; and while they are brought up to date and take their places. What takes long is done between, on the copies.
//! A fence ends with the attempt, however that ends; one killed leaves it to the next `resume`, which the server's words to the sink name.
//!
//! **Nothing is lost.** What the sink adds between the two fences is what stands behind the cut, by its position in Kafka: within one
//! Kafka partition the sink writes in order. It is added to the copies. Rows before the cut must still be as many, and
//! `delivery_rates` must be the copy plus what batches behind the cut count: so an erasure or a hand that changed something
//! meanwhile is noticed, and the attempt is given up. Copies have names of their attempt and are dropped before its fence is lifted:
//! a process that slept through all of this replaces nothing, for what it would replace it with does not exist any more.
//!
//! **Nothing is doubled.** Failures and batches are put in place by what they are: a copy is made without any row of the replay, old
//! or new, and then given the new ones, so doing it again changes nothing. `delivery_rates` is not like that: before a month is
//! replaced, its checksum and that of its copy are written down. After a kill the month has one or the other, because the fence
//! still stands.
//!
//! The roll-ups of `delivery_rates` are made anew of its copy, and take their places before it does: a month that is replaced twice
//! has the same roll-ups both times, and one whose `delivery_rates` is in place is done.
//!
//! **The sink's tokens** survive: replacing a partition does not make ClickHouse forget the tokens of the parts that were in it. A sink
//! that died after an insert and before moving its offset repeats it after the swap, it is dropped, and its rows are counted: they are
//! there, because a replay takes rows only that every sink has moved past (the caller asks Kafka). A repeat that the fence refuses leaves
//! no token.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Range, Replay, State, from_ranges, in_old, of, text};
use crate::block::Table;
use crate::client::Warehouse;
use crate::error::WarehouseError;
use crate::rollups::ROLLUPS;

const TABLES: [Table; 2] = [Table::Failures, Table::Batches];
/// What is inserted when the fence goes up is settled by then, where the sink lives and the insert did not fail.
const INSERT_ENDS: Duration = Duration::from_secs(5);

/// The ranges of the rates topic that the sink has begun to insert and not settled, as Kafka has them now.
pub type Begun<'a> = &'a (dyn Fn() -> Result<Vec<Range>, String> + Sync);

/// How far a swap is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Word of the attempt that goes on, or did last.
    pub attempt: String,
    /// Last positions of the rows it takes away.
    pub replaced: Vec<Replaced>,
    /// Something may have been replaced: it can only go forward.
    pub begun: bool,
    /// Months of `delivery_rates` that are replaced.
    pub months_done: Vec<String>,
    /// Months that are being replaced, each with its checksum before and after.
    pub months_open: Vec<(String, u64, u64)>,
}

/// The last position in Kafka of rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clickhouse::Row)]
pub struct Replaced {
    /// `failures` or `batches`.
    pub table: String,
    /// Kafka topic; `replay/…` for rows that a replay wrote.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub last_offset: i64,
}

/// One attempt to swap.
struct Attempt<'a> {
    warehouse: &'a Warehouse,
    id: u32,
    name: &'a str,
}

/// What an attempt copied at the first fence.
struct Cut {
    /// Of each of [`TABLES`].
    tables: Vec<CutTable>,
    /// Condition on a row of batches: written behind the cut.
    behind: String,
    months: Vec<String>,
}

struct CutTable {
    table: Table,
    partitions: Vec<String>,
    /// Condition on a row: written before the cut.
    before: String,
    /// Rows of the partitions at the cut.
    rows: u64,
}

impl Warehouse {
    /// Up to where the rows that a replay takes away reach, by table and Kafka partition.
    pub async fn held_by_replay(&self, replay: &Replay) -> Result<Vec<Replaced>, WarehouseError> {
        let sql = format!(
            "SELECT 'failures' AS table, kafka_topic AS topic, kafka_partition AS partition, max(kafka_offset) AS last_offset
                FROM failures WHERE {} GROUP BY topic, partition
            UNION ALL SELECT 'batches' AS table, kafka_topic AS topic, kafka_partition AS partition, max(kafka_offset) AS last_offset
                FROM replay_{}_old GROUP BY topic, partition",
            from_ranges(&replay.ranges),
            replay.id
        );
        self.ask_all("find the last positions of the old rows", &sql).await
    }

    /// Puts the new rows in the place of the old ones; goes on where an earlier attempt was interrupted. `attempt` is a word never used
    /// before, `now` the time, `begun` what the sink has begun to insert into `batches`, `say` is told each step.
    pub async fn swap_replay(
        &self,
        replay: &mut Replay,
        attempt: &str,
        now: &(dyn Fn() -> i64 + Sync),
        begun: Begun<'_>,
        say: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), WarehouseError> {
        let id = replay.id;
        if let Some(other) = self.replays().await?.iter().find(|r| r.id != id && r.state == State::Swapping) {
            return Err(WarehouseError::Replay(format!(
                "replay {0} is being swapped: wait for it, or let it go on with `bounceflow replay resume {0}`",
                other.id
            )));
        }
        replay.state = State::Swapping;
        replay.swap.get_or_insert_default().attempt = attempt.to_owned();
        self.save_replay(replay, now()).await?;
        // In this order: an attempt that only sleeps can do nothing any more; what it did is known; the fence may go.
        self.drop_copies(id).await?;
        self.wait_for_writers().await?;
        self.settle_months(replay, now()).await?;
        self.lift_fences(id).await?;

        let ours = Attempt { warehouse: self, id, name: attempt };
        if let Err(e) = ours.run(replay, now, begun, say).await {
            let given_up = async {
                ours.drop_copies().await?;
                // Where another attempt has taken over, it looks after the months.
                let others = self.replays().await?.into_iter().find(|r| r.id == id).and_then(|r| r.swap);
                if others.is_none_or(|swap| swap.attempt == attempt) {
                    self.settle_months(replay, now()).await?;
                }
                ours.lift().await
            };
            return Err(match given_up.await {
                Ok(()) => e,
                Err(more) => WarehouseError::Replay(format!(
                    "{e}; then {more}. Inserts into failures and batches are held until `bounceflow replay resume {id}` succeeds"
                )),
            });
        }
        replay.state = State::Swapped;
        self.save_replay(replay, now()).await?;
        self.clear_replay(id).await
    }

    /// Ends the state of a month that was being replaced: one of two checksums is true.
    async fn settle_months(&self, replay: &mut Replay, now: i64) -> Result<(), WarehouseError> {
        let Some(swap) = replay.swap.as_mut().filter(|swap| !swap.months_open.is_empty()) else { return Ok(()) };
        for (month, before, after) in swap.months_open.clone() {
            let found = self.checksum("delivery_rates", &month).await?;
            if found == after {
                swap.months_done.push(month);
            } else if found != before {
                return Err(WarehouseError::Replay(format!(
                    "delivery_rates of {month} is neither as it was nor as it was to become: it was changed while its replacement was \
                     under way. The fence was lifted by hand, or somebody wrote to the table; `bounceflow audit` shows by how much"
                )));
            }
        }
        swap.months_open.clear();
        self.save_replay(replay, now).await
    }

    /// Removes the copies of every attempt of a replay.
    pub(super) async fn drop_copies(&self, id: u32) -> Result<(), WarehouseError> {
        self.drop_tables(&format!("replay_{id}_swap_")).await
    }
}

impl Attempt<'_> {
    async fn run(
        &self,
        replay: &mut Replay,
        now: &(dyn Fn() -> i64 + Sync),
        begun: Begun<'_>,
        say: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), WarehouseError> {
        say("copying the partitions it touches");
        self.fence().await?;
        if !replay.swap.as_ref().is_some_and(|swap| swap.begun) {
            self.may_begin(replay, now).await?;
        }
        let cut = self.cut(replay).await?;
        self.lift().await?;

        say("putting new rows for old ones into the copies");
        for cut in &cut.tables {
            self.renew(replay, cut).await?;
        }
        self.warehouse.add_difference(self.id, &self.copy("rates_before"), &self.copy("rates"), &cut.months).await?;
        self.warehouse.roll_up(&self.copy("rates"), &|table| self.copy(table)).await?;

        say("bringing the copies up to date, and putting them in place");
        self.fence().await?;
        self.nothing_half_done(begun).await?;
        self.catch_up(replay, &cut).await?;
        let open = self.catch_up_rates(&cut).await?;
        if let Some(swap) = &mut replay.swap {
            (swap.begun, swap.months_open) = (true, open);
        }
        self.warehouse.save_replay(replay, now()).await?;
        for month in &cut.months {
            // First what can be made anew as often as it takes: once delivery_rates has its month, the month is done.
            for rollup in &ROLLUPS {
                self.put_in_place(rollup.table, rollup.table, month).await?;
            }
            self.put_in_place("delivery_rates", "rates", month).await?;
        }
        // Known as open until it is written down that they are done.
        let mut done = replay.clone();
        if let Some(swap) = &mut done.swap {
            swap.months_open.clear();
            swap.months_done.extend(cut.months.iter().cloned());
        }
        self.warehouse.save_replay(&mut done, now()).await?;
        *replay = done;
        for CutTable { table, partitions, .. } in &cut.tables {
            for partition in partitions {
                self.put_in_place(table.name(), table.name(), partition).await?;
            }
        }
        self.warehouse.note_left_out(self.id).await?;
        self.drop_copies().await?;
        self.lift().await
    }

    /// Its own alone: another attempt may have taken over.
    async fn drop_copies(&self) -> Result<(), WarehouseError> {
        self.warehouse.drop_tables(&self.copy("")).await
    }

    /// Its own alone.
    async fn lift(&self) -> Result<(), WarehouseError> {
        self.warehouse.lift(&self.fence_name()).await
    }

    fn fence_name(&self) -> String {
        format!("bounceflow_replay_{}_swaps_{}", self.id, self.name)
    }

    /// From its return until it is lifted, nothing is inserted.
    async fn fence(&self) -> Result<(), WarehouseError> {
        self.warehouse.put_up_fence(&self.fence_name()).await
    }

    /// What was found when the replay was counted must be there still.
    async fn may_begin(&self, replay: &mut Replay, now: &(dyn Fn() -> i64 + Sync)) -> Result<(), WarehouseError> {
        let Self { warehouse, id, .. } = self;
        let planned = self.rows(&format!("replay_{id}_old")).await?;
        let there = self.rows(&format!("batches WHERE {}", in_old(*id))).await?;
        let found = if planned == there {
            match warehouse.check_failures(replay).await {
                Ok(()) => warehouse.check_difference(replay).await,
                refused => refused,
            }
        } else {
            Err(WarehouseError::Replay(format!(
                "{} of the {planned} rows of batches that it was to replace are gone: another replay has replaced them. Give this one \
                 up with `bounceflow replay discard {id}`, and start again",
                planned - there
            )))
        };
        if found.is_err() {
            replay.state = State::Counted;
            warehouse.save_replay(replay, now()).await?;
        }
        found
    }

    /// An insert into `batches` that failed in one of the views is repeated, for the views that lack it. Were the roll-ups, which are
    /// made of `batches` and `delivery_rates`, to take their places before, the repeat would count once more in some.
    async fn nothing_half_done(&self, begun: Begun<'_>) -> Result<(), WarehouseError> {
        let since = Instant::now();
        loop {
            let mut half_done = None;
            for range in begun().map_err(WarehouseError::Replay)? {
                let Range { topic, partition, first, last } = &range;
                let here = format!("kafka_topic = {} AND kafka_partition = {partition}", text(topic));
                // One the fence holds off has no row.
                if self.rows(&format!("batches WHERE {here} AND kafka_offset BETWEEN {first} AND {last}")).await? > 0 {
                    half_done = Some(range);
                    break;
                }
            }
            let Some(Range { topic, partition, first, last }) = half_done else { return Ok(()) };
            if since.elapsed() > INSERT_ENDS {
                return Err(WarehouseError::Replay(format!(
                    "the sink has not settled its insert of {topic}/{partition}, offsets {first} to {last}: views may lack it yet. Nothing was \
                     swapped. Start the sink or wait for it, then swap again"
                )));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Copies every partition that is touched, all at one instant.
    async fn cut(&self, replay: &Replay) -> Result<Cut, WarehouseError> {
        let Self { warehouse, id, .. } = self;
        let mut tables = Vec::new();
        for table in TABLES {
            let (name, new) = (table.name(), of(*id, table));
            let partitions: Vec<String> = warehouse
                .ask_all(
                    "find the partitions it touches",
                    &format!(
                        "SELECT toString(p) FROM (SELECT _partition_id AS p FROM {name} WHERE {} UNION DISTINCT SELECT _partition_id AS p
                            FROM {new}) ORDER BY p",
                        self.rows_of(replay, table)
                    ),
                )
                .await?;
            let copy = self.copy(name);
            warehouse.act("make a copy", &format!("CREATE TABLE {copy} AS {new}")).await?;
            self.attach(&copy, name, &partitions).await?;
            let rows = self.rows(&copy).await?;
            let positions =
                format!("SELECT kafka_topic, kafka_partition, max(kafka_offset) FROM {name} GROUP BY ALL ORDER BY ALL");
            let positions: Vec<(String, i32, i64)> = warehouse.ask_all("find the last positions", &positions).await?;
            tables.push(CutTable { table, partitions, before: before(&positions), rows });
        }
        let difference = format!("replay_{id}_difference");
        let months = format!("SELECT toString(toYYYYMM(minute)) AS month FROM {difference} GROUP BY month ORDER BY month");
        let mut months: Vec<String> = warehouse.ask_all("find the months it touches", &months).await?;
        let done = replay.swap.as_ref().map_or(&[][..], |swap| &swap.months_done);
        months.retain(|month| !done.contains(month));
        for copy in ["rates_before", "rates"] {
            let sql = format!("CREATE TABLE {} AS {difference}", self.copy(copy));
            warehouse.act("make a copy", &sql).await?;
        }
        for rollup in &ROLLUPS {
            let sql = format!("CREATE TABLE {} AS {}", self.copy(rollup.table), rollup.table);
            warehouse.act("make a copy", &sql).await?;
        }
        self.attach(&self.copy("rates_before"), "delivery_rates", &months).await?;
        let batches = tables.iter().find(|cut: &&CutTable| cut.table == Table::Batches);
        let behind = batches.map_or_else(|| "1".to_owned(), |cut| format!("NOT ({})", cut.before));
        Ok(Cut { tables, behind, months })
    }

    /// Takes every row of the replay out of a copy, and puts the new ones in.
    async fn renew(&self, replay: &Replay, cut: &CutTable) -> Result<(), WarehouseError> {
        let copy = self.copy(cut.table.name());
        let sql = format!("ALTER TABLE {copy} DELETE WHERE {}", self.rows_of(replay, cut.table));
        self.warehouse.act("take the old rows out of a copy", &sql).await?;
        self.attach(&copy, &of(self.id, cut.table), &cut.partitions).await
    }

    /// Adds what came behind the cut, and proves that the copies are what the tables are to become.
    async fn catch_up(&self, replay: &Replay, cut: &Cut) -> Result<(), WarehouseError> {
        let warehouse = self.warehouse;
        let changing = format!(
            "SELECT count() FROM system.mutations WHERE database = {} AND table IN ('failures', 'batches', 'delivery_rates') AND NOT is_done",
            text(warehouse.database())
        );
        if warehouse.ask::<u64>("look for running mutations", &changing).await? > 0 {
            return Err(changed("mutations are running (see system.mutations)"));
        }
        for CutTable { table, partitions, before, rows } in &cut.tables {
            let (copy, new) = (self.copy(table.name()), of(self.id, *table));
            let here = format!("_partition_id IN ({})", list(partitions));
            let there = self.rows(&format!("{table} WHERE {here} AND ({before})")).await?;
            if there != *rows {
                return Err(changed(&format!("{table} held {rows} rows and holds {there} of them")));
            }
            let sql = format!("INSERT INTO {copy} SELECT * FROM {table} WHERE {here} AND NOT ({before})");
            warehouse.act("bring a copy up to date", &sql).await?;
            let (copied, all) = (self.rows(&copy).await?, self.rows(&format!("{table} WHERE {here}")).await?);
            let old = self.rows(&format!("{table} WHERE {}", self.rows_of(replay, *table))).await?;
            let new = self.rows(&new).await?;
            if copied != all - old + new {
                return Err(changed(&format!("the copy of {table} has {copied} rows instead of {all} - {old} + {new}")));
            }
        }
        Ok(())
    }

    /// The same for `delivery_rates`. Each month with its checksum before and after.
    async fn catch_up_rates(&self, cut: &Cut) -> Result<Vec<(String, u64, u64)>, WarehouseError> {
        let warehouse = self.warehouse;
        let (before, after) = (self.copy("rates_before"), self.copy("rates"));
        let since = &cut.behind;
        let mut open = Vec::new();
        if cut.months.is_empty() {
            return Ok(open);
        }
        warehouse.unfold_into(&after, &|table| self.copy(table), since, &cut.months).await?;
        for month in &cut.months {
            let live = warehouse.checksum("delivery_rates", month).await?;
            let copied = warehouse.checksum(&before, month).await?;
            let came = warehouse.checksum_of_batches(since, month).await?;
            let difference = warehouse.checksum(&format!("replay_{}_difference", self.id), month).await?;
            let renewed = warehouse.checksum(&after, month).await?;
            if live != copied.wrapping_add(came) || renewed != live.wrapping_add(difference) {
                return Err(changed(&format!("delivery_rates of {month} is not what batches say it became")));
            }
            open.push((month.clone(), live, renewed));
        }
        Ok(open)
    }

    async fn put_in_place(&self, table: &str, copy: &str, partition: &str) -> Result<(), WarehouseError> {
        let copy = self.copy(copy);
        let empty = self.rows(&format!("{copy} WHERE _partition_id = {}", text(partition))).await? == 0;
        // That nothing is left of a partition is meant, where it is so. Servers that do not know the setting do not ask for it.
        let setting = if empty { " SETTINGS allow_replace_partition_from_empty_source = 1" } else { "" };
        let sql = format!("ALTER TABLE {table} REPLACE PARTITION ID {} FROM {copy}{setting}", text(partition));
        self.warehouse.act("put a partition in place", &sql).await
    }

    async fn rows(&self, of: &str) -> Result<u64, WarehouseError> {
        self.warehouse.ask("count rows", &format!("SELECT count() FROM {of}")).await
    }

    async fn attach(&self, to: &str, from: &str, partitions: &[String]) -> Result<(), WarehouseError> {
        for partition in partitions {
            let sql = format!("ALTER TABLE {to} ATTACH PARTITION ID {} FROM {from}", text(partition));
            self.warehouse.act("copy a partition", &sql).await?;
        }
        Ok(())
    }

    /// Rows of a table that are of the replay, old ones and new ones.
    fn rows_of(&self, replay: &Replay, table: Table) -> String {
        match table {
            Table::Failures => from_ranges(&replay.ranges),
            _ => format!("({} OR startsWith(kafka_topic, 'replay/{}/'))", in_old(self.id), self.id),
        }
    }

    fn copy(&self, what: &str) -> String {
        format!("replay_{}_swap_{}_{what}", self.id, self.name)
    }
}

fn changed(what: &str) -> WarehouseError {
    WarehouseError::Replay(format!("somebody changed the tables while they were copied: {what}. Nothing was swapped; swap again"))
}

fn list(values: &[String]) -> String {
    // Never empty: a swap that touches no partition of a table compares no rows.
    if values.is_empty() { "''".to_owned() } else { values.iter().map(|v| text(v)).collect::<Vec<_>>().join(", ") }
}

fn before(positions: &[(String, i32, i64)]) -> String {
    let one = |(topic, partition, last): &(String, i32, i64)| {
        format!("kafka_topic = {} AND kafka_partition = {partition} AND kafka_offset <= {last}", text(topic))
    };
    if positions.is_empty() { "0".to_owned() } else { positions.iter().map(one).collect::<Vec<_>>().join(" OR ") }
}
