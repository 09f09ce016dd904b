//! A past range counted again: the same rules change nothing, other rules change exactly what they say, a kill at any moment costs
//! nothing, and live traffic does not notice.
#![allow(clippy::print_stdout, reason = "a test that kills says when")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Dice, Outgoing, Pipeline, Process, differences, until};
use serde_json::{Value, json};

const REPLY: &str = "550 5.7.1 The quokka of 192.0.2.7 says no";

/// What a swap says as it goes.
const STEPS: [&str; 3] = ["copying the partitions", "putting new rows for old ones", "bringing the copies up to date"];

/// Rows in `failures`, how many places they come from, and how many of them a replay wrote.
const FAILURES: &str = "SELECT count(), uniqExact(source_topic, source_partition, source_offset, source_item),
    countIf(startsWith(kafka_topic, 'replay/')) FROM {db}.failures";

fn classify_and_sink(pipeline: &Pipeline) -> Result<[Process; 2]> {
    Ok([pipeline.run("classify", 0, &[])?, pipeline.run("sink", 0, &[])?])
}

/// Simulated events, counted and stored. The file of what was sent.
fn fill(pipeline: &Pipeline, count: u32, file: &str, more: &[&str]) -> Result<()> {
    let (count, file) = (format!("--count={count}"), format!("--expected={}", pipeline.folder().join(file).display()));
    let mut simulate = pipeline.simulate(&[&["--failures=0.3", &count, &file], more].concat())?;
    ensure!(simulate.end()?.success(), "the simulator failed");
    settled(pipeline)
}

fn settled(pipeline: &Pipeline) -> Result<()> {
    pipeline.settled("classify")?;
    pipeline.settled("sink")
}

fn bounces(identity: &str, diagnostic: &str, count: usize) -> Result<Vec<Outgoing>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let event = json!({"event": "bounce", "timestamp": now, "recipient": "kim@gmail.com", "from_domain": identity,
        "diagnostic": diagnostic});
    Ok(vec![Outgoing::new(event.to_string()); count])
}

fn rule_file(folder: &Path, category: &str) -> Result<String> {
    let file = folder.join("own.toml");
    let rule = format!(
        "[[rule]]\nid = 'own.quokka'\npriority = 990\nany = ['the quokka of']\ncategory = '{category}'\nseverity = 'soft'\n\
         root_cause = 'content'\nblocked = true\nexamples = ['{REPLY}']\n"
    );
    fs::write(&file, rule)?;
    Ok(file.display().to_string())
}

/// Plans and counts; the replay as JSON.
fn replay(pipeline: &Pipeline, more: &[&str]) -> Result<Value> {
    let args = [&["replay", "--from", "beginning", "--to", "end", "--json"], more].concat();
    Ok(serde_json::from_str(&pipeline.succeed(&args)?)?)
}

/// A command that must be refused: its exit code, and words of what it says.
fn refused(pipeline: &Pipeline, args: &[&str], code: i32, words: &str) -> Result<()> {
    let output = pipeline.command(args)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{args:?}: {} {said}", output.status);
    ensure!(said.contains(words), "{args:?} does not say {words:?} but {said}");
    Ok(())
}

/// No table and no fence of a replay.
fn nothing_left(pipeline: &Pipeline) -> Result<()> {
    let tables =
        pipeline.value("SELECT groupArray(name) FROM system.tables WHERE database = '{db}' AND startsWith(name, 'replay_')")?;
    ensure!(tables == "[]", "left: {tables}");
    let fences = "SELECT count() FROM system.tables WHERE database = '{db}' AND create_table_query LIKE '%CONSTRAINT%'";
    ensure!(pipeline.value(fences)? == "0", "a fence is left");
    Ok(())
}

