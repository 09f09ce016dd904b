//! The sink loop: failures, rate batches and alerts from Kafka into ClickHouse, each exactly once. (Long: one loop, read in one place.)
//!
//! Read it from the top: [`run`] prepares, [`Worker::turn`] fills batches and flushes them, [`Worker::flush`] takes ripe batches
//! through intent, insert and offset. A partition is filling, pending (its batch is closed, its intent committed; the next one grows
//! while ClickHouse takes it) or halted; each is on its own. **Invariant:** the offset moves past a range only when ClickHouse has it, by a
//! transaction a newer owner would refuse.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bounceflow_event::avro::{AvroError, Schemas};
use bounceflow_event::{Alert, RateBatch, RejectReason};
use bounceflow_warehouse::{
    Answer, Block, BlockBuilder, ENCODER_VERSION, Held, LogPosition, Replicas, Shards, Table, Verdict, Warehouse, WarehouseError,
    is_held_off, is_of_the_server, judge,
};
use rdkafka::Message;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::BaseRecord;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::Span;
use tracing::field::Empty;

use crate::config::{Config, Topics};
use crate::dead_letter::letter::header;
use crate::dead_letter::{OwnHeaders, REFUSED_BY_CLICKHOUSE, Refusal, Resent, own_headers};
use crate::health::Loop;
use crate::intent::{Intent, columns_hash};
use crate::kafka::{self, Consumer, Event, Producer, TransactionError};
use crate::lag::Lag;
use crate::metrics;
use crate::quiet::{Quiet, REST};
use crate::schemas;
use crate::starting::{self, Start};
use crate::stop::Stop;
use crate::telemetry::{self, SPANS};
use crate::trouble::{Cure, Trouble, take_over};
use crate::watch::REPLICA;

/// An intent older than this is committed again before the insert: a process that slept in between finds out that it lost its place.
const FRESH: Duration = Duration::from_secs(1);
/// The longest wait between two tries of one batch that ClickHouse refused.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The same where nobody answered: to knock costs nothing, and what waits for a server that is back adds to the backlog.
const MAX_BACKOFF_UNANSWERED: Duration = Duration::from_secs(3);
/// Room of a batch beyond its limit: it is full once a record has passed that. Bytes.
const ROOM_FOR_A_RECORD: usize = 1 << 20;
/// Records taken between two looks at the clock.
const CLOCK_EVERY: usize = 500;
/// The longest wait for a record, or for an insert to end.
const WAIT: Duration = Duration::from_millis(50);
/// The same while there is something else to be noticed: an insert may end, and a record may come.
const SHORT_WAIT: Duration = Duration::from_millis(5);

/// What the loop is told.
pub struct Task {
    /// The process's configuration.
    pub config: Arc<Config>,
    /// `--from`
    pub from: Option<starting::Resume>,
    /// When to end.
    pub stop: Stop,
    /// Where to say how it goes.
    pub health: Arc<Loop>,
}

/// Runs until told to stop. An error is one the loop cannot mend: the process ends, and nothing is lost.
pub fn run(task: &Task) -> anyhow::Result<()> {
    let topics = &task.config.topics;
    // A thread of its own, so that inserts go on while batches are filled.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let shards = Shards::new(task.config.clickhouse.clone())?;
    if !kafka::wait_for_topics(
        &task.config.kafka,
        &[&topics.failures, &topics.rates, &topics.alerts, &topics.dead_letter, &topics.schemas],
        &task.stop,
        &task.health,
    )? || !wait_for_clickhouse(task, &runtime, &shards)
    {
        return Ok(());
    }
    let id = format!("{}/{}/sink/0", task.config.deployment, task.config.ordinal);
    let Some(producer) = take_over(&task.config, &id, &task.stop, &task.health)? else { return Ok(()) };
    let group = format!("{}.sink", task.config.deployment);
    let consumer = Consumer::join(&task.config.kafka, "sink", &group, &id, &[&topics.failures, &topics.rates, &topics.alerts])?;
    tracing::info!(group, transactional_id = id, "Sink started");
    let mut worker = Worker::new(task, id, producer, runtime, shards)?;
    while !task.stop.is_set() {
        task.health.turn();
        let turned = worker.turn(&consumer);
        worker.recover(turned, &consumer)?;
    }
    worker.finish(&consumer);
    tracing::info!(transactional_id = worker.id, "Sink ended");
    Ok(())
}

/// Waits until ClickHouse answers, its tables are as this version needs them, and no other pipeline of this name writes to them.
/// False: told to stop before.
fn wait_for_clickhouse(task: &Task, runtime: &tokio::runtime::Runtime, shards: &Shards) -> bool {
    let fit = || -> anyhow::Result<()> {
        runtime.block_on(shards.check())?;
        let cluster = kafka::cluster_id(&task.config.kafka)?;
        let now = jiff::Timestamp::now().as_millisecond();
        Ok(runtime.block_on(shards.claim(&cluster, now))?)
    };
    let mut said: Option<Instant> = None;
    while !task.stop.is_set() {
        task.health.turn();
        match fit() {
            Ok(()) => {
                task.health.problem(None);
                return true;
            }
            Err(e) => {
                if said.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                    tracing::warn!(error = %e, "Waiting for ClickHouse");
                    said = Some(Instant::now());
                }
                task.health.problem(Some(format!("waiting for ClickHouse: {e}")));
            }
        }
        task.stop.wait(Duration::from_millis(500));
    }
    false
}

