//! `bounceflow replay`: a past range is counted again, compared with what is there, and swapped in or given up.
//!
//! [`Args`] is what can be asked. `count` reads the input and counts, `settled` asks Kafka whether the sink is past what is to be
//! replaced, `show` prints. What happens in ClickHouse, and why nothing is lost or doubled while the sink writes, is said and done
//! in `bounceflow_warehouse::replay`. Alerts are not decided again: `watch` reads the log, which stays as it is.

mod count;
mod settled;
mod show;

use std::fmt::Arguments;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bounceflow_classify::PATTERN_VERSION;
use bounceflow_enrich::Isps;
use bounceflow_warehouse::replay::{By, Range};
use bounceflow_warehouse::{ENCODER_VERSION, Replay, State, Warehouse};
use clap::error::ErrorKind;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::kafka::{Committed, Consumer};
use crate::process::Tables;
use crate::rules::files;
use crate::starting::{self, From};

/// Count a past range again, compare, and swap the new counts in or discard them
///
/// Plans, counts and compares; what is in force stays until `swap`. The range is that of the records' times in Kafka. What is counted
/// again are whole transactions, so it may begin a little before --from and end a little after --to.
#[derive(clap::Args)]
#[command(
    subcommand_negates_reqs = true,
    after_help = "\
The sink and everything else goes on meanwhile. Interrupted anywhere, even by SIGKILL: `resume` goes on. What is replaced is failures
and delivery_rates, and batches behind them; alerts stay as they were.

Exit codes: 0 done, 1 failed or refused (it says why and what to do), 2 wrong usage, configuration or rules.

Examples:
  bounceflow replay --from 2026-09-21T08:00:00Z --to 2026-09-21T12:00:00Z --rules rules/
  bounceflow replay compare 3 --json | jq '.comparison.moves'
  bounceflow replay swap 3"
)]
pub struct Args {
    /// Configuration file
    #[arg(long, short, env = "BOUNCEFLOW_CONFIG", default_value = "bounceflow.toml", global = true)]
    config: PathBuf,
    /// From the first record at or after this time (RFC 3339), or `beginning`
    #[arg(long, required = true)]
    from: Option<From>,
    /// Up to the last record before this time (RFC 3339), or `end`
    #[arg(long, required = true)]
    to: Option<From>,
    /// Files of rules, or folders of them, instead of those of the configuration
    #[arg(long)]
    rules: Vec<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List replays and how far each is
    List,
    /// Go on where a replay was interrupted: counting, or swapping
    #[command(after_help = "By the same rules and settings, or it is refused.\n\nExample: bounceflow replay resume 3")]
    Resume {
        /// Its number
        id: u32,
    },
    /// Print what a replay changes: totals, categories, ISPs, and what moved from where to where
    #[command(after_help = "Example: bounceflow replay compare 3 --json")]
    Compare {
        /// Its number
        id: u32,
    },
    /// Put the new counts in the place of the old ones
    #[command(
        after_help = "Inserts of the sink are held for moments, and tried again by it. Once begun it only goes forward.\n\nExample: bounceflow replay swap 3"
    )]
    Swap {
        /// Its number
        id: u32,
    },
    /// Give a replay up, and remove its tables
    #[command(after_help = "Example: bounceflow replay discard 3")]
    Discard {
        /// Its number
        id: u32,
    },
}

/// Does what is asked.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.command.is_some() && (args.from.is_some() || args.to.is_some() || !args.rules.is_empty()) {
        wrong_usage("--from, --to and --rules plan a new replay: they do not go with a command");
    }
    let session = Session::open(&args.config)?;
    match (args.command, args.from, args.to) {
        (Some(Command::List), ..) => show::list(&session.runtime.block_on(session.warehouse.replays())?, args.json)?,
        (Some(Command::Resume { id }), ..) => session.resume(id, args.json)?,
        (Some(Command::Compare { id }), ..) => show::comparison(&session.replay(id)?, args.json)?,
        (Some(Command::Swap { id }), ..) => session.swap(session.replay(id)?)?,
        (Some(Command::Discard { id }), ..) => session.discard(session.replay(id)?)?,
        (None, Some(from), Some(to)) => session.begin(from, to, args.rules, args.json)?,
        (None, ..) => wrong_usage("--from and --to are needed"),
    }
    Ok(ExitCode::SUCCESS)
}

fn wrong_usage(why: &str) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{why}; see `bounceflow replay --help`\n")).exit()
}

/// What every command works with.
struct Session {
    config: Config,
    runtime: Runtime,
    warehouse: Warehouse,
}

impl Session {
    fn open(file: &Path) -> anyhow::Result<Self> {
        let config = Config::load(file)?;
        ensure!(
            config.clickhouse.sharding.is_none(),
            "replay works on one shard: what it replaces of failures stands in another one than the rates, and no swap is whole over \
             both. Count the range into an installation of its own, with a `deployment`, topics and a [clickhouse] database of its own: \
             `bounceflow run --from` and the time where it begins, and compare there"
        );
        let warehouse = Warehouse::new(config.clickhouse.clone())?;
        let runtime = crate::command::one_thread()?;
        runtime.block_on(warehouse.check())?;
        Ok(Self { config, runtime, warehouse })
    }

