//! The fence of a swap: a constraint that no row meets, on the tables the sink inserts into. Why and when it stands is said in
//! [`swap`](super::swap).

use std::time::Duration;

use super::text;
use crate::client::Warehouse;
use crate::error::WarehouseError;

/// An insert that began before the fence may take this long. The sink's patience with a fence is longer.
const WRITERS_END: Duration = Duration::from_secs(90);
/// The tables that are inserted into.
const FENCED: [&str; 2] = ["failures", "batches"];

impl Warehouse {
    /// From its return until it is lifted, nothing is inserted. Refused where another swap has its fence up.
    pub(super) async fn put_up_fence(&self, fence: &str) -> Result<(), WarehouseError> {
        for table in FENCED {
            let sql = format!("ALTER TABLE {table} ADD CONSTRAINT IF NOT EXISTS {fence} CHECK kafka_offset < -1");
            self.act("put up the fence", &sql).await?;
        }
        // Looked for behind one's own: of two at once, at least one sees the other.
        if let Some((_, other)) = self.fences().await?.into_iter().find(|(_, other)| other != fence) {
            return Err(WarehouseError::Replay(format!("{other}: another swap is under way; wait for it")));
        }
        self.wait_for_writers().await
    }

    /// Every fence there is, by table.
    pub(super) async fn fences(&self) -> Result<Vec<(String, String)>, WarehouseError> {
        let sql = format!(
            "SELECT name, arrayJoin(arrayDistinct(extractAll(create_table_query, 'bounceflow_replay_[0-9]+_swaps_[0-9a-z]+'))) AS fence
            FROM system.tables WHERE database = {} AND name IN ('failures', 'batches')",
            text(self.database())
        );
        self.ask_all("look for fences", &sql).await
    }

    /// Lets inserts pass again.
    pub(super) async fn lift_fences(&self, id: u32) -> Result<(), WarehouseError> {
        self.lift(&format!("bounceflow_replay_{id}_swaps_")).await
    }

    /// Those whose names begin so.
    pub(super) async fn lift(&self, prefix: &str) -> Result<(), WarehouseError> {
        for (table, fence) in self.fences().await? {
            if fence.starts_with(prefix) {
                self.act("lift the fence", &format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {fence}")).await?;
            }
        }
        Ok(())
    }

    /// Waits until every insert and change that runs now has ended: those that begin later know the fence.
    pub(super) async fn wait_for_writers(&self) -> Result<(), WarehouseError> {
        let sql = format!(
            "SELECT query_id FROM system.processes WHERE query_kind IN ('Insert', 'Alter') AND current_database = {}
                AND (position(query, 'failures') > 0 OR position(query, 'batches') > 0)",
            text(self.database())
        );
        let mut running: Vec<String> = self.ask_all("look for running inserts", &sql).await?;
        let waited = async {
            while !running.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let still: Vec<String> = self.ask_all("look for running inserts", &sql).await?;
                running.retain(|query| still.contains(query));
            }
            Ok(())
        };
        match tokio::time::timeout(WRITERS_END, waited).await {
            Ok(end) => end,
            Err(_) => Err(WarehouseError::Replay(format!(
                "inserts have been running for {} s and do not end (see system.processes): swap again when they have",
                WRITERS_END.as_secs()
            ))),
        }
    }
}
