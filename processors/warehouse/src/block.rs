//! Records as rows of a block: which table, which columns, which bytes.
//!
//! A block owns its bytes until the server has said OK: a repeat sends exactly these bytes again. Column order and encoding are a
//! promise to blocks that may be half written: whatever changes them changes [`ENCODER_VERSION`].

use bounceflow_event::{Alert, CategoryCount, Failure, RateBatch, RateRow};
use bytes::Bytes;

use crate::row_binary::{RowWriter, count};

/// Version of the encoding of known records. It is named in the sink's intent: a binary with another one cannot repeat a block.
pub const ENCODER_VERSION: u32 = 1;

/// Most rows a block may have.
pub const MAX_BLOCK_ROWS: u64 = 500_000;

/// Most bytes a block may have.
pub const MAX_BLOCK_BYTES: usize = 64 * 1024 * 1024;

/// Tables the sink writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// `failures`, from the failures topic.
    Failures,
    /// `batches`, from the rates topic; it feeds `delivery_rates`.
    Batches,
    /// `alerts`, from the alerts topic.
    Alerts,
}

impl Table {
    /// Every table the sink writes to.
    pub const ALL: [Self; 3] = [Self::Failures, Self::Batches, Self::Alerts];

    /// Name in ClickHouse.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Batches => "batches",
            Self::Alerts => "alerts",
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The columns of `table` in the order they are sent. Every column is sent: no default of the server may decide anything.
pub const fn columns(table: Table) -> &'static [&'static str] {
    match table {
        Table::Failures => FAILURE_COLUMNS,
        Table::Batches => BATCH_COLUMNS,
        Table::Alerts => ALERT_COLUMNS,
    }
}

/// Where a record stands in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition<'a> {
    /// Kafka topic.
    pub topic: &'a str,
    /// Kafka partition.
    pub partition: i32,
    /// Kafka offset.
    pub offset: i64,
}

/// Rows of one table, encoded. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    table: Table,
    rows: u64,
    bytes: Bytes,
}

impl Block {
    /// Which table the rows are for.
    pub fn table(&self) -> Table {
        self.table
    }

    /// How many rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The rows in RowBinary, columns as in [`columns`].
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// A block encoded before, byte for byte, such as one kept in a file.
    pub fn from_row_binary(table: Table, rows: u64, bytes: Bytes) -> Self {
        Self { table, rows, bytes }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({}, {} rows, {} bytes)", self.table, self.rows, self.bytes.len())
    }
}

/// Collects rows of one table.
pub struct BlockBuilder {
    table: Table,
    rows: u64,
    writer: RowWriter,
}

impl BlockBuilder {
    /// An empty block of `table`.
    pub fn new(table: Table) -> Self {
        Self { table, rows: 0, writer: RowWriter::default() }
    }

    /// How many rows it holds.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.writer.len()
    }

    /// Makes room for a block of this many bytes at once: one that grows by doubling leaves as much behind in the allocator as it
    /// holds. Memory that is never written to costs nothing.
    pub fn reserve(&mut self, bytes: usize) {
        self.writer.reserve(bytes);
    }

    /// Adds a row of [`Table::Failures`].
    pub fn push_failure(&mut self, failure: &Failure<'_>, at: LogPosition<'_>) {
        debug_assert_eq!(self.table, Table::Failures);
        write_failure(&mut self.writer, failure, at);
        self.rows += 1;
    }

    /// Adds a row of [`Table::Batches`]. `log_time` is the Kafka timestamp of the record in milliseconds.
    pub fn push_batch(&mut self, batch: &RateBatch<'_>, at: LogPosition<'_>, log_time: i64) {
        debug_assert_eq!(self.table, Table::Batches);
        write_batch(&mut self.writer, batch, at, log_time);
        self.rows += 1;
    }

    /// Adds a row of [`Table::Alerts`]. `replica` wrote the record; `log_time` is its Kafka timestamp in milliseconds.
    pub fn push_alert(&mut self, alert: &Alert<'_>, at: LogPosition<'_>, replica: &str, log_time: i64) {
        debug_assert_eq!(self.table, Table::Alerts);
        write_alert(&mut self.writer, alert, at, replica, log_time);
        self.rows += 1;
    }

    /// The block.
    pub fn finish(self) -> Block {
        Block { table: self.table, rows: self.rows, bytes: self.writer.into_bytes().into() }
    }
}

#[rustfmt::skip]
const FAILURE_COLUMNS: &[&str] = &[
    "event_time", "sent_time", "ingested_time", "event_type", "severity", "category", "blocked", "root_cause", "action", "rule",
    "rules_version", "pattern", "pattern_version", "isp", "identity", "recipient_domain", "recipient_hash", "recipient_key_id",
    "recipient", "mx_host", "from_domain", "sending_ip", "pool", "campaign", "message_id", "event_id", "reply_code",
    "enhanced_code", "diagnostic", "command", "feedback_type", "attempt", "tags", "source_topic", "source_partition",
    "source_offset", "source_item", "kafka_topic", "kafka_partition", "kafka_offset",
];

