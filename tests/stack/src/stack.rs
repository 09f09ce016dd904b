//! Owns the pair: both servers, brought up side by side. It must not hold any state besides them.

use std::thread;

use anyhow::{Result, anyhow};

use crate::{ClickHouse, ClickHouseOptions, Kafka, KafkaOptions};

/// Kafka and ClickHouse, started together and stopped together (when this is dropped).
#[derive(Debug)]
pub struct Stack {
    /// The broker.
    pub kafka: Kafka,
    /// The warehouse.
    pub clickhouse: ClickHouse,
}

impl Stack {
    /// Starts both in parallel and returns once both answer.
    pub fn start() -> Result<Self> {
        Self::start_with(KafkaOptions::default(), ClickHouseOptions::default())
    }

    /// Like [`Stack::start`], with options for each.
    pub fn start_with(kafka: KafkaOptions, clickhouse: ClickHouseOptions) -> Result<Self> {
        let (kafka, clickhouse) = thread::scope(|scope| {
            let kafka = scope.spawn(|| Kafka::start_with(kafka));
            let clickhouse = ClickHouse::start_with(clickhouse);
            (kafka.join(), clickhouse)
        });
        let kafka = kafka.map_err(|_| anyhow!("the thread that starts Kafka panicked"))?;
        Ok(Self { kafka: kafka?, clickhouse: clickhouse? })
    }

    /// Stops both and removes their data.
    pub fn stop(self) -> Result<()> {
        self.kafka.stop()?;
        self.clickhouse.stop()
    }
}
