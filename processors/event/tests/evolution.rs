//! A rolling upgrade: writers and readers of different versions meet. Every version ever released is in
//! `schemas/avro/history`, as `NAME.VERSION.avsc`; a change that breaks one of them fails here.
//!
//! To change a schema: add fields only, each with a default in the schema and `#[serde(default)]` in its struct, and put the
//! new text beside the old ones in `history` when it is released.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value;
use bounceflow_event::avro::{FAILURE, RATE_BATCH, Schemas, WriterSchema};
use bounceflow_event::{DeliveryEvent, Format, Item, RateBatch, RateRow};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use support::{
    KINDS, apache, apache_read, apache_write, carry, decoder, encode, files, from_json, items_of, known, sample, today,
};

/// The versions of a schema, oldest first.
fn history(kind: &str) -> Vec<(String, String)> {
    let all = files("history", ".avsc");
    let own =
        all.into_iter().filter(|(name, _)| name.split_once('.').is_some_and(|(k, v)| k == kind && v.parse::<u32>().is_ok()));
    let own: Vec<_> = own.collect();
    assert!(!own.is_empty(), "no history of {kind}");
    own
}

/// The examples of a kind as values of today's schema, and one made of samples.
fn values(kind: &str, schema: &str) -> Vec<(String, Value)> {
    let parsed = apache(schema);
    let mut values = vec![("sample".to_owned(), sample(&parsed))];
    if kind == "DeliveryEvent" {
        for (name, text) in files("examples/DeliveryEvent", ".json") {
            let items = items_of(&decoder(Format::Json), text.as_bytes()).into_iter();
            values.extend(items.map(|item| match item {
                Item::Event(event) => (name.clone(), apache_read(schema, &encode(schema, &event))),
                other => panic!("{name}: {other:?}"),
            }));
        }
    } else {
        for (name, text) in files(&format!("examples/{kind}"), ".json") {
            values.push((name, from_json(&parsed, &serde_json::from_str(&text).unwrap())));
        }
    }
    values
}

#[test]
fn the_newest_of_the_history_is_today() {
    for (kind, schema) in KINDS {
        let today = WriterSchema::parse(schema).unwrap().fingerprint();
        let known = history(kind).iter().any(|(_, old)| WriterSchema::parse(old).unwrap().fingerprint() == today);
        assert!(known, "{kind}.avsc is in no version of the history: put it there when it is released");
    }
}

#[test]
fn every_version_reads_every_other() {
    for (kind, schema) in KINDS {
        for (version, old) in history(kind) {
            if let Err(why) = compatible(&old, schema) {
                panic!("{kind}.avsc breaks {version}: {why}");
            }
        }
    }
}

#[test]
fn today_reads_what_older_writers_wrote() {
    for (kind, schema) in KINDS {
        for (version, old) in history(kind) {
            let mut schemas = Schemas::default();
            schemas.add(&old).unwrap();
            for (name, value) in values(kind, schema) {
                let written = carry(&value, &apache(&old));
                let read = today(kind, &schemas, &apache_write(&old, &written));
                let read = apache_read(schema, &read.unwrap_or_else(|e| panic!("{version}, {name}: {e}")));
                assert_eq!(carry(&read, &apache(&old)), written, "{version}, {name}");
            }
        }
    }
}

#[test]
fn today_reads_what_newer_writers_write() {
    for (kind, schema) in KINDS {
        let newer = newer(schema);
        assert_eq!(compatible(schema, &newer), Ok(()), "{kind}: the fixture itself must be a fair successor");
        let mut schemas = Schemas::default();
        schemas.add(&newer).unwrap();
        for (name, value) in values(kind, schema) {
            let bytes = apache_write(&newer, &carry(&value, &apache(&newer)));
            let read = today(kind, &schemas, &bytes).unwrap_or_else(|e| panic!("{kind}/{name}: {e}"));
            assert_eq!(apache_read(schema, &read), value, "{kind}/{name}");
        }
    }
}

