//! The views for people: rates beside what they are made of, nothing left out in silence, no division by zero.

use bounceflow_event::{Failure, RateRow};
use bounceflow_warehouse::{Answer, BlockBuilder, LogPosition, Table};

use crate::support::{DAY, Db, NOON, batch, batches, failure, rate_row};

async fn filled(name: &str) -> Db<'static> {
    let db = Db::new(name).await;
    let rows = vec![
        rate_row(),
        RateRow { campaign: "summer", ..rate_row() },
        RateRow {
            isp: "local",
            identity: "other.example",
            soft: 2,
            ..RateRow { bucket: rate_row().bucket, ..RateRow::default() }
        },
        RateRow { isp: "yahoo", complaints: 1, ..RateRow { bucket: rate_row().bucket, ..RateRow::default() } },
    ];
    assert_eq!(db.warehouse.insert(&batches(0, &[batch(0, 9, rows)]), "b").await, Answer::Written);
    let mut block = BlockBuilder::new(Table::Failures);
    let kinds = [
        failure(),
        failure(),
        Failure { event_type: "complaint", severity: "", category: "", root_cause: "", isp: "local", ..failure() },
        Failure { event_time: NOON + DAY, blocked: true, ..failure() },
    ];
    for (offset, failure) in (0..).zip(&kinds) {
        block.push_failure(failure, LogPosition { topic: "f", partition: 0, offset });
    }
    assert_eq!(db.warehouse.insert(&block.finish(), "f").await, Answer::Written);
    db
}

#[tokio::test]
async fn isp_profiles_leave_out_who_is_no_provider() {
    let db = filled("isp_view").await;
    let columns = "date, isp, deliveries, bounces, outcomes, attempts, round(bounce_rate, 4), round(deferred_rate, 4),
        round(complaint_rate, 4), drops, top_bounce_category";
    let rows = db.query(&format!("SELECT {columns} FROM DB.isp_profiles ORDER BY isp FORMAT TSV"));
    let expected = [
        "2026-03-10\tgmail\t180\t14\t194\t200\t0.0722\t0.03\t0.0111\t10\tinvalid_recipient",
        "2026-03-10\tyahoo\t0\t0\t0\t0\t\\N\t\\N\t\\N\t0\t",
    ];
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected.map(str::trim_end));
}

#[tokio::test]
async fn identity_profiles_hold_local_failures() {
    let db = filled("identity_view").await;
    let rows =
        db.query("SELECT identity, hard, soft, hard_rate FROM DB.identity_profiles WHERE hard + soft > 0 ORDER BY identity");
    assert_eq!(rows, "news.example\t8\t6\t0.041237113402061855\nother.example\t0\t2\t0");
}

#[tokio::test]
async fn failure_breakdown_holds_every_failure() {
    let db = filled("breakdown_view").await;
    let rows = db.query("SELECT * FROM DB.failure_breakdown ORDER BY ALL FORMAT CSV");
    let expected = [
        r#""2026-03-10","bounce","hard","invalid_recipient","list",2,0,3,0.6666666666666666"#,
        r#""2026-03-10","complaint","","","",1,0,3,0.3333333333333333"#,
        r#""2026-03-11","bounce","hard","invalid_recipient","list",1,1,1,1"#,
    ];
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn every_table_view_and_column_is_explained() {
    let db = Db::new("comments").await;
    let without = "SELECT name FROM system.tables WHERE database = 'DB' AND comment = '' AND name != 'delivery_rates_mv'";
    assert_eq!(db.query(without), "");
    let columns = "SELECT table, name FROM system.columns WHERE database = 'DB' AND comment = ''
        AND table IN ('failures', 'batches', 'delivery_rates', 'alerts')";
    assert_eq!(db.query(columns), "");
}

#[tokio::test]
async fn a_date_reaches_the_partitions_through_the_views() {
    let db = filled("pruning").await;
    for view in ["isp_profiles", "identity_profiles", "failure_breakdown"] {
        let plan = db.query(&format!("EXPLAIN indexes = 1 SELECT * FROM DB.{view} WHERE date = '2020-01-01'"));
        let pruned = plan.contains("ReadNothing") || plan.contains("Parts: 0/");
        assert!(pruned, "{view}: {plan}");
    }
}
