//! Reports: every question is understood by the server, a day's report says what the views say of that day, a longer one sums before
//! it divides, names of any letters find their rows, and misspelt ones are found out.

use bounceflow_event::{Failure, RateRow};
use bounceflow_warehouse::report::{Filters, Kind, Period, Report, Request, Section, Sender, UnknownName, Value};
use bounceflow_warehouse::{Answer, BlockBuilder, LogPosition, Table};

use crate::support::{DAY, Db, NOON, alert, alerts, batch, batches, failure, rate_row};

/// 2026-03-10 is the day of [`NOON`].
const TODAY: &str = "2026-03-10";
const NASTY: &str = "=HYPERLINK(\"http://x/\",'y')\t\\N\r\n<script>|`,;{from:Date} é";

const CAPPED: &str = "beyond the cap";

async fn filled(name: &str) -> Db<'static> {
    let db = Db::new(name).await;
    let bucket = rate_row().bucket;
    let rows = vec![
        rate_row(),
        RateRow { isp: "yahoo", deliveries: 900, hard: 30, complaints: 3, ..rate_row() },
        RateRow { isp: "local", identity: "other.example", soft: 2, bucket, ..RateRow::default() },
        RateRow { campaign: NASTY, identity: NASTY, deliveries: 8, bucket, ..RateRow::default() },
        RateRow { bucket: bucket - DAY / 1000, deliveries: 10, hard: 40, ..rate_row() },
        RateRow { bucket: bucket - 2 * DAY / 1000, deliveries: 100, hard: 1, ..rate_row() },
    ];
    assert_eq!(db.warehouse.insert(&batches(0, &[batch(0, 9, rows)]), "b").await, Answer::Written);
    let mut block = BlockBuilder::new(Table::Failures);
    let kinds = [
        failure(),
        Failure { attempt: 3, sending_ip: "::ffff:192.0.2.1", ..failure() },
        Failure { event_type: "complaint", severity: "", category: "", root_cause: "", pattern: 0, ..failure() },
        Failure { campaign: NASTY, identity: NASTY, diagnostic: NASTY, category: "unknown", pattern: 9, ..failure() },
        Failure { event_time: NOON - DAY, category: "mailbox_full", severity: "soft", pattern: 8, ..failure() },
        // Of a campaign that is counted as `other`.
        Failure { attempt: 2, campaign: CAPPED, ..failure() },
    ];
    for (offset, failure) in (0..).zip(&kinds) {
        block.push_failure(failure, LogPosition { topic: "f", partition: 0, offset });
    }
    assert_eq!(db.warehouse.insert(&block.finish(), "f").await, Answer::Written);
    let transitions = [alert("a1", "firing", 60, 300), alert("a1", "resolved", 660, 20)];
    assert_eq!(db.warehouse.insert(&alerts(0, "0", &transitions), "a").await, Answer::Written);
    db
}

fn request(report: Report, from: &str, to: &str) -> Request {
    let period = Period::new(from.parse().unwrap(), to.parse().unwrap()).unwrap();
    let filters = Filters::default();
    Request { report, period, filters, sender: Sender::FromDomain, fallback_rules: "fallback.".to_owned() }
}

async fn rows(db: &Db<'_>, request: &Request, section: &Section) -> Vec<Vec<Value>> {
    let mut rows = db.warehouse.report(request, section).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().await.unwrap_or_else(|e| panic!("{:?}, {}: {e}", request.report, section.name)) {
        assert_eq!(row.len(), section.columns.len());
        all.push(row.to_vec());
    }
    all
}

