//! Kafka clients as the loops use them: a consumer whose rebalances are values, a producer whose transactions have three ends.
//! (Long: all that is said to librdkafka is said here.)
//!
//! This file alone names librdkafka's callbacks and its client properties. A callback only sets flags: the loop that polls
//! learns of a rebalance as an [`Event`] and acts outside of the callback.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::{RDKafkaConfRes, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use crate::health::{Loop, STUCK};
use crate::lag::Unread;
use crate::stop::Stop;

/// How long one call to a broker may take before it is given up or repeated.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// `send_offsets_to_transaction` that takes longer has lost its request, and never returns: where the group's coordinator died, the client
/// keeps no time (librdkafka issues 5456 and 5511). Kafka has ended the transaction long before.
const LOST_CALL: Duration = Duration::from_secs(25);

/// For a call whose answer only helps the next try.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);

/// Brokers that let nobody in for this long, from the first refusal on, are not waited for: the process ends and says why.
const REFUSED_FOR: Duration = Duration::from_secs(15);

/// What a client has to say has been taken once nothing came for this long. (Without any wait, a poll ends at its own first event.)
const EVENTS: Duration = Duration::from_millis(20);

/// A transaction left open by a dead process blocks readers for this long; the same `transactional.id` coming back ends it at once.
pub const TRANSACTION_TIMEOUT_MS: &str = "10000";

/// The largest record bounceflow writes, so that whatever it could read it can dead-letter. Bytes.
const MAX_RECORD_BYTES: &str = "67108864";

/// A group that is only named because the client wants one: nothing is committed, nobody joins.
const READER: &str = "bounceflow.reader";

/// Reading speed hangs on these: librdkafka's own backoff of 1000 ms stalls a fast reader for a second at a time.
const CONSUMER_DEFAULTS: &[(&str, &str)] = &[
    ("fetch.queue.backoff.ms", "5"),
    ("queued.max.messages.kbytes", "65536"),
    ("session.timeout.ms", "15000"),
    // Members hear of a rebalance by it, and all wait for the last one: with librdkafka's 3000 whoever joins stood still for 3 s.
    ("heartbeat.interval.ms", "1000"),
    ("statistics.interval.ms", "5000"),
];

