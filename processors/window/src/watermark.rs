//! How far event time has come, from what batches say of their sources. Owns the sources and their states; all times are ms.
//!
//! Log times stand for the clock: whoever reads the same log comes to the same watermark at the same record.

use std::collections::VecDeque;

use bounceflow_event::{RateBatch, Source};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// A source not listed for so much log time is forgotten, seconds; so is an event time no listing has named for as long.
/// Whoever begins to read so far back comes to know what one who never stopped still knows.
pub(crate) const FORGET_SECONDS: u32 = 24 * 3600;

/// The sources and the watermark they make.
#[derive(Debug)]
pub(crate) struct Sources {
    limits: Limits,
    /// In ascending order of topic and partition.
    all: Vec<Followed>,
    watermark: Option<i64>,
    /// Sources of transactions whose last part did not come yet, by producer.
    unfinished: HashMap<Box<str>, Unfinished, FixedState>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) lateness: i64,
    pub(crate) idle: i64,
    pub(crate) hold: i64,
}

/// One input partition of `classify`, as last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceStatus<'a> {
    /// Topic it reads.
    pub topic: &'a str,
    /// Partition of the topic.
    pub partition: i32,
    /// Largest event time its listings of the last 24 hours of log time name, ms.
    pub max_event_time: Option<i64>,
    /// Log time of its last listing, ms.
    pub listed: i64,
    /// What it means to the watermark.
    pub state: SourceState,
}

/// What a source means to the watermark. Times are log times, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Its event time counts.
    Current,
    /// It has nothing more to read, so the log's time counts for it.
    Idle,
    /// Far behind the others: it holds the watermark.
    Behind {
        /// When it became so.
        since: i64,
    },
    /// Behind for too long: the watermark goes on without it.
    LeftOut {
        /// When it became behind.
        since: i64,
    },
}

#[derive(Debug)]
struct Followed {
    topic: Box<str>,
    partition: i32,
    /// Event times named, each with the log time of its listing: the largest, then the largest of those after it, and so on.
    /// Mostly one: a source goes on.
    named: VecDeque<(i64, i64)>,
    listed: i64,
    end_reached: bool,
    state: SourceState,
}

#[derive(Debug)]
struct Unfinished {
    begun: i64,
    sources: Vec<(Box<str>, Listing)>,
}

#[derive(Clone, Copy, Debug)]
struct Listing {
    partition: i32,
    max_event_time: Option<i64>,
    end_reached: bool,
}

impl Sources {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, all: Vec::new(), watermark: None, unfinished: HashMap::default() }
    }

    /// Takes over what a batch says; false while parts of its transaction are to come: rows not yet read must not be passed.
    pub(crate) fn hear(&mut self, batch: &RateBatch<'_>, log_time: i64) -> bool {
        if batch.part + 1 < batch.parts {
            if batch.part == 0 {
                let sources = batch.sources.iter().map(|source| (source.topic.into(), Listing::from(source))).collect();
                self.unfinished.insert(batch.producer.into(), Unfinished { begun: log_time, sources });
            }
            return false;
        }
        if batch.part > 0
            && let Some(begun) = self.unfinished.remove(batch.producer)
        {
            begun.sources.iter().for_each(|(topic, listing)| self.list(topic, *listing, log_time));
        }
        batch.sources.iter().for_each(|source| self.list(source.topic, Listing::from(source), log_time));
        self.advance(log_time);
        true
    }

    pub(crate) fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// In ascending order of topic and partition.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SourceStatus<'_>> {
        self.all.iter().map(|source| SourceStatus {
            topic: &source.topic,
            partition: source.partition,
            max_event_time: source.max_event_time(),
            listed: source.listed,
            state: source.state,
        })
    }

    /// Those left out, in ascending order of topic and partition.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = SourceStatus<'_>> {
        self.iter().filter(|source| matches!(source.state, SourceState::LeftOut { .. }))
    }

    fn list(&mut self, topic: &str, listing: Listing, log_time: i64) {
        let Listing { partition, max_event_time, end_reached } = listing;
        // Nothing happened after the log heard of it: a fast clock takes neither the watermark along nor the lead, which would make
        // everybody with a right one look late.
        let max_event_time = max_event_time.map(|time| time.min(log_time));
        let place = match self.all.binary_search_by(|known| (&*known.topic, known.partition).cmp(&(topic, partition))) {
            Ok(place) => place,
            Err(place) => {
                let (named, state) = (VecDeque::new(), SourceState::Current);
                let source = Followed { topic: topic.into(), partition, named, listed: log_time, end_reached, state };
                self.all.insert(place, source);
                place
            }
        };
        let known = &mut self.all[place];
        (known.listed, known.end_reached) = (log_time, end_reached);
        if let Some(time) = max_event_time {
            while known.named.pop_back_if(|(smaller, _)| *smaller <= time).is_some() {}
            known.named.push_back((time, log_time));
        }
    }

    fn advance(&mut self, log_time: i64) {
        let limits = self.limits;
        let forgotten = |since: i64| log_time - since > i64::from(FORGET_SECONDS) * 1000;
        self.all.retain(|source| !forgotten(source.listed));
        for source in &mut self.all {
            while source.named.pop_front_if(|(_, listed)| forgotten(*listed)).is_some() {}
        }
        self.unfinished.retain(|_, begun| !forgotten(begun.begun));
        let Some(lead) = self.all.iter().filter_map(|source| source.time(limits.idle)).max() else {
            // Nobody is ahead of anybody. Whoever begins to read here knows no more than that.
            self.all.iter_mut().for_each(|source| source.state = SourceState::Current);
            return;
        };
        for source in &mut self.all {
            source.state = source.next(lead, limits, log_time);
        }
        let counting = self.all.iter().filter(|source| !matches!(source.state, SourceState::LeftOut { .. }));
        // A source of unknown time holds everything, as one behind does: `None` is the smallest.
        let slowest = counting.map(|source| source.time(limits.idle)).min().flatten();
        self.watermark = self.watermark.max(slowest.map(|time| time - limits.lateness));
    }
}

impl Followed {
    fn max_event_time(&self) -> Option<i64> {
        self.named.front().map(|(time, _)| *time)
    }

    /// How far it has come; none: it covered nothing yet.
    fn time(&self, idle: i64) -> Option<i64> {
        let at_end = self.end_reached.then_some(self.listed - idle);
        self.max_event_time().max(at_end)
    }

    fn next(&self, lead: i64, limits: Limits, log_time: i64) -> SourceState {
        let time = self.time(limits.idle);
        if time.is_some_and(|time| time >= lead - limits.lateness - limits.idle) {
            return if time > self.max_event_time() { SourceState::Idle } else { SourceState::Current };
        }
        let since = match self.state {
            SourceState::Behind { since } | SourceState::LeftOut { since } => since,
            SourceState::Current | SourceState::Idle => log_time,
        };
        let left_out = matches!(self.state, SourceState::LeftOut { .. }) || log_time - since > limits.hold;
        if left_out { SourceState::LeftOut { since } } else { SourceState::Behind { since } }
    }
}

impl From<&Source<'_>> for Listing {
    fn from(source: &Source<'_>) -> Self {
        Self { partition: source.partition, max_event_time: source.max_event_time, end_reached: source.end_reached }
    }
}
