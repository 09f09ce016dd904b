//! Sends what fires to one Alertmanager, on the wall clock: at once when something changed, else again and again, because
//! Alertmanager forgets what nobody repeats. Reads the [`Board`]; decides nothing.
//!
//! API: <https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml>, `POST /api/v2/alerts`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api;
use crate::board::{Board, Outgoing};
use crate::evidence;
use crate::metrics;
use crate::stop::Stop;
use crate::telemetry::{self, SPANS};

/// The board is looked at this often.
const LOOK: Duration = Duration::from_millis(200);
/// One send may take this long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A send that failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// An alert that is not repeated for this many intervals is over, as Prometheus has it.
const INTERVALS: u32 = 4;

/// What a sender is told.
pub struct Task {
    /// Address of the Alertmanager, without a path.
    pub url: String,
    /// Time between repeats.
    pub resend: Duration,
    /// What there is to send.
    pub board: Arc<Board>,
    /// When to end.
    pub stop: Stop,
}

/// Runs until told to stop. An Alertmanager that does not answer is asked again; that ends nothing.
pub fn run(task: &Task) -> anyhow::Result<()> {
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
    let agent = ureq::Agent::new_with_config(config);
    let endpoint = format!("{}/api/v2/alerts", task.url.trim_end_matches('/'));
    let mut status = api::Alertmanager { url: task.url.clone(), ..api::Alertmanager::default() };
    let (mut sent, mut due) = (0, Instant::now());
    while !task.stop.is_set() {
        task.stop.wait(LOOK);
        if Instant::now() < due && (task.board.version() == sent || status.error.is_some()) {
            continue;
        }
        let Some((version, alerts)) = task.board.outgoing() else { continue };
        let result = if alerts.is_empty() {
            Ok(())
        } else {
            let span = tracing::trace_span!(target: SPANS, "alertmanager send", url = endpoint, alerts = alerts.len());
            telemetry::told(&span, send(&agent, &endpoint, &body(task, &alerts)))
        };
        match result {
            Ok(()) => {
                if status.error.take().is_some() {
                    tracing::info!(url = task.url, "Alertmanager takes alerts again");
                }
                status.last_ok = Some(Timestamp::now().as_millisecond());
                (sent, due) = (version, Instant::now() + task.resend);
            }
            Err(error) => {
                if status.error.is_none() {
                    tracing::warn!(url = task.url, error, "Alertmanager does not take alerts; trying again until it does");
                }
                status.error = Some(error);
                due = Instant::now() + AGAIN.min(task.resend);
            }
        }
        metrics::alertmanager_sent(&task.url, status.error.is_none());
        task.board.sent(status.clone());
    }
    Ok(())
}

fn send(agent: &ureq::Agent, endpoint: &str, body: &Value) -> Result<(), String> {
    let text = body.to_string();
    let answer = agent.post(endpoint).header("Content-Type", "application/json").send(&text);
    let mut answer = answer.map_err(|e| e.to_string())?;
    if answer.status().is_success() {
        return Ok(());
    }
    let said = answer.body_mut().read_to_string().unwrap_or_default();
    Err(format!("{}: {}", answer.status(), said.trim()))
}

/// Labels are what makes an alert the same alert: rule, key and severity, nothing that changes.
fn body(task: &Task, alerts: &[Outgoing]) -> Value {
    let until = Timestamp::now().as_millisecond() + (task.resend * INTERVALS).as_millis() as i64;
    let rules = task.board.classification();
    let all = alerts.iter().map(|outgoing| {
        let alert = &outgoing.alert;
        let (cause, action) = evidence::cause_and_action(&rules, alert);
        json!({
            "labels": {
                "alertname": alert.rule,
                "severity": alert.severity.as_str(),
                "isp": alert.isp,
                "identity": alert.identity,
            },
            "annotations": evidence::annotations(alert, cause, action),
            "startsAt": evidence::time(outgoing.fired_at),
            "endsAt": evidence::time(outgoing.resolved_at.unwrap_or(until)),
        })
    });
    Value::Array(all.collect())
}
