//! The counts of one transaction, and the `RateBatch` records they leave as.
//!
//! Pure. Bounded by the records of a transaction; campaigns and patterns are capped apart.

use std::hash::BuildHasher;

use bounceflow_classify::is_unmatched;
use bounceflow_enrich::{IspId, Isps};
use bounceflow_event::{
    CategoryCount, EventType, Failure, IgnoreReason, IgnoredCount, PatternCount, RateBatch, RateRow, Severity, Source,
};
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};

use crate::process::Sample;

/// Width of a bucket of event time. Seconds.
pub const BUCKET_SECONDS: i64 = 10;

/// A `RateBatch` record is split near this size. Bytes.
const SPLIT_BYTES: usize = 512 * 1024;
/// Distinct patterns followed within one transaction; when there are more, those that come later are not listed.
const MAX_PATTERNS_FOLLOWED: usize = 4096;
/// Strings kept from one transaction to the next, so that a steady stream allocates none.
const MAX_STRINGS_KEPT: usize = 50_000;
/// The same in bytes: a campaign may be as long as a record.
const MAX_STRING_BYTES_KEPT: usize = 8 << 20;

/// The campaign under which those beyond the cap are counted.
pub const OTHER_CAMPAIGN: &str = "other";

/// The counts of one transaction.
pub struct Counts {
    limits: Limits,
    strings: Strings,
    senders: Senders,
    /// Where in `rows` a key is counted: small entries keep the table in the cache.
    places: HashMap<Key, u32, FixedState>,
    rows: Vec<Row>,
    /// By number of the string: whether it is a campaign counted apart.
    campaigns: Vec<bool>,
    campaigns_apart: usize,
    patterns: HashMap<(u64, IspId, u32), Pattern, FixedState>,
    ignored: Vec<(IgnoreReason, i64)>,
    /// Failures but complaints, by category and severity. Few, so the list is searched faster than a map.
    failures: Vec<(u32, Option<Severity>, u64)>,
    unmatched: u64,
}

/// What is capped.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Distinct campaigns counted apart.
    pub campaigns: usize,
    /// Patterns listed.
    pub patterns: usize,
}

/// What stands on every `RateBatch`.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// transactional.id of the thread.
    pub producer: &'a str,
    /// Version of the rules.
    pub rules_version: &'a str,
    /// Version of the masking.
    pub pattern_version: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    bucket: i64,
    isp: IspId,
    sender: u32,
}

/// 64 bytes: counting touches one line of the cache. 32 bits are enough for one transaction.
#[derive(Default)]
struct Row {
    deliveries: u32,
    first_attempts: u32,
    hard: u32,
    soft: u32,
    deferred: u32,
    blocked: u32,
    blocked_deferrals: u32,
    complaints: u32,
    late_bounces: u32,
    drops: u32,
    /// Category, bounces, deferrals, late bounces. Few, so a list is searched faster than a map.
    categories: Vec<(u32, [u32; 3])>,
}

struct Pattern {
    count: i64,
    category: u32,
    rule: u32,
    sample: String,
}

