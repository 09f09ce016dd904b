//! The chart: what it renders is what Kubernetes takes, what Pod Security allows and what the binary reads; what it must refuse, it does.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use bounceflow::config::Config;
use bounceflow_deploy::{Chart, KUBE_VERSION, PLANTED, Schemas, document, documents, mounted, repository};
use bounceflow_stack::{built, said};
use serde_json::{Value, json};

/// Every value set, rendered: name → text.
static RENDERED: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let chart = Chart::new().unwrap();
    let sets = chart.value_sets().unwrap();
    sets.iter().map(|(name, values)| (name.clone(), chart.render(values).unwrap())).collect()
});

fn objects(set: &str) -> Vec<Value> {
    documents(&RENDERED[set]).unwrap()
}

fn of_kind<'o>(objects: &'o [Value], kind: &str) -> Vec<&'o Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// `kind/name` and the pod of everything that has one.
fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let pod = |object: &'_ Value| match object["kind"].as_str() {
        Some("Pod") => Some("/spec"),
        Some("StatefulSet" | "Job") => Some("/spec/template/spec"),
        _ => None,
    };
    let named = objects.iter().filter_map(|object| {
        let name = format!("{}/{}", object["kind"].as_str()?, object["metadata"]["name"].as_str()?);
        Some((name, object.pointer(pod(object)?)?))
    });
    named.collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().flat_map(|field| pod[field].as_array().into_iter().flatten())
}

fn args(container: &Value) -> Vec<&str> {
    container["args"].as_array().into_iter().flatten().map(|arg| arg.as_str().unwrap()).collect()
}

#[test]
fn helm_finds_nothing_to_complain_about() -> Result<()> {
    let chart = Chart::new()?;
    for (name, values) in chart.value_sets()? {
        let lint = said(chart.helm(["lint", "--strict", "CHART", "--values"]).arg(values)).context(name)?;
        ensure!(lint.contains("0 chart(s) failed") && !lint.contains("WARNING"), "{lint}");
    }
    said(chart.helm(["lint", "--strict", "CHART"]).args(["--with-subcharts", "--kube-version", "1.27.0"]))?;
    Ok(())
}

/// Sums change with every word of a comment.
fn without_sums(text: &str) -> String {
    let masked = text.lines().map(|line| match line.split_once(": ") {
        Some((key, _)) if key.trim_start().starts_with("checksum/") => format!("{key}: (a sum)\n"),
        _ => format!("{line}\n"),
    });
    masked.collect()
}

/// The dashboards and rules that the chart ships: files of its own, passed through.
fn passed_through(object: &str) -> bool {
    object.contains("grafana_dashboard:") || object.contains("kind: PrometheusRule")
}

/// Of the default set everything; of the others what is different from it. What is passed through has a test of its own.
#[test]
fn what_each_value_set_renders() {
    assert!(RENDERED.len() >= 8, "{}", RENDERED.len());
    let defaults: BTreeSet<&str> = RENDERED["defaults"].split("---\n").collect();
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| {
        for (name, text) in RENDERED.iter() {
            let of_its_own = |part: &&str| name == "defaults" || !defaults.contains(part);
            let parts: Vec<&str> = text.split("---\n").filter(of_its_own).filter(|part| !passed_through(part)).collect();
            insta::assert_snapshot!(name.as_str(), without_sums(&parts.join("---\n")));
        }
    });
}

#[test]
fn every_object_is_one_that_kubernetes_and_the_operators_describe() -> Result<()> {
    let (schemas, folder) = (Schemas::new()?, tempfile::tempdir()?);
    for (name, text) in RENDERED.iter() {
        fs::write(folder.path().join(format!("{name}.yaml")), text)?;
    }
    let told = said(&mut schemas.kubeconform(folder.path())?)?;
    let count: usize = RENDERED.keys().map(|set| objects(set).len()).sum();
    ensure!(told.contains(&format!("Summary: {count} resources found in {} files - Valid: {count}", RENDERED.len())), "{told}");
    // It would have been found: the schemas are strict, also where kinds are custom.
    for (object, field) in [
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "imag": "b"}]}}),
            "imag",
        ),
        (
            json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "a"}, "spec":
                {"scaleTargetRef": {"name": "a"}, "triggers": [], "minReplicas": 1}}),
            "minReplicas",
        ),
    ] {
        let file = folder.path().join("wrong.json");
        fs::write(&file, object.to_string())?;
        let told = said(&mut schemas.kubeconform(&file)?).err().context(field)?;
        ensure!(told.to_string().contains(field), "{told}");
    }
    Ok(())
}

