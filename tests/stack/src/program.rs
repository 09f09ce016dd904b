//! Programs that run to their end, and those of this workspace.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

/// A program of this workspace, by name: the one built beside the program that asks, or above the test that does. It does not see
/// what the environment says of other installations.
pub fn built(program: &str) -> Result<Command> {
    let own = std::env::current_exe()?;
    let binary = own.ancestors().skip(1).take(2).map(|folder| folder.join(program)).find(|path| path.is_file());
    let binary = binary.with_context(|| {
        format!(
            "{program} is not beside {}; build it with `cargo build -p bounceflow -p bounceflow-stack` (with --release for a test with \
             it; `make faults` builds what it needs)",
            own.display()
        )
    })?;
    let mut command = Command::new(binary);
    let foreign = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("BOUNCEFLOW"));
    for name in foreign.chain(["RUST_LOG".into(), "FAILPOINTS".into()]) {
        command.env_remove(name);
    }
    Ok(command)
}

/// What a program said, standard output alone; an error with everything it said where it failed.
pub fn said(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "{command:?} ended with {status}:\n{stdout}{stderr}");
    Ok(stdout.into_owned())
}
