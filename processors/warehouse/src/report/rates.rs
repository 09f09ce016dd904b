//! Sections of counted mail, made of the roll-ups by day: one row per provider, sender, campaign, address or pair.
//!
//! A period stands beside the one before it; rates, levels and top categories are found as the views find them (a test compares).

use super::columns::{Chart, Column, Form, Kind};
use super::{Filters, Request, Section};
use crate::counts::COUNTS;

/// The roll-up that knows campaigns, and so can be narrowed down by every filter.
pub(super) const BY_IDENTITY: &str = "daily_rates_by_identity";
/// The roll-up that knows sending IPs.
const BY_ISP: &str = "daily_rates";

const STATUS: Column = Column::main("status", Kind::Text).of("['Healthy', 'Watch', 'Critical'][level]");
const RISK: Column = Column::main("risk", Kind::Text).of("['Low', 'Watch', 'High'][level]");

/// Every count, and every rate beside what it is made of.
const MEASURES: [Column; 33] = [
    Column::main("outcomes", Kind::Count).of("deliveries + hard + soft"),
    Column::main("bounces", Kind::Count).of("hard + soft"),
    Column::main("bounce_rate", Kind::Rate).of("bounces / nullIf(outcomes, 0)"),
    Column::main("bounce_rate_points", Kind::Points).of("100 * (bounce_rate - bounce_rate_before)"),
    Column::main("hard", Kind::Count),
    Column::main("hard_rate", Kind::Rate).of("hard / nullIf(outcomes, 0)"),
    Column::main("attempts", Kind::Count).of("outcomes + deferred"),
    Column::main("deferred", Kind::Count),
    Column::main("deferred_rate", Kind::Rate).of("deferred / nullIf(attempts, 0)"),
    Column::main("deferred_rate_points", Kind::Points).of("100 * (deferred_rate - deferred_rate_before)"),
    Column::main("complaints", Kind::Count),
    Column::main("complaint_rate", Kind::Rate).of("complaints / nullIf(deliveries, 0)"),
    Column::main("top_bounce_category", Kind::Text)
        .of("arraySort((category, n) -> (-toInt64(n), category), mapKeys(bounce_categories), mapValues(bounce_categories))[1]"),
    Column::further("blocked", Kind::Count),
    Column::further("blocked_rate", Kind::Rate).of("blocked / nullIf(outcomes, 0)"),
    Column::further("top_bounces", Kind::Count).of("bounce_categories[top_bounce_category]"),
    Column::further("deliveries", Kind::Count),
    Column::further("soft", Kind::Count),
    Column::further("soft_rate", Kind::Rate).of("soft / nullIf(outcomes, 0)"),
    Column::further("failures", Kind::Count).of("bounces + deferred"),
    Column::further("failure_rate", Kind::Rate).of("failures / nullIf(attempts, 0)"),
    Column::further("late_bounces", Kind::Count),
    Column::further("late_bounce_rate", Kind::Rate).of("late_bounces / nullIf(deliveries, 0)"),
    Column::further("first_attempts", Kind::Count),
    Column::further("blocked_deferrals", Kind::Count),
    Column::further("drops", Kind::Count),
    Column::further("outcomes_before", Kind::Count).of("deliveries_before + hard_before + soft_before"),
    Column::further("bounces_before", Kind::Count).of("hard_before + soft_before"),
    Column::further("bounce_rate_before", Kind::Rate).of("bounces_before / nullIf(outcomes_before, 0)"),
    Column::further("hard_before", Kind::Count),
    Column::further("attempts_before", Kind::Count).of("outcomes_before + deferred_before"),
    Column::further("deferred_before", Kind::Count),
    Column::further("deferred_rate_before", Kind::Rate).of("deferred_before / nullIf(attempts_before, 0)"),
];

