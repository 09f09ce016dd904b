-- Two weeks of mail, 2026-03-01 to 2026-03-14 (UTC), for the answers in docs/analysts.md: made up, but the same everywhere and always.
-- Four senders, four providers, and what happens to them: kinds of replies by sender and provider, per 10,000 messages and day.
-- Chance is a hash of who, where and when, so that nothing is random.

CREATE TABLE example_senders (identity String, campaign String, ip String, pool String, volume Float64, from_day UInt8, until_day UInt8)
ENGINE = Memory;

INSERT INTO example_senders VALUES
    ('shop.example', 'spring-sale', '192.0.2.10', 'marketing', 5200, 3, 13),
    ('shop.example', 'newsletter', '192.0.2.11', 'marketing', 2600, 0, 13),
    ('news.example', 'daily-digest', '192.0.2.20', 'bulk', 4200, 0, 13),
    ('bank.example', 'statements', '192.0.2.30', 'transactional', 1500, 0, 13),
    ('travel.example', 'winback-2024', '192.0.2.11', 'marketing', 900, 8, 13);

CREATE TABLE example_isps (isp String, domain String, mx String, share Float64) ENGINE = Memory;

INSERT INTO example_isps VALUES
    ('gmail', 'gmail.com', 'gmail-smtp-in.l.google.com', 0.44),
    ('outlook', 'outlook.com', 'outlook-com.olc.protection.outlook.com', 0.24),
    ('yahoo', 'yahoo.com', 'mta7.am0.yahoodns.net', 0.2),
    ('gmx', 'gmx.de', 'mx00.gmx.net', 0.12);

-- An empty identity or campaign: of all.
CREATE TABLE example_replies
(
    isp String, identity String, campaign String, from_day UInt8, until_day UInt8, rate Float64,
    event_type String, severity String, category String, blocked Bool, root_cause String, action String, rule String,
    pattern UInt64, reply_code UInt16, enhanced_code String, attempt UInt32, diagnostic String
)
ENGINE = Memory;

