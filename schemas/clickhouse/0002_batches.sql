-- One row per record of the rates topic: what a classify transaction covered (`sources`) and what it counted (`rows`).
-- One insert here feeds delivery_rates through a materialized view, under one token; so a range of the topic is in both or, after
-- the sink's repeat, in both. The totals beside `rows` make the audit cheap and keep it exact once `rows` has expired.
CREATE TABLE IF NOT EXISTS batches
(
    kafka_topic LowCardinality(String) COMMENT 'Position of this record in the rates topic',
    kafka_partition Int32 COMMENT 'Position of this record in the rates topic',
    kafka_offset Int64 COMMENT 'Position of this record in the rates topic',
    log_time DateTime64(3, 'UTC') COMMENT 'When the broker appended the record',
    producer LowCardinality(String) COMMENT 'transactional.id of the thread that counted',
    part UInt32 COMMENT 'Which part of its transaction, from 0; sources, ignored and patterns are complete over all parts',
    parts UInt32 COMMENT 'How many parts the transaction was split into',
    rules_version LowCardinality(String) COMMENT 'Version of the rules that classified',
    pattern_version UInt32 COMMENT 'Version of the masking behind the patterns',

    items UInt64 COMMENT 'Items counted in rows: deliveries + hard + soft + deferred + complaints + late_bounces + drops',
    deliveries UInt64 COMMENT 'Sum over rows',
    first_attempts UInt64 COMMENT 'Sum over rows',
    hard UInt64 COMMENT 'Sum over rows',
    soft UInt64 COMMENT 'Sum over rows',
    deferred UInt64 COMMENT 'Sum over rows',
    blocked UInt64 COMMENT 'Sum over rows',
    blocked_deferrals UInt64 COMMENT 'Sum over rows',
    complaints UInt64 COMMENT 'Sum over rows',
    late_bounces UInt64 COMMENT 'Sum over rows',
    drops UInt64 COMMENT 'Sum over rows',
    categorized_bounces UInt64 COMMENT 'Sum over rows and categories',
    categorized_deferrals UInt64 COMMENT 'Sum over rows and categories',
    categorized_late_bounces UInt64 COMMENT 'Sum over rows and categories',

    sources Nested
    (
        topic LowCardinality(String),
        partition Int32,
        first_offset Int64,
        last_offset Int64,
        records UInt64,
        items UInt64,
        dead_lettered UInt64,
        max_event_time Nullable(DateTime64(3, 'UTC')),
        end_reached Bool
    ) COMMENT 'What the transaction covers of each input partition, in part 0 only; last_offset = first_offset - 1: nothing (a heartbeat)',

    ignored Nested
    (
        reason LowCardinality(String),
        count UInt64
    ) COMMENT 'Items that say nothing about a delivery',

    patterns Nested
    (
        pattern UInt64,
        isp LowCardinality(String),
        identity String,
        category LowCardinality(String),
        rule LowCardinality(String),
        count UInt64,
        sample String
    ) COMMENT 'The most frequent patterns of the transaction',

    -- Spelt out, not `Nested`: only so can each column expire. They must keep one length, so all have the same TTL: as long as
    -- the rates topic keeps its records. The view reads the inserted block, so nothing it counts can expire before.
    `rows.bucket` Array(DateTime('UTC')) COMMENT 'Start of the 10 s bucket of event time' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.isp` Array(LowCardinality(String)) COMMENT 'Who answered' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.identity` Array(String) COMMENT 'Who sent' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.sending_ip` Array(String) COMMENT 'IP address the messages were sent from' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.campaign` Array(String) COMMENT 'Campaign' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.deliveries` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.first_attempts` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.hard` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.soft` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.deferred` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.blocked` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.blocked_deferrals` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.complaints` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.late_bounces` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.drops` Array(UInt64) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.bounce_categories` Array(Map(String, UInt64)) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.deferral_categories` Array(Map(String, UInt64)) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY,
    `rows.late_bounce_categories` Array(Map(String, UInt64)) COMMENT 'As in delivery_rates' TTL toDateTime(log_time) + INTERVAL 8 DAY
)
ENGINE = MergeTree
-- By day, so that expiring `rows` rewrites each day once and nothing else.
PARTITION BY toYYYYMMDD(log_time)
ORDER BY (kafka_topic, kafka_partition, kafka_offset)
SETTINGS non_replicated_deduplication_window = 100000, merge_with_ttl_timeout = 86400
COMMENT 'Grain: one record of the rates topic (a part of one classify transaction). For the audit; analysts read delivery_rates.';
