//! `bounceflow dead-letter resend`: letters back to the topics they came from, each once.
//!
//! **Invariant:** the record that is sent and the marks that settle its letters are one transaction, written under one transactional id
//! per deployment; what is sent is decided after that id was taken over and everything it ever wrote can be read. So whoever comes later
//! ends whoever came before, and sees all of what that one did.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use serde::Serialize;

use super::letter::{MARK, MARK_LETTER, REFUSED_BY_CLICKHOUSE, Resent, identity, own_headers, with_own};
use super::shelf::{By, Headers, Letter, Place, Shelf, State};
use super::{Filter, transactional_id};
use crate::config::Config;
use crate::health::Health;
use crate::kafka::{self, Producer, TransactionError};
use crate::progress::{Progress, note};
use crate::stop::Stop;

/// A transaction ends after so many records or bytes.
const MOST_RECORDS: usize = 200;
const MOST_BYTES: usize = 8 << 20;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Which letters, as `list` names them: PARTITION:OFFSET
    #[arg(value_name = "PARTITION:OFFSET", conflicts_with_all = ["reason", "from", "to", "by"])]
    places: Vec<Place>,
    #[command(flatten)]
    filter: Filter,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before sending
    #[arg(long, short)]
    yes: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Refused items of one record: they go together.
struct Group {
    topic: String,
    partition: i32,
    /// In the order of the topic; the record is read from the first.
    letters: Vec<(Place, Letter)>,
    resent: Resent,
}

/// What is to be sent.
#[derive(Default)]
struct Plan {
    /// By the place of the first letter.
    groups: BTreeMap<Place, Group>,
    /// Letters that stay, by reason.
    left: BTreeMap<String, u64>,
}

/// What was done.
#[derive(Serialize)]
struct Outcome {
    dry_run: bool,
    records: u64,
    letters: u64,
    /// Records by topic.
    topics: BTreeMap<String, u64>,
    left: BTreeMap<String, u64>,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let plan = Plan::make(config, args)?;
    if args.dry_run || plan.groups.is_empty() {
        return plan.outcome(args.dry_run).print(args);
    }
    if !args.yes && !confirmed(&plan)? {
        note(format_args!("nothing was sent"));
        return Ok(ExitCode::from(1));
    }
    let producer = take_over(config)?;
    // Planned anew: whoever had the transactional id may have sent some of them in the meantime.
    let plan = Plan::make(config, args)?;
    plan.send(config, &producer)?.print(args)
}

/// Ends every earlier run, and waits until all it wrote can be read.
pub(crate) fn take_over(config: &Config) -> anyhow::Result<Producer> {
    let (id, stop) = (transactional_id(config), Stop::default());
    let producer = Producer::take_over(&config.kafka, &id, &stop, &Health::default().add("dead-letter"))
        .map_err(|e| explain(e, &id))?
        .context("told to stop")?;
    kafka::wait_until_stable(&config.kafka, &config.topics.dead_letter)?;
    Ok(producer)
}

/// What to do about a transaction that failed.
pub(crate) fn explain(e: TransactionError, id: &str) -> anyhow::Error {
    match e {
        TransactionError::Fenced(e) => anyhow::anyhow!(
            "another process took over transactional.id {id} ({e}): somebody else sends or erases dead letters of this deployment. \
             What this run had committed is marked; run it again when the other is done"
        ),
        TransactionError::Refused(refused) => refused.into(),
        TransactionError::Aborted(e) | TransactionError::Fatal(e) => {
            anyhow::anyhow!("a transaction failed ({e}); what was committed before is marked: run the command again for the rest")
        }
    }
}

/// A record that letters came from: topic, position, Kafka time.
type Record<'a> = (&'a str, Place, i64);

