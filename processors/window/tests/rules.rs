//! Rule files: what is read from good ones, and everything that is said about bad ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bounceflow_window::{AlertSeverity, Metric, Rules, Scope, WindowSpec};
use proptest::prelude::*;

fn mistakes(text: &str) -> String {
    Rules::parse(text, "rules.toml").expect_err("the file has mistakes").to_string()
}

/// A file of one rule that is good, with more lines.
fn rule(lines: &str) -> String {
    let rest = [("metric", "\"hard_rate\""), ("window", "\"15m\""), ("threshold", "0.05")];
    let rest = rest.iter().filter(|(field, _)| !lines.lines().any(|line| line.starts_with(&format!("{field} "))));
    let rest: String = rest.map(|(field, value)| format!("{field} = {value}\n")).collect();
    format!("[[rule]]\nname = \"a\"\n{rest}{lines}")
}

#[test]
fn the_builtin_rules_are_read() {
    let rules = Rules::builtin().expect("the builtin rules have no mistake");
    let told: Vec<String> = rules
        .iter()
        .map(|r| {
            let WindowSpec { length, slide } = r.window;
            format!(
                "{} {} {} {length}/{slide}s {}..{} of {} for {}s keep {}s {}",
                r.name, r.scope, r.metric, r.clear, r.threshold, r.min_volume, r.hold_for, r.keep_firing, r.severity
            )
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    bad_list identity hard_rate 900/20s 0.04..0.05 of 100 for 0s keep 1800s warning
    hard_bounces identity hard_rate 86400/1440s 0.04..0.05 of 1000 for 0s keep 1800s warning
    hard_bounces_pause identity hard_rate 86400/1440s 0.08..0.1 of 1000 for 0s keep 1800s critical
    blocked isp_identity blocked_rate 900/20s 0.16..0.2 of 200 for 120s keep 1800s critical
    deferred isp_identity deferred_rate 3600/60s 0.12..0.15 of 500 for 900s keep 1800s warning
    authentication isp_identity category:authentication 900/20s 0.016..0.02 of 200 for 60s keep 1800s critical
    complaints isp_identity complaint_rate 86400/1440s 0.0008..0.001 of 5000 for 0s keep 1800s warning
    complaints_enforced isp_identity complaint_rate 86400/1440s 0.0024000000000000002..0.003 of 5000 for 0s keep 1800s critical
    bounces_everywhere overall bounce_rate 300/10s 0.08..0.1 of 1000 for 60s keep 600s critical
    "#);
    for rule in rules.iter() {
        assert!(rule.annotations.contains_key("summary"), "{}: on-call is told nothing", rule.name);
        // A rate that one message decides is noise.
        assert!(rule.threshold * rule.min_volume as f64 >= 4.0, "{}: a handful of messages is enough", rule.name);
        assert!(rule.applies("gmail", "shop.example"), "{}: says nothing about whom it is for", rule.name);
    }
}

#[test]
fn what_is_left_out_has_a_default() {
    let rules = Rules::parse(&rule(""), "rules.toml").unwrap();
    assert_eq!(rules.len(), 1);
    let rule = rules.iter().next().unwrap();
    assert_eq!((rule.name.as_str(), rule.scope, &rule.metric), ("a", Scope::IspIdentity, &Metric::Hard));
    assert_eq!(rule.window, WindowSpec { length: 900, slide: 20 });
    assert_eq!((rule.threshold, rule.clear, rule.min_volume), (0.05, 0.04, 200));
    assert_eq!((rule.hold_for, rule.keep_firing, rule.severity), (0, 300, AlertSeverity::Warning));
    assert!(rule.annotations.is_empty());
    assert!(rule.applies("gmail", "shop.example") && rule.applies("", ""));
}

#[test]
fn every_field_is_read() {
    let text = rule(
        "scope = \"isp_identity\"\nisp = [\"gmail\", \"google*\"]\nidentity = \"*.shop.example\"\nmetric = \"category:own_words\"\n\
         window = \"1h 30m\"\nthreshold = 1\nclear = 1e-3\nmin_volume = 1_000\nfor = \"2m\"\nkeep_firing = \"0s\"\n\
         severity = \"critical\"\nannotations.summary = \"Look\"\n",
    );
    let rules = Rules::parse(&text, "rules.toml").unwrap();
    let rule = rules.iter().next().unwrap();
    assert_eq!(rule.metric, Metric::Category("own_words".into()));
    assert_eq!(rule.metric.to_string(), "category:own_words");
    assert_eq!(rule.window, WindowSpec { length: 5400, slide: 90 });
    assert_eq!((rule.threshold, rule.clear, rule.min_volume), (1.0, 0.001, 1000));
    assert_eq!((rule.hold_for, rule.keep_firing, rule.severity), (120, 0, AlertSeverity::Critical));
    assert_eq!(rule.annotations["summary"], "Look");
    assert!(rule.applies("gmail", "a.shop.example") && rule.applies("google_workspace", "a/b.shop.example"));
    assert!(!rule.applies("gmail", "shop.example") && !rule.applies("yahoo", "a.shop.example"));
    assert!(!rule.applies("Gmail", "a.shop.example"), "ids are compared as they are");
}

#[test]
fn rules_stay_in_order_and_windows_come_once() {
    let one = |name: &str, window: &str, keep: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nmetric = \"soft_rate\"\nwindow = \"{window}\"\nthreshold = 0.1\nkeep_firing = \"{keep}\"\n"
        )
    };
    let text = [one("z", "24h", "10s"), one("a", "1m", "50m"), one("m", "86400s", "0s"), one("b", "PT1H", "1m")].concat();
    let rules = Rules::parse(&text, "rules.toml").unwrap();
    assert_eq!(rules.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["z", "a", "m", "b"]);
    assert_eq!(rules.windows().iter().map(|w| (w.length, w.slide)).collect::<Vec<_>>(), [(60, 10), (3600, 60), (86_400, 1440)]);
    assert_eq!((rules.longest(), rules.longest_keep()), (86_400, 3000));
}

