//! Alerts: each transition is stored as often as replicas wrote it, and shown once, also while repeats, merges and audits go on.

use bounceflow_event::Alert;
use bounceflow_warehouse::{Answer, AuditOptions, Block, Table};

use crate::support::{DAY, Db, NOON, alert, alerts};

const COUNT: &str = "SELECT count() FROM DB.alert_transitions";

async fn written(db: &Db<'_>, block: &Block, token: &str) {
    assert_eq!(db.warehouse.insert(block, token).await, Answer::Written);
}

/// One alert of every fate.
fn fates() -> Vec<Alert<'static>> {
    let at_once = |state, after, numerator| Alert { denominator: 0, isp: "", ..alert("once", state, after, numerator) };
    let tomorrow = |state| Alert { episode_start: NOON + DAY, ..alert("tomorrow", state, 86_400, 250) };
    vec![
        alert("lapsed", "pending", 0, 210),
        alert("resolved", "pending", 0, 210),
        at_once("firing", 0, 5),
        alert("lapsed", "resolved", 60, 10),
        alert("resolved", "firing", 120, 400),
        alert("resolved", "resolved", 720, 30),
        tomorrow("pending"),
    ]
}

async fn filled(name: &str) -> Db<'static> {
    let db = Db::new(name).await;
    written(&db, &alerts(0, "p/0/watch", &fates()), "a").await;
    written(&db, &alerts(100, "p/1/watch", &fates()), "b").await;
    db
}

#[tokio::test]
async fn what_every_replica_wrote_is_shown_once() {
    let db = filled("alert_once").await;
    assert_eq!((db.rows("alerts"), db.query(COUNT)), (14, "7".to_owned()));
    let columns = "date, alert_id, state, event_time, numerator, denominator, rate, replicas, log_time";
    let rows = db.query(&format!("SELECT {columns} FROM DB.alert_transitions WHERE alert_id IN ('once', 'lapsed') ORDER BY ALL"));
    let expected = [
        "2026-03-10\tlapsed\tpending\t2026-03-10 12:00:00.000\t210\t1000\t0.21\t2\t2026-03-10 12:00:00.000",
        "2026-03-10\tlapsed\tresolved\t2026-03-10 12:01:00.000\t10\t1000\t0.01\t2\t2026-03-10 12:00:03.000",
        "2026-03-10\tonce\tfiring\t2026-03-10 12:00:00.000\t5\t0\t\\N\t2\t2026-03-10 12:00:02.000",
    ];
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
    // A replica that replays its log after a restart adds nothing to see.
    written(&db, &alerts(200, "p/0/watch", &fates()), "c").await;
    assert_eq!(db.query(COUNT), "7");
    assert_eq!(db.query("SELECT count(), max(replicas) FROM DB.alert_transitions"), "7\t2");
}

#[tokio::test]
async fn repeats_add_no_row_and_merges_take_none() {
    let db = filled("alert_repeats").await;
    written(&db, &alerts(100, "p/1/watch", &fates()), "b").await;
    db.query("OPTIMIZE TABLE DB.alerts FINAL");
    assert_eq!((db.rows("alerts"), db.query(COUNT)), (14, "7".to_owned()));
    // The sink counts by position after a broken connection: every record must stay countable.
    for first in [0, 100] {
        let count = db.warehouse.count(Table::Alerts, "bounceflow.alerts", 0, first, first + 6).await.unwrap();
        assert_eq!(count, 7);
    }
    assert_eq!(db.warehouse.last_offset(Table::Alerts, "bounceflow.alerts", 0).await.unwrap(), Some(106));
}

#[tokio::test]
async fn the_history_has_a_line_per_alert() {
    let db = filled("alert_history").await;
    let columns =
        "date, alert_id, state, outcome, pending_at, fired_at, resolved_at, duration_seconds, seconds_to_resolve, peak_rate, peak_numerator,
        last_rate, last_denominator";
    let rows = db.query(&format!("SELECT {columns} FROM DB.alert_history ORDER BY alert_id"));
    let at = |time: &str| format!("2026-03-10 {time}.000");
    let (noon, tomorrow) = (at("12:00:00"), "2026-03-11 12:00:00.000");
    let expected = [
        format!("2026-03-10\tlapsed\tresolved\tlapsed\t{noon}\t\\N\t{}\t60\t\\N\t0.21\t210\t0.01\t1000", at("12:01:00")),
        format!("2026-03-10\tonce\tfiring\topen\t\\N\t{noon}\t\\N\t\\N\t\\N\t\\N\t5\t\\N\t0"),
        format!(
            "2026-03-10\tresolved\tresolved\tresolved\t{noon}\t{}\t{}\t720\t600\t0.4\t400\t0.03\t1000",
            at("12:02:00"),
            at("12:12:00")
        ),
        format!("2026-03-11\ttomorrow\tpending\topen\t{tomorrow}\t\\N\t\\N\t\\N\t\\N\t0.25\t250\t0.25\t1000"),
    ];
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
    // The evidence is that of the firing, or of what was pending; not of the end.
    let columns =
        "rule, severity, isp, identity, metric, window_seconds, threshold, top_categories, categories['reputation'], pattern, pattern_rule,
        sample, root_cause, action, annotations['summary']";
    let rows =
        db.query(&format!("SELECT {columns} FROM DB.alert_history WHERE outcome IN ('resolved', 'lapsed') ORDER BY alert_id"));
    let line = |reputation: u64, summary: &str| {
        format!(
            "blocked\tcritical\tgmail\tnews.example\tblocked_rate\t900\t0.2\t['reputation','policy']\t{reputation}\t\
             fffffffffffffff9\tgeneric.blocked\t550 5.7.1 blocked\treputation\trequest_delisting\t{summary}"
        )
    };
    assert_eq!(rows.lines().collect::<Vec<_>>(), [line(209, "as pending"), line(399, "as firing")]);
}

#[tokio::test]
async fn a_date_reaches_the_index_through_the_history() {
    let db = filled("alert_pruning").await;
    let parts = |date: &str| {
        let plan = db.query(&format!("EXPLAIN indexes = 1 SELECT * FROM DB.alert_history WHERE date = '{date}'"));
        assert!(plan.contains("PrimaryKey"), "{plan}");
        plan.contains("Parts: 0/")
    };
    assert!(parts("2020-01-01"));
    assert!(!parts("2026-03-11"));
}

#[tokio::test]
async fn replicas_are_no_fault_to_an_audit_and_a_doubled_record_is() {
    let db = filled("alert_audit").await;
    let audit = || async { db.warehouse.audit(&AuditOptions::default()).await.unwrap() };
    let report = audit().await;
    assert!(report.is_clean(), "{report}");
    written(&db, &alerts(103, "p/1/watch", &fates()[3..5]), "another token").await;
    let findings = audit().await.findings();
    assert_eq!(
        findings,
        ["alerts: 2 keys (kafka_topic, kafka_partition, kafka_offset) are stored more than once, 2 rows too many"]
    );
}
