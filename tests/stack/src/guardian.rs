//! Owns the promise that nothing outlives its owner: one small shell per server, in a session of its own, that reads a pipe
//! only the owner can write. When the owner ends, SIGKILL included, the pipe closes; the shell then kills the server and
//! removes its folder. It must not decide anything while the owner lives.

use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::unistd;

// `+PID` says a server runs, `-` that it is dead. A pid may be reused, so the folder the process stands in is checked too.
// The removal is repeated because a dying server may still write.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
live=
while read -r line; do
    case $line in
        +*) live=${line#+} ;;
        -) live= ;;
    esac
done
if [ -n "$live" ] && [ "$(readlink "/proc/$live/cwd")" = "$1" ]; then
    kill -s KILL -- "-$live"
fi
tries=0
while [ $tries -lt 100 ]; do
    rm -rf -- "$1"
    [ -e "$1" ] || exit 0
    tries=$((tries + 1))
    sleep 0.1
done
"#;

#[derive(Debug)]
pub(crate) struct Guardian {
    shell: Child,
    pipe: Option<PipeWriter>,
}

impl Guardian {
    /// Guards `folder`, which need not exist yet (it had better not: then no moment is left unguarded).
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let (reader, writer) = io::pipe().context("cannot open a pipe")?; // both ends are close-on-exec
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "bounceflow-guardian"]).arg(folder).current_dir("/");
        command.env_clear().env("PATH", "/usr/bin:/bin"); // it must find `rm` whatever its owner's environment
        command.stdin(reader).stdout(Stdio::null()).stderr(Stdio::null());
        own_session(&mut command);
        let shell = command.spawn().context("cannot start /bin/sh as guardian of a server")?;
        Ok(Self { shell, pipe: Some(writer) })
    }

    /// Starts a server in a session of its own that the guardian knows of before the server's first instruction.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Child> {
        own_session(command);
        let pipe = self.pipe.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: between fork and exec it formats into the stack and writes to a descriptor the parent holds open.
        unsafe { command.pre_exec(move || announce(pipe)) };
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()));
        child.inspect_err(|_| self.forget())
    }

    /// Says that the server is dead, so that its pid is not killed later as somebody else's.
    pub(crate) fn forget(&self) {
        if let Some(mut pipe) = self.pipe.as_ref() {
            let _ = pipe.write_all(b"-\n"); // no guardian, no harm: the server is dead already
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.pipe.take()); // end of file: the shell cleans up and ends
        let _ = self.shell.wait();
    }
}

fn own_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe { command.pre_exec(|| unistd::setsid().map(drop).map_err(io::Error::from)) };
}

/// Runs in the child. Its copy of the pipe stays open until exec, so end of file cannot overtake this line.
fn announce(pipe: RawFd) -> io::Result<()> {
    let mut line = [0_u8; 16];
    let mut rest = &mut line[..];
    writeln!(rest, "+{}", std::process::id())?;
    let length = 16 - rest.len();
    // SAFETY: the guardian that owns the descriptor outlives the call to `spawn`.
    let pipe = unsafe { BorrowedFd::borrow_raw(pipe) };
    unistd::write(pipe, &line[..length])?;
    Ok(())
}
