//! For any content: what is encoded comes back, and no bytes make a decoder panic, lose a record or quote it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::borrow::Cow;

use bounceflow_event::avro::{DELIVERY_EVENT, FAILURE, RATE_BATCH, Schemas, WriterSchema};
use bounceflow_event::{
    CategoryCount, Decoder, DeliveryEvent, EventType, Failure, Format, IgnoredCount, Item, Millis, Number, PatternCount,
    RateBatch, RateRow, RecipientHash, Source, Tags, Text,
};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{apache_read, apache_write, decoder, encode, files, items, items_of, known};

const FORMATS: [Format; 4] = [Format::Auto, Format::Avro, Format::Json, Format::Kumomta];

/// Any text, with controls, quotes, and all of Unicode.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        vec(any::<char>(), 0..12).prop_map(String::from_iter),
        "[a-z\"\\\\ \u{0}\u{7f}\n]{0,20}",
        Just(String::new()),
        Just("kim@example.net".to_owned()),
    ]
}

fn texts<const N: usize>() -> impl Strategy<Value = [String; N]> {
    vec(text(), N).prop_map(|v| v.try_into().unwrap())
}

/// Any instant that is not taken for seconds.
fn millis() -> impl Strategy<Value = i64> {
    prop_oneof![100_000_000_000..=i64::MAX, i64::MIN..=-100_000_000_000, 1_700_000_000_000..1_900_000_000_000_i64]
}

fn tags() -> impl Strategy<Value = Tags<'static>> {
    vec((text(), text()), 0..5).prop_map(|v| Tags(v.into_iter().map(|(k, v)| (Cow::Owned(k), Cow::Owned(v))).collect()))
}

fn event() -> impl Strategy<Value = DeliveryEvent<'static>> {
    let kind = prop::sample::select(vec!["delivery", "deferral", "bounce", "oob_bounce", "complaint", "drop"]);
    let recipient = text().prop_filter("a recipient", |t| !t.is_empty());
    let sent = prop_oneof![Just(0), millis()];
    (kind, millis(), recipient, sent, texts::<14>(), any::<(i32, i32)>(), tags()).prop_map(
        |(kind, timestamp, recipient, sent_at, texts, (reply_code, attempt), tags)| {
            let [
                event_id,
                message_id,
                sender,
                from_domain,
                sending_ip,
                pool,
                campaign,
                tenant,
                dkim,
                mx,
                command,
                code,
                diagnostic,
                kind_of,
            ] = texts.map(Text::from);
            DeliveryEvent {
                event_id,
                sent_at: Millis(sent_at),
                message_id,
                sender,
                from_domain,
                sending_ip,
                pool,
                campaign,
                tenant,
                dkim_domain: dkim,
                mx_host: mx,
                command,
                reply_code: Number(reply_code),
                enhanced_code: code,
                diagnostic,
                attempt: Number(attempt),
                feedback_type: kind_of,
                tags,
                ..DeliveryEvent::new(kind.parse::<EventType>().unwrap(), Millis(timestamp), recipient)
            }
        },
    )
}

/// Bytes that pass for a record at first sight.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let known = WriterSchema::parse(DELIVERY_EVENT).unwrap().fingerprint().to_le_bytes();
    let framed = move |header: Vec<u8>| vec(any::<u8>(), 0..200).prop_map(move |rest| [&header[..], &rest].concat());
    let mut examples: Vec<Vec<u8>> = Vec::new();
    for kind in ["DeliveryEvent", "kumomta"] {
        for (_, text) in files(&format!("examples/{kind}"), ".json") {
            let read = items(Format::Auto, text.as_bytes()).into_iter();
            examples
                .extend(read.filter_map(|item| if let Item::Event(e) = item { Some(encode(DELIVERY_EVENT, &e)) } else { None }));
            examples.push(text.into_bytes());
        }
    }
    let edits = vec((any::<prop::sample::Index>(), any::<u8>(), 0..4), 1..6);
    let edited = (prop::sample::select(examples), edits).prop_map(|(mut bytes, edits)| {
        for (at, byte, what) in edits {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes[at] = b"\"\\{}[],:0"[usize::from(byte % 9)],
            }
        }
        bytes
    });
    prop_oneof![
        vec(any::<u8>(), 0..200),
        framed(vec![0]),
        framed(vec![0, 0, 0, 0, 7]),
        framed([vec![0xC3, 0x01], known.to_vec()].concat()),
        "[\\[\\]{}\",:0-9a-z\\\\ ]{0,80}".prop_map(String::into_bytes),
        edited,
        json().prop_map(String::into_bytes),
        vec(json(), 0..4).prop_map(|all| format!("[{}]", all.join(",")).into_bytes()),
    ]
}

