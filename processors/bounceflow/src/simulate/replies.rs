//! What receivers say: `templates.toml`, sorted by who says it when. The labels are those of the file, made by hand.

use anyhow::{Context, bail, ensure};
use bounceflow_event::{EventType, Severity};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    reply: Vec<RawReply>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReply {
    id: String,
    #[serde(default)]
    isp: Vec<String>,
    label: String,
    smtp: String,
    #[serde(default = "ten")]
    weight: u32,
    #[serde(default)]
    late: bool,
    #[serde(default)]
    only: Option<Family>,
    #[serde(default)]
    by_sender: bool,
    #[serde(default)]
    role: Role,
    text: String,
    /// Where it was seen. For readers of the file; it has to be there.
    #[allow(dead_code, reason = "for readers of the file")]
    source: String,
}

fn ten() -> u32 {
    10
}

/// Who writes the record: an ESP in bounceflow's own formats, or KumoMTA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Family {
    Esp,
    Kumomta,
}

impl Family {
    const ALL: [Self; 2] = [Self::Esp, Self::Kumomta];
}

/// When a reply is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// Whenever its kind of failure is.
    #[default]
    Any,
    /// For recipients at a domain that does not exist.
    TypoDomain,
    /// When retries end.
    Expired,
    /// The sending MTA failed by itself.
    Local,
}

/// The command that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Connect,
    Mail,
    Rcpt,
    Data,
}

/// What kind of failure a reply is: the lists it can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Deferral,
    Hard,
    Soft,
    Late,
}

/// A piece of a reply's text.
#[derive(Debug)]
pub(super) enum Part {
    Literal(String),
    Recipient,
    Domain,
    Sender,
    From,
    Ip,
    Mx,
    Peer,
    Code,
    Token,
    Hex,
    Number,
    Digit,
    Stamp,
}

/// One reply.
pub(super) struct Reply {
    pub(super) id: String,
    isps: Vec<String>,
    pub(super) event: EventType,
    /// None for a drop.
    pub(super) severity: Option<Severity>,
    /// Index into [`Replies::categories`]. None for a drop.
    pub(super) category: Option<u16>,
    pub(super) command: Command,
    /// 0 where there is none.
    pub(super) code: u16,
    pub(super) enhanced: String,
    pub(super) text: Vec<Part>,
    pub(super) by_sender: bool,
    pub(super) role: Role,
    weight: u32,
    late: bool,
    only: Option<Family>,
}

impl Reply {
    fn is(&self, kind: Kind) -> bool {
        match kind {
            Kind::Late => self.late,
            Kind::Deferral => self.event == EventType::Deferral,
            Kind::Hard => self.severity == Some(Severity::Hard),
            Kind::Soft => self.severity == Some(Severity::Soft),
        }
    }

    fn fits(&self, family: Family) -> bool {
        self.only.is_none_or(|only| only == family)
    }

    fn said_by(&self, isp: &str) -> bool {
        self.isps.iter().any(|i| i == isp)
    }
}

/// Replies to draw from: indices, each as often as its weight.
type List = Vec<u16>;

pub(super) struct Replies {
    pub(super) all: Vec<Reply>,
    pub(super) categories: Vec<String>,
    /// By ISP, family, kind.
    lists: Vec<[[List; 4]; 2]>,
    /// By family.
    pub(super) typo_domain: [List; 2],
    pub(super) expired: [List; 2],
    pub(super) local: [List; 2],
    pub(super) drops: [List; 2],
}

impl Replies {
    pub(super) fn load(isps: &[String]) -> anyhow::Result<Self> {
        let raw: Raw = toml::from_str(include_str!("templates.toml")).context("templates.toml")?;
        let mut categories = Vec::new();
        let mut all: Vec<Reply> = Vec::new();
        for raw in raw.reply {
            let id = raw.id.clone();
            let reply = reply(raw, &mut categories, isps).with_context(|| format!("templates.toml: {id}"))?;
            ensure!(all.iter().all(|earlier| earlier.id != id), "templates.toml: {id} is there twice");
            all.push(reply);
        }
        let role =
            |role: Role| Family::ALL.map(|f| weighted(&all, |r| r.role == role && r.event != EventType::Drop && r.fits(f)));
        let (typo_domain, expired, local) = (role(Role::TypoDomain), role(Role::Expired), role(Role::Local));
        let drops = Family::ALL.map(|f| weighted(&all, |r| r.event == EventType::Drop && r.fits(f)));
        let kinds = [Kind::Deferral, Kind::Hard, Kind::Soft, Kind::Late];
        let lists = isps.iter().map(|isp| Family::ALL.map(|family| kinds.map(|kind| list(&all, isp, family, kind)))).collect();
        let replies = Self { all, categories, lists, typo_domain, expired, local, drops };
        for (isp, families) in isps.iter().zip(&replies.lists) {
            ensure!(families.iter().flatten().all(|list| !list.is_empty()), "templates.toml: {isp} lacks a kind of reply");
        }
        ensure!(
            replies.drops.iter().chain(&replies.expired).all(|list| !list.is_empty()),
            "templates.toml: a role lacks replies"
        );
        Ok(replies)
    }

