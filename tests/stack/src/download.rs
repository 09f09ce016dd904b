//! Owns the cache of downloaded servers. It must not fetch by itself: the ordinary clients `mvn`, `npm`, `go` and `apt-get` do.

use std::fs::{self, File, TryLockError};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, ensure};
use indicatif::{MultiProgress, ProgressBar};

use crate::ports::random;
use crate::server::tail;

const KAFKA: &str = "4.1.0";
const CLICKHOUSE: &str = "26.7.3-stable.1";
const CLICKHOUSE_MB: u64 = 569; // unpacked; 178 are transferred

const ZOOKEEPER: &str = "3.9.4";

// The servers' logging interface comes without an implementation: slf4j-simple writes to standard error.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>bounceflow</groupId><artifactId>server</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
DEPENDENCIES
  </dependencies>
</project>
"#;

// Two downloads may run side by side, each with its own line.
static LINES: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The folder of the broker's jars.
pub(crate) fn kafka() -> Result<PathBuf> {
    let artifacts = [("org.apache.kafka", "kafka_2.13", KAFKA), ("org.slf4j", "slf4j-simple", "1.7.36")];
    jars("Apache Kafka", "kafka", KAFKA, &artifacts)
}

/// The folder of the coordination service's jars. Metrics and Snappy are its own, but it does not ask for them.
pub(crate) fn zookeeper() -> Result<PathBuf> {
    let artifacts = [
        ("org.apache.zookeeper", "zookeeper", ZOOKEEPER),
        ("io.dropwizard.metrics", "metrics-core", "4.1.12.1"),
        ("org.xerial.snappy", "snappy-java", "1.1.10.5"),
        ("org.slf4j", "slf4j-simple", "2.0.13"),
    ];
    jars("Apache ZooKeeper", "zookeeper", ZOOKEEPER, &artifacts)
}

/// The folder of a server's jars with everything they need; the first artifact is the server.
fn jars(what: &str, name: &str, version: &str, artifacts: &[(&str, &str, &str)]) -> Result<PathBuf> {
    require("java", "-version", "Java 17 or later (Debian: apt install openjdk-17-jre-headless)")?;
    let folder = cached(&format!("{name}-{version}"), |folder| {
        require("mvn", "-version", &format!("Maven, to download {what} (Debian: apt install maven)"))?;
        let dependency = |(group, artifact, version): &(&str, &str, &str)| {
            format!(
                "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
            )
        };
        let dependencies: Vec<String> = artifacts.iter().map(dependency).collect();
        fs::write(folder.join("pom.xml"), POM.replace("DEPENDENCIES", &dependencies.join("\n")))?;
        let mut mvn = Command::new("mvn");
        mvn.args(["-B", "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"]);
        mvn.args(["-DincludeScope=runtime", "-DoutputDirectory=lib"]).current_dir(folder);
        fetch(mvn, folder, &format!("{what} {version}"), |log| {
            let files = fs::read_to_string(log).unwrap_or_default().matches("Downloaded ").count();
            format!("{files} files")
        })?;
        for (_, artifact, version) in artifacts {
            let jar = folder.join(format!("lib/{artifact}-{version}.jar"));
            ensure!(jar.is_file(), "mvn did not deliver {}", jar.display());
        }
        Ok(())
    })?;
    Ok(folder.join("lib"))
}

/// The server's library.
pub(crate) fn clickhouse() -> Result<PathBuf> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "ClickHouse can be had here for x86-64 only: start one by hand and name it in BOUNCEFLOW_CLICKHOUSE"
    );
    let folder = cached(&format!("clickhouse-{CLICKHOUSE}"), |folder| {
        require("npm", "--version", "Node with npm, to download ClickHouse (Debian: apt install npm)")?;
        let package = "@chdb/lib-linux-x64-gnu";
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", "--no-update-notifier"]);
        npm.arg("--prefix").arg(folder).arg(format!("{package}@{CLICKHOUSE}"));
        let modules = folder.join("node_modules");
        fetch(npm, folder, &format!("ClickHouse {CLICKHOUSE}"), |_| {
            format!("{} of {CLICKHOUSE_MB} MB unpacked", size(&modules) / 1_000_000)
        })?;
        fs::rename(modules.join(package).join("libchdb.so"), folder.join("libchdb.so"))
            .context("npm did not deliver libchdb.so")?;
        fs::remove_dir_all(modules)?;
        Ok(())
    })?;
    Ok(folder.join("libchdb.so"))
}

/// The program, from Debian's package: it looks for its templates in a fixed place, so it has to be installed.
pub(crate) fn alertmanager() -> Result<PathBuf> {
    debian("Alertmanager", "prometheus-alertmanager", "/usr/bin/prometheus-alertmanager", "BOUNCEFLOW_ALERTMANAGER")
}

