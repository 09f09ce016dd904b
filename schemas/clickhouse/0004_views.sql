-- Views for people. Plain views with a date column: BI tools filter on it, and cannot pass parameters. Numerators and denominators
-- stand beside every rate, because rates cannot be averaged; a rate whose denominator is 0 is NULL.

CREATE VIEW IF NOT EXISTS failure_breakdown AS
SELECT
    *,
    sum(failures) OVER (PARTITION BY date) AS failures_of_day,
    failures / nullIf(failures_of_day, 0) AS share_of_day
FROM
(
    SELECT
        toDate(event_time) AS date,
        event_type,
        severity,
        category,
        root_cause,
        count() AS failures,
        countIf(blocked) AS blocked
    FROM failures
    GROUP BY date, event_type, severity, category, root_cause
)
COMMENT 'Grain: day (UTC), event type, severity, category, root cause. Every failed item is here: deferrals, bounces, late bounces (oob_bounce), complaints (without severity), local failures too. share_of_day is of all failures of that day.';

-- isp 'local' is left out: nobody answered, the sending server failed by itself, so it is no provider. identity_profiles has it.
CREATE VIEW IF NOT EXISTS isp_profiles AS
SELECT
    *,
    hard + soft AS bounces,
    deliveries + bounces AS outcomes,
    outcomes + deferred AS attempts,
    bounces / nullIf(outcomes, 0) AS bounce_rate,
    hard / nullIf(outcomes, 0) AS hard_rate,
    soft / nullIf(outcomes, 0) AS soft_rate,
    blocked / nullIf(outcomes, 0) AS blocked_rate,
    deferred / nullIf(attempts, 0) AS deferred_rate,
    complaints / nullIf(deliveries, 0) AS complaint_rate,
    late_bounces / nullIf(deliveries, 0) AS late_bounce_rate,
    arraySort((category, n) -> (-toInt64(n), category), mapKeys(bounce_categories), mapValues(bounce_categories))[1] AS top_bounce_category
FROM
(
    SELECT
        toDate(minute) AS date,
        isp,
        sum(deliveries) AS deliveries,
        sum(first_attempts) AS first_attempts,
        sum(hard) AS hard,
        sum(soft) AS soft,
        sum(deferred) AS deferred,
        sum(blocked) AS blocked,
        sum(blocked_deferrals) AS blocked_deferrals,
        sum(complaints) AS complaints,
        sum(late_bounces) AS late_bounces,
        sum(drops) AS drops,
        sumMap(bounce_categories) AS bounce_categories,
        sumMap(deferral_categories) AS deferral_categories,
        sumMap(late_bounce_categories) AS late_bounce_categories
    FROM delivery_rates
    WHERE isp != 'local'
    GROUP BY date, isp
)
COMMENT 'Grain: day (UTC), isp. outcomes = deliveries + hard + soft; attempts = outcomes + deferred. bounce, hard, soft, blocked rate: of outcomes; deferred rate: of attempts; complaint and late bounce rate: of deliveries. Rates are fractions. drops are in no rate. Local failures (no provider answered) are left out; identity_profiles has them.';

CREATE VIEW IF NOT EXISTS identity_profiles AS
SELECT
    *,
    hard + soft AS bounces,
    deliveries + bounces AS outcomes,
    outcomes + deferred AS attempts,
    bounces / nullIf(outcomes, 0) AS bounce_rate,
    hard / nullIf(outcomes, 0) AS hard_rate,
    soft / nullIf(outcomes, 0) AS soft_rate,
    blocked / nullIf(outcomes, 0) AS blocked_rate,
    deferred / nullIf(attempts, 0) AS deferred_rate,
    complaints / nullIf(deliveries, 0) AS complaint_rate,
    late_bounces / nullIf(deliveries, 0) AS late_bounce_rate,
    arraySort((category, n) -> (-toInt64(n), category), mapKeys(bounce_categories), mapValues(bounce_categories))[1] AS top_bounce_category
FROM
(
    SELECT
        toDate(minute) AS date,
        identity,
        sum(deliveries) AS deliveries,
        sum(first_attempts) AS first_attempts,
        sum(hard) AS hard,
        sum(soft) AS soft,
        sum(deferred) AS deferred,
        sum(blocked) AS blocked,
        sum(blocked_deferrals) AS blocked_deferrals,
        sum(complaints) AS complaints,
        sum(late_bounces) AS late_bounces,
        sum(drops) AS drops,
        sumMap(bounce_categories) AS bounce_categories,
        sumMap(deferral_categories) AS deferral_categories,
        sumMap(late_bounce_categories) AS late_bounce_categories
    FROM delivery_rates
    GROUP BY date, identity
)
COMMENT 'Grain: day (UTC), identity. outcomes = deliveries + hard + soft; attempts = outcomes + deferred. bounce, hard, soft, blocked rate: of outcomes; deferred rate: of attempts; complaint and late bounce rate: of deliveries. Rates are fractions. drops are in no rate. Local failures (no provider answered) are included.';
