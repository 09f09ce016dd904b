//! Windows say what a naive recount on the same grid says, whatever the order, the windows and the jumps.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use bounceflow_event::{CategoryCount, RateRow};
use bounceflow_window::{Counts, Metric, Rules, Scope, Settings, Watch, WindowSpec};
use common::{DAY, at, batch, fold, pattern, row, rules, settings};
use proptest::prelude::*;

const ISPS: [&str; 4] = ["gmail", "yahoo", "other", "local"];
const IDENTITIES: [&str; 3] = ["shop.example", "news.example", "a"];
const CATEGORIES: [&str; 3] = ["policy", "mailbox_full", "spam_content"];

/// One batch: how far the newest event moves on, and rows by how long before it they happened.
#[derive(Clone, Debug)]
struct Step {
    forward: i64,
    rows: Vec<(i64, RateRow<'static>)>,
}

fn window() -> impl Strategy<Value = WindowSpec> {
    let valid = |lengths: &mut dyn Iterator<Item = u32>| -> Vec<WindowSpec> {
        lengths.filter_map(|length| WindowSpec::new(length).ok()).collect()
    };
    let short = valid(&mut (60..=900).step_by(10));
    let middle = valid(&mut (900..=7200).step_by(10));
    let long = valid(&mut (7200..=86_400).step_by(10));
    prop_oneof![4 => proptest::sample::select(short), 3 => proptest::sample::select(middle), 1 => proptest::sample::select(long)]
}

fn any_row() -> impl Strategy<Value = RateRow<'static>> {
    let categories = proptest::collection::vec((proptest::sample::select(&CATEGORIES[..]), 0..5i64, 0..5i64, 0..5i64), 0..3);
    let counts = proptest::array::uniform9(prop_oneof![Just(0), 0..40i64]);
    (proptest::sample::select(&ISPS[..]), proptest::sample::select(&IDENTITIES[..]), counts, categories).prop_map(
        |(isp, identity, counts, categories)| {
            let [deliveries, first_attempts, hard, soft, deferred, blocked, complaints, late_bounces, drops] = counts;
            let category =
                |(category, bounces, deferrals, late_bounces)| CategoryCount { category, bounces, deferrals, late_bounces };
            let categories = categories.into_iter().map(category).collect();
            RateRow {
                bucket: 0,
                isp,
                identity,
                sending_ip: "192.0.2.1",
                campaign: "c",
                deliveries,
                first_attempts,
                hard,
                soft,
                deferred,
                blocked,
                blocked_deferrals: 0,
                complaints,
                late_bounces,
                drops,
                categories,
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let forward = prop_oneof![4 => 0..40i64, 3 => 0..900i64, 2 => 0..10_000i64, 1 => 0..100_000i64];
    let back = prop_oneof![6 => 0..60i64, 2 => -300..900i64, 2 => 0..10_000i64, 1 => 0..100_000i64];
    (forward, proptest::collection::vec((back, any_row()), 0..7)).prop_map(|(forward, rows)| Step { forward, rows })
}

fn of_windows(windows: &[WindowSpec]) -> Arc<Rules> {
    let mut lines = String::new();
    for (n, window) in windows.iter().enumerate() {
        let scope = Scope::ALL[n % 4];
        writeln!(
            lines,
            "r{n} | scope = \"{scope}\" | metric = \"bounce_rate\" | window = \"{}s\" | threshold = 1.0 | min_volume = 1_000_000",
            window.length
        )
        .unwrap();
    }
    rules(&lines)
}

type Key = (Scope, &'static str, &'static str);

fn keys_of(isp: &'static str, identity: &'static str) -> Vec<Key> {
    match isp {
        "local" => vec![(Scope::Identity, "", identity)],
        _ => vec![
            (Scope::Overall, "", ""),
            (Scope::Isp, isp, ""),
            (Scope::Identity, "", identity),
            (Scope::IspIdentity, isp, identity),
        ],
    }
}

/// Adds up every row that was ever sent.
#[derive(Default)]
struct Naive(BTreeMap<Key, Vec<RateRow<'static>>>);

impl Naive {
    fn add(&mut self, row: &RateRow<'static>) {
        for key in keys_of(row.isp, row.identity) {
            self.0.entry(key).or_default().push(row.clone());
        }
    }

    fn within(&self, key: Key, from: i64, to: i64) -> impl Iterator<Item = &RateRow<'static>> {
        self.0.get(&key).into_iter().flatten().filter(move |row| (from..to).contains(&row.bucket))
    }

    fn counts(&self, key: Key, from: i64, to: i64) -> Counts {
        let mut total = Counts::default();
        for row in self.within(key, from, to) {
            total.deliveries += row.deliveries as u64;
            total.first_attempts += row.first_attempts as u64;
            total.hard += row.hard as u64;
            total.soft += row.soft as u64;
            total.deferred += row.deferred as u64;
            total.blocked += row.blocked as u64;
            total.complaints += row.complaints as u64;
            total.late_bounces += row.late_bounces as u64;
        }
        total
    }

    fn categories(&self, key: Key, from: i64, to: i64) -> Vec<(&'static str, [u64; 3])> {
        let mut totals: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
        for counted in self.within(key, from, to).flat_map(|row| &row.categories) {
            let total = totals.entry(counted.category).or_default();
            total[0] += counted.bounces as u64;
            total[1] += counted.deferrals as u64;
            total[2] += counted.late_bounces as u64;
        }
        let mut totals: Vec<_> = totals.into_iter().filter(|(_, counts)| counts.iter().sum::<u64>() > 0).collect();
        totals.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.iter().sum::<u64>()));
        totals
    }
}

fn compare(watch: &Watch, naive: &Naive, windows: &[WindowSpec]) {
    let Some(step) = watch.windows().step() else { return };
    let windows_of = watch.windows();
    let held: BTreeSet<_> = windows_of.keys().collect();
    for key in naive.0.keys().copied() {
        let (scope, isp, identity) = key;
        for window in windows {
            let (length, slide) = (i64::from(window.length), i64::from(window.slide));
            let to = step / 1000 / slide * slide;
            let expected = naive.counts(key, to - length, to);
            let said = windows_of.counts(scope, isp, identity, *window);
            assert_eq!(said.unwrap_or_default(), expected, "{key:?} {window:?} at {step}");
            assert_eq!(said.is_some(), held.contains(&key));
            if said.is_none() {
                continue;
            }
            let categories = windows_of.categories(scope, isp, identity, *window).into_iter();
            let categories: Vec<_> = categories.map(|c| (c.category, [c.bounces, c.deferrals, c.late_bounces])).collect();
            assert_eq!(categories, naive.categories(key, to - length, to), "{key:?} {window:?} at {step}");
            let slots = (length / slide).min(60);
            if *window == windows[0] && length % (slots * slide) == 0 {
                let spark = windows_of.spark(scope, isp, identity, *window, slots as usize);
                let part = length / slots;
                let expected: Vec<_> =
                    (0..slots).map(|n| naive.counts(key, to - length + n * part, to - length + (n + 1) * part)).collect();
                assert_eq!(spark, expected, "{key:?} {window:?} at {step}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_equal_a_naive_recount(
        windows in proptest::collection::vec(window(), 1..6),
        begin in 0..200_000i64,
        steps in proptest::collection::vec(step(), 1..9),
    ) {
        let mut watch = Watch::new(of_windows(&windows), Settings { lateness: 30, ..settings() });
        let (mut naive, mut newest) = (Naive::default(), DAY + begin);
        for Step { forward, rows } in steps {
            newest += forward;
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(back, row)| RateRow { bucket: (newest - back).div_euclid(10) * 10, ..row })
                .collect();
            rows.iter().for_each(|row| naive.add(row));
            // In an order of its own: the batch's.
            fold(&mut watch, &batch(newest + 5, rows, vec![at(0, newest)]));
            compare(&watch, &naive, &windows);
        }
        // Whatever was counted is forgotten once it is in no window.
        fold(&mut watch, &batch(newest + 100_000, vec![], vec![at(0, newest + 100_000)]));
        prop_assert_eq!(watch.windows().len(), 0);
    }
}

const MINUTE: WindowSpec = WindowSpec { length: 60, slide: 10 };

fn minute() -> Watch {
    Watch::new(rules("r | metric = \"bounce_rate\" | window = \"1m\" | threshold = 0.3"), settings())
}

#[test]
fn local_failures_count_for_the_identity_alone() {
    let mut watch = minute();
    let rows = vec![row(DAY, "local", "shop", 0, 5), row(DAY, "gmail", "shop", 10, 1)];
    fold(&mut watch, &batch(DAY + 60, rows, vec![at(0, DAY + 60)]));
    let hard = |scope, isp, identity| watch.windows().counts(scope, isp, identity, MINUTE).map(|counts| counts.hard);
    assert_eq!(hard(Scope::Overall, "", ""), Some(1));
    assert_eq!(hard(Scope::Isp, "local", ""), None);
    assert_eq!(hard(Scope::IspIdentity, "local", "shop"), None);
    assert_eq!(hard(Scope::Identity, "", "shop"), Some(6));
}

#[test]
fn what_cannot_be_counted_is_refused_by_reason() {
    let mut watch = Watch::new(
        rules("r | metric = \"bounce_rate\" | window = \"1m\" | threshold = 0.3"),
        Settings { max_keys: 4, max_patterns: 1, ..settings() },
    );
    fold(&mut watch, &batch(DAY, vec![], vec![at(0, DAY)]));
    let mut logged = batch(
        DAY,
        vec![
            row(DAY - 100, "gmail", "shop", 1, 0),
            row(DAY - 90, "gmail", "shop", 1, 0),
            row(DAY + 600, "gmail", "shop", 1, 0),
            row(DAY + 610, "gmail", "shop", 1, 0),
            row(i64::MAX, "gmail", "shop", 1, 0),
            row(i64::MIN, "gmail", "shop", 1, 0),
            row(DAY, "gmail", "news", 1, 0),
            row(DAY, "gmail", "news", 1, 0),
            RateRow { drops: 1, ..RateRow::default() },
        ],
        vec![],
    );
    logged.1.patterns =
        vec![pattern(1, "gmail", "shop", 1, "x"), pattern(2, "gmail", "shop", 1, "x"), pattern(1, "gmail", "news", 1, "x")];
    fold(&mut watch, &logged);
    let refused: Vec<_> = watch.refused().collect();
    assert_eq!(
        refused,
        [("too_old", 2), ("too_far_ahead", 2), ("keys_full", 2), ("patterns_full", 1), ("pattern_without_key", 1)]
    );
    assert_eq!(watch.windows().len(), 4);
    let overall = |watch: &Watch| watch.windows().counts(Scope::Overall, "", "", MINUTE).unwrap().deliveries;
    assert_eq!(overall(&watch), 1, "a row behind the last step shows at once");
    fold(&mut watch, &batch(DAY + 40, vec![], vec![at(0, DAY + 40)]));
    assert_eq!(overall(&watch), 2, "the keys that were there count rows of others too");
}

#[test]
fn patterns_count_where_their_failures_do_and_lend_the_latest_sample() {
    let mut watch = minute();
    let mut first = batch(
        DAY,
        vec![row(DAY, "gmail", "shop", 0, 5), row(DAY, "yahoo", "shop", 0, 9), row(DAY, "local", "shop", 0, 9)],
        vec![at(0, DAY)],
    );
    first.1.patterns = vec![
        pattern(7, "gmail", "shop", 3, "old"),
        pattern(8, "gmail", "shop", 3, "eight"),
        pattern(7, "yahoo", "shop", 4, "yahoo's"),
        pattern(9, "local", "shop", 9, "own"),
    ];
    fold(&mut watch, &first);
    let mut second = batch(DAY + 70, vec![row(DAY + 30, "gmail", "shop", 0, 1)], vec![at(0, DAY + 70)]);
    second.1.patterns = vec![pattern(7, "gmail", "shop", 1, "new")];
    fold(&mut watch, &second);
    let said = |scope, isp, identity, limit| -> Vec<(i64, u64, String)> {
        let patterns = watch.windows().patterns(scope, isp, identity, MINUTE, limit);
        patterns.into_iter().map(|p| (p.pattern, p.count, p.sample.to_owned())).collect()
    };
    assert_eq!(said(Scope::IspIdentity, "gmail", "shop", 9), [(7, 4, "new".to_owned()), (8, 3, "eight".to_owned())]);
    assert_eq!(said(Scope::Overall, "", "", 1), [(7, 8, "new".to_owned())]);
    assert_eq!(said(Scope::Identity, "", "shop", 1), [(9, 9, "own".to_owned())]);
    // The first ones leave the window, the later one stays.
    fold(&mut watch, &batch(DAY + 100, vec![], vec![at(0, DAY + 100)]));
    let patterns = watch.windows().patterns(Scope::Overall, "", "", MINUTE, 9);
    assert_eq!(patterns.iter().map(|p| (p.pattern, p.count)).collect::<Vec<_>>(), [(7, 1)]);
}

#[test]
fn in_a_backlog_a_pattern_counts_before_the_newest_bucket_of_its_batch() {
    let mut watch = minute();
    let rows = vec![row(DAY + 30, "gmail", "shop", 0, 5), row(DAY + 200, "gmail", "shop", 0, 1)];
    let mut spanning = batch(DAY + 210, rows, vec![at(0, DAY + 100)]);
    spanning.1.patterns = vec![pattern(7, "gmail", "shop", 5, "x")];
    fold(&mut watch, &spanning);
    assert!(watch.evaluated_to().is_some_and(|step| step < 1000 * (DAY + 100)), "the newest bucket is in no window yet");
    let patterns = watch.windows().patterns(Scope::IspIdentity, "gmail", "shop", MINUTE, 9);
    assert_eq!(patterns.iter().map(|p| (p.pattern, p.count)).collect::<Vec<_>>(), [(7, 5)]);
}

#[test]
fn totals_say_of_every_key_what_counts_says() {
    let mut watch = minute();
    let rows = vec![row(DAY, "gmail", "shop", 10, 1), row(DAY + 10, "yahoo", "shop", 20, 2), row(DAY, "gmail", "news", 5, 5)];
    fold(&mut watch, &batch(DAY + 50, rows, vec![at(0, DAY + 50)]));
    for scope in Scope::ALL {
        let mut seen = 0;
        for (isp, identity, counts) in watch.windows().totals(scope, MINUTE) {
            assert_eq!(watch.windows().counts(scope, isp, identity, MINUTE), Some(counts));
            let figures = watch.windows().metric(scope, isp, identity, MINUTE, &Metric::Category("invalid_recipient".into()));
            assert_eq!(figures, Some((counts.hard, counts.outcomes())));
            seen += 1;
        }
        assert_eq!(seen, watch.windows().keys().filter(|(s, ..)| *s == scope).count());
    }
    assert_eq!(watch.windows().totals(Scope::Isp, WindowSpec { length: 120, slide: 10 }).count(), 0, "no rule asks for it");
}
