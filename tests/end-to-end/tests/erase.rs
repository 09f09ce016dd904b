//! A person who is erased is gone from `failures` under every key, out of the dead letter's reach, and named nowhere on the way.

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Outgoing, Pipeline, until};
use serde_json::{Value, json};

/// In the address of the person, and in nothing else.
const SECRET: &str = "geheim";

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis())?)
}

fn bounces(recipient: &str, count: usize) -> Result<Vec<Outgoing>> {
    let event = json!({"event": "bounce", "timestamp": now_ms()?, "recipient": recipient, "from_domain": "news.example",
        "reply_code": 550, "diagnostic": "550 5.1.1 no such user"});
    Ok(vec![Outgoing::new(event.to_string()); count])
}

/// Lets classify and sink settle these with a configuration.
fn settle(pipeline: &Pipeline, config: &std::path::Path, records: &[Outgoing]) -> Result<()> {
    let mut process = pipeline.run_on(config, "all", 0, &[])?;
    pipeline.settled("classify")?;
    pipeline.kafka.write(&pipeline.topic("events"), records)?;
    pipeline.settled("classify")?;
    pipeline.settled("sink")?;
    ensure!(process.stop()?.success(), "it did not end well");
    Ok(())
}

#[test]
fn a_person_is_gone_under_every_key_and_from_the_dead_letters_and_others_stay() -> Result<()> {
    let builder = Pipeline::builder("erase")?.set(&["recipient", "keep_plain"], false)?;
    let pipeline = builder.build()?;
    let (kim, lee) = (format!("Kim.{SECRET}@gmail.com"), "lee@gmail.com");
    let mixed = kim.to_uppercase();
    let keys = [pipeline.folder().join("key-1"), pipeline.folder().join("key-2")];
    std::fs::write(&keys[0], "the key of last year")?;
    std::fs::write(&keys[1], "the key of this year")?;
    let path = |i: usize| keys[i].to_str().map(str::to_owned).context("a path that is no text");
    let base = pipeline.config_with(&["deployment"], "erase")?;
    let text = std::fs::read_to_string(&base)?;
    let with = |name: &str, recipient: &str| -> Result<std::path::PathBuf> {
        let mut tree: toml::Table = toml::from_str(&text)?;
        tree.insert("recipient".to_owned(), toml::Value::Table(toml::from_str(recipient)?));
        let file = pipeline.folder().join(name);
        std::fs::write(&file, toml::to_string(&tree)?)?;
        Ok(file)
    };
    let last_year = with("1.toml", &format!("key_id = '1'\nkey_file = '{}'\n", path(0)?))?;
    let this_year = with(
        "2.toml",
        &format!("key_id = '2'\nkey_file = '{}'\nkeep_plain = true\nold_key_files = {{ 1 = '{}' }}\n", path(1)?, path(0)?),
    )?;
    settle(&pipeline, &last_year, &[bounces(&kim, 3)?, bounces(lee, 5)?].concat())?;
    // Refused, and hold the person: plainly, percent-encoded in another case, in a header. And one that holds somebody else.
    let refused = [
        Outgoing::new(json!({"event": "opened", "recipient": mixed}).to_string()),
        Outgoing::new(format!("GET /unsubscribe?m={}", kim.replace('@', "%40"))),
        Outgoing::new("no JSON").with("return-path", &format!("b+{}@news.example", kim.replace('@', "="))),
        Outgoing::new(json!({"event": "opened", "recipient": format!("not{kim}")}).to_string()),
    ];
    settle(&pipeline, &this_year, &[bounces(&mixed, 2)?, bounces(lee, 1)?, refused.to_vec()].concat())?;
    ensure!(pipeline.value("SELECT count() FROM {db}.failures")? == "11", "not all stored");

    let config = this_year.to_str().context("a path that is no text")?;
    let people = pipeline.folder().join("people.txt");
    std::fs::write(&people, format!("\n{kim}\n"))?;
    let people = people.to_str().context("a path that is no text")?;
    let mut said = String::new();
    let mut run = |args: &[&str], code: i32| -> Result<String> {
        let output = pipeline.command_on(config, args)?;
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
        ensure!(output.status.code() == Some(code), "{args:?}: {}\n{out}{err}", output.status);
        said.push_str(&out);
        said.push_str(&err);
        Ok(out)
    };
    // A trial removes nothing, and says the same.
    let trial: Value = serde_json::from_str(&run(&["erase", "--file", people, "--dry-run", "--json"], 0)?)?;
    ensure!(pipeline.value("SELECT count() FROM {db}.failures")? == "11", "a trial removed something");
    run(&["erase", "--file", people], 1)?;
    ensure!(pipeline.value("SELECT count() FROM {db}.erased_recipients")? == "0", "it did not wait for an answer");
    let done: Value = serde_json::from_str(&run(&["erase", "--file", people, "--yes", "--json"], 0)?)?;
    for report in [&trial, &done] {
        ensure!(report["rows"]["total"] == 5 && report["rows"]["by_key"] == json!({"1": 3, "2": 2}), "{report}");
        let letters = report["dead_letters"]["letters"].as_array().context("no letters")?;
        ensure!(
            letters.len() == 3 && letters.iter().all(|l| l["removed_by_compaction"] == true && l["expires"].is_string()),
            "{report}"
        );
        let held: Vec<&str> = report["held"].as_array().into_iter().flatten().filter_map(|h| h["topic"].as_str()).collect();
        ensure!(held == [pipeline.topic("events"), pipeline.topic("failures")], "{report}");
        ensure!(report["complete"] == true && report["people"] == 1, "{report}");
    }
    let left = pipeline
        .value("SELECT recipient_domain, count(), countIf(recipient = 'lee@gmail.com') FROM {db}.failures GROUP BY ALL")?;
    ensure!(left == "gmail.com\t6\t1", "{left}");
    let remembered = pipeline.value("SELECT arraySort(groupUniqArray(recipient_key_id)) FROM {db}.erased_recipients")?;
    ensure!(remembered == "['1','2']", "{remembered}");
    let hashes = "SELECT count() FROM {db}.failures WHERE recipient_hash IN (SELECT recipient_hash FROM {db}.erased_recipients)";
    ensure!(pipeline.value(hashes)? == "0", "rows are left");
    let audit = run(&["audit"], 0)?;
    ensure!(audit.contains("11 counted, 6 stored, 5 erased"), "{audit}");

    // Out of reach: not listed, not shown, not sent.
    let list: Value = serde_json::from_str(&run(&["dead-letter", "list", "--json"], 0)?)?;
    ensure!(list["letters"] == 1 && list["erased"] == 3, "{list}");
    run(&["dead-letter", "show", "0:0"], 1)?;
    run(&["dead-letter", "show", "0:0", "--raw"], 1)?;
    let sent = run(&["dead-letter", "resend", "--yes"], 0)?;
    ensure!(sent.contains("1 dead letters were sent again"), "{sent}");
    // The tombstones stand where compaction finds them: with the letters' own keys.
    let records = pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?;
    let tombstones: Vec<_> = records.iter().filter(|r| r.payload.is_none()).map(|r| r.key.clone()).collect();
    ensure!(tombstones == records[..3].iter().map(|r| r.key.clone()).collect::<Vec<_>>(), "{tombstones:?}");

    // What was sent again is settled before: erasing waits for what is on its way.
    settle(&pipeline, &this_year, &[])?;
    // Again: nothing is left to do, and a wrong address is not repeated back.
    let again: Value = serde_json::from_str(&run(&["erase", "--recipient", &mixed, "--yes", "--json"], 0)?)?;
    ensure!(again["rows"]["total"] == 0, "{again}");
    run(&["erase", "--recipient", SECRET, "--yes"], 2)?;
    ensure!(!said.to_lowercase().contains(&format!("kim.{SECRET}")) && !said.contains(SECRET), "an address was printed: {said}");
    ensure!(!pipeline.all_logs()?.contains(SECRET), "an address in the logs");
    pipeline.value("SYSTEM FLUSH LOGS")?;
    let queries = format!(
        "SELECT count() FROM system.query_log WHERE positionCaseInsensitive(query, concat('kim.', '{}', '{}')) > 0",
        &SECRET[..3],
        &SECRET[3..]
    );
    let known = pipeline.value("EXISTS TABLE system.query_log")?;
    ensure!(known == "0" || pipeline.value(&queries)? == "0", "an address in ClickHouse's query log");
    pipeline.passed();
    Ok(())
}

