//! What a pattern says: category, rule and the latest sample, once per ISP and pattern.
//! Owns these details and their places; how often a pattern was seen is counted by the series.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use bounceflow_event::PatternCount;

#[derive(Debug)]
pub(crate) struct Patterns {
    places: HashMap<(u32, i64), u32, FixedState>,
    all: Vec<Details>,
    free: Vec<u32>,
    limit: usize,
}

#[derive(Debug)]
pub(crate) struct Details {
    /// The number of the ISP.
    pub(crate) isp: u32,
    pub(crate) pattern: i64,
    pub(crate) category: Box<str>,
    pub(crate) rule: Box<str>,
    pub(crate) sample: Box<str>,
    /// The newest tick it was counted at.
    last: u32,
}

impl Patterns {
    pub(crate) fn new(limit: usize) -> Self {
        Self { places: HashMap::default(), all: Vec::new(), free: Vec::new(), limit }
    }

    pub(crate) fn get(&self, place: u32) -> &Details {
        &self.all[place as usize]
    }

    /// Takes over the details of a pattern counted at `tick`, and says where they are; none: there is no room for another.
    pub(crate) fn see(&mut self, isp: u32, seen: &PatternCount<'_>, tick: u32) -> Option<u32> {
        let key = (isp, seen.pattern);
        if let Some(place) = self.places.get(&key) {
            let details = &mut self.all[*place as usize];
            details.last = details.last.max(tick);
            take_over(&mut details.category, seen.category);
            take_over(&mut details.rule, seen.rule);
            take_over(&mut details.sample, seen.sample);
            return Some(*place);
        }
        if self.places.len() >= self.limit {
            return None;
        }
        let details = Details {
            isp,
            pattern: seen.pattern,
            category: seen.category.into(),
            rule: seen.rule.into(),
            sample: seen.sample.into(),
            last: tick,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.all[place as usize] = details;
                place
            }
            None => {
                self.all.push(details);
                (self.all.len() - 1) as u32
            }
        };
        self.places.insert(key, place);
        Some(place)
    }

    /// Forgets every pattern last counted before `oldest`.
    pub(crate) fn forget_before(&mut self, oldest: u32) {
        let Self { places, all, free, .. } = self;
        places.retain(|_, place| {
            let details = &mut all[*place as usize];
            let kept = details.last >= oldest;
            if !kept {
                (details.category, details.rule, details.sample) = ("".into(), "".into(), "".into());
                free.push(*place);
            }
            kept
        });
    }

    pub(crate) fn bytes(&self) -> usize {
        let texts = |details: &Details| details.category.len() + details.rule.len() + details.sample.len();
        self.places.allocation_size()
            + self.all.capacity() * size_of::<Details>()
            + self.all.iter().map(texts).sum::<usize>()
            + self.free.capacity() * size_of::<u32>()
    }
}

fn take_over(kept: &mut Box<str>, seen: &str) {
    if **kept != *seen {
        *kept = seen.into();
    }
}
