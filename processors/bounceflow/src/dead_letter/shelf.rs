//! The topic of dead letters, read to its end: where each letter stands, what is known of it, and whether it is settled.
//!
//! Kept in memory are places and headers, never payloads; who needs those reads the topic again through [`Shelf::open`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use super::letter::{
    BY, MARK, MARK_LETTER, OTHERS, REASON, RESENT, SOURCE_ITEM, SOURCE_ITEMS, SOURCE_KEY, SOURCE_OFFSET, SOURCE_PARTITION,
    SOURCE_TIMESTAMP, SOURCE_TOPIC, each_header, identity, is_own, items_of,
};
use crate::config::Config;
use crate::kafka::{self, Reader};
use crate::progress::Progress;

/// How long the topic may take to hand out its next record.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a letter stands in the topic of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(p, o)| Some(Self { partition: p.parse().ok()?, offset: o.parse().ok()? }));
        parsed
            .filter(|p| p.partition >= 0 && p.offset >= 0)
            .ok_or_else(|| "write it as PARTITION:OFFSET, such as 0:4711".to_owned())
    }
}

/// The role that refused a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum By {
    /// Input that could not be read.
    Classify,
    /// bounceflow's own records that could not be stored.
    Sink,
}

impl By {
    /// As in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Sink => "sink",
        }
    }
}

/// Whether a letter is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It waits.
    Waiting,
    /// It was sent again.
    Resent,
    /// A person in it asked to be forgotten: nothing of it may be shown or sent.
    Erased,
}

/// What is known of a letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// When it was refused, by the broker's or the writer's clock.
    pub time: i64,
    /// The role that refused it.
    pub by: By,
    /// Number of the reason in the shelf's names.
    reason: u16,
    /// Number of the source topic in the shelf's names.
    topic: u16,
    /// Place of the record in its topic.
    pub source: Place,
    /// Which item of the record.
    pub item: i32,
    /// All it stands for, where it stands for some of several.
    several: Option<Box<[i32]>>,
    /// Kafka time of the record; -1: none.
    pub timestamp: i64,
    /// Items of the record that are counted.
    pub others: i32,
    /// How often the record had been sent again.
    pub resent: u32,
    /// Whether its key is its identity, so that a tombstone removes it from a compacted topic.
    pub removable: bool,
    /// Whether it waits.
    pub state: State,
}

impl Letter {
    /// The items it stands for.
    pub(super) fn items(&self) -> &[i32] {
        self.several.as_deref().unwrap_or(std::slice::from_ref(&self.item))
    }
}

/// The whole topic.
#[derive(Default)]
pub struct Shelf {
    names: Vec<String>,
    /// Every letter by its place.
    pub letters: BTreeMap<Place, Letter>,
    /// Records that are neither letters nor marks.
    pub foreign: u64,
}

impl Shelf {
    /// Reads the topic to its end. `look` is shown each letter, whatever its state.
    pub fn read(config: &Config, mut look: impl FnMut(Place, &BorrowedMessage<'_>)) -> anyhow::Result<Self> {
        let topic = &config.topics.dead_letter;
        kafka::partitions_in(&config.kafka, topic)?;
        let mut progress = Progress::new(format!("records of {topic} read"));
        let mut shelf = Self::default();
        Reader::open(&config.kafka, topic)?.to_end(PATIENCE, |record| {
            progress.step();
            let place = Place { partition: record.partition(), offset: record.offset() };
            let headers = Headers::of(record);
            if let Some((letter, state)) = headers.mark(place.partition) {
                if let Some(letter) = shelf.letters.get_mut(&letter) {
                    letter.state = letter.state.max(state);
                }
            } else if let Some(letter) = shelf.letter(record, &headers) {
                look(place, record);
                shelf.letters.insert(place, letter);
            } else {
                shelf.foreign += 1;
            }
        })?;
        Ok(shelf)
    }

    /// Hands on these letters with their records, in the topic's order within each partition, until `each` has enough. Returns how
    /// many were not there any more.
    pub fn open(
        config: &Config,
        places: &BTreeSet<Place>,
        mut each: impl FnMut(Place, &BorrowedMessage<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        let Some(first) = places.iter().map(|place| place.offset).min() else { return Ok(0) };
        let mut left = places.len();
        Reader::open_at(&config.kafka, &config.topics.dead_letter, first)?.until(PATIENCE, |record| {
            let place = Place { partition: record.partition(), offset: record.offset() };
            if places.contains(&place) {
                each(place, record)?;
                left -= 1;
            }
            Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(left)
    }

    /// Why it was refused.
    pub fn reason(&self, letter: &Letter) -> &str {
        &self.names[usize::from(letter.reason)]
    }

    /// The topic its record came from.
    pub fn topic(&self, letter: &Letter) -> &str {
        &self.names[usize::from(letter.topic)]
    }

    fn letter(&mut self, record: &BorrowedMessage<'_>, headers: &Headers) -> Option<Letter> {
        let source = Place { partition: headers.number(SOURCE_PARTITION)?, offset: headers.number(SOURCE_OFFSET)? };
        let (topic, reason) = (headers.text(SOURCE_TOPIC)?, headers.text(REASON)?);
        let (item, timestamp) = (headers.number(SOURCE_ITEM)?, headers.number(SOURCE_TIMESTAMP).unwrap_or(-1));
        let own = identity(topic, source.partition, source.offset, item, timestamp);
        Some(Letter {
            time: record.timestamp().to_millis().unwrap_or(0),
            by: if headers.text(BY) == Some(By::Sink.as_str()) { By::Sink } else { By::Classify },
            reason: self.name(reason)?,
            topic: self.name(topic)?,
            source,
            item,
            several: headers.text(SOURCE_ITEMS).map(|text| items_of(text).into()),
            timestamp,
            others: headers.number(OTHERS).unwrap_or(0),
            resent: headers.number(RESENT).unwrap_or(0),
            removable: record.key() == Some(own.as_bytes()),
            state: State::Waiting,
        })
    }

    /// The number of a name. Reasons and topics are few; beyond their numbers a record is none of ours.
    fn name(&mut self, name: &str) -> Option<u16> {
        let known = self.names.iter().position(|n| n == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        u16::try_from(known).ok()
    }
}

/// The headers of one record.
pub(super) struct Headers(Vec<(String, Option<Vec<u8>>)>);

impl Headers {
    pub(super) fn of(record: &BorrowedMessage<'_>) -> Self {
        let mut headers = Vec::new();
        each_header(record, |key, value| headers.push((key.to_owned(), value.map(<[u8]>::to_vec))));
        Self(headers)
    }

    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(key, _)| key == name)?.1.as_deref()
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    pub(super) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// The key of the record that was refused.
    pub(super) fn source_key<'a>(&'a self, letter: &Letter, record: &'a BorrowedMessage<'_>) -> Option<&'a [u8]> {
        if letter.removable { self.bytes(SOURCE_KEY) } else { record.key() }
    }

    /// Those the record came with.
    pub(super) fn own(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let own = self.0.iter().filter(|(name, _)| is_own(name));
        own.map(|(name, value)| (name.as_str(), value.as_deref().unwrap_or_default()))
    }

    fn mark(&self, partition: i32) -> Option<(Place, State)> {
        let state = match self.text(MARK)? {
            "resent" => State::Resent,
            "erased" => State::Erased,
            _ => return None,
        };
        Some((Place { partition, offset: self.number(MARK_LETTER)? }, state))
    }
}
