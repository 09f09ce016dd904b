//! The views for people: rates beside what they are made of, nothing left out in silence, no division by zero, and filters that
//! reach the sort keys behind them.

use bounceflow_event::{Failure, RateRow};
use bounceflow_warehouse::{Answer, BlockBuilder, LogPosition, Table};

use crate::support::{DAY, Db, NOON, batch, batches, failure, rate_row};

async fn filled(name: &str) -> Db<'static> {
    let db = Db::new(name).await;
    let bucket = rate_row().bucket;
    let rows = vec![
        rate_row(),
        RateRow { campaign: "summer", sending_ip: "::ffff:192.0.2.1", ..rate_row() },
        RateRow { isp: "local", identity: "other.example", soft: 2, bucket, ..RateRow::default() },
        RateRow { isp: "yahoo", complaints: 1, bucket, ..RateRow::default() },
        RateRow { bucket: bucket - 7 * DAY / 1000, hard: 14, ..rate_row() },
    ];
    assert_eq!(db.warehouse.insert(&batches(0, &[batch(0, 9, rows)]), "b").await, Answer::Written);
    let mut block = BlockBuilder::new(Table::Failures);
    let kinds = [
        failure(),
        failure(),
        Failure { event_type: "complaint", severity: "", category: "", root_cause: "", isp: "local", pattern: 0, ..failure() },
        Failure { event_time: NOON + DAY, blocked: true, attempt: 2, sending_ip: "::ffff:192.0.2.1", ..failure() },
    ];
    for (offset, failure) in (0..).zip(&kinds) {
        block.push_failure(failure, LogPosition { topic: "f", partition: 0, offset });
    }
    assert_eq!(db.warehouse.insert(&block.finish(), "f").await, Answer::Written);
    db.query("CREATE OR REPLACE VIEW DB.reporting_day AS SELECT toDate('2026-03-10') AS today");
    db
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).collect()
}

#[tokio::test]
async fn isp_profiles_leave_out_who_is_no_provider() {
    let db = filled("isp_view").await;
    let columns = "date, isp, deliveries, bounces, outcomes, attempts, round(bounce_rate, 4), round(deferred_rate, 4),
        round(complaint_rate, 4), drops, top_bounce_category, top_bounces, outcomes_of_day, share_of_outcomes, status";
    let rows = db.query(&format!("SELECT {columns} FROM DB.isp_profiles WHERE date = '2026-03-10' ORDER BY isp FORMAT TSV"));
    let expected = [
        "2026-03-10\tgmail\t180\t14\t194\t200\t0.0722\t0.03\t0.0111\t10\tinvalid_recipient\t8\t194\t1\tHealthy",
        "2026-03-10\tyahoo\t0\t0\t0\t0\t\\N\t\\N\t\\N\t0\t\t0\t194\t0\tHealthy",
    ];
    assert_eq!(lines(&rows), expected, "too few outcomes for any threshold");
}

#[tokio::test]
async fn identity_profiles_hold_local_failures() {
    let db = filled("identity_view").await;
    let rows = db.query(
        "SELECT identity, hard, soft, hard_rate, failures, top_isp, top_isp_failures FROM DB.identity_profiles
        WHERE failures > 0 AND date = '2026-03-10' ORDER BY identity",
    );
    assert_eq!(lines(&rows), ["news.example\t8\t6\t0.041237113402061855\t20\tgmail\t20", "other.example\t0\t2\t0\t2\tlocal\t2"]);
}

#[tokio::test]
async fn one_address_is_one_row_however_it_was_written() {
    let db = filled("ip_view").await;
    let rows = "SELECT sending_ip, isp, deliveries FROM DB.ip_profiles WHERE date = '2026-03-10' AND isp = 'gmail'";
    assert_eq!(db.query(rows), "192.0.2.1\tgmail\t180");
    assert_eq!(db.query("SELECT DISTINCT sending_ip FROM DB.failure_details"), "192.0.2.1");
    assert_eq!(db.query("SELECT DISTINCT sending_ip FROM DB.bounce_report"), "192.0.2.1");
}

#[tokio::test]
async fn failure_breakdown_holds_every_failure() {
    let db = filled("breakdown_view").await;
    let rows = db.query("SELECT * FROM DB.failure_breakdown ORDER BY ALL FORMAT CSV");
    let expected = [
        r#""2026-03-10","gmail","news.example","bounce","hard","invalid_recipient","list",2,0,2,0,0,2,1"#,
        r#""2026-03-10","local","news.example","complaint","","","",1,0,0,0,0,1,1"#,
        r#""2026-03-11","gmail","news.example","bounce","hard","invalid_recipient","list",1,1,1,0,0,1,1"#,
    ];
    assert_eq!(lines(&rows), expected);
}