#[test]
fn the_same_rules_change_nothing() -> Result<()> {
    let pipeline = Pipeline::builder("replaysame")?.inputs(2).build()?;
    let [mut classify, mut sink] = classify_and_sink(&pipeline)?;
    fill(&pipeline, 120_000, "first.json", &["--format=mixed", "--garbage=0.01"])?;
    let (said, expected) = pipeline.expected("first.json")?;
    let failures = said["failures"].as_u64().context("no failures")?;

    let replay = replay(&pipeline, &[])?;
    let found = &replay["comparison"];
    ensure!(replay["state"] == "counted", "{replay}");
    for count in ["changed", "gone", "added"] {
        ensure!(found[count] == 0, "{count}: {found}");
    }
    for (name, old) in replay["old"].as_object().context("no totals")? {
        ensure!(name == "transactions" || found["new"][name] == *old, "{name}: {} was {old}", found["new"][name]);
    }
    ensure!(replay["old"]["dead_lettered"] != 0, "garbage is part of the test: {replay}");
    ensure!(pipeline.value(FAILURES)? == format!("{failures}\t{failures}\t0"), "counting changed something");

    pipeline.succeed(&["replay", "swap", "1"])?;
    nothing_left(&pipeline)?;
    ensure!(pipeline.value(FAILURES)? == format!("{failures}\t{failures}\t{failures}"), "{}", pipeline.value(FAILURES)?);
    let (words, ..) = differences(&expected, &pipeline.totals()?);
    ensure!(words.is_empty(), "{}", words.join("\n"));
    println!("{}", pipeline.succeed(&["audit"])?);
    refused(&pipeline, &["replay", "swap", "1"], 1, "is swapped already")?;
    refused(&pipeline, &["replay", "discard", "1"], 1, "is swapped in")?;

    // What comes then is counted as ever, and what a replay wrote can be replayed.
    pipeline.kafka.write(&pipeline.topic("events"), &bounces("news.example", REPLY, 40)?)?;
    settled(&pipeline)?;
    self::replay(&pipeline, &[])?;
    pipeline.succeed(&["replay", "swap", "2"])?;
    let all = failures + 40;
    ensure!(pipeline.value(FAILURES)? == format!("{all}\t{all}\t{all}"), "{}", pipeline.value(FAILURES)?);
    pipeline.succeed(&["audit"])?;

    // A sink whose offsets have expired still knows what it wrote, although none of its rows is there.
    ensure!(sink.stop()?.success() && classify.stop()?.success(), "they did not end well");
    pipeline.kafka.delete_group(&pipeline.group_name("sink"))?;
    let mut sink = pipeline.run("sink", 0, &[])?;
    until("every partition to halt", || {
        let halts = sink.said("A partition halts; the others go on");
        let counted = |line: &&Value| line["why"].as_str().is_some_and(|why| why.contains("but it was counted up to offset"));
        let topics = [pipeline.topic("failures"), pipeline.topic("rates")];
        let of = |topic: &String| halts.iter().filter(counted).any(|line| line["topic"] == **topic);
        ensure!(topics.iter().all(of), "{halts:?}");
        Ok(())
    })?;
    ensure!(pipeline.value(FAILURES)? == format!("{all}\t{all}\t{all}"), "the sink wrote rows once more");
    sink.kill()?;
    pipeline.passed();
    Ok(())
}

