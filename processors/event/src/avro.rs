//! Avro framing and schemas: which schema wrote these bytes, and bytes from and to values.
//!
//! Two framings are told apart by their first bytes: the Confluent wire format (`0x00`, schema id as four bytes big-endian,
//! datum) and Avro single-object encoding (`0xC3 0x01`, CRC-64-AVRO fingerprint as eight bytes little-endian, datum).
//! What bounceflow writes itself is in single-object encoding.

use std::io::BufRead;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use serde_avro_fast::Schema;
use serde_avro_fast::de::read::SliceRead;
use serde_avro_fast::de::{DeError, DeserializerConfig, DeserializerState};
use serde_avro_fast::ser::SerializerConfig;

use crate::plain;
use crate::text::{NO_INSTANT, NO_NUMBER};
use crate::wire::Failure;

/// `schemas/avro/DeliveryEvent.avsc`
pub const DELIVERY_EVENT: &str = include_str!("../../../schemas/avro/DeliveryEvent.avsc");
/// `schemas/avro/Failure.avsc`
pub const FAILURE: &str = include_str!("../../../schemas/avro/Failure.avsc");
/// `schemas/avro/RateBatch.avsc`
pub const RATE_BATCH: &str = include_str!("../../../schemas/avro/RateBatch.avsc");
/// `schemas/avro/Alert.avsc`
pub const ALERT: &str = include_str!("../../../schemas/avro/Alert.avsc");

const SINGLE_OBJECT: [u8; 2] = [0xC3, 0x01];
const CONFLUENT: u8 = 0;

/// Why Avro bytes were not read. Its text never holds text of the record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AvroError {
    /// Neither framing.
    #[error("the bytes begin neither with 0x00 (Confluent wire format) nor with 0xC3 0x01 (Avro single-object encoding)")]
    Framing,
    /// Confluent framing with an id that is not configured.
    #[error("schema id {0} is not known")]
    UnknownId(u32),
    /// Single-object encoding with a fingerprint that is not known.
    #[error("schema fingerprint {0:016x} is not known")]
    UnknownFingerprint(u64),
    /// The datum does not fit its schema.
    #[error("{0}")]
    Datum(String),
    /// The datum holds text that is not UTF-8.
    #[error("text that is not UTF-8")]
    Utf8,
    /// The writer's schema lacks a field that is needed.
    #[error("no field `{0}`")]
    MissingField(String),
    /// An enum's symbol that the reader does not know.
    #[error("a symbol that is not known")]
    UnknownSymbol,
    /// A field of another kind than the reader's.
    #[error("a field of the wrong kind")]
    WrongKind,
}

/// A schema text that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("not a usable Avro schema: {0}")]
pub struct SchemaError(String);

/// A writer's schema.
pub struct WriterSchema {
    schema: Schema,
    fingerprint: u64,
}

impl WriterSchema {
    /// Parses the JSON text of a schema.
    pub fn parse(json: &str) -> Result<Self, SchemaError> {
        let schema: Schema = json.parse().map_err(|e| SchemaError(format!("{e}")))?;
        let fingerprint = u64::from_le_bytes(*schema.rabin_fingerprint());
        Ok(Self { schema, fingerprint })
    }

    /// CRC-64-AVRO fingerprint of the canonical form.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The schema's own JSON.
    pub fn json(&self) -> &str {
        self.schema.json()
    }

    /// Encodes value after value without allocating anew.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { config: SerializerConfig::new(&self.schema) }
    }

    /// Appends `value` in single-object encoding.
    pub fn encode<T: Serialize>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), AvroError> {
        self.encoder().encode(value, out)
    }

    /// Appends `value` in the Confluent wire format under the id a registry gave this schema.
    pub fn encode_confluent<T: Serialize>(&self, id: u32, value: &T, out: &mut Vec<u8>) -> Result<(), AvroError> {
        out.push(CONFLUENT);
        out.extend_from_slice(&id.to_be_bytes());
        let mut config = SerializerConfig::new(&self.schema);
        serde_avro_fast::to_datum(value, &mut *out, &mut config).map_err(datum)?;
        Ok(())
    }
}

/// Encodes values of one schema, one after the other.
pub struct Encoder<'s> {
    config: SerializerConfig<'s>,
}

