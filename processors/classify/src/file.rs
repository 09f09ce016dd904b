//! A file of rules, read: every mistake the parser can tell, each with its line. Owns the file's sections; what a rule may say is
//! `rule`'s, which rule wins is `rules`'s.

use std::ops::Range;
use std::sync::Arc;

use bounceflow_event::Category;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::rule::{Defaults, RawRule, Rule, RulesError};

/// The rules of a file that are sound; what is wrong with the others is added to `mistakes`.
pub(crate) fn read(name: &str, text: &str, mistakes: &mut Vec<RulesError>) -> Vec<Rule> {
    let file: Arc<str> = name.into();
    let mut found = Found { name, text, mistakes };
    let (document, errors) = DeTable::parse_recoverable(text);
    // Beyond a line that is no TOML, what seems wrong may only be its consequence.
    let mut last = 0;
    for error in errors {
        let line = found.line(error.span().map_or(0, |s| s.start));
        if std::mem::replace(&mut last, line) != line {
            found.add_at_line(line, error.message().to_owned());
        }
    }
    if last != 0 {
        return Vec::new();
    }
    let (mut defaults, mut items) = (Defaults::default(), Vec::new());
    for (key, value) in document.into_inner() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("defaults", DeValue::Table(_)) => defaults = found.deserialize(value, "defaults: ").unwrap_or_default(),
            ("rule", DeValue::Array(_)) => {
                if let DeValue::Array(array) = value.into_inner() {
                    items.extend(array);
                }
            }
            ("defaults", _) => found.add(&key.span(), "`defaults` is a section: [defaults]".into()),
            ("rule", _) => found.add(&key.span(), "every rule is a section of its own: [[rule]], with two brackets".into()),
            (other, _) => found.add(&key.span(), format!("unknown field `{other}`, expected [defaults] or [[rule]]")),
        }
    }
    let mut rules: Vec<Rule> = Vec::with_capacity(items.len());
    for item in items {
        let label = label(item.get_ref());
        let Some(raw) = found.deserialize::<RawRule>(item, &label) else { continue };
        let line = found.line(raw.id.span().start);
        match Rule::compile(raw, &defaults, &file, line) {
            Ok(rule) => {
                if let Some(earlier) = rules.iter().find(|r| r.id() == rule.id()) {
                    let reason = format!("rule {:?} is in this file already, at line {}", rule.id(), earlier.place().1);
                    found.add_at_line(line, reason);
                } else if !is_name(rule.category()) {
                    let reason = format!(
                        "rule {:?}: category {:?} must be words of a-z and 0-9 joined by _",
                        rule.id(),
                        rule.category().as_str()
                    );
                    found.add_at_line(line, reason);
                } else {
                    rules.push(rule);
                }
            }
            Err(e) => found.mistakes.push(e),
        }
    }
    rules
}

/// The line of a place in a text, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count()
}

/// What a mistake in a rule begins with: its id, where it has one.
fn label(rule: &DeValue<'_>) -> String {
    let DeValue::Table(table) = rule else { return String::new() };
    let id = table.iter().find(|(key, _)| key.get_ref().as_ref() == "id");
    id.and_then(|(_, value)| value.get_ref().as_str()).map_or_else(String::new, |id| format!("rule {id:?}: "))
}

/// Columns, metrics and alert rules name categories.
fn is_name(category: &Category) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let name = category.as_str();
    name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(word)
}

struct Found<'a> {
    name: &'a str,
    text: &'a str,
    mistakes: &'a mut Vec<RulesError>,
}

