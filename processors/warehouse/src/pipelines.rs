//! Who writes here: the pipeline of one name from one Kafka cluster. A second one of that name is refused.

use crate::client::Warehouse;
use crate::error::WarehouseError;

impl Warehouse {
    /// Makes sure that this pipeline's rows come from the Kafka cluster `cluster` alone, `now` in milliseconds since the epoch.
    ///
    /// Two that start at one moment may both leave a row; both then read the same owner, and one is refused.
    pub async fn claim(&self, cluster: &str, now: i64) -> Result<(), WarehouseError> {
        if self.owner().await?.is_none() {
            let claim = self
                .client
                .query("INSERT INTO pipelines SELECT ?, ?, fromUnixTimestamp64Milli(?, 'UTC')")
                .bind(&self.settings.pipeline)
                .bind(cluster)
                .bind(now);
            self.timed("claim the pipeline's name", claim.execute()).await?;
        }
        match self.owner().await? {
            Some(owner) if owner != cluster => Err(WarehouseError::Foreign {
                database: self.database().to_owned(),
                pipeline: self.settings.pipeline.clone(),
                owner,
                cluster: cluster.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    async fn owner(&self) -> Result<Option<String>, WarehouseError> {
        let query = self
            .client
            .query("SELECT kafka_cluster FROM pipelines WHERE pipeline = ? ORDER BY since, kafka_cluster LIMIT 1")
            .bind(&self.settings.pipeline);
        self.timed("read pipelines", query.fetch_optional::<String>()).await
    }
}