impl Counts {
    /// Nothing counted yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            strings: Strings::default(),
            senders: Senders::default(),
            places: HashMap::default(),
            rows: Vec::new(),
            campaigns: Vec::new(),
            campaigns_apart: 0,
            patterns: HashMap::default(),
            ignored: Vec::new(),
            failures: Vec::new(),
            unmatched: 0,
        }
    }

    /// Counts an item, with the failure it left.
    pub fn add(&mut self, sample: &Sample<'_>, failure: Option<&Failure<'_>>) {
        let number = self.sender(sample);
        let key = Key { bucket: sample.time.div_euclid(1000 * BUCKET_SECONDS) * BUCKET_SECONDS, isp: sample.isp, sender: number };
        let next = self.rows.len() as u32;
        let place = *self.places.entry(key).or_insert(next);
        if place == next {
            self.rows.push(Row::default());
        }
        let row = &mut self.rows[place as usize];
        row.first_attempts += u32::from(sample.first_attempt);
        let kind = match (sample.event, sample.severity) {
            (EventType::Delivery, _) => return row.deliveries += 1,
            (EventType::Drop, _) => return row.drops += 1,
            (EventType::Complaint, _) => return row.complaints += 1,
            (EventType::Deferral, _) => {
                row.deferred += 1;
                row.blocked_deferrals += u32::from(sample.blocked);
                1
            }
            (EventType::OobBounce, _) => {
                row.late_bounces += 1;
                2
            }
            (EventType::Bounce, severity) => {
                if severity == Some(Severity::Hard) {
                    row.hard += 1;
                } else {
                    row.soft += 1;
                }
                row.blocked += u32::from(sample.blocked);
                0
            }
        };
        let Some(failure) = failure else { return };
        let category = self.strings.id(failure.category);
        match row.categories.iter_mut().find(|(c, _)| *c == category) {
            Some((_, counts)) => counts[kind] += 1,
            None => {
                let mut counts = [0; 3];
                counts[kind] = 1;
                row.categories.push((category, counts));
            }
        }
        match self.failures.iter_mut().find(|(c, severity, _)| (*c, *severity) == (category, sample.severity)) {
            Some((.., count)) => *count += 1,
            None => self.failures.push((category, sample.severity, 1)),
        }
        self.unmatched += u64::from(is_unmatched(failure.category, failure.rule));
        self.follow(failure, sample.isp, self.senders.all[number as usize].identity, category);
    }

    /// Counts an item that says nothing about a delivery.
    pub fn ignore(&mut self, reason: IgnoreReason) {
        match self.ignored.iter_mut().find(|(r, _)| *r == reason) {
            Some((_, count)) => *count += 1,
            None => self.ignored.push((reason, 1)),
        }
    }

    /// Items counted so far, by what happened.
    pub fn events(&self) -> [(EventType, u64); 6] {
        EventType::ALL.map(|event| {
            let of = |row: &Row| match event {
                EventType::Delivery => row.deliveries,
                EventType::Deferral => row.deferred,
                EventType::Bounce => row.hard + row.soft,
                EventType::OobBounce => row.late_bounces,
                EventType::Complaint => row.complaints,
                EventType::Drop => row.drops,
            };
            (event, self.rows.iter().map(|row| u64::from(of(row))).sum())
        })
    }

    /// Failures counted so far, by category and severity; complaints, which have no severity, are not among them.
    pub fn failures(&self) -> impl Iterator<Item = (&str, Option<Severity>, u64)> {
        self.failures.iter().map(|(category, severity, count)| (self.strings.get(*category), *severity, *count))
    }

    /// Failures counted so far whose words no rule knew.
    pub fn unmatched(&self) -> u64 {
        self.unmatched
    }

    /// Items ignored so far, by reason.
    pub fn ignored(&self) -> impl Iterator<Item = (IgnoreReason, u64)> {
        self.ignored.iter().map(|(reason, count)| (*reason, *count as u64))
    }

    /// Hands out the counts as one or more batches, the sources in the first, and begins anew.
    pub fn drain(&mut self, header: Header<'_>, isps: &Isps, sources: Vec<Source<'_>>, mut each: impl FnMut(&RateBatch<'_>)) {
        self.ignored.sort_unstable();
        let mut batches = vec![RateBatch { sources, ..empty(header) }];
        let mut bytes = batches[0].sources.len() * 64;
        let mut keys: Vec<(&Key, &u32)> = self.places.iter().collect();
        // A total order, so that the same records give the same bytes.
        keys.sort_unstable_by_key(|(k, _)| {
            let sender = &self.senders.all[k.sender as usize];
            let text = |id| self.strings.get(id);
            (k.bucket, isps.id(k.isp), text(sender.identity), text(sender.sending_ip), text(sender.campaign))
        });
        for (key, place) in keys {
            let sender = &self.senders.all[key.sender as usize];
            let row = wire_row(key, sender, &self.rows[*place as usize], &self.strings, isps);
            let size =
                40 + row.isp.len() + row.identity.len() + row.sending_ip.len() + row.campaign.len() + 30 * row.categories.len();
            if bytes + size > SPLIT_BYTES {
                batches.push(empty(header));
                bytes = 0;
            }
            bytes += size;
            if let Some(batch) = batches.last_mut() {
                batch.rows.push(row);
            }
        }
        for pattern in self.top_patterns(isps) {
            let size = 60 + pattern.identity.len() + pattern.sample.len();
            if bytes + size > SPLIT_BYTES {
                batches.push(empty(header));
                bytes = 0;
            }
            bytes += size;
            if let Some(batch) = batches.last_mut() {
                batch.patterns.push(pattern);
            }
        }
        batches[0].ignored = self.ignored.iter().map(|(r, count)| IgnoredCount { reason: r.as_str(), count: *count }).collect();
        let parts = batches.len() as i32;
        for (part, batch) in batches.iter_mut().enumerate() {
            batch.part = part as i32;
            batch.parts = parts;
            each(batch);
        }
        drop(batches);
        self.clear();
    }

    /// Forgets what was counted: its transaction was aborted.
    pub fn clear(&mut self) {
        self.senders.clear();
        self.places.clear();
        self.rows.clear();
        self.campaigns.clear();
        self.campaigns_apart = 0;
        self.patterns.clear();
        self.ignored.clear();
        self.failures.clear();
        self.unmatched = 0;
        self.strings.shrink();
    }

    /// The number of who sent it.
    fn sender(&mut self, sample: &Sample<'_>) -> u32 {
        let Self { senders, strings, .. } = self;
        let said = [&*sample.identity, sample.sending_ip, sample.campaign];
        let hash = strings.hasher.hash_one(said);
        let same = |s: &Said| s.hash == hash && std::iter::zip(s.texts, said).all(|(id, text)| strings.get(id) == text);
        if let Some(known) = senders.said.find(hash, same) {
            return known.number;
        }
        let texts = said.map(|text| self.strings.id(text));
        let sender = Sender { identity: texts[0], sending_ip: texts[1], campaign: self.campaign(texts[2]) };
        self.senders.add(Said { hash, texts, number: 0 }, sender)
    }

    fn campaign(&mut self, id: u32) -> u32 {
        let number = id as usize;
        let name = self.strings.get(id);
        if name.is_empty() || self.campaigns.get(number).is_some_and(|apart| *apart) {
            return id;
        }
        if self.campaigns_apart < self.limits.campaigns {
            self.campaigns_apart += 1;
            if self.campaigns.len() <= number {
                self.campaigns.resize(number + 1, false);
            }
            self.campaigns[number] = true;
            return id;
        }
        self.strings.id(OTHER_CAMPAIGN)
    }

    fn follow(&mut self, failure: &Failure<'_>, isp: IspId, identity: u32, category: u32) {
        if failure.pattern == 0 {
            return;
        }
        let key = (failure.pattern as u64, isp, identity);
        let room = self.patterns.len() < MAX_PATTERNS_FOLLOWED;
        match self.patterns.get_mut(&key) {
            Some(pattern) => pattern.count += 1,
            None if room => {
                let rule = self.strings.id(failure.rule);
                let sample = failure.diagnostic.to_owned();
                self.patterns.insert(key, Pattern { count: 1, category, rule, sample });
            }
            None => {}
        }
    }

    fn top_patterns<'a>(&'a self, isps: &'a Isps) -> Vec<PatternCount<'a>> {
        let mut all: Vec<PatternCount<'a>> = self
            .patterns
            .iter()
            .map(|((fingerprint, isp, identity), pattern)| PatternCount {
                pattern: *fingerprint as i64,
                isp: isps.id(*isp),
                identity: self.strings.get(*identity),
                category: self.strings.get(pattern.category),
                rule: self.strings.get(pattern.rule),
                count: pattern.count,
                sample: &pattern.sample,
            })
            .collect();
        all.sort_unstable_by(|a, b| {
            b.count.cmp(&a.count).then_with(|| (a.pattern, a.isp, a.identity).cmp(&(b.pattern, b.isp, b.identity)))
        });
        all.truncate(self.limits.patterns);
        all
    }
}

