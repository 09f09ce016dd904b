//! The watch loop: rate batches in, transitions of alerts out, the same on every replica.
//!
//! Read it from the top: [`run`] prepares, [`Life::begin`] finds out where an earlier life was, [`Life::turn`] waits for one event,
//! [`Life::record`] folds a batch, [`Life::write`] settles what it changed: transitions, and how far the log was evaluated, in one
//! Kafka transaction. What is decided is decided in `bounceflow-window`; what people see of it stands on the [`Board`].
//!
//! A replica reads the whole topic by itself (no group is joined): its group only keeps its place. The place is an offset, and with
//! it the event time evaluated ([`Mark`]); windows are not stored, but read again from far enough back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bounceflow_event::avro::{self, AvroError, Encoder, Schemas, WriterSchema};
use bounceflow_event::{Alert, RateBatch};
use bounceflow_window::{AHEAD_SECONDS, Transition, Watch};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::{BorrowedMessage, Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::{Message, Offset};
use serde::{Deserialize, Serialize};
use tracing::field::Empty;

use crate::board::Board;
use crate::config::Config;
use crate::dead_letter::Resent;
use crate::dead_letter::letter::header;
use crate::evidence;
use crate::health::Loop;
use crate::kafka;
use crate::kafka::{Committed, Consumer, Event, Producer, Reader};
use crate::lag::Lag;
use crate::metrics;
use crate::process::Tables;
use crate::schemas;
use crate::stop::Stop;
use crate::telemetry::SPANS;
use crate::trouble::{Cure, Trouble, take_over};

/// The rates topic has one partition: its order decides every evaluation.
const PARTITION: i32 = 0;
/// The header of a transition that says which replica wrote it: its transactional id.
pub const REPLICA: &str = "bounceflow.replica";
/// Where nothing changed, the place is committed this often.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// The end of the log is asked for this often while it is not reached.
const LAG_EVERY: Duration = Duration::from_secs(2);
/// Rows may stand this far ahead of the log; only what is later than that is surely in what is read from some log time on.
const AHEAD_MS: i64 = 1000 * AHEAD_SECONDS as i64;
/// How long the topics of alerts and rates may take to hand out their next record.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the loop is told.
pub struct Task {
    /// The process's configuration.
    pub config: Arc<Config>,
    /// Classification rules, for root cause and action.
    pub tables: Arc<Tables>,
    /// Where people look.
    pub board: Arc<Board>,
    /// When to end.
    pub stop: Stop,
    /// Where to say how it goes.
    pub health: Arc<Loop>,
}

/// Runs until told to stop. An error is one the loop cannot mend: the process ends, and nothing is lost.
pub fn run(task: &Task) -> anyhow::Result<()> {
    let topics = &task.config.topics;
    let needed = [&*topics.rates, &topics.alerts, &topics.schemas];
    if !kafka::wait_for_topics(&task.config.kafka, &needed, &task.stop, &task.health)? {
        return Ok(());
    }
    let id = format!("{}/{}/watch", task.config.deployment, task.config.ordinal);
    let group = format!("{}.watch.{}", task.config.deployment, task.config.ordinal);
    let Some(mut producer) = take_over(&task.config, &id, &task.stop, &task.health)? else { return Ok(()) };
    let consumer = Consumer::alone(&task.config.kafka, "watch", &group)?;
    let schema = WriterSchema::parse(avro::ALERT)?;
    tracing::info!(group, transactional_id = id, rules = task.config.watch.rules.len(), "Watch started");
    while !task.stop.is_set() {
        let lived = Life::begin(task, &id, &schema, &consumer).and_then(|mut life| life.live(&producer, &consumer));
        let Err(trouble) = lived else { break };
        let renew = matches!(trouble.cure(&id)?, Cure::NewProducer) || producer.abort().is_err();
        if renew {
            match take_over(&task.config, &id, &task.stop, &task.health)? {
                Some(new) => producer = new,
                None => break,
            }
        }
        task.stop.wait(Duration::from_secs(1));
    }
    tracing::info!(transactional_id = id, "Watch ended");
    Ok(())
}

/// How far an evaluation got, kept as metadata of the committed offset. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Event time of the last step whose transitions are written.
    evaluated_to: i64,
    /// Log time of the last batch before the offset.
    log_time: i64,
    /// Event time from which the log read was complete; none: from its very beginning.
    complete_from: Option<i64>,
    /// The same of this replica's first life; none: it had the log from its very beginning. What it could not judge for want of log,
    /// others had recorded, and it went on from there.
    #[serde(default)]
    joined: Option<i64>,
}

