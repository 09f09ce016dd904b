//! Reads the ranges of a replay and counts them, with what `classify` counts with, into the replay's own tables.
//!
//! A range is cut into chunks where the records alone say so: after so many offsets, or so much to write. A chunk is a block of
//! failures, then a block of the batches that count them and name the offsets covered. Both have the same bytes and tokens however often
//! they are made, so a chunk that was interrupted is counted again and what is there already is dropped; a chunk whose batches are
//! there is done. Outside of any group, nothing committed: whatever reads the same topics does not notice.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bounceflow_classify::PATTERN_VERSION;
use bounceflow_event::{Decoder, Source};
use bounceflow_warehouse::replay::{Range, Replay, log_of, place};
use bounceflow_warehouse::{Answer, Block, BlockBuilder, LogPosition, Table, Verdict, Warehouse, judge};
use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use tokio::runtime::Runtime;

use super::say;
use crate::config::{self, Config};
use crate::counts::{Counts, Header, Limits};
use crate::kafka::{Consumer, Event};
use crate::process::{Outcome, Scratch, Tables};
use crate::record::{self, Settled};

/// Offsets of a chunk at most.
const CHUNK_OFFSETS: i64 = 50_000;
/// A chunk ends early when its failures reach this: one block must hold them, whatever the last record adds.
const CHUNK_ROWS: u64 = 200_000;
const CHUNK_BYTES: usize = 32 << 20;
/// And when its items do, for what is counted of them is in memory.
const CHUNK_ITEMS: i64 = 500_000;
/// Kafka may be silent for this long while a range is read.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tries of one insert, with waits that add up to some minutes.
const TRIES: u32 = 20;
/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Counts what is left of a replay's ranges.
pub(super) fn count(
    config: &Config,
    tables: &Tables,
    replay: &Replay,
    runtime: &Runtime,
    warehouse: &Warehouse,
) -> anyhow::Result<()> {
    let mut decoders = BTreeMap::new();
    for range in &replay.ranges {
        let input = config.inputs.iter().find(|input| input.topic == range.topic);
        let input = input.with_context(|| format!("{} is none of the inputs of the configuration any more", range.topic))?;
        if !decoders.contains_key(&range.topic) {
            decoders.insert(range.topic.clone(), config::decoder(input)?);
        }
    }
    // The words of a panic may quote a record.
    std::panic::set_hook(Box::new(|_| {}));
    let done = runtime.block_on(warehouse.replayed(replay.id))?;
    // Campaigns are bounded by the items of a chunk, which is more than a transaction may hold: no cap, or more would be `other`.
    let limits = Limits { campaigns: usize::MAX, patterns: config.classify.max_patterns };
    let total: u64 = replay.ranges.iter().map(Range::offsets).sum();
    let mut counter = Counter {
        replay,
        runtime,
        warehouse,
        tables,
        decoders,
        scratch: Scratch::new(tables),
        counts: Counts::new(limits),
        panicked: Vec::new(),
        producer: format!("{}/replay/{}", config.deployment, replay.id),
        progress: Progress::new(total, done.iter().map(Range::offsets).sum()),
    };
    let consumer = Consumer::alone(&config.kafka, "replay", "bounceflow.replay")?;
    for range in &replay.ranges {
        let within = |r: &&Range| {
            r.topic == range.topic && r.partition == range.partition && r.first >= range.first && r.last <= range.last
        };
        // Chunks are written in order: what is done is a beginning.
        let next = done.iter().filter(within).map(|r| r.last + 1).max().unwrap_or(range.first);
        if next <= range.last {
            counter.range(&consumer, &Range { first: next, ..range.clone() })?;
        }
    }
    counter.progress.end();
    Ok(())
}

struct Counter<'a> {
    replay: &'a Replay,
    runtime: &'a Runtime,
    warehouse: &'a Warehouse,
    tables: &'a Tables,
    decoders: BTreeMap<String, Decoder>,
    scratch: Scratch,
    counts: Counts,
    /// Records over which this program panicked: topic, partition, offset.
    panicked: Vec<(String, i32, i64)>,
    producer: String,
    progress: Progress,
}

/// A chunk that grows.
struct Chunk {
    first: i64,
    last: i64,
    failures: BlockBuilder,
    records: i64,
    items: i64,
    dead_lettered: i64,
    max_event_time: Option<i64>,
}

impl Chunk {
    fn at(first: i64, range: &Range) -> Self {
        Self {
            first,
            last: range.last.min(first + CHUNK_OFFSETS - 1),
            failures: BlockBuilder::new(Table::Failures),
            records: 0,
            items: 0,
            dead_lettered: 0,
            max_event_time: None,
        }
    }
}

