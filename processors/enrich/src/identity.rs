//! Who sent: the operator's map of names first, then the first source that says something.
//!
//! Owns the `[identity]` part of the configuration and its checks.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::domain::organizational_domain;
use crate::mistakes::Mistakes;
use crate::rule::{Domain, Facts, Rule, Text};

/// The identity where nothing is known.
pub const UNKNOWN: &str = "unknown";

/// What an event says about its sender; what it does not say is empty.
#[derive(Clone, Copy, Default)]
pub struct Sender<'a> {
    /// Domain of the From header.
    pub from_domain: &'a str,
    /// The envelope sender: its address, or its domain alone.
    pub envelope: &'a str,
    /// The customer on whose behalf it was sent.
    pub tenant: &'a str,
    /// `d=` of the DKIM signature.
    pub dkim_domain: &'a str,
    /// The pool of sending addresses.
    pub pool: &'a str,
    /// The address it was sent from.
    pub sending_ip: &'a str,
    /// The campaign.
    pub campaign: &'a str,
    /// Tags by name, as the event holds them.
    pub tags: &'a [(Cow<'a, str>, Cow<'a, str>)],
}

impl<'a> Sender<'a> {
    pub(crate) fn tag(&self, name: &str) -> Option<&'a str> {
        self.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| &**value)
    }
}

impl fmt::Debug for Sender<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("from_domain", &self.from_domain)
            .field("envelope", &self.envelope)
            .field("tenant", &self.tenant)
            .field("dkim_domain", &self.dkim_domain)
            .field("pool", &self.pool)
            .field("sending_ip", &self.sending_ip)
            .field("campaign", &self.campaign)
            .finish_non_exhaustive()
    }
}

/// The `[identity]` part of a configuration, as written; [`Identities::new`] checks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// Where the identity comes from, tried in turn: `from_domain`, `envelope_domain`, `dkim_domain`, `tenant`, `pool`,
    /// `sending_ip`, `campaign`, `tag:NAME`. Default: `["from_domain", "envelope_domain"]`.
    pub source: OneOrMany,
    /// Whether a domain counts as the one somebody registered: `shop.example` for `news.shop.example`. Default: false.
    pub organizational: bool,
    /// Names of the operator's own; the first entry that fits wins over every source.
    pub map: Vec<IdentityMap>,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            source: OneOrMany::Many(vec!["from_domain".into(), "envelope_domain".into()]),
            organizational: false,
            map: Vec::new(),
        }
    }
}

/// One `[[identity.map]]`: all of its conditions must hold, of several values of one condition any. `*` stands for any
/// run of characters, except in `cidr`; domains are compared in their normal spelling, other values as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityMap {
    /// The identity given.
    pub name: String,
    /// Domain of the From header; `*.shop.example` does not mean `shop.example` itself.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub from_domain: OneOrMany,
    /// Domain of the envelope sender.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub envelope_domain: OneOrMany,
    /// `d=` of the DKIM signature.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub dkim_domain: OneOrMany,
    /// Networks of the sending address: `192.0.2.0/24`, `2001:db8::/32` or one address.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub cidr: OneOrMany,
    /// The pool of sending addresses.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub pool: OneOrMany,
    /// The tenant.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub tenant: OneOrMany,
    /// The campaign.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub campaign: OneOrMany,
    /// A tag and its value: `stream=news`.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub tag: OneOrMany,
}

/// A value, or a list of them where one would do as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// Written as `"a"`.
    One(String),
    /// Written as `["a", "b"]`.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The values, however written.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }

    /// Whether there is no value at all; an empty string is one.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// Each value as checked; what is refused becomes a mistake.
    pub(crate) fn checked<T>(&self, path: &str, found: &mut Mistakes, check: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let mut values = Vec::new();
        for (path, text) in self.with_path(path) {
            match check(text) {
                Ok(value) => values.push(value),
                Err(problem) => found.add(path, problem),
            }
        }
        values
    }

    /// Each value with its path in the file.
    fn with_path(&self, path: &str) -> impl Iterator<Item = (String, &str)> {
        let single = matches!(self, Self::One(_));
        let path = move |i| if single { path.to_owned() } else { format!("{path}[{i}]") };
        self.as_slice().iter().enumerate().map(move |(i, value)| (path(i), value.as_str()))
    }
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

