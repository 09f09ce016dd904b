//! The rules together: found by one automaton over all their phrases and an index over their codes, decided by rank.
//! Owns which rule wins; what one rule asks for is `rule`'s. **Invariant:** rank is total: priority, then id.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use hashbrown::HashMap;

use crate::reading::{Reading, fingerprint};
use crate::rule::{Phrase, Rule, RulesError};
use crate::{Verdict, builtin, file};

/// A set of rules, compiled. Shared by all threads, replaced as a whole.
#[derive(Debug)]
pub struct Rules {
    version: String,
    /// By rank: the first that matches wins.
    rules: Box<[Rule]>,
    automaton: AhoCorasick,
    phrases: Vec<Phrase>,
    /// By phrase: the rules that are worth trying once it was found.
    tried: Vec<Box<[u32]>>,
    /// By rule: its phrases, as indexes.
    wants: Vec<Wants>,
    /// Rules without phrases, by the one enhanced code they name.
    by_code: HashMap<(u16, u16), Vec<u32>, foldhash::fast::FixedState>,
    /// Rules without phrases that name no single code.
    by_context: Vec<u32>,
}

#[derive(Debug, Default)]
struct Wants {
    any: Box<[u32]>,
    all: Box<[u32]>,
    none: Box<[u32]>,
}

/// A rule that matched, and what of it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The rule's id.
    pub rule: Arc<str>,
    /// Its priority.
    pub priority: u16,
    /// The verdict it gives where it wins.
    pub verdict: Verdict,
    /// What was found: phrases, codes, provider, command.
    pub found: Vec<String>,
}

/// Everything that is wrong with files of rules. Displayed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesErrors(pub Vec<RulesError>);

impl fmt::Display for RulesErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for RulesErrors {}

/// A rule that can never win, whatever the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeverWins {
    /// Its id.
    pub rule: String,
    /// The rule above it that takes every reply it could take; none: it asks for what it excludes itself.
    pub covered_by: Option<String>,
}

/// An example another rule decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleFailure {
    /// The rule it stands by.
    pub rule: String,
    /// The example's text, or empty where the rule has no example at all.
    pub text: String,
    /// How it reads.
    pub template: String,
    /// The rule that won.
    pub winner: String,
}

impl Rules {
    /// The rules this version was built with.
    pub fn builtin() -> Result<Self, RulesErrors> {
        Self::from_files(builtin::FILES)
    }

    /// The built-in rules and an operator's files, given as name and text: a rule with a built-in rule's id replaces it.
    pub fn with_files(files: &[(&str, &str)]) -> Result<Self, RulesErrors> {
        Self::from_files(&[builtin::FILES, files].concat())
    }

    /// Rules from files, given as name and text. Where an id comes twice, the later file's rule replaces the earlier's.
    pub fn from_files(files: &[(&str, &str)]) -> Result<Self, RulesErrors> {
        let mut by_id: BTreeMap<String, Rule> = BTreeMap::new();
        let (mut mistakes, mut content) = (Vec::new(), Vec::new());
        for (name, text) in files {
            by_id.extend(file::read(name, text, &mut mistakes).into_iter().map(|rule| (rule.id().to_owned(), rule)));
            // Where a file lies says nothing about what its rules say.
            content.extend_from_slice(text.as_bytes());
            content.push(0);
        }
        if !mistakes.is_empty() {
            return Err(RulesErrors(mistakes));
        }
        let mut rules: Vec<Rule> = by_id.into_values().collect();
        // Stable, and in the order of ids before: equal priorities stay in that order.
        rules.sort_by_key(|r| std::cmp::Reverse(r.priority()));
        Self::index(rules, format!("{:016x}", fingerprint(&content))).map_err(|e| RulesErrors(vec![e]))
    }

