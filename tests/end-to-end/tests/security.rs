//! Who is let in: ClickHouse over TLS, the HTTP side behind a token, Kafka with passwords and with certificates, and secrets that change
//! while a process runs. What is refused is told by where, why and what to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bounceflow_end_to_end::{Builder, Outgoing, Pipeline, Process, Servers, until};
use bounceflow_stack::{Authority, Certificate, ClickHouseOptions, ClickHouseUser, KafkaOptions, KafkaSecurity, TlsProxy};
use serde_json::json;
use tempfile::TempDir;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

const DELIVERIES: &str = "SELECT sum(deliveries) FROM {db}.delivery_rates";

fn deliveries(pipeline: &Pipeline, count: usize) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    let event =
        json!({"event": "delivery", "timestamp": now as u64, "recipient": "kim@gmail.com", "from_domain": "news.example"});
    pipeline.kafka.write(&pipeline.topic("events"), &vec![Outgoing::new(event.to_string()); count])?;
    Ok(())
}

/// Settles all of it, stops, and finds nothing amiss.
fn ends_well(pipeline: &Pipeline, process: &mut Process) -> Result<()> {
    pipeline.settled("sink")?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.succeed(&["audit"])?;
    pipeline.passed();
    Ok(())
}

/// Files of secrets, outside of what a pipeline keeps.
struct Files(TempDir);

impl Files {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// Replaces what a file holds as Kubernetes does: whole, by another name.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let (file, next) = (self.0.path().join(name), self.0.path().join(format!("{name}.next")));
        fs::write(&next, text)?;
        fs::rename(next, &file)?;
        Ok(file)
    }

    fn certificate(&self, name: &str, certificate: &Certificate) -> Result<(PathBuf, PathBuf)> {
        Ok((self.write(&format!("{name}.crt"), &certificate.pem)?, self.write(&format!("{name}.key"), &certificate.key)?))
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// A command that fails with exit code 1 and these words.
fn refused(output: &Output, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(words.iter().all(|word| said.contains(word)), "{words:?} are not all in: {said}");
    Ok(())
}

#[test]
fn clickhouse_over_tls() -> Result<()> {
    let user = ClickHouseUser { name: "writer".into(), password: "right-password".into(), grants: Vec::new() };
    let servers = Servers::take()?.with_clickhouse(ClickHouseOptions::default().user(user))?;
    let (ours, theirs, files) = (Authority::new("ours")?, Authority::new("theirs")?, Files::new()?);
    let certificate = ours.certify("clickhouse")?;
    let proxy = TlsProxy::start(servers.clickhouse.url(), &certificate, None)?;
    let (url, ca) = (proxy.url(), files.write("ca.pem", ours.pem())?);
    let password = files.write("password", "wrong-password\n")?;
    let pipeline = Pipeline::builder("over_tls")?
        .servers(servers)
        .clickhouse(&[&url])
        .without_tables()
        .set(&["clickhouse", "user"], "writer")?
        .set(&["clickhouse", "password_file"], text(&password)?)?
        .set(&["clickhouse", "ca_file"], text(&ca)?)?
        .build()?;
    refused(&pipeline.command(&["migrate"])?, &[&url, "Authentication failed", "check user and password"])?;
    files.write("ca.pem", theirs.pem())?;
    refused(&pipeline.command(&["migrate"])?, &[&url, "UnknownIssuer", "clickhouse.ca_file"])?;
    files.write("ca.pem", ours.pem())?;
    proxy.show(&ours.certify_expired("clickhouse")?)?;
    refused(&pipeline.command(&["migrate"])?, &[&url, "expired", "give the server a certificate that is valid now"])?;
    refused(&pipeline.command(&["audit"])?, &[&url, "expired"])?;
    files.write("ca.pem", "nothing")?;
    let output = pipeline.command(&["check-config"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2) && said.contains("clickhouse.ca_file: holds no certificate"), "{said}");
    files.write("ca.pem", ours.pem())?;
    proxy.show(&certificate)?;

    // A process that waits with the wrong password goes on with the right one, without being started again.
    files.write("password", "right-password\n")?;
    pipeline.succeed(&["migrate"])?;
    files.write("password", "wrong-password\n")?;
    let mut process = pipeline.run("all", 0, &[])?;
    let line = process.wait_for("Waiting for ClickHouse")?;
    ensure!(line["error"].as_str().is_some_and(|e| e.contains(&url) && e.contains("check user and password")), "{line}");
    let (status, body) = process.get("/readyz")?;
    ensure!(status == 503 && body.contains("check user and password"), "{status} {body}");
    files.write("password", "right-password\n")?;
    process.wait_for("Secrets of ClickHouse read anew")?;
    process.ready()?;
    deliveries(&pipeline, 100)?;
    pipeline.wait_for_value(DELIVERIES, "100")?;

    // Changed under way: the server does not let us in, nothing halts, nothing is lost.
    files.write("password", "wrong-password\n")?;
    until("the wrong password to be read", || {
        ensure!(process.said("Secrets of ClickHouse read anew").len() == 2);
        Ok(())
    })?;
    deliveries(&pipeline, 50)?;
    let line = process.wait_for("An insert was not taken; it is repeated")?;
    ensure!(line["answer"].as_str().is_some_and(|answer| answer.contains("Authentication failed")), "{line}");
    files.write("password", "right-password\n")?;
    pipeline.wait_for_value(DELIVERIES, "150")?;
    process.ready()?;

    // Another authority, for both.
    proxy.show(&theirs.certify("clickhouse")?)?;
    files.write("ca.pem", theirs.pem())?;
    until("the new authority to be read", || {
        ensure!(process.said("Secrets of ClickHouse read anew").len() == 4);
        Ok(())
    })?;
    deliveries(&pipeline, 25)?;
    pipeline.wait_for_value(DELIVERIES, "175")?;
    ends_well(&pipeline, &mut process)
}

/// Asks the HTTP side of a process that serves over TLS: the status, and what it says.
fn ask(process: &mut Process, ca: &str, path: &str, token: Option<&str>) -> Result<(u16, String)> {
    let line = process.wait_for("Serving /healthz")?;
    let address = line["listen"].as_str().context("a log line without its address")?;
    let roots = RootCerts::from(vec![ureq::tls::Certificate::from_pem(ca.as_bytes())?]);
    let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).http_status_as_error(false).proxy(None);
    let agent = Agent::new_with_config(config.tls_config(TlsConfig::builder().root_certs(roots).build()).build());
    let mut request = agent.get(format!("https://{address}{path}"));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut answer = request.call()?;
    Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
}

