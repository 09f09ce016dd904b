-- Views for people. Plain views with a date column: BI tools filter on it, and cannot pass parameters. Numerators and denominators
-- stand beside every rate, because rates cannot be averaged; a rate whose denominator is 0 is NULL. Fingerprints and hashes are
-- hexadecimal text: BI tools lose the last digits of large integers. All times are UTC.
--
-- A filter on a column of the grain reaches the sort key of the table behind, since each is a key of every GROUP BY on the way.
-- That is why no view of rates or failures has a window function: below one, servers before 26.7 push no filter. A whole is joined instead.
--
-- Rates are said the same way in every view, and so is how a level is found (a test compares). `limits` are the thresholds of one
-- subject; the worst metric decides, and one whose denominator is below `least` says nothing.

-- The only table of bounceflow that people write to. It is read by its newest row: what is here from the start is as old as can be,
-- so that applying this file again, at a new replica too, never undoes what an operator set.
CREATE TABLE IF NOT EXISTS thresholds
(
    subject LowCardinality(String) COMMENT 'What is judged: isp, identity, campaign or ip',
    metric LowCardinality(String) COMMENT 'By which rate: bounce_rate, hard_rate, soft_rate, blocked_rate, deferred_rate, complaint_rate, late_bounce_rate',
    watch Float64 COMMENT 'From this fraction on it is Watch',
    critical Float64 COMMENT 'From this fraction on it is Critical (identities: High)',
    least UInt64 COMMENT 'With a smaller denominator than this the rate says nothing',
    reason String COMMENT 'Where the figures come from',
    changed_at DateTime('UTC') COMMENT 'The newest row of a subject and metric holds'
)
ENGINE = ReplacingMergeTree(changed_at)
ORDER BY (subject, metric)
COMMENT 'Grain: subject and metric; the newest row holds. From which rates on something is Watch, Critical or High in the views. To change one: INSERT INTO thresholds SELECT * REPLACE (0.03 AS watch, now() AS changed_at) FROM thresholds FINAL WHERE subject = ''campaign'' AND metric = ''hard_rate''. To judge by it no more: the same with 2 AS watch, 2 AS critical.';

INSERT INTO thresholds VALUES
    ('isp', 'hard_rate', 0.02, 0.05, 200, 'Amazon SES reviews an account from 5 % on, 2 % is the usual advice', 0),
    ('isp', 'blocked_rate', 0.05, 0.2, 200, 'SparkPost advises an alert above 20 %', 0),
    ('isp', 'deferred_rate', 0.15, 0.3, 200, 'LimeSpot suspends above 15 % of deferrals at one ISP', 0),
    ('isp', 'complaint_rate', 0.001, 0.003, 1000, 'Google and Yahoo: below 0.1 %, never 0.3 %', 0),
    ('identity', 'hard_rate', 0.02, 0.05, 200, 'Amazon SES reviews an account from 5 % on, 2 % is the usual advice', 0),
    ('identity', 'blocked_rate', 0.05, 0.2, 200, 'SparkPost advises an alert above 20 %', 0),
    ('identity', 'complaint_rate', 0.001, 0.003, 1000, 'Google and Yahoo: below 0.1 %, never 0.3 %', 0),
    ('campaign', 'hard_rate', 0.02, 0.05, 200, 'The 2 % guide; Amazon SES reviews from 5 % on', 0),
    ('campaign', 'complaint_rate', 0.001, 0.003, 1000, 'Google and Yahoo: below 0.1 %, never 0.3 %', 0),
    ('ip', 'blocked_rate', 0.05, 0.2, 200, 'SparkPost advises an alert above 20 %', 0),
    ('ip', 'deferred_rate', 0.15, 0.3, 200, 'LimeSpot suspends above 15 % of deferrals at one ISP', 0);

-- What `…_this_week` counts back from. A view so that it can be replaced: a look at an earlier week, or a test.
CREATE OR REPLACE VIEW reporting_day
(
    today Date COMMENT 'The last day of the week that the views …_this_week show (UTC)'
)
AS SELECT toDate(now('UTC')) AS today
COMMENT 'Grain: one row. This week is the seven days up to today, last week the seven before. CREATE OR REPLACE VIEW reporting_day AS SELECT toDate(''2026-03-01'') AS today shows an earlier one.';

-- isp 'local' is left out: nobody answered, the sending server failed by itself, so it is no provider. identity_profiles has it.
CREATE OR REPLACE VIEW isp_profiles
(
    date Date COMMENT 'Day of the events (UTC)',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables',
    deliveries UInt64 COMMENT 'Accepted',
    first_attempts UInt64 COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message',
    hard UInt64 COMMENT 'Bounces: permanent',
    soft UInt64 COMMENT 'Bounces: final for this message only',
    bounces UInt64 COMMENT 'hard + soft',
    blocked UInt64 COMMENT 'Bounces that refused the sender or the content; part of bounces',
    deferred UInt64 COMMENT 'Deferrals; one message deferred ten times is ten',
    blocked_deferrals UInt64 COMMENT 'Deferrals that refused the sender or the content; part of deferred',
    complaints UInt64 COMMENT 'Feedback loop reports',
    late_bounces UInt64 COMMENT 'Bounces that came after a delivery; not in bounces',
    drops UInt64 COMMENT 'Never attempted; in no rate',
    outcomes UInt64 COMMENT 'deliveries + bounces: what bounce, hard, soft and blocked rate are of',
    attempts UInt64 COMMENT 'outcomes + deferred: what the deferred rate is of',
    bounce_rate Nullable(Float64) COMMENT 'bounces / outcomes',
    hard_rate Nullable(Float64) COMMENT 'hard / outcomes',
    soft_rate Nullable(Float64) COMMENT 'soft / outcomes',
    blocked_rate Nullable(Float64) COMMENT 'blocked / outcomes',
    deferred_rate Nullable(Float64) COMMENT 'deferred / attempts',
    complaint_rate Nullable(Float64) COMMENT 'complaints / deliveries',
    late_bounce_rate Nullable(Float64) COMMENT 'late_bounces / deliveries',
    failures UInt64 COMMENT 'bounces + deferred',
    failure_rate Nullable(Float64) COMMENT 'failures / attempts',
    outcomes_of_day UInt64 COMMENT 'Outcomes of that day at all ISPs',
    share_of_outcomes Nullable(Float64) COMMENT 'outcomes / outcomes_of_day: its share of the volume',
    top_bounce_category String COMMENT 'The most frequent category of its bounces',
    top_bounces UInt64 COMMENT 'Bounces of that category',
    bounce_categories Map(String, UInt64) COMMENT 'Bounces by category',
    deferral_categories Map(String, UInt64) COMMENT 'Deferrals by category',
    late_bounce_categories Map(String, UInt64) COMMENT 'Late bounces by category',
    status String COMMENT 'Healthy, Watch or Critical, by the thresholds of its subject'
)
AS WITH (
    SELECT mapFromArrays(groupArray(toString(metric)), groupArray((watch, critical, least)))
    FROM thresholds FINAL WHERE subject = 'isp'
) AS limits
SELECT
    date,
    isp,
    deliveries,
    first_attempts,
    hard,
    soft,
    hard + soft AS bounces,
    blocked,
    deferred,
    blocked_deferrals,
    complaints,
    late_bounces,
    drops,
    deliveries + bounces AS outcomes,
    outcomes + deferred AS attempts,
    bounces / nullIf(outcomes, 0) AS bounce_rate,
    hard / nullIf(outcomes, 0) AS hard_rate,
    soft / nullIf(outcomes, 0) AS soft_rate,
    blocked / nullIf(outcomes, 0) AS blocked_rate,
    deferred / nullIf(attempts, 0) AS deferred_rate,
    complaints / nullIf(deliveries, 0) AS complaint_rate,
    late_bounces / nullIf(deliveries, 0) AS late_bounce_rate,
    bounces + deferred AS failures,
    failures / nullIf(attempts, 0) AS failure_rate,
    outcomes_of_day,
    outcomes / nullIf(outcomes_of_day, 0) AS share_of_outcomes,
    arraySort((category, n) -> (-toInt64(n), category), mapKeys(bounce_categories), mapValues(bounce_categories))[1] AS top_bounce_category,
    bounce_categories[top_bounce_category] AS top_bounces,
    bounce_categories,
    deferral_categories,
    late_bounce_categories,
    ['Healthy', 'Watch', 'Critical'][1 + arrayMax(
        (metric, n, of) -> multiIf(
            NOT mapContains(limits, metric) OR of < greatest(limits[metric].3, 1), 0,
            n >= limits[metric].2 * of, 2,
            n >= limits[metric].1 * of, 1,
            0),
        ['bounce_rate', 'hard_rate', 'soft_rate', 'blocked_rate', 'deferred_rate', 'complaint_rate', 'late_bounce_rate'],
        [bounces, hard, soft, blocked, deferred, complaints, late_bounces],
        [outcomes, outcomes, outcomes, outcomes, attempts, deliveries, deliveries])] AS status
