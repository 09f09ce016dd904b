//! Configuration: one TOML file, overridden by the environment, in two steps. (Long: every field with its meaning and its check.)
//!
//! [`RawConfig`] is what people write: every field documented and with a default, unknown ones refused. [`Config`] is what
//! has been checked; rules that span fields live in its making. Both steps report every mistake at once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bounceflow_enrich::{Identities, IdentityConfig, Isps};
use bounceflow_event::{Decoder, Format, avro};
use bounceflow_warehouse::{Access, Replication, Settings, Sharding};
use bounceflow_window::Rules;
use figment::Figment;
use figment::providers::{Env, Serialized};
use serde::Deserialize;

use crate::http::guard::{self, Guard};
use crate::kafka::{mistake_of, mistakes_of_clients};
use crate::rules::files;
use crate::secrets::{self, ClickHouseSecrets, Text};

/// What people write.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Name of this installation: prefix of consumer groups, transactional ids and insert tokens. Never change it later.
    pub deployment: String,
    /// Number of this process among those of its role, from 0, stable over restarts; or `hostname`: the number at the end of the host
    /// name, as a StatefulSet gives it.
    pub ordinal: Ordinal,
    /// File of the table of mailbox providers; unset: the built-in one (`processors/enrich/tables/isps.toml`), whose layout it has.
    pub isps: Option<PathBuf>,
    /// librdkafka properties for every client, `bootstrap.servers` first among them.
    pub kafka: BTreeMap<String, Text>,
    /// Properties whose values are in files, such as `sasl.password`: property → file. White space at the end is not the value's.
    pub kafka_files: BTreeMap<String, PathBuf>,
    /// What to read.
    pub inputs: Vec<RawInput>,
    /// Names of bounceflow's own topics.
    pub topics: Topics,
    /// The classify role.
    pub classify: RawClassify,
    /// Who sent: where the identity comes from.
    pub identity: IdentityConfig,
    /// The keyed hash that stands for a recipient.
    pub recipient: RawRecipient,
    /// Where the sink writes.
    pub clickhouse: RawClickHouse,
    /// The sink role.
    pub sink: RawSink,
    /// The watch role.
    pub watch: RawWatch,
    /// Traces.
    pub telemetry: RawTelemetry,
    /// Health and metrics.
    pub http: RawHttp,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            deployment: "bounceflow".into(),
            ordinal: Ordinal::Number(0),
            isps: None,
            kafka: BTreeMap::new(),
            kafka_files: BTreeMap::new(),
            inputs: vec![RawInput::default()],
            topics: Topics::default(),
            classify: RawClassify::default(),
            identity: IdentityConfig::default(),
            recipient: RawRecipient::default(),
            clickhouse: RawClickHouse::default(),
            sink: RawSink::default(),
            watch: RawWatch::default(),
            telemetry: RawTelemetry::default(),
            http: RawHttp::default(),
        }
    }
}

/// One input topic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawInput {
    /// Topic.
    pub topic: String,
    /// How its records are written: `auto`, `avro`, `json` or `kumomta`.
    pub format: Format,
    /// Records longer than this are dead-lettered. Bytes.
    pub max_record_bytes: usize,
    /// Writers' schemas of Confluent-framed Avro: schema id → file of the schema; `builtin` is bounceflow's own `DeliveryEvent`.
    pub schema_ids: BTreeMap<String, String>,
    /// Further writers' schemas of Avro single-object records: files.
    pub schemas: Vec<PathBuf>,
}

impl Default for RawInput {
    fn default() -> Self {
        Self {
            topic: "delivery.events".into(),
            format: Format::Auto,
            max_record_bytes: 1 << 20,
            schema_ids: BTreeMap::new(),
            schemas: Vec::new(),
        }
    }
}

/// Names of bounceflow's own topics.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    /// `Failure` records.
    pub failures: String,
    /// `RateBatch` records.
    pub rates: String,
    /// `Alert` records.
    pub alerts: String,
    /// Items that could not be read, byte for byte.
    pub dead_letter: String,
    /// Schemas of what is written to these topics, by fingerprint.
    pub schemas: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            failures: "bounceflow.failures".into(),
            rates: "bounceflow.rates".into(),
            alerts: "bounceflow.alerts".into(),
            dead_letter: "bounceflow.dead-letter".into(),
            schemas: "bounceflow.schemas".into(),
        }
    }
}

/// The classify role.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawClassify {
    /// Threads per input topic. Unset: one per core.
    pub threads: Option<usize>,
    /// Time between transactions, milliseconds.
    pub transaction_interval_ms: u64,
    /// A transaction ends early after this many records, or items of records that hold several.
    pub max_transaction_records: usize,
    /// Distinct campaigns counted apart in one transaction; the rest is counted as `other`.
    pub max_campaigns: usize,
    /// Patterns listed per transaction.
    pub max_patterns: usize,
    /// Rules of your own: TOML files, or folders of them. A rule with a built-in rule's id replaces it. Read anew on SIGHUP.
    pub rules: Vec<PathBuf>,
}

impl Default for RawClassify {
    fn default() -> Self {
        Self {
            threads: None,
            transaction_interval_ms: 250,
            max_transaction_records: 500_000,
            max_campaigns: 1000,
            max_patterns: 64,
            rules: Vec::new(),
        }
    }
}

