//! Incidents: for a while, a share of the attempts at one ISP and of one identity fails in a given way.

use bounceflow_event::{EventType, Severity};
use serde::Deserialize;
use serde::de::IntoDeserializer;

use super::mix::Threshold;
use super::replies::{Family, Replies, Reply};
use super::world::World;

/// What people write: `[[incident]]` in TOML.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIncident {
    /// Seconds of event time from the start.
    from: f64,
    /// The end, not included.
    until: f64,
    /// Everybody where absent.
    isp: Option<String>,
    /// Everybody where absent.
    identity: Option<String>,
    /// Id of a reply, `category/severity`, or `complaint`.
    outcome: String,
    /// Of the attempts it may strike, 0 to 1.
    share: f64,
}

/// An incident, ready to strike.
pub(super) struct Incident {
    from_ms: i64,
    until_ms: i64,
    identity: Option<u16>,
    pub(super) share: Threshold,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Complaint(Option<u16>),
    /// By ISP and family: what they may say. Empty where it does not strike.
    Replies(Vec<[Vec<u16>; 2]>),
}

impl Incident {
    /// Whether it strikes at `offset_ms` from the start.
    pub(super) fn covers(&self, offset_ms: i64, identity: u16) -> bool {
        (self.from_ms..self.until_ms).contains(&offset_ms) && self.identity.is_none_or(|only| only == identity)
    }
}

/// Every mistake of a scenario, each with its path.
#[derive(Debug, thiserror::Error)]
#[error("the scenario has mistakes:\n  {}", .0.join("\n  "))]
pub struct ScenarioError(pub Vec<String>);

pub(super) fn parse(text: &str, world: &World, replies: &Replies) -> Result<Vec<Incident>, ScenarioError> {
    let mut table: toml::Table = toml::from_str(text).map_err(|e| ScenarioError(vec![e.to_string()]))?;
    let mut mistakes = Vec::new();
    let listed = match table.remove("incident") {
        None => Vec::new(),
        Some(toml::Value::Array(listed)) => listed,
        Some(_) => {
            mistakes.push("incident: must be a list, each entry begun by [[incident]]".to_owned());
            Vec::new()
        }
    };
    mistakes.extend(table.keys().map(|key| format!("{key}: unknown; a scenario holds [[incident]] alone")));
    let mut incidents = Vec::new();
    for (i, value) in listed.into_iter().enumerate() {
        match serde_path_to_error::deserialize::<_, RawIncident>(value.into_deserializer()) {
            Ok(raw) => incidents.extend(check(&raw, &format!("incident[{i}]"), world, replies, &mut mistakes)),
            Err(e) if e.path().iter().len() == 0 => mistakes.push(format!("incident[{i}]: {}", e.inner())),
            Err(e) => mistakes.push(format!("incident[{i}].{}: {}", e.path(), e.inner())),
        }
    }
    if mistakes.is_empty() { Ok(incidents) } else { Err(ScenarioError(mistakes)) }
}

fn check(raw: &RawIncident, path: &str, world: &World, replies: &Replies, mistakes: &mut Vec<String>) -> Option<Incident> {
    let before = mistakes.len();
    if !(raw.from >= 0.0 && raw.from < raw.until && raw.until.is_finite()) {
        mistakes.push(format!("{path}.until: must be after `from`, which must not be negative"));
    }
    if !(0.0..=1.0).contains(&raw.share) {
        mistakes.push(format!("{path}.share: is {}, must be between 0 and 1", raw.share));
    }
    let isp = raw.isp.as_ref().map(|isp| world.isps.iter().position(|i| i == isp && i != "local"));
    if isp == Some(None) {
        mistakes.push(format!("{path}.isp: nobody is called {:?} here", raw.isp.as_deref().unwrap_or_default()));
    }
    let identity = raw.identity.as_ref().map(|identity| world.identities.iter().position(|i| i.domain == *identity));
    if identity == Some(None) {
        mistakes.push(format!("{path}.identity: nobody sends from {:?} here", raw.identity.as_deref().unwrap_or_default()));
    }
    let isp = isp.flatten().map(|i| i as u16);
    let outcome = outcome(&raw.outcome, isp, world, replies);
    if let Err(why) = &outcome {
        mistakes.push(format!("{path}.outcome: {why}"));
    }
    (mistakes.len() == before).then_some(Incident {
        from_ms: (raw.from * 1000.0) as i64,
        until_ms: (raw.until * 1000.0) as i64,
        identity: identity.flatten().map(|i| i as u16),
        share: Threshold::new(raw.share),
        outcome: outcome.ok()?,
    })
}

fn outcome(name: &str, isp: Option<u16>, world: &World, replies: &Replies) -> Result<Outcome, String> {
    if name == "complaint" {
        let comes_back = |isp: u16| world.complaining.iter().any(|d| world.domains[usize::from(*d)].isp == isp);
        return match isp {
            Some(isp) if !comes_back(isp) => Err("complaints do not come back from there".to_owned()),
            _ => Ok(Outcome::Complaint(isp)),
        };
    }
    let wanted: Box<dyn Fn(&Reply) -> bool> = match name.split_once('/') {
        Some((category, severity)) => {
            let Some(category) = replies.categories.iter().position(|c| c == category).map(|c| c as u16) else {
                return Err(format!("no reply is of category {category:?}; there are {}", replies.categories.join(", ")));
            };
            let severity = match severity {
                "hard" => Severity::Hard,
                "soft" => Severity::Soft,
                "deferred" => Severity::Deferred,
                other => return Err(format!("{other:?} is none of hard, soft, deferred")),
            };
            Box::new(move |r| r.category == Some(category) && r.severity == Some(severity))
        }
        None => match replies.all.iter().find(|r| r.id == name) {
            None => return Err(format!("{name:?} is no reply's id, nor category/severity, nor `complaint`")),
            Some(reply) if reply.event == EventType::Drop => return Err("a drop is no failed attempt".to_owned()),
            Some(_) => {
                let id = name.to_owned();
                Box::new(move |r| r.id == id)
            }
        },
    };
    let everybody = 0..world.isps.len() as u16;
    let of = |i: u16| [Family::Esp, Family::Kumomta].map(|family| replies.of_isp(i, family, &wanted));
    let table: Vec<[Vec<u16>; 2]> = everybody
        .map(|i| if isp.is_none_or(|only| only == i) && i != world.local { of(i) } else { Default::default() })
        .collect();
    if table.iter().flatten().all(Vec::is_empty) {
        return Err(match isp {
            Some(isp) => format!("{} does not say that", world.isps[usize::from(isp)]),
            None => "is drawn by itself, never by an incident".to_owned(),
        });
    }
    Ok(Outcome::Replies(table))
}