#[test]
fn a_window_is_whole_slides_of_a_sixtieth() {
    let fits = |length: u32| WindowSpec::new(length).ok();
    for length in 0..=90_000 {
        match fits(length) {
            Some(w) => {
                assert!(w.slide.is_multiple_of(10) && w.length.is_multiple_of(w.slide) && w.length == length);
                assert!(w.slide * 60 >= length && (w.slide - 10) * 60 < length, "{length}: {} is not a sixtieth", w.slide);
            }
            None => assert!(!(60..=86_400).contains(&length) || !length.is_multiple_of(10 * length.div_ceil(600))),
        }
    }
    // What is proposed instead does fit, and nothing between does.
    let text = WindowSpec::new(1510).unwrap_err();
    assert_eq!(text, "is not whole slides of 30s long; write 25m or 25m 30s");
    assert!(fits(1500).is_some() && fits(1530).is_some() && (1501..1530).all(|length| fits(length).is_none()));
    assert_eq!(WindowSpec::new(86_399).unwrap_err().matches(" or ").count(), 1);
    for length in [0, 59, 86_401, u32::MAX] {
        assert_eq!(WindowSpec::new(length).unwrap_err(), "is out of range; write 1m to 24h");
    }
}

#[test]
fn every_mistake_is_told_at_once() {
    insta::assert_snapshot!(mistakes(include_str!("rules/terrible.toml")), @r#"
    rules.toml:1: unknown field `title`; every rule is a section [[rule]]
    rules.toml:9: rule #2: no `name`; give it one: name = "a_name"
    rules.toml:9: rule #2: no `metric`; give it one: metric = "hard_rate"
    rules.toml:9: rule #2: no `window`; give it one: window = "15m"
    rules.toml:9: rule #2: no `threshold`; give it one: threshold = 0.05
    rules.toml:12: rule good: the rule at line 4 has this name too; give one of them another
    rules.toml:13: rule good: unknown scope "isps"; write one of overall, isp, identity, isp_identity
    rules.toml:14: rule good: unknown metric "hard_rates"; write hard_rate
    rules.toml:15: rule good: `window` "25m 10s" is not whole slides of 30s long; write 25m or 25m 30s
    rules.toml:16: rule good: unknown field `treshold`; write threshold
    rules.toml:17: rule good: unknown severity "urgent"; write one of info, warning, critical
    rules.toml:20: rule #4: "not a name" is no name; write 1 to 64 of A-Z, a-z, 0-9, `_`, `.` and `-`
    rules.toml:22: rule #4: `isp` is set in a scope without isp; remove it, or write another scope
    rules.toml:23: rule #4: `identity` "shop[" is no glob, unclosed character class; missing ']'; write `*` for any run of characters, `[ab]` for one of several, `[*]` for the character itself
    rules.toml:24: rule #4: "Mailbox" is no category; write one in a-z, 0-9 and `_`, such as category:mailbox_full
    rules.toml:25: rule #4: `window` "2d" is no duration in whole seconds; write it as 90s, 15m or 24h
    rules.toml:26: rule #4: `threshold` 5 is above 1; write 0.05 for 5 %
    rules.toml:28: rule #4: `min_volume` -1 is out of range; write 0 to 2^53
    rules.toml:29: rule #4: `for` "15s" is no multiple of 10s; write 10s or 20s
    rules.toml:30: rule #4: `keep_firing` "25h" is too long; write at most 24h
    rules.toml:31: rule #4: `severity` is an integer; write one of the strings info, warning, critical
    rules.toml:34: rule pipeline.lag: names in `pipeline.` are kept for alerts about the pipeline itself; give it another
    rules.toml:36: rule pipeline.lag: `isp` must list strings, one at least; write isp = "*" for every one
    rules.toml:37: rule pipeline.lag: `identity` is set in a scope without identity; remove it, or write another scope
    rules.toml:38: rule pipeline.lag: unknown metric "opens"; write one of bounce_rate, hard_rate, soft_rate, blocked_rate, deferred_rate, complaint_rate, late_bounce_rate, category:NAME
    rules.toml:39: rule pipeline.lag: `window` "30s" is out of range; write 1m to 24h
    rules.toml:41: rule pipeline.lag: `clear` 0.2 is above the threshold 0.1; write 0.1 or less
    rules.toml:42: rule pipeline.lag: unknown field `expr`; write one of name, scope, isp, identity, metric, window, threshold, clear, min_volume, for, keep_firing, severity, annotations
    rules.toml:43: rule pipeline.lag: `annotations` is a string; write a section [rule.annotations] with strings
    rules.toml:46: rule #6: `name` is an integer; write a string
    rules.toml:48: rule #6: `window` "1h" is too short for complaint_rate, which comes hours late; write 24h
    rules.toml:49: rule #6: `threshold` is a string; write a fraction such as 0.05
    rules.toml:50: rule #6: `clear` 0.0 is out of range; write a fraction above 0, at most 1
    rules.toml:51: rule #6: `min_volume` is a float; write a whole number such as 200
    rules.toml:52: rule #6: `for` "soon" is no duration in whole seconds; write it as 90s, 15m or 24h
    rules.toml:53: rule #6: `keep_firing` is an integer; write a string such as "90s", "15m" or "24h"
    rules.toml:54: rule #6: unknown field `labels`; write one of name, scope, isp, identity, metric, window, threshold, clear, min_volume, for, keep_firing, severity, annotations
    rules.toml:56: rule #6: `annotations.summary` is an array; write a string
    rules.toml:57: rule #6: the name "run-book" in `annotations` is refused by Alertmanager; write letters, digits and `_`, no digit first
    rules.toml:58: rule #6: the name "action" in `annotations` is the name of evidence that every alert brings; choose another
    rules.toml:62: string values must be quoted, expected literal string; correct the line, the file is TOML
    rules.toml:63: rule unquoted: `window` "25h" is out of range; write 1m to 24h
    rules.toml:65: duplicate key; correct the line, the file is TOML
    "#);
}

#[test]
fn a_file_without_rules_is_refused() {
    for text in ["", "# nothing yet\n", "rule = []\n"] {
        assert_eq!(mistakes(text), "rules.toml:1: no rule; write at least one [[rule]]");
    }
    insta::assert_snapshot!(mistakes("[rule]\nname = \"a\"\n"), @"rules.toml:1: `rule` is a single one; write [[rule]], with two brackets");
    insta::assert_snapshot!(mistakes("rule = [1]\n"), @"rules.toml:1: `rule` is a list of values; write a section [[rule]] for each");
}

#[test]
fn a_syntax_error_hides_no_other_mistake_and_makes_up_none() {
    // The unquoted window is one mistake, not also a missing one; the rule after it is still read.
    insta::assert_snapshot!(mistakes(&format!("{}severity = \"bad\"\n\n{}clear = 0.5\n", rule("window = 15m\n"), rule(""))), @r#"
    rules.toml:5: string values must be quoted, expected literal string; correct the line, the file is TOML
    rules.toml:6: rule a: unknown severity "bad"; write one of info, warning, critical
    rules.toml:9: rule a: the rule at line 2 has this name too; give one of them another
    rules.toml:13: rule a: `clear` 0.5 is above the threshold 0.05; write 0.05 or less
    "#);
    // A broken header swallows what follows it.
    insta::assert_snapshot!(mistakes(&format!("[[rule\nname = \"b\"\n{}[rule.annotations\na = \"b\"\n", rule(""))), @r#"
    rules.toml:1: unclosed array table, expected `]]`; correct the line, the file is TOML
    rules.toml:8: unclosed table, expected `]`; correct the line, the file is TOML
    "#);
    // Without its sign a field is not there at all, but it is not missing.
    insta::assert_snapshot!(mistakes(&rule("window \"15m\"\n")), @"rules.toml:5: key with no value, expected `=`; correct the line, the file is TOML");
    insta::assert_snapshot!(mistakes(&rule("clear = 0.01\nclear = 0.02\n")), @"rules.toml:7: duplicate key; correct the line, the file is TOML");
}

#[test]
fn what_would_never_fire_is_refused() {
    let each = [
        "isp = \"gmail.com\"\n",
        "isp = \"Gmail\"\n",
        "isp = \"local\"\n",
        "isp = []\n",
        "identity = \"\"\n",
        "metric = \"category:invalid_recipent\"\n",
        "threshold = 5\n",
        "threshold = 0\n",
        "threshold = nan\n",
    ];
    insta::assert_snapshot!(each.map(|lines| mistakes(&rule(lines))).join("\n"), @r#"
    rules.toml:6: rule a: `isp` "gmail.com" can match no ISP; write an id such as gmail, of a-z, 0-9 and `_`, or a glob such as google*
    rules.toml:6: rule a: `isp` "Gmail" can match no ISP; write an id such as gmail, of a-z, 0-9 and `_`, or a glob such as google*
    rules.toml:6: rule a: `isp` "local" is the sender's own failures, kept out of ISP rates; write scope = "identity" to watch those
    rules.toml:6: rule a: `isp` must list strings, one at least; write isp = "*" for every one
    rules.toml:6: rule a: `identity` "" can match no identity; write a name, or a glob such as *.shop.example
    rules.toml:5: rule a: category "invalid_recipent" is taken for a misspelling; write category:invalid_recipient
    rules.toml:5: rule a: `threshold` 5 is above 1; write 0.05 for 5 %
    rules.toml:5: rule a: `threshold` 0 is out of range; write a fraction above 0, at most 1
    rules.toml:5: rule a: `threshold` nan is out of range; write a fraction above 0, at most 1
    "#);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[\\[rule\\]\\]|\\[rule\\.[a-z]*\\]|name|window|threshold|isp|\"|'|=|\\[|\\]|\\{|\\}|\\.|,|[0-9]{1,20}|inf|-|15m|\n|\\PC){0,60}") {
        let _ = Rules::parse(&text, "rules.toml");
    }

    #[test]
    fn values_of_any_kind_are_read_or_told(
        field in prop::sample::select(vec!["name", "scope", "isp", "identity", "metric", "window", "threshold", "clear", "min_volume", "for", "keep_firing", "severity", "annotations", "other"]),
        value in prop::sample::select(vec!["1", "-1", "0x10", "99999999999999999999", "1e400", "0.5", "inf", "nan", "true", "1979-05-27", "[]", "[\"*\"]", "[1]", "{}", "{a=1}", "\"\"", "\"é\"", "\"-1s\"", "\"0.5s\"", "\"10s\"", "\"99999h\"", "\"[\"", "\"category:\""]),
    ) {
        let text = format!("[[rule]]\n{field} = {value}\n");
        let said = mistakes(&text);
        prop_assert!(said.lines().all(|line| line.starts_with("rules.toml:")), "{}", said);
        prop_assert!(said.lines().all(|line| line.contains(';')), "what to do is missing: {}", said);
    }
}
