//! Sections of failed mail, made of the views of `failures` and `alerts`. Each groups the items of the period itself, not the rows of
//! a view by day, so that every filter can be asked of it.

use super::columns::{Chart, Column, Form, Kind};
use super::{Request, Section, Sender};

/// The items of both periods, by a condition that ends the line.
fn items(columns: &str, condition: &str) -> String {
    format!(
        "(SELECT {columns}, date >= {{from:Date}} AS now FROM failure_details
        WHERE date BETWEEN {{before:Date}} AND {{to:Date}}{condition})"
    )
}

/// What failed.
pub(super) fn breakdown(request: &Request) -> Section {
    let items = items("event_type, severity, category, root_cause, isp, blocked", &request.filters.condition());
    let kinds = "event_type, severity, category, root_cause";
    Section {
        name: "failures",
        title: "Failures".to_owned(),
        note: "Every failed item: deferrals, bounces, late bounces (oob_bounce) and complaints, which have no severity."
            .to_owned(),
        columns: vec![
            Column::main("category", Kind::Text),
            Column::main("event_type", Kind::Text),
            Column::main("severity", Kind::Text),
            Column::main("root_cause", Kind::Text),
            Column::main("failures", Kind::Count),
            Column::main("share", Kind::Rate).of("failures / nullIf(failures_of_all, 0)"),
            Column::further("failures_of_all", Kind::Count).of("sum(failures) OVER ()"),
            Column::main("failures_before", Kind::Count),
            Column::further("failures_of_all_before", Kind::Count).of("sum(failures_before) OVER ()"),
            Column::further("share_before", Kind::Rate).of("failures_before / nullIf(failures_of_all_before, 0)"),
            Column::main("share_points", Kind::Points).of("100 * (share - share_before)"),
            Column::main("blocked", Kind::Count),
            Column::main("top_isp", Kind::Text).of("most.2"),
            Column::further("top_isp_failures", Kind::Count).of("most.1"),
        ],
        chart: Some(Chart {
            title: "The most frequent failures",
            form: Form::Bars,
            label: "category",
            series: &["failures"],
            rows: 10,
        }),
        with: String::new(),
        from: format!(
            "FROM (
        SELECT {kinds}, sum(n) AS failures, sum(n_before) AS failures_before, sum(n_blocked) AS blocked,
            argMin((n, toString(isp)), (-toInt64(n), isp)) AS most
        FROM (SELECT {kinds}, isp, countIf(now) AS n, countIf(NOT now) AS n_before, countIf(now AND i.blocked) AS n_blocked
            FROM {items} AS i GROUP BY {kinds}, isp)
        GROUP BY {kinds} HAVING failures > 0)
    ORDER BY failures DESC, {kinds}"
        ),
    }
}

/// The replies, by wording.
pub(super) fn patterns(request: &Request) -> Section {
    let kinds = "isp, pattern, pattern_version, category, severity, root_cause, action, rule";
    let items = items(&format!("{kinds}, event_time, diagnostic"), &format!(" AND pattern != ''{}", request.filters.condition()));
    Section {
        name: "patterns",
        title: "SMTP replies".to_owned(),
        note: "A pattern is a reply with its variable parts masked; share: of the failed replies of that ISP. \
               count_before 0: it is new. sample is empty once replies have expired."
            .to_owned(),
        columns: vec![
            Column::main("isp", Kind::Text),
            Column::main("category", Kind::Text),
            Column::main("severity", Kind::Text),
            Column::main("root_cause", Kind::Text),
            Column::main("action", Kind::Text),
            Column::main("count", Kind::Count).of("n"),
            Column::main("share", Kind::Rate).of("n / nullIf(replies_of_isp, 0)"),
            Column::further("replies_of_isp", Kind::Count),
            Column::main("count_before", Kind::Count).of("n_before"),
            Column::main("first_seen", Kind::Time),
            Column::main("last_seen", Kind::Time),
            Column::main("sample", Kind::Text),
            Column::main("pattern", Kind::Text),
            Column::further("pattern_version", Kind::Count),
            Column::further("rule", Kind::Text),
        ],
        chart: Some(Chart {
            title: "The most frequent replies, by what they mean",
            form: Form::Bars,
            label: "category",
            series: &["count"],
            rows: 10,
        }),
        with: String::new(),
        from: format!(
            "FROM (
        SELECT *, sum(n) OVER (PARTITION BY isp) AS replies_of_isp FROM (
            SELECT {kinds}, countIf(now) AS n, countIf(NOT now) AS n_before, minIf(event_time, now) AS first_seen,
                maxIf(event_time, now) AS last_seen, argMaxIf(diagnostic, event_time, now AND diagnostic != '') AS sample
            FROM {items} GROUP BY {kinds} HAVING n > 0))
    ORDER BY n DESC, {kinds}"
        ),
    }
}

