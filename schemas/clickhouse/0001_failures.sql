-- One row per classified failure, as on the failures topic. The sink sends every column: no default may depend on when or
-- where a row was inserted, or a repeat under the same token would differ.
--
-- Sorted for "what fails at this ISP, on these days, for this identity". Providers are few, so the ISP comes first; the day comes before
-- the identity, so that a week of one ISP is what is read of it, and its newest rows stand close together. One identity then
-- stands at some place of each ISP and day, which is why granules are small: a quarter of the usual, at no cost in bytes.
-- 100,000 blocks of tokens are remembered: at one insert a second that is a day, and `bounceflow` refuses less.
CREATE TABLE IF NOT EXISTS failures
(
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened; clamped where the source''s clock ran ahead',
    sent_time DateTime64(3, 'UTC') COMMENT 'When the message was accepted for sending; 1970-01-01: not known',
    ingested_time DateTime64(3, 'UTC') COMMENT 'Kafka timestamp of the source record',
    event_type LowCardinality(String) COMMENT 'deferral, bounce, oob_bounce (late bounce) or complaint',
    severity LowCardinality(String) COMMENT 'hard, soft or deferred; empty for a complaint',
    category LowCardinality(String) COMMENT 'Why it was refused, such as mailbox_full; an open set',
    blocked Bool COMMENT 'The provider refused the sender or the content, not the recipient',
    root_cause LowCardinality(String) COMMENT 'Who must act: list, content, authentication, infrastructure, throttling, reputation, mailbox, unknown',
    action LowCardinality(String) COMMENT 'What they do about it',
    rule LowCardinality(String) COMMENT 'Id of the rule that decided',
    rules_version LowCardinality(String) COMMENT 'Version of the rules that decided',
    pattern UInt64 COMMENT 'Fingerprint of the diagnostic with its variable parts masked; 0: no diagnostic',
    pattern_version UInt32 COMMENT 'Version of the masking: patterns of different versions cannot be compared',
    isp LowCardinality(String) COMMENT 'Who answered; other: outside the tables; local: nobody, the sending MTA itself failed',
    identity String COMMENT 'Who sent; the From domain unless configured otherwise',
    recipient_domain String COMMENT 'Domain of the recipient address',
    recipient_hash FixedString(16) COMMENT 'First 16 bytes of HMAC-SHA-256 over the lower-cased address; show it with hex()',
    recipient_key_id LowCardinality(String) COMMENT 'Which key made the hash',
    recipient String COMMENT 'Plain address; empty unless the operator asked for it',
    mx_host String COMMENT 'Host name of the server that answered',
    from_domain String COMMENT 'Domain of the header From',
    sending_ip String COMMENT 'IP address the message was sent from',
    pool LowCardinality(String) COMMENT 'IP pool',
    campaign String COMMENT 'Campaign, as the source names it',
    message_id String COMMENT 'The source''s id of the message',
    event_id String COMMENT 'The source''s own id of this event',
    reply_code UInt16 COMMENT 'SMTP reply code, such as 550; 0: not known',
    enhanced_code LowCardinality(String) COMMENT 'Enhanced status code (RFC 3463), such as 5.1.1',
    diagnostic String COMMENT 'Text of the reply, redacted, at most 4096 bytes' CODEC(ZSTD(1)),
    command LowCardinality(String) COMMENT 'SMTP verb that was answered',
    feedback_type LowCardinality(String) COMMENT 'For complaints: Feedback-Type (RFC 5965), such as abuse',
    attempt UInt32 COMMENT '1 for the first attempt; 0: not known',
    tags Map(String, String) COMMENT 'Whatever else the source carried along',
    source_topic LowCardinality(String) COMMENT 'Kafka position of the delivery event this came from',
    source_partition Int32 COMMENT 'Kafka position of the delivery event this came from',
    source_offset Int64 COMMENT 'Kafka position of the delivery event this came from',
    source_item UInt32 COMMENT 'Which item of that record, from 0',
    kafka_topic LowCardinality(String) COMMENT 'Position of this row in the failures topic: the sink counts by it after a broken connection',
    kafka_partition Int32 COMMENT 'Position of this row in the failures topic',
    kafka_offset Int64 COMMENT 'Position of this row in the failures topic',
    -- Offsets grow with time inside each ISP, day and identity, so this prunes a count of a range to a few granules.
    INDEX kafka_position (kafka_partition, kafka_offset) TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (isp, toDate(event_time), identity, event_time)
SETTINGS non_replicated_deduplication_window = 100000, index_granularity = 2048
COMMENT 'Grain: one failed item (deferral, bounce, late bounce or complaint) of one delivery event. Deliveries are only counted: see delivery_rates.';