// By hand because an untagged enum would only say "did not match any variant".
impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(value.to_owned()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<OneOrMany, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(OneOrMany::Many)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The checked configuration, ready to be asked.
#[derive(Clone, Debug)]
pub struct Identities {
    rules: Vec<Rule>,
    sources: Vec<Source>,
    organizational: bool,
}

impl Identities {
    /// Refused with every mistake named by its path, `identity.` in front.
    pub fn new(config: &IdentityConfig) -> Result<Self, Mistakes> {
        let mut found = Mistakes::default();
        let sources = sources(config, &mut found);
        let mut rules = Vec::with_capacity(config.map.len());
        for (i, map) in config.map.iter().enumerate() {
            rules.push(Rule::new(map, &format!("identity.map[{i}]"), &mut found));
        }
        found.or_else_ok(Self { rules, sources, organizational: config.organizational })
    }

    /// The identity of a sender, [`UNKNOWN`] where no rule fits and no source says anything. Borrowed unless the domain
    /// it comes from is not in its normal spelling.
    pub fn of<'a, 's: 'a>(&'a self, sender: &Sender<'s>) -> Cow<'a, str> {
        let mut facts = Facts::new(sender);
        if let Some(rule) = self.rules.iter().find(|rule| rule.fits(&facts)) {
            return Cow::Borrowed(rule.name());
        }
        let mut said = self.sources.iter().filter_map(|source| self.say(source, &mut facts));
        said.next().unwrap_or(Cow::Borrowed(UNKNOWN))
    }

    fn say<'a>(&self, source: &Source, facts: &mut Facts<'_, 'a>) -> Option<Cow<'a, str>> {
        let text = match source {
            Source::Text(text) => text.of(facts.sender),
            Source::Tag(name) => facts.sender.tag(name).unwrap_or(""),
            Source::Domain(which) => {
                let domain = facts.take_domain(*which)?;
                return Some(if self.organizational { organizational(domain) } else { domain });
            }
        };
        (!text.is_empty()).then_some(Cow::Borrowed(text))
    }
}

impl Default for Identities {
    /// That of [`IdentityConfig::default`].
    fn default() -> Self {
        let sources = vec![Source::Domain(Domain::From), Source::Domain(Domain::Envelope)];
        Self { rules: Vec::new(), sources, organizational: false }
    }
}

fn organizational(domain: Cow<'_, str>) -> Cow<'_, str> {
    match domain {
        Cow::Borrowed(domain) => Cow::Borrowed(organizational_domain(domain)),
        Cow::Owned(domain) => Cow::Owned(organizational_domain(&domain).to_owned()),
    }
}

#[derive(Clone, Debug)]
enum Source {
    Domain(Domain),
    Text(Text),
    Tag(String),
}

fn sources(config: &IdentityConfig, found: &mut Mistakes) -> Vec<Source> {
    let sources = config.source.checked("identity.source", found, source);
    let written = config.source.as_slice();
    for (i, text) in written.iter().enumerate().filter(|(i, text)| written[..*i].contains(text)) {
        found.add(format!("identity.source[{i}]"), format!("{text:?} is listed twice"));
    }
    if config.source.is_empty() && config.map.is_empty() {
        found.add("identity.source", "empty, and there is no identity.map: every sender would be unknown");
    }
    sources
}

fn source(text: &str) -> Result<Source, String> {
    Ok(match text {
        "from_domain" => Source::Domain(Domain::From),
        "envelope_domain" => Source::Domain(Domain::Envelope),
        "dkim_domain" => Source::Domain(Domain::Dkim),
        "tenant" => Source::Text(Text::Tenant),
        "pool" => Source::Text(Text::Pool),
        "sending_ip" => Source::Text(Text::SendingIp),
        "campaign" => Source::Text(Text::Campaign),
        _ => match text.strip_prefix("tag:").map(str::trim) {
            Some("") => return Err("the name of the tag is missing after tag:".into()),
            Some(name) => Source::Tag(name.to_owned()),
            None => return Err(format!("{text:?} is none of {SOURCES}")),
        },
    })
}

const SOURCES: &str = "from_domain, envelope_domain, dkim_domain, tenant, pool, sending_ip, campaign, tag:NAME";
