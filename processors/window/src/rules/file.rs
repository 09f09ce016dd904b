//! A rule file, read: every mistake in it at once, each with its line, each saying what to do.
//! Owns the file's fields, their defaults and what is refused; what a rule means is `rules`'.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;

use bounceflow_event::Category;
use globset::{Glob, GlobBuilder, GlobSet};
use hashbrown::HashMap;
use jiff::SignedDuration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::nearest::{nearest, write_one};
use super::{Mistakes, Rule};
use crate::metric::{AlertSeverity, Metric, STEP_SECONDS, Scope, WindowSpec, duration};

const FIELDS: [&str; 13] = [
    "name",
    "scope",
    "isp",
    "identity",
    "metric",
    "window",
    "threshold",
    "clear",
    "min_volume",
    "for",
    "keep_firing",
    "severity",
    "annotations",
];
const MIN_VOLUME: u64 = 200;
const KEEP_FIRING: u32 = 300;
/// Integers beyond are not exact as f64.
const LARGEST_VOLUME: i64 = 1 << 53;
const LONGEST_NAME: usize = 64;
/// Of alerts about the pipeline itself.
const RESERVED: &str = "pipeline.";
/// Annotations that every alert brings to Alertmanager.
const EVIDENCE: [&str; 9] =
    ["rate", "threshold", "since", "top_categories", "sample", "pattern", "classified_by", "root_cause", "action"];
/// Where the sender itself failed: kept out of ISP rates.
const LOCAL: &str = "local";

/// Every rule of the file, or every mistake in it.
pub(super) fn read(text: &str, file: &str) -> Result<Vec<Rule>, Mistakes> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut found = Found { text, file, broken: Vec::new(), list: Vec::new(), names: HashMap::new() };
    for error in &errors {
        let line = found.line(error.span().map_or(0, |span| span.start));
        found.broken.push(line);
        found.list.push((line, format!("{}; correct the line, the file is TOML", error.message())));
    }
    let mut rules = Vec::new();
    for (key, value) in document.get_ref() {
        let at = key.span().start;
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("rule", DeValue::Array(items)) => {
                let starts: Vec<usize> = items.iter().map(|item| item.span().start).collect();
                for (number, item) in items.iter().enumerate() {
                    let end = starts.get(number + 1).copied().unwrap_or(text.len());
                    match item.get_ref() {
                        DeValue::Table(table) => rules.extend(Reader::new(table, starts[number]..end, number, &mut found).rule()),
                        _ => found.add(item.span().start, "", "`rule` is a list of values; write a section [[rule]] for each"),
                    }
                }
            }
            ("rule", _) => found.add(at, "", "`rule` is a single one; write [[rule]], with two brackets"),
            // What a broken header swallowed or let loose is not the author's doing.
            _ if found.broken.iter().any(|line| *line <= found.line(at)) => {}
            (other, _) => found.add(at, "", format!("unknown field `{other}`; every rule is a section [[rule]]")),
        }
    }
    if rules.is_empty() && found.list.is_empty() {
        found.add(0, "", "no rule; write at least one [[rule]]");
    }
    if !found.list.is_empty() {
        return Err(found.into_mistakes());
    }
    Ok(rules)
}

/// What is wrong so far, by line.
struct Found<'a> {
    text: &'a str,
    file: &'a str,
    /// Lines that are no TOML.
    broken: Vec<usize>,
    list: Vec<(usize, String)>,
    /// Names given so far, and where.
    names: HashMap<String, usize>,
}

impl Found<'_> {
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count()
    }

    /// On a line that is no TOML, that is mistake enough.
    fn add(&mut self, at: usize, rule: &str, problem: impl AsRef<str>) {
        let line = self.line(at);
        if !self.broken.contains(&line) {
            let rule = if rule.is_empty() { String::new() } else { format!("rule {rule}: ") };
            self.list.push((line, format!("{rule}{}", problem.as_ref())));
        }
    }

    fn into_mistakes(mut self) -> Mistakes {
        self.list.sort_by_key(|(line, _)| *line);
        Mistakes(self.list.into_iter().map(|(line, text)| format!("{}:{line}: {text}", self.file)).collect())
    }
}

/// One `[[rule]]`, field by field. A field that is refused becomes a mistake and `None`.
struct Reader<'a, 'i, 'f> {
    table: &'a DeTable<'i>,
    /// Where the section starts.
    at: usize,
    /// The rule's name, or its number where it has none.
    label: String,
    /// Whether a line of the section is no TOML: what seems to be missing may stand there.
    broken: bool,
    found: &'a mut Found<'f>,
}

