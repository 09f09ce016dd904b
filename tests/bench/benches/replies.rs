//! Speed of classification over the development half of the labelled replies, on one thread, rules loaded once: the whole of it,
//! matching alone, behind the pattern cache, beside one RegexSet of the same rules, and with two and four times the rules.
//! No server. Settings: BENCH_ROUNDS.
#![allow(clippy::print_stdout, reason = "a benchmark reports to its terminal")]

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bounceflow_bench::{median, percentile, write_figures};
use bounceflow_classify::{Classifier, Reading, Reply, Rules, redact};
use bounceflow_enrich::{Isps, normalize_domain};
use bounceflow_event::EventType;
use regex::{RegexSet, RegexSetBuilder};
use serde_json::Value;
use toml::{Table, Value as Toml};

const CORPUS: [&str; 2] = ["replies-dev.jsonl", "replies-recent-dev.jsonl"];
/// Passes over all replies within one measured round: long enough for the clock, short enough to be left alone by other programs.
const PASSES: usize = 8;
/// Replies in one skewed stream; several streams, as what is drawn most decides much.
const STREAM: usize = 20_000;
const STREAMS: usize = 9;
const VARIANTS: usize = 8;
/// One in so many of a stream has words nobody sent before.
const NEW_ONE_IN: u64 = 100;

fn main() -> Result<()> {
    let rounds: usize = std::env::var("BENCH_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(41);
    let samples = corpus()?;
    let files = rule_files()?;
    let rules = [1, 2, 4].map(|times| grown(&files, times)).into_iter().collect::<Result<Vec<_>>>()?;
    let [once, twice, four_times] = &rules[..] else { anyhow::bail!("three sizes") };
    ensure!(once.version() == Rules::builtin()?.version(), "the rules' folder is not what this was built with");
    let compiled_mb = |rules: &Rules| rules.automaton_bytes() as f64 / 1e6;
    let bytes: usize = samples.iter().map(|s| s.diagnostic.len()).sum();
    println!(
        "\nreplies: {} of {} bytes on average, {} rules, one thread",
        samples.len(),
        bytes / samples.len(),
        once.iter().len()
    );

    let readings: Vec<Reading> = samples.iter().map(Sample::read).collect();
    let naive = Naive::new(&files)?;
    for reading in &readings {
        for grown in [twice, four_times] {
            ensure!(
                once.classify(reading).rule == grown.classify(reading).rule,
                "more rules decide {:?} anew",
                reading.template()
            );
        }
    }

    let mut reading = Reading::new();
    let mut whole = |rules: &Rules| {
        per_reply(samples.len(), || {
            for sample in &samples {
                reading.read(&sample.reply());
                black_box((reading.fingerprint(), rules.classify(&reading)));
            }
        })
    };
    let matching = |rules: &Rules| {
        per_reply(samples.len(), || {
            for reading in &readings {
                black_box(rules.classify(reading));
            }
        })
    };
    // In turn within a round, so that what else the machine does slows all of them alike.
    let mut taken: [Vec<f64>; 6] = Default::default();
    for _ in 0..rounds {
        let round = [whole(once), whole(twice), whole(four_times), matching(once), matching(twice), matching(four_times)];
        taken.iter_mut().zip(round).for_each(|(all, one)| all.push(one));
    }
    let [whole1, whole2, whole4, match1, match2, match4] = taken.map(|all| median(&all));
    let set_shipped = naive_ns(&naive.shipped, &readings);
    let set_larger = naive_ns(&naive.larger, &readings);
    let each = one_by_one(&samples, once, rounds);
    println!("  whole, no cache   {whole1:>7.0} ns per reply (mean over the replies, median of {rounds} rounds)");
    println!(
        "    reply by reply  {:>7.0} ns median, {:.0} ns at 95 %, {:.0} ns the slowest",
        median(&each),
        percentile(&each, 0.95),
        percentile(&each, 1.0)
    );
    println!("  matching alone    {match1:>7.0} ns");

    let (cached, uncached, new) = streams(&samples, once)?;
    println!(
        "  with the cache    {cached:>7.0} ns over Zipf streams of {STREAM}, addresses and numbers varying, {:.1} % never seen \
         ({uncached:.0} ns without the cache)",
        new * 100.0
    );
    println!(
        "  one RegexSet      {set_shipped:>7.0} ns as shipped, {set_larger:.0} ns with a DFA limit of 1 GiB ({})",
        naive.told
    );
    println!("  growth            rules, compiled, whole, matching");
    for (rules, whole, matching) in [(once, whole1, match1), (twice, whole2, match2), (four_times, whole4, match4)] {
        println!(
            "    {:>5} rules  {:>6.2} MB  {whole:>6.0} ns ({:.2}x)  {matching:>6.0} ns ({:.2}x)",
            rules.iter().len(),
            compiled_mb(rules),
            whole / whole1,
            matching / match1
        );
    }
    let ms_megabyte = megabyte(once);
    println!("  a 1 MB diagnostic {ms_megabyte:>7.3} ms, classified and redacted (the slowest of {} kinds)", MEGABYTES.len());

    let figures = [
        ("ns_per_reply", whole1),
        ("ns_match", match1),
        ("ns_cached", cached),
        ("ns_regexset", set_shipped),
        ("rules", once.iter().len() as f64),
        ("compiled_mb", compiled_mb(once)),
        ("growth_4x", whole4 / whole1),
        ("ns_median_reply", median(&each)),
        ("ns_regexset_larger_dfa", set_larger),
        ("growth_4x_match", match4 / match1),
        ("ms_megabyte", ms_megabyte),
    ];
    write_figures("replies", &figures)
}

/// A labelled reply, as much of it as classification sees.
#[derive(Clone)]
struct Sample {
    event: Option<EventType>,
    reply_code: u16,
    enhanced_code: String,
    diagnostic: String,
    command: String,
    isp: String,
    mx_host: String,
    domain: String,
}

impl Sample {
    fn reply(&self) -> Reply<'_> {
        Reply {
            event: self.event,
            reply_code: self.reply_code,
            enhanced_code: &self.enhanced_code,
            diagnostic: &self.diagnostic,
            command: &self.command,
            isp: &self.isp,
            mx_host: &self.mx_host,
            recipient_domain: &self.domain,
        }
    }

    fn read(&self) -> Reading {
        let mut reading = Reading::new();
        reading.read(&self.reply());
        reading
    }
}

