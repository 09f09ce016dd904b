//! `bounceflow erase`: removes people from `failures` and from the dead letter's reach, and says who else may hold them until when.
//!
//! Read it from the top: [`run`] reads the request, [`erase`] waits until nothing of the people is on its way, settles their dead letters
//! and deletes their rows; `report` tells of it. No address is printed, logged or sent to ClickHouse, whose logs keep queries.
//! It can be run again after being broken off anywhere: each step finds what is left to do.

mod report;
mod search;
mod settled;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bounceflow_enrich::domain_of;
use bounceflow_warehouse::{Erasure, Person, Shards};
use rdkafka::Message;
use sha2::{Digest, Sha256};

use crate::config::{self, Config, Mistakes};
use crate::dead_letter::letter::each_header;
use crate::dead_letter::resend::{Mark, explain, mark, take_over};
use crate::dead_letter::shelf::{Place, Shelf, State};
use crate::dead_letter::transactional_id;
use crate::kafka::{self, Producer};
use crate::process::{lowered, recipient_hashes};
use crate::progress::note;
use report::{Letter, Report, Rows};
pub use search::Search;
use settled::Settled;

/// Marks in one transaction.
const MOST_MARKS: usize = 1000;

/// Remove people from `failures` and from the dead letters, and say what else holds them until when
///
/// Rows are found by the hash under every key of the configuration (recipient.key_file and recipient.old_key_files) and, where plain
/// addresses are kept, by those. Counts stay: they are about nobody. Waits until what was in Kafka when it began is settled, so that
/// nothing comes behind. Who is erased is remembered by hash, so that `bounceflow replay` does not bring them back when it counts older input
/// again; mail sent to them later is counted as ever. Refused while a replay is neither swapped in nor discarded: its tables hold people too.
#[derive(clap::Args)]
#[command(after_help = "\
An address on the command line can be seen by others on this machine: prefer --file. None is printed or logged.
Exit code 1 where something on its way could not be waited for (run it again when the roles have caught up) and where a replay is not
ended (it says which, and how to end it).

Example:
  bounceflow erase --config bounceflow.toml --file people.txt --dry-run
  bounceflow erase --config bounceflow.toml --recipient kim@example.net --yes --json")]
