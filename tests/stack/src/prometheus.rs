//! Owns the Prometheus server, as Debian packages it, and `promtool` beside it. It must not know what is measured.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ureq::Agent;

use crate::download;
use crate::ports::{self, Port};
use crate::server::Server;

/// What a Prometheus does.
#[derive(Debug, Clone, Default)]
pub struct PrometheusOptions {
    /// The name of the job.
    pub job: String,
    /// What it scrapes every second, each as `host:port`.
    pub targets: Vec<String>,
    /// Files of rules.
    pub rules: Vec<PathBuf>,
}

/// A Prometheus on 127.0.0.1; dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Prometheus {
    server: Server,
    program: PathBuf,
    port: Port,
}

impl Prometheus {
    /// Starts a server; returns once it answers, before the first scrape.
    pub fn start(options: &PrometheusOptions) -> Result<Self> {
        let program = download::prometheus()?;
        let config = config(options);
        ports::with_free(|| {
            let started = Self { server: Server::prepare("Prometheus")?, program: program.clone(), port: Port::claim()? };
            fs::write(started.server.folder().join("prometheus.yml"), &config)?;
            started.run()?;
            Ok(started)
        })
    }

    /// The HTTP address, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }

    /// What an expression is worth now: the JSON answer of `/api/v1/query`. An error where Prometheus refuses it.
    pub fn query(&self, expression: &str) -> Result<String> {
        let request = agent().get(format!("{}/api/v1/query", self.url())).query("query", expression);
        let mut response = request.call().context("Prometheus does not answer")?;
        let text = response.body_mut().read_to_string()?;
        ensure!(response.status().is_success(), "Prometheus refuses {expression}: {}", text.trim());
        Ok(text)
    }

    /// What another path of its HTTP API answers, such as `/api/v1/rules`.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut response = agent().get(format!("{}{path}", self.url())).call().context("Prometheus does not answer")?;
        let text = response.body_mut().read_to_string()?;
        ensure!(response.status().is_success(), "Prometheus refuses {path}: {}", text.trim());
        Ok(text)
    }

    fn run(&self) -> Result<()> {
        let folder = self.server.folder();
        let mut server = Command::new(&self.program);
        server.arg(format!("--web.listen-address=127.0.0.1:{}", self.port.number));
        server.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
        server.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        server.env_clear().env("HOME", folder).env("PATH", "/usr/bin:/bin");
        self.server.run(server, |_| self.get("/-/ready").is_ok())
    }
}

/// `promtool`, which checks and tests rules.
pub fn promtool() -> Result<PathBuf> {
    let program = download::prometheus()?.with_file_name("promtool");
    ensure!(program.is_file(), "Prometheus came without {}", program.display());
    Ok(program)
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(30)))
        .http_status_as_error(false)
        .max_idle_connections(0)
        .proxy(None)
        .build();
    Agent::new_with_config(config)
}

fn config(options: &PrometheusOptions) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let list = |items: Vec<String>| items.join(", ");
    let rules = list(options.rules.iter().map(|file| quoted(&file.display().to_string())).collect());
    let targets = list(options.targets.iter().map(|target| quoted(target)).collect());
    format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\n\
         scrape_configs:\n  - job_name: {}\n    static_configs:\n      - targets: [{targets}]\n",
        quoted(&options.job)
    )
}
