//! Kafka as the tests see it: what they write, what every topic holds, and how far a group says it is.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::LONG;

const CALL: Duration = Duration::from_secs(10);

/// A record to write.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// Where to.
    pub partition: i32,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// None: a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Kafka time, milliseconds; none: now.
    pub timestamp: Option<i64>,
    /// Names and values.
    pub headers: Vec<(String, String)>,
}

impl Outgoing {
    /// A record of partition 0.
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: Some(payload.into()), ..Self::default() }
    }

    /// The same in another partition.
    #[must_use]
    pub fn to(mut self, partition: i32) -> Self {
        self.partition = partition;
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A record as it was read.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "as Kafka names them")]
pub struct Incoming {
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
}

/// How far a group says it is with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// None: never committed, or expired.
    pub offset: Option<i64>,
    /// The string committed with it.
    pub metadata: String,
}

/// A range the sink said it will insert, and has not moved past.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the metadata")]
pub struct Intent {
    pub topic: String,
    pub partition: i32,
    pub first: i64,
    pub last: i64,
}

impl Committed {
    /// The intent open here.
    pub fn intent(&self) -> Option<Intent> {
        let metadata: Value = serde_json::from_str(&self.metadata).ok()?;
        let (first, last) = (metadata["first"].as_i64()?, metadata["last"].as_i64()?);
        let open = self.offset.is_some_and(|offset| offset <= last);
        open.then(|| Intent { topic: self.topic.clone(), partition: self.partition, first, last })
    }
}

/// A group, seen from outside.
pub struct Group {
    name: String,
    consumer: BaseConsumer,
    partitions: Vec<(String, i32)>,
}

impl Group {
    pub(crate) fn new(bootstrap: &str, name: &str, topics: &[&str]) -> Result<Self> {
        // Read uncommitted: asked for stable offsets, the broker would refuse an answer while a transaction is open.
        let consumer: BaseConsumer = client(bootstrap)
            .set("group.id", name)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_uncommitted")
            .create()?;
        let mut partitions = Vec::new();
        for topic in topics {
            let count = partition_count(&consumer, topic)?;
            partitions.extend((0..count).map(|partition| ((*topic).to_owned(), partition)));
        }
        Ok(Self { name: name.to_owned(), consumer, partitions })
    }

    /// Every partition's committed offset and metadata.
    pub fn committed(&self) -> Result<Vec<Committed>> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &self.partitions {
            list.add_partition(topic, *partition);
        }
        let list = loaded(|| self.consumer.committed_offsets(list.clone(), CALL))?;
        let committed = list.elements().into_iter().map(|element| {
            element.error()?;
            Ok(Committed {
                topic: element.topic().to_owned(),
                partition: element.partition(),
                offset: if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None },
                metadata: element.metadata().to_owned(),
            })
        });
        committed.collect()
    }

    /// Puts every partition back to where it was then, as `kafka-consumer-groups --reset-offsets --from-file` does: once the last
    /// member is gone.
    pub fn reset(&self, committed: &[Committed]) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for Committed { topic, partition, offset, .. } in committed {
            list.add_partition_offset(topic, *partition, offset.map_or(Offset::Beginning, Offset::Offset))?;
        }
        crate::until("the group to be empty", || Ok(self.consumer.commit(&list, CommitMode::Sync)?))
    }

    /// Leaves one partition as it was then, with its metadata: once the last member is gone.
    pub fn leave(&self, committed: &Committed) -> Result<()> {
        let mut list = TopicPartitionList::new();
        let offset = Offset::Offset(committed.offset.context("nothing was committed")?);
        list.add_partition_offset(&committed.topic, committed.partition, offset)?;
        list.find_partition(&committed.topic, committed.partition).context("just added")?.set_metadata(&committed.metadata);
        crate::until("the group to be empty", || Ok(self.consumer.commit(&list, CommitMode::Sync)?))
    }

    /// The open intents of these partitions.
    pub fn intents(&self, partitions: &[(String, i32)]) -> Result<Vec<Intent>> {
        let committed = self.committed()?;
        let ours =
            committed.iter().filter(|c| partitions.iter().any(|(topic, number)| *topic == c.topic && *number == c.partition));
        Ok(ours.filter_map(Committed::intent).collect())
    }

    /// Every open intent.
    pub fn open_intents(&self) -> Result<Vec<Intent>> {
        self.intents(&self.partitions)
    }

    /// What the group coordinator has assigned to a static member.
    pub fn assigned(&self, instance: &str) -> Result<Vec<(String, i32)>> {
        let groups = loaded(|| self.consumer.fetch_group_list(Some(&self.name), CALL))?;
        // The broker makes a static member's id of its instance id.
        let members = groups.groups().iter().flat_map(|group| group.members());
        let member = members.into_iter().find(|member| member.id().starts_with(&format!("{instance}-")));
        let Some(bytes) = member.and_then(|member| member.assignment()) else { return Ok(Vec::new()) };
        assignment(bytes).context("an assignment that cannot be read")
    }

    /// Records between what is settled and the stable ends of its topics.
    pub fn behind(&self, kafka: &Kafka) -> Result<u64> {
        let mut ends: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (topic, _) in &self.partitions {
            if !ends.contains_key(topic.as_str()) {
                ends.insert(topic, kafka.ends(topic, true)?);
            }
        }
        let committed = self.committed()?;
        let left = committed.iter().map(|c| ends[c.topic.as_str()][c.partition as usize] - c.offset.unwrap_or(0));
        Ok(left.map(|left| u64::try_from(left).unwrap_or(0)).sum())
    }

    /// Partitions whose next read_committed record is not settled yet, said in words; none: all is settled.
    pub fn unsettled(&self, kafka: &Kafka) -> Result<Vec<String>> {
        let committed = self.committed()?;
        let open = committed.iter().filter(|c| !c.metadata.is_empty()).map(|c| format!("{c:?}")).collect::<Vec<_>>();
        if !open.is_empty() {
            return Ok(open);
        }
        let from: Vec<_> = committed.iter().map(|c| (c.topic.as_str(), c.partition, c.offset.unwrap_or(0))).collect();
        let mut waiting = Vec::new();
        kafka.read(&from, |topic, record| {
            waiting.push(format!("{topic}/{} at {}", record.partition, record.offset));
            false
        })?;
        Ok(waiting)
    }
}

