//! The connection to one ClickHouse server: its settings, one insert of one block, counting a range.

use std::time::Duration;

use clickhouse::{Client, Compression, Row};
use serde::Deserialize;

use crate::access::Access;
use crate::answer::Answer;
use crate::block::{Block, Table, columns};
use crate::error::{WarehouseError, chain};
use crate::replication::Replication;
use crate::retention::Retention;
use crate::sharding::{Sharding, behind_all, over_all};

/// Above this a sort or a grouping of ours goes to the server's disk.
pub(crate) const SPILL_BYTES: &str = "268435456";

/// How to reach ClickHouse.
#[derive(Clone)]
pub struct Settings {
    /// Its HTTP address, such as `http://clickhouse:8123`.
    pub url: String,
    /// Addresses of further servers that hold the same replicated tables; see [`crate::Replicas`]. Each is a server's own, none a
    /// balancer's: what one of them has taken is counted there.
    pub further: Vec<String>,
    /// How tables are replicated; none: they are not.
    pub replication: Option<Replication>,
    /// Further shards, each with a part of the rows; none: this is all. See [`crate::Shards`].
    pub sharding: Option<Sharding>,
    /// The database that holds the tables; `bounceflow migrate` creates it.
    pub database: String,
    /// For how long `bounceflow migrate` makes the tables keep what they hold.
    pub retention: Retention,
    /// Empty: the server's default user.
    pub user: String,
    /// Its password, and how the server is known where it is spoken to over TLS.
    pub access: Access,
    /// Name of this pipeline, first word of every token.
    pub pipeline: String,
    /// How long an insert may take before its outcome counts as unknown.
    pub insert_timeout: Duration,
    /// How long any other query may take.
    pub query_timeout: Duration,
    /// Whether blocks travel compressed (LZ4): worth it across a slow network only.
    pub compression: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: "http://localhost:8123".to_owned(),
            further: Vec::new(),
            replication: None,
            sharding: None,
            database: "bounceflow".to_owned(),
            retention: Retention::default(),
            user: String::new(),
            access: Access::default(),
            pipeline: "bounceflow".to_owned(),
            insert_timeout: Duration::from_secs(60),
            query_timeout: Duration::from_secs(60),
            compression: false,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("url", &self.url)
            .field("further", &self.further)
            .field("replication", &self.replication)
            .field("sharding", &self.sharding)
            .field("database", &self.database)
            .field("retention", &self.retention)
            .field("user", &self.user)
            .field("access", &self.access)
            .field("pipeline", &self.pipeline)
            .field("insert_timeout", &self.insert_timeout)
            .field("query_timeout", &self.query_timeout)
            .field("compression", &self.compression)
            .finish()
    }
}

impl Settings {
    /// Every mistake in them, at once.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let urls: Vec<(String, String)> = self
            .shards()
            .into_iter()
            .enumerate()
            .flat_map(|(shard, urls)| {
                let field = if self.sharding.is_some() { format!("shards[{shard}].url") } else { "url".to_owned() };
                urls.into_iter().map(move |url| (field.clone(), url))
            })
            .collect();
        for (i, (field, url)) in urls.iter().enumerate() {
            let address = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            match address {
                _ if url.is_empty() => mistakes.push(format!("{field} is empty; name at least one server")),
                None | Some("") => mistakes.push(format!("{field} must begin with http:// or https:// and name a host")),
                Some(rest) if rest.contains('@') => {
                    mistakes.push(format!("{field} holds a user: put user and password into their own settings"))
                }
                Some(rest) if rest.contains(['?', '#', ' ']) => {
                    mistakes.push(format!("{field} must end after the host, the port and a path"))
                }
                Some(_) if urls[..i].iter().any(|(_, earlier)| earlier == url) => {
                    mistakes.push(format!("{field} names {url} twice"))
                }
                Some(_) => {}
            }
        }
        mistakes.extend(self.sharding.as_ref().map(Sharding::mistakes).unwrap_or_default());
        match &self.replication {
            Some(replication) => {
                if self.sharding.is_some() && !replication.path.contains("{shard}") {
                    let path = &replication.path;
                    mistakes.push(format!("replica_path {path:?} must name {{shard}}: else all shards are replicas of one"));
                }
                mistakes.extend(replication.mistakes());
            }
            None if self.shards().iter().any(|urls| urls.len() > 1) => mistakes.push(
                "url names several servers, but tables are not replicated: each would keep what the others lack".to_owned(),
            ),
            None => {}
        }
        let plain = |s: &str| s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if self.database.is_empty() || !plain(&self.database) {
            mistakes.push(format!("database {:?} must be made of letters, digits and _", self.database));
        }
        mistakes.extend(self.retention.mistakes());
        if self.pipeline.is_empty() || self.pipeline.contains(char::is_control) {
            mistakes.push("pipeline must have a name".to_owned());
        }
        if self.insert_timeout.is_zero() || self.query_timeout.is_zero() {
            mistakes.push("timeouts must be above zero".to_owned());
        }
        mistakes
    }

    /// The addresses of each shard.
    pub(crate) fn shards(&self) -> Vec<Vec<String>> {
        let first = [&self.url].into_iter().chain(&self.further).cloned().collect();
        let further = self.sharding.iter().flat_map(|sharding| sharding.further.iter().cloned());
        [first].into_iter().chain(further).collect()
    }
}

