-- Who was erased, and which rows of `failures` went for it. `bounceflow erase` writes both before it deletes, so that erasing
-- broken off anywhere can be run again: repeats are merged away, and readers count keys, not rows.
CREATE TABLE IF NOT EXISTS erased_recipients
(
    recipient_key_id LowCardinality(String) COMMENT 'Which key made the hash',
    recipient_hash FixedString(16) COMMENT 'As in failures: input that is counted again must leave these people out',
    erased_at DateTime64(3, 'UTC') COMMENT 'When it was asked for'
)
ENGINE = ReplacingMergeTree
ORDER BY (recipient_key_id, recipient_hash)
COMMENT 'Grain: one person under one key. No address is here, and none can be had from it without the key.';

CREATE TABLE IF NOT EXISTS erased_rows
(
    kafka_topic LowCardinality(String) COMMENT 'Position the row had in the failures topic',
    kafka_partition Int32 COMMENT 'Position the row had in the failures topic',
    kafka_offset Int64 COMMENT 'Position the row had in the failures topic'
)
ENGINE = ReplacingMergeTree
ORDER BY (kafka_topic, kafka_partition, kafka_offset)
COMMENT 'Grain: one erased row of failures. The audit needs it: these were counted, and are rightly not stored.';