/// The keyed hash that stands for a recipient.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRecipient {
    /// Name of the key, kept beside each hash.
    pub key_id: String,
    /// File with the key, at least 16 bytes.
    pub key_file: Option<PathBuf>,
    /// Keys of before, by their names, so that `erase` finds what was written with them; an empty path: written without a key.
    pub old_key_files: BTreeMap<String, PathBuf>,
    /// Keep the plain address in `failures` as well.
    pub keep_plain: bool,
}

impl Default for RawRecipient {
    fn default() -> Self {
        Self { key_id: "1".into(), key_file: None, old_key_files: BTreeMap::new(), keep_plain: false }
    }
}

/// Where the sink writes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawClickHouse {
    /// HTTP address of the server, or a list of them: replicas of one shard. The sink turns to the next where one does not answer.
    /// Several need replicated tables, which `migrate` makes at each of them (or with `cluster`). Unset: `http://127.0.0.1:8123`.
    pub url: Option<Addresses>,
    /// Several shards instead of `url`, each with a part of the Kafka partitions. New ones go to the end; the order never changes.
    pub shards: Vec<RawShard>,
    /// A cluster of the servers' `remote_servers`. With `url`: its servers run what `migrate` does (`ON CLUSTER`), and tables are
    /// replicated. With `shards`: it names the same shards, and the database `…_all` reads them.
    pub cluster: Option<String>,
    /// Path of a replicated table in ClickHouse Keeper. The server replaces `{shard}` (a macro), `{database}` and `{table}`.
    pub replica_path: String,
    /// Database. `migrate` creates it.
    pub database: String,
    /// For how long data is kept. `migrate` makes the tables so.
    pub retention: RawRetention,
    /// User.
    pub user: String,
    /// The user's password: meant for the environment, `BOUNCEFLOW__CLICKHOUSE__PASSWORD`, whose value is taken as it stands.
    pub password: Text,
    /// File with the user's password instead. White space at its end is not the password's. Read anew when it changes.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that sign those of the servers, where addresses begin with `https://`; unset: the public
    /// authorities. Read anew when it changes, as are the two below.
    pub ca_file: Option<PathBuf>,
    /// Certificate (PEM, with its chain) to show to the servers; unset: none.
    pub certificate_file: Option<PathBuf>,
    /// Its private key (PEM).
    pub key_file: Option<PathBuf>,
    /// An insert that was not answered within this is sent again. Milliseconds.
    pub insert_timeout_ms: u64,
}

impl Default for RawClickHouse {
    fn default() -> Self {
        Self {
            url: None,
            shards: Vec::new(),
            cluster: None,
            replica_path: bounceflow_warehouse::replication::DEFAULT_PATH.into(),
            database: "bounceflow".into(),
            retention: RawRetention::default(),
            user: "default".into(),
            password: Text::default(),
            password_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            insert_timeout_ms: 60_000,
        }
    }
}

/// One of several shards.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawShard {
    /// HTTP address of its server, or a list of them: its replicas. Where any shard has several, the tables of all are replicated.
    pub url: Addresses,
}

/// For how long data is kept, in days after the event; 0: for ever.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRetention {
    /// Texts of replies.
    pub diagnostics: u32,
    /// Failures. Those that are older when Kafka takes them are refused (dead-lettered), not stored to vanish.
    pub failures: u32,
    /// Counts. What is older when Kafka takes it is refused; nothing older than 1096 days is taken at all.
    pub rates: u32,
}

impl Default for RawRetention {
    fn default() -> Self {
        let bounceflow_warehouse::Retention { diagnostics, failures, rates } = bounceflow_warehouse::Retention::default();
        Self { diagnostics, failures, rates }
    }
}

/// One address or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "an address, or a list of addresses")]
pub enum Addresses {
    /// One server.
    One(String),
    /// Replicas of one shard.
    Several(Vec<String>),
}

impl From<Addresses> for Vec<String> {
    fn from(addresses: Addresses) -> Self {
        match addresses {
            Addresses::One(url) => vec![url],
            Addresses::Several(urls) => urls,
        }
    }
}

/// The sink role.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSink {
    /// A batch waits this long for more rows, milliseconds.
    pub linger_ms: u64,
    /// Records in one batch, at most 500,000.
    pub max_rows: usize,
    /// Bytes in one batch, at most 64 MiB.
    pub max_bytes: usize,
    /// An identical batch that ClickHouse fails to take is sent again this often before its partition halts.
    pub max_retries: u32,
}

impl Default for RawSink {
    fn default() -> Self {
        Self { linger_ms: 1000, max_rows: 100_000, max_bytes: 32 << 20, max_retries: 20 }
    }
}

/// The watch role.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawWatch {
    /// File of threshold rules; unset: those built in (`bounceflow alert-rules` prints them).
    pub rules: Option<PathBuf>,
    /// Addresses of the Alertmanagers, each is sent every alert: `http://alertmanager:9093`.
    pub alertmanagers: Vec<String>,
    /// Firing alerts are sent again this often, milliseconds.
    pub resend_interval_ms: u64,
    /// Event time waits this long for events that come out of order. Seconds.
    pub lateness_s: u32,
    /// An input partition whose end is reached follows the log's time, this long behind it. Seconds.
    pub idle_s: u32,
    /// An input partition that is behind the others holds event time back for this long of log time at most. Seconds.
    pub hold_s: u32,
    /// Keys (ISP, identity and both together) kept in memory; more are refused and counted.
    pub max_keys: usize,
    /// Patterns kept in memory; more are refused and counted.
    pub max_patterns: usize,
}

