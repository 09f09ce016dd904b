//! What is printed and kept: one line per cell as it ends, a table, and `target/figures/faults.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// How one run of a cell ended.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ending {
    /// Items sent.
    pub(crate) events: u64,
    /// Missing.
    pub(crate) lost: u64,
    /// Too many.
    pub(crate) doubled: u64,
    /// Faults that were seen to strike.
    pub(crate) strikes: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// What else was measured.
    pub(crate) measured: BTreeMap<String, f64>,
    /// Why it failed; empty: it did not.
    pub(crate) why: String,
}

/// All runs so far, worst of each cell.
#[derive(Default)]
pub(crate) struct Figures {
    cells: Vec<(&'static str, Ending, u32)>,
}

impl Figures {
    /// Takes the end of a run in.
    pub(crate) fn add(&mut self, cell: &'static str, ending: Ending) {
        let Some((_, worst, runs)) = self.cells.iter_mut().find(|(name, ..)| *name == cell) else {
            return self.cells.push((cell, ending, 1));
        };
        *runs += 1;
        worst.events = worst.events.min(ending.events);
        worst.lost = worst.lost.max(ending.lost);
        worst.doubled = worst.doubled.max(ending.doubled);
        worst.strikes = worst.strikes.min(ending.strikes);
        worst.seconds = worst.seconds.max(ending.seconds);
        for (name, value) in ending.measured {
            let known = worst.measured.entry(name).or_insert(value);
            *known = known.max(value);
        }
        if worst.why.is_empty() {
            worst.why = ending.why;
        }
    }

    /// The line of one run.
    pub(crate) fn line(cell: &str, ending: &Ending) -> String {
        let Ending { events, lost, doubled, strikes, seconds, .. } = ending;
        let said = if ending.why.is_empty() { "exact" } else { "FAILED" };
        let measured: String = ending.measured.iter().map(|(name, value)| format!("  {name} {value:.1}")).collect();
        format!("{cell:<28} {events:>9} {lost:>6} {doubled:>8} {strikes:>8} {seconds:>8.1}  {said}{measured}")
    }

    /// The head of the lines.
    pub(crate) fn head() -> String {
        format!("{:<28} {:>9} {:>6} {:>8} {:>8} {:>8}", "cell", "events", "lost", "doubled", "strikes", "seconds")
    }

    /// The worst of each cell.
    pub(crate) fn table(&self) -> String {
        let lines = self.cells.iter().map(|(cell, worst, runs)| format!("{}  ×{runs}", Self::line(cell, worst)));
        std::iter::once(Self::head()).chain(lines).collect::<Vec<_>>().join("\n")
    }

    /// Cells that failed, with why.
    pub(crate) fn failed(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.cells.iter().filter(|(_, worst, _)| !worst.why.is_empty()).map(|(cell, worst, _)| (*cell, worst.why.as_str()))
    }

    /// Writes the file. What it says of other cells stays only where not all were asked for.
    pub(crate) fn write(&self, all: bool) -> Result<PathBuf> {
        let own = std::env::current_exe()?;
        let folder = own.ancestors().nth(2).context("this program has no place")?.join("figures");
        fs::create_dir_all(&folder)?;
        let file = folder.join("faults.json");
        let mut figures = match fs::read(&file) {
            Ok(before) if !all => serde_json::from_slice(&before).unwrap_or_default(),
            _ => Map::new(),
        };
        for (cell, worst, runs) in &self.cells {
            let mut put = |name: &str, value: Value| figures.insert(format!("{cell}_{name}"), value);
            put("events", worst.events.into());
            put("lost", worst.lost.into());
            put("doubled", worst.doubled.into());
            put("strikes", worst.strikes.into());
            put("seconds", worst.seconds.round().into());
            put("runs", (*runs).into());
            put("exact", worst.why.is_empty().into());
            for (name, value) in &worst.measured {
                put(name, (*value).into());
            }
        }
        fs::write(&file, serde_json::to_string_pretty(&figures)? + "\n")?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_round_counts() {
        let run = |lost, strikes, why: &str| Ending { events: 10, lost, strikes, why: why.into(), ..Ending::default() };
        let mut figures = Figures::default();
        figures.add("a", run(0, 5, ""));
        figures.add("a", run(3, 2, "lost some"));
        figures.add("a", run(0, 4, ""));
        figures.add("b", run(0, 1, ""));
        let (_, worst, runs) = &figures.cells[0];
        assert_eq!((worst.lost, worst.strikes, *runs), (3, 2, 3));
        assert_eq!(figures.failed().collect::<Vec<_>>(), [("a", "lost some")]);
    }
}
