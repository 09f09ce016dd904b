//! The life of alerts, scripted: what rows come when, and which transitions follow.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use bounceflow_event::CategoryCount;
use bounceflow_window::{Rules, State, Transition, Watch};
use common::{DAY, at, batch, fold, lines, pattern, row, rules, settings};

/// A batch every 10 s with the given deliveries and bounces, so that the minute before each step holds the last six.
fn play(watch: &mut Watch, from: i64, counts: &[(i64, i64)]) -> Vec<Transition> {
    let mut out = Vec::new();
    for ((good, bad), n) in counts.iter().zip(0..) {
        let begin = DAY + from + n * 10;
        // Its bucket is whole at the next step, and the watermark reaches just that.
        let heard = begin + 10 + 30;
        out.extend(fold(watch, &batch(heard, vec![row(begin, "gmail", "shop", *good, *bad)], vec![at(0, heard)])));
    }
    out
}

fn script(rule: &str, counts: &[(i64, i64)]) -> Vec<String> {
    let line = format!("r | scope = \"overall\" | metric = \"hard_rate\" | window = \"1m\" | {rule}");
    lines(&play(&mut Watch::new(rules(&line), settings()), 0, counts))
}

/// `n` times the same.
fn times(n: usize, counts: (i64, i64)) -> Vec<(i64, i64)> {
    vec![counts; n]
}

#[test]
fn without_for_and_keep_firing_it_fires_and_resolves_at_once() {
    let counts = [times(2, (10, 0)), times(1, (0, 20)), times(6, (10, 0))].concat();
    let rule = "threshold = 0.25 | clear = 0.25 | min_volume = 10 | keep_firing = \"0s\"";
    // At 30: 20 of 40. At 80: 20 of 70. At 90 the bounces have left.
    assert_eq!(script(rule, &counts), ["30 r / firing 20/40", "90 r / resolved 0/60"]);
}

#[test]
fn for_is_how_long_it_breaches_first() {
    let rule = "threshold = 0.5 | min_volume = 1 | for = \"30s\" | keep_firing = \"0s\"";
    let steady = times(8, (0, 10));
    assert_eq!(script(rule, &steady), ["10 r / pending 10/10", "40 r / firing 40/40"]);
    // 50: 30 of 90; it breached for 20 s only, and the next breach is another episode.
    let broken = [times(3, (0, 10)), times(1, (60, 0)), times(6, (0, 40))].concat();
    let said = ["10 r / pending 10/10", "40 r / resolved 30/90", "50 r / pending 70/130", "80 r / firing 170/230"];
    assert_eq!(script(rule, &broken), said);
}

#[test]
fn a_pending_alert_between_the_levels_is_over() {
    let rule = "threshold = 0.5 | clear = 0.1 | min_volume = 1 | for = \"30s\"";
    assert_eq!(script(rule, &[(0, 10), (15, 0), (10, 0)]), ["10 r / pending 10/10", "20 r / resolved 10/25"]);
}

#[test]
fn keep_firing_is_how_long_it_is_clear_and_between_the_levels_is_not_clear() {
    let rule = "threshold = 0.5 | clear = 0.2 | min_volume = 1 | keep_firing = \"30s\"";
    // From 20 on between the levels (3 of 10), so it keeps firing as long as that lasts.
    let between = [times(1, (0, 10)), times(20, (7, 3))].concat();
    assert_eq!(script(rule, &between), ["10 r / firing 10/10"]);
    // Clear from 50 on: 10 of 58.
    let clear = [times(1, (0, 10)), times(9, (12, 0))].concat();
    assert_eq!(script(rule, &clear), ["10 r / firing 10/10", "80 r / resolved 0/72"]);
    // Clear at 50 and 60 only, then 20 of 80 until 120: begins anew at 130.
    let counts = [times(1, (0, 10)), times(5, (12, 0)), times(1, (0, 20)), times(13, (12, 0))].concat();
    assert_eq!(script(rule, &counts), ["10 r / firing 10/10", "160 r / resolved 0/72"]);
}

#[test]
fn too_little_volume_is_clear() {
    let rule = "threshold = 0.5 | min_volume = 20 | keep_firing = \"20s\"";
    let counts = [times(2, (0, 10)), times(12, (0, 0))].concat();
    assert_eq!(script(rule, &times(1, (0, 19))), Vec::<String>::new());
    // 20 of 20 until 60; 10 of 10 at 70, nothing at 80 and 90.
    assert_eq!(script(rule, &counts), ["20 r / firing 20/20", "90 r / resolved 0/0"]);
}

