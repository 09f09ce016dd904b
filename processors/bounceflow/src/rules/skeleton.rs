//! An unmatched reply as a rule ready to edit: it compiles as it is, and its example hits it. Pure; it asks nobody.

use std::collections::BTreeSet;
use std::fmt::Write;

use bounceflow_classify::{Command, Reading, Reply, Rules};
use bounceflow_warehouse::Unmatched;

use crate::evidence;

/// Above what the built-in rules say of codes, and of most words.
const PRIORITY: u16 = 800;
/// Longer phrases quote the accident of one sample.
const LONGEST_PHRASE: usize = 60;
/// A shorter one says too little to stand for a reply.
const SHORTEST_PHRASE: usize = 6;

/// The ids written so far: each is given once.
#[derive(Debug, Default)]
pub(super) struct Written(BTreeSet<String>);

/// The reply it was.
pub(super) fn reply(row: &Unmatched) -> Reply<'_> {
    Reply {
        event: row.event_type.parse().ok(),
        reply_code: row.reply_code,
        enhanced_code: &row.enhanced_code,
        diagnostic: &row.diagnostic,
        command: &row.command,
        isp: &row.isp,
        mx_host: &row.mx_host,
        recipient_domain: &row.recipient_domain,
    }
}

/// The rule, with what is known of the pattern in comments. Where the reply has no words, all of it is a comment.
pub(super) fn skeleton(row: &Unmatched, written: &mut Written) -> String {
    let mut reading = Reading::new();
    reading.read(&reply(row));
    let mut text = String::new();
    let isps = row.isps.join(", ");
    let last = evidence::time(row.last);
    // Writing to a string does not fail.
    let _ = writeln!(text, "# {} times, at {isps}; last {last}; {} → {}", row.failures, row.rule, row.category);
    let _ = writeln!(text, "# pattern {:016x}: {}", row.pattern, one_line(reading.template()));
    let phrases = phrases(reading.body());
    let rule = phrases.iter().map(|phrase| rule(row, &reading, phrase, written)).find(|rule| {
        let alone = Rules::from_files(&[("skeleton", rule.0.as_str())]);
        alone.is_ok_and(|rules| rules.check_examples().is_empty())
    });
    match rule {
        Some((rule, id)) => {
            written.0.insert(id);
            text.push_str(&rule);
        }
        None => {
            let _ = writeln!(text, "# It has no words to know it by. Its sample: {}", one_line(&row.diagnostic));
        }
    }
    text
}

fn rule(row: &Unmatched, reading: &Reading, phrase: &str, written: &Written) -> (String, String) {
    let id = id(phrase, row.pattern, written);
    let mut text = format!("[[rule]]\nid = {}\npriority = {PRIORITY}\n", quoted(&id));
    let code = reading.enhanced_code().map(|code| code.to_string()).unwrap_or_default();
    let _ = writeln!(text, "any = [{}]", quoted(phrase));
    if !matches!(row.isp.as_str(), "" | "other" | "local") {
        let _ = writeln!(text, "# provider = [{}]", quoted(&row.isp));
    }
    if reading.reply_code() != 0 {
        let _ = writeln!(text, "# reply = [\"{}\"]", reading.reply_code());
    }
    if !code.is_empty() {
        let _ = writeln!(text, "# enhanced = [\"{code}\"]");
    }
    if reading.command() != Command::None {
        let _ = writeln!(text, "# command = [\"{}\"]", reading.command().as_str());
    }
    text.push_str(
        "category = \"unknown\"         # say what it means; a category of your own needs severity, root_cause and blocked\n",
    );
    text.push_str("# severity = \"soft\"          # hard, by_code (hard unless the code is a 4xx), soft or deferred\n");
    text.push_str(
        "# root_cause = \"unknown\"     # list, content, authentication, infrastructure, throttling, reputation or mailbox\n",
    );
    text.push_str("# blocked = false            # true: the sender or the content was refused, not the recipient\n");
    let mut example = format!("text = {}", quoted(&row.diagnostic));
    for (name, value) in [("enhanced", &row.enhanced_code), ("command", &row.command), ("isp", &row.isp), ("mx", &row.mx_host)] {
        if !value.is_empty() {
            let _ = write!(example, ", {name} = {}", quoted(value));
        }
    }
    if row.reply_code != 0 {
        let _ = write!(example, ", reply = {}", row.reply_code);
    }
    let _ = writeln!(text, "examples = [{{ {example} }}]");
    let _ = writeln!(text, "source = \"seen {} times until {}\"", row.failures, evidence::time(row.last));
    (text, id)
}

