//! Who writes here: the pipeline of one name from one Kafka cluster, as one of its shards. Another of that name is refused.

use clickhouse::Row;
use serde::Deserialize;

use crate::client::Warehouse;
use crate::error::WarehouseError;

/// Whose rows of a pipeline's name these are.
#[derive(Row, Deserialize)]
pub(crate) struct Owner {
    kafka_cluster: String,
    /// Which shard of it this is.
    pub(crate) shard: u32,
}

impl Warehouse {
    /// Makes sure that this pipeline's rows come from the Kafka cluster `cluster` alone, `now` in milliseconds since the epoch. Where they
    /// come from nowhere yet, this is its shard of this number from now on.
    ///
    /// Two that start at one moment may both leave a row; both then read the same owner, and one is refused.
    pub async fn claim(&self, cluster: &str, shard: u32, now: i64) -> Result<(), WarehouseError> {
        if self.owner().await?.is_none() {
            let claim = self
                .client()
                .query("INSERT INTO pipelines (pipeline, kafka_cluster, since, shard) SELECT ?, ?, fromUnixTimestamp64Milli(?, 'UTC'), ?")
                .bind(&self.settings.pipeline)
                .bind(cluster)
                .bind(now)
                .bind(shard);
            self.timed("claim the pipeline's name", claim.execute()).await?;
        }
        match self.owner().await? {
            Some(owner) if owner.kafka_cluster != cluster => Err(WarehouseError::Foreign {
                database: self.database().to_owned(),
                pipeline: self.settings.pipeline.clone(),
                owner: owner.kafka_cluster,
                cluster: cluster.to_owned(),
            }),
            Some(owner) if owner.shard != shard => Err(WarehouseError::Shards(format!(
                "{} was made shard {} of this pipeline by another process just now: give all of them the same [[clickhouse.shards]]",
                self.url(),
                owner.shard
            ))),
            _ => Ok(()),
        }
    }

    pub(crate) async fn owner(&self) -> Result<Option<Owner>, WarehouseError> {
        let query = self
            .client()
            .query("SELECT kafka_cluster, shard FROM pipelines WHERE pipeline = ? ORDER BY since, kafka_cluster, shard LIMIT 1")
            .bind(&self.settings.pipeline);
        self.timed("read pipelines", query.fetch_optional::<Owner>()).await
    }
}
