//! What a slow, a stuck, an idle and a vanished source do to the watermark, step by step.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bounceflow_event::RateBatch;
use bounceflow_window::Watch;
use common::{DAY, Logged, at, batch, fold, idle, lines, rules, settings, state, stuck, watermark};

fn watch() -> Watch {
    Watch::new(rules("r | metric = \"bounce_rate\" | window = \"1m\" | threshold = 0.3"), settings())
}

/// Folds a heartbeat logged `log` seconds after `DAY`; sources are given with their times from `DAY` on.
fn hear(watch: &mut Watch, log: i64, sources: Vec<bounceflow_event::Source<'static>>) -> Vec<String> {
    lines(&fold(watch, &batch(DAY + log, vec![], sources)))
}

#[test]
fn the_watermark_is_the_slowest_source_less_the_lateness_and_never_falls() {
    let mut watch = watch();
    hear(&mut watch, 0, vec![stuck(0)]);
    assert_eq!((watermark(&watch), watch.evaluated_to()), (None, None), "nothing is known of it yet");
    hear(&mut watch, 5, vec![at(0, DAY + 5), at(1, DAY - 20)]);
    assert_eq!(watermark(&watch), Some(-50));
    assert_eq!(watch.evaluated_to(), Some((DAY - 50) * 1000), "the step at or below the first watermark");
    hear(&mut watch, 8, vec![at(1, DAY + 8)]);
    assert_eq!(watermark(&watch), Some(-25));
    assert_eq!(watch.evaluated_to(), Some((DAY - 30) * 1000));
    // A source that comes later, from longer ago; and one whose newer batch covers older events.
    hear(&mut watch, 9, vec![at(2, DAY - 55), at(1, DAY - 500)]);
    assert_eq!(watermark(&watch), Some(-25));
    assert_eq!([0, 1, 2].map(|partition| state(&watch, partition)), ["current", "current", "behind since 9"]);
}

#[test]
fn an_idle_source_follows_the_log() {
    let mut watch = watch();
    hear(&mut watch, 0, vec![at(0, DAY), at(1, DAY)]);
    hear(&mut watch, 100, vec![at(0, DAY + 100), idle(1)]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("idle".into(), Some(40)));
    // Nobody speaks of it: its time stands still.
    hear(&mut watch, 150, vec![at(0, DAY + 150)]);
    assert_eq!(watermark(&watch), Some(40));
    // At its end, with events newer than log time less idle: these count.
    let last = bounceflow_event::Source { end_reached: true, ..at(1, DAY + 190) };
    hear(&mut watch, 200, vec![at(0, DAY + 200), last]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("current".into(), Some(160)));
    // More to read: its events alone count.
    hear(&mut watch, 240, vec![at(0, DAY + 240), stuck(1)]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("current".into(), Some(160)));
}

#[test]
fn a_stuck_source_holds_then_is_left_out_then_comes_back() {
    let mut watch = watch();
    hear(&mut watch, 0, vec![at(0, DAY), at(1, DAY)]);
    hear(&mut watch, 60, vec![at(0, DAY + 60), stuck(1)]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("current".into(), Some(-30)), "60 s are lateness and idle");
    hear(&mut watch, 61, vec![at(0, DAY + 61), stuck(1)]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("behind since 61".into(), Some(-30)));
    let mut said = Vec::new();
    for log in [200, 400, 661] {
        said.extend(hear(&mut watch, log, vec![at(0, DAY + log), stuck(1)]));
        assert_eq!((state(&watch, 1), watermark(&watch)), ("behind since 61".into(), Some(-30)));
    }
    assert!(said.is_empty());
    said = hear(&mut watch, 662, vec![at(0, DAY + 662)]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("left out since 61".into(), Some(632)));
    assert_eq!(said, ["-20 pipeline.source_left_out / firing 1/2"]);
    let alert = watch.firing().next().unwrap().transition.clone();
    assert_eq!(alert.annotations["sources"], "events/1");
    assert_eq!(alert.alert_id, format!("pipeline.source_left_out///{}", DAY - 20));
    // It catches up, but is still behind; then it is not.
    said = hear(&mut watch, 700, vec![at(0, DAY + 700), at(1, DAY + 639)]);
    assert_eq!((state(&watch, 1), watermark(&watch), said.len()), ("left out since 61".into(), Some(670), 0));
    said = hear(&mut watch, 710, vec![at(0, DAY + 710), at(1, DAY + 700)]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("current".into(), Some(670)));
    assert!(said.is_empty(), "no step was passed");
    said = hear(&mut watch, 720, vec![at(0, DAY + 720), at(1, DAY + 720)]);
    assert_eq!(said, ["680 pipeline.source_left_out / resolved 0/2"]);
    assert_eq!(watch.active().count(), 0);
    // Once more: held anew, for as long.
    hear(&mut watch, 1000, vec![at(0, DAY + 1000)]);
    hear(&mut watch, 1600, vec![at(0, DAY + 1600)]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("behind since 1000".into(), Some(690)));
}

