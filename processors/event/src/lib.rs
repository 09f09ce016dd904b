//! What travels: delivery events in, failures, rate batches and alerts out, and their codecs.
//!
//! Pure: bytes to values and back. No clock, no I/O, no logging; a bad record is a value ([`formats::Item::Rejected`]), never
//! a panic.

pub mod vocabulary;
pub mod text;
pub mod delivery_event;
pub mod formats;
pub mod wire;
pub mod avro;
mod plain;

pub use delivery_event::DeliveryEvent;
pub use formats::{Decoder, Format, IgnoreReason, Item, RejectReason, Rejection};
pub use text::{Millis, Number, Tags, Text};
pub use vocabulary::{Action, Category, EventType, RootCause, Severity};
pub use wire::{
    Alert, AlertCategory, CategoryCount, Failure, IgnoredCount, PatternCount, RateBatch, RateRow, RecipientHash, Source,
};
