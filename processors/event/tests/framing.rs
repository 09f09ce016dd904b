//! Avro bytes as they arrive: both framings told apart, schemas that are not known, and bytes cut short, flipped or forged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use bounceflow_event::avro::{AvroError, DELIVERY_EVENT, Schemas, WriterSchema};
use bounceflow_event::{Alert, Decoder, DeliveryEvent, EventType, Failure, Format, Item, Millis, RateBatch, RejectReason};
use support::{KINDS, apache, apache_write, decoder, encode, files, from_json, items, items_of, known, today};

/// In single-object encoding and in Confluent framing under the id 7.
fn framed(event: &DeliveryEvent<'_>) -> [Vec<u8>; 2] {
    let mut confluent = Vec::new();
    WriterSchema::parse(DELIVERY_EVENT).unwrap().encode_confluent(7, event, &mut confluent).unwrap();
    [encode(DELIVERY_EVENT, event), confluent]
}

fn event() -> DeliveryEvent<'static> {
    DeliveryEvent::new(EventType::Bounce, Millis(1_790_000_000_000), "kim@example.net")
}

/// Every event of the examples, in both framings.
fn records() -> Vec<Vec<u8>> {
    let texts = files("examples/DeliveryEvent", ".json");
    let items = texts.iter().flat_map(|(_, text)| items(Format::Json, text.as_bytes()));
    items.flat_map(|item| if let Item::Event(event) = item { framed(&event) } else { panic!("{item:?}") }).collect()
}

/// The one reason why nothing was read.
fn rejected(format: Format, payload: &[u8]) -> RejectReason {
    rejected_by(&decoder(format), payload)
}

fn rejected_by(decoder: &Decoder, payload: &[u8]) -> RejectReason {
    match items_of(decoder, payload).as_slice() {
        [Item::Rejected(why)] => why.reason,
        other => panic!("{payload:02x?} gave {other:?}"),
    }
}

#[test]
fn the_first_bytes_tell_the_framing() {
    let [single, confluent] = framed(&event());
    assert_eq!(single[..2], [0xC3, 0x01]);
    assert_eq!(confluent[..5], [0, 0, 0, 0, 7]);
    assert_eq!(single[10..], confluent[5..], "one datum");
    for bytes in [&single, &confluent] {
        for format in [Format::Auto, Format::Avro] {
            assert_eq!(items(format, bytes), [Item::Event(event())]);
        }
        for format in [Format::Json, Format::Kumomta] {
            assert!(matches!(rejected(format, bytes), RejectReason::MalformedJson | RejectReason::InvalidUtf8));
        }
    }
}

/// Fingerprints of the frozen schemas, computed from the specification's Parsing Canonical Form by other means.
#[test]
fn fingerprints_are_those_of_the_specification() {
    let fingerprints = KINDS.map(|(kind, json)| (kind, WriterSchema::parse(json).unwrap().fingerprint().to_le_bytes()));
    assert_eq!(
        fingerprints,
        [
            ("DeliveryEvent", [0x6d, 0x69, 0x3b, 0x62, 0x94, 0xe8, 0x8c, 0xf8]),
            ("Failure", [0xdc, 0x07, 0x48, 0x70, 0x70, 0xc4, 0xd0, 0x8d]),
            ("RateBatch", [0x4f, 0x12, 0x24, 0x61, 0x98, 0xcc, 0xf1, 0xdb]),
            ("Alert", [0xde, 0x62, 0xf7, 0xef, 0x8f, 0x67, 0xd3, 0x22]),
        ]
    );
}

#[test]
fn a_schema_that_is_not_known() {
    let [mut single, mut confluent] = framed(&event());
    single[5] ^= 0x10;
    confluent[4] = 8;
    assert_eq!(rejected(Format::Auto, &single), RejectReason::UnknownSchema);
    assert_eq!(rejected(Format::Avro, &confluent), RejectReason::UnknownSchema);
    assert_eq!(known().decode::<DeliveryEvent>(&confluent), Err(AvroError::UnknownId(8)));
    let fingerprint = u64::from_le_bytes(single[2..10].try_into().unwrap());
    assert_eq!(known().decode::<DeliveryEvent>(&single), Err(AvroError::UnknownFingerprint(fingerprint)));
}

