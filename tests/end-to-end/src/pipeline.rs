//! One test's pipeline: a deployment, topics and a database of its own, a configuration file, and the processes that run on it.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use bounceflow_stack::built;
use tempfile::TempDir;
use toml::Value;

use crate::kafka::{Group, Kafka};
use crate::transactions::{self, Transaction};
use crate::{Process, Servers, until};

/// Lines of each log that a failing test prints.
const TAIL: usize = 40;

/// How a pipeline differs from the usual one.
pub struct Builder {
    name: String,
    tree: Value,
    inputs: i32,
    migrate: bool,
    program: &'static str,
    servers: Option<Servers>,
    addresses: Vec<String>,
    /// Where bounceflow speaks to Kafka, if not where the test does.
    bootstrap: Option<String>,
}

impl Default for Builder {
    fn default() -> Self {
        let (name, tree) = (String::new(), Value::Table(toml::Table::new()));
        Self {
            name,
            tree,
            inputs: 1,
            migrate: true,
            program: "bounceflow",
            servers: None,
            addresses: Vec::new(),
            bootstrap: None,
        }
    }
}

impl Builder {
    /// A setting by its path; array elements by their number.
    pub fn set(mut self, path: &[&str], value: impl Into<Value>) -> Result<Self> {
        let mut place = &mut self.tree;
        for step in path {
            place = match place {
                Value::Array(items) => items.get_mut(step.parse::<usize>()?).context("no such element")?,
                Value::Table(table) => table.entry(*step).or_insert_with(|| Value::Table(toml::Table::new())),
                _ => bail!("{path:?} leads through a value"),
            };
        }
        *place = value.into();
        Ok(self)
    }

    /// Partitions of the input topic.
    #[must_use]
    pub fn inputs(mut self, partitions: i32) -> Self {
        self.inputs = partitions;
        self
    }

    /// ClickHouse servers instead of the shared one.
    #[must_use]
    pub fn clickhouse(mut self, addresses: &[&str]) -> Self {
        self.addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        self
    }

    /// Another listener of Kafka for bounceflow; the test keeps to the plain one.
    #[must_use]
    pub fn kafka(mut self, bootstrap: &str) -> Self {
        self.bootstrap = Some(bootstrap.to_owned());
        self
    }

    /// Leaves ClickHouse as it is.
    #[must_use]
    pub fn without_tables(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Another program than `bounceflow`, built beside it, with its command line.
    #[must_use]
    pub fn program(mut self, name: &'static str) -> Self {
        self.program = name;
        self
    }

    /// Servers that were taken already.
    #[must_use]
    pub fn servers(mut self, servers: Servers) -> Self {
        self.servers = Some(servers);
        self
    }

    /// Waits for the servers, creates topics and tables.
    pub fn build(mut self) -> Result<Pipeline> {
        let servers = match self.servers.take() {
            Some(servers) => servers,
            None => Servers::take()?,
        };
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("bounceflow.toml");
        let clickhouse: Value = match &self.addresses[..] {
            [] => servers.clickhouse.url().into(),
            [one] => one.as_str().into(),
            several => several.to_vec().into(),
        };
        let bootstrap = self.bootstrap.take().unwrap_or_else(|| servers.kafka.bootstrap().to_owned());
        let builder = self
            .set(&["kafka", "bootstrap.servers"], bootstrap)?
            .set(&["kafka", "broker.address.family"], "v4")?
            .set(&["clickhouse", "url"], clickhouse)?;
        fs::write(&config, toml::to_string(&builder.tree)?)?;
        let kafka = Kafka { bootstrap: servers.kafka.bootstrap().to_owned() };
        let (name, program) = (builder.name, builder.program);
        let pipeline =
            Pipeline { name, program, config, kafka, logs: RefCell::default(), passed: Cell::new(false), folder, servers };
        pipeline.succeed(&["create-topics", "--failures-partitions", "4", "--inputs", &builder.inputs.to_string()])?;
        if builder.migrate {
            pipeline.succeed(&["migrate"])?;
        }
        Ok(pipeline)
    }
}

/// A deployment of one test. Dropped before [`Pipeline::passed`], it prints the logs of its processes.
pub struct Pipeline {
    name: String,
    program: &'static str,
    config: PathBuf,
    /// The broker.
    pub kafka: Kafka,
    logs: RefCell<Vec<PathBuf>>,
    passed: Cell<bool>,
    folder: TempDir,
    /// The servers, to be killed and paused. Given back last.
    pub servers: Servers,
}

impl Pipeline {
    /// The usual one: one input topic, one classify thread, small lingers. `name` is its deployment's, also that of its database.
    pub fn builder(name: &str) -> Result<Builder> {
        let text = format!(
            "deployment = '{name}'\n[[inputs]]\ntopic = '{name}.events'\n\
             [topics]\nfailures = '{name}.failures'\nrates = '{name}.rates'\nalerts = '{name}.alerts'\ndead_letter = '{name}.dead-letter'\nschemas = '{name}.schemas'\n\
             [classify]\nthreads = 1\n[sink]\nlinger_ms = 100\n[clickhouse]\ndatabase = '{name}'\n[http]\nlisten = '127.0.0.1:0'\n"
        );
        Ok(Builder { name: name.to_owned(), tree: toml::from_str(&text)?, ..Builder::default() })
    }

