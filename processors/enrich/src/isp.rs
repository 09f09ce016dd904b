//! Who answered: the recipient's domain is asked first, then the end of the MX host's name.
//!
//! Owns the table and its checks; `tables/isps.toml` says what its columns mean.

use std::collections::BTreeMap;
use std::fmt;

use hashbrown::{HashMap, HashSet};
use serde::Deserialize;

use crate::domain::normalize_domain;
use crate::mistakes::Mistakes;

const BUILTIN: &str = include_str!("../tables/isps.toml");
/// No DNS name is longer, so none that is can match.
const MAX_NAME: usize = 255;
/// The first index of an entry; those below are [`Isps::OTHER`] and [`Isps::LOCAL`].
const FIRST: u16 = 2;
const OTHER_ID: &str = "other";
const LOCAL_ID: &str = "local";

/// A provider by its index in the table that gave it: dense, so that arrays may be indexed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IspId(u16);

impl IspId {
    /// Below [`Isps::len`] of the table that gave it.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What the table knows about a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isp {
    /// The name used in rates, metrics and alerts: `google_workspace`.
    pub id: String,
    /// The name people use.
    pub name: String,
    /// What it does with the mail it takes.
    pub kind: IspKind,
    /// Ids with one family run on the same servers.
    pub family: Option<String>,
    /// ISO 3166 code, where the provider is at home in one country.
    pub country: Option<String>,
}

/// What a provider does with the mail it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IspKind {
    /// Mailboxes under its own domains.
    Mailbox,
    /// Mail for its customers' domains.
    Hosting,
    /// Filters in front of a provider that stays unseen.
    Gateway,
}

impl IspKind {
    /// The spelling used in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mailbox => "mailbox",
            Self::Hosting => "hosting",
            Self::Gateway => "gateway",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Mailbox, Self::Hosting, Self::Gateway].into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for IspKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a table was refused.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It is not the TOML expected.
    #[error("The table of providers cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// It can be read and says things it must not; each is named by the id of its entry.
    #[error("The table of providers has mistakes:\n{0}")]
    Mistakes(#[from] Mistakes),
}

type Names = HashMap<Box<str>, IspId, foldhash::fast::RandomState>;
/// Every end of every suffix, longer than one label; those that are a suffix themselves say whose. A walk from the right
/// stops at the first end that is not there, which for a host of no provider is the first or second.
type Ends = HashMap<Box<str>, Option<IspId>, foldhash::fast::RandomState>;

/// The providers, ready to be asked.
#[derive(Clone, Debug)]
pub struct Isps {
    isps: Vec<Isp>,
    domains: Names,
    ends: Ends,
}

impl Isps {
    /// Outside of the table. In rates the tail is one provider.
    pub const OTHER: IspId = IspId(0);
    /// Nobody answered: the sending MTA itself failed. Given by callers, never by [`Isps::of`].
    pub const LOCAL: IspId = IspId(1);

    /// The table that comes with this version.
    pub fn builtin() -> Result<Self, TableError> {
        Self::from_toml(BUILTIN)
    }

    /// A table of the same layout. Refused with every mistake named.
    pub fn from_toml(text: &str) -> Result<Self, TableError> {
        Ok(build(toml::from_str(text)?)?)
    }

    /// The provider that answered for `recipient_domain` at `mx_host`, either of which may be empty. Case and one
    /// trailing dot do not matter; international names are expected as A-labels.
    pub fn of(&self, recipient_domain: &str, mx_host: &str) -> IspId {
        let isp = self.by_domain(recipient_domain);
        isp.or_else(|| self.by_mx(mx_host)).unwrap_or(Self::OTHER)
    }

    /// The id of a provider: `gmail`, `other`, `local`.
    pub fn id(&self, isp: IspId) -> &str {
        match self.get(isp) {
            Some(entry) => &entry.id,
            None if isp == Self::LOCAL => LOCAL_ID,
            None => OTHER_ID,
        }
    }

