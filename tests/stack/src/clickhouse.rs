//! Owns the ClickHouse server: the library `libchdb.so`, run by the program `bounceflow-clickhouse` in a process of its own.
//! It must not create databases or tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use ureq::Agent;

use crate::interserver::Interserver;
use crate::keeper::Keeper;
use crate::ports::{self, Port};
use crate::server::{Server, external};
use crate::{download, launcher};

const NAMED: &str = "BOUNCEFLOW_CLICKHOUSE";
const BACKUPS: &str = "backups";
const INTERSERVER_PORT: &str = "BOUNCEFLOW_INTERSERVER_PORT"; // as the program `bounceflow-clickhouse` reads it

// The library is clickhouse-local: it starts listening when told to, and lives as long as its last query. HTTP comes last, so
// that a server that answers there also answers on the native port.
const MAIN_QUERY: &str = "SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; \
    SELECT sleepEachRow(1) FROM system.numbers LIMIT 1000000000 \
    SETTINGS function_sleep_max_microseconds_per_block=0, max_block_size=1 FORMAT Null";

// Sized for a small machine that runs Kafka beside it. There are no system log tables unless they are configured.
// The message broker pool is what the Kafka table engine runs in; clickhouse-local has none.
const SERVER_SETTINGS: [(&str, &str); 9] = [
    ("log-level", "error"), // this program reads it here, not in `logger`
    ("max_server_memory_usage", "6442450944"),
    ("mark_cache_size", "268435456"),
    ("uncompressed_cache_size", "0"),
    ("background_pool_size", "4"),
    ("background_schedule_pool_size", "32"),
    ("background_message_broker_schedule_pool_size", "4"),
    ("background_buffer_flush_schedule_pool_size", "2"),
    ("background_distributed_schedule_pool_size", "2"),
];

// What clickhouse-local sets apart from a server, set back.
const PROFILE: [(&str, &str); 4] = [
    ("log_queries", "0"),
    ("implicit_select", "0"),
    ("allow_introspection_functions", "0"),
    ("storage_file_read_method", "pread"),
];

// What packaged servers have in their configuration file, and this one would not by itself.
const STRICT: &str = "<access_control_improvements>\
    <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>\
    <select_from_information_schema_requires_grant>true</select_from_information_schema_requires_grant>\
    <settings_constraints_replace_previous>true</settings_constraints_replace_previous>\
    <table_engines_require_grant>true</table_engines_require_grant>\
    <on_cluster_queries_require_cluster_grant>true</on_cluster_queries_require_cluster_grant>\
    </access_control_improvements>\n";

/// What may differ from the usual server.
#[derive(Debug, Clone, Default)]
pub struct ClickHouseOptions {
    /// Elements of the server's configuration file; they win over the usual ones.
    pub server_settings: Vec<(String, String)>,
    /// Settings every query gets.
    pub query_settings: Vec<(String, String)>,
    /// Users besides `default` (which may do everything, without password). `CREATE USER` has nowhere to write here.
    pub users: Vec<ClickHouseUser>,
    /// Files of users as operators put them into `users.d`. With any, rights are as strict as packaged servers have them.
    pub user_files: Vec<PathBuf>,
    /// What the server finds in its environment.
    pub environment: Vec<(String, String)>,
    /// Makes it one of several servers that hold the same replicated tables.
    pub replica: Option<Replica>,
}

/// Which replica of which shard a server is: its macros `{shard}` and `{replica}`.
///
/// Replicated tables work as on any server but for two things that the library leaves out: other replicas get their parts through
/// [`crate::Keeper`] and a stand-in for the interserver port, and there is no queue of `ON CLUSTER` statements.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Port of the [`Keeper`].
    pub keeper: u16,
    /// `{shard}`.
    pub shard: String,
    /// `{replica}`.
    pub name: String,
}

/// A user with a password.
#[derive(Debug, Clone)]
pub struct ClickHouseUser {
    /// The name.
    pub name: String,
    /// The password, in plain text: these servers hold nothing.
    pub password: String,
    /// `GRANT` statements without a grantee (`GRANT SELECT ON db.*`); with none, the user may do everything.
    pub grants: Vec<String>,
}

