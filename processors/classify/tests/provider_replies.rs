//! The replies of `shared/facts/provider_replies.tsv`: each is classified as that table says, or is listed with a reason in
//! `provider_replies.disagree.tsv`. What is listed and agrees after all fails too.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and prints its figures")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bounceflow_classify::{Reading, Reply, Rules, Verdict};
use bounceflow_event::Severity;
use regex::Regex;

#[test]
fn provider_replies_agree_or_are_listed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let facts = here.join("../../../shared/facts/provider_replies.tsv");
    let facts = fs::read_to_string(&facts)
        .unwrap_or_else(|e| panic!("{}: {e}: the facts stand in the folder `shared`, beside the project", facts.display()));
    let listed = fs::read_to_string(here.join("tests/provider_replies.disagree.tsv")).unwrap();
    let mut listed: BTreeMap<(&str, &str), &str> = listed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [provider, pattern, reason] if !reason.is_empty() => ((provider, pattern), reason),
            _ => panic!("not provider, pattern, reason: {line:?}"),
        })
        .collect();

    let rules = Rules::builtin().unwrap();
    let facts: Vec<Fact<'_>> = facts.lines().skip(1).map(Fact::of).collect();
    assert_eq!(facts.len(), 355);
    let (mut wrong, mut needless, mut disputed) = (Vec::new(), Vec::new(), 0);
    for fact in &facts {
        let mut reading = Reading::new();
        let text = fact.text();
        let isp = fact.isp();
        reading.read(&Reply { diagnostic: &text, isp, command: fact.command(), ..Reply::default() });
        let verdict = rules.classify(&reading);
        let told = || {
            let Fact { provider, pattern, meaning, class, action } = fact;
            let Verdict { severity, category, blocked, rule, .. } = verdict;
            let said = format!("{category}, {}, blocked {blocked}, by {rule}", severity.as_str());
            format!("{provider}\t{pattern}\t{class}: {meaning}: {action} | {text:?} is {said}; wanted {:?}", fact.categories())
        };
        match (fact.agrees(verdict), listed.remove(&(fact.provider, fact.pattern))) {
            (true, None) => {}
            (false, Some(_)) => disputed += 1,
            (false, None) => wrong.push(told()),
            (true, Some(_)) => needless.push(told()),
        }
    }
    println!("{} replies: {} agree, {disputed} listed with a reason", facts.len(), facts.len() - disputed - wrong.len());
    assert!(wrong.is_empty(), "{} replies neither agree nor are listed:\n{}", wrong.len(), wrong.join("\n"));
    assert!(needless.is_empty(), "{} replies are listed, but agree:\n{}", needless.len(), needless.join("\n"));
    assert!(listed.is_empty(), "listed, but no reply of the table: {listed:?}");
}

/// One line of the table.
struct Fact<'a> {
    provider: &'a str,
    pattern: &'a str,
    meaning: &'a str,
    class: &'a str,
    action: &'a str,
}

/// What a class of the table is in DESIGN's words.
struct Class {
    name: &'static str,
    severities: &'static [Severity],
    /// Whether the sender or the content was refused; None: either.
    blocked: Option<bool>,
    /// Where the action does not narrow them; none: any.
    categories: &'static [&'static str],
}

const CLASSES: [Class; 5] = {
    use Severity::{Deferred, Hard, Soft};
    const LIST: &[&str] = &["invalid_recipient", "invalid_domain", "inactive_mailbox"];
    const REFUSED: &[&str] = &["spam_content", "reputation", "authentication", "policy", "sender_rejected"];
    [
        Class { name: "hard", severities: &[Hard], blocked: Some(false), categories: LIST },
        Class { name: "soft", severities: &[Soft, Deferred], blocked: Some(false), categories: &[] },
        Class { name: "deferred", severities: &[Deferred], blocked: None, categories: &[] },
        Class { name: "block", severities: &[Soft, Deferred], blocked: Some(true), categories: REFUSED },
        // The sender's own suppression: no answer of a provider, so that only the blame is wrong to give.
        Class { name: "none", severities: &[Soft, Deferred, Hard], blocked: Some(false), categories: &[] },
    ]
};

/// What words of the table's action and meaning are in DESIGN's categories; the first line that fits decides.
const ACTIONS: [(&str, &[&str]); 28] = [
    ("inactive mailbox", &["inactive_mailbox", "mailbox_full"]),
    ("check mx;", &["policy", "invalid_domain", "dns"]),
    ("suppress domain", &["invalid_domain", "dns"]),
    ("fix mta", &["protocol"]),
    ("fix host configuration", &["protocol"]),
    ("suppress address; check typo", &["invalid_domain"]),
    ("suppress address", &["invalid_recipient", "inactive_mailbox"]),
    ("as quota", &["mailbox_full"]),
    ("reduce size", &["message_too_large"]),
    ("greylist", &["greylisted"]),
    ("fix spf", &["authentication"]),
    ("fix dkim", &["authentication"]),
    ("fix dmarc", &["authentication"]),
    ("fix authentication", &["authentication"]),
    ("fix alignment", &["authentication"]),
    ("align from", &["authentication"]),
    ("clean spf", &["authentication"]),
    ("fix ptr", &["authentication", "dns", "policy", "reputation"]),
    ("rdns", &["authentication", "dns", "policy", "reputation"]),
    ("delisting", &["reputation"]),
    ("lookup", &["reputation"]),
    ("csi reset", &["reputation"]),
    ("pause ip", &["reputation", "policy"]),
    ("static ip", &["reputation", "policy"]),
    ("review content", &["spam_content", "policy", "reputation"]),
    ("connection", &["rate_limited", "network", "remote_system", "reputation", "policy"]),
    ("slow down", &["rate_limited", "reputation"]),
    ("cap", &["rate_limited"]),
];