/// The range of a topic partition that one block holds, as its token names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRange<'a> {
    /// Kafka topic.
    pub topic: &'a str,
    /// Kafka partition.
    pub partition: i32,
    /// First offset.
    pub first: i64,
    /// Last offset.
    pub last: i64,
    /// Kafka timestamp of the first record: a topic deleted and made again repeats offsets, not times.
    pub first_timestamp: i64,
}

/// What a server holds of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Rows there now.
    pub rows: u64,
    /// Why more may come by itself: this replica has not fetched yet what others took. None: this is all.
    pub awaits: Option<String>,
    /// Why some may go by themselves: this replica has parts of which it does not know whether Keeper has them. None: all stay.
    pub doubts: Option<String>,
}

const REPLICA_ROWS: &str = "SELECT replica_path, CAST(is_readonly OR is_session_expired AS Bool) AS cut_off,
        toUInt64(inserts_in_queue) AS unfetched, toUInt64(parts_to_check) AS unverified, log_max_index, log_pointer
    FROM system.replicas WHERE database = ?";

#[derive(Row, Deserialize)]
struct ReplicaRow {
    replica_path: String,
    cut_off: bool,
    unfetched: u64,
    unverified: u64,
    log_max_index: u64,
    log_pointer: u64,
}

/// One ClickHouse server, one database. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Warehouse {
    pub(crate) settings: Settings,
    /// Read over all shards.
    over_all: bool,
}