impl ClickHouseOptions {
    /// Adds an element to the server's configuration file.
    #[must_use]
    pub fn server_setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.server_settings.push((name.into(), value.to_string()));
        self
    }

    /// Adds a setting that every query gets.
    #[must_use]
    pub fn query_setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.query_settings.push((name.into(), value.to_string()));
        self
    }

    /// Makes it the replica `name` of `shard`.
    #[must_use]
    pub fn replica(mut self, keeper: &Keeper, shard: &str, name: &str) -> Self {
        self.replica = Some(Replica { keeper: keeper.port(), shard: shard.to_owned(), name: name.to_owned() });
        self
    }

    /// Adds a file of users.
    #[must_use]
    pub fn user_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.user_files.push(file.into());
        self
    }

    /// Adds a variable to the server's environment.
    #[must_use]
    pub fn environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds a user.
    #[must_use]
    pub fn user(mut self, user: ClickHouseUser) -> Self {
        self.users.push(user);
        self
    }
}

/// A ClickHouse server on 127.0.0.1; dropping it stops it and removes its data.
#[derive(Debug)]
pub struct ClickHouse {
    url: String,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    server: Server,
    program: PathBuf,
    library: PathBuf,
    http: Port,
    tcp: Port,
    interserver: Option<Interserver>,
    environment: Vec<(String, String)>,
}

impl ClickHouse {
    /// Starts a server, or uses the one that `BOUNCEFLOW_CLICKHOUSE` (its HTTP address) names.
    pub fn start() -> Result<Self> {
        Self::start_with(ClickHouseOptions::default())
    }

    /// Like [`ClickHouse::start`]; a server named by the environment gets none of the options.
    pub fn start_with(options: ClickHouseOptions) -> Result<Self> {
        match env::var(NAMED) {
            Ok(url) if !url.is_empty() => Self::external(url),
            _ => Self::start_own(options),
        }
    }

    /// Starts a server whatever the environment says, for tests that kill it.
    pub fn start_own(options: ClickHouseOptions) -> Result<Self> {
        let mut started = Self::start_shards(&[options])?;
        started.pop().context("no server")
    }

    /// Starts servers that know each other: cluster `all`, in which replicas are one shard and each of the others is one of its own.
    pub fn start_shards(options: &[ClickHouseOptions]) -> Result<Vec<Self>> {
        let library = download::clickhouse()?;
        let program = launcher::find()?;
        let all = ports::with_free(|| Own::start(&program, &library, options))?;
        Ok(all.into_iter().map(|own| Self { url: own.url(), own: Some(own) }).collect())
    }

    /// Uses a server that runs already. Fails unless it answers.
    pub fn external(url: impl Into<String>) -> Result<Self> {
        let clickhouse = Self { url: url.into().trim_end_matches('/').to_owned(), own: None };
        let answer = clickhouse.query("SELECT 1");
        answer.with_context(|| format!("no ClickHouse at {} (named by {NAMED})", clickhouse.url))?;
        Ok(clickhouse)
    }

    /// The HTTP address, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port of the native protocol, unless the server is external.
    pub fn tcp_port(&self) -> Option<u16> {
        self.own.as_ref().map(|own| own.tcp.number)
    }

    /// Runs one statement as the user `default` and returns what it prints (tab-separated without a `FORMAT`).
    pub fn query(&self, sql: &str) -> Result<String> {
        self.query_within(Duration::from_secs(300), sql)
    }

    /// Like [`ClickHouse::query`], but gives up after some time.
    pub fn query_within(&self, timeout: Duration, sql: &str) -> Result<String> {
        query(&self.url, timeout, sql)
    }

    /// Runs one statement as somebody else.
    pub fn query_as(&self, user: &str, password: &str, database: &str, sql: &str) -> Result<String> {
        let headers = [("X-ClickHouse-User", user), ("X-ClickHouse-Key", password), ("X-ClickHouse-Database", database)];
        query_with(&self.url, Duration::from_secs(300), &headers, sql)
    }

