//! Same log, same transitions: however its batches are split, and however often the reader is restarted.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use bounceflow_event::{PatternCount, RateBatch, RateRow, Source};
use bounceflow_window::{AHEAD_SECONDS, Rules, Settings, Transition, Watch};
use common::{DAY, Logged, row, rules};
use proptest::prelude::*;

const ISPS: [&str; 3] = ["gmail", "yahoo", "local"];
const IDENTITIES: [&str; 2] = ["shop", "news"];
const TOPICS: [&str; 3] = ["a", "b", "c"];
const PRODUCERS: [&str; 3] = ["p/0", "p/1", "p/2"];

/// What a source does for a while.
#[derive(Clone, Copy, Debug)]
enum Mode {
    /// New events, this long before the log's time.
    Current(i64),
    Idle,
    Stuck,
    Silent,
}

/// A stretch of the log.
#[derive(Clone, Debug)]
struct Stretch {
    batches: Vec<Beat>,
    /// Log time from one batch to the next.
    every: i64,
    modes: [Mode; 3],
    /// Bounces per row, of 10.
    bad: i64,
}

/// One batch: source, rows (ISP, identity, how much older than the newest event, more bounces), pattern.
#[derive(Clone, Debug)]
struct Beat {
    source: usize,
    rows: Vec<(usize, usize, i64, i64)>,
    pattern: i64,
}

fn beat() -> impl Strategy<Value = Beat> {
    let lag = prop_oneof![6 => 0..25i64, 2 => -60..120i64, 1 => 0..1000i64];
    let rows = proptest::collection::vec((0..3usize, 0..2usize, lag, 0..4i64), 0..4);
    (0..3usize, rows, 0..4i64).prop_map(|(source, rows, pattern)| Beat { source, rows, pattern })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        5 => (0..8i64).prop_map(Mode::Current),
        1 => (8..2000i64).prop_map(Mode::Current),
        2 => Just(Mode::Idle),
        1 => Just(Mode::Stuck),
        1 => Just(Mode::Silent),
    ]
}

fn stretch() -> impl Strategy<Value = Stretch> {
    let every = prop_oneof![5 => 1..12i64, 1 => 12..60i64];
    let modes = [mode(), mode(), mode()];
    (proptest::collection::vec(beat(), 1..25), every, modes, 0..6i64).prop_map(|(batches, every, modes, bad)| Stretch {
        batches,
        every,
        modes,
        bad,
    })
}

/// So much log that what was before is not read again after a restart.
fn pause() -> impl Strategy<Value = Stretch> {
    (proptest::collection::vec(beat(), 150..160), [mode(), mode(), mode()]).prop_map(|(batches, modes)| Stretch {
        batches,
        every: 700,
        modes,
        bad: 0,
    })
}

fn log(stretches: &[Stretch]) -> Vec<Logged> {
    let (mut log_time, mut newest, mut log) = (DAY, [DAY; 3], Vec::new());
    for stretch in stretches {
        for Beat { source, rows, pattern } in &stretch.batches {
            log_time += stretch.every;
            let mode = stretch.modes[*source];
            let mut batch = RateBatch { producer: PRODUCERS[*source], parts: 1, ..RateBatch::default() };
            let mut listed = Source { topic: TOPICS[*source], partition: 3, ..Source::default() };
            match mode {
                Mode::Silent => continue,
                Mode::Idle => listed.end_reached = true,
                Mode::Stuck => {}
                Mode::Current(behind) => {
                    newest[*source] = newest[*source].max(log_time - behind);
                    listed.max_event_time = Some(newest[*source] * 1000 + 7);
                    batch.rows = rows
                        .iter()
                        .map(|(isp, identity, back, more)| {
                            let bad = stretch.bad + more;
                            row(newest[*source] - back, ISPS[*isp], IDENTITIES[*identity], 10 - bad, bad)
                        })
                        .collect();
                    if let (Some(row), true) = (batch.rows.first(), *pattern > 0) {
                        let sample = ["one", "two", "three", "four"][(log_time % 4) as usize];
                        let counted = PatternCount {
                            pattern: *pattern,
                            isp: row.isp,
                            identity: row.identity,
                            count: 2,
                            sample,
                            ..PatternCount::default()
                        };
                        batch.patterns.push(counted);
                    }
                }
            }
            batch.sources.push(listed);
            log.push(Logged(log_time, batch));
        }
    }
    log
}

fn some_rules() -> Arc<Rules> {
    rules(
        r#"
        pair      | metric = "hard_rate" | window = "1m" | threshold = 0.4 | clear = 0.3 | min_volume = 10 | keep_firing = "30s"
        pair-for  | metric = "hard_rate" | window = "5m" | threshold = 0.4 | min_volume = 20 | for = "40s" | keep_firing = "2m"
        gmail     | metric = "bounce_rate" | scope = "isp" | isp = "g*" | window = "90s" | threshold = 0.35 | min_volume = 1 | keep_firing = "0s"
        all       | metric = "category:invalid_recipient" | scope = "overall" | window = "11m" | threshold = 0.3 | clear = 0.3 | min_volume = 30 | for = "1m"
        sender    | metric = "hard_rate" | scope = "identity" | window = "2m" | threshold = 0.5 | min_volume = 5 | for = "10s" | keep_firing = "10m"
        "#,
    )
}

