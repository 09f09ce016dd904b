//! Any text in any field: never a panic, always a verdict, and no recipient in what leaves.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::{Arc, LazyLock};

use bounceflow_classify::{Classifier, MAX_DIAGNOSTIC, Reading, Reply, Rules, Verdict, redact};
use bounceflow_event::{EventType, Severity};
use proptest::prelude::*;

static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| Arc::new(Rules::builtin().unwrap()));

/// Text that looks like replies more often than chance would have it.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[ -~\\n\\t]{0,40}",
        Just("550 5.1.1 ".to_owned()),
        Just("550-".to_owned()),
        Just("host mx[192.0.2.1] said: ".to_owned()),
        Just("(in reply to RCPT TO command)".to_owned()),
        Just("<\u{1f408}@example.jp>".to_owned()),
        Just("https://a.b/c?d=e@f".to_owned()),
        Just("\"a b\"@c.d".to_owned()),
        Just("..@..".to_owned()),
        Just("[(<".to_owned()),
        Just("2001:db8::1 10:20:30 1/2/3".to_owned()),
        Just("\u{a0}\u{2028}\u{0}".to_owned()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|v| v.concat())
}

fn event() -> impl Strategy<Value = Option<EventType>> {
    prop::sample::select(vec![None, Some(EventType::Deferral), Some(EventType::Bounce), Some(EventType::OobBounce)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn never_panics_and_cache_agrees(
        code in any::<u16>(), enhanced in text(), diagnostic in text(), command in text(), isp in text(), mx in text(),
        domain in text(), event in event(),
    ) {
        let reply = Reply {
            event, reply_code: code, enhanced_code: &enhanced, diagnostic: &diagnostic, command: &command, isp: &isp,
            mx_host: &mx, recipient_domain: &domain,
        };
        let mut classifier = Classifier::new(Arc::clone(&RULES));
        let first = classifier.classify(&reply).verdict.clone();
        let again = classifier.classify(&reply).verdict.clone();
        let mut reading = Reading::new();
        reading.read(&reply);
        prop_assert_eq!(&first, &again);
        prop_assert_eq!(&first, RULES.classify(&reading));
        let matches = RULES.explain(&reading);
        prop_assert_eq!(&*matches[0].rule, &*first.rule);
        match event {
            Some(EventType::Deferral) => prop_assert_eq!(first.severity, Severity::Deferred),
            Some(_) => prop_assert_ne!(first.severity, Severity::Deferred),
            None => {}
        }
    }

    #[test]
    fn any_bytes_are_read_within_bounds(
        bytes in prop::collection::vec(any::<u8>(), 0..2 * MAX_DIAGNOSTIC), repeated in prop::sample::select(vec![1, 3, 4096]),
    ) {
        let text = String::from_utf8_lossy(&bytes).repeat(repeated);
        within_bounds(&text);
    }

    #[test]
    fn redaction_is_bounded_and_one_line(diagnostic in text()) {
        let mut out = String::new();
        redact(&diagnostic, &mut out);
        prop_assert!(out.len() <= MAX_DIAGNOSTIC);
        prop_assert!(!out.contains(|c: char| c.is_control()));
    }

    #[test]
    fn no_local_part_survives(before in "[ -~]{0,20}", local in "kimlocal[a-z0-9.+_-]{0,12}[a-z0-9]", after in "[ -~]{0,20}") {
        let text = format!("{before} <{local}@example.com> {after}");
        let mut out = String::new();
        redact(&text, &mut out);
        prop_assert!(!out.contains("kimlocal"), "{}", out);
        let mut reading = Reading::new();
        reading.read(&Reply { diagnostic: &text, ..Reply::default() });
        prop_assert!(!reading.template().contains("kimlocal"), "{}", reading.template());
    }
}

/// What a megabyte may repeat: words, an open wrapper, one word without an end, brackets, quotes, addresses, other scripts, control
/// bytes, and what is masked by something longer.
const PIECES: [&str; 14] = [
    "550 5.1.1 user unknown ",
    "host x said: ",
    "a",
    "((((<<<<",
    "\"x\" @y ",
    "a@b.c,",
    "\u{65e5}\u{672c} ",
    "\0\u{1}\r\n",
    "1,a,",
    "1/2 1:2 ",
    "..@..",
    "\u{fffd}",
    "\u{130}",
    "http://a/?b=1&",
];

/// No clock in a test: work is bounded because what is read is, and what comes out of it.
#[test]
fn only_the_first_page_of_a_megabyte_is_read() {
    for piece in PIECES {
        let text = piece.repeat((1 << 20) / piece.len());
        within_bounds(&text);
        let page = text.floor_char_boundary(MAX_DIAGNOSTIC);
        // Nothing else may move into the page where a character lies across its end.
        let past = text.ceil_char_boundary(MAX_DIAGNOSTIC);
        let other = format!("{}{}", &text[..past], "550 5.7.1 words that are beyond it kim@example.com ".repeat(20_000));
        for beyond in [&text, &other] {
            assert_eq!(read(beyond), read(&text[..page]), "{piece:?}");
        }
        assert_eq!(redacted(&text), redacted(&other), "{piece:?}");
    }
}

#[test]
fn an_address_at_the_end_of_the_page_is_not_cut_in_half() {
    for address in ["kimlocal.lee@example.net", "b-kimlocal.lee=example.net@bounces.example", "\"kimlocal lee\"@example.net"] {
        for shift in 0..address.len() + 2 {
            let text = format!("{} {address} and more", "x".repeat(MAX_DIAGNOSTIC - 1 - shift));
            let out = redacted(&text);
            assert!(!out.contains("kimlocal") && !out.contains("lee"), "{shift}: {}", &out[out.len().saturating_sub(60)..]);
        }
    }
}

/// A placeholder may be longer than what it stands for, but not by more than this.
const LONGEST_TEMPLATE: usize = 4 * MAX_DIAGNOSTIC;

fn within_bounds(text: &str) {
    let template = read(text).0;
    assert!(template.len() <= LONGEST_TEMPLATE.min(8 * text.len() + 16), "{} of {} bytes", template.len(), text.len());
    assert!(!template.contains(|c: char| c.is_ascii_control()), "{template:?}");
    assert!(redacted(text).len() <= MAX_DIAGNOSTIC);
}

fn read(text: &str) -> (String, u64, Verdict) {
    let mut reading = Reading::new();
    reading.read(&Reply { diagnostic: text, ..Reply::default() });
    (reading.template().to_owned(), reading.fingerprint(), RULES.classify(&reading).clone())
}

fn redacted(text: &str) -> String {
    let mut out = String::new();
    redact(text, &mut out);
    out
}

#[test]
fn a_megabyte_is_read_like_its_first_page() {
    let text = "550 5.1.1 user unknown ".repeat(50_000);
    let verdict = Classifier::new(Arc::clone(&RULES)).classify(&Reply { diagnostic: &text, ..Reply::default() }).verdict.clone();
    assert_eq!(verdict.category.as_str(), "invalid_recipient");
}

#[test]
fn an_address_whose_quote_was_opened_words_ago_is_masked_whole() {
    let check = |text: &str, expect: &str| {
        let mut out = String::new();
        redact(text, &mut out);
        assert_eq!(out, expect);
    };
    // Found by the property above: what follows is longer in bytes than what was taken back.
    check("\"a\ta!\t#\t!AaA0\t\"@\u{1f000}\u{10400}\u{1f300}", "***@\u{1f000}\u{10400}\u{1f300}");
    check("no \"kim lee\"@example.org here", "no ***@example.org here");
}
