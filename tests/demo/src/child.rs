//! Owns one process of `bounceflow`: its log, its end. It ends with this program, even when that is SIGKILLed.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

const TAIL_LINES: usize = 12;

pub(crate) struct Child {
    name: &'static str,
    process: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts it in a process group of its own, so that Ctrl-C in the terminal reaches this program alone. To be called from
    /// the main thread: the kernel ends the child with the thread that started it.
    pub(crate) fn start(name: &'static str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let parent = Pid::this();
        // SAFETY: two system calls between fork and exec, no memory is touched.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before the line above.
                if getppid() == parent { Ok(()) } else { Err(io::Error::other("the demo is gone")) }
            });
        }
        let process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, process, log: log.to_owned() })
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait().with_context(|| format!("cannot watch {}", self.name))
    }

    /// An error if it has ended, with the end of its log.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(self.died(status)),
        }
    }

    /// Asks it to end (SIGTERM).
    pub(crate) fn ask_to_end(&self) -> Result<()> {
        let pid = Pid::from_raw(self.process.id().try_into()?);
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop {}", self.name))
    }

    /// Asks it to end and waits. An error unless it ends in time and well.
    pub(crate) fn stop(&mut self, within: Duration) -> Result<()> {
        self.still_runs()?;
        self.ask_to_end()?;
        let deadline = Instant::now() + within;
        loop {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.died(status)),
                None if Instant::now() > deadline => bail!("{} did not end within {within:?} after SIGTERM", self.name),
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    pub(crate) fn died(&self, status: ExitStatus) -> anyhow::Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        anyhow!("{} ended ({status}); the end of its log:\n{tail}", self.name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}
