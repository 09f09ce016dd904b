//! The classify loop: records in, counts and failures out, both and the input offsets in one Kafka transaction.
//!
//! Read it from the top: [`run`] prepares, [`Worker::turn`] waits for events and acts, [`Worker::record`] settles a record,
//! [`Worker::commit`] ends a transaction. What a record means is decided in [`process`](crate::process); what it adds up to is kept
//! in [`counts`](crate::counts). One thread, one topic, one transactional id.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bounceflow_classify::PATTERN_VERSION;
use bounceflow_event::avro::Encoder;
use bounceflow_event::{Decoder, Rejection, Source};
use rdkafka::Message;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::BaseRecord;
use tracing::Span;
use tracing::field::Empty;

use crate::config::{self, Config, RawInput};
use crate::counts::{Counts, Header as BatchHeader, Limits};
use crate::dead_letter::{Refusal, own_headers};
use crate::health::Loop;
use crate::kafka::{self, Consumer, Event, Producer, Reader, TransactionError};
use crate::lag::Lag;
use crate::metrics;
use crate::process::{Outcome, Scratch, Tables};
use crate::quiet::{Quiet, REST};
use crate::record::{self, Settled};
use crate::schemas;
use crate::starting::{self, Start};
use crate::stop::Stop;
use crate::telemetry::{self, SPANS};
use crate::trouble::{Cure, Trouble, take_over};

/// An idle partition is listed again after this, so that readers know it is alive and how far it is.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The clock is looked at once in this many records.
const CLOCK_EVERY: u32 = 128;
/// A transaction is full with so many bytes of dead letters.
const MOST_LETTER_BYTES: usize = 32 << 20;
/// Whoever starts waits for so long to learn how far partitions were counted; a longer log of rates is read beside the loop.
const SHORT_LOOK: Duration = Duration::from_secs(1);

/// What one thread is told.
pub struct Task {
    /// The process's configuration.
    pub config: Arc<Config>,
    /// What decides.
    pub tables: Arc<Tables>,
    /// What to read.
    pub input: RawInput,
    /// Number of the thread among those of its topic.
    pub thread: usize,
    /// `--from`
    pub from: Option<starting::Resume>,
    /// When to end.
    pub stop: Stop,
    /// Where to say how it goes.
    pub health: Arc<Loop>,
}

/// Runs until told to stop. An error is one this thread cannot mend: the process ends, and nothing is lost.
pub fn run(task: &Task) -> anyhow::Result<()> {
    let topics = &task.config.topics;
    let needed = [task.input.topic.as_str(), &topics.failures, &topics.rates, &topics.dead_letter, &topics.schemas];
    if !kafka::wait_for_topics(&task.config.kafka, &needed, &task.stop, &task.health)? {
        return Ok(());
    }
    let id = format!("{}/{}/{}/{}", task.config.deployment, task.config.ordinal, task.input.topic, task.thread);
    let Some(producer) = take_over(&task.config, &id, &task.stop, &task.health)? else { return Ok(()) };
    let group = format!("{}.classify.{}", task.config.deployment, task.input.topic);
    let consumer = Consumer::join(&task.config.kafka, "classify", &group, &id, &[&task.input.topic])?;
    tracing::info!(topic = task.input.topic, group, transactional_id = id, "Classify started");
    let mut worker = Worker::new(task, id, producer)?;
    while !task.stop.is_set() {
        task.health.turn();
        let turned = worker.turn(&consumer);
        worker.recover(turned, &consumer)?;
    }
    let last = if worker.open.is_some() { worker.commit() } else { Ok(()) };
    worker.recover(last, &consumer)?;
    tracing::info!(topic = task.input.topic, transactional_id = worker.id, "Classify ended");
    Ok(())
}

