//! The domain of an address, in one spelling or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::borrow::Cow;

use bounceflow_enrich::{domain_of, mailbox_of, normalize_domain, organizational_domain};
use proptest::prelude::*;

#[track_caller]
fn check(address: &str, expect: Option<&str>) {
    assert_eq!(domain_of(address).as_deref(), expect, "{address:?}");
}

#[test]
fn the_domain_is_what_follows_the_last_at() {
    check("a@gmail.com", Some("gmail.com"));
    check("a@GMail.Com", Some("gmail.com"));
    check("a@gmail.com.", Some("gmail.com"));
    check("<a@gmail.com>", Some("gmail.com"));
    check(" <A@Gmail.com.> ", Some("gmail.com"));
    check("Anna <anna@mail.example>", Some("mail.example"));
    check("\"a@b\"@mail.example", Some("mail.example"));
    check("\"a b <c@d>\"@mail.example", Some("mail.example"));
    check("<@relay.example:a@mail.example>", Some("mail.example"));
    check("a%mail.example@relay.example", Some("relay.example"));
    check("a+tag=x@mail.example", Some("mail.example"));
    check("@mail.example", Some("mail.example"));
    check("root@localhost", Some("localhost"));
    check("a@_dmarc.under_score.example", Some("_dmarc.under_score.example"));
    check("a@xn--bcher-kva.example", Some("xn--bcher-kva.example"));
}

#[test]
fn the_mailbox_is_what_stands_in_brackets() {
    for (written, expect) in [
        ("kim@mail.example", "kim@mail.example"),
        (" Kim@Mail.example. ", "Kim@Mail.example."),
        ("<kim@mail.example>", "kim@mail.example"),
        ("\t< kim@mail.example>\n", "kim@mail.example"),
        ("Kim Lee <kim@mail.example>", "kim@mail.example"),
        ("\"Kim <boss>\" <kim@mail.example>", "kim@mail.example"),
        ("Kim \"O <kim@mail.example>", "kim@mail.example"),
        ("<kim@mail.example", "kim@mail.example"),
        ("kim@mail.example>", "kim@mail.example"),
        ("\"kim <lee\"@mail.example", "\"kim <lee\"@mail.example"),
        ("Kim <\"kim <lee\"@mail.example>", "\"kim <lee\"@mail.example"),
        ("<\"a \\\" <b\"@mail.example>", "\"a \\\" <b\"@mail.example"),
        ("<kim\"@mail.example>", "kim\"@mail.example"),
        ("<é@bücher.example>", "é@bücher.example"),
        ("<>", "<"),
        ("kim", "kim"),
        ("", ""),
    ] {
        assert_eq!(mailbox_of(written), expect, "{written:?}");
    }
}

#[test]
fn address_literals_stay() {
    check("a@[192.0.2.1]", Some("[192.0.2.1]"));
    check("<a@[IPv6:2001:db8::1]>", Some("[IPv6:2001:db8::1]"));
    check("a@[]", None);
    check("a@[192.0.2.1", None);
    check("a@[192.0.2.1]x", None);
    check("a@[192.0 2.1]", None);
    check("a@[[192.0.2.1]]", None);
}

#[test]
fn international_names_become_a_labels() {
    check("a@bücher.example", Some("xn--bcher-kva.example"));
    check("a@BÜCHER.Example.", Some("xn--bcher-kva.example"));
    check("я@почта.рф", Some("xn--80a1acny.xn--p1ai"));
    check("a@例え。テスト", Some("xn--r8jz45g.xn--zckzah"));
    check("a@例え。テスト。", Some("xn--r8jz45g.xn--zckzah"));
    check("a@faß.example", Some("xn--fa-hia.example"));
    check("a@ｇｍａｉｌ.com", Some("gmail.com"));
    check("a@bü cher.example", None);
    check("a@bücher..example", None);
    check("a@\u{AD}", None);
    check("a@ü\u{FF20}b.example", None);
    check("a@［192.0.2.1］", None);
    check("a@bü\u{200E}cher.example", None);
    check(&format!("a@{}.example", "ü".repeat(64)), None);
    check(&format!("a@{}example", "ü.".repeat(50)), None);
    check(&format!("a@{}", "ü".repeat(100_000)), None);
}

#[test]
fn what_is_no_domain_is_nothing() {
    for address in ["", "@", "<>", "a", "gmail.com", "a@", "a@>", "a@.", "a@..", "a@.b", "a@b..c", "a@b c", "a@b,c"] {
        check(address, None);
    }
    for address in ["a@b/c", "a@b\0", "a@b.com (home)", "a@b.com..", "a@b:25", "a@b\tc", "MAILER-DAEMON"] {
        check(address, None);
    }
    check(&format!("a@{}.example", "x".repeat(63)), Some(&format!("{}.example", "x".repeat(63))));
    check(&format!("a@{}.example", "x".repeat(64)), None);
    check(&format!("a@{}", vec!["x".repeat(63); 4].join(".")[..255].to_owned()), Some(&vec!["x".repeat(63); 4].join(".")[..255]));
    check(&format!("a@{}.x", vec!["x".repeat(63); 4].join(".")), None);
}

#[test]
fn the_normal_spelling_is_borrowed() {
    for address in ["a@gmail.com", "<a@gmail.com>", "a@gmail.com.", "a@[192.0.2.1]", "a@xn--bcher-kva.example"] {
        assert!(matches!(domain_of(address), Some(Cow::Borrowed(_))), "{address}");
    }
    assert!(matches!(domain_of("a@Gmail.com"), Some(Cow::Owned(_))));
}

#[test]
fn the_registered_part_follows_the_public_suffix_list() {
    for (domain, expect) in [
        ("news.shop.co.uk", "shop.co.uk"),
        ("shop.co.uk", "shop.co.uk"),
        ("a.b.example.com", "example.com"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("a.b.xn--80a1acny.xn--p1ai", "xn--80a1acny.xn--p1ai"),
        ("", ""),
    ] {
        assert_eq!(organizational_domain(domain), expect, "{domain}");
    }
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(address in any::<String>()) {
        let _ = domain_of(&address);
        let _ = organizational_domain(&address);
        let _ = mailbox_of(&address);
    }

    #[test]
    fn a_mailbox_keeps_its_domain(address in "[ <]{0,2}[a <\"\\\\>]{0,9}@\\PC{1,20}[>.]{0,2}") {
        if let Some(domain) = domain_of(&address) {
            prop_assert_eq!(domain_of(mailbox_of(&address)), Some(domain));
        }
    }

    #[test]
    fn the_normal_spelling_is_its_own(address in "[a<\"]{0,2}@\\PC{1,40}[>.]{0,2}") {
        if let Some(domain) = domain_of(&address) {
            prop_assert!(domain.is_ascii() && domain.len() <= 255);
            prop_assert_eq!(normalize_domain(&domain), Some(Cow::Borrowed(&*domain)));
            let address = format!("x@{domain}");
            prop_assert_eq!(domain_of(&address), Some(Cow::Borrowed(&*domain)));
        }
    }

    #[test]
    fn names_of_many_scripts_are_stable(labels in proptest::collection::vec("[a-zA-Zäßя例-]{1,8}", 1..5)) {
        if let Some(domain) = normalize_domain(&labels.join(".")) {
            prop_assert_eq!(normalize_domain(&domain), Some(Cow::Borrowed(&*domain)));
        }
    }
}