INSERT INTO example_replies VALUES
    ('gmail', '', '', 0, 13, 45, 'bounce', 'hard', 'invalid_recipient', false, 'list', 'remove_recipient', 'google.no_such_user', 0x3a1f5c0e92d47b61, 550, '5.1.1', 1, '550-5.1.1 The email account that you tried to reach does not exist.'),
    ('gmail', '', '', 0, 13, 30, 'deferral', 'deferred', 'mailbox_full', false, 'mailbox', 'retry_later', 'google.inbox_full', 0x71c2a90b44e8d315, 452, '4.2.2', 1, '452-4.2.2 The recipient''s inbox is out of storage space.'),
    ('gmail', '', '', 0, 13, 6, 'bounce', 'soft', 'mailbox_full', false, 'mailbox', 'retry_later', 'google.inbox_full', 0x71c2a90b44e8d315, 452, '4.2.2', 4, '452-4.2.2 The recipient''s inbox is out of storage space.'),
    ('gmail', 'shop.example', 'spring-sale', 4, 13, 90, 'deferral', 'deferred', 'rate_limited', true, 'throttling', 'reduce_velocity', 'google.rate_of_mail', 0x05d8e6f1b37a2c94, 421, '4.7.28', 1, '421-4.7.28 Gmail has detected an unusual rate of mail originating from your SPF domain.'),
    ('gmail', 'travel.example', '', 13, 13, 260, 'bounce', 'soft', 'authentication', true, 'authentication', 'fix_authentication', 'google.unauthenticated', 0x9be410c7a5f2386d, 550, '5.7.26', 1, '550-5.7.26 Your email has been blocked because the sender is unauthenticated.'),
    ('gmail', 'travel.example', '', 8, 13, 420, 'bounce', 'hard', 'invalid_recipient', false, 'list', 'remove_recipient', 'google.no_such_user', 0x3a1f5c0e92d47b61, 550, '5.1.1', 1, '550-5.1.1 The email account that you tried to reach does not exist.'),
    ('gmail', 'travel.example', '', 8, 13, 40, 'bounce', 'hard', 'inactive_mailbox', false, 'list', 'remove_recipient', 'google.inbox_full_and_inactive', 0xc4470f9e12ab6d83, 552, '5.2.2', 3, '552-5.2.2 The recipient''s inbox is out of storage space and inactive.'),
    ('outlook', '', '', 0, 13, 40, 'bounce', 'hard', 'invalid_recipient', false, 'list', 'remove_recipient', 'microsoft.mailbox_unavailable', 0x1e6b38d0f57c9a42, 550, '5.5.0', 1, '550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).'),
    ('outlook', '', '', 0, 13, 20, 'deferral', 'deferred', 'rate_limited', false, 'throttling', 'reduce_velocity', 'microsoft.server_busy', 0xa0937d25e4c81f6b, 451, '4.7.500', 1, '451 4.7.500 Server busy. Please try again later.'),
    ('outlook', 'news.example', '', 9, 13, 2900, 'bounce', 'soft', 'reputation', true, 'reputation', 'request_delisting', 'microsoft.ip_listed', 0x8f02b6c95d1e7a34, 550, '5.7.1', 1, '550 5.7.1 Unfortunately, messages from [<ip>] weren''t sent. Please contact your Internet service provider since part of their network is on our block list (S3150).'),
    ('outlook', '', '', 0, 13, 4, 'oob_bounce', 'soft', 'mailbox_full', false, 'mailbox', 'retry_later', 'microsoft.quota_exceeded', 0x62d9f7a13b8c05e0, 554, '5.2.2', 1, '554 5.2.2 STOREDRV.Deliver.Exception:QuotaExceededException'),
    ('yahoo', '', '', 0, 13, 35, 'bounce', 'hard', 'invalid_recipient', false, 'list', 'remove_recipient', 'yahoo.no_account', 0xd57310ea86bf294c, 554, '', 1, '554 delivery error: dd This user doesn''t have a yahoo.com account (<address>) [0]'),
    ('yahoo', 'shop.example', 'spring-sale', 6, 13, 700, 'deferral', 'deferred', 'reputation', true, 'reputation', 'reduce_velocity', 'yahoo.deferred', 0x4c81aa570de693fb, 421, '4.7.0', 1, '421 4.7.0 [TSS04] Messages from <ip> temporarily deferred due to unexpected volume or user complaints'),
    ('yahoo', '', '', 0, 13, 5, 'complaint', '', 'complaint', false, '', '', 'event.complaint', 0, 0, '', 0, ''),
    ('yahoo', 'shop.example', 'spring-sale', 3, 13, 38, 'complaint', '', 'complaint', false, '', '', 'event.complaint', 0, 0, '', 0, ''),
    ('outlook', 'travel.example', '', 8, 13, 25, 'complaint', '', 'complaint', false, '', '', 'event.complaint', 0, 0, '', 0, ''),
    ('gmx', '', '', 0, 13, 30, 'bounce', 'hard', 'invalid_recipient', false, 'list', 'remove_recipient', 'recipient.unknown', 0xe91d45b70c6a82f3, 550, '5.1.1', 1, '550 Requested action not taken: mailbox unavailable'),
    ('gmx', 'news.example', '', 13, 13, 180, 'bounce', 'soft', 'spam_content', true, 'content', 'review_content', 'content.spam', 0xb2c86e03f94d571a, 554, '', 1, '554 Transaction failed: message content rejected'),
    ('gmx', '', '', 0, 13, 3, 'oob_bounce', 'hard', 'invalid_recipient', false, 'list', 'remove_recipient', 'recipient.unknown', 0xe91d45b70c6a82f3, 550, '5.1.1', 1, '550 Requested action not taken: mailbox unavailable');

INSERT INTO failures (event_time, sent_time, ingested_time, event_type, severity, category, blocked, root_cause, action, rule,
    rules_version, pattern, pattern_version, isp, identity, recipient_domain, recipient_hash, recipient_key_id, mx_host, from_domain,
    sending_ip, pool, campaign, message_id, event_id, reply_code, enhanced_code, diagnostic, command, feedback_type, attempt,
    source_topic, source_partition, source_offset, source_item, kafka_topic, kafka_partition, kafka_offset)
