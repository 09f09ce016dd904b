//! Owns a library that gives the programs that load it a wrong clock. What measures durations stays right, as on any host.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::said;

/// Wrong clocks, as long as it lives.
pub struct Clocks {
    folder: TempDir,
}

impl Clocks {
    /// Builds the library with the C compiler that a build of the project needs anyway.
    pub fn build() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = folder.path().join("clock.c");
        fs::write(&source, include_str!("clock.c"))?;
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(folder.path().join("clock.so")).arg(source);
        said(&mut cc).context("build the wrong clock")?;
        Ok(Self { folder })
    }

    /// The environment in which a program's clock is so many seconds ahead; negative: behind.
    pub fn ahead(&self, seconds: i64) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.folder.path().join("clock.so").display().to_string()), ("CLOCK_SKEW", seconds.to_string())]
    }
}