#[test]
fn other_rules_change_what_they_say_and_nothing_else() -> Result<()> {
    let pipeline = Pipeline::builder("replayrules")?.build()?;
    let _running = classify_and_sink(&pipeline)?;
    let events = pipeline.topic("events");
    pipeline.kafka.write(&events, &bounces("news.example", REPLY, 500)?)?;
    fill(&pipeline, 20_000, "sent.json", &["--garbage=0"])?;
    let quokka = "position(diagnostic, 'quokka') > 0";
    let was = pipeline.value(&format!("SELECT DISTINCT concat(severity, ' ', category) FROM {{db}}.failures WHERE {quokka}"))?;
    let others =
        format!("SELECT severity, category, count() FROM {{db}}.failures WHERE NOT ({quokka}) GROUP BY ALL ORDER BY ALL");
    let before = pipeline.value(&others)?;
    let sums = "SELECT sum(deliveries), sum(first_attempts), sum(hard + soft), sum(deferred), sum(complaints), sum(late_bounces), sum(drops),
        sum(arraySum(mapValues(bounce_categories))) FROM {db}.delivery_rates";
    let totals = pipeline.value(sums)?;
    let of_news = "SELECT c, sum(n) FROM (SELECT arrayJoin(mapKeys(bounce_categories)) AS c, bounce_categories[c] AS n FROM {db}.delivery_rates
        WHERE identity = 'news.example') GROUP BY c ORDER BY c";

    let rules = rule_file(pipeline.folder(), "message_too_large")?;
    let replay = replay(&pipeline, &["--rules", &rules])?;
    let found = &replay["comparison"];
    ensure!(found["changed"] == 500 && found["gone"] == 0 && found["added"] == 0, "{found}");
    let moves = found["moves"].as_array().context("no moves")?;
    ensure!(moves.len() == 1, "{moves:?}");
    let one = &moves[0];
    ensure!(one["from"] == was && one["to"] == "soft message_too_large" && one["failures"] == 500, "{one} from {was}");
    ensure!(one["rule"] == "own.quokka" && one["sample"].as_str().is_some_and(|s| s.contains("quokka")), "{one}");
    let printed = pipeline.succeed(&["replay", "compare", "1"])?;
    ensure!(printed.contains("500 failures are something else now") && printed.contains("soft message_too_large"), "{printed}");
    ensure!(
        pipeline.value(of_news)? == format!("{}\t500", was.split(' ').nth(1).unwrap_or_default()),
        "nothing is changed before the swap"
    );

    pipeline.succeed(&["replay", "swap", "1"])?;
    let now = pipeline
        .value(&format!("SELECT severity, category, rule, blocked, count() FROM {{db}}.failures WHERE {quokka} GROUP BY ALL"))?;
    ensure!(now == "soft\tmessage_too_large\town.quokka\ttrue\t500", "{now}");
    ensure!(pipeline.value(&others)? == before, "others have changed");
    ensure!(pipeline.value(of_news)? == "message_too_large\t500", "{}", pipeline.value(of_news)?);
    ensure!(pipeline.value(sums)? == totals, "{} was {totals}", pipeline.value(sums)?);
    let huge = "SELECT max(greatest(deliveries, hard, soft, deferred)) < 1000000 FROM {db}.delivery_rates";
    ensure!(pipeline.value(huge)? == "1", "a difference is in the table as it is");
    pipeline.optimize()?;
    ensure!(pipeline.value(sums)? == totals && pipeline.value(of_news)? == "message_too_large\t500", "merging changes it");
    println!("{}", pipeline.succeed(&["audit"])?);
    nothing_left(&pipeline)?;
    pipeline.passed();
    Ok(())
}

