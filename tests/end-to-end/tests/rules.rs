//! Operators' own rules while the process runs: read anew on SIGHUP, refused where they are wrong, and what no rule knew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Outgoing, Pipeline, Process, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use toml::Value;

const REPLY: &str = "550 5.7.1 The quokka of 192.0.2.7 says no";
/// Nobody's words: no rule knows them.
const STRANGE: &str = "550 zyx wvut 12345678901 the capybara of <kim@gmail.com> yawns";

fn rule(id: &str, category: &str) -> String {
    format!(
        "[[rule]]\nid = '{id}'\npriority = 990\nany = ['the quokka of']\ncategory = '{category}'\nseverity = 'soft'\nroot_cause = 'content'\n\
         blocked = true\nexamples = ['{REPLY}']\n"
    )
}

fn bounces(diagnostic: &str, count: usize) -> Result<Vec<Outgoing>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let event = json!({"event": "bounce", "timestamp": now, "recipient": "kim@gmail.com", "from_domain": "news.example",
        "diagnostic": diagnostic})
    .to_string();
    Ok(vec![Outgoing::new(event); count])
}

fn hang_up(process: &Process) -> Result<()> {
    Ok(kill(Pid::from_raw(process.pid() as i32), Signal::SIGHUP)?)
}

/// Sends SIGHUP and waits for as many answers of a kind.
fn reload(process: &mut Process, result: &str, count: f64) -> Result<()> {
    hang_up(process)?;
    until(&format!("{count} reloads to be {result}"), || {
        let reloads = process.metric("bounceflow_rules_reloads_total", &[("result", result)])?;
        ensure!(reloads == count, "{reloads}");
        Ok(())
    })
}

/// A pipeline whose rules are in `folder`, with classify and sink running.
fn start(name: &str, folder: &Path) -> Result<(Pipeline, Process, Process)> {
    let rules = Value::Array(vec![folder.to_string_lossy().into_owned().into()]);
    let pipeline = Pipeline::builder(name)?.set(&["classify", "rules"], rules)?.build()?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    let sink = pipeline.run("sink", 0, &[])?;
    classify.ready()?;
    Ok((pipeline, classify, sink))
}

/// What `bounceflow rules` prints.
fn rules(args: &[&str]) -> Result<String> {
    let own = std::env::current_exe()?;
    let binary = own.ancestors().nth(2).context("the test has no place")?.join("bounceflow");
    let output = Command::new(binary).arg("rules").args(args).output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "rules {}: {}\n{out}{err}", args.join(" "), output.status);
    Ok(out.into_owned())
}

fn unmatched(pipeline: &Pipeline, more: &[&str]) -> Result<String> {
    let config = pipeline.folder().join("bounceflow.toml");
    rules(&[&["unmatched", "--config", &config.to_string_lossy()], more].concat())
}

/// What was counted together was decided by the same rules: failures and the batch that counts them have one version.
fn one_version_each(pipeline: &Pipeline) -> Result<()> {
    let differ = pipeline.count(
        "SELECT count() FROM {db}.failures AS f, (SELECT rules_version AS version, s.first_offset AS first, s.last_offset AS last
         FROM {db}.batches ARRAY JOIN sources AS s WHERE s.records > 0) AS b
         WHERE f.source_offset BETWEEN b.first AND b.last AND f.rules_version != b.version",
    )?;
    ensure!(differ == 0, "{differ} failures have another rules version than their batch");
    Ok(())
}