#[test]
fn what_the_schema_must_refuse_is_refused_by_name() -> Result<()> {
    let chart = Chart::new()?;
    let file = tempfile::NamedTempFile::new()?;
    for (values, words) in [
        // Unknown keys, on every level.
        ("clasify: {replicas: 3}", "clasify"),
        ("sink: {replica: 3}", "replica"),
        ("config: {clickhouse: {pasword: x}}", "pasword"),
        ("config: {inputs: [{topic: a, fromat: json}]}", "fromat"),
        ("config: {identity: {map: [{name: a, form_domain: b}]}}", "form_domain"),
        ("secrets: {kafka: {sasl.pasword: {name: a, key: b}}}", "sasl.pasword"),
        ("metrics: {serviceMonitor: {enabled: true, intervall: 10s}}", "intervall"),
        ("classify: {resources: {request: {cpu: 1}}}", "request"),
        ("pod: {securityContext: {runAsUser: 0}}", "securityContext"),
        ("extraEnv: [{name: A, vlaue: b}]", "vlaue"),
        // Secrets have no place in a ConfigMap.
        ("config: {kafka: {sasl.password: hunter2}}", "sasl.password"),
        ("config: {kafka: {sasl.oauthbearer.client.secret: hunter2}}", "sasl.oauthbearer.client.secret"),
        ("config: {clickhouse: {url: \"http://me:hunter2@clickhouse:8123\"}}", "url"),
        ("config: {clickhouse: {password_file: /x}}", "password_file"),
        ("secrets: {clickhouse: {password: hunter2}}", "password"),
        ("secrets: {recipient: {key: {name: a}}}", "key"),
        ("secrets: {http: {certificate: {name: a, key: b}}}", "key"),
        ("secrets: {clickhouse: {key: {name: a, key: b}}}", "certificate"),
        ("secrets: {http: {token: hunter2}}", "token"),
        // Wrong types and values.
        ("classify: {replicas: two}", "replicas"),
        ("topology: both", "topology"),
        ("config: {recipient: null}", "recipient"),
        ("config: {kafka: {bootstrap.servers: null}}", "bootstrap.servers"),
        ("config: {classify: {transaction_interval_ms: 60000}}", "transaction_interval_ms"),
        ("config: {clickhouse: {url: clickhouse:8123}}", "url"),
        ("config: {deployment: a b}", "deployment"),
        ("image: {digest: sha256:abc}", "digest"),
        ("classify: {keda: {enabled: true, minReplicas: 0}}", "minReplicas"),
        ("pod: {user: 0}", "user"),
        ("rules: {classification: {a.yaml: x}}", "a.yaml"),
        ("http: {port: 80}", "port"),
        // What spans keys.
        (
            "classify: {autoscaling: {enabled: true}, keda: {enabled: true}}",
            "classify.autoscaling and classify.keda are both enabled",
        ),
        (
            "sink: {autoscaling: {enabled: true, minReplicas: 9}}",
            "sink.autoscaling.minReplicas is 9, more than its maxReplicas, 6",
        ),
        (
            "config: {kafka: {security.protocol: SASL_SSL, sasl.mechanism: PLAIN, sasl.username: me}}\n\
             secrets: {kafka: {sasl.password: {name: a, key: b}}}\nsink: {keda: {enabled: true}}",
            "sink.keda: KEDA takes the user from a Secret alone: name it as secrets.kafka.\"sasl.username\"",
        ),
        ("networkPolicy: {egress: {alertmanager: {extraPorts: [0]}}}", "extraPorts"),
        ("metrics: {serviceMonitor: {enabled: true}, podMonitor: {enabled: true}}", "every pod would be counted twice"),
        ("config: {clickhouse: {shards: [{url: \"http://a:1\"}], cluster: c}}", "set url to null"),
        ("config: {clickhouse: {url: null, shards: [{url: \"http://a:1\"}]}}", "config.clickhouse.cluster"),
        ("config: {clickhouse: {url: null}}", "names no server"),
        ("config: {clickhouse: {url: null, shards: [{url: [\"http://a:1\"], weight: 2}], cluster: c}}", "weight"),
        ("sink: {terminationGracePeriodSeconds: 60}", "sink.terminationGracePeriodSeconds is 60, but its drain may take 90 s"),
        ("config: {clickhouse: {insert_timeout_ms: 200500}}\nsink: {terminationGracePeriodSeconds: 231}", "may take 231 s"),
    ] {
        fs::write(&file, values)?;
        let told =
            said(chart.template(&[]).arg("--values").arg(file.path())).err().with_context(|| format!("taken: {values}"))?;
        let told = format!("{told:#}");
        ensure!(told.contains(words), "{values}: {told}");
        ensure!(!told.contains("hunter2"), "{told}");
    }
    Ok(())
}