FROM
(
    SELECT
        date,
        isp,
        sum(r.deliveries) AS deliveries,
        sum(r.first_attempts) AS first_attempts,
        sum(r.hard) AS hard,
        sum(r.soft) AS soft,
        sum(r.deferred) AS deferred,
        sum(r.blocked) AS blocked,
        sum(r.blocked_deferrals) AS blocked_deferrals,
        sum(r.complaints) AS complaints,
        sum(r.late_bounces) AS late_bounces,
        sum(r.drops) AS drops,
        sumMap(r.bounce_categories) AS bounce_categories,
        sumMap(r.deferral_categories) AS deferral_categories,
        sumMap(r.late_bounce_categories) AS late_bounce_categories
    FROM daily_rates AS r
    WHERE isp != 'local'
    GROUP BY date, isp
) AS own
INNER JOIN
(
    SELECT
        date,
        sum(r.deliveries) + sum(r.hard) + sum(r.soft) AS outcomes_of_day
    FROM daily_rates AS r
    WHERE isp != 'local'
    GROUP BY date
) AS whole USING (date)
COMMENT 'Grain: day, ISP. Rates are fractions and NULL where there is nothing to divide by; to sum over rows, sum numerators and denominators. UTC. drops are in no rate. Local failures (no provider answered) are left out; identity_profiles has them.';

CREATE OR REPLACE VIEW identity_profiles
(
    date Date COMMENT 'Day of the events (UTC)',
    identity String COMMENT 'Who sent',
    deliveries UInt64 COMMENT 'Accepted',
    first_attempts UInt64 COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message',
    hard UInt64 COMMENT 'Bounces: permanent',
    soft UInt64 COMMENT 'Bounces: final for this message only',
    bounces UInt64 COMMENT 'hard + soft',
    blocked UInt64 COMMENT 'Bounces that refused the sender or the content; part of bounces',
    deferred UInt64 COMMENT 'Deferrals; one message deferred ten times is ten',
    blocked_deferrals UInt64 COMMENT 'Deferrals that refused the sender or the content; part of deferred',
    complaints UInt64 COMMENT 'Feedback loop reports',
    late_bounces UInt64 COMMENT 'Bounces that came after a delivery; not in bounces',
    drops UInt64 COMMENT 'Never attempted; in no rate',
    outcomes UInt64 COMMENT 'deliveries + bounces: what bounce, hard, soft and blocked rate are of',
    attempts UInt64 COMMENT 'outcomes + deferred: what the deferred rate is of',
    bounce_rate Nullable(Float64) COMMENT 'bounces / outcomes',
    hard_rate Nullable(Float64) COMMENT 'hard / outcomes',
    soft_rate Nullable(Float64) COMMENT 'soft / outcomes',
    blocked_rate Nullable(Float64) COMMENT 'blocked / outcomes',
    deferred_rate Nullable(Float64) COMMENT 'deferred / attempts',
    complaint_rate Nullable(Float64) COMMENT 'complaints / deliveries',
    late_bounce_rate Nullable(Float64) COMMENT 'late_bounces / deliveries',
    failures UInt64 COMMENT 'bounces + deferred',
    failure_rate Nullable(Float64) COMMENT 'failures / attempts',
    top_isp LowCardinality(String) COMMENT 'The ISP with most of its bounces and deferrals; empty: none',
    top_isp_failures UInt64 COMMENT 'Bounces and deferrals there',
    top_bounce_category String COMMENT 'The most frequent category of its bounces',
    top_bounces UInt64 COMMENT 'Bounces of that category',
    bounce_categories Map(String, UInt64) COMMENT 'Bounces by category',
    deferral_categories Map(String, UInt64) COMMENT 'Deferrals by category',
    late_bounce_categories Map(String, UInt64) COMMENT 'Late bounces by category',
    risk String COMMENT 'Low, Watch or High, by the thresholds of identities'
)
AS WITH (
    SELECT mapFromArrays(groupArray(toString(metric)), groupArray((watch, critical, least)))
    FROM thresholds FINAL WHERE subject = 'identity'
) AS limits
SELECT
    date,
    identity,
    deliveries,
    first_attempts,
    hard,
    soft,
    hard + soft AS bounces,
    blocked,
    deferred,
    blocked_deferrals,
    complaints,
    late_bounces,
    drops,
    deliveries + bounces AS outcomes,
    outcomes + deferred AS attempts,
    bounces / nullIf(outcomes, 0) AS bounce_rate,
    hard / nullIf(outcomes, 0) AS hard_rate,
    soft / nullIf(outcomes, 0) AS soft_rate,
    blocked / nullIf(outcomes, 0) AS blocked_rate,
    deferred / nullIf(attempts, 0) AS deferred_rate,
    complaints / nullIf(deliveries, 0) AS complaint_rate,
    late_bounces / nullIf(deliveries, 0) AS late_bounce_rate,
    bounces + deferred AS failures,
    failures / nullIf(attempts, 0) AS failure_rate,
    worst.2 AS top_isp,
    worst.1 AS top_isp_failures,
    arraySort((category, n) -> (-toInt64(n), category), mapKeys(bounce_categories), mapValues(bounce_categories))[1] AS top_bounce_category,
    bounce_categories[top_bounce_category] AS top_bounces,
    bounce_categories,
    deferral_categories,
    late_bounce_categories,
    ['Low', 'Watch', 'High'][1 + arrayMax(
        (metric, n, of) -> multiIf(
            NOT mapContains(limits, metric) OR of < greatest(limits[metric].3, 1), 0,
            n >= limits[metric].2 * of, 2,
            n >= limits[metric].1 * of, 1,
            0),
        ['bounce_rate', 'hard_rate', 'soft_rate', 'blocked_rate', 'deferred_rate', 'complaint_rate', 'late_bounce_rate'],
        [bounces, hard, soft, blocked, deferred, complaints, late_bounces],
        [outcomes, outcomes, outcomes, outcomes, attempts, deliveries, deliveries])] AS risk
