//! Families of providers: what rules call a provider, and a hint from host or domain where nobody resolved one.
//! The full tables of providers are the enrichment's; this knows only what rules distinguish.

use std::sync::LazyLock;

/// One backend that answers with one set of replies.
struct Family {
    id: &'static str,
    /// Ids of the provider tables that belong to it.
    isps: &'static [&'static str],
    /// Whole labels at the end of an MX host.
    hosts: &'static [&'static str],
    /// Recipient domains.
    domains: &'static [&'static str],
}

macro_rules! families {
    ($($id:literal: [$($isp:literal)*] [$($host:literal)*] [$($domain:literal)*];)*) => {
        const FAMILIES: &[Family] = &[$(Family { id: $id, isps: &[$($isp),*], hosts: &[$($host),*], domains: &[$($domain),*] }),*];
    };
}

families! {
    "google": ["gmail" "google_workspace"] ["google.com" "googlemail.com" "psmtp.com"] ["gmail.com" "googlemail.com"];
    "outlook": [] ["olc.protection.outlook.com" "hotmail.com"] ["hotmail.com" "outlook.com" "live.com" "msn.com"];
    "office365": [] ["protection.outlook.com" "mx.microsoft" "office365.com"] [];
    "yahoo": ["att" "sky" "verizon"] ["yahoodns.net" "yahoo.com"] ["yahoo.com" "ymail.com" "rocketmail.com"];
    "aol": [] ["aol.com"] ["aol.com"];
    "apple": [] ["icloud.com" "apple.com"] ["icloud.com" "me.com" "mac.com"];
    "comcast": [] ["comcast.net"] ["comcast.net"];
    "gmx": ["webde" "mailcom" "ionos"] ["gmx.net" "gmx.com" "web.de" "mail.com" "kundenserver.de" "1and1.com"] ["gmx.de" "gmx.net" "web.de"];
    "tonline": [] ["t-online.de"] ["t-online.de"];
    "orange_fr": ["laposte"] ["orange.fr" "wanadoo.fr" "laposte.net"] ["orange.fr" "wanadoo.fr" "laposte.net"];
    "mailru": [] ["mail.ru"] ["mail.ru" "bk.ru" "list.ru" "inbox.ru"];
    "yandex": [] ["yandex.ru" "yandex.net"] ["yandex.ru" "yandex.com" "ya.ru"];
    "qq": [] ["qq.com"] ["qq.com" "foxmail.com"];
    "netease": [] ["netease.com" "163.com" "126.com"] ["163.com" "126.com" "yeah.net"];
    "docomo": [] ["docomo.ne.jp"] ["docomo.ne.jp"];
    "kddi": [] ["ezweb.ne.jp" "au.com" "auone-net.jp"] ["ezweb.ne.jp" "au.com"];
    "ses": [] ["amazonaws.com" "amazonses.com"] [];
    "mimecast": [] ["mimecast.com" "mimecast.co.za"] [];
    "proofpoint": [] ["pphosted.com" "ppe-hosted.com"] [];
    "barracuda": [] ["barracudanetworks.com" "cudaops.com"] [];
    "godaddy": [] ["secureserver.net"] [];
    "cisco": [] ["iphmx.com"] [];
}

/// The provider as rules see it: the id given, else a hint from the host that answered, else from the recipient's domain.
pub(crate) fn resolve<'a>(isp: &'a str, host: &str, domain: &str) -> &'a str {
    if !isp.is_empty() && isp != "other" {
        return isp;
    }
    let host = host.trim_end_matches('.');
    first_of(&HOSTS, host, |name| has_suffix(host, name))
        .or_else(|| first_of(&DOMAINS, domain, |name| name.eq_ignore_ascii_case(domain)))
        .unwrap_or(isp)
}

/// A name of a family, with the end of it that is compared first: every reply of nobody's table is held against all of them.
struct Name {
    end: u64,
    mask: u64,
    name: &'static str,
    id: &'static str,
}

static HOSTS: LazyLock<Box<[Name]>> = LazyLock::new(|| names(|f| f.hosts));
static DOMAINS: LazyLock<Box<[Name]>> = LazyLock::new(|| names(|f| f.domains));

fn names(of: impl Fn(&Family) -> &'static [&'static str]) -> Box<[Name]> {
    let pairs = FAMILIES.iter().flat_map(|f| of(f).iter().map(|name| (*name, f.id)));
    pairs.map(|(name, id)| Name { end: end(name), mask: u64::MAX << (64 - 8 * name.len().min(8)), name, id }).collect()
}

/// The last eight bytes, the very last one highest. All of them as if no capitals: that makes some equal that are not.
fn end(name: &str) -> u64 {
    let eight = name.as_bytes().last_chunk().map_or_else(
        || name.bytes().rev().zip((0..8).rev()).fold(0, |end, (b, at)| end | u64::from(b) << (8 * at)),
        |eight| u64::from_le_bytes(*eight),
    );
    eight | 0x2020_2020_2020_2020
}

fn first_of(names: &[Name], text: &str, is_it: impl Fn(&str) -> bool) -> Option<&'static str> {
    let end = end(text);
    names.iter().find(|n| (n.end ^ end) & n.mask == 0 && is_it(n.name)).map(|n| n.id)
}

/// Every id a rule means by `name`: the family and its members, or an id of the operator's own.
pub(crate) fn members(name: &str) -> Vec<Box<str>> {
    let mut ids = vec![Box::from(name)];
    if let Some(f) = FAMILIES.iter().find(|f| f.id == name) {
        ids.extend(f.isps.iter().map(|isp| Box::from(*isp)));
    }
    ids
}

/// Whether rules know it without the provider tables: a family, or a provider that belongs to one.
pub fn is_family(name: &str) -> bool {
    FAMILIES.iter().any(|f| f.id == name || f.isps.contains(&name))
}

fn has_suffix(host: &str, suffix: &str) -> bool {
    let (host, suffix) = (host.as_bytes(), suffix.as_bytes());
    let Some(at) = host.len().checked_sub(suffix.len()) else { return false };
    host[at].eq_ignore_ascii_case(&suffix[0]) && host[at..].eq_ignore_ascii_case(suffix) && (at == 0 || host[at - 1] == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_id_wins_over_host_over_domain() {
        assert_eq!(resolve("gmail", "mx.qq.com", "qq.com"), "gmail");
        assert_eq!(resolve("", "ALT1.gmail-smtp-in.l.google.com.", "qq.com"), "google");
        assert_eq!(resolve("other", "", "QQ.com"), "qq");
        assert_eq!(resolve("other", "notgoogle.com", "example.org"), "other");
        assert_eq!(resolve("", "x.olc.protection.outlook.com", ""), "outlook");
    }
}
