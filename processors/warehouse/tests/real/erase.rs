//! Erasure and replays: neither brings back whom the other is to keep out.

use bounceflow_event::{Failure, RateRow, RecipientHash};
use bounceflow_warehouse::replay::{By, Range, Swap, log_of, place};
use bounceflow_warehouse::{
    Answer, AuditOptions, Block, BlockBuilder, LogPosition, Person, Replay, Shards, State, Table, Warehouse,
};

use crate::support::{Db, LATER, NOON, batch, batches, failure, rate_row};

const TOPIC: &str = "delivery.events";
const ERASED: [u8; 16] = *b"the erased one!!";
const HOUR: i64 = 3_600_000;

/// A failure of each item a row of rates counts, the fourth about the one who is erased, as it came after that; and `more`.
fn failures(topic: &str, position: impl Fn(i64, i64) -> i64, more: &[Failure<'_>]) -> Block {
    let mut block = BlockBuilder::new(Table::Failures);
    let mut push = |failure: &Failure<'_>| {
        let offset = position(failure.source_offset, failure.source_item.into());
        block.push_failure(failure, LogPosition { topic, partition: 0, offset });
    };
    for i in 0..12 {
        let mut failure = Failure { source_partition: 0, source_offset: i / 2, source_item: (i % 2) as i32, ..failure() };
        if i == 3 {
            (failure.recipient_hash, failure.ingested_time) = (RecipientHash(ERASED), NOON + 2 * HOUR);
        }
        push(&failure);
    }
    more.iter().for_each(push);
    block.finish()
}

async fn stored(db: &Db<'_>) {
    assert_eq!(db.warehouse.insert(&failures("f", |offset, item| 2 * offset + item, &[]), "f").await, Answer::Written);
    assert_eq!(db.warehouse.insert(&batches(0, &[batch(0, 9, vec![rate_row()])]), "b").await, Answer::Written);
}

async fn planned(warehouse: &Warehouse) -> Replay {
    let asked = vec![Range { topic: TOPIC.to_owned(), partition: 0, first: 0, last: 9 }];
    let by = By { rules: Vec::new(), rules_version: "2".to_owned(), settings: String::new() };
    warehouse.plan_replay(Replay::draft(LATER, by, asked), NOON).await.unwrap()
}

#[tokio::test]
async fn who_was_erased_is_left_out_of_what_is_counted_again() {
    let db = Db::new("erased_replay").await;
    let warehouse = &db.warehouse;
    stored(&db).await;
    let person = Person { key_id: "k0".to_owned(), hash: ERASED };
    warehouse.remember_erased(&[person], NOON + HOUR).await.unwrap();

    let mut replay = planned(warehouse).await;
    let log = log_of(replay.id, TOPIC);
    // A record that was in the dead letter, and can be read by now.
    let letter =
        Failure { source_partition: 0, source_offset: 8, source_item: 0, recipient_hash: RecipientHash(ERASED), ..failure() };
    let again = failures(&log, |offset, item| place(offset, item).unwrap(), &[letter]);
    assert_eq!(warehouse.insert_replayed(replay.id, &again, "rf").await, Answer::Written);
    let mut block = BlockBuilder::new(Table::Batches);
    let position = LogPosition { topic: &log, partition: 0, offset: place(0, 0).unwrap() };
    block.push_batch(&batch(0, 9, vec![RateRow { hard: 5, ..rate_row() }]), position, LATER);
    assert_eq!(warehouse.insert_replayed(replay.id, &block.finish(), "rb").await, Answer::Written);
    // Compared twice, as after a kill.
    warehouse.compare_replay(&replay).await.unwrap();
    let compared = warehouse.compare_replay(&replay).await.unwrap();
    assert_eq!((compared.new.hard, compared.gone, compared.added), (5, 0, 0), "counted, but not kept");
    replay.comparison = Some(compared);
    replay.state = State::Counted;
    warehouse.save_replay(&mut replay, NOON).await.unwrap();
    warehouse.swap_replay(&mut replay, "abc", &|| NOON, &|| Ok(Vec::new()), &mut |_| {}).await.unwrap();

    let theirs = "SELECT source_offset, count() FROM DB.failures WHERE recipient_hash = 'the erased one!!' GROUP BY ALL";
    assert_eq!(db.query(theirs), "1\t1", "only what was sent to them later");
    let report = warehouse.audit(&AuditOptions::default()).await.unwrap();
    assert_eq!(report.findings(), [""; 0]);
    assert_eq!((report.failures_counted, report.failures_stored, report.failures_erased), (13, 12, 1));
    assert_eq!(db.query("SELECT count() FROM system.tables WHERE database = 'DB' AND startsWith(name, 'replay_')"), "0");
}

#[tokio::test]
async fn nobody_is_erased_while_a_replay_holds_rows_of_its_own() {
    let db = Db::new("erase_or_replay").await;
    let (warehouse, shards) = (&db.warehouse, Shards::new(db.settings()).unwrap());
    stored(&db).await;
    shards.check_no_replay().await.unwrap();

    let mut replay = planned(warehouse).await;
    let begun = Swap { begun: true, ..Swap::default() };
    for (state, swap, words) in [
        (State::Planning, None, "replay 1 is planning, and its tables hold failures which an erasure does not reach"),
        (State::Planning, None, "`bounceflow replay discard 1`"),
        (State::Counting, None, "`bounceflow replay resume 1`, or give it up with `bounceflow replay discard 1`"),
        (State::Counted, None, "`bounceflow replay swap 1`, or give it up with `bounceflow replay discard 1`"),
        (State::Swapping, None, "`bounceflow replay resume 1`, or give it up with `bounceflow replay discard 1`"),
        (State::Swapping, Some(begun), "let it go on with `bounceflow replay resume 1`. Then"),
        // Killed before its tables were removed.
        (State::Swapped, None, "`bounceflow replay resume 1`. Then"),
        (State::Discarded, None, "`bounceflow replay discard 1`. Then"),
    ] {
        (replay.state, replay.swap) = (state, swap);
        warehouse.save_replay(&mut replay, NOON).await.unwrap();
        let refused = shards.check_no_replay().await.unwrap_err().to_string();
        assert!(refused.contains(words), "{state:?}: {refused}");
    }
    warehouse.clear_replay(replay.id).await.unwrap();
    for state in [State::Swapped, State::Discarded] {
        replay.state = state;
        warehouse.save_replay(&mut replay, NOON).await.unwrap();
        shards.check_no_replay().await.unwrap();
    }
}