impl Default for RawWatch {
    fn default() -> Self {
        Self {
            rules: None,
            alertmanagers: Vec::new(),
            resend_interval_ms: 60_000,
            lateness_s: 30,
            idle_s: 30,
            hold_s: 600,
            max_keys: 200_000,
            max_patterns: 65_536,
        }
    }
}

/// Traces to an OpenTelemetry collector. OpenTelemetry's own variables hold beside it: `OTEL_EXPORTER_OTLP_HEADERS` (a token),
/// `OTEL_RESOURCE_ATTRIBUTES`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTelemetry {
    /// Address of the collector for OTLP over HTTP, without a path: `http://collector:4318`. Unset: no traces.
    pub otlp_endpoint: Option<String>,
    /// Which part of all traces is sent, from 0 (none) to 1 (all).
    pub sample_ratio: f64,
    /// A request that was not answered within this has failed. Milliseconds.
    pub export_timeout_ms: u64,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 1.0, export_timeout_ms: 5000 }
    }
}

/// Health and metrics.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHttp {
    /// Address of `/healthz`, `/readyz`, `/metrics` and, where the watch role runs, `/api/v1`.
    pub listen: String,
    /// File of the bearer tokens that `/metrics` and `/api/v1` ask for, one a line: each is accepted. Unset: none is asked for. Read anew
    /// when it changes.
    pub token_file: Option<PathBuf>,
    /// TLS; unset: plain HTTP.
    pub tls: Option<RawHttpTls>,
}

/// What the HTTP side shows to those who connect. Both are read anew when they change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHttpTls {
    /// Certificate with its chain, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
}

impl Default for RawHttp {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".into(), token_file: None, tls: None }
    }
}

/// What has been checked.
#[derive(Clone)]
pub struct Config {
    /// Prefix of groups, transactional ids and tokens.
    pub deployment: String,
    /// Number of this process among those of its role.
    pub ordinal: Ordinal,
    /// librdkafka properties.
    pub kafka: BTreeMap<String, String>,
    /// Those of them whose values come from files.
    pub kafka_files: BTreeMap<String, PathBuf>,
    /// Input topics.
    pub inputs: Vec<RawInput>,
    /// Own topics.
    pub topics: Topics,
    /// The classify role.
    pub classify: Classify,
    /// ISP table.
    pub isps: Isps,
    /// Identity sources and mapping.
    pub identities: Identities,
    /// Recipient hash.
    pub recipient: Recipient,
    /// ClickHouse.
    pub clickhouse: Settings,
    /// Where its credentials come from, to be read anew.
    pub clickhouse_secrets: ClickHouseSecrets,
    /// The sink role.
    pub sink: Sink,
    /// The watch role.
    pub watch: Watch,
    /// Traces; none: no traces.
    pub telemetry: Option<Telemetry>,
    /// Address of health and metrics.
    pub listen: SocketAddr,
    /// Where what guards them comes from.
    pub http_secrets: guard::Secrets,
}

/// The classify role, checked.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "documented in RawClassify")]
pub struct Classify {
    pub threads: usize,
    pub transaction_interval: Duration,
    pub max_transaction_records: usize,
    pub max_campaigns: usize,
    pub max_patterns: usize,
    pub rules: Vec<PathBuf>,
    /// The built-in rules and those of the files, compiled.
    pub compiled: Arc<bounceflow_classify::Rules>,
}

/// Recipient hash, checked.
#[derive(Clone)]
#[allow(missing_docs, reason = "documented in RawRecipient")]
pub struct Recipient {
    pub key_id: String,
    pub key: Vec<u8>,
    pub old_keys: BTreeMap<String, Vec<u8>>,
    pub keep_plain: bool,
}

/// The sink role, checked.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "documented in RawSink")]
pub struct Sink {
    pub linger: Duration,
    pub max_rows: usize,
    pub max_bytes: usize,
    pub max_retries: u32,
}

/// The watch role, checked.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "documented in RawWatch")]
pub struct Watch {
    pub rules: Arc<Rules>,
    pub alertmanagers: Vec<String>,
    pub resend_interval: Duration,
    pub settings: bounceflow_window::Settings,
}

/// The name of this host; empty: none that can be read.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Which one of its role a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordinal {
    /// This one.
    Number(u32),
    /// The one at the end of the host name. Only a process that runs needs it: a job that checks or migrates has none.
    HostName,
}

impl Ordinal {
    /// What it is here. An error where the host name has no number at its end: taken for 0, several would fence each other.
    pub fn here(self) -> Result<Self, Mistakes> {
        self.on(&host_name())
    }

    fn on(self, host: &str) -> Result<Self, Mistakes> {
        let number = host.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
        match (self, number) {
            (Self::HostName, Some(number)) => Ok(Self::Number(number)),
            (Self::HostName, None) => Err(Mistakes(vec![format!(
                "ordinal: is \"hostname\", and the host name {host:?} has no number at its end as classify-0 has: run this role as a \
                 StatefulSet, name the host so, or give each process of the role a number of its own (ordinal = 0)"
            )])),
            (number, _) => Ok(number),
        }
    }
}

impl fmt::Display for Ordinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::HostName => f.write_str("hostname"),
        }
    }
}