struct Worker<'t> {
    task: &'t Task,
    id: String,
    producer: Producer,
    decoder: Decoder,
    scratch: Scratch,
    counts: Counts,
    failures_to_avro: Encoder<'t>,
    batches_to_avro: Encoder<'t>,
    bytes: Vec<u8>,
    metrics: metrics::Classify,
    lag: Lag,
    /// Captured when partitions were assigned; a transaction of a member that lost them is refused.
    group: Option<ConsumerGroupMetadata>,
    /// What the group gave, halted partitions too.
    assigned: Vec<(String, i32)>,
    /// By partition number. None: not ours, or halted.
    partitions: Vec<Option<Partition>>,
    /// Since when a transaction is open.
    open: Option<Instant>,
    /// Of the open transaction.
    span: Span,
    records: usize,
    items: usize,
    /// Of its dead letters, each of which holds a whole record.
    letter_bytes: usize,
    failures: u64,
    /// Reasons, for the metrics: they count what is committed.
    rejected: Vec<&'static str>,
    /// Records over which this program panicked, by partition and offset: set aside unread when they come again.
    panicked: Vec<(i32, i64)>,
    /// Reads how far partitions were counted that have no committed offset.
    looking: Option<JoinHandle<anyhow::Result<Counted>>>,
    /// Partitions that this thread adds to the metric of those halted.
    halted: usize,
    quiet: Quiet,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.metrics.halted.decrement(self.halted as f64);
    }
}

/// The last offset that was counted, by partition of one topic.
type Counted = hashbrown::HashMap<i32, i64>;

/// What this transaction covers of one partition.
struct Partition {
    first: i64,
    next: i64,
    records: i64,
    items: i64,
    dead_lettered: i64,
    max_event_time: Option<i64>,
    end_reached: bool,
    listed: Option<Instant>,
    /// Since when nothing came, where nothing comes.
    still: Instant,
}

impl<'t> Worker<'t> {
    fn new(task: &'t Task, id: String, producer: Producer) -> anyhow::Result<Self> {
        let classify = &task.config.classify;
        let metrics = metrics::Classify::new(&task.input.topic);
        metrics.rules(&task.tables.rules.get());
        Ok(Self {
            task,
            id,
            producer,
            decoder: config::decoder(&task.input)?,
            scratch: Scratch::new(&task.tables),
            counts: Counts::new(Limits { campaigns: classify.max_campaigns, patterns: classify.max_patterns }),
            failures_to_avro: task.tables.failure_schema.encoder(),
            batches_to_avro: task.tables.batch_schema.encoder(),
            bytes: Vec::new(),
            metrics,
            lag: Lag::new("classify", &task.input.topic),
            group: None,
            assigned: Vec::new(),
            partitions: Vec::new(),
            open: None,
            span: Span::none(),
            records: 0,
            items: 0,
            letter_bytes: 0,
            failures: 0,
            rejected: Vec::new(),
            panicked: Vec::new(),
            looking: None,
            halted: 0,
            quiet: Quiet::new(&task.config.kafka),
        })
    }

    /// Waits for an event, acts on it and on the records behind it, and commits when it is time.
    fn turn(&mut self, consumer: &Consumer) -> Result<(), Trouble> {
        if self.looking.as_ref().is_some_and(JoinHandle::is_finished) {
            return Err(Trouble::StartAgain("how far partitions without a committed offset were counted is known now".into()));
        }
        if self.open.is_none() && self.quiet.is_due() {
            self.pass_marks();
        }
        let interval = self.task.config.classify.transaction_interval;
        let mut wait = self.open.map_or(Duration::from_millis(100), |since| interval.saturating_sub(since.elapsed()));
        for _ in 0..CLOCK_EVERY {
            if !self.act(consumer.poll(wait), consumer)? || self.is_full() {
                break;
            }
            // Only what is there already: waiting again would make the transaction late.
            wait = Duration::ZERO;
        }
        match self.open {
            Some(since) if self.is_full() || since.elapsed() >= interval => self.commit(),
            None if self.group.is_some() && self.partitions.iter().flatten().any(Partition::wants_listing) => {
                self.begin()?;
                self.commit()
            }
            _ => Ok(()),
        }
    }