    /// Freezes the process (SIGSTOP): connections stay open, nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.own()?.server.pause()
    }

    /// Lets a paused process go on.
    pub fn resume(&self) -> Result<()> {
        self.own()?.server.resume()
    }

    /// Kills the process (SIGKILL) and returns once it is dead. The data stay for [`ClickHouse::restart`].
    pub fn kill(&self) -> Result<()> {
        self.own()?.server.kill()
    }

    /// Starts it again, on the same ports with the same data, killing it first if it runs; returns once it answers.
    pub fn restart(&self) -> Result<()> {
        self.own()?.run()
    }

    /// Ends it and removes its data. One that is external is left alone.
    pub fn stop(self) -> Result<()> {
        self.own.map_or(Ok(()), |own| own.server.kill())
    }

    /// The folder that `BACKUP … TO File('…')` may write to, unless it is external. It goes when the server is stopped.
    pub fn backups(&self) -> Option<PathBuf> {
        self.own.as_ref().map(|own| own.server.folder().join(BACKUPS))
    }

    /// The server's log, unless it is external. It goes when the server is stopped.
    pub fn log_path(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.server.log())
    }

    /// The process, unless it is external or killed.
    pub fn pid(&self) -> Option<u32> {
        self.own.as_ref()?.server.pid()
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().ok_or_else(|| external("ClickHouse"))
    }
}

impl Own {
    fn start(program: &Path, library: &Path, options: &[ClickHouseOptions]) -> Result<Vec<Self>> {
        let all = options.iter().map(|options| Self::prepare(program, library, options)).collect::<Result<Vec<_>>>()?;
        let cluster = cluster(&all, options);
        for (own, options) in all.iter().zip(options) {
            own.configure(options, &cluster)?;
            own.run()?;
            if let Some(interserver) = &own.interserver {
                interserver.serve(&own.url())?;
            }
        }
        Ok(all)
    }

    fn prepare(program: &Path, library: &Path, options: &ClickHouseOptions) -> Result<Self> {
        let server = Server::prepare("ClickHouse")?;
        let (http, tcp) = (Port::claim()?, Port::claim()?);
        let interserver = options.replica.as_ref().map(|_| Interserver::bind()).transpose()?;
        let (program, library, environment) = (program.into(), library.into(), options.environment.clone());
        Ok(Self { server, program, library, http, tcp, interserver, environment })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http.number)
    }

    fn configure(&self, options: &ClickHouseOptions, cluster: &str) -> Result<()> {
        let folder = self.server.folder();
        let log = self.server.log().display().to_string();
        let path = |name: &str| escape(&folder.join(name).display().to_string());
        let config = format!(
            "<clickhouse>\n{}{}{}{cluster}\
             <path>{}/</path><tmp_path>{}/</tmp_path><display_name>{}</display_name>\n\
             <logger><log>{}</log></logger>\n\
             <backups><allowed_path>{}</allowed_path></backups>\n\
             <user_directories><users_xml><path>{}</path></users_xml></user_directories>\n\
             </clickhouse>\n",
            elements(&SERVER_SETTINGS, &options.server_settings),
            options.replica.as_ref().map(replica).unwrap_or_default(),
            if options.user_files.is_empty() { "" } else { STRICT },
            path("data"),
            path("data/tmp"),
            self.server.id(),
            escape(&log),
            path(BACKUPS),
            path("users.xml"),
        );
        let everybody = ClickHouseUser { name: "default".into(), password: String::new(), grants: Vec::new() };
        let users: String = [everybody].iter().chain(&options.users).map(user).collect();
        let users = format!(
            "<clickhouse>\n<profiles><default>\n{}</default></profiles>\n<quotas><default/></quotas>\n\
             <users>\n{users}</users>\n</clickhouse>\n",
            elements(&PROFILE, &options.query_settings),
        );
        fs::write(folder.join("config.xml"), config)?;
        fs::write(folder.join("users.xml"), users)?;
        fs::create_dir(folder.join("data"))?;
        fs::create_dir(folder.join("users.d"))?;
        for (i, file) in options.user_files.iter().enumerate() {
            let copied = fs::copy(file, folder.join(format!("users.d/{i}.xml")));
            copied.with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Ok(())
    }

    fn run(&self) -> Result<()> {
        let folder = self.server.folder();
        let mut server = Command::new(&self.program);
        server.arg(&self.library);
        server.arg(format!("--http_port={}", self.http.number)).arg(format!("--tcp_port={}", self.tcp.number));
        server.arg("--listen_host=127.0.0.1");
        server.arg(format!("--path={}", folder.join("data").display()));
        server.arg(format!("--config-file={}", folder.join("config.xml").display()));
        server.arg("--multiquery").arg(format!("--query={MAIN_QUERY}"));
        // The time zone comes from here, not from the configuration. Nothing else comes from outside: no proxy, no credentials
        // that table functions would pick up, no history in the home folder.
        server.env_clear().env("HOME", folder).env("TZ", "UTC").env("PATH", "/usr/bin:/bin");
        server.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(interserver) = &self.interserver {
            server.env(INTERSERVER_PORT, interserver.port().to_string());
        }
        let (url, id) = (self.url(), self.server.id());
        self.server.run(server, |_| {
            // Asked for its name, lest a stranger on the port answers for it.
            query(&url, Duration::from_secs(2), "SELECT displayName()").is_ok_and(|name| name.trim() == id)
        })
    }
}