FROM
(
    SELECT
        date,
        identity,
        sum(r.deliveries) AS deliveries,
        sum(r.first_attempts) AS first_attempts,
        sum(r.hard) AS hard,
        sum(r.soft) AS soft,
        sum(r.deferred) AS deferred,
        sum(r.blocked) AS blocked,
        sum(r.blocked_deferrals) AS blocked_deferrals,
        sum(r.complaints) AS complaints,
        sum(r.late_bounces) AS late_bounces,
        sum(r.drops) AS drops,
        sumMap(r.bounce_categories) AS bounce_categories,
        sumMap(r.deferral_categories) AS deferral_categories,
        sumMap(r.late_bounce_categories) AS late_bounce_categories,
        -- Of two with as many, the first by name.
        argMin((r.hard + r.soft + r.deferred, r.isp), (-toInt64(r.hard + r.soft + r.deferred), r.isp)) AS most,
        if(most.1 = 0, (0, toLowCardinality('')), most) AS worst
    FROM
    (
        SELECT
            date,
            identity,
            isp,
            sum(r.deliveries) AS deliveries,
            sum(r.first_attempts) AS first_attempts,
            sum(r.hard) AS hard,
            sum(r.soft) AS soft,
            sum(r.deferred) AS deferred,
            sum(r.blocked) AS blocked,
            sum(r.blocked_deferrals) AS blocked_deferrals,
            sum(r.complaints) AS complaints,
            sum(r.late_bounces) AS late_bounces,
            sum(r.drops) AS drops,
            sumMap(r.bounce_categories) AS bounce_categories,
            sumMap(r.deferral_categories) AS deferral_categories,
            sumMap(r.late_bounce_categories) AS late_bounce_categories
        FROM daily_rates_by_identity AS r
        GROUP BY date, identity, isp
    ) AS r
    GROUP BY date, identity
)
COMMENT 'Grain: day, identity. Rates are fractions and NULL where there is nothing to divide by; to sum over rows, sum numerators and denominators. UTC. drops are in no rate. Local failures (no provider answered) are included.';

CREATE OR REPLACE VIEW isp_identity_matrix
(
    date Date COMMENT 'Day of the events (UTC)',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables',
    identity String COMMENT 'Who sent',
    deliveries UInt64 COMMENT 'Accepted',
    first_attempts UInt64 COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message',
    hard UInt64 COMMENT 'Bounces: permanent',
    soft UInt64 COMMENT 'Bounces: final for this message only',
    bounces UInt64 COMMENT 'hard + soft',
    blocked UInt64 COMMENT 'Bounces that refused the sender or the content; part of bounces',
    deferred UInt64 COMMENT 'Deferrals; one message deferred ten times is ten',
    blocked_deferrals UInt64 COMMENT 'Deferrals that refused the sender or the content; part of deferred',
    complaints UInt64 COMMENT 'Feedback loop reports',
    late_bounces UInt64 COMMENT 'Bounces that came after a delivery; not in bounces',
    drops UInt64 COMMENT 'Never attempted; in no rate',
    outcomes UInt64 COMMENT 'deliveries + bounces: what bounce, hard, soft and blocked rate are of',
    attempts UInt64 COMMENT 'outcomes + deferred: what the deferred rate is of',
    bounce_rate Nullable(Float64) COMMENT 'bounces / outcomes',
    hard_rate Nullable(Float64) COMMENT 'hard / outcomes',
    soft_rate Nullable(Float64) COMMENT 'soft / outcomes',
    blocked_rate Nullable(Float64) COMMENT 'blocked / outcomes',
    deferred_rate Nullable(Float64) COMMENT 'deferred / attempts',
    complaint_rate Nullable(Float64) COMMENT 'complaints / deliveries',
    late_bounce_rate Nullable(Float64) COMMENT 'late_bounces / deliveries',
    failures UInt64 COMMENT 'bounces + deferred',
    failure_rate Nullable(Float64) COMMENT 'failures / attempts',
    top_bounce_category String COMMENT 'The most frequent category of its bounces',
    top_bounces UInt64 COMMENT 'Bounces of that category',
    status String COMMENT 'Healthy, Watch or Critical, by the thresholds of its subject'
)
AS WITH (
    SELECT mapFromArrays(groupArray(toString(metric)), groupArray((watch, critical, least)))
    FROM thresholds FINAL WHERE subject = 'isp'
) AS limits
SELECT
    date,
    isp,
    identity,
    deliveries,
    first_attempts,
    hard,
    soft,
    hard + soft AS bounces,
    blocked,
    deferred,
    blocked_deferrals,
    complaints,
    late_bounces,
    drops,
    deliveries + bounces AS outcomes,
    outcomes + deferred AS attempts,
    bounces / nullIf(outcomes, 0) AS bounce_rate,
    hard / nullIf(outcomes, 0) AS hard_rate,
    soft / nullIf(outcomes, 0) AS soft_rate,
    blocked / nullIf(outcomes, 0) AS blocked_rate,
    deferred / nullIf(attempts, 0) AS deferred_rate,
    complaints / nullIf(deliveries, 0) AS complaint_rate,
    late_bounces / nullIf(deliveries, 0) AS late_bounce_rate,
    bounces + deferred AS failures,
    failures / nullIf(attempts, 0) AS failure_rate,
    arraySort((category, n) -> (-toInt64(n), category), mapKeys(bounce_categories), mapValues(bounce_categories))[1] AS top_bounce_category,
    bounce_categories[top_bounce_category] AS top_bounces,
    ['Healthy', 'Watch', 'Critical'][1 + arrayMax(
        (metric, n, of) -> multiIf(
            NOT mapContains(limits, metric) OR of < greatest(limits[metric].3, 1), 0,
            n >= limits[metric].2 * of, 2,
            n >= limits[metric].1 * of, 1,
            0),
        ['bounce_rate', 'hard_rate', 'soft_rate', 'blocked_rate', 'deferred_rate', 'complaint_rate', 'late_bounce_rate'],
        [bounces, hard, soft, blocked, deferred, complaints, late_bounces],
        [outcomes, outcomes, outcomes, outcomes, attempts, deliveries, deliveries])] AS status
