//! The test: two weeks of mail through the real pipeline, and every view equals a recount of the simulator's own labels, to the last
//! unit. The recount is plain SQL over a table of labels, one row per item: no roll-up, no view of bounceflow, none of its code.
#![allow(clippy::print_stdout, reason = "a test that measures says what")]

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use bounceflow_end_to_end::Pipeline;

const RECORDS: u64 = 80_000;
const DAY: i64 = 86_400;

/// What the views of rates count, and which labels that is.
const COUNTS: [(&str, &str); 10] = [
    ("first_attempts", "event IN ('delivery', 'deferral', 'bounce') AND attempt = 1"),
    ("drops", "event = 'drop'"),
    ("deliveries", "event = 'delivery'"),
    ("hard", "event = 'bounce' AND severity = 'hard'"),
    ("soft", "event = 'bounce' AND severity != 'hard'"),
    ("deferred", "event = 'deferral'"),
    ("complaints", "event = 'complaint'"),
    ("late_bounces", "event = 'oob_bounce'"),
    ("outcomes", "event IN ('delivery', 'bounce')"),
    ("attempts", "event IN ('delivery', 'bounce', 'deferral')"),
];

/// Those of them that the views of a week have.
const OF_A_WEEK: &[(&str, &str)] = COUNTS.split_at(2).1;

fn columns(counts: &[(&str, &str)], suffix: &str) -> String {
    counts.iter().map(|(name, _)| format!("{name}{suffix}")).collect::<Vec<_>>().join(", ")
}

/// The same columns made of labels.
fn recount(counts: &[(&str, &str)], suffix: &str, condition: &str) -> String {
    let sum = |(name, labels): &(&str, &str)| format!("sumIf(recipients, {labels} AND {condition}) AS {name}{suffix}");
    counts.iter().map(sum).collect::<Vec<_>>().join(", ")
}

/// Domains in other scripts are stored as DNS writes them; which of them is not told apart here.
const DOMAIN: &str = "if(startsWith(recipient_domain, 'xn--'), 'xn--', recipient_domain) AS recipient_domain";

/// The category of most bounces, and how many it has.
const TOP: &str = "arraySort((c, n) -> (-toInt64(n), c), mapKeys(bounced), mapValues(bounced))[1] AS top, bounced[top]";
const BOUNCED: &str = "sumMapIf(map(category, recipients), event = 'bounce') AS bounced";

#[test]
fn every_view_equals_a_recount() -> Result<()> {
    let pipeline = Pipeline::builder("views")?.inputs(4).build()?;
    let [mut classify, mut sink] = [pipeline.run("classify", 0, &[])?, pipeline.run("sink", 0, &[])?];
    // The fourteen days before today, so that no clock at midnight matters.
    let midnight = jiff::Timestamp::now().as_second().div_euclid(DAY) * DAY;
    let start = jiff::Timestamp::from_second(midnight - 14 * DAY)?;
    let (labels, scenario) = (pipeline.folder().join("labels.jsonl"), pipeline.folder().join("scenario.toml"));
    // It strikes retries too: what was deferred turns hard.
    let incident = "[[incident]]\nfrom = 0\nuntil = 1209600\noutcome = 'invalid_recipient/hard'\nshare = 0.02\n";
    fs::write(&scenario, incident)?;
    let mut simulate = pipeline.simulate(&[
        "--format=mixed",
        "--failures=0.3",
        "--seed=14",
        &format!("--count={RECORDS}"),
        &format!("--start={start}"),
        &format!("--span={}", 14 * DAY),
        &format!("--scenario={}", scenario.display()),
        &format!("--labels={}", labels.display()),
    ])?;
    ensure!(simulate.end()?.success(), "the simulator failed: {}", simulate.log());
    pipeline.settled("classify")?;
    ensure!(classify.stop()?.success(), "classify did not end well");
    pipeline.settled("sink")?;
    ensure!(sink.stop()?.success(), "the sink did not end well");
    pipeline.value(&format!(
        "CREATE OR REPLACE VIEW {{db}}.reporting_day AS SELECT toDate('{}') AS today",
        jiff::Timestamp::from_second(midnight - DAY)?.strftime("%F")
    ))?;
    load(&pipeline, &fs::read_to_string(labels)?)?;

    compare_all(&pipeline)?;
    pipeline.optimize()?;
    compare_all(&pipeline)?;
    pipeline.succeed(&["audit"])?;
    pipeline.passed();
    Ok(())
}