/// Each row as `column=value …` of these columns.
fn told(section: &Section, rows: &[Vec<Value>], columns: &[&str]) -> Vec<String> {
    let told = |row: &Vec<Value>| {
        let cells = columns.iter().map(|name| match &row[section.column(name).unwrap()] {
            Value::Null => format!("{name}=-"),
            Value::Text(text) => format!("{name}={text}"),
            Value::Count(n) => format!("{name}={n}"),
            Value::Number(n) => format!("{name}={n:.4}"),
        });
        cells.collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(told).collect()
}

fn text(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn every_section_of_every_report_is_answered() {
    let db = filled("reports_all").await;
    for report in Report::ALL {
        for sender in [Sender::FromDomain, Sender::SendingIp] {
            let mut request = Request { sender, ..request(report, TODAY, TODAY) };
            for section in request.sections() {
                let found = rows(&db, &request, &section).await;
                assert!(!found.is_empty(), "{report:?}: {} has no rows", section.name);
                let chart = section.chart.iter().flat_map(|chart| chart.series.iter().chain([&chart.label]));
                chart.for_each(|name| assert!(section.column(name).is_some(), "{report:?}: no column {name}"));
                let names: std::collections::BTreeSet<_> = section.columns.iter().map(|column| column.name).collect();
                assert_eq!(names.len(), section.columns.len(), "{report:?}: a column twice");
            }
            request.filters =
                Filters { isps: text(&["gmail"]), identities: text(&["news.example"]), campaigns: text(&["spring"]) };
            if !report.takes().campaign {
                request.filters.campaigns.clear();
            }
            for section in request.sections() {
                rows(&db, &request, &section).await;
            }
            // A day of which nothing is known.
            let empty = Request { sender, ..self::request(report, "2020-02-01", "2020-02-29") };
            for section in empty.sections() {
                assert!(rows(&db, &empty, &section).await.is_empty(), "{report:?}: {}", section.name);
            }
        }
    }
}

#[tokio::test]
async fn a_report_of_a_day_says_what_the_views_say_of_it() {
    let db = filled("reports_day").await;
    let measures = "outcomes, bounces, bounce_rate, hard_rate, soft_rate, blocked_rate, attempts, deferred_rate, complaints, complaint_rate,
        top_bounce_category, top_bounces, deliveries, failures, failure_rate, late_bounces, late_bounce_rate, first_attempts, drops";
    for (report, view, columns) in [
        (Report::IspProfiles, "isp_profiles", "isp, status, share_of_outcomes, outcomes_of_day AS outcomes_of_all"),
        (Report::IdentityProfiles, "identity_profiles", "identity, risk, top_isp, top_isp_failures"),
        (Report::CampaignKpis, "campaign_kpis", "identity, campaign, status, hard_rate_guide, hard_after_deferral"),
        (Report::IpProfiles, "ip_profiles", "sending_ip, isp, status"),
        (Report::IspIdentityMatrix, "isp_identity_matrix", "identity, isp, status"),
        (
            Report::SmtpPatterns,
            "smtp_patterns",
            "isp, pattern, category, severity, root_cause, action, rule, count, replies_of_isp, share, sample",
        ),
    ] {
        let request = request(report, TODAY, TODAY);
        let section = request.sections().remove(0);
        let more = if report == Report::SmtpPatterns { String::new() } else { format!(", {measures}") };
        let asked = format!("{columns}{more}");
        let names: Vec<&str> = asked.split(',').map(|name| name.trim().rsplit(' ').next().unwrap()).collect();
        let mut told = told(&section, &rows(&db, &request, &section).await, &names);
        let cell = |name: &&str| {
            let float = section.columns.iter().any(|column| column.name == *name && matches!(column.kind, Kind::Rate));
            let shown = if float { format!("printf('%.4f', {name})") } else { format!("toString({name})") };
            format!("'{name}=' || ifNull({shown}, '-')")
        };
        let line = names.iter().map(cell).collect::<Vec<_>>().join(" || ' ' || ");
        let sql = format!("SELECT {line} FROM (SELECT {asked} FROM DB.{view} WHERE date = '{TODAY}') FORMAT JSONCompactEachRow");
        let mut viewed: Vec<String> =
            db.query(&sql).lines().map(|line| serde_json::from_str::<Vec<String>>(line).unwrap().remove(0)).collect();
        told.sort();
        viewed.sort();
        assert_eq!(told, viewed, "{view}");
        assert!(report != Report::CampaignKpis || told.iter().any(|row| row.contains(CAPPED)), "{told:#?}");
    }
}

#[tokio::test]
async fn a_longer_period_sums_before_it_divides() {
    let db = filled("reports_sums").await;
    let request = Request {
        filters: Filters { isps: text(&["gmail"]), ..Filters::default() },
        ..request(Report::IspProfiles, "2026-03-08", TODAY)
    };
    let section = request.sections().remove(0);
    let found = rows(&db, &request, &section).await;
    // 90 + 10 + 100 deliveries; 4 + 40 + 1 hard, 3 soft on each of three days: not the mean of the rates of the days.
    let told = told(
        &section,
        &found,
        &["isp", "outcomes", "bounces", "bounce_rate", "outcomes_of_all", "outcomes_before", "bounce_rate_points"],
    );
    assert_eq!(
        told,
        ["isp=gmail outcomes=254 bounces=54 bounce_rate=0.2126 outcomes_of_all=1195 outcomes_before=0 bounce_rate_points=-"]
    );
    // Today beside yesterday, in points.
    let request = Request {
        filters: Filters { campaigns: text(&["spring"]), isps: text(&["gmail"]), ..Filters::default() },
        ..self::request(Report::IspProfiles, TODAY, TODAY)
    };
    let found = rows(&db, &request, &section).await;
    let told =
        self::told(&section, &found, &["outcomes", "outcomes_before", "bounce_rate", "bounce_rate_before", "bounce_rate_points"]);
    assert_eq!(told, ["outcomes=97 outcomes_before=53 bounce_rate=0.0722 bounce_rate_before=0.8113 bounce_rate_points=-73.9156"]);
}

#[tokio::test]
async fn the_month_tells_kpis_days_and_changes() {
    let db = filled("reports_month").await;
    let request = request(Report::Monthly, TODAY, TODAY);
    let sections = request.sections();
    let names: Vec<_> = sections.iter().map(|section| section.name).collect();
    assert_eq!(names, ["kpis", "days", "isps", "identities", "campaigns", "patterns", "changes"]);
    let kpis = told(
        &sections[0],
        &rows(&db, &request, &sections[0]).await,
        &["kpi", "amount", "of", "rate", "amount_before", "rate_points"],
    );
    assert_eq!(kpis[0], "kpi=Attempts amount=1046 of=- rate=- amount_before=56 rate_points=-", "{kpis:#?}");
    assert_eq!(kpis[3], "kpi=Hard bounces amount=34 of=1040 rate=0.0327 amount_before=40 rate_points=-72.2025", "{kpis:#?}");
    let changes = told(&sections[6], &rows(&db, &request, &sections[6]).await, &["subject", "name", "more_failures", "failures"]);
    assert!(changes[0].starts_with("subject=campaign name=spring more_failures=-"), "{changes:#?}");
}

#[tokio::test]
async fn a_name_of_any_letters_finds_its_rows() {
    let db = filled("reports_names").await;
    for report in [Report::CampaignKpis, Report::BounceReport, Report::SmtpPatterns, Report::Unmatched] {
        let filters = Filters { campaigns: text(&[NASTY, "a'b"]), identities: text(&[NASTY]), ..Filters::default() };
        let request = Request { filters, ..request(report, TODAY, TODAY) };
        let section = request.sections().remove(0);
        let found = rows(&db, &request, &section).await;
        assert_eq!(found.len(), 1, "{report:?}");
        assert!(found[0].contains(&Value::Text(NASTY.to_owned())), "{report:?}: {found:?}");
    }
}

#[tokio::test]
async fn unknown_names_are_told_with_their_neighbours() {
    let db = filled("reports_unknown").await;
    let isps = text(&["gmail", "outlook"]);
    let all = Filters { isps: text(&["gmail", "outlook"]), identities: text(&[NASTY]), campaigns: text(&["spring"]) };
    let today = request(Report::Monthly, TODAY, TODAY).period;
    assert_eq!(db.warehouse.unknown_names(&all, today, &isps).await.unwrap(), []);
    let wrong = Filters { isps: text(&["gmial", "Outlok"]), identities: text(&["news"]), campaigns: text(&["it's"]) };
    let unknown = |what, name: &str, near: &[&str]| UnknownName { what, name: name.to_owned(), near: text(near) };
    assert_eq!(
        db.warehouse.unknown_names(&wrong, today, &isps).await.unwrap(),
        [
            unknown("isp", "gmial", &["gmail"]),
            unknown("isp", "Outlok", &["outlook"]),
            unknown("identity", "news", &["news.example"]),
            unknown("campaign", "it's", &[])
        ]
    );
    // What failures alone name is known where they are of the period; what the roll-up names, on every day.
    let capped = Filters { campaigns: text(&["spring", CAPPED]), ..Filters::default() };
    assert_eq!(db.warehouse.unknown_names(&capped, today, &isps).await.unwrap(), []);
    let earlier = request(Report::Monthly, "2026-02-01", "2026-02-28").period;
    assert_eq!(db.warehouse.unknown_names(&capped, earlier, &isps).await.unwrap(), [unknown("campaign", CAPPED, &[])]);
}

#[tokio::test]
async fn changes_of_billions_are_told_as_they_are() {
    let db = Db::new("reports_billions").await;
    let bucket = rate_row().bucket;
    let row = || RateRow { isp: "gmail", identity: "news.example", campaign: "spring", bucket, ..RateRow::default() };
    let rows = vec![
        RateRow { deliveries: 4_000_000_000, hard: 1_000_000_000, ..row() },
        RateRow { hard: 5_000_000_000, bucket: bucket - DAY / 1000, ..row() },
    ];
    assert_eq!(db.warehouse.insert(&batches(0, &[batch(0, 9, rows)]), "b").await, Answer::Written);
    let request = request(Report::Monthly, TODAY, TODAY);
    let section = request.sections().pop().unwrap();
    let changes = told(&section, &self::rows(&db, &request, &section).await, &["subject", "more_failures"]);
    assert_eq!(changes.len(), 3, "{changes:#?}");
    assert!(changes.iter().all(|row| row.ends_with(" more_failures=-4000000000.0000")), "{changes:#?}");
}
