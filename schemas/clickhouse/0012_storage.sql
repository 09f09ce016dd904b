-- How rows are stored: compression by what a column holds, and for how long a class of data is kept.
--
-- Times and offsets grow by little along the sort key: their differences are small. Hashes are noise, which no codec shrinks.
-- Measured on a million failures and five million rates (bytes a row after merges, before and after): see the changelog.
ALTER TABLE failures MODIFY COLUMN IF EXISTS event_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN IF EXISTS sent_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN IF EXISTS ingested_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN IF EXISTS pattern CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS identity CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS recipient_domain CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS recipient_hash CODEC(NONE),
    MODIFY COLUMN IF EXISTS mx_host CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS from_domain CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS sending_ip CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS campaign CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS message_id CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS event_id CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS diagnostic CODEC(ZSTD(3)),
    MODIFY COLUMN IF EXISTS tags CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS source_offset CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN IF EXISTS kafka_offset CODEC(Delta, ZSTD(1));

ALTER TABLE delivery_rates MODIFY COLUMN IF EXISTS minute CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN IF EXISTS identity CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS sending_ip CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS campaign CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS deliveries CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS first_attempts CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS hard CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS soft CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS deferred CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS blocked CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS blocked_deferrals CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS complaints CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS late_bounces CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS drops CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS bounce_categories CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS deferral_categories CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS late_bounce_categories CODEC(ZSTD(1));

-- What [clickhouse.retention] said when `bounceflow migrate` ran last: it changes the tables where the configuration says otherwise.
CREATE TABLE IF NOT EXISTS retention
(
    class LowCardinality(String) COMMENT 'What is kept: diagnostics, failures or rates',
    days UInt32 COMMENT 'For how long after the event; 0: for ever',
    set_at DateTime64(3, 'UTC') COMMENT 'When it was set; the newest of a class holds'
)
ENGINE = MergeTree
ORDER BY (class, set_at)
COMMENT 'Grain: one change of how long a class of data is kept. To be changed in the configuration: bounceflow migrate makes it so.';
