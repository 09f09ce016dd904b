//! `bounceflow rules`: check, test and list the rules of classification, and say which are missing.
//!
//! This file is the command line. [`files`] finds and compiles operators' files, [`Current`] is what a running process decides by,
//! `unmatched` asks ClickHouse and `skeleton` writes a rule to begin with. What a rule means is `classify`'s.

pub mod files;
mod current;
mod skeleton;
mod unmatched;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use bounceflow_classify::{Rule, Rules};
use bounceflow_enrich::Isps;
use serde::Serialize;

use crate::config::Mistakes;

pub use current::Current;
use files::is_builtin;

/// Check, test and list the rules of classification, and say which are missing
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Check rule files: every mistake, each with file and line
    #[command(after_help = "Exit code 2 where there is a mistake.\n\nExample: bounceflow rules check /etc/bounceflow/rules")]
    Check {
        /// Files of rules, or folders of them
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        table: Table,
    },
    /// Run the examples of every rule, the built-in ones too
    #[command(after_help = "\
Exit code 1 where another rule wins an example, where a rule has no example, or where a rule can never win.

Examples:
  bounceflow rules test
  bounceflow rules test /etc/bounceflow/rules --allow-overrides")]
    Test {
        /// Files of rules, or folders of them; without, the built-in rules alone
        paths: Vec<PathBuf>,
        /// Rules of yours may win examples of built-in rules: that is said, but is no failure
        #[arg(long)]
        allow_overrides: bool,
        #[command(flatten)]
        table: Table,
    },
    /// List the rules in the order in which they decide: priority, id, category, place, source
    #[command(after_help = "Examples:\n  bounceflow rules list | less -S\n  bounceflow rules list rules/ --json | jq '.[].id'")]
    List {
        /// Files of rules, or folders of them; without, the built-in rules alone
        paths: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        table: Table,
    },
    Unmatched(unmatched::Args),
}

/// Does what is asked, on standard output.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let code = match args.command {
        Command::Check { paths, table } => check(&load(&paths, &table)?, &mut out)?,
        Command::Test { paths, allow_overrides, table } => test(&load(&paths, &table)?, allow_overrides, &mut out)?,
        Command::List { paths, json, table } => list(&load(&paths, &table)?, json, &mut out)?,
        Command::Unmatched(args) => unmatched::run(&args, &mut out)?,
    };
    out.flush()?;
    Ok(code)
}

/// Which providers rules may name.
#[derive(clap::Args)]
pub(crate) struct Table {
    /// Table of mailbox providers in place of the built-in one, as `isps` of the configuration names it
    #[arg(long, value_name = "FILE")]
    isps: Option<PathBuf>,
}

impl Table {
    pub(crate) fn read(&self) -> anyhow::Result<Isps> {
        let Some(file) = &self.isps else { return Ok(Isps::builtin()?) };
        let text = std::fs::read_to_string(file).map_err(|e| e.to_string());
        let table = text.and_then(|text| Isps::from_toml(&text).map_err(|e| e.to_string()));
        Ok(table.map_err(|e| Mistakes(vec![format!("--isps {}: {e}", file.display())]))?)
    }
}

fn load(paths: &[PathBuf], table: &Table) -> anyhow::Result<Rules> {
    Ok(files::load(paths, &table.read()?)?)
}

fn check(rules: &Rules, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let builtin = Rules::builtin()?;
    let replaced: BTreeMap<&str, &Rule> = builtin.iter().map(|rule| (rule.id(), rule)).collect();
    let mut own: Vec<&Rule> = rules.iter().filter(|rule| !is_builtin(rule)).collect();
    own.sort_by_key(|rule| rule.place());
    for rule in &own {
        let replaces = replaced.get(rule.id()).map_or_else(String::new, |r| format!(", replaces {}", place(r)));
        writeln!(out, "{}: {} → {}, priority {}{replaces}", place(rule), rule.id(), rule.category(), rule.priority())?;
    }
    writeln!(
        out,
        "no mistakes: {} rules, {} with the built-in ones; version {}",
        own.len(),
        rules.iter().len(),
        rules.version()
    )?;
    Ok(ExitCode::SUCCESS)
}

fn test(rules: &Rules, allow_overrides: bool, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let by_id: BTreeMap<&str, &Rule> = rules.iter().map(|rule| (rule.id(), rule)).collect();
    let own = |id: &str| by_id.get(id).is_some_and(|rule| !is_builtin(rule));
    let mut said: Vec<(&Rule, Option<String>, String)> = Vec::new();
    for failure in rules.check_examples() {
        let Some(rule) = by_id.get(failure.rule.as_str()) else { continue };
        let (winner, what) = if failure.winner.is_empty() {
            (None, "has no example".to_owned())
        } else {
            let what = format!("example {:?} is decided by {}; it reads {:?}", failure.text, failure.winner, failure.template);
            (Some(failure.winner), what)
        };
        said.push((rule, winner, what));
    }
    for never in rules.never_wins() {
        let Some(rule) = by_id.get(never.rule.as_str()) else { continue };
        let what = match &never.covered_by {
            Some(above) => format!("can never win: {above} takes every reply it could take"),
            None => "can never win: it asks for a phrase that it excludes".to_owned(),
        };
        said.push((rule, never.covered_by, what));
    }
    said.sort_by_key(|(rule, ..)| rule.place());
    let mut failures = 0;
    for (rule, winner, what) in said {
        let overridden = is_builtin(rule) && winner.is_some_and(|winner| own(&winner));
        let kind = if overridden && allow_overrides { "overridden: " } else { "" };
        failures += usize::from(kind.is_empty());
        writeln!(out, "{}: {kind}rule {}: {what}", place(rule), rule.id())?;
    }
    let examples: usize = rules.iter().map(|rule| rule.examples().len()).sum();
    let end = if failures == 0 { "no failure".to_owned() } else { format!("{failures} failures") };
    writeln!(out, "{} rules, {examples} examples: {end}; version {}", rules.iter().len(), rules.version())?;
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    priority: u16,
    category: &'a str,
    file: &'a str,
    line: usize,
    builtin: bool,
    source: &'a str,
    examples: usize,
}

fn list(rules: &Rules, json: bool, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    if json {
        let listed = |rule| {
            let rule: &Rule = rule;
            let (file, line) = rule.place();
            Listed {
                id: rule.id(),
                priority: rule.priority(),
                category: rule.category().as_str(),
                file,
                line,
                builtin: is_builtin(rule),
                source: rule.source(),
                examples: rule.examples().len(),
            }
        };
        let all: Vec<Listed<'_>> = rules.iter().map(listed).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let width = |of: fn(&Rule) -> usize| rules.iter().map(of).max().unwrap_or(0);
    let (ids, categories) = (width(|r| r.id().len()), width(|r| r.category().as_str().len()));
    let places = width(|r| place(r).len());
    for rule in rules.iter() {
        let (id, category) = (rule.id(), rule.category().as_str());
        writeln!(out, "{:>5}  {id:ids$}  {category:categories$}  {:places$}  {}", rule.priority(), place(rule), rule.source())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// File and line of a rule.
pub fn place(rule: &Rule) -> String {
    let (file, line) = rule.place();
    format!("{file}:{line}")
}
