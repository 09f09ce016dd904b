//! Who receives and who sends: `world.toml`, made into tables to draw from.

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::mix::slots;
use super::replies::{Part, parts};

/// Recipient domains are drawn with 16 random bits, identities with 8.
const DOMAIN_SLOTS: usize = 1 << 16;
const IDENTITY_SLOTS: usize = 1 << 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    provider: Vec<RawProvider>,
    identity: Vec<Identity>,
    words: Words,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    isp: String,
    share: u32,
    #[serde(default)]
    domains: Vec<(String, u32)>,
    /// Domains made up whose mail it takes. They are known by their MX alone.
    #[serde(default)]
    customers: usize,
    mx: Vec<String>,
    accepted: String,
    #[serde(default)]
    feedback_loop: bool,
}

/// Who sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    pub(super) domain: String,
    share: u32,
    pub(super) tenant: String,
    pub(super) dkim: String,
    pub(super) campaigns: Vec<String>,
    pub(super) pools: Vec<Pool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) ips: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    pub(super) first: Vec<String>,
    pub(super) last: Vec<String>,
    stems: Vec<String>,
    trades: Vec<String>,
    typos: Vec<String>,
}

/// A recipient domain.
pub(super) struct Domain {
    pub(super) name: String,
    /// Who it belongs to where nobody says which server answered.
    pub(super) isp_by_domain: u16,
    /// Who it belongs to where the MX is named.
    pub(super) isp: u16,
    pub(super) mx: Vec<Mx>,
    /// Its provider, for the text of a 250.
    pub(super) provider: u16,
    pub(super) feedback_loop: bool,
}

pub(super) struct Mx {
    pub(super) host: String,
    pub(super) peer: String,
}

pub(super) struct World {
    /// Labels of providers, then `other`, then `local`.
    pub(super) isps: Vec<String>,
    pub(super) domains: Vec<Domain>,
    /// Text of a 250 per provider.
    pub(super) accepted: Vec<Vec<Part>>,
    pub(super) domain_slots: Vec<u16>,
    /// The same among domains of providers with a feedback loop.
    pub(super) complaining: Vec<u16>,
    /// Domains that do not exist.
    pub(super) typos: Vec<u16>,
    pub(super) identities: Vec<Identity>,
    pub(super) identity_slots: Vec<u16>,
    pub(super) words: Words,
    pub(super) local: u16,
}

impl World {
    pub(super) fn load() -> anyhow::Result<Self> {
        let raw: Raw = toml::from_str(include_str!("world.toml")).context("world.toml")?;
        let mut isps: Vec<String> = raw.provider.iter().map(|p| p.isp.clone()).filter(|isp| isp != "other").collect();
        let other = isps.len() as u16;
        isps.extend(["other".to_owned(), "local".to_owned()]);

        // Every pair once: within one stem the trade moves on by one each round.
        let (stems, trades) = (&raw.words.stems, &raw.words.trades);
        let mut made_up = (0..stems.len() * trades.len()).map(|i| {
            let (stem, trade) = (i % stems.len(), (i / stems.len() + i) % trades.len());
            format!("{}-{}.example", stems[stem], trades[trade])
        });

        let (mut domains, mut weights, mut accepted) = (Vec::new(), Vec::new(), Vec::new());
        for (provider, p) in raw.provider.iter().enumerate() {
            let isp = isps.iter().position(|i| *i == p.isp).context("provider")? as u16;
            let known: u32 = p.domains.iter().map(|(_, weight)| weight).sum();
            let each = if p.customers == 0 { 1 } else { 3 };
            let total = known + each * p.customers as u32;
            let named = p.domains.iter().map(|(name, weight)| (name.clone(), isp, *weight));
            let customers: Vec<String> = made_up.by_ref().take(p.customers).collect();
            ensure!(customers.len() == p.customers, "not enough words for the customers of {}", p.isp);
            let customers = customers.into_iter().map(|name| (name, other, each));
            for (name, isp_by_domain, weight) in named.chain(customers) {
                let mx = mx_hosts(&p.mx, &name, domains.len());
                let feedback_loop = p.feedback_loop;
                domains.push(Domain { name, isp_by_domain, isp, mx, provider: provider as u16, feedback_loop });
                // Shares are a few hundreds: scaled, so that a domain among a thousand keeps its part.
                weights.push((u64::from(p.share) * u64::from(weight) * 100_000 / u64::from(total)) as u32);
            }
            accepted.push(parts(&p.accepted)?);
        }
        let domain_slots = slots(&weights, DOMAIN_SLOTS);
        let complaining = domain_slots.iter().copied().filter(|d| domains[usize::from(*d)].feedback_loop).collect();
        let first_typo = domains.len() as u16;
        domains.extend(raw.words.typos.iter().map(|name| Domain {
            name: name.clone(),
            isp_by_domain: other,
            isp: other,
            mx: Vec::new(),
            provider: 0,
            feedback_loop: false,
        }));
        let identity_weights: Vec<u32> = raw.identity.iter().map(|i| i.share).collect();
        Ok(Self {
            typos: (first_typo..domains.len() as u16).collect(),
            local: other + 1,
            isps,
            domains,
            accepted,
            domain_slots,
            complaining,
            identity_slots: slots(&identity_weights, IDENTITY_SLOTS),
            identities: raw.identity,
            words: raw.words,
        })
    }
}

fn mx_hosts(patterns: &[String], domain: &str, number: usize) -> Vec<Mx> {
    // Host names are ASCII; the few internationalised domains of the tail get a neutral one.
    let dashed = if domain.is_ascii() { domain.replace('.', "-") } else { format!("idn-{number}") };
    let host = |(i, pattern): (usize, &String)| Mx {
        host: pattern.replace("{dashed}", &dashed),
        peer: format!("198.18.{}.{}", number % 256, 10 + i),
    };
    patterns.iter().enumerate().map(host).collect()
}