    fn index(rules: Vec<Rule>, version: String) -> Result<Self, RulesError> {
        let mut phrases: Vec<Phrase> = Vec::new();
        let mut known: HashMap<Phrase, u32> = HashMap::new();
        let mut tried: Vec<Vec<u32>> = Vec::new();
        let mut wants = Vec::with_capacity(rules.len());
        let mut by_code: HashMap<(u16, u16), Vec<u32>, _> = HashMap::default();
        let mut by_context = Vec::new();
        for (rank, rule) in (0u32..).zip(&rules) {
            let mut number = |phrase: &Phrase| {
                *known.entry(phrase.clone()).or_insert_with(|| {
                    phrases.push(phrase.clone());
                    tried.push(Vec::new());
                    (phrases.len() - 1) as u32
                })
            };
            let mut numbers = |list: &[Phrase]| list.iter().map(&mut number).collect::<Box<[u32]>>();
            let want = Wants { any: numbers(&rule.any), all: numbers(&rule.all), none: numbers(&rule.none) };
            // One phrase of `all` is enough to try a rule: the longest is the rarest.
            let longest = want.all.iter().max_by_key(|p| phrases[**p as usize].text.len());
            match longest {
                Some(p) => tried[*p as usize].push(rank),
                None => want.any.iter().for_each(|p| tried[*p as usize].push(rank)),
            }
            if want.any.is_empty() && want.all.is_empty() {
                let keys: Option<Vec<_>> = rule.enhanced.iter().map(|p| p.key()).collect();
                match keys {
                    Some(keys) if !keys.is_empty() => keys.into_iter().for_each(|k| by_code.entry(k).or_default().push(rank)),
                    _ => by_context.push(rank),
                }
            }
            wants.push(want);
        }
        let texts: Vec<&str> = phrases.iter().map(|p| p.text.as_str()).collect();
        // Measured: twice as fast as the DFA, which is 27 times as large and misses the processor's caches.
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(&texts)
            .map_err(|e| RulesError { file: "(all rules)".into(), line: 0, reason: e.to_string() })?;
        let tried = tried.into_iter().map(Vec::into_boxed_slice).collect();
        Ok(Self { version, rules: rules.into(), automaton, phrases, tried, wants, by_code, by_context })
    }