/// In every text of what [`json`] makes.
const SECRET: &str = "kim.secret@example.net";

/// Objects with the fields the decoders know, holding anything, and a secret in every text.
fn json() -> impl Strategy<Value = String> {
    let names = || {
        prop::sample::select(vec![
            "event",
            "timestamp",
            "recipient",
            "sent_at",
            "reply_code",
            "attempt",
            "tags",
            "campaign",
            "diagnostic",
            "type",
            "id",
            "response",
            "code",
            "enhanced_code",
            "content",
            "command",
            "peer_address",
            "name",
            "source_address",
            "address",
            "num_attempts",
            "event_time",
            "created",
            "created_time",
            "feedback_report",
            "original_rcpto_to",
            "reported_domain",
            "supplemental_trace",
            "meta",
            "headers",
            "From",
            "queue",
            "sender",
            "local",
            "unknown",
            "kim.secret@example.net",
        ])
    };
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| format!("{f:e}")),
        Just("1e999".to_owned()),
        Just(format!("\"{SECRET}\"")),
        Just(format!("\"\\ud800{SECRET}\"")),
        Just("\"delivery\"".to_owned()),
        Just("\"Bounce\"".to_owned()),
        Just("\"Feedback\"".to_owned()),
        Just("1790000000".to_owned()),
    ];
    let value = leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(","))),
            vec((names(), inner), 0..6).prop_map(object),
        ]
    });
    // Often enough one that is nearly right.
    let start = prop::sample::select(vec![
        vec![],
        vec![("event", "\"delivery\""), ("timestamp", "1790000000")],
        vec![("event", "\"bounce\""), ("recipient", "\"kim.secret@example.net\""), ("timestamp", "1790000000")],
        vec![("event", "\"drop\""), ("recipient", "\"x\""), ("timestamp", "1790000000"), ("tags", "\"kim.secret@example.net\"")],
        vec![("type", "\"Bounce\""), ("id", "\"1\""), ("timestamp", "1790000000")],
        vec![("type", "\"OOB\""), ("id", "\"1\""), ("timestamp", "1790000000"), ("meta", "\"kim.secret@example.net\"")],
        vec![
            ("type", "\"Feedback\""),
            ("id", "\"1\""),
            ("event_time", "1790000000"),
            ("recipient", "\"kim.secret@example.net\""),
        ],
    ]);
    (start, vec((names(), value), 0..6)).prop_map(|(start, more)| {
        let start = start.into_iter().map(|(name, value)| (name, value.to_owned()));
        object(start.chain(more).collect())
    })
}

