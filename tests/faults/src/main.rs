//! `make faults`: the fault matrix. Each cell is a pipeline of its own on real servers, two processes per role, a fault forced while
//! traffic flows, and every count compared with the simulator's own. This file owns the command line and the order of the cells.

mod cells;
mod field;
mod figures;
mod proxy;
mod tally;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use cells::{CELLS, Cell};
use field::{Field, Order};
use figures::{Ending, Figures};
use tally::Tally;

/// The fault matrix: real servers, a forced fault per cell, every count compared with what was sent
#[derive(Parser)]
#[command(after_help = "\
Exit codes: 0 every cell exact and every fault struck, 1 something lost, doubled, failed or not struck, 2 wrong usage.
Figures: target/figures/faults.json. Logs of a failed cell: target/faults/CELL.

Examples:
  make faults                                   all cells once
  make faults CELL=sink-kill-after-ok           one cell
  make faults ROUNDS=3                          all cells three times over")]
struct Args {
    /// Cells to play; all of them where none is named
    cells: Vec<String>,
    /// List the cells and end
    #[arg(long)]
    list: bool,
    /// How often to play them
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// The first round's number: another one gives other moments
    #[arg(long, default_value_t = 0)]
    from_round: u64,
    /// Events per cell
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Events per second, where the cell does not need a rate of its own
    #[arg(long, default_value_t = 50_000)]
    rate: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(e) => {
            drop(writeln!(io::stderr(), "faults: {e:#}"));
            ExitCode::from(1)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let mut out = io::stdout();
    if args.list {
        for cell in CELLS {
            writeln!(out, "{:<28} {}", cell.name, cell.about)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen: Vec<&Cell> =
        CELLS.iter().filter(|cell| args.cells.is_empty() || args.cells.iter().any(|c| c == cell.name)).collect();
    if let Some(unknown) = args.cells.iter().find(|name| CELLS.iter().all(|cell| cell.name != **name)) {
        writeln!(io::stderr(), "faults: there is no cell {unknown}; --list names them")?;
        return Ok(ExitCode::from(2));
    }
    let mut figures = Figures::default();
    writeln!(out, "{}", Figures::head())?;
    for round in args.from_round..args.from_round + args.rounds {
        for cell in &chosen {
            let ending = play(cell, Order { events: args.events, rate: args.rate, round });
            writeln!(out, "{}", Figures::line(cell.name, &ending))?;
            if !ending.why.is_empty() {
                writeln!(out, "  {}", ending.why.replace('\n', "\n  "))?;
            }
            out.flush()?;
            figures.add(cell.name, ending);
            // After every cell: a matrix that is broken off leaves what it knows.
            figures.write(args.cells.is_empty())?;
        }
    }
    let file = figures.write(args.cells.is_empty())?;
    writeln!(out, "\n{}\n\nfigures: {}", figures.table(), file.display())?;
    let failed: Vec<_> = figures.failed().collect();
    for (cell, why) in &failed {
        writeln!(out, "\n{cell} failed: {why}\n  play it alone: make faults CELL={cell}")?;
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// One run of a cell, from its topics to the comparison.
fn play(cell: &Cell, order: Order) -> Ending {
    let began = Instant::now();
    let mut ending = Ending::default();
    if let Err(e) = try_play(cell, order, &mut ending) {
        ending.why = format!("{e:#}");
    }
    ending.seconds = began.elapsed().as_secs_f64();
    ending
}

fn try_play(cell: &Cell, order: Order, ending: &mut Ending) -> Result<()> {
    let order = (cell.order)(order);
    let mut field = Field::prepare(cell, order)?;
    let played = play_on(cell, &mut field, ending);
    ending.measured = std::mem::take(&mut field.measured);
    field.pipeline.passed(); // its logs are kept, not printed
    if let Err(e) = played {
        let kept = field.keep_logs().context("keeping the logs")?;
        return Err(e.context(format!("logs: {}", kept.display())));
    }
    // The next cell's servers need the room, and nothing of this one.
    field.team.clear();
    let database = field.pipeline.database().to_owned();
    field.pipeline.servers.clickhouse.query(&format!("DROP DATABASE {database}"))?;
    Ok(())
}

fn play_on(cell: &Cell, field: &mut Field, ending: &mut Ending) -> Result<()> {
    ending.strikes = (cell.play)(field)?;
    field.say(&format!("struck {} times", ending.strikes));
    field.finish()?;
    let Tally { events, lost, doubled, words } = Tally::take(&field.pipeline, &field.refused)?;
    (ending.events, ending.lost, ending.doubled) = (events, lost, doubled);
    if !words.is_empty() || lost + doubled > 0 {
        bail!("{lost} lost, {doubled} doubled:\n{}", words.join("\n"));
    }
    ensure!(ending.strikes > 0, "the fault did not strike");
    Ok(())
}
