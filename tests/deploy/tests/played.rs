//! What the chart asks a cluster to run, run in its order on the real servers: jobs, roles, probes, `helm test`, the end, and all of
//! it once more as an upgrade would. A process stands for a pod; nothing here is a kubelet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bounceflow_deploy::{Chart, documents, mounted};
use bounceflow_stack::{Stack, built, said};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// A debug binary beside other tests takes longer than what is shipped.
const PATIENCE: Duration = Duration::from_secs(60);

/// The container of a StatefulSet's first pod.
struct Pod {
    name: String,
    child: Child,
    log: PathBuf,
    spec: Value,
    files: TempDir,
    started: Instant,
}

impl Pod {
    fn start(name: &str, spec: &Value, objects: &[Value]) -> Result<Self> {
        let files = mounted(spec, objects)?;
        for container in spec["initContainers"].as_array().context("no init container")? {
            said(&mut run(container, files.path())?)?;
        }
        let log = files.path().join("log");
        let mut command = run(&spec["containers"][0], files.path())?;
        // Here they are not the first of their hosts, and share one.
        command.env("BOUNCEFLOW__ORDINAL", "0").env("BOUNCEFLOW__HTTP__LISTEN", "127.0.0.1:0").stderr(File::create(&log)?);
        let (child, started) = (command.spawn()?, Instant::now());
        Ok(Self { name: name.to_owned(), child, log, spec: spec.clone(), files, started })
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn address(&self) -> Option<String> {
        let line = self.log().lines().find(|line| line.contains("Serving /healthz"))?.to_owned();
        serde_json::from_str::<Value>(&line).ok()?["listen"].as_str().map(str::to_owned)
    }

    /// Whether a probe of the container is answered with success.
    fn passes(&self, probe: &str) -> bool {
        let path = self.spec["containers"][0][probe]["httpGet"]["path"].as_str().expect("a probe over HTTP");
        let url = |address: String| format!("http://{address}{path}");
        self.address().is_some_and(|address| ureq::get(url(address)).call().is_ok())
    }

    fn wait_for(&mut self, probe: &str) -> Result<Duration> {
        while !self.passes(probe) {
            ensure!(self.child.try_wait()?.is_none(), "{} ended:\n{}", self.name, self.log());
            ensure!(self.started.elapsed() < PATIENCE, "{} does not pass its {probe}:\n{}", self.name, self.log());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(self.started.elapsed())
    }

    /// SIGTERM, and within the grace a success.
    fn stop(mut self) -> Result<Duration> {
        let asked = Instant::now();
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        let grace = Duration::from_secs(self.spec["terminationGracePeriodSeconds"].as_u64().context("no grace")?);
        while asked.elapsed() < grace {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "{} ended with {status}:\n{}", self.name, self.log());
                return Ok(asked.elapsed());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("{} did not end within its grace of {grace:?}:\n{}", self.name, self.log())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // One that ended already cannot be killed, and needs not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a container runs, with the files where they are here.
fn run(container: &Value, files: &Path) -> Result<Command> {
    let mut command = built("bounceflow")?;
    for arg in container["args"].as_array().context("no arguments")? {
        command.arg(arg.as_str().context("an argument that is no text")?);
    }
    for variable in container["env"].as_array().context("no environment")? {
        let [name, value] = [&variable["name"], &variable["value"]].map(|v| v.as_str().unwrap_or_default());
        command.env(name, value.replace("/etc/bounceflow", &files.display().to_string()));
    }
    Ok(command)
}

/// Hooks of one time, in Helm's order.
fn jobs(objects: &[Value]) -> Vec<&Value> {
    let weight =
        |job: &&Value| job["metadata"]["annotations"]["helm.sh/hook-weight"].as_str().and_then(|w| w.parse::<i32>().ok());
    let mut jobs: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "Job").collect();
    jobs.sort_by_key(weight);
    jobs
}

#[test]
fn what_the_chart_asks_for_runs_in_its_order_and_once_more() -> Result<()> {
    let stack = Stack::start()?;
    let values = tempfile::NamedTempFile::new()?;
    let addresses = serde_json::json!({
        "config": {"kafka": {"bootstrap.servers": stack.kafka.bootstrap()}, "clickhouse": {"url": stack.clickhouse.url()}},
        "topics": {"create": true, "inputPartitions": 2},
    });
    fs::write(&values, addresses.to_string())?;
    let objects = documents(&Chart::new()?.render(values.path())?)?;
    for round in ["install", "upgrade"] {
        let names: Vec<&str> = jobs(&objects).iter().filter_map(|job| job["metadata"]["name"].as_str()).collect();
        let expected = ["check-config", "create-topics", "migrate"].map(|name| format!("mail-bounceflow-{name}"));
        ensure!(names == expected, "{names:?}");
        for job in jobs(&objects) {
            let spec = &job["spec"]["template"]["spec"];
            let files = mounted(spec, &objects)?;
            for container in spec["containers"].as_array().context("a job without a container")? {
                said(&mut run(container, files.path())?).with_context(|| format!("{round}: {}", job["metadata"]["name"]))?;
            }
        }
        let workloads = objects.iter().filter(|object| object["kind"] == "StatefulSet");
        let start = |workload: &Value| {
            Pod::start(workload["metadata"]["name"].as_str().unwrap(), &workload["spec"]["template"]["spec"], &objects)
        };
        let mut pods: Vec<Pod> = workloads.map(start).collect::<Result<_>>()?;
        ensure!(pods.len() == 3, "not three roles");
        for pod in &mut pods {
            let (alive, ready) = (pod.wait_for("startupProbe")?, pod.wait_for("readinessProbe")?);
            ensure!(pod.passes("livenessProbe"), "{}", pod.name);
            println!("{round}: {}: serves after {alive:.1?}, ready after {ready:.1?}", pod.name);
        }
        tested(&objects, &pods)?;
        for pod in pods {
            let name = pod.name.clone();
            println!("{round}: {name}: ended {:.1?} after SIGTERM", pod.stop()?);
        }
    }
    Ok(())
}

#[test]
fn brokers_that_do_not_answer_fail_the_install_by_name() -> Result<()> {
    let values = tempfile::NamedTempFile::new()?;
    // Port 1 is nobody's.
    let addresses = serde_json::json!({
        "config": {"kafka": {"bootstrap.servers": "127.0.0.1:1"}, "clickhouse": {"url": "http://127.0.0.1:1"}},
        "topics": {"create": true},
    });
    fs::write(&values, addresses.to_string())?;
    let objects = documents(&Chart::new()?.render(values.path())?)?;
    // The first asks nobody.
    let [check, others @ ..] = &jobs(&objects)[..] else { bail!("no job") };
    let spec = &check["spec"]["template"]["spec"];
    said(&mut run(&spec["containers"][0], mounted(spec, &objects)?.path())?)?;
    for (job, words) in others.iter().zip([["127.0.0.1:1", "bootstrap.servers"], ["127.0.0.1:1", "HTTP port"]]) {
        let spec = &job["spec"]["template"]["spec"];
        let files = mounted(spec, &objects)?;
        let output = run(&spec["containers"][0], files.path())?.output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && words.iter().all(|word| told.contains(word)), "{}: {told}", output.status);
    }
    Ok(())
}

/// The containers of `helm test`, the Service's name being the address of watch.
fn tested(objects: &[Value], pods: &[Pod]) -> Result<()> {
    let test = objects.iter().find(|object| object["metadata"]["annotations"]["helm.sh/hook"] == "test").context("no test")?;
    let watch = pods.iter().find(|pod| pod.name.ends_with("-watch")).context("no watch")?;
    for container in test["spec"]["containers"].as_array().context("no containers")? {
        let mut container = container.clone();
        for arg in container["args"].as_array_mut().context("no arguments")? {
            if arg.as_str().is_some_and(|arg| arg.contains("mail-bounceflow-watch:9090")) {
                *arg = format!("http://{}", watch.address().context("no address")?).into();
            }
        }
        said(&mut run(&container, watch.files.path())?)?;
    }
    Ok(())
}