/// From where the log is read.
#[derive(Clone, Copy, Debug)]
struct Start {
    offset: i64,
    /// Event time from which what is read is complete.
    complete: Complete,
}

#[derive(Clone, Copy, Debug)]
enum Complete {
    /// The log's very beginning is read.
    Always,
    /// From this event time.
    From(i64),
    /// Retention took what was before the first record: as of that one's log time.
    FirstRecord,
}

/// From one start to the next trouble.
struct Life<'t> {
    task: &'t Task,
    id: &'t str,
    group: ConsumerGroupMetadata,
    schemas: Schemas,
    to_avro: Encoder<'t>,
    bytes: Vec<u8>,
    metrics: metrics::Watch,
    lag: Lag,
    complete: Complete,
    /// What an earlier life left; taken when the first batch is read.
    left: Option<(Option<Mark>, Vec<Transition>)>,
    complete_from: Option<i64>,
    joined: Option<i64>,
    next: i64,
    /// Where the log ended when that was asked last; none: it was reached. Under steady traffic the client never says `End`.
    end: Option<i64>,
    log_time: i64,
    /// Of the last commit, and the step it said.
    committed: (Instant, Option<i64>),
    lag_asked: Instant,
}

impl<'t> Life<'t> {
    /// Finds out where an earlier life was, and begins to read far enough before it.
    fn begin(task: &'t Task, id: &'t str, schema: &'t WriterSchema, consumer: &Consumer) -> Result<Self, Trouble> {
        let topics = &task.config.topics;
        let Some(left) = consumer.committed(&[(topics.rates.clone(), PARTITION)])?.pop() else {
            return Err(Trouble::StartAgain("Kafka said nothing of the rates topic".into()));
        };
        let mut schemas = schemas::known()?;
        schemas::load(&task.config.kafka, &topics.schemas, &mut schemas)?;
        let mark = mark_of(&left);
        let recorded = recorded(task, &schemas, mark.map(|mark| (mark, id)))?;
        let start = start_of(task, consumer, &schemas, &left, mark)?;
        consumer.start(&[(topics.rates.clone(), PARTITION, start.offset)])?;
        tracing::info!(
            transactional_id = id,
            ?mark,
            ?start,
            committed = left.offset,
            transitions = recorded.len(),
            "Reading rates"
        );
        let group = consumer.group_metadata().ok_or_else(|| Trouble::StartAgain("no group metadata".into()))?;
        task.board.clear();
        Ok(Self {
            task,
            id,
            group,
            schemas,
            to_avro: schema.encoder(),
            bytes: Vec::new(),
            metrics: metrics::Watch::new(&task.config.watch.alertmanagers),
            lag: Lag::new("watch", &topics.rates),
            complete: start.complete,
            left: Some((mark, recorded)),
            complete_from: None,
            joined: None,
            next: start.offset,
            end: Some(left.high),
            log_time: 0,
            committed: (Instant::now(), mark.map(|m| m.evaluated_to)),
            lag_asked: Instant::now(),
        })
    }

    fn live(&mut self, producer: &Producer, consumer: &Consumer) -> Result<(), Trouble> {
        while !self.task.stop.is_set() {
            self.task.health.turn();
            self.turn(producer, consumer)?;
        }
        self.write(producer, Vec::new())
    }

