//! What stands on a dead letter, on the mark that settles it, and on a record that was sent again. Owns these headers and what they mean.
//!
//! A dead letter's key is its own identity, so that a tombstone can take it out of a compacted topic; the key its record had is a header.
//! A mark is a later record of the same partition that names the letter by its offset: it can never expire before the letter does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};

/// Headers of a dead letter.
pub const SOURCE_TOPIC: &str = "bounceflow.source.topic";
pub(super) const SOURCE_PARTITION: &str = "bounceflow.source.partition";
pub(super) const SOURCE_OFFSET: &str = "bounceflow.source.offset";
pub(super) const SOURCE_ITEM: &str = "bounceflow.source.item";
pub(super) const SOURCE_ITEMS: &str = "bounceflow.source.items";
pub(super) const SOURCE_TIMESTAMP: &str = "bounceflow.source.timestamp";
pub(super) const SOURCE_KEY: &str = "bounceflow.source.key";
pub(super) const REASON: &str = "bounceflow.reason";
pub(super) const DETAIL: &str = "bounceflow.detail";
pub(super) const FORMAT: &str = "bounceflow.format";
pub(super) const OTHERS: &str = "bounceflow.others_counted";
pub(super) const BY: &str = "bounceflow.by";
/// How often the record had been sent again before it was refused this time; also stands on a record that is sent again.
pub(super) const RESENT: &str = "bounceflow.resent";

/// Headers of a record that is sent again, besides [`RESENT`].
pub(super) const RESENT_ITEMS: &str = "bounceflow.resent.items";
pub(super) const RESENT_OTHERS: &str = "bounceflow.resent.others_counted";
pub(super) const RESENT_TIMESTAMP: &str = "bounceflow.resent.timestamp";
pub(super) const RESENT_ORIGIN: &str = "bounceflow.resent.origin";
pub(super) const RESENT_WAS_READ: &str = "bounceflow.resent.was_read";

/// Headers of a mark.
pub(super) const MARK: &str = "bounceflow.mark";
pub(super) const MARK_LETTER: &str = "bounceflow.mark.letter";

/// The sink refuses by this reason what it could read and ClickHouse could not take.
pub const REFUSED_BY_CLICKHOUSE: &str = "refused_by_clickhouse";

/// Of all these; the record's own headers are kept beside them.
const OURS: [&str; 3] = ["bounceflow.source.", RESENT, MARK];
const OURS_EXACTLY: [&str; 5] = [REASON, DETAIL, FORMAT, OTHERS, BY];

/// The record's own headers, as they came. None where there are none, which costs one look.
pub type OwnHeaders = Vec<(String, Option<Vec<u8>>)>;

/// A refusal, about to become a dead letter.
pub struct Refusal<'a> {
    /// Topic of the record.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its Kafka time; -1: none.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Which item of it.
    pub item: i32,
    /// All items it stands for, in order, that one too; empty: for the one alone, or for the whole record.
    pub items: &'a [i32],
    /// Why.
    pub reason: &'a str,
    /// Why exactly.
    pub detail: &'a str,
    /// Format tried; empty: none.
    pub format: &'a str,
    /// Items of the record that are counted.
    pub others: i32,
    /// The role that refused it.
    pub by: &'a str,
    /// How often the record had been sent again; 0: it came from the source.
    pub resent: u32,
}