/// The broker.
#[derive(Clone)]
pub struct Kafka {
    pub(crate) bootstrap: String,
}

impl Kafka {
    /// Writes records and returns their offsets, in order.
    pub fn write(&self, topic: &str, records: &[Outgoing]) -> Result<Vec<i64>> {
        let before = self.ends(topic, false)?;
        let producer: BaseProducer = client(&self.bootstrap)
            .set("enable.idempotence", "true")
            .set("message.max.bytes", "67108864")
            .set("queue.buffering.max.messages", "1000000")
            .create()?;
        let mut next = before;
        let mut offsets = Vec::new();
        for record in records {
            let mut out = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition);
            out.key = record.key.as_deref();
            out.payload = record.payload.as_deref();
            out.timestamp = record.timestamp;
            if !record.headers.is_empty() {
                let headers = record.headers.iter().map(|(key, value)| Header { key, value: Some(value) });
                out.headers = Some(headers.fold(OwnedHeaders::new(), OwnedHeaders::insert));
            }
            producer.send(out).map_err(|(e, _)| e)?;
            let end = next.get_mut(record.partition as usize).context("no such partition")?;
            offsets.push(*end);
            *end += 1;
        }
        producer.flush(LONG)?;
        anyhow::ensure!(self.ends(topic, false)? == next, "not every record arrived, or somebody else writes to {topic}");
        Ok(offsets)
    }

    /// Writes records in one transaction: a mark follows the last one of each partition.
    pub fn write_in_a_transaction(&self, topic: &str, records: &[Outgoing]) -> Result<()> {
        let producer: BaseProducer = client(&self.bootstrap).set("transactional.id", format!("tests of {topic}")).create()?;
        producer.init_transactions(LONG)?;
        producer.begin_transaction()?;
        for record in records {
            let mut out = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition);
            out.payload = record.payload.as_deref();
            producer.send(out).map_err(|(e, _)| e)?;
        }
        Ok(producer.commit_transaction(LONG)?)
    }

    /// Everything read_committed sees of a topic.
    pub fn read_all(&self, topic: &str) -> Result<Vec<Incoming>> {
        let consumer = self.reader()?;
        let partitions = partition_count(&consumer, topic)?;
        let lows =
            (0..partitions).map(|p| Ok((topic, p, consumer.fetch_watermarks(topic, p, CALL)?.0))).collect::<Result<Vec<_>>>()?;
        let mut records = Vec::new();
        self.read(&lows, |_, record| {
            records.push(record);
            true
        })?;
        Ok(records)
    }

    /// Reads partitions from offsets to where they end now, until `each` has enough.
    fn read(&self, from: &[(&str, i32, i64)], mut each: impl FnMut(&str, Incoming) -> bool) -> Result<()> {
        let consumer = self.reader()?;
        let mut list = TopicPartitionList::new();
        for (topic, partition, offset) in from {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        consumer.assign(&list)?;
        let mut left = from.len();
        while left > 0 {
            match consumer.poll(CALL) {
                Some(Ok(message)) => {
                    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
                    let record = Incoming {
                        partition: message.partition(),
                        offset: message.offset(),
                        timestamp: message.timestamp().to_millis().unwrap_or(-1),
                        key: message.key().map(<[u8]>::to_vec),
                        payload: message.payload().map(<[u8]>::to_vec),
                        headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
                    };
                    if !each(message.topic(), record) {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => left -= 1,
                Some(Err(e)) => return Err(e.into()),
                None => bail!("nothing came for {CALL:?} from {from:?}"),
            }
        }
        Ok(())
    }

    fn reader(&self) -> Result<BaseConsumer> {
        let mut client = client(&self.bootstrap);
        client.set("group.id", "tests").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        Ok(client.set("isolation.level", "read_committed").set("auto.offset.reset", "error").create()?)
    }

    /// The end of each partition; `stable`: where the oldest open transaction begins.
    pub fn ends(&self, topic: &str, stable: bool) -> Result<Vec<i64>> {
        let level = if stable { "read_committed" } else { "read_uncommitted" };
        let consumer: BaseConsumer = client(&self.bootstrap).set("isolation.level", level).create()?;
        (0..partition_count(&consumer, topic)?).map(|p| Ok(consumer.fetch_watermarks(topic, p, CALL)?.1)).collect()
    }

    /// Deletes the records of a partition before an offset, as retention does.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        let admin: AdminClient<DefaultClientContext> = client(&self.bootstrap).create()?;
        for element in block_on(admin.delete_records(&list, &options()))??.elements() {
            element.error()?;
        }
        Ok(())
    }

    /// Gives a topic more partitions: so many in all.
    pub fn partitions(&self, topic: &str, count: usize) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = client(&self.bootstrap).create()?;
        for result in block_on(admin.create_partitions(&[NewPartitions::new(topic, count)], &options()))?? {
            result.map_err(|(topic, e)| anyhow::anyhow!("{topic}: {e}"))?;
        }
        Ok(())
    }

    /// Sets how large a record a topic takes, bytes; its other settings are the broker's again.
    pub fn largest_record(&self, topic: &str, bytes: usize) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = client(&self.bootstrap).create()?;
        let bytes = bytes.to_string();
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", &bytes);
        for result in block_on(admin.alter_configs(&[config], &options()))?? {
            result.map_err(|(resource, e)| anyhow::anyhow!("{resource:?}: {e}"))?;
        }
        Ok(())
    }

    /// Deletes a topic; returns once nobody knows it any more.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = client(&self.bootstrap).create()?;
        for result in block_on(admin.delete_topics(&[topic], &options()))?? {
            result.map_err(|(topic, e)| anyhow::anyhow!("{topic}: {e}"))?;
        }
        let consumer = self.reader()?;
        crate::until("a topic to be gone", || {
            anyhow::ensure!(partition_count(&consumer, topic).is_err(), "{topic} is still there");
            Ok(())
        })
    }

    /// Deletes a group's offsets, as their expiry does. The broker refuses while it thinks that the group has members.
    pub fn delete_group(&self, group: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = client(&self.bootstrap).create()?;
        crate::until("the broker to delete a group", || {
            let results = block_on(admin.delete_groups(&[group], &options()))??;
            let failed: Option<(String, RDKafkaErrorCode)> = results.into_iter().find_map(Result::err);
            failed.map_or(Ok(()), |(group, e)| bail!("{group}: {e}"))
        })
    }
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", bootstrap).set("broker.address.family", "v4");
    client.set("fetch.queue.backoff.ms", "5");
    client
}