#[tokio::test]
async fn fingerprints_and_hashes_are_text() {
    let db = filled("hex_view").await;
    let patterns = db.query("SELECT pattern, count, replies_of_isp, sample FROM DB.smtp_patterns WHERE date = '2026-03-10'");
    assert_eq!(patterns, "0000000000000007\t2\t2\t550 5.1.1 no such user");
    let details = db.query("SELECT DISTINCT pattern, recipient_hash, source FROM DB.failure_details ORDER BY pattern");
    let hash = "30313233343536373839616263646566\tdelivery.events/2/40/0";
    assert_eq!(details, format!("\t{hash}\n0000000000000007\t{hash}").trim_start());
}

#[tokio::test]
async fn campaigns_know_the_guide_and_what_turned_hard() {
    let db = filled("campaign_view").await;
    let rows = db.query(
        "SELECT date, campaign, hard, hard_rate_guide, within_guide, hard_after_deferral, status FROM DB.campaign_kpis
        WHERE identity = 'news.example' AND date >= '2026-03-10' AND campaign != '' ORDER BY ALL",
    );
    let expected = [
        "2026-03-10\tspring\t4\t0.02\tfalse\t0\tHealthy",
        "2026-03-10\tsummer\t4\t0.02\tfalse\t0\tHealthy",
        "2026-03-11\tspring\t0\t0.02\ttrue\t1\tHealthy",
    ];
    assert_eq!(lines(&rows), expected);
}

#[tokio::test]
async fn thresholds_are_what_operators_make_them() {
    let db = filled("threshold_view").await;
    let of = |view: &str, level: &str| db.query(&format!("SELECT {level} FROM DB.{view} WHERE date = '2026-03-10' AND hard > 0"));
    let change = |subject: &str, what: &str| {
        db.query(&format!(
            "INSERT INTO DB.thresholds SELECT * REPLACE ({what}, now() AS changed_at) FROM DB.thresholds FINAL
            WHERE subject = '{subject}' AND metric = 'hard_rate'"
        ))
    };
    assert_eq!(of("isp_profiles", "status"), "Healthy");
    change("isp", "100 AS least");
    assert_eq!(of("isp_profiles", "status"), "Watch", "8 of 194 is 4 %");
    assert_eq!(of("isp_identity_matrix", "status"), "Watch");
    assert_eq!(of("identity_profiles", "risk"), "Low");
    change("identity", "100 AS least, 0.04 AS critical");
    assert_eq!(of("identity_profiles", "risk"), "High");
    // Applying the file again, as at a new replica, undoes nothing.
    db.query("ALTER TABLE DB.schema_migrations DELETE WHERE version >= 10 SETTINGS mutations_sync = 2");
    db.warehouse.migrate(&mut |_| {}).await.unwrap();
    assert_eq!(of("isp_profiles", "status"), "Watch");
}

#[tokio::test]
async fn a_week_stands_beside_the_week_before() {
    let db = filled("week_view").await;
    let rows = db.query(
        "SELECT deliveries, deliveries_last_week, hard, hard_last_week, outcomes, outcomes_last_week, round(hard_rate_points, 3)
        FROM DB.isp_profiles_this_week WHERE isp = 'gmail'",
    );
    assert_eq!(rows, "180\t90\t8\t14\t194\t107\t-8.96", "100 * (8 / 194 - 14 / 107)");
    db.query("CREATE OR REPLACE VIEW DB.reporting_day AS SELECT toDate('2026-03-11') AS today");
    let rows = db.query(
        "SELECT failures, failures_last_week, failures_of_group, share, share_points FROM DB.failure_breakdown_this_week
        WHERE isp = 'gmail'",
    );
    assert_eq!(rows, "3\t0\t3\t1\t\\N");
}

#[tokio::test]
async fn every_table_view_and_column_is_explained() {
    let db = Db::new("comments").await;
    let without = "SELECT name FROM system.tables WHERE database = 'DB' AND comment = '' AND NOT endsWith(name, '_mv')";
    assert_eq!(db.query(without), "");
    let columns = "SELECT table, name FROM system.columns WHERE database = 'DB' AND comment = '' AND NOT endsWith(table, '_mv')
        AND table NOT IN ('erased_recipients', 'erased_rows', 'pipelines', 'replays', 'schema_migrations')";
    assert_eq!(db.query(columns), "");
    let grain = "SELECT name FROM system.tables WHERE database = 'DB' AND engine = 'View' AND NOT startsWith(comment, 'Grain: ')";
    assert_eq!(db.query(grain), "");
}

#[tokio::test]
async fn every_view_can_be_read_and_gives_the_types_it_says() {
    let db = Db::new("types").await;
    let views = db.query("SELECT name FROM system.tables WHERE database = 'DB' AND engine = 'View'");
    for view in views.lines() {
        let said = db.query(&format!(
            "SELECT name, type FROM system.columns WHERE database = 'DB' AND table = '{view}' ORDER BY position"
        ));
        let given = db.query(&format!("DESCRIBE (SELECT * FROM DB.{view}) FORMAT TSV"));
        let given: Vec<String> = given.lines().map(|line| line.split('\t').take(2).collect::<Vec<_>>().join("\t")).collect();
        assert_eq!(given, lines(&said), "{view}");
        db.query(&format!("SELECT * FROM DB.{view}"));
    }
}