SELECT toDateTime64('2026-03-01 00:00:00', 3, 'UTC') + 86400 * day + (hash % 86400000) / 1000 AS event_time, event_time - 4 AS sent_time,
    event_time + 2 AS ingested_time, event_type, severity, category, blocked, root_cause, action, rule, '1', pattern, 1, isp, identity,
    domain, toFixedString(substring(reinterpretAsString(sipHash128(hash)), 1, 16), 16), 'k1', mx, identity, ip, pool, campaign,
    hex(hash) AS message_id, concat('e-', message_id), reply_code, enhanced_code, diagnostic, if(pattern = 0, '', 'RCPT'),
    if(event_type = 'complaint', 'abuse', ''), attempt, 'delivery.events', 0,
    rowNumberInAllBlocks(), 0, 'bounceflow.failures', 0, rowNumberInAllBlocks()
FROM
(
    SELECT *, sipHash64(day, identity, campaign, isp, pattern, event_type, attempt, number) AS hash
    FROM
    (
        SELECT s.identity AS identity, s.campaign AS campaign, ip, pool, i.isp AS isp, domain, mx, day, event_type, severity, category,
            blocked, root_cause, action, rule, pattern, reply_code, enhanced_code, attempt, diagnostic,
            volume * share * rate / 10000 AS mean,
            (sipHash64('count', day, s.identity, s.campaign, i.isp, pattern, event_type, attempt) % 1000) / 1000 AS chance,
            arrayJoin(range(toUInt32(mean * (0.8 + 0.4 * chance) + chance))) AS number
        FROM example_senders AS s
        CROSS JOIN example_isps AS i
        CROSS JOIN (SELECT toUInt8(number) AS day FROM numbers(14)) AS d
        INNER JOIN example_replies AS r ON r.isp = i.isp
        WHERE (r.identity = '' OR r.identity = s.identity) AND (r.campaign = '' OR r.campaign = s.campaign)
            AND day BETWEEN r.from_day AND r.until_day AND day BETWEEN s.from_day AND s.until_day
    )
)
ORDER BY event_time, hash
SETTINGS max_threads = 1, max_insert_threads = 1;

-- What was counted: the failures above, and deliveries by the hour.
INSERT INTO delivery_rates
SELECT toStartOfMinute(event_time) AS minute, isp, identity, sending_ip, campaign, 0, countIf(event_type IN ('deferral', 'bounce') AND attempt = 1),
    countIf(event_type = 'bounce' AND severity = 'hard'), countIf(event_type = 'bounce' AND severity = 'soft'), countIf(event_type = 'deferral'),
    countIf(event_type = 'bounce' AND blocked), countIf(event_type = 'deferral' AND blocked), countIf(event_type = 'complaint'),
    countIf(event_type = 'oob_bounce'), 0, sumMapIf(map(toString(category), toUInt64(1)), event_type = 'bounce'),
    sumMapIf(map(toString(category), toUInt64(1)), event_type = 'deferral'), sumMapIf(map(toString(category), toUInt64(1)), event_type = 'oob_bounce')
FROM failures
GROUP BY minute, isp, identity, sending_ip, campaign;

INSERT INTO delivery_rates
SELECT toDateTime('2026-03-01 00:00:00', 'UTC') + 3600 * hour AS minute, isp, identity, ip, campaign,
    toUInt64(volume * share / 24 * (0.8 + 0.4 * (sipHash64('deliveries', hour, identity, campaign, isp) % 1000) / 1000)) AS deliveries,
    deliveries, 0, 0, 0, 0, 0, 0, 0, if(campaign = 'newsletter', intDiv(deliveries, 50), 0), map(), map(), map()
FROM example_senders
CROSS JOIN example_isps
CROSS JOIN (SELECT toUInt32(number) AS hour FROM numbers(14 * 24)) AS h
WHERE intDiv(hour, 24) BETWEEN from_day AND until_day;

-- Each transition as two replicas wrote it.
INSERT INTO alerts
SELECT t.1, t.2, t.3, t.4, t.5, t.6, t.7, t.8, t.9, 3600, t.10, t.11, t.12, t.13, t.14, t.15, t.16, t.17, t.18, map('summary', t.19),
    toString(replica), t.8 + 3 + replica, 'bounceflow.alerts', 0, 2 * rowNumberInAllBlocks() + replica
