//! Batches and rules, written short.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses some; a test fails by panicking"
)]

use std::fmt::Write;
use std::sync::Arc;

use bounceflow_event::{CategoryCount, PatternCount, RateBatch, RateRow, Source};
use bounceflow_window::{Rules, Settings, SourceState, Transition, Watch};

/// An instant on every grid (a multiple of 24 h), seconds.
pub const DAY: i64 = 19_675 * 86_400;

/// Rules from lines `name | field = value | field = value`.
pub fn rules(lines: &str) -> Arc<Rules> {
    let mut text = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, fields) = line.split_once('|').unwrap();
        writeln!(text, "[[rule]]\nname = \"{}\"\n{}\n", name.trim(), fields.replace('|', "\n")).unwrap();
    }
    Arc::new(Rules::parse(&text, "test.toml").unwrap())
}

pub fn settings() -> Settings {
    Settings { lateness: 30, idle: 30, hold: 600, max_keys: 1000, max_patterns: 1000 }
}

/// `good` deliveries and `bad` hard bounces, in the bucket of `at` (seconds).
pub fn row(at: i64, isp: &'static str, identity: &'static str, good: i64, bad: i64) -> RateRow<'static> {
    let categories = vec![CategoryCount { category: "invalid_recipient", bounces: bad, deferrals: 0, late_bounces: 0 }];
    RateRow {
        bucket: at.div_euclid(10).saturating_mul(10),
        isp,
        identity,
        deliveries: good,
        hard: bad,
        categories,
        ..RateRow::default()
    }
}

pub fn pattern(
    pattern: i64,
    isp: &'static str,
    identity: &'static str,
    count: i64,
    sample: &'static str,
) -> PatternCount<'static> {
    PatternCount { pattern, isp, identity, category: "policy", rule: "a.rule", count, sample }
}

/// A source that got to `at` (seconds).
pub fn at(partition: i32, at: i64) -> Source<'static> {
    Source { topic: "events", partition, max_event_time: Some(at * 1000), ..Source::default() }
}

/// A source that covered nothing and is at its end.
pub fn idle(partition: i32) -> Source<'static> {
    Source { topic: "events", partition, max_event_time: None, end_reached: true, ..Source::default() }
}

/// A source that covered nothing and has more to read.
pub fn stuck(partition: i32) -> Source<'static> {
    Source { topic: "events", partition, max_event_time: None, ..Source::default() }
}

/// A log time in seconds and what was logged.
#[derive(Clone, Debug)]
pub struct Logged(pub i64, pub RateBatch<'static>);

pub fn batch(log: i64, rows: Vec<RateRow<'static>>, sources: Vec<Source<'static>>) -> Logged {
    Logged(log, RateBatch { producer: "p", parts: 1, rows, sources, ..RateBatch::default() })
}

/// Folds, and says what changed.
pub fn fold(watch: &mut Watch, logged: &Logged) -> Vec<Transition> {
    let mut out = Vec::new();
    watch.fold(&logged.1, logged.0 * 1000, &mut out);
    out
}

/// The watermark in seconds since `DAY`.
pub fn watermark(watch: &Watch) -> Option<i64> {
    watch.watermark().map(|ms| ms / 1000 - DAY)
}

/// The state of a partition, its times in seconds since `DAY`.
pub fn state(watch: &Watch, partition: i32) -> String {
    let short = |ms: i64| ms / 1000 - DAY;
    match watch.sources().find(|source| source.partition == partition).map(|source| source.state) {
        None => "unknown".into(),
        Some(SourceState::Current) => "current".into(),
        Some(SourceState::Idle) => "idle".into(),
        Some(SourceState::Behind { since }) => format!("behind since {}", short(since)),
        Some(SourceState::LeftOut { since }) => format!("left out since {}", short(since)),
    }
}

/// `time rule isp/identity state numerator/denominator`, a line each, times in seconds since `DAY`.
pub fn lines(transitions: &[Transition]) -> Vec<String> {
    let line = |t: &Transition| {
        let at = t.event_time / 1000 - DAY;
        format!("{at} {} {}/{} {} {}/{}", t.rule, t.isp, t.identity, t.state.as_str(), t.numerator, t.denominator)
    };
    transitions.iter().map(line).collect()
}