#[test]
fn a_kill_at_any_moment_costs_nothing_while_traffic_flows() -> Result<()> {
    let pipeline = Pipeline::builder("replaykill")?.inputs(2).build()?;
    let _classify = [pipeline.run("classify", 0, &[])?, pipeline.run("classify", 1, &[])?];
    let mut sink = pipeline.run("sink", 0, &[])?;
    // What the rules of the replays decide otherwise: none of the simulator's, whose totals must stay.
    pipeline.kafka.write(&pipeline.topic("events"), &bounces("quokka.example", REPLY, 3000)?)?;
    fill(&pipeline, 110_000, "first.json", &["--format=mixed", "--garbage=0.001"])?;
    // Slow enough for two cores with everything on them: a range can only be replayed when the sink has written it.
    let sent = format!("--expected={}", pipeline.folder().join("sent.json").display());
    let live = ["--failures=0.3", "--format=mixed", "--garbage=0.001", "--count=100000000", "--rate=1000", "--seed=7", &sent];
    let mut simulate = pipeline.simulate(&live)?;
    pipeline.wait_for_value("SELECT sum(items) > 125000 FROM {db}.batches", "1")?;

    let mut dice = Dice::new(20_261_122);
    let (mut counting, mut struck) = (0, BTreeMap::new());
    // The second takes what the first wrote, and what has come since.
    for category in ["policy", "spam_content"] {
        let rules = rule_file(pipeline.folder(), category)?;
        let (id, mut process) = planned_while_traffic_flows(&pipeline, &rules)?;
        // Whenever a chunk is done, and a little later.
        let chunks = || pipeline.count(&format!("SELECT uniqExact(sources.first_offset) FROM {{db}}.replay_{id}_batches"));
        let (mut kills, mut seen) = (0, 0);
        while state(&pipeline, id)? == "counting" {
            if kills < 3 && process.runs()? && chunks().is_ok_and(|chunks| chunks > seen) {
                std::thread::sleep(Duration::from_micros(dice.below(60_000)));
                kills += u32::from(killed(&pipeline, &mut process, id, "counting")?);
                seen = chunks().unwrap_or(seen);
            }
            if !process.runs()? && state(&pipeline, id)? == "counting" {
                ensure!(process.log().is_empty() || kills > 0, "{}", process.log());
                process = pipeline.start(&["replay", "resume", &id.to_string()])?;
            }
        }
        process.end()?;
        counting += kills;

        // At the beginning of each step in turn, and a little later.
        let mut process = pipeline.start(&["replay", "swap", &id.to_string()])?;
        for step in STEPS.iter().cycle().take(9) {
            while process.runs()? && !process.log().contains(step) {}
            std::thread::sleep(Duration::from_micros(dice.below(250_000)));
            if killed(&pipeline, &mut process, id, "swapping")? {
                *struck.entry(*step).or_insert(0) += 1;
            }
            if state(&pipeline, id)? == "swapped" {
                break;
            }
            ensure!(!process.runs()? && !process.log().contains("bounceflow: "), "{}", process.log());
            process = pipeline.start(&["replay", "resume", &id.to_string()])?;
        }
        process.end()?;
        ensure!(state(&pipeline, id)? == "swapped", "{}", process.log());
        // One that was killed when all was done may have left its tables.
        pipeline.command(&["replay", "resume", &id.to_string()])?;
        nothing_left(&pipeline)?;
        ensure!(simulate.runs()?, "traffic was to flow meanwhile; it is over");
    }
    println!("{counting} kills while counting, while swapping: {struck:?}");
    ensure!(counting >= 2 && struck.len() == STEPS.len(), "too few kills struck: {counting} while counting, {struck:?}");

    ensure!(simulate.stop()?.success(), "the simulator failed");
    settled(&pipeline)?;
    pipeline.optimize()?;
    let (first, mut expected) = pipeline.expected("first.json")?;
    let (said, live) = pipeline.expected("sent.json")?;
    for (key, counts) in live {
        let sum = expected.entry(key).or_insert([0; 8]);
        std::iter::zip(sum, counts).for_each(|(sum, count)| *sum += count);
    }
    let mut found = pipeline.totals()?;
    let quokkas = found.remove(&("gmail".to_owned(), "quokka.example".to_owned())).context("no quokka")?;
    ensure!(quokkas == [0, 0, 0, 3000, 0, 0, 0, 0], "deliveries, first attempts, hard, soft…: {quokkas:?}");
    let of_quokkas = "SELECT c, sum(n) FROM (SELECT arrayJoin(mapKeys(bounce_categories)) AS c, bounce_categories[c] AS n
        FROM {db}.delivery_rates WHERE identity = 'quokka.example') GROUP BY c";
    ensure!(pipeline.value(of_quokkas)? == "spam_content\t3000", "{}", pipeline.value(of_quokkas)?);
    let (words, lost, doubled) = differences(&expected, &found);
    ensure!(words.is_empty(), "{lost} lost, {doubled} doubled:\n{}", words.join("\n"));
    let failures = 3000 + [first, said].iter().filter_map(|said| said["failures"].as_u64()).sum::<u64>();
    let stored = pipeline.value(FAILURES)?;
    ensure!(stored.starts_with(&format!("{failures}\t{failures}\t")), "{stored} of {failures} failures");
    println!("rows, places, by replay: {stored}\n{}", pipeline.succeed(&["audit"])?);
    // Held back for moments, never halted.
    ensure!(sink.said("A partition halts").is_empty(), "the sink halted");
    ensure!(!sink.said("An insert was not taken").is_empty(), "no insert met the fence: it was not put to the test");
    ensure!(sink.stop()?.success(), "the sink did not end well");
    pipeline.passed();
    Ok(())
}