#[test]
fn a_key_that_is_forgotten_is_clear() {
    let line = "r | metric = \"hard_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1 | keep_firing = \"20m\"";
    let mut watch = Watch::new(rules(line), settings());
    let mut said = lines(&play(&mut watch, 0, &[(0, 10)]));
    said.extend(lines(&fold(&mut watch, &batch(DAY + 1000, vec![], vec![at(0, DAY + 1000)]))));
    assert_eq!((watch.windows().len(), watch.firing().count()), (0, 1));
    let alert = watch.active().next().unwrap();
    assert_eq!((alert.numerator, alert.denominator, alert.fired_at), (0, 0, Some((DAY + 10) * 1000)));
    said.extend(lines(&fold(&mut watch, &batch(DAY + 2000, vec![], vec![at(0, DAY + 2000)]))));
    assert_eq!(said, ["10 r gmail/shop firing 10/10", "1270 r gmail/shop resolved 0/0"]);
}

#[test]
fn one_step_speaks_in_the_order_of_the_file_then_of_the_keys() {
    let mut watch = Watch::new(
        rules(
            "z | scope = \"isp\" | metric = \"hard_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1
             a | scope = \"isp_identity\" | isp = [\"g*\", \"yahoo\"] | metric = \"hard_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1",
        ),
        settings(),
    );
    let rows = ["yahoo", "other", "gmail"].iter().flat_map(|isp| ["shop", "news"].map(|identity| row(DAY, isp, identity, 0, 5)));
    let said = lines(&fold(&mut watch, &batch(DAY + 40, rows.collect(), vec![at(0, DAY + 40)])));
    let expected = [
        "10 z gmail/ firing 10/10",
        "10 z other/ firing 10/10",
        "10 z yahoo/ firing 10/10",
        "10 a gmail/news firing 5/5",
        "10 a gmail/shop firing 5/5",
        "10 a yahoo/news firing 5/5",
        "10 a yahoo/shop firing 5/5",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_transition_carries_its_evidence() {
    let line = "r | metric = \"deferred_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1 | severity = \"critical\" \
                | annotations = { summary = \"look\" }";
    let mut watch = Watch::new(rules(line), settings());
    let category = |category, deferrals, bounces| CategoryCount { category, bounces, deferrals, late_bounces: 0 };
    let mut counted = row(DAY, "gmail", "shop", 10, 40);
    counted.deferred = 60;
    counted.categories = vec![
        category("b", 5, 0),
        category("a", 5, 90),
        category("c", 9, 0),
        category("d", 1, 0),
        category("e", 2, 0),
        category("f", 3, 0),
    ];
    counted.categories.push(category("none", 0, 90));
    let mut logged = batch(DAY + 40, vec![counted], vec![at(0, DAY + 40)]);
    logged.1.patterns = vec![pattern(-5, "gmail", "shop", 3, "421 later"), pattern(9, "gmail", "shop", 2, "x")];
    let said = fold(&mut watch, &logged);
    let of = |name: &str, count| (name.to_owned(), count);
    let expected = Transition {
        alert_id: format!("r/gmail/shop/{}", DAY + 10),
        rule: "r".into(),
        state: State::Firing,
        severity: bounceflow_window::AlertSeverity::Critical,
        isp: "gmail".into(),
        identity: "shop".into(),
        episode_start: (DAY + 10) * 1000,
        event_time: (DAY + 10) * 1000,
        metric: "deferred_rate".into(),
        window_seconds: 60,
        threshold: 0.5,
        numerator: 60,
        denominator: 110,
        categories: vec![of("c", 9), of("a", 5), of("b", 5), of("f", 3), of("e", 2)],
        pattern: -5,
        pattern_rule: "a.rule".into(),
        pattern_category: "policy".into(),
        sample: "421 later".into(),
        annotations: [("summary".to_owned(), "look".to_owned())].into(),
    };
    assert_eq!(said, [expected]);
}

fn two() -> Arc<Rules> {
    rules(
        "kept | metric = \"hard_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1
         gone | metric = \"hard_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1 | keep_firing = \"1h\"",
    )
}

#[test]
fn alerts_of_a_rule_that_is_gone_or_looks_elsewhere_end_at_the_first_step() {
    let mut watch = Watch::new(two(), settings());
    let recorded = play(&mut watch, 0, &times(3, (0, 10)));
    assert_eq!(lines(&recorded), ["10 kept gmail/shop firing 10/10", "10 gone gmail/shop firing 10/10"]);
    let restart = |rules| {
        let mut watch = Watch::resume(rules, settings(), watch.evaluated_to(), None, recorded.clone());
        let out = lines(&play(&mut watch, 0, &times(6, (0, 10))));
        (out, watch.firing().count())
    };
    assert_eq!(restart(two()), (vec![], 2));
    let kept = "kept | metric = \"hard_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1";
    assert_eq!(restart(rules(kept)), (vec!["40 gone gmail/shop resolved 10/10".into()], 1));
    let narrowed = "gone | isp = \"yahoo\" | metric = \"hard_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1";
    let both = vec!["40 gone gmail/shop resolved 10/10".into(), "40 kept gmail/shop resolved 10/10".into()];
    assert_eq!(restart(rules(narrowed)), (both, 0));
}

#[test]
fn a_rule_that_is_new_is_judged_at_the_first_step_though_nothing_moves() {
    let old = "old | metric = \"hard_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1";
    let mut watch = Watch::new(rules(old), settings());
    let recorded = play(&mut watch, -200, &times(3, (0, 10)));
    let both = format!("{old}\nnew | metric = \"hard_rate\" | window = \"1h\" | threshold = 0.5 | min_volume = 1");
    let mut watch = Watch::resume(rules(&both), settings(), watch.evaluated_to(), None, recorded);
    assert_eq!(lines(&play(&mut watch, -200, &times(4, (0, 10)))), ["-160 new gmail/shop firing 20/20"]);
}

#[test]
fn a_rule_is_judged_once_the_log_covers_its_window_and_taken_from_the_record_until_then() {
    let line = "short | metric = \"hard_rate\" | window = \"1m\" | threshold = 0.5 | min_volume = 1 | keep_firing = \"2m\"
                long | metric = \"hard_rate\" | window = \"5m\" | threshold = 0.5 | min_volume = 1 | keep_firing = \"0s\"";
    let counts = [times(17, (0, 10)), times(25, (20, 0))].concat();
    let mut whole = Watch::new(rules(line), settings());
    let recorded = play(&mut whole, 0, &counts);
    let said = [
        "10 short gmail/shop firing 10/10",
        "10 long gmail/shop firing 10/10",
        "300 long gmail/shop resolved 170/430",
        "320 short gmail/shop resolved 0/120",
    ];
    assert_eq!(lines(&recorded), said);
    // A new replica that reads from 100 s on.
    let mut replica = Watch::resume(rules(line), settings(), None, Some((DAY + 100) * 1000), recorded.clone());
    let unjudged = |watch: &Watch| watch.unjudged().map(|rule| rule.name.clone()).collect::<Vec<_>>();
    assert_eq!(unjudged(&replica), ["short", "long"]);
    assert_eq!(lines(&play(&mut replica, 100, &counts[10..15])), Vec::<String>::new());
    assert_eq!((unjudged(&replica), replica.firing().count()), (vec!["short".into(), "long".into()], 2));
    // From 160 on the short one is judged. The end of the long one is recorded at 300; it is judged from 400 on.
    assert_eq!(lines(&play(&mut replica, 150, &counts[15..28])), Vec::<String>::new());
    assert_eq!((unjudged(&replica), replica.firing().count()), (vec!["long".into()], 2));
    assert_eq!(play(&mut replica, 280, &counts[28..]), recorded[3..]);
    assert_eq!((unjudged(&replica), replica.firing().count()), (vec![], 0));
    assert_eq!(unjudged(&whole), Vec::<String>::new());
}

#[test]
fn a_rate_of_just_the_threshold_breaches() {
    for (bad, of, threshold) in [(7, 100, "0.07"), (14, 100, "0.14"), (55, 100, "0.55"), (21, 300, "0.07")] {
        let said = script(&format!("threshold = {threshold} | min_volume = 1"), &[(of - bad, bad)]);
        assert_eq!(said, [format!("10 r / firing {bad}/{of}")]);
        let said = script(&format!("threshold = {threshold} | min_volume = 1"), &[(of - bad + 1, bad)]);
        assert_eq!(said, Vec::<String>::new(), "{bad} of {}", of + 1);
    }
}