    /// Changes the configuration: ClickHouse is these shards of the cluster `all` from now on, each with the addresses of its replicas.
    pub fn shards(&self, shards: &[&[&str]]) -> Result<()> {
        let shard = |urls: &&[&str]| Value::Table(toml::Table::from_iter([("url".to_owned(), urls.to_vec().into())]));
        let mut tree: Value = toml::from_str(&fs::read_to_string(&self.config)?)?;
        let clickhouse = tree.get_mut("clickhouse").and_then(Value::as_table_mut).context("no [clickhouse]")?;
        clickhouse.remove("url");
        clickhouse.insert("cluster".to_owned(), "all".into());
        clickhouse.insert("shards".to_owned(), shards.iter().map(shard).collect::<Vec<_>>().into());
        Ok(fs::write(&self.config, toml::to_string(&tree)?)?)
    }

    /// A topic of this deployment: `events`, `failures`, `rates`, `alerts`, `dead-letter` or `schemas`.
    pub fn topic(&self, which: &str) -> String {
        format!("{}.{which}", self.name)
    }

    /// Its database.
    pub fn database(&self) -> &str {
        &self.name
    }

    /// Where a test may leave files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The transactional id, which is also the static member, of a role's process.
    pub fn id(&self, role: &str, ordinal: u32) -> String {
        match role {
            "sink" => format!("{}/{ordinal}/sink/0", self.name),
            _ => format!("{}/{ordinal}/{}/0", self.name, self.topic("events")),
        }
    }

    /// The broker's word on a transactional id.
    pub fn transaction(&self, id: &str) -> Result<Transaction> {
        transactions::describe(&self.kafka.bootstrap, id)
    }

    /// The name of a role's consumer group.
    pub fn group_name(&self, role: &str) -> String {
        if role == "sink" { format!("{}.sink", self.name) } else { format!("{}.classify.{}", self.name, self.topic("events")) }
    }

    /// A role's consumer group.
    pub fn group(&self, role: &str) -> Result<Group> {
        let [events, failures, rates, alerts] = ["events", "failures", "rates", "alerts"].map(|which| self.topic(which));
        let topics: &[&str] = if role == "sink" { &[&failures, &rates, &alerts] } else { &[&events] };
        Group::new(&self.kafka.bootstrap, &self.group_name(role), topics)
    }

    /// Waits until a role has settled everything its input holds.
    pub fn settled(&self, role: &str) -> Result<()> {
        let group = self.group(role)?;
        until(&format!("{role} to settle everything"), || {
            let unsettled = group.unsettled(&self.kafka)?;
            ensure!(unsettled.is_empty(), "{unsettled:?}");
            Ok(())
        })
    }

    /// A further configuration file that differs in one setting.
    pub fn config_with(&self, path: &[&str], value: &str) -> Result<PathBuf> {
        let tree = toml::from_str(&fs::read_to_string(&self.config)?)?;
        let builder = Builder { name: self.name.clone(), tree, ..Builder::default() }.set(path, value)?;
        let file = self.folder.path().join(format!("bounceflow-{}-{value}.toml", path.join("-")));
        fs::write(&file, toml::to_string(&builder.tree)?)?;
        Ok(file)
    }