/// A version to come as a fixture in full: fields in the middle and at the end, at the top, in `RateRow`, `Source` and
/// `CategoryCount`.
#[test]
fn a_rate_batch_to_come() {
    let newer = edited(
        RATE_BATCH,
        &[
            ("RateBatch", 2, json!({"name": "region", "type": "string", "default": ""})),
            ("RateRow", 5, json!({"name": "pool", "type": ["null", "string"], "default": null})),
            (
                "CategoryCount",
                1,
                json!({"name": "severity", "type": {"type": "enum", "name": "S", "symbols": ["hard", "soft"]}, "default": "soft"}),
            ),
            ("Source", 9, json!({"name": "lag", "type": "long", "default": -1})),
            (
                "RateBatch",
                10,
                json!({"name": "notes", "type": {"type": "map", "values": {"type": "array", "items": "bytes"}}, "default": {}}),
            ),
        ],
    );
    let mut schemas = Schemas::default();
    schemas.add(&newer).unwrap();
    let fields = |json: &str| json.matches("\"name\"").count();
    assert_eq!(fields(&newer), fields(RATE_BATCH) + 6, "five fields and the name of an enum");
    for (name, value) in values("RateBatch", RATE_BATCH) {
        let bytes = apache_write(&newer, &carry(&value, &apache(&newer)));
        let batch = schemas.decode::<RateBatch>(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(apache_read(RATE_BATCH, &encode(RATE_BATCH, &batch)), value, "{name}");
    }
}

/// The other way round: the reader of a version to come reads what today's writer writes.
#[test]
fn a_reader_to_come_reads_today() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct RateBatch2<'a> {
        producer: &'a str,
        #[serde(default)]
        region: &'a str,
        #[serde(borrow)]
        rows: Vec<RateRow2<'a>>,
        sources: Vec<Source2<'a>>,
        #[serde(default)]
        notes: std::collections::BTreeMap<String, Vec<i64>>,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct RateRow2<'a> {
        isp: &'a str,
        #[serde(default)]
        pool: Option<&'a str>,
        deliveries: i64,
        #[serde(borrow)]
        categories: Vec<CategoryCount2<'a>>,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct CategoryCount2<'a> {
        category: &'a str,
        #[serde(default)]
        complaints: i64,
        late_bounces: i64,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Source2<'a> {
        topic: &'a str,
        #[serde(default = "unknown_lag")]
        lag: i64,
        max_event_time: Option<i64>,
        end_reached: bool,
    }
    fn unknown_lag() -> i64 {
        -1
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Failure2<'a> {
        #[serde(default)]
        first: Option<&'a str>,
        event_time: i64,
        recipient_hash: bounceflow_event::RecipientHash,
        source_item: i32,
        #[serde(default)]
        last: Vec<&'a str>,
    }
    let written = RateBatch {
        producer: "prod/0/delivery.events/0",
        rows: vec![RateRow {
            isp: "other",
            deliveries: 3,
            categories: vec![bounceflow_event::CategoryCount { category: "dns", late_bounces: 1, ..Default::default() }],
            ..Default::default()
        }],
        sources: vec![bounceflow_event::Source { topic: "delivery.events", max_event_time: Some(7), ..Default::default() }],
        ..Default::default()
    };
    let expect = RateBatch2 {
        producer: "prod/0/delivery.events/0",
        region: "",
        rows: vec![RateRow2 {
            isp: "other",
            pool: None,
            deliveries: 3,
            categories: vec![CategoryCount2 { category: "dns", complaints: 0, late_bounces: 1 }],
        }],
        sources: vec![Source2 { topic: "delivery.events", lag: -1, max_event_time: Some(7), end_reached: false }],
        notes: Default::default(),
    };
    for (_, old) in history("RateBatch").into_iter().filter(|(version, _)| version == "RateBatch.1") {
        let mut schemas = Schemas::default();
        schemas.add(&old).unwrap();
        assert_eq!(schemas.decode::<RateBatch2>(&encode(&old, &written)).unwrap(), expect);
    }
    let value = sample(&apache(FAILURE));
    let bytes = apache_write(FAILURE, &value);
    let failure = known().decode::<Failure2>(&bytes).unwrap();
    assert_eq!((failure.event_time, failure.source_item, failure.first, failure.last), (1_790_000_000_000, -7, None, vec![]));
}

