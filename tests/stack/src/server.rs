//! Owns one server process: its folder, its log, its signals. It must not know which server it is.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::guardian::Guardian;
use crate::ports::{PortTaken, random};

// Generous: a cold start on a busy machine with two cores, not what is expected.
const START: Duration = Duration::from_secs(180);
const TAIL_LINES: usize = 25;

#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    folder: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
    guardian: Guardian,
}

impl Server {
    /// Makes an empty folder with a guardian; nothing runs yet.
    pub(crate) fn prepare(name: &'static str) -> Result<Self> {
        // Resolved, because the guardian compares it with what the kernel calls the server's working folder.
        let parent = fs::canonicalize(std::env::temp_dir()).context("no folder for temporary files")?;
        let unique = format!("bounceflow-{}-{}-{:016x}", name.to_lowercase(), std::process::id(), random());
        let folder = parent.join(unique);
        let guardian = Guardian::start(&folder)?;
        DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let log = folder.join("server.log");
        Ok(Self { name, folder, log, child: Mutex::new(None), guardian })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder's name: no other server has it.
    pub(crate) fn id(&self) -> String {
        self.folder.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into_owned()
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Runs the command in the folder, kills whatever ran before, and waits until `ready`, which gets the log of this run.
    pub(crate) fn run(&self, mut command: Command, ready: impl Fn(&str) -> bool) -> Result<()> {
        let mut child = self.child();
        self.end(&mut child)?;
        let log = self.open_log()?;
        let before = log.metadata()?.len();
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *child = Some(self.guardian.spawn(&mut command)?);

        let deadline = Instant::now() + START;
        loop {
            let text = self.log_from(before);
            if let Some(status) = child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                *child = None;
                self.guardian.forget();
                let error = anyhow!("{} ended while starting ({status}); the end of its log:\n{}", self.name, tail(&text));
                let taken = text.contains("Address already in use");
                return Err(if taken { error.context(PortTaken) } else { error });
            }
            if ready(&text) {
                return Ok(());
            }
            if Instant::now() > deadline {
                self.end(&mut child)?;
                bail!("{} did not answer within {START:?}; the end of its log:\n{}", self.name, tail(&text));
            }
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// Runs a command that ends, in the same folder and under the same guardian.
    pub(crate) fn run_to_end(&self, mut command: Command) -> Result<()> {
        let mut child = self.child();
        let log = self.open_log()?;
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = child.insert(self.guardian.spawn(&mut command)?).wait()?;
        *child = None;
        self.guardian.forget();
        ensure!(status.success(), "{} cannot be prepared ({status}); log:\n{}", self.name, tail(&self.log_from(0)));
        Ok(())
    }

    /// SIGSTOP: connections stay open, nothing answers.
    pub(crate) fn pause(&self) -> Result<()> {
        let child = self.child();
        let pid = self.signal(child.as_ref(), Signal::SIGSTOP)?;
        while state(pid) != Some('T') {
            ensure!(state(pid).is_some_and(|state| state != 'Z'), "{} died before it could be paused", self.name);
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(self.child().as_ref(), Signal::SIGCONT).map(drop)
    }

    /// SIGKILL; returns once the process is dead and reaped. The folder stays.
    pub(crate) fn kill(&self) -> Result<()> {
        self.end(&mut self.child())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, child: Option<&Child>, signal: Signal) -> Result<i32> {
        let Some(child) = child else { bail!("{} is not running", self.name) };
        let pid = child.id() as i32;
        killpg(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {}", self.name))?;
        Ok(pid)
    }

    fn end(&self, child: &mut Option<Child>) -> Result<()> {
        let Some(mut running) = child.take() else { return Ok(()) };
        // One that died by itself has no group left; then there is nothing to kill, only to reap.
        let _ = killpg(Pid::from_raw(running.id() as i32), Signal::SIGKILL);
        self.guardian.forget(); // before it is reaped: until then nobody else can get the pid
        running.wait().with_context(|| format!("cannot wait for {} to die", self.name))?;
        Ok(())
    }

    fn open_log(&self) -> Result<File> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        log.with_context(|| format!("cannot write {}", self.log.display()))
    }

    fn log_from(&self, offset: u64) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut log) = File::open(&self.log) {
            let _ = log.seek(SeekFrom::Start(offset)).and_then(|_| log.read_to_end(&mut bytes)); // as much as can be read
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill(); // the guardian, dropped next, removes the folder
    }
}

/// What a call gets that only makes sense for a server started here.
pub(crate) fn external(name: &str) -> anyhow::Error {
    anyhow!("this {name} is external (named by the environment): it cannot be paused, killed or restarted from here")
}

pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// The letter the kernel gives a process's state: `T` is stopped, `Z` is dead but not reaped.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}
