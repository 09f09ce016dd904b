//! Strings by number: ISPs, identities and categories, each kept once.
//! Owns the numbers; a name is forgotten when the last bucket it was seen in has left every window.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// The number of the empty string, which is never forgotten.
pub(crate) const EMPTY: u32 = 0;

#[derive(Debug)]
pub(crate) struct Names {
    hasher: FixedState,
    by_text: HashTable<u32>,
    all: Vec<Name>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Name {
    text: Box<str>,
    /// The newest tick it was seen at.
    last: u32,
}

impl Names {
    pub(crate) fn new() -> Self {
        let mut names = Self { hasher: FixedState::default(), by_text: HashTable::new(), all: Vec::new(), free: Vec::new() };
        names.add("", u32::MAX);
        names
    }

    pub(crate) fn len(&self) -> usize {
        self.by_text.len()
    }

    pub(crate) fn get(&self, id: u32) -> &str {
        &self.all[id as usize].text
    }

    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        self.by_text.find(self.hasher.hash_one(text), |id| self.get(*id) == text).copied()
    }

    /// The number of a name seen at `tick`; a new name gets one only where there is `room`.
    pub(crate) fn see(&mut self, text: &str, tick: u32, room: bool) -> Option<u32> {
        match self.find(text) {
            Some(id) => {
                self.keep(id, tick);
                Some(id)
            }
            None => room.then(|| self.add(text, tick)),
        }
    }

    /// A name was seen at `tick`.
    pub(crate) fn keep(&mut self, id: u32, tick: u32) {
        let name = &mut self.all[id as usize];
        name.last = name.last.max(tick);
    }

    /// Forgets every name last seen before `oldest`.
    pub(crate) fn forget_before(&mut self, oldest: u32) {
        let Self { by_text, all, free, .. } = self;
        by_text.retain(|id| {
            let name = &mut all[*id as usize];
            let kept = name.last >= oldest;
            if !kept {
                name.text = "".into();
                free.push(*id);
            }
            kept
        });
    }

    pub(crate) fn bytes(&self) -> usize {
        self.by_text.allocation_size()
            + self.all.capacity() * size_of::<Name>()
            + self.all.iter().map(|name| name.text.len()).sum::<usize>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn add(&mut self, text: &str, last: u32) -> u32 {
        let name = Name { text: text.into(), last };
        let id = match self.free.pop() {
            Some(id) => {
                self.all[id as usize] = name;
                id
            }
            None => {
                self.all.push(name);
                (self.all.len() - 1) as u32
            }
        };
        let Self { hasher, by_text, all, .. } = self;
        by_text.insert_unique(hasher.hash_one(text), id, |id| hasher.hash_one(&*all[*id as usize].text));
        id
    }
}