fn corpus() -> Result<Vec<Sample>> {
    let isps = Isps::builtin()?;
    let folder = root().join("../shared/corpus");
    let mut samples = Vec::new();
    for name in CORPUS {
        let file = folder.join(name);
        let text = fs::read_to_string(&file).with_context(|| {
            format!("{} is missing: the labelled replies stand in `shared`, beside the project", file.display())
        })?;
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| format!("{}", file.display()))?;
            let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            let (mx_host, domain) = (text("mx_host"), text("recipient_domain"));
            let domain = normalize_domain(&domain).unwrap_or_default().into_owned();
            samples.push(Sample {
                event: text("event").parse().ok(),
                reply_code: line["reply_code"].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
                enhanced_code: text("enhanced_code"),
                diagnostic: text("diagnostic"),
                command: text("smtp_command"),
                isp: isps.id(isps.of(&domain, &mx_host)).to_owned(),
                mx_host,
                domain,
            });
        }
    }
    Ok(samples)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Nanoseconds per reply of one round.
fn per_reply(replies: usize, mut pass: impl FnMut()) -> f64 {
    let started = Instant::now();
    for _ in 0..PASSES {
        pass();
    }
    started.elapsed().as_nanos() as f64 / (PASSES * replies) as f64
}

/// Nanoseconds of each reply, the median of its rounds; the clock's own time is in them.
fn one_by_one(samples: &[Sample], rules: &Rules, rounds: usize) -> Vec<f64> {
    let mut reading = Reading::new();
    let mut taken = vec![Vec::with_capacity(rounds); samples.len()];
    for _ in 0..rounds {
        for (sample, taken) in samples.iter().zip(&mut taken) {
            let started = Instant::now();
            reading.read(&sample.reply());
            black_box((reading.fingerprint(), rules.classify(&reading)));
            taken.push(started.elapsed().as_nanos() as f64);
        }
    }
    taken.iter().map(|taken| median(taken)).collect()
}

