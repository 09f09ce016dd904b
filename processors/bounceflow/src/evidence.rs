//! An alert as people and Alertmanager read it: wire record, root cause and action, annotations. Pure; decides no alert.

use std::collections::BTreeMap;

use bounceflow_classify::Rules;
use bounceflow_event::{Action, Alert, AlertCategory, RootCause};
use bounceflow_window::Transition;

/// Who must act and what they do: by the classification rule behind the top pattern, else by the top category.
pub fn cause_and_action(rules: &Rules, alert: &Transition) -> (RootCause, Action) {
    let category = alert.categories.first().map_or("", |(category, _)| category);
    let by_rule = rules.iter().find(|rule| rule.id() == alert.pattern_rule && rule.category().as_str() == category);
    let found = by_rule.or_else(|| rules.iter().find(|rule| rule.category().as_str() == category));
    found.map_or((RootCause::Unknown, Action::Investigate), |rule| (rule.root_cause(), rule.action()))
}

/// The record that goes to the topic of alerts.
pub fn to_wire(alert: &Transition, cause: RootCause, action: Action) -> Alert<'_> {
    Alert {
        alert_id: &alert.alert_id,
        rule: &alert.rule,
        state: alert.state.as_str(),
        severity: alert.severity.as_str(),
        isp: &alert.isp,
        identity: &alert.identity,
        episode_start: alert.episode_start,
        event_time: alert.event_time,
        metric: &alert.metric,
        window_seconds: alert.window_seconds,
        threshold: alert.threshold,
        numerator: alert.numerator,
        denominator: alert.denominator,
        categories: alert.categories.iter().map(|(category, count)| AlertCategory { category, count: *count }).collect(),
        pattern: alert.pattern,
        pattern_rule: &alert.pattern_rule,
        sample: &alert.sample,
        root_cause: cause.as_str(),
        action: action.as_str(),
        annotations: alert.annotations.clone(),
    }
}

/// A transition read back. None: of a state or severity this version does not know.
pub fn from_wire(alert: &Alert<'_>) -> Option<Transition> {
    Some(Transition {
        alert_id: alert.alert_id.to_owned(),
        rule: alert.rule.to_owned(),
        state: alert.state.parse().ok()?,
        severity: alert.severity.parse().ok()?,
        isp: alert.isp.to_owned(),
        identity: alert.identity.to_owned(),
        episode_start: alert.episode_start,
        event_time: alert.event_time,
        metric: alert.metric.to_owned(),
        window_seconds: alert.window_seconds,
        threshold: alert.threshold,
        numerator: alert.numerator,
        denominator: alert.denominator,
        categories: alert.categories.iter().map(|c| (c.category.to_owned(), c.count)).collect(),
        pattern: alert.pattern,
        pattern_rule: alert.pattern_rule.to_owned(),
        pattern_category: alert.categories.first().map(|c| c.category.to_owned()).unwrap_or_default(),
        sample: alert.sample.to_owned(),
        annotations: alert.annotations.clone(),
    })
}

/// What Alertmanager shows beside the labels: the rule's own annotations, and the evidence in words.
pub fn annotations(alert: &Transition, cause: RootCause, action: Action) -> BTreeMap<String, String> {
    let mut all = alert.annotations.clone();
    let rate = if alert.denominator > 0 { 100.0 * alert.numerator as f64 / alert.denominator as f64 } else { 0.0 };
    let window = length(alert.window_seconds);
    all.insert("rate".into(), format!("{rate:.2} % ({} of {} in {window})", alert.numerator, alert.denominator));
    all.insert("threshold".into(), format!("{} {:.2} %", alert.metric, 100.0 * alert.threshold));
    all.insert("since".into(), time(alert.episode_start));
    let categories: Vec<String> = alert.categories.iter().map(|(category, count)| format!("{category} {count}")).collect();
    for (name, text) in [
        ("top_categories", categories.join(", ")),
        ("sample", alert.sample.clone()),
        ("classified_by", alert.pattern_rule.clone()),
        ("root_cause", cause.as_str().to_owned()),
        ("action", action.as_str().to_owned()),
    ] {
        if !text.is_empty() {
            all.insert(name.into(), text);
        }
    }
    if alert.pattern != 0 {
        all.insert("pattern".into(), format!("{:016x}", alert.pattern));
    }
    all
}

/// RFC 3339, UTC, of milliseconds since the epoch.
pub fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

/// The length of a window: `5 min`, `24 h`, `90 s`.
pub fn length(seconds: i64) -> String {
    match seconds {
        s if s > 0 && s % 3600 == 0 => format!("{} h", s / 3600),
        s if s > 0 && s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn cause_and_action_are_the_same_before_and_after_a_restart() {
        let rules = Rules::builtin().unwrap();
        let of = |category: &str| rules.iter().find(|rule| rule.category().as_str() == category).unwrap();
        // The most frequent pattern need not be of the most frequent category: patterns of deferrals count as well.
        let (throttled, invalid) = (of("rate_limited"), of("invalid_recipient"));
        let mut before = crate::board::tests::firing();
        before.categories = vec![("invalid_recipient".to_owned(), 9)];
        (before.pattern_rule, before.pattern_category) = (throttled.id().to_owned(), "rate_limited".to_owned());
        let after = from_wire(&to_wire(&before, RootCause::Unknown, Action::Investigate)).unwrap();
        for transition in [before, after] {
            assert_eq!(cause_and_action(&rules, &transition), (invalid.root_cause(), invalid.action()));
        }
    }
}
