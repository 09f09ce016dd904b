//! What `bounceflow replay` prints: the list, and old beside new.

use std::io::Write;

use bounceflow_warehouse::replay::{Move, Pair, Range};
use bounceflow_warehouse::{Replay, State};

use crate::evidence;

/// Moves that are printed; `--json` has more.
const MOVES: usize = 20;
/// Categories and ISPs that are printed.
const PAIRS: usize = 30;

pub(super) fn list(replays: &[Replay], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(replays)?)?;
        return Ok(());
    }
    if replays.is_empty() {
        writeln!(out, "no replay yet; `bounceflow replay --help` says how one begins")?;
        return Ok(());
    }
    writeln!(out, "{:>4}  {:<24}  {:<9}  {:>14}  {:>12}  rules", "id", "planned", "state", "offsets", "moved")?;
    for replay in replays {
        let offsets: u64 = replay.ranges.iter().map(Range::offsets).sum();
        let changed = replay.comparison.as_ref().map_or("-".to_owned(), |c| c.changed.to_string());
        let (id, planned, state) = (replay.id, evidence::time(replay.created), replay.state.as_str());
        writeln!(out, "{id:>4}  {planned:<24}  {state:<9}  {offsets:>14}  {changed:>12}  {}", replay.by.rules_version)?;
    }
    Ok(())
}

pub(super) fn comparison(replay: &Replay, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(replay)?)?;
        return Ok(());
    }
    let id = replay.id;
    let Some(found) = &replay.comparison else {
        anyhow::bail!("replay {id} is {}: it is compared when it is counted", replay.state.as_str());
    };
    writeln!(
        out,
        "Replay {id}, planned {}, rules {}: {}",
        evidence::time(replay.created),
        replay.by.rules_version,
        replay.state.as_str()
    )?;
    for Range { topic, partition, first, last } in replay.ranges.iter().take(PAIRS) {
        writeln!(out, "  {topic}/{partition}: offsets {first} to {last}")?;
    }
    if replay.ranges.len() > PAIRS {
        writeln!(out, "  and {} ranges more", replay.ranges.len() - PAIRS)?;
    }
    let totals: Vec<Pair> = std::iter::zip(replay.old.named(), found.new.named())
        .map(|((name, old), (_, new))| Pair { name: name.to_owned(), old, new })
        .collect();
    table(&mut out, "Total", &totals)?;
    table(&mut out, "Failures by severity and category", &found.categories)?;
    table(&mut out, "Failures by ISP", &found.isps)?;
    writeln!(out, "\n{} failures are something else now, {} are gone, {} are new", found.changed, found.gone, found.added)?;
    for Move { from, to, failures, rule, pattern, sample } in found.moves.iter().take(MOVES) {
        writeln!(out, "{failures:>12}  {from} → {to}, mostly by {rule}, pattern {pattern:016x}")?;
        let sample: String = sample.chars().map(|c| if c.is_control() { ' ' } else { c }).take(84).collect();
        writeln!(out, "              {sample}")?;
    }
    if found.moves.len() > MOVES {
        writeln!(out, "and {} kinds of moves more; --json lists them", found.moves.len() - MOVES)?;
    }
    if found.new.dead_lettered < replay.old.dead_lettered {
        writeln!(
            out,
            "\nCare: {} items that are in the dead letter are counted now. Where they were sent again from there, they would be counted twice.",
            replay.old.dead_lettered - found.new.dead_lettered
        )?;
    }
    if replay.state == State::Counted {
        writeln!(out, "\nNext: `bounceflow replay swap {id}` puts it in place, `bounceflow replay discard {id}` gives it up")?;
    }
    Ok(())
}

/// Those that differ in full, the rest where there is room.
fn table(out: &mut dyn Write, title: &str, pairs: &[Pair]) -> std::io::Result<()> {
    writeln!(out, "\n{title:<44} {:>14} {:>14} {:>14}", "old", "new", "change")?;
    let mut sorted: Vec<&Pair> = pairs.iter().collect();
    if sorted.len() > PAIRS {
        sorted.sort_by_key(|pair| pair.old == pair.new);
    }
    for Pair { name, old, new } in sorted.iter().take(PAIRS) {
        let change = i128::from(*new) - i128::from(*old);
        let change = if change == 0 { "=".to_owned() } else { format!("{change:+}") };
        writeln!(out, "{name:<44} {old:>14} {new:>14} {change:>14}")?;
    }
    if sorted.len() > PAIRS {
        writeln!(out, "and {} more", sorted.len() - PAIRS)?;
    }
    Ok(())
}
