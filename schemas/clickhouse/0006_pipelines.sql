-- Which Kafka cluster a pipeline's rows come from. Rows and tokens name topic, partition and offset, but not the cluster: a second
-- pipeline of the same name, from another cluster, would be taken for a repeat of the first. The sink refuses to be that one.
CREATE TABLE IF NOT EXISTS pipelines
(
    pipeline String COMMENT 'The deployment: first word of every token',
    kafka_cluster String COMMENT 'Id of the Kafka cluster',
    since DateTime64(3, 'UTC') COMMENT 'When it was first seen; the earliest one owns the name'
)
ENGINE = MergeTree
ORDER BY pipeline
COMMENT 'Grain: pipeline and Kafka cluster; one row per pipeline, unless two started at the same moment.';
