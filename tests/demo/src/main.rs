//! `make demo`: real Kafka, real ClickHouse, bounceflow between them, simulated traffic, all of it live in the terminal; at the
//! end what was sent is compared with what is stored. Exit code 0 only where both are equal.
//!
//! It reads what anybody could read: topics, tables, views, `/metrics`, and the simulator's file. It must not know how
//! bounceflow counts.

mod interrupt;
mod child;
mod place;
mod expected;
mod kafka;
mod warehouse;
mod prometheus;
mod history;
mod watch;
mod view;
mod screen;
mod live;
mod alerts;
mod holdings;
mod comparison;
mod demo;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

/// Shows bounceflow at work, and proves that it is exact
///
/// Starts Kafka and ClickHouse on free ports (downloaded once), creates topics and tables, runs `bounceflow` with all roles,
/// and sends simulated mail traffic through it. Exits with 0 only where ClickHouse holds exactly what was sent.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "demo",
    version,
    after_help = "\
Exit codes: 0 sent and stored are equal, 1 they differ or something failed, 2 wrong usage.
Ctrl-C ends the traffic early and compares; a second one quits at once.

Examples:
  target/release/demo
  target/release/demo --keep --rate 500"
)]
pub(crate) struct Args {
    /// Send until Ctrl-C, and say how to query meanwhile
    #[arg(long)]
    keep: bool,

    /// How long to send
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "keep")]
    seconds: u64,

    /// Events sent per second
    #[arg(long, default_value_t = 5000, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
}

fn main() -> ExitCode {
    match demo::run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}
