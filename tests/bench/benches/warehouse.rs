//! The views on a large warehouse: 100 million rows of minutes and 20 million failures of thirty days, made inside ClickHouse, through the real
//! tables and the views that feed the roll-ups. Then every view over the last seven days, by the largest ISP and by the largest identity:
//! the worst of each. Settings: SIZE (1 is all of it), BENCH_ROUNDS.
//!
//! ISPs, identities, addresses and replies are drawn with a skew: the first of each is the most frequent by far.
#![allow(clippy::print_stdout, reason = "a benchmark reports to its terminal")]

use std::time::Instant;

use anyhow::{Context as _, Result};
use bounceflow_bench::{median, write_figures};
use bounceflow_stack::{ClickHouse, ClickHouseOptions};
use bounceflow_warehouse::{Retention, Settings, Warehouse};

const RATES: f64 = 100e6;
const FAILURES: f64 = 20e6;
const DAYS: u64 = 30;
const DATABASE: &str = "bench";
const ISP: &str = "isp = 'gmail'";
const IDENTITY: &str = "identity = 'sender-0.example'";
const ALERT: &str = "isp = 'gmail' AND identity != ''";

/// The views, each with its filter. What shows single rows is asked for the newest thousand, as a table on a page is.
const ASKED: [(&str, &str, &str); 28] = [
    ("isp_profiles", "isp", ISP),
    ("identity_profiles", "identity", IDENTITY),
    ("isp_identity_matrix", "isp", ISP),
    ("isp_identity_matrix", "identity", IDENTITY),
    ("ip_profiles", "isp", ISP),
    ("campaign_kpis", "identity", IDENTITY),
    ("rates_by_hour", "isp", ISP),
    ("rates_by_hour", "identity", IDENTITY),
    ("failure_breakdown", "isp", ISP),
    ("failure_breakdown", "identity", IDENTITY),
    ("smtp_patterns", "isp", ISP),
    ("bounce_report", "isp", ISP),
    ("bounce_report", "identity", IDENTITY),
    ("failure_details", "isp", ISP),
    ("failure_details", "identity", IDENTITY),
    ("alert_history", "isp", ALERT),
    ("alert_transitions", "isp", ALERT),
    ("isp_profiles_this_week", "isp", ISP),
    ("identity_profiles_this_week", "identity", IDENTITY),
    ("isp_identity_matrix_this_week", "isp", ISP),
    ("isp_identity_matrix_this_week", "identity", IDENTITY),
    ("ip_profiles_this_week", "isp", ISP),
    ("campaign_kpis_this_week", "identity", IDENTITY),
    ("failure_breakdown_this_week", "isp", ISP),
    ("failure_breakdown_this_week", "identity", IDENTITY),
    ("smtp_patterns_this_week", "isp", ISP),
    ("thresholds", "all", "1"),
    ("reporting_day", "all", "1"),
];

/// Numbers 0..1 that are the same every time, and indices that favour the small ones.
const DRAWN: &str = "
    sipHash64(number, 'isp') / 18446744073709551616 AS u_isp,
    sipHash64(number, 'identity') / 18446744073709551616 AS u_identity,
    sipHash64(number, 'rest') AS rest,
    toUInt32(floor(40 * pow(u_isp, 2.5))) AS i,
    concat('sender-', toString(toUInt32(floor(300 * pow(u_identity, 2)))), '.example') AS identity,
    ['gmail', 'outlook', 'yahoo', 'office365', 'google_workspace', 'apple', 'gmx', 'webde', 'aol', 'comcast'][i + 1] AS known,
    toLowCardinality(if(known != '', known, concat('isp-', toString(i)))) AS isp,
    concat('198.51.', toString(sipHash64(identity) % 100), '.', toString(rest % 4 + 1)) AS ip,
    concat('campaign-', toString(intDiv(rest, 64) % 6)) AS campaign";

