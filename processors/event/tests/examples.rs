//! Every file under `schemas/avro/examples`: it is read, travels through Avro and comes back the same, is read and written
//! the same by the `apache-avro` crate, and what it says is a snapshot.
//!
//! `DeliveryEvent` and `kumomta` are records as a source sends them. `Failure`, `RateBatch` and `Alert` are in Avro's own JSON
//! encoding.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write;

use bounceflow_event::avro::{self, DELIVERY_EVENT};
use bounceflow_event::{Alert, DeliveryEvent, Failure, Format, Item, RateBatch, Tags};
use serde::Serialize;
use serde_json::{Value, json};
use support::{KINDS, apache, apache_read, apache_write, encode, files, folder, from_json, items, known, today};

#[test]
fn every_folder_of_examples_is_tested() {
    let mut folders: Vec<_> = std::fs::read_dir(folder("examples")).unwrap().map(|e| e.unwrap().file_name()).collect();
    folders.sort();
    assert_eq!(folders, ["Alert", "DeliveryEvent", "Failure", "RateBatch", "kumomta"]);
}

#[test]
fn every_snapshot_has_its_example() {
    let snapshots = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots")).unwrap();
    let names = snapshots.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for snapshot in names.filter(|name| !name.ends_with(".new")) {
        let (kind, name) =
            snapshot.strip_suffix(".snap").and_then(|s| s.split_once("__")).unwrap_or_else(|| panic!("{snapshot}"));
        assert!(folder("examples").join(kind).join(format!("{name}.json")).exists(), "{snapshot} is of no example");
    }
}

#[test]
fn delivery_events() {
    for (name, text) in files("examples/DeliveryEvent", ".json") {
        let read = items(Format::Json, text.as_bytes());
        assert_eq!(read, items(Format::Auto, text.as_bytes()), "{name}: found out and named differ");
        for item in &read {
            let Item::Event(event) = item else { panic!("{name}: {item:?}") };
            assert_travels(&name, event);
        }
        snapshot("DeliveryEvent", &name, &Value::Array(read.iter().map(show).collect()));
    }
}

#[test]
fn kumomta_records() {
    let mut types = Vec::new();
    for (name, text) in files("examples/kumomta", ".json") {
        let read = items(Format::Kumomta, text.as_bytes());
        assert_eq!(read, items(Format::Auto, text.as_bytes()), "{name}: found out and named differ");
        for item in &read {
            match item {
                Item::Event(event) => assert_travels(&name, &DeliveryEvent { local: false, ..event.clone() }),
                Item::Ignored(_) => {}
                Item::Rejected(why) => panic!("{name}: {why:?}"),
            }
        }
        let example: Value = serde_json::from_str(&text).unwrap();
        types.extend(example["type"].as_str().map(str::to_owned));
        snapshot("kumomta", &name, &Value::Array(read.iter().map(show).collect()));
    }
    for kind in ["Delivery", "TransientFailure", "Bounce", "Expiration", "AdminBounce", "OOB", "Feedback", "Reception"] {
        assert!(types.iter().any(|t| t == kind), "no example of {kind}");
    }
}

#[test]
fn what_bounceflow_writes() {
    for (kind, schema) in KINDS.into_iter().filter(|(kind, _)| *kind != "DeliveryEvent") {
        for (name, text) in files(&format!("examples/{kind}"), ".json") {
            let value = from_json(&apache(schema), &serde_json::from_str(&text).unwrap());
            // Written by the other implementation, read by ours, written by ours, read by the other: nothing changed.
            let theirs = apache_write(schema, &value);
            let ours = today(kind, &known(), &theirs).unwrap_or_else(|e| panic!("{kind}/{name}: {e}"));
            assert_eq!(apache_read(schema, &ours), value, "{kind}/{name}");
            assert_eq!(today(kind, &known(), &ours).unwrap(), ours, "{kind}/{name}");
            let shown = match kind {
                "Failure" => shown(&known().decode::<Failure>(&ours).unwrap()),
                "RateBatch" => shown(&known().decode::<RateBatch>(&ours).unwrap()),
                _ => shown(&known().decode::<Alert>(&ours).unwrap()),
            };
            snapshot(kind, &name, &json!({"value": shown, "bytes": hex(&ours)}));
        }
    }
}

/// Through Avro in both framings, through the other implementation, and through JSON: the same event comes out.
fn assert_travels(name: &str, event: &DeliveryEvent<'_>) {
    let bytes = encode(DELIVERY_EVENT, event);
    assert_eq!(items(Format::Avro, &bytes), [Item::Event(event.clone())], "{name}");
    assert_eq!(items(Format::Auto, &bytes), [Item::Event(event.clone())], "{name}");
    let mut confluent = Vec::new();
    avro::WriterSchema::parse(DELIVERY_EVENT).unwrap().encode_confluent(7, event, &mut confluent).unwrap();
    assert_eq!(items(Format::Auto, &confluent), [Item::Event(event.clone())], "{name}");
    let theirs = apache_write(DELIVERY_EVENT, &apache_read(DELIVERY_EVENT, &bytes));
    match items(Format::Auto, &theirs).as_slice() {
        // Their maps have no order.
        [Item::Event(read)] => assert_eq!(sorted(read), sorted(event), "{name}"),
        other => panic!("{name}: {other:?}"),
    }
    let json = serde_json::to_vec(event).unwrap();
    assert_eq!(items(Format::Auto, &json), [Item::Event(event.clone())], "{name}");
}

fn sorted<'a>(event: &DeliveryEvent<'a>) -> DeliveryEvent<'a> {
    let mut tags = event.tags.0.clone();
    tags.sort();
    DeliveryEvent { tags: Tags(tags), ..event.clone() }
}

fn show(item: &Item<'_>) -> Value {
    match item {
        Item::Event(event) => {
            let mut fields = shown(event);
            if event.local {
                fields["local"] = true.into();
            }
            json!({"event": fields, "bytes": hex(&encode(DELIVERY_EVENT, event))})
        }
        Item::Ignored(reason) => json!({"ignored": reason.as_str()}),
        Item::Rejected(why) => json!({"rejected": why.reason.as_str()}),
    }
}

/// As JSON, without what is not set.
fn shown<T: Serialize>(value: &T) -> Value {
    let mut json = serde_json::to_value(value).unwrap();
    let fields = json.as_object_mut().unwrap();
    fields.retain(|_, v| !v.is_null());
    if let Some(hash) = fields.get_mut("recipient_hash") {
        let bytes: Vec<u8> = serde_json::from_value(hash.take()).unwrap();
        *hash = hex(&bytes).into();
    }
    json
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn snapshot(kind: &str, name: &str, value: &Value) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_input_file(folder("examples").join(kind).join(format!("{name}.json")));
    settings.bind(|| insta::assert_snapshot!(format!("{kind}__{name}"), serde_json::to_string_pretty(value).unwrap()));
}