struct Worker<'t> {
    task: &'t Task,
    id: String,
    producer: Producer,
    runtime: tokio::runtime::Runtime,
    shards: Shards,
    schemas: Schemas,
    /// As in [`Table::ALL`].
    metrics: [Arc<metrics::Sink>; 3],
    /// The same.
    lag: [Lag; 3],
    /// Told whenever a try ends.
    ended: Arc<Notify>,
    /// Captured when partitions were assigned; a transaction of a member that lost them is refused.
    group: Option<ConsumerGroupMetadata>,
    /// What the group gave.
    assigned: Vec<(String, i32)>,
    partitions: Vec<Partition>,
    quiet: Quiet,
}

struct Partition {
    topic: String,
    number: i32,
    table: Table,
    /// The committed offset: where the next batch begins, or a little before.
    position: i64,
    /// Since when nothing came, where nothing comes.
    still: Instant,
    /// Records in the next batch at most: fewer while a poison record is being looked for.
    limit: usize,
    /// It is paused, or records went by while its batch was closed: before it fills again, it is read from `position`.
    away: bool,
    stage: Stage,
}

enum Stage {
    Filling(Box<Filling>),
    Pending(Box<Pending>),
    Halted(String),
}

/// A batch that grows.
struct Filling {
    builder: BlockBuilder,
    /// First and last offset and the first record's time.
    range: Option<(i64, i64, i64)>,
    records: u64,
    /// What of its rows says when it happened, milliseconds: for the metrics.
    event_times: Vec<i64>,
    refused: Vec<Refused>,
    refused_bytes: usize,
    since: Option<Instant>,
    /// An intent found at start: the batch is exactly this.
    again: Option<Intent>,
    /// The last record as it came, while batches are of one record: the suspect.
    suspect: Option<Refused>,
}

/// A batch that is closed.
struct Pending {
    block: Block,
    event_times: Vec<i64>,
    intent: Intent,
    /// When the intent was committed last by this process.
    committed: Option<Instant>,
    retry_at: Instant,
    /// The try that is under way.
    sent: Option<Try>,
    tries: u32,
    /// Refusals in a row that say something of the batch, not of the server.
    refusals: u32,
    /// Whether an earlier try may have been written in part: then the range is counted.
    unsure: bool,
    refused: Vec<Refused>,
    suspect: Option<Refused>,
    /// From here to the end of the batch.
    span: Span,
    /// The batch that grows behind this one.
    next: Filling,
}

/// An insert under way. Dropped, it is given up: its outcome is unknown, and its intent says so.
struct Try(JoinHandle<End>);

impl Drop for Try {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A record for the dead letter.
#[derive(Clone)]
struct Refused {
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    offset: i64,
    timestamp: i64,
    headers: OwnHeaders,
    /// How often the record had been sent again.
    resent: u32,
    reason: &'static str,
    detail: String,
}

impl Refused {
    /// What it holds of the record.
    fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        [&self.key, &self.payload].into_iter().flatten().map(Vec::len).chain(headers).sum()
    }
}

