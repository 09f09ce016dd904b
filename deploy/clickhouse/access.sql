-- The users of users.xml as SQL, for servers that keep users by SQL (CREATE USER). Run as a user with access management, once:
--   clickhouse client --multiquery --param_migrate=… --param_writer=… --param_bi=… < access.sql
-- What speaks of bounceflow_all is for several shards. The parameters are passwords. Roles carry the rights, so that people of your own get them by GRANT bounceflow_reader TO ….

CREATE ROLE IF NOT EXISTS bounceflow_migrator;
CREATE ROLE IF NOT EXISTS bounceflow_writer;
CREATE ROLE IF NOT EXISTS bounceflow_reader;

GRANT SHOW, SELECT, INSERT, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, ALTER ON bounceflow.* TO bounceflow_migrator;
GRANT SELECT ON system.replicas TO bounceflow_migrator;
GRANT SELECT ON system.merge_tree_settings TO bounceflow_migrator;
GRANT TABLE ENGINE ON MergeTree TO bounceflow_migrator;
GRANT TABLE ENGINE ON AggregatingMergeTree TO bounceflow_migrator;
GRANT TABLE ENGINE ON ReplacingMergeTree TO bounceflow_migrator;
GRANT TABLE ENGINE ON ReplicatedMergeTree TO bounceflow_migrator;
GRANT TABLE ENGINE ON ReplicatedAggregatingMergeTree TO bounceflow_migrator;
GRANT TABLE ENGINE ON ReplicatedReplacingMergeTree TO bounceflow_migrator;
GRANT SHOW, SELECT, INSERT, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, ALTER ON bounceflow_all.* TO bounceflow_migrator;
GRANT TABLE ENGINE ON Distributed TO bounceflow_migrator;
GRANT SELECT ON system.one TO bounceflow_migrator;
GRANT REMOTE, CREATE TEMPORARY TABLE ON *.* TO bounceflow_migrator;

GRANT SHOW, SELECT ON bounceflow.* TO bounceflow_writer;
GRANT SHOW, SELECT ON bounceflow_all.* TO bounceflow_writer;
GRANT INSERT ON bounceflow.failures TO bounceflow_writer;
GRANT INSERT ON bounceflow.batches TO bounceflow_writer;
GRANT INSERT ON bounceflow.delivery_rates TO bounceflow_writer;
GRANT INSERT ON bounceflow.hourly_rates TO bounceflow_writer;
GRANT INSERT ON bounceflow.daily_rates TO bounceflow_writer;
GRANT INSERT ON bounceflow.daily_rates_by_identity TO bounceflow_writer;
GRANT INSERT ON bounceflow.alerts TO bounceflow_writer;
GRANT INSERT ON bounceflow.pipelines TO bounceflow_writer;
GRANT INSERT ON bounceflow.erased_recipients TO bounceflow_writer;
GRANT INSERT ON bounceflow.erased_rows TO bounceflow_writer;
GRANT INSERT ON bounceflow.replays TO bounceflow_writer;
GRANT ALTER DELETE ON bounceflow.failures TO bounceflow_writer;
GRANT ALTER DELETE ON bounceflow.batches TO bounceflow_writer;
GRANT ALTER DELETE ON bounceflow.delivery_rates TO bounceflow_writer;
GRANT ALTER DELETE ON bounceflow.hourly_rates TO bounceflow_writer;
GRANT ALTER DELETE ON bounceflow.daily_rates TO bounceflow_writer;
GRANT ALTER DELETE ON bounceflow.daily_rates_by_identity TO bounceflow_writer;
GRANT ALTER CONSTRAINT ON bounceflow.failures TO bounceflow_writer;
GRANT ALTER CONSTRAINT ON bounceflow.batches TO bounceflow_writer;
GRANT CREATE TABLE, DROP TABLE, TRUNCATE, INSERT, ALTER DELETE ON bounceflow.replay_* TO bounceflow_writer;
GRANT SELECT ON system.processes TO bounceflow_writer;
GRANT SELECT ON system.mutations TO bounceflow_writer;
GRANT SELECT ON system.replicas TO bounceflow_writer;
GRANT SELECT ON system.merge_tree_settings TO bounceflow_writer;
GRANT TABLE ENGINE ON MergeTree TO bounceflow_writer;
GRANT TABLE ENGINE ON AggregatingMergeTree TO bounceflow_writer;