/// What makes a request exactly one block, and the block's descendants in views one block each: nothing is cut by the server's own
/// limits, nothing is done in parallel, nothing is buffered. A block cut otherwise at the repeat would defeat its token.
const ONE_BLOCK: &[(&str, &str)] = &[
    ("async_insert", "0"),
    ("insert_deduplicate", "1"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("max_insert_threads", "1"),
    ("max_threads", "1"),
    ("parallel_view_processing", "0"),
    ("input_format_parallel_parsing", "0"),
    ("max_insert_block_size", "100000000"),
    ("min_insert_block_size_rows", "100000000"),
    ("min_insert_block_size_bytes", "0"),
    ("min_insert_block_size_rows_for_materialized_views", "0"),
    ("min_insert_block_size_bytes_for_materialized_views", "0"),
    // Memory is bounded by the size of the block; spilling would cut a view's output.
    ("max_bytes_before_external_group_by", "0"),
    ("max_bytes_ratio_before_external_group_by", "0"),
    ("throw_on_max_partitions_per_insert_block", "1"),
    // A failing view is an error, never a gap.
    ("materialized_views_ignore_errors", "0"),
    // The view has grouped its rows: merging them once more while inserting only costs time.
    ("optimize_on_insert", "0"),
    ("input_format_defaults_for_omitted_fields", "0"),
    // A server that loses Keeper tries for some seconds, which also settles what was under way, and then says so. By default it tries
    // for two and a half minutes, in which another replica could have taken the block.
    ("insert_keeper_max_retries", "5"),
];

/// What lets no view take a block: each reads more than a byte of it. The table itself takes it before any view is asked.
const NO_VIEW: &[(&str, &str)] = &[("max_bytes_to_read", "1"), ("read_overflow_mode", "throw")];
/// TOO_MANY_BYTES: what a view then answers.
const VIEW_REFUSED: u32 = 307;

impl Warehouse {
    /// Connects lazily: nothing is sent before the first call.
    pub fn new(settings: Settings) -> Result<Self, WarehouseError> {
        let mistakes = settings.mistakes();
        if !mistakes.is_empty() {
            return Err(WarehouseError::Settings(mistakes.join("; ")));
        }
        Ok(Self { settings, over_all: false })
    }

    /// The rows of all shards, as this server shows them: to be read only. A shard that does not answer is an error, never a gap.
    pub(crate) fn over_all(&self) -> Self {
        let settings = Settings { database: over_all(&self.settings.database), ..self.settings.clone() };
        Self { settings, over_all: true }
    }

    /// Asks in the database, with the credentials that are in force now.
    pub(crate) fn client(&self) -> Client {
        let client = self.server().with_database(self.settings.database.as_str());
        if self.over_all {
            client.with_setting("distributed_product_mode", "global").with_setting("skip_unavailable_shards", "0")
        } else {
            client
        }
    }

    /// The same without a database: for what must work before there is one.
    pub(crate) fn server(&self) -> Client {
        let Settings { url, user, access, compression, .. } = &self.settings;
        let client = access
            .client()
            .with_url(url.as_str())
            .with_compression(if *compression { Compression::Lz4 } else { Compression::None })
            .with_product_info("bounceflow", env!("CARGO_PKG_VERSION"));
        if user.is_empty() { client } else { client.with_user(user.as_str()) }
    }

    /// The address it is spoken to at.
    pub fn url(&self) -> &str {
        &self.settings.url
    }

    /// The database that holds the tables.
    pub fn database(&self) -> &str {
        &self.settings.database
    }

    /// Whether the server answers and knows the user.
    pub async fn ping(&self) -> Result<(), WarehouseError> {
        let query = self.server().query_raw("SELECT 1");
        self.timed("answer", async { query.fetch_one::<u8>().await.map(|_| ()) }).await
    }

    /// The token of a block: whoever inserts this range of this topic into this table, now or after a crash, uses this one.
    pub fn token(&self, table: Table, range: TokenRange<'_>) -> String {
        let TokenRange { topic, partition, first, last, first_timestamp } = range;
        format!("{}:{table}:{topic}:{partition}:{first}-{last}:{first_timestamp}", self.settings.pipeline)
    }

    /// Sends one block in one request. The block stays with the caller: whatever the answer, it can be sent again.
    pub async fn insert(&self, block: &Block, token: &str) -> Answer {
        self.insert_into(block.table().name(), block, token).await
    }

    /// Sends it to the table alone, past its views, so that what the table holds can be counted before they hear of it.
    pub async fn insert_before_views(&self, block: &Block, token: &str) -> Answer {
        match self.insert_with(block.table().name(), block, token, NO_VIEW).await {
            Answer::Refused { code: Some(VIEW_REFUSED), .. } => Answer::Written,
            answer => answer,
        }
    }

    /// The same into another table made like the block's.
    pub(crate) async fn insert_into(&self, name: &str, block: &Block, token: &str) -> Answer {
        self.insert_with(name, block, token, &[]).await
    }

    async fn insert_with(&self, name: &str, block: &Block, token: &str, more: &[(&str, &str)]) -> Answer {
        let sql = insert_statement(&self.settings.database, name, block.table());
        let timeout = Some(self.settings.insert_timeout);
        let mut insert = self.client().insert_formatted_with(sql).with_timeouts(timeout, timeout);
        for (name, value) in ONE_BLOCK.iter().chain(more) {
            insert = insert.with_setting(*name, *value);
        }
        let partitions = max_partitions(block.table());
        insert =
            insert.with_setting("max_partitions_per_insert_block", partitions).with_setting("insert_deduplication_token", token);
        // In one piece: sent in several, the client reports an early answer of the server as a broken channel.
        let sent = insert.send(block.bytes().clone()).await;
        let outcome = match sent {
            Ok(()) => insert.end().await,
            Err(e) => Err(e),
        };
        match outcome {
            Ok(()) => Answer::Written,
            Err(clickhouse::error::Error::BadResponse(text)) => Answer::refused(&text),
            Err(clickhouse::error::Error::TimedOut) => {
                Answer::broken(&format!("no answer within {:?}", self.settings.insert_timeout))
            }
            Err(e) => Answer::broken(&chain(&e)),
        }
    }

    /// How many rows of `table` come from offsets `first..=last` of a topic partition.
    pub async fn count(&self, table: Table, topic: &str, partition: i32, first: i64, last: i64) -> Result<u64, WarehouseError> {
        let query = self
            .client()
            .query(&format!(
                "SELECT count() FROM {table} WHERE kafka_topic = ? AND kafka_partition = ? AND kafka_offset BETWEEN ? AND ?"
            ))
            .bind(topic)
            .bind(partition)
            .bind(first)
            .bind(last);
        self.timed("count a range", query.fetch_one::<u64>()).await
    }

    /// What `table` holds of offsets `first..=last` of a topic partition, whether more may come from other replicas, and whether some
    /// may go.
    ///
    /// **Invariant:** fewer rows than expected mean that rows are missing only where `awaits` is none. A replica answers OK to the
    /// repeat of an insert as soon as Keeper knows its token, before it has the rows that another replica wrote under it; to insert
    /// them again under a new token would store them twice when they arrive. What makes the answer safe:
    /// - a token and the log entry that tells replicas to fetch its part are written to Keeper in one transaction, and a session
    ///   with Keeper never sees an older state than it saw before: the server that answered OK, asked next, sees that entry;
    /// - how far this replica is stands before the count, so parts that arrive between the two are only counted more;
    /// - both questions go to one server, which the name it gives proves (an address may be a balancer's after all).
    ///
    /// **Invariant:** more rows than expected mean that rows are doubled only where `doubts` is none. A server that loses Keeper while it
    /// commits a part shows the part, answers 319, and drops it minutes later if Keeper does not have it; a repeat in between finds
    /// the token free and stores the rows beside it. Other replicas only ever get what Keeper has.
    pub async fn held(&self, table: Table, topic: &str, partition: i32, first: i64, last: i64) -> Result<Held, WarehouseError> {
        let Some(replica) = self.replica(table).await? else {
            return Ok(Held { rows: self.count(table, topic, partition, first, last).await?, awaits: None, doubts: None });
        };
        let query = self
            .client()
            .query(&format!(
                "SELECT count(), ifNull((SELECT any(replica_path) FROM system.replicas
                    WHERE database = currentDatabase() AND table = '{table}'), '')
                FROM {table} WHERE kafka_topic = ? AND kafka_partition = ? AND kafka_offset BETWEEN ? AND ?"
            ))
            .bind(topic)
            .bind(partition)
            .bind(first)
            .bind(last);
        let (rows, path) = self.timed("count a range", query.fetch_one::<(u64, String)>()).await?;
        let awaits = if path == replica.replica_path {
            replica.awaits(false)
        } else {
            Some(format!("{} and {path} answered to one address: name each replica by its own", replica.replica_path))
        };
        let doubts = (replica.unverified > 0).then(|| {
            format!("{path} will look in Keeper for {} parts (at once with SYSTEM RESTART REPLICA)", replica.unverified)
        });
        Ok(Held { rows, awaits, doubts })
    }

    /// Whether views hang on a table, bounceflow's own or others'.
    pub async fn feeds_views(&self, table: Table) -> Result<bool, WarehouseError> {
        let sql =
            "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = ? AND notEmpty(dependencies_table)";
        let query = self.client().query(sql).bind(table.name());
        Ok(self.timed("look for views of a table", query.fetch_one::<u64>()).await? > 0)
    }

    /// How far this server is with a replicated table; none: the table is not replicated.
    async fn replica(&self, table: Table) -> Result<Option<ReplicaRow>, WarehouseError> {
        let query =
            self.client().query(&format!("{REPLICA_ROWS} AND table = ?")).bind(&self.settings.database).bind(table.name());
        self.timed("read system.replicas", query.fetch_optional::<ReplicaRow>()).await
    }

    /// Why rows that other replicas have may be missing at this server, by table; of several shards: of the one that is asked.
    pub(crate) async fn behind(&self) -> Result<Vec<String>, WarehouseError> {
        let database = self.settings.sharding.as_ref().map_or(self.database(), |_| behind_all(self.database()));
        let query = self.client().query(&format!("{REPLICA_ROWS} ORDER BY table")).bind(database);
        let rows = self.timed("read system.replicas", query.fetch_all::<ReplicaRow>()).await?;
        Ok(rows.iter().filter_map(|row| row.awaits(true)).collect())
    }

    /// The last offset of a topic partition that `table` holds rows of, or held until a replay replaced them; none: it never held one.
    /// An error where this replica has not fetched yet what others took.
    pub async fn last_offset(&self, table: Table, topic: &str, partition: i32) -> Result<Option<i64>, WarehouseError> {
        if let Some(why) = self.replica(table).await?.and_then(|replica| replica.awaits(true)) {
            return Err(WarehouseError::Behind(why));
        }
        let query = self
            .client()
            .query(&format!(
                "SELECT maxOrNull(last) FROM (
                    SELECT max(kafka_offset) AS last FROM {table} WHERE kafka_topic = ? AND kafka_partition = ? HAVING count() > 0
                    UNION ALL SELECT last_offset AS last FROM replays
                        ARRAY JOIN replaced.table AS name, replaced.topic AS topic, replaced.partition AS partition,
                            replaced.last_offset AS last_offset
                        WHERE name = '{table}' AND topic = ? AND partition = ?)"
            ))
            .bind(topic)
            .bind(partition)
            .bind(topic)
            .bind(partition);
        self.timed("find the last offset", query.fetch_one::<Option<i64>>()).await
    }

    /// Runs `query` within the query timeout; `what` completes "ClickHouse at … refused to …".
    pub(crate) async fn timed<T>(
        &self,
        what: &str,
        query: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, WarehouseError> {
        self.timed_within(self.settings.query_timeout, what, query).await
    }

    pub(crate) async fn timed_within<T>(
        &self,
        limit: Duration,
        what: &str,
        query: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, WarehouseError> {
        match tokio::time::timeout(limit, query).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(WarehouseError::of_query(what, &self.settings.url, &e)),
            Err(_) => Err(WarehouseError::unreachable(&self.settings.url, format!("no answer within {limit:?}"))),
        }
    }
}

