//! The sections that only the monthly report has: KPIs beside the period before, its days, and what changed; and which others it takes.

use super::columns::{Chart, Column, Form, Kind};
use super::rates::{BY_IDENTITY, sums};
use super::{Request, Section, failures, rates};

/// All of them, in the order in which a manager asks.
pub(super) fn sections(request: &Request) -> Vec<Section> {
    vec![
        kpis(request),
        days(request),
        rates::isps(request),
        rates::identities(request).first(50, "The 50 with the most attempts; report identity-profiles has all."),
        rates::campaigns(request).first(50, "The 50 with the most attempts; report campaign-kpis has all."),
        failures::patterns(request).first(30, "The 30 most frequent; report smtp-patterns has all."),
        changes(request),
    ]
}

fn kpis(request: &Request) -> Section {
    let condition = request.filters.condition();
    Section {
        name: "kpis",
        title: "KPIs".to_owned(),
        note: format!("Compared with {}. Local failures are included.", request.period.before()),
        columns: vec![
            Column::main("kpi", Kind::Text).of("line.1"),
            Column::main("amount", Kind::Count).of("line.2"),
            Column::main("divided_by", Kind::Text).of("line.4"),
            Column::main("of", Kind::Count).of("if(divided_by = '', NULL, line.3)"),
            Column::main("rate", Kind::Rate).of("amount / nullIf(of, 0)"),
            Column::main("amount_before", Kind::Count).of("line.5"),
            Column::further("of_before", Kind::Count).of("if(divided_by = '', NULL, line.6)"),
            Column::main("rate_before", Kind::Rate).of("amount_before / nullIf(of_before, 0)"),
            Column::main("change", Kind::Change).of("amount / nullIf(amount_before, 0) - 1"),
            Column::main("rate_points", Kind::Points).of("100 * (rate - rate_before)"),
        ],
        chart: None,
        with: String::new(),
        from: format!(
            "FROM (
        SELECT *, deliveries + hard + soft AS outcomes, outcomes + deferred AS attempts,
            deliveries_before + hard_before + soft_before AS outcomes_before, outcomes_before + deferred_before AS attempts_before
        FROM ({}) WHERE of_period)
    ARRAY JOIN
        [('Attempts', attempts, 0, '', attempts_before, 0),
         ('Deliveries', deliveries, outcomes, 'outcomes', deliveries_before, outcomes_before),
         ('Bounces', hard + soft, outcomes, 'outcomes', hard_before + soft_before, outcomes_before),
         ('Hard bounces', hard, outcomes, 'outcomes', hard_before, outcomes_before),
         ('Soft bounces', soft, outcomes, 'outcomes', soft_before, outcomes_before),
         ('Blocked', blocked, outcomes, 'outcomes', blocked_before, outcomes_before),
         ('Deferrals', deferred, attempts, 'attempts', deferred_before, attempts_before),
         ('Complaints', complaints, deliveries, 'deliveries', complaints_before, deliveries_before),
         ('Late bounces', late_bounces, deliveries, 'deliveries', late_bounces_before, deliveries_before),
         ('Never attempted (drops)', drops, 0, '', drops_before, 0)] AS line,
        range(10) AS place
    ORDER BY place",
            sums(BY_IDENTITY, "1 AS all", &condition)
        ),
    }
}

fn days(request: &Request) -> Section {
    Section {
        name: "days",
        title: "Days".to_owned(),
        note: String::new(),
        columns: vec![
            Column::main("date", Kind::Date),
            Column::main("outcomes", Kind::Count).of("deliveries + hard + soft"),
            Column::main("bounces", Kind::Count).of("hard + soft"),
            Column::main("bounce_rate", Kind::Rate).of("bounces / nullIf(outcomes, 0)"),
            Column::main("hard", Kind::Count),
            Column::main("hard_rate", Kind::Rate).of("hard / nullIf(outcomes, 0)"),
            Column::main("attempts", Kind::Count).of("outcomes + deferred"),
            Column::main("deferred", Kind::Count),
            Column::main("deferred_rate", Kind::Rate).of("deferred / nullIf(attempts, 0)"),
            Column::main("complaints", Kind::Count),
            Column::main("deliveries", Kind::Count),
            Column::main("complaint_rate", Kind::Rate).of("complaints / nullIf(deliveries, 0)"),
        ],
        chart: Some(Chart {
            title: "Rates by day",
            form: Form::Lines,
            label: "date",
            series: &["bounce_rate", "hard_rate", "deferred_rate"],
            rows: 400,
        }),
        with: String::new(),
        from: format!(
            "FROM (
        SELECT date, sum(r.deliveries) AS deliveries, sum(r.hard) AS hard, sum(r.soft) AS soft, sum(r.deferred) AS deferred,
            sum(r.complaints) AS complaints
        FROM {BY_IDENTITY} AS r WHERE date BETWEEN {{from:Date}} AND {{to:Date}}{} GROUP BY date)
    ORDER BY date",
            request.filters.condition()
        ),
    }
}

/// Ranked by how many failures the change of a rate made or saved, so that no small number comes first by chance.
fn changes(request: &Request) -> Section {
    let counted = sums(BY_IDENTITY, "isp, identity, campaign", &request.filters.condition());
    Section {
        name: "changes",
        title: "What changed".to_owned(),
        note: format!(
            "Where bounces and deferrals changed most against {}: more_failures is how many more there were than at the failure rate \
             of then; below 0, how many fewer.",
            request.period.before()
        ),
        columns: vec![
            Column::main("subject", Kind::Text).of("who.1"),
            Column::main("name", Kind::Text).of("who.2"),
            // As floats: the product of two large counts is more than a UInt64 holds, and would be a small number without a word.
            Column::main("more_failures", Kind::Difference)
                .of("failures - toFloat64(attempts) * failures_before / attempts_before"),
            Column::main("attempts", Kind::Count),
            Column::main("failures", Kind::Count),
            Column::main("failure_rate", Kind::Rate).of("failures / nullIf(attempts, 0)"),
            Column::main("attempts_before", Kind::Count),
            Column::main("failures_before", Kind::Count),
            Column::main("failure_rate_before", Kind::Rate).of("failures_before / nullIf(attempts_before, 0)"),
            Column::main("failure_rate_points", Kind::Points).of("100 * (failure_rate - failure_rate_before)"),
        ],
        chart: Some(Chart {
            title: "Failures more, or fewer, than at the rate of before",
            form: Form::Bars,
            label: "name",
            series: &["more_failures"],
            rows: 10,
        }),
        with: String::new(),
        from: format!(
            "FROM (
        SELECT who, sum(c.deliveries + c.hard + c.soft + c.deferred) AS attempts, sum(c.hard + c.soft + c.deferred) AS failures,
            sum(c.deliveries_before + c.hard_before + c.soft_before + c.deferred_before) AS attempts_before,
            sum(c.hard_before + c.soft_before + c.deferred_before) AS failures_before
        FROM ({counted}) AS c
        ARRAY JOIN [('ISP', toString(isp)), ('identity', identity), ('campaign', campaign)] AS who
        WHERE who.2 != ''
        GROUP BY who HAVING attempts > 0 AND attempts_before > 0)
    ORDER BY abs(more_failures) DESC, who LIMIT 20"
        ),
    }
}