impl Encoder<'_> {
    /// Appends `value` in single-object encoding.
    pub fn encode<T: Serialize>(&mut self, value: &T, out: &mut Vec<u8>) -> Result<(), AvroError> {
        serde_avro_fast::to_single_object(value, &mut *out, &mut self.config).map_err(|e| AvroError::Datum(e.to_string()))?;
        Ok(())
    }
}

/// The writers' schemas a reader knows: by fingerprint, and by the id a registry gave them.
#[derive(Default)]
pub struct Schemas {
    by_fingerprint: HashMap<u64, WriterSchema, foldhash::fast::FixedState>,
    by_id: HashMap<u32, u64, foldhash::fast::FixedState>,
}

impl Schemas {
    /// Knows `json` by its fingerprint. Returns the fingerprint.
    pub fn add(&mut self, json: &str) -> Result<u64, SchemaError> {
        let schema = WriterSchema::parse(json)?;
        let fingerprint = schema.fingerprint;
        self.by_fingerprint.insert(fingerprint, schema);
        Ok(fingerprint)
    }

    /// Knows `json` by its fingerprint and by `id`.
    pub fn add_id(&mut self, id: u32, json: &str) -> Result<(), SchemaError> {
        let fingerprint = self.add(json)?;
        self.by_id.insert(id, fingerprint);
        Ok(())
    }

    /// Reads one value in either framing. It borrows from `bytes`.
    ///
    /// The datum is read by its writer's schema straight into `T`: fields `T` does not know are passed over, fields the
    /// writer did not know take `T`'s serde default. Bytes left over are an error: another schema wrote them.
    pub fn decode<'a, T: Deserialize<'a>>(&self, bytes: &'a [u8]) -> Result<T, AvroError> {
        let (schema, datum_bytes) = match *bytes {
            [0xC3, 0x01, a, b, c, d, e, f, g, h, ref rest @ ..] => {
                let fingerprint = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                (self.by_fingerprint.get(&fingerprint).ok_or(AvroError::UnknownFingerprint(fingerprint))?, rest)
            }
            [CONFLUENT, a, b, c, d, ref rest @ ..] => {
                let id = u32::from_be_bytes([a, b, c, d]);
                let fingerprint = self.by_id.get(&id).ok_or(AvroError::UnknownId(id))?;
                (self.by_fingerprint.get(fingerprint).ok_or(AvroError::UnknownId(id))?, rest)
            }
            _ => return Err(AvroError::Framing),
        };
        let mut config = DeserializerConfig::new(&schema.schema);
        // Entries that take no bytes could be claimed without end.
        config.max_seq_size = datum_bytes.len();
        let mut state = DeserializerState::with_config(SliceRead::new(datum_bytes), config);
        let value = T::deserialize(state.deserializer()).map_err(|e| unread(&e))?;
        match state.into_reader().fill_buf() {
            Ok([]) => Ok(value),
            _ => Err(AvroError::Datum("bytes left over after the datum".into())),
        }
    }

    /// The same for a `Failure`, faster where this version's own schema wrote it; that one is known even where it was not added.
    pub fn decode_failure<'a>(&self, bytes: &'a [u8]) -> Result<Failure<'a>, AvroError> {
        let plain = match *bytes {
            [0xC3, 0x01, a, b, c, d, e, f, g, h, ref rest @ ..] => {
                let fingerprint = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                if fingerprint == plain::FAILURE_FINGERPRINT { plain::failure(rest) } else { None }
            }
            _ => None,
        };
        plain.map_or_else(|| self.decode(bytes), Ok)
    }
}

/// Whether the bytes begin like one of the two Avro framings.
pub fn looks_like_avro(bytes: &[u8]) -> bool {
    matches!(bytes, [CONFLUENT, ..]) || bytes.starts_with(&SINGLE_OBJECT)
}

/// What went wrong, told apart by serde's wording, since that quotes the record in some of its messages.
fn unread(e: &DeError) -> AvroError {
    let text = e.to_string();
    if text.starts_with("String is not valid utf-8") {
        AvroError::Utf8
    } else if let Some(field) = text.strip_prefix("missing field `") {
        AvroError::MissingField(field.trim_end_matches('`').to_owned())
    } else if text.starts_with("unknown variant") {
        AvroError::UnknownSymbol
    } else if ["invalid ", "duplicate field", NO_INSTANT, NO_NUMBER].iter().any(|p| text.starts_with(p)) {
        AvroError::WrongKind
    } else {
        AvroError::Datum(text)
    }
}

fn datum(e: impl std::fmt::Display) -> AvroError {
    AvroError::Datum(e.to_string())
}