FROM
(
    SELECT
        date,
        isp,
        identity,
        sum(r.deliveries) AS deliveries,
        sum(r.first_attempts) AS first_attempts,
        sum(r.hard) AS hard,
        sum(r.soft) AS soft,
        sum(r.deferred) AS deferred,
        sum(r.blocked) AS blocked,
        sum(r.blocked_deferrals) AS blocked_deferrals,
        sum(r.complaints) AS complaints,
        sum(r.late_bounces) AS late_bounces,
        sum(r.drops) AS drops,
        sumMap(r.bounce_categories) AS bounce_categories
    FROM daily_rates AS r
    GROUP BY date, isp, identity
)
COMMENT 'Grain: day, ISP, identity: every sender at every provider, side by side. Rates are fractions and NULL where there is nothing to divide by; to sum over rows, sum numerators and denominators. UTC. isp local: nobody answered.';

CREATE OR REPLACE VIEW ip_profiles
(
    date Date COMMENT 'Day of the events (UTC)',
    sending_ip String COMMENT 'IP address the messages were sent from',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables',
    deliveries UInt64 COMMENT 'Accepted',
    first_attempts UInt64 COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message',
    hard UInt64 COMMENT 'Bounces: permanent',
    soft UInt64 COMMENT 'Bounces: final for this message only',
    bounces UInt64 COMMENT 'hard + soft',
    blocked UInt64 COMMENT 'Bounces that refused the sender or the content; part of bounces',
    deferred UInt64 COMMENT 'Deferrals; one message deferred ten times is ten',
    blocked_deferrals UInt64 COMMENT 'Deferrals that refused the sender or the content; part of deferred',
    complaints UInt64 COMMENT 'Feedback loop reports',
    late_bounces UInt64 COMMENT 'Bounces that came after a delivery; not in bounces',
    drops UInt64 COMMENT 'Never attempted; in no rate',
    outcomes UInt64 COMMENT 'deliveries + bounces: what bounce, hard, soft and blocked rate are of',
    attempts UInt64 COMMENT 'outcomes + deferred: what the deferred rate is of',
    bounce_rate Nullable(Float64) COMMENT 'bounces / outcomes',
    hard_rate Nullable(Float64) COMMENT 'hard / outcomes',
    soft_rate Nullable(Float64) COMMENT 'soft / outcomes',
    blocked_rate Nullable(Float64) COMMENT 'blocked / outcomes',
    deferred_rate Nullable(Float64) COMMENT 'deferred / attempts',
    complaint_rate Nullable(Float64) COMMENT 'complaints / deliveries',
    late_bounce_rate Nullable(Float64) COMMENT 'late_bounces / deliveries',
    failures UInt64 COMMENT 'bounces + deferred',
    failure_rate Nullable(Float64) COMMENT 'failures / attempts',
    top_bounce_category String COMMENT 'The most frequent category of its bounces',
    top_bounces UInt64 COMMENT 'Bounces of that category',
    status String COMMENT 'Healthy, Watch or Critical, by the thresholds of its subject'
)
AS WITH (
    SELECT mapFromArrays(groupArray(toString(metric)), groupArray((watch, critical, least)))
    FROM thresholds FINAL WHERE subject = 'ip'
) AS limits
SELECT
    date,
    sending_ip,
    isp,
    deliveries,
    first_attempts,
    hard,
    soft,
    hard + soft AS bounces,
    blocked,
    deferred,
    blocked_deferrals,
    complaints,
    late_bounces,
    drops,
    deliveries + bounces AS outcomes,
    outcomes + deferred AS attempts,
    bounces / nullIf(outcomes, 0) AS bounce_rate,
    hard / nullIf(outcomes, 0) AS hard_rate,
    soft / nullIf(outcomes, 0) AS soft_rate,
    blocked / nullIf(outcomes, 0) AS blocked_rate,
    deferred / nullIf(attempts, 0) AS deferred_rate,
    complaints / nullIf(deliveries, 0) AS complaint_rate,
    late_bounces / nullIf(deliveries, 0) AS late_bounce_rate,
    bounces + deferred AS failures,
    failures / nullIf(attempts, 0) AS failure_rate,
    arraySort((category, n) -> (-toInt64(n), category), mapKeys(bounce_categories), mapValues(bounce_categories))[1] AS top_bounce_category,
    bounce_categories[top_bounce_category] AS top_bounces,
    ['Healthy', 'Watch', 'Critical'][1 + arrayMax(
        (metric, n, of) -> multiIf(
            NOT mapContains(limits, metric) OR of < greatest(limits[metric].3, 1), 0,
            n >= limits[metric].2 * of, 2,
            n >= limits[metric].1 * of, 1,
            0),
        ['bounce_rate', 'hard_rate', 'soft_rate', 'blocked_rate', 'deferred_rate', 'complaint_rate', 'late_bounce_rate'],
        [bounces, hard, soft, blocked, deferred, complaints, late_bounces],
        [outcomes, outcomes, outcomes, outcomes, attempts, deliveries, deliveries])] AS status
FROM
(
    SELECT
        date,
        sending_ip,
        isp,
        sum(r.deliveries) AS deliveries,
        sum(r.first_attempts) AS first_attempts,
        sum(r.hard) AS hard,
        sum(r.soft) AS soft,
        sum(r.deferred) AS deferred,
        sum(r.blocked) AS blocked,
        sum(r.blocked_deferrals) AS blocked_deferrals,
        sum(r.complaints) AS complaints,
        sum(r.late_bounces) AS late_bounces,
        sum(r.drops) AS drops,
        sumMap(r.bounce_categories) AS bounce_categories
    FROM daily_rates AS r
    GROUP BY date, sending_ip, isp
)
COMMENT 'Grain: day, sending IP, ISP: an address is listed at one provider and welcome at the next. Rates are fractions and NULL where there is nothing to divide by; to sum over rows, sum numerators and denominators. UTC. isp local: nobody answered.';

