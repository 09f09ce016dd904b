//! `helm` on the chart, or on a copy of it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use bounceflow_stack::{said, tools};
use tempfile::TempDir;

use crate::repository;

/// What `helm template` takes the cluster's version to be.
pub const KUBE_VERSION: &str = tools::KUBERNETES;

/// The chart, and a `helm` without the user's settings.
pub struct Chart {
    folder: PathBuf,
    helm: PathBuf,
    home: TempDir,
}

impl Chart {
    /// The repository's chart.
    pub fn new() -> Result<Self> {
        Ok(Self { folder: repository().join("helm/bounceflow"), helm: tools::helm()?, home: tempfile::tempdir()? })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The value sets that come with it: name and file, by name.
    pub fn value_sets(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut sets = Vec::new();
        for entry in fs::read_dir(self.folder.join("ci"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            sets.push((name.strip_suffix("-values.yaml").context("a value set is named NAME-values.yaml")?.to_owned(), path));
        }
        sets.sort();
        Ok(sets)
    }

    /// `helm` with these arguments; `CHART` among them is the chart's folder.
    pub fn helm(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut helm = Command::new(&self.helm);
        for args in args {
            let arg = args.as_ref();
            helm.arg(if arg == "CHART" { self.folder.as_os_str() } else { arg });
        }
        let home = self.home.path();
        helm.env("HELM_CACHE_HOME", home).env("HELM_CONFIG_HOME", home).env("HELM_DATA_HOME", home).env_remove("KUBECONFIG");
        helm
    }

    /// `helm template` of a release `mail` in the namespace `delivery`, as it would be run; `more` follows.
    pub fn template(&self, more: &[&str]) -> Command {
        let mut helm = self.helm(["template", "mail", "CHART", "--namespace", "delivery", "--kube-version", KUBE_VERSION]);
        helm.args(more);
        helm
    }

    /// What it renders with a file of values.
    pub fn render(&self, values: &Path) -> Result<String> {
        said(self.template(&[]).arg("--values").arg(values))
    }
}