impl<'de> Deserialize<'de> for Ordinal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Text(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Number(number)) => Ok(Self::Number(number)),
            Ok(Written::Text(text)) if text == "hostname" => Ok(Self::HostName),
            _ => Err(serde::de::Error::custom("must be a whole number from 0, or \"hostname\"")),
        }
    }
}

/// Traces, checked.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Address that takes spans, with its path.
    pub endpoint: String,
    /// Which part of all traces is sent, 0 to 1.
    pub sample_ratio: f64,
    /// Of one request.
    pub export_timeout: Duration,
}

/// Every mistake of a configuration, each with its path.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl Mistakes {
    fn add(&mut self, path: &str, what: impl fmt::Display) {
        self.0.push(format!("{path}: {what}"));
    }

    /// Of fields of `[http]`.
    pub(crate) fn of_http(found: Vec<(&'static str, String)>) -> Self {
        Self(found.into_iter().map(|(field, what)| format!("http.{field}: {what}")).collect())
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        for mistake in &self.0 {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl Config {
    /// Reads and checks `file` and the environment (`BOUNCEFLOW__SECTION__FIELD`).
    pub fn load(file: &Path) -> Result<Self, Mistakes> {
        if !file.is_file() {
            return Err(Mistakes(vec![format!("{}: no such file; name another with --config", file.display())]));
        }
        let text = std::fs::read_to_string(file).map_err(|e| Mistakes(vec![format!("{}: {e}", file.display())]))?;
        let table = parse_toml(&text).map_err(|e| Mistakes(vec![format!("{}: {e}", file.display())]))?;
        // Values of the environment are read as TOML, which a password is not.
        let environment = Env::prefixed("BOUNCEFLOW__").filter(|key| key != PASSWORD).split("__");
        let figment = Figment::new().merge(Serialized::defaults(table)).merge(environment);
        let mut tree: serde_json::Value =
            figment.extract().map_err(|e| Mistakes(e.into_iter().map(|e| format!("{}: {e}", file.display())).collect()))?;
        let password = std::env::var_os("BOUNCEFLOW__CLICKHOUSE__PASSWORD").map(std::ffi::OsString::into_string);
        match (password, tree.as_object_mut()) {
            (Some(Err(_)), _) => {
                return Err(Mistakes(vec!["BOUNCEFLOW__CLICKHOUSE__PASSWORD: holds bytes that are no text".into()]));
            }
            (Some(Ok(password)), Some(tree)) => {
                let clickhouse = tree.entry("clickhouse").or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
                if let Some(clickhouse) = clickhouse.as_object_mut() {
                    clickhouse.insert("password".to_owned(), password.into());
                }
            }
            _ => {}
        }
        Self::from_tree(tree)
    }

    /// Checks the text of a configuration file alone.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let table = parse_toml(text).map_err(|e| Mistakes(vec![e]))?;
        let tree = serde_json::to_value(table).map_err(|e| Mistakes(vec![e.to_string()]))?;
        Self::from_tree(tree)
    }

    fn from_tree(mut tree: serde_json::Value) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let raw = read_leniently(&mut tree, &mut mistakes);
        let config = raw.and_then(|raw| Self::check(raw, &mut mistakes));
        match config {
            Some(config) if mistakes.0.is_empty() => Ok(config),
            _ => Err(mistakes),
        }
    }

    /// The files that Kafka's clients are made from: values, and what properties such as `ssl.key.location` name.
    pub fn files_of_kafka(&self) -> Vec<PathBuf> {
        let located = self.kafka.iter().filter(|(property, _)| property.ends_with(".location")).map(|(_, file)| file.into());
        self.kafka_files.values().cloned().chain(located).collect()
    }

    /// The same with Kafka's secrets as they are now.
    pub fn with_kafka_renewed(&self) -> Result<Self, Mistakes> {
        let (mut mistakes, mut renewed) = (Mistakes::default(), self.clone());
        for (property, file) in &self.kafka_files {
            match secrets::read_text(file) {
                Ok(value) => drop(renewed.kafka.insert(property.clone(), value)),
                Err(e) => mistakes.add(&format!("kafka_files.\"{property}\""), e),
            }
        }
        if mistakes.0.is_empty() { Ok(renewed) } else { Err(mistakes) }
    }

    fn check(mut raw: RawConfig, mistakes: &mut Mistakes) -> Option<Self> {
        if raw.deployment.is_empty()
            || !raw.deployment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        {
            mistakes.add("deployment", "must be letters, digits, `-`, `_` or `.`, at least one");
        }
        let kafka = kafka(raw.kafka, &raw.kafka_files, mistakes);
        if !kafka.contains_key("bootstrap.servers") {
            mistakes.add("kafka.\"bootstrap.servers\"", "is missing; name at least one broker as host:port");
        }
        if raw.inputs.is_empty() {
            mistakes.add("inputs", "is empty; name at least one topic to read");
        }
        for (i, input) in raw.inputs.iter().enumerate() {
            if input.topic.is_empty() {
                mistakes.add(&format!("inputs[{i}].topic"), "is empty");
            }
            if raw.inputs[..i].iter().any(|earlier| earlier.topic == input.topic) {
                mistakes.add(&format!("inputs[{i}].topic"), format_args!("{:?} is named twice", input.topic));
            }
            if input.max_record_bytes == 0 {
                mistakes.add(&format!("inputs[{i}].max_record_bytes"), "must be at least 1");
            }
            if input.max_record_bytes > MOST_RECORD_BYTES {
                let path = format!("inputs[{i}].max_record_bytes");
                mistakes.add(
                    &path,
                    format_args!("must be at most {MOST_RECORD_BYTES}: what cannot be read has to fit into a dead letter"),
                );
            }
            if let Err(e) = decoder(input) {
                mistakes.0.extend(e.0.into_iter().map(|e| format!("inputs[{i}].{e}")));
            }
        }
        let topics = [
            ("topics.failures", &raw.topics.failures),
            ("topics.rates", &raw.topics.rates),
            ("topics.alerts", &raw.topics.alerts),
            ("topics.dead_letter", &raw.topics.dead_letter),
            ("topics.schemas", &raw.topics.schemas),
        ];
        for (i, (path, topic)) in topics.iter().enumerate() {
            if topic.is_empty() {
                mistakes.add(path, "is empty");
            }
            if topics[..i].iter().any(|(_, earlier)| earlier == topic) || raw.inputs.iter().any(|input| input.topic == **topic) {
                mistakes.add(path, format_args!("{topic:?} is used for something else as well"));
            }
        }
        at_least(mistakes, "classify.threads", raw.classify.threads.unwrap_or(1) as u64, 1);
        at_least(mistakes, "classify.transaction_interval_ms", raw.classify.transaction_interval_ms, 10);
        if raw.classify.transaction_interval_ms > 5000 {
            mistakes.add("classify.transaction_interval_ms", "must be at most 5000: a transaction times out after 10 s");
        }
        at_least(mistakes, "classify.max_transaction_records", raw.classify.max_transaction_records as u64, 1);
        at_least(mistakes, "classify.max_campaigns", raw.classify.max_campaigns as u64, 1);
        at_least(mistakes, "sink.max_rows", raw.sink.max_rows as u64, 1);
        at_least(mistakes, "sink.max_bytes", raw.sink.max_bytes as u64, 1 << 20);
        if raw.sink.max_rows > 500_000 {
            mistakes.add("sink.max_rows", "must be at most 500000: a batch is one block");
        }
        if raw.sink.max_bytes > 64 << 20 {
            mistakes.add("sink.max_bytes", "must be at most 67108864 (64 MiB): a batch is one block");
        }
        at_least(mistakes, "clickhouse.insert_timeout_ms", raw.clickhouse.insert_timeout_ms, 100);
        let clickhouse_secrets = ClickHouseSecrets {
            password: std::mem::take(&mut raw.clickhouse.password).0,
            password_file: raw.clickhouse.password_file.take(),
            ca_file: raw.clickhouse.ca_file.take(),
            certificate_file: raw.clickhouse.certificate_file.take(),
            key_file: raw.clickhouse.key_file.take(),
        };
        let access = match clickhouse_secrets.read() {
            Ok(credentials) => Access::new(&credentials).unwrap_or_else(|mistake| {
                let (field, what) = mistake.split_once(' ').unwrap_or((&mistake, ""));
                mistakes.add(&format!("clickhouse.{field}"), what);
                Access::default()
            }),
            Err(found) => {
                found.iter().for_each(|(field, what)| mistakes.add(&format!("clickhouse.{field}"), what));
                Access::default()
            }
        };
        let key = recipient_key(raw.recipient.key_file.as_deref(), "recipient.key_file", mistakes);
        let old_keys = raw.recipient.old_key_files.iter().map(|(id, file)| {
            let path = format!("recipient.old_key_files.{id:?}");
            if *id == raw.recipient.key_id {
                mistakes.add(&path, "has the name of the key in use; a new key needs a name of its own");
            }
            let file = Some(file.as_path()).filter(|file| !file.as_os_str().is_empty());
            (id.clone(), recipient_key(file, &path, mistakes))
        });
        let old_keys = old_keys.collect();
        if raw.clickhouse.url.is_some() && !raw.clickhouse.shards.is_empty() {
            mistakes.add("clickhouse.url", "names servers beside clickhouse.shards; name them in one of the two");
        }
        let servers = servers(&mut raw.clickhouse);
        let clickhouse = Settings {
            database: raw.clickhouse.database,
            retention: bounceflow_warehouse::Retention {
                diagnostics: raw.clickhouse.retention.diagnostics,
                failures: raw.clickhouse.retention.failures,
                rates: raw.clickhouse.retention.rates,
            },
            user: raw.clickhouse.user,
            access,
            pipeline: raw.deployment.clone(),
            insert_timeout: Duration::from_millis(raw.clickhouse.insert_timeout_ms),
            ..servers
        };
        for mistake in clickhouse.mistakes() {
            let (field, what) = mistake.split_once(' ').unwrap_or((&mistake, ""));
            mistakes.add(&format!("clickhouse.{field}"), what);
        }
        let listen =
            raw.http.listen.parse().map_err(|e| mistakes.add("http.listen", format_args!("{e}; write it as 0.0.0.0:9090")));
        let http_secrets = guard::Secrets {
            token_file: raw.http.token_file.take(),
            tls: raw.http.tls.take().map(|tls| (tls.certificate_file, tls.key_file)),
        };
        if let Err(found) = Guard::new(&http_secrets) {
            mistakes.0.extend(Mistakes::of_http(found).0);
        }
        let identities =
            Identities::new(&raw.identity).map_err(|e| mistakes.0.extend(e.as_slice().iter().map(ToString::to_string)));
        let watch = watch(raw.watch, mistakes);
        let telemetry = telemetry(raw.telemetry, mistakes);
        let isps = isps(raw.isps.as_deref(), mistakes)?;
        let rules = files::load(&raw.classify.rules, &isps)
            .map_err(|e| mistakes.0.extend(e.0.iter().map(|e| format!("classify.rules: {e}"))));
        if let Some(watch) = &watch {
            for rule in watch.rules.iter().filter(|rule| !isps.ids().any(|isp| rule.fits_isp(isps.id(isp)))) {
                mistakes.add("watch.rules", format_args!("rule {}: its isp fits no provider of the table", rule.name));
            }
        }
        Some(Self {
            ordinal: raw.ordinal,
            kafka,
            kafka_files: raw.kafka_files,
            inputs: raw.inputs,
            topics: raw.topics,
            classify: Classify {
                threads: raw.classify.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
                transaction_interval: Duration::from_millis(raw.classify.transaction_interval_ms),
                max_transaction_records: raw.classify.max_transaction_records,
                max_campaigns: raw.classify.max_campaigns,
                max_patterns: raw.classify.max_patterns,
                rules: raw.classify.rules,
                compiled: Arc::new(rules.ok()?),
            },
            isps,
            identities: identities.ok()?,
            recipient: Recipient { key_id: raw.recipient.key_id, key, old_keys, keep_plain: raw.recipient.keep_plain },
            clickhouse,
            clickhouse_secrets,
            deployment: raw.deployment,
            sink: Sink {
                linger: Duration::from_millis(raw.sink.linger_ms),
                max_rows: raw.sink.max_rows,
                max_bytes: raw.sink.max_bytes,
                max_retries: raw.sink.max_retries,
            },
            watch: watch?,
            telemetry,
            listen: listen.ok()?,
            http_secrets,
        })
    }
}

/// `BOUNCEFLOW__CLICKHOUSE__PASSWORD`, as the environment's provider calls it.
const PASSWORD: &str = "clickhouse__password";

/// The parser's own words quote the line, which may hold a secret.
fn parse_toml(text: &str) -> Result<toml::Table, String> {
    text.parse().map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let (line, column) = (before.matches('\n').count() + 1, before.chars().rev().take_while(|c| *c != '\n').count() + 1);
        format!("line {line}, column {column}: {}", e.message())
    })
}