fn joined(items: &[i32]) -> String {
    items.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// The items a header names, in order. A number that cannot be read is -1, which no record has.
pub(super) fn items_of(text: &str) -> Vec<i32> {
    let mut items: Vec<i32> = text.split(',').map(|n| n.parse().unwrap_or(-1)).collect();
    items.sort_unstable();
    items
}

impl Refusal<'_> {
    /// The key of the dead letter: no other letter has it, also none of a topic that was made anew.
    pub fn identity(&self) -> String {
        identity(self.topic, self.partition, self.offset, self.item, self.timestamp)
    }

    /// The headers of the dead letter, with the record's own behind them.
    pub fn headers(&self, own: &OwnHeaders) -> OwnedHeaders {
        let numbers = [
            self.partition.to_string(),
            self.offset.to_string(),
            self.item.to_string(),
            self.timestamp.to_string(),
            self.others.to_string(),
        ];
        let [partition, offset, item, timestamp, others] = &numbers;
        let mut headers = OwnedHeaders::new_with_capacity(12 + own.len());
        for (key, value) in [
            (SOURCE_TOPIC, self.topic),
            (SOURCE_PARTITION, partition),
            (SOURCE_OFFSET, offset),
            (SOURCE_ITEM, item),
            (SOURCE_TIMESTAMP, timestamp),
            (REASON, self.reason),
            (DETAIL, self.detail),
            (OTHERS, others),
            (BY, self.by),
        ] {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        if !self.items.is_empty() {
            headers = headers.insert(Header { key: SOURCE_ITEMS, value: Some(&joined(self.items)) });
        }
        if !self.format.is_empty() {
            headers = headers.insert(Header { key: FORMAT, value: Some(self.format) });
        }
        if let Some(key) = self.key {
            headers = headers.insert(Header { key: SOURCE_KEY, value: Some(key) });
        }
        if self.resent > 0 {
            headers = headers.insert(Header { key: RESENT, value: Some(&self.resent.to_string()) });
        }
        with_own(headers, own)
    }
}

pub(super) fn identity(topic: &str, partition: i32, offset: i64, item: i32, timestamp: i64) -> String {
    format!("{topic}/{partition}/{offset}/{item}@{timestamp}")
}

pub(super) fn with_own(headers: OwnedHeaders, own: &OwnHeaders) -> OwnedHeaders {
    own.iter().fold(headers, |headers, (key, value)| headers.insert(Header { key, value: value.as_ref() }))
}

/// The headers of a record that are not bounceflow's, to be kept with it.
pub fn own_headers(message: &BorrowedMessage<'_>) -> OwnHeaders {
    let mut own = OwnHeaders::new();
    each_header(message, |key, value| {
        if is_own(key) {
            own.push((key.to_owned(), value.map(<[u8]>::to_vec)));
        }
    });
    own
}

/// Whether a header is the record's own, not one of a dead letter or of a mark.
pub(super) fn is_own(key: &str) -> bool {
    !(OURS_EXACTLY.contains(&key) || OURS.iter().any(|ours| key.starts_with(ours)))
}

/// Hands on every header. The client library panics over a name that is not UTF-8; no header behind such a one is ours.
pub(crate) fn each_header(message: &BorrowedMessage<'_>, mut each: impl FnMut(&str, Option<&[u8]>)) {
    let Some(headers) = message.headers() else { return };
    let read = catch_unwind(AssertUnwindSafe(|| headers.iter().for_each(|header| each(header.key, header.value))));
    if read.is_err() {
        tracing::warn!(
            topic = message.topic(),
            offset = message.offset(),
            "A header whose name is no text; the rest are left out"
        );
    }
}

/// The value of the first header of this name.
pub(crate) fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<Vec<u8>> {
    let mut found = None;
    each_header(message, |key, value| {
        if key == name && found.is_none() {
            found = Some(value.unwrap_or_default().to_vec());
        }
    });
    found
}

/// What a record that is sent again says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// How often it was sent again by now.
    pub times: u32,
    /// The items to be counted, in order; none: all. A number that cannot be read is -1: no record has that item, so it is refused, not lost.
    pub items: Option<Vec<i32>>,
    /// Items of the record that are counted already.
    pub others: i32,
    /// The Kafka time of the record when it first came.
    pub timestamp: Option<i64>,
    /// The first record of this content, `partition/offset` of the same topic.
    pub origin: String,
    /// Readers of the topic could read it the first time; only ClickHouse could not take it.
    pub was_read: bool,
}

impl Resent {
    /// None: the record is not one that was sent again.
    pub fn of(message: &BorrowedMessage<'_>) -> Option<Self> {
        // Almost no record has headers: this is all that most of them cost.
        message.headers()?;
        let (mut resent, mut found) = (Self::default(), false);
        each_header(message, |key, value| {
            if !key.starts_with(RESENT) {
                return;
            }
            let text = std::str::from_utf8(value.unwrap_or_default()).unwrap_or_default();
            match key {
                RESENT => (resent.times, found) = (text.parse().unwrap_or(1), true),
                RESENT_ITEMS => resent.items = Some(items_of(text)),
                RESENT_OTHERS => resent.others = text.parse().unwrap_or(0),
                RESENT_TIMESTAMP => resent.timestamp = text.parse().ok(),
                RESENT_ORIGIN => text.clone_into(&mut resent.origin),
                RESENT_WAS_READ => resent.was_read = text == "true",
                _ => {}
            }
        });
        found.then_some(resent)
    }

    /// Whether this item is to be counted.
    pub fn wants(&self, item: i32) -> bool {
        self.items.as_ref().is_none_or(|items| items.binary_search(&item).is_ok())
    }

    /// Items to be counted that a record of so many items does not have.
    pub fn missing(&self, items: i32) -> impl Iterator<Item = i32> {
        self.items.iter().flatten().copied().filter(move |item| !(0..items).contains(item))
    }

    /// The headers that say so.
    pub(super) fn headers(&self) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new().insert(Header { key: RESENT, value: Some(&self.times.to_string()) });
        headers = headers.insert(Header { key: RESENT_ORIGIN, value: Some(&self.origin) });
        if let Some(items) = &self.items {
            headers = headers.insert(Header { key: RESENT_ITEMS, value: Some(&joined(items)) });
            headers = headers.insert(Header { key: RESENT_OTHERS, value: Some(&self.others.to_string()) });
        }
        if let Some(timestamp) = self.timestamp {
            headers = headers.insert(Header { key: RESENT_TIMESTAMP, value: Some(&timestamp.to_string()) });
        }
        if self.was_read {
            headers = headers.insert(Header { key: RESENT_WAS_READ, value: Some("true") });
        }
        headers
    }
}