#[test]
fn a_late_source_that_moves_on_is_left_out_too_until_it_is_near() {
    let mut watch = watch();
    let mut said = Vec::new();
    for log in (0..=1500).step_by(10) {
        // 500 s behind, then twice as fast as time from 700 s on, until it is 50 s behind.
        let late = if log < 700 { log - 500 } else { (2 * log - 1200).min(log - 50) };
        said.extend(hear(&mut watch, log, vec![at(0, DAY + log), at(1, DAY + late)]));
        if log == 600 {
            assert_eq!((state(&watch, 1), watermark(&watch)), ("behind since 0".into(), Some(70)));
        }
    }
    // Logged at 610: more than 600 s since 0. At 1140 it is 60 s behind, but the watermark had got to 1100 without it.
    assert_eq!(said, ["80 pipeline.source_left_out / firing 1/2", "1110 pipeline.source_left_out / resolved 0/2"]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("current".into(), Some(1420)));
}

#[test]
fn a_source_nobody_lists_any_more_is_forgotten() {
    let mut watch = watch();
    hear(&mut watch, 0, vec![at(0, DAY), at(1, DAY)]);
    let mut said = Vec::new();
    for log in (600..=86_400).step_by(600) {
        said.extend(hear(&mut watch, log, vec![at(0, DAY + log)]));
    }
    assert_eq!((state(&watch, 1), said.len()), ("left out since 600".into(), 1));
    said = hear(&mut watch, 86_410, vec![at(0, DAY + 86_410)]);
    assert_eq!((state(&watch, 1), said), ("unknown".into(), vec!["86380 pipeline.source_left_out / resolved 0/1".into()]));
}

#[test]
fn a_source_of_unknown_time_holds_until_it_is_left_out() {
    let mut watch = watch();
    hear(&mut watch, 0, vec![at(0, DAY)]);
    hear(&mut watch, 10, vec![at(0, DAY + 10), stuck(1)]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("behind since 10".into(), Some(-30)));
    hear(&mut watch, 611, vec![at(0, DAY + 611)]);
    assert_eq!((state(&watch, 1), watermark(&watch)), ("left out since 10".into(), Some(581)));
}

#[test]
fn a_clock_that_is_fast_takes_nothing_along_and_makes_nobody_late() {
    let mut watch = watch();
    for log in (0..2000).step_by(10) {
        hear(&mut watch, log, vec![at(0, DAY + log + 200), at(1, DAY + log - 5), idle(2), at(3, DAY + 1_000_000)]);
    }
    assert_eq!([0, 1, 2, 3].map(|partition| state(&watch, partition)), ["current", "current", "idle", "current"]);
    assert_eq!(watermark(&watch), Some(1990 - 30 - 30), "that of the idle one");
}

#[test]
fn nothing_is_evaluated_before_the_last_part() {
    let mut watch = watch();
    let part = |part, sources| Logged(DAY, RateBatch { producer: "p", part, parts: 3, sources, ..RateBatch::default() });
    fold(&mut watch, &part(0, vec![at(0, DAY)]));
    fold(&mut watch, &part(1, vec![]));
    assert_eq!(watermark(&watch), None);
    // Another producer's parts are its own.
    let other = RateBatch { producer: "q", part: 1, parts: 2, ..RateBatch::default() };
    fold(&mut watch, &Logged(DAY, other));
    assert_eq!(watermark(&watch), None);
    fold(&mut watch, &part(2, vec![]));
    assert_eq!(watermark(&watch), Some(-30));
}