impl<'t> Worker<'t> {
    fn new(
        task: &'t Task,
        id: String,
        producer: Producer,
        runtime: tokio::runtime::Runtime,
        shards: Shards,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            task,
            id,
            producer,
            runtime,
            shards,
            schemas: schemas::known()?,
            metrics: Table::ALL.map(|table| Arc::new(metrics::Sink::new(table))),
            lag: Table::ALL.map(|table| Lag::new("sink", topic_of(&task.config.topics, table))),
            ended: Arc::default(),
            group: None,
            assigned: Vec::new(),
            partitions: Vec::new(),
            quiet: Quiet::new(&task.config.kafka),
        })
    }

    /// Waits for an event, acts on it and on the records behind it, and flushes what is ripe, due or ended.
    fn turn(&mut self, consumer: &Consumer) -> Result<(), Trouble> {
        if self.partitions.iter().any(|p| p.is_full_behind(&self.task.config.sink)) {
            // No room: what is read ahead waits in the client, whose buffer is bounded.
            self.wait_for_a_try();
        } else {
            let under_way = self.partitions.iter().any(|p| p.sent().is_some());
            let mut wait = if under_way { SHORT_WAIT } else { WAIT };
            for _ in 0..CLOCK_EVERY {
                if !self.act(consumer.poll(wait), consumer)? {
                    break;
                }
                // Only what is there already: waiting again would make a batch late.
                wait = Duration::ZERO;
            }
        }
        let now = Instant::now();
        let sink = &self.task.config.sink;
        if self.partitions.iter().any(|p| p.ripe(sink, now) || p.due(now) || p.ended()) {
            self.flush(consumer)?;
        }
        if self.quiet.is_due() { self.pass_marks() } else { Ok(()) }
    }

    /// Moves the offsets of partitions at rest past marks of transactions.
    fn pass_marks(&mut self) -> Result<(), Trouble> {
        let mut offsets = Vec::new();
        for table in Table::ALL {
            self.task.health.turn();
            let topic = topic_of(&self.task.config.topics, table);
            let at_rest = self.partitions.iter().filter(|p| p.table == table && p.is_at_rest());
            let places: Vec<(i32, i64)> = at_rest.map(|p| (p.number, p.position)).collect();
            let ends = self.quiet.ends(topic, &places);
            offsets.extend(ends.into_iter().map(|(number, end)| (topic.to_owned(), number, end, String::new())));
        }
        if offsets.is_empty() {
            return Ok(());
        }
        self.transaction(&offsets, &[])?;
        for (topic, number, end, _) in offsets {
            if let Some(partition) = self.partitions.iter_mut().find(|p| p.number == number && p.topic == topic) {
                partition.position = end;
            }
        }
        Ok(())
    }

    /// Whether it was a record that leaves room for more, so that another may follow at once.
    fn act(&mut self, event: Event<'_>, consumer: &Consumer) -> Result<bool, Trouble> {
        match event {
            Event::Record(message) => return self.record(&message, consumer),
            Event::Assigned(list) => {
                self.group = consumer.group_metadata();
                self.assigned = kafka::partitions_of(&list);
                self.start(consumer)?;
            }
            Event::Revoked => {
                self.partitions.clear();
                self.assigned.clear();
                self.group = None;
                self.lag.iter().for_each(Lag::clear);
                tracing::info!(transactional_id = self.id, "Partitions taken away");
            }
            Event::OffsetGone => return Err(Trouble::StartAgain("an offset is not in the log any more".into())),
            Event::Error(e) if Consumer::is_fatal(&e) => return Err(Trouble::of_consumer(&self.id, e)),
            Event::Error(e) => tracing::warn!(error = %e, "Reading failed; the client tries again"),
            Event::End(_) | Event::Idle => {}
        }
        Ok(false)
    }

    /// Waits until a try ends, but not for long: the loop has to turn.
    fn wait_for_a_try(&self) {
        let ended = self.ended.notified();
        // Timed out or not, the caller looks.
        let _ = self.runtime.block_on(async { tokio::time::timeout(WAIT, ended).await });
    }

    /// Adds a record to its partition's batch. Whether there is room for more.
    fn record(&mut self, message: &BorrowedMessage<'_>, consumer: &Consumer) -> Result<bool, Trouble> {
        let (topic, number, offset) = (message.topic(), message.partition(), message.offset());
        let Some(partition) = self.partitions.iter_mut().find(|p| p.number == number && p.topic == topic) else {
            return Ok(true);
        };
        let behind = matches!(partition.stage, Stage::Pending(_));
        let batch = match &mut partition.stage {
            Stage::Filling(batch) if !partition.away => batch,
            Stage::Pending(pending) if !partition.away => &mut pending.next,
            _ => {
                partition.away = true;
                return Ok(true);
            }
        };
        if let Some(again) = &batch.again
            && offset > again.last
        {
            let why =
                format!("the log does not hold the record at offset {} any more, so the range cannot be repeated", again.last);
            return self.halt(consumer, (topic.to_owned(), number), why).map(|()| true);
        }
        if batch.records == 0 {
            batch.builder.reserve(self.task.config.sink.max_bytes + ROOM_FOR_A_RECORD);
        }
        let timestamp = message.timestamp().to_millis().unwrap_or(0);
        if batch.records == 0 && !behind {
            self.lag[partition.table as usize].since(number, timestamp);
        }
        let pushed = match push(&self.schemas, partition.table, batch, message) {
            Err(AvroError::UnknownFingerprint(_)) => {
                let topics = &self.task.config.topics;
                schemas::load(&self.task.config.kafka, &topics.schemas, &mut self.schemas)?;
                push(&self.schemas, partition.table, batch, message)
            }
            pushed => pushed,
        };
        let refused = |reason, detail| Refused {
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            offset,
            timestamp,
            headers: own_headers(message),
            resent: Resent::of(message).map_or(0, |resent| resent.times),
            reason,
            detail,
        };
        match pushed {
            Ok(()) => {}
            // Said once the batch before it is settled: a halt would leave that one open.
            Err(AvroError::UnknownFingerprint(_)) if behind => {
                partition.away = true;
                return Ok(true);
            }
            Err(e @ AvroError::UnknownFingerprint(_)) => {
                let why = format!(
                    "offset {offset}: {e}, and the topic of schemas does not have it: upgrade this sink to the writer's version"
                );
                return self.halt(consumer, (topic.to_owned(), number), why).map(|()| true);
            }
            Err(e) => {
                let refused = refused(RejectReason::MalformedAvro.as_str(), e.to_string());
                batch.refused_bytes += refused.bytes();
                batch.refused.push(refused);
            }
        }
        if partition.limit == 1 {
            batch.suspect = Some(refused(REFUSED_BY_CLICKHOUSE, String::new()));
        }
        batch.records += 1;
        batch.range = Some(match batch.range {
            None => (offset, offset, timestamp),
            Some((first, _, time)) => (first, offset, time),
        });
        batch.since.get_or_insert_with(Instant::now);
        Ok(!batch.is_full(partition.limit, &self.task.config.sink))
    }

    /// Takes ripe batches through intent, insert and offset: those whose insert ended to the end, the others a step further.
    fn flush(&mut self, consumer: &Consumer) -> Result<(), Trouble> {
        self.settle(consumer)?;
        let now = Instant::now();
        self.close_ripe(consumer, now)?;
        // Until none had to be committed: whoever slept in between looks again.
        while self.commit_intents(now)? {}
        self.send(now);
        Ok(())
    }

    /// Starts an insert of every batch that is due.
    fn send(&mut self, now: Instant) {
        for partition in self.partitions.iter_mut().filter(|p| p.due(now)) {
            failpoint!("sink.before-post");
            let Stage::Pending(pending) = &mut partition.stage else { continue };
            // It was looked for when the intent was found.
            let Some(replicas) = self.shards.get(pending.intent.shard) else { continue };
            let insert = Insert {
                replicas: Arc::clone(replicas),
                token: pending.intent.token(replicas.any(), partition.table, &partition.topic, partition.number),
                block: pending.block.clone(),
                topic: partition.topic.clone(),
                number: partition.number,
                intent: pending.intent.clone(),
                unsure: pending.unsure,
                span: tracing::trace_span!(
                    target: SPANS,
                    parent: &pending.span,
                    "insert",
                    try_number = pending.tries + 1,
                    server = Empty,
                    verdict = Empty
                ),
                repeat: pending.unsure || pending.tries > 0,
                metrics: Arc::clone(&self.metrics[partition.table as usize]),
            };
            let ended = Arc::clone(&self.ended);
            pending.sent = Some(Try(self.runtime.spawn(async move {
                let end = failpoint!("sink.during-post", insert.run().await);
                ended.notify_one();
                end
            })));
        }
    }

    /// Acts on the inserts that have ended.
    fn settle(&mut self, consumer: &Consumer) -> Result<(), Trouble> {
        let mut written = Vec::new();
        for i in 0..self.partitions.len() {
            let partition = &mut self.partitions[i];
            if !partition.ended() {
                continue;
            }
            let Stage::Pending(pending) = &mut partition.stage else { continue };
            let Some(mut sent) = pending.sent.take() else { continue };
            match self.runtime.block_on(&mut sent.0) {
                Ok(End::Written) => written.push(i),
                Ok(other) => self.unsettled(consumer, i, other)?,
                Err(e) => return Err(Trouble::End(anyhow::anyhow!("an insert broke off: {e}"))),
            }
        }
        self.move_offsets(consumer, &written)
    }

    /// Told to stop: waits for the inserts under way, so that the next process need not repeat them.
    fn finish(&mut self, consumer: &Consumer) {
        while self.partitions.iter().any(|p| p.sent().is_some()) {
            self.task.health.turn();
            self.wait_for_a_try();
            if self.settle(consumer).is_err() {
                tracing::warn!(transactional_id = self.id, "An insert could not be settled; the next process repeats it");
                return;
            }
        }
    }

    /// Closes the batches that are ripe. One without rows (all its records refused) needs no insert.
    fn close_ripe(&mut self, consumer: &Consumer, now: Instant) -> Result<(), Trouble> {
        let at = jiff::Timestamp::now().as_millisecond();
        let mut halts = Vec::new();
        for partition in &mut self.partitions {
            if !partition.ripe(&self.task.config.sink, now) {
                continue;
            }
            let table = partition.table;
            let Stage::Filling(batch) = std::mem::replace(&mut partition.stage, Stage::filling(table, None)) else { continue };
            let Some((first, last, first_time)) = batch.range else { continue };
            let block = batch.builder.finish();
            let fresh = Intent {
                first,
                last,
                records: batch.records,
                rows: block.rows(),
                first_time,
                at,
                attempt: 0,
                encoder: ENCODER_VERSION,
                columns: columns_hash(table),
                shard: self.shards.of(partition.number),
            };
            let found = batch.again.is_some();
            let intent = match batch.again {
                None => fresh,
                Some(again) => {
                    let same = (again.first, again.records, again.rows, again.first_time)
                        == (first, fresh.records, fresh.rows, first_time);
                    let why = again.not_reproducible(table, at).or_else(|| {
                        (!same)
                            .then(|| format!("offsets {} to {} do not give the rows they gave before", again.first, again.last))
                    });
                    if let Some(why) = why {
                        halts.push(((partition.topic.clone(), partition.number), why));
                        continue;
                    }
                    again
                }
            };
            let span = tracing::trace_span!(
                target: SPANS,
                "sink batch",
                table = table.name(),
                topic = partition.topic,
                partition = partition.number,
                first_offset = intent.first,
                last_offset = intent.last,
                records = intent.records,
                rows = intent.rows,
                shard = intent.shard,
                repeated = found
            );
            partition.stage = Stage::Pending(Box::new(Pending {
                span,
                block,
                event_times: batch.event_times,
                intent,
                committed: None,
                retry_at: now,
                sent: None,
                tries: 0,
                refusals: 0,
                unsure: found,
                refused: batch.refused,
                suspect: batch.suspect,
                next: Filling::new(table, None),
            }));
        }
        for (place, why) in halts {
            self.halt(consumer, place, why)?;
        }
        Ok(())
    }

    /// Commits the intents that are new or no longer fresh, all in one transaction. False: there was none.
    fn commit_intents(&mut self, now: Instant) -> Result<bool, Trouble> {
        let (mut offsets, mut spans) = (Vec::new(), Vec::new());
        for partition in self.partitions.iter().filter(|p| p.due(now)) {
            if let Stage::Pending(pending) = &partition.stage
                && pending.committed.is_none_or(|at| at.elapsed() > FRESH)
            {
                spans.push(tracing::trace_span!(target: SPANS, parent: &pending.span, "intent"));
                offsets.push((partition.topic.clone(), partition.number, partition.position, pending.intent.to_metadata()));
            }
        }
        if offsets.is_empty() {
            return Ok(false);
        }
        failpoint!("sink.before-intent");
        self.transaction(&offsets, &[])?;
        failpoint!("sink.after-intent");
        drop(spans);
        let committed = Instant::now();
        for partition in &mut self.partitions {
            if let Stage::Pending(pending) = &mut partition.stage
                && offsets.iter().any(|(topic, number, ..)| *number == partition.number && *topic == partition.topic)
            {
                pending.committed = Some(committed);
            }
        }
        Ok(true)
    }

    /// Moves the offsets past what ClickHouse has, together with the dead letters of those ranges.
    fn move_offsets(&mut self, consumer: &Consumer, written: &[usize]) -> Result<(), Trouble> {
        let (mut offsets, mut spans) = (Vec::new(), Vec::new());
        let mut dead = Vec::new();
        for i in written {
            let partition = &self.partitions[*i];
            let Stage::Pending(pending) = &partition.stage else { continue };
            spans.push(tracing::trace_span!(target: SPANS, parent: &pending.span, "commit"));
            offsets.push((partition.topic.clone(), partition.number, pending.intent.last + 1, String::new()));
            dead.extend(pending.refused.iter().map(|refused| (*i, refused.clone())));
        }
        if offsets.is_empty() {
            return Ok(());
        }
        let now = jiff::Timestamp::now().as_millisecond();
        failpoint!("sink.after-ok");
        self.transaction(&offsets, &dead)?;
        failpoint!("sink.after-commit");
        drop(spans);
        let sink = &self.task.config.sink;
        let mut recovered = false;
        for i in written {
            let partition = &mut self.partitions[*i];
            let stage = std::mem::replace(&mut partition.stage, Stage::filling(partition.table, None));
            if let Stage::Pending(pending) = stage {
                let metrics = &self.metrics[partition.table as usize];
                metrics.rows.increment(pending.intent.records);
                metrics.arrived(&pending.event_times, now);
                pending.refused.iter().for_each(|r| metrics.dead_lettered(r.reason).increment(1));
                partition.position = pending.intent.last + 1;
                partition.still = Instant::now();
                let lag = &self.lag[partition.table as usize];
                match pending.next.range {
                    Some((.., first_time)) if !partition.away => lag.since(partition.number, first_time),
                    // What comes next, or again, says how old it is.
                    _ => lag.settled(partition.number),
                }
                if partition.away {
                    partition.refill(consumer, partition.position)?;
                } else {
                    partition.stage = Stage::Filling(Box::new(pending.next));
                }
                partition.limit = (partition.limit * 2).min(sink.max_rows);
                recovered |= pending.tries > 0;
            }
        }
        if recovered {
            self.report();
        }
        Ok(())
    }

    /// One transaction of offsets with their metadata, and dead letters.
    fn transaction(&self, offsets: &[(String, i32, i64, String)], dead: &[(usize, Refused)]) -> Result<(), Trouble> {
        let Some(group) = &self.group else { return Err(Trouble::StartAgain("no membership".into())) };
        self.producer.begin()?;
        for (i, refused) in dead {
            self.dead_letter(&self.partitions[*i], refused)?;
        }
        Ok(self.producer.commit(offsets, group)?)
    }

    fn dead_letter(&self, partition: &Partition, refused: &Refused) -> Result<(), Trouble> {
        let letter = Refusal {
            topic: &partition.topic,
            partition: partition.number,
            offset: refused.offset,
            timestamp: refused.timestamp,
            key: refused.key.as_deref(),
            item: 0,
            items: &[],
            reason: refused.reason,
            detail: &refused.detail,
            format: "",
            others: 0,
            by: "sink",
            resent: refused.resent,
        };
        let (key, headers) = (letter.identity(), letter.headers(&refused.headers));
        let mut record = BaseRecord::to(&self.task.config.topics.dead_letter).key(key.as_bytes()).headers(headers);
        record.payload = refused.payload.as_deref();
        Ok(self.producer.send(record)?)
    }

    /// What becomes of a batch that was not written.
    fn unsettled(&mut self, consumer: &Consumer, i: usize, end: End) -> Result<(), Trouble> {
        let max_retries = self.task.config.sink.max_retries;
        let partition = &mut self.partitions[i];
        let place = (partition.topic.clone(), partition.number);
        let Stage::Pending(pending) = &mut partition.stage else { return Ok(()) };
        let (first, last, records) = (pending.intent.first, pending.intent.last, pending.intent.records);
        let range = format!("offsets {first} to {last}");
        match end {
            End::Written => {}
            End::Retry { fault, message } => {
                self.metrics[partition.table as usize].retries.increment(1);
                pending.unsure |= fault != Fault::Fence;
                pending.tries += 1;
                pending.refusals = if matches!(fault, Fault::Batch | Fault::Fence) { pending.refusals + 1 } else { 0 };
                if pending.refusals > max_retries {
                    let why = format!("{range}: ClickHouse refused them {} times, last with: {message}", pending.refusals);
                    return self.halt(consumer, place, why);
                }
                let longest = if fault == Fault::Unanswered { MAX_BACKOFF_UNANSWERED } else { MAX_BACKOFF };
                pending.retry_at = Instant::now() + backoff(pending.tries, longest);
                // It will be read again: an outage takes the memory of one batch, not of two.
                pending.next = Filling::new(partition.table, None);
                let (topic, number) = &place;
                tracing::warn!(
                    topic,
                    partition = number,
                    range,
                    tries = pending.tries,
                    answer = message,
                    "An insert was not taken; it is repeated"
                );
                consumer.pause(topic, *number)?;
                partition.away = true;
                self.report();
            }
            // The token is remembered, the rows are not there: the server died between the two. A new name, under a new intent.
            End::Lost => {
                pending.intent.attempt += 1;
                pending.committed = None;
                let (topic, number) = &place;
                tracing::warn!(
                    topic,
                    partition = number,
                    range,
                    "ClickHouse remembers the insert but has no row of it; inserting under a new token"
                );
            }
            End::Halt(message) => return self.halt(consumer, place, format!("{range}: {message}")),
            // Nothing of a block that cannot be parsed is written. Half of it is tried, under an intent of its own.
            End::Divide(_) if records > 1 => {
                partition.limit = (records / 2) as usize;
                partition.refill(consumer, first)?;
            }
            End::Divide(message) => {
                let Some(mut suspect) = pending.suspect.take() else {
                    // Found alone by an intent of before: read again, now keeping it.
                    partition.limit = 1;
                    return Ok(partition.refill(consumer, first)?);
                };
                tracing::error!(
                    topic = place.0,
                    partition = place.1,
                    offset = first,
                    answer = message,
                    "ClickHouse refuses a record; it goes to the dead letter"
                );
                suspect.detail = message;
                pending.refused.push(suspect);
                return self.move_offsets(consumer, &[i]);
            }
        }
        Ok(())
    }

    /// Stops one partition until an operator has acted; the others go on.
    fn halt(&mut self, consumer: &Consumer, place: (String, i32), why: String) -> Result<(), Trouble> {
        let (topic, number) = place;
        tracing::error!(
            topic,
            partition = number,
            why,
            "A partition halts; the others go on. Mend the cause and restart the sink: it repeats the range"
        );
        consumer.pause(&topic, number)?;
        if let Some(partition) = self.partitions.iter_mut().find(|p| p.number == number && p.topic == topic) {
            self.lag[partition.table as usize].halted(number);
            if let Stage::Pending(pending) = &partition.stage {
                telemetry::fail(&pending.span, &why);
            }
            partition.stage = Stage::Halted(format!("{topic}/{number}: {why}"));
        }
        self.report();
        Ok(())
    }

    fn report(&self) {
        let troubles: Vec<String> = self.partitions.iter().filter_map(Partition::trouble).collect();
        for table in Table::ALL {
            let halted = self.partitions.iter().filter(|p| p.table == table && matches!(p.stage, Stage::Halted(_))).count();
            self.metrics[table as usize].halted.set(halted as f64);
        }
        self.task.health.problem((!troubles.is_empty()).then(|| troubles.join("; ")));
    }

    /// Begins to read partitions at where the group left them, or at the range an intent says may be half done.
    fn start(&mut self, consumer: &Consumer) -> Result<(), Trouble> {
        let left = consumer.committed(&self.assigned)?;
        let shards = self.shards.iter().count();
        let mut positions = Vec::new();
        self.partitions.clear();
        self.lag.iter().for_each(Lag::clear);
        for left in left {
            let table = self.table_of(&left.topic);
            let lag = &self.lag[table as usize];
            let asked = self.task.from.map(|from| starting::asked(from, consumer, &left)).transpose()?;
            let counted_to = if starting::wants_counted(&left, asked) {
                self.runtime.block_on(self.shards.last_offset(table, &left.topic, left.partition))?
            } else {
                None
            };
            let intent =
                Intent::from_metadata(&left.metadata).and_then(|found| found.map(|intent| intent.among(shards)).transpose());
            let (place, stage) = match (starting::decide(&left, asked, counted_to), intent) {
                (Start::Halt(why), _) => (left.low, Stage::Halted(why)),
                (_, Err(why)) => (left.low, Stage::Halted(format!("{}/{}: {why}", left.topic, left.partition))),
                (Start::At(offset), Ok(None)) => (offset, Stage::filling(table, None)),
                // Its records are gone, and the operator says where to go on: what it was about to insert is there, or is lost.
                (Start::At(offset), Ok(Some(intent))) if left.offset != Some(offset) => {
                    match self.stands(table, &left.topic, left.partition, &intent)? {
                        // Of a topic made anew nothing is stored yet.
                        Ok(true) if intent.last < left.high => (offset.max(intent.last + 1), Stage::filling(table, None)),
                        Ok(_) => (offset, Stage::filling(table, None)),
                        Err(why) => (left.low, Stage::Halted(format!("{}/{}: {why}", left.topic, left.partition))),
                    }
                }
                (Start::At(offset), Ok(Some(intent))) => {
                    lag.since(left.partition, intent.first_time);
                    tracing::info!(
                        topic = left.topic,
                        partition = left.partition,
                        ?intent,
                        "An insert may be half done; it is repeated"
                    );
                    (offset, Stage::filling(table, Some(intent)))
                }
            };
            if let Stage::Halted(why) = &stage {
                lag.halted(left.partition);
                tracing::error!(topic = left.topic, partition = left.partition, why, "A partition halts; the others go on");
            } else {
                positions.push((left.topic.clone(), left.partition, place));
            }
            self.partitions.push(Partition {
                topic: left.topic,
                number: left.partition,
                table,
                position: place,
                still: Instant::now(),
                limit: self.task.config.sink.max_rows,
                away: false,
                stage,
            });
        }
        consumer.start(&positions)?;
        tracing::info!(transactional_id = self.id, ?positions, "Partitions given");
        self.report();
        self.task.health.ready();
        Ok(())
    }

    /// Whether the range of an intent that cannot be repeated any more is stored: all of it, or nothing; an error where it is neither.
    fn stands(&self, table: Table, topic: &str, partition: i32, intent: &Intent) -> Result<Result<bool, String>, Trouble> {
        let Intent { first, last, rows, .. } = *intent;
        // It was looked for when the intent was found.
        let Some(replicas) = self.shards.get(intent.shard) else { return Ok(Ok(false)) };
        let held = self.runtime.block_on(async {
            let warehouse = replicas.writable().await?;
            warehouse.held(table, topic, partition, first, last).await
        })?;
        if let Some(why) = held.awaits.or(held.doubts) {
            return Err(Trouble::StartAgain(why));
        }
        Ok(match held.rows {
            0 => Ok(false),
            there if there == rows => Ok(true),
            there => Err(format!(
                "offsets {first} to {last} are gone from the log, and {} holds {there} rows of them instead of {rows}; a backup has the \
                 rest, or nothing has. To go on without them, set the group's offset of this partition to {}",
                table.name(),
                last + 1
            )),
        })
    }

    fn table_of(&self, topic: &str) -> Table {
        let fed = |table: &Table| topic_of(&self.task.config.topics, *table) == topic;
        Table::ALL.into_iter().find(fed).unwrap_or(Table::Failures)
    }

    /// Mends what can be mended: what was not settled is read again from the committed offsets.
    fn recover(&mut self, turned: Result<(), Trouble>, consumer: &Consumer) -> anyhow::Result<()> {
        let mut turned = turned;
        while let Err(trouble) = turned {
            let aborted = matches!(trouble, Trouble::Transaction(TransactionError::Aborted(_)));
            let renew = matches!(trouble.cure(&self.id)?, Cure::NewProducer) || (aborted && self.producer.abort().is_err());
            if renew {
                match take_over(&self.task.config, &self.id, &self.task.stop, &self.task.health)? {
                    Some(producer) => self.producer = producer,
                    None => return Ok(()),
                }
            }
            turned = self.start(consumer);
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
}

/// How one try of a batch ended.
enum End {
    Written,
    Retry { fault: Fault, message: String },
    Lost,
    Halt(String),
    Divide(String),
}

/// Where the fault of a failed try lies, as far as it shows: the first two last as long as the server is in that state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nobody answered; or what stands before ClickHouse did, for it has no code. The outcome is unknown.
    Unanswered,
    Server,
    /// A constraint of the table, such as the fence of a replay: surely nothing was written.
    Fence,
    Batch,
}

