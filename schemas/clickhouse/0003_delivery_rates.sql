-- Counts per minute. AggregatingMergeTree rather than SummingMergeTree: the latter drops a row whose plain sums are all zero
-- (a row that has only drops in a map, say) and adds up a plain Map wrongly at merge.
-- Rows of one key are added up by merges, whenever those happen: always read through sum(...) GROUP BY.
-- The month leads the partition; the minute comes last in the key so that one ISP or identity reads few granules.
CREATE TABLE IF NOT EXISTS delivery_rates
(
    minute DateTime('UTC') COMMENT 'Start of the minute of event time',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables; local: nobody, the sending MTA itself failed',
    identity String COMMENT 'Who sent',
    sending_ip String COMMENT 'IP address the messages were sent from',
    campaign String COMMENT 'Campaign; other: beyond the cap of campaigns per transaction',
    deliveries SimpleAggregateFunction(sum, UInt64) COMMENT 'Accepted',
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'Deliveries, deferrals and bounces that were the first attempt of their message',
    hard SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces: permanent',
    soft SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces: final for this message only',
    deferred SimpleAggregateFunction(sum, UInt64) COMMENT 'Deferrals; one message deferred ten times is ten',
    blocked SimpleAggregateFunction(sum, UInt64) COMMENT 'Bounces that refused the sender or the content; part of hard and soft',
    blocked_deferrals SimpleAggregateFunction(sum, UInt64) COMMENT 'Deferrals that refused the sender or the content; part of deferred',
    complaints SimpleAggregateFunction(sum, UInt64) COMMENT 'Feedback loop reports',
    late_bounces SimpleAggregateFunction(sum, UInt64) COMMENT 'DSNs that came after a delivery',
    drops SimpleAggregateFunction(sum, UInt64) COMMENT 'Never attempted: the sender''s own suppression or policy; in no rate',
    bounce_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Bounces by category; read with sumMap',
    deferral_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Deferrals by category; read with sumMap',
    late_bounce_categories SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'Late bounces by category; read with sumMap'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (isp, identity, minute, sending_ip, campaign)
SETTINGS non_replicated_deduplication_window = 100000
COMMENT 'Grain: minute, ISP, identity, sending IP and campaign; several rows of one key until merged, so read through sum() GROUP BY.';

-- Grouped here so that one transaction's 10 s buckets become one row per minute; reads the inserted block only.
CREATE MATERIALIZED VIEW IF NOT EXISTS delivery_rates_mv TO delivery_rates AS
SELECT
    toStartOfMinute(rows.bucket) AS minute,
    rows.isp AS isp,
    rows.identity AS identity,
    rows.sending_ip AS sending_ip,
    rows.campaign AS campaign,
    sum(rows.deliveries) AS deliveries,
    sum(rows.first_attempts) AS first_attempts,
    sum(rows.hard) AS hard,
    sum(rows.soft) AS soft,
    sum(rows.deferred) AS deferred,
    sum(rows.blocked) AS blocked,
    sum(rows.blocked_deferrals) AS blocked_deferrals,
    sum(rows.complaints) AS complaints,
    sum(rows.late_bounces) AS late_bounces,
    sum(rows.drops) AS drops,
    sumMap(rows.bounce_categories) AS bounce_categories,
    sumMap(rows.deferral_categories) AS deferral_categories,
    sumMap(rows.late_bounce_categories) AS late_bounce_categories
FROM batches
ARRAY JOIN rows
GROUP BY minute, isp, identity, sending_ip, campaign;