#[test]
fn rules_are_swapped_on_sighup_and_bad_ones_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file: PathBuf = folder.path().join("own.toml");
    fs::write(&file, rule("own.first", "wildlife"))?;
    let (pipeline, mut classify, mut sink) = start("rules", folder.path())?;
    let events = pipeline.topic("events");
    let decided =
        "SELECT rule, category, count(), uniqExact(rules_version) FROM {db}.failures GROUP BY ALL ORDER BY min(source_offset)";

    pipeline.kafka.write(&events, &bounces(REPLY, 3)?)?;
    pipeline.wait_for_value(decided, "own.first\twildlife\t3\t1")?;

    fs::write(&file, rule("own.second", "marsupial"))?;
    reload(&mut classify, "ok", 1.0)?;
    pipeline.kafka.write(&events, &bounces(REPLY, 4)?)?;
    let both = "own.first\twildlife\t3\t1\nown.second\tmarsupial\t4\t1";
    pipeline.wait_for_value(decided, both)?;
    pipeline.wait_for_value("SELECT uniqExact(rules_version) FROM {db}.failures", "2")?;

    // A mistake of one file refuses all: the old rules stay, and the log says where to look.
    let broken = folder.path().join("zz.toml");
    fs::write(&file, rule("own.third", "bird"))?;
    fs::write(&broken, "[[rule]]\nid = 'own.broken'\npriority = 'high'\ncategory = 'dns'\n")?;
    reload(&mut classify, "refused", 1.0)?;
    let line = classify.wait_for("Rules refused")?;
    ensure!(line["level"] == "ERROR" && line["file"] == broken.to_string_lossy().as_ref() && line["line"] == 3, "{line}");
    ensure!(line["reason"].as_str().is_some_and(|reason| reason.contains("own.broken") && reason.contains("string")), "{line}");
    pipeline.kafka.write(&events, &bounces(REPLY, 1)?)?;
    pipeline.wait_for_value(decided, "own.first\twildlife\t3\t1\nown.second\tmarsupial\t5\t1")?;
    ensure!(classify.get("/readyz")?.0 == 200, "not ready");

    fs::remove_file(&broken)?;
    reload(&mut classify, "ok", 2.0)?;
    pipeline.kafka.write(&events, &bounces(REPLY, 2)?)?;
    pipeline.wait_for_value(decided, "own.first\twildlife\t3\t1\nown.second\tmarsupial\t5\t1\nown.third\tbird\t2\t1")?;
    // A signal that nobody heard would end the process.
    hang_up(&sink)?;
    sink.wait_for("Rules read anew")?;

    // Bounces all the while the rules change to and fro.
    for number in 0..20 {
        fs::write(&file, rule(&format!("own.turn_{}", number % 2), "turning"))?;
        pipeline.kafka.write(&events, &bounces(REPLY, 2000)?)?;
        reload(&mut classify, "ok", 3.0 + f64::from(number))?;
    }
    pipeline.wait_for_value("SELECT count(), uniqExact(rule) FROM {db}.failures", "40010\t5")?;
    pipeline.wait_for_value("SELECT sum(hard + soft) FROM {db}.delivery_rates", "40010")?;
    let counted = "SELECT uniqExact(rules_version) FROM {db}.batches";
    ensure!(pipeline.count(counted)? == 5, "{} versions", pipeline.count(counted)?);
    one_version_each(&pipeline)?;
    ensure!(classify.stop()?.success() && sink.stop()?.success(), "they did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn unmatched_replies_are_printed_as_rules_to_begin_with() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("own.toml"), rule("own.first", "wildlife"))?;
    let (pipeline, mut classify, _sink) = start("unmatched", folder.path())?;
    let events = pipeline.topic("events");
    for (reply, count) in [(REPLY, 9), (STRANGE, 7), ("550 5.1.1 user unknown", 8), ("451 the wombat dreams of \"x\"", 2)] {
        pipeline.kafka.write(&events, &bounces(reply, count)?)?;
    }
    pipeline.wait_for_value("SELECT count() FROM {db}.failures", "26")?;

    let printed = unmatched(&pipeline, &[])?;
    ensure!(printed.contains("9 failures of 2 patterns"), "{printed}");
    let (strange, wombat) = (printed.find("# 7 times, at gmail"), printed.find("# 2 times, at gmail"));
    ensure!(strange.is_some() && strange < wombat, "the more frequent comes first: {printed}");
    ensure!(!printed.contains("quokka") && !printed.contains("user unknown"), "a rule knows them: {printed}");
    ensure!(!printed.contains("kim@"), "an address: {printed}");
    ensure!(unmatched(&pipeline, &["--limit", "1"])?.matches("[[rule]]").count() == 1, "more than asked for");
    ensure!(unmatched(&pipeline, &["--since", "2100-01-01T00:00:00Z"])?.contains("0 failures"), "of the future");

    // As printed it is a file of rules that passes; put among the others, it is what decides, and nothing is unmatched any more.
    let file = folder.path().join("seen.toml");
    fs::write(&file, printed.replace("category = \"unknown\"", "category = \"remote_system\""))?;
    let path = file.to_string_lossy();
    pipeline.succeed(&["check-config"])?;
    let tested = rules(&["test", &path])?;
    ensure!(tested.contains("no failure"), "{tested}");
    reload(&mut classify, "ok", 1.0)?;
    pipeline.kafka.write(&events, &bounces(STRANGE, 5)?)?;
    pipeline.wait_for_value(
        "SELECT count(), uniqExact(pattern) FROM {db}.failures WHERE category = 'remote_system' AND startsWith(rule, 'own.')",
        "5\t1",
    )?;
    let printed = unmatched(&pipeline, &[])?;
    ensure!(printed.contains("0 failures of 0 patterns") && printed.contains("# 2 patterns more are known"), "{printed}");
    pipeline.passed();
    Ok(())
}