fn empty(header: Header<'_>) -> RateBatch<'_> {
    RateBatch {
        producer: header.producer,
        rules_version: header.rules_version,
        pattern_version: header.pattern_version,
        ..RateBatch::default()
    }
}

fn wire_row<'a>(key: &Key, sender: &Sender, row: &Row, strings: &'a Strings, isps: &'a Isps) -> RateRow<'a> {
    let mut categories: Vec<CategoryCount<'a>> = row
        .categories
        .iter()
        .map(|(category, [bounces, deferrals, late_bounces])| CategoryCount {
            category: strings.get(*category),
            bounces: i64::from(*bounces),
            deferrals: i64::from(*deferrals),
            late_bounces: i64::from(*late_bounces),
        })
        .collect();
    categories.sort_unstable_by_key(|c| c.category);
    RateRow {
        bucket: key.bucket,
        isp: isps.id(key.isp),
        identity: strings.get(sender.identity),
        sending_ip: strings.get(sender.sending_ip),
        campaign: strings.get(sender.campaign),
        deliveries: i64::from(row.deliveries),
        first_attempts: i64::from(row.first_attempts),
        hard: i64::from(row.hard),
        soft: i64::from(row.soft),
        deferred: i64::from(row.deferred),
        blocked: i64::from(row.blocked),
        blocked_deferrals: i64::from(row.blocked_deferrals),
        complaints: i64::from(row.complaints),
        late_bounces: i64::from(row.late_bounces),
        drops: i64::from(row.drops),
        categories,
    }
}

/// Who sent, by number, within one transaction. The three texts mostly come together, so one look finds them.
#[derive(Default)]
struct Senders {
    said: HashTable<Said>,
    numbers: HashMap<Sender, u32, FixedState>,
    all: Vec<Sender>,
}

/// A sender as events name it.
struct Said {
    hash: u64,
    /// Identity, sending IP, campaign.
    texts: [u32; 3],
    number: u32,
}

/// A sender as it is counted: campaigns beyond the cap are one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Sender {
    identity: u32,
    sending_ip: u32,
    campaign: u32,
}

