//! Secrets and addresses are planted wherever a run meets them; everything the run emits is searched for them: logs at their most
//! talkative, the Kafka client's own among them, what commands print, every answer of the HTTP side, every topic, every table.
//! (The dead letter alone holds addresses: it is what could not be read, byte for byte.)

use std::fmt::Write as _;
use std::fs;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Outgoing, Pipeline, Servers, until};
use bounceflow_stack::{Authority, ClickHouseOptions, ClickHouseUser, KafkaOptions, KafkaSecurity};
use serde_json::json;

/// With characters that URLs, base64 and JSON write otherwise.
const KAFKA: &str = "kafka+Pl4nted/secret~7f3a";
const CLICKHOUSE: &str = "clickhouse+Pl4nted/secret~81b2&<";
const KEY: &str = "hmac+Pl4nted/key~93c4-0123456789";
const OLD_KEY: &str = "hmac+Pl4nted/old~93c4-0123456789";
const TOKEN: &str = "bearer+Pl4nted/token~a5d6-012345";
const WRONG: &str = "wrong+Pl4nted/secret~b6e7-01234";
/// The part of every address that nothing else has.
const PERSON: &str = "pl4nted.kim";

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Without what the last, incomplete group would be: it depends on what follows.
    let groups = bytes.chunks_exact(3).map(|group| group.iter().fold(0_usize, |word, byte| word << 8 | usize::from(*byte)));
    groups.flat_map(|word| [18, 12, 6, 0].map(|shift| char::from(LETTERS[word >> shift & 63]))).collect()
}

/// Every way it may be written, in lower case.
fn spellings(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let encoded = bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            write!(text, "{}", char::from(*byte))
        } else {
            write!(text, "%{byte:02x}")
        };
        text
    });
    let mut all = vec![secret.to_owned(), hex, encoded, secret.replace('&', "&amp;").replace('<', "&lt;")];
    // Whatever stands before it moves it against the groups of three.
    for start in 0..3 {
        let groups = base64(&bytes[start..]);
        all.extend([groups.replace('+', "-").replace('/', "_"), groups]);
    }
    all.into_iter().map(|text| text.to_lowercase()).collect()
}

/// What was emitted, by where.
#[derive(Default)]
struct Emitted(Vec<(String, String)>);

impl Emitted {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    fn output(&mut self, args: &[&str], output: &Output) {
        let text = [&output.stdout[..], &output.stderr].concat();
        self.add(args.join(" "), String::from_utf8_lossy(&text));
    }

    /// Every place where one of them stands, with a few words around it.
    fn find(&self, planted: &[&str]) -> Vec<String> {
        let spellings: Vec<(&str, String)> =
            planted.iter().flat_map(|secret| spellings(secret).into_iter().map(move |spelling| (*secret, spelling))).collect();
        let mut found = Vec::new();
        for (place, text) in &self.0 {
            let text = text.to_lowercase();
            for (secret, spelling) in &spellings {
                if let Some(at) = text.find(spelling) {
                    let (from, to) = (text.floor_char_boundary(at.saturating_sub(120)), text.ceil_char_boundary(at + 80));
                    found.push(format!("{place}: {secret} as {spelling}: …{}…", &text[from..to]));
                }
            }
        }
        found
    }
}

#[test]
fn the_search_finds_what_is_planted() {
    let found = |text: &str| {
        let mut emitted = Emitted::default();
        emitted.add("here", text);
        emitted.find(&[CLICKHOUSE]).len()
    };
    assert_eq!(found("nothing"), 0);
    for text in [
        "a=clickhouse+Pl4nted/secret~81b2&<.",
        "clickhouse%2BPl4nted%2Fsecret~81b2%26%3C",
        "clickhouse+Pl4nted/secret~81b2&amp;&lt;",
        // user:…, us:…, u:…
        "Basic dXNlcjpjbGlja2hvdXNlK1BsNG50ZWQvc2VjcmV0fjgxYjImPA==",
        "Basic dXM6Y2xpY2tob3VzZStQbDRudGVkL3NlY3JldH44MWIyJjw=",
        "Basic dTpjbGlja2hvdXNlK1BsNG50ZWQvc2VjcmV0fjgxYjImPA==",
    ] {
        assert!(found(text) > 0, "{text}");
    }
}

