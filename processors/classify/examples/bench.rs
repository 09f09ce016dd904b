//! Nanoseconds per reply over a corpus of JSON lines: reading alone, with the cache, without it. Reports, never asserts.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark has a clock and a terminal"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bounceflow_classify::{Classifier, Reading, Reply, Rules};

struct Row {
    code: u16,
    enhanced: String,
    text: String,
    command: String,
    mx: String,
    domain: String,
}

impl Row {
    fn reply(&self) -> Reply<'_> {
        Reply {
            event: None,
            reply_code: self.code,
            enhanced_code: &self.enhanced,
            diagnostic: &self.text,
            command: &self.command,
            isp: "",
            mx_host: &self.mx,
            recipient_domain: &self.domain,
        }
    }
}

fn main() {
    let path = std::env::args().nth(1).unwrap_or_else(|| panic!("usage: bench CORPUS.jsonl"));
    let rows: Vec<Row> = std::fs::read_to_string(path).unwrap().lines().map(row).collect();
    let started = Instant::now();
    let rules = Arc::new(Rules::builtin().unwrap());
    println!("{} rules loaded in {:?}, automaton {} KiB", rules.iter().len(), started.elapsed(), rules.automaton_bytes() / 1024);
    let bytes: usize = rows.iter().map(|r| r.text.len()).sum();
    println!("{} replies, {} bytes each on average", rows.len(), bytes / rows.len());
    let mut reading = Reading::new();
    report("read", &rows, |row| {
        reading.read(&row.reply());
        black_box(reading.fingerprint());
    });
    let mut classifier = Classifier::new(Arc::clone(&rules));
    report("read and cached classify", &rows, |row| {
        black_box(classifier.classify(&row.reply()));
    });
    let mut reading = Reading::new();
    report("read and cold classify", &rows, |row| {
        reading.read(&row.reply());
        black_box(rules.classify(&reading));
    });
    let short = Row {
        code: 550,
        enhanced: "5.1.1".into(),
        text:
            "550 5.1.1 <someone@example.com>: Recipient address rejected: User unknown in virtual mailbox table; see help page 17"
                .into(),
        command: "RCPT TO:<someone@example.com>".into(),
        mx: "mx1.example.com".into(),
        domain: "example.com".into(),
    };
    println!("one reply of {} bytes:", short.text.len());
    let one = [short];
    let mut reading = Reading::new();
    report("read", &one, |row| {
        reading.read(&row.reply());
        black_box(reading.fingerprint());
    });
    report("read and cached classify", &one, |row| {
        black_box(classifier.classify(&row.reply()));
    });
    report("read and cold classify", &one, |row| {
        reading.read(&row.reply());
        black_box(rules.classify(&reading));
    });
}

/// The median over rounds of the mean per reply.
fn report(name: &str, rows: &[Row], mut each: impl FnMut(&Row)) {
    let repeat = (20_000 / rows.len()).max(1);
    let mut rounds: Vec<f64> = (0..31)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..repeat {
                rows.iter().for_each(&mut each);
            }
            started.elapsed().as_nanos() as f64 / (repeat * rows.len()) as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("  {name:<26} {:>8.0} ns", rounds[rounds.len() / 2]);
}

fn row(line: &str) -> Row {
    let row: serde_json::Value = serde_json::from_str(line).unwrap();
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    Row {
        code: row["reply_code"].as_u64().unwrap_or_default() as u16,
        enhanced: text("enhanced_code"),
        text: text("diagnostic"),
        command: text("smtp_command"),
        mx: text("mx_host"),
        domain: text("recipient_domain"),
    }
}
