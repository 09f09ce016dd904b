//! Owns the Alertmanager server, as Debian packages it. It must not know which alerts are sent to it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use ureq::Agent;

use crate::download;
use crate::ports::{self, Port};
use crate::server::{Server, external};

const NAMED: &str = "BOUNCEFLOW_ALERTMANAGER";

// Notifies nobody: what it holds is asked for over its API.
const CONFIG: &str =
    "route:\n  receiver: nobody\n  group_by: ['...']\n  group_wait: 1s\n  group_interval: 1s\nreceivers:\n  - name: nobody\n";

/// An Alertmanager on 127.0.0.1; dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Alertmanager {
    url: String,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    server: Server,
    program: PathBuf,
    port: Port,
}

impl Alertmanager {
    /// Starts a server, or uses the one that `BOUNCEFLOW_ALERTMANAGER` (its HTTP address) names.
    pub fn start() -> Result<Self> {
        match env::var(NAMED) {
            Ok(url) if !url.is_empty() => {
                let url = url.trim_end_matches('/').to_owned();
                get(&url, "/-/ready").with_context(|| format!("no Alertmanager at {url} (named by {NAMED})"))?;
                Ok(Self { url, own: None })
            }
            _ => Self::start_own(),
        }
    }

    /// Starts a server whatever the environment says, for tests that kill it.
    pub fn start_own() -> Result<Self> {
        let program = download::alertmanager()?;
        let own = ports::with_free(|| Own::start(program.clone()))?;
        Ok(Self { url: own.url(), own: Some(own) })
    }

    /// The HTTP address, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The alerts it holds, firing ones (`active`) and resolved ones it still knows, as its API v2 gives them: a JSON array.
    pub fn alerts(&self) -> Result<String> {
        get(&self.url, "/api/v2/alerts")
    }

    /// Kills the process (SIGKILL). What it held stays for [`Alertmanager::restart`] only as far as it was on disk.
    pub fn kill(&self) -> Result<()> {
        self.own()?.server.kill()
    }

    /// Starts it again on the same port; returns once it answers.
    pub fn restart(&self) -> Result<()> {
        self.own()?.run()
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().ok_or_else(|| external("Alertmanager"))
    }
}

impl Own {
    fn start(program: PathBuf) -> Result<Self> {
        let own = Self { server: Server::prepare("Alertmanager")?, program, port: Port::claim()? };
        fs::write(own.server.folder().join("alertmanager.yml"), CONFIG)?;
        own.run()?;
        Ok(own)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }

    fn run(&self) -> Result<()> {
        let folder = self.server.folder();
        let mut server = Command::new(&self.program);
        server.arg(format!("--web.listen-address=127.0.0.1:{}", self.port.number));
        server.arg(format!("--config.file={}", folder.join("alertmanager.yml").display()));
        server.arg(format!("--storage.path={}", folder.join("data").display()));
        server.arg("--cluster.listen-address="); // alone
        server.env_clear().env("HOME", folder).env("PATH", "/usr/bin:/bin");
        let url = self.url();
        self.server.run(server, |_| get(&url, "/-/ready").is_ok())
    }
}

fn get(url: &str, path: &str) -> Result<String> {
    let config = Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(5)))
        .http_status_as_error(false)
        .max_idle_connections(0)
        .proxy(None)
        .build();
    let mut response =
        Agent::new_with_config(config).get(format!("{url}{path}")).call().context("Alertmanager does not answer")?;
    let text = response.body_mut().read_to_string()?;
    ensure!(response.status().is_success(), "Alertmanager refuses: {}", text.trim());
    Ok(text)
}