/// Streams in which the n-th most frequent reply comes with weight 1/n, each time to another address: nanoseconds per reply with
/// the cache and without, and the share of replies whose pattern the cache cannot know.
fn streams(samples: &[Sample], rules: &Arc<Rules>) -> Result<(f64, f64, f64)> {
    let mut random = Random(1);
    let variants: Vec<Vec<Sample>> = samples.iter().map(|s| (0..VARIANTS).map(|_| varied(s, &mut random)).collect()).collect();
    let texts: HashSet<&str> = variants.iter().flatten().map(|s| &*s.diagnostic).collect();
    ensure!(texts.len() > samples.len() * VARIANTS / 3, "only {} texts vary", texts.len());
    let weights: Vec<f64> = (1..=samples.len()).map(|n| 1.0 / n as f64).collect();
    let all: f64 = weights.iter().sum();
    let (mut cached, mut uncached, mut new) = (Vec::new(), Vec::new(), 0);
    let mut reading = Reading::new();
    for _ in 0..STREAMS {
        let mut ranks: Vec<usize> = (0..samples.len()).collect();
        (1..ranks.len()).rev().for_each(|i| ranks.swap(i, random.below(i as u64 + 1) as usize));
        let mut fresh = Vec::new();
        let mut drawn = Vec::with_capacity(STREAM);
        for _ in 0..STREAM {
            let mut left = random.below(1 << 32) as f64 / (1u64 << 32) as f64 * all;
            let n = weights.iter().position(|w| (left -= w, left < 0.0).1).unwrap_or(0);
            let variant = &variants[ranks[n]][random.below(VARIANTS as u64) as usize];
            let known = random.below(NEW_ONE_IN) > 0;
            if !known {
                fresh.push(Sample { diagnostic: format!("{} {}", variant.diagnostic, random.word()), ..variant.clone() });
            }
            drawn.push(if known { Ok(variant) } else { Err(fresh.len() - 1) });
        }
        new += fresh.len();
        let stream: Vec<Reply<'_>> = drawn.into_iter().map(|d| d.map_or_else(|n| fresh[n].reply(), Sample::reply)).collect();
        let mut classifier = Classifier::new(Arc::clone(rules));
        let started = Instant::now();
        for reply in &stream {
            black_box(classifier.classify(reply).verdict);
        }
        cached.push(started.elapsed().as_nanos() as f64 / STREAM as f64);
        let started = Instant::now();
        for reply in &stream {
            reading.read(reply);
            black_box(rules.classify(&reading));
        }
        uncached.push(started.elapsed().as_nanos() as f64 / STREAM as f64);
    }
    Ok((median(&cached), median(&uncached), new as f64 / (STREAM * STREAMS) as f64))
}

/// The same reply to another recipient, at another time: another local part, other digits, where the pattern stays the same.
fn varied(sample: &Sample, random: &mut Random) -> Sample {
    let pattern = sample.read().fingerprint();
    let mut varied = sample.clone();
    for word in sample.diagnostic.split([' ', '<', '>', '(', ')', '[', ']', '\n', '"', '\'', ',', ';']) {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let other = match word.split_once('@') {
            Some((_, host)) => format!("{}@{host}", random.word()),
            None if digits >= 3 && word.len() > 5 => word
                .chars()
                .map(|c| if c.is_ascii_digit() && c != '0' { char::from(b'1' + random.below(9) as u8) } else { c })
                .collect(),
            None => continue,
        };
        let before = std::mem::take(&mut varied.diagnostic);
        varied.diagnostic = before.replacen(word, &other, 1);
        if varied.read().fingerprint() != pattern {
            varied.diagnostic = before;
        }
    }
    varied
}

/// The same numbers in every run: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn word(&mut self) -> String {
        let length = 6 + self.below(6);
        (0..length)
            .map(|i| char::from(if i % 2 == 0 { b"bdfgklmnprst" } else { b"aeiouaeiouae" }[self.below(12) as usize]))
            .collect()
    }
}

fn rule_files() -> Result<Vec<(String, String)>> {
    // In the order they are built in: the version depends on it.
    let builtin = fs::read_to_string(root().join("processors/classify/src/builtin.rs"))?;
    let (_, list) = builtin.split_once("files![").context("list of files in builtin.rs")?;
    let (list, _) = list.split_once(']').context("end of the list in builtin.rs")?;
    let names = list.split(',').map(|n| n.trim().trim_matches('"')).filter(|n| !n.is_empty());
    names
        .map(|name| {
            let name = format!("{name}.toml");
            Ok((name.clone(), fs::read_to_string(root().join("processors/classify/rules").join(&name))?))
        })
        .collect()
}

/// The rules, and `times - 1` copies of each: under another id, with every word of its phrases turned into another word of the same
/// shape, so that none is found more often than a provider's own wording would be. A copy that has no words to change asks for a
/// provider nobody has.
fn grown(files: &[(String, String)], times: usize) -> Result<Arc<Rules>> {
    let mut all = files.to_vec();
    for copy in 1..times {
        for (name, text) in files {
            let mut file: Table = text.parse().with_context(|| name.clone())?;
            for rule in rules_of(&mut file) {
                if let Some(Toml::String(id)) = rule.get_mut("id") {
                    id.push_str(&format!("_copy{copy}"));
                }
                let mut changed = false;
                for list in ["any", "all"] {
                    for phrase in rule.get_mut(list).and_then(Toml::as_array_mut).into_iter().flatten() {
                        let Toml::String(text) = phrase else { continue };
                        let other = turned(text, copy);
                        if survives(&other) {
                            changed |= *text != other;
                            *text = other;
                        }
                    }
                }
                if !changed {
                    rule.insert("provider".into(), Toml::Array(vec![format!("nobody_{copy}").into()]));
                }
            }
            all.push((format!("copy{copy}_{name}"), toml::to_string(&file)?));
        }
    }
    let files: Vec<(&str, &str)> = all.iter().map(|(name, text)| (&**name, &**text)).collect();
    Ok(Arc::new(Rules::from_files(&files)?))
}

