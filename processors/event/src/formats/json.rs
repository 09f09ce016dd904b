//! bounceflow's own JSON: the fields of `DeliveryEvent`, one object or an array of them.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{Format, IgnoreReason, Item, RejectReason, kumomta, reject};
use crate::delivery_event::DeliveryEvent;
use crate::text::{Millis, Text};

/// `any` also accepts what other JSON sources write.
pub(super) fn items<'a>(payload: &'a [u8], any: bool, each: &mut dyn FnMut(Item<'a>)) {
    each_object(payload, Format::Json, each, &mut |object, each| match serde_json::from_slice::<DeliveryEvent>(object) {
        Ok(event) => each(Item::Event(event)),
        Err(_) if any && kumomta::looks_like(object) => kumomta::record(object, each),
        Err(e) => each(explain(object, &e)),
    });
}

/// Hands each object of an array, or the one object, to `one`.
pub(super) fn each_object<'a>(
    payload: &'a [u8],
    format: Format,
    each: &mut dyn FnMut(Item<'a>),
    one: &mut dyn FnMut(&'a [u8], &mut dyn FnMut(Item<'a>)),
) {
    match payload.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[') => match serde_json::from_slice::<Vec<&RawValue>>(payload) {
            Ok(objects) if objects.is_empty() => each(Item::Ignored(IgnoreReason::Empty)),
            Ok(objects) => objects.into_iter().for_each(|o| one(o.get().as_bytes(), each)),
            Err(e) => each(syntax(payload, &e, format)),
        },
        Some(_) => one(payload, each),
        None => each(Item::Ignored(IgnoreReason::Empty)),
    }
}

/// The reason for JSON that is no JSON.
pub(super) fn syntax(payload: &[u8], e: &serde_json::Error, format: Format) -> Item<'static> {
    let reason = if std::str::from_utf8(payload).is_err() {
        RejectReason::InvalidUtf8
    } else if e.to_string().starts_with("recursion limit") {
        RejectReason::TooDeep
    } else {
        RejectReason::MalformedJson
    };
    let kind = match reason {
        RejectReason::TooDeep => "nested deeper than 128 levels",
        RejectReason::InvalidUtf8 => "not UTF-8",
        _ if e.is_eof() => "ends too early",
        _ => "not JSON",
    };
    reject(reason, format!("{kind}, at line {} column {}", e.line(), e.column()), format)
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
    if std::str::from_utf8(object).is_err() {
        return reject(RejectReason::InvalidUtf8, "not UTF-8", Format::Json);
    }
    let Ok(probe) = serde_json::from_slice::<Probe>(object) else {
        return reject(RejectReason::UnknownFormat, "not an object", Format::Json);
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
            // serde names the kind of the value, not the value, up to its first comma.
            let place = format!("a field of the wrong kind, at line {} column {}", error.line(), error.column());
            return reject(RejectReason::InvalidField, place, Format::Json);
        }
    };
    reject(reason, detail, Format::Json)
}
