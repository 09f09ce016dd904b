//! One process of the real binary: its log, its HTTP side, its signals, and its certain end.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use serde_json::Value;
use ureq::Agent;

use crate::until;

/// A child that ends with this, and also when the thread that started it ends or is killed.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    address: OnceLock<String>,
}

impl Process {
    pub(crate) fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let parent = Pid::this();
        // SAFETY: two system calls between fork and exec, no memory is touched.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before the line above.
                if getppid() == parent { Ok(()) } else { Err(io::Error::other("the test is gone")) }
            });
        }
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), address: OnceLock::new() })
    }

    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A figure of its `/proc/PID/status` in MiB: `VmRSS` is its memory, `VmHWM` the most it ever was.
    pub fn memory_mib(&self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no value")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// SIGKILL; dead and reaped on return.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.end()
    }

    /// SIGSTOP: connections stay open, nothing moves.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Waits for its end.
    pub fn end(&mut self) -> Result<ExitStatus> {
        until(&format!("{} to end", self.name), || self.child.try_wait()?.ok_or_else(|| anyhow!("it runs")))
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Everything it wrote.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The log lines with this message, parsed.
    pub fn said(&self, message: &str) -> Vec<Value> {
        let lines = self.log();
        let parsed = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|line| line["message"].as_str().is_some_and(|m| m.contains(message))).collect()
    }

    /// Waits for a log line with this message.
    pub fn wait_for(&mut self, message: &str) -> Result<Value> {
        until(&format!("{} to say {message:?}", self.name), || match self.said(message).into_iter().next() {
            Some(line) => Ok(line),
            None if self.runs()? => bail!("it did not"),
            None => bail!("it ended: {}", self.log()),
        })
    }

    /// Asks its HTTP side: status and body.
    pub fn get(&mut self, path: &str) -> Result<(u16, String)> {
        self.get_with(path, None)
    }

    /// The same with a bearer token.
    pub fn get_with(&mut self, path: &str, token: Option<&str>) -> Result<(u16, String)> {
        let address = match self.address.get() {
            Some(address) => address.clone(),
            None => {
                let line = self.wait_for("Serving /healthz")?;
                let address = line["listen"].as_str().context("a log line without its address")?.to_owned();
                self.address.get_or_init(|| address).clone()
            }
        };
        let config =
            Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).http_status_as_error(false).proxy(None);
        let mut request = Agent::new_with_config(config.build()).get(format!("http://{address}{path}"));
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut answer = request.call()?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    }

    /// Waits until it is ready.
    pub fn ready(&mut self) -> Result<()> {
        until(&format!("{} to be ready", self.name), || {
            let (status, body) = self.get("/readyz")?;
            ensure!(status == 200, "{status} {body}");
            Ok(())
        })
    }

    /// The value of a metric; `labels` as they are written, such as `topic="a",reason="b"`. 0 where it is not there.
    pub fn metric(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let (_, text) = self.get("/metrics")?;
        let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let labelled = |line: &&str| labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")));
        let values = text.lines().filter(of).filter(labelled).filter_map(|line| line.rsplit_once(' '));
        Ok(values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal).with_context(|| format!("{signal} for {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that ended already cannot be killed, and needs not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processor time a process has used by now, in seconds: what other processes do disturbs it little.
pub fn cpu_s(pid: u32) -> Result<f64> {
    const TICKS_PER_S: f64 = 100.0; // USER_HZ, the same on every Linux
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = |i: usize| -> Result<f64> { Ok(fields.get(i).context("too few fields")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_S)
}
