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
use bounceflow_warehouse::{Replication, Settings, Sharding};
use bounceflow_window::Rules;
use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use serde::Deserialize;

use crate::rules::files;

/// What people write.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Name of this installation: prefix of consumer groups, transactional ids and insert tokens. Never change it later.
    pub deployment: String,
    /// Number of this process among those of its role, from 0, stable over restarts.
    /// Unset, it is the number at the end of the host name (a StatefulSet's), else 0.
    pub ordinal: Option<u32>,
    /// File of the table of mailbox providers; unset: the built-in one (`processors/enrich/tables/isps.toml`), whose layout it has.
    pub isps: Option<PathBuf>,
    /// librdkafka properties for every client, `bootstrap.servers` first among them.
    pub kafka: BTreeMap<String, String>,
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
            ordinal: None,
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
    /// A transaction ends early after this many records.
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
    /// File with the user's password.
    pub password_file: Option<PathBuf>,
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
            password_file: None,
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
}

impl Default for RawHttp {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".into() }
    }
}

/// What has been checked.
pub struct Config {
    /// Prefix of groups, transactional ids and tokens.
    pub deployment: String,
    /// Number of this process among those of its role.
    pub ordinal: u32,
    /// librdkafka properties.
    pub kafka: BTreeMap<String, String>,
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
    /// The sink role.
    pub sink: Sink,
    /// The watch role.
    pub watch: Watch,
    /// Traces; none: no traces.
    pub telemetry: Option<Telemetry>,
    /// Address of health and metrics.
    pub listen: SocketAddr,
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
        let figment = Figment::new().merge(Toml::file_exact(file)).merge(Env::prefixed("BOUNCEFLOW__").split("__"));
        let tree: serde_json::Value =
            figment.extract().map_err(|e| Mistakes(e.into_iter().map(|e| format!("{}: {e}", file.display())).collect()))?;
        Self::from_tree(tree)
    }

    /// Checks the text of a configuration file alone.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let tree: serde_json::Value = toml::from_str(text).map_err(|e| Mistakes(vec![e.to_string()]))?;
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
            if raw.inputs[..i].iter().any(|earlier| earlier.topic == input.topic) {
                mistakes.add(&format!("inputs[{i}].topic"), format_args!("{:?} is named twice", input.topic));
            }
            if input.max_record_bytes == 0 {
                mistakes.add(&format!("inputs[{i}].max_record_bytes"), "must be at least 1");
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
        let password = match raw.clickhouse.password_file.as_deref().map(std::fs::read_to_string) {
            None => String::new(),
            Some(Ok(text)) => text.trim_end().to_owned(),
            Some(Err(e)) => {
                mistakes.add("clickhouse.password_file", e);
                String::new()
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
            password,
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
            ordinal: raw.ordinal.unwrap_or_else(ordinal_of_host),
            kafka,
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
        })
    }
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
    mut properties: BTreeMap<String, String>,
    files: &BTreeMap<String, PathBuf>,
    mistakes: &mut Mistakes,
) -> BTreeMap<String, String> {
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
        match std::fs::read_to_string(file) {
            Ok(text) => drop(properties.insert(property.clone(), text.trim_end().to_owned())),
            Err(e) => mistakes.add(&path, format_args!("{}: {e}", file.display())),
        }
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
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            mistakes
                .add(&format!("watch.alertmanagers[{i}]"), format_args!("{url:?} is no address; write it as http://host:9093"));
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
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.path() == "/" && uri.query().is_none() && !address.contains('#')
    });
    if !sound {
        let why = "is no address of a collector; write it as http://host:4318, without a path: spans go to its /v1/traces";
        mistakes.add("telemetry.otlp_endpoint", format_args!("{address:?} {why}"));
    }
    Some(Telemetry {
        endpoint: format!("{}/v1/traces", address.trim_end_matches('/')),
        sample_ratio,
        export_timeout: Duration::from_millis(export_timeout_ms),
    })
}

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
            (Ok(id), Ok(text)) => {
                if let Err(e) = schemas.add_id(id, &text) {
                    mistakes.add(&path, e);
                }
            }
        }
    }
    if mistakes.0.is_empty() { Ok(Decoder::new(input.format, input.max_record_bytes, schemas)) } else { Err(mistakes) }
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
        | "partition.assignment.strategy" => Some("is set by bounceflow: counting exactly once stands on it"),
        _ => None,
    }
}

fn ordinal_of_host() -> u32 {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}