/// What every batch of the log brought about.
fn live(watch: &mut Watch, log: &[Logged]) -> Vec<Transition> {
    let mut out = Vec::new();
    log.iter().for_each(|Logged(at, batch)| watch.fold(batch, at * 1000, &mut out));
    out
}

/// Reads again from far enough back, as whoever restarts does.
fn resumed(settings: Settings, evaluated_to: Option<i64>, recorded: Vec<Transition>, log: &[Logged]) -> (Watch, Vec<Transition>) {
    let rules = some_rules();
    let back = evaluated_to.map(|to| to / 1000 - i64::from(Watch::lookback(&rules, &settings)));
    let first = back.map_or(0, |back| log.partition_point(|Logged(at, _)| *at < back));
    // Not from the first record on, which may be long after the time that was sought: all logged since then is read.
    let complete_from = back.filter(|_| first > 0).map(|back| (back + i64::from(AHEAD_SECONDS)) * 1000);
    let mut watch = Watch::resume(rules, settings, evaluated_to, complete_from, recorded);
    let out = live(&mut watch, &log[first..]);
    (watch, out)
}

fn settings() -> impl Strategy<Value = Settings> {
    (0..4u32, 0..4u32, 0..300u32).prop_map(|(lateness, idle, hold)| Settings {
        lateness: lateness * 10,
        idle: idle * 15,
        hold,
        max_keys: 100,
        max_patterns: 100,
    })
}

/// Restarted at `point`, then at `again` (both shares of the log), every life ends as if there had been one.
fn check(stretches: &[Stretch], settings: Settings, point: f64, again: f64) -> Result<(), TestCaseError> {
    let log = log(stretches);
    let place = |share: f64| (share * log.len() as f64) as usize;
    let (first, second) = (place(point.min(again)), place(point.max(again)));
    let mut whole = Watch::new(some_rules(), settings);
    let mut expected = live(&mut whole, &log[..first]);
    let (to, recorded) = (whole.evaluated_to(), expected.clone());
    expected.extend(live(&mut whole, &log[first..]));

    let (mut once, _) = resumed(settings, to, recorded.clone(), &[]);
    prop_assert_eq!(once.evaluated_to(), to);
    let mut all = recorded.clone();
    // Another replica was ahead: what it recorded after the last step evaluated here is decided again.
    let mut known = expected.clone();
    known.extend(recorded);
    known.reverse();
    let out;
    (once, out) = resumed(settings, to, known, &log[..second]);
    all.extend(out);
    let (twice, out) = resumed(settings, once.evaluated_to(), all.clone(), &log);
    all.extend(out);
    prop_assert_eq!(&all, &expected);
    prop_assert_eq!(twice.active().collect::<Vec<_>>(), whole.active().collect::<Vec<_>>());
    prop_assert_eq!((twice.evaluated_to(), twice.watermark()), (whole.evaluated_to(), whole.watermark()));
    Ok(())
}

/// The same batch in parts: rows cut anywhere, sources in the first, patterns in the last.
fn split(Logged(at, batch): &Logged, cuts: &[usize]) -> Vec<Logged> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (batch.rows.len() + 1)).collect();
    places.sort_unstable();
    let ends: Vec<usize> = places.into_iter().chain([batch.rows.len()]).collect();
    let parts = ends.len() as i32;
    let mut begin = 0;
    let part = |(n, end): (usize, &usize)| {
        let rows: Vec<RateRow<'static>> = batch.rows[begin..*end].to_vec();
        begin = *end;
        let sources = if n == 0 { batch.sources.clone() } else { Vec::new() };
        let patterns = if n as i32 + 1 == parts { batch.patterns.clone() } else { Vec::new() };
        Logged(*at, RateBatch { part: n as i32, parts, rows, sources, patterns, ..batch.clone() })
    };
    ends.iter().enumerate().map(part).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn restarts_change_nothing(
        stretches in proptest::collection::vec(stretch(), 1..9), settings in settings(), point in 0.0..1.0f64, again in 0.0..1.0f64,
    ) {
        check(&stretches, settings, point, again)?;
    }

    #[test]
    fn splitting_changes_nothing(
        stretches in proptest::collection::vec(stretch(), 1..6),
        settings in settings(),
        cuts in proptest::collection::vec(proptest::collection::vec(0..9usize, 0..3), 1..9),
    ) {
        let log = log(&stretches);
        let parts: Vec<Logged> = log.iter().zip(cuts.iter().cycle()).flat_map(|(logged, cuts)| split(logged, cuts)).collect();
        let expected = live(&mut Watch::new(some_rules(), settings), &log);
        prop_assert_eq!(live(&mut Watch::new(some_rules(), settings), &parts), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn restarts_that_read_a_part_of_the_log_change_nothing(
        before in proptest::collection::vec(stretch(), 1..6),
        pause in pause(),
        after in proptest::collection::vec(stretch(), 1..9),
        settings in settings(),
        point in 0.5..1.0f64,
        again in 0.5..1.0f64,
    ) {
        let stretches: Vec<Stretch> = before.into_iter().chain([pause]).chain(after).collect();
        check(&stretches, settings, point, again)?;
    }
}
