//! Which provider a recipient domain and an MX host belong to, and what tables are refused for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::sync::LazyLock;

use bounceflow_enrich::{IspKind, Isps, TableError};
use proptest::prelude::*;

#[track_caller]
fn check(domain: &str, mx: &str, expect: &str) {
    let isps = Isps::builtin().unwrap();
    assert_eq!(isps.id(isps.of(domain, mx)), expect, "domain {domain:?}, mx {mx:?}");
}

#[test]
fn recipient_domain_is_asked_first() {
    check("gmail.com", "", "gmail");
    check("gmail.com", "gmail-smtp-in.l.google.com", "gmail");
    check("googlemail.com", "alt4.gmail-smtp-in.l.google.com", "gmail");
    check("gmail.com", "relay.example", "gmail");
    check("hotmail.co.uk", "eur.olc.protection.outlook.com", "outlook");
    check("outlook.com.br", "", "outlook");
    check("verizon.net", "mx-aol.mail.gm0.yahoodns.net", "verizon");
    check("sky.com", "mx.yahoodns.net", "sky");
    check("yahoo.co.jp", "mx1.mail.yahoo.co.jp", "yahoo_jp");
    check("icloud.com", "mx01.mail.icloud.com", "apple");
    check("privaterelay.appleid.com", "smtp.privaterelay.appleid.com", "apple");
    check("wanadoo.fr", "smtp-in.orange.fr", "orange_fr");
    check("vip.163.com", "vip163mx01.mxmail.netease.com", "netease");
    check("list.ru", "mxs.mail.ru", "mailru");
    check("worldnet.att.net", "", "att");
}

#[test]
fn a_company_domain_belongs_to_who_takes_its_mail() {
    check("company.example", "aspmx.l.google.com", "google_workspace");
    check("company.example", "alt2.aspmx.l.google.com", "google_workspace");
    check("company.example", "aspmx3.googlemail.com", "google_workspace");
    check("company.example", "smtp.google.com", "google_workspace");
    check("company.example", "company-example.mail.protection.outlook.com", "office365");
    check("company.example", "company-example.a-v1.mx.microsoft", "office365");
    check("company.onmicrosoft.com", "company.mail.protection.outlook.com", "office365");
    check("company.example", "company-example.olc.protection.outlook.com", "outlook");
    check("company.example", "mx-biz.mail.am0.yahoodns.net", "yahoo");
    check("company.example", "mx.zoho.eu", "zoho");
    check("company.example", "mx00.ionos.de", "ionos");
    check("company.example", "smtpin.rzone.de", "strato");
    check("company.example", "mail.protonmail.ch", "proton");
    check("company.example", "in1-smtp.messagingengine.com", "fastmail");
    check("company.example", "route1.mx.cloudflare.net", "cloudflare");
    check("company.example", "inbound-smtp.eu-west-1.amazonaws.com", "amazon_workmail");
}

#[test]
fn a_gateway_is_who_answered() {
    check("company.example", "mx0a-00012345.pphosted.com", "proofpoint");
    check("company.example", "eu-smtp-inbound-1.mimecast.com", "mimecast");
    check("company.example", "d12345.ess.barracudanetworks.com", "barracuda");
    check("company.example", "mx1.hc1234-56.iphmx.com", "cisco");
    check("company.example", "cluster1.eu.messagelabs.com", "symantec");
    check("company.example", "mx01.hornetsecurity.com", "hornetsecurity");
    let isps = Isps::builtin().unwrap();
    let proofpoint = isps.of("company.example", "mx0a-00012345.pphosted.com");
    assert_eq!(isps.get(proofpoint).unwrap().kind, IspKind::Gateway);
}

#[test]
fn the_longest_suffix_wins() {
    check("company.example", "mx-aol.mail.gm0.yahoodns.net", "aol");
    check("company.example", "mx-att.mail.am0.yahoodns.net", "att");
    check("company.example", "mta5.am0.yahoodns.net", "yahoo");
    check("company.example", "mx.gmail-smtp-in.l.google.com", "gmail");
    check("company.example", "mx.ukmail.iss.as9143.net", "virgin_media");
    check("company.example", "mx.mail.iss.as9143.net", "ziggo");
    check("company.example", "MX-AOL.mail.gm0.yahoodns.net.", "aol");
}

#[test]
fn only_whole_labels_count() {
    check("notgmail.com", "", "other");
    check("notgmail.com", "mx.notgmail.com", "other");
    check("gmail.com.evil.example", "", "other");
    check("mail.gmail.com", "", "other");
    check("company.example", "xgoogle.com", "other");
    check("company.example", "mx.xsmtp.google.com", "other");
    check("company.example", "evilsmtp.google.com", "other");
    check("company.example", "xyahoodns.net", "other");
    check("company.example", "smtp.google.com.evil.example", "other");
    check("company.example", "google.com", "other");
    check("company.example", "l.google.com", "other");
    check("company.example", "outlook.com", "other");
    check("company.example", "other.l.google.com", "other");
    check("company.example", "x-gmail-smtp-in.l.google.com", "other");
}