/// Counting exactly once stands on these.
const CONSUMER_FIXED: &[(&str, &str)] = &[
    // With offsets of a transaction pending, a read_uncommitted consumer is handed the old offset and counts twice.
    ("isolation.level", "read_committed"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    // Eager on purpose: a rebalance takes everything away, so there is one path to start and one to drop.
    ("partition.assignment.strategy", "range"),
];

const PRODUCER_DEFAULTS: &[(&str, &str)] = &[
    ("linger.ms", "5"),
    ("compression.type", "lz4"),
    ("queue.buffering.max.kbytes", "131072"),
    ("queue.buffering.max.messages", "500000"),
];

/// bounceflow's defaults, then the operator's properties, then what must be so.
fn client_config(properties: &BTreeMap<String, String>, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "bounceflow").set("log.connection.close", "false");
    let operators = properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in defaults.iter().copied().chain(operators).chain(fixed.iter().copied()) {
        config.set(name, value);
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// The settings of every consumer.
pub fn consumer_config(properties: &BTreeMap<String, String>, group: &str) -> ClientConfig {
    let mut config = client_config(properties, CONSUMER_DEFAULTS, CONSUMER_FIXED);
    config.set("group.id", group);
    config
}

/// The settings of every producer.
fn producer_config(properties: &BTreeMap<String, String>, transactional_id: &str) -> ClientConfig {
    let fixed = [
        ("transactional.id", transactional_id),
        ("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS),
        ("message.max.bytes", MAX_RECORD_BYTES),
    ];
    client_config(properties, PRODUCER_DEFAULTS, &fixed)
}

/// What the client library has against a property by itself. Its value may be a secret: it is not repeated.
pub fn mistake_of(property: &str, value: &str) -> Option<String> {
    let mut alone = ClientConfig::new();
    alone.set(property, value);
    let (result, why) = match alone.create_native_config() {
        Ok(_) => return None,
        Err(KafkaError::ClientConfig(result, why, ..)) => (result, why),
        Err(_) => (RDKafkaConfRes::RD_KAFKA_CONF_INVALID, String::new()),
    };
    Some(if result == RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN {
        "is no property of librdkafka".to_owned()
    } else if let Some((_, range)) = why.split_once("outside allowed range ") {
        format!("is not within {}", range.trim())
    } else if why.starts_with("Java ") {
        why
    } else {
        "has a value that librdkafka does not take".to_owned()
    })
}

/// What the client library has against properties that are sound one by one: a consumer and a producer are made as the roles make them.
///
/// They call nobody. The files that properties of TLS name are not read: those may come later than the configuration.
pub fn mistakes_of_clients(properties: &BTreeMap<String, String>) -> Vec<String> {
    let mut properties = properties.clone();
    properties.remove("bootstrap.servers");
    properties.remove("metadata.broker.list");
    if let Some(protocol) = properties.get_mut("security.protocol") {
        let sasl = protocol.trim().to_ascii_lowercase().starts_with("sasl");
        *protocol = if sasl { "sasl_plaintext" } else { "plaintext" }.to_owned();
    }
    let mut config = consumer_config(&properties, READER);
    config.set("group.instance.id", READER);
    let consumer: Result<BaseConsumer<Context>, KafkaError> = BaseConsumer::from_config_and_context(&config, Context::quiet());
    let config = producer_config(&properties, READER);
    let producer: Result<BaseProducer<Context>, KafkaError> = BaseProducer::from_config_and_context(&config, Context::quiet());
    let said = [consumer.err(), producer.err()].into_iter().flatten().map(|error| match error {
        KafkaError::ClientCreation(why) => why,
        error => error.to_string(),
    });
    // Nobody wrote that one: it says what the others are measured by.
    let timeout = "`transaction.timeout.ms`";
    let mut mistakes: Vec<String> =
        said.map(|why| why.replace(timeout, &format!("{timeout} ({TRANSACTION_TIMEOUT_MS})"))).collect();
    mistakes.dedup();
    mistakes
}

/// Whether a client can be made of these properties and of the files they name: why not.
pub fn can_be_made(properties: &BTreeMap<String, String>) -> Result<(), String> {
    let made: Result<BaseConsumer<Context>, KafkaError> =
        BaseConsumer::from_config_and_context(&consumer_config(properties, READER), Context::quiet());
    made.map(drop).map_err(|error| match error {
        KafkaError::ClientCreation(why) => why,
        error => error.to_string(),
    })
}

/// A broker does not let us in, or we do not trust it: nothing changes that but another secret or another certificate.
#[derive(Clone, Debug, thiserror::Error)]
#[error("Kafka does not let us in, or is not who it must be: {why}. Next: {}", next(.why))]
pub struct Refused {
    /// The broker, and what was said.
    why: String,
}

/// What a person does about it. The client library has no code for it, but words.
fn next(why: &str) -> &'static str {
    if why.contains("broker certificate could not be verified") || why.contains("certificate verify failed") {
        "look whether the broker's certificate is signed by an authority of `ssl.ca.location`, names the host, and has not expired"
    } else if why.contains("SSL") || why.starts_with("ssl://") {
        "look whether `ssl.certificate.location` holds a certificate of ours that the broker trusts and that has not expired, and whether \
         the port speaks TLS"
    } else {
        "check `sasl.username`, `sasl.mechanism` and the password (`sasl.password` under [kafka_files]) against the user the brokers know"
    }
}

/// What a poll of the consumer brought.
pub enum Event<'a> {
    /// A record.
    Record(BorrowedMessage<'a>),
    /// The end of this partition was reached.
    End(i32),
    /// The group gave this consumer partitions. Nothing is read until [`Consumer::start`].
    Assigned(TopicPartitionList),
    /// All partitions were taken away.
    Revoked,
    /// A committed or asked-for offset is not in the log (any more).
    OffsetGone,
    /// Something went wrong; the client goes on by itself unless it is fatal.
    Error(KafkaError),
    /// Nothing in the time given.
    Idle,
}

/// A consumer whose rebalances are events.
pub struct Consumer {
    inner: BaseConsumer<Context>,
}

/// Where a partition was left: the committed offset and the metadata committed with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Next offset to read; none where the group never committed, or its offsets expired.
    pub offset: Option<i64>,
    /// Metadata string.
    pub metadata: String,
    /// First offset the log still holds.
    pub low: i64,
    /// End of the log.
    pub high: i64,
}

impl Consumer {
    /// Joins the group of a role as the static member `instance`.
    pub fn join(
        properties: &BTreeMap<String, String>,
        role: &'static str,
        group: &str,
        instance: &str,
        topics: &[&str],
    ) -> Result<Self, KafkaError> {
        let mut config = consumer_config(properties, group);
        config.set("group.instance.id", instance);
        let inner = BaseConsumer::from_config_and_context(&config, Context::of(role))?;
        inner.subscribe(topics)?;
        Ok(Self { inner })
    }

    /// Of a group that nobody joins: it only keeps places. What is read is said by [`start`](Self::start).
    pub fn alone(properties: &BTreeMap<String, String>, role: &'static str, group: &str) -> Result<Self, KafkaError> {
        let config = consumer_config(properties, group);
        Ok(Self { inner: BaseConsumer::from_config_and_context(&config, Context::of(role))? })
    }

    /// Waits up to `timeout` for the next event.
    pub fn poll(&self, timeout: Duration) -> Event<'_> {
        let polled = self.inner.poll(timeout);
        let context = self.inner.context();
        if context.rebalanced.load(Ordering::Relaxed) {
            return context.take_rebalance();
        }
        match polled {
            Some(Ok(message)) => Event::Record(message),
            Some(Err(KafkaError::PartitionEOF(partition))) => Event::End(partition),
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::NoOffset,
            ))) => Event::OffsetGone,
            Some(Err(e)) => Event::Error(e),
            None => Event::Idle,
        }
    }

    /// The membership to name in transactions. Capture it when partitions are assigned, never later: a stale one is refused.
    pub fn group_metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.inner.group_metadata()
    }

    /// Where the group left the partitions, and what their logs hold.
    pub fn committed(&self, partitions: &[(String, i32)]) -> Result<Vec<Committed>, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        let list = self.inner.committed_offsets(list, CALL_TIMEOUT)?;
        list.elements()
            .iter()
            .map(|element| {
                element.error()?;
                let (low, high) = self.bounds(element.topic(), element.partition())?;
                let offset = match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                };
                Ok(Committed {
                    topic: element.topic().to_owned(),
                    partition: element.partition(),
                    offset,
                    metadata: element.metadata().to_owned(),
                    low,
                    high,
                })
            })
            .collect()
    }

    /// The first offset of a partition at or after a time, in milliseconds since the epoch; the end of the log where there is none.
    pub fn offset_at(&self, topic: &str, partition: i32, time: i64) -> Result<Offset, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(time))?;
        let list = self.inner.offsets_for_times(list, CALL_TIMEOUT)?;
        Ok(list.elements().first().map_or(Offset::End, |element| element.offset()))
    }

    /// The end of a partition's log.
    pub fn end_of(&self, topic: &str, partition: i32) -> Result<i64, KafkaError> {
        Ok(self.bounds(topic, partition)?.1)
    }

    /// What a partition's log holds: its first offset, and its end.
    pub fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
        self.inner.fetch_watermarks(topic, partition, CALL_TIMEOUT).inspect_err(|_| {
            // The client looks where the partition is into what it knows of the topic, and asks nobody. A broker that has just started
            // may have told it of some partitions only: without asking again, it would say "Unknown partition" for minutes.
            drop(self.inner.fetch_metadata(Some(topic), REFRESH_TIMEOUT));
        })
    }

    /// How many partitions a topic has; 0: there is no such topic.
    pub fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        let metadata = self.inner.fetch_metadata(Some(topic), CALL_TIMEOUT)?;
        Ok(metadata.topics().first().map_or(0, |t| t.partitions().len()) as i32)
    }

    /// Of stretches of a topic's log (partition, first offset, end), the partitions of those that hold no record, only marks of
    /// transactions and what was aborted; what is not known within `patience` is not among them. Nothing else may be read by this consumer,
    /// before or after.
    pub fn without_record(&self, topic: &str, stretches: &[(i32, i64, i64)], patience: Duration) -> anyhow::Result<Vec<i32>> {
        let positions: Vec<_> = stretches.iter().map(|(partition, from, _)| (topic.to_owned(), *partition, *from)).collect();
        self.start(&positions)?;
        let (mut open, mut empty) = (stretches.to_vec(), Vec::new());
        let since = Instant::now();
        while !open.is_empty() && since.elapsed() < patience {
            match self.poll(Duration::from_millis(100)) {
                Event::Record(record) => open.retain(|(partition, _, end)| {
                    let found = *partition == record.partition();
                    if found && record.offset() >= *end {
                        empty.push(*partition);
                    }
                    !found
                }),
                Event::End(ended) => open.retain(|(partition, ..)| {
                    if *partition == ended {
                        empty.push(ended);
                    }
                    *partition != ended
                }),
                Event::OffsetGone => anyhow::bail!("{topic}: records were deleted while it was read; run this again"),
                Event::Error(e) if Self::is_fatal(&e) => return Err(e.into()),
                _ => {}
            }
        }
        Ok(empty)
    }

    /// Why nobody answered: what the brokers said of us, where they did.
    fn unanswered(&self, properties: &BTreeMap<String, String>, error: &KafkaError) -> anyhow::Error {
        match refusal(&self.inner) {
            Some((_, refused)) => refused.into(),
            None => anyhow::anyhow!(no_answer(properties, error)),
        }
    }

    /// Starts (again) at these offsets, and at nothing else; ends every pause.
    ///
    /// Where exactly these partitions are read already, they are only moved. Assigned anew they would be stopped and started, and a
    /// rebalance that comes before they have stopped ends the process: librdkafka (to 2.15) stops them twice and asserts, its issue 5573.
    pub fn start(&self, positions: &[(String, i32, i64)]) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, offset) in positions {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        let read = self.inner.assignment()?;
        let same = read.count() == list.count() && positions.iter().all(|(t, p, _)| read.find_partition(t, *p).is_some());
        if positions.is_empty() || !same || self.move_to(list.clone()).is_err() {
            self.inner.assign(&list)?;
        }
        // A pause outlives the assignment it was made in.
        self.inner.resume(&list)
    }

    /// An error where one of them is not read just now, as after its offset was not in the log.
    fn move_to(&self, list: TopicPartitionList) -> Result<(), KafkaError> {
        let moved = self.inner.seek_partitions(list, CALL_TIMEOUT)?;
        moved.elements().iter().try_for_each(|element| element.error())
    }

    /// Stops handing out records of a partition; the rest goes on, and so does membership.
    pub fn pause(&self, topic: &str, partition: i32) -> Result<(), KafkaError> {
        self.inner.pause(&one(topic, partition))
    }

    /// Reads a partition again from `offset`, and ends a pause.
    pub fn seek(&self, topic: &str, partition: i32, offset: i64) -> Result<(), KafkaError> {
        self.inner.seek(topic, partition, Offset::Offset(offset), CALL_TIMEOUT)?;
        self.inner.resume(&one(topic, partition))
    }

    /// Whether the client can go on after this error.
    pub fn is_fatal(error: &KafkaError) -> bool {
        matches!(error, KafkaError::MessageConsumptionFatal(_))
    }
}

