//! Records nobody can read, each for a reason the decoder documents, and each unlike every other by an id or random bytes in it.

use bounceflow_event::avro::{AvroError, WriterSchema};
use bounceflow_event::{DeliveryEvent, EventType, Millis, Text};

use super::event::push_hex;
use super::mix::Dice;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    RandomBytes,
    NotJson,
    TruncatedJson,
    InvalidUtf8Json,
    TooDeepJson,
    MissingRecipientJson,
    NoDomainJson,
    UnknownEventJson,
    MissingTimestampJson,
    TooOldJson,
    RecipientObjectJson,
    TimestampWordJson,
    ReplyCodeArrayJson,
    TagsTextJson,
    TruncatedAvro,
    UnknownFingerprint,
    UnknownSchemaId,
    InvalidUtf8Avro,
    EmptyRecipientAvro,
    NoDomainAvro,
    TooOldAvro,
    TruncatedKumomta,
    UnknownTypeKumomta,
    NoRecipientKumomta,
    NoTimeKumomta,
}

pub(super) const JSON: &[Flaw] = &[
    Flaw::NotJson,
    Flaw::TruncatedJson,
    Flaw::InvalidUtf8Json,
    Flaw::TooDeepJson,
    Flaw::MissingRecipientJson,
    Flaw::NoDomainJson,
    Flaw::UnknownEventJson,
    Flaw::MissingTimestampJson,
    Flaw::TooOldJson,
    Flaw::RecipientObjectJson,
    Flaw::TimestampWordJson,
    Flaw::ReplyCodeArrayJson,
    Flaw::TagsTextJson,
    Flaw::RandomBytes,
];
pub(super) const AVRO: &[Flaw] = &[
    Flaw::TruncatedAvro,
    Flaw::UnknownFingerprint,
    Flaw::UnknownSchemaId,
    Flaw::InvalidUtf8Avro,
    Flaw::EmptyRecipientAvro,
    Flaw::NoDomainAvro,
    Flaw::TooOldAvro,
    Flaw::RandomBytes,
];
pub(super) const KUMOMTA: &[Flaw] = &[
    Flaw::TruncatedKumomta,
    Flaw::UnknownTypeKumomta,
    Flaw::NoRecipientKumomta,
    Flaw::NoTimeKumomta,
    Flaw::NotJson,
    Flaw::RandomBytes,
];

/// Between 2002 and 2012: older than 36 months whenever it is read.
fn long_ago(dice: &mut Dice) -> i64 {
    1_010_000_000_000 + (dice.throw() as i64) * 75
}

