//! The image and the Compose file, which nothing here can run: every path, port, topic, command and name in them is one that exists.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bounceflow::config::Config;
use bounceflow_deploy::{document, repository};
use bounceflow_stack::{built, promtool, said};
use serde_json::Value;

fn read(path: &str) -> Result<String> {
    fs::read_to_string(repository().join(path)).with_context(|| format!("no {path}"))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The instructions of the Dockerfile, lines joined, arguments with their defaults filled in.
fn instructions() -> Result<Vec<(String, String)>> {
    let text = read("deploy/Dockerfile")?;
    let lines: String = text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut arguments: BTreeMap<String, String> = BTreeMap::new();
    let mut found = Vec::new();
    for line in lines.replace("\\\n", " ").lines().filter(|line| !line.trim().is_empty()) {
        let (name, rest) = line.split_once(' ').context("an instruction without arguments")?;
        let mut rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
        for (argument, value) in &arguments {
            rest = rest.replace(&format!("${{{argument}}}"), value);
        }
        if let Some((argument, value)) = rest.split_once('=').filter(|_| name == "ARG") {
            arguments.insert(argument.to_owned(), value.to_owned());
        }
        found.push((name.to_owned(), rest));
    }
    Ok(found)
}

fn of<'i>(instructions: &'i [(String, String)], name: &str) -> Vec<&'i str> {
    instructions.iter().filter(|(instruction, _)| instruction == name).map(|(_, rest)| rest.as_str()).collect()
}