    /// What is known about a provider; nothing about [`Isps::OTHER`] and [`Isps::LOCAL`].
    pub fn get(&self, isp: IspId) -> Option<&Isp> {
        self.isps.get(isp.index().checked_sub(usize::from(FIRST))?)
    }

    /// The provider with this id, also for `other` and `local`; for checking what operators wrote.
    pub fn find(&self, id: &str) -> Option<IspId> {
        self.ids().find(|isp| self.id(*isp) == id)
    }

    /// All of them, `other` and `local` first.
    pub fn ids(&self) -> impl Iterator<Item = IspId> + use<> {
        (0..u16::MAX).take(self.len()).map(IspId)
    }

    /// How many there are, `other` and `local` included; every index is below it.
    #[allow(clippy::len_without_is_empty, reason = "never empty: other and local are always there")]
    pub fn len(&self) -> usize {
        self.isps.len() + usize::from(FIRST)
    }

    fn by_domain(&self, domain: &str) -> Option<IspId> {
        // Domains come normalised, so the name as it stands is worth the first look.
        if let Some(isp) = self.domains.get(domain) {
            return Some(*isp);
        }
        let mut buffer = [0; MAX_NAME];
        let domain = respell(domain, &mut buffer)?;
        self.domains.get(domain).copied()
    }

    fn by_mx(&self, host: &str) -> Option<IspId> {
        let mut buffer = [0; MAX_NAME];
        let host = if is_normal(host) { host } else { respell(host, &mut buffer)? };
        let mut longest = None;
        let mut end = host.rfind('.')?;
        loop {
            let dot = host[..end].rfind('.');
            let Some(isp) = self.ends.get(dot.map_or(host, |dot| &host[dot + 1..])) else {
                return longest;
            };
            longest = isp.or(longest);
            match dot {
                Some(dot) => end = dot,
                None => return longest,
            }
        }
    }
}

fn is_normal(name: &str) -> bool {
    // No early exit: names are short, and so the compiler makes a few wide comparisons of it.
    let upper = name.bytes().fold(false, |upper, b| upper | b.is_ascii_uppercase());
    !upper && !name.ends_with('.')
}

/// The name in lower case without a trailing dot, `None` when it is normal already or no name.
fn respell<'b>(name: &str, buffer: &'b mut [u8; MAX_NAME]) -> Option<&'b str> {
    if is_normal(name) {
        return None;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let buffer = buffer.get_mut(..name.len())?;
    buffer.copy_from_slice(name.as_bytes());
    buffer.make_ascii_lowercase();
    std::str::from_utf8(buffer).ok()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    #[serde(default)]
    sources: BTreeMap<String, String>,
    #[serde(default)]
    isp: Vec<RawIsp>,
}

// Enumerated words stay strings here: serde would stop at the first wrong one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIsp {
    #[serde(default)]
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: String,
    family: Option<String>,
    country: Option<String>,
    #[serde(default)]
    domains: Vec<String>,
    #[serde(default)]
    domains_from: Vec<String>,
    #[serde(default)]
    mx: Vec<String>,
    #[serde(default)]
    mx_from: Vec<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