impl Fault {
    fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Broken { .. } | Answer::Refused { code: None, .. } => Self::Unanswered,
            answer if is_of_the_server(answer) => Self::Server,
            answer if is_held_off(answer) => Self::Fence,
            _ => Self::Batch,
        }
    }
}

/// One try of a batch, apart from the loop.
struct Insert {
    replicas: Arc<Replicas>,
    token: String,
    block: Block,
    topic: String,
    number: i32,
    intent: Intent,
    unsure: bool,
    /// Whether it was tried before.
    repeat: bool,
    metrics: Arc<metrics::Sink>,
    span: Span,
}

impl Insert {
    /// Inserts at the replica of its shard that is spoken to (where it cannot take anything, the next try goes to another one, with the same token), and counts the range where an earlier try may have been written in part.
    async fn run(self) -> End {
        if self.block.rows() == 0 {
            return End::Written;
        }
        // What it takes is counted at the same server: see `Warehouse::held`.
        let warehouse = match self.replicas.writable().await {
            Ok(warehouse) => warehouse,
            Err(e) => return End::Retry { fault: Fault::Unanswered, message: e.to_string() },
        };
        // A repeat is only safe while every table remembers what it took: somebody may have changed that since the start.
        if self.repeat
            && let Err(e) = warehouse.check().await
        {
            if !e.may_pass() {
                return End::Halt(format!("they may be stored already and cannot be repeated safely. {e}"));
            }
            self.replicas.pass_by(warehouse);
            return End::Retry { fault: Fault::Unanswered, message: e.to_string() };
        }
        self.span.record("server", warehouse.url());
        // A server that died between remembering and storing drops the repeat, and still hands it to the views of the table: under a new
        // token they would add it up a second time. So views hear of a repeat only once the table is known to hold its rows.
        if self.unsure {
            match self.is_there(warehouse).await {
                Ok(true) => return End::Written,
                Ok(false) => {}
                Err(e) => {
                    self.replicas.pass_by(warehouse);
                    return End::Retry { fault: Fault::Unanswered, message: e.to_string() };
                }
            }
            let answer = self.sent(warehouse, warehouse.insert_before_views(&self.block, &self.token)).await;
            if judge(&answer) != Verdict::Written {
                return self.end_of(warehouse, &answer).await;
            }
            match self.counted(warehouse, End::Lost).await {
                End::Written => {}
                end => return end,
            }
        }
        let answer = self.sent(warehouse, warehouse.insert(&self.block, &self.token)).await;
        self.end_of(warehouse, &answer).await
    }

