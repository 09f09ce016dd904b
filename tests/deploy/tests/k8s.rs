//! `make k8s`: every value set on a real API server, with Pod Security "restricted" enforced. Long: the first run builds the server.
//!
//! There is no kubelet and no controller, so nothing runs: jobs would never end, and no StatefulSet makes a pod. Hooks are therefore
//! left out of `helm install` and their objects created by hand, and every pod template is created as a pod, so that admission judges
//! all that a cluster would be asked for. What pods do is not seen here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use bounceflow_deploy::{Chart, definitions_of_custom_kinds, documents};
use bounceflow_stack::Kubernetes;
use serde_json::{Value, json};

const NAMESPACE: &str = "delivery";
const RELEASE: &str = "mail";
const KINDS: &str = "all,configmaps,secrets,serviceaccounts,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers,jobs,\
                     scaledobjects,triggerauthentications,servicemonitors,podmonitors,prometheusrules";
/// What the namespace holds without a release: an account that the value set `locked-down` expects to find.
const BEFORE: &str = "serviceaccount/delivery";

struct Cluster {
    server: Kubernetes,
    chart: Chart,
}

/// Success without a warning; the server's warnings come on standard error.
fn quiet(output: &Output, what: &str) -> Result<String> {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{what}: {}\n{stdout}{stderr}", output.status);
    ensure!(!stderr.contains("Warning:") && !stderr.contains("warnings.go"), "{what}: {stderr}");
    Ok(stdout.into_owned())
}

fn fed(mut command: Command, input: &str) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

impl Cluster {
    fn start() -> Result<Self> {
        let cluster = Self { server: Kubernetes::start()?, chart: Chart::new()? };
        for definition in definitions_of_custom_kinds()? {
            quiet(&fed(cluster.server.kubectl(["create", "-f", "-"]), &definition)?, "a definition")?;
        }
        let level = |mode: &str| (format!("pod-security.kubernetes.io/{mode}"), json!("restricted"));
        let labels: serde_json::Map<String, Value> = ["enforce", "warn", "audit"].into_iter().map(level).collect();
        cluster.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}))?;
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "delivery", "namespace": NAMESPACE}});
        cluster.create(&account)?;
        // Named by the value set `production`.
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "business-critical"}, "value": 1000});
        cluster.create(&class)?;
        let established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"];
        quiet(&cluster.server.kubectl(established).output()?, "the definitions")?;
        Ok(cluster)
    }

    fn create(&self, object: &Value) -> Result<String> {
        let kubectl = self.server.kubectl(["create", "--namespace", NAMESPACE, "-f", "-"]);
        quiet(&fed(kubectl, &object.to_string())?, &format!("create {} {}", object["kind"], object["metadata"]["name"]))
    }

    fn delete(&self, object: &Value) -> Result<()> {
        let now = ["delete", "--namespace", NAMESPACE, "--now", "--wait=false", "-f", "-"];
        quiet(&fed(self.server.kubectl(now), &object.to_string())?, "delete").map(drop)
    }

    fn helm(&self, args: &[&str], values: &Path, more: &[&str]) -> Result<Output> {
        let mut helm = self.chart.helm(args);
        helm.arg("--kubeconfig").arg(self.server.kubeconfig()).args(["--namespace", NAMESPACE]);
        Ok(helm.arg("--values").arg(values).args(more).output()?)
    }

    fn rendered(&self, values: &Path) -> Result<Vec<Value>> {
        documents(&self.chart.render(values)?)
    }

    /// Everything there is in the namespace. Deletion of pods takes the server a moment.
    fn holds(&self) -> Result<Vec<String>> {
        let list = ["get", KINDS, "--namespace", NAMESPACE, "--output", "name", "--ignore-not-found"];
        let text = quiet(&self.server.kubectl(list).output()?, "list")?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

fn is_hook(object: &Value) -> bool {
    object["metadata"]["annotations"]["helm.sh/hook"].is_string()
}

/// Pods as a StatefulSet or a Job would make them.
fn pods_of(objects: &[Value]) -> Vec<Value> {
    let made = |object: &Value| {
        let template = &object["spec"]["template"];
        let pod = template["spec"].is_object() && ["StatefulSet", "Job"].contains(&object["kind"].as_str()?);
        let metadata =
            json!({"name": format!("{}-0", object["metadata"]["name"].as_str()?), "labels": template["metadata"]["labels"]});
        pod.then(|| json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}))
    };
    objects.iter().filter_map(made).collect()
}

