//! Owns the folder of this demo (configuration, logs, what was sent) and the ways to call `bounceflow` there.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bounceflow_stack::Stack;
use serde_json::Value;
use tempfile::TempDir;

use crate::Args;
use crate::child::Child;
use crate::interrupt::Interrupt;
use crate::prometheus;

/// The names bounceflow has by default.
pub(crate) const EVENTS: &str = "delivery.events";
pub(crate) const DEAD_LETTER: &str = "bounceflow.dead-letter";

const INPUT_PARTITIONS: &str = "6";
const SCENARIO: &str = include_str!("../scenario.toml");
const RULES: &str = include_str!("../rules.toml");
const READY_WITHIN: Duration = Duration::from_secs(60);

// Removes the folder when this program is gone, however it went: then its input ends.
const GUARDIAN: &str = "trap '' HUP INT TERM; while read -r _; do :; done; rm -rf -- \"$1\"";

pub(crate) struct Place {
    folder: TempDir,
    guardian: process::Child,
    binary: PathBuf,
}

impl Place {
    /// Makes the folder and writes the configuration.
    pub(crate) fn new(stack: &Stack) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find out where this program stands")?;
        let binary = own.with_file_name("bounceflow");
        ensure!(binary.is_file(), "{} is missing; build it with `cargo build --release -p bounceflow`", binary.display());
        let folder = tempfile::Builder::new().prefix("bounceflow-demo-").tempdir()?;
        let mut guardian = Command::new("/bin/sh");
        guardian.args(["-c", GUARDIAN, "bounceflow-demo-guardian"]).arg(folder.path()).current_dir("/").process_group(0);
        let guardian = guardian.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let place = Self { folder, guardian: guardian.context("cannot start /bin/sh")?, binary };
        let config = format!(
            "# What the demo runs with; every setting left out has its default.\n\
             [kafka]\n\"bootstrap.servers\" = {kafka:?}\n\"broker.address.family\" = \"v4\"\n\n\
             [[inputs]]\ntopic = \"{EVENTS}\"\n\n\
             [clickhouse]\nurl = {clickhouse:?}\n\n\
             # Events come in order here, so event time need not wait long.\n\
             [watch]\nrules = {rules:?}\nlateness_s = 5\nidle_s = 5\n\n\
             # Port 0: a free one; the log says which.\n[http]\nlisten = \"127.0.0.1:0\"\n",
            rules = place.file("rules.toml").display().to_string(),
            kafka = stack.kafka.bootstrap(),
            clickhouse = stack.clickhouse.url(),
        );
        fs::write(place.config(), config)?;
        fs::write(place.file("scenario.toml"), SCENARIO)?;
        fs::write(place.file("rules.toml"), RULES)?;
        Ok(place)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.file("bounceflow.toml")
    }

    /// What the simulator says it sent.
    pub(crate) fn expected(&self) -> PathBuf {
        self.file("expected.json")
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Leaves the folder where it is, for somebody to look into.
    pub(crate) fn keep(mut self) -> Result<PathBuf> {
        self.guardian.kill()?;
        self.guardian.wait()?;
        Ok(self.folder.keep())
    }

    pub(crate) fn create_topics(&self) -> Result<()> {
        self.succeed(&["create-topics", "--inputs", INPUT_PARTITIONS])
    }

    pub(crate) fn migrate(&self) -> Result<()> {
        self.succeed(&["migrate"])
    }

    /// Whether `bounceflow audit` finds nothing amiss, and all it says.
    pub(crate) fn audit(&self) -> Result<(bool, String)> {
        let output = self.configured("audit").stdin(Stdio::null()).output().context("cannot start bounceflow audit")?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), text))
    }

    /// Starts `bounceflow run` with every role and waits until it is ready. With it comes the address of its HTTP side.
    pub(crate) fn start_roles(&self, interrupt: &Interrupt) -> Result<(Child, String)> {
        let mut roles = Child::start("bounceflow run", self.configured("run"), &self.file("run.log"))?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            roles.still_runs()?;
            if let Some(address) = address(&roles.log())
                && prometheus::get(&address, "/readyz").is_ok()
            {
                return Ok((roles, address));
            }
            ensure!(!interrupt.asked(), "stopped");
            if Instant::now() > deadline {
                bail!("bounceflow run is not ready after {READY_WITHIN:?}; its log:\n{}", roles.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn start_traffic(&self, args: &Args, bootstrap: &str) -> Result<Child> {
        let mut command = self.bounceflow();
        command.args(["simulate", "--quiet", "--format", "mixed", "--failures", "0.08", "--garbage", "0.001"]);
        command.args(["--topic", EVENTS, "--bootstrap", bootstrap, "--rate", &args.rate.to_string()]);
        command.arg("--scenario").arg(self.file("scenario.toml")).arg("--expected").arg(self.expected());
        if !args.keep {
            command.arg("--duration").arg(format!("{}s", args.seconds));
        }
        Child::start("bounceflow simulate", command, &self.file("simulate.log"))
    }

    /// `bounceflow top` on this terminal.
    pub(crate) fn top(&self, address: &str) -> Command {
        let mut command = self.bounceflow();
        command.args(["top", "--window", "60", "--interval", if io::stdout().is_terminal() { "1" } else { "10" }]);
        command.arg("--url").arg(format!("http://{address}"));
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn succeed(&self, args: &[&str]) -> Result<()> {
        let (first, rest) = args.split_first().context("no command")?;
        let output = self.configured(first).args(rest).stdin(Stdio::null()).output().context("cannot start bounceflow")?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "bounceflow {} ended ({}):\n{out}{err}", args.join(" "), output.status);
        Ok(())
    }

    fn configured(&self, command: &str) -> Command {
        let mut bounceflow = self.bounceflow();
        bounceflow.arg(command).arg("--config").arg(self.config());
        bounceflow
    }

    /// Without what the environment says of other installations.
    fn bounceflow(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BOUNCEFLOW")) {
            command.env_remove(name);
        }
        command
    }
}

/// Where it serves HTTP, by its log.
fn address(log: &str) -> Option<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut served = lines.filter(|line| line["message"].as_str().is_some_and(|message| message.starts_with("Serving")));
    served.find_map(|line| line["listen"].as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_in_the_log() {
        let log = "not json\n{\"message\":\"Other\"}\n{\"message\":\"Serving /healthz\",\"listen\":\"127.0.0.1:4711\"}\n";
        assert_eq!(address(log).as_deref(), Some("127.0.0.1:4711"));
        assert_eq!(address("{\"message\":\"Serv"), None);
    }
}