fn build(raw: RawTable) -> Result<Isps, Mistakes> {
    let mut found = Mistakes::default();
    let mut table = Isps { isps: Vec::with_capacity(raw.isp.len()), domains: Names::default(), ends: Ends::default() };
    if raw.isp.is_empty() {
        found.add("isp", "no entry");
    }
    if raw.isp.len() > usize::from(u16::MAX - FIRST) {
        found.add("isp", "too many entries");
        return Err(found);
    }
    let mut ids = HashSet::new();
    for (index, (entry, isp)) in raw.isp.into_iter().zip((FIRST..).map(IspId)).enumerate() {
        let at = if entry.id.is_empty() { format!("isp[{index}]") } else { entry.id.clone() };
        check_entry(&entry, &at, &raw.sources, &mut found);
        if !ids.insert(entry.id.clone()) && !entry.id.is_empty() {
            found.add(&at, "the id is used twice");
        }
        for domain in &entry.domains {
            if let Err(problem) = check_name(domain) {
                found.add(format!("{at}.domains"), format!("{domain:?} {problem}"));
            } else if let Some(owner) = table.domains.insert(domain.as_str().into(), isp) {
                let owner = owner_name(&table, owner, isp);
                found.add(format!("{at}.domains"), format!("{domain:?} is listed twice, {owner}"));
            }
        }
        for suffix in &entry.mx {
            if let Err(problem) = check_name(suffix) {
                found.add(format!("{at}.mx"), format!("{suffix:?} {problem}"));
            } else if let Some(owner) = add_suffix(&mut table.ends, suffix, isp) {
                let owner = owner_name(&table, owner, isp);
                found.add(format!("{at}.mx"), format!("{suffix:?} is listed twice, {owner}"));
            }
        }
        table.isps.push(Isp {
            kind: IspKind::parse(&entry.kind).unwrap_or(IspKind::Mailbox),
            id: entry.id,
            name: entry.name,
            family: entry.family,
            country: entry.country,
        });
    }
    found.or_else_ok(table)
}

fn owner_name(table: &Isps, owner: IspId, isp: IspId) -> String {
    if owner == isp { "both times here".into() } else { format!("before by {:?}", table.id(owner)) }
}

fn check_entry(entry: &RawIsp, at: &str, sources: &BTreeMap<String, String>, found: &mut Mistakes) {
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if entry.id.is_empty() {
        found.add(at, "no id");
    } else if !word(&entry.id) {
        found.add(at, "an id is made of a-z, 0-9 and _");
    } else if matches!(entry.id.as_str(), OTHER_ID | LOCAL_ID) {
        found.add(at, "this id is reserved");
    }
    if entry.name.trim().is_empty() {
        found.add(format!("{at}.name"), "empty");
    }
    if IspKind::parse(&entry.kind).is_none() {
        found.add(format!("{at}.kind"), format!("{:?} is none of mailbox, hosting, gateway", entry.kind));
    }
    if entry.family.as_deref().is_some_and(|family| !word(family)) {
        found.add(format!("{at}.family"), "a family is made of a-z, 0-9 and _");
    }
    let country = |code: &str| code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
    if entry.country.as_deref().is_some_and(|code| !country(code)) {
        found.add(format!("{at}.country"), "two capital letters are expected");
    }
    if entry.domains.is_empty() && entry.mx.is_empty() {
        found.add(at, "neither domains nor mx: nothing could match");
    }
    for (field, names) in [("domains_from", &entry.domains_from), ("mx_from", &entry.mx_from)] {
        for name in names.iter().filter(|name| !sources.contains_key(name.as_str())) {
            found.add(format!("{at}.{field}"), format!("{name:?} is not among [sources]"));
        }
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.starts_with('[') || normalize_domain(name).as_deref() != Some(name) {
        return Err("is no lower-case domain name in A-label form without a trailing dot");
    }
    if !name.contains('.') {
        return Err("has only one label");
    }
    let whole = |suffix: &psl::Suffix<'_>| suffix.as_bytes() == name.as_bytes() && suffix.typ() == Some(psl::Type::Icann);
    if psl::suffix(name.as_bytes()).as_ref().is_some_and(whole) {
        return Err("is a public suffix: it would claim everybody below it");
    }
    Ok(())
}

/// Gives back whose the suffix was before.
fn add_suffix(ends: &mut Ends, suffix: &str, isp: IspId) -> Option<IspId> {
    let dots: Vec<usize> = suffix.rmatch_indices('.').map(|(dot, _)| dot).collect();
    for dot in dots.iter().skip(1) {
        ends.entry(suffix[dot + 1..].into()).or_insert(None);
    }
    ends.insert(suffix.into(), Some(isp)).flatten()
}