    fn replay(&self, id: u32) -> anyhow::Result<Replay> {
        let mut replays = self.runtime.block_on(self.warehouse.replays())?;
        let at = replays.iter().position(|r| r.id == id);
        Ok(replays.swap_remove(at.with_context(|| format!("there is no replay {id}; see `bounceflow replay list`"))?))
    }

    fn begin(mut self, from: From, to: From, rules: Vec<PathBuf>, json: bool) -> anyhow::Result<()> {
        let backwards = match (from, to) {
            (From::Time(from), From::Time(to)) => from >= to,
            (From::End, _) | (_, From::Beginning) => true,
            _ => false,
        };
        if backwards {
            wrong_usage("--from must be before --to");
        }
        let rules = if rules.is_empty() { self.config.classify.rules.clone() } else { rules };
        let by = self.take_rules(&rules)?;
        let asked = self.asked(from, to)?;
        ensure!(!asked.is_empty(), "no input topic holds a record of this range");
        let draft = Replay::draft(now(), by, asked);
        let replay = self.runtime.block_on(self.warehouse.plan_replay(draft, now()))?;
        if let Err(e) = self.still_there(&replay) {
            self.discard(replay)?;
            return Err(e);
        }
        let offsets: u64 = replay.ranges.iter().map(Range::offsets).sum();
        say(format_args!(
            "replay {}: {offsets} offsets of {} transactions, {} records, rules {}",
            replay.id, replay.old.transactions, replay.old.records, replay.by.rules_version
        ));
        self.count(replay, json)
    }

    fn resume(mut self, id: u32, json: bool) -> anyhow::Result<()> {
        let replay = self.replay(id)?;
        match replay.state {
            State::Planning => bail!("replay {id} was interrupted while it was planned: discard it, and start again"),
            State::Discarded => bail!("replay {id} was given up; start again with --from and --to"),
            State::Swapping => self.swap(replay),
            State::Counting => {
                let rules: Vec<PathBuf> = replay.by.rules.iter().map(PathBuf::from).collect();
                let by = self.take_rules(&rules)?;
                ensure!(
                    by.rules_version == replay.by.rules_version,
                    "replay {id} counts by rules of version {}, and they are of version {} now: put the rules back, or discard the replay \
                     and start again",
                    replay.by.rules_version,
                    by.rules_version
                );
                ensure!(
                    by.settings == replay.by.settings,
                    "replay {id} was begun by another version of bounceflow, or with other inputs, identities, mailbox providers, \
                     retention or recipient key in the configuration: put those back, or discard the replay and start again"
                );
                self.count(replay, json)
            }
            // A swap that was refused, or one that ended, may have left something behind.
            State::Counted | State::Swapped => {
                if replay.state == State::Swapped {
                    self.runtime.block_on(self.warehouse.clear_replay(id))?;
                }
                show::comparison(&replay, json)
            }
        }
    }

    fn count(self, mut replay: Replay, json: bool) -> anyhow::Result<()> {
        let tables = Tables::new(&self.config)?;
        count::count(&self.config, &tables, &replay, &self.runtime, &self.warehouse)?;
        say(format_args!("comparing old and new"));
        replay.comparison = Some(self.runtime.block_on(self.warehouse.compare_replay(&replay))?);
        replay.state = State::Counted;
        self.runtime.block_on(self.warehouse.save_replay(&mut replay, now()))?;
        show::comparison(&replay, json)
    }

    fn swap(&self, mut replay: Replay) -> anyhow::Result<()> {
        let id = replay.id;
        match replay.state {
            State::Counted | State::Swapping => {}
            State::Swapped => bail!("replay {id} is swapped already"),
            State::Discarded => bail!("replay {id} was given up"),
            State::Planning | State::Counting => bail!("replay {id} is not counted yet: `bounceflow replay resume {id}` first"),
        }
        // Killed by a signal, it would leave the sink's inserts held until somebody resumes. It is about to end anyway.
        let _held = self.runtime.block_on(async {
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .map(signal)
                .into_iter()
                .collect::<Result<Vec<_>, _>>()
        })?;
        if !replay.swap.as_ref().is_some_and(|swap| swap.begun) {
            let held = self.runtime.block_on(self.warehouse.held_by_replay(&replay))?;
            settled::check(&self.config, &held)?;
            replay.swap.get_or_insert_default().replaced = held;
        }
        let attempt = format!("{:x}p{:x}", now(), std::process::id());
        let warehouse = &self.warehouse;
        let begun = || settled::begun(&self.config).map_err(|e| format!("{e:#}"));
        let mut told = |step: &str| say(format_args!("{step}"));
        self.runtime.block_on(warehouse.swap_replay(&mut replay, &attempt, &now, &begun, &mut told))?;
        writeln!(std::io::stdout(), "replay {id} is swapped in; `bounceflow audit` proves the whole")?;
        Ok(())
    }