/// What the tests above would miss if they were blind.
#[test]
fn a_breaking_change_is_noticed() {
    let renamed = |name: &str, to: &str| RATE_BATCH.replacen(&format!("\"name\": \"{name}\""), &format!("\"name\": \"{to}\""), 1);
    let retyped = |field: &str, from: &str, to: &str| {
        let (from, to) = (format!("\"name\": \"{field}\", \"type\": {from}"), format!("\"name\": \"{field}\", \"type\": {to}"));
        assert!(RATE_BATCH.contains(&from), "{from}");
        RATE_BATCH.replacen(&from, &to, 1)
    };
    let cases = [
        ("a field renamed", renamed("deliveries", "delivered")),
        ("a nested field renamed", renamed("dead_lettered", "dead")),
        ("a record renamed", renamed("RateRow", "Row")),
        ("a type changed", retyped("bucket", "\"long\"", "\"string\"")),
        ("a type narrowed", retyped("hard", "\"long\"", "\"int\"")),
        ("a type widened", retyped("part", "\"int\"", "\"long\"")),
        ("a type made optional", retyped("producer", "\"string\"", "[\"null\", \"string\"]")),
        ("a field without a default", edited(RATE_BATCH, &[("Source", 9, json!({"name": "lag", "type": "long"}))])),
        ("a field taken away", without(RATE_BATCH, "CategoryCount", "late_bounces")),
    ];
    for (what, schema) in cases {
        assert_ne!(schema, RATE_BATCH, "{what}");
        assert!(compatible(RATE_BATCH, &schema).is_err(), "{what} was not noticed");
    }
    let (_, delivery_event) = KINDS[0];
    let optional_gone = without(delivery_event, "DeliveryEvent", "mx_host");
    assert!(compatible(delivery_event, &optional_gone).is_err(), "a field with a default taken away was not noticed");
    let symbol_gone = delivery_event.replacen(", \"drop\"]", "]", 1);
    assert!(compatible(delivery_event, &symbol_gone).is_err(), "a symbol taken away was not noticed");
}

/// Unknown fields anywhere in a record of a user's newer schema do not cost it.
#[test]
fn a_delivery_event_of_a_newer_schema() {
    let (_, schema) = KINDS[0];
    let newer = newer(schema);
    let mut schemas = Schemas::default();
    schemas.add_id(9, &newer).unwrap();
    let mut confluent = vec![0, 0, 0, 0, 9];
    let single = apache_write(&newer, &carry(&sample(&apache(schema)), &apache(&newer)));
    confluent.extend(&single[10..]);
    for bytes in [single, confluent] {
        let event = schemas.decode::<DeliveryEvent>(&bytes).unwrap();
        assert_eq!((&*event.recipient, &*event.diagnostic, event.attempt.0), ("kim@example.net", "kim@example.net", -7));
    }
}

/// Whether each reads what the other writes, and nothing went away.
fn compatible(old: &str, new: &str) -> Result<(), String> {
    let (old, new) = (apache(old), apache(new));
    SchemaCompatibility::can_read(&old, &new).map_err(|e| format!("the new cannot read the old: {e}"))?;
    SchemaCompatibility::can_read(&new, &old).map_err(|e| format!("the old cannot read the new: {e}"))?;
    kept(&old, &new)
}