/// Which servers ClickHouse is, and how they belong together. Checked with the rest of the settings.
fn servers(raw: &mut RawClickHouse) -> Settings {
    let sharded = !raw.shards.is_empty();
    let mut shards: Vec<Vec<String>> = raw.shards.drain(..).map(|shard| shard.url.into()).collect();
    if !sharded {
        shards.push(raw.url.take().map_or_else(|| vec!["http://127.0.0.1:8123".to_owned()], Into::into));
    }
    // Told as an empty address, with its place.
    shards.iter_mut().filter(|urls| urls.is_empty()).for_each(|urls| urls.push(String::new()));
    let several = shards.iter().any(|urls| urls.len() > 1);
    let (path, cluster) = (std::mem::take(&mut raw.replica_path), raw.cluster.take());
    let mut urls = shards.remove(0);
    let (url, further) = (urls.remove(0), urls);
    if sharded {
        let sharding = Some(Sharding { cluster: cluster.unwrap_or_default(), further: shards });
        let replication = several.then_some(Replication { path, cluster: None });
        Settings { url, further, replication, sharding, ..Settings::default() }
    } else {
        let replication = (several || cluster.is_some()).then_some(Replication { path, cluster });
        Settings { url, further, replication, ..Settings::default() }
    }
}

/// The properties, those from files among them.
fn kafka(
    properties: BTreeMap<String, Text>,
    files: &BTreeMap<String, PathBuf>,
    mistakes: &mut Mistakes,
) -> BTreeMap<String, String> {
    let before = mistakes.0.len();
    let mut properties: BTreeMap<_, _> = properties.into_iter().map(|(property, value)| (property, value.0)).collect();
    for (section, property) in properties.keys().map(|p| ("kafka", p)).chain(files.keys().map(|p| ("kafka_files", p))) {
        if let Some(why) = reserved(property) {
            mistakes.add(&format!("{section}.\"{property}\""), why);
        }
    }
    for (property, file) in files {
        let path = format!("kafka_files.\"{property}\"");
        if properties.contains_key(property) {
            mistakes.add(&path, "is under `kafka` as well");
        }
        match secrets::read_text(file) {
            Ok(text) => drop(properties.insert(property.clone(), text)),
            Err(e) => mistakes.add(&path, e),
        }
    }
    let path = |property: &str| {
        let section = if files.contains_key(property) { "kafka_files" } else { "kafka" };
        format!("{section}.\"{property}\"")
    };
    for (property, value) in properties.iter().filter(|(property, _)| reserved(property).is_none()) {
        if let Some(why) = mistake_of(property, value) {
            mistakes.add(&path(property), why);
        }
    }
    // With one of those in it, a client could not be made for that alone.
    let told = if mistakes.0.len() == before { mistakes_of_clients(&properties) } else { Vec::new() };
    for why in told {
        let named = properties.keys().filter_map(|property| Some((why.find(property.as_str())?, property))).min();
        let secrets = files.keys().filter_map(|property| properties.get(property)).filter(|secret| !secret.is_empty());
        let why = secrets.fold(why, |why, secret| why.replace(secret.as_str(), "***"));
        mistakes.add(&named.map_or_else(|| "kafka".to_owned(), |(_, property)| path(property)), why);
    }
    properties
}