CREATE OR REPLACE VIEW campaign_kpis
(
    date Date COMMENT 'Day of the events (UTC)',
    identity String COMMENT 'Who sent',
    campaign String COMMENT 'Campaign; other: beyond the cap of campaigns counted apart',
    deliveries UInt64 COMMENT 'Accepted',
    first_attempts UInt64 COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message',
    hard UInt64 COMMENT 'Bounces: permanent',
    soft UInt64 COMMENT 'Bounces: final for this message only',
    bounces UInt64 COMMENT 'hard + soft',
    blocked UInt64 COMMENT 'Bounces that refused the sender or the content; part of bounces',
    deferred UInt64 COMMENT 'Deferrals; one message deferred ten times is ten',
    blocked_deferrals UInt64 COMMENT 'Deferrals that refused the sender or the content; part of deferred',
    complaints UInt64 COMMENT 'Feedback loop reports',
    late_bounces UInt64 COMMENT 'Bounces that came after a delivery; not in bounces',
    drops UInt64 COMMENT 'Never attempted; in no rate',
    outcomes UInt64 COMMENT 'deliveries + bounces: what bounce, hard, soft and blocked rate are of',
    attempts UInt64 COMMENT 'outcomes + deferred: what the deferred rate is of',
    bounce_rate Nullable(Float64) COMMENT 'bounces / outcomes',
    hard_rate Nullable(Float64) COMMENT 'hard / outcomes',
    soft_rate Nullable(Float64) COMMENT 'soft / outcomes',
    blocked_rate Nullable(Float64) COMMENT 'blocked / outcomes',
    deferred_rate Nullable(Float64) COMMENT 'deferred / attempts',
    complaint_rate Nullable(Float64) COMMENT 'complaints / deliveries',
    late_bounce_rate Nullable(Float64) COMMENT 'late_bounces / deliveries',
    failures UInt64 COMMENT 'bounces + deferred',
    failure_rate Nullable(Float64) COMMENT 'failures / attempts',
    hard_rate_guide Float64 COMMENT 'The watch threshold of campaigns for hard_rate; 0: none',
    within_guide Bool COMMENT 'hard_rate is below the guide, or there is no guide',
    hard_after_deferral UInt64 COMMENT 'Hard bounces at a later attempt than the first: soft that turned hard. Counted in failures, by the true name of the campaign',
    top_bounce_category String COMMENT 'The most frequent category of its bounces',
    top_bounces UInt64 COMMENT 'Bounces of that category',
    status String COMMENT 'Healthy, Watch or Critical, by the thresholds of its subject'
)
AS WITH (
    SELECT mapFromArrays(groupArray(toString(metric)), groupArray((watch, critical, least)))
    FROM thresholds FINAL WHERE subject = 'campaign'
) AS limits
SELECT
    date,
    identity,
    campaign,
    deliveries,
    first_attempts,
    hard,
    soft,
    hard + soft AS bounces,
    blocked,
    deferred,
    blocked_deferrals,
    complaints,
    late_bounces,
    drops,
    deliveries + bounces AS outcomes,
    outcomes + deferred AS attempts,
    bounces / nullIf(outcomes, 0) AS bounce_rate,
    hard / nullIf(outcomes, 0) AS hard_rate,
    soft / nullIf(outcomes, 0) AS soft_rate,
    blocked / nullIf(outcomes, 0) AS blocked_rate,
    deferred / nullIf(attempts, 0) AS deferred_rate,
    complaints / nullIf(deliveries, 0) AS complaint_rate,
    late_bounces / nullIf(deliveries, 0) AS late_bounce_rate,
    bounces + deferred AS failures,
    failures / nullIf(attempts, 0) AS failure_rate,
    limits['hard_rate'].1 AS hard_rate_guide,
    toBool(hard_rate_guide = 0 OR hard < hard_rate_guide * greatest(outcomes, 1)) AS within_guide,
    hard_after_deferral,
    arraySort((category, n) -> (-toInt64(n), category), mapKeys(bounce_categories), mapValues(bounce_categories))[1] AS top_bounce_category,
    bounce_categories[top_bounce_category] AS top_bounces,
    ['Healthy', 'Watch', 'Critical'][1 + arrayMax(
        (metric, n, of) -> multiIf(
            NOT mapContains(limits, metric) OR of < greatest(limits[metric].3, 1), 0,
            n >= limits[metric].2 * of, 2,
            n >= limits[metric].1 * of, 1,
            0),
        ['bounce_rate', 'hard_rate', 'soft_rate', 'blocked_rate', 'deferred_rate', 'complaint_rate', 'late_bounce_rate'],
        [bounces, hard, soft, blocked, deferred, complaints, late_bounces],
        [outcomes, outcomes, outcomes, outcomes, attempts, deliveries, deliveries])] AS status
FROM
(
    SELECT
        date,
        identity,
        campaign,
        sum(r.deliveries) AS deliveries,
        sum(r.first_attempts) AS first_attempts,
        sum(r.hard) AS hard,
        sum(r.soft) AS soft,
        sum(r.deferred) AS deferred,
        sum(r.blocked) AS blocked,
        sum(r.blocked_deferrals) AS blocked_deferrals,
        sum(r.complaints) AS complaints,
        sum(r.late_bounces) AS late_bounces,
        sum(r.drops) AS drops,
        sumMap(r.bounce_categories) AS bounce_categories,
        sum(r.hard_after_deferral) AS hard_after_deferral
    FROM
    (
        SELECT date, identity, campaign, deliveries, first_attempts, hard, soft, deferred, blocked, blocked_deferrals, complaints, late_bounces, drops, bounce_categories, 0 AS hard_after_deferral
        FROM daily_rates_by_identity
        UNION ALL
        SELECT toDate(event_time) AS date, identity, campaign, 0 AS deliveries, 0 AS first_attempts, 0 AS hard, 0 AS soft, 0 AS deferred, 0 AS blocked, 0 AS blocked_deferrals, 0 AS complaints, 0 AS late_bounces, 0 AS drops, map() AS bounce_categories, count() AS hard_after_deferral
        FROM failures
        WHERE event_type = 'bounce' AND severity = 'hard' AND attempt > 1
        GROUP BY date, identity, campaign
    ) AS r
    GROUP BY date, identity, campaign
)
COMMENT 'Grain: day, identity, campaign. Rates are fractions and NULL where there is nothing to divide by; to sum over rows, sum numerators and denominators. UTC. status is by the thresholds of campaigns.';

CREATE OR REPLACE VIEW rates_by_hour
(
    hour DateTime('UTC') COMMENT 'Start of the hour of the events (UTC)',
    date Date COMMENT 'Day of the events (UTC)',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables',
    identity String COMMENT 'Who sent',
    deliveries UInt64 COMMENT 'Accepted',
    first_attempts UInt64 COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message',
    hard UInt64 COMMENT 'Bounces: permanent',
    soft UInt64 COMMENT 'Bounces: final for this message only',
    bounces UInt64 COMMENT 'hard + soft',
    blocked UInt64 COMMENT 'Bounces that refused the sender or the content; part of bounces',
    deferred UInt64 COMMENT 'Deferrals; one message deferred ten times is ten',
    blocked_deferrals UInt64 COMMENT 'Deferrals that refused the sender or the content; part of deferred',
    complaints UInt64 COMMENT 'Feedback loop reports',
    late_bounces UInt64 COMMENT 'Bounces that came after a delivery; not in bounces',
    drops UInt64 COMMENT 'Never attempted; in no rate',
    outcomes UInt64 COMMENT 'deliveries + bounces: what bounce, hard, soft and blocked rate are of',
    attempts UInt64 COMMENT 'outcomes + deferred: what the deferred rate is of',
    bounce_rate Nullable(Float64) COMMENT 'bounces / outcomes',
    hard_rate Nullable(Float64) COMMENT 'hard / outcomes',
    soft_rate Nullable(Float64) COMMENT 'soft / outcomes',
    blocked_rate Nullable(Float64) COMMENT 'blocked / outcomes',
    deferred_rate Nullable(Float64) COMMENT 'deferred / attempts',
    complaint_rate Nullable(Float64) COMMENT 'complaints / deliveries',
    late_bounce_rate Nullable(Float64) COMMENT 'late_bounces / deliveries',
    failures UInt64 COMMENT 'bounces + deferred',
    failure_rate Nullable(Float64) COMMENT 'failures / attempts'
)
AS SELECT
    hour,
    toDate(hour) AS date,
    isp,
    identity,
    deliveries,
    first_attempts,
    hard,
    soft,
    hard + soft AS bounces,
    blocked,
    deferred,
    blocked_deferrals,
    complaints,
    late_bounces,
    drops,
    deliveries + bounces AS outcomes,
    outcomes + deferred AS attempts,
    bounces / nullIf(outcomes, 0) AS bounce_rate,
    hard / nullIf(outcomes, 0) AS hard_rate,
    soft / nullIf(outcomes, 0) AS soft_rate,
    blocked / nullIf(outcomes, 0) AS blocked_rate,
    deferred / nullIf(attempts, 0) AS deferred_rate,
    complaints / nullIf(deliveries, 0) AS complaint_rate,
    late_bounces / nullIf(deliveries, 0) AS late_bounce_rate,
    bounces + deferred AS failures,
    failures / nullIf(attempts, 0) AS failure_rate
