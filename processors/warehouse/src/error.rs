//! What can go wrong besides an insert's answer. Every text says what to do next; none holds a password.

use crate::answer::{advice, needs_a_person, shorten};

/// A request about the warehouse that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum WarehouseError {
    /// The settings cannot be used.
    #[error("the ClickHouse settings cannot be used: {0}")]
    Settings(String),
    /// Nobody answered.
    #[error("ClickHouse at {url} does not answer ({message}): {advice}")]
    Unreachable {
        /// Where it was asked, without user and password.
        url: String,
        /// What the connection said.
        message: String,
        /// What to do.
        advice: &'static str,
    },
    /// The server refused a query.
    #[error("ClickHouse at {url} refused to {what}: {message}{}", next(*.code))]
    Refused {
        /// Where it was asked.
        url: String,
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
    /// A server lacks what the history of its cluster says was made.
    #[error(
        "ClickHouse at {url} lacks {missing} of database {database}, although the history it shares with its cluster says that they were \
         made: name it in [clickhouse] url together with a server that has them, and run `bounceflow migrate`, which makes them there"
    )]
    Incomplete {
        /// Where.
        url: String,
        /// Which database.
        database: String,
        /// Names of the tables.
        missing: String,
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
    /// Whether asking again later may succeed without anybody's doing, or once a password that is being changed is the same on both
    /// sides.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Behind(_) => true,
            Self::AtReplica { error, .. } => error.may_pass(),
            Self::Refused { code, .. } => !code.is_some_and(needs_a_person),
            _ => false,
        }
    }

    /// Where nobody answered in time.
    pub(crate) fn unreachable(url: &str, message: String) -> Self {
        Self::Unreachable { url: url.to_owned(), message, advice: CHECK_THE_ADDRESS }
    }

    pub(crate) fn of_query(what: &str, url: &str, error: &clickhouse::error::Error) -> Self {
        let refused =
            |code, text: &str| Self::Refused { url: url.to_owned(), what: what.to_owned(), code, message: shorten(text) };
        match error {
            clickhouse::error::Error::BadResponse(text) => refused(crate::answer::error_code(text), text),
            clickhouse::error::Error::Network(_) | clickhouse::error::Error::TimedOut => Self::Unreachable {
                url: url.to_owned(),
                message: shorten(&chain(error)),
                advice: of_tls(error).map_or(CHECK_THE_ADDRESS, next_with_tls),
            },
            clickhouse::error::Error::Unsupported(text) => Self::Settings(shorten(text)),
            clickhouse::error::Error::InvalidParams(_) => Self::Settings(shorten(&chain(error))),
            _ => refused(None, &chain(error)),
        }
    }
}

const CHECK_THE_ADDRESS: &str =
    "check that it runs and that the address is its HTTP port (https:// where that speaks TLS, http:// where not)";

/// What TLS said, somewhere among the causes.
fn of_tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    // What an I/O error wraps, and that may be another one, is asked for by another name than a cause.
    let next = |e: &&'a (dyn std::error::Error + 'static)| match e.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|wrapped| wrapped as &(dyn std::error::Error + 'static)),
        None => e.source(),
    };
    std::iter::successors(Some(error), next).find_map(|e| e.downcast_ref())
}

/// What a person does about it.
fn next_with_tls(error: &rustls::Error) -> &'static str {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};
    match error {
        Error::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        ) => "give the server a certificate that is valid now, and look at the clocks of both",
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "name the server as its certificate does, or give it one with this name"
        }
        Error::InvalidCertificate(_) => {
            "its certificate is not signed by whom we trust: name the certificate of its authority in clickhouse.ca_file (unset: public \
             authorities alone)"
        }
        Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => {
            "the server does not accept our certificate: name one in clickhouse.certificate_file and key_file that is valid now and signed \
             by whom the server trusts"
        }
        Error::InvalidMessage(_) => "what answers there does not speak TLS: write http://, or name the server's HTTPS port",
        _ => "check the TLS settings of both sides",
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
