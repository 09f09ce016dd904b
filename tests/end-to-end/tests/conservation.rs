//! The test: a million events and more through real servers while processes of both roles are killed, and every one is counted
//! once or dead-lettered once.
#![allow(clippy::print_stdout, reason = "a test that measures says what")]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Dice, Group, Incoming, Pipeline, Process, differences};
use serde_json::json;

const EVENTS: u64 = 1_200_000;
/// Slow enough for two cores with everything on them, so that traffic flows as long as processes die.
const PER_SECOND: &str = "20000";
const SEED: u64 = 20_260_921;
/// Of each role at least, each while a transaction or an intent was open that no kill before had struck.
const KILLS: usize = 5;

#[test]
fn nothing_is_lost_and_nothing_counted_twice_while_processes_are_killed() -> Result<()> {
    let pipeline = Pipeline::builder("conservation")?.inputs(8).set(&["sink", "linger_ms"], 300)?.build()?;
    let garbage = pipeline.folder().join("garbage.hex");
    let expected = pipeline.folder().join("expected.json");
    let (count, seed) = (EVENTS.to_string(), SEED.to_string());
    let mut team = Team::start(&pipeline)?;
    let mut simulate = pipeline.simulate(&[
        "--format=mixed",
        "--failures=0.05",
        "--garbage=0.001",
        &format!("--count={count}"),
        &format!("--seed={seed}"),
        &format!("--rate={PER_SECOND}"),
        &format!("--expected={}", expected.display()),
        &format!("--garbage-file={}", garbage.display()),
    ])?;
    let (mut dice, mut kills) = (Dice::new(SEED), Kills::default());
    while simulate.runs()? {
        team.kill_one(&mut dice, &mut kills)?;
    }
    ensure!(simulate.end()?.success(), "the simulator failed");
    println!("{kills:?}");
    ensure!(
        kills.classify >= KILLS && kills.sink >= KILLS,
        "too few kills struck an open transaction and an open intent: {kills:?}"
    );
    team.finish()?;

    pipeline.optimize()?;
    let (said, expected) = pipeline.expected("expected.json")?;
    let (words, lost, doubled) = differences(&expected, &pipeline.totals()?);
    let dead = pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?;
    let figures = json!({
        "events": said["items"], "lost": lost, "doubled": doubled, "dead_lettered": dead.len(), "kills": kills.classify + kills.sink,
    });
    write_figures("conservation", &figures)?;
    println!("{figures}");
    ensure!(words.is_empty(), "what was sent and what was counted differ:\n{}", words.join("\n"));

    let failures = said["failures"].as_u64().context("no failures")?;
    ensure!(pipeline.count("SELECT count() FROM {db}.failures")? == failures, "not {failures} rows in failures");
    let places = "SELECT uniqExact(source_topic, source_partition, source_offset, source_item) FROM {db}.failures";
    ensure!(pipeline.count(places)? == failures, "a failure is there twice, another one is missing");
    check_dead_letters(&dead, &fs::read_to_string(garbage)?)?;
    let audit = pipeline.succeed(&["audit"])?;
    println!("{audit}");
    pipeline.passed();
    Ok(())
}

/// Every record that nobody can read, byte for byte, once.
fn check_dead_letters(dead: &[Incoming], garbage: &str) -> Result<()> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut found: Vec<String> = dead.iter().map(|record| hex(record.payload.as_deref().unwrap_or_default())).collect();
    let mut sent: Vec<String> = garbage.lines().map(str::to_owned).collect();
    found.sort_unstable();
    sent.sort_unstable();
    ensure!(!sent.is_empty() && found.len() == sent.len(), "{} dead letters of {} bad records", found.len(), sent.len());
    let differ = sent.iter().zip(&found).find(|(sent, found)| sent != found);
    ensure!(differ.is_none(), "dead letters differ from what was sent, first at {differ:?}");
    let by = |who| dead.iter().filter(|r| r.headers.get("bounceflow.by").is_some_and(|by| by == who)).count();
    ensure!(by("classify") == dead.len(), "only {} of {} were refused by classify", by("classify"), dead.len());
    Ok(())
}

