//! `bounceflow dead-letter list`: how many letters there are, by reason and by time. Erased ones are only a number.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use ratatui::crossterm::terminal;
use serde::Serialize;

use super::Filter;
use super::shelf::{Letter, Place, Shelf, State};
use crate::config::Config;
use crate::evidence::time;
use crate::printable::printable;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Up to so long, time is shown by hours, beyond by days.
const BY_HOURS: i64 = 48 * HOUR;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Letters of one reason.
#[derive(Serialize)]
struct Reason {
    by: &'static str,
    reason: String,
    letters: u64,
    /// Of them, sent again.
    resent: u64,
    first: String,
    last: String,
    /// The latest that waits, or else the latest.
    example: String,
}

/// Letters of one hour or one day.
#[derive(Serialize)]
struct Bucket {
    start: String,
    letters: u64,
    reasons: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Report {
    topic: String,
    letters: u64,
    resent: u64,
    erased: u64,
    /// Records of the topic that are neither letters nor marks.
    foreign: u64,
    reasons: Vec<Reason>,
    bucket_seconds: i64,
    buckets: Vec<Bucket>,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let shelf = Shelf::read(config, |_, _| {})?;
    let report = report(&config.topics.dead_letter, &shelf, &args.filter);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        let width = terminal::size().map(|(width, _)| width).ok().filter(|_| std::io::stdout().is_terminal());
        write!(out, "{}", text(&report, width))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(topic: &str, shelf: &Shelf, filter: &Filter) -> Report {
    let meant: Vec<(&Place, &Letter)> = shelf.letters.iter().filter(|(_, letter)| filter.fits(shelf, letter)).collect();
    let erased = meant.iter().filter(|(_, letter)| letter.state == State::Erased).count() as u64;
    let shown: Vec<_> = meant.into_iter().filter(|(_, letter)| letter.state != State::Erased).collect();
    let times = shown.iter().map(|(_, letter)| letter.time);
    let span = times.clone().max().unwrap_or(0) - times.min().unwrap_or(0);
    let bucket = if span <= BY_HOURS { HOUR } else { DAY };
    let mut reasons: BTreeMap<(&str, &str), Vec<(&Place, &Letter)>> = BTreeMap::new();
    let mut buckets: BTreeMap<i64, BTreeMap<String, u64>> = BTreeMap::new();
    for (place, letter) in &shown {
        let reason = shelf.reason(letter);
        reasons.entry((letter.by.as_str(), reason)).or_default().push((place, letter));
        *buckets.entry(letter.time.div_euclid(bucket) * bucket).or_default().entry(reason.to_owned()).or_default() += 1;
    }
    let mut reasons: Vec<Reason> = reasons.into_iter().map(|((by, reason), letters)| of_reason(by, reason, &letters)).collect();
    reasons.sort_by(|a, b| b.letters.cmp(&a.letters).then_with(|| a.reason.cmp(&b.reason)));
    Report {
        topic: topic.to_owned(),
        letters: shown.len() as u64,
        resent: reasons.iter().map(|r| r.resent).sum(),
        erased,
        foreign: shelf.foreign,
        reasons,
        bucket_seconds: bucket / 1000,
        buckets: buckets
            .into_iter()
            .map(|(start, reasons)| Bucket { start: time(start), letters: reasons.values().sum(), reasons })
            .collect(),
    }
}

fn of_reason(by: &'static str, reason: &str, letters: &[(&Place, &Letter)]) -> Reason {
    let waiting = letters.iter().filter(|(_, letter)| letter.state == State::Waiting);
    let latest = waiting.max_by_key(|(_, l)| l.time).or_else(|| letters.iter().max_by_key(|(_, l)| l.time));
    let times = letters.iter().map(|(_, letter)| letter.time);
    Reason {
        by,
        reason: reason.to_owned(),
        letters: letters.len() as u64,
        resent: letters.iter().filter(|(_, letter)| letter.state == State::Resent).count() as u64,
        first: time(times.clone().min().unwrap_or(0)),
        last: time(times.max().unwrap_or(0)),
        example: latest.map(|(place, _)| place.to_string()).unwrap_or_default(),
    }
}

fn text(report: &Report, width: Option<u16>) -> String {
    let Report { topic, letters, resent, erased, foreign, .. } = report;
    let mut text = format!("{topic}: {letters} dead letters, {resent} of them sent again");
    for (count, what) in [(erased, "erased"), (foreign, "records that are neither letters nor marks")] {
        if *count > 0 {
            text.push_str(&format!(", and {count} {what}"));
        }
    }
    text.push('\n');
    if report.reasons.is_empty() {
        return text;
    }
    let mut table = table(width, &["reason", "by", "letters", "sent again", "first", "last", "example"]);
    for r in &report.reasons {
        table.add_row([
            &printable(&r.reason, false),
            r.by,
            &r.letters.to_string(),
            &r.resent.to_string(),
            short(&r.first),
            short(&r.last),
            &r.example,
        ]);
    }
    text.push_str(&format!("\n{table}\n\n"));
    let unit = if report.bucket_seconds == HOUR / 1000 { "hour (UTC)" } else { "day (UTC)" };
    let mut table = self::table(width, &[unit, "letters", "reasons"]);
    for bucket in &report.buckets {
        let mut reasons: Vec<_> = bucket.reasons.iter().collect();
        reasons.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let reasons: Vec<String> =
            reasons.into_iter().map(|(reason, count)| format!("{} {count}", printable(reason, false))).collect();
        let start = if report.bucket_seconds == HOUR / 1000 {
            &short(&bucket.start)[..16.min(bucket.start.len())]
        } else {
            &bucket.start[..10]
        };
        table.add_row([start, &bucket.letters.to_string(), &reasons.join(", ")]);
    }
    text.push_str(&format!("{table}\n"));
    text
}

fn table(width: Option<u16>, header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    if let Some(width) = width {
        table.set_width(width);
    }
    table
}

/// To the second.
fn short(time: &str) -> &str {
    time.split_once('.').map_or(time.trim_end_matches('Z'), |(seconds, _)| seconds)
}