fn write_failure(w: &mut RowWriter, f: &Failure<'_>, at: LogPosition<'_>) {
    w.millis(f.event_time);
    w.millis(f.sent_time);
    w.millis(f.ingested_time);
    w.text(f.event_type);
    w.text(f.severity);
    w.text(f.category);
    w.bool(f.blocked);
    w.text(f.root_cause);
    w.text(f.action);
    w.text(f.rule);
    w.text(f.rules_version);
    w.u64(f.pattern as u64); // the wire carries it in two's complement
    w.u32(f.pattern_version);
    w.text(f.isp);
    w.text(f.identity);
    w.text(f.recipient_domain);
    w.fixed(&f.recipient_hash.0);
    w.text(f.recipient_key_id);
    w.text(f.recipient);
    w.text(f.mx_host);
    w.text(f.from_domain);
    w.text(f.sending_ip);
    w.text(f.pool);
    w.text(f.campaign);
    w.text(f.message_id);
    w.text(f.event_id);
    w.u16(f.reply_code);
    w.text(f.enhanced_code);
    w.text(f.diagnostic);
    w.text(f.command);
    w.text(f.feedback_type);
    w.u32(f.attempt);
    w.array(&f.tags.0, |w, (name, value)| {
        w.text(name);
        w.text(value);
    });
    w.text(f.source_topic);
    w.i32(f.source_partition);
    w.i64(f.source_offset);
    w.u32(f.source_item);
    write_position(w, at);
}

#[rustfmt::skip]
const BATCH_COLUMNS: &[&str] = &[
    "kafka_topic", "kafka_partition", "kafka_offset", "log_time", "producer", "part", "parts", "rules_version", "pattern_version",
    "items", "deliveries", "first_attempts", "hard", "soft", "deferred", "blocked", "blocked_deferrals", "complaints",
    "late_bounces", "drops", "categorized_bounces", "categorized_deferrals", "categorized_late_bounces",
    "sources.topic", "sources.partition", "sources.first_offset", "sources.last_offset", "sources.records", "sources.items",
    "sources.dead_lettered", "sources.max_event_time", "sources.end_reached", "ignored.reason", "ignored.count",
    "patterns.pattern", "patterns.isp", "patterns.identity", "patterns.category", "patterns.rule", "patterns.count",
    "patterns.sample", "rows.bucket", "rows.isp", "rows.identity", "rows.sending_ip", "rows.campaign", "rows.deliveries",
    "rows.first_attempts", "rows.hard", "rows.soft", "rows.deferred", "rows.blocked", "rows.blocked_deferrals",
    "rows.complaints", "rows.late_bounces", "rows.drops", "rows.bounce_categories", "rows.deferral_categories",
    "rows.late_bounce_categories",
];

