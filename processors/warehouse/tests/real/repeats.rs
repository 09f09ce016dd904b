//! Exactly once: one request is one block, and the same block under the same token adds nothing, in tables and behind views,
//! whatever happened between.

use bounceflow_warehouse::{Answer, Block, Table, Verdict, judge};

use crate::support::{DAY, Db, NOON, batch, batches, batches_at, failures, mortal, rate_row};

/// Sums of delivery_rates, which every roll-up of it must have as well.
fn totals(db: &Db<'_>) -> String {
    let of = |table: &str| {
        db.query(&format!(
            "SELECT sum(deliveries), sum(first_attempts), sum(hard), sum(drops), sumMap(bounce_categories), sumMap(deferral_categories),
                sumMap(late_bounce_categories) FROM DB.{table}"
        ))
    };
    let totals = of("delivery_rates");
    for rollup in ["hourly_rates", "daily_rates", "daily_rates_by_identity"] {
        assert_eq!(of(rollup), totals, "{rollup}");
    }
    totals
}

/// Three batches of two minutes, each of `rows` distinct campaigns.
fn rates(first: i64, rows: usize) -> Block {
    let campaigns: Vec<&'static str> = (0..rows).map(|i| &*format!("c{i}").leak()).collect();
    let one = |n: i64| {
        let row = |c: &&'static str| bounceflow_event::RateRow { campaign: c, bucket: rate_row().bucket + n * 50, ..rate_row() };
        batch(n * 10, n * 10 + 9, campaigns.iter().map(row).collect())
    };
    batches(first, &[one(0), one(1), one(2)])
}

async fn written(db: &Db<'_>, block: &Block, token: &str) {
    assert_eq!(db.warehouse.insert(block, token).await, Answer::Written);
}

#[tokio::test]
async fn half_a_million_rows_are_one_part_of_each_month() {
    let db = Db::new("parts").await;
    db.query("SYSTEM STOP MERGES DB.failures");
    // 500,000 rows over a bit more than two months: March, April, May.
    let block = failures(0, 500_000, 62 * DAY / 500_000);
    for _ in 0..2 {
        written(&db, &block, "t").await;
        let parts = db.query(
            "SELECT partition, count(), sum(rows) FROM system.parts WHERE active AND database = 'DB' AND table = 'failures'
            GROUP BY partition ORDER BY partition FORMAT CSV",
        );
        let parts: Vec<Vec<String>> =
            parts.lines().map(|l| l.split(',').map(|w| w.trim_matches('"').to_owned()).collect()).collect();
        assert_eq!(
            parts.iter().map(|p| (&*p[0], &*p[1])).collect::<Vec<_>>(),
            [("202603", "1"), ("202604", "1"), ("202605", "1")]
        );
        assert_eq!(parts.iter().map(|p| p[2].parse::<u64>().unwrap()).sum::<u64>(), 500_000);
    }
    // The same rows under another token are other rows.
    written(&db, &block, "u").await;
    assert_eq!(db.rows("failures"), 1_000_000);
}

#[tokio::test]
async fn a_view_writes_one_part_as_well() {
    let db = Db::new("view_parts").await;
    db.query("SYSTEM STOP MERGES DB.delivery_rates");
    let block = rates(0, 120_000);
    written(&db, &block, "t").await;
    let before = totals(&db);
    written(&db, &block, "t").await;
    let parts = db.query(
        "SELECT count(), sum(rows) FROM system.parts WHERE active AND database = 'DB' AND table = 'delivery_rates' FORMAT CSV",
    );
    assert_eq!(parts, "1,240000", "two minutes of 120,000 campaigns, once");
    assert_eq!(totals(&db), before);
}

