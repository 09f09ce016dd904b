//! Migrating, refusing what does not match, and the windows of deduplication.

use bounceflow_warehouse::{Answer, Retention, Settings, Warehouse, WarehouseError};

use crate::support::{Db, failures};

#[tokio::test]
async fn migrating_creates_everything_once() {
    let db = Db::empty("migrate");
    let error = db.warehouse.check().await.unwrap_err();
    assert!(matches!(error, WarehouseError::TooOld { found: 0, .. }), "{error}");
    assert!(error.to_string().contains("bounceflow migrate"));

    let mut steps = Vec::new();
    let applied = db.warehouse.migrate(&mut |step| steps.push(step.to_owned())).await.unwrap();
    assert_eq!(steps.len(), applied.len());
    assert_eq!(steps[0], "0001 failures");
    db.warehouse.ping().await.unwrap();
    db.warehouse.check().await.unwrap();

    let tables = db.query("SELECT name FROM system.tables WHERE database = 'DB' ORDER BY name FORMAT TSV");
    let expected = [
        "alert_history",
        "alert_transitions",
        "alerts",
        "batches",
        "bounce_report",
        "campaign_kpis",
        "campaign_kpis_this_week",
        "daily_rates",
        "daily_rates_by_identity",
        "daily_rates_by_identity_mv",
        "daily_rates_mv",
        "delivery_rates",
        "delivery_rates_mv",
        "erased_recipients",
        "erased_rows",
        "failure_breakdown",
        "failure_breakdown_this_week",
        "failure_details",
        "failures",
        "hourly_rates",
        "hourly_rates_mv",
        "identity_profiles",
        "identity_profiles_this_week",
        "ip_profiles",
        "ip_profiles_this_week",
        "isp_identity_matrix",
        "isp_identity_matrix_this_week",
        "isp_profiles",
        "isp_profiles_this_week",
        "pipelines",
        "rates_by_hour",
        "replays",
        "reporting_day",
        "retention",
        "schema_migrations",
        "smtp_patterns",
        "smtp_patterns_this_week",
        "thresholds",
    ];
    assert_eq!(tables.lines().collect::<Vec<_>>(), expected);
    assert_eq!(db.warehouse.migrate(&mut |_| {}).await.unwrap(), []);
    assert_eq!(db.rows("schema_migrations"), applied.len() as u64);
}

#[tokio::test]
async fn an_interrupted_migration_is_run_again() {
    let db = Db::new("interrupted").await;
    // As if it had died after creating the table of delivery_rates.sql, before its view and its record.
    db.query("DROP VIEW DB.delivery_rates_mv");
    db.query("ALTER TABLE DB.schema_migrations DELETE WHERE version >= 3 SETTINGS mutations_sync = 2");
    assert!(matches!(db.warehouse.check().await.unwrap_err(), WarehouseError::TooOld { found: 2, .. }));
    assert_eq!(db.warehouse.migrate(&mut |_| {}).await.unwrap()[0].version, 3);
    db.warehouse.check().await.unwrap();
    assert_eq!(db.query("EXISTS VIEW DB.delivery_rates_mv"), "1");
}

#[tokio::test]
async fn a_database_of_an_earlier_text_is_as_right() {
    let db = Db::new("former").await;
    let former = "36c84b06ba9e80d3f4db747fbe46e913b38d536db5b71d26db5336a651500c2e";
    db.query(&format!(
        "ALTER TABLE DB.schema_migrations UPDATE checksum = '{former}' WHERE version = 1 SETTINGS mutations_sync = 2"
    ));
    db.warehouse.check().await.unwrap();
    assert_eq!(db.warehouse.migrate(&mut |_| {}).await.unwrap(), Vec::new());
}