    /// Waits for one event, acts on it, and commits the place when it is time.
    fn turn(&mut self, producer: &Producer, consumer: &Consumer) -> Result<(), Trouble> {
        match consumer.poll(Duration::from_millis(100)) {
            Event::Record(message) => self.record(&message, producer)?,
            Event::End(_) => {
                self.lag_asked = Instant::now();
                self.lag.settled(PARTITION);
                self.end = Some(self.next);
            }
            Event::OffsetGone => {
                return Err(Trouble::StartAgain("an offset of the rates topic is not in the log any more".into()));
            }
            Event::Error(e) if Consumer::is_fatal(&e) => return Err(Trouble::End(e.into())),
            Event::Error(error) => tracing::warn!(%error, "Reading failed; the client tries again"),
            Event::Idle | Event::Assigned(_) | Event::Revoked => {}
        }
        if self.lag_asked.elapsed() > LAG_EVERY {
            self.lag_asked = Instant::now();
            match consumer.end_of(&self.task.config.topics.rates, PARTITION) {
                Ok(end) => {
                    self.end = Some(end);
                    self.task.board.lag((end - self.next).max(0));
                }
                // What was counted is as right as before.
                Err(error) => tracing::warn!(%error, "Kafka does not say where the rates topic ends; asking again"),
            }
            self.report();
        }
        if self.end.take_if(|end| self.next >= *end).is_some() {
            self.task.board.caught_up();
            self.report();
        }
        if self.committed.0.elapsed() > COMMIT_EVERY { self.write(producer, Vec::new()) } else { Ok(()) }
    }

    /// Folds a batch and settles what it changed.
    fn record(&mut self, message: &BorrowedMessage<'_>, producer: &Producer) -> Result<(), Trouble> {
        let payload = message.payload().unwrap_or_default();
        self.log_time = message.timestamp().to_millis().unwrap_or(self.log_time);
        self.lag.since(PARTITION, self.log_time);
        if let Some((mark, recorded)) = self.left.take() {
            self.open(mark, recorded);
        }
        let batch = match self.schemas.decode::<RateBatch>(payload) {
            Err(AvroError::UnknownFingerprint(_)) => {
                let topics = &self.task.config.topics;
                schemas::load(&self.task.config.kafka, &topics.schemas, &mut self.schemas)?;
                self.schemas.decode::<RateBatch>(payload)
            }
            decoded => decoded,
        };
        let resent = Resent::of(message);
        let span = tracing::trace_span!(
            target: SPANS,
            "watch batch",
            offset = message.offset(),
            rows = Empty,
            evaluated_to = Empty,
            transitions = Empty
        );
        let mut changes = Vec::new();
        match batch {
            // It was folded when it came first.
            Ok(_) if resent.as_ref().is_some_and(|resent| resent.was_read) => {}
            Ok(mut batch) => {
                if resent.is_some() {
                    // Its counts are news, but what it says of its sources is not: they have gone on since.
                    batch.sources.clear();
                    (batch.part, batch.parts) = (0, 1);
                }
                self.task.board.fold(&batch, self.log_time, &mut changes);
                self.metrics.batches.increment(1);
                span.record("rows", batch.rows.len());
            }
            Err(e @ AvroError::UnknownFingerprint(_)) => {
                let why =
                    format!("offset {}: {e}, and the topic of schemas does not have it: upgrade this process", message.offset());
                self.task.health.problem(Some(why.clone()));
                return Err(Trouble::StartAgain(why));
            }
            // The sink leaves it in the dead letter.
            Err(e) => {
                tracing::warn!(offset = message.offset(), error = %e, "A rate batch cannot be read; it is left out of the windows");
                self.metrics.malformed.increment(1);
            }
        }
        self.next = message.offset() + 1;
        span.record("evaluated_to", self.task.board.evaluated_to());
        span.record("transitions", changes.len());
        if changes.is_empty() {
            return Ok(());
        }
        let _writing = tracing::trace_span!(target: SPANS, parent: &span, "write transitions");
        self.write(producer, changes)
    }