impl Plan {
    fn make(config: &Config, args: &Args) -> anyhow::Result<Self> {
        let shelf = Shelf::read(config, |_, _| {})?;
        if let Some(place) = args.places.iter().find(|place| !shelf.letters.contains_key(place)) {
            anyhow::bail!("{place}: no dead letter there; `bounceflow dead-letter list` names examples");
        }
        let mut plan = Self::default();
        let mut records: BTreeMap<Record<'_>, Vec<(Place, &Letter)>> = BTreeMap::new();
        for (place, letter) in &shelf.letters {
            records.entry((shelf.topic(letter), letter.source, letter.timestamp)).or_default().push((*place, letter));
        }
        let topics = &config.topics;
        let own = [&topics.failures, &topics.rates, &topics.alerts];
        let mut partitions: BTreeMap<&str, i32> = BTreeMap::new();
        for ((topic, source, _), letters) in records {
            let meant = |(place, letter): &(Place, &Letter)| {
                if args.places.is_empty() { args.filter.fits(&shelf, letter) } else { args.places.contains(place) }
            };
            let meant = letters.iter().filter(|l| meant(l)).count() as u64;
            let waiting: Vec<(Place, Letter)> =
                letters.iter().filter(|(_, l)| l.state == State::Waiting).map(|(place, l)| (*place, (*l).clone())).collect();
            // Erased ones are as if they were not there; of a record somebody is erased from, nothing is sent.
            let Some((first, head)) = waiting.first() else { continue };
            if meant == 0 || letters.iter().any(|(_, l)| l.state == State::Erased) {
                continue;
            }
            let read = match head.by {
                By::Classify => config.inputs.iter().any(|input| input.topic == topic),
                By::Sink => own.iter().any(|own| *own == topic),
            };
            if !read {
                *plan.left.entry(format!("nobody reads topic {topic} by this configuration")).or_default() +=
                    waiting.len() as u64;
                continue;
            }
            let count = match partitions.get(topic) {
                Some(count) => *count,
                None => *partitions.entry(topic).or_insert(kafka::partitions_in(&config.kafka, topic)?),
            };
            let resent = resent(&shelf, source, head, &waiting, waiting.len() < letters.len());
            // A topic made anew with fewer partitions: its key chooses one.
            let partition = if source.partition < count { source.partition } else { -1 };
            plan.groups.insert(*first, Group { topic: topic.to_owned(), partition, letters: waiting, resent });
        }
        Ok(plan)
    }

    fn outcome(&self, dry_run: bool) -> Outcome {
        let mut outcome = Outcome { dry_run, records: 0, letters: 0, topics: BTreeMap::new(), left: self.left.clone() };
        self.groups.values().for_each(|group| outcome.add(group));
        outcome
    }

    fn send(self, config: &Config, producer: &Producer) -> anyhow::Result<Outcome> {
        let sent = self.send_all(config, producer);
        if sent.is_err() {
            // At once, so that readers need not wait until it times out. Where that fails too, the first error says more.
            drop(producer.abort());
        }
        sent
    }

    fn send_all(mut self, config: &Config, producer: &Producer) -> anyhow::Result<Outcome> {
        let id = transactional_id(config);
        let mut outcome = Outcome { dry_run: false, records: 0, letters: 0, topics: BTreeMap::new(), left: self.left.clone() };
        let mut progress = Progress::new("records sent");
        let places: BTreeSet<Place> = self.groups.keys().copied().collect();
        // Collected first: a transaction that was open while other letters are read through, for gigabytes, would time out.
        let (mut found, mut bytes): (Vec<Again>, usize) = (Vec::new(), 0);
        let mut send = |found: &mut Vec<Again>| -> anyhow::Result<()> {
            let sent = || -> Result<(), TransactionError> {
                producer.begin()?;
                found.iter().try_for_each(|again| again.send(producer, &config.topics.dead_letter))?;
                producer.commit_without_offsets()
            };
            sent().map_err(|e| explain(e, &id))?;
            for again in found.drain(..) {
                progress.step();
                outcome.add(&again.group);
            }
            Ok(())
        };
        let gone = Shelf::open(config, &places, |place, record| {
            let Some(group) = self.groups.remove(&place) else { return Ok(()) };
            bytes += record.payload_len();
            found.push(Again::of(group, record));
            if found.len() >= MOST_RECORDS || bytes >= MOST_BYTES {
                bytes = 0;
                send(&mut found)?;
            }
            Ok(())
        })?;
        if !found.is_empty() {
            send(&mut found)?;
        }
        if gone > 0 {
            outcome.left.insert("expired in the meantime".to_owned(), gone as u64);
        }
        Ok(outcome)
    }
}

