//! Who is taken for the sender, and what configurations are refused for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::borrow::Cow;

use bounceflow_enrich::{Identities, IdentityConfig, Sender, UNKNOWN};
use proptest::prelude::*;

fn config(text: &str) -> IdentityConfig {
    toml::from_str(text).unwrap()
}

#[track_caller]
fn check(text: &str, sender: Sender<'_>, expect: &str) {
    let identities = Identities::new(&config(text)).unwrap();
    assert_eq!(identities.of(&sender), expect, "{text} {sender:?}");
}

fn from(domain: &str) -> Sender<'_> {
    Sender { from_domain: domain, ..Sender::default() }
}

fn ip(address: &str) -> Sender<'_> {
    Sender { sending_ip: address, ..Sender::default() }
}

fn everything() -> Sender<'static> {
    Sender {
        from_domain: "news.shop.co.uk",
        envelope: "bounces.esp.example",
        tenant: "Tenant 7",
        dkim_domain: "Shop.co.uk",
        pool: "pool-a",
        sending_ip: "192.0.2.7",
        campaign: "spring",
        tags: &[(Cow::Borrowed("stream"), Cow::Borrowed("news"))],
    }
}

#[test]
fn by_default_the_from_domain_then_the_envelope() {
    check("", from("shop.example"), "shop.example");
    check("", from("Shop.Example."), "shop.example");
    check("", from("bücher.example"), "xn--bcher-kva.example");
    check("", Sender { envelope: "b.example", ..Sender::default() }, "b.example");
    check("", Sender { envelope: "b.example", ..from("not a domain") }, "b.example");
    check("", from("a.b.shop.example"), "a.b.shop.example");
    check("", Sender::default(), UNKNOWN);
    check("", Sender { from_domain: "", envelope: "", ..everything() }, UNKNOWN);
    assert_eq!(Identities::default().of(&everything()), "news.shop.co.uk");
}

#[test]
fn sources_are_tried_in_turn() {
    check("source = 'tenant'", everything(), "Tenant 7");
    check("source = 'envelope_domain'", everything(), "bounces.esp.example");
    check("source = 'dkim_domain'", everything(), "shop.co.uk");
    check("source = ['pool']", everything(), "pool-a");
    check("source = ['sending_ip']", everything(), "192.0.2.7");
    check("source = ['campaign']", everything(), "spring");
    check("source = ['tag:stream']", everything(), "news");
    check("source = ['tag:none', 'tenant']", everything(), "Tenant 7");
    check("source = ['tenant', 'from_domain']", from("shop.example"), "shop.example");
    check("source = ['tag:none']", everything(), UNKNOWN);
}

#[test]
fn the_registered_domain_on_demand() {
    check("organizational = true", everything(), "shop.co.uk");
    check("organizational = true", from("A.B.Shop.Co.Uk"), "shop.co.uk");
    check("organizational = true", from("co.uk"), "co.uk");
    check("organizational = true", from("[192.0.2.1]"), "[192.0.2.1]");
    check("organizational = true\nsource = 'tenant'", Sender { tenant: "a.b.co.uk", ..everything() }, "a.b.co.uk");
}

#[test]
fn the_first_entry_that_fits_wins() {
    let text = "
        map = [
            { name = 'news', from_domain = '*.news.example' },
            { name = 'shop', from_domain = ['shop.example', 'Shop.Example.org', 'bücher.example'] },
            { name = 'both', pool = 'pool-*', tenant = ['7', '8'] },
            { name = 'stream', tag = ['stream=news', 'stream=alerts*'] },
            { name = 'net', cidr = ['192.0.2.0/24', '2001:db8::/32', '198.51.100.9'] },
            { name = 'signed', dkim_domain = 'sign.example' },
            { name = 'returned', envelope_domain = '*.esp.*' },
            { name = 'autumn', campaign = 'autumn' },
        ]
    ";
    check(text, from("a.news.example"), "news");
    check(text, from("A.B.NEWS.example."), "news");
    check(text, from("news.example"), "news.example");
    check(text, from("xnews.example"), "xnews.example");
    check(text, from("shop.example"), "shop");
    check(text, from("shop.example.org"), "shop");
    check(text, from("xn--bcher-kva.example"), "shop");
    check(text, from("a.shop.example"), "a.shop.example");
    check(text, Sender { pool: "pool-a", tenant: "8", ..from("x.example") }, "both");
    check(text, Sender { pool: "pool-a", tenant: "9", ..from("x.example") }, "x.example");
    check(text, Sender { pool: "Pool-a", tenant: "8", ..from("x.example") }, "x.example");
    check(text, Sender { tags: &[(Cow::Borrowed("stream"), Cow::Borrowed("alerts-eu"))], ..from("x.example") }, "stream");
    check(text, Sender { tags: &[(Cow::Borrowed("other"), Cow::Borrowed("news"))], ..from("x.example") }, "x.example");
    check(text, ip("192.0.2.200"), "net");
    check(text, ip("::ffff:192.0.2.200"), "net");
    check(text, ip("2001:DB8:1::1"), "net");
    check(text, ip("198.51.100.9"), "net");
    check(text, ip("198.51.100.10"), UNKNOWN);
    check(text, ip("192.0.2"), UNKNOWN);
    check(text, Sender { dkim_domain: "SIGN.example", ..from("x.example") }, "signed");
    check(text, Sender { envelope: "b.esp.example", ..from("x.example") }, "returned");
    check(text, Sender { campaign: "autumn", ..Sender::default() }, "autumn");
    check(text, everything(), "stream");
    check("source = []\nmap = [{ name = 'a', pool = '*' }]", everything(), "a");
    check("source = []\nmap = [{ name = 'a', pool = '*' }]", from("x.example"), UNKNOWN);
}