#[test]
fn what_is_on_its_way_is_waited_for() -> Result<()> {
    let pipeline = Pipeline::builder("erase_late")?.build()?;
    let (kim, sink) = (format!("kim.{SECRET}@gmail.com"), pipeline.topic("failures"));
    pipeline.kafka.write(&pipeline.topic("events"), &[bounces(&kim, 4)?, bounces("lee@gmail.com", 2)?].concat())?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    pipeline.settled("classify")?;
    ensure!(classify.stop()?.success(), "it did not end well");
    // Nobody settles them: it says so, and what it could not reach is not claimed to be gone.
    let given_up = pipeline.command(&["erase", "--recipient", &kim, "--yes", "--wait", "1"])?;
    let text = String::from_utf8_lossy(&given_up.stdout).into_owned();
    ensure!(given_up.status.code() == Some(1) && text.contains(&format!("sink has not settled all of {sink}")), "{text}");

    let mut erase = pipeline.start(&["erase", "--recipient", &kim, "--yes"])?;
    until("it to wait", || {
        ensure!(erase.log().contains("waiting until group erase_late.sink"), "{}", erase.log());
        Ok(())
    })?;
    let mut process = pipeline.run("sink", 0, &[])?;
    ensure!(erase.end()?.success(), "{}", erase.log());
    ensure!(pipeline.value("SELECT count() FROM {db}.failures")? == "2", "not exactly the other's rows");
    ensure!(!erase.log().contains(SECRET), "{}", erase.log());
    // The sink goes on as if nothing had happened, and later mail is counted.
    let mut classify = pipeline.run("classify", 0, &[])?;
    pipeline.kafka.write(&pipeline.topic("events"), &bounces(&kim, 1)?)?;
    pipeline.wait_for_value("SELECT count() FROM {db}.failures", "3")?;
    ensure!(process.stop()?.success() && classify.stop()?.success(), "they did not end well");
    pipeline.succeed(&["audit"])?;
    pipeline.passed();
    Ok(())
}