fn one(topic: &str, partition: i32) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    list
}

/// The partitions of a list.
pub fn partitions_of(list: &TopicPartitionList) -> Vec<(String, i32)> {
    list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect()
}

/// Reads a topic from its beginning to its end, outside of any group, with the settings of every consumer.
pub struct Reader {
    consumer: Consumer,
    topic: String,
    /// Partitions that hold something and whose end (here) was not reached yet.
    open: BTreeMap<i32, i64>,
}

impl Reader {
    /// At the beginning of every partition.
    pub fn open(properties: &BTreeMap<String, String>, topic: &str) -> Result<Self, KafkaError> {
        Self::open_at(properties, topic, 0)
    }

    /// At `offset` of every partition, or at its beginning where that is later.
    pub fn open_at(properties: &BTreeMap<String, String>, topic: &str, offset: i64) -> Result<Self, KafkaError> {
        let mut config = consumer_config(properties, READER);
        // Behind the last record mostly stands a mark of its transaction, and the end is only told when nothing came for so long.
        config.set("fetch.wait.max.ms", "50");
        let consumer = Consumer { inner: BaseConsumer::from_config_and_context(&config, Context::default())? };
        let partitions = consumer.partitions(topic)?;
        let (mut positions, mut open) = (Vec::new(), BTreeMap::new());
        for partition in 0..partitions {
            let (low, high) = consumer.bounds(topic, partition)?;
            let first = low.max(offset);
            if high > first {
                positions.push((topic.to_owned(), partition, first));
                open.insert(partition, high);
            }
        }
        consumer.start(&positions)?;
        Ok(Self { consumer, topic: topic.to_owned(), open })
    }

