//! What becomes of a record, case by case: its bytes on the left, its items on the right.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use bounceflow_event::avro::Schemas;
use bounceflow_event::{Decoder, EventType, Format, IgnoreReason, Item, Number};
use serde_json::json;
use support::cases::{KIM, check, delivery, kumomta, read, words};
use support::{items, items_of};

use Format::{Auto, Json, Kumomta};

#[test]
fn the_format_is_found() {
    check(Auto, delivery(json!({})), KIM);
    check(Auto, kumomta(json!({})), KIM);
    check(Auto, format!(" \r\n\t{}\n", delivery(json!({}))), KIM);
    check(
        Auto,
        format!("[{},{}]", delivery(json!({})), kumomta(json!({"type": "Bounce"}))),
        &["delivery kim@example.net", "bounce kim@example.net"],
    );
    // Named, a format is itself only.
    check(Json, kumomta(json!({})), &["json unknown_format"]);
    check(Kumomta, delivery(json!({})), &["kumomta unknown_format"]);
    check(Auto, r#"{"temperature": 21}"#, &["json unknown_format"]);
    check(Auto, r#"{"type": "Delivery"}"#, &["json unknown_format"]);
    check(Auto, r#"{"type": "", "id": "1"}"#, &["json unknown_format"]);
    check(Auto, r#"{"type": "Delivery", "id": "1"}"#, &["kumomta invalid_timestamp"]);
    check(Auto, b"\xFEwhatever", &["json invalid_utf8"]);
    check(Auto, b"\0{}", &["avro unknown_format"]);
}

#[test]
fn what_holds_nothing() {
    let mut items = Vec::new();
    support::decoder(Auto).decode(None, &mut |item| items.push(item));
    assert_eq!(items, [Item::Ignored(IgnoreReason::Tombstone)]);
    for format in [Auto, Json, Kumomta] {
        for nothing in ["", " \n", "[]", " [ ] "] {
            check(format, nothing, &["ignored empty"]);
        }
    }
}

#[test]
fn what_is_no_object() {
    for format in [Json, Kumomta] {
        let unknown = format!("{} unknown_format", format.as_str());
        for payload in ["5", "-1.5e3", "null", "true", "\"kim@example.net\""] {
            check(format, payload, &[&unknown]);
        }
    }
    // An array within an array is no event, whatever it holds.
    check(Json, r#"[["delivery", 1790000000000, "kim@example.net"]]"#, &["json unknown_format"]);
    check(
        Kumomta,
        r#"[["Delivery", "8f3c", "bounce@example.com", "kim@example.net"], 5]"#,
        &["kumomta unknown_format", "kumomta unknown_format"],
    );
}

#[test]
fn a_bad_item_costs_only_itself() {
    let good = delivery(json!({}));
    for (bad, expect) in [
        (delivery(json!({"recipient": null})), "json missing_recipient"),
        (delivery(json!({"event": "opened"})), "json unknown_event"),
        (delivery(json!({"timestamp": "soon"})), "json invalid_timestamp"),
        (delivery(json!({"tags": "x"})), "json invalid_field"),
        ("{}".to_owned(), "json unknown_format"),
        ("null".to_owned(), "json unknown_format"),
    ] {
        check(Json, format!("[{good},{bad},{good}]"), &[KIM[0], expect, KIM[0]]);
        check(Auto, format!("[{bad}]"), &[expect]);
    }
    let both = format!(
        "[{}, {}]",
        kumomta(json!({"type": "Nonsense"})),
        kumomta(json!({"recipient": ["a@example.net", "kim@example.net"]}))
    );
    check(Kumomta, both, &["kumomta unknown_event", "delivery a@example.net", "delivery kim@example.net"]);
}

#[test]
fn bytes_that_are_not_utf_8_cost_only_their_item() {
    let good = delivery(json!({})).into_bytes();
    let bad = delivery(json!({"recipient": "kim\u{1}\u{1}\u{1}@example.net"})).replace("\\u0001", "\u{1}");
    let bad: Vec<u8> = bad.bytes().map(|b| if b == 1 { 0xE2 } else { b }).collect();
    check(Json, &bad, &["json invalid_utf8"]);
    let array = [b"[", &good[..], b" , ", &bad, b",", &good, b"]"].concat();
    check(Json, &array, &[KIM[0], "json invalid_utf8", KIM[0]]);
    check(Auto, &array, &[KIM[0], "json invalid_utf8", KIM[0]]);
    let kumo = kumomta(json!({"queue": "?"})).replace('?', "\u{1}").into_bytes();
    let kumo: Vec<u8> = kumo.into_iter().map(|b| if b == 1 { 0xFF } else { b }).collect();
    check(Auto, &kumo, &["kumomta invalid_utf8"]);
    // Between the items they break the whole.
    check(Json, [b"[", &good[..], b"\xFF,", &good, b"]"].concat(), &["json invalid_utf8"]);
    // Nobody reads an unknown field.
    let unread = [&good[..good.len() - 1], b",\"x\":\"\xFF\"}"].concat();
    check(Json, &unread, KIM);
    check(Json, [b"[", &unread[..], b"]"].concat(), KIM);
}

#[test]
fn what_is_no_json() {
    for text in
        ["status=deferred", "{", "{\"event\"", "{\"event\":}", "[{}", "[{},]", "{} {}", "{'event':1}", "[1,2", "\u{feff}{}"]
    {
        check(Json, text, &["json malformed_json"]);
        check(Auto, text, &["json malformed_json"]);
        check(Kumomta, text, &["kumomta malformed_json"]);
    }
    let whole = kumomta(json!({}));
    for end in 1..whole.len() {
        check(Kumomta, &whole[..end], &["kumomta malformed_json"]);
        check(Auto, &whole[..end], &["json malformed_json"]);
    }
    let whole = delivery(json!({"tags": {"a": "b"}}));
    for end in 1..whole.len() {
        check(Json, &whole[..end], &["json malformed_json"]);
    }
}

#[test]
fn deep_and_huge() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let objects = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    for deep in [&deep, &objects] {
        for format in [Json, Auto] {
            check(format, deep, &["json too_deep"]);
            check(format, delivery(json!({"recipient": "?"})).replace("\"?\"", deep), &["json too_deep"]);
        }
        check(Kumomta, deep, &[if deep.starts_with('[') { "kumomta too_deep" } else { "kumomta unknown_format" }]);
        check(Kumomta, kumomta(json!({"recipient": "?"})).replace("\"?\"", deep), &["kumomta too_deep"]);
        check(Kumomta, kumomta(json!({"sender": "?"})).replace("\"?\"", deep), &["kumomta too_deep"]);
        // Where nobody reads it, it does no harm.
        check(Json, delivery(json!({"x": "?"})).replace("\"?\"", deep), KIM);
        check(Json, delivery(json!({"tags": {"x": "?"}})).replace("\"?\"", deep), KIM);
        check(Kumomta, kumomta(json!({"x": "?"})).replace("\"?\"", deep), KIM);
        check(Kumomta, kumomta(json!({"meta": {"x": "?"}})).replace("\"?\"", deep), KIM);
    }
    check(Json, &deep[..10_000], &["json too_deep"]);
    // Brackets in text are no nesting.
    check(Json, delivery(json!({"event": "[".repeat(200)})), &["json unknown_event"]);
    let long = "x".repeat(10 << 20);
    assert_eq!(read(Auto, delivery(json!({"event": "bounce", "diagnostic": long})), |e| e.diagnostic.len()), 10 << 20);
    let many = vec![delivery(json!({})); 10_000].join(",");
    assert_eq!(items(Auto, format!("[{many}]").as_bytes()).len(), 10_000);
}

#[test]
fn longer_than_the_limit() {
    let record = delivery(json!({}));
    for (limit, expect) in [(record.len(), "delivery kim@example.net"), (record.len() - 1, "auto too_large")] {
        let decoder = Decoder::new(Auto, limit, Schemas::default());
        let got: Vec<_> = items_of(&decoder, record.as_bytes()).iter().map(words).collect();
        assert_eq!(got, [expect]);
    }
}

#[test]
fn recipients() {
    for recipient in [json!(null), json!("")] {
        check(Json, delivery(json!({"recipient": recipient})), &["json missing_recipient"]);
    }
    check(Json, delivery(json!({"recipient": "?"})).replace("\"?\"", "null"), &["json missing_recipient"]);
    for recipient in [json!(["kim@example.net"]), json!({"address": "kim@example.net"})] {
        check(Json, delivery(json!({"recipient": recipient})), &["json invalid_field"]);
    }
    // Whether an address has a domain is asked later.
    check(Json, delivery(json!({"recipient": 5})), &["delivery 5"]);
    check(Json, delivery(json!({"recipient": "用户@bücher.example"})), &["delivery 用户@bücher.example"]);
    check(Json, r#"{"event":"delivery","timestamp":1790000000000,"recipient":"k\u0069m@example.net"}"#, KIM);
}

#[test]
fn events() {
    for event in ["delivery", "deferral", "bounce", "oob_bounce", "complaint", "drop"] {
        assert_eq!(read(Json, delivery(json!({"event": event})), |e| e.event.as_str()), event);
    }
    for event in [json!("Delivery"), json!("DELIVERY"), json!("opened"), json!(""), json!(1), json!([]), json!({"a": 1})] {
        check(Json, delivery(json!({"event": event})), &["json unknown_event"]);
    }
    check(Json, delivery(json!({"event": null})), &["json unknown_format"]);
    check(Json, delivery(json!({"event": "?"})).replace("\"?\"", "null"), &["json unknown_format"]);
}

#[test]
fn timestamps() {
    for (timestamp, expect) in [
        (json!(1_790_000_000_000_i64), 1_790_000_000_000),
        (json!(1_790_000_000), 1_790_000_000_000),
        (json!(1_790_000_000.25), 1_790_000_000_250),
        (json!(1.79e12), 1_790_000_000_000),
        (json!("2026-09-21T14:13:20Z"), 1_790_000_000_000),
        (json!("2026-09-21T14:13:20.120344Z"), 1_790_000_000_120),
        (json!("2026-09-21T16:13:20.12+02:00"), 1_790_000_000_120),
        (json!("1790000000000"), 1_790_000_000_000),
        (json!(" 1790000000 "), 1_790_000_000_000),
        (json!(99_999_999_999_i64), 99_999_999_999_000),
        (json!(100_000_000_000_i64), 100_000_000_000),
        (json!("9999-12-30T00:00:00Z"), 253_402_128_000_000),
        (json!(i64::MAX), i64::MAX),
        (json!(-1), -1000),
        (json!(i64::MIN), i64::MIN),
    ] {
        let record = delivery(json!({"timestamp": timestamp}));
        assert_eq!(read(Json, &record, |e| e.timestamp.0), expect, "{timestamp}");
        let sent = delivery(json!({"sent_at": timestamp}));
        assert_eq!(read(Json, &sent, |e| e.sent_at.0), expect, "{timestamp}");
    }
    for timestamp in [
        "null",
        "\"\"",
        "0",
        "\"0\"",
        "0.0",
        "\"soon\"",
        "\"2026-09-21\"",
        "\"2026-09-21T14:13:20\"",
        "\"10000-01-01T00:00:00Z\"",
        "1e30",
        "-1e300",
        "1e999",
        "18446744073709551615",
        "true",
        "[1790000000]",
        "{}",
        "\"kim@example.net\"",
    ] {
        let record = delivery(json!({"timestamp": "?"})).replace("\"?\"", timestamp);
        check(Json, record, &["json invalid_timestamp"]);
    }
    check(Json, delivery(json!({"timestamp": null})), &["json invalid_timestamp"]);
    for sent_at in ["null", "\"\"", "0"] {
        assert_eq!(read(Json, delivery(json!({"sent_at": "?"})).replace("\"?\"", sent_at), |e| e.sent_at.0), 0);
    }
    check(Json, delivery(json!({"sent_at": "kim"})), &["json invalid_field"]);
}

#[test]
fn numbers_and_texts() {
    for (code, expect) in [
        (json!(550), 550),
        (json!("550"), 550),
        (json!(" 550 "), 550),
        (json!(550.0), 550),
        (json!(""), 0),
        (json!(0), 0),
        (json!(-1), -1),
        (json!(i32::MAX), i32::MAX),
    ] {
        let (code, attempt) = (delivery(json!({"reply_code": code})), delivery(json!({"attempt": code})));
        assert_eq!(read(Json, code, |e| e.reply_code), Number(expect));
        assert_eq!(read(Json, attempt, |e| e.attempt), Number(expect));
    }
    for code in
        [json!(550.5), json!(1_i64 << 31), json!(u64::MAX), json!(1e300), json!("5xx"), json!("kim"), json!(true), json!([550])]
    {
        check(Json, delivery(json!({"reply_code": code})), &["json invalid_field"]);
    }
    for (text, expect) in [
        (json!("5.1.1"), "5.1.1"),
        (json!(5.1), "5.1"),
        (json!(77), "77"),
        (json!(-77), "-77"),
        (json!(u64::MAX), "18446744073709551615"),
        (json!(true), "true"),
        (json!("a\"b\\c\n\u{0}é"), "a\"b\\c\n\u{0}é"),
    ] {
        let record = delivery(json!({"campaign": text}));
        assert_eq!(read(Json, record, |e| e.campaign.to_string()), expect);
    }
    check(Json, delivery(json!({"campaign": ["kim"]})), &["json invalid_field"]);
    check(Json, delivery(json!({"tags": "kim"})), &["json invalid_field"]);
    check(Json, delivery(json!({"campaign": "?"})).replace('?', "\\ud800"), &["json invalid_field"]);
    let tags = json!({"tags": {"text": "a", "number": 1, "big": u64::MAX, "float": 0.5, "flag": false, "null": null,
        "list": [1, [2]], "object": {"a": {"b": "kim"}}}});
    let got = read(Json, delivery(tags), |e| e.tags.0.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>());
    assert_eq!(got, ["big=18446744073709551615", "flag=false", "float=0.5", "number=1", "text=a"]);
}

#[test]
fn a_field_that_stands_there_twice() {
    let twice = |record: String| format!("{},\"recipient\":\"lee@example.net\"}}", &record[..record.len() - 1]);
    check(Json, twice(delivery(json!({}))), &["json invalid_field"]);
    check(Kumomta, twice(kumomta(json!({}))), &["kumomta invalid_field"]);
    let unknown = format!("{},\"x\":1,\"x\":2}}", delivery(json!({})).trim_end_matches('}'));
    check(Json, unknown, KIM);
}

/// Put anywhere, what nobody knows does not cost the record.
#[test]
fn unknown_fields_anywhere() {
    for unknown in [
        "1",
        "-1.5e-300",
        "1e999",
        "null",
        "true",
        "\"text\"",
        "\"\\ud800\"",
        "[]",
        "[[],{}]",
        "{}",
        "{\"recipient\":{\"event\":[1,{\"\":null}]}}",
    ] {
        check(Auto, delivery(json!({"x": "?"})).replace("\"?\"", unknown), KIM);
        for at in [
            json!({"x": "?"}),
            json!({"response": {"code": 250, "content": "OK", "x": "?"}}),
            json!({"response": {"code": 250, "enhanced_code": {"class": 2, "subject": 0, "detail": 0, "x": "?"}}}),
            json!({"peer_address": {"name": "mx1.example.net.", "addr": "203.0.113.25", "x": "?"}}),
            json!({"source_address": {"address": "198.51.100.13:25", "x": "?"}}),
        ] {
            check(Auto, kumomta(at).replace("\"?\"", unknown), KIM);
        }
        let report =
            json!({"type": "Feedback", "feedback_report": {"feedback_type": "abuse", "x": "?", "supplemental_trace": "?"}});
        check(Auto, kumomta(report).replace("\"?\"", unknown), &["complaint kim@example.net"]);
    }
}

#[test]
fn names_are_as_they_are_spelt() {
    for event in
        [EventType::Delivery, EventType::Deferral, EventType::Bounce, EventType::OobBounce, EventType::Complaint, EventType::Drop]
    {
        assert_eq!(event.as_str().parse(), Ok(event));
        assert_eq!(serde_json::to_value(event).unwrap(), event.as_str());
    }
    for format in [Format::Auto, Format::Avro, Format::Json, Format::Kumomta] {
        assert_eq!(serde_json::from_value::<Format>(format.as_str().into()).unwrap(), format);
    }
}