    /// Whether the table holds the whole range, and nobody else is to hear of it: then a repeat could only do harm. While a partition stands,
    /// the others go on, until its token is the oldest and forgotten.
    async fn is_there(&self, warehouse: &Warehouse) -> Result<bool, WarehouseError> {
        let Intent { first, last, rows, .. } = self.intent;
        let table = self.block.table();
        if warehouse.feeds_views(table).await? {
            return Ok(false);
        }
        let held = warehouse.held(table, &self.topic, self.number, first, last).await?;
        if held.rows != rows || held.doubts.is_some() {
            return Ok(false);
        }
        // Of a topic that was made anew, rows of the old log stand at the same offsets, and behind them. Of one log there are none behind.
        let there = warehouse.last_offset(table, &self.topic, self.number).await;
        Ok(there.is_ok_and(|there| there.is_some_and(|there| there <= last)))
    }

    /// Waits for the answer to an insert, measured and noted.
    async fn sent(&self, warehouse: &Warehouse, insert: impl Future<Output = Answer>) -> Answer {
        let started = Instant::now();
        let answer = insert.await;
        self.metrics.insert_seconds.record(started.elapsed());
        let verdict = judge(&answer);
        self.metrics.answered(verdict).increment(1);
        self.span.record("verdict", verdict.as_str());
        if verdict != Verdict::Written {
            telemetry::fail(&self.span, &answer);
        }
        if matches!(Fault::of(&answer), Fault::Unanswered | Fault::Server) {
            self.replicas.pass_by(warehouse);
        }
        answer
    }

