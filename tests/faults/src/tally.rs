//! What a cell found at its end: everything the tables and the dead letter hold, beside what the simulator says it sent.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Incoming, Pipeline, differences};
use serde_json::Value;

/// Why a record over which the program panicked is in the dead letter.
pub(crate) const INTERNAL_ERROR: &str = "internal_error";

/// Why a letter was refused; empty: it is no letter, but the mark of one that was sent again.
pub(crate) fn reason_of(letter: &Incoming) -> &str {
    letter.headers.get("bounceflow.reason").map_or("", String::as_str)
}

/// What was compared.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Items sent.
    pub(crate) events: u64,
    /// Missing anywhere: in rates, in failures, among the dead letters.
    pub(crate) lost: u64,
    /// Too many anywhere.
    pub(crate) doubled: u64,
    /// What differs, in words.
    pub(crate) words: Vec<String>,
}

impl Tally {
    /// Merges every table and compares. `refused`: failures that ClickHouse was made to refuse, with their payloads.
    pub(crate) fn take(pipeline: &Pipeline, refused: &[Vec<u8>]) -> Result<Self> {
        pipeline.optimize()?;
        let (said, expected) = pipeline.expected("expected.json")?;
        let (words, lost, doubled) = differences(&expected, &pipeline.totals()?);
        let events = said["items"].as_u64().context("no items")?;
        let mut tally = Self { events, lost, doubled, words };

        let failures = said["failures"].as_u64().context("no failures")? - refused.len() as u64;
        let rows = pipeline.count("SELECT count() FROM {db}.failures")?;
        for key in ["source_topic, source_partition, source_offset, source_item", "kafka_topic, kafka_partition, kafka_offset"] {
            let unique = pipeline.count(&format!("SELECT uniqExact({key}) FROM {{db}}.failures"))?;
            tally.compare(&format!("failures by {key}"), failures, unique, rows);
        }
        let batches = pipeline.count("SELECT count() FROM {db}.batches")?;
        let unique = pipeline.count("SELECT uniqExact(kafka_topic, kafka_partition, kafka_offset) FROM {db}.batches")?;
        tally.compare("batches by offset", unique, unique, batches);

        tally.compare_letters(pipeline, refused)?;
        tally.audit(pipeline, refused.len() as u64)?;
        Ok(tally)
    }

    fn compare(&mut self, what: &str, expected: u64, unique: u64, rows: u64) {
        if (expected, expected) != (unique, rows) {
            self.words.push(format!("{what}: {expected} expected, {rows} rows, {unique} of them different"));
        }
        self.lost += expected.saturating_sub(unique);
        self.doubled += rows.saturating_sub(unique) + unique.saturating_sub(expected);
    }

    /// Every record that cannot be read, and every one refused, byte for byte, once. Those set aside for a mistake of the program were
    /// sent again, so they stand among what is counted.
    fn compare_letters(&mut self, pipeline: &Pipeline, refused: &[Vec<u8>]) -> Result<()> {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut balance: BTreeMap<String, i64> = BTreeMap::new();
        let garbage = fs::read_to_string(pipeline.folder().join("garbage.hex")).context("what the simulator broke")?;
        for sent in garbage.lines().map(str::to_owned).chain(refused.iter().map(|payload| hex(payload))) {
            *balance.entry(sent).or_default() += 1;
        }
        ensure!(!balance.is_empty(), "nothing was made unreadable");
        let letters = pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?;
        for letter in letters.into_iter().filter(|letter| !["", INTERNAL_ERROR].contains(&reason_of(letter))) {
            *balance.entry(hex(&letter.payload.unwrap_or_default())).or_default() -= 1;
        }
        let missing: i64 = balance.values().filter(|n| **n > 0).sum();
        let surplus: i64 = -balance.values().filter(|n| **n < 0).sum::<i64>();
        if (missing, surplus) != (0, 0) {
            self.words.push(format!("dead letters: {missing} missing, {surplus} too many"));
        }
        self.lost += missing.unsigned_abs();
        self.doubled += surplus.unsigned_abs();
        Ok(())
    }

    /// `bounceflow audit` finds nothing, or only the failures that were refused.
    fn audit(&mut self, pipeline: &Pipeline, refused: u64) -> Result<()> {
        let output = pipeline.command(&["audit", "--json"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        if refused == 0 {
            if !output.status.success() {
                self.words.push(format!("audit: {text}{}", String::from_utf8_lossy(&output.stderr)));
            }
            return Ok(());
        }
        let report: Value = serde_json::from_str(&text).context("the audit's report")?;
        let number = |name: &str| report[name].as_u64().with_context(|| format!("the audit says nothing of {name}"));
        let none = |name: &str| report[name].as_array().is_some_and(Vec::is_empty);
        let counts = report["counts"].as_array().context("no counts")?;
        let duplicates = report["duplicates"].as_array().context("no duplicates")?;
        let clean = none("gaps")
            && none("overlaps")
            && counts.iter().all(|count| count["batches"] == count["delivery_rates"])
            && duplicates.iter().all(|d| d["keys"] == 0)
            && number("torn_transactions")? + number("unfinished_transactions")? == 0
            && number("failures_counted")? == number("failures_stored")? + refused;
        if !clean {
            self.words.push(format!("audit: {text}"));
        }
        Ok(())
    }
}