impl Found<'_> {
    fn line(&self, at: usize) -> usize {
        line_of(self.text, at)
    }

    fn add(&mut self, span: &Range<usize>, reason: String) {
        self.add_at_line(self.line(span.start), reason);
    }

    fn add_at_line(&mut self, line: usize, reason: String) {
        self.mistakes.push(RulesError { file: self.name.to_owned(), line, reason });
    }

    /// Reads a section. Each field that is refused is noted and taken out, until the rest is sound: then nothing, if any was.
    fn deserialize<T: DeserializeOwned>(&mut self, section: Spanned<DeValue<'_>>, label: &str) -> Option<T> {
        let whole = section.span();
        let mut value = section.into_inner();
        let mut refused = false;
        loop {
            let error = match T::deserialize(ValueDeserializer::from(Spanned::new(whole.clone(), value.clone()))) {
                Ok(sound) => return (!refused).then_some(sound),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| whole.clone());
            let culprit = match &value {
                DeValue::Table(table) => table.iter().find_map(|(key, value)| {
                    let inside = key.span().contains(&span.start) || value.span().contains(&span.start);
                    (inside && span != whole).then(|| key.clone())
                }),
                _ => None,
            };
            let Some(key) = culprit else {
                // A field that was taken out is missing now: that is said already.
                if !refused {
                    self.add(&span, format!("{label}{}", error.message()));
                }
                return None;
            };
            self.add(&span, format!("{label}{}", error.message()));
            refused = true;
            if let DeValue::Table(table) = &mut value {
                table.remove(&key);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]
mod tests {
    use super::*;

    fn refused(text: &str) -> Vec<String> {
        let mut mistakes = Vec::new();
        read("own.toml", text, &mut mistakes);
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line() {
        let told = refused(concat!(
            "[default]\npriority = 5\n",                                                            // 1
            "[[rule]]\nid = 'a.one'\npriorty = 5\ncolour = 'red'\nreply = 550\ncategory = 'dns'\n", // 3
            "[[rule]]\nid = 'a.two'\ncategory = 'dns'\n",                                           // 9
            "[[rule]]\nid = 'a.three'\npriority = 5\nany = ['Upper Case']\ncategory = 'dns'\n",     // 12
            "[[rule]]\nid = 'a.four'\npriority = 5\nany = ['my words']\ncategory = 'own_one'\n",    // 17
            "[[rule]]\nid = 'a.five'\npriority = 5\nany = ['my words']\ncategory = 'Own one'\nseverity = 'soft'\nblocked = true\nroot_cause = 'list'\n", // 22
            "[[rule]]\nid = 'a.six'\npriority = 5\ncategory = 'dns'\n[[rule]]\nid = 'a.six'\npriority = 5\ncategory = 'dns'\n", // 30, 34
            "[[rule]]\npriority = 5\ncategory = 'dns'\n", // 38
        ));
        let expect = [
            "own.toml:1: unknown field `default`",
            "own.toml:5: rule \"a.one\": unknown field `priorty`",
            "own.toml:6: rule \"a.one\": unknown field `colour`",
            "own.toml:7: rule \"a.one\": invalid type: integer `550`",
            "own.toml:10: rule \"a.two\": has no priority",
            "own.toml:13: rule \"a.three\": phrase \"Upper Case\" must be in lower case",
            "own.toml:18: rule \"a.four\": category own_one is your own: say severity, root_cause and blocked",
            "own.toml:23: rule \"a.five\": category \"Own one\" must be words",
            "own.toml:35: rule \"a.six\" is in this file already, at line 31",
            "own.toml:38: missing field `id`",
        ];
        for expect in expect {
            assert!(told.iter().any(|t| t.starts_with(expect)), "{expect} is not among {told:#?}");
        }
        assert_eq!(told.len(), expect.len(), "{told:#?}");
    }

    #[test]
    fn lines_that_are_no_toml_are_told_alone() {
        let told = refused("[[rule]]\nid = 'a.b\npriority = 5\ncategory = 'dns'\n\n[[rule]\nid = 'a.c'\n");
        assert!(told.iter().any(|t| t.starts_with("own.toml:2: ")), "{told:#?}");
        assert!(told.iter().any(|t| t.starts_with("own.toml:6: ")), "{told:#?}");
        assert!(told.len() <= 3, "{told:#?}");
    }
}
