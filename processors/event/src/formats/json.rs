//! bounceflow's own JSON: the fields of `DeliveryEvent`, one object or an array of them.

use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{Format, IgnoreReason, Item, RejectReason, complete, kumomta, reject};
use crate::delivery_event::DeliveryEvent;
use crate::text::{Millis, Text};

/// What is refused and nested deeper than this is refused for that, as serde_json would have it.
const DEPTH: usize = 128;

/// `any` also accepts what other JSON sources write.
pub(super) fn items<'a>(payload: &'a [u8], any: bool, each: &mut dyn FnMut(Item<'a>)) {
    each_object(payload, Format::Json, each, &mut |object, each| match serde_json::from_slice::<DeliveryEvent>(object) {
        Ok(event) => each(complete(event, Format::Json)),
        Err(_) if any && kumomta::looks_like(object) => kumomta::record(object, each),
        Err(e) => each(explain(object, &e)),
    });
}

/// Reads one object and hands on its items.
type One<'f, 'a> = dyn FnMut(&'a [u8], &mut dyn FnMut(Item<'a>)) + 'f;

/// Hands each object of an array, or the one object, to `one`.
pub(super) fn each_object<'a>(payload: &'a [u8], format: Format, each: &mut dyn FnMut(Item<'a>), one: &mut One<'_, 'a>) {
    match payload.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[') => match serde_json::from_slice::<Vec<&RawValue>>(payload) {
            Ok(objects) if objects.is_empty() => each(Item::Ignored(IgnoreReason::Empty)),
            Ok(objects) => objects.into_iter().for_each(|o| object(o.get().as_bytes(), format, each, one)),
            Err(e) => match entries(payload) {
                Some(entries) => entries.into_iter().for_each(|entry| object(&payload[entry], format, each, one)),
                None => each(syntax(payload, &e, format)),
            },
        },
        Some(_) => object(payload, format, each, one),
        None => each(Item::Ignored(IgnoreReason::Empty)),
    }
}

/// Hands an object to `one`; refuses what is none. (serde would take an array for a struct's fields in order.)
fn object<'a>(value: &'a [u8], format: Format, each: &mut dyn FnMut(Item<'a>), one: &mut One<'_, 'a>) {
    match value.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') => one(value, each),
        _ => each(match serde_json::from_slice::<IgnoredAny>(value) {
            Ok(_) => misfit(value, format).unwrap_or_else(|| reject(RejectReason::UnknownFormat, "not an object", format)),
            Err(e) => syntax(value, &e, format),
        }),
    }
}

/// Where the entries of an array stand that is not UTF-8, so that the bytes in question cost only the entry that holds them.
fn entries(payload: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut text = String::with_capacity(payload.len());
    for chunk in payload.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    let entries: Vec<&RawValue> = serde_json::from_str(&text).ok()?;
    let start = |entry: &str| entry.as_ptr() as usize - text.as_ptr() as usize;
    Some(entries.iter().map(|e| start(e.get())..start(e.get()) + e.get().len()).collect())
}

/// The reason for JSON that is no JSON.
pub(super) fn syntax(payload: &[u8], e: &serde_json::Error, format: Format) -> Item<'static> {
    misfit(payload, format).unwrap_or_else(|| {
        let kind = if e.is_eof() { "ends too early" } else { "not JSON" };
        reject(RejectReason::MalformedJson, format!("{kind}, at line {} column {}", e.line(), e.column()), format)
    })
}

/// The reasons that lie in the bytes as a whole. They count only where something could not be read: what is passed over may be
/// as it likes.
pub(super) fn misfit(payload: &[u8], format: Format) -> Option<Item<'static>> {
    if let Err(e) = std::str::from_utf8(payload) {
        return Some(reject(RejectReason::InvalidUtf8, format!("not UTF-8, at byte {}", e.valid_up_to()), format));
    }
    (depth(payload) > DEPTH).then(|| reject(RejectReason::TooDeep, format!("nested deeper than {DEPTH} levels"), format))
}

/// How deep arrays and objects are nested, in JSON or what begins like it.
fn depth(json: &[u8]) -> usize {
    let (mut now, mut most, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'[' | b'{' if !text => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' if !text => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default)]
    recipient: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
}

/// Reads again, slowly, to say what is wrong.
fn explain(object: &[u8], error: &serde_json::Error) -> Item<'static> {
    if let Err(e) = serde_json::from_slice::<IgnoredAny>(object) {
        return syntax(object, &e, Format::Json);
    }
    if let Some(item) = misfit(object, Format::Json) {
        return item;
    }
    let Ok(probe) = serde_json::from_slice::<Probe>(object) else {
        return reject(RejectReason::InvalidField, "a field stands there twice", Format::Json);
    };
    let (reason, detail) = match (probe.event, probe.recipient, probe.timestamp) {
        (None, _, _) => (RejectReason::UnknownFormat, "no field `event`: not a delivery event"),
        (Some(event), _, _) if serde_json::from_str::<crate::EventType>(event.get()).is_err() => {
            (RejectReason::UnknownEvent, "`event` is none of delivery, deferral, bounce, oob_bounce, complaint, drop")
        }
        (_, None, _) => (RejectReason::MissingRecipient, "no field `recipient`"),
        (_, Some(recipient), _) if serde_json::from_str::<Text>(recipient.get()).is_err() => {
            (RejectReason::InvalidField, "`recipient` is no text")
        }
        (_, _, None) => (RejectReason::InvalidTimestamp, "no field `timestamp`"),
        (_, _, Some(timestamp)) if serde_json::from_str::<Millis>(timestamp.get()).is_err() => {
            (RejectReason::InvalidTimestamp, "`timestamp` is neither milliseconds since the epoch nor RFC 3339 text")
        }
        _ => {
            // serde's own words quote the value.
            let place = format!("a field of the wrong kind, at line {} column {}", error.line(), error.column());
            return reject(RejectReason::InvalidField, place, Format::Json);
        }
    };
    reject(reason, detail, Format::Json)
}
