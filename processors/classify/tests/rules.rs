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
fn every_rule_names_its_evidence() {
    let rules = Rules::builtin().unwrap();
    let bare: Vec<&str> = rules.iter().filter(|r| r.source().is_empty()).map(|r| r.id()).collect();
    assert!(bare.is_empty(), "no source: {bare:?}");
}