/// What the record will say of itself. `part`: others of its refused items are settled already.
fn resent(shelf: &Shelf, source: Place, head: &Letter, waiting: &[(Place, Letter)], part: bool) -> Resent {
    let others = head.others + i32::from(part);
    let of_sink = head.by == By::Sink;
    Resent {
        times: head.resent + 1,
        // Nothing of it was counted: then its items may be others than they were, as a new version reads them.
        items: (others > 0 && !of_sink).then(|| waiting.iter().flat_map(|(_, letter)| letter.items()).copied().collect()),
        others,
        timestamp: Some(head.timestamp).filter(|time| *time >= 0 && !of_sink),
        origin: format!("{}/{}", source.partition, source.offset),
        was_read: of_sink && shelf.reason(head) == REFUSED_BY_CLICKHOUSE,
    }
}

/// A record as it will be sent.
struct Again {
    group: Group,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: OwnedHeaders,
}

impl Again {
    fn of(group: Group, record: &BorrowedMessage<'_>) -> Self {
        let of_record = Headers::of(record);
        let key = group.letters.first().and_then(|(_, head)| of_record.source_key(head, record)).map(<[u8]>::to_vec);
        let headers = with_own(group.resent.headers(), &own_headers(record));
        Self { group, key, payload: record.payload().map(<[u8]>::to_vec), headers }
    }

    /// The record, and a mark for each of its letters.
    fn send(&self, producer: &Producer, dead_letter: &str) -> Result<(), TransactionError> {
        let Self { group, key, payload, headers } = self;
        let mut again = BaseRecord::to(&group.topic).headers(headers.clone());
        again.key = key.as_deref();
        again.payload = payload.as_deref();
        if group.partition >= 0 {
            again.partition = Some(group.partition);
        }
        producer.send(again)?;
        for (place, letter) in &group.letters {
            mark(producer, dead_letter, Mark { place: *place, letter, topic: &group.topic, state: State::Resent })?;
        }
        Ok(())
    }
}

/// A letter and what became of it.
pub(crate) struct Mark<'a> {
    pub(crate) place: Place,
    pub(crate) letter: &'a Letter,
    pub(crate) topic: &'a str,
    pub(crate) state: State,
}

/// Settles a letter. The mark of an erased one is also a tombstone for it, where the letter's key is its own.
pub(crate) fn mark(producer: &Producer, dead_letter: &str, mark: Mark<'_>) -> Result<(), TransactionError> {
    let Mark { place, letter, topic, state } = mark;
    let word = if state == State::Erased { "erased" } else { "resent" };
    let own = identity(topic, letter.source.partition, letter.source.offset, letter.item, letter.timestamp);
    let key = if state == State::Erased && letter.removable { own } else { format!("{word} {place} {own}") };
    let headers = OwnedHeaders::new()
        .insert(Header { key: MARK, value: Some(word) })
        .insert(Header { key: MARK_LETTER, value: Some(&place.offset.to_string()) });
    let mut record = BaseRecord::<[u8], [u8]>::to(dead_letter).partition(place.partition).key(key.as_bytes()).headers(headers);
    if state != State::Erased {
        record = record.payload(word.as_bytes());
    }
    producer.send(record)
}

impl Outcome {
    fn add(&mut self, group: &Group) {
        self.records += 1;
        self.letters += group.letters.len() as u64;
        *self.topics.entry(group.topic.clone()).or_default() += 1;
    }

    fn print(&self, args: &Args) -> anyhow::Result<ExitCode> {
        let mut out = std::io::stdout().lock();
        if args.json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
        } else {
            let verb = if self.dry_run { "would be sent" } else { "were sent" };
            writeln!(out, "{} dead letters {verb} again, as {} records", self.letters, self.records)?;
            for (topic, records) in &self.topics {
                writeln!(out, "  {records} to {topic}")?;
            }
            for (why, letters) in &self.left {
                writeln!(out, "{letters} dead letters stay: {why}")?;
            }
        }
        Ok(if self.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn confirmed(plan: &Plan) -> anyhow::Result<bool> {
    let outcome = plan.outcome(false);
    let topics: Vec<String> = outcome.topics.iter().map(|(topic, records)| format!("{records} to {topic}")).collect();
    let question =
        format!("Send {} dead letters again, as {} records ({})?", outcome.letters, outcome.records, topics.join(", "));
    anyhow::ensure!(std::io::stdin().is_terminal(), "{question} Nobody can answer here: say --yes, or look first with --dry-run");
    write!(std::io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
