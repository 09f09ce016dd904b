//! A replay and those who were erased: they stay out of what is counted again, and nobody is erased while a replay holds rows that an
//! erasure does not reach.
//!
//! What is left out is noted in `replay_N_erased`, and in `erased_rows` once the replay is in place: it was counted and is rightly not
//! stored. Counts stay: they are about nobody.

use super::{Replay, State, of, text};
use crate::block::Table;
use crate::client::Warehouse;
use crate::error::WarehouseError;
use crate::shards::Shards;

const POSITION: &str = "kafka_topic, kafka_partition, kafka_offset";

impl Warehouse {
    /// Takes failures of those who were erased since their record came out of what a replay counted; how many there are of them by now.
    /// Mail that was sent to them later stays.
    pub(super) async fn leave_out_erased(&self, id: u32) -> Result<u64, WarehouseError> {
        self.make_erased(id).await?;
        let failures = of(id, Table::Failures);
        // By hash alone: whatever the key is called.
        let find = format!(
            "INSERT INTO replay_{id}_erased SELECT {POSITION} FROM {failures} AS failure
                INNER JOIN (SELECT recipient_hash, max(erased_at) AS erased FROM erased_recipients GROUP BY recipient_hash) AS person
                USING (recipient_hash) WHERE ingested_time <= erased"
        );
        self.act("find who was erased", &find).await?;
        let erased: u64 =
            self.ask("count who was erased", &format!("SELECT uniqExact({POSITION}) FROM replay_{id}_erased")).await?;
        if erased > 0 {
            let sql = format!("ALTER TABLE {failures} DELETE WHERE ({POSITION}) IN (SELECT {POSITION} FROM replay_{id}_erased)");
            self.act("leave out who was erased", &sql).await?;
        }
        Ok(erased)
    }

    /// Notes what a replay that is in place left out.
    pub(super) async fn note_left_out(&self, id: u32) -> Result<(), WarehouseError> {
        self.make_erased(id).await?;
        let sql = format!("INSERT INTO erased_rows SELECT DISTINCT {POSITION} FROM replay_{id}_erased");
        self.act("note who was left out", &sql).await
    }

    async fn make_erased(&self, id: u32) -> Result<(), WarehouseError> {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS replay_{id}_erased
                (kafka_topic LowCardinality(String), kafka_partition Int32, kafka_offset Int64)
            ENGINE = MergeTree ORDER BY ({POSITION})
            COMMENT 'Positions of failures that bounceflow replay {id} leaves out: who they are about was erased'"
        );
        self.act("make the tables of a replay", &sql).await
    }

    async fn check_no_replay(&self) -> Result<(), WarehouseError> {
        let sql = format!(
            "SELECT DISTINCT toUInt32(extract(name, '^replay_([0-9]+)_')) FROM system.tables WHERE database = {}
                AND match(name, '^replay_[0-9]+_(swap_[0-9a-z]+_)?failures$')",
            text(self.database())
        );
        let holding: Vec<u32> = self.ask_all("look for tables of replays", &sql).await?;
        for replay in self.replays().await? {
            if let Some(way_on) = way_on(&replay, holding.contains(&replay.id)) {
                return Err(WarehouseError::Replay(format!(
                    "replay {} is {}, and its tables hold failures which an erasure does not reach and a swap would bring back: \
                     {way_on}. Then erase again",
                    replay.id,
                    replay.state.as_str()
                )));
            }
        }
        Ok(())
    }
}

impl Shards {
    /// Refused while a replay is neither swapped in nor given up, or has left tables behind: they hold rows of people.
    pub async fn check_no_replay(&self) -> Result<(), WarehouseError> {
        for shard in self.iter() {
            shard.writable().await?.check_no_replay().await?;
        }
        Ok(())
    }
}

/// What is to be done about a replay before anybody is erased; `holds`: its tables are there.
fn way_on(replay: &Replay, holds: bool) -> Option<String> {
    let id = replay.id;
    let begun = replay.swap.as_ref().is_some_and(|swap| swap.begun);
    let discard = format!("give it up with `bounceflow replay discard {id}`");
    Some(match replay.state {
        State::Planning => discard,
        State::Swapping if begun => format!("let it go on with `bounceflow replay resume {id}`"),
        State::Counting | State::Swapping => format!("let it go on with `bounceflow replay resume {id}`, or {discard}"),
        State::Counted => format!("put it in place with `bounceflow replay swap {id}`, or {discard}"),
        State::Swapped if holds => format!("remove what is left of it with `bounceflow replay resume {id}`"),
        State::Discarded if holds => format!("remove what is left of it with `bounceflow replay discard {id}`"),
        State::Swapped | State::Discarded => return None,
    })
}