FROM
(
    WITH toDateTime64('2026-03-14 00:00:00', 3, 'UTC') AS night
    SELECT arrayJoin([
        ('a1', 'blocked-outlook', 'pending', 'critical', 'outlook', 'news.example', night - 343000, night - 343000, 'blocked_rate', 0.2, 11, 52, map('reputation', 11), 0x8f02b6c95d1e7a34, 'microsoft.ip_listed', '550 5.7.1 … on our block list (S3150).', 'reputation', 'request_delisting', 'Outlook refuses news.example'),
        ('a1', 'blocked-outlook', 'firing', 'critical', 'outlook', 'news.example', night - 343000, night - 342700, 'blocked_rate', 0.2, 15, 57, map('reputation', 15), 0x8f02b6c95d1e7a34, 'microsoft.ip_listed', '550 5.7.1 … on our block list (S3150).', 'reputation', 'request_delisting', 'Outlook refuses news.example'),
        ('a2', 'deferred-yahoo', 'pending', 'warning', 'yahoo', 'shop.example', night - 7200, night - 7200, 'deferred_rate', 0.15, 9, 58, map('reputation', 9), 0x4c81aa570de693fb, 'yahoo.deferred', '421 4.7.0 [TSS04] …', 'reputation', 'reduce_velocity', 'Yahoo defers shop.example'),
        ('a2', 'deferred-yahoo', 'firing', 'warning', 'yahoo', 'shop.example', night - 7200, night - 6600, 'deferred_rate', 0.15, 12, 61, map('reputation', 12), 0x4c81aa570de693fb, 'yahoo.deferred', '421 4.7.0 [TSS04] …', 'reputation', 'reduce_velocity', 'Yahoo defers shop.example'),
        ('a2', 'deferred-yahoo', 'resolved', 'warning', 'yahoo', 'shop.example', night - 7200, night + 4260, 'deferred_rate', 0.15, 6, 63, map('reputation', 6), 0x4c81aa570de693fb, 'yahoo.deferred', '421 4.7.0 [TSS04] …', 'reputation', 'reduce_velocity', 'Yahoo defers shop.example'),
        ('a3', 'hard-bounces', 'pending', 'critical', '', 'travel.example', night + 10800, night + 10800, 'hard_rate', 0.05, 4, 41, map('invalid_recipient', 4), 0x3a1f5c0e92d47b61, 'google.no_such_user', '550-5.1.1 … does not exist.', 'list', 'remove_recipient', 'travel.example mails a stale list'),
        ('a3', 'hard-bounces', 'resolved', 'critical', '', 'travel.example', night + 10800, night + 11100, 'hard_rate', 0.05, 1, 44, map('invalid_recipient', 1), 0x3a1f5c0e92d47b61, 'google.no_such_user', '550-5.1.1 … does not exist.', 'list', 'remove_recipient', 'travel.example mails a stale list'),
        ('a4', 'authentication-gmail', 'firing', 'critical', 'gmail', 'travel.example', night + 14400, night + 14400, 'category:authentication', 0.02, 3, 48, map('authentication', 3), 0x9be410c7a5f2386d, 'google.unauthenticated', '550-5.7.26 … the sender is unauthenticated.', 'authentication', 'fix_authentication', 'Gmail finds no DKIM of travel.example'),
        ('a4', 'authentication-gmail', 'resolved', 'critical', 'gmail', 'travel.example', night + 14400, night + 25200, 'category:authentication', 0.02, 0, 51, map(), 0, '', '', 'authentication', 'fix_authentication', 'Gmail finds no DKIM of travel.example')
    ]) AS t
) AS transitions
CROSS JOIN (SELECT toUInt8(number) AS replica FROM numbers(2)) AS replicas;

CREATE OR REPLACE VIEW reporting_day AS SELECT toDate('2026-03-14') AS today;

DROP TABLE example_senders;

DROP TABLE example_isps;

DROP TABLE example_replies;
