//! A record on the left, what becomes of it in a few words on the right.

use bounceflow_event::{DeliveryEvent, Format, Item};
use serde_json::{Value, json};

use super::items;

/// In a few words: `bounce kim@example.net`, `ignored empty`, `json missing_recipient`.
pub fn words(item: &Item<'_>) -> String {
    match item {
        Item::Event(event) if event.local => format!("local {} {}", event.event.as_str(), &*event.recipient),
        Item::Event(event) => format!("{} {}", event.event.as_str(), &*event.recipient),
        Item::Ignored(reason) => format!("ignored {}", reason.as_str()),
        Item::Rejected(why) => format!("{} {}", why.format.as_str(), why.reason.as_str()),
    }
}

#[track_caller]
pub fn check(format: Format, payload: impl AsRef<[u8]>, expect: &[&str]) {
    let payload = payload.as_ref();
    let items = items(format, payload);
    let got: Vec<_> = items.iter().map(words).collect();
    let shown = String::from_utf8_lossy(&payload[..payload.len().min(300)]);
    assert_eq!(got, expect, "{} {shown}: {items:?}", format.as_str());
    for item in items {
        if let Item::Rejected(why) = item {
            assert!(!why.detail.is_empty() && why.detail.len() < 200 && !why.detail.contains("kim"), "{}", why.detail);
        }
    }
}

/// A delivery with some of its fields put otherwise; null takes a field away.
pub fn delivery(other: Value) -> String {
    with(json!({"event": "delivery", "timestamp": 1_790_000_000_000_i64, "recipient": "kim@example.net"}), other)
}

/// A KumoMTA delivery with some of its fields put otherwise; null takes a field away.
pub fn kumomta(other: Value) -> String {
    with(
        json!({"type": "Delivery", "id": "8f3c", "sender": "bounce@news.example.com", "recipient": "kim@example.net",
            "queue": "spring:acme@example.net", "response": {"code": 250, "enhanced_code": null, "content": "OK", "command": "."},
            "timestamp": 1_790_000_000, "created": 1_789_999_990, "num_attempts": 0, "feedback_report": null,
            "meta": {}, "headers": {}}),
        other,
    )
}

pub fn with(mut record: Value, other: Value) -> String {
    let fields = record.as_object_mut().unwrap();
    for (name, value) in other.as_object().unwrap() {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    record.to_string()
}

/// What one field of the event reads.
#[track_caller]
pub fn read<T>(format: Format, payload: impl AsRef<[u8]>, field: impl Fn(&DeliveryEvent<'_>) -> T) -> T {
    match items(format, payload.as_ref()).as_slice() {
        [Item::Event(event)] => field(event),
        other => panic!("{} gave {other:?}", String::from_utf8_lossy(payload.as_ref())),
    }
}

/// What [`delivery`] and [`kumomta`] are read as when nothing in them is put otherwise.
pub const KIM: &[&str] = &["delivery kim@example.net"];
