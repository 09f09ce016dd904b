//! Transitions are those of a naive reading of the rules: every key, every rule, every step, from all rows ever sent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use bounceflow_event::RateRow;
use bounceflow_window::{Metric, Rule, Scope, Watch};
use common::{DAY, at, batch, fold, lines, row, rules, settings};
use proptest::prelude::*;

const ISPS: [&str; 3] = ["gmail", "yahoo", "local"];
const IDENTITIES: [&str; 2] = ["shop", "news"];
const RULES: &str = r#"
    a | metric = "hard_rate" | window = "1m" | threshold = 0.4 | clear = 0.3 | min_volume = 5 | keep_firing = "40s"
    b | metric = "hard_rate" | window = "15m" | threshold = 0.4 | min_volume = 20 | for = "50s" | keep_firing = "2m"
    c | metric = "bounce_rate" | scope = "isp" | window = "11m" | threshold = 0.35 | min_volume = 1 | keep_firing = "0s"
    d | metric = "category:invalid_recipient" | scope = "overall" | window = "40m" | threshold = 0.3 | clear = 0.3 | min_volume = 1
    e | metric = "hard_rate" | scope = "identity" | identity = "s*" | window = "1h" | threshold = 0.5 | min_volume = 5 | for = "10s"
"#;

/// Seconds; state, start of the episode, clear since.
struct Life {
    firing: bool,
    start: i64,
    clear_since: Option<i64>,
}

#[derive(Default)]
struct Naive {
    rows: Vec<RateRow<'static>>,
    lives: BTreeMap<(usize, &'static str, &'static str), Life>,
    step: Option<i64>,
    said: Vec<String>,
}

impl Naive {
    fn run(&mut self, rules: &[Rule], watermark: i64) {
        let last = watermark.div_euclid(10_000) * 10;
        let first = self.step.map_or(last, |step| step + 10);
        for step in (first..=last).step_by(10) {
            self.step = Some(step);
            for (n, rule) in rules.iter().enumerate() {
                self.judge(n, rule, step);
            }
        }
    }

    fn judge(&mut self, n: usize, rule: &Rule, step: i64) {
        let (isps, identities) = match rule.scope {
            Scope::Overall => (vec![""], vec![""]),
            Scope::Isp => (vec!["gmail", "yahoo"], vec![""]),
            Scope::Identity => (vec![""], vec!["news", "shop"]),
            Scope::IspIdentity => (vec!["gmail", "yahoo"], vec!["news", "shop"]),
        };
        for isp in isps {
            for identity in identities.iter().copied().filter(|identity| rule.applies(isp, identity)) {
                self.judge_key(n, rule, isp, identity, step);
            }
        }
    }

    fn judge_key(&mut self, n: usize, rule: &Rule, isp: &'static str, identity: &'static str, step: i64) {
        let end = step / i64::from(rule.window.slide) * i64::from(rule.window.slide);
        let of_key = |row: &&RateRow<'static>| {
            (end - i64::from(rule.window.length)..end).contains(&row.bucket)
                && (isp.is_empty() || row.isp == isp)
                && (identity.is_empty() || row.identity == identity)
                && (rule.scope == Scope::Identity || row.isp != "local")
        };
        let (mut bad, mut all) = (0, 0);
        for row in self.rows.iter().filter(of_key) {
            bad += row.hard;
            all += row.hard + row.deliveries;
        }
        assert!(!matches!(rule.metric, Metric::Deferred | Metric::Complaint));
        let enough = all >= rule.min_volume.max(1) as i64;
        let breach = enough && bad as f64 >= rule.threshold * all as f64;
        let clear = !enough || (bad as f64) < rule.clear * all as f64;
        let mut said = |state: &str, start: i64| {
            let (at, start) = (step - DAY, start - DAY);
            self.said.push(format!("{at} {} {isp}/{identity} {state} {bad}/{all} {start}", rule.name));
        };
        let key = (n, isp, identity);
        match self.lives.get_mut(&key) {
            None if breach => {
                let firing = rule.hold_for == 0;
                said(if firing { "firing" } else { "pending" }, step);
                self.lives.insert(key, Life { firing, start: step, clear_since: None });
            }
            None => {}
            Some(life) if !life.firing && !breach => {
                said("resolved", life.start);
                self.lives.remove(&key);
            }
            Some(life) if !life.firing && step - life.start >= i64::from(rule.hold_for) => {
                said("firing", life.start);
                life.firing = true;
            }
            Some(life) if !life.firing => {}
            Some(life) if clear => {
                let since = *life.clear_since.get_or_insert(step);
                if step - since >= i64::from(rule.keep_firing) {
                    said("resolved", life.start);
                    self.lives.remove(&key);
                }
            }
            Some(life) => life.clear_since = None,
        }
    }
}

/// How far time moves on, and rows: ISP, identity, how long ago, deliveries, bounces.
type Beat = (i64, Vec<(usize, usize, i64, i64, i64)>);

fn beat() -> impl Strategy<Value = Beat> {
    let forward = prop_oneof![8 => 0..30i64, 2 => 30..300i64, 1 => 300..4000i64];
    let back = prop_oneof![8 => 0..30i64, 2 => 0..300i64, 1 => 0..4000i64];
    let counts = prop_oneof![(0..20i64, 0..3i64), (0..10i64, 0..15i64)];
    let rows = proptest::collection::vec((0..3usize, 0..2usize, back, counts), 0..5);
    (
        forward,
        rows.prop_map(|rows| {
            rows.into_iter().map(|(isp, identity, back, (good, bad))| (isp, identity, back, good, bad)).collect()
        }),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn transitions_are_those_of_a_naive_reading(beats in proptest::collection::vec(beat(), 1..60), begin in 0..3600i64) {
        let rules = rules(RULES);
        let all: Vec<Rule> = rules.iter().cloned().collect();
        let (mut watch, mut naive, mut said, mut now) = (Watch::new(rules, settings()), Naive::default(), Vec::new(), DAY + begin);
        for (forward, rows) in beats {
            now += forward;
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(isp, identity, back, good, bad)| row(now - back, ISPS[isp], IDENTITIES[identity], good, bad))
                .collect();
            naive.rows.extend(rows.iter().cloned());
            let out = fold(&mut watch, &batch(now, rows, vec![at(0, now)]));
            said.extend(std::iter::zip(lines(&out), &out).map(|(line, t)| format!("{line} {}", t.episode_start / 1000 - DAY)));
            naive.run(&all, watch.watermark().unwrap());
            prop_assert_eq!(&said, &naive.said);
            prop_assert_eq!(watch.active().count(), naive.lives.len());
        }
    }
}