    /// Hands every record to `each`, until the ends that read_committed saw when this was opened: under steady traffic there would be
    /// no other end. An error where nothing comes for `patience`.
    pub fn to_end(self, patience: Duration, mut each: impl FnMut(&BorrowedMessage<'_>)) -> anyhow::Result<()> {
        self.until(patience, |record| {
            each(record);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The same, until `each` has enough.
    pub fn until(
        mut self,
        patience: Duration,
        mut each: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<ControlFlow<()>>,
    ) -> anyhow::Result<()> {
        let mut idle_since: Option<Instant> = None;
        while !self.open.is_empty() {
            match self.consumer.poll(Duration::from_millis(100)) {
                Event::Record(record) => {
                    let partition = record.partition();
                    let Some(end) = self.open.get(&partition).copied() else { continue };
                    idle_since = None;
                    if record.offset() < end && each(&record)?.is_break() {
                        return Ok(());
                    }
                    if record.offset() + 1 >= end {
                        self.open.remove(&partition);
                    }
                }
                Event::End(partition) => _ = self.open.remove(&partition),
                Event::OffsetGone => anyhow::bail!("{}: records were deleted while it was read", self.topic),
                Event::Error(e) if Consumer::is_fatal(&e) => return Err(e.into()),
                _ => {
                    let idle = idle_since.get_or_insert_with(Instant::now).elapsed();
                    anyhow::ensure!(idle < patience, "{}: nothing came for {} s", self.topic, patience.as_secs());
                }
            }
        }
        Ok(())
    }
}

fn no_answer(properties: &BTreeMap<String, String>, error: &KafkaError) -> String {
    format!(
        "Kafka does not answer at {}: {error}: check that it runs and that kafka.\"bootstrap.servers\" names its listener for clients",
        brokers(properties)
    )
}

fn brokers(properties: &BTreeMap<String, String>) -> &str {
    properties.get("bootstrap.servers").map_or("", String::as_str)
}

/// What brokers said of us since they answered last, and since when. It comes as an event, so a client that is not read from is polled.
fn refusal(client: &BaseConsumer<Context>) -> Option<(Instant, Refused)> {
    while client.poll(EVENTS).is_some() {}
    client.context().refused()
}

/// An error unless Kafka answers and lets us in.
pub fn reach(properties: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let outsider = outsider(properties, "read_committed")?;
    let answer = outsider.inner.fetch_metadata(None, CALL_TIMEOUT);
    answer.map(drop).map_err(|e| outsider.unanswered(properties, &e))
}

/// How many partitions a topic has. An error where there is none.
pub fn partitions_in(properties: &BTreeMap<String, String>, topic: &str) -> anyhow::Result<i32> {
    let outsider = outsider(properties, "read_committed")?;
    let partitions = outsider.partitions(topic).map_err(|e| outsider.unanswered(properties, &e))?;
    anyhow::ensure!(partitions > 0, "topic {topic} is missing; `bounceflow create-topics` makes bounceflow's own");
    Ok(partitions)
}

/// The end of each partition, behind what open transactions have written so far.
pub fn ends(properties: &BTreeMap<String, String>, topic: &str) -> anyhow::Result<Vec<i64>> {
    let partitions = partitions_in(properties, topic)?;
    Ok(ends_seen(&outsider(properties, "read_uncommitted")?, topic, partitions)?)
}

/// Waits until every transaction that is in the topic by now is committed or aborted: what a reader sees then is all of it.
pub fn wait_until_stable(properties: &BTreeMap<String, String>, topic: &str) -> anyhow::Result<()> {
    let ends = ends(properties, topic)?;
    let reader = outsider(properties, "read_committed")?;
    let patience = Instant::now() + 6 * CALL_TIMEOUT;
    while ends_seen(&reader, topic, ends.len() as i32)?.iter().zip(&ends).any(|(stable, end)| stable < end) {
        anyhow::ensure!(Instant::now() < patience, "{topic}: a transaction stays open; run this again later");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Asks about topics, and reads little or nothing.
pub fn outsider(properties: &BTreeMap<String, String>, isolation: &str) -> Result<Consumer, KafkaError> {
    let mut config = consumer_config(properties, READER);
    config.set("isolation.level", isolation);
    config.set("queued.max.messages.kbytes", "1024");
    // The leader answers, whatever follower is near: where a log ends and what it holds must be of one mind.
    config.set("client.rack", "");
    // Nobody takes them.
    config.set("statistics.interval.ms", "0");
    // That a log has ended is said when a fetch comes back empty.
    config.set("fetch.wait.max.ms", "10");
    Ok(Consumer { inner: BaseConsumer::from_config_and_context(&config, Context::quiet())? })
}

fn ends_seen(consumer: &Consumer, topic: &str, partitions: i32) -> Result<Vec<i64>, KafkaError> {
    (0..partitions).map(|partition| consumer.end_of(topic, partition)).collect()
}

/// How a transaction failed.
#[derive(Debug)]
pub enum TransactionError {
    /// It was aborted, or must be: nothing of it is visible. Start again from the committed offsets.
    Aborted(KafkaError),
    /// The producer is of no more use. Make a new one.
    Fatal(KafkaError),
    /// Another process uses this `transactional.id`: this one must end.
    Fenced(KafkaError),
    /// The brokers let nobody in who shows what we do.
    Refused(Refused),
}

impl TransactionError {
    fn from(error: KafkaError) -> Self {
        let fenced = [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::ProducerFenced, RDKafkaErrorCode::InvalidProducerEpoch];
        match &error {
            KafkaError::Transaction(e) if e.is_fatal() && fenced.contains(&e.code()) => Self::Fenced(error),
            KafkaError::Transaction(e) if e.txn_requires_abort() => Self::Aborted(error),
            KafkaError::Transaction(_) => Self::Fatal(error),
            _ => Self::Aborted(error),
        }
    }
}

/// A transactional producer.
pub struct Producer {
    inner: BaseProducer<Context>,
    stop: Stop,
    health: Arc<Loop>,
}

impl Producer {
    /// Takes over `transactional_id`: ends what an earlier process left open under it. Waits for Kafka; none: told to stop before.
    pub fn take_over(
        properties: &BTreeMap<String, String>,
        transactional_id: &str,
        stop: &Stop,
        health: &Arc<Loop>,
    ) -> Result<Option<Self>, TransactionError> {
        let config = producer_config(properties, transactional_id);
        let inner = BaseProducer::from_config_and_context(&config, Context::default()).map_err(TransactionError::Fatal)?;
        while !stop.is_set() {
            health.turn();
            match inner.init_transactions(CALL_TIMEOUT) {
                Ok(()) => return Ok(Some(Self { inner, stop: stop.clone(), health: Arc::clone(health) })),
                Err(KafkaError::Transaction(e)) if e.is_retriable() => {
                    inner.poll(EVENTS);
                    match inner.context().refused() {
                        Some((since, refused)) if since.elapsed() > REFUSED_FOR => {
                            return Err(TransactionError::Refused(refused));
                        }
                        _ => tracing::warn!(transactional_id, error = %e, "Kafka does not answer yet; waiting for it"),
                    }
                }
                Err(e) => return Err(TransactionError::from(e)),
            }
        }
        Ok(None)
    }

    /// Begins a transaction.
    pub fn begin(&self) -> Result<(), TransactionError> {
        self.inner.begin_transaction().map_err(TransactionError::from)
    }

    /// Writes a record within the transaction. Waits where the buffer is full: it is bounded.
    pub fn send(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), TransactionError> {
        let mut record = record;
        loop {
            match self.inner.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.inner.poll(Duration::from_millis(1));
                    record = back;
                }
                Err((e, _)) => return Err(TransactionError::Aborted(e)),
            }
        }
    }

    /// Commits the transaction together with the input offsets it settles, each with its metadata.
    ///
    /// An unknown result is asked for again by the same call: aborting and replaying could count twice.
    pub fn commit(&self, offsets: &[(String, i32, i64, String)], group: &ConsumerGroupMetadata) -> Result<(), TransactionError> {
        self.settle();
        let mut list = TopicPartitionList::new();
        for (topic, partition, offset, metadata) in offsets {
            let mut element = list.add_partition(topic, *partition);
            element.set_offset(Offset::Offset(*offset)).map_err(TransactionError::Aborted)?;
            element.set_metadata(metadata);
        }
        self.repeat(LOST_CALL, || self.inner.send_offsets_to_transaction(&list, group, CALL_TIMEOUT))?;
        self.repeat(STUCK, || self.inner.commit_transaction(CALL_TIMEOUT))
    }

    /// Commits a transaction that settles no input.
    pub fn commit_without_offsets(&self) -> Result<(), TransactionError> {
        self.settle();
        self.repeat(STUCK, || self.inner.commit_transaction(CALL_TIMEOUT))
    }

    /// Waits for what is in flight. `commit_transaction` of the binding waits in steps of 100 ms; steps of 1 ms cost a tenth.
    /// It ends: a record that cannot be delivered fails within the transaction's timeout.
    fn settle(&self) {
        while self.inner.in_flight_count() > 0 {
            self.inner.poll(Duration::from_millis(1));
        }
    }

    /// Aborts the transaction.
    pub fn abort(&self) -> Result<(), TransactionError> {
        // The call drops what is queued, then waits for the reports of that and of what is under way. Nobody but this thread takes
        // them: so it is called for a moment, to drop, until all reports are taken. Once is not enough: what a broker sends back to be
        // tried again is queued behind the dropping, and not sent any more, until it times out. (Dropping by hand leaves a hole in the
        // sequence, which the broker refuses.)
        while self.inner.in_flight_count() > 0 {
            self.health.turn();
            match self.inner.abort_transaction(Duration::from_millis(1)) {
                Err(KafkaError::Transaction(e)) if e.is_retriable() && !e.is_fatal() => self.inner.poll(Duration::from_millis(1)),
                aborted => return aborted.map_err(TransactionError::from),
            }
        }
        self.repeat(STUCK, || self.inner.abort_transaction(CALL_TIMEOUT))
    }

    /// Repeats a call while its result is unknown but can be asked for again. Told to stop, it leaves the answer to whoever takes
    /// the transactional id over next. The loop is stuck where one call takes longer than `patience`.
    fn repeat(&self, patience: Duration, mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), TransactionError> {
        loop {
            self.health.turn_within(patience);
            match call() {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(e)) if e.is_retriable() && !e.is_fatal() && !e.txn_requires_abort() => {
                    tracing::warn!(error = %e, "A call of a transaction was not answered; asking again");
                    if self.stop.is_set() {
                        return Err(TransactionError::Fatal(KafkaError::Transaction(e)));
                    }
                }
                Err(e) => return Err(TransactionError::from(e)),
            }
        }
    }
}

/// The id Kafka gave its cluster when that was made.
pub fn cluster_id(properties: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let client: BaseConsumer<Context> =
        BaseConsumer::from_config_and_context(&client_config(properties, &[], &[]), Context::quiet())?;
    client.client().fetch_cluster_id(CALL_TIMEOUT).ok_or_else(|| anyhow::anyhow!("Kafka does not say the id of its cluster"))
}

/// Waits until Kafka answers and every topic is there, with a log line every few seconds. False: told to stop before. An error where
/// brokers answer, and let nobody in who shows what we do.
pub fn wait_for_topics(
    properties: &BTreeMap<String, String>,
    topics: &[&str],
    stop: &Stop,
    health: &Loop,
) -> anyhow::Result<bool> {
    let mut config = client_config(properties, &[], &[]);
    config.set_log_level(RDKafkaLogLevel::Critical);
    let client: BaseConsumer<Context> = BaseConsumer::from_config_and_context(&config, Context::quiet())?;
    let mut said: Option<Instant> = None;
    while !stop.is_set() {
        health.turn();
        let problem = match client.fetch_metadata(None, Duration::from_secs(2)) {
            Err(e) => match refusal(&client) {
                Some((since, refused)) if since.elapsed() > REFUSED_FOR => return Err(refused.into()),
                Some((_, refused)) => refused.to_string(),
                None => no_answer(properties, &e),
            },
            Ok(metadata) => {
                client.context().let_in();
                let there = |topic: &&&str| metadata.topics().iter().any(|t| t.name() == **topic && !t.partitions().is_empty());
                let missing: Vec<&str> = topics.iter().filter(|t| !there(t)).copied().collect();
                if missing.is_empty() {
                    health.problem(None);
                    return Ok(true);
                }
                format!(
                    "topics are missing: {}; create them (`bounceflow create-topics` makes bounceflow's own)",
                    missing.join(", ")
                )
            }
        };
        if said.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
            tracing::warn!(problem, "Waiting for Kafka");
            said = Some(Instant::now());
        }
        health.problem(Some(format!("waiting for Kafka: {problem}")));
        stop.wait(Duration::from_millis(500));
    }
    Ok(false)
}

#[derive(Default)]
pub(crate) struct Context {
    rebalanced: AtomicBool,
    /// The last rebalance: partitions given, or (none) all taken away. A poll serves one and then returns.
    rebalance: Mutex<Option<TopicPartitionList>>,
    /// Whose lag its statistics tell; none: nobody's.
    unread: Option<Arc<Unread>>,
    quiet: bool,
    /// What a broker said last of us, and when one said so first.
    refused: Mutex<Option<(Instant, Refused)>>,
}

impl Context {
    fn of(role: &'static str) -> Self {
        Self { unread: Some(Unread::new(role)), ..Self::default() }
    }

    fn quiet() -> Self {
        Self { quiet: true, ..Self::default() }
    }

    fn note(&self, rebalance: Option<TopicPartitionList>) {
        *self.rebalance.lock().unwrap_or_else(|e| e.into_inner()) = rebalance;
        self.rebalanced.store(true, Ordering::Release);
    }

    fn refused(&self) -> Option<(Instant, Refused)> {
        self.refused.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// A broker that is not there takes back what another said: it is waited for.
    fn note_refusal(&self, error: &KafkaError, reason: &str) {
        use RDKafkaErrorCode::{Authentication, BrokerTransportFailure, SSL, SaslAuthenticationFailed, UnsupportedSASLMechanism};
        let is_refusal = match error {
            KafkaError::Global(Authentication | SSL | SaslAuthenticationFailed | UnsupportedSASLMechanism) => true,
            // With TLS 1.3 the handshake is over for us before the broker has looked at our certificate.
            KafkaError::Global(BrokerTransportFailure)
                if reason.contains("SSL alert") || reason.contains("while requesting ApiVersion") =>
            {
                true
            }
            // Nobody listens. One that only hangs up, as in the middle of a handshake, has not taken anything back.
            KafkaError::Global(BrokerTransportFailure) if reason.contains("Connect to ") => false,
            _ => return,
        };
        let mut refused = self.refused.lock().unwrap_or_else(|e| e.into_inner());
        let since = refused.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        *refused = is_refusal.then(|| (since, Refused { why: reason.to_owned() }));
    }

    fn let_in(&self) {
        *self.refused.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }

    fn take_rebalance<'a>(&self) -> Event<'a> {
        self.rebalanced.store(false, Ordering::Release);
        self.rebalance.lock().unwrap_or_else(|e| e.into_inner()).take().map_or(Event::Revoked, Event::Assigned)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if self.quiet {
            return;
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(facility, said = message, "Kafka client");
            }
            RDKafkaLogLevel::Warning => tracing::info!(facility, said = message, "Kafka client"),
            _ => tracing::debug!(facility, said = message, "Kafka client"),
        }
    }

    fn stats(&self, statistics: rdkafka::Statistics) {
        let Some(unread) = &self.unread else { return };
        for (name, topic) in &statistics.topics {
            let known = topic.partitions.values().map(|partition| partition.consumer_lag).filter(|lag| *lag >= 0);
            unread.set(name, known.sum());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.note_refusal(&error, reason);
        // The end of a partition comes here as well as to the poll.
        if !self.quiet && error != KafkaError::Global(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(%error, reason, "Kafka client; it goes on by itself");
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // Not assigned here: where to start takes calls to the broker, and those have no place in a callback.
            self.note(Some(list.clone()));
        } else {
            if let Err(e) = consumer.unassign() {
                tracing::warn!(error = %e, "Giving partitions back failed");
            }
            self.note(None);
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        // The transaction it belongs to can no longer be committed: that is where it is handled.
        match result {
            Ok(_) | Err((KafkaError::MessageProduction(RDKafkaErrorCode::PurgeQueue), _)) => {}
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), record)) => tracing::error!(
                topic = record.topic(),
                bytes = record.payload_len(),
                "A record is larger than its topic takes. Raise the topic's max.message.bytes (create-topics sets 67108864); until then \
                 what it was made of is read again and again, and nothing behind it"
            ),
            Err((e, _)) => tracing::debug!(error = %e, "A record was not delivered"),
        }
    }
}