fn load(pipeline: &Pipeline, labels: &str) -> Result<()> {
    pipeline.value(
        "CREATE TABLE {db}.label_lines (time_ms Int64, event String, severity String, category String, isp String, identity String,
            sending_ip String, campaign String, recipient_domain String, attempt UInt32, recipients UInt64)
        ENGINE = MergeTree ORDER BY tuple()",
    )?;
    pipeline.value(
        "CREATE VIEW {db}.labels AS SELECT * REPLACE (if(length(recipient_domain) != lengthUTF8(recipient_domain) OR startsWith(recipient_domain, 'xn--'), 'xn--', recipient_domain) AS recipient_domain), fromUnixTimestamp64Milli(time_ms, 'UTC') AS time, toDate(time) AS date,
            date > (SELECT today FROM {db}.reporting_day) - 7 AS week FROM {db}.label_lines",
    )?;
    let insert = format!("INSERT INTO {}.label_lines FORMAT JSONEachRow\n{labels}", pipeline.database());
    pipeline.servers.clickhouse.query_within(Duration::from_secs(60), &insert)?;
    let days = pipeline.value("SELECT uniqExact(date), min(date), max(date), sum(recipients) FROM {db}.labels")?;
    ensure!(days.starts_with("14\t"), "not two weeks: {days}");
    println!("days, first, last, items: {}", days.replace('\t', ", "));
    Ok(())
}

fn compare_all(pipeline: &Pipeline) -> Result<()> {
    let (shown, all) = (columns(&COUNTS, ""), recount(&COUNTS, "", "1"));
    let rates = |view: &str, key: &str, condition: &str| {
        same(
            pipeline,
            view,
            &format!("SELECT {key}, {shown}, top_bounce_category, top_bounces FROM {{db}}.{view}"),
            &format!(
                "SELECT * EXCEPT bounced, {TOP} FROM (SELECT {key}, {all}, {BOUNCED} FROM {{db}}.labels WHERE {condition} GROUP BY {key})"
            ),
        )
    };
    rates("isp_profiles", "date, isp", "isp != 'local'")?;
    rates("identity_profiles", "date, identity", "1")?;
    rates("isp_identity_matrix", "date, isp, identity", "1")?;
    rates("ip_profiles", "date, sending_ip, isp", "1")?;
    rates("campaign_kpis", "date, identity, campaign", "1")?;
    same(
        pipeline,
        "rates_by_hour",
        &format!("SELECT hour, isp, identity, {shown} FROM {{db}}.rates_by_hour"),
        &format!("SELECT toStartOfHour(time) AS hour, isp, identity, {all} FROM {{db}}.labels GROUP BY hour, isp, identity"),
    )?;
    same(
        pipeline,
        "shares of isp_profiles",
        "SELECT date, isp, outcomes_of_day, share_of_outcomes FROM {db}.isp_profiles",
        "SELECT date, isp, whole, outcomes / nullIf(whole, 0) FROM
            (SELECT date, isp, sumIf(recipients, event IN ('delivery', 'bounce')) AS outcomes FROM {db}.labels WHERE isp != 'local' GROUP BY date, isp) AS one
            JOIN (SELECT date, sumIf(recipients, event IN ('delivery', 'bounce')) AS whole FROM {db}.labels WHERE isp != 'local' GROUP BY date) AS all
            USING (date)",
    )?;
    same(
        pipeline,
        "top ISPs of identity_profiles",
        "SELECT date, identity, top_isp, top_isp_failures FROM {db}.identity_profiles",
        "SELECT date, identity, if(worst.1 = 0, '', worst.2), worst.1 FROM
            (SELECT date, identity, argMin((n, isp), (-toInt64(n), isp)) AS worst FROM
                (SELECT date, identity, isp, sumIf(recipients, event IN ('bounce', 'deferral')) AS n FROM {db}.labels GROUP BY date, identity, isp)
            GROUP BY date, identity)",
    )?;
    same(
        pipeline,
        "what turned hard in campaign_kpis",
        "SELECT date, identity, campaign, hard_after_deferral FROM {db}.campaign_kpis WHERE hard_after_deferral > 0",
        "SELECT date, identity, campaign, sum(recipients) FROM {db}.labels WHERE event = 'bounce' AND severity = 'hard' AND attempt > 1
        GROUP BY date, identity, campaign",
    )?;
    let failures = "event IN ('deferral', 'bounce', 'oob_bounce', 'complaint')";
    same(
        pipeline,
        "failure_breakdown",
        "SELECT date, isp, identity, event_type, severity, category, sum(failures) FROM {db}.failure_breakdown GROUP BY ALL",
        &format!(
            "SELECT date, isp, identity, event, severity, if(event = 'complaint', 'complaint', category), sum(recipients) FROM {{db}}.labels
            WHERE {failures} GROUP BY ALL"
        ),
    )?;
    same(
        pipeline,
        "wholes of failure_breakdown",
        "SELECT DISTINCT date, isp, identity, failures_of_group FROM {db}.failure_breakdown",
        &format!("SELECT date, isp, identity, sum(recipients) FROM {{db}}.labels WHERE {failures} GROUP BY ALL"),
    )?;
    same(
        pipeline,
        "smtp_patterns",
        "SELECT date, isp, category, severity, sum(count), any(replies_of_isp) FROM {db}.smtp_patterns GROUP BY ALL",
        &format!(
            "SELECT date, isp, category, severity, n, whole FROM
                (SELECT date, isp, category, severity, sum(recipients) AS n FROM {{db}}.labels WHERE {failures} AND event != 'complaint' GROUP BY ALL) AS one
                JOIN (SELECT date, isp, sum(recipients) AS whole FROM {{db}}.labels WHERE {failures} AND event != 'complaint' GROUP BY ALL) AS all
                USING (date, isp)"
        ),
    )?;
    same(
        pipeline,
        "bounce_report",
        &format!(
            "SELECT date, campaign, identity, sending_ip, isp, {DOMAIN}, event_type, severity, category, sum(amount)
            FROM {{db}}.bounce_report GROUP BY ALL"
        ),
        "SELECT date, campaign, identity, sending_ip, isp, recipient_domain, event, severity, category, sum(recipients) FROM {db}.labels
        WHERE event IN ('bounce', 'oob_bounce') GROUP BY ALL",
    )?;
    same(
        pipeline,
        "failure_details",
        &format!(
            "SELECT event_time, event_type, severity, isp, identity, sending_ip, campaign, {DOMAIN}, attempt, count()
            FROM {{db}}.failure_details GROUP BY ALL"
        ),
        &format!(
            "SELECT time, event, severity, isp, identity, sending_ip, campaign, recipient_domain, attempt, sum(recipients)
            FROM {{db}}.labels WHERE {failures} GROUP BY ALL"
        ),
    )?;
    weeks(pipeline)
}

