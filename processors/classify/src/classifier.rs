//! Reading, rules and a bounded cache of verdicts, for one thread. Owns the cache; decides nothing itself.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use bounceflow_event::EventType;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;

use crate::codes::EnhancedCode;
use crate::command::Command;
use crate::reading::Reading;
use crate::rules::Rules;
use crate::{Reply, Verdict};

/// Entries per generation: two of them live at once.
const GENERATION: usize = 4096;
/// Longer templates are rare and each its own: they would push out the frequent ones.
const LONGEST: usize = 512;

/// Classifies replies, one after the other. One per thread.
#[derive(Debug)]
pub struct Classifier {
    rules: Arc<Rules>,
    cache: Cache,
    reading: Reading,
    unkept: Option<Verdict>,
    lookups: Lookups,
}

/// How often the cache of verdicts was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// It knew the verdict.
    pub hits: u64,
    /// The rules were asked, also where a template is too long to be kept.
    pub misses: u64,
}

/// A reply, classified.
#[derive(Clone, Copy, Debug)]
pub struct Classified<'a> {
    /// What it means.
    pub verdict: &'a Verdict,
    /// The fingerprint of the template.
    pub fingerprint: u64,
    /// The masked text with its codes.
    pub template: &'a str,
    /// The reply as read.
    pub reading: &'a Reading,
}

impl Classifier {
    /// A classifier with an empty cache.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self { rules, cache: Cache::default(), reading: Reading::new(), unkept: None, lookups: Lookups::default() }
    }

    /// The rules it uses.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Takes other rules and forgets every verdict of the old ones.
    pub fn replace(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
        self.cache = Cache::default();
    }

    /// How often the cache was asked since this was last called.
    pub fn take_lookups(&mut self) -> Lookups {
        std::mem::take(&mut self.lookups)
    }

    /// Reads and classifies a reply.
    pub fn classify(&mut self, reply: &Reply<'_>) -> Classified<'_> {
        self.reading.read(reply);
        let reading = &self.reading;
        let mut decided = false;
        let mut decide = || {
            decided = true;
            self.rules.classify(reading).clone()
        };
        let verdict =
            if reading.template().len() <= LONGEST { self.cache.get_or(reading, decide) } else { self.unkept.insert(decide()) };
        let count = if decided { &mut self.lookups.misses } else { &mut self.lookups.hits };
        *count += 1;
        Classified { verdict, fingerprint: reading.fingerprint(), template: reading.template(), reading }
    }
}

/// Two generations: what is asked for moves to the young one; when that is full, it becomes the old one.
#[derive(Debug, Default)]
struct Cache {
    young: HashTable<Entry>,
    old: HashTable<Entry>,
    hasher: foldhash::fast::FixedState,
}

/// All a verdict depends on, and the verdict.
#[derive(Debug)]
struct Entry {
    hash: u64,
    template: Box<str>,
    provider: Box<str>,
    facts: Facts,
    verdict: Verdict,
}

/// What rules may ask for besides text and provider. The codes are in the template too, but for `x.0.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    event: Option<EventType>,
    reply: u16,
    enhanced: Option<EnhancedCode>,
    command: Command,
    greeting: bool,
    body: usize,
}

impl Cache {
    fn get_or(&mut self, reading: &Reading, decide: impl FnOnce() -> Verdict) -> &Verdict {
        let facts = Facts {
            event: reading.event(),
            reply: reading.reply_code(),
            enhanced: reading.enhanced_code(),
            command: reading.command(),
            greeting: reading.greeting(),
            body: reading.body().len(),
        };
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(reading.fingerprint());
        hasher.write(reading.provider().as_bytes());
        hasher.write_u64(facts.event.map_or(0, |e| e as u64 + 1) << 32 | (facts.command as u64) << 8 | u64::from(facts.greeting));
        let hash = hasher.finish();
        let same = |e: &Entry| {
            e.hash == hash && e.facts == facts && *e.template == *reading.template() && *e.provider == *reading.provider()
        };
        if self.young.len() >= GENERATION && self.young.find(hash, same).is_none() {
            self.old = std::mem::replace(&mut self.young, HashTable::with_capacity(GENERATION));
        }
        let Self { young, old, .. } = self;
        let entry = match young.entry(hash, same, |e| e.hash) {
            TableEntry::Occupied(entry) => entry,
            TableEntry::Vacant(place) => place.insert(match old.find_entry(hash, same) {
                Ok(kept) => kept.remove().0,
                Err(_) => Entry {
                    hash,
                    template: reading.template().into(),
                    provider: reading.provider().into(),
                    facts,
                    verdict: decide(),
                },
            }),
        };
        &entry.into_mut().verdict
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn what_the_cache_knew_is_counted() {
        let mut classifier = Classifier::new(Arc::new(Rules::builtin().unwrap()));
        let mut ask = |text: &str| drop(classifier.classify(&Reply { diagnostic: text, ..Reply::default() }).verdict.clone());
        ask("550 5.1.1 user unknown");
        ask("550 5.1.1 user unknown");
        ask("550 5.1.1 no such mailbox");
        let long = format!("550 {}", "far too long to be kept ".repeat(LONGEST));
        ask(&long);
        ask(&long);
        assert_eq!(classifier.take_lookups(), Lookups { hits: 1, misses: 4 });
        assert_eq!(classifier.take_lookups(), Lookups::default());
    }

    #[test]
    fn cached_and_fresh_verdicts_agree_and_the_cache_is_bounded() {
        let rules = Arc::new(Rules::builtin().unwrap());
        let mut cached = Classifier::new(Arc::clone(&rules));
        for i in 0..3 * GENERATION {
            let text =
                format!("550 5.{}.{} some text {} of its own", i % 8, i % 30, ["aa", "bb", "cc"][i % 3].repeat(i % 97 + 1));
            for event in [None, Some(EventType::Deferral), Some(EventType::Bounce)] {
                let reply = Reply { diagnostic: &text, event, command: ["", "RCPT TO:<a@b.c>", "."][i % 3], ..Reply::default() };
                let verdict = cached.classify(&reply).verdict.clone();
                let mut reading = Reading::new();
                reading.read(&reply);
                assert_eq!(&verdict, rules.classify(&reading));
            }
        }
        assert!(cached.cache.young.len() <= GENERATION && cached.cache.old.len() <= GENERATION);
    }
}