FROM
(
    SELECT
        hour,
        isp,
        identity,
        sum(r.deliveries) AS deliveries,
        sum(r.first_attempts) AS first_attempts,
        sum(r.hard) AS hard,
        sum(r.soft) AS soft,
        sum(r.deferred) AS deferred,
        sum(r.blocked) AS blocked,
        sum(r.blocked_deferrals) AS blocked_deferrals,
        sum(r.complaints) AS complaints,
        sum(r.late_bounces) AS late_bounces,
        sum(r.drops) AS drops
    FROM hourly_rates AS r
    GROUP BY hour, isp, identity
)
COMMENT 'Grain: hour, ISP, identity: for curves. Rates are fractions and NULL where there is nothing to divide by; to sum over rows, sum numerators and denominators. UTC. isp local: nobody answered.';

CREATE OR REPLACE VIEW failure_breakdown
(
    date Date COMMENT 'Day of the events (UTC)',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables; local: nobody, the sending MTA itself failed',
    identity String COMMENT 'Who sent',
    event_type LowCardinality(String) COMMENT 'deferral, bounce, oob_bounce (late bounce) or complaint',
    severity LowCardinality(String) COMMENT 'hard, soft or deferred; empty for a complaint',
    category LowCardinality(String) COMMENT 'Why it was refused',
    root_cause LowCardinality(String) COMMENT 'Who must act',
    failures UInt64 COMMENT 'Failures of this kind',
    blocked UInt64 COMMENT 'Those that refused the sender or the content',
    hard UInt64 COMMENT 'Those that are permanent',
    soft UInt64 COMMENT 'Those that are final for the message alone',
    deferred UInt64 COMMENT 'Those that are tried again',
    failures_of_group UInt64 COMMENT 'All failures of that day, ISP and identity',
    share_of_group Nullable(Float64) COMMENT 'failures / failures_of_group'
)
AS SELECT
    date,
    isp,
    identity,
    kind.1 AS event_type,
    kind.2 AS severity,
    kind.3 AS category,
    kind.4 AS root_cause,
    kind.5 AS failures,
    kind.6 AS blocked,
    if(severity = 'hard', failures, 0) AS hard,
    if(severity = 'soft', failures, 0) AS soft,
    if(severity = 'deferred', failures, 0) AS deferred,
    failures_of_group,
    failures / nullIf(failures_of_group, 0) AS share_of_group
FROM
(
    SELECT
        date,
        isp,
        identity,
        groupArray((event_type, severity, category, root_cause, failures, blocked)) AS kinds,
        sum(failures) AS failures_of_group
    FROM
    (
        SELECT
            toDate(event_time) AS date,
            isp,
            identity,
            event_type,
            severity,
            category,
            root_cause,
            count() AS failures,
            countIf(blocked) AS blocked
        FROM failures
        GROUP BY date, isp, identity, event_type, severity, category, root_cause
    )
    GROUP BY date, isp, identity
)
ARRAY JOIN kinds AS kind
COMMENT 'Grain: day, ISP, identity, event type, severity, category, root cause. Every failed item is here: deferrals, bounces, late bounces (oob_bounce), complaints (without severity), local failures too. hard, soft and deferred count late bounces among them, by their severity. UTC.';

CREATE OR REPLACE VIEW smtp_patterns
(
    date Date COMMENT 'Day of the events (UTC)',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables; local: nobody, the sending MTA itself failed',
    pattern String COMMENT 'Fingerprint of the reply with its variable parts masked, 16 hexadecimal digits; empty: no reply',
    pattern_version UInt32 COMMENT 'Version of the masking: patterns of different versions cannot be compared',
    category LowCardinality(String) COMMENT 'Why it was refused',
    severity LowCardinality(String) COMMENT 'hard, soft or deferred; empty for a complaint',
    root_cause LowCardinality(String) COMMENT 'Who must act',
    action LowCardinality(String) COMMENT 'What they do about it',
    rule LowCardinality(String) COMMENT 'Id of the rule that decided',
    count UInt64 COMMENT 'Replies of this pattern',
    replies_of_isp UInt64 COMMENT 'All failed replies of that day and ISP',
    share Nullable(Float64) COMMENT 'count / replies_of_isp',
    first_seen DateTime64(3, 'UTC') COMMENT 'First of that day',
    last_seen DateTime64(3, 'UTC') COMMENT 'Last of that day',
    sample String COMMENT 'One of the replies, redacted; empty once diagnostics have expired'
)
AS SELECT
    date,
    isp,
    if(said.1 = 0, '', leftPad(lower(hex(said.1)), 16, '0')) AS pattern,
    said.2 AS pattern_version,
    said.3 AS category,
    said.4 AS severity,
    said.5 AS root_cause,
    said.6 AS action,
    said.7 AS rule,
    said.8 AS count,
    replies_of_isp,
    count / nullIf(replies_of_isp, 0) AS share,
    said.9 AS first_seen,
    said.10 AS last_seen,
    said.11 AS sample
FROM
(
    SELECT
        date,
        isp,
        groupArray((pattern, pattern_version, category, severity, root_cause, action, rule, n, first_seen, last_seen, sample)) AS patterns,
        sum(n) AS replies_of_isp
    FROM
    (
        SELECT
            toDate(event_time) AS date,
            isp,
            pattern,
            pattern_version,
            category,
            severity,
            root_cause,
            action,
            rule,
            count() AS n,
            min(event_time) AS first_seen,
            max(event_time) AS last_seen,
            anyLast(diagnostic) AS sample
        FROM failures
        WHERE pattern != 0
        GROUP BY date, isp, pattern, pattern_version, category, severity, root_cause, action, rule
    )
    GROUP BY date, isp
)
ARRAY JOIN patterns AS said
COMMENT 'Grain: day, ISP, pattern and what was decided of it. Failures without a reply (complaints) are not here. Over several days: min(first_seen), max(last_seen), sum(count). UTC.';

