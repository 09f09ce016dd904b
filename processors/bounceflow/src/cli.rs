//! The command line: what can be asked of the binary, and how it answers (exit codes, logs).

use std::io::Write;
use std::process::ExitCode;

use bounceflow_classify::RulesErrors;
use bounceflow_warehouse::AuditOptions;
use clap::{Parser, Subcommand};
use tracing::field::Empty;

use crate::command::{Configured, one_thread};
use crate::config::{Config, Mistakes};
use crate::run::{self, Role};
use crate::starting::Resume;
use crate::telemetry::{self, SPANS};
use crate::{dead_letter, erase, explain, replay, report, rules, simulate, top, topics};

/// Streaming processor for e-mail delivery events on Kafka: exact failure rates and classified failures in ClickHouse.
#[derive(Parser)]
#[command(
    name = "bounceflow",
    version,
    after_help = "Exit codes: 0 done, 1 failed (or an audit found something), 2 wrong usage or configuration.\n\nExample: bounceflow run --config bounceflow.toml"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the roles of this process until SIGTERM
    #[command(after_help = "Example: bounceflow run --config bounceflow.toml --role classify")]
    Run {
        #[command(flatten)]
        configured: Configured,
        /// A role to play; all of them where none is named
        #[arg(long)]
        role: Vec<Role>,
        /// Where to start partitions without a usable committed offset: `counted` (right behind what was counted last, where that is known),
        /// `beginning`, `end` or a time (RFC 3339)
        #[arg(long)]
        from: Option<Resume>,
    },
    /// Check a configuration: every mistake, each with its path
    #[command(after_help = "Example: bounceflow check-config --config bounceflow.toml")]
    CheckConfig {
        #[command(flatten)]
        configured: Configured,
    },
    /// Create bounceflow's own topics
    #[command(after_help = "Example: bounceflow create-topics --config bounceflow.toml --failures-partitions 12 --replication 3")]
    CreateTopics {
        #[command(flatten)]
        configured: Configured,
        #[command(flatten)]
        args: topics::Args,
    },
    /// Bring the tables and views of ClickHouse to this version
    #[command(after_help = "Example: bounceflow migrate --config bounceflow.toml")]
    Migrate {
        #[command(flatten)]
        configured: Configured,
    },
    /// Say what an SMTP reply means, and which rule says so
    #[command(
        after_help = "Examples:\n  bounceflow explain \"550 5.1.1 The email account that you tried to reach does not exist\" --mx gmail-smtp-in.l.google.com\n  bounceflow explain \"550 go away\" --rules own.toml\n  bounceflow explain --jsonl < replies.jsonl"
    )]
    Explain(explain::Args),
    Rules(rules::Args),
    /// Prove that every input offset was counted exactly once, and that every count arrived in every table
    #[command(
        after_help = "Exit code 1 where anything is amiss. Exact once the sink has caught up.\n\nExample: bounceflow audit --config bounceflow.toml --json"
    )]
    Audit {
        #[command(flatten)]
        configured: Configured,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    DeadLetter(dead_letter::Args),
    Erase(erase::Args),
    /// Print the built-in alert rules, to begin a rule file of your own with
    #[command(
        after_help = "Name the file in watch.rules; check-config checks it.\n\nExample: bounceflow alert-rules > rules.toml"
    )]
    AlertRules,
    Replay(replay::Args),
    Report(report::Args),
    Simulate(simulate::Args),
    Top(top::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // clap itself ends with 2 on wrong usage, and with 0 on --help.
    let cli = Cli::parse();
    match act(cli.command) {
        Ok(code) => code,
        Err(e) if e.is::<Mistakes>() || e.is::<RulesErrors>() => fail(&e, 2),
        // Whoever reads our output may stop reading: that is no failure of ours.
        Err(e) if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(e) => fail(&e, 1),
    }
}

fn fail(e: &anyhow::Error, code: u8) -> ExitCode {
    drop(writeln!(std::io::stderr(), "bounceflow: {e:#}"));
    ExitCode::from(code)
}

fn act(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    match command {
        Command::Run { configured, role, from } => {
            let config = Config::load(&configured.config)?;
            let _sends_the_rest = telemetry::start(&config)?;
            run::run(config, &role, from)?;
        }
        Command::CheckConfig { configured } => {
            Config::load(&configured.config)?;
            writeln!(out, "{}: no mistakes", configured.config.display())?;
        }
        Command::CreateTopics { configured, args } => {
            for line in topics::create(&Config::load(&configured.config)?, &args)? {
                writeln!(out, "{line}")?;
            }
        }
        Command::Migrate { configured } => {
            let config = Config::load(&configured.config)?;
            let _sends_the_rest = telemetry::start_without_logs(&config)?;
            let settings = config.clickhouse;
            let shards = bounceflow_warehouse::Shards::new(settings.clone())?;
            let span = tracing::trace_span!(target: SPANS, "migrate", database = settings.database, applied = Empty);
            let applied = one_thread()?.block_on(shards.migrate(&mut |line| drop(writeln!(std::io::stdout(), "{line}"))));
            let applied = telemetry::told(&span, applied)?;
            span.record("applied", applied.len());
            writeln!(out, "{} migrations applied; {} is at this version", applied.len(), settings.database)?;
        }
        Command::Explain(args) => explain::run(&args)?,
        Command::Rules(args) => return rules::run(args),
        Command::Audit { configured, json } => {
            let shards = bounceflow_warehouse::Shards::new(Config::load(&configured.config)?.clickhouse)?;
            let report = one_thread()?.block_on(async { shards.reader().await?.audit(&AuditOptions::default()).await })?;
            if json {
                writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
            } else {
                writeln!(out, "{report}")?;
            }
            return Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(1) });
        }
        Command::DeadLetter(args) => return dead_letter::run(args),
        Command::Erase(args) => return erase::run(args),
        Command::Replay(args) => return replay::run(args),
        Command::Report(args) => report::run(&args)?,
        Command::Top(args) => top::run(args)?,
        Command::AlertRules => write!(out, "{}", bounceflow_window::DEFAULT_RULES)?,
        Command::Simulate(args) => {
            let sent = simulate::run(args)?;
            writeln!(out, "{}", serde_json::to_string(&sent.totals)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
