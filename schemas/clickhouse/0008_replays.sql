-- What `bounceflow replay` was asked, how far it is, and what it replaced. Rows are only added: the highest sequence of an id holds.
--
-- `replaced` outlives the rows it speaks of. A sink whose committed offsets have expired asks which offset it wrote last: the rows
-- that say so may have been replaced by rows of a replay, which have no place in the topic.
CREATE TABLE IF NOT EXISTS replays
(
    id UInt32 COMMENT 'Number of the replay',
    sequence UInt32 COMMENT 'Counts the changes of one replay, from 1',
    changed_at DateTime64(3, 'UTC') COMMENT 'When this was written, by the clock of the process that wrote it',
    state LowCardinality(String) COMMENT 'planning, counting, counted, swapping, swapped or discarded',
    document String COMMENT 'Plan, progress of the swap and comparison, as JSON' CODEC(ZSTD(1)),
    replaced Nested
    (
        table LowCardinality(String),
        topic LowCardinality(String),
        partition Int32,
        last_offset Int64
    ) COMMENT 'Last position in Kafka of the rows it takes away, from the state swapping on'
)
ENGINE = MergeTree
ORDER BY (id, sequence)
COMMENT 'Grain: one change of one replay. `bounceflow replay list` reads it.';
