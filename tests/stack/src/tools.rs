//! Owns the programs and specifications that come from Go modules: Helm, kubeconform, Kubernetes. The Go module proxy's checksums
//! vouch for them; versions are said here alone. It must not know what they are used for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::download::{cached, fetch, require};

const HELM: &str = "v3.22.0";
const KUBECONFORM: &str = "v0.8.0";
/// The version of Kubernetes whose API server and specification are used.
pub const KUBERNETES: &str = "v1.34.2";
/// The module of Kubernetes, which holds its OpenAPI specification.
pub const KUBERNETES_MODULE: (&str, &str) = ("k8s.io/kubernetes", KUBERNETES);
/// The module of KEDA, which holds the definitions of its kinds.
pub const KEDA_MODULE: (&str, &str) = ("github.com/kedacore/keda/v2", "v2.21.0");
/// The module of the Prometheus operator, which holds the definitions of its kinds.
pub const PROMETHEUS_OPERATOR_MODULE: (&str, &str) = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0");

const GO: &str = "Go 1.26 or later (https://go.dev/doc/install)";

/// `helm`, built once.
pub fn helm() -> Result<PathBuf> {
    program("helm", HELM, "helm.sh/helm/v3/cmd/helm")
}

/// `kubeconform`, built once.
pub fn kubeconform() -> Result<PathBuf> {
    program("kubeconform", KUBECONFORM, "github.com/yannh/kubeconform/cmd/kubeconform")
}

/// The folder that holds `kube-apiserver` and `kubectl`, built once (ten minutes of two cores).
pub fn kubernetes() -> Result<PathBuf> {
    cached(&format!("kubernetes-{KUBERNETES}"), |folder| {
        let source = module(KUBERNETES_MODULE)?;
        let theirs = fs::read_to_string(source.join("go.mod")).context("Kubernetes has no go.mod")?;
        fs::write(folder.join("go.mod"), around(&theirs)?)?;
        // What their release builds say of themselves: charts ask for the server's version.
        let number = KUBERNETES.trim_start_matches('v');
        let (major, minor) =
            number.split_once('.').map_or((number, ""), |(major, rest)| (major, rest.split('.').next().unwrap_or("")));
        let say = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
        let flags = [say("gitVersion", KUBERNETES), say("gitMajor", major), say("gitMinor", minor), "-s -w".to_owned()].join(" ");
        let mut install = go(folder);
        install.args(["install", "-mod=mod", "-ldflags", &flags]);
        install.args(["k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kubectl"]);
        fetch(install, folder, &format!("Kubernetes {KUBERNETES}"), |_| "building the API server".into())
    })
}

/// The folder of a module's files, which Go keeps for itself.
pub fn module((path, version): (&str, &str)) -> Result<PathBuf> {
    require("go", "version", GO)?;
    let output = Command::new("go").args(["mod", "download", "-json", &format!("{path}@{version}")]).current_dir("/").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let folder = text.lines().find_map(|line| line.trim().strip_prefix("\"Dir\": \"")?.strip_suffix("\","));
    let folder =
        folder.with_context(|| format!("{path} {version} cannot be had: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(PathBuf::from(folder))
}

/// A module that needs Kubernetes alone. Theirs names its parts without a version: each is the one made with it.
fn around(theirs: &str) -> Result<String> {
    let parts = theirs.lines().filter_map(|line| line.trim().strip_suffix(" v0.0.0"));
    let version = KUBERNETES.replacen("v1", "v0", 1);
    let replaced: Vec<String> = parts.map(|part| format!("replace {part} => {part} {version}")).collect();
    ensure!(!replaced.is_empty(), "Kubernetes' go.mod is not as expected");
    let go = theirs.lines().find(|line| line.starts_with("go ")).context("Kubernetes' go.mod names no version of Go")?;
    Ok(format!("module bounceflow/kubernetes\n\n{go}\n\nrequire k8s.io/kubernetes {KUBERNETES}\n\n{}\n", replaced.join("\n")))
}

fn program(name: &str, version: &str, package: &str) -> Result<PathBuf> {
    let folder = cached(&format!("{name}-{version}"), |folder| {
        let mut install = go(folder);
        install.args(["install", &format!("{package}@{version}")]);
        fetch(install, folder, &format!("{name} {version}"), |_| "building".into())?;
        ensure!(folder.join(name).is_file(), "go did not deliver {name}");
        Ok(())
    })?;
    Ok(folder.join(name))
}

/// Go in a folder, which also gets what it builds. What the user's environment says of other builds does not hold here.
fn go(folder: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(folder).env("GOBIN", folder).env("GOWORK", "off").env_remove("GOOS").env_remove("GOARCH");
    go
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn every_part_of_kubernetes_gets_the_version_made_with_it() {
        let made =
            around("module k8s.io/kubernetes\n\ngo 1.24.0\n\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/utils v0.0.0-2025\n)\n")
                .unwrap();
        assert!(made.contains("\ngo 1.24.0\n") && made.contains("require k8s.io/kubernetes v1.34.2\n"), "{made}");
        assert!(made.contains("replace k8s.io/api => k8s.io/api v0.34.2\n") && !made.contains("utils"), "{made}");
        around("module k8s.io/kubernetes\n\ngo 1.24.0\n").unwrap_err();
    }
}