/// Appends one record. `time` is that of the records around it, `schema_id` tells the Avro framing.
pub(super) fn write(
    flaw: Flaw,
    id: u64,
    time: i64,
    (schema, schema_id): (&WriterSchema, Option<u32>),
    dice: &mut Dice,
    out: &mut Vec<u8>,
) -> Result<(), AvroError> {
    let mut hex = String::with_capacity(16);
    push_hex(&mut hex, id, 16);
    let head = format!("\"event_id\":\"{hex}\",\"sending_ip\":\"192.0.2.10\"");
    let at = format!("\"timestamp\":{time}");
    let to = "\"recipient\":\"kim@gmail.com\"";
    let avro = |recipient: &str, time: i64, out: &mut Vec<u8>| {
        let mut event = DeliveryEvent::new(EventType::Delivery, Millis(time), recipient);
        event.event_id = Text::new(&hex);
        event.mx_host = Text::new("gmail-smtp-in.l.google.com");
        match schema_id {
            None => schema.encode(&event, out),
            Some(schema_id) => schema.encode_confluent(schema_id, &event, out),
        }
    };
    let kumomta = |kind: &str, recipient: &str, time: &str| {
        format!(
            "{{\"type\":\"{kind}\",\"id\":\"{hex}a0b411f0a1b20242\",\"sender\":\"bounce@news.shopwave.example\",\"recipient\":{recipient},\
             \"queue\":\"gmail.com\",\"site\":\"\",\"size\":0,\"response\":{{\"code\":250,\"enhanced_code\":null,\"content\":\"OK\",\
             \"command\":null}},{time}\"num_attempts\":0,\"meta\":{{}},\"headers\":{{}}}}"
        )
    };
    let seconds = format!("\"timestamp\":{},", time.div_euclid(1000));
    let json = match flaw {
        Flaw::RandomBytes => {
            // Neither JSON nor one of the Avro framings begins so.
            out.push(0xFE);
            out.extend_from_slice(&id.to_be_bytes());
            for _ in 0..2 + dice.below(20) {
                out.extend_from_slice(&dice.bits().to_le_bytes());
            }
            return Ok(());
        }
        Flaw::TruncatedAvro => {
            avro("kim@gmail.com", time, out)?;
            // Beyond the id, so that no two are alike.
            let length = out.len() - 1 - dice.below(12);
            out.truncate(length);
            return Ok(());
        }
        Flaw::UnknownFingerprint => {
            schema.encode(&DeliveryEvent::new(EventType::Delivery, Millis(time), "kim@gmail.com"), out)?;
            out[2..10].copy_from_slice(&id.to_le_bytes());
            return Ok(());
        }
        Flaw::UnknownSchemaId => {
            let mut event = DeliveryEvent::new(EventType::Delivery, Millis(time), "kim@gmail.com");
            event.event_id = Text::new(&hex);
            return schema.encode_confluent(0x7F00_0000 | (id as u32 & 0xFFFF), &event, out);
        }
        Flaw::InvalidUtf8Avro => {
            avro("kim@gmail.com", time, out)?;
            if let Some(k) = out.windows(4).position(|w| w == b"kim@") {
                out[k + 1] = 0xFF;
            }
            return Ok(());
        }
        Flaw::EmptyRecipientAvro => {
            // The encoder takes none, so the text is cut out and its length set to 0.
            avro("kim@gmail.com", time, out)?;
            if let Some(k) = out.windows(13).position(|w| w == b"kim@gmail.com") {
                out.splice(k - 1..k + 13, [0]);
            }
            return Ok(());
        }
        Flaw::NoDomainAvro => return avro("kim", time, out),
        Flaw::TooOldAvro => return avro("kim@gmail.com", long_ago(dice), out),
        Flaw::NotJson => {
            format!("Sep 21 13:33:20 mx1 postfix/smtp[2213]: {hex}: to=<kim@gmail.com>, relay=none, status=deferred")
        }
        Flaw::TruncatedJson => {
            let tail =
                ["", ",\"attempt\":1", ",\"attempt\":1,\"tags\":{\"segment\":", ",\"diagnostic\":\"250 2.0"][dice.below(4)];
            format!("{{\"event\":\"delivery\",{head},{at},{to}{tail}")
        }
        Flaw::InvalidUtf8Json => {
            out.extend_from_slice(format!("{{\"event\":\"delivery\",{head},{at},\"recipient\":\"k").as_bytes());
            out.extend_from_slice(b"\xC3\x28m@gmail.com\"}");
            return Ok(());
        }
        Flaw::TooDeepJson => {
            let depth = 150 + dice.below(200);
            format!("{{\"event\":\"delivery\",{head},{at},\"recipient\":{}{}}}", "[".repeat(depth), "]".repeat(depth))
        }
        Flaw::MissingRecipientJson => format!("{{\"event\":\"delivery\",{head},{at},\"attempt\":1}}"),
        Flaw::NoDomainJson => {
            let recipient = ["kim", "kim@", "@", "kim.gmail.com"][dice.below(4)];
            format!("{{\"event\":\"delivery\",{head},{at},\"recipient\":\"{recipient}\"}}")
        }
        Flaw::UnknownEventJson => {
            let event = ["opened", "clicked", "DELIVERY", "teleported"][dice.below(4)];
            format!("{{\"event\":\"{event}\",{head},{at},{to}}}")
        }
        Flaw::MissingTimestampJson => format!("{{\"event\":\"delivery\",{head},{to}}}"),
        Flaw::TooOldJson => format!("{{\"event\":\"delivery\",{head},\"timestamp\":{},{to}}}", long_ago(dice)),
        Flaw::RecipientObjectJson => {
            format!("{{\"event\":\"delivery\",{head},{at},\"recipient\":{{\"address\":\"kim@gmail.com\"}}}}")
        }
        Flaw::TimestampWordJson => format!("{{\"event\":\"delivery\",{head},\"timestamp\":\"yesterday\",{to}}}"),
        Flaw::ReplyCodeArrayJson => format!("{{\"event\":\"bounce\",{head},{at},{to},\"reply_code\":[550]}}"),
        Flaw::TagsTextJson => format!("{{\"event\":\"delivery\",{head},{at},{to},\"tags\":\"spring\"}}"),
        Flaw::TruncatedKumomta => {
            let whole = kumomta("Delivery", "\"kim@gmail.com\"", &seconds);
            whole[..whole.len() - 1 - dice.below(120)].to_owned()
        }
        Flaw::UnknownTypeKumomta => kumomta("Teleported", "\"kim@gmail.com\"", &seconds),
        Flaw::NoRecipientKumomta => kumomta("Delivery", ["null", "\"\"", "[]"][dice.below(3)], &seconds),
        Flaw::NoTimeKumomta => kumomta("Delivery", "\"kim@gmail.com\"", ""),
    };
    out.extend_from_slice(json.as_bytes());
    Ok(())
}