    /// Starts `bounceflow run` with one role, or with all (`all`).
    pub fn run(&self, role: &str, ordinal: u32, more: &[&str]) -> Result<Process> {
        self.run_on(&self.config, role, ordinal, more)
    }

    /// The same with another configuration file.
    pub fn run_on(&self, config: &Path, role: &str, ordinal: u32, more: &[&str]) -> Result<Process> {
        let mut command = self.role(config, role, ordinal)?;
        command.args(more);
        self.spawn(&format!("{role}-{ordinal}"), command)
    }

    /// Starts a role with its failpoints armed; the program must have some.
    pub fn run_armed(&self, role: &str, ordinal: u32, failpoints: &str) -> Result<Process> {
        let mut command = self.role(&self.config, role, ordinal)?;
        command.env("FAILPOINTS", failpoints);
        self.spawn(&format!("{role}-{ordinal}"), command)
    }

    /// Starts a role with more in its environment.
    pub fn run_in(&self, environment: &[(&str, &str)], role: &str, ordinal: u32) -> Result<Process> {
        let mut command = self.role(&self.config, role, ordinal)?;
        command.envs(environment.iter().copied());
        self.spawn(&format!("{role}-{ordinal}"), command)
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    fn role(&self, config: &Path, role: &str, ordinal: u32) -> Result<Command> {
        let mut command = built(self.program)?;
        command.arg("run").arg("--config").arg(config).env("BOUNCEFLOW__ORDINAL", ordinal.to_string());
        if role != "all" {
            command.args(["--role", role]);
        }
        Ok(command)
    }

    /// Starts `bounceflow simulate` into the input topic.
    pub fn simulate(&self, more: &[&str]) -> Result<Process> {
        let mut command = built(self.program)?;
        command.args(["simulate", "--quiet", "--bootstrap", &self.kafka.bootstrap, "--topic", &self.topic("events")]).args(more);
        self.spawn("simulate", command)
    }

    /// Starts a command on the configuration, to be killed or waited for.
    pub fn start(&self, args: &[&str]) -> Result<Process> {
        let (first, rest) = args.split_first().context("no command")?;
        let mut command = built(self.program)?;
        command.arg(first).arg("--config").arg(&self.config).args(rest);
        self.spawn(first, command)
    }

    /// Runs a command on the configuration to its end.
    pub fn command(&self, args: &[&str]) -> Result<Output> {
        self.command_on(self.config.to_str().context("a path that is no text")?, args)
    }

    /// The same on another configuration file.
    pub fn command_on(&self, config: &str, args: &[&str]) -> Result<Output> {
        let (first, rest) = args.split_first().context("no command")?;
        let mut command = built(self.program)?;
        command.arg(first).args(["--config", config]).args(rest).stdin(Stdio::null());
        Ok(command.output()?)
    }

    /// Runs a command that reads no configuration, or names its own.
    pub fn run_alone(&self, args: &[&str]) -> Result<Output> {
        Ok(built(self.program)?.args(args).stdin(Stdio::null()).output()?)
    }

    /// Like [`Pipeline::command`]; an error unless it exits with 0. What it printed.
    pub fn succeed(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "bounceflow {}: {}\n{out}{err}", args.join(" "), output.status);
        Ok(out.into_owned())
    }

    /// Everything the processes of this test wrote.
    pub fn all_logs(&self) -> Result<String> {
        self.logs.borrow().iter().map(|log| Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())).collect()
    }

    /// The logs of its processes, in the order they were started.
    pub fn logs(&self) -> Vec<PathBuf> {
        self.logs.borrow().clone()
    }

    /// The test has passed: nothing needs to be printed.
    pub fn passed(&self) {
        self.passed.set(true);
    }

    fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        let mut logs = self.logs.borrow_mut();
        let log = self.folder.path().join(format!("{:03}-{name}.log", logs.len()));
        logs.push(log.clone());
        Process::spawn(name, command, &log)
    }
}

impl Drop for Pipeline {
    #[allow(clippy::print_stderr, reason = "a failing test says why")]
    fn drop(&mut self) {
        if self.passed.get() {
            return;
        }
        for log in self.logs.borrow().iter() {
            let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            eprintln!("--- {}\n{tail}", log.file_name().unwrap_or_default().to_string_lossy());
        }
    }
}
