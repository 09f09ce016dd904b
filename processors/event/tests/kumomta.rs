//! KumoMTA log records, case by case: what each type, recipient and field is read as.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use bounceflow_event::{DeliveryEvent, Format, Item};
use serde_json::{Value, json};
use support::cases::{KIM, check, delivery, kumomta, read};
use support::items;

use Format::{Auto, Json, Kumomta};

#[test]
fn types() {
    for (kind, expect) in [
        ("Delivery", "delivery kim@example.net"),
        ("TransientFailure", "deferral kim@example.net"),
        ("Bounce", "bounce kim@example.net"),
        ("Expiration", "bounce kim@example.net"),
        ("AdminBounce", "drop kim@example.net"),
        ("OOB", "oob_bounce kim@example.net"),
        ("Feedback", "complaint kim@example.net"),
        ("Reception", "ignored not_an_outcome"),
        ("Rejection", "ignored not_an_outcome"),
        ("AdminRebind", "ignored not_an_outcome"),
        ("DeferredInjectionRebind", "ignored not_an_outcome"),
        ("Delayed", "ignored not_an_outcome"),
        ("XferOut", "ignored not_an_outcome"),
        ("XferIn", "ignored not_an_outcome"),
        ("delivery", "kumomta unknown_event"),
        ("Teleported", "kumomta unknown_event"),
    ] {
        check(Kumomta, kumomta(json!({"type": kind})), &[expect]);
        check(Auto, kumomta(json!({"type": kind})), &[expect]);
    }
    check(Kumomta, kumomta(json!({"type": null})), &["kumomta unknown_format"]);
    check(Kumomta, kumomta(json!({"type": ""})), &["kumomta unknown_format"]);
    check(Kumomta, kumomta(json!({"type": ["kim"]})), &["kumomta invalid_field"]);
}

#[test]
fn recipients() {
    for (recipient, expect) in [
        (json!("kim@example.net"), &["delivery kim@example.net"][..]),
        (json!(["kim@example.net"]), &["delivery kim@example.net"]),
        (json!(["kim@example.net", "", "lee@example.org"]), &["delivery kim@example.net", "delivery lee@example.org"]),
        (json!("<kim@example.net>"), &["delivery kim@example.net"]),
        (json!([]), &["kumomta missing_recipient"]),
        (json!([""]), &["kumomta missing_recipient"]),
        (json!(""), &["kumomta missing_recipient"]),
        (json!("<>"), &["kumomta missing_recipient"]),
        (json!(null), &["kumomta missing_recipient"]),
        (json!({"address": "kim@example.net"}), &["kumomta invalid_field"]),
        (json!(["kim@example.net", ["lee@example.org"]]), &["kumomta invalid_field"]),
    ] {
        check(Kumomta, kumomta(json!({"recipient": recipient})), expect);
    }
    // Each is as long as the record, at the worst.
    check(Kumomta, kumomta(json!({"recipient": vec!["kim@example.net"; 3000]})), &["kumomta invalid_field"]);
    check(Kumomta, kumomta(json!({"recipient": vec!["kim@example.net"; 1500]})), &["delivery kim@example.net"; 1500]);
    // Each recipient has the same of everything else.
    let record = kumomta(json!({"recipient": ["a@example.net", "b@example.net", "c@example.net"]}));
    let items = items(Kumomta, record.as_bytes());
    let [Item::Event(a), others @ ..] = items.as_slice() else { panic!("{items:?}") };
    for (other, recipient) in others.iter().zip(["b@example.net", "c@example.net"]) {
        assert_eq!(other, &Item::Event(DeliveryEvent { recipient: recipient.into(), ..a.clone() }));
    }
}

