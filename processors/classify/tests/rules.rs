//! The rules that come with the program hold what they promise: examples, order, evidence.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use bounceflow_classify::Rules;

#[test]
fn every_rule_wins_its_own_examples() {
    let rules = Rules::builtin().unwrap_or_else(|e| panic!("{e}"));
    let failures = rules.check_examples();
    let told: Vec<String> =
        failures.iter().map(|f| format!("{}: {:?} reads {:?}, won by {}", f.rule, f.text, f.template, f.winner)).collect();
    assert!(told.is_empty(), "{}\n{} examples fail", told.join("\n"), told.len());
}

#[test]
fn every_rule_has_an_example() {
    let rules = Rules::builtin().unwrap();
    let bare: Vec<&str> = rules.iter().filter(|r| r.examples().is_empty()).map(|r| r.id()).collect();
    assert!(bare.is_empty(), "no example: {bare:?}");
}

/// That a rule wins its own examples shows that it can win; this tells in words which rule stands above one that cannot.
#[test]
fn no_rule_can_never_win() {
    let never = Rules::builtin().unwrap().never_wins();
    assert!(never.is_empty(), "{never:#?}");
}

/// Rules with each of these faults, so that the checks above are seen to fail.
#[test]
fn what_a_rule_lacks_is_told() {
    let rule = |id: &str, priority: u16, rest: &str| {
        format!("[[rule]]\nid = 'a.{id}'\npriority = {priority}\ncategory = 'dns'\nany = ['over quota']\n{rest}\n")
    };
    let text = [
        rule("first", 9, "examples = ['552 over quota']"),
        rule("second", 5, "examples = ['552 over quota']"),
        rule("third", 3, "reply = ['452']"),
    ]
    .concat();
    let rules = Rules::from_files(&[("a.toml", &text)]).unwrap();
    let failures: Vec<_> = rules.check_examples().into_iter().map(|f| (f.rule, f.text, f.winner)).collect();
    let failed = |rule: &str, text: &str, winner: &str| (rule.to_owned(), text.to_owned(), winner.to_owned());
    assert_eq!(failures, [failed("a.second", "552 over quota", "a.first"), failed("a.third", "", "")]);
    let never: Vec<_> = rules.never_wins().into_iter().map(|n| (n.rule, n.covered_by)).collect();
    let under = |rule: &str| (rule.to_owned(), Some("a.first".to_owned()));
    assert_eq!(never, [under("a.second"), under("a.third")]);
}

#[test]
fn every_rule_names_its_evidence() {
    let rules = Rules::builtin().unwrap();
    let bare: Vec<&str> = rules.iter().filter(|r| r.source().is_empty()).map(|r| r.id()).collect();
    assert!(bare.is_empty(), "no source: {bare:?}");
}
