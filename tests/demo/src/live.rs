//! Owns what is seen while traffic flows: `bounceflow top` on this terminal, as anybody would run it. Where there is no terminal it
//! prints plain lines by itself.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// `bounceflow top`, until it is dropped or somebody leaves it.
pub(crate) struct Live {
    top: Child,
}

impl Live {
    /// Starts it in this program's own process group: it reads the keys.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let parent = Pid::this();
        // SAFETY: two system calls between fork and exec, no memory is touched.
        unsafe {
            command.pre_exec(move || {
                // Not SIGKILL: it gives the terminal back first.
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
                if getppid() == parent { Ok(()) } else { Err(io::Error::other("the demo is gone")) }
            });
        }
        Ok(Self { top: command.spawn().context("cannot start bounceflow top")? })
    }

    /// Whether it is still there: `q` and Ctrl-C leave it.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(self.top.try_wait().context("cannot watch bounceflow top")?.is_none())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.top.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM); // it may have ended
        }
        let deadline = Instant::now() + ENDS_WITHIN;
        while matches!(self.top.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.top.kill();
        let _ = self.top.wait();
    }
}
