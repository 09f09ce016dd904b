//! What Kafka holds: how many records came in, and the dead letters byte for byte.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::expected::Checksum;

const CALL: Duration = Duration::from_secs(10);

pub(crate) struct Topics {
    consumer: BaseConsumer,
}

impl Topics {
    pub(crate) fn new(bootstrap: &str) -> Result<Self> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", bootstrap).set("broker.address.family", "v4").set("group.id", "bounceflow-demo");
        client.set("enable.auto.commit", "false").set("enable.partition.eof", "true").set("isolation.level", "read_committed");
        Ok(Self { consumer: client.create().context("Kafka client")? })
    }

    /// Records in a topic that is not written in transactions (those leave markers among the offsets).
    pub(crate) fn records(&self, topic: &str) -> Result<u64> {
        let ends = self.partitions(topic)?.into_iter().map(|partition| {
            let (low, high) = self.consumer.fetch_watermarks(topic, partition, CALL)?;
            Ok(u64::try_from(high - low)?)
        });
        ends.sum()
    }

    /// Reads a topic from its beginning to its end.
    pub(crate) fn checksum(&self, topic: &str) -> Result<Checksum> {
        let mut list = TopicPartitionList::new();
        for partition in self.partitions(topic)? {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        self.consumer.assign(&list)?;
        let (mut left, mut count, mut sum) = (list.count(), 0, 0_u64);
        while left > 0 {
            match self.consumer.poll(CALL) {
                Some(Ok(message)) => {
                    count += 1;
                    sum = sum.wrapping_add(fnv1a(message.payload().unwrap_or_default()));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => left -= 1,
                Some(Err(e)) => return Err(e).with_context(|| format!("reading {topic}")),
                None => bail!("reading {topic}: nothing came for {CALL:?}"),
            }
        }
        self.consumer.unassign()?;
        Ok(Checksum { count, checksum: format!("{sum:016x}") })
    }

    fn partitions(&self, topic: &str) -> Result<Vec<i32>> {
        let metadata = self.consumer.fetch_metadata(Some(topic), CALL).context("Kafka does not answer")?;
        let partitions = metadata.topics().first().map(|topic| topic.partitions().iter().map(|p| p.id()).collect::<Vec<_>>());
        partitions.filter(|partitions| !partitions.is_empty()).with_context(|| format!("there is no topic {topic}"))
    }
}

/// 64-bit FNV-1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