/// The table of a file. The built-in one where none is named, and for finding further mistakes where that one cannot be read.
fn isps(file: Option<&Path>, mistakes: &mut Mistakes) -> Option<Isps> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).map_err(|e| e.to_string());
        match text.and_then(|text| Isps::from_toml(&text).map_err(|e| e.to_string())) {
            Ok(isps) => return Some(isps),
            Err(e) => mistakes.add("isps", format_args!("{}: {e}", file.display())),
        }
    }
    Isps::builtin().map_err(|e| mistakes.add("isps", e)).ok()
}

fn recipient_key(file: Option<&Path>, path: &str, mistakes: &mut Mistakes) -> Vec<u8> {
    match file.map(std::fs::read) {
        // Without a key the hash is one anybody can compute: it hides addresses from the eye, not from a guess.
        None => b"bounceflow-unkeyed".to_vec(),
        Some(Ok(key)) => {
            if key.len() < 16 {
                mistakes.add(path, format_args!("holds {} bytes, needs at least 16", key.len()));
            }
            key
        }
        Some(Err(e)) => {
            mistakes.add(path, e);
            Vec::new()
        }
    }
}

fn at_least(mistakes: &mut Mistakes, path: &str, value: u64, least: u64) {
    if value < least {
        mistakes.add(path, format_args!("is {value}, must be at least {least}"));
    }
}