    /// A short hash of what the rules say: the same rules have the same version everywhere.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// All rules, by rank.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.iter()
    }

    /// What the compiled automaton takes in memory, in bytes.
    pub fn automaton_bytes(&self) -> usize {
        self.automaton.memory_usage()
    }

    /// The verdict of the first rule that matches; `None` only where no rule takes every reply.
    fn decide(&self, reading: &Reading) -> Option<&Rule> {
        let found = self.search(reading);
        let mut best: Option<u32> = None;
        for rank in found.ranks.iter().copied() {
            // What would lose anyway is not looked at: its regular expression may be slow.
            if best.is_none_or(|b| rank < b) && self.matches(rank, reading, &found) {
                best = Some(rank);
            }
        }
        let coded = reading.enhanced_code().and_then(|c| self.by_code.get(&(c.subject, c.detail)));
        for list in [coded, Some(&self.by_context)].into_iter().flatten() {
            // Ranks ascend within a list: the first that matches is its best.
            let rival =
                list.iter().copied().take_while(|r| best.is_none_or(|b| *r < b)).find(|r| self.matches(*r, reading, &found));
            best = rival.or(best);
        }
        best.map(|r| &self.rules[r as usize])
    }

    /// What the reply means.
    pub fn classify(&self, reading: &Reading) -> &Verdict {
        match self.decide(reading) {
            Some(rule) => rule.verdict(reading),
            None => builtin::unknown(),
        }
    }

    /// Every rule that matches, in order of rank: the first is the winner.
    pub fn explain(&self, reading: &Reading) -> Vec<Match> {
        let found = self.search(reading);
        let mut ranks: Vec<u32> = found.ranks.clone();
        if let Some(list) = reading.enhanced_code().and_then(|c| self.by_code.get(&(c.subject, c.detail))) {
            ranks.extend(list);
        }
        ranks.extend(&self.by_context);
        ranks.sort_unstable();
        ranks.dedup();
        ranks.retain(|r| self.matches(*r, reading, &found));
        let told = |rank: u32| {
            let (rule, want) = (&self.rules[rank as usize], &self.wants[rank as usize]);
            let phrases = want.all.iter().chain(&want.any).filter(|p| found.has(**p));
            let phrases = phrases.map(|p| format!("phrase {:?}", self.phrases[*p as usize].text)).collect();
            let verdict = rule.verdict(reading).clone();
            Match { rule: Arc::clone(&verdict.rule), priority: rule.priority(), verdict, found: rule.reasons(reading, phrases) }
        };
        ranks.into_iter().map(told).collect()
    }

    /// Runs every rule's examples: a rule must win its own, and must have one.
    pub fn check_examples(&self) -> Vec<ExampleFailure> {
        let mut failures = Vec::new();
        let mut reading = Reading::new();
        for rule in &self.rules {
            if rule.examples().is_empty() {
                failures.push(ExampleFailure {
                    rule: rule.id().into(),
                    text: String::new(),
                    template: String::new(),
                    winner: String::new(),
                });
            }
            for example in rule.examples() {
                reading.read(&example.reply());
                let winner = self.decide(&reading).map_or("none", Rule::id);
                if winner != rule.id() {
                    let (text, template) = (example.text.clone(), reading.template().to_owned());
                    failures.push(ExampleFailure { rule: rule.id().into(), text, template, winner: winner.into() });
                }
            }
        }
        failures
    }

    /// The rules of which it can be told that they never win: one above them takes every reply they could take.
    /// What it finds is true; it does not find all there may be.
    pub fn never_wins(&self) -> Vec<NeverWins> {
        let mut found = Vec::new();
        for (rank, rule) in self.rules.iter().enumerate() {
            let covering = || self.rules[..rank].iter().find(|above| above.covers(rule));
            if rule.contradicts_itself() {
                found.push(NeverWins { rule: rule.id().into(), covered_by: None });
            } else if let Some(above) = covering() {
                found.push(NeverWins { rule: rule.id().into(), covered_by: Some(above.id().into()) });
            }
        }
        found
    }

    fn search(&self, reading: &Reading) -> Found {
        let body = reading.body();
        let mut found = Found { seen: vec![0; self.phrases.len().div_ceil(64)], ranks: Vec::with_capacity(16) };
        for m in self.automaton.find_overlapping_iter(body) {
            let number = m.pattern().as_u32();
            if !found.has(number) && self.phrases[number as usize].fits(body.as_bytes(), m.start(), m.end()) {
                found.seen[number as usize / 64] |= 1 << (number % 64);
                found.ranks.extend_from_slice(&self.tried[number as usize]);
            }
        }
        found
    }

    fn matches(&self, rank: u32, reading: &Reading, found: &Found) -> bool {
        let want = &self.wants[rank as usize];
        want.all.iter().all(|p| found.has(*p))
            && (want.any.is_empty() || want.any.iter().any(|p| found.has(*p)))
            && !want.none.iter().any(|p| found.has(*p))
            && self.rules[rank as usize].allows(reading)
    }
}

/// The phrases found in a text, and the rules worth trying for them.
struct Found {
    seen: Vec<u64>,
    ranks: Vec<u32>,
}