    /// Makes the windows, now that the first batch says when the log begins.
    fn open(&mut self, mark: Option<Mark>, recorded: Vec<Transition>) {
        let read = match self.complete {
            Complete::Always => None,
            Complete::From(time) => Some(time),
            Complete::FirstRecord => Some(self.log_time + AHEAD_MS),
        };
        // What an earlier life did not judge for want of log is not judged sooner for a restart.
        self.complete_from = read.max(mark.and_then(|m| m.complete_from));
        self.joined = mark.map_or(self.complete_from, |m| m.joined);
        let watch = &self.task.config.watch;
        let evaluated_to = mark.map(|m| m.evaluated_to);
        let rules = Arc::clone(&watch.rules);
        let resumed = Watch::resume(rules, watch.settings, evaluated_to, self.complete_from, recorded.clone());
        self.task.board.open(resumed, recorded);
    }

    /// Writes transitions, and how far the log is evaluated, in one transaction.
    fn write(&mut self, producer: &Producer, changes: Vec<Transition>) -> Result<(), Trouble> {
        let evaluated_to = self.task.board.evaluated_to();
        self.committed.0 = Instant::now();
        let Some(step) = evaluated_to else { return Ok(()) };
        if changes.is_empty() && evaluated_to <= self.committed.1 {
            return Ok(());
        }
        let topics = &self.task.config.topics;
        producer.begin()?;
        let rules = self.task.tables.rules.get();
        for change in &changes {
            tracing::info!(alert = change.alert_id, state = change.state.as_str(), event_time = change.event_time, "Alert");
            let (cause, action) = evidence::cause_and_action(&rules, change);
            self.bytes.clear();
            self.to_avro.encode(&evidence::to_wire(change, cause, action), &mut self.bytes)?;
            let headers = OwnedHeaders::new().insert(Header { key: REPLICA, value: Some(self.id) });
            let record = BaseRecord::to(&topics.alerts).key(change.alert_id.as_bytes()).payload(&self.bytes[..]);
            producer.send(record.partition(0).headers(headers))?;
        }
        let mark = Mark { evaluated_to: step, log_time: self.log_time, complete_from: self.complete_from, joined: self.joined };
        let metadata = serde_json::to_string(&mark).map_err(|e| Trouble::End(e.into()))?;
        producer.commit(&[(topics.rates.clone(), PARTITION, self.next, metadata)], &self.group)?;
        self.committed.1 = evaluated_to;
        self.metrics.changed(&changes);
        self.task.board.changed(changes);
        Ok(())
    }

    /// Says how it goes: readiness and metrics.
    fn report(&self) {
        let status = self.task.board.status();
        self.metrics.report(&status, self.task.board.standing());
        self.task.health.problem((!status.problems.is_empty()).then(|| status.problems.join("; ")));
        if status.ready {
            self.task.health.ready();
        }
    }
}

/// Where this replica was, if its place is still in the log.
fn mark_of(left: &Committed) -> Option<Mark> {
    let offset = left.offset?;
    let mark = serde_json::from_str(&left.metadata).ok();
    if mark.is_none() || offset < left.low || offset > left.high {
        tracing::warn!(offset, low = left.low, high = left.high, "The committed place cannot be used; starting as a new replica");
        return None;
    }
    mark
}

/// The transitions in the topic that this replica goes on from: its own and what it took over when it was new. A new one takes everybody's.
fn recorded(task: &Task, schemas: &Schemas, left: Option<(Mark, &str)>) -> anyhow::Result<Vec<Transition>> {
    let mut transitions = Vec::new();
    Reader::open(&task.config.kafka, &task.config.topics.alerts)?.to_end(PATIENCE, |record| {
        let by = header(record, REPLICA);
        // One sent again comes after those that followed it; whoever wrote it could read it where it stood.
        if Resent::of(record).is_some() {
            return;
        }
        match record.payload().map(|payload| schemas.decode::<Alert>(payload)) {
            Some(Ok(alert)) => {
                let is_own = |own: &str| by.as_deref() == Some(own.as_bytes());
                if left.is_none_or(|(mark, own)| is_own(own) || mark.took_over(alert.event_time, alert.window_seconds)) {
                    transitions.extend(evidence::from_wire(&alert));
                }
            }
            _ => tracing::warn!(offset = record.offset(), "A transition in the topic of alerts cannot be read; left out"),
        }
    })?;
    Ok(transitions)
}