CREATE OR REPLACE VIEW bounce_report
(
    date Date COMMENT 'Day of the events (UTC)',
    campaign String COMMENT 'Campaign, as the source names it',
    identity String COMMENT 'Who sent',
    from_domain String COMMENT 'Domain of the header From',
    sending_ip String COMMENT 'IP address the messages were sent from',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables; local: nobody, the sending MTA itself failed',
    recipient_domain String COMMENT 'Domain of the recipient address',
    event_type LowCardinality(String) COMMENT 'deferral, bounce, oob_bounce (late bounce) or complaint',
    severity LowCardinality(String) COMMENT 'hard, soft or deferred; empty for a complaint',
    category LowCardinality(String) COMMENT 'Why it was refused',
    reply_code UInt16 COMMENT 'SMTP reply code; 0: not known',
    enhanced_code LowCardinality(String) COMMENT 'Enhanced status code (RFC 3463)',
    pattern String COMMENT 'Fingerprint of the reply with its variable parts masked, 16 hexadecimal digits; empty: no reply',
    pattern_version UInt32 COMMENT 'Version of the masking: patterns of different versions cannot be compared',
    bounce_text String COMMENT 'One of the replies, redacted; empty once diagnostics have expired',
    amount UInt64 COMMENT 'Bounces and late bounces'
)
AS SELECT
    toDate(event_time) AS date,
    campaign,
    identity,
    from_domain,
    replaceRegexpOne(f.sending_ip, '^::ffff:([0-9.]+)$', '\\1') AS sending_ip,
    isp,
    recipient_domain,
    event_type,
    severity,
    category,
    reply_code,
    enhanced_code,
    if(f.pattern = 0, '', leftPad(lower(hex(f.pattern)), 16, '0')) AS pattern,
    pattern_version,
    anyLast(diagnostic) AS bounce_text,
    count() AS amount
FROM failures AS f
WHERE event_type IN ('bounce', 'oob_bounce')
GROUP BY date, campaign, identity, from_domain, sending_ip, isp, recipient_domain, event_type, severity, category, reply_code, enhanced_code, pattern, pattern_version
COMMENT 'Grain: day, campaign, identity, From domain, sending IP, ISP, recipient domain, event type, severity, category, codes and pattern: which text came how often. For a report sum amount by campaign, from_domain or sending_ip, recipient_domain and bounce_text. UTC.';

CREATE OR REPLACE VIEW failure_details
(
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened',
    date Date COMMENT 'Its day (UTC)',
    sent_time Nullable(DateTime64(3, 'UTC')) COMMENT 'When the message was accepted for sending; NULL: not known',
    ingested_time DateTime64(3, 'UTC') COMMENT 'Kafka timestamp of the source record',
    event_type LowCardinality(String) COMMENT 'deferral, bounce, oob_bounce (late bounce) or complaint',
    severity LowCardinality(String) COMMENT 'hard, soft or deferred; empty for a complaint',
    category LowCardinality(String) COMMENT 'Why it was refused',
    blocked Bool COMMENT 'The provider refused the sender or the content, not the recipient',
    root_cause LowCardinality(String) COMMENT 'Who must act',
    action LowCardinality(String) COMMENT 'What they do about it',
    rule LowCardinality(String) COMMENT 'Id of the rule that decided',
    rules_version LowCardinality(String) COMMENT 'Version of the rules that decided',
    pattern String COMMENT 'Fingerprint of the reply with its variable parts masked, 16 hexadecimal digits; empty: no reply',
    pattern_version UInt32 COMMENT 'Version of the masking: patterns of different versions cannot be compared',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables; local: nobody, the sending MTA itself failed',
    mx_host String COMMENT 'Host name of the server that answered',
    recipient_domain String COMMENT 'Domain of the recipient address',
    recipient_hash String COMMENT 'Keyed hash of the recipient, 32 hexadecimal digits',
    recipient_key_id LowCardinality(String) COMMENT 'Which key made the hash',
    identity String COMMENT 'Who sent',
    from_domain String COMMENT 'Domain of the header From',
    sending_ip String COMMENT 'IP address the messages were sent from',
    pool LowCardinality(String) COMMENT 'IP pool',
    campaign String COMMENT 'Campaign, as the source names it',
    message_id String COMMENT 'The source''s id of the message',
    event_id String COMMENT 'The source''s own id of this event',
    reply_code UInt16 COMMENT 'SMTP reply code; 0: not known',
    enhanced_code LowCardinality(String) COMMENT 'Enhanced status code (RFC 3463)',
    diagnostic String COMMENT 'Text of the reply, redacted; empty once it has expired',
    attempt UInt32 COMMENT '1 for the first attempt; 0: not known',
    tags Map(String, String) COMMENT 'Whatever else the source carried along',
    source String COMMENT 'Kafka topic/partition/offset/item of the delivery event'
)
AS SELECT
    event_time,
    toDate(event_time) AS date,
    nullIf(f.sent_time, toDateTime64(0, 3, 'UTC')) AS sent_time,
    ingested_time,
    event_type,
    severity,
    category,
    blocked,
    root_cause,
    action,
    rule,
    rules_version,
    if(f.pattern = 0, '', leftPad(lower(hex(f.pattern)), 16, '0')) AS pattern,
    pattern_version,
    isp,
    mx_host,
    recipient_domain,
    lower(hex(f.recipient_hash)) AS recipient_hash,
    recipient_key_id,
    identity,
    from_domain,
    replaceRegexpOne(f.sending_ip, '^::ffff:([0-9.]+)$', '\\1') AS sending_ip,
    pool,
    campaign,
    message_id,
    event_id,
    reply_code,
    enhanced_code,
    diagnostic,
    attempt,
    tags,
    concatWithSeparator('/', source_topic, toString(source_partition), toString(source_offset), toString(source_item)) AS source
FROM failures AS f
COMMENT 'Grain: one failed item (deferral, bounce, late bounce or complaint), readable. No plain address is here. UTC.';