/// The sums of both periods by `keys`, of the days in {before} to {to}.
pub(super) fn sums(table: &str, keys: &str, condition: &str) -> String {
    let sum = |count: &str| format!("sumIf(r.{count}, now) AS {count}, sumIf(r.{count}, NOT now) AS {count}_before");
    let counts: Vec<_> = COUNTS.into_iter().map(sum).collect();
    format!(
        "SELECT {keys}, countIf(now) > 0 AS of_period, {}, sumMapIf(r.bounce_categories, now) AS bounce_categories
    FROM (SELECT *, date >= {{from:Date}} AS now FROM {table} WHERE date BETWEEN {{before:Date}} AND {{to:Date}}{condition}) AS r
    GROUP BY {keys}",
        counts.join(", ")
    )
}

/// Sums of what [`sums`] gives, by fewer keys.
fn sums_again(keys: &str, more: &str, from: &str) -> String {
    let sum = |count: &str| format!("sum(s.{count}) AS {count}, sum(s.{count}_before) AS {count}_before");
    let counts: Vec<_> = COUNTS.into_iter().map(sum).collect();
    format!(
        "SELECT {keys}, max(s.of_period) AS of_period, {}, sumMap(s.bounce_categories) AS bounce_categories, {more}
    FROM ({from}) AS s GROUP BY {keys}",
        counts.join(", ")
    )
}

/// How a level is found: the worst metric decides, and one whose denominator is too small says nothing.
fn level(subject: &str) -> String {
    format!(
        "WITH (SELECT mapFromArrays(groupArray(toString(metric)), groupArray((watch, critical, least)))
        FROM thresholds FINAL WHERE subject = '{subject}') AS limits,
    1 + arrayMax(
        (metric, n, of) -> multiIf(
            NOT mapContains(limits, metric) OR of < greatest(limits[metric].3, 1), 0,
            n >= limits[metric].2 * of, 2,
            n >= limits[metric].1 * of, 1,
            0),
        ['bounce_rate', 'hard_rate', 'soft_rate', 'blocked_rate', 'deferred_rate', 'complaint_rate', 'late_bounce_rate'],
        [bounces, hard, soft, blocked, deferred, complaints, late_bounces],
        [outcomes, outcomes, outcomes, outcomes, attempts, deliveries, deliveries]) AS level"
    )
}

/// Those with the most attempts first; of two with as many, the first by name.
fn ordered(from: &str, keys: &str) -> String {
    format!("FROM ({from}) WHERE of_period ORDER BY outcomes + deferred DESC, {keys}")
}

fn columns(keys: &[&'static str], more: &[Column]) -> Vec<Column> {
    let keys = keys.iter().map(|key| Column::main(key, Kind::Text));
    keys.chain(more.iter().copied()).chain(MEASURES).collect()
}

const RATES: &[&str] = &["bounce_rate", "deferred_rate"];

const fn bars(title: &'static str, label: &'static str) -> Option<Chart> {
    Some(Chart { title, form: Form::Bars, label, series: RATES, rows: 10 })
}

const LOCAL: &str = "Local failures (nobody answered) are left out: identity-profiles has them.";

/// Every mailbox provider.
pub(super) fn isps(request: &Request) -> Section {
    let condition = request.filters.condition();
    // The share is of all providers, whichever are shown.
    let of_all = Filters { isps: Vec::new(), ..request.filters.clone() }.condition();
    let whole = format!(
        "(SELECT sum(r.deliveries) + sum(r.hard) + sum(r.soft) FROM {BY_IDENTITY} AS r
        WHERE date BETWEEN {{from:Date}} AND {{to:Date}} AND isp != 'local'{of_all}) AS whole"
    );
    let share = [
        STATUS,
        Column::main("share_of_outcomes", Kind::Rate).of("outcomes / nullIf(outcomes_of_all, 0)"),
        Column::further("outcomes_of_all", Kind::Count).of("whole"),
    ];
    Section {
        name: "isps",
        title: "ISPs".to_owned(),
        note: LOCAL.to_owned(),
        columns: columns(&["isp"], &share),
        chart: bars("Bounce and deferral rate of the largest ISPs", "isp"),
        with: format!("{}, {whole}", level("isp")),
        from: ordered(&sums(BY_IDENTITY, "isp", &format!(" AND isp != 'local'{condition}")), "isp"),
    }
}