#[test]
fn feedback() {
    let feedback = |report: Value| {
        kumomta(json!({"type": "Feedback", "sender": "fbl@example.org", "recipient": "fbl@example.com",
            "peer_address": {"name": "fbl.example.org", "addr": "203.0.113.99"}, "headers": {"From": "fbl@example.org"},
            "feedback_report": report}))
    };
    for (report, expect) in [
        (json!({"original_rcpto_to": ["<kim@example.org>"]}), &["complaint kim@example.org"][..]),
        (
            json!({"original_rcpto_to": ["kim@example.org", " <lee@example.org> "]}),
            &["complaint kim@example.org", "complaint lee@example.org"],
        ),
        (json!({"original_rcpto_to": "<kim@example.org>"}), &["complaint kim@example.org"]),
        (
            json!({"original_rcpto_to": [], "supplemental_trace": {"recipient": "sam@example.org"}}),
            &["complaint sam@example.org"],
        ),
        (
            json!({"supplemental_trace": {"recipient": ["sam@example.org", "lee@example.org"]}}),
            &["complaint sam@example.org", "complaint lee@example.org"],
        ),
        (json!({"original_rcpto_to": [""], "supplemental_trace": "opaque"}), &["complaint fbl@example.com"]),
        (json!({}), &["complaint fbl@example.com"]),
        (json!({"original_rcpto_to": [["kim@example.org"]]}), &["kumomta invalid_field"]),
    ] {
        check(Kumomta, feedback(report), expect);
    }
    let report = feedback(
        json!({"feedback_type": "abuse", "original_mail_from": "<bounce@news.example.com>", "source_ip": "198.51.100.13",
        "reported_domain": ["", "example.com"], "supplemental_trace": {"campaign": "spring", "tenant": "acme"}}),
    );
    read(Kumomta, &report, |e| {
        assert_eq!(
            (&*e.feedback_type, &*e.sender, &*e.sending_ip, &*e.from_domain),
            ("abuse", "bounce@news.example.com", "198.51.100.13", "example.com")
        );
        assert_eq!((&*e.campaign, &*e.tenant, &*e.mx_host, e.sent_at.0, e.attempt.0), ("spring", "acme", "", 0, 0));
    });
    // The feedback loop's own sender and From are not ours.
    read(Kumomta, feedback(json!({})), |e| assert_eq!((&*e.sender, &*e.from_domain, &*e.campaign, &*e.tenant), ("", "", "", "")));
    assert_eq!(read(Kumomta, feedback(json!({"reported_domain": "example.com"})), |e| e.from_domain.to_string()), "example.com");
}

#[test]
fn late_bounces() {
    // Its sender is the envelope sender of the original; its headers are those of the DSN.
    let record = kumomta(
        json!({"type": "OOB", "headers": {"From": "MAILER-DAEMON@example.net"}, "peer_address": {"name": "mx.example.net", "addr": "203.0.113.25"}}),
    );
    read(Kumomta, record, |e| {
        assert_eq!((&*e.sender, &*e.from_domain, &*e.mx_host), ("bounce@news.example.com", "", "mx.example.net"));
        assert_eq!((e.sent_at.0, e.attempt.0), (0, 0));
    });
}

#[test]
fn local_failures() {
    let content = |kind: &str, content: &str| {
        kumomta(json!({"type": kind, "response": {"code": 451, "enhanced_code": null, "content": content}}))
    };
    check(Kumomta, content("TransientFailure", "KumoMTA internal: failed to connect"), &["local deferral kim@example.net"]);
    check(Kumomta, content("Bounce", "KumoMTA internal: no MX"), &["local bounce kim@example.net"]);
    check(Kumomta, content("TransientFailure", "internal error, try KumoMTA"), &["deferral kim@example.net"]);
    check(Kumomta, content("TransientFailure", "Greylisted"), &["deferral kim@example.net"]);
    check(Kumomta, kumomta(json!({"type": "TransientFailure", "response": null})), &["deferral kim@example.net"]);
    // Only the source can say so: nothing that travels claims it.
    check(Json, delivery(json!({"local": true})), KIM);
}

#[test]
fn queues() {
    for (queue, meta, expect) in [
        ("spring:acme@example.net", json!({}), ("spring", "acme")),
        ("acme@example.net", json!({}), ("", "acme")),
        ("spring:example.net", json!({}), ("spring", "")),
        ("example.net", json!({}), ("", "")),
        ("", json!({}), ("", "")),
        ("spring:@example.net", json!({}), ("spring", "")),
        (":acme@example.net", json!({}), ("", "acme")),
        ("spring:north:acme@example.net", json!({}), ("spring", "north:acme")),
        ("spring:acme@example.net!relay.example", json!({}), ("spring", "acme")),
        ("spring:acme@example.net", json!({"campaign": "summer", "tenant": 7}), ("summer", "7")),
        ("spring:acme@example.net", json!({"campaign": ["summer"]}), ("spring", "acme")),
        ("example.net", json!({"tenant": "acme"}), ("", "acme")),
    ] {
        let got =
            read(Kumomta, kumomta(json!({"queue": queue, "meta": meta})), |e| (e.campaign.to_string(), e.tenant.to_string()));
        assert_eq!((&*got.0, &*got.1), expect, "{queue} {meta}");
    }
}