/// What may stand for the reply: runs of words between what was masked, the longest first.
fn phrases(body: &str) -> Vec<String> {
    let runs = body.split(['<', '>']).enumerate().filter(|(number, _)| number % 2 == 0).map(|(_, run)| run);
    let mut phrases: Vec<String> = runs.map(shorten).filter(|run| run.chars().count() >= SHORTEST_PHRASE).collect();
    phrases.sort_by_key(|phrase| std::cmp::Reverse(phrase.len()));
    phrases.truncate(8);
    phrases
}

/// The beginning of a run, up to the end of a sentence or of a word.
fn shorten(run: &str) -> String {
    let edge = |c: char| !c.is_alphanumeric();
    let mut run = run.trim_matches(edge);
    if let Some((sentence, _)) = run.split_once(". ").filter(|(sentence, _)| sentence.len() >= 2 * SHORTEST_PHRASE) {
        run = sentence;
    }
    if let Some((end, _)) = run.char_indices().nth(LONGEST_PHRASE) {
        run = run[..end].rsplit_once(' ').map_or(&run[..end], |(words, _)| words);
    }
    run.trim_matches(edge).to_owned()
}

fn id(phrase: &str, pattern: u64, written: &Written) -> String {
    let words: Vec<&str> = phrase.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).take(5).collect();
    let id = if words.is_empty() { format!("own.pattern_{pattern:016x}") } else { format!("own.{}", words.join("_")) };
    if written.0.contains(&id) { format!("{id}_{pattern:016x}") } else { id }
}

/// A TOML string on one line.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn row(diagnostic: &str) -> Unmatched {
        Unmatched {
            pattern: 0xabc,
            failures: 7,
            last: 1_790_000_000_000,
            isps: vec!["gmail".into(), "other".into()],
            diagnostic: diagnostic.into(),
            reply_code: 554,
            enhanced_code: "5.7.1".into(),
            command: "data".into(),
            event_type: "bounce".into(),
            isp: "gmail".into(),
            mx_host: "mx.example.org".into(),
            recipient_domain: "example.org".into(),
            rule: "fallback.550_data".into(),
            category: "policy".into(),
        }
    }

    #[test]
    fn every_skeleton_is_a_rule_that_wins_its_sample() {
        let mut written = Written::default();
        let mut file = String::new();
        let samples = [
            "554 5.7.1 The quokka of 192.0.2.7 refuses <kim@example.org> today: \"ask\" https://example.org/x?y=1 \\ later",
            "554 5.7.1 The quokka of 192.0.2.8 refuses everything",
            "554 5.7.1 こちらの有袋類は本日お休みです",
            "554 5.7.1 first line\r\nsecond\tline\u{7f} of the quokka's reply",
            "554-5.7.1 zzz yyy. Long ago a quokka wrote a very long reply that went on and on until nobody would read it any more, at all",
        ];
        for sample in samples {
            let text = skeleton(&row(sample), &mut written);
            assert!(text.contains("[[rule]]"), "{text}");
            file += &text;
        }
        let rules = Rules::with_files(&[("own.toml", &file)]).unwrap_or_else(|e| panic!("{e}\n{file}"));
        let own: Vec<_> = rules.iter().filter(|rule| rule.place().0 == "own.toml").collect();
        assert_eq!(own.len(), samples.len(), "{file}");
        assert_eq!(rules.check_examples(), [], "{file}");
        // Short enough not to quote one sample, and never what was masked.
        assert!(file.contains("any = [\"the quokka of\"]") || file.contains("any = [\"refuses everything\"]"), "{file}");
        for line in file.lines().filter(|line| line.starts_with("any = ")) {
            assert!(line.chars().count() <= LONGEST_PHRASE + 10 && !line.contains('<'), "{line}");
        }
    }

    #[test]
    fn a_reply_without_words_becomes_no_rule() {
        for sample in ["", "554", "554 5.7.1", "554 5.7.1 <kim@example.org>", "554 no"] {
            let text = skeleton(&row(sample), &mut Written::default());
            assert!(text.lines().all(|line| line.starts_with("# ")), "{text}");
        }
    }
}