#[tokio::test]
async fn merges_keep_every_count() {
    let db = Db::new("merges").await;
    for n in 0..5 {
        written(&db, &rates(n * 3, 10), &format!("t{n}")).await;
    }
    let only_drops = bounceflow_event::RateRow { drops: 3, campaign: "drops", ..Default::default() };
    let late = bounceflow_event::RateRow { campaign: "late", late_bounces: 0, ..rate_row() };
    let only_map = bounceflow_event::RateRow { deliveries: 0, first_attempts: 0, hard: 0, drops: 0, campaign: "map", ..late };
    written(&db, &batches(100, &[batch(0, 0, vec![only_drops, only_map])]), "zero").await;
    let before = totals(&db);
    assert!(before.starts_with("13500\t14250\t600\t753\t"), "{before}");
    for table in ["delivery_rates", "hourly_rates", "daily_rates", "daily_rates_by_identity"] {
        db.query(&format!("OPTIMIZE TABLE DB.{table} FINAL"));
    }
    assert_eq!(totals(&db), before);
    assert_eq!(db.rows("delivery_rates"), 22, "two minutes of ten campaigns, and the two of the last batch");
    assert_eq!(db.query("SELECT sum(drops) FROM DB.delivery_rates WHERE campaign = 'drops'"), "3");
}

#[tokio::test]
async fn repeats_after_a_kill_add_nothing() {
    let server = mortal().await;
    let db = Db::on(&server, "kill").await;
    let (rows, rates) = (failures(0, 1000, DAY / 10), rates(0, 100));
    written(&db, &rows, "f").await;
    written(&db, &rates, "b").await;
    let before = totals(&db);
    server.kill().unwrap();
    let answer = db.warehouse.insert(&rows, "f").await;
    assert!(matches!(answer, Answer::Broken { .. }), "{answer:?}");
    assert_eq!(judge(&answer), Verdict::Retry);
    server.restart().unwrap();

    written(&db, &rows, "f").await;
    written(&db, &rates, "b").await;
    assert_eq!(db.rows("failures"), 1000);
    assert_eq!(db.rows("batches"), 3);
    assert_eq!(totals(&db), before);
    assert_eq!(db.warehouse.count(Table::Failures, "bounceflow.failures", 1, 0, 999).await.unwrap(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_of_inserts_killed_half_way_complete_them() {
    let server = mortal().await;
    let db = Db::on(&server, "half").await;
    let block = rates(0, 60_000);
    let mut struck = 0;
    for (n, millis) in [20, 60, 120, 250, 400, 700].into_iter().enumerate() {
        let token = format!("t{n}");
        let insert = db.warehouse.insert(&block, &token);
        let kill = async {
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
            server.kill().unwrap();
        };
        let (answer, ()) = tokio::join!(insert, kill);
        struck += usize::from(answer != Answer::Written);
        server.restart().unwrap();
        written(&db, &block, &token).await;
        written(&db, &block, &token).await;
        let times = n as u64 + 1;
        assert_eq!(db.rows("batches"), 3 * times, "after {millis} ms");
        assert_eq!(
            db.query("SELECT sum(deliveries) FROM DB.delivery_rates"),
            (times * 3 * 60_000 * 90).to_string(),
            "{millis} ms"
        );
        totals(&db);
    }
    assert!(struck > 0, "no kill struck an insert");
}

#[tokio::test]
async fn concurrent_repeats_add_nothing() {
    let db = Db::new("concurrent").await;
    let block = rates(0, 20_000);
    let (a, b, c) =
        tokio::join!(db.warehouse.insert(&block, "t"), db.warehouse.insert(&block, "t"), db.warehouse.insert(&block, "t"));
    assert_eq!([&a, &b, &c], [&Answer::Written; 3]);
    assert_eq!(db.rows("batches"), 3);
    assert!(totals(&db).starts_with(&format!("{}\t", 3 * 20_000 * 90)));
}

#[tokio::test]
async fn expired_rows_leave_the_totals() {
    let db = Db::new("expired").await;
    // The batches' log time is long past: their rows have expired, what the view made of them has not.
    written(&db, &batches_at(NOON - 2000 * DAY, 0, &[batch(0, 9, vec![rate_row()])]), "t").await;
    db.query("OPTIMIZE TABLE DB.batches FINAL");
    assert_eq!(db.query("SELECT sum(length(rows.isp)), sum(length(rows.hard)), sum(deliveries) FROM DB.batches"), "0\t0\t90");
    assert!(totals(&db).starts_with("90\t"));
    assert!(
        db.warehouse.audit(&Default::default()).await.unwrap().findings().iter().all(|f| f.contains("failures were counted"))
    );
}