impl<'a, 'i, 'f> Reader<'a, 'i, 'f> {
    fn new(table: &'a DeTable<'i>, section: Range<usize>, number: usize, found: &'a mut Found<'f>) -> Self {
        let lines = found.line(section.start)..=found.line(section.end);
        let broken = found.broken.iter().any(|line| lines.contains(line));
        Self { table, at: section.start, label: format!("#{}", number + 1), broken, found }
    }

    fn rule(mut self) -> Option<Rule> {
        let name = self.name();
        let misspelt = self.unknown_fields();
        let scope = self.word("scope", Some(Scope::IspIdentity), &Scope::ALL.map(Scope::as_str));
        let isp = self.globs("isp", scope.is_none_or(Scope::has_isp), isp_glob);
        let identity = self.globs("identity", scope.is_none_or(Scope::has_identity), identity_glob);
        let metric = self.metric();
        let window = self.window(metric.as_ref());
        let threshold = self.fraction("threshold");
        let clear = self.clear(threshold);
        let min_volume = self.min_volume();
        let hold_for = self.wait("for", 0);
        let keep_firing = self.wait("keep_firing", KEEP_FIRING);
        let severity = self.word("severity", Some(AlertSeverity::Warning), &AlertSeverity::ALL.map(AlertSeverity::as_str));
        let annotations = self.annotations();
        for (field, example) in [("name", "a_name"), ("metric", "hard_rate"), ("window", "15m"), ("threshold", "")] {
            if self.value(field).is_none() && !misspelt.contains(&field) && !self.broken {
                let example = if example.is_empty() { "0.05".into() } else { format!("{example:?}") };
                self.add(self.at, format!("no `{field}`; give it one: {field} = {example}"));
            }
        }
        Some(Rule {
            name: name?,
            scope: scope?,
            metric: metric?,
            window: window?,
            threshold: threshold?,
            clear: clear?,
            min_volume: min_volume?,
            hold_for: hold_for?,
            keep_firing: keep_firing?,
            severity: severity?,
            annotations: annotations?,
            isp: isp?,
            identity: identity?,
        })
    }

    fn add(&mut self, at: usize, problem: impl AsRef<str>) {
        self.found.add(at, &self.label, problem);
    }

    fn value(&self, field: &str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.table.iter().find(|(key, _)| key.get_ref() == field).map(|(_, value)| value)
    }

    fn wrong_type(&mut self, field: &str, value: &Spanned<DeValue<'i>>, expected: &str) {
        let a = |kind: &str| if kind.starts_with(['a', 'i']) { format!("an {kind}") } else { format!("a {kind}") };
        self.add(value.span().start, format!("`{field}` is {}; write {expected}", a(value.get_ref().type_str())));
    }

    /// Where it stands and what it says; nothing where it is left out or of another type.
    fn text(&mut self, field: &str, expected: &str) -> Option<(usize, &'a str)> {
        let value = self.value(field)?;
        match value.get_ref() {
            DeValue::String(text) => Some((value.span().start, text)),
            _ => {
                self.wrong_type(field, value, expected);
                None
            }
        }
    }

    fn name(&mut self) -> Option<String> {
        let (at, name) = self.text("name", "a string")?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(allowed) {
            self.add(at, format!("{name:?} is no name; write 1 to {LONGEST_NAME} of A-Z, a-z, 0-9, `_`, `.` and `-`"));
            return None;
        }
        self.label = name.to_owned();
        if name.starts_with(RESERVED) {
            self.add(at, format!("names in `{RESERVED}` are kept for alerts about the pipeline itself; give it another"));
        }
        let line = self.found.line(at);
        if let Some(first) = self.found.names.insert(name.to_owned(), line) {
            self.add(at, format!("the rule at line {first} has this name too; give one of them another"));
        }
        Some(name.to_owned())
    }