#[test]
fn the_dockerfile_builds_what_is_there_and_runs_it_without_rights() -> Result<()> {
    let instructions = instructions()?;
    let cargo: Value = toml::from_str(&read("Cargo.toml")?)?;
    let toolchain: Value = toml::from_str(&read("rust-toolchain.toml")?)?;
    let rust = toolchain["toolchain"]["channel"].as_str().context("no toolchain")?;

    let from = of(&instructions, "FROM");
    ensure!(from.len() == 2 && from[0] == format!("docker.io/library/rust:{rust}-bookworm AS build"), "{from:?}");
    // One Debian for both: bookworm is 12.
    ensure!(from[1] == "gcr.io/distroless/cc-debian12:nonroot", "{from:?}");
    ensure!(of(&instructions, "ENV")[0].contains(&format!("RUSTUP_TOOLCHAIN={rust} ")));

    for copied in of(&instructions, "COPY").iter().filter(|copied| !copied.starts_with("--from=")) {
        let paths: Vec<&str> = copied.split(' ').collect();
        for path in &paths[..paths.len() - 1] {
            ensure!(repository().join(path).exists(), "COPY {path}");
            let taken = format!("!{path}");
            ensure!(read("deploy/Dockerfile.dockerignore")?.lines().any(|line| line == taken), "{path} is ignored");
        }
    }
    // Everything the workspace's manifests name is copied, else cargo does not even begin.
    for member in texts(&cargo["workspace"]["members"]) {
        let top = member.split('/').next().unwrap_or_default();
        ensure!(of(&instructions, "COPY").contains(&format!("{top} {top}").as_str()), "{member} is not copied");
    }
    let run = of(&instructions, "RUN");
    let build = "cargo build --locked --profile dist --package bounceflow --bin bounceflow";
    ensure!(run.len() == 1 && run[0].contains(build) && run[0].contains("target/dist/bounceflow /out/bounceflow"), "{run:?}");
    ensure!(cargo["profile"]["dist"]["strip"] == "symbols", "the profile leaves symbols in");

    let version = &cargo["workspace"]["package"]["version"];
    let labels = of(&instructions, "LABEL")[0];
    ensure!(labels.contains(&format!("org.opencontainers.image.version={version}")), "{labels}");
    ensure!(
        labels.contains(&format!("org.opencontainers.image.licenses={}", cargo["workspace"]["package"]["license"])),
        "{labels}"
    );
    ensure!(of(&instructions, "USER") == ["65532:65532"]);
    ensure!(of(&instructions, "ENTRYPOINT") == [r#"["/usr/local/bin/bounceflow"]"#]);
    ensure!(of(&instructions, "COPY").contains(&"--from=build /out/bounceflow /usr/local/bin/bounceflow"));
    let arguments: Value = serde_json::from_str(of(&instructions, "CMD")[0])?;
    said(built("bounceflow")?.args(texts(&arguments)).arg("--help"))?;
    Ok(())
}

/// The chart relies on what the image says of itself.
#[test]
fn the_image_and_the_chart_agree() -> Result<()> {
    let (instructions, values) = (instructions()?, document(&read("helm/bounceflow/values.yaml")?)?);
    ensure!(of(&instructions, "EXPOSE") == [values["http"]["port"].to_string()]);
    ensure!(of(&instructions, "USER") == [format!("{0}:{0}", values["pod"]["user"])]);
    ensure!(of(&instructions, "ENV").contains(&"BOUNCEFLOW_CONFIG=/etc/bounceflow/bounceflow.toml"));
    let code = read("processors/bounceflow/src/command.rs")?;
    ensure!(code.contains("env = \"BOUNCEFLOW_CONFIG\""), "the binary does not read BOUNCEFLOW_CONFIG");
    Ok(())
}

fn compose() -> Result<Value> {
    let mut compose = document(&read("deploy/compose.yaml")?)?;
    // `<<` is merged by Compose; here by hand, the service's own keys first.
    for service in compose["services"].as_object_mut().context("no services")?.values_mut() {
        let fields = service.as_object_mut().context("a service without fields")?;
        while let Some(Value::Object(merged)) = fields.remove("<<") {
            for (key, value) in merged {
                fields.entry(key).or_insert(value);
            }
        }
    }
    Ok(compose)
}

/// Services that run bounceflow.
fn ours(compose: &Value) -> Vec<(&str, &Value)> {
    let services = compose["services"].as_object().unwrap();
    services
        .iter()
        .filter(|(_, s)| s["image"].as_str().is_some_and(|i| i.starts_with("bounceflow:")))
        .map(|(n, s)| (n.as_str(), s))
        .collect()
}

/// The configuration the services are given, its secrets where they are here.
fn configuration(compose: &Value) -> Result<Config> {
    let (_, service) = ours(compose).into_iter().next().context("no bounceflow")?;
    let mut text = read("deploy/compose/bounceflow.toml")?;
    for volume in texts(&service["volumes"]) {
        let [here, there, "ro"] = volume.split(':').collect::<Vec<_>>()[..] else { anyhow::bail!("{volume}") };
        text = text.replace(there, &repository().join("deploy").join(here).display().to_string());
    }
    Ok(Config::parse(&text)?)
}

#[test]
fn every_path_of_the_compose_file_is_there() -> Result<()> {
    let compose = compose()?;
    let folder = repository().join("deploy");
    let volumes = compose["volumes"].as_object().context("no volumes")?;
    for (name, service) in compose["services"].as_object().context("no services")? {
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap_or_default();
            let exists = if source.starts_with('.') { folder.join(source).exists() } else { volumes.contains_key(source) };
            ensure!(exists, "{name}: {volume}");
        }
        if let Some(context) = service["build"]["context"].as_str() {
            let dockerfile = service["build"]["dockerfile"].as_str().context("a build without a Dockerfile")?;
            ensure!(folder.join(context).join(dockerfile).is_file(), "{name}: {dockerfile}");
        }
        let needed = service["depends_on"].as_object().into_iter().flatten();
        for (other, condition) in needed {
            let other_service = &compose["services"][other];
            ensure!(other_service.is_object(), "{name} waits for {other}");
            let healthy = condition["condition"] == "service_healthy";
            ensure!(healthy == other_service["healthcheck"].is_object(), "{name} waits for {other}: {condition}");
        }
        let image = service["image"].as_str().context("a service without an image")?;
        ensure!(
            image.rsplit('/').next().is_some_and(|last| last.contains(':')) && !image.ends_with(":latest"),
            "{name}: {image}"
        );
    }
    Ok(())
}

#[test]
fn every_command_of_the_compose_file_is_one_the_binary_knows() -> Result<()> {
    let compose = compose()?;
    let roles: Vec<Vec<&str>> = ours(&compose).iter().map(|(_, service)| texts(&service["command"])).collect();
    for command in &roles {
        said(built("bounceflow")?.args(command).arg("--help")).with_context(|| format!("{command:?}"))?;
    }
    for role in ["classify", "sink", "watch"] {
        ensure!(roles.iter().filter(|command| **command == ["run", "--role", role]).count() == 1, "{role}");
        // Without a number at its end no process would start: the configuration asks the host name for the ordinal.
        ensure!(compose["services"][role]["hostname"] == format!("{role}-0"));
    }
    // What the environment says is read by the code.
    let code = read("processors/bounceflow/src/command.rs")? + &read("processors/bounceflow/src/telemetry.rs")?;
    for (name, service) in ours(&compose) {
        for variable in service["environment"].as_object().into_iter().flatten().map(|(variable, _)| variable) {
            ensure!(code.contains(variable), "{name}: nothing reads {variable}");
        }
    }
    Ok(())
}

#[test]
fn every_address_of_the_compose_file_is_listened_on() -> Result<()> {
    let compose = compose()?;
    let config = configuration(&compose)?;
    let services = compose["services"].as_object().context("no services")?;
    let port = config.listen.port();
    ensure!(!config.listen.ip().is_loopback(), "nobody could reach it");
    // What each listens on: ours by the configuration, the others as their images are made or told.
    let kafka = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].as_str().context("no listener")?;
    let mut listening = vec![kafka.trim_start_matches("PLAINTEXT://").to_owned()];
    listening.extend(["clickhouse:8123", "alertmanager:9093", "prometheus:9090", "grafana:3000"].map(str::to_owned));
    listening.extend(["classify", "sink", "watch"].map(|role| format!("{role}:{port}")));

    let prometheus = document(&read("deploy/compose/prometheus.yml")?)?;
    let datasources = document(&read("deploy/compose/grafana/datasources.yaml")?)?;
    let clickhouse = &datasources["datasources"][1]["jsonData"];
    let mut named: Vec<String> = vec![config.kafka["bootstrap.servers"].clone(), config.clickhouse.url.clone()];
    named.extend(config.watch.alertmanagers.iter().cloned());
    let targets = &prometheus["scrape_configs"][0]["static_configs"][0]["targets"];
    named.extend(texts(targets).into_iter().map(str::to_owned));
    named.extend(
        texts(&prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]).into_iter().map(str::to_owned),
    );
    named.extend(datasources["datasources"][0]["url"].as_str().map(str::to_owned));
    named.push(format!("{}:{}", clickhouse["host"].as_str().context("no host")?, clickhouse["port"]));
    named.push(texts(&services["simulate"]["command"])[2].to_owned());
    ensure!(texts(targets).len() == 3, "{targets}");
    for address in named {
        let address = address.trim_start_matches("http://");
        ensure!(listening.iter().any(|listener| listener == address), "nobody listens on {address}: {listening:?}");
    }
    // Ports shown to the machine stay on it, and lead to one that is listened on.
    for (name, service) in services {
        for shown in texts(&service["ports"]) {
            let ["127.0.0.1", _, inside] = shown.split(':').collect::<Vec<_>>()[..] else { anyhow::bail!("{name}: {shown}") };
            ensure!(listening.contains(&format!("{name}:{inside}")), "{name}: {shown}");
        }
    }
    // Topics, users and passwords are the same on both sides.
    let simulated = texts(&services["simulate"]["command"])[4];
    ensure!(config.inputs.iter().any(|input| input.topic == simulated), "{simulated}");
    let environment = &services["clickhouse"]["environment"];
    let password = config.clickhouse_secrets.read().ok().context("no password")?.password;
    ensure!(environment["CLICKHOUSE_PASSWORD"] == password.as_str());
    ensure!(services["grafana"]["environment"]["CLICKHOUSE_PASSWORD"] == password.as_str());
    ensure!(
        environment["CLICKHOUSE_USER"] == config.clickhouse.user.as_str()
            && clickhouse["username"] == config.clickhouse.user.as_str()
    );
    ensure!(clickhouse["defaultDatabase"] == config.clickhouse.database.as_str());
    // The drain has the time it may take.
    let grace = services["sink"]["stop_grace_period"].as_str().and_then(|s| s.strip_suffix('s')?.parse::<u64>().ok());
    ensure!(grace.context("no grace")? > config.clickhouse.insert_timeout.as_secs() + 30);
    Ok(())
}