/// Every sender.
pub(super) fn identities(request: &Request) -> Section {
    let by_isp = sums(BY_IDENTITY, "identity, isp", &request.filters.condition());
    // Of two with as many, the first by name.
    let worst =
        "argMin((s.hard + s.soft + s.deferred, toString(s.isp)), (-toInt64(s.hard + s.soft + s.deferred), s.isp)) AS most,
        if(most.1 = 0, (0, ''), most) AS worst";
    let more =
        [RISK, Column::main("top_isp", Kind::Text).of("worst.2"), Column::further("top_isp_failures", Kind::Count).of("worst.1")];
    Section {
        name: "identities",
        title: "Identities".to_owned(),
        note: "Local failures (nobody answered) are included. top_isp: where most of its bounces and deferrals are.".to_owned(),
        columns: columns(&["identity"], &more),
        chart: bars("Bounce and deferral rate of the largest identities", "identity"),
        with: level("identity"),
        from: ordered(&sums_again("identity", worst, &by_isp), "identity"),
    }
}

/// Every campaign.
pub(super) fn campaigns(request: &Request) -> Section {
    let condition = request.filters.condition();
    let counted = sums(BY_IDENTITY, "identity, campaign", &condition);
    let nothing: Vec<_> = COUNTS.into_iter().map(|count| format!("0 AS {count}, 0 AS {count}_before")).collect();
    // Side by side, not joined: campaigns beyond those counted apart have their names in failures alone.
    let both = format!(
        "SELECT *, 0 AS hard_after_deferral FROM ({counted})
        UNION ALL
        SELECT identity, campaign, 1 AS of_period, {}, map() AS bounce_categories, count() AS hard_after_deferral FROM failure_details
        WHERE date BETWEEN {{from:Date}} AND {{to:Date}} AND event_type = 'bounce' AND severity = 'hard' AND attempt > 1{condition}
        GROUP BY identity, campaign",
        nothing.join(", ")
    );
    let from = sums_again("identity, campaign", "sum(s.hard_after_deferral) AS hard_after_deferral", &both);
    let more = [
        STATUS,
        Column::main("within_guide", Kind::Text)
            .of("if(hard_rate_guide = 0 OR hard < hard_rate_guide * greatest(outcomes, 1), 'yes', 'no')"),
        Column::further("hard_rate_guide", Kind::Rate).of("limits['hard_rate'].1"),
        Column::further("hard_after_deferral", Kind::Count),
    ];
    Section {
        name: "campaigns",
        title: "Campaigns".to_owned(),
        note: "within_guide: the hard-bounce rate is below the guide of the table thresholds. Campaigns beyond those counted apart are \
               `other`, but for hard_after_deferral: failures have their names."
            .to_owned(),
        columns: columns(&["identity", "campaign"], &more),
        chart: Some(Chart {
            title: "Hard-bounce rate of the largest campaigns",
            form: Form::Bars,
            label: "campaign",
            series: &["hard_rate"],
            rows: 10,
        }),
        with: level("campaign"),
        from: ordered(&from, "identity, campaign"),
    }
}

/// Every sending IP at every ISP.
pub(super) fn ips(request: &Request) -> Section {
    Section {
        name: "ips",
        title: "Sending IPs".to_owned(),
        note: "An address is listed at one provider and welcome at the next. ISP local: nobody answered.".to_owned(),
        columns: columns(&["sending_ip", "isp"], &[STATUS]),
        chart: bars("Bounce and deferral rate of the busiest pairs of IP and ISP", "sending_ip"),
        with: level("ip"),
        from: ordered(&sums(BY_ISP, "sending_ip, isp", &request.filters.condition()), "sending_ip, isp"),
    }
}

/// Every sender at every ISP.
pub(super) fn matrix(request: &Request) -> Section {
    Section {
        name: "matrix",
        title: "ISPs and identities".to_owned(),
        note: "Every identity at every ISP. ISP local: nobody answered.".to_owned(),
        columns: columns(&["identity", "isp"], &[STATUS]),
        chart: bars("Bounce and deferral rate of the largest pairs", "identity"),
        with: level("isp"),
        from: ordered(&sums(BY_IDENTITY, "identity, isp", &request.filters.condition()), "identity, isp"),
    }
}