fn main() -> Result<()> {
    let setting = |name: &str, default: f64| std::env::var(name).ok().and_then(|v| v.parse::<f64>().ok()).unwrap_or(default);
    let (size, rounds) = (setting("SIZE", 1.0), setting("BENCH_ROUNDS", 5.0) as usize);
    let server = ClickHouse::start_own(ClickHouseOptions::default().query_setting("max_threads", 2))?;
    let settings = Settings {
        url: server.url().to_owned(),
        database: DATABASE.to_owned(),
        retention: Retention::UNBOUNDED,
        ..Settings::default()
    };
    tokio::runtime::Runtime::new()?.block_on(Warehouse::new(settings)?.migrate(&mut |_| {}))?;

    let begun = Instant::now();
    fill(&server, size)?;
    let fill_s = begun.elapsed().as_secs_f64();
    let bytes = |table: &str| -> Result<(f64, f64)> {
        let sql = format!(
            "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database = '{DATABASE}' AND table = '{table}'"
        );
        let answer = server.query(&sql)?;
        let (rows, bytes) = answer.trim().split_once('\t').context("no parts")?;
        Ok((rows.parse()?, bytes.parse()?))
    };
    let ((rates, rates_bytes), (failures, failures_bytes)) = (bytes("delivery_rates")?, bytes("failures")?);
    println!("{rates} rates ({rates_bytes} bytes) and {failures} failures ({failures_bytes} bytes), filled in {fill_s:.0} s");

    let mut figures: Vec<(String, f64)> = vec![
        ("size".to_owned(), size),
        ("rates".to_owned(), rates),
        ("failures".to_owned(), failures),
        ("bytes_per_rate".to_owned(), rates_bytes / rates),
        ("bytes_per_failure".to_owned(), failures_bytes / failures),
        ("fill_s".to_owned(), fill_s),
    ];
    let mut slowest = 0.0_f64;
    println!("{:<32} {:<9} {:>9} {:>10}", "view", "by", "rows", "median ms");
    for (view, by, filter) in ASKED {
        let (rows, ms) = ask(&server, view, filter, rounds)?;
        println!("{view:<32} {by:<9} {rows:>9} {ms:>10.1}");
        slowest = slowest.max(ms);
        figures.push((format!("{view}_by_{by}_ms"), ms));
    }
    println!("slowest: {slowest:.1} ms");
    figures.push(("slowest_view_ms".to_owned(), slowest));
    let figures: Vec<(&str, f64)> = figures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    write_figures("warehouse", &figures)
}

/// Rows of an answer, and the median of how long it took.
fn ask(server: &ClickHouse, view: &str, filter: &str, rounds: usize) -> Result<(u64, f64)> {
    let dated = !view.ends_with("_this_week") && !["thresholds", "reporting_day"].contains(&view);
    let date = if dated { format!(" AND date > (SELECT today - 7 FROM {DATABASE}.reporting_day)") } else { String::new() };
    let newest = if view == "failure_details" { " ORDER BY event_time DESC LIMIT 1000" } else { "" };
    let select = format!("SELECT * FROM {DATABASE}.{view} WHERE {filter}{date}{newest}");
    let rows = server.query(&format!("SELECT count() FROM ({select})"))?.trim().parse()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        server.query(&format!("{select} FORMAT Null"))?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok((rows, median(&times)))
}