pub struct Args {
    /// Configuration file
    #[arg(long, short, env = "BOUNCEFLOW_CONFIG", default_value = "bounceflow.toml")]
    config: PathBuf,
    /// Whom to erase; may be repeated
    #[arg(long, value_name = "ADDRESS", required_unless_present = "file")]
    recipient: Vec<String>,
    /// File of addresses, one a line; `-` for standard input
    #[arg(long)]
    file: Option<PathBuf>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before removing
    #[arg(long, short)]
    yes: bool,
    /// Wait so many seconds at most for classify and sink to settle what is in Kafka
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    wait: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Whom to erase, in every way they are known.
struct People {
    addresses: Vec<String>,
    persons: Vec<Person>,
    salt: String,
    digests: Vec<String>,
    search: Search,
}

/// Answers on standard output.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let people = People::new(&config.recipient, addresses(&args)?)?;
    if !args.dry_run && !args.yes && !confirmed(&args, people.addresses.len())? {
        note(format_args!("nothing was removed"));
        return Ok(ExitCode::from(1));
    }
    let report = erase(&config, &people, &args)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(if report.complete { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn erase(config: &Config, people: &People, args: &Args) -> anyhow::Result<Report> {
    let runtime = crate::command::one_thread()?;
    let shards = Shards::new(config.clickhouse.clone())?;
    // Before anything is touched: that the tables are this version's, that every shard answers, and that no replay holds people.
    runtime.block_on(shards.check())?;
    runtime.block_on(shards.check_no_replay())?;
    let now = jiff::Timestamp::now().as_millisecond();
    let wait = if args.dry_run { Duration::ZERO } else { Duration::from_secs(args.wait) };
    if !args.dry_run {
        runtime.block_on(shards.remember_erased(&people.persons, now))?;
    }
    // Before the roles are waited for, so that what a `dead-letter resend` sent is waited for too. One that begins later takes the id from
    // this run, which then ends with an error at the first letter it has to mark.
    let producer = if args.dry_run { None } else { Some(take_over(config)?) };
    let (waiting, sink) = wait_for_roles(config, Instant::now() + wait)?;
    let letters = erase_letters(config, people, producer.as_ref())?;
    let topic = &config.topics.failures;
    let erasure = Erasure { people: &people.persons, salt: &people.salt, digests: &people.digests, topic, settled: &sink.to };
    let found = runtime.block_on(shards.count_rows_of(&erasure))?;
    if !args.dry_run && !found.is_empty() {
        // One that was begun while this waited took the rows along.
        runtime.block_on(shards.check_no_replay())?;
        runtime.block_on(shards.erase_rows_of(&erasure))?;
        let left = runtime.block_on(shards.count_rows_of(&erasure))?;
        anyhow::ensure!(
            left.is_empty(),
            "{} rows are still there after the deletion; run this again",
            left.values().sum::<u64>()
        );
    }
    let lifetime = runtime.block_on(shards.old_parts_lifetime())?;
    let rows = Rows { total: found.values().sum(), by_key: by_key(people, found), old_files_seconds: lifetime };
    Ok(Report {
        dry_run: args.dry_run,
        people: people.addresses.len(),
        complete: waiting.is_empty(),
        waiting,
        rows,
        dead_letters: letters,
        held: report::held(config, now)?,
    })
}

/// Waits for classify, then for the sink to settle what classify made of it. Returns what was not settled in time, and how far the sink is.
fn wait_for_roles(config: &Config, deadline: Instant) -> anyhow::Result<(Vec<String>, Settled)> {
    let mut waiting = Vec::new();
    for input in &config.inputs {
        let group = format!("{}.classify.{}", config.deployment, input.topic);
        if !settled::wait(config, &group, &input.topic, deadline)?.all {
            waiting.push(format!("classify has not settled all of {}", input.topic));
        }
    }
    let topic = &config.topics.failures;
    let sink = settled::wait(config, &format!("{}.sink", config.deployment), topic, deadline)?;
    if !sink.all {
        waiting.push(format!("sink has not settled all of {topic}"));
    }
    Ok((waiting, sink))
}

/// Finds the letters that hold somebody and takes them out of reach; without a producer this is a trial.
fn erase_letters(config: &Config, people: &People, producer: Option<&Producer>) -> anyhow::Result<report::Letters> {
    let topic = &config.topics.dead_letter;
    if producer.is_some() {
        // What the roles settled is committed, but not in every topic at the same moment.
        kafka::wait_until_stable(&config.kafka, topic)?;
    }
    let mut places: BTreeSet<Place> = BTreeSet::new();
    let shelf = Shelf::read(config, |place, record| {
        let search = &people.search;
        let mut found = search.finds(record.payload().unwrap_or_default()) || search.finds(record.key().unwrap_or_default());
        each_header(record, |_, value| found |= search.finds(value.unwrap_or_default()));
        if found {
            places.insert(place);
        }
    })?;
    let found: Vec<_> = places.iter().filter_map(|place| Some((*place, shelf.letters.get(place)?))).collect();
    if let Some(producer) = producer {
        let id = transactional_id(config);
        let open: Vec<_> = found.iter().filter(|(_, letter)| letter.state != State::Erased).collect();
        for some in open.chunks(MOST_MARKS) {
            producer.begin().map_err(|e| explain(e, &id))?;
            for (place, letter) in some {
                let mark_of = Mark { place: *place, letter, topic: shelf.topic(letter), state: State::Erased };
                mark(producer, topic, mark_of).map_err(|e| explain(e, &id))?;
            }
            producer.commit_without_offsets().map_err(|e| explain(e, &id))?;
        }
    }
    let kept = report::Kept::of(config, topic)?;
    let letters = found.iter().map(|(place, letter)| Letter::new(place, letter, &kept)).collect();
    Ok(report::Letters { letters, compacted: kept.compacted })
}

/// Every key of the configuration, also those without a row.
fn by_key(people: &People, mut found: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    for person in &people.persons {
        found.entry(person.key_id.clone()).or_insert(0);
    }
    found
}

impl People {
    fn new(recipient: &config::Recipient, addresses: Vec<String>) -> anyhow::Result<Self> {
        let mut persons = HashSet::new();
        for address in &addresses {
            for spelling in spellings(address) {
                let hashes = recipient_hashes(recipient, &spelling);
                persons.extend(hashes.into_iter().map(|(key_id, hash)| Person { key_id, hash: hash.0 }));
            }
        }
        let mut persons: Vec<Person> = persons.into_iter().collect();
        persons.sort_unstable();
        let salt = format!("{:032x}", rand::random::<u128>());
        let digests = addresses.iter().flat_map(|address| spellings(address)).map(|a| digest(&salt, &a)).collect();
        let hashes: Vec<[u8; 16]> = persons.iter().map(|person| person.hash).collect();
        let search = Search::new(&addresses, &hashes).context("too many addresses for one run; split the file")?;
        Ok(Self { addresses, persons, salt, digests, search })
    }
}

/// With its domain as DNS has it, which is what `process` hashes; and what earlier versions hashed, which took a recipient as it stood:
/// as it was given, and either in brackets.
fn spellings(address: &str) -> BTreeSet<String> {
    let mut spellings = BTreeSet::from([lowered(address)]);
    if let (Some((local, _)), Some(domain)) = (address.rsplit_once('@'), domain_of(address)) {
        spellings.insert(lowered(&format!("{local}@{domain}")));
    }
    let bracketed: Vec<String> = spellings.iter().map(|address| format!("<{address}>")).collect();
    spellings.extend(bracketed);
    spellings
}

fn digest(salt: &str, address: &str) -> String {
    Sha256::digest(format!("{salt}{address}")).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The addresses asked for. Mistakes are told by their place, never by their text.
fn addresses(args: &Args) -> anyhow::Result<Vec<String>> {
    let mut named: Vec<(String, String)> = args
        .recipient
        .iter()
        .enumerate()
        .map(|(i, address)| (format!("--recipient number {}", i + 1), address.clone()))
        .collect();
    if let Some(file) = &args.file {
        let read =
            if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
        let text = read.map_err(|e| Mistakes(vec![format!("--file {}: {e}", file.display())]))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        named.extend(lines.map(|(i, line)| (format!("{} line {}", file.display(), i + 1), line.to_owned())));
    }
    let (mut addresses, mut mistakes) = (BTreeSet::new(), Vec::new());
    for (place, address) in named {
        let address = address.trim();
        match address.rsplit_once('@') {
            Some((local, _)) if !local.is_empty() && !address.contains(['<', '>', ' ', ',']) && domain_of(address).is_some() => {
                addresses.insert(address.to_owned());
            }
            _ => mistakes.push(format!("{place}: not an address such as kim@example.net")),
        }
    }
    if mistakes.is_empty() && addresses.is_empty() {
        mistakes.push("no address is named".to_owned());
    }
    if mistakes.is_empty() { Ok(addresses.into_iter().collect()) } else { Err(Mistakes(mistakes).into()) }
}

fn confirmed(args: &Args, people: usize) -> anyhow::Result<bool> {
    let question = format!("Erase {people} {} for good?", if people == 1 { "person" } else { "people" });
    let readable = std::io::stdin().is_terminal() && args.file.as_ref().is_none_or(|file| file.as_os_str() != "-");
    anyhow::ensure!(readable, "{question} Nobody can answer here: say --yes, or look first with --dry-run");
    write!(std::io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use bounceflow_event::{DeliveryEvent, EventType, Item, Millis};

    use super::*;
    use crate::process::{Outcome, Position, Scratch, Tables, process};

    #[test]
    fn what_is_asked_for_is_what_was_hashed() {
        let config = Config::parse("[kafka]\n\"bootstrap.servers\" = \"x\"\n").unwrap();
        let tables = Tables::new(&config).unwrap();
        let people = |address: &str| People::new(&config.recipient, vec![address.to_owned()]).unwrap();
        for (asked, written) in [
            ("kim@example.net", "kim@example.net"),
            ("kim@example.net", "<kim@example.net>"),
            ("KIM@Example.net", "Kim Lee <Kim@EXAMPLE.net>"),
            ("kim@example.net.", " kim@example.net "),
            ("kim@example.net", "kim@example.net."),
            ("jörg@bücher.example", "<Jörg@Bücher.example>"),
            // A sigma at the end of a word is another small letter than one within.
            ("ΝΙΚΟΣ@example.gr", "ΝΙΚΟΣ@example.gr"),
            ("jörg@xn--bcher-kva.example", "jörg@bücher.example"),
            ("jörg@bücher.example", "jörg@xn--bcher-kva.example"),
        ] {
            let item = Item::Event(DeliveryEvent::new(EventType::Bounce, Millis(1_790_000_000_000), written));
            let position = Position { topic: "t", partition: 0, offset: 0, timestamp: None };
            let mut scratch = Scratch::new(&tables);
            let Outcome::Fail(_, failure) = process(&tables, &mut scratch, position, 0, &item) else { panic!("{written}") };
            let hash = failure.recipient_hash.0;
            assert!(people(asked).persons.iter().any(|person| person.hash == hash), "{asked} and {written}");
        }
        // As earlier versions took them.
        for written in ["kim@example.net", "<Kim@example.net>"] {
            let (_, hash) = recipient_hashes(&config.recipient, written).remove(0);
            let kim = people("kim@Example.net");
            assert!(kim.persons.iter().any(|person| person.hash == hash.0), "{written}");
            assert!(kim.digests.contains(&digest(&kim.salt, &written.to_lowercase())), "{written}");
        }
    }
}
