//! `bounceflow rules unmatched`: the most frequent replies no rule knew the words of, each as a rule to begin with.

use std::io::Write;
use std::process::ExitCode;

use bounceflow_classify::{Classifier, FALLBACK, is_unmatched};
use bounceflow_warehouse::{Shards, UnmatchedQuery};

use super::skeleton::{Written, reply, skeleton};
use crate::command::{Configured, one_thread, since};
use crate::config::Config;

/// Patterns asked of ClickHouse at most: those that today's rules know are left out of them.
const MOST: u64 = 5_000;

/// Print the most frequent replies in ClickHouse that no rule knew the words of, each as a rule ready to edit
///
/// Those are the failures of category `unknown` and of the last resorts, which decide by reply code and command alone.
/// Patterns that the rules of the configuration know by now are left out.
#[derive(clap::Args)]
#[command(after_help = "\
What is printed is a file of rules: say what each reply means, and test it.

Example:
  bounceflow rules unmatched --config bounceflow.toml --since 7d --limit 20 > own.toml
  $EDITOR own.toml && bounceflow rules test own.toml")]
pub(super) struct Args {
    #[command(flatten)]
    configured: Configured,
    /// Failures from then on: a time (RFC 3339), or how long ago, such as 90m, 24h or 7d
    #[arg(long, default_value = "7d", value_parser = since)]
    since: i64,
    /// Patterns to print
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.configured.config)?;
    let rules = config.classify.compiled;
    let shards = Shards::new(config.clickhouse)?;
    let query = UnmatchedQuery { since: args.since, rules: FALLBACK, limit: MOST };
    let found = one_thread()?.block_on(async { shards.reader().await?.unmatched(query).await })?;
    let mut classifier = Classifier::new(std::sync::Arc::clone(&rules));
    let mut unmatched = found;
    let before = unmatched.len();
    unmatched.retain(|row| {
        let verdict = classifier.classify(&reply(row)).verdict;
        is_unmatched(verdict.category.as_str(), &verdict.rule)
    });
    let failures: u64 = unmatched.iter().map(|row| row.failures).sum();
    let since = crate::evidence::time(args.since);
    writeln!(out, "# Since {since}: {failures} failures of {} patterns that no rule knows the words of.", unmatched.len())?;
    if before > unmatched.len() {
        writeln!(
            out,
            "# {} patterns more are known to the rules of today (version {}).",
            before - unmatched.len(),
            rules.version()
        )?;
    }
    let mut written = Written::default();
    for row in unmatched.iter().take(args.limit as usize) {
        write!(out, "\n{}", skeleton(row, &mut written))?;
    }
    Ok(ExitCode::SUCCESS)
}