    fn discard(&self, mut replay: Replay) -> anyhow::Result<()> {
        let id = replay.id;
        match replay.state {
            State::Swapped => bail!("replay {id} is swapped in: to undo it, replay the range by the rules of before"),
            State::Swapping if replay.swap.as_ref().is_some_and(|swap| swap.begun) => {
                bail!("the swap of replay {id} has begun and only goes forward: `bounceflow replay resume {id}`")
            }
            _ => {}
        }
        // First what it is, then what is left of it: interrupted, it is discarded once more.
        replay.state = State::Discarded;
        self.runtime.block_on(async {
            self.warehouse.save_replay(&mut replay, now()).await?;
            self.warehouse.clear_replay(id).await
        })?;
        writeln!(std::io::stdout(), "replay {id} is discarded")?;
        Ok(())
    }

    /// Decides by these rules from now on. What decides, for the plan.
    fn take_rules(&mut self, rules: &[PathBuf]) -> anyhow::Result<By> {
        let config = &mut self.config;
        config.classify.compiled = Arc::new(files::load(rules, &config.isps)?);
        let rules = rules.iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>()?;
        let key = Sha256::digest(&config.recipient.key);
        let settings = format!(
            "{} {ENCODER_VERSION} {PATTERN_VERSION} {} {key:x?} {} {:?} {:?} {} {} {}",
            env!("CARGO_PKG_VERSION"),
            config.recipient.key_id,
            config.recipient.keep_plain,
            config.identities,
            config.inputs,
            told(&config.isps),
            // What is older than these is refused.
            config.clickhouse.retention.failures,
            config.clickhouse.retention.rates
        );
        Ok(By {
            rules: rules.iter().map(|path| path.display().to_string()).collect(),
            rules_version: config.classify.compiled.version().to_owned(),
            settings: Sha256::digest(settings).iter().take(8).map(|b| format!("{b:02x}")).collect(),
        })
    }

    /// The offsets of all input partitions between two moments.
    fn asked(&self, from: From, to: From) -> anyhow::Result<Vec<Range>> {
        let consumer = Consumer::alone(&self.config.kafka, "replay", "bounceflow.replay")?;
        let mut asked = Vec::new();
        for input in &self.config.inputs {
            for partition in 0..consumer.partitions(&input.topic)? {
                let (low, high) = consumer.bounds(&input.topic, partition)?;
                let topic = input.topic.clone();
                let log = Committed { topic: topic.clone(), partition, offset: None, metadata: String::new(), low, high };
                let first = starting::resolve(from, &consumer, &log)?;
                let last = starting::resolve(to, &consumer, &log)? - 1;
                if let From::Time(_) = from
                    && first == low
                    && low > 0
                    && low < high
                {
                    bail!(
                        "{topic}/{partition}: the offsets before {low} are gone by retention, and may belong to this range. Choose a later \
                         --from, or --from beginning for what is left"
                    );
                }
                if first <= last {
                    asked.push(Range { topic, partition, first, last });
                }
            }
        }
        Ok(asked)
    }

    /// Refused where retention has removed what is to be read.
    fn still_there(&self, replay: &Replay) -> anyhow::Result<()> {
        let consumer = Consumer::alone(&self.config.kafka, "replay", "bounceflow.replay")?;
        for Range { topic, partition, first, last } in &replay.ranges {
            let (low, high) = consumer.bounds(topic, *partition)?;
            ensure!(
                low <= *first,
                "{topic}/{partition}: offsets {first} to {} are gone by retention, and were counted in transactions of this range. \
                 Choose a later --from",
                low.min(last + 1) - 1
            );
            ensure!(
                high > *last,
                "{topic}/{partition} ends at offset {high}, and offset {last} was counted: the topic was made anew"
            );
        }
        Ok(())
    }
}

/// The table of providers in the same words at every run: its maps of domains and hosts have another order in each process.
fn told(isps: &Isps) -> String {
    let known: Vec<_> = isps.ids().map(|isp| isps.get(isp)).collect();
    let all = format!("{isps:?}");
    let mut entries: Vec<&str> = all.split([',', '{', '}', '[', ']']).map(str::trim).collect();
    entries.sort_unstable();
    format!("{known:?} {entries:?}")
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Progress is a courtesy: a closed stderr must not end the run.
fn say(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_providers_is_told_alike_at_every_run_and_another_one_otherwise() {
        const BUILTIN: &str = include_str!("../../enrich/tables/isps.toml");
        let of = |text: &str| told(&Isps::from_toml(text).unwrap());
        let builtin = of(BUILTIN);
        for _ in 0..4 {
            assert_eq!(of(BUILTIN), builtin);
        }
        let other = BUILTIN.replacen("[\"gmail.com\", ", "[", 1);
        assert_ne!(other, BUILTIN);
        assert_ne!(of(&other), builtin);
    }
}