pub(crate) fn query(url: &str, timeout: Duration, sql: &str) -> Result<String> {
    query_with(url, timeout, &[], sql)
}

fn query_with(url: &str, timeout: Duration, headers: &[(&str, &str)], sql: &str) -> Result<String> {
    // A connection per query: one kept from before a kill would fail the first query after it.
    let config = Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_idle_connections(0)
        .proxy(None)
        .build();
    let request = Agent::new_with_config(config).post(url);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let mut response = request.send(sql).context("ClickHouse does not answer")?;
    let text = response.body_mut().with_config().limit(u64::MAX).read_to_string().context("ClickHouse broke off its answer")?;
    if !response.status().is_success() {
        bail!("ClickHouse refuses: {}", text.trim());
    }
    Ok(text)
}

fn elements(usual: &[(&str, &str)], given: &[(String, String)]) -> String {
    let mut all: BTreeMap<&str, &str> = usual.iter().copied().collect();
    all.extend(given.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    all.iter().map(|(name, value)| format!("<{name}>{}</{name}>\n", escape(value))).collect()
}

fn replica(replica: &Replica) -> String {
    let Replica { keeper, shard, name } = replica;
    let (shard, name) = (escape(shard), escape(name));
    // A server ends the session of one with its own UUID, as what it left behind itself; in the library all have the same.
    format!(
        "<zookeeper><node><host>127.0.0.1</host><port>{keeper}</port></node>\
         <session_timeout_ms>3000</session_timeout_ms><sessions_path>/sessions/{shard}/{name}</sessions_path></zookeeper>\n\
         <macros><shard>{shard}</shard><replica>{name}</replica></macros>\n",
    )
}

/// Servers as the shards of the cluster `all`: those that say so are replicas of one, each of the others is one.
fn cluster(servers: &[Own], options: &[ClickHouseOptions]) -> String {
    let mut shards: BTreeMap<String, String> = BTreeMap::new();
    for (place, (own, options)) in servers.iter().zip(options).enumerate() {
        let shard = options.replica.as_ref().map_or_else(|| format!("{place:04}"), |replica| replica.shard.clone());
        let replica = format!("<replica><host>127.0.0.1</host><port>{}</port></replica>", own.tcp.number);
        shards.entry(shard).or_default().push_str(&replica);
    }
    let shard = |replicas: String| format!("<shard><internal_replication>true</internal_replication>{replicas}</shard>");
    let shards: String = shards.into_values().map(shard).collect();
    format!("<remote_servers><all>{shards}</all></remote_servers>\n")
}

fn user(user: &ClickHouseUser) -> String {
    let grants: String = user.grants.iter().map(|grant| format!("<query>{}</query>", escape(grant))).collect();
    let rights =
        if grants.is_empty() { "<access_management>1</access_management>".into() } else { format!("<grants>{grants}</grants>") };
    format!(
        "<{name}><password>{password}</password><networks><ip>127.0.0.1</ip></networks>\
         <profile>default</profile><quota>default</quota>{rights}</{name}>\n",
        name = user.name,
        password = escape(&user.password),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