/// A replay that is being counted. A plan is refused while the sink is behind its range: then it is asked for again.
fn planned_while_traffic_flows(pipeline: &Pipeline, rules: &str) -> Result<(u64, Process)> {
    until("a replay to be planned", || {
        let to = (jiff::Timestamp::now() - Duration::from_secs(5)).to_string();
        let last = pipeline.count("SELECT max(id) FROM {db}.replays")?;
        let mut process = pipeline.start(&["replay", "--from", "beginning", "--to", &to, "--rules", rules])?;
        loop {
            let id = pipeline.count("SELECT max(id) FROM {db}.replays")?;
            if id > last && state(pipeline, id)?.starts_with("count") {
                return Ok((id, process));
            }
            ensure!(process.runs()?, "{}", process.log());
        }
    })
}

/// Kills the process if the replay is still in this state; whether it did.
fn killed(pipeline: &Pipeline, process: &mut Process, id: u64, while_it_is: &str) -> Result<bool> {
    if !process.runs()? || state(pipeline, id)? != while_it_is {
        return Ok(false);
    }
    process.kill()?;
    println!("killed replay {id} while {while_it_is}: {}", process.log().lines().last().unwrap_or_default());
    Ok(true)
}

fn state(pipeline: &Pipeline, id: u64) -> Result<String> {
    pipeline.value(&format!("SELECT argMax(state, (sequence, changed_at)) FROM {{db}}.replays WHERE id = {id}"))
}