/// A day at a time, as mail comes; then merged, as it is after some hours.
fn fill(server: &ClickHouse, size: f64) -> Result<()> {
    server.query(&format!("CREATE OR REPLACE VIEW {DATABASE}.reporting_day AS SELECT toDate('2026-03-30') AS today"))?;
    let (rates, failures) = ((size * RATES) as u64 / DAYS, (size * FAILURES) as u64 / DAYS);
    for day in 0..DAYS {
        let midnight = format!("(toDateTime('2026-03-01 00:00:00', 'UTC') + 86400 * {day})");
        server.query(&rates_of(&midnight, day * rates, rates))?;
        server.query(&failures_of(&midnight, day * failures, failures))?;
        println!("day {} of {DAYS}: {} rates, {} failures", day + 1, (day + 1) * rates, (day + 1) * failures);
    }
    server.query(ALERTS)?;
    for table in ["delivery_rates", "hourly_rates", "daily_rates", "daily_rates_by_identity", "failures", "alerts"] {
        let begun = Instant::now();
        server.query_within(std::time::Duration::from_secs(7200), &format!("OPTIMIZE TABLE {DATABASE}.{table} FINAL"))?;
        println!("merged {table} in {:.0} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Most rows are of a busy minute's few mails; every tenth has a bounce, every twentieth a deferral.
fn rates_of(midnight: &str, first: u64, rows: u64) -> String {
    format!(
        "INSERT INTO {DATABASE}.delivery_rates
        SELECT {midnight} + 60 * (intDiv(rest, 4096) % 1440) AS minute, isp, identity, ip, campaign,
            1 + toUInt64(20 * pow(1 - u_isp, 3)) AS deliveries, deliveries, rest % 10 = 0, rest % 17 = 0, rest % 20 = 0,
            rest % 51 = 0, rest % 100 = 0, rest % 1000 = 0, rest % 700 = 0, rest % 500 = 0,
            if(rest % 10 = 0 OR rest % 17 = 0, map(['invalid_recipient', 'mailbox_full', 'reputation'][rest % 3 + 1], toUInt64(rest % 10 = 0) + (rest % 17 = 0)), map()),
            if(rest % 20 = 0, map('rate_limited', toUInt64(1)), map()), if(rest % 700 = 0, map('mailbox_full', toUInt64(1)), map())
        FROM (SELECT {DRAWN} FROM numbers({first}, {rows}))
        SETTINGS max_insert_threads = 1, max_partitions_per_insert_block = 0"
    )
}

/// Fifty kinds of replies at each ISP, with parts that vary from one to the next.
fn failures_of(midnight: &str, first: u64, rows: u64) -> String {
    format!(
        "INSERT INTO {DATABASE}.failures
        SELECT toDateTime64({midnight}, 3, 'UTC') + (intDiv(rest, 4096) % 86400000) / 1000 AS event_time, event_time - 5, event_time + 2,
            ['bounce', 'bounce', 'deferral', 'bounce', 'oob_bounce', 'deferral'][kind % 6 + 1] AS event_type,
            if(event_type = 'deferral', 'deferred', if(kind % 2 = 0, 'hard', 'soft')) AS severity,
            ['invalid_recipient', 'mailbox_full', 'rate_limited', 'reputation', 'spam_content', 'policy', 'dns'][kind % 7 + 1] AS category,
            category IN ('reputation', 'spam_content', 'policy'),
            ['list', 'mailbox', 'throttling', 'reputation', 'content', 'reputation', 'infrastructure'][kind % 7 + 1],
            ['remove_recipient', 'retry_later', 'reduce_velocity', 'request_delisting', 'review_content', 'request_delisting', 'fix_infrastructure'][kind % 7 + 1],
            concat('rule.', toString(kind)), '1', sipHash64(isp, kind), 1, isp, identity,
            if(i < 3, concat(isp, '.com'), concat('domain-', toString(intDiv(rest, 512) % 2000), '.example')) AS domain,
            sipHash128(rest % 100000000), 'k1', '', concat('mx', toString(rest % 8), '.', domain), identity, ip, concat('pool-', toString(rest % 5)), campaign,
            hex(sipHash64(number, 'message')), hex(sipHash128(number, 'event')), if(event_type = 'deferral', 451, 550),
            concat(if(event_type = 'deferral', '4', '5'), '.7.', toString(kind)),
            concat(if(event_type = 'deferral', '451 4.7.', '550 5.7.'), toString(kind), ' The message of kind ', toString(kind), ' from [', ip,
                '] was not accepted by our policy at this time, see https://postmaster.', isp, '.example/', toString(kind), ' (', lower(hex(sipHash64(number))), ')'),
            'DATA', '', 1 + rest % 4, map('region', ['eu', 'us', 'asia'][rest % 3 + 1]),
            'delivery.events', rest % 12, number, 0, 'bounceflow.failures', rest % 6, number
        FROM (SELECT number, toUInt32(floor(50 * pow(sipHash64(number, 'kind') / 18446744073709551616, 2))) AS kind, {DRAWN} FROM numbers({first}, {rows}))
        SETTINGS max_insert_threads = 1, max_partitions_per_insert_block = 0"
    )
}

/// Five thousand alerts, which is many, each fired and resolved.
const ALERTS: &str = "
    INSERT INTO bench.alerts
    SELECT concat('a', toString(intDiv(number, 2))), 'blocked', ['firing', 'resolved'][number % 2 + 1], 'critical',
        ['gmail', 'outlook', 'yahoo'][intDiv(number, 2) % 3 + 1], concat('sender-', toString(intDiv(number, 2) % 300), '.example'),
        toDateTime64('2026-03-01 00:00:00', 3, 'UTC') + intDiv(number, 2) * 500, episode_start + 600 * (1 + number % 2), 'blocked_rate', 900, 0.2,
        250, 1000, map('reputation', 250), 7, 'microsoft.ip_listed', '550 5.7.1 blocked', 'reputation', 'request_delisting', map('summary', 'blocked'),
        '0', event_time, 'bounceflow.alerts', 0, number
    FROM (SELECT number, toDateTime64('2026-03-01 00:00:00', 3, 'UTC') + intDiv(number, 2) * 500 AS episode_start,
        episode_start + 600 * (1 + number % 2) AS event_time FROM numbers(10000))";