fn watch(raw: RawWatch, mistakes: &mut Mistakes) -> Option<Watch> {
    let rules = match &raw.rules {
        None => Rules::builtin(),
        Some(file) => match std::fs::read_to_string(file) {
            Ok(text) => Rules::parse(&text, &file.display().to_string()),
            Err(e) => {
                mistakes.add("watch.rules", format_args!("{}: {e}", file.display()));
                return None;
            }
        },
    };
    for (i, url) in raw.alertmanagers.iter().enumerate() {
        let path = format!("watch.alertmanagers[{i}]");
        if url.contains('@') {
            mistakes.add(&path, "holds a user: addresses are shown in logs and by /api/v1/status");
        } else if !(url.starts_with("http://") || url.starts_with("https://")) {
            mistakes.add(&path, format_args!("{url:?} is no address; write it as http://host:9093"));
        }
    }
    at_least(mistakes, "watch.resend_interval_ms", raw.resend_interval_ms, 1000);
    at_least(mistakes, "watch.max_keys", raw.max_keys as u64, 1);
    let day = 24 * 3600;
    for (path, seconds) in [("watch.lateness_s", raw.lateness_s), ("watch.idle_s", raw.idle_s), ("watch.hold_s", raw.hold_s)] {
        if seconds > day {
            mistakes.add(path, format_args!("{seconds} is more than a day"));
        }
    }
    let rules = rules.map_err(|e| mistakes.0.extend(e.0)).ok()?;
    Some(Watch {
        rules: Arc::new(rules),
        alertmanagers: raw.alertmanagers,
        resend_interval: Duration::from_millis(raw.resend_interval_ms),
        settings: bounceflow_window::Settings {
            lateness: raw.lateness_s,
            idle: raw.idle_s,
            hold: raw.hold_s,
            max_keys: raw.max_keys,
            max_patterns: raw.max_patterns,
        },
    })
}

fn telemetry(raw: RawTelemetry, mistakes: &mut Mistakes) -> Option<Telemetry> {
    let RawTelemetry { otlp_endpoint, sample_ratio, export_timeout_ms } = raw;
    if !(0.0..=1.0).contains(&sample_ratio) {
        mistakes.add("telemetry.sample_ratio", format_args!("is {sample_ratio}, must be from 0 (none) to 1 (all)"));
    }
    at_least(mistakes, "telemetry.export_timeout_ms", export_timeout_ms, 100);
    let address = otlp_endpoint?;
    let sound = address.parse::<axum::http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.path() == "/"
            && uri.query().is_none()
            && !address.contains(['#', '@'])
    });
    if !sound {
        // Not quoted: it may hold a password.
        let why = "is no address of a collector; write it as http://host:4318, without a user and without a path: spans go to its /v1/traces";
        mistakes.add("telemetry.otlp_endpoint", why);
    }
    Some(Telemetry {
        endpoint: format!("{}/v1/traces", address.trim_end_matches('/')),
        sample_ratio,
        export_timeout: Duration::from_millis(export_timeout_ms),
    })
}

/// The largest `max_record_bytes`. Bytes.
const MOST_RECORD_BYTES: usize = 32 << 20;

