-- One row per record of the alerts topic. Every replica of the watch role writes every transition, so each is here once per
-- replica, equal but for its position and `replica`: read alert_transitions or alert_history, where each is once.
--
-- Not a ReplacingMergeTree: after a broken connection the sink counts the rows of the range it sent, and a merge that takes
-- away repeats would make an insert that is all there look half done. Rows are few (transitions, not events), so no partitions.
CREATE TABLE IF NOT EXISTS alerts
(
    alert_id String COMMENT 'Made of rule, ISP, identity and start of the episode: every replica and every replay gives the same',
    rule LowCardinality(String) COMMENT 'Name of the threshold rule; pipeline.…: built in, about the pipeline itself',
    state LowCardinality(String) COMMENT 'What it became: pending (threshold crossed), firing (for long enough) or resolved',
    severity LowCardinality(String) COMMENT 'As the rule says: info, warning or critical',
    isp LowCardinality(String) COMMENT 'Who answered; empty: over all',
    identity String COMMENT 'Who sent; empty: over all',
    episode_start DateTime64(3, 'UTC') COMMENT 'Event time at which the threshold was crossed',
    event_time DateTime64(3, 'UTC') COMMENT 'Event time of this transition',
    metric LowCardinality(String) COMMENT 'Which rate, such as blocked_rate or category:mailbox_full',
    window_seconds UInt64 COMMENT 'Length of the window the rate is over',
    threshold Float64 COMMENT 'The fraction from which on it breaches',
    numerator UInt64 COMMENT 'Of the rate, at this transition',
    denominator UInt64 COMMENT 'Of the rate, at this transition',
    categories Map(String, UInt64) COMMENT 'The largest categories behind it with their counts, largest first',
    pattern UInt64 COMMENT 'The most frequent pattern behind it, as in failures; 0: none known',
    pattern_rule LowCardinality(String) COMMENT 'Id of the classification rule that decided that pattern',
    sample String COMMENT 'One redacted diagnostic of that pattern',
    root_cause LowCardinality(String) COMMENT 'Who must act: list, content, authentication, infrastructure, throttling, reputation, mailbox, unknown',
    action LowCardinality(String) COMMENT 'What they do about it',
    annotations Map(String, String) COMMENT 'The rule''s own words, such as summary',
    replica LowCardinality(String) COMMENT 'Which replica of the watch role wrote the record',
    log_time DateTime64(3, 'UTC') COMMENT 'Kafka timestamp of the record: when it was decided, by the clock on the wall',
    kafka_topic LowCardinality(String) COMMENT 'Position of this record in the alerts topic: the sink counts by it after a broken connection',
    kafka_partition Int32 COMMENT 'Position of this record in the alerts topic',
    kafka_offset Int64 COMMENT 'Position of this record in the alerts topic'
)
ENGINE = MergeTree
ORDER BY (episode_start, alert_id, state, kafka_offset)
SETTINGS non_replicated_deduplication_window = 100000
COMMENT 'Grain: one record of the alerts topic, that is one transition as one replica wrote it. Read alert_transitions or alert_history: there each is once.';

CREATE VIEW IF NOT EXISTS alert_transitions AS
SELECT
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
    pattern,
    pattern_rule,
    sample,
    root_cause,
    action,
    annotations,
    log_time,
    uniqExact(replica) OVER (PARTITION BY episode_start, alert_id, state) AS replicas
FROM alerts
QUALIFY row_number() OVER (PARTITION BY episode_start, alert_id, state ORDER BY log_time, kafka_offset) = 1
COMMENT 'Grain: one alert id and state, as the first replica wrote it; replicas: how many did. date is that of the transition (UTC). rate = numerator / denominator.';

-- What was found out about an alert is told as it stood when it fired; where it never did, when it was pending.
CREATE VIEW IF NOT EXISTS alert_history AS
SELECT
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