#[test]
fn the_http_side_asks_for_a_token_and_speaks_tls() -> Result<()> {
    let (ours, theirs, files) = (Authority::new("ours")?, Authority::new("theirs")?, Files::new()?);
    let (certificate, key) = files.certificate("http", &ours.certify("bounceflow")?)?;
    let (old, new) = ("an-old-token-of-32-letters-000001", "a-new-token-of-32-letters-0000002");
    let token = files.write("token", &format!("{old}\n"))?;
    let pipeline = Pipeline::builder("guarded")?
        .set(&["http", "token_file"], text(&token)?)?
        .set(&["http", "tls"], toml::Table::new())?
        .set(&["http", "tls", "certificate_file"], text(&certificate)?)?
        .set(&["http", "tls", "key_file"], text(&key)?)?
        .build()?;
    let mut process = pipeline.run("all", 0, &[])?;
    // Kubelet has no token.
    for path in ["/healthz", "/readyz"] {
        until("the probes to answer well", || {
            let (status, body) = ask(&mut process, ours.pem(), path, None)?;
            ensure!(status == 200, "{path}: {status} {body}");
            Ok(())
        })?;
    }
    for path in ["/metrics", "/api/v1/status", "/api/v1/alerts", "/api/v1/rates"] {
        for wrong in [None, Some("another-token-of-32-letters-00003"), Some(&old[1..]), Some("")] {
            let (status, body) = ask(&mut process, ours.pem(), path, wrong)?;
            ensure!(status == 401 && body.contains("http.token_file"), "{path} {wrong:?}: {status} {body}");
        }
        let (status, body) = ask(&mut process, ours.pem(), path, Some(old))?;
        ensure!(status == 200, "{path}: {status} {body}");
    }
    ensure!(ask(&mut process, theirs.pem(), "/healthz", None).is_err(), "a certificate of somebody else is taken");

    // Both tokens for a while, then the new one alone; a file that cannot be used changes nothing.
    let statuses = |process: &mut Process| -> Result<Vec<u16>> {
        [old, new].into_iter().map(|token| Ok(ask(process, ours.pem(), "/metrics", Some(token))?.0)).collect()
    };
    for (tokens, expect) in [(format!("{new}\n{old}\n"), [200, 200]), (format!("{new}\n"), [401, 200])] {
        files.write("token", &tokens)?;
        until("the tokens to be read anew", || {
            let found = statuses(&mut process)?;
            ensure!(found == expect, "{found:?}");
            Ok(())
        })?;
    }
    files.write("token", "short")?;
    process.wait_for("Secrets of the HTTP side are refused; those before stay")?;
    ensure!(statuses(&mut process)? == [401, 200], "a token that is refused is in force");
    files.write("token", &format!("{new}\n"))?;

    // `top` speaks to it.
    let line = process.wait_for("Serving /healthz")?;
    let url = format!("https://{}", line["listen"].as_str().context("no address")?);
    let ca = files.write("ca.pem", ours.pem())?;
    let (ca, token_file) = (text(&ca)?, text(&token)?);
    let top = |more: &[&str]| pipeline.run_alone(&[&["top", "--once", "--url", &url][..], more].concat());
    let output = top(&["--ca-file", ca, "--token-file", token_file])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    refused(&top(&["--ca-file", ca])?, &["401", "--token-file"])?;
    refused(&top(&["--token-file", token_file])?, &["UnknownIssuer", "--ca-file"])?;

    // Another certificate, of another authority, while it serves.
    files.certificate("http", &theirs.certify("bounceflow")?)?;
    until("the new certificate to be shown", || {
        let (status, _) = ask(&mut process, theirs.pem(), "/readyz", None)?;
        ensure!(status == 200, "{status}");
        Ok(())
    })?;
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

fn secured(servers: Servers, ours: &Authority, certificate: Certificate) -> Result<Servers> {
    let users = vec![("bounceflow".to_owned(), "right-password".to_owned())];
    let security = KafkaSecurity { certificate, clients: ours.pem().to_owned(), users };
    servers.with_kafka(KafkaOptions { security: Some(security), ..KafkaOptions::default() })
}

fn with_password(builder: Builder, ca: &Path, password: &Path) -> Result<Builder> {
    builder
        .set(&["kafka", "security.protocol"], "sasl_ssl")?
        .set(&["kafka", "sasl.mechanism"], "SCRAM-SHA-512")?
        .set(&["kafka", "sasl.username"], "bounceflow")?
        .set(&["kafka_files", "sasl.password"], text(password)?)?
        .set(&["kafka", "ssl.ca.location"], text(ca)?)
}

/// A process that ends by itself, with exit code 1 and these words.
fn ends(mut process: Process, words: &[&str]) -> Result<()> {
    let status = process.end()?;
    let log = process.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    let line = process.said("A loop cannot go on").into_iter().next().context("it does not say why")?;
    let error = line["error"].as_str().unwrap_or_default();
    ensure!(words.iter().all(|word| error.contains(word)), "{words:?} are not all in: {error}");
    Ok(())
}

#[test]
fn kafka_with_a_password_that_changes() -> Result<()> {
    let (ours, theirs, files) = (Authority::new("ours")?, Authority::new("theirs")?, Files::new()?);
    let servers = secured(Servers::take()?, &ours, ours.certify("kafka")?)?;
    let broker = servers.kafka.scram()?;
    let (ca, password) = (files.write("ca.pem", ours.pem())?, files.write("password", "right-password\n")?);
    let builder = with_password(Pipeline::builder("scram")?.servers(servers).kafka(&broker), &ca, &password)?;
    let pipeline = builder.inputs(2).build()?;

    files.write("password", "wrong-password")?;
    let words = [broker.as_str(), "invalid credentials", "SCRAM-SHA-512", "sasl.password"];
    refused(&pipeline.command(&["create-topics"])?, &words)?;
    refused(&pipeline.command(&["dead-letter", "list"])?, &words)?;
    ends(pipeline.run("all", 0, &[])?, &words)?;
    files.write("password", "right-password")?;
    files.write("ca.pem", theirs.pem())?;
    ends(pipeline.run("classify", 0, &[])?, &[&broker, "certificate", "ssl.ca.location"])?;
    files.write("ca.pem", ours.pem())?;

    let mut process = pipeline.run("all", 0, &[])?;
    process.ready()?;
    deliveries(&pipeline, 100)?;
    pipeline.wait_for_value(DELIVERIES, "100")?;
    // The brokers know the new one first: connections that are there stay. Then the file follows.
    for (round, (password, all)) in [("second-password", "150"), ("third-password", "200")].into_iter().enumerate() {
        pipeline.servers.kafka.set_password("bounceflow", password)?;
        files.write("password", password)?;
        until("the new password to be used", || {
            ensure!(process.said("Secrets of Kafka changed").len() == round + 1, "it was not noticed");
            ensure!(process.said("Sink started").len() == round + 2, "the sink did not begin anew");
            Ok(())
        })?;
        process.ready()?;
        deliveries(&pipeline, 50)?;
        pipeline.wait_for_value(DELIVERIES, all)?;
    }
    ends_well(&pipeline, &mut process)
}

#[test]
fn kafka_with_certificates() -> Result<()> {
    let (ours, theirs, files) = (Authority::new("ours")?, Authority::new("theirs")?, Files::new()?);
    let servers = secured(Servers::take()?, &ours, ours.certify("kafka")?)?;
    let (broker, ca) = (servers.kafka.mutual()?, files.write("ca.pem", ours.pem())?);
    let (certificate, key) = files.certificate("client", &ours.certify("bounceflow")?)?;
    let pipeline = Pipeline::builder("mutual")?
        .servers(servers)
        .kafka(&broker)
        .set(&["kafka", "security.protocol"], "ssl")?
        .set(&["kafka", "ssl.ca.location"], text(&ca)?)?
        .set(&["kafka", "ssl.certificate.location"], text(&certificate)?)?
        .set(&["kafka", "ssl.key.location"], text(&key)?)?
        .build()?;
    for wrong in [ours.certify_expired("bounceflow")?, theirs.certify("bounceflow")?] {
        files.certificate("client", &wrong)?;
        let words = [broker.as_str(), "ssl.certificate.location"];
        refused(&pipeline.command(&["create-topics"])?, &words)?;
        ends(pipeline.run("all", 0, &[])?, &words)?;
    }
    files.certificate("client", &ours.certify("bounceflow")?)?;
    let mut process = pipeline.run("all", 0, &[])?;
    process.ready()?;
    deliveries(&pipeline, 100)?;
    pipeline.wait_for_value(DELIVERIES, "100")?;
    // Renewed before it expires.
    files.certificate("client", &ours.certify("bounceflow")?)?;
    until("the new certificate to be used", || {
        ensure!(process.said("Sink started").len() > 1, "the sink did not begin anew");
        Ok(())
    })?;
    process.ready()?;
    deliveries(&pipeline, 50)?;
    pipeline.wait_for_value(DELIVERIES, "150")?;
    ends_well(&pipeline, &mut process)
}

#[test]
fn a_broker_whose_certificate_has_expired_is_told() -> Result<()> {
    let (ours, files) = (Authority::new("ours")?, Files::new()?);
    let servers = secured(Servers::take()?, &ours, ours.certify_expired("kafka")?)?;
    let broker = servers.kafka.scram()?;
    let (ca, password) = (files.write("ca.pem", ours.pem())?, files.write("password", "right-password\n")?);
    let builder = with_password(Pipeline::builder("expired_broker")?.servers(servers).kafka(&broker), &ca, &password)?;
    let Err(e) = builder.build() else { bail!("it was trusted") };
    let said = e.to_string();
    ensure!([broker.as_str(), "certificate", "has not expired"].iter().all(|word| said.contains(word)), "{said}");
    Ok(())
}