fn rules_of(file: &mut Table) -> impl Iterator<Item = &mut Table> {
    file.get_mut("rule").and_then(Toml::as_array_mut).into_iter().flatten().filter_map(Toml::as_table_mut)
}

/// Vowels become other vowels, consonants other consonants: the masking treats such words alike. Codes and placeholders stay.
fn turned(phrase: &str, by: usize) -> String {
    const VOWELS: &[u8] = b"aeiou";
    const OTHERS: &[u8] = b"bcdfghjklmnpqrstvwxz";
    let turn = |c: char| {
        let next = |all: &[u8]| all.iter().position(|b| char::from(*b) == c).map(|at| char::from(all[(at + by) % all.len()]));
        next(VOWELS).or_else(|| next(OTHERS)).unwrap_or(c)
    };
    phrase
        .split_inclusive(' ')
        .map(|w| if w.contains(|c: char| c.is_ascii_digit() || c == '<') { w.to_owned() } else { w.chars().map(turn).collect() })
        .collect()
}

/// A rule file of this phrase alone is accepted.
fn survives(phrase: &str) -> bool {
    let text = format!("[[rule]]\nid = \"a.b\"\npriority = 1\ncategory = \"policy\"\nany = [{:?}]", phrase);
    Rules::from_files(&[("phrase", &text)]).is_ok()
}

/// What one would write first: all phrases and regular expressions of all rules in one RegexSet over the folded text. Which rule
/// wins is then still to be found out.
struct Naive {
    shipped: RegexSet,
    larger: RegexSet,
    told: String,
}

impl Naive {
    fn new(files: &[(String, String)]) -> Result<Self> {
        let mut patterns = BTreeSet::new();
        let (mut rules, mut left_out) = (0, 0);
        for (name, text) in files {
            let mut file: Table = text.parse().with_context(|| name.clone())?;
            for rule in rules_of(&mut file) {
                let phrases = ["any", "all", "none"].into_iter().filter_map(|list| rule.get(list)?.as_array()).flatten();
                let translated: Vec<String> = phrases
                    .filter_map(|phrase| phrase.as_str().map(between_word_ends))
                    .chain(rule.get("regex").and_then(Toml::as_str).map(|regex| regex.replace(r"\b", r"(?-u:\b)")))
                    .collect();
                (rules, left_out) = (rules + 1, left_out + usize::from(translated.is_empty()));
                patterns.extend(translated);
            }
        }
        let told = format!(
            "{} patterns of {} rules: each phrase escaped, \\b at its closed ends, each regex as written but for its \\b, taken as ASCII; {left_out} rules of codes left out",
            patterns.len(),
            rules - left_out
        );
        let mut builder = RegexSetBuilder::new(&patterns);
        builder.size_limit(1 << 30);
        Ok(Self { shipped: builder.build()?, larger: builder.dfa_size_limit(1 << 30).build()?, told })
    }
}

/// Nanoseconds per reply: the best of a few passes, the first of which fills its cache.
fn naive_ns(set: &RegexSet, readings: &[Reading]) -> f64 {
    let pass = || {
        let started = Instant::now();
        readings.iter().for_each(|reading| drop(black_box(set.matches(reading.template()))));
        started.elapsed().as_nanos() as f64 / readings.len() as f64
    };
    (0..5).map(|_| pass()).fold(f64::MAX, f64::min)
}

fn between_word_ends(written: &str) -> String {
    let text = written.trim_matches('*');
    let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let left = if !written.starts_with('*') && word(text.chars().next()) { r"(?-u:\b)" } else { "" };
    let right = if !written.ends_with('*') && word(text.chars().last()) { r"(?-u:\b)" } else { "" };
    format!("{left}{}{right}", regex::escape(text))
}

/// What a megabyte may repeat: words, an open wrapper, one word without an end, brackets, addresses, other scripts.
const MEGABYTES: [&str; 7] =
    ["550 5.1.1 user unknown ", "host x said: ", "a", "((((<<<<", "a@b.c,", "\u{65e5}\u{672c} ", "\"x\" @y "];

/// Milliseconds for a diagnostic of a megabyte: the median of a few rounds, of the slowest kind.
fn megabyte(rules: &Arc<Rules>) -> f64 {
    let mut classifier = Classifier::new(Arc::clone(rules));
    let mut redacted = String::new();
    let mut time = |text: &str| {
        let started = Instant::now();
        black_box(classifier.classify(&Reply { diagnostic: text, ..Reply::default() }).verdict);
        redact(text, &mut redacted);
        started.elapsed().as_secs_f64() * 1e3
    };
    let slowest = MEGABYTES.map(|piece| {
        let text = piece.repeat((1 << 20) / piece.len() + 1);
        median(&(0..9).map(|_| time(&text)).collect::<Vec<_>>())
    });
    percentile(&slowest, 1.0)
}