    /// What an answer means for the batch.
    async fn end_of(&self, warehouse: &Warehouse, answer: &Answer) -> End {
        match judge(answer) {
            Verdict::Written if self.unsure => self.counted(warehouse, End::Lost).await,
            Verdict::Written => End::Written,
            Verdict::Retry => End::Retry { fault: Fault::of(answer), message: format!("at {}: {answer}", warehouse.url()) },
            Verdict::Halt => End::Halt(format!("at {}: {answer}", warehouse.url())),
            // An earlier try may have been taken by a server that was otherwise then.
            Verdict::Poison | Verdict::Split if self.unsure => self.counted(warehouse, End::Divide(answer.to_string())).await,
            Verdict::Poison | Verdict::Split => End::Divide(answer.to_string()),
        }
    }

    /// What the server holds of the range decides: all of it is written; of `none`, what that means.
    async fn counted(&self, warehouse: &Warehouse, none: End) -> End {
        let Intent { first, last, rows, .. } = self.intent;
        let table = self.block.table();
        match warehouse.held(table, &self.topic, self.number, first, last).await {
            Ok(held) if held.rows == rows => End::Written,
            Ok(Held { rows: there, awaits: Some(why), .. }) if there < rows => End::Retry { fault: Fault::Server, message: why },
            Ok(Held { rows: there, doubts: Some(why), .. }) if there > rows => {
                self.replicas.pass_by(warehouse);
                End::Retry { fault: Fault::Server, message: why }
            }
            Ok(Held { rows: 0, .. }) => none,
            Ok(held) => End::Halt(format!("{} holds {} rows of them instead of {rows}", table.name(), held.rows)),
            Err(e) => {
                self.replicas.pass_by(warehouse);
                End::Retry { fault: Fault::Unanswered, message: e.to_string() }
            }
        }
    }
}