/// The counts of a row, in the order of the columns.
const COUNTS: [fn(&RateRow<'_>) -> i64; 10] = [
    |r| r.deliveries,
    |r| r.first_attempts,
    |r| r.hard,
    |r| r.soft,
    |r| r.deferred,
    |r| r.blocked,
    |r| r.blocked_deferrals,
    |r| r.complaints,
    |r| r.late_bounces,
    |r| r.drops,
];

/// Those of [`COUNTS`] that together are the items of a row.
const ITEMS: [usize; 7] = [0, 2, 3, 4, 7, 8, 9];

/// The counts of a category, in the order of the columns.
const CATEGORY_COUNTS: [fn(&CategoryCount<'_>) -> i64; 3] = [|c| c.bounces, |c| c.deferrals, |c| c.late_bounces];

fn write_batch(w: &mut RowWriter, b: &RateBatch<'_>, at: LogPosition<'_>, log_time: i64) {
    write_position(w, at);
    w.millis(log_time);
    w.text(b.producer);
    w.u32(b.part);
    w.u32(b.parts);
    w.text(b.rules_version);
    w.u32(b.pattern_version);

    // Wrapping, as the server's own sums do: the audit compares the two.
    let total = |of: fn(&RateRow<'_>) -> i64| b.rows.iter().fold(0_u64, |sum, row| sum.wrapping_add(count(of(row))));
    let totals = COUNTS.map(total);
    w.u64(ITEMS.iter().fold(0, |sum: u64, i| sum.wrapping_add(totals[*i])));
    totals.iter().for_each(|v| w.u64(*v));
    for of in CATEGORY_COUNTS {
        let categories = b.rows.iter().flat_map(|row| &row.categories);
        w.u64(categories.fold(0_u64, |sum, category| sum.wrapping_add(count(of(category)))));
    }

    w.array(&b.sources, |w, s| w.text(s.topic));
    w.array(&b.sources, |w, s| w.i32(s.partition));
    w.array(&b.sources, |w, s| w.i64(s.first_offset));
    w.array(&b.sources, |w, s| w.i64(s.last_offset));
    w.array(&b.sources, |w, s| w.u64(count(s.records)));
    w.array(&b.sources, |w, s| w.u64(count(s.items)));
    w.array(&b.sources, |w, s| w.u64(count(s.dead_lettered)));
    w.array(&b.sources, |w, s| w.optional_millis(s.max_event_time));
    w.array(&b.sources, |w, s| w.bool(s.end_reached));

    w.array(&b.ignored, |w, i| w.text(i.reason));
    w.array(&b.ignored, |w, i| w.u64(count(i.count)));

    w.array(&b.patterns, |w, p| w.u64(p.pattern as u64));
    w.array(&b.patterns, |w, p| w.text(p.isp));
    w.array(&b.patterns, |w, p| w.text(p.identity));
    w.array(&b.patterns, |w, p| w.text(p.category));
    w.array(&b.patterns, |w, p| w.text(p.rule));
    w.array(&b.patterns, |w, p| w.u64(count(p.count)));
    w.array(&b.patterns, |w, p| w.text(p.sample));

    w.array(&b.rows, |w, r| w.seconds(r.bucket));
    w.array(&b.rows, |w, r| w.text(r.isp));
    w.array(&b.rows, |w, r| w.text(r.identity));
    w.array(&b.rows, |w, r| w.text(r.sending_ip));
    w.array(&b.rows, |w, r| w.text(r.campaign));
    for of in COUNTS {
        w.array(&b.rows, |w, r| w.u64(count(of(r))));
    }
    for of in CATEGORY_COUNTS {
        w.array(&b.rows, |w, r| write_categories(w, &r.categories, of));
    }
}

/// A map of category to count; categories without any are left out, as `sumMap` would leave them out.
fn write_categories(w: &mut RowWriter, categories: &[CategoryCount<'_>], of: fn(&CategoryCount<'_>) -> i64) {
    let counted = || categories.iter().filter(|c| count(of(c)) > 0);
    w.length(counted().count());
    for category in counted() {
        w.text(category.category);
        w.u64(count(of(category)));
    }
}

#[rustfmt::skip]
const ALERT_COLUMNS: &[&str] = &[
    "alert_id", "rule", "state", "severity", "isp", "identity", "episode_start", "event_time", "metric", "window_seconds",
    "threshold", "numerator", "denominator", "categories", "pattern", "pattern_rule", "sample", "root_cause", "action",
    "annotations", "replica", "log_time", "kafka_topic", "kafka_partition", "kafka_offset",
];

fn write_alert(w: &mut RowWriter, a: &Alert<'_>, at: LogPosition<'_>, replica: &str, log_time: i64) {
    w.text(a.alert_id);
    w.text(a.rule);
    w.text(a.state);
    w.text(a.severity);
    w.text(a.isp);
    w.text(a.identity);
    w.millis(a.episode_start);
    w.millis(a.event_time);
    w.text(a.metric);
    w.u64(count(a.window_seconds));
    w.f64(a.threshold);
    w.u64(count(a.numerator));
    w.u64(count(a.denominator));
    w.array(&a.categories, |w, c| {
        w.text(c.category);
        w.u64(count(c.count));
    });
    w.u64(a.pattern as u64);
    w.text(a.pattern_rule);
    w.text(a.sample);
    w.text(a.root_cause);
    w.text(a.action);
    w.length(a.annotations.len());
    for (name, value) in &a.annotations {
        w.text(name);
        w.text(value);
    }
    w.text(replica);
    w.millis(log_time);
    write_position(w, at);
}

fn write_position(w: &mut RowWriter, at: LogPosition<'_>) {
    w.text(at.topic);
    w.i32(at.partition);
    w.i64(at.offset);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bounceflow_event::{IgnoredCount, Source};

    const AT: LogPosition<'_> = LogPosition { topic: "t", partition: 0, offset: 1 };

    fn batch() -> RateBatch<'static> {
        RateBatch {
            producer: "p",
            parts: 1,
            rows: vec![RateRow { isp: "gmail", deliveries: 3, ..RateRow::default() }],
            ignored: vec![IgnoredCount { reason: "r", count: 1 }],
            sources: vec![Source { topic: "s", items: 4, ..Source::default() }],
            ..RateBatch::default()
        }
    }

    #[test]
    fn the_same_records_give_the_same_bytes() {
        let build = || {
            let mut b = BlockBuilder::new(Table::Batches);
            b.push_batch(&batch(), AT, 5);
            b.push_batch(&batch(), LogPosition { offset: 2, ..AT }, 6);
            b.finish()
        };
        assert_eq!(build(), build());
        assert_eq!(build().rows(), 2);
        assert_eq!(format!("{:?}", build()), format!("Block(batches, 2 rows, {} bytes)", build().bytes().len()));
    }

    #[test]
    fn items_are_the_same_as_on_the_wire() {
        let row = RateRow {
            deliveries: 1,
            first_attempts: 2,
            hard: 4,
            soft: 8,
            deferred: 16,
            blocked: 32,
            blocked_deferrals: 64,
            complaints: 128,
            late_bounces: 256,
            drops: 512,
            ..RateRow::default()
        };
        let items: i64 = ITEMS.iter().map(|i| COUNTS[*i](&row)).sum();
        assert_eq!(items, row.items());
    }

    #[test]
    fn an_empty_builder_is_empty() {
        let builder = BlockBuilder::new(Table::Failures);
        assert!(builder.is_empty());
        assert_eq!((builder.len(), builder.bytes()), (0, 0));
    }
}