#[tokio::test]
async fn an_edited_migration_is_refused() {
    let db = Db::new("edited").await;
    db.query("ALTER TABLE DB.schema_migrations UPDATE checksum = 'x' WHERE version = 2 SETTINGS mutations_sync = 2");
    for error in [db.warehouse.migrate(&mut |_| {}).await.unwrap_err(), db.warehouse.check().await.unwrap_err()] {
        assert!(matches!(error, WarehouseError::Edited { version: 2, .. }), "{error}");
        assert!(error.to_string().contains("0002_batches.sql"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_says_its_version_and_the_one_needed() {
    let db = Db::new("old_server").await;
    let version = db.query("SELECT version()");
    db.warehouse.check_server((25, 3)).await.unwrap();
    let error = db.warehouse.check_server((99, 1)).await.unwrap_err();
    assert!(matches!(error, WarehouseError::OldServer { .. }) && !error.may_pass(), "{error}");
    assert!(error.to_string().contains(&version) && error.to_string().contains("99.1 or later"), "{error}");
}

#[tokio::test]
async fn data_is_kept_as_long_as_the_configuration_says() {
    let db = Db::new("retention").await;
    let ttl = |table: &str| {
        let sql = db.query(&format!("SHOW CREATE TABLE DB.{table}"));
        sql.split("TTL ").skip(1).map(|ttl| ttl.split_once(')').unwrap().0.to_owned() + ")").collect::<Vec<_>>()
    };
    let migrate = async |diagnostics, failures, rates| {
        let retention = Retention { diagnostics, failures, rates };
        let mut said = Vec::new();
        let warehouse = Warehouse::new(Settings { retention, ..db.settings() }).unwrap();
        warehouse.migrate(&mut |step| said.push(step.to_owned())).await.unwrap();
        said
    };
    assert_eq!(ttl("failures"), [""; 0]);
    let said = ["keep diagnostics for 30 days", "keep failures for 396 days", "keep rates for 1096 days"];
    assert_eq!(migrate(30, 396, 1096).await, said);
    assert_eq!(migrate(30, 396, 1096).await, [""; 0], "what is so needs no change");
    assert_eq!(ttl("failures").len(), 2, "of the text and of the row");
    assert_eq!(ttl("batches").len(), 18 + 7, "of what a transaction added, and of its patterns");
    assert_eq!(db.query("SELECT max(days) FROM DB.retention WHERE class = 'rates'"), "1096");
    for table in ["delivery_rates", "hourly_rates", "daily_rates", "daily_rates_by_identity"] {
        assert_eq!(ttl(table).len(), 1, "{table}");
    }
    db.warehouse.check().await.unwrap();

    // A year and a month later the text goes first.
    db.query("ALTER TABLE DB.failures MODIFY COLUMN diagnostic TTL toDateTime(event_time) + INTERVAL 1 DAY");
    assert_eq!(db.warehouse.insert(&failures(0, 10, 1), "t").await, Answer::Written);
    db.query("ALTER TABLE DB.failures MODIFY TTL toDateTime(event_time) + INTERVAL 7000 DAY");
    db.query("OPTIMIZE TABLE DB.failures FINAL");
    assert_eq!(db.query("SELECT count(), countIf(diagnostic = '') FROM DB.failures"), "10\t10");

    assert_eq!(migrate(0, 0, 1096).await, ["keep diagnostics for ever", "keep failures for ever"]);
    assert_eq!(ttl("failures"), [""; 0]);
}

#[tokio::test]
async fn a_name_belongs_to_the_kafka_cluster_that_came_first() {
    let db = Db::new("claim").await;
    for (cluster, now) in [("one", 1000), ("one", 2000)] {
        db.warehouse.claim(cluster, 0, now).await.unwrap();
    }
    let error = db.warehouse.claim("two", 0, 3000).await.unwrap_err();
    assert!(matches!(&error, WarehouseError::Foreign { owner, cluster, .. } if owner == "one" && cluster == "two"), "{error}");
    assert_eq!(db.query("SELECT * FROM DB.pipelines"), "test\tone\t1970-01-01 00:00:01.000\t0");
    // Both started at one moment and wrote before they read: one of them goes on.
    db.query("TRUNCATE TABLE DB.pipelines");
    db.query("INSERT INTO DB.pipelines VALUES ('test', 'two', 5, 0), ('test', 'one', 5, 0)");
    db.warehouse.claim("one", 0, 4000).await.unwrap();
    db.warehouse.claim("two", 0, 4000).await.unwrap_err();
    // The remedy is the statement it names.
    let remedy = error.to_string().split_once("ALTER TABLE ").unwrap().1.to_owned();
    db.query(&format!("ALTER TABLE {remedy} SETTINGS mutations_sync = 2"));
    db.warehouse.claim("two", 0, 4000).await.unwrap();
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let db = Db::new("newer").await;
    db.query("INSERT INTO DB.schema_migrations VALUES (9999, 'future', '', now())");
    for error in [db.warehouse.migrate(&mut |_| {}).await.unwrap_err(), db.warehouse.check().await.unwrap_err()] {
        assert!(matches!(error, WarehouseError::TooNew { found: 9999, .. }), "{error}");
    }
}

#[tokio::test]
async fn every_short_window_is_named_with_its_remedy() {
    let db = Db::new("window").await;
    db.query("ALTER TABLE DB.failures MODIFY SETTING non_replicated_deduplication_window = 100");
    db.query("ALTER TABLE DB.delivery_rates RESET SETTING non_replicated_deduplication_window");
    // A view of the user's own, with a table of its own, counts as well.
    db.query(
        "CREATE MATERIALIZED VIEW DB.mine ENGINE = SummingMergeTree ORDER BY minute AS
        SELECT minute, sum(deliveries) AS deliveries FROM DB.delivery_rates GROUP BY minute",
    );
    let error = db.warehouse.check().await.unwrap_err();
    let WarehouseError::Unprotected(tables) = &error else { panic!("{error}") };
    assert_eq!(tables.len(), 3, "{error}");
    assert!(error.to_string().contains("is 100 and must be at least 100000"), "{error}");

    for table in tables {
        db.query(&table.remedy);
    }
    db.warehouse.check().await.unwrap();
}