GRANT SELECT ON bounceflow.alert_history TO bounceflow_reader;
GRANT SELECT ON bounceflow.alert_transitions TO bounceflow_reader;
GRANT SELECT ON bounceflow.bounce_report TO bounceflow_reader;
GRANT SELECT ON bounceflow.campaign_kpis TO bounceflow_reader;
GRANT SELECT ON bounceflow.campaign_kpis_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow.failure_breakdown TO bounceflow_reader;
GRANT SELECT ON bounceflow.failure_breakdown_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow.failure_details TO bounceflow_reader;
GRANT SELECT ON bounceflow.identity_profiles TO bounceflow_reader;
GRANT SELECT ON bounceflow.identity_profiles_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow.ip_profiles TO bounceflow_reader;
GRANT SELECT ON bounceflow.ip_profiles_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow.isp_identity_matrix TO bounceflow_reader;
GRANT SELECT ON bounceflow.isp_identity_matrix_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow.isp_profiles TO bounceflow_reader;
GRANT SELECT ON bounceflow.isp_profiles_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow.rates_by_hour TO bounceflow_reader;
GRANT SELECT ON bounceflow.reporting_day TO bounceflow_reader;
GRANT SELECT ON bounceflow.smtp_patterns TO bounceflow_reader;
GRANT SELECT ON bounceflow.smtp_patterns_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow.hourly_rates TO bounceflow_reader;
GRANT SELECT ON bounceflow.daily_rates TO bounceflow_reader;
GRANT SELECT ON bounceflow.daily_rates_by_identity TO bounceflow_reader;
GRANT SELECT ON bounceflow.thresholds TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.alert_history TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.alert_transitions TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.bounce_report TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.campaign_kpis TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.campaign_kpis_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.failure_breakdown TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.failure_breakdown_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.failure_details TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.identity_profiles TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.identity_profiles_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.ip_profiles TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.ip_profiles_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.isp_identity_matrix TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.isp_identity_matrix_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.isp_profiles TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.isp_profiles_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.rates_by_hour TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.reporting_day TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.smtp_patterns TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.smtp_patterns_this_week TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.hourly_rates TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.daily_rates TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.daily_rates_by_identity TO bounceflow_reader;
GRANT SELECT ON bounceflow_all.thresholds TO bounceflow_reader;

-- Limits may be lowered, never raised or lifted. readonly 2: drivers may set what only concerns the answer, nothing is written.
CREATE SETTINGS PROFILE IF NOT EXISTS bounceflow_bi SETTINGS
    readonly = 2 CONST,
    max_execution_time = 30 MIN 1 MAX 30,
    timeout_overflow_mode = 'throw' CONST,
    max_result_rows = 1000000 MIN 1 MAX 1000000,
    max_result_bytes = 1000000000 MIN 1 MAX 1000000000,
    result_overflow_mode = 'throw' CONST,
    max_memory_usage = 4000000000 MIN 1 MAX 4000000000,
    max_memory_usage_for_user = 8000000000 CONST,
    max_bytes_before_external_group_by = 1000000000,
    max_bytes_before_external_sort = 1000000000,
    max_concurrent_queries_for_user = 20 CONST
    TO bounceflow_reader;

CREATE QUOTA IF NOT EXISTS bounceflow_bi FOR INTERVAL 1 hour MAX queries = 20000, execution_time = 7200 TO bounceflow_reader;

CREATE USER IF NOT EXISTS bounceflow_migrate IDENTIFIED WITH sha256_password BY {migrate:String};
CREATE USER IF NOT EXISTS bounceflow IDENTIFIED WITH sha256_password BY {writer:String};
CREATE USER IF NOT EXISTS bounceflow_bi IDENTIFIED WITH sha256_password BY {bi:String};

GRANT bounceflow_migrator TO bounceflow_migrate;
GRANT bounceflow_writer TO bounceflow;
GRANT bounceflow_reader TO bounceflow_bi;