impl Senders {
    fn add(&mut self, said: Said, sender: Sender) -> u32 {
        let next = self.all.len() as u32;
        let number = *self.numbers.entry(sender).or_insert(next);
        if number == next {
            self.all.push(sender);
        }
        self.said.insert_unique(said.hash, Said { number, ..said }, |s| s.hash);
        number
    }

    fn clear(&mut self) {
        self.said.clear();
        self.numbers.clear();
        self.all.clear();
    }
}

/// Strings by number. Numbers hold until [`shrink`](Self::shrink).
#[derive(Default)]
struct Strings {
    hasher: FixedState,
    by_text: HashTable<u32>,
    texts: Vec<Box<str>>,
    bytes: usize,
}

impl Strings {
    fn id(&mut self, text: &str) -> u32 {
        let Self { hasher, by_text, texts, bytes } = self;
        let hash = hasher.hash_one(text);
        if let Some(id) = by_text.find(hash, |id| &*texts[*id as usize] == text) {
            return *id;
        }
        let id = texts.len() as u32;
        *bytes += text.len();
        texts.push(text.into());
        by_text.insert_unique(hash, id, |id| hasher.hash_one(&*texts[*id as usize]));
        id
    }

    fn get(&self, id: u32) -> &str {
        &self.texts[id as usize]
    }

    /// Only between transactions: numbers are given out anew.
    fn shrink(&mut self) {
        if self.texts.len() > MAX_STRINGS_KEPT || self.bytes > MAX_STRING_BYTES_KEPT {
            self.by_text.clear();
            self.texts = Vec::new();
            self.bytes = 0;
        }
    }
}