/// Records that are counted, that leave failures, and that cannot be read; an address in each, in every field that may hold one.
fn records() -> Result<Vec<Outgoing>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
    let mut records = Vec::new();
    for i in 0..40 {
        let to = format!("{PERSON}.{i}@gmail.com");
        let verp = format!("bounce+{PERSON}.{i}=gmail.com@news.example");
        let event = |kind: &str| {
            json!({"event": kind, "timestamp": now, "recipient": to, "from_domain": "news.example", "sender": verp,
                "campaign": format!("spring for {to}"), "message_id": format!("<{i}.{to}>"), "event_id": verp,
                "reply_code": 550, "enhanced_code": "5.1.1", "tags": {"who": to, (verp.clone()): "x"},
                "diagnostic": format!("550 5.1.1 <{to}>: Recipient address rejected; {verp} RCPT TO:<{}>", to.to_uppercase())})
        };
        for kind in ["delivery", "bounce", "deferral", "complaint", "oob_bounce", "drop", "no_such_event"] {
            records.push(Outgoing::new(event(kind).to_string()));
        }
        let mut old = event("bounce");
        old["timestamp"] = 1.into();
        let mut typed = event("bounce");
        typed["reply_code"] = to.clone().into();
        let whole = event("bounce").to_string();
        records.extend(
            [old.to_string(), typed.to_string(), whole[..whole.len() / 2].to_owned(), to.clone(), format!("\u{1}{to}")]
                .map(Outgoing::new),
        );
    }
    Ok(records)
}

/// Files that are refused, each with secrets in it.
fn bad_files() -> Vec<String> {
    let kafka = "[kafka]\n\"bootstrap.servers\" = \"k:9092\"\n";
    vec![
        format!("{kafka}\"sasl.password\" = \"{WRONG}\n"),
        format!("{kafka}\"sasl.password\" = {WRONG}\n"),
        format!("{kafka}\"sasl.password\" = [\"{WRONG}\"]\n"),
        format!("{kafka}\"sasl.password\" = {{ secret = \"{WRONG}\" }}\n"),
        format!("{kafka}\"sasl.password\" = '{WRONG}'\n\"sasl.password\" = '{WRONG}'\n"),
        format!("{kafka}[kafka_files]\n\"sasl.password\" = '{WRONG}'\n"),
        format!("{kafka}[clickhouse]\npassword = ['{WRONG}']\n"),
        format!("{kafka}[clickhouse]\npassword = '{WRONG}'\npassword_file = '{WRONG}'\n"),
        format!("{kafka}[clickhouse]\nurl = 'http://writer:{WRONG}@clickhouse:8123'\n"),
        format!("{kafka}[clickhouse]\nca_file = '{WRONG}'\ncertificate_file = '{WRONG}'\nkey_file = '{WRONG}'\n"),
        format!("{kafka}[recipient]\nkey_file = '{WRONG}'\nold_key_files = {{ a = '{WRONG}' }}\n"),
        format!("{kafka}[http]\ntoken_file = '{WRONG}'\ntls = {{ certificate_file = '{WRONG}', key_file = '{WRONG}' }}\n"),
        format!("{kafka}[watch]\nalertmanagers = ['https://alerts:{WRONG}@alertmanager', 'alerts:{WRONG}@alertmanager']\n"),
    ]
}

