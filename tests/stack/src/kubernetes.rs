//! Owns a Kubernetes API server and the etcd behind it. There is no kubelet and no controller: objects are admitted, stored and
//! defaulted, and nothing of what they ask for happens. It must not know which objects.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::download;
use crate::ports::{self, Port, random};
use crate::program::said;
use crate::server::Server;
use crate::tools;

/// An API server on 127.0.0.1; dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Kubernetes {
    programs: PathBuf,
    api: Server,
    _etcd: Server,
    _ports: [Port; 3],
}

impl Kubernetes {
    /// Starts both, the API server built first if need be, and waits until it answers.
    pub fn start() -> Result<Self> {
        let etcd = download::debian("etcd", "etcd-server", "/usr/bin/etcd", "")?;
        let programs = tools::kubernetes()?;
        ports::with_free(|| Self::run(&etcd, programs.clone()))
    }

    /// What `kubectl` and `helm` need to reach it as its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.api.folder().join("kubeconfig")
    }

    /// `kubectl` as the server's administrator.
    pub fn kubectl(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut kubectl = Command::new(self.programs.join("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.kubeconfig()).arg("--cache-dir").arg(self.api.folder().join("cache")).args(args);
        kubectl
    }

    fn run(etcd_program: &Path, programs: PathBuf) -> Result<Self> {
        let etcd = Server::prepare("etcd")?;
        let ports = [Port::claim()?, Port::claim()?, Port::claim()?];
        let [clients, peers, secure] = [&ports[0], &ports[1], &ports[2]].map(|port| port.number);
        let (client_url, peer_url) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
        let mut command = Command::new(etcd_program);
        command.args(["--name", "etcd", "--data-dir", "data", "--unsafe-no-fsync"]);
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("etcd={peer_url}")]);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        etcd.run(command, |log| log.contains("ready to serve client requests"))?;

        let api = Server::prepare("Kubernetes")?;
        let token = format!("{:016x}{:016x}", random(), random());
        keys(&api)?;
        fs::write(api.folder().join("tokens.csv"), format!("{token},admin,admin,\"system:masters\"\n"))?;
        fs::write(api.folder().join("kubeconfig"), kubeconfig(secure, &token))?;
        let mut command = Command::new(programs.join("kube-apiserver"));
        command.arg(format!("--etcd-servers={client_url}")).arg(format!("--secure-port={secure}"));
        command.args(["--bind-address=127.0.0.1", "--tls-cert-file=cert.pem", "--tls-private-key-file=key.pem"]);
        command.args(["--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=cert.pem"]);
        command.args(["--service-account-signing-key-file=key.pem", "--token-auth-file=tokens.csv", "--authorization-mode=RBAC"]);
        command.args(["--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none"]);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        let kubernetes = Self { programs, api, _etcd: etcd, _ports: ports };
        let ready = || kubernetes.kubectl(["get", "--raw", "/readyz"]).output();
        kubernetes.api.run(command, |_| ready().is_ok_and(|output| output.status.success()))?;
        Ok(kubernetes)
    }
}

/// A key and its certificate, by the program that Go brings for that; both also sign and check tokens.
fn keys(server: &Server) -> Result<()> {
    let root = said(Command::new("go").args(["env", "GOROOT"]))?;
    let mut make = Command::new("go");
    make.arg("run").arg(Path::new(root.trim()).join("src/crypto/tls/generate_cert.go"));
    make.args(["--host", "127.0.0.1", "--ca", "--rsa-bits", "2048"]).current_dir(server.folder());
    said(&mut make).context("no key for the API server").map(drop)
}

fn kubeconfig(port: u16, token: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Config
clusters: [{{name: it, cluster: {{server: "https://127.0.0.1:{port}", certificate-authority: cert.pem}}}}]
users: [{{name: admin, user: {{token: "{token}"}}}}]
contexts: [{{name: it, context: {{cluster: it, user: admin}}}}]
current-context: it
"#
    )
}