#[test]
fn fields() {
    let field = |other: Value, of: fn(&DeliveryEvent<'_>) -> String| read(Kumomta, kumomta(other), of);
    for (attempts, expect) in [(json!(0), "1"), (json!(16), "17"), (json!(u16::MAX), "65536"), (json!(i32::MAX), "2147483647")] {
        assert_eq!(field(json!({"num_attempts": attempts}), |e| e.attempt.0.to_string()), expect);
    }
    for (address, expect) in [
        (json!("198.51.100.13:41822"), "198.51.100.13"),
        (json!("198.51.100.13"), "198.51.100.13"),
        (json!("[2001:db8::13]:25"), "2001:db8::13"),
        (json!("2001:db8::13"), "2001:db8::13"),
        (json!(""), ""),
        (json!(null), ""),
    ] {
        assert_eq!(field(json!({"source_address": {"address": address}}), |e| e.sending_ip.to_string()), expect);
    }
    assert_eq!(field(json!({"source_address": null}), |e| e.sending_ip.to_string()), "");
    for (from, expect) in [
        (json!("news@example.com"), "example.com"),
        (json!("Example News <news@example.com>"), "example.com"),
        (json!("\"a@b\" <news@example.com> "), "example.com"),
        (json!("<news@example.com>, \"x\""), "example.com"),
        (json!("news@example.com (Example News)"), "example.com"),
        (json!("Jörg <jörg@bücher.example>\r\n"), "bücher.example"),
        (json!("no address"), ""),
        (json!(["news@example.com"]), ""),
    ] {
        for name in ["From", "from", "FROM"] {
            assert_eq!(field(json!({"headers": {name: from}}), |e| e.from_domain.to_string()), expect, "{from}");
        }
    }
    for (class, expect) in [(json!({"class": 5, "subject": 7, "detail": 515}), "5.7.515"), (json!(null), "")] {
        assert_eq!(field(json!({"response": {"code": 550, "enhanced_code": class}}), |e| e.enhanced_code.to_string()), expect);
    }
    for (times, expect) in [
        (json!({"event_time": "2026-09-21T14:13:20.120344Z"}), 1_790_000_000_120),
        (json!({"event_time": ""}), 1_790_000_000_000),
        (json!({"event_time": "soon"}), 1_790_000_000_000),
        (json!({"event_time": [1]}), 1_790_000_000_000),
        (json!({"timestamp": null, "event_time": "2026-09-21T14:13:20Z"}), 1_790_000_000_000),
    ] {
        assert_eq!(read(Kumomta, kumomta(times), |e| e.timestamp.0), expect);
    }
    for timestamp in [json!(null), json!(0), json!("soon"), json!([])] {
        check(Kumomta, kumomta(json!({"timestamp": timestamp})), &["kumomta invalid_timestamp"]);
    }
    assert_eq!(read(Kumomta, kumomta(json!({})), |e| e.sent_at.0), 1_789_999_990_000);
    assert_eq!(read(Kumomta, kumomta(json!({"created_time": "2026-09-21T14:13:10.5Z"})), |e| e.sent_at.0), 1_789_999_990_500);
    for wrong in [json!({"response": "kim"}), json!({"meta": "kim"}), json!({"num_attempts": "kim"}), json!({"created": "kim"})] {
        check(Kumomta, kumomta(wrong), &["kumomta invalid_field"]);
    }
    for empty in ["response", "peer_address", "source_address", "feedback_report", "meta", "headers", "queue", "id", "sender"] {
        check(Kumomta, kumomta(json!({empty: "?"})).replace("\"?\"", "null"), KIM);
        check(Kumomta, kumomta(json!({empty: null})), KIM);
    }
}