#[test]
fn nothing_planted_is_ever_emitted() -> Result<()> {
    let authority = Authority::new("ours")?;
    let security = KafkaSecurity {
        certificate: authority.certify("kafka")?,
        clients: authority.pem().to_owned(),
        users: vec![("bounceflow".to_owned(), KAFKA.to_owned())],
    };
    let user = ClickHouseUser { name: "writer".into(), password: CLICKHOUSE.into(), grants: Vec::new() };
    let servers = Servers::take()?.with_both(
        KafkaOptions { security: Some(security), ..KafkaOptions::default() },
        ClickHouseOptions::default().user(user),
    )?;
    let scram = servers.kafka.scram()?;
    let files = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = files.path().join(name);
        fs::write(&path, text)?;
        Ok(path.to_str().context("a path that is no text")?.to_owned())
    };
    let kafka = file("kafka", KAFKA)?;
    let clickhouse = file("clickhouse", CLICKHOUSE)?;
    let pipeline = Pipeline::builder("planted")?
        .servers(servers)
        .kafka(&scram)
        .set(&["kafka", "security.protocol"], "sasl_ssl")?
        .set(&["kafka", "sasl.mechanism"], "SCRAM-SHA-512")?
        .set(&["kafka", "sasl.username"], "bounceflow")?
        .set(&["kafka", "ssl.ca.location"], file("ca.pem", authority.pem())?)?
        .set(&["kafka", "debug"], "all")?
        .set(&["kafka_files", "sasl.password"], kafka.as_str())?
        .set(&["clickhouse", "user"], "writer")?
        .set(&["clickhouse", "password_file"], clickhouse.as_str())?
        .set(&["recipient", "key_file"], file("key", KEY)?)?
        .set(&["recipient", "old_key_files"], toml::Table::from_iter([("0".to_owned(), file("old-key", OLD_KEY)?.into())]))?
        .set(&["http", "token_file"], file("token", TOKEN)?)?
        .build()?;
    let talkative = [("RUST_LOG", "trace"), ("RUST_BACKTRACE", "1")];
    let mut emitted = Emitted::default();

    let mut process = pipeline.run_in(&talkative, "all", 0)?;
    process.wait_for("Sink started")?;
    pipeline.kafka.write(&pipeline.topic("events"), &records()?)?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    until("failures to be stored", || {
        ensure!(pipeline.count("SELECT count() FROM {db}.failures")? > 0, "none");
        Ok(())
    })?;
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v1/status",
        "/api/v1/alerts",
        "/api/v1/rates",
        "/api/v1/rates?scope=isp",
        "/api/v1/rates?scope=nothing",
        "/api/v1/rates?window=x",
        "/debug",
        "/debug/pprof",
        "/",
    ] {
        for token in [None, Some(TOKEN), Some(WRONG)] {
            let (status, body) = process.get_with(path, token)?;
            emitted.add(format!("{path}, {status}"), body);
        }
    }
    for args in [
        &["check-config"][..],
        &["audit", "--json"],
        &["dead-letter", "list", "--json"],
        &["create-topics"],
        &["migrate"],
        &["report", "failures"],
        &["rules", "unmatched"],
    ] {
        emitted.output(args, &pipeline.command(args)?);
    }
    // What is wrong is told without being repeated; and what was right a moment ago is refused.
    fs::write(&clickhouse, WRONG)?;
    process.wait_for("Secrets of ClickHouse read anew")?;
    pipeline.kafka.write(&pipeline.topic("events"), &records()?)?;
    process.wait_for("An insert was not taken; it is repeated")?;
    emitted.output(&["migrate", "(wrong)"], &pipeline.command(&["migrate"])?);
    emitted.output(&["report", "(wrong)"], &pipeline.command(&["report", "failures"])?);
    fs::write(&kafka, WRONG)?;
    let ended = process.end()?;
    ensure!(ended.code() == Some(1), "{ended}");
    emitted.output(&["create-topics", "(wrong)"], &pipeline.command(&["create-topics"])?);
    fs::write(&kafka, KAFKA)?;
    fs::write(files.path().join("token"), "Pl4nted token with spaces")?;
    emitted.output(&["run", "(bad token)"], &pipeline.command(&["run"])?);
    fs::write(files.path().join("token"), TOKEN)?;
    // From the environment.
    let in_environment = [&talkative[..], &[("BOUNCEFLOW__CLICKHOUSE__PASSWORD", WRONG)]].concat();
    let mut process = pipeline.run_in(&in_environment, "sink", 0)?;
    ensure!(process.end()?.code() == Some(2), "a password beside a password_file is taken");
    for (i, text) in bad_files().iter().enumerate() {
        let bad = file(&format!("bad-{i}.toml"), text)?;
        for command in ["check-config", "run", "migrate"] {
            let output = pipeline.command_on(&bad, &[command])?;
            ensure!(output.status.code() == Some(2), "{command} takes {text}: {output:?}");
            // Where the secret was written in place of a path, the name of the file holds it, and is not repeated either.
            emitted.output(&[command, &format!("bad-{i}.toml")], &output);
        }
    }
    for log in pipeline.logs() {
        emitted.add(format!("{}", log.display()), String::from_utf8_lossy(&fs::read(log)?));
    }
    let logs: usize = emitted.0.iter().map(|(_, text)| text.len()).sum();
    ensure!(logs > 1_000_000, "{logs} bytes: the logs are not at their most talkative");
    let found = emitted.find(&[KAFKA, CLICKHOUSE, KEY, OLD_KEY, TOKEN, WRONG, "Pl4nted token", PERSON]);
    ensure!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));

    // What is kept: topics and tables.
    let mut kept = Emitted::default();
    for which in ["failures", "rates", "alerts", "schemas"] {
        for record in pipeline.kafka.read_all(&pipeline.topic(which))? {
            let parts = [record.key.unwrap_or_default(), record.payload.unwrap_or_default()].concat();
            kept.add(format!("topic {which}"), format!("{} {:?}", String::from_utf8_lossy(&parts), record.headers));
        }
    }
    let tables = pipeline.value("SELECT name FROM system.tables WHERE database = '{db}' AND engine NOT LIKE '%View'")?;
    for table in tables.lines() {
        kept.add(
            format!("table {table}"),
            pipeline.value(&format!(
                "SELECT * FROM {{db}}.{table} SETTINGS output_format_json_validate_utf8 = 1 FORMAT JSONEachRow"
            ))?,
        );
    }
    ensure!(kept.0.len() > 10 && tables.contains("failures"), "{} places alone", kept.0.len());
    let found = kept.find(&[KAFKA, CLICKHOUSE, KEY, OLD_KEY, TOKEN, WRONG, PERSON]);
    ensure!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
    pipeline.passed();
    Ok(())
}