impl ReplicaRow {
    /// Why rows may come by themselves. `untouched`: nothing may ever have been inserted, so that an empty log is no lag.
    fn awaits(&self, untouched: bool) -> Option<String> {
        let Self { replica_path, cut_off, unfetched, log_max_index, log_pointer, .. } = self;
        let empty = untouched && *log_max_index == 0 && *log_pointer == 0;
        if *cut_off {
            Some(format!("{replica_path} is cut off from Keeper"))
        } else if *log_pointer <= *log_max_index && !empty {
            Some(format!("{replica_path} has not read Keeper's log to its end"))
        } else if *unfetched > 0 {
            Some(format!("{replica_path} has {unfetched} inserts of other replicas to fetch: see system.replication_queue"))
        } else {
            None
        }
    }
}

/// A block of failures is split by month when it spans more. One of batches cannot be: what its view makes of a single record may
/// span many months, and would be refused after the record is stored. Alerts have no partitions.
fn max_partitions(table: Table) -> &'static str {
    match table {
        Table::Failures => "100",
        Table::Batches | Table::Alerts => "0",
    }
}

fn insert_statement(database: &str, name: &str, table: Table) -> String {
    let columns: Vec<_> = columns(table).iter().map(|c| format!("`{c}`")).collect();
    format!("INSERT INTO `{database}`.`{name}` ({}) FORMAT RowBinary", columns.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_never_show_the_password() {
        let settings = Settings { access: Access::with_password("hunter2"), ..Settings::default() };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn every_mistake_is_named() {
        let settings = Settings {
            url: "http://user:pw@host".to_owned(),
            database: "a b".to_owned(),
            pipeline: String::new(),
            insert_timeout: Duration::ZERO,
            ..Settings::default()
        };
        let mistakes = settings.mistakes();
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(!mistakes.join(" ").contains("pw"));
        assert!(Settings::default().mistakes().is_empty());
        let no_scheme = Settings { url: "localhost:8123".to_owned(), ..Settings::default() };
        assert_eq!(no_scheme.mistakes().len(), 1);
    }

    #[test]
    fn the_token_names_the_range() {
        let warehouse = Warehouse::new(Settings::default()).unwrap();
        let range = TokenRange { topic: "bounceflow.rates", partition: 0, first: 5, last: 9, first_timestamp: 17 };
        assert_eq!(warehouse.token(Table::Batches, range), "bounceflow:batches:bounceflow.rates:0:5-9:17");
    }
}