#[test]
fn neither_framing() {
    for bytes in [&b""[..], b"\x00", b"\x00\x00\x00\x07", b"\xC3", b"\xC3\x01", b"\xC3\x02\0\0\0\0\0\0\0\0\0\0", b"{}", b"\x01"] {
        assert_eq!(rejected(Format::Avro, bytes), RejectReason::UnknownFormat, "{bytes:02x?}");
    }
}

#[test]
fn cut_short_anywhere_is_rejected() {
    let (avro, auto) = (decoder(Format::Avro), decoder(Format::Auto));
    for record in records() {
        for end in 0..record.len() {
            rejected_by(&avro, &record[..end]);
            if end > 0 {
                rejected_by(&auto, &record[..end]);
            }
        }
    }
}

#[test]
fn bytes_left_over_are_rejected() {
    for mut record in records() {
        record.push(0);
        assert_eq!(rejected(Format::Auto, &record), RejectReason::MalformedAvro);
    }
}

#[test]
fn a_flipped_bit_costs_one_item_at_most() {
    let decoders = [decoder(Format::Avro), decoder(Format::Auto)];
    for record in records() {
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            for decoder in &decoders {
                assert_eq!(items_of(decoder, &flipped).len(), 1, "bit {bit}");
            }
        }
    }
}

#[test]
fn what_bounceflow_writes_cut_or_flipped_does_not_panic() {
    let known = known();
    for (kind, schema) in KINDS.into_iter().filter(|(kind, _)| *kind != "DeliveryEvent") {
        let read = |bytes: &[u8]| match kind {
            "Failure" => known.decode::<Failure>(bytes).is_ok(),
            "RateBatch" => known.decode::<RateBatch>(bytes).is_ok(),
            _ => known.decode::<Alert>(bytes).is_ok(),
        };
        for (name, text) in files(&format!("examples/{kind}"), ".json").into_iter().filter(|(name, _)| name != "limits") {
            let value = from_json(&apache(schema), &serde_json::from_str(&text).unwrap());
            let bytes = today(kind, &known, &apache_write(schema, &value)).unwrap();
            assert!(read(&bytes));
            for end in 0..bytes.len() {
                assert!(!read(&bytes[..end]), "{kind}/{name} to {end}");
            }
            // Many a flip gives another value that is as good; none may do worse than that.
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                read(&flipped);
            }
        }
    }
}

/// Lengths and counts that promise more than there is neither reserve memory nor loop.
#[test]
fn forged_lengths() {
    let [single, _] = framed(&event());
    let datum = &single[10..];
    let recipient = datum.windows(15).position(|w| w == b"kim@example.net").unwrap() - 1;
    let huge: [&[u8]; 5] = [
        // i64::MAX, i64::MIN, -1, 2^40, and eleven bytes of which no number ends.
        &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        &[0x01],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x40],
        &[0xFF; 11],
    ];
    for length in huge {
        // As the length of a text, and as the number of tags.
        let text = [&single[..10], &datum[..recipient], length, &datum[recipient + 1..]].concat();
        rejected(Format::Avro, &text);
        let tags = [&single[..single.len() - 1], length, &[2, b'k', 2, b'v', 0]].concat();
        rejected(Format::Avro, &tags);
    }
}

