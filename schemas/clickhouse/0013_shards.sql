-- Which of several shards a database is. A sink sends each Kafka partition to one shard by its number: shards that swapped places would
-- take for new what the other one has.
ALTER TABLE pipelines ADD COLUMN IF NOT EXISTS shard UInt32 COMMENT 'Place of this shard in [[clickhouse.shards]], from 0; 0 also where there is only one';