fn weeks(pipeline: &Pipeline) -> Result<()> {
    let shown = [columns(OF_A_WEEK, ""), columns(OF_A_WEEK, "_last_week")].join(", ");
    let sums = [recount(OF_A_WEEK, "", "week"), recount(OF_A_WEEK, "_last_week", "NOT week")].join(", ");
    let points = "round(hard_rate_points, 9), round(complaint_rate_points, 9)";
    for (view, key, condition) in [
        ("isp_profiles_this_week", "isp", "isp != 'local'"),
        ("identity_profiles_this_week", "identity", "1"),
        ("isp_identity_matrix_this_week", "isp, identity", "1"),
        ("ip_profiles_this_week", "sending_ip, isp", "1"),
        ("campaign_kpis_this_week", "identity, campaign", "1"),
    ] {
        same(
            pipeline,
            view,
            &format!("SELECT {key}, {shown}, {points} FROM {{db}}.{view}"),
            &format!(
                "SELECT *, round(100 * (hard / nullIf(outcomes, 0) - hard_last_week / nullIf(outcomes_last_week, 0)), 9),
                    round(100 * (complaints / nullIf(deliveries, 0) - complaints_last_week / nullIf(deliveries_last_week, 0)), 9)
                FROM (SELECT {key}, {sums} FROM {{db}}.labels WHERE {condition} GROUP BY {key})"
            ),
        )?;
    }
    for (view, n, whole, key, of, category) in [
        (
            "failure_breakdown_this_week",
            "failures",
            "failures_of_group",
            "isp, identity, event, severity, category",
            "isp, identity",
            "event IN ('deferral', 'bounce', 'oob_bounce', 'complaint')",
        ),
        (
            "smtp_patterns_this_week",
            "count",
            "replies_of_isp",
            "isp, severity, category",
            "isp",
            "event IN ('deferral', 'bounce', 'oob_bounce')",
        ),
    ] {
        let shown = key.replace("event", "event_type");
        same(
            pipeline,
            view,
            &format!(
                "SELECT {shown}, sum({n}), sum({n}_last_week), any({whole}), any({whole}_last_week), round(sum(share), 9)
                FROM {{db}}.{view} GROUP BY ALL"
            ),
            &format!(
                "SELECT {key}, this, last, whole, whole_last, round(this / nullIf(whole, 0), 9) FROM
                    (SELECT {key}, sumIf(recipients, week) AS this, sumIf(recipients, NOT week) AS last FROM
                        (SELECT * REPLACE (if(event = 'complaint', 'complaint', category) AS category) FROM {{db}}.labels WHERE {category})
                    GROUP BY {key}) AS one
                    JOIN (SELECT {of}, sumIf(recipients, week) AS whole, sumIf(recipients, NOT week) AS whole_last FROM {{db}}.labels
                        WHERE {category} GROUP BY {of}) AS all USING ({of})"
            ),
        )?;
    }
    Ok(())
}

/// The same rows on both sides, and some.
fn same(pipeline: &Pipeline, what: &str, shown: &str, counted: &str) -> Result<()> {
    let texts = |sql: &str| format!("SELECT toString(tuple(*)) AS line FROM ({sql})");
    let (shown, counted) = (texts(shown), texts(counted));
    let rows = pipeline.count(&format!("SELECT count() FROM ({shown})"))?;
    let others = pipeline.value(&format!(
        "SELECT 'shown, not counted: ' || line FROM ({shown} EXCEPT {counted}) UNION ALL
        SELECT 'counted, not shown: ' || line FROM ({counted} EXCEPT {shown}) LIMIT 10"
    ))?;
    ensure!(others.is_empty(), "{what} is not what the labels say:\n{others}");
    let labels = pipeline.count(&format!("SELECT count() FROM ({counted})"))?;
    ensure!(rows > 0 && rows == labels, "{what}: {rows} rows, {labels} expected");
    println!("{what}: {rows} rows");
    Ok(())
}