#[test]
fn what_cannot_be_replayed_is_refused_and_leaves_nothing() -> Result<()> {
    let pipeline = Pipeline::builder("replaybad")?.build()?;
    let [mut classify, mut sink] = classify_and_sink(&pipeline)?;
    let events = pipeline.topic("events");
    refused(&pipeline, &["replay"], 2, "--from")?;
    refused(&pipeline, &["replay", "--from", "end", "--to", "beginning"], 2, "--from must be before --to")?;
    refused(
        &pipeline,
        &["replay", "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"],
        2,
        "--from must be before --to",
    )?;
    refused(&pipeline, &["replay", "--from", "yesterday", "--to", "end"], 2, "yesterday")?;
    refused(&pipeline, &["replay", "--from", "beginning", "--to", "end", "list"], 2, "do not go with a command")?;
    refused(&pipeline, &["replay", "--from", "beginning", "--to", "end"], 1, "no input topic holds a record")?;
    refused(&pipeline, &["replay", "swap", "7"], 1, "there is no replay 7")?;
    pipeline.kafka.write(&events, &bounces("news.example", REPLY, 60)?)?;
    settled(&pipeline)?;
    refused(
        &pipeline,
        &["replay", "--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z"],
        1,
        "no input topic holds a record",
    )?;
    let no_rules = pipeline.folder().join("bad.toml");
    fs::write(&no_rules, "[[rule]]\nid = 'x'\n")?;
    refused(&pipeline, &["replay", "--from", "beginning", "--to", "end", "--rules", &no_rules.to_string_lossy()], 2, "bad.toml")?;

    // A row of the range is not there: the sink is behind, refused it, or somebody was erased.
    pipeline.value("ALTER TABLE {db}.failures DELETE WHERE source_offset = 3 SETTINGS mutations_sync = 2")?;
    let erased = "60 failures were counted in this range, and failures holds 59 of them";
    refused(&pipeline, &["replay", "--from", "beginning", "--to", "end"], 1, erased)?;
    nothing_left(&pipeline)?;
    pipeline.value("TRUNCATE TABLE {db}.failures")?;
    pipeline.value("TRUNCATE TABLE {db}.batches")?;
    pipeline.value("TRUNCATE TABLE {db}.delivery_rates")?;
    refused(&pipeline, &["replay", "--from", "beginning", "--to", "end"], 1, "nothing in this range was counted")?;
    nothing_left(&pipeline)?;

    // Counted, and then: other rules on resume, given up, replaced by another, erased before the swap.
    pipeline.kafka.write(&events, &bounces("news.example", REPLY, 70)?)?;
    settled(&pipeline)?;
    let rules = rule_file(pipeline.folder(), "policy")?;
    let plan = ["--rules", rules.as_str()];
    let planned = replay(&pipeline, &plan)?;
    ensure!(planned["old"]["items"] == 70, "whole transactions, but only what was asked for: {planned}");
    let id = planned["id"].as_u64().context("no id")?.to_string();
    pipeline.value(&format!(
        "INSERT INTO {{db}}.replays (id, sequence, changed_at, state, document) SELECT id, sequence + 1, changed_at, 'counting',
            replaceOne(replaceOne(document, '\"state\":\"counted\"', '\"state\":\"counting\"'),
                format('\"sequence\":{{}}', sequence), format('\"sequence\":{{}}', sequence + 1))
        FROM {{db}}.replays WHERE id = {id} AND state = 'counted'"
    ))?;
    refused(&pipeline, &["replay", "swap", &id], 1, "is not counted yet")?;
    rule_file(pipeline.folder(), "spam_content")?;
    refused(&pipeline, &["replay", "resume", &id], 1, "put the rules back")?;
    rule_file(pipeline.folder(), "policy")?;
    pipeline.succeed(&["replay", "resume", &id])?;
    // As an attempt killed between its fences would leave it.
    let fence = format!("ALTER TABLE {{db}}.failures ADD CONSTRAINT bounceflow_replay_{id}_swaps_x CHECK kafka_offset < -1");
    pipeline.value(&fence)?;
    refused(&pipeline, &["replay", "--from", "beginning", "--to", "end"], 1, "is being swapped")?;
    pipeline.succeed(&["replay", "discard", &id])?;
    nothing_left(&pipeline)?;
    refused(&pipeline, &["replay", "swap", &id], 1, "was given up")?;

    let [one, two] = [replay(&pipeline, &plan)?, replay(&pipeline, &plan)?].map(|r| r["id"].to_string());
    pipeline.succeed(&["replay", "swap", &one])?;
    refused(&pipeline, &["replay", "swap", &two], 1, "another replay has replaced them")?;
    ensure!(pipeline.value(FAILURES)? == "70\t70\t70", "{}", pipeline.value(FAILURES)?);
    pipeline.succeed(&["replay", "discard", &two])?;
    nothing_left(&pipeline)?;

    pipeline.kafka.write(&events, &bounces("news.example", REPLY, 5)?)?;
    settled(&pipeline)?;
    let three = replay(&pipeline, &plan)?["id"].to_string();
    // Its tables hold people: nobody is erased before it is ended.
    let words = format!("give it up with `bounceflow replay discard {three}`");
    refused(&pipeline, &["erase", "--recipient", "kim@gmail.com", "--yes"], 1, &words)?;
    ensure!(pipeline.value("SELECT count() FROM {db}.erased_recipients")? == "0", "it began nevertheless");
    ensure!(sink.stop()?.success() && classify.stop()?.success(), "they did not end well");
    // What is to be read is not there any more.
    pipeline.kafka.delete_before(&events, 0, 100)?;
    let from = ["replay", "--from", "2026-01-01T00:00:00Z", "--to", "end"];
    refused(&pipeline, &from, 1, "the offsets before 100 are gone by retention")?;
    refused(&pipeline, &["replay", "--from", "beginning", "--to", "end"], 1, "are gone by retention")?;
    // Somebody is erased between the count and the swap: they must not come back.
    pipeline.value("ALTER TABLE {db}.failures DELETE WHERE source_offset = 132 SETTINGS mutations_sync = 2")?;
    refused(&pipeline, &["replay", "swap", &three], 1, "75 failures were counted in this range, and failures holds 74 of them")?;
    ensure!(state(&pipeline, three.parse()?)? == "counted", "a refused swap is no swap");
    // The sink lost its place: it may write everything once more.
    pipeline.kafka.delete_group(&pipeline.group_name("sink"))?;
    refused(&pipeline, &["replay", "swap", &three], 1, "has no committed offset")?;
    let all: Value = serde_json::from_str(&pipeline.succeed(&["replay", "list", "--json"])?)?;
    ensure!(all.as_array().is_some_and(|all| all.iter().any(|r| r["state"] == "swapped")), "{all}");
    pipeline.succeed(&["replay", "discard", &three])?;
    nothing_left(&pipeline)?;
    pipeline.passed();
    Ok(())
}
