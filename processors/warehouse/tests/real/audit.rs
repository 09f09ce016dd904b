//! Audits of crafted batches: clean ones are clean, and every kind of fault is found.

use bounceflow_event::{Failure, IgnoredCount, RateBatch, RateRow, Source};
use bounceflow_warehouse::audit::OffsetRange;
use bounceflow_warehouse::{Answer, AuditOptions, AuditReport, BlockBuilder, LogPosition, Table};

use crate::support::{Db, batch, batches, failure, rate_row, source};

async fn audited(name: &str, stored: &[RateBatch<'_>]) -> (Db<'static>, AuditReport) {
    let db = Db::new(name).await;
    assert_eq!(db.warehouse.insert(&batches(0, stored), "b").await, Answer::Written);
    let report = audit(&db).await;
    (db, report)
}

async fn audit(db: &Db<'_>) -> AuditReport {
    db.warehouse.audit(&AuditOptions::default()).await.unwrap()
}

async fn store_failures(db: &Db<'_>, token: &str, sources: &[i64]) {
    let mut block = BlockBuilder::new(Table::Failures);
    for (offset, source_offset) in (0..).zip(sources) {
        let failure = Failure { source_offset: *source_offset, ..failure() };
        block.push_failure(&failure, LogPosition { topic: "f", partition: 0, offset });
    }
    assert_eq!(db.warehouse.insert(&block.finish(), token).await, Answer::Written);
}

/// A transaction of deliveries only, over a range of partition 0.
fn deliveries(first: i64, last: i64) -> RateBatch<'static> {
    let items = last + 1 - first;
    let row = RateRow { deliveries: items, first_attempts: items, ..RateRow { bucket: 1_700_000_000, ..RateRow::default() } };
    batch(first, last, if items > 0 { vec![row] } else { Vec::new() })
}

fn range(from: i64, to: i64) -> OffsetRange {
    OffsetRange { topic: "delivery.events".to_owned(), partition: 0, from, to }
}

#[tokio::test]
async fn a_sound_warehouse_is_clean() {
    let mut mixed = batch(20, 29, vec![rate_row(), rate_row()]);
    mixed.ignored = vec![IgnoredCount { reason: "r", count: 3 }, IgnoredCount { reason: "s", count: 1 }];
    mixed.sources[0].items += 6;
    mixed.sources[0].dead_lettered = 2;
    mixed.sources.push(Source { partition: 1, items: 0, ..source(500, 500, 0) });
    let heartbeat = |at: i64| deliveries(at, at - 1);
    // Heartbeats before the first range, between two, in front of one not yet read, twice over; ranges out of order in the log.
    let stored = [heartbeat(0), deliveries(10, 19), deliveries(0, 9), heartbeat(20), heartbeat(20), mixed, heartbeat(30)];
    let (db, _) = audited("sound", &stored).await;
    store_failures(&db, "f", &(0..24).collect::<Vec<_>>()).await;
    let report = audit(&db).await;
    assert!(report.is_clean(), "{report}");
    let partition = &report.partitions[0];
    assert_eq!((partition.ranges, partition.heartbeats), (3, 4));
    assert_eq!((partition.first_offset, partition.last_offset), (Some(0), Some(29)));
    assert_eq!(report.partitions.len(), 2);
    assert_eq!((report.failures_counted, report.failures_stored), (24, 24));
    assert_eq!(report.items.read, report.items.accounted());
    assert!(serde_json::to_string(&report).unwrap().contains(r#""gaps":[]"#));
}

#[tokio::test]
async fn an_empty_warehouse_and_one_of_heartbeats_are_clean() {
    let db = Db::new("empty_audit").await;
    assert!(audit(&db).await.is_clean());
    let (_, report) = audited("heartbeats", &[deliveries(7, 6), deliveries(7, 6), deliveries(5, 4)]).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.partitions[0].first_offset, report.partitions[0].heartbeats), (None, 3));
}

#[tokio::test]
async fn gaps_are_listed() {
    let stored = [deliveries(0, 9), deliveries(20, 29), deliveries(31, 40), deliveries(41, 40)];
    let (db, report) = audited("gaps", &stored).await;
    assert_eq!(report.gaps, [range(10, 19), range(30, 30)]);
    assert!(report.overlaps.is_empty());
    assert_eq!((report.partitions[0].gaps, report.partitions[0].missing_offsets), (2, 11));
    assert_eq!(report.findings().len(), 1, "{report}");

    let short = db.warehouse.audit(&AuditOptions { list: 1, ..AuditOptions::default() }).await.unwrap();
    assert_eq!(short.gaps, [range(10, 19)]);
    assert!(short.to_string().contains("… and 1 more"), "{short}");
}