#[test]
fn a_letter_that_is_sent_again_meanwhile_is_not_passed_over() -> Result<()> {
    let pipeline = Pipeline::builder("erase_resend")?.build()?;
    let kim = format!("kim.{SECRET}@gmail.com");
    let refused = Outgoing::new(json!({"event": "opened", "recipient": kim}).to_string());
    pipeline.kafka.write(&pipeline.topic("events"), &[bounces(&kim, 1)?, vec![refused]].concat())?;
    let mut classify = pipeline.run("classify", 0, &[])?;
    pipeline.settled("classify")?;
    ensure!(classify.stop()?.success(), "it did not end well");
    // While it waits for the sink, somebody sends the letter behind what it waits for: nothing is claimed then.
    let mut erase = pipeline.start(&["erase", "--recipient", &kim, "--yes", "--wait", "20"])?;
    until("it to wait", || {
        ensure!(erase.log().contains("waiting until group erase_resend.sink"), "{}", erase.log());
        Ok(())
    })?;
    let sent = pipeline.succeed(&["dead-letter", "resend", "--yes"])?;
    ensure!(sent.contains("1 dead letters were sent again"), "{sent}");
    ensure!(!erase.end()?.success() && erase.log().contains("took over transactional.id"), "{}", erase.log());
    // Once more, and what was sent is waited for.
    let mut process = pipeline.run("all", 0, &[])?;
    let done: Value = serde_json::from_str(&pipeline.succeed(&["erase", "--recipient", &kim, "--yes", "--json"])?)?;
    ensure!(done["complete"] == true && done["rows"]["total"] == 1, "{done}");
    let list: Value = serde_json::from_str(&pipeline.succeed(&["dead-letter", "list", "--json"])?)?;
    ensure!(list["letters"] == 0, "{list}");
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}