-- As before, with patterns in hexadecimal and the time to resolve.
CREATE OR REPLACE VIEW alert_transitions
(
    date Date COMMENT 'Day of the transition (UTC)',
    alert_id String COMMENT 'The same in every replica and every replay',
    rule LowCardinality(String) COMMENT 'Name of the threshold rule',
    state LowCardinality(String) COMMENT 'What it became: pending, firing or resolved',
    severity LowCardinality(String) COMMENT 'info, warning or critical',
    isp LowCardinality(String) COMMENT 'Who answered; empty: over all',
    identity String COMMENT 'Who sent; empty: over all',
    episode_start DateTime64(3, 'UTC') COMMENT 'Event time at which the threshold was crossed',
    event_time DateTime64(3, 'UTC') COMMENT 'Event time of the transition',
    metric LowCardinality(String) COMMENT 'Which rate',
    window_seconds UInt64 COMMENT 'Length of the window the rate is over',
    threshold Float64 COMMENT 'The fraction from which on it breaches',
    numerator UInt64 COMMENT 'Of the rate',
    denominator UInt64 COMMENT 'Of the rate',
    rate Nullable(Float64) COMMENT 'numerator / denominator',
    categories Map(String, UInt64) COMMENT 'The largest categories behind it, largest first',
    pattern String COMMENT 'Fingerprint of the most frequent reply, as in smtp_patterns; empty: none known',
    pattern_rule LowCardinality(String) COMMENT 'Rule that decided that pattern',
    sample String COMMENT 'One redacted reply of that pattern',
    root_cause LowCardinality(String) COMMENT 'Who must act',
    action LowCardinality(String) COMMENT 'What they do about it',
    annotations Map(String, String) COMMENT 'The rule''s own words',
    log_time DateTime64(3, 'UTC') COMMENT 'When it was decided, by the clock on the wall',
    replicas UInt64 COMMENT 'How many replicas wrote it'
)
AS SELECT
    toDate(event_time) AS date,
    alert_id,
    rule,
    state,
    severity,
    isp,
    identity,
    episode_start,
    event_time,
    metric,
    window_seconds,
    threshold,
    numerator,
    denominator,
    numerator / nullIf(denominator, 0) AS rate,
    categories,
    if(a.pattern = 0, '', leftPad(lower(hex(a.pattern)), 16, '0')) AS pattern,
    pattern_rule,
    sample,
    root_cause,
    action,
    annotations,
    log_time,
    uniqExact(replica) OVER (PARTITION BY episode_start, alert_id, state) AS replicas
FROM alerts AS a
QUALIFY row_number() OVER (PARTITION BY episode_start, alert_id, state ORDER BY log_time, kafka_offset) = 1
COMMENT 'Grain: one alert id and state, as the first replica wrote it; replicas: how many did. date is that of the transition (UTC). rate = numerator / denominator.';

-- What was found out about an alert is told as it stood when it fired; where it never did, when it was pending.
CREATE OR REPLACE VIEW alert_history
(
    date Date COMMENT 'Day of episode_start (UTC)',
    alert_id String COMMENT 'The same in every replica and every replay',
    rule String COMMENT 'Name of the threshold rule',
    severity String COMMENT 'info, warning or critical',
    isp String COMMENT 'Who answered; empty: over all',
    identity String COMMENT 'Who sent; empty: over all',
    metric String COMMENT 'Which rate',
    window_seconds UInt64 COMMENT 'Length of the window the rate is over',
    threshold Float64 COMMENT 'The fraction from which on it breaches',
    state String COMMENT 'What it is now: pending, firing or resolved',
    outcome String COMMENT 'open, resolved, or lapsed (over before it fired)',
    episode_start DateTime64(3, 'UTC') COMMENT 'Event time at which the threshold was crossed',
    pending_at Nullable(DateTime64(3, 'UTC')) COMMENT 'NULL where a rule fires at once',
    fired_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it fired; NULL: it did not',
    resolved_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it ended; NULL: it lasts',
    duration_seconds Nullable(Int64) COMMENT 'From episode_start to its end; NULL while it lasts',
    seconds_to_resolve Nullable(Int64) COMMENT 'From firing to its end; NULL: it did not fire, or it lasts',
    peak_rate Nullable(Float64) COMMENT 'Highest rate of its transitions',
    peak_numerator UInt64 COMMENT 'Of the highest rate',
    peak_denominator UInt64 COMMENT 'Of the highest rate',
    last_rate Nullable(Float64) COMMENT 'Rate at its last transition',
    last_numerator UInt64 COMMENT 'Of the last rate',
    last_denominator UInt64 COMMENT 'Of the last rate',
    top_categories Array(String) COMMENT 'Keys of categories',
    categories Map(String, UInt64) COMMENT 'The largest categories behind it, largest first',
    pattern String COMMENT 'Fingerprint of the most frequent reply, as in smtp_patterns; empty: none known',
    pattern_rule String COMMENT 'Rule that decided that pattern',
    sample String COMMENT 'One redacted reply of that pattern',
    root_cause String COMMENT 'Who must act',
    action String COMMENT 'What they do about it',
    annotations Map(String, String) COMMENT 'The rule''s own words'
)
AS SELECT
    date,
    alert_id,
    rule,
    severity,
    isp,
    identity,
    metric,
    window_seconds,
    threshold,
    multiIf(resolved_at IS NOT NULL, 'resolved', fired_at IS NOT NULL, 'firing', 'pending') AS state,
    multiIf(resolved_at IS NULL, 'open', fired_at IS NULL, 'lapsed', 'resolved') AS outcome,
    episode_start,
    pending_at,
    fired_at,
    resolved_at,
    dateDiff('second', episode_start, resolved_at) AS duration_seconds,
    dateDiff('second', fired_at, resolved_at) AS seconds_to_resolve,
    highest.1 AS peak_rate,
    highest.2 AS peak_numerator,
    highest.3 AS peak_denominator,
    latest.1 / nullIf(latest.2, 0) AS last_rate,
    latest.1 AS last_numerator,
    latest.2 AS last_denominator,
    mapKeys(evidence.1) AS top_categories,
    evidence.1 AS categories,
    evidence.2 AS pattern,
    evidence.3 AS pattern_rule,
    evidence.4 AS sample,
    evidence.5 AS root_cause,
    evidence.6 AS action,
    evidence.7 AS annotations
FROM
(
    SELECT
        toDate(episode_start) AS date,
        episode_start,
        alert_id,
        any(t.rule) AS rule,
        any(t.severity) AS severity,
        any(t.isp) AS isp,
        any(t.identity) AS identity,
        any(t.metric) AS metric,
        any(t.window_seconds) AS window_seconds,
        any(t.threshold) AS threshold,
        minOrNullIf(event_time, t.state = 'pending') AS pending_at,
        minOrNullIf(event_time, t.state = 'firing') AS fired_at,
        minOrNullIf(event_time, t.state = 'resolved') AS resolved_at,
        argMax((rate, numerator, denominator), (ifNull(rate, 0), -toUnixTimestamp64Milli(event_time))) AS highest,
        argMax((numerator, denominator), (event_time, t.state = 'resolved', t.state = 'firing')) AS latest,
        argMax(
            (t.categories, t.pattern, t.pattern_rule, t.sample, t.root_cause, t.action, t.annotations),
            (t.state = 'firing', t.state = 'pending')
        ) AS evidence
    FROM alert_transitions AS t
    GROUP BY date, episode_start, alert_id
)
COMMENT 'Grain: one alert. state: what it is now; outcome: open, resolved, or lapsed (pending, but over before it fired). date is that of episode_start (UTC). pending_at is empty where a rule fires at once. duration_seconds: from the start of the episode to its end, empty while it lasts. peak and last rate are of its transitions. categories, pattern, pattern_rule, sample, root cause, action, annotations: as it fired.';