fn played(cluster: &Cluster, values: &Path) -> Result<()> {
    let objects = cluster.rendered(values)?;
    let (hooks, own): (Vec<Value>, Vec<Value>) = objects.iter().cloned().partition(is_hook);

    // What Helm would create before the release, in its order; accounts and files first.
    let (jobs, needed): (Vec<&Value>, Vec<&Value>) =
        hooks.iter().partition(|hook| ["Job", "Pod"].contains(&hook["kind"].as_str().unwrap()));
    for object in &needed {
        cluster.create(object)?;
    }
    quiet(&cluster.helm(&["install", RELEASE, "CHART", "--no-hooks"], values, &[])?, "install")?;
    // The jobs, and the pod of `helm test`.
    for object in &jobs {
        cluster.create(object)?;
    }
    let pods = pods_of(&objects);
    ensure!(!pods.is_empty(), "no pods");
    for pod in &pods {
        cluster.create(pod)?;
        cluster.delete(pod)?;
    }
    for object in hooks.iter().rev() {
        cluster.delete(object)?;
    }

    // Other values, then a new version of everything by server-side apply, then back by Helm.
    let change =
        ["--set", "log=debug,classify.replicas=5,sink.replicas=4,commonLabels.changed=yes,probes.liveness.periodSeconds=20"];
    quiet(&cluster.helm(&["upgrade", RELEASE, "CHART", "--no-hooks"], values, &change)?, "upgrade")?;
    let everything = own.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
    for _ in 0..2 {
        let apply =
            ["apply", "--server-side", "--force-conflicts", "--field-manager=platform", "--namespace", NAMESPACE, "-f", "-"];
        let told = quiet(&fed(cluster.server.kubectl(apply), &everything)?, "server-side apply")?;
        ensure!(told.matches("serverside-applied").count() == own.len(), "{told}");
    }
    quiet(&cluster.helm(&["upgrade", RELEASE, "CHART", "--no-hooks"], values, &[])?, "upgrade back")?;

    // The one value that must never change.
    let renamed = cluster.helm(&["upgrade", RELEASE, "CHART", "--no-hooks"], values, &["--set", "config.deployment=another"])?;
    let told = String::from_utf8_lossy(&renamed.stderr).into_owned();
    ensure!(
        !renamed.status.success() && told.contains("everything would be counted anew"),
        "a new deployment name was taken: {told}"
    );

    let mut uninstall = cluster.chart.helm(["uninstall", RELEASE, "--no-hooks", "--namespace", NAMESPACE, "--kubeconfig"]);
    quiet(&uninstall.arg(cluster.server.kubeconfig()).output()?, "uninstall")?;
    for _ in 0..100 {
        if cluster.holds()? == [BEFORE] {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    anyhow::bail!("uninstalled, but there is still {:?}", cluster.holds()?)
}

#[test]
#[ignore = "builds a Kubernetes API server: make k8s"]
fn every_value_set_is_installed_upgraded_and_removed_without_a_warning() -> Result<()> {
    let cluster = Cluster::start()?;
    // That the namespace refuses what it should is not taken on trust.
    let careless = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "careless"}, "spec":
        {"serviceAccountName": "delivery", "containers": [{"name": "a", "image": "a"}]}});
    let refusal = cluster.create(&careless).err().context("a careless pod was let in")?.to_string();
    ensure!(refusal.contains("violates PodSecurity \"restricted:latest\""), "{refusal}");

    for (name, values) in cluster.chart.value_sets()? {
        played(&cluster, &values).with_context(|| format!("value set {name}"))?;
        println!("{name}: installed, upgraded, applied, removed");
    }
    Ok(())
}