#[test]
fn case_and_a_trailing_dot_do_not_matter() {
    check("GMAIL.COM.", "", "gmail");
    check("gmail.com.", "", "gmail");
    check("Gmail.com", "", "gmail");
    check("company.example", "ASPMX.L.GOOGLE.COM.", "google_workspace");
    check("company.example", "aspmx.l.google.com.", "google_workspace");
    check("COMPANY.EXAMPLE", "Company-Example.Mail.Protection.Outlook.com", "office365");
    check("gmail.com..", "", "other");
}

#[test]
fn what_says_nothing_is_other() {
    check("", "", "other");
    check(".", ".", "other");
    check("com", "net", "other");
    check("..", "..", "other");
    check("company.example", "[192.0.2.1]", "other");
    check("company.example", "192.0.2.1", "other");
    check("company.example", "2001:db8::1", "other");
    check("bücher.example", "mx.bücher.example", "other");
    check("xn--bcher-kva.example", "aspmx.l.google.com", "google_workspace");
    check("BÜCHER.example", "ASPMX.L.GOOGLE.com", "google_workspace");
    check(&"A".repeat(300), &format!("{}.smtp.google.com", "a".repeat(300)), "google_workspace");
    check(&"A".repeat(300), &format!("{}.smtp.GOOGLE.com", "a".repeat(300)), "other");
}

#[test]
fn ids_are_dense_and_two_are_reserved() {
    let isps = Isps::builtin().unwrap();
    assert_eq!((isps.id(Isps::OTHER), isps.get(Isps::OTHER)), ("other", None));
    assert_eq!((isps.id(Isps::LOCAL), isps.get(Isps::LOCAL)), ("local", None));
    let ids: Vec<_> = isps.ids().collect();
    assert_eq!(ids.len(), isps.len());
    for (index, isp) in ids.into_iter().enumerate() {
        assert_eq!(isp.index(), index);
        assert_eq!(isps.find(isps.id(isp)), Some(isp));
    }
    assert_eq!(isps.find("nobody"), None);
    let gmail = isps.get(isps.find("gmail").unwrap()).unwrap();
    assert_eq!((gmail.name.as_str(), gmail.kind, gmail.family.as_deref()), ("Gmail", IspKind::Mailbox, Some("google")));
}