    pub(super) fn list(&self, isp: u16, family: Family, kind: Kind) -> &[u16] {
        &self.lists[usize::from(isp)][family as usize][kind as usize]
    }

    pub(super) fn get(&self, index: u16) -> &Reply {
        &self.all[usize::from(index)]
    }

    /// Replies of attempts that `isp` may give and that `wanted` takes.
    pub(super) fn of_isp(&self, isp: u16, family: Family, wanted: impl Fn(&Reply) -> bool) -> List {
        let mut found: List = Vec::new();
        for kind in [Kind::Deferral, Kind::Hard, Kind::Soft] {
            found.extend(self.list(isp, family, kind).iter().copied().filter(|r| wanted(self.get(*r))));
        }
        found
    }
}

/// An ISP's own replies and those of everybody; without own ones, those of everybody else.
fn list(all: &[Reply], isp: &str, family: Family, kind: Kind) -> List {
    let usable = |r: &Reply| r.role == Role::Any && r.event != EventType::Drop && r.is(kind) && r.fits(family);
    let own = all.iter().any(|r| usable(r) && r.said_by(isp));
    weighted(all, |r| usable(r) && (r.said_by("*") || if own { r.said_by(isp) } else { r.isps.is_empty() }))
}

fn weighted(all: &[Reply], wanted: impl Fn(&Reply) -> bool) -> List {
    let wanted = all.iter().enumerate().filter(|(_, r)| wanted(r));
    wanted.flat_map(|(i, r)| std::iter::repeat_n(i as u16, r.weight as usize)).collect()
}

fn reply(raw: RawReply, categories: &mut Vec<String>, isps: &[String]) -> anyhow::Result<Reply> {
    let label: Vec<&str> = raw.label.split(' ').collect();
    let (event, severity, category) = match label[..] {
        ["drop"] => (EventType::Drop, None, None),
        ["deferral", "deferred", category] => (EventType::Deferral, Some(Severity::Deferred), Some(category)),
        ["bounce", "hard", category] => (EventType::Bounce, Some(Severity::Hard), Some(category)),
        ["bounce", "soft", category] => (EventType::Bounce, Some(Severity::Soft), Some(category)),
        _ => bail!("label {:?}", raw.label),
    };
    let category = category.map(|name| {
        let at = categories.iter().position(|c| c == name).unwrap_or_else(|| {
            categories.push(name.to_owned());
            categories.len() - 1
        });
        at as u16
    });
    let smtp: Vec<&str> = raw.smtp.split(' ').collect();
    let [command, code, enhanced] = smtp[..] else { bail!("smtp {:?}", raw.smtp) };
    let command = match command {
        "connect" => Command::Connect,
        "mail" => Command::Mail,
        "rcpt" => Command::Rcpt,
        "data" => Command::Data,
        other => bail!("command {other:?}"),
    };
    let or_none = |text: &str| if text == "-" { String::new() } else { text.to_owned() };
    let code = if code == "-" { 0 } else { code.parse().context("reply code")? };
    for isp in raw.isp.iter().filter(|isp| *isp != "*") {
        ensure!(isps.contains(isp), "{isp:?} is nobody in world.toml");
    }
    Ok(Reply {
        id: raw.id,
        isps: raw.isp,
        event,
        severity,
        category,
        command,
        code,
        enhanced: or_none(enhanced),
        text: parts(&raw.text)?,
        by_sender: raw.by_sender,
        role: raw.role,
        weight: raw.weight,
        late: raw.late,
        only: raw.only,
    })
}

/// Cuts a text at its `{placeholders}`.
pub(super) fn parts(text: &str) -> anyhow::Result<Vec<Part>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (literal, after) = rest.split_at(open);
        let (name, after) = after[1..].split_once('}').context("a { without its }")?;
        if !literal.is_empty() {
            out.push(Part::Literal(literal.to_owned()));
        }
        out.push(match name {
            "rcpt" => Part::Recipient,
            "domain" => Part::Domain,
            "sender" => Part::Sender,
            "from" => Part::From,
            "ip" => Part::Ip,
            "mx" => Part::Mx,
            "peer" => Part::Peer,
            "code" => Part::Code,
            "token" => Part::Token,
            "hex" => Part::Hex,
            "number" => Part::Number,
            "digit" => Part::Digit,
            "stamp" => Part::Stamp,
            other => bail!("{{{other}}} is unknown"),
        });
        rest = after;
    }
    if !rest.is_empty() {
        out.push(Part::Literal(rest.to_owned()));
    }
    Ok(out)
}