#[test]
fn every_mistake_is_named_at_once() {
    let text = "
        source = ['form_domain', 'tag:', 'pool', 'pool']
        map = [
            { pool = 'a' },
            { name = 'nothing' },
            { name = 'net', cidr = '10.0.0.0/33' },
            { name = 'nets', cidr = ['10.0.0.1/8', '10.0.0.0/8', '::ffff:10.0.0.0/104', 'ten'] },
            { name = 'domain', from_domain = ['not a domain', '*.', '*.ok.example', 'b*r.example', 'bü*r.example'] },
            { name = 'tag', tag = ['stream', '=x', 'x='], tenant = '' },
        ]
    ";
    let mistakes = Identities::new(&config(text)).unwrap_err();
    let expect = "\
identity.source[0]: \"form_domain\" is none of from_domain, envelope_domain, dkim_domain, tenant, pool, sending_ip, campaign, tag:NAME
identity.source[1]: the name of the tag is missing after tag:
identity.source[3]: \"pool\" is listed twice
identity.map[0].name: missing or empty
identity.map[1]: no condition: it would name every sender
identity.map[2].cidr: \"10.0.0.0/33\" is neither a network such as 192.0.2.0/24 nor an address
identity.map[3].cidr[0]: \"10.0.0.1/8\" has bits set beyond its prefix; 10.0.0.0/8 is meant?
identity.map[3].cidr[2]: \"::ffff:10.0.0.0/104\" is IPv4 inside IPv6; write it as IPv4
identity.map[3].cidr[3]: \"ten\" is neither a network such as 192.0.2.0/24 nor an address
identity.map[4].from_domain[0]: \"not a domain\" is neither a domain nor a pattern of one
identity.map[4].from_domain[1]: \"*.\" is neither a domain nor a pattern of one
identity.map[4].from_domain[4]: \"bü*r.example\" is neither a domain nor a pattern of one
identity.map[5].tag[0]: \"stream\" is not written as name=value
identity.map[5].tag[1]: \"=x\" is not written as name=value
identity.map[5].tag[2]: \"x=\" is not written as name=value
identity.map[5].tenant: empty";
    assert_eq!(mistakes.to_string(), expect);
    assert_eq!(mistakes.as_slice().len(), 16);
    let nothing = Identities::new(&config("source = []")).unwrap_err();
    assert_eq!(nothing.as_slice()[0].path, "identity.source");
}

#[test]
fn unknown_fields_and_wrong_types_are_refused() {
    let error = |text: &str| toml::from_str::<IdentityConfig>(text).unwrap_err().to_string();
    assert!(error("sauce = 'tenant'").contains("unknown field `sauce`"));
    assert!(error("[[map]]\nname = 'a'\ncdir = '10.0.0.0/8'").contains("unknown field `cdir`"));
    assert!(error("source = 7").contains("a string or a list of strings"));
}

#[test]
fn a_configuration_survives_writing() {
    for text in ["", "source = 'tenant'\nmap = [{ name = 'a', cidr = '10.0.0.0/8', tag = ['a=b', 'c=d'] }]"] {
        let config = config(text);
        assert_eq!(toml::from_str::<IdentityConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    }
}

#[test]
fn what_is_normal_already_is_borrowed() {
    let identities = Identities::default();
    assert!(matches!(identities.of(&from("shop.example")), Cow::Borrowed(_)));
    assert!(matches!(identities.of(&from("Shop.example")), Cow::Owned(_)));
}

/// `*` by trying every split.
fn naive(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| (0..=tail.len()).any(|i| naive(rest, &tail[i..]))),
    }
}

proptest! {
    #[test]
    fn any_sender_gets_a_name(fields in proptest::array::uniform7(any::<String>()), tag in any::<String>()) {
        let text = "
            source = ['tag:x', 'dkim_domain', 'from_domain', 'envelope_domain', 'pool', 'tenant']
            organizational = true
            map = [{ name = 'a', cidr = '10.0.0.0/8', from_domain = '*a*' }, { name = 'b', tag = 'x=*b' }]
        ";
        let [from_domain, envelope, tenant, dkim_domain, pool, sending_ip, campaign] = &fields;
        let tags = [(Cow::Borrowed("stream"), Cow::Borrowed(tag.as_str()))];
        let sender =
            Sender { from_domain, envelope, tenant, dkim_domain, pool, sending_ip, campaign, tags: &tags };
        prop_assert!(!Identities::new(&config(text)).unwrap().of(&sender).is_empty());
    }

    #[test]
    fn stars_equal_the_naive_rule(pattern in "[ab*]{0,3}\\*[ab*]{0,6}", texts in proptest::collection::vec("[ab]{1,10}", 16)) {
        let identities = Identities::new(&config(&format!("map = [{{ name = 'fits', pool = '{pattern}' }}]"))).unwrap();
        for pool in &texts {
            let fits = identities.of(&Sender { pool, ..Sender::default() }) == "fits";
            prop_assert_eq!(fits, naive(&pattern, pool), "{} {}", pattern, pool);
        }
    }
}