impl Counter<'_> {
    fn range(&mut self, consumer: &Consumer, range: &Range) -> anyhow::Result<()> {
        consumer.start(&[(range.topic.clone(), range.partition, range.first)])?;
        let mut chunk = Chunk::at(range.first, range);
        let mut heard = Instant::now();
        loop {
            let end = match consumer.poll(Duration::from_millis(100)) {
                Event::Record(message) => {
                    while message.offset() > chunk.last && chunk.last < range.last {
                        chunk = self.close(chunk, range)?;
                    }
                    // Not before: what took its time may have been ClickHouse.
                    heard = Instant::now();
                    if message.offset() <= range.last {
                        if !self.record(&mut chunk, range, &message)? {
                            chunk = Chunk::at(chunk.first, range);
                            consumer.start(&[(range.topic.clone(), range.partition, chunk.first)])?;
                            continue;
                        }
                        if chunk.items >= CHUNK_ITEMS
                            || chunk.failures.len() >= CHUNK_ROWS
                            || chunk.failures.bytes() >= CHUNK_BYTES
                        {
                            chunk.last = message.offset();
                        }
                    }
                    message.offset() >= range.last
                }
                // Nothing is behind: what is left of the range are the marks of transactions.
                Event::End(partition) => partition == range.partition,
                Event::OffsetGone => bail!(
                    "{}/{}: log retention has removed records of the range while it was read. What is counted so far is of no use; \
                     give it up with `bounceflow replay discard {}`",
                    range.topic,
                    range.partition,
                    self.replay.id
                ),
                Event::Error(e) if Consumer::is_fatal(&e) => return Err(e.into()),
                _ => false,
            };
            if end {
                while chunk.last < range.last {
                    chunk = self.close(chunk, range)?;
                }
                self.close(chunk, range)?;
                return Ok(());
            }
            ensure!(
                heard.elapsed() < PATIENCE,
                "{}/{}: Kafka gave nothing for {} s; go on with `bounceflow replay resume {}`",
                range.topic,
                range.partition,
                PATIENCE.as_secs(),
                self.replay.id
            );
        }
    }

    /// As `classify` does; what it would dead-letter is counted as such and goes nowhere: it is in the dead letter already. False: this
    /// program panicked over it, and has to count the chunk again.
    fn record(&mut self, chunk: &mut Chunk, range: &Range, message: &BorrowedMessage<'_>) -> anyhow::Result<bool> {
        let place = (range.topic.clone(), range.partition, message.offset());
        let settled = if self.panicked.contains(&place) {
            record::set_aside(&range.topic, message)
        } else {
            match catch_unwind(AssertUnwindSafe(|| self.settle(chunk, range, message))) {
                Ok(settled) => settled?,
                Err(_) => {
                    say(format_args!("bounceflow panicked over {}/{} at {}: it counts as refused", place.0, place.1, place.2));
                    self.panicked.push(place);
                    self.counts.clear();
                    self.scratch = Scratch::new(self.tables);
                    return Ok(false);
                }
            }
        };
        chunk.records += 1;
        chunk.items += i64::from(settled.items);
        chunk.dead_lettered += settled.refused.len() as i64;
        Ok(true)
    }

    fn settle<'r>(&mut self, chunk: &mut Chunk, range: &'r Range, message: &BorrowedMessage<'_>) -> anyhow::Result<Settled<'r>> {
        let (topic, partition, offset) = (range.topic.as_str(), range.partition, message.offset());
        let log = log_of(self.replay.id, topic);
        let Self { decoders, scratch, counts, tables, .. } = self;
        let decoder = decoders.get(topic).context("an input without its decoder")?;
        let mut trouble = Ok(());
        let settled = record::settle(tables, decoder, scratch, topic, message, |number, outcome| match outcome {
            Outcome::Count(sample) => {
                chunk.max_event_time = chunk.max_event_time.max(Some(sample.time));
                counts.add(&sample, None);
            }
            Outcome::Fail(sample, failure) => {
                chunk.max_event_time = chunk.max_event_time.max(Some(sample.time));
                counts.add(&sample, Some(&failure));
                match self::place(offset, i64::from(number)) {
                    Ok(place) => chunk.failures.push_failure(&failure, LogPosition { topic: &log, partition, offset: place }),
                    Err(e) => trouble = Err(e),
                }
            }
            Outcome::Ignore(reason) => counts.ignore(reason),
            // Among those returned.
            Outcome::Reject(_) => {}
        });
        trouble?;
        Ok(settled)
    }

    /// Writes a chunk; the one behind it.
    fn close(&mut self, chunk: Chunk, range: &Range) -> anyhow::Result<Chunk> {
        let covered = Range { first: chunk.first, last: chunk.last, ..range.clone() };
        let source = Source {
            topic: &range.topic,
            partition: range.partition,
            first_offset: chunk.first,
            last_offset: chunk.last,
            records: chunk.records,
            items: chunk.items,
            dead_lettered: chunk.dead_lettered,
            max_event_time: chunk.max_event_time,
            end_reached: false,
        };
        let header = Header {
            producer: &self.producer,
            rules_version: self.scratch.rules().version(),
            pattern_version: PATTERN_VERSION as i32,
        };
        let log = log_of(self.replay.id, &range.topic);
        let mut batches = BlockBuilder::new(Table::Batches);
        let mut trouble = Ok(());
        let tables = self.tables;
        self.counts.drain(header, &tables.isps, vec![source], |batch| match place(chunk.first, i64::from(batch.part)) {
            Ok(offset) => {
                batches.push_batch(batch, LogPosition { topic: &log, partition: range.partition, offset }, self.replay.created);
            }
            Err(e) => trouble = Err(e),
        });
        trouble?;
        if !chunk.failures.is_empty() {
            self.insert(&chunk.failures.finish(), &covered)?;
        }
        // Last: they say that the chunk is done.
        self.insert(&batches.finish(), &covered)?;
        self.progress.add(covered.offsets());
        Ok(Chunk::at(chunk.last + 1, range))
    }

    /// Writes a block once, whatever an earlier run of this replay may have written of it.
    fn insert(&self, block: &Block, covered: &Range) -> anyhow::Result<()> {
        let Self { replay, runtime, warehouse, producer, .. } = self;
        let (table, Range { topic, partition, first, last }) = (block.table(), covered);
        let mut lost = 0;
        for tries in 0..TRIES {
            let again = if lost == 0 { String::new() } else { format!(":r{lost}") };
            let token = format!("{producer}:{table}:{topic}:{partition}:{first}-{last}{again}");
            let answer = runtime.block_on(warehouse.insert_replayed(replay.id, block, &token));
            match judge(&answer) {
                Verdict::Written => {
                    let stored = runtime.block_on(warehouse.count_replayed(replay.id, table, covered))?;
                    if stored == block.rows() {
                        return Ok(());
                    }
                    ensure!(
                        stored == 0,
                        "replay {0}: {stored} rows of offsets {first} to {last} of {topic}/{partition} are in its table {table} instead of {1}. \
                         Give it up with `bounceflow replay discard {0}`",
                        replay.id,
                        block.rows()
                    );
                    // The token is remembered, the rows are not there: the server died between the two.
                    lost += 1;
                }
                Verdict::Retry => {
                    if tries == 0 || matches!(answer, Answer::Broken { .. }) {
                        say(format_args!("{answer}; trying again"));
                    }
                    std::thread::sleep(Duration::from_millis(200).saturating_mul(1 << tries.min(6)));
                }
                _ => bail!("offsets {first} to {last} of {topic}/{partition}: {answer}"),
            }
        }
        bail!(
            "ClickHouse did not take offsets {first} to {last} of {topic}/{partition} in {TRIES} tries; when it works again, go on with \
             `bounceflow replay resume {}`",
            replay.id
        )
    }
}

/// On a terminal a bar, elsewhere a line now and then, both on stderr.
struct Progress {
    bar: ProgressBar,
    terminal: bool,
    shown: Instant,
    began: Instant,
    before: u64,
}

impl Progress {
    fn new(total: u64, done: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(total) } else { ProgressBar::hidden() };
        bar.set_length(total);
        let style =
            ProgressStyle::with_template("{elapsed_precise} {wide_bar} {human_pos}/{human_len} offsets, {per_sec}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(done);
        bar.reset_eta();
        Self { bar, terminal, shown: Instant::now(), began: Instant::now(), before: done }
    }

    fn add(&mut self, offsets: u64) {
        self.bar.inc(offsets);
        if !self.terminal && self.shown.elapsed() >= LINE_EVERY {
            self.shown = Instant::now();
            self.line();
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
        self.line();
    }

    fn line(&self) {
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let speed = (done - self.before) as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
        let left = total.saturating_sub(done) as f64 / speed.max(1.0);
        say(format_args!("{done} of {total} offsets counted, {speed:.0}/s, about {left:.0} s left"));
    }
}
