-- Roll-ups of delivery_rates for the questions of analysts, who ask for days and weeks, by ISP or by identity. One sort key cannot
-- serve both, so there are two by day: each begins with the date, of which a month has few, so that a range of days and one ISP, or
-- one identity, is a handful of ranges. The hourly one is for curves of one ISP or one sender.
--
-- They are fed by views chained to delivery_rates: one insert into batches reaches all of them under its token, and a repeat none.
-- `bounceflow replay` makes them anew from delivery_rates, month by month (warehouse/src/rollups.rs says the same SELECTs), so they
-- have its partitions. Granules are small because a roll-up has few rows and a filter often leaves a few hundred of them.
-- What was counted before this migration is not in them: where there is any, fill them once, with the sink stopped, by
-- INSERT INTO <roll-up> and the SELECT of its view.

CREATE TABLE IF NOT EXISTS hourly_rates
(
    hour DateTime('UTC') COMMENT 'Start of the hour of event time' CODEC(Delta, ZSTD(1)),
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables; local: nobody, the sending MTA itself failed' CODEC(ZSTD(1)),
    identity String COMMENT 'Who sent' CODEC(ZSTD(1)),
    deliveries SimpleAggregateFunction(sum, UInt64) COMMENT 'Accepted' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message' CODEC(T64, ZSTD(1)),
    hard SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces: permanent' CODEC(T64, ZSTD(1)),
    soft SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces: final for this message only' CODEC(T64, ZSTD(1)),
    deferred SimpleAggregateFunction(sum, UInt64) COMMENT 'Deferrals; one message deferred ten times is ten' CODEC(T64, ZSTD(1)),
    blocked SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces that refused the sender or the content; part of hard and soft' CODEC(T64, ZSTD(1)),
    blocked_deferrals SimpleAggregateFunction(sum, UInt64) COMMENT 'Deferrals that refused the sender or the content; part of deferred' CODEC(T64, ZSTD(1)),
    complaints SimpleAggregateFunction(sum, UInt64) COMMENT 'Feedback loop reports' CODEC(T64, ZSTD(1)),
    late_bounces SimpleAggregateFunction(sum, UInt64) COMMENT 'DSNs that came after a delivery' CODEC(T64, ZSTD(1)),
    drops SimpleAggregateFunction(sum, UInt64) COMMENT 'Never attempted: the sender''s own suppression or policy; in no rate' CODEC(T64, ZSTD(1)),
    bounce_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Bounces by category; read with sumMap' CODEC(ZSTD(1)),
    deferral_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Deferrals by category; read with sumMap' CODEC(ZSTD(1)),
    late_bounce_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Late bounces by category; read with sumMap' CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (isp, identity, hour)
SETTINGS non_replicated_deduplication_window = 100000, index_granularity = 1024
COMMENT 'Grain: hour, ISP, identity; several rows of one key until merged, so read through sum() GROUP BY.';

CREATE MATERIALIZED VIEW IF NOT EXISTS hourly_rates_mv TO hourly_rates AS
SELECT
    toStartOfHour(minute) AS hour,
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
    sumMap(r.bounce_categories) AS bounce_categories,
    sumMap(r.deferral_categories) AS deferral_categories,
    sumMap(r.late_bounce_categories) AS late_bounce_categories
FROM delivery_rates AS r
GROUP BY hour, isp, identity;

CREATE TABLE IF NOT EXISTS daily_rates
(
    date Date COMMENT 'Day of event time (UTC)' CODEC(ZSTD(1)),
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables; local: nobody, the sending MTA itself failed' CODEC(ZSTD(1)),
    identity String COMMENT 'Who sent' CODEC(ZSTD(1)),
    sending_ip String COMMENT 'IP address the messages were sent from; IPv4 as such, never inside IPv6' CODEC(ZSTD(1)),
    deliveries SimpleAggregateFunction(sum, UInt64) COMMENT 'Accepted' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message' CODEC(T64, ZSTD(1)),
    hard SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces: permanent' CODEC(T64, ZSTD(1)),
    soft SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces: final for this message only' CODEC(T64, ZSTD(1)),
    deferred SimpleAggregateFunction(sum, UInt64) COMMENT 'Deferrals; one message deferred ten times is ten' CODEC(T64, ZSTD(1)),
    blocked SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces that refused the sender or the content; part of hard and soft' CODEC(T64, ZSTD(1)),
    blocked_deferrals SimpleAggregateFunction(sum, UInt64) COMMENT 'Deferrals that refused the sender or the content; part of deferred' CODEC(T64, ZSTD(1)),
    complaints SimpleAggregateFunction(sum, UInt64) COMMENT 'Feedback loop reports' CODEC(T64, ZSTD(1)),
    late_bounces SimpleAggregateFunction(sum, UInt64) COMMENT 'DSNs that came after a delivery' CODEC(T64, ZSTD(1)),
    drops SimpleAggregateFunction(sum, UInt64) COMMENT 'Never attempted: the sender''s own suppression or policy; in no rate' CODEC(T64, ZSTD(1)),
    bounce_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Bounces by category; read with sumMap' CODEC(ZSTD(1)),
    deferral_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Deferrals by category; read with sumMap' CODEC(ZSTD(1)),
    late_bounce_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Late bounces by category; read with sumMap' CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(date)
ORDER BY (date, isp, identity, sending_ip)
SETTINGS non_replicated_deduplication_window = 100000, index_granularity = 1024
COMMENT 'Grain: day (UTC), ISP, identity and sending IP; several rows of one key until merged, so read through sum() GROUP BY. For questions by ISP.';

CREATE MATERIALIZED VIEW IF NOT EXISTS daily_rates_mv TO daily_rates AS
SELECT
    toDate(minute) AS date,
    isp,
    identity,
    replaceRegexpOne(r.sending_ip, '^::ffff:([0-9.]+)$', '\\1') AS sending_ip,
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
FROM delivery_rates AS r
GROUP BY date, isp, identity, sending_ip;

CREATE TABLE IF NOT EXISTS daily_rates_by_identity
(
    date Date COMMENT 'Day of event time (UTC)' CODEC(ZSTD(1)),
    identity String COMMENT 'Who sent' CODEC(ZSTD(1)),
    campaign String COMMENT 'Campaign; other: beyond the cap of campaigns per transaction' CODEC(ZSTD(1)),
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables; local: nobody, the sending MTA itself failed' CODEC(ZSTD(1)),
    deliveries SimpleAggregateFunction(sum, UInt64) COMMENT 'Accepted' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message' CODEC(T64, ZSTD(1)),
    hard SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces: permanent' CODEC(T64, ZSTD(1)),
    soft SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces: final for this message only' CODEC(T64, ZSTD(1)),
    deferred SimpleAggregateFunction(sum, UInt64) COMMENT 'Deferrals; one message deferred ten times is ten' CODEC(T64, ZSTD(1)),
    blocked SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces that refused the sender or the content; part of hard and soft' CODEC(T64, ZSTD(1)),
    blocked_deferrals SimpleAggregateFunction(sum, UInt64) COMMENT 'Deferrals that refused the sender or the content; part of deferred' CODEC(T64, ZSTD(1)),
    complaints SimpleAggregateFunction(sum, UInt64) COMMENT 'Feedback loop reports' CODEC(T64, ZSTD(1)),
    late_bounces SimpleAggregateFunction(sum, UInt64) COMMENT 'DSNs that came after a delivery' CODEC(T64, ZSTD(1)),
    drops SimpleAggregateFunction(sum, UInt64) COMMENT 'Never attempted: the sender''s own suppression or policy; in no rate' CODEC(T64, ZSTD(1)),
    bounce_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Bounces by category; read with sumMap' CODEC(ZSTD(1)),
    deferral_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Deferrals by category; read with sumMap' CODEC(ZSTD(1)),
    late_bounce_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Late bounces by category; read with sumMap' CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(date)
ORDER BY (date, identity, campaign, isp)
SETTINGS non_replicated_deduplication_window = 100000, index_granularity = 1024
COMMENT 'Grain: day (UTC), identity, campaign and ISP; several rows of one key until merged, so read through sum() GROUP BY. For questions by identity.';

CREATE MATERIALIZED VIEW IF NOT EXISTS daily_rates_by_identity_mv TO daily_rates_by_identity AS
SELECT
    toDate(minute) AS date,
    identity,
    campaign,
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
FROM delivery_rates AS r
GROUP BY date, identity, campaign, isp;