impl Found {
    fn has(&self, phrase: u32) -> bool {
        self.seen[phrase as usize / 64] >> (phrase % 64) & 1 == 1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use crate::Reply;

    const NO_SUCH_USER: &str = "550-5.1.1 The email account that you tried to reach does not exist";

    fn with(text: &str) -> Rules {
        Rules::with_files(&[("own.toml", text)]).unwrap_or_else(|e| panic!("{e}"))
    }

    fn winner(rules: &Rules, text: &str) -> Verdict {
        let mut reading = Reading::new();
        reading.read(&Reply { diagnostic: text, ..Reply::default() });
        rules.classify(&reading).clone()
    }

    #[test]
    fn a_rule_with_a_builtin_id_replaces_it() {
        let builtin = Rules::builtin().unwrap();
        let own = with("[[rule]]\nid = 'google.no_such_user'\npriority = 720\nany = ['words of mine']\ncategory = 'dns'\n");
        assert_eq!(&*winner(&builtin, NO_SUCH_USER).rule, "google.no_such_user");
        assert_ne!(&*winner(&own, NO_SUCH_USER).rule, "google.no_such_user");
        assert_eq!(winner(&own, "550 words of mine").category.as_str(), "dns");
        assert_eq!(own.iter().len(), builtin.iter().len());
        assert_eq!(own.iter().find(|r| r.id() == "google.no_such_user").unwrap().place(), ("own.toml", 2));
    }

    #[test]
    fn otherwise_priority_decides_whoever_wrote_the_rule() {
        let rule = |priority: u16| {
            with(&format!(
                "[[rule]]\nid = 'own.gone'\npriority = {priority}\nany = ['account that you tried to reach']\ncategory = 'gone'\n\
                 severity = 'hard'\nroot_cause = 'list'\nblocked = false\n"
            ))
        };
        let verdict = winner(&rule(990), NO_SUCH_USER);
        assert_eq!((&*verdict.rule, verdict.category.as_str()), ("own.gone", "gone"));
        assert_eq!(&*winner(&rule(1), NO_SUCH_USER).rule, "google.no_such_user");
    }

    #[test]
    fn the_version_is_of_what_the_files_say_not_of_where_they_lie() {
        let rule = "[[rule]]\nid = 'own.a'\npriority = 5\nany = ['words of mine']\ncategory = 'dns'\n";
        assert_ne!(with(rule).version(), Rules::builtin().unwrap().version());
        assert_ne!(with(rule).version(), with(&rule.replace("mine", "ours")).version());
        assert_eq!(with(rule).version(), Rules::with_files(&[("/elsewhere.toml", rule)]).unwrap().version());
    }

    #[test]
    fn a_rule_that_never_wins_is_found() {
        let rules = |text: &str| Rules::from_files(&[("own.toml", text)]).unwrap_or_else(|e| panic!("{e}"));
        let pair = |above: &str, below: &str| {
            let rule = |id, priority: u16, conditions| {
                format!("[[rule]]\nid = 'a.{id}'\npriority = {priority}\n{conditions}\ncategory = 'dns'\n")
            };
            let found = rules(&(rule("above", 9, above) + &rule("below", 1, below))).never_wins();
            found.into_iter().map(|n| (n.rule, n.covered_by)).collect::<Vec<_>>()
        };
        let covered = vec![("a.below".to_owned(), Some("a.above".to_owned()))];
        for (above, below) in [
            ("any = ['quota']", "any = ['over quota', 'quota exceeded']"),
            ("any = ['*quota*', 'full']", "all = ['overquotas']\nreply = ['552']"),
            ("reply = ['55x']\nenhanced = ['5.x.x']", "reply = ['550']\nenhanced = ['5.2.1-9']\nany = ['words']"),
            ("any = ['words']\nnone = ['never']", "any = ['words']\nnone = ['never', 'ever']"),
            ("any = ['words']\nnone = ['never ever']", "any = ['words']\nnone = ['ever']"),
            ("provider = ['google']", "provider = ['gmail']\ncommand = ['rcpt']"),
        ] {
            assert_eq!(pair(above, below), covered, "{above} | {below}");
        }
        for (above, below) in [
            ("any = ['quota']", "any = ['over quota', 'mailbox full']"),
            ("any = ['quota']", "any = ['*quota']"),
            ("any = ['words']\nnone = ['never']", "any = ['words']"),
            ("any = ['words']\nnone = ['ever']", "any = ['words']\nnone = ['never ever']"),
            ("reply = ['550']", "reply = ['55x']"),
            ("reply = ['550']", "any = ['words']"),
            ("provider = ['gmail']", "provider = ['google']"),
            ("any = ['words']\nregex = 'x'", "any = ['words']"),
            ("any = ['words']\ngreeting = true", "any = ['words']"),
            ("any = ['words']\nevent = ['bounce']", "any = ['words']\nevent = ['bounce', 'deferral']"),
        ] {
            assert_eq!(pair(above, below), vec![], "{above} | {below}");
        }
        assert_eq!(pair("any = ['zz top']", "any = ['over quota']\nnone = ['quota']"), [("a.below".to_owned(), None)]);
        assert_eq!(Rules::builtin().unwrap().never_wins(), []);
    }
}