/// Entries that take no bytes: a record of a few bytes must not claim hundreds of millions of them.
#[test]
fn entries_without_bytes() {
    let schema = with_field(r#"{"name": "x", "type": {"type": "array", "items": "null"}, "default": []}"#);
    let mut schemas = Schemas::default();
    schemas.add(&schema).unwrap();
    let decoder = Decoder::new(Format::Avro, 1 << 20, schemas);
    let mut bytes = vec![0xC3, 0x01];
    bytes.extend(WriterSchema::parse(&schema).unwrap().fingerprint().to_le_bytes());
    bytes.extend(&framed(&event())[0][10..]);
    let end = bytes.len();
    bytes.push(0);
    assert_eq!(items_of(&decoder, &bytes), [Item::Event(event())]);
    // 900,000,000 nulls.
    bytes.truncate(end);
    bytes.extend([0x80, 0xD2, 0xA5, 0xDA, 0x06, 0x00]);
    assert!(matches!(items_of(&decoder, &bytes).as_slice(), [Item::Rejected(why)] if why.reason == RejectReason::MalformedAvro));
}

/// A writer's own schema, whose fields do not fit: said by reason, and without a word of the record.
#[test]
fn writers_schemas_that_do_not_fit() {
    let record = |fields: &str| format!(r#"{{"type": "record", "name": "Event", "fields": [{fields}]}}"#);
    let (event, time) = (r#"{"name": "event", "type": "string"}"#, r#"{"name": "timestamp", "type": "string"}"#);
    let (to, code) = (r#"{"name": "recipient", "type": "string"}"#, r#"{"name": "reply_code", "type": "string"}"#);
    let tags = r#"{"name": "tags", "type": "string"}"#;
    let cases = [
        (vec![event, time, to], vec!["bounce", "2026-09-21T14:13:20Z", "kim@example.net"], None),
        (vec![event, time, to, code], vec!["bounce", "1790000000", "kim@example.net", "550"], None),
        (vec![event, time], vec!["bounce", "1790000000"], Some(RejectReason::MissingRecipient)),
        (vec![event, to], vec!["bounce", "kim@example.net"], Some(RejectReason::InvalidTimestamp)),
        (vec![time, to], vec!["1790000000", "kim@example.net"], Some(RejectReason::UnknownFormat)),
        (vec![event, time, to], vec!["kim@example.net", "1790000000", "kim@example.net"], Some(RejectReason::UnknownEvent)),
        (vec![event, time, to], vec!["bounce", "kim@example.net", "kim@example.net"], Some(RejectReason::InvalidField)),
        (
            vec![event, time, to, code],
            vec!["bounce", "1", "kim@example.net", "kim@example.net"],
            Some(RejectReason::InvalidField),
        ),
        (
            vec![event, time, to, tags],
            vec!["bounce", "1", "kim@example.net", "kim@example.net"],
            Some(RejectReason::InvalidField),
        ),
        (vec![event, time, to], vec!["bounce", "1790000000", "kim@\u{0}\u{0}\u{0}"], Some(RejectReason::InvalidUtf8)),
    ];
    for (fields, values, expect) in cases {
        let schema = record(&fields.join(", "));
        let mut schemas = Schemas::default();
        schemas.add(&schema).unwrap();
        let mut bytes = vec![0xC3, 0x01];
        bytes.extend(WriterSchema::parse(&schema).unwrap().fingerprint().to_le_bytes());
        for value in &values {
            bytes.push(value.len() as u8 * 2);
            bytes.extend(value.bytes().map(|b| if b == 0 { 0xFF } else { b }));
        }
        match (items_of(&Decoder::new(Format::Avro, 1 << 20, schemas), &bytes).as_slice(), expect) {
            ([Item::Event(event)], None) => assert_eq!(event.timestamp, Millis(1_790_000_000_000)),
            ([Item::Rejected(why)], Some(reason)) => {
                assert_eq!((why.reason, why.format), (reason, Format::Avro), "{values:?}: {}", why.detail);
                assert!(!why.detail.contains("kim"), "{}", why.detail);
            }
            (other, _) => panic!("{values:?} gave {other:?}"),
        }
    }
}

/// Today's `DeliveryEvent` with one more field at its end.
fn with_field(field: &str) -> String {
    let mut schema: serde_json::Value = serde_json::from_str(DELIVERY_EVENT).unwrap();
    schema["fields"].as_array_mut().unwrap().push(serde_json::from_str(field).unwrap());
    schema.to_string()
}