/// The ports of `config`, with those that stand behind Services.
#[test]
fn pods_may_reach_what_the_configuration_names() -> Result<()> {
    for (set, expect) in [
        ("defaults", &[53, 5353, 8123, 9090, 9092][..]),
        ("lag-scaled", &[53, 5353, 8123, 9090, 9093]),
        ("locked-down", &[53, 443, 4317, 5353, 8080, 8123, 8443, 9093, 9094]),
    ] {
        let objects = objects(set);
        let policy = *of_kind(&objects, "NetworkPolicy").first().context("no policy")?;
        let rules = policy["spec"]["egress"].as_array().context("no egress")?;
        let ports = rules.iter().flat_map(|rule| rule["ports"].as_array().into_iter().flatten());
        let ports: BTreeSet<u64> = ports.filter_map(|port| port["port"].as_u64()).collect();
        assert_eq!(ports, BTreeSet::from_iter(expect.iter().copied()), "{set}");
    }
    Ok(())
}

/// What Pod Security "restricted" asks for, and more.
#[test]
fn every_container_is_without_privileges_and_every_pod_without_a_token() {
    for set in RENDERED.keys() {
        let objects = objects(set);
        for (name, pod) in pods(&objects) {
            let name = format!("{set}: {name}");
            assert_eq!(pod["automountServiceAccountToken"], json!(false), "{name}");
            assert_eq!(pod["enableServiceLinks"], json!(false), "{name}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true), "{name}");
            assert!(pod["volumes"].as_array().unwrap().iter().all(|volume| volume["projected"].is_object()), "{name}");
            for container in containers(pod) {
                let context = &container["securityContext"];
                for (field, value) in [
                    ("allowPrivilegeEscalation", json!(false)),
                    ("readOnlyRootFilesystem", json!(true)),
                    ("runAsNonRoot", json!(true)),
                    ("capabilities", json!({"drop": ["ALL"]})),
                    ("seccompProfile", json!({"type": "RuntimeDefault"})),
                ] {
                    assert_eq!(context[field], value, "{name}: {field}");
                }
                for field in ["requests", "limits"] {
                    assert!(container["resources"][field]["memory"].is_string(), "{name}: memory {field}");
                }
            }
        }
        for account in of_kind(&objects, "ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], json!(false), "{set}");
        }
    }
}

/// Stable ordinals, room for the drain, one scaler at most, and spread over what there is.
#[test]
fn workloads_suit_consumer_groups() {
    for set in RENDERED.keys() {
        let objects = objects(set);
        for workload in of_kind(&objects, "StatefulSet") {
            let (name, spec) = (&workload["metadata"]["name"], &workload["spec"]);
            assert_eq!(spec["podManagementPolicy"], "Parallel", "{set}: {name}");
            assert_eq!(spec["updateStrategy"], json!({"type": "RollingUpdate"}), "{set}: {name}");
            let headless = of_kind(&objects, "Service").into_iter().find(|s| s["metadata"]["name"] == spec["serviceName"]);
            assert_eq!(headless.expect("its Service")["spec"]["clusterIP"], "None", "{set}: {name}");
            let targets: Vec<&Value> =
                of_kind(&objects, "HorizontalPodAutoscaler").into_iter().chain(of_kind(&objects, "ScaledObject")).collect();
            let scaled = targets.iter().filter(|scaler| scaler["spec"]["scaleTargetRef"]["name"] == *name).count();
            assert_eq!(spec["replicas"].is_null(), scaled == 1, "{set}: {name} has {scaled} scalers");
            // The ordinal is the number at the end of the host name, and a host name has 63 letters.
            assert!(name.as_str().unwrap().len() + "-headless".len() <= 63, "{name}");
            let role = name.as_str().unwrap().rsplit('-').next().unwrap();
            let least = if ["sink", "together"].contains(&role) { 90 } else { 30 };
            assert!(spec["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap() > least, "{set}: {name}");
            let selector = &spec["selector"]["matchLabels"];
            for (key, value) in selector.as_object().unwrap() {
                assert_eq!(spec["template"]["metadata"]["labels"][key], *value, "{set}: {name}");
            }
            for spread in spec["template"]["spec"]["topologySpreadConstraints"].as_array().into_iter().flatten() {
                assert_eq!(spread["labelSelector"]["matchLabels"], *selector, "{set}: {name}");
            }
        }
    }
    let long = Chart::new().unwrap();
    let name = "a-release-whose-name-is-as-long-as-helm-lets-it-be-53";
    let text =
        said(&mut long.helm(["template", name, "CHART", "--set", "topology=together", "--kube-version", KUBE_VERSION])).unwrap();
    let objects = documents(&text).unwrap();
    assert!(objects.iter().all(|object| object["metadata"]["name"].as_str().unwrap().len() <= 63), "{text}");
}

/// What a pod would see is a configuration that the real binary finds no mistake in, and every argument is one it knows.
#[test]
fn the_binary_reads_what_is_mounted_and_knows_every_argument() -> Result<()> {
    for set in RENDERED.keys() {
        let objects = objects(set);
        for (name, pod) in pods(&objects) {
            let folder = mounted(pod, &objects).with_context(|| format!("{set}: {name}"))?;
            let config = folder.path().join("bounceflow.toml");
            let checked = said(built("bounceflow")?.arg("check-config").env("BOUNCEFLOW_CONFIG", &config));
            ensure!(checked.with_context(|| format!("{set}: {name}"))?.contains("no mistakes"));
            ensure!(!fs::read_to_string(&config)?.contains(PLANTED), "{set}: a secret is in the ConfigMap");
            for container in containers(pod) {
                let args = args(container);
                said(built("bounceflow")?.args(&args).arg("--help")).with_context(|| format!("{set}: {name}: {args:?}"))?;
                let environment = container["env"].as_array().context("no environment")?;
                ensure!(environment.contains(&json!({"name": "BOUNCEFLOW_CONFIG", "value": "/etc/bounceflow/bounceflow.toml"})));
            }
        }
    }
    Ok(())
}

const ALONE: [&str; 4] = ["--set", "topics.create=false", "--set", "migrate.enabled=false"];

/// Jobs check before they touch anything, pods before they start: a broken file changes nothing of what runs.
#[test]
fn a_broken_rule_file_is_refused_before_anything_changes() -> Result<()> {
    let chart = Chart::new()?;
    let values =
        "rules: {classification: {own.toml: \"[[rule]]\\nid = 'own.a'\\npriority = 'high'\\n\"}}\ntopics: {create: true}\n";
    let file = tempfile::NamedTempFile::new()?;
    fs::write(&file, values)?;
    let objects = documents(&chart.render(file.path())?)?;
    let mut checked = 0;
    for (name, pod) in pods(&objects) {
        let first = containers(pod).next().context("no container")?;
        if name.starts_with("Job/") && !name.ends_with("-check-config") {
            continue;
        }
        ensure!(args(first) == ["check-config"], "{name} begins with {:?}", args(first));
        let folder = mounted(pod, &objects)?;
        let output =
            built("bounceflow")?.arg("check-config").env("BOUNCEFLOW_CONFIG", folder.path().join("bounceflow.toml")).output()?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && told.contains("own.toml:3: rule \"own.a\""), "{name}: {told}");
        checked += 1;
    }
    ensure!(checked == 5, "{checked} pods, not three roles, one job and the test");
    // It goes before every other, also where there is none.
    for (more, expected) in [(&[][..], &["check-config", "create-topics", "migrate"][..]), (&ALONE, &["check-config"])] {
        let objects = documents(&said(&mut chart.template(&[&["--set", "topics.create=true"], more].concat()))?)?;
        let weight =
            |job: &Value| job["metadata"]["annotations"]["helm.sh/hook-weight"].as_str().and_then(|w| w.parse::<i32>().ok());
        let mut jobs: Vec<&Value> = of_kind(&objects, "Job");
        jobs.sort_by_key(|job| weight(job));
        let names: Vec<&str> =
            jobs.iter().filter_map(|job| job["metadata"]["name"].as_str()?.strip_prefix("mail-bounceflow-")).collect();
        ensure!(names == expected, "{names:?}");
    }
    // The jobs' own copy is new with each upgrade, so that what runs keeps its own until they are done.
    for object in &objects {
        let hook = object["metadata"]["annotations"]["helm.sh/hook"].as_str();
        let hooks = object["metadata"]["name"].as_str().is_some_and(|n| n.contains("-hooks")) || object["kind"] == "Job";
        ensure!(hooks == (hook == Some("pre-install,pre-upgrade")), "{object}");
    }
    Ok(())
}

#[test]
fn a_change_of_anything_mounted_rolls_the_pods() -> Result<()> {
    let chart = Chart::new()?;
    let annotations = |more: &[&str]| -> Result<Value> {
        let objects = documents(&said(&mut chart.template(more))?)?;
        Ok(of_kind(&objects, "StatefulSet")[0]["spec"]["template"]["metadata"]["annotations"].clone())
    };
    let before = annotations(&[])?;
    ensure!(before == annotations(&["--set", "classify.replicas=7"])?, "more pods are no reason to replace those there are");
    for change in [
        "config.classify.threads=3",
        "rules.alerts=# none",
        "rules.classification.a\\.toml=# none",
        "rules.isps=# none",
        "schemas.a\\.avsc=x",
        "secrets.clickhouse.password.name=a,secrets.clickhouse.password.key=b",
    ] {
        ensure!(before != annotations(&["--set", change])?, "{change}");
    }
    Ok(())
}

#[test]
fn dashboards_and_rules_are_the_charts_files_themselves() -> Result<()> {
    let folder = repository().join("helm/bounceflow");
    let dashboards = fs::read_dir(folder.join("dashboards"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let objects = objects("observed");
    let maps = of_kind(&objects, "ConfigMap");
    let labelled = |map: &&&Value| map["metadata"]["labels"]["grafana_dashboard"] == "1";
    ensure!(maps.iter().filter(labelled).count() == dashboards.len() && dashboards.len() >= 2, "{dashboards:?}");
    for file in dashboards {
        let stem = file.file_stem().unwrap().to_string_lossy();
        let name = format!("mail-bounceflow-dashboard-{stem}");
        let map = maps.iter().find(|map| map["metadata"]["name"] == name.as_str()).with_context(|| format!("no {name}"))?;
        ensure!(map["data"][format!("{stem}.json")].as_str().map(str::trim) == Some(fs::read_to_string(&file)?.trim()), "{stem}");
        ensure!(map["metadata"]["annotations"]["grafana_folder"] == "Mail", "{stem}");
    }
    let groups = |objects: &[Value]| -> Result<Vec<Value>> {
        let rule = *of_kind(objects, "PrometheusRule").first().context("no rules")?;
        ensure!(rule["metadata"]["labels"]["release"] == "prometheus", "{}", rule["metadata"]);
        Ok(rule["spec"]["groups"].as_array().context("no groups")?.clone())
    };
    let ours = document(&fs::read_to_string(folder.join("rules/pipeline.yaml"))?)?;
    let ours = ours["groups"].as_array().context("no groups")?;
    let shipped = groups(&objects)?;
    ensure!(shipped[..ours.len()] == ours[..], "the chart's rules are not its file's");
    // And groups of the operator's own behind them.
    ensure!(shipped.len() == ours.len() + 1 && shipped[ours.len()]["name"] == "ours", "{} groups", shipped.len());
    // Runbooks may be elsewhere.
    let chart = Chart::new()?;
    let mut elsewhere = chart.template(&["--set", "metrics.prometheusRule.runbooks=https://wiki.example.com/bounceflow/"]);
    elsewhere.arg("--values").arg(folder.join("ci/observed-values.yaml"));
    let moved = groups(&documents(&said(&mut elsewhere)?)?)?;
    let url = &moved[0]["rules"][0]["annotations"]["runbook_url"];
    ensure!(url == "https://wiki.example.com/bounceflow/BounceflowDown.md", "{url}");
    Ok(())
}

/// Whatever the monitors are asked for, they call the job what rules and dashboards call it.
#[test]
fn the_job_is_called_bounceflow() -> Result<()> {
    for kind in ["serviceMonitor", "podMonitor"] {
        let set = format!("nameOverride=deliveries,metrics.{kind}.enabled=true");
        let objects = documents(&said(&mut Chart::new()?.template(&["--set", &set]))?)?;
        let monitor = objects.iter().find(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Monitor")));
        let spec = &monitor.context(kind)?["spec"];
        let endpoints = spec.get("endpoints").or(spec.get("podMetricsEndpoints")).context("no endpoints")?;
        ensure!(endpoints[0]["relabelings"] == json!([{"targetLabel": "job", "replacement": "bounceflow"}]), "{endpoints}");
    }
    let ours = fs::read_to_string(repository().join("helm/bounceflow/rules/pipeline.yaml"))?;
    let compose = document(&fs::read_to_string(repository().join("deploy/compose/prometheus.yml"))?)?;
    ensure!(ours.contains("up{job=\"bounceflow\"}") && compose["scrape_configs"][0]["job_name"] == "bounceflow");
    Ok(())
}

/// `config` has the fields of the configuration file, but for those that the chart writes itself.
#[test]
fn the_schema_knows_every_field_of_the_configuration() -> Result<()> {
    let schema: Value = serde_json::from_str(&fs::read_to_string(repository().join("helm/bounceflow/values.schema.json"))?)?;
    let config = &schema["properties"]["config"]["properties"];
    let names = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    for (section, ours, properties) in [
        ("", &["ordinal", "isps", "kafka_files", "http"][..], config),
        ("[[inputs]]", &[], &config["inputs"]["items"]["properties"]),
        ("[topics]", &[], &config["topics"]["properties"]),
        ("[classify]", &["rules"], &config["classify"]["properties"]),
        ("[identity]", &[], &config["identity"]["properties"]),
        ("[[identity.map]]", &[], &config["identity"]["properties"]["map"]["items"]["properties"]),
        ("[recipient]", &["key_file", "old_key_files"], &config["recipient"]["properties"]),
        (
            "[clickhouse]",
            &["password", "password_file", "ca_file", "certificate_file", "key_file"],
            &config["clickhouse"]["properties"],
        ),
        ("[clickhouse.retention]", &[], &config["clickhouse"]["properties"]["retention"]["properties"]),
        ("[sink]", &[], &config["sink"]["properties"]),
        ("[watch]", &["rules"], &config["watch"]["properties"]),
    ] {
        // The binary names what it would have taken.
        let told = Config::parse(&format!("{section}\nno_such_field = 1\n")).err().unwrap().to_string();
        let line = told.lines().find(|line| line.contains("no_such_field")).context(told.clone())?;
        let (_, expected) = line.split_once("expected").with_context(|| format!("{section}: {line}"))?;
        let expected: BTreeSet<String> = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let ours = ours.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names(properties).union(&ours).cloned().collect::<BTreeSet<_>>(), expected, "{section}");
    }
    Ok(())
}

/// The documented values are the values, and each has its words.
#[test]
fn the_readme_tells_of_every_value_and_its_example_is_sound() -> Result<()> {
    let chart = repository().join("helm/bounceflow");
    let (readme, values) = (fs::read_to_string(chart.join("README.md"))?, fs::read_to_string(chart.join("values.yaml"))?);
    let values = document(&values)?;
    for key in values.as_object().context("no values")?.keys() {
        ensure!(readme.contains(&format!("| `{key}")), "README.md does not tell of {key}");
    }
    let told: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    for path in told {
        let found = path.split('.').try_fold(&values, |value, key| value.get(key));
        ensure!(found.is_some(), "README.md tells of {path}, which is no value");
    }
    let example = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).context("no example")?;
    let file = tempfile::NamedTempFile::new()?;
    fs::write(&file, example)?;
    let objects = documents(&Chart::new()?.render(file.path())?)?;
    let (_, pod) = pods(&objects).into_iter().next().context("no pod")?;
    said(built("bounceflow")?.arg("check-config").arg("--config").arg(mounted(pod, &objects)?.path().join("bounceflow.toml")))?;
    Ok(())
}

#[test]
fn the_charts_version_is_the_projects() -> Result<()> {
    let chart = document(&fs::read_to_string(repository().join("helm/bounceflow/Chart.yaml"))?)?;
    let cargo: Value = toml::from_str(&fs::read_to_string(repository().join("Cargo.toml"))?)?;
    ensure!(chart["appVersion"] == cargo["workspace"]["package"]["version"], "{}", chart["appVersion"]);
    Ok(())
}
