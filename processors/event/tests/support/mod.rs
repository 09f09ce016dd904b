//! What the tests share: the schemas and examples of the repository, and values of the `apache-avro` crate, which is
//! the independent implementation ours is held against.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

pub mod cases;

use std::collections::HashMap;
use std::path::PathBuf;

use apache_avro::Schema;
use apache_avro::types::Value;
use bounceflow_event::avro::{self, AvroError, Schemas, WriterSchema};
use bounceflow_event::{Alert, Decoder, DeliveryEvent, Failure, Format, Item, RateBatch};
use serde::{Deserialize, Serialize};

/// Every schema with its name.
pub const KINDS: [(&str, &str); 4] = [
    ("DeliveryEvent", avro::DELIVERY_EVENT),
    ("Failure", avro::FAILURE),
    ("RateBatch", avro::RATE_BATCH),
    ("Alert", avro::ALERT),
];

/// `schemas/avro` of the repository.
pub fn folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../schemas/avro", name].iter().collect()
}

/// The files of a folder below `schemas/avro`, without their ending, in order.
pub fn files(below: &str, ending: &str) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(folder(below))
        .unwrap_or_else(|e| panic!("{below}: {e}"))
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let name = name.strip_suffix(ending).unwrap_or_else(|| panic!("{below}/{name} does not end in {ending}"));
            (name.to_owned(), std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{below} is empty");
    files
}

/// A decoder that knows today's `DeliveryEvent` by its fingerprint and as id 7.
pub fn decoder(format: Format) -> Decoder {
    let mut schemas = Schemas::default();
    schemas.add_id(7, avro::DELIVERY_EVENT).unwrap();
    Decoder::new(format, 64 << 20, schemas)
}

/// The items of a record.
pub fn items(format: Format, payload: &[u8]) -> Vec<Item<'_>> {
    items_of(&decoder(format), payload)
}

/// The items of a record.
pub fn items_of<'a>(decoder: &Decoder, payload: &'a [u8]) -> Vec<Item<'a>> {
    let mut items = Vec::new();
    decoder.decode(Some(payload), &mut |item| items.push(item));
    items
}

/// In single-object encoding, by our encoder.
pub fn encode<T: Serialize>(schema: &str, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    WriterSchema::parse(schema).unwrap().encode(value, &mut bytes).unwrap();
    bytes
}

/// Parsed by `apache-avro`.
pub fn apache(schema: &str) -> Schema {
    Schema::parse_str(schema).unwrap()
}

/// Single-object encoding with its datum read by `apache-avro`, to the last byte.
///
/// The header is ours: `apache-avro` 0.21 leaves `{"type": "long"}` of a logical type in the canonical form, and nested names
/// without their namespace, where the specification and the Java implementation do not, so its fingerprints are its own.
pub fn apache_read(schema: &str, bytes: &[u8]) -> Value {
    let mut rest = bytes.strip_prefix(&header(schema)[..]).unwrap();
    let value = apache_avro::from_avro_datum(&apache(schema), &mut rest, None).unwrap();
    assert!(rest.is_empty(), "{} bytes left over", rest.len());
    value
}

/// Single-object encoding with its datum written by `apache-avro`.
pub fn apache_write(schema: &str, value: &Value) -> Vec<u8> {
    let mut bytes = header(schema);
    bytes.extend(apache_avro::to_avro_datum(&apache(schema), value.clone()).unwrap());
    bytes
}

fn header(schema: &str) -> Vec<u8> {
    let mut header = vec![0xC3, 0x01];
    header.extend(WriterSchema::parse(schema).unwrap().fingerprint().to_le_bytes());
    header
}

/// Reads bytes of any writer's schema into today's struct of that kind, and says what it read in today's schema.
pub fn today(kind: &str, schemas: &Schemas, bytes: &[u8]) -> Result<Vec<u8>, AvroError> {
    fn again<'a, T: Deserialize<'a> + Serialize>(schemas: &Schemas, bytes: &'a [u8], json: &str) -> Result<Vec<u8>, AvroError> {
        schemas.decode::<T>(bytes).map(|value| encode(json, &value))
    }
    match kind {
        "DeliveryEvent" => again::<DeliveryEvent>(schemas, bytes, avro::DELIVERY_EVENT),
        "Failure" => again::<Failure>(schemas, bytes, avro::FAILURE),
        "RateBatch" => again::<RateBatch>(schemas, bytes, avro::RATE_BATCH),
        "Alert" => again::<Alert>(schemas, bytes, avro::ALERT),
        _ => panic!("{kind} is no kind"),
    }
}