fn object(fields: Vec<(&'static str, String)>) -> String {
    let fields: Vec<_> = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn decoders() -> [Decoder; 4] {
    FORMATS.map(decoder)
}

fn decode_one<'a>(format: Format, bytes: &'a [u8]) -> Item<'a> {
    let mut all = items(format, bytes);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_delivery_event_comes_back(event in event()) {
        let json = serde_json::to_vec(&event).unwrap();
        let mut confluent = Vec::new();
        WriterSchema::parse(DELIVERY_EVENT).unwrap().encode_confluent(7, &event, &mut confluent).unwrap();
        for (format, bytes) in [
            (Format::Json, &json),
            (Format::Auto, &json),
            (Format::Avro, &encode(DELIVERY_EVENT, &event)),
            (Format::Auto, &encode(DELIVERY_EVENT, &event)),
            (Format::Auto, &confluent),
        ] {
            prop_assert_eq!(decode_one(format, bytes), Item::Event(event.clone()));
        }
        // What the source alone can say does not travel.
        let local = DeliveryEvent { local: true, ..event.clone() };
        let bytes = encode(DELIVERY_EVENT, &local);
        prop_assert_eq!(decode_one(Format::Avro, &bytes), Item::Event(event));
    }

    #[test]
    fn a_failure_comes_back(
        t in texts::<23>(), l in any::<[i64; 5]>(), i in any::<[i32; 5]>(), blocked in any::<bool>(), hash in any::<[u8; 16]>(),
        tags in tags(),
    ) {
        let failure = Failure {
            event_time: l[0], sent_time: l[1], ingested_time: l[2], event_type: &t[0], severity: &t[1], category: &t[2], blocked,
            root_cause: &t[3], action: &t[4], rule: &t[5], rules_version: &t[6], pattern: l[3], pattern_version: i[0], isp: &t[7],
            identity: &t[8], recipient_domain: &t[9], recipient_hash: RecipientHash(hash), recipient_key_id: &t[10], recipient: &t[11],
            mx_host: &t[12], from_domain: &t[13], sending_ip: &t[14], pool: &t[15], campaign: &t[16], message_id: &t[17],
            event_id: &t[18], reply_code: i[1], enhanced_code: &t[19], diagnostic: &t[20], command: &t[21], feedback_type: &t[22],
            attempt: i[2], tags, source_topic: &t[0], source_partition: i[3], source_offset: l[4], source_item: i[4],
        };
        let bytes = encode(FAILURE, &failure);
        prop_assert_eq!(known().decode::<Failure>(&bytes).unwrap(), failure.clone());
        // Their maps keep one of two equal keys, and no order.
        if failure.tags.0.len() < 2 {
            let theirs = apache_write(FAILURE, &apache_read(FAILURE, &bytes));
            prop_assert_eq!(known().decode::<Failure>(&theirs).unwrap(), failure);
        }
    }

    #[test]
    fn a_rate_batch_comes_back(
        t in texts::<7>(), head in any::<[i32; 3]>(),
        rows in vec((any::<[i64; 11]>(), any::<[prop::sample::Index; 4]>(), vec((any::<prop::sample::Index>(), any::<[i64; 3]>()), 0..4)), 0..6),
        ignored in vec((any::<prop::sample::Index>(), any::<i64>()), 0..4),
        patterns in vec((any::<[prop::sample::Index; 5]>(), any::<[i64; 2]>()), 0..4),
        sources in vec((any::<prop::sample::Index>(), any::<i32>(), any::<[i64; 5]>(), any::<Option<i64>>(), any::<bool>()), 0..4),
    ) {
        let of = |index: &prop::sample::Index| &*t[index.index(t.len())];
        let batch = RateBatch {
            producer: &t[0], part: head[0], parts: head[1], rules_version: &t[1], pattern_version: head[2],
            rows: rows.iter().map(|(n, names, categories)| RateRow {
                bucket: n[0], isp: of(&names[0]), identity: of(&names[1]), sending_ip: of(&names[2]), campaign: of(&names[3]),
                deliveries: n[1], first_attempts: n[2], hard: n[3], soft: n[4], deferred: n[5], blocked: n[6], blocked_deferrals: n[7],
                complaints: n[8], late_bounces: n[9], drops: n[10],
                categories: categories.iter().map(|(name, n)| CategoryCount {
                    category: of(name), bounces: n[0], deferrals: n[1], late_bounces: n[2],
                }).collect(),
            }).collect(),
            ignored: ignored.iter().map(|(reason, count)| IgnoredCount { reason: of(reason), count: *count }).collect(),
            patterns: patterns.iter().map(|(names, n)| PatternCount {
                pattern: n[0], isp: of(&names[0]), identity: of(&names[1]), category: of(&names[2]), rule: of(&names[3]), count: n[1],
                sample: of(&names[4]),
            }).collect(),
            sources: sources.iter().map(|(topic, partition, n, max_event_time, end_reached)| Source {
                topic: of(topic), partition: *partition, first_offset: n[0], last_offset: n[1], records: n[2], items: n[3],
                dead_lettered: n[4], max_event_time: *max_event_time, end_reached: *end_reached,
            }).collect(),
        };
        let bytes = encode(RATE_BATCH, &batch);
        prop_assert_eq!(known().decode::<RateBatch>(&bytes).unwrap(), batch.clone());
        let theirs = apache_write(RATE_BATCH, &apache_read(RATE_BATCH, &bytes));
        prop_assert_eq!(known().decode::<RateBatch>(&theirs).unwrap(), batch);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_items(bytes in record()) {
        for decoder in decoders() {
            prop_assert!(!items_of(&decoder, &bytes).is_empty());
        }
        let known = known();
        let _ = (known.decode::<Failure>(&bytes).is_ok(), known.decode::<RateBatch>(&bytes).is_ok());
    }

    #[test]
    fn a_rejection_does_not_quote_the_record(bytes in json(), format in prop::sample::select(FORMATS.to_vec())) {
        for item in items(format, bytes.as_bytes()) {
            if let Item::Rejected(why) = item {
                prop_assert!(!why.detail.is_empty() && !why.detail.contains("secret") && !why.detail.contains("example"), "{}", why.detail);
            }
        }
    }

    #[test]
    fn a_schema_that_cannot_be_used_is_an_error(text in "[\\[\\]{}\",:a-z ]{0,40}") {
        let _ = Schemas::default().add(&text).is_ok();
    }
}
