//! Owns the search for the program `bounceflow-clickhouse`. It must not start it.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

const NAME: &str = "bounceflow-clickhouse";

/// Finds it beside the running program or, since tests stand in `target/PROFILE/deps`, above; else has cargo build it:
/// cargo does not build the programs of a package that is only depended on.
pub(crate) fn find() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find out where this program stands")?;
    match own.ancestors().skip(1).take(3).map(|folder| folder.join(NAME)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => build(&own),
    }
}

fn build(own: &Path) -> Result<PathBuf> {
    let folder = own.ancestors().skip(1).find(|folder| !["deps", "examples"].iter().any(|name| folder.ends_with(name)));
    let (Some(folder), manifest) = (folder, Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")) else {
        anyhow::bail!("{NAME} is not beside {}", own.display())
    };
    let profile = match folder.file_name().map(|name| name.to_string_lossy()) {
        Some(name) if name != "debug" => name.into_owned(),
        _ => "dev".into(),
    };
    let target = folder.parent().unwrap_or(folder);
    let help = format!("{NAME} is not beside {}; build it with `cargo build -p bounceflow-stack --bin {NAME}`", own.display());
    ensure!(manifest.is_file() && target.join("CACHEDIR.TAG").is_file(), help);

    let _ = writeln!(io::stderr(), "building {NAME} (once)");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--bin", NAME, "--profile", &profile]).arg("--manifest-path").arg(manifest);
    cargo.arg("--target-dir").arg(target).stdin(Stdio::null()).stdout(Stdio::null());
    let status = cargo.status().with_context(|| format!("cannot start cargo; {help}"))?;
    let path = folder.join(NAME);
    ensure!(status.success() && path.is_file(), "cargo could not build it ({status}); {help}");
    Ok(path)
}