#[test]
fn every_name_of_the_table_finds_its_own_entry() {
    let table: toml::Table = include_str!("../tables/isps.toml").parse().unwrap();
    let isps = Isps::builtin().unwrap();
    let sources = table["sources"].as_table().unwrap();
    let (mut entries, mut domains, mut suffixes, mut used) = (0, HashSet::new(), HashSet::new(), HashSet::new());
    for entry in table["isp"].as_array().unwrap() {
        let id = entry["id"].as_str().unwrap();
        let list = |field: &str| {
            let values = entry.get(field).and_then(|v| v.as_array()).into_iter().flatten();
            values.map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for domain in list("domains") {
            assert_eq!(isps.id(isps.of(&domain, "")), id, "{domain}");
            assert_eq!(isps.id(isps.of(&format!("{}.", domain.to_uppercase()), "")), id, "{domain}");
            assert!(domains.insert(domain.clone()), "{domain} twice");
        }
        for suffix in list("mx") {
            for host in [suffix.clone(), format!("mx1.{suffix}"), format!("A.b-1.{}.", suffix.to_uppercase())] {
                assert_eq!(isps.id(isps.of("company.example", &host)), id, "{host}");
            }
            // Not always "other": yahoodns.net also takes what is close to the hosts of its partners.
            assert_ne!(isps.id(isps.of("company.example", &format!("x{suffix}"))), id, "{suffix}");
            assert!(suffixes.insert(suffix.clone()), "{suffix} twice");
        }
        for (field, from) in [("domains", "domains_from"), ("mx", "mx_from")] {
            assert_eq!(list(field).is_empty(), list(from).is_empty(), "{id} does not say where its {field} were learnt");
            used.extend(list(from));
        }
        entries += 1;
    }
    assert_eq!(entries + 2, isps.len());
    assert_eq!(used, sources.keys().cloned().collect(), "a source nobody names");
    assert!(entries >= 134 && domains.len() >= 561 && suffixes.len() >= 198, "the table shrank");
}

#[test]
fn every_mistake_is_named_at_once() {
    let text = r#"
        [sources]
        here = "Here"
        [[isp]]
        id = "one"
        name = "One"
        kind = "mailbox"
        domains = ["one.example", "One.example", "two.example", "", "one.example"]
        domains_from = ["here", "there"]
        [[isp]]
        id = "two"
        name = " "
        kind = "castle"
        family = "The Two"
        country = "de"
        domains = ["two.example", "bücher.example", "gap..example"]
        mx = [".dotted.example", "co.uk", "com", "mx.one.example", "one.example.", "[192.0.2.1]"]
        [[isp]]
        id = "two"
        name = "Two again"
        kind = "gateway"
        mx = ["mx.one.example", "*.star.example"]
        [[isp]]
        id = "other"
        name = "Other"
        kind = "hosting"
        [[isp]]
        name = "No id"
        kind = "hosting"
        mx = ["fine.example"]
        [[isp]]
        id = "Big One"
        name = "Big"
        kind = "hosting"
        mx = ["big.example"]
    "#;
    let TableError::Mistakes(mistakes) = Isps::from_toml(text).unwrap_err() else { panic!("not read") };
    let found: Vec<String> = mistakes.as_slice().iter().map(ToString::to_string).collect();
    let form = "is no lower-case domain name in A-label form without a trailing dot";
    let expect = [
        "one.domains_from: \"there\" is not among [sources]".to_owned(),
        format!("one.domains: \"One.example\" {form}"),
        "one.domains: \"\" is empty".into(),
        "one.domains: \"one.example\" is listed twice, both times here".into(),
        "two.name: empty".into(),
        "two.kind: \"castle\" is none of mailbox, hosting, gateway".into(),
        "two.family: a family is made of a-z, 0-9 and _".into(),
        "two.country: two capital letters are expected".into(),
        "two.domains: \"two.example\" is listed twice, before by \"one\"".into(),
        format!("two.domains: \"bücher.example\" {form}"),
        format!("two.domains: \"gap..example\" {form}"),
        format!("two.mx: \".dotted.example\" {form}"),
        "two.mx: \"co.uk\" is a public suffix: it would claim everybody below it".into(),
        "two.mx: \"com\" has only one label".into(),
        format!("two.mx: \"one.example.\" {form}"),
        format!("two.mx: \"[192.0.2.1]\" {form}"),
        "two: the id is used twice".into(),
        "two.mx: \"mx.one.example\" is listed twice, before by \"two\"".into(),
        format!("two.mx: \"*.star.example\" {form}"),
        "other: this id is reserved".into(),
        "other: neither domains nor mx: nothing could match".into(),
        "isp[4]: no id".into(),
        "Big One: an id is made of a-z, 0-9 and _".into(),
    ];
    assert_eq!(found, expect);
}

#[test]
fn what_is_no_table_is_refused() {
    assert!(matches!(Isps::from_toml("[[isp]"), Err(TableError::Syntax(_))));
    assert!(matches!(Isps::from_toml("[[isp]]\nmxs = []"), Err(TableError::Syntax(_))));
    assert!(matches!(Isps::from_toml(""), Err(TableError::Mistakes(_))));
}

/// The rule as the table's header states it, without the shortcuts.
fn naive(entries: &[(String, String)], host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let fits = |suffix: &str| host == suffix || host.ends_with(&format!(".{suffix}"));
    let best = entries.iter().filter(|(suffix, _)| fits(suffix)).max_by_key(|(suffix, _)| suffix.len());
    best.map_or_else(|| "other".to_owned(), |(_, id)| id.clone())
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(domain in "\\PC{0,80}", mx in "[a-zA-Z.é\\[\\]-]{0,300}") {
        static ISPS: LazyLock<Isps> = LazyLock::new(|| Isps::builtin().unwrap());
        let isps = &*ISPS;
        let isp = isps.of(&domain, &mx);
        prop_assert!(isp.index() < isps.len());
        prop_assert!(!isps.id(isp).is_empty());
    }

    #[test]
    fn equals_the_naive_rule(
        suffixes in proptest::collection::btree_set("[ab](\\.[ab]){1,4}", 1..12),
        hosts in proptest::collection::vec("[abAB](\\.[abAB]){0,7}\\.?", 32),
    ) {
        let entries: Vec<_> = suffixes.into_iter().enumerate().map(|(i, s)| (s, format!("isp_{i}"))).collect();
        let text: String = entries
            .iter()
            .map(|(suffix, id)| format!("[[isp]]\nid = {id:?}\nname = {id:?}\nkind = \"mailbox\"\nmx = [{suffix:?}]\n"))
            .collect();
        let isps = Isps::from_toml(&text).unwrap();
        for host in hosts {
            prop_assert_eq!(isps.id(isps.of("", &host)), naive(&entries, &host), "{}", host);
        }
    }
}