/// The Prometheus server; `promtool` is beside it.
pub(crate) fn prometheus() -> Result<PathBuf> {
    debian("Prometheus", "prometheus", "/usr/bin/prometheus", "")
}

/// The program of a Debian package, which is installed where it is missing. `named`: what names a running server instead.
pub(crate) fn debian(what: &str, package: &str, program: &str, named: &str) -> Result<PathBuf> {
    let program = PathBuf::from(program);
    let instead = if named.is_empty() { String::new() } else { format!(", or name a running one in {named}") };
    let wanted = format!("{what} (Debian: apt install {package}){instead}");
    if program.is_file() {
        return Ok(program);
    }
    require("apt-get", "--version", &wanted)?;
    let log = log_folder()?;
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        // In this run level Debian starts no services, so the server is installed only.
        apt.args(args).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        fetch(apt, &log, what, |_| "installing the package".into())
    };
    let install = || apt(&["install", "-q", "-y", "--no-install-recommends", package]);
    // A machine that never asked has no lists of packages.
    let installed = install().or_else(|first| apt(&["update", "-q"]).and_then(|()| install()).map_err(|_| first));
    let _ = fs::remove_dir_all(&log);
    installed.with_context(|| format!("install {wanted}"))?;
    ensure!(program.is_file(), "apt-get did not deliver {}", program.display());
    Ok(program)
}

fn log_folder() -> Result<PathBuf> {
    let folder = env::temp_dir().join(format!("bounceflow-install-{:016x}", random()));
    fs::create_dir(&folder)?;
    Ok(folder)
}

/// The folder `name` of the cache; `fill` fills it under another name if it is not there, so that half of it never counts.
pub(crate) fn cached(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    let done = cache.join(name);
    if done.is_dir() {
        return Ok(done);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        say(&format!("waiting for another process that downloads {name}"));
        lock.lock()?;
    }
    if done.is_dir() {
        return Ok(done);
    }
    // What an interrupted download left. Its client may still be at it, hence a new name every time.
    let partial = format!("{name}.partial-");
    for entry in fs::read_dir(&cache)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&partial) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = cache.join(format!("{partial}{:016x}", random()));
    fs::create_dir(&folder)?;
    let filled = fill(&folder).and_then(|()| fs::rename(&folder, &done).context("cannot move the download into place"));
    if filled.is_err() {
        let _ = fs::remove_dir_all(&folder);
    }
    filled.map(|()| done)
}

fn cache() -> Result<PathBuf> {
    let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    Ok(base.context("no cache folder: set XDG_CACHE_HOME or HOME")?.join("bounceflow"))
}

pub(crate) fn require(program: &str, flag: &str, what: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(flag).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let works = command.status().is_ok_and(|status| status.success());
    ensure!(works, "`{program}` cannot be run: install {what}");
    Ok(())
}

/// Runs a client, its output kept for the error message, and shows `progress` meanwhile.
pub(crate) fn fetch(mut client: Command, folder: &Path, what: &str, progress: impl Fn(&Path) -> String) -> Result<()> {
    let log = folder.join("download.log");
    let output = File::create(&log)?;
    client.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = client.spawn().with_context(|| format!("cannot start {}", client.get_program().display()))?;
    let mut line = Line::start(format!("downloading {what}"));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        line.update(|| progress(&log));
        thread::sleep(Duration::from_millis(100));
    };
    let text = fs::read_to_string(&log).unwrap_or_default();
    line.finish();
    ensure!(
        status.success(),
        "{what} could not be downloaded: {} ended with {status}. It said:\n{}",
        client.get_program().display(),
        tail(&text)
    );
    Ok(())
}

/// One line of progress: redrawn on a terminal, else written anew now and then.
struct Line {
    what: String,
    started: Instant,
    written: Instant,
    bar: Option<ProgressBar>,
}

impl Line {
    fn start(what: String) -> Self {
        let bar = io::stderr().is_terminal().then(|| LINES.add(ProgressBar::new_spinner()));
        if bar.is_none() {
            say(&what);
        }
        Self { what, started: Instant::now(), written: Instant::now(), bar }
    }

    fn update(&mut self, progress: impl FnOnce() -> String) {
        let seconds = self.started.elapsed().as_secs();
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {}, {seconds} s", self.what, progress()));
            bar.tick();
        } else if self.written.elapsed() >= Duration::from_secs(5) {
            say(&format!("{}: {}, {seconds} s", self.what, progress()));
            self.written = Instant::now();
        }
    }

    fn finish(self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => say(&format!("{}: ended after {} s", self.what, self.started.elapsed().as_secs())),
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}"); // a closed stderr is no reason to stop
}

fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