/// Bounces by campaign, sender and recipient domain.
pub(super) fn bounces(request: &Request) -> Section {
    let sender = match request.sender {
        Sender::FromDomain => "from_domain",
        Sender::SendingIp => "sending_ip",
    };
    let kinds =
        format!("campaign, {sender}, recipient_domain, isp, event_type, severity, category, reply_code, enhanced_code, pattern");
    Section {
        name: "bounces",
        title: "Bounces".to_owned(),
        note: "bounce_text is the latest of the replies counted, redacted; empty once replies have expired.".to_owned(),
        columns: vec![
            Column::main("campaign", Kind::Text),
            Column::main(sender, Kind::Text),
            Column::main("recipient_domain", Kind::Text),
            Column::main("amount", Kind::Count),
            Column::main("bounce_text", Kind::Text),
            Column::main("severity", Kind::Text),
            Column::main("category", Kind::Text),
            Column::main("enhanced_code", Kind::Text),
            Column::main("first_date", Kind::Date),
            Column::main("last_date", Kind::Date),
            Column::further("isp", Kind::Text),
            Column::further("event_type", Kind::Text),
            Column::further("reply_code", Kind::Text).of("if(reply_code = 0, '', toString(reply_code))"),
            Column::further("pattern", Kind::Text),
        ],
        chart: Some(Chart {
            title: "The most frequent bounces, by recipient domain",
            form: Form::Bars,
            label: "recipient_domain",
            series: &["amount"],
            rows: 10,
        }),
        with: String::new(),
        from: format!(
            "FROM (
        SELECT {kinds}, count() AS amount, min(date) AS first_date, max(date) AS last_date,
            argMaxIf(diagnostic, event_time, diagnostic != '') AS bounce_text
        FROM failure_details
        WHERE date BETWEEN {{from:Date}} AND {{to:Date}} AND event_type IN ('bounce', 'oob_bounce'){}
        GROUP BY {kinds})
    ORDER BY amount DESC, {kinds}",
            request.filters.condition()
        ),
    }
}

/// The alerts that began in the period.
pub(super) fn alerts(request: &Request) -> Section {
    Section {
        name: "alerts",
        title: "Alerts".to_owned(),
        note: "outcome: open, resolved, or lapsed (over before it fired). An empty ISP or identity: over all of them.".to_owned(),
        columns: vec![
            Column::main("episode_start", Kind::Time),
            Column::main("rule", Kind::Text),
            Column::main("severity", Kind::Text),
            Column::main("isp", Kind::Text),
            Column::main("identity", Kind::Text),
            Column::main("outcome", Kind::Text),
            Column::main("peak_rate", Kind::Rate),
            Column::further("peak_numerator", Kind::Count),
            Column::further("peak_denominator", Kind::Count),
            Column::main("threshold", Kind::Rate),
            Column::main("fired_at", Kind::Time),
            Column::main("resolved_at", Kind::Time),
            Column::main("duration", Kind::Seconds).of("duration_seconds"),
            Column::main("time_to_resolve", Kind::Seconds).of("seconds_to_resolve"),
            Column::main("top_category", Kind::Text).of("top_categories[1]"),
            Column::main("root_cause", Kind::Text),
            Column::main("action", Kind::Text),
            Column::further("metric", Kind::Text),
            Column::further("state", Kind::Text),
            Column::further("sample", Kind::Text),
            Column::further("pattern", Kind::Text),
            Column::further("alert_id", Kind::Text),
        ],
        chart: Some(Chart {
            title: "Peak rate of the latest alerts, by rule",
            form: Form::Bars,
            label: "rule",
            series: &["peak_rate", "threshold"],
            rows: 10,
        }),
        with: String::new(),
        from: format!(
            "FROM alert_history AS a WHERE a.date BETWEEN {{from:Date}} AND {{to:Date}}{}
    ORDER BY episode_start DESC, alert_id",
            request.filters.condition().replace(" AND ", " AND a.")
        ),
    }
}

/// Replies that no rule knew the words of.
pub(super) fn unmatched(request: &Request) -> Section {
    let words = " AND pattern != '' AND event_type != 'complaint'
            AND (category = 'unknown' OR rule = 'none' OR startsWith(rule, {fallback:String}))";
    let condition = format!("{words}{}", request.filters.condition());
    let kinds = "pattern, pattern_version, category, rule";
    Section {
        name: "unmatched",
        title: "Replies that no rule knows".to_owned(),
        note: "Decided by their codes alone, or not at all. `bounceflow rules unmatched` prints them as rules to begin with."
            .to_owned(),
        columns: vec![
            Column::main("failures", Kind::Count).of("n"),
            Column::main("isps", Kind::Text).of("arrayStringConcat(most, ', ')"),
            Column::main("category", Kind::Text),
            Column::main("rule", Kind::Text),
            Column::main("first_seen", Kind::Time),
            Column::main("last_seen", Kind::Time),
            Column::main("sample", Kind::Text),
            Column::main("pattern", Kind::Text),
            Column::further("pattern_version", Kind::Count),
        ],
        chart: Some(Chart {
            title: "The most frequent replies without a rule, by pattern",
            form: Form::Bars,
            label: "pattern",
            series: &["failures"],
            rows: 10,
        }),
        with: String::new(),
        from: format!(
            "FROM (
        SELECT {kinds}, count() AS n, min(event_time) AS first_seen, max(event_time) AS last_seen,
            arraySort(topK(4)(toString(isp))) AS most, argMaxIf(diagnostic, event_time, diagnostic != '') AS sample
        FROM failure_details WHERE date BETWEEN {{from:Date}} AND {{to:Date}}{condition}
        GROUP BY {kinds})
    ORDER BY n DESC, {kinds}"
        ),
    }
}