/// The decoder of an input topic, with the schemas it names.
pub fn decoder(input: &RawInput) -> Result<Decoder, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut schemas = avro::Schemas::default();
    if let Err(e) = schemas.add(avro::DELIVERY_EVENT) {
        mistakes.add("schemas", e);
    }
    for file in &input.schemas {
        let added = std::fs::read_to_string(file)
            .map_err(|e| e.to_string())
            .and_then(|text| match other_than_millis(&text) {
                Some((field, unit)) => Err(format!("field `{field}` is {unit}; times are read as timestamp-millis, or as text")),
                None => Ok(text),
            })
            .and_then(|text| schemas.add(&text).map_err(|e| e.to_string()));
        if let Err(e) = added {
            mistakes.add("schemas", format_args!("{}: {e}", file.display()));
        }
    }
    for (id, file) in &input.schema_ids {
        let path = format!("schema_ids.{id}");
        let text = if file == "builtin" { Ok(avro::DELIVERY_EVENT.to_owned()) } else { std::fs::read_to_string(file) };
        match (id.parse::<u32>(), text) {
            (Err(_), _) => mistakes.add(&path, "a schema id is a whole number"),
            (_, Err(e)) => mistakes.add(&path, format_args!("{file}: {e}")),
            (Ok(_), Ok(text)) if other_than_millis(&text).is_some() => {
                let (field, unit) = other_than_millis(&text).unwrap_or_default();
                mistakes.add(
                    &path,
                    format_args!("{file}: field `{field}` is {unit}; times are read as timestamp-millis, or as text"),
                );
            }
            (Ok(id), Ok(text)) => {
                if let Err(e) = schemas.add_id(id, &text) {
                    mistakes.add(&path, e);
                }
            }
        }
    }
    if mistakes.0.is_empty() { Ok(Decoder::new(input.format, input.max_record_bytes, schemas)) } else { Err(mistakes) }
}

/// The field of a writer's schema that holds a time in another unit than milliseconds, with that unit: read as milliseconds, it would be
/// a time thousands of years ahead.
fn other_than_millis(schema: &str) -> Option<(String, String)> {
    let schema: serde_json::Value = serde_json::from_str(schema).ok()?;
    schema["fields"].as_array()?.iter().find_map(|field| {
        let name = field["name"].as_str().filter(|name| ["timestamp", "sent_at"].contains(name))?;
        let types = field["type"].as_array().map_or(std::slice::from_ref(&field["type"]), Vec::as_slice);
        let unit = types.iter().find_map(|t| t["logicalType"].as_str().filter(|unit| *unit != "timestamp-millis"))?;
        Some((name.to_owned(), unit.to_owned()))
    })
}

/// Reads what can be read: each mistake is noted and its value taken out, until the rest is sound.
fn read_leniently(tree: &mut serde_json::Value, mistakes: &mut Mistakes) -> Option<RawConfig> {
    for _ in 0..1000 {
        let error = match serde_path_to_error::deserialize::<_, RawConfig>(&*tree) {
            Ok(raw) => return Some(raw),
            Err(e) => e,
        };
        let path = error.path().to_string();
        mistakes.add(&path, error.inner());
        let mut segments: Vec<serde_path_to_error::Segment> = error.path().iter().cloned().collect();
        // An unknown field's own path is that of the struct around it, on some deserializers: the message names the field.
        let unknown =
            error.inner().to_string().strip_prefix("unknown field `").and_then(|m| m.split('`').next().map(str::to_owned));
        if let Some(field) = unknown
            && !matches!(segments.last(), Some(serde_path_to_error::Segment::Map { key }) if *key == field)
        {
            segments.push(serde_path_to_error::Segment::Map { key: field });
        }
        if !take_out(tree, &segments) {
            return None;
        }
    }
    None
}

fn take_out(tree: &mut serde_json::Value, path: &[serde_path_to_error::Segment]) -> bool {
    use serde_path_to_error::Segment;
    match path {
        [] => false,
        [Segment::Map { key }] => tree.as_object_mut().is_some_and(|o| o.remove(key).is_some()),
        [Segment::Seq { index }] => match tree.as_array_mut() {
            Some(items) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        },
        [Segment::Map { key }, rest @ ..] => tree.get_mut(key).is_some_and(|v| take_out(v, rest)),
        [Segment::Seq { index }, rest @ ..] => tree.get_mut(*index).is_some_and(|v| take_out(v, rest)),
        [_, rest @ ..] => take_out(tree, rest),
    }
}

/// Properties that decide whether counting is exact are bounceflow's own.
fn reserved(property: &str) -> Option<&'static str> {
    match property {
        "group.id" | "transactional.id" | "group.instance.id" => Some("is made from `deployment` and `ordinal`"),
        "enable.auto.commit"
        | "enable.auto.offset.store"
        | "isolation.level"
        | "auto.offset.reset"
        | "enable.idempotence"
        | "enable.partition.eof"
        | "acks"
        | "partition.assignment.strategy"
        | "transaction.timeout.ms" => Some("is set by bounceflow: counting exactly once stands on it"),
        "message.max.bytes" => Some("is set by bounceflow: whatever could be read must fit into a dead letter"),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_without_a_number_is_no_ordinal() {
        for (host, number) in [("classify-0", 0), ("mail-bounceflow-sink-17", 17)] {
            assert_eq!(Ordinal::HostName.on(host), Ok(Ordinal::Number(number)));
        }
        for host in ["laptop", "mail-x7k2p", "7", "sink-", "sink-99999999999", ""] {
            let refused = Ordinal::HostName.on(host).unwrap_err().to_string();
            assert!(refused.contains("ordinal: is \"hostname\"") && refused.contains(&format!("{host:?}")), "{refused}");
            assert_eq!(Ordinal::Number(3).on(host), Ok(Ordinal::Number(3)));
        }
    }
}
