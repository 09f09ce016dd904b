//! One entry of `identity.map`: its checks, and whether it fits a sender.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::domain::normalize_domain;
use crate::identity::{IdentityMap, OneOrMany, Sender};
use crate::mistakes::Mistakes;

/// What is compared as a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    From,
    Envelope,
    Dkim,
}

/// What is compared as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    Tenant,
    Pool,
    SendingIp,
    Campaign,
}

impl Text {
    pub(crate) fn of<'a>(self, sender: &Sender<'a>) -> &'a str {
        match self {
            Self::Tenant => sender.tenant,
            Self::Pool => sender.pool,
            Self::SendingIp => sender.sending_ip,
            Self::Campaign => sender.campaign,
        }
    }
}

/// What follows the last `@` of an address, with or without angle brackets; a bare domain is itself.
fn domain_part(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, domain)| domain).trim_end_matches('>')
}

/// The sender, with what rules ask for again and again worked out once, and only when asked.
pub(crate) struct Facts<'s, 'a> {
    pub(crate) sender: &'s Sender<'a>,
    domains: [OnceCell<Option<Cow<'a, str>>>; 3],
    ip: OnceCell<Option<IpAddr>>,
}

impl<'s, 'a> Facts<'s, 'a> {
    pub(crate) fn new(sender: &'s Sender<'a>) -> Self {
        Self { sender, domains: Default::default(), ip: OnceCell::new() }
    }

    fn domain(&self, which: Domain) -> Option<&str> {
        self.cell(which).as_deref()
    }

    pub(crate) fn take_domain(&mut self, which: Domain) -> Option<Cow<'a, str>> {
        self.cell(which);
        self.domains[which as usize].take().flatten()
    }

    fn cell(&self, which: Domain) -> &Option<Cow<'a, str>> {
        self.domains[which as usize].get_or_init(|| {
            normalize_domain(match which {
                Domain::From => self.sender.from_domain,
                Domain::Envelope => domain_part(self.sender.envelope),
                Domain::Dkim => self.sender.dkim_domain,
            })
        })
    }

    fn ip(&self) -> Option<IpAddr> {
        let parse = || self.sender.sending_ip.parse().ok().map(|ip: IpAddr| ip.to_canonical());
        *self.ip.get_or_init(parse)
    }
}

/// A checked [`IdentityMap`]; an empty list is no condition.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    name: String,
    domains: Vec<(Domain, Vec<Glob>)>,
    texts: Vec<(Text, Vec<Glob>)>,
    nets: Vec<IpNet>,
    tags: Vec<(String, Glob)>,
}

impl Rule {
    pub(crate) fn new(map: &IdentityMap, at: &str, found: &mut Mistakes) -> Self {
        if map.name.trim().is_empty() {
            found.add(format!("{at}.name"), "missing or empty");
        }
        let domains = [
            (Domain::From, "from_domain", &map.from_domain),
            (Domain::Envelope, "envelope_domain", &map.envelope_domain),
            (Domain::Dkim, "dkim_domain", &map.dkim_domain),
        ];
        let texts =
            [(Text::Tenant, "tenant", &map.tenant), (Text::Pool, "pool", &map.pool), (Text::Campaign, "campaign", &map.campaign)];
        let conditions = domains.iter().map(|d| d.2).chain(texts.iter().map(|t| t.2));
        if conditions.chain([&map.cidr, &map.tag]).all(OneOrMany::is_empty) {
            found.add(at, "no condition: it would name every sender");
        }
        let mut rule = Self {
            name: map.name.trim().to_owned(),
            domains: Vec::new(),
            texts: Vec::new(),
            nets: map.cidr.checked(&format!("{at}.cidr"), found, net),
            tags: map.tag.checked(&format!("{at}.tag"), found, tag),
        };
        for (which, field, values) in domains.into_iter().filter(|d| !d.2.is_empty()) {
            let globs = values.checked(&format!("{at}.{field}"), found, domain_glob);
            rule.domains.push((which, globs));
        }
        for (which, field, values) in texts.into_iter().filter(|t| !t.2.is_empty()) {
            let globs = values.checked(&format!("{at}.{field}"), found, text_glob);
            rule.texts.push((which, globs));
        }
        rule
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn fits(&self, facts: &Facts<'_, '_>) -> bool {
        let any = |globs: &[Glob], text: &str| globs.iter().any(|glob| glob.fits(text));
        let said = |which: &Domain| facts.domain(*which).unwrap_or("");
        let tagged = |(name, glob): &(String, Glob)| facts.sender.tag(name).is_some_and(|value| glob.fits(value));
        let inside = |ip: IpAddr| self.nets.iter().any(|net| net.contains(&ip));
        self.domains.iter().all(|(which, globs)| any(globs, said(which)))
            && self.texts.iter().all(|(which, globs)| any(globs, which.of(facts.sender)))
            && (self.nets.is_empty() || facts.ip().is_some_and(inside))
            && (self.tags.is_empty() || self.tags.iter().any(tagged))
    }
}

#[derive(Clone, Debug)]
enum Glob {
    Exact(String),
    Star(String),
}

impl Glob {
    fn new(pattern: String) -> Self {
        if pattern.contains('*') { Self::Star(pattern) } else { Self::Exact(pattern) }
    }

    /// What was not said fits nothing, not even `*`.
    fn fits(&self, text: &str) -> bool {
        !text.is_empty()
            && match self {
                Self::Exact(pattern) => pattern == text,
                Self::Star(pattern) => star_fits(pattern.as_bytes(), text.as_bytes()),
            }
    }
}

/// Going back only to the last star is enough: an earlier one could only take away what the last one may still take.
fn star_fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

fn text_glob(text: &str) -> Result<Glob, String> {
    if text.is_empty() {
        return Err("empty".into());
    }
    Ok(Glob::new(text.to_owned()))
}

fn domain_glob(text: &str) -> Result<Glob, String> {
    let (star, rest) = match text.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", text),
    };
    if let Some(domain) = normalize_domain(rest) {
        return Ok(Glob::new(format!("{star}{domain}")));
    }
    let text = text.to_ascii_lowercase();
    let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*');
    let labels = text.split('.').all(|label| !label.is_empty());
    if text.contains('*') && labels && text.bytes().all(plain) {
        return Ok(Glob::new(text));
    }
    Err(format!("{text:?} is neither a domain nor a pattern of one"))
}

fn tag(text: &str) -> Result<(String, Glob), String> {
    match text.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), Glob::new(value.to_owned()))),
        _ => Err(format!("{text:?} is not written as name=value")),
    }
}

fn net(text: &str) -> Result<IpNet, String> {
    let address = text.parse().map(|ip: IpAddr| IpNet::from(ip));
    let net: IpNet = address
        .or_else(|_| text.parse())
        .map_err(|_| format!("{text:?} is neither a network such as 192.0.2.0/24 nor an address"))?;
    if net.addr() != net.network() {
        return Err(format!("{text:?} has bits set beyond its prefix; {} is meant?", net.trunc()));
    }
    // Sending addresses are compared in IPv4 form, so this would fit nothing.
    if matches!(net, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some()) {
        return Err(format!("{text:?} is IPv4 inside IPv6; write it as IPv4"));
    }
    Ok(net)
}