/// Avro lets a field with a default go; readers of ours that need it would not.
fn kept(old: &Schema, new: &Schema) -> Result<(), String> {
    match (old, new) {
        (Schema::Record(old), Schema::Record(new)) => old.fields.iter().try_for_each(|field| {
            let same = new.fields.iter().find(|f| f.name == field.name);
            kept(&field.schema, &same.ok_or_else(|| format!("{}.{} is gone", old.name.name, field.name))?.schema)
        }),
        (Schema::Array(old), Schema::Array(new)) => kept(&old.items, &new.items),
        (Schema::Map(old), Schema::Map(new)) => kept(&old.types, &new.types),
        (Schema::Union(old), Schema::Union(new)) if old.variants().len() != new.variants().len() => {
            Err("a union has other branches".into())
        }
        (old, new) if std::mem::discriminant(old) == std::mem::discriminant(new) => Ok(()),
        (old, new) => Err(format!("{old:?} became {new:?}")),
    }
}

/// A successor of the schema: every record in it has new fields at its front, in its middle and at its end.
fn newer(schema: &str) -> String {
    fn grow(schema: &mut Json, names: &mut u32) {
        match schema {
            Json::Array(branches) => branches.iter_mut().for_each(|b| grow(b, names)),
            Json::Object(object) => {
                for key in ["items", "values", "type"] {
                    if let Some(inner) = object.get_mut(key).filter(|v| v.is_object() || v.is_array()) {
                        grow(inner, names);
                    }
                }
                if let Some(Json::Array(fields)) = object.get_mut("fields") {
                    fields.iter_mut().for_each(|field| grow(field, names));
                    *names += 1;
                    let thing = json!({"type": "record", "name": format!("Thing{names}"), "fields": [
                        {"name": "a", "type": "string"}, {"name": "b", "type": ["null", "double"]}]});
                    let kind = json!({"type": "enum", "name": format!("Kind{names}"), "symbols": ["x", "y"]});
                    let fixed = json!({"type": "fixed", "name": format!("Fixed{names}"), "size": 3});
                    fields.insert(0, json!({"name": "new_front", "type": ["null", "string", "long", fixed], "default": null}));
                    let middle = fields.len() / 2;
                    fields
                        .insert(middle, json!({"name": "new_middle", "type": {"type": "array", "items": thing}, "default": []}));
                    fields.insert(middle, json!({"name": "new_kind", "type": kind, "default": "x"}));
                    fields.push(json!({"name": "new_flag", "type": "boolean", "default": false}));
                    fields.push(json!({"name": "new_end", "type": {"type": "map", "values": "bytes"}, "default": {}}));
                }
            }
            _ => {}
        }
    }
    let mut json: Json = serde_json::from_str(schema).unwrap();
    grow(&mut json, &mut 0);
    json.to_string()
}

/// The schema with fields put into its records, each at its place.
fn edited(schema: &str, edits: &[(&str, usize, Json)]) -> String {
    let mut json: Json = serde_json::from_str(schema).unwrap();
    for (record, at, field) in edits {
        fields_of(&mut json, record).unwrap_or_else(|| panic!("no record {record}")).insert(*at, field.clone());
    }
    json.to_string()
}

fn without(schema: &str, record: &str, field: &str) -> String {
    let mut json: Json = serde_json::from_str(schema).unwrap();
    fields_of(&mut json, record).unwrap().retain(|f| f["name"] != field);
    json.to_string()
}

fn fields_of<'a>(schema: &'a mut Json, record: &str) -> Option<&'a mut Vec<Json>> {
    match schema {
        Json::Object(object) => {
            if object.get("name").is_some_and(|n| n == record) && object.contains_key("fields") {
                return object.get_mut("fields")?.as_array_mut();
            }
            object.values_mut().find_map(|v| fields_of(v, record))
        }
        Json::Array(entries) => entries.iter_mut().find_map(|v| fields_of(v, record)),
        _ => None,
    }
}
