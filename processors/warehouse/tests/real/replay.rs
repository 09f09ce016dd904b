//! Swaps that meet something else: another process at the same replay, an insert of the sink that is half done.

use bounceflow_event::RateRow;
use bounceflow_warehouse::replay::{By, Range, Swap, log_of, place};
use bounceflow_warehouse::{Answer, BlockBuilder, LogPosition, Replay, State, Table};

use crate::support::{Db, LATER, NOON, batch, batches, rate_row};

const TOPIC: &str = "delivery.events";

/// A replay that has counted 7 deliveries more than the one transaction there is.
async fn counted(db: &Db<'_>) -> Replay {
    let warehouse = &db.warehouse;
    assert_eq!(warehouse.insert(&batches(0, &[batch(0, 9, vec![one(1)])]), "b").await, Answer::Written);
    let asked = vec![Range { topic: TOPIC.to_owned(), partition: 0, first: 0, last: 9 }];
    let by = By { rules: Vec::new(), rules_version: "2".to_owned(), settings: String::new() };
    let mut replay = warehouse.plan_replay(Replay::draft(LATER, by, asked), NOON).await.unwrap();
    let mut block = BlockBuilder::new(Table::Batches);
    let position = LogPosition { topic: &log_of(replay.id, TOPIC), partition: 0, offset: place(0, 0).unwrap() };
    block.push_batch(&batch(0, 9, vec![one(8)]), position, LATER);
    assert_eq!(warehouse.insert_replayed(replay.id, &block.finish(), "rb").await, Answer::Written);
    replay.comparison = Some(warehouse.compare_replay(&replay).await.unwrap());
    replay.state = State::Counted;
    warehouse.save_replay(&mut replay, NOON).await.unwrap();
    replay
}

/// Deliveries and nothing else.
fn one(deliveries: i64) -> RateRow<'static> {
    let RateRow { bucket, isp, identity, sending_ip, campaign, .. } = rate_row();
    RateRow { bucket, isp, identity, sending_ip, campaign, deliveries, ..RateRow::default() }
}

/// Deliveries by table.
fn deliveries(db: &Db<'_>) -> [String; 5] {
    ["batches", "delivery_rates", "hourly_rates", "daily_rates", "daily_rates_by_identity"]
        .map(|table| db.query(&format!("SELECT sum(deliveries) FROM DB.{table}")))
}

fn fences(db: &Db<'_>) -> String {
    db.query(
        "SELECT count() FROM system.tables WHERE database = 'DB' AND create_table_query LIKE '%CONSTRAINT bounceflow_replay%'",
    )
}

#[tokio::test]
async fn a_process_that_read_a_replay_before_another_changed_it_changes_nothing() {
    let db = Db::new("replay_stale").await;
    let warehouse = &db.warehouse;
    let mut replay = counted(&db).await;
    let mut stale = replay.clone();
    // The other is about to replace a month.
    replay.state = State::Swapping;
    replay.swap = Some(Swap { attempt: "abc".to_owned(), begun: true, ..Swap::default() });
    warehouse.save_replay(&mut replay, NOON).await.unwrap();

    let refused =
        warehouse.swap_replay(&mut stale, "def", &|| NOON + 1, &|| Ok(Vec::new()), &mut |_| {}).await.unwrap_err().to_string();
    assert!(refused.contains("another process works on replay 1") && refused.contains("bounceflow replay list"), "{refused}");
    let known = warehouse.replays().await.unwrap().remove(0);
    assert_eq!(known.swap, replay.swap, "what the other did is known still");
    assert_eq!((deliveries(&db), fences(&db)), ([1; 5].map(|n| n.to_string()), "0".to_owned()));

    warehouse.swap_replay(&mut replay, "ghi", &|| NOON + 2, &|| Ok(Vec::new()), &mut |_| {}).await.unwrap();
    assert_eq!(deliveries(&db), [8; 5].map(|n| n.to_string()));
}

#[tokio::test]
async fn an_insert_that_is_half_done_holds_a_swap_off() {
    let db = Db::new("replay_half_done").await;
    let warehouse = &db.warehouse;
    let mut replay = counted(&db).await;
    // One view fails, behind the others.
    db.query("ALTER TABLE DB.hourly_rates ADD CONSTRAINT broken CHECK 0");
    let more = batches(1, &[batch(10, 19, vec![one(20)])]);
    let answer = warehouse.insert(&more, "more").await;
    assert!(matches!(answer, Answer::Refused { code: Some(469), .. }), "{answer:?}");
    db.query("ALTER TABLE DB.hourly_rates DROP CONSTRAINT broken");
    assert_eq!(deliveries(&db)[..3], ["21", "21", "1"].map(str::to_owned), "half of it is there");

    // The sink has not moved its offset: the insert is to be repeated.
    let begun = || Ok(vec![Range { topic: "bounceflow.rates".to_owned(), partition: 0, first: 1, last: 1 }]);
    let refused = warehouse.swap_replay(&mut replay, "abc", &|| NOON, &begun, &mut |_| {}).await.unwrap_err().to_string();
    assert!(refused.contains("bounceflow.rates/0, offsets 1 to 1") && refused.contains("Nothing was swapped"), "{refused}");
    assert_eq!((&deliveries(&db)[..3], fences(&db)), (&["21", "21", "1"].map(str::to_owned)[..], "0".to_owned()));

    assert_eq!(warehouse.insert(&more, "more").await, Answer::Written);
    // The next one waits behind the fence: no row of it is there.
    let begun = || Ok(vec![Range { topic: "bounceflow.rates".to_owned(), partition: 0, first: 2, last: 9 }]);
    warehouse.swap_replay(&mut replay, "def", &|| NOON, &begun, &mut |_| {}).await.unwrap();
    assert_eq!(deliveries(&db), [28; 5].map(|n| n.to_string()));
}