#[derive(Debug, Default)]
struct Kills {
    classify: usize,
    sink: usize,
    /// Killed with nothing open by then, or what an earlier kill had left open.
    others: usize,
}

/// Two processes of each role.
struct Team<'p> {
    pipeline: &'p Pipeline,
    classify: Vec<Process>,
    sink: Vec<Process>,
    sinks: Group,
    /// What was open at a kill, in words.
    struck: BTreeSet<String>,
    turn: u32,
}

impl<'p> Team<'p> {
    fn start(pipeline: &'p Pipeline) -> Result<Self> {
        let run = |role| (0..2).map(|ordinal| pipeline.run(role, ordinal, &[])).collect::<Result<Vec<_>>>();
        let (classify, sink, sinks) = (run("classify")?, run("sink")?, pipeline.group("sink")?);
        Ok(Self { pipeline, classify, sink, sinks, struck: BTreeSet::new(), turn: 0 })
    }

    /// Kills one process, of each role in turn, at a random moment when something of its own is open; then starts it again.
    fn kill_one(&mut self, dice: &mut Dice, kills: &mut Kills) -> Result<()> {
        let ordinal = dice.below(2) as usize;
        self.turn += 1;
        let role = if self.turn.is_multiple_of(2) { "classify" } else { "sink" };
        let id = self.pipeline.id(role, ordinal as u32);
        // The moment within a transaction or an insert, by chance.
        std::thread::sleep(Duration::from_micros(dice.below(300_000)));
        // Now and then whatever it does, be it that it has not even started.
        let blindly = dice.below(5) == 0;
        let patience = Instant::now() + Duration::from_secs(15);
        while !blindly && self.open(role, &id)?.is_empty() {
            if Instant::now() > patience {
                return Ok(()); // it has nothing to do
            }
        }
        let team = if role == "sink" { &mut self.sink } else { &mut self.classify };
        team[ordinal].kill()?;
        // Dead: what is open now stays open until somebody takes over.
        let open = self.open(role, &id)?;
        match (role, open.is_empty()) {
            (_, true) => kills.others += 1,
            ("sink", _) => kills.sink += 1,
            _ => kills.classify += 1,
        }
        if !open.is_empty() {
            println!("killed {role} {ordinal} with {}", open.join(", "));
        }
        self.struck.extend(open);
        let again = self.pipeline.run(role, ordinal as u32, &[])?;
        let team = if role == "sink" { &mut self.sink } else { &mut self.classify };
        team[ordinal] = again;
        Ok(())
    }

    /// What this process has open, and no kill has struck before.
    fn open(&self, role: &str, id: &str) -> Result<Vec<String>> {
        let open = if role == "sink" {
            // The group says: intents that were not moved past, of partitions this member has.
            let intents = self.sinks.intents(&self.sinks.assigned(id)?)?;
            intents.iter().map(|i| format!("{}/{} {} to {}", i.topic, i.partition, i.first, i.last)).collect()
        } else {
            // The broker says: a transaction of this id, with failures in it.
            let transaction = self.pipeline.transaction(id)?;
            let open = transaction.is_open_on(&self.pipeline.topic("failures"));
            if open { vec![format!("{id} {} since {}", transaction.state, transaction.started)] } else { vec![] }
        };
        Ok(open.into_iter().filter(|what| !self.struck.contains(what)).collect())
    }

    /// Lets everything be settled, and ends every process in good order.
    fn finish(&mut self) -> Result<()> {
        self.pipeline.settled("classify")?;
        for process in &mut self.classify {
            ensure!(process.stop()?.success(), "{} did not end well", process.name());
        }
        self.pipeline.settled("sink")?;
        for process in &mut self.sink {
            ensure!(process.stop()?.success(), "{} did not end well", process.name());
        }
        Ok(())
    }
}

fn write_figures(name: &str, figures: &serde_json::Value) -> Result<()> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(3).context("the test has no place")?.join("figures");
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(format!("{name}.json")), format!("{figures}\n"))?)
}
