//! `bounceflow dead-letter`: what was refused and why, one letter in full, and letters sent back to where they came from.
//!
//! This file is the command line. [`letter`] owns what stands on a dead letter, [`shelf`] reads the topic, `list` and `show` tell of it,
//! `resend` writes. Nothing here decides what a record means: that is `classify`'s, when the record comes again.

pub mod letter;
pub mod shelf;
mod list;
mod show;
pub(crate) mod resend;

use std::path::PathBuf;
use std::process::ExitCode;

pub use letter::{OwnHeaders, REFUSED_BY_CLICKHOUSE, Refusal, Resent, own_headers};

use crate::config::Config;
use shelf::By;

/// See what could not be read, and send it again after the cause is mended
#[derive(clap::Args)]
pub struct Args {
    /// Configuration file
    #[arg(long, short, env = "BOUNCEFLOW_CONFIG", default_value = "bounceflow.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Count dead letters by reason and by time
    #[command(after_help = "\
Example:
  bounceflow dead-letter list --config bounceflow.toml --from 24h
  bounceflow dead-letter list --by classify --json | jq '.reasons[]'")]
    List(list::Args),
    /// Show dead letters: where they came from, why they were refused, and the record itself
    #[command(after_help = "\
Records hold plain addresses: what this prints is as sensitive as the topic.
Exit code 1 where a letter is not there (any more) or was erased.

Example:
  bounceflow dead-letter show 0:4711
  bounceflow dead-letter show --reason malformed_json --limit 3
  bounceflow dead-letter show 0:4711 --raw > record.bin")]
    Show(show::Args),
    /// Send dead letters back to the topics they came from, each once, however often this is run
    #[command(after_help = "\
The record and the mark that it was sent are written in one transaction: killed at any moment and run again, run twice or by
two people at once (the later run ends the earlier one), each letter is sent once. Items refused of one record go together, as one
record, of which only they are counted. A record that is refused again becomes a new dead letter.
Exit code 1 where letters were left: their topic is no longer read, or sending broke off (run it again).

Example:
  bounceflow dead-letter resend --reason unknown_schema --from 2026-09-21T12:00:00Z --dry-run
  bounceflow dead-letter resend 0:4711 0:4712 --yes")]
    Resend(resend::Args),
}

/// Which letters are meant.
#[derive(clap::Args, Default)]
pub(crate) struct Filter {
    /// Refused for this reason, such as malformed_json; may be repeated
    #[arg(long)]
    reason: Vec<String>,
    /// Refused from then on: a time (RFC 3339), or how long ago, such as 90m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = crate::command::since)]
    from: Option<i64>,
    /// Refused before then
    #[arg(long, value_name = "TIME", value_parser = crate::command::since)]
    to: Option<i64>,
    /// Refused by this role
    #[arg(long)]
    by: Option<By>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.reason.is_empty() && self.from.is_none() && self.to.is_none() && self.by.is_none()
    }

    fn fits(&self, shelf: &shelf::Shelf, letter: &shelf::Letter) -> bool {
        (self.reason.is_empty() || self.reason.iter().any(|reason| reason == shelf.reason(letter)))
            && self.from.is_none_or(|from| letter.time >= from)
            && self.to.is_none_or(|to| letter.time < to)
            && self.by.is_none_or(|by| letter.by == by)
    }
}

/// Answers on standard output.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    match args.command {
        Command::List(args) => list::run(&config, &args),
        Command::Show(args) => show::run(&config, &args),
        Command::Resend(args) => resend::run(&config, &args),
    }
}

/// The transactional id of whoever settles dead letters: one at a time in a deployment, and the latest comer is it.
pub(crate) fn transactional_id(config: &Config) -> String {
    format!("{}/dead-letter", config.deployment)
}