impl Mark {
    /// Whether a transition of another replica is of a time at which this one could not judge: it had not read the whole window.
    fn took_over(&self, event_time: i64, window_seconds: i64) -> bool {
        // A window moves in slides, none longer than itself.
        self.joined.is_some_and(|joined| event_time - 2 * 1000 * window_seconds < joined)
    }
}

/// From where to read, so that every window is complete when the first new step is evaluated.
fn start_of(task: &Task, consumer: &Consumer, schemas: &Schemas, left: &Committed, mark: Option<Mark>) -> Result<Start, Trouble> {
    let watch = &task.config.watch;
    let lookback = 1000 * i64::from(Watch::lookback(&watch.rules, &watch.settings));
    let last = match mark {
        Some(mark) => Some(mark.evaluated_to.min(mark.log_time)),
        None => latest(task, schemas, left)?,
    };
    let Some(time) = last.map(|last| last - lookback) else {
        let complete = if left.low == 0 { Complete::Always } else { Complete::FirstRecord };
        return Ok(Start { offset: left.low, complete });
    };
    let offset = match consumer.offset_at(&left.topic, PARTITION, time)? {
        Offset::Offset(offset) => offset,
        _ => left.high,
    };
    let offset = offset.min(left.offset.filter(|_| mark.is_some()).unwrap_or(left.high)).max(left.low);
    let complete = match offset {
        0 => Complete::Always,
        _ if offset == left.low => Complete::FirstRecord,
        _ => Complete::From(time + AHEAD_MS),
    };
    Ok(Start { offset, complete })
}

/// About the watermark at the end of the log: the smallest event time its last batches name. None: no batch.
fn latest(task: &Task, schemas: &Schemas, left: &Committed) -> anyhow::Result<Option<i64>> {
    let mut back = 200;
    loop {
        let from = (left.high - back).max(left.low);
        let mut smallest: Option<i64> = None;
        Reader::open_at(&task.config.kafka, &left.topic, from)?.to_end(PATIENCE, |record| {
            let batch = record.payload().and_then(|payload| schemas.decode::<RateBatch>(payload).ok());
            let times = batch.iter().flat_map(|b| b.sources.iter().filter_map(|s| s.max_event_time));
            let time = times.chain(record.timestamp().to_millis()).min();
            smallest = smallest.into_iter().chain(time).min();
        })?;
        if smallest.is_some() || from == left.low {
            return Ok(smallest);
        }
        back *= 10;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn mark(joined: Option<i64>) -> Mark {
        Mark { evaluated_to: 30 * HOUR, log_time: 30 * HOUR, complete_from: Some(29 * HOUR), joined }
    }

    #[test]
    fn a_later_life_goes_on_from_what_the_first_took_over_and_no_other() {
        let joined = mark(Some(20 * HOUR));
        assert!(joined.took_over(19 * HOUR, 300), "before it could read anything");
        assert!(joined.took_over(21 * HOUR, 24 * 3600), "a window that began before");
        assert!(!joined.took_over(21 * HOUR, 300), "judged by itself");
        assert!(!mark(None).took_over(HOUR, 300), "it read everything");
    }

    #[test]
    fn marks_of_earlier_versions_are_read() {
        let mark: Mark = serde_json::from_str(r#"{"evaluated_to":1,"log_time":2,"complete_from":3}"#).unwrap();
        assert_eq!((mark.complete_from, mark.joined), (Some(3), None));
    }
}