#[tokio::test]
async fn overlaps_are_listed_and_make_no_gaps() {
    // The second and third lie within the first: between them nothing is missing.
    let (_, report) =
        audited("overlaps", &[deliveries(0, 99), deliveries(10, 19), deliveries(50, 60), deliveries(95, 104)]).await;
    assert_eq!(report.overlaps, [range(10, 19), range(50, 60), range(95, 99)]);
    assert!(report.gaps.is_empty(), "{report}");
    assert_eq!((report.partitions[0].overlaps, report.partitions[0].repeated_offsets), (3, 26));
    assert_eq!(report.findings().len(), 1, "{report}");
}

#[tokio::test]
async fn a_batch_stored_twice_is_found() {
    let (db, _) = audited("twice", &[deliveries(0, 9)]).await;
    assert_eq!(db.warehouse.insert(&batches(0, &[deliveries(0, 9)]), "another token").await, Answer::Written);
    let report = audit(&db).await;
    assert_eq!(report.overlaps, [range(0, 9)]);
    assert_eq!((report.duplicates[0].keys, report.duplicates[0].surplus_rows), (1, 1));
    assert_eq!(report.duplicates[0].examples, ["bounceflow.rates/0/0"]);
}

#[tokio::test]
async fn torn_transactions_are_found() {
    let part = |first: i64, part, parts, producer| {
        let mut batch = deliveries(first, first);
        (batch.part, batch.parts, batch.producer) = (part, parts, producer);
        if part > 0 {
            batch.sources[0] = Source { items: 1, ..source(first, first, 1) };
        }
        batch
    };
    // Two producers interleaved, both whole.
    let whole =
        [part(0, 0, 2, "a"), part(1, 0, 3, "b"), part(2, 1, 2, "a"), part(3, 1, 3, "b"), part(4, 2, 3, "b"), part(5, 0, 1, "a")];
    let (_, report) = audited("whole", &whole).await;
    assert!(report.is_clean(), "{report}");

    for (name, missing) in [("first", 1), ("middle", 3)] {
        let mut stored = whole.to_vec();
        stored.remove(missing);
        let (_, report) = audited(&format!("torn_{name}"), &stored).await;
        assert_eq!((report.torn_transactions, report.unfinished_transactions), (1, 0), "{name}");
    }
    // Without its last part, b may only be late; a went on with another transaction.
    let (_, report) = audited("late", &whole[..4]).await;
    assert_eq!((report.torn_transactions, report.unfinished_transactions), (0, 1));
    let (_, report) = audited("abandoned", &[part(0, 0, 2, "a"), part(1, 0, 1, "a")]).await;
    assert_eq!((report.torn_transactions, report.unfinished_transactions), (1, 0));
}

#[tokio::test]
async fn items_that_became_nothing_are_found() {
    let mut lossy = deliveries(0, 9);
    lossy.sources[0].items = 12;
    let (_, report) = audited("items", &[lossy]).await;
    assert_eq!(report.findings(), ["12 items were read, but 10 are accounted for (10 counted, 0 ignored, 0 dead-lettered)"]);
}

#[tokio::test]
async fn counts_that_differ_are_found() {
    let (db, _) = audited("counts", &[batch(0, 9, vec![rate_row()])]).await;
    store_failures(&db, "f", &(0..12).collect::<Vec<_>>()).await;
    assert!(audit(&db).await.is_clean());
    db.query("INSERT INTO DB.delivery_rates (minute, isp, deliveries, bounce_categories) VALUES (0, 'x', 2, {'policy': 5})");
    let expected = ["deliveries: batches hold 90, delivery_rates 92", "bounce_categories: batches hold 7, delivery_rates 12"];
    assert_eq!(audit(&db).await.findings(), expected);
}

#[tokio::test]
async fn failures_lost_or_stored_twice_are_found() {
    let (db, _) = audited("failures", &[batch(0, 9, vec![rate_row()])]).await;
    store_failures(&db, "f", &[1, 2, 3]).await;
    let report = audit(&db).await;
    assert_eq!((report.failures_counted, report.failures_stored), (12, 3));
    assert!(report.findings()[0].contains("while the sink is behind"), "{report}");
    assert_eq!(report.findings().len(), 1);

    store_failures(&db, "g", &[3, 9, 9]).await;
    let report = audit(&db).await;
    let positions = &report.duplicates[1];
    assert_eq!((positions.keys, positions.surplus_rows), (3, 3));
    let sources = &report.duplicates[2];
    assert_eq!(sources.examples, ["delivery.events/2/3/0", "delivery.events/2/9/0"]);
}