    /// Gives back the fields they are likely to stand for.
    fn unknown_fields(&mut self) -> Vec<&'static str> {
        let mut meant = Vec::new();
        for key in self.table.keys().filter(|key| !FIELDS.contains(&key.get_ref().as_ref())) {
            let (at, key) = (key.span().start, key.get_ref());
            let near = nearest(key, FIELDS.into_iter());
            meant.extend(near);
            self.add(at, format!("unknown field `{key}`; {}", write_one(near, &FIELDS)));
        }
        meant
    }

    /// One of a few words.
    fn word<T: FromStr>(&mut self, field: &str, default: Option<T>, words: &[&'static str]) -> Option<T> {
        if self.value(field).is_none() {
            return default;
        }
        let (at, word) = self.text(field, &format!("one of the strings {}", words.join(", ")))?;
        let parsed = word.parse().ok();
        if parsed.is_none() {
            let near = nearest(word, words.iter().copied());
            self.add(at, format!("unknown {field} {word:?}; {}", write_one(near, words)));
        }
        parsed
    }

    fn metric(&mut self) -> Option<Metric> {
        let (at, text) = self.text("metric", "a string such as \"hard_rate\"")?;
        let Some(category) = text.strip_prefix("category:") else {
            let names = Metric::NAMED.map(|metric| metric.name());
            return self.word("metric", None, &[&names[..], &["category:NAME"]].concat());
        };
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let known = || Category::KNOWN.iter().map(Category::as_str);
        if category.is_empty() || category.len() > LONGEST_NAME || !category.bytes().all(word) {
            self.add(at, format!("{category:?} is no category; write one in a-z, 0-9 and `_`, such as category:mailbox_full"));
            return None;
        }
        // Operators have categories of their own, but a misspelt one would never fire, and nobody would notice.
        match nearest(category, known()).filter(|near| *near != category) {
            Some(near) => {
                self.add(at, format!("category {category:?} is taken for a misspelling; write category:{near}"));
                None
            }
            None => Some(Metric::Category(category.into())),
        }
    }

    /// Seconds, where it stands and as written.
    fn duration(&mut self, field: &str) -> Option<(usize, u32, &'a str)> {
        let (at, text) = self.text(field, "a string such as \"90s\", \"15m\" or \"24h\"")?;
        let exact = |d: &SignedDuration| d.subsec_nanos() == 0;
        let seconds = text.parse().ok().filter(exact).and_then(|d| u32::try_from(d.as_secs()).ok());
        if seconds.is_none() {
            self.add(at, format!("`{field}` {text:?} is no duration in whole seconds; write it as 90s, 15m or 24h"));
        }
        seconds.map(|seconds| (at, seconds, text))
    }

    fn window(&mut self, metric: Option<&Metric>) -> Option<WindowSpec> {
        let (at, seconds, text) = self.duration("window")?;
        let late = metric.filter(|metric| metric.comes_late() && seconds != WindowSpec::LONGEST);
        if let Some(metric) = late {
            self.add(at, format!("`window` {text:?} is too short for {metric}, which comes hours late; write 24h"));
            return None;
        }
        match WindowSpec::new(seconds) {
            Ok(window) => Some(window),
            Err(problem) => {
                self.add(at, format!("`window` {text:?} {problem}"));
                None
            }
        }
    }

    fn wait(&mut self, field: &str, default: u32) -> Option<u32> {
        if self.value(field).is_none() {
            return Some(default);
        }
        let (at, seconds, text) = self.duration(field)?;
        if seconds > WindowSpec::LONGEST {
            self.add(at, format!("`{field}` {text:?} is too long; write at most 24h"));
            return None;
        }
        if !seconds.is_multiple_of(STEP_SECONDS) {
            let below = seconds - seconds % STEP_SECONDS;
            let (below, above) = (duration(below), duration(below + STEP_SECONDS));
            self.add(at, format!("`{field}` {text:?} is no multiple of 10s; write {below} or {above}"));
            return None;
        }
        Some(seconds)
    }

    /// Above 0, at most 1.
    fn fraction(&mut self, field: &str) -> Option<f64> {
        let value = self.value(field)?;
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(_) => integer(value.get_ref()).map(|n| n as f64),
            _ => {
                self.wrong_type(field, value, "a fraction such as 0.05");
                return None;
            }
        };
        let written = &self.found.text[value.span()];
        match number {
            Some(number) if number > 0.0 && number <= 1.0 => Some(number),
            Some(number) if number > 1.0 && number <= 100.0 => {
                self.add(value.span().start, format!("`{field}` {written} is above 1; write {} for {written} %", number / 100.0));
                None
            }
            _ => {
                self.add(value.span().start, format!("`{field}` {written} is out of range; write a fraction above 0, at most 1"));
                None
            }
        }
    }

    fn clear(&mut self, threshold: Option<f64>) -> Option<f64> {
        let Some(value) = self.value("clear") else {
            // Lower, so that a rate at the threshold does not flap. Without a threshold the rule is refused anyway.
            return Some(threshold.unwrap_or(1.0) * 4.0 / 5.0);
        };
        let clear = self.fraction("clear")?;
        match threshold {
            Some(threshold) if clear > threshold => {
                let problem = format!("`clear` {clear} is above the threshold {threshold}; write {threshold} or less");
                self.add(value.span().start, problem);
                None
            }
            _ => Some(clear),
        }
    }

    fn min_volume(&mut self) -> Option<u64> {
        let Some(value) = self.value("min_volume") else { return Some(MIN_VOLUME) };
        if !value.get_ref().is_integer() {
            self.wrong_type("min_volume", value, "a whole number such as 200");
            return None;
        }
        let volume = integer(value.get_ref()).filter(|n| (0..=LARGEST_VOLUME).contains(n));
        if volume.is_none() {
            let written = &self.found.text[value.span()];
            self.add(value.span().start, format!("`min_volume` {written} is out of range; write 0 to 2^53"));
        }
        volume.map(|n| n.unsigned_abs())
    }

    /// `None` inside: every key.
    fn globs(&mut self, field: &str, in_scope: bool, check: fn(&str) -> Result<Glob, String>) -> Option<Option<GlobSet>> {
        let Some(value) = self.value(field) else { return Some(None) };
        let at = value.span().start;
        if !in_scope {
            self.add(at, format!("`{field}` is set in a scope without {field}; remove it, or write another scope"));
            return None;
        }
        let texts: Vec<(usize, &str)> = match value.get_ref() {
            DeValue::String(text) => vec![(at, text)],
            DeValue::Array(items) => {
                let texts = items.iter().filter_map(|i| i.get_ref().as_str().map(|text| (i.span().start, text))).collect();
                if items.iter().all(|item| item.get_ref().is_str()) && !items.is_empty() {
                    texts
                } else {
                    self.add(at, format!("`{field}` must list strings, one at least; write {field} = \"*\" for every one"));
                    return None;
                }
            }
            _ => {
                self.wrong_type(field, value, "a glob or a list of globs");
                return None;
            }
        };
        let mut set = GlobSet::builder();
        let mut refused = false;
        for (at, text) in &texts {
            match check(text) {
                Ok(glob) => {
                    set.add(glob);
                }
                Err(problem) => {
                    self.add(*at, format!("`{field}` {text:?} {problem}"));
                    refused = true;
                }
            }
        }
        if refused {
            return None;
        }
        if texts.iter().any(|(_, text)| *text == "*") {
            return Some(None);
        }
        match set.build() {
            Ok(set) => Some(Some(set)),
            Err(error) => {
                self.add(at, format!("`{field}` cannot be compiled: {}; write fewer or shorter globs", error.kind()));
                None
            }
        }
    }

    fn annotations(&mut self) -> Option<BTreeMap<String, String>> {
        let Some(value) = self.value("annotations") else { return Some(BTreeMap::new()) };
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type("annotations", value, "a section [rule.annotations] with strings");
            return None;
        };
        let before = self.found.list.len();
        let mut annotations = BTreeMap::new();
        for (key, value) in table {
            let name = key.get_ref();
            let head = |b: u8| b.is_ascii_alphabetic() || b == b'_';
            if !name.bytes().next().is_some_and(head) || !name.bytes().all(|b| head(b) || b.is_ascii_digit()) {
                let problem = "is refused by Alertmanager; write letters, digits and `_`, no digit first";
                self.add(key.span().start, format!("the name {name:?} in `annotations` {problem}"));
            }
            if EVIDENCE.contains(&&**name) {
                let problem = "is the name of evidence that every alert brings; choose another";
                self.add(key.span().start, format!("the name {name:?} in `annotations` {problem}"));
            }
            match value.get_ref() {
                DeValue::String(text) => {
                    annotations.insert(name.to_string(), text.to_string());
                }
                _ => self.wrong_type(&format!("annotations.{name}"), value, "a string"),
            }
        }
        (self.found.list.len() == before).then_some(annotations)
    }
}

fn isp_glob(text: &str) -> Result<Glob, String> {
    if text == LOCAL {
        return Err("is the sender's own failures, kept out of ISP rates; write scope = \"identity\" to watch those".into());
    }
    // Ids are made of these; anything else would match none, and nobody would notice.
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_*?[]!{},^-".contains(&b);
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err("can match no ISP; write an id such as gmail, of a-z, 0-9 and `_`, or a glob such as google*".into());
    }
    glob(text)
}

fn identity_glob(text: &str) -> Result<Glob, String> {
    if text.is_empty() {
        return Err("can match no identity; write a name, or a glob such as *.shop.example".into());
    }
    glob(text)
}

fn glob(text: &str) -> Result<Glob, String> {
    let advice = "write `*` for any run of characters, `[ab]` for one of several, `[*]` for the character itself";
    let build = GlobBuilder::new(text).backslash_escape(true).build();
    build.map_err(|error| format!("is no glob, {}; {advice}", error.kind()))
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    value.as_integer().and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok())
}