/// What Prometheus and Grafana are told to read is mounted where they are told to look, and the real Prometheus takes it.
#[test]
fn rules_and_dashboards_are_mounted_where_they_are_read() -> Result<()> {
    let compose = compose()?;
    let mounted = |service: &str, inside: &str| -> Result<PathBuf> {
        let volumes = texts(&compose["services"][service]["volumes"]);
        let found = volumes.iter().find_map(|volume| volume.strip_suffix(&format!(":{inside}:ro")));
        let source = found.with_context(|| format!("{service}: nothing is mounted at {inside}"))?;
        Ok(repository().join("deploy").join(source).canonicalize()?)
    };
    let rules = mounted("prometheus", "/etc/prometheus/rules")?;
    let config = fs::read_to_string(mounted("prometheus", "/etc/prometheus/prometheus.yml")?)?;
    let file = tempfile::NamedTempFile::new()?;
    fs::write(&file, config.replace("/etc/prometheus/rules", &rules.display().to_string()))?;
    let told = said(Command::new(promtool()?).args(["check", "config"]).arg(file.path()))?;
    ensure!(told.contains("1 rule files found") && told.contains("rules found"), "{told}");

    let provider = document(&fs::read_to_string(mounted("grafana", "/etc/grafana/provisioning/dashboards/bounceflow.yaml")?)?)?;
    let path = provider["providers"][0]["options"]["path"].as_str().context("no path")?;
    let dashboards = mounted("grafana", path)?;
    let home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str();
    let home = home.and_then(|home| home.strip_prefix(&format!("{path}/"))).context("the home dashboard is elsewhere")?;
    ensure!(dashboards.join(home).is_file(), "no {home}");
    // They choose among data sources of these types, of which there are some.
    let sources = document(&fs::read_to_string(mounted("grafana", "/etc/grafana/provisioning/datasources/bounceflow.yaml")?)?)?;
    for file in fs::read_dir(&dashboards)? {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(file?.path())?)?;
        let wanted = &dashboard["templating"]["list"][0]["query"];
        let sources = sources["datasources"].as_array().context("no data sources")?;
        ensure!(sources.iter().any(|source| source["type"] == *wanted), "{}: no data source {wanted}", dashboard["title"]);
    }
    Ok(())
}

#[test]
fn the_other_files_are_sound() -> Result<()> {
    let alertmanager = document(&read("deploy/compose/alertmanager.yml")?)?;
    ensure!(alertmanager["route"]["receiver"] == alertmanager["receivers"][0]["name"]);
    let code = read("processors/bounceflow/src/alertmanager.rs")?;
    for label in texts(&alertmanager["route"]["group_by"]) {
        ensure!(code.contains(&format!("\"{label}\"")), "no alert has the label {label}");
    }
    let files: Vec<PathBuf> =
        fs::read_dir(repository().join("deploy/compose"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    ensure!(files.len() == 5, "a file that nothing mounts, or nothing tests: {files:?}");
    Ok(())
}