/// The topic a table is fed from.
fn topic_of(topics: &Topics, table: Table) -> &str {
    match table {
        Table::Failures => &topics.failures,
        Table::Batches => &topics.rates,
        Table::Alerts => &topics.alerts,
    }
}

fn push(schemas: &Schemas, table: Table, batch: &mut Filling, message: &BorrowedMessage<'_>) -> Result<(), AvroError> {
    let Filling { builder, event_times, .. } = batch;
    let payload = message.payload().unwrap_or_default();
    let at = LogPosition { topic: message.topic(), partition: message.partition(), offset: message.offset() };
    match table {
        Table::Failures => {
            let failure = schemas.decode_failure(payload)?;
            builder.push_failure(&failure, at);
            event_times.push(failure.event_time);
        }
        Table::Batches => {
            let log_time = message.timestamp().to_millis().unwrap_or(0);
            let batch = schemas.decode::<RateBatch>(payload)?;
            builder.push_batch(&batch, at, log_time);
            event_times.extend(batch.sources.iter().filter_map(|source| source.max_event_time));
        }
        Table::Alerts => {
            let replica = header(message, REPLICA).unwrap_or_default();
            let log_time = message.timestamp().to_millis().unwrap_or(0);
            let replica = String::from_utf8_lossy(&replica);
            let alert = schemas.decode::<Alert>(payload)?;
            builder.push_alert(&alert, at, &replica, log_time);
            event_times.push(alert.event_time);
        }
    }
    Ok(())
}