    /// Counts marks of transactions that stand behind the last records of partitions at rest as covered.
    fn pass_marks(&mut self) {
        let at_rest = |p: &Partition| p.records == 0 && p.end_reached && p.still.elapsed() >= REST;
        let places = (0i32..).zip(&self.partitions).filter_map(|(number, p)| Some((number, p.as_ref()?)));
        let places: Vec<(i32, i64)> = places.filter(|(_, p)| at_rest(p)).map(|(number, p)| (number, p.next)).collect();
        for (number, end) in self.quiet.ends(&self.task.input.topic, &places) {
            if let Some(Some(partition)) = self.partitions.get_mut(number as usize) {
                partition.next = end;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.items.max(self.records) >= self.task.config.classify.max_transaction_records
            || self.letter_bytes >= MOST_LETTER_BYTES
    }

    /// Whether it was a record, so that another may follow at once.
    fn act(&mut self, event: Event<'_>, consumer: &Consumer) -> Result<bool, Trouble> {
        match event {
            Event::Record(message) => return self.record(&message).map(|()| true),
            Event::End(partition) => {
                if let Some(Some(ended)) = self.partitions.get_mut(partition as usize) {
                    ended.end_reached = true;
                    if ended.records == 0 {
                        self.lag.settled(partition);
                    }
                }
            }
            Event::Assigned(list) => {
                self.group = consumer.group_metadata();
                self.assigned = kafka::partitions_of(&list);
                self.start(consumer)?;
            }
            Event::Revoked => {
                self.drop_transaction()?;
                self.partitions.clear();
                self.assigned.clear();
                self.looking = None;
                self.group = None;
                self.lag.clear();
                tracing::info!(topic = self.task.input.topic, transactional_id = self.id, "Partitions taken away");
            }
            Event::OffsetGone => return Err(Trouble::StartAgain("an offset is not in the log any more".into())),
            Event::Error(e) if Consumer::is_fatal(&e) => return Err(Trouble::of_consumer(&self.id, e)),
            Event::Error(e) => {
                tracing::warn!(topic = self.task.input.topic, error = %e, "Reading failed; the client tries again")
            }
            Event::Idle => {}
        }
        Ok(false)
    }

    /// Settles a record. A mistake of ours costs the record it shows on, not the process: the transaction is dropped, and when the record
    /// comes again it goes to the dead letter unread.
    fn record(&mut self, message: &BorrowedMessage<'_>) -> Result<(), Trouble> {
        if self.open.is_none() {
            self.begin()?;
        }
        let place = (message.partition(), message.offset());
        if self.partitions.get(place.0 as usize).is_none_or(Option::is_none) {
            return Ok(());
        }
        let settled = if self.panicked.contains(&place) {
            record::set_aside(&self.task.input.topic, message)
        } else {
            catch_unwind(AssertUnwindSafe(|| self.settle(message))).unwrap_or_else(|_| {
                self.panicked.push(place);
                // Whatever the panic left half done.
                self.scratch = Scratch::new(&self.task.tables);
                Err(Trouble::StartAgain(format!("panicked over the record at {}/{}", place.0, place.1)))
            })?
        };
        let Some(Some(partition)) = self.partitions.get_mut(place.0 as usize) else { return Ok(()) };
        if partition.records == 0
            && let Some(timestamp) = message.timestamp().to_millis()
        {
            self.lag.since(place.0, timestamp);
        }
        partition.next = place.1 + 1;
        partition.records += 1;
        partition.items += i64::from(settled.items);
        partition.dead_lettered += settled.refused.len() as i64;
        partition.end_reached = false;
        self.records += 1;
        self.items += settled.items as usize;
        self.rejected.extend(settled.refused.iter().map(|(_, why)| why.reason.as_str()));
        if let [(number, why), more @ ..] = &settled.refused[..]
            && !more.is_empty()
            && (settled.others == 0 || settled.refused.len().saturating_mul(message.payload_len()) > MOST_LETTER_BYTES)
        {
            // One letter stands for all: a thousand items would be a thousand times the record. Where none is counted, it need not name them.
            let all = if settled.others == 0 { &[] } else { &settled.refused[..] };
            let items: Vec<i32> = all.iter().map(|(item, _)| *item).collect();
            let detail = format!("{}; the other {} items of the record are refused as well", why.detail, more.len());
            return self.dead_letter(message, &settled, (*number, &items), &Rejection { detail, ..why.clone() });
        }
        for (number, why) in &settled.refused {
            self.dead_letter(message, &settled, (*number, &[]), why)?;
        }
        Ok(())
    }

    /// Every item of a record: counted, written as a failure, ignored by reason, or refused.
    fn settle(&mut self, message: &BorrowedMessage<'_>) -> Result<Settled<'t>, Trouble> {
        failpoint!("classify.record");
        let Self { task, producer, decoder, scratch, counts, failures_to_avro, bytes, failures, partitions, .. } = self;
        let (mut trouble, mut latest) = (Ok(()), None);
        let settled = record::settle(&task.tables, decoder, scratch, &task.input.topic, message, |_, outcome| match outcome {
            Outcome::Count(sample) => {
                latest = latest.max(Some(sample.time));
                counts.add(&sample, None);
            }
            Outcome::Fail(sample, failure) => {
                latest = latest.max(Some(sample.time));
                counts.add(&sample, Some(&failure));
                *failures += 1;
                bytes.clear();
                let sent = failures_to_avro.encode(&failure, bytes).map_err(Trouble::from).and_then(|()| {
                    let key: &[u8] = &failure.recipient_hash.0;
                    Ok(producer.send(BaseRecord::to(&task.config.topics.failures).key(key).payload(&bytes[..]))?)
                });
                trouble = std::mem::replace(&mut trouble, Ok(())).and(sent);
            }
            Outcome::Ignore(reason) => counts.ignore(reason),
            // Among those returned.
            Outcome::Reject(_) => {}
        });
        trouble?;
        if let Some(Some(partition)) = partitions.get_mut(message.partition() as usize) {
            partition.max_event_time = partition.max_event_time.max(latest);
        }
        Ok(settled)
    }

    /// Writes the record, byte for byte, with headers that say why and where it stood. `items`: all that the letter stands for, where it
    /// stands for some of several.
    fn dead_letter(
        &mut self,
        message: &BorrowedMessage<'_>,
        settled: &Settled<'_>,
        (number, items): (i32, &[i32]),
        why: &Rejection,
    ) -> Result<(), Trouble> {
        self.letter_bytes += message.payload_len();
        let Settled { position, others, times, .. } = *settled;
        let letter = Refusal {
            topic: position.topic,
            partition: position.partition,
            offset: position.offset,
            timestamp: position.timestamp.unwrap_or(-1),
            key: message.key(),
            item: number,
            items,
            reason: why.reason.as_str(),
            detail: &why.detail,
            format: why.format.as_str(),
            others,
            by: "classify",
            resent: times,
        };
        let (key, headers) = (letter.identity(), letter.headers(&own_headers(message)));
        let mut record = BaseRecord::to(&self.task.config.topics.dead_letter).key(key.as_bytes()).headers(headers);
        record.payload = message.payload();
        Ok(self.producer.send(record)?)
    }

    /// Here alone other rules are taken: a transaction, and so every `RateBatch`, has one version of them.
    fn begin(&mut self) -> Result<(), Trouble> {
        self.producer.begin()?;
        self.scratch.renew(&self.task.tables);
        self.open = Some(Instant::now());
        self.span = tracing::trace_span!(
            target: SPANS,
            "classify transaction",
            topic = self.task.input.topic,
            transactional_id = self.id,
            rules_version = self.scratch.rules().version(),
            partitions = Empty,
            records = Empty,
            items = Empty,
            failures = Empty,
            dead_lettered = Empty
        );
        Ok(())
    }

    /// Writes the counts and ends the transaction, with the offsets it settles.
    fn commit(&mut self) -> Result<(), Trouble> {
        let started = Instant::now();
        let commit = tracing::trace_span!(target: SPANS, parent: &self.span, "commit");
        let Some(group) = &self.group else { return Err(Trouble::StartAgain("no membership".into())) };
        let topic = &*self.task.input.topic;
        let listed = |p: &&Partition| p.records > 0 || p.wants_listing();
        let numbered = || (0i32..).zip(&self.partitions).filter_map(|(n, p)| Some((n, p.as_ref()?)));
        let sources: Vec<Source> = numbered()
            .filter(|(_, p)| listed(p))
            .map(|(number, p)| Source {
                topic,
                partition: number,
                first_offset: p.first,
                last_offset: p.next - 1,
                records: p.records,
                items: p.items,
                dead_lettered: p.dead_lettered,
                max_event_time: p.max_event_time,
                end_reached: p.end_reached,
            })
            .collect();
        let offsets: Vec<_> = sources.iter().map(|s| (topic.to_owned(), s.partition, s.last_offset + 1, String::new())).collect();
        let header = BatchHeader {
            producer: &self.id,
            rules_version: self.scratch.rules().version(),
            pattern_version: PATTERN_VERSION as i32,
        };
        let additions = self.metrics.additions(&self.counts);
        let mut trouble = Ok(());
        self.counts.drain(header, &self.task.tables.isps, sources, |batch| {
            self.bytes.clear();
            let sent = self.batches_to_avro.encode(batch, &mut self.bytes).map_err(Trouble::from).and_then(|()| {
                let record = BaseRecord::<[u8], [u8]>::to(&self.task.config.topics.rates).partition(0);
                Ok(self.producer.send(record.payload(&self.bytes[..]))?)
            });
            trouble = std::mem::replace(&mut trouble, Ok(())).and(sent);
        });
        trouble?;
        failpoint!("classify.before-commit");
        failpoint!("classify.during-commit", self.producer.commit(&offsets, group))?;
        failpoint!("classify.after-commit");
        drop(commit);
        self.open = None;
        let items: i64 = self.partitions.iter().flatten().map(|p| p.items).sum();
        let done = metrics::Transaction {
            records: self.records as u64,
            items: items as u64,
            failures: self.failures,
            additions,
            commit: started.elapsed(),
        };
        let span = std::mem::replace(&mut self.span, Span::none());
        span.record("partitions", offsets.len());
        span.record("records", done.records);
        span.record("items", done.items);
        span.record("failures", done.failures);
        span.record("dead_lettered", self.rejected.len());
        self.metrics.committed(done, self.scratch.take_lookups());
        self.rejected.drain(..).for_each(|reason| self.metrics.dead_lettered(reason).increment(1));
        (self.records, self.items, self.letter_bytes, self.failures) = (0, 0, 0, 0);
        // Those that were listed, not those that would be by now.
        for (_, number, ..) in offsets {
            let Some(Some(partition)) = self.partitions.get_mut(number as usize) else { continue };
            partition.settle(started);
            // Where more is to be read, the oldest record of what is now committed stands until the next one comes.
            if partition.end_reached {
                self.lag.settled(number);
            }
        }
        self.task.health.ready();
        Ok(())
    }

    /// Begins to read partitions at where the group left them; halts those whose records are gone. One without a committed offset waits
    /// until it is known how far it was counted; the others go on meanwhile.
    fn start(&mut self, consumer: &Consumer) -> Result<(), Trouble> {
        let left = consumer.committed(&self.assigned)?;
        let asked: Result<Vec<_>, _> =
            left.iter().map(|left| self.task.from.map(|from| starting::asked(from, consumer, left)).transpose()).collect();
        let asked = asked?;
        let wanted = left.iter().zip(&asked).any(|(left, asked)| starting::wants_counted(left, *asked));
        let counted = if wanted { self.look()? } else { None };
        if !wanted {
            self.looking = None;
        }
        let (mut positions, mut halted, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        self.partitions.clear();
        self.lag.clear();
        for (left, asked) in left.into_iter().zip(asked) {
            let counted_to = match &counted {
                _ if !starting::wants_counted(&left, asked) => None,
                Some(counted) => counted.get(&left.partition).copied(),
                None => {
                    waiting.push(format!(
                        "{}/{}: no committed offset; reading {} to see how far it was counted (where it is new, a start with --from \
                         beginning spares that)",
                        left.topic, left.partition, self.task.config.topics.rates
                    ));
                    continue;
                }
            };
            match starting::decide(&left, asked, counted_to) {
                Start::Halt(why) => {
                    tracing::error!(topic = left.topic, partition = left.partition, why, "A partition halts; the others go on");
                    self.lag.halted(left.partition);
                    halted.push(why);
                }
                Start::At(offset) => {
                    let number = left.partition as usize;
                    if self.partitions.len() <= number {
                        self.partitions.resize_with(number + 1, || None);
                    }
                    self.partitions[number] = Some(Partition::at(offset));
                    positions.push((left.topic, left.partition, offset));
                }
            }
        }
        consumer.start(&positions)?;
        tracing::info!(topic = self.task.input.topic, transactional_id = self.id, ?positions, ?waiting, "Partitions given");
        // Every thread of the topic adds its own.
        self.metrics.halted.increment(halted.len() as f64 - self.halted as f64);
        self.halted = halted.len();
        let troubles = [halted, waiting].concat();
        self.task.health.problem((!troubles.is_empty()).then(|| troubles.join("; ")));
        self.task.health.ready();
        Ok(())
    }

    /// How far each partition was counted; none: the log of rates is long and is still being read. That may take minutes, in which the
    /// loop must turn and the group must hear of this member.
    fn look(&mut self) -> Result<Option<Counted>, Trouble> {
        let looking = self.looking.take().unwrap_or_else(|| {
            let (config, topic) = (Arc::clone(&self.task.config), self.task.input.topic.clone());
            thread::spawn(move || counted_before(&config, &topic))
        });
        let since = Instant::now();
        while !looking.is_finished() {
            if since.elapsed() > SHORT_LOOK {
                self.looking = Some(looking);
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
        match looking.join() {
            Ok(counted) => Ok(Some(counted?)),
            Err(_) => Err(Trouble::StartAgain("reading the log of rates panicked".into())),
        }
    }

    /// Mends what can be mended: the transaction is dropped and everything still owned is read again from its committed offset.
    fn recover(&mut self, turned: Result<(), Trouble>, consumer: &Consumer) -> anyhow::Result<()> {
        let mut turned = turned;
        while let Err(trouble) = turned {
            if let Cure::NewProducer = trouble.cure(&self.id)? {
                self.open = None;
                match take_over(&self.task.config, &self.id, &self.task.stop, &self.task.health)? {
                    Some(producer) => self.producer = producer,
                    None => return Ok(()),
                }
            }
            turned = self.drop_transaction().and_then(|()| self.start(consumer));
            if self.task.stop.is_set() {
                return Ok(());
            }
            self.task.health.turn();
            if turned.is_err() {
                self.task.stop.wait(Duration::from_secs(1));
            }
        }
        Ok(())
    }

    /// Aborts the transaction, if one is open, and forgets what it counted.
    fn drop_transaction(&mut self) -> Result<(), Trouble> {
        self.counts.clear();
        self.rejected.clear();
        (self.records, self.items, self.letter_bytes, self.failures) = (0, 0, 0, 0);
        telemetry::fail(&std::mem::replace(&mut self.span, Span::none()), &"dropped; read again from the committed offsets");
        if self.open.take().is_some() {
            self.metrics.aborted.increment(1);
            // A producer that cannot abort cannot go on: its successor ends the transaction.
            self.producer.abort().map_err(|e| match e {
                TransactionError::Aborted(e) => TransactionError::Fatal(e),
                other => other,
            })?;
        }
        Ok(())
    }
}

impl Partition {
    fn at(offset: i64) -> Self {
        Self {
            first: offset,
            next: offset,
            records: 0,
            items: 0,
            dead_lettered: 0,
            max_event_time: None,
            end_reached: false,
            listed: None,
            still: Instant::now(),
        }
    }

    /// Nothing was said about it for a while.
    fn wants_listing(&self) -> bool {
        self.listed.is_none_or(|at| at.elapsed() >= HEARTBEAT)
    }

    /// What it covered is committed.
    fn settle(&mut self, now: Instant) {
        let still = if self.records == 0 { self.still } else { now };
        *self = Self { end_reached: self.end_reached, listed: Some(now), still, ..Self::at(self.next) };
    }
}

/// How far each partition of the topic was ever counted, from the `sources` of what is left of the topic of rates.
fn counted_before(config: &Config, topic: &str) -> anyhow::Result<Counted> {
    let mut known = schemas::known()?;
    schemas::load(&config.kafka, &config.topics.schemas, &mut known)?;
    let mut counted = Counted::new();
    Reader::open(&config.kafka, &config.topics.rates)?.to_end(Duration::from_secs(30), |record| {
        let Some(Ok(batch)) = record.payload().map(|p| known.decode::<bounceflow_event::RateBatch>(p)) else { return };
        // One that covers nothing (a heartbeat) says as well how far it was: of a quiet partition there may be nothing else left.
        for source in batch.sources.iter().filter(|s| s.topic == topic && s.last_offset >= 0) {
            let last = counted.entry(source.partition).or_insert(source.last_offset);
            *last = (*last).max(source.last_offset);
        }
    })?;
    Ok(counted)
}