/// The views, with the columns whose filters must reach the sort key of every table that is filtered by them.
const FILTERED: [(&str, &[&str]); 17] = [
    ("isp_profiles", &["isp"]),
    ("identity_profiles", &["identity"]),
    ("isp_identity_matrix", &["isp", "identity"]),
    ("ip_profiles", &["isp"]),
    ("campaign_kpis", &["identity"]),
    ("rates_by_hour", &["isp", "identity"]),
    ("failure_breakdown", &["isp", "identity"]),
    ("smtp_patterns", &["isp"]),
    ("bounce_report", &["isp", "identity"]),
    ("failure_details", &["isp", "identity"]),
    ("isp_profiles_this_week", &["isp"]),
    ("identity_profiles_this_week", &["identity"]),
    ("isp_identity_matrix_this_week", &["isp", "identity"]),
    ("ip_profiles_this_week", &["isp"]),
    ("campaign_kpis_this_week", &["identity"]),
    ("failure_breakdown_this_week", &["isp", "identity"]),
    ("smtp_patterns_this_week", &["isp"]),
];

#[tokio::test]
async fn filters_reach_the_sort_keys_through_the_views() {
    let db = filled("keys").await;
    for (view, columns) in FILTERED {
        for column in columns {
            let plan = db.query(&format!("EXPLAIN indexes = 1 SELECT * FROM DB.{view} WHERE {column} = 'a-name'"));
            // The whole that a share is of is not filtered by its parts.
            let reads = plan.matches("ReadFromMergeTree").count() - usize::from(view.starts_with("isp_profiles"));
            let conditions = plan.lines().filter(|line| line.contains("Condition: ") && line.contains("a-name")).count();
            assert!(reads >= 1 && conditions >= reads, "{view} by {column}: {plan}");
        }
    }
}

#[tokio::test]
async fn a_filter_leaves_few_granules() {
    let db = Db::new("granules").await;
    db.query(
        "INSERT INTO DB.delivery_rates SELECT toDateTime('2026-03-01 00:00:00', 'UTC') + 86400 * (number % 14) AS minute,
            concat('isp-', toString(intDiv(number, 14) % 20)), concat('id-', toString(intDiv(number, 280))), '192.0.2.1', 'c',
            1, 1, 0, 0, 0, 0, 0, 0, 0, 0, map(), map(), map() FROM numbers(280000)",
    );
    db.query(
        "INSERT INTO DB.failures (event_time, event_type, isp, identity) SELECT
            toDateTime64('2026-03-01 00:00:00', 3, 'UTC') + 86400 * (number % 14) AS event_time, 'bounce' AS event_type,
            concat('isp-', toString(intDiv(number, 14) % 4)) AS isp, concat('id-', toString(intDiv(number, 56) % 50)) AS identity
            FROM numbers(1120000)",
    );
    for table in ["daily_rates", "daily_rates_by_identity", "failures"] {
        db.query(&format!("OPTIMIZE TABLE DB.{table} FINAL"));
    }
    let read = |view: &str, filter: &str| -> f64 {
        let plan = db.query(&format!("EXPLAIN indexes = 1 SELECT * FROM DB.{view} WHERE date >= '2026-03-08' AND {filter}"));
        let granules = plan.lines().filter_map(|line| line.trim_start_matches([' ', '│']).strip_prefix("Granules: "));
        let shares =
            granules.filter_map(|g| g.split_once('/')).map(|(n, of)| n.parse::<f64>().unwrap() / of.parse::<f64>().unwrap());
        // Of the first table read: what each of its indexes leaves.
        shares.take(3).product()
    };
    assert!(read("isp_profiles", "1") > 0.4, "a week of two");
    assert!(read("isp_profiles", "isp = 'isp-3'") < 0.1);
    assert!(read("identity_profiles", "identity = 'id-3'") < 0.1);
    assert!(read("campaign_kpis", "identity = 'id-3'") < 0.1);
    // Half of the days of a fourth of the rows, and no more than a granule at each end of a range.
    assert!(read("bounce_report", "isp = 'isp-3'") < 0.15);
    // Of each ISP and day, the granules with the rows of one sender in fifty.
    assert!(read("failure_details", "identity = 'id-3'") < 0.2);
}

#[tokio::test]
async fn a_date_reaches_the_partitions_through_the_views() {
    let db = filled("pruning").await;
    for (view, _) in FILTERED.iter().filter(|(view, _)| !view.ends_with("_this_week")) {
        let plan = db.query(&format!("EXPLAIN indexes = 1 SELECT * FROM DB.{view} WHERE date = '2020-01-01'"));
        let pruned = plan.contains("ReadNothing") || plan.contains("Parts: 0/");
        assert!(pruned, "{view}: {plan}");
    }
}