/// Asks again while the broker, just started, does not know yet who coordinates a group.
fn loaded<T>(mut ask: impl FnMut() -> Result<T, KafkaError>) -> Result<T> {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let passing = [Some(CoordinatorLoadInProgress), Some(CoordinatorNotAvailable), Some(NotCoordinator)];
    crate::until("the group coordinator", || match ask() {
        Err(e) if passing.contains(&e.rdkafka_error_code()) => Err(e.into()),
        answer => Ok(answer),
    })?
    .map_err(Into::into)
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(CALL)).request_timeout(Some(CALL))
}

fn block_on<T>(what: impl Future<Output = T>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(what))
}

fn partition_count(consumer: &BaseConsumer, topic: &str) -> Result<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), CALL)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    anyhow::ensure!(partitions > 0, "there is no topic {topic}");
    Ok(i32::try_from(partitions)?)
}

/// An assignment of the consumer protocol: version, then topics with their partitions.
fn assignment(bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    let mut rest = bytes.get(2..)?;
    let number = |rest: &mut &[u8]| {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        *rest = tail;
        Some(i32::from_be_bytes(*head))
    };
    let mut assigned = Vec::new();
    for _ in 0..number(&mut rest)? {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let (topic, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = tail;
        for _ in 0..number(&mut rest)? {
            assigned.push((String::from_utf8(topic.to_vec()).ok()?, number(&mut rest)?));
        }
    }
    Some(assigned)
}
