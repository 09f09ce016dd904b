//! What the watch says of alerts, and when this demo saw it. It must not know how an alert is decided.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::prometheus;
use crate::view::clock;

/// An alert as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    id: String,
    what: String,
    evidence: String,
    /// Since the traffic began.
    fired: Duration,
    resolved: Option<Duration>,
}

/// The alerts of this demo.
pub(crate) struct Alerts {
    start: Instant,
    seen: Vec<Seen>,
}

impl Alerts {
    /// `start`: when the traffic began.
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, seen: Vec::new() }
    }

    /// Asks the watch.
    pub(crate) fn look(&mut self, address: &str) -> Result<()> {
        let answer: Value = serde_json::from_str(&prometheus::get(address, "/api/v1/alerts")?)?;
        for alert in answer["alerts"].as_array().context("no alerts in the answer")? {
            self.note(alert, self.start.elapsed());
        }
        Ok(())
    }

    fn note(&mut self, alert: &Value, now: Duration) {
        let text = |name: &str| alert[name].as_str().unwrap_or_default();
        let known = self.seen.iter().position(|seen| seen.id == text("id"));
        match (text("state"), known) {
            ("firing", None) => {
                let (numerator, denominator) = (alert["numerator"].as_f64(), alert["denominator"].as_f64());
                let rate = 100.0 * numerator.unwrap_or(0.0) / denominator.unwrap_or(0.0).max(1.0);
                let category = alert["categories"][0][0].as_str().unwrap_or("nothing");
                self.seen.push(Seen {
                    id: text("id").to_owned(),
                    what: format!("{} {}: {} × {}", text("severity"), text("rule"), text("isp"), text("identity")),
                    evidence: format!("{rate:.1}% bounced, mostly {category}; {}: {}", text("root_cause"), text("action")),
                    fired: now,
                    resolved: None,
                });
            }
            ("resolved", Some(known)) => drop(self.seen[known].resolved.get_or_insert(now)),
            _ => {}
        }
    }

    /// The summary, for a person; `incident`: when it began, after the traffic did.
    pub(crate) fn lines(&self, incident: Duration) -> Vec<String> {
        let mut lines = vec![format!("ALERTS (the incident at Gmail began at {})", clock(incident))];
        for seen in &self.seen {
            let delay = seen.fired.saturating_sub(incident).as_secs();
            let end = seen.resolved.map_or("fires still".to_owned(), |at| format!("resolved at {}", clock(at)));
            lines.push(format!(" {}", seen.what));
            lines.push(format!("   fired at {}, {delay} s after the incident began; {end}", clock(seen.fired)));
            lines.push(format!("   {}", seen.evidence));
        }
        if self.seen.is_empty() {
            lines.push(" none".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_alert_is_listed_once_with_its_delay() {
        let mut alerts = Alerts::new(Instant::now());
        let mut alert = json!({"id": "a", "state": "pending", "severity": "critical", "rule": "refused", "isp": "gmail",
            "identity": "x.example", "numerator": 30, "denominator": 100, "categories": [["reputation", 29]],
            "root_cause": "reputation", "action": "request_delisting"});
        let mut at = |alerts: &mut Alerts, state: &str, second| {
            alert["state"] = state.into();
            alerts.note(&alert, Duration::from_secs(second));
        };
        at(&mut alerts, "pending", 5);
        assert!(alerts.seen.is_empty());
        at(&mut alerts, "firing", 25);
        at(&mut alerts, "firing", 26);
        at(&mut alerts, "resolved", 75);
        at(&mut alerts, "resolved", 80);
        let text = alerts.lines(Duration::from_secs(6)).join("\n");
        assert!(text.contains("critical refused: gmail × x.example"), "{text}");
        assert!(text.contains("fired at 0:25, 19 s after the incident began; resolved at 1:15"), "{text}");
        assert!(text.contains("30.0% bounced, mostly reputation; reputation: request_delisting"), "{text}");
        assert_eq!(text.lines().count(), 4);
    }
}