/// What a regular expression of the table stands for, in one sample.
const SAMPLES: [(&str, &str); 12] = [
    (r"\b(OFR|LPN|LPNAAA|OUK)[0-9]*[-_]", "OFR004_"),
    (r"\b", ""),
    ("SFR_IN_[0-9]", "SFR_IN_1"),
    ("ELNK[A-Za-z0-9]*", "ELNK"),
    ("AUP#[-A-Za-z]*", "AUP#In-"),
    ("(0[0-9]|[1-4][0-9]|50)", "20"),
    ("([678][0-9]|90)", "60"),
    ("(0[0-9]|10)", "00"),
    ("([234][0-9]|50)", "30"),
    ("([0-3][0-9]|40)", "10"),
    ("(3[5-9][0-9]|4[0-9][0-9])", "360"),
    (">: User unknown", "<kim@example.com>: User unknown"),
];

impl<'a> Fact<'a> {
    fn of(line: &'a str) -> Self {
        let [provider, pattern, meaning, class, action, _source] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not six columns: {line:?}");
        };
        Self { provider, pattern, meaning, class, action }
    }

    fn agrees(&self, verdict: &Verdict) -> bool {
        let (class, categories) = (self.class(), self.categories());
        class.severities.contains(&verdict.severity)
            && class.blocked.is_none_or(|blocked| blocked == verdict.blocked)
            && (categories.is_empty() || categories.contains(&verdict.category.as_str()))
    }

    fn class(&self) -> &'static Class {
        CLASSES.iter().find(|class| class.name == self.class).unwrap()
    }

    fn categories(&self) -> &'static [&'static str] {
        let said = format!("{} {}", self.action, self.meaning).to_lowercase();
        ACTIONS.iter().find(|(words, _)| said.contains(words)).map_or(self.class().categories, |(_, categories)| categories)
    }

    /// The reply: the codes the meaning names, those that suit the class first, and the words of the pattern.
    fn text(&self) -> String {
        let words = match self.pattern.strip_prefix("re:") {
            Some(regex) => {
                let sample = SAMPLES.iter().fold(regex.to_owned(), |text, (from, to)| text.replace(from, to));
                assert!(Regex::new(regex).unwrap().is_match(&sample), "{regex} is not {sample}");
                sample
            }
            None if self.pattern.starts_with('>') => SAMPLES[SAMPLES.len() - 1].1.to_owned(),
            None => self.pattern.to_owned(),
        };
        let code = |text: &str| text.len() == 3 && text.parse().is_ok_and(|n: u16| (400..600).contains(&n));
        if words.get(..3).is_some_and(code) {
            return words;
        }
        let tokens: Vec<&str> =
            self.meaning.split([' ', '/']).map(|token| token.trim_matches([',', ';', '(', ')', ':'])).collect();
        let usual = if self.class == "deferred" { '4' } else { '5' };
        let pick = |is: &dyn Fn(&str) -> bool, class: Option<char>| {
            let with = |class: char| tokens.iter().copied().find(|token| token.starts_with(class) && is(token));
            class.map_or_else(|| with(usual).or_else(|| with('4')).or_else(|| with('5')), with)
        };
        let enhanced_code = Regex::new(r"^[45]\.\d+\.\d+(-\d+)?$").unwrap();
        let enhanced = |class| pick(&|token| enhanced_code.is_match(token), class).map(|code| code.split('-').next().unwrap());
        match (pick(&code, None), enhanced(None)) {
            (Some(reply), _) => match enhanced(reply.chars().next()) {
                Some(enhanced) => format!("{reply} {enhanced} {words}"),
                None => format!("{reply} {words}"),
            },
            (None, Some(enhanced)) => format!("{}50 {enhanced} {words}", &enhanced[..1]),
            (None, None) => format!("{usual}50 {words}"),
        }
    }

    /// The table's provider as the provider tables call it.
    fn isp(&self) -> &'a str {
        match self.provider {
            "generic" | "spamhaus" | "spamcop" | "sorbs" | "invaluement" | "uribl" | "cloudmark" => "",
            "microsoft" if self.meaning.contains("otmail") => "outlook",
            "microsoft" => "office365",
            provider => provider,
        }
    }

    fn command(&self) -> &'static str {
        match () {
            () if ["greeting", "at connect"].iter().any(|at| self.meaning.contains(at)) => "CONNECT",
            () if self.meaning.contains("at RCPT") => "RCPT TO",
            () => "",
        }
    }
}
