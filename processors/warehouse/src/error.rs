//! What can go wrong besides an insert's answer. Every text says what to do next; none holds a password.

use crate::answer::{advice, needs_a_person, shorten};

/// A request about the warehouse that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum WarehouseError {
    /// The settings cannot be used.
    #[error("the ClickHouse settings cannot be used: {0}")]
    Settings(String),
    /// Nobody answered.
    #[error("ClickHouse at {url} does not answer ({message}): check that it runs and that the address is its HTTP port")]
    Unreachable {
        /// Where it was asked, without user and password.
        url: String,
        /// What the connection said.
        message: String,
    },
    /// The server refused a query.
    #[error("ClickHouse refused to {what}: {message}{}", next(*.code))]
    Refused {
        /// What was attempted.
        what: String,
        /// ClickHouse's error code, where there was one.
        code: Option<u32>,
        /// The server's words.
        message: String,
    },
    /// An applied migration is not the one this binary holds.
    #[error(
        "migration {version:04}_{name}.sql was changed after it was applied: database {database} holds checksum {applied}, this \
         binary {embedded}. Undo the change, or put it into a new migration"
    )]
    Edited {
        /// Its number.
        version: u32,
        /// Its name.
        name: String,
        /// Where it was applied.
        database: String,
        /// Checksum when it was applied.
        applied: String,
        /// Checksum of the embedded file.
        embedded: String,
    },
    /// The database is ahead.
    #[error(
        "database {database} is at schema version {found}, this binary knows {known}: a newer bounceflow migrated it. Run that \
         version or a later one"
    )]
    TooNew {
        /// Which database.
        database: String,
        /// Its version.
        found: u32,
        /// The binary's.
        known: u32,
    },
    /// The database is behind.
    #[error("database {database} is at schema version {found}, this binary needs {needed}: run `bounceflow migrate`")]
    TooOld {
        /// Which database.
        database: String,
        /// Its version; 0: never migrated.
        found: u32,
        /// The binary's.
        needed: u32,
    },
    /// The server does not know what inserts need.
    #[error("ClickHouse at {url} is version {found}, bounceflow needs {needed} or later: upgrade the server")]
    OldServer {
        /// Where.
        url: String,
        /// Its version.
        found: String,
        /// The oldest that will do.
        needed: String,
    },
    /// Two addresses, but not of one table.
    #[error(
        "{one} and {other} do not hold the same tables: {table} is registered as {path} at the first only. List replicas of one shard \
         in [clickhouse] url, and look at the macros {{shard}} and {{replica}} of each server"
    )]
    OtherTables {
        /// One address.
        one: String,
        /// The other.
        other: String,
        /// A table that differs.
        table: String,
        /// Its path in Keeper, at the first address.
        path: String,
    },
    /// A replica has not fetched yet what others took, so what it holds says nothing.
    #[error("the replica is behind: {0}. It is asked again; where that lasts, look whether its peers and ClickHouse Keeper run")]
    Behind(String),
    /// Rows of the same name come from elsewhere.
    #[error(
        "the tables of {database} hold rows of pipeline {pipeline:?} from the Kafka cluster {owner}, and this one is {cluster}: their \
         offsets and tokens would be taken for each other's. Give this installation a `deployment` or a [clickhouse] database of its \
         own. If the old cluster is gone for good and its rows may stay: ALTER TABLE {database}.pipelines DELETE WHERE pipeline = \
         '{pipeline}'"
    )]
    Foreign {
        /// Which database.
        database: String,
        /// The deployment.
        pipeline: String,
        /// Id of the Kafka cluster that came first.
        owner: String,
        /// Id of this one.
        cluster: String,
    },
    /// The error of one server among several.
    #[error("at {url}: {error}")]
    AtReplica {
        /// Which.
        url: String,
        /// What.
        error: Box<WarehouseError>,
    },
    /// Shards that cannot be used together as they are: why, and what to do.
    #[error("the shards do not fit together: {0}")]
    Shards(String),
    /// A replay that cannot go on as asked: why, and what to do.
    #[error("{0}")]
    Replay(String),
    /// Tables on which the repeat of an insert would be stored twice.
    #[error("repeated inserts would be stored twice:\n{}", list(.0))]
    Unprotected(Vec<UnprotectedTable>),
}

/// A table, written to by the sink or a materialized view behind it, that forgets tokens too early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnprotectedTable {
    /// Database and name.
    pub table: String,
    /// What is wrong.
    pub reason: String,
    /// What to run.
    pub remedy: String,
}

fn next(code: Option<u32>) -> String {
    match advice(code) {
        "" => String::new(),
        words => format!(". Next: {words}"),
    }
}

fn list(tables: &[UnprotectedTable]) -> String {
    let lines: Vec<_> = tables.iter().map(|t| format!("- {}: {}. Mend it with: {}", t.table, t.reason, t.remedy)).collect();
    lines.join("\n")
}

impl WarehouseError {
    /// Whether asking again later may succeed without anybody's doing.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Behind(_) => true,
            Self::AtReplica { error, .. } => error.may_pass(),
            Self::Refused { code, .. } => !code.is_some_and(needs_a_person),
            _ => false,
        }
    }

    pub(crate) fn of_query(what: &str, url: &str, error: &clickhouse::error::Error) -> Self {
        match error {
            clickhouse::error::Error::BadResponse(text) => {
                Self::Refused { what: what.to_owned(), code: crate::answer::error_code(text), message: shorten(text) }
            }
            clickhouse::error::Error::Network(_) | clickhouse::error::Error::TimedOut => {
                Self::Unreachable { url: url.to_owned(), message: shorten(&chain(error)) }
            }
            clickhouse::error::Error::Unsupported(text) => Self::Settings(shorten(text)),
            clickhouse::error::Error::InvalidParams(_) => Self::Settings(shorten(&chain(error))),
            _ => Self::Refused { what: what.to_owned(), code: None, message: shorten(&chain(error)) },
        }
    }
}

/// An error with its causes, each named once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let words = e.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = e.source();
    }
    text
}
