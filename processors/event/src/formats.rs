//! Source formats: the bytes of one record to its items.
//!
//! A record that cannot be read is one [`Item::Rejected`]; an item inside a record that cannot be read costs only itself.

mod json;
mod kumomta;

use serde::Deserialize;

use crate::avro::{self, AvroError, Schemas};
use crate::delivery_event::DeliveryEvent;

/// How the records of a topic are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Found out record by record: Avro by its first bytes, else bounceflow's own JSON, else KumoMTA.
    #[default]
    Auto,
    /// `DeliveryEvent` in Avro, in either framing.
    Avro,
    /// `DeliveryEvent` as JSON, one object or an array of them.
    Json,
    /// KumoMTA log records, one object or an array of them.
    Kumomta,
}

impl Format {
    /// The spelling used in configuration and in dead-letter headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Avro => "avro",
            Self::Json => "json",
            Self::Kumomta => "kumomta",
        }
    }
}

/// One item of a record.
#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "handed on one by one, and nearly all are events")]
pub enum Item<'a> {
    /// A delivery event.
    Event(DeliveryEvent<'a>),
    /// Says nothing about a delivery. It is counted by reason.
    Ignored(IgnoreReason),
    /// Cannot be read. It goes to the dead letter.
    Rejected(Rejection),
}

/// Why an item was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IgnoreReason {
    /// A record without a value.
    Tombstone,
    /// A value without bytes, or an array without entries.
    Empty,
    /// A log record of a kind that is no outcome of a delivery (KumoMTA Reception, Delayed, …).
    NotAnOutcome,
}

impl IgnoreReason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 3] = [Self::Tombstone, Self::Empty, Self::NotAnOutcome];

    /// The spelling used on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::Empty => "empty",
            Self::NotAnOutcome => "not_an_outcome",
        }
    }
}

/// Why an item was refused, and in which format it was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// By this it is counted.
    pub reason: RejectReason,
    /// What exactly, for people. It never holds text of the record beyond the name of a field.
    pub detail: String,
    /// The format tried.
    pub format: Format,
}

/// Why an item was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// Neither Avro nor JSON, or JSON of no known shape.
    UnknownFormat,
    /// Avro bytes that do not fit their schema, such as truncated ones.
    MalformedAvro,
    /// Avro by a schema that is not known.
    UnknownSchema,
    /// Not JSON, such as truncated JSON.
    MalformedJson,
    /// JSON nested deeper than 128 levels.
    TooDeep,
    /// Text that is not UTF-8.
    InvalidUtf8,
    /// Longer than the configured limit.
    TooLarge,
    /// A field with a value of the wrong kind.
    InvalidField,
    /// An event type that is not known.
    UnknownEvent,
    /// No recipient.
    MissingRecipient,
    /// A recipient address without a (valid) domain.
    RecipientWithoutDomain,
    /// No time, or one that cannot be read.
    InvalidTimestamp,
    /// Older than 36 months.
    TooOld,
    /// A mistake of this program showed on it; the log says where.
    InternalError,
}

impl RejectReason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 14] = [
        Self::UnknownFormat,
        Self::MalformedAvro,
        Self::UnknownSchema,
        Self::MalformedJson,
        Self::TooDeep,
        Self::InvalidUtf8,
        Self::TooLarge,
        Self::InvalidField,
        Self::UnknownEvent,
        Self::MissingRecipient,
        Self::RecipientWithoutDomain,
        Self::InvalidTimestamp,
        Self::TooOld,
        Self::InternalError,
    ];

    /// The spelling used in dead-letter headers and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownFormat => "unknown_format",
            Self::MalformedAvro => "malformed_avro",
            Self::UnknownSchema => "unknown_schema",
            Self::MalformedJson => "malformed_json",
            Self::TooDeep => "too_deep",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::TooLarge => "too_large",
            Self::InvalidField => "invalid_field",
            Self::UnknownEvent => "unknown_event",
            Self::MissingRecipient => "missing_recipient",
            Self::RecipientWithoutDomain => "recipient_without_domain",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::TooOld => "too_old",
            Self::InternalError => "internal_error",
        }
    }
}

/// Reads the records of one topic.
pub struct Decoder {
    format: Format,
    max_record_bytes: usize,
    schemas: Schemas,
}

impl Decoder {
    /// Records longer than `max_record_bytes` are refused. `schemas` are the writers' schemas of Avro records.
    pub fn new(format: Format, max_record_bytes: usize, schemas: Schemas) -> Self {
        Self { format, max_record_bytes, schemas }
    }

    /// Hands each item of the record to `each`, in order.
    pub fn decode<'a>(&self, payload: Option<&'a [u8]>, each: &mut dyn FnMut(Item<'a>)) {
        let Some(payload) = payload else { return each(Item::Ignored(IgnoreReason::Tombstone)) };
        if payload.len() > self.max_record_bytes {
            let detail = format!("{} bytes, the limit is {}", payload.len(), self.max_record_bytes);
            return each(reject(RejectReason::TooLarge, detail, self.format));
        }
        match self.format {
            Format::Avro => self.avro(payload, each),
            Format::Json => json::items(payload, false, each),
            Format::Kumomta => kumomta::items(payload, each),
            Format::Auto if avro::looks_like_avro(payload) => self.avro(payload, each),
            Format::Auto => json::items(payload, true, each),
        }
    }

    /// The format a record is tried in. Slow: for records that are refused after they could be read.
    pub fn format_of(&self, payload: &[u8]) -> Format {
        match self.format {
            Format::Auto if avro::looks_like_avro(payload) => Format::Avro,
            Format::Auto if kumomta::looks_like(payload) => Format::Kumomta,
            Format::Auto => Format::Json,
            named => named,
        }
    }

    fn avro<'a>(&self, payload: &'a [u8], each: &mut dyn FnMut(Item<'a>)) {
        each(match self.schemas.decode(payload) {
            Ok(event) => complete(event, Format::Avro),
            Err(e) => {
                let reason = match &e {
                    AvroError::Framing => RejectReason::UnknownFormat,
                    AvroError::UnknownId(_) | AvroError::UnknownFingerprint(_) => RejectReason::UnknownSchema,
                    AvroError::Utf8 => RejectReason::InvalidUtf8,
                    AvroError::MissingField(_) => RejectReason::UnknownFormat,
                    AvroError::UnknownSymbol => RejectReason::UnknownEvent,
                    AvroError::WrongKind => RejectReason::InvalidField,
                    AvroError::Datum(_) => RejectReason::MalformedAvro,
                };
                reject(reason, e.to_string(), Format::Avro)
            }
        });
    }
}

/// Refuses an event without the fields that must be there. Text and instants read null, empty and absent alike.
fn complete(event: DeliveryEvent<'_>, format: Format) -> Item<'_> {
    if event.recipient.is_empty() {
        reject(RejectReason::MissingRecipient, "no field `recipient`, or nothing in it", format)
    } else if event.timestamp.0 == 0 {
        reject(RejectReason::InvalidTimestamp, "no field `timestamp`, or nothing in it", format)
    } else {
        Item::Event(event)
    }
}

fn reject(reason: RejectReason, detail: impl Into<String>, format: Format) -> Item<'static> {
    Item::Rejected(Rejection { reason, detail: detail.into(), format })
}