impl Partition {
    /// Begins a new batch at `offset`.
    fn refill(&mut self, consumer: &Consumer, offset: i64) -> Result<(), rdkafka::error::KafkaError> {
        self.stage = Stage::filling(self.table, None);
        self.away = false;
        consumer.seek(&self.topic, self.number, offset)
    }

    /// Whether everything that came is settled, and nothing came for a while.
    fn is_at_rest(&self) -> bool {
        matches!(&self.stage, Stage::Filling(batch) if batch.records == 0 && batch.again.is_none())
            && !self.away
            && self.still.elapsed() >= REST
    }

    /// Whether its batch is to be closed.
    fn ripe(&self, sink: &crate::config::Sink, now: Instant) -> bool {
        let Stage::Filling(batch) = &self.stage else { return false };
        batch.is_full(self.limit, sink)
            || batch.again.is_none() && batch.since.is_some_and(|since| now.saturating_duration_since(since) >= sink.linger)
    }

    /// Whether its batch is to be tried now.
    fn due(&self, now: Instant) -> bool {
        matches!(&self.stage, Stage::Pending(pending) if pending.sent.is_none() && pending.retry_at <= now)
    }

    /// The try that is under way.
    fn sent(&self) -> Option<&Try> {
        if let Stage::Pending(pending) = &self.stage { pending.sent.as_ref() } else { None }
    }

    /// Whether a try has ended that nobody has acted on.
    fn ended(&self) -> bool {
        self.sent().is_some_and(|sent| sent.0.is_finished())
    }

    /// Whether it can take no record until the insert under way has ended.
    fn is_full_behind(&self, sink: &crate::config::Sink) -> bool {
        matches!(&self.stage, Stage::Pending(pending) if !self.away && pending.next.is_full(self.limit, sink))
    }

    /// What keeps it from going on.
    fn trouble(&self) -> Option<String> {
        match &self.stage {
            Stage::Halted(why) => Some(format!("halted: {why}")),
            Stage::Pending(pending) if pending.tries > 0 => {
                Some(format!("{}/{}: ClickHouse does not take an insert, tried {} times", self.topic, self.number, pending.tries))
            }
            _ => None,
        }
    }
}

impl Stage {
    fn filling(table: Table, again: Option<Intent>) -> Self {
        Self::Filling(Box::new(Filling::new(table, again)))
    }
}

impl Filling {
    fn new(table: Table, again: Option<Intent>) -> Self {
        Self {
            builder: BlockBuilder::new(table),
            range: None,
            records: 0,
            event_times: Vec::new(),
            refused: Vec::new(),
            refused_bytes: 0,
            since: None,
            again,
            suspect: None,
        }
    }

    /// Whether it takes no further record. One that an intent names is full when it is that range, whatever the limits.
    fn is_full(&self, limit: usize, sink: &crate::config::Sink) -> bool {
        match (&self.again, self.range) {
            (_, None) => false,
            (Some(again), Some((_, last, _))) => last == again.last,
            (None, Some(_)) => self.records as usize >= limit || self.builder.bytes() + self.refused_bytes >= sink.max_bytes,
        }
    }
}

/// Doubling from 100 ms, with up to half as much again so that several sinks do not knock together.
fn backoff(tries: u32, longest: Duration) -> Duration {
    let base = Duration::from_millis(100).saturating_mul(1 << tries.min(10)).min(longest);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    base + base.mul_f64(f64::from(nanos % 1000) / 2000.0)
}
