//! Whether one rule takes every reply another one takes. Sound, not complete: what it says is so; some that is so it does not see.

use crate::rule::{Phrase, Rule};

impl Rule {
    /// Whether it matches every reply that `other` matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let phrases = (self.any.is_empty() || other.any_of(&self.any))
            && self.all.iter().all(|p| other.any_of(std::slice::from_ref(p)))
            && self.none.iter().all(|p| other.none.iter().any(|q| p.implies(q)));
        phrases
            && subset(&self.reply, &other.reply, |a, b| a.covers(*b))
            && subset(&self.enhanced, &other.enhanced, |a, b| a.covers(*b))
            && subset(&self.command, &other.command, PartialEq::eq)
            && subset(&self.event, &other.event, PartialEq::eq)
            && subset(&self.providers, &other.providers, PartialEq::eq)
            && (self.greeting.is_none() || self.greeting == other.greeting)
            && self.regex.as_ref().is_none_or(|r| other.regex.as_ref().is_some_and(|o| r.as_str() == o.as_str()))
    }

    /// Whether it asks for a phrase that it excludes.
    pub(crate) fn contradicts_itself(&self) -> bool {
        self.none.iter().any(|p| self.any_of(std::slice::from_ref(p)))
    }

    /// Whether every text it matches holds one of the phrases.
    fn any_of(&self, phrases: &[Phrase]) -> bool {
        let holds = |p: &Phrase| phrases.iter().any(|q| p.implies(q));
        self.all.iter().any(holds) || (!self.any.is_empty() && self.any.iter().all(holds))
    }
}

impl Phrase {
    /// Whether every text that holds this phrase holds the other.
    fn implies(&self, other: &Self) -> bool {
        let text = self.text.as_bytes();
        let word = |i: usize| text.get(i).is_some_and(u8::is_ascii_alphanumeric);
        self.text.match_indices(&other.text).any(|(start, found)| {
            let end = start + found.len();
            // At an open edge of this phrase, anything may stand before or behind it.
            let left = start > 0 || self.open_left;
            let right = end < text.len() || self.open_right;
            (other.open_left || !left || !word(start) || (start > 0 && !word(start - 1)))
                && (other.open_right || !right || !word(end - 1) || (end < text.len() && !word(end)))
        })
    }
}

/// An empty list takes everything.
fn subset<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|n| wide.iter().any(|w| covers(w, n))))
}