/// The schemas of everything that travels, as today's readers know them.
pub fn known() -> Schemas {
    let mut schemas = Schemas::default();
    for (_, json) in KINDS {
        schemas.add(json).unwrap();
    }
    schemas
}

/// A value in Avro's JSON encoding: `fixed` as one character per byte, a union's branch by its name.
pub fn from_json(schema: &Schema, json: &serde_json::Value) -> Value {
    let int = || json.as_i64().unwrap_or_else(|| panic!("{json} is no whole number"));
    match schema {
        Schema::Null => Value::Null,
        Schema::Boolean => Value::Boolean(json.as_bool().unwrap()),
        Schema::Int => Value::Int(int().try_into().unwrap()),
        Schema::Long => Value::Long(int()),
        Schema::TimestampMillis => Value::TimestampMillis(int()),
        Schema::Double => Value::Double(json.as_f64().unwrap()),
        Schema::String => Value::String(json.as_str().unwrap_or_else(|| panic!("{json} is no text")).to_owned()),
        Schema::Fixed(fixed) => {
            let bytes: Vec<u8> = json.as_str().unwrap().chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            Value::Fixed(fixed.size, bytes)
        }
        Schema::Array(array) => Value::Array(json.as_array().unwrap().iter().map(|v| from_json(&array.items, v)).collect()),
        Schema::Map(map) => {
            let entries = json.as_object().unwrap().iter();
            Value::Map(entries.map(|(k, v)| (k.clone(), from_json(&map.types, v))).collect())
        }
        Schema::Union(union) if json.is_null() => {
            let null = union.variants().iter().position(|v| *v == Schema::Null).unwrap();
            Value::Union(null as u32, Value::Null.into())
        }
        Schema::Union(union) => {
            let (branch, value) = json.as_object().unwrap().iter().next().unwrap();
            assert_eq!(branch, "long", "the only branch in use");
            let at = union.variants().iter().position(|v| *v == Schema::TimestampMillis).unwrap();
            Value::Union(at as u32, from_json(&union.variants()[at], value).into())
        }
        Schema::Record(record) => {
            let object = json.as_object().unwrap();
            for name in object.keys() {
                assert!(record.fields.iter().any(|f| f.name == *name), "{} has no field {name}", record.name.name);
            }
            let of = |name: &str| object.get(name).unwrap_or_else(|| panic!("no field {name} in {json}"));
            Value::Record(record.fields.iter().map(|f| (f.name.clone(), from_json(&f.schema, of(&f.name)))).collect())
        }
        other => panic!("not in use: {other:?}"),
    }
}

/// Some value that fits the schema.
pub fn sample(schema: &Schema) -> Value {
    match schema {
        Schema::Null => Value::Null,
        Schema::Boolean => Value::Boolean(true),
        Schema::Int => Value::Int(-7),
        Schema::Long => Value::Long(1 << 40),
        Schema::TimestampMillis => Value::TimestampMillis(1_790_000_000_000),
        Schema::Double => Value::Double(0.5),
        Schema::Bytes => Value::Bytes(vec![0, 0xFF, 0xC3]),
        Schema::String => Value::String("kim@example.net".into()),
        Schema::Fixed(fixed) => Value::Fixed(fixed.size, vec![0x5A; fixed.size]),
        Schema::Enum(of) => Value::Enum(of.symbols.len() as u32 - 1, of.symbols[of.symbols.len() - 1].clone()),
        Schema::Array(array) => Value::Array(vec![sample(&array.items), sample(&array.items)]),
        Schema::Map(map) => Value::Map(HashMap::from([("key".to_owned(), sample(&map.types))])),
        Schema::Union(union) => {
            let last = union.variants().len() - 1;
            Value::Union(last as u32, sample(&union.variants()[last]).into())
        }
        Schema::Record(record) => Value::Record(record.fields.iter().map(|f| (f.name.clone(), sample(&f.schema))).collect()),
        other => panic!("not in use: {other:?}"),
    }
}

/// The same value under another version of its schema: fields by their names, samples for those it has not.
pub fn carry(value: &Value, to: &Schema) -> Value {
    match (value, to) {
        (Value::Record(fields), Schema::Record(record)) => {
            let of = |name: &str, schema: &Schema| match fields.iter().find(|(n, _)| n == name) {
                Some((_, value)) => carry(value, schema),
                None => sample(schema),
            };
            Value::Record(record.fields.iter().map(|f| (f.name.clone(), of(&f.name, &f.schema))).collect())
        }
        (Value::Array(entries), Schema::Array(array)) => Value::Array(entries.iter().map(|e| carry(e, &array.items)).collect()),
        (other, _) => other.clone(),
    }
}
