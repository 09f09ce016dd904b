//! What is shown while the demo runs, as lines of text. Pure: figures in, lines out.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, Table, Width};
use console::{measure_text_width, style, truncate_str};
use indicatif::HumanCount;

use crate::warehouse::{Breakdown, Profile, RECENT, Worst};
use crate::watch::Watch;

/// From this share of bounces on, the line about the present is red.
const ALARMING: f64 = 0.2;
/// From this width on, profiles say why mail bounces most.
const WIDE: usize = 98;
/// Between two tables side by side.
const GAP: usize = 3;

/// What the frame is about, besides what was seen.
pub(crate) struct Moment {
    pub(crate) phase: String,
    pub(crate) elapsed: Duration,
    /// None: until somebody ends it.
    pub(crate) total: Option<Duration>,
}

/// Lines that fit into so many columns and rows (at least 80 and 23).
pub(crate) fn frame(watch: &Watch, moment: &Moment, columns: usize, rows: usize) -> Vec<String> {
    let seen = &watch.seen;
    let mut flow = flow(watch);
    flow.push(match &watch.trouble {
        Some(trouble) => style(format!(" {trouble}")).red().to_string(),
        None => present(seen.worst.as_ref()),
    });
    let mut blocks = vec![vec![title(moment, columns)], flow, breakdown(&seen.breakdown, columns)];

    let isps = |room, why| profiles("ISP", &seen.isps, room, why);
    let identities = |room, why| profiles("IDENTITY", &seen.identities, room, why);
    let side_by_side = width(&isps(0, false)) + GAP + width(&identities(0, false)) <= columns;
    // The least number of rows worth an empty line between blocks; where there is less room, there is none.
    let (headings, enough) = if side_by_side { (1, 6) } else { (2, 12) };
    let room = rows.saturating_sub(blocks.iter().map(Vec::len).sum::<usize>() + headings);
    let gaps = blocks.len() + headings - 1;
    let airy = room >= enough + gaps;
    let room = if airy { room - gaps } else { room };
    if side_by_side {
        blocks.push(beside(&isps(room, false), &identities(room, false)));
    } else {
        let fewer = seen.identities.len().min(room * 2 / 5);
        blocks.push(isps(room - fewer, columns >= WIDE));
        blocks.push(identities(fewer, columns >= WIDE));
    }
    let lines = blocks.join(&if airy { vec![String::new()] } else { Vec::new() }[..]);
    lines.iter().map(|line| truncate_str(line, columns, "…").into_owned()).collect()
}

fn title(moment: &Moment, columns: usize) -> String {
    let left = format!(" bounceflow demo · {}", moment.phase);
    let elapsed = clock(moment.elapsed);
    let right = match moment.total {
        Some(total) => format!("{elapsed} of {}, {} left ", clock(total), clock(total.saturating_sub(moment.elapsed))),
        None => format!("{elapsed}, until Ctrl-C "),
    };
    let gap = columns.saturating_sub(measure_text_width(&left) + measure_text_width(&right)).max(1);
    style(format!("{left}{}{right}", " ".repeat(gap))).bold().reverse().to_string()
}

/// The way of the records: in Kafka, counted by classify, in ClickHouse, or unreadable.
fn flow(watch: &Watch) -> Vec<String> {
    let (sent, classified, stored) = (watch.sent.last(), watch.classified.last(), watch.stored.last());
    let dead: u64 = watch.seen.metrics.dead_letters.values().sum();
    let mut table = table();
    let speed = |per_second: f64| format!("{}/s", count(per_second.round() as u64));
    table.add_row(["sent", &count(sent), &speed(watch.sent.per_second()), "events in Kafka"]);
    let waiting = format!("{} waiting for classify", count(sent.saturating_sub(classified)));
    table.add_row(["classified", &count(classified), &speed(watch.classified.per_second()), &waiting]);
    let behind = format!(
        "{} not in ClickHouse yet, {:.1} s behind",
        count(sent.saturating_sub(stored)),
        watch.delay().as_secs_f64()
    );
    table.add_row(["stored", &count(stored), &speed(watch.stored.per_second()), &behind]);
    table.add_row(["dead letters", &count(dead), "", &most(&watch.seen.metrics.dead_letters, 3)]);
    align(&mut table, &[1, 2]);
    constrain(&mut table, &[12, 11, 10]);
    rows(&table)
}

fn present(worst: Option<&Worst>) -> String {
    let Some(worst) = worst else { return style(format!(" Nothing in the last {RECENT} s")).dim().to_string() };
    let rate = worst.bounces as f64 / worst.outcomes as f64;
    let why = most(&worst.categories, 1);
    let why = why.rsplit_once(' ').map_or("", |(category, _)| category);
    let line = format!(" most bounces, last {RECENT} s: {} × {} {} {why}", worst.isp, worst.identity, percent(Some(rate)));
    if rate >= ALARMING { style(line).red().bold().to_string() } else { line }
}

fn breakdown(breakdown: &[Breakdown], columns: usize) -> Vec<String> {
    let all: u64 = breakdown.iter().map(|row| row.n).sum();
    let mut table = table();
    table.set_header(["FAILURES", "count", "share", "most frequent"]);
    for (kind, is) in KINDS {
        let of_kind: Vec<&Breakdown> = breakdown.iter().filter(|row| is(row)).collect();
        let n: u64 = of_kind.iter().map(|row| row.n).sum();
        let categories = of_kind.iter().map(|row| (row.category.clone(), row.n)).fold(BTreeMap::new(), |mut all, (name, n)| {
            *all.entry(name).or_insert(0) += n;
            all
        });
        let share = (all > 0).then(|| n as f64 / all as f64);
        // As many as fit whole.
        let fitting = (0..=4).rev().map(|names| most(&categories, names)).find(|text| measure_text_width(text) + 36 <= columns);
        table.add_row([kind, &count(n), &percent(share), &fitting.unwrap_or_default()]);
    }
    align(&mut table, &[1, 2]);
    constrain(&mut table, &[12, 11, 5]);
    headed(&table)
}

type Kind = (&'static str, fn(&Breakdown) -> bool);

const KINDS: [Kind; 5] = [
    ("hard", |row| row.event_type == "bounce" && row.severity == "hard"),
    ("soft", |row| row.event_type == "bounce" && row.severity != "hard"),
    ("deferred", |row| row.event_type == "deferral"),
    ("late bounce", |row| row.event_type == "oob_bounce"),
    ("complaint", |row| row.event_type == "complaint"),
];

fn profiles(title: &str, profiles: &[Profile], room: usize, why: bool) -> Vec<String> {
    let mut table = table();
    let mut header = vec![title, "deliveries", "hard", "soft", "deferred", "bounced"];
    if why {
        header.push("mostly for");
    }
    table.set_header(header);
    for profile in &profiles[..room.min(profiles.len())] {
        let numbers = [profile.deliveries, profile.hard, profile.soft, profile.deferred].map(count);
        let mut row = vec![profile.name.clone()];
        row.extend(numbers);
        row.push(percent(profile.bounce_rate));
        if why {
            row.push(most(&profile.categories, 1));
        }
        table.add_row(row);
    }
    align(&mut table, &[1, 2, 3, 4, 5]);
    // As wide as the widest will be, so that nothing moves while figures come in.
    let widest = profiles.iter().map(|profile| profile.name.len()).max().unwrap_or(0).max(16);
    let names = if why { 27 } else { widest };
    constrain(&mut table, &[names as u16, 10, 7, 7, 8, 7]);
    headed(&table)
}

/// The largest entries of a map, with their counts.
fn most(counts: &BTreeMap<String, u64>, entries: usize) -> String {
    let mut sorted: Vec<_> = counts.iter().filter(|(name, n)| !name.is_empty() && **n > 0).collect();
    sorted.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let texts: Vec<String> = sorted.iter().take(entries).map(|(name, n)| format!("{name} {}", count(**n))).collect();
    texts.join(", ")
}

pub(crate) fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// A table without lines, as wide as its cells.
pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

/// Numbers stand to the right.
pub(crate) fn align(table: &mut Table, numbers: &[usize]) {
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if numbers.contains(&i) { CellAlignment::Right } else { CellAlignment::Left });
    }
}

fn constrain(table: &mut Table, least: &[u16]) {
    // The space on both sides is part of the width.
    for (column, width) in table.column_iter_mut().zip(least) {
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width + 2)));
    }
}

pub(crate) fn rows(table: &Table) -> Vec<String> {
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// The first line stands out.
pub(crate) fn headed(table: &Table) -> Vec<String> {
    let mut lines = rows(table);
    if let Some(first) = lines.first_mut() {
        *first = style(&*first).bold().to_string();
    }
    lines
}

fn width(lines: &[String]) -> usize {
    lines.iter().map(|line| measure_text_width(line)).max().unwrap_or(0)
}

fn beside(left: &[String], right: &[String]) -> Vec<String> {
    let (edge, none) = (width(left) + GAP, String::new());
    let lines = 0..left.len().max(right.len());
    lines
        .map(|i| {
            let (left, right) = (left.get(i).unwrap_or(&none), right.get(i).unwrap_or(&none));
            format!("{left}{}{right}", " ".repeat(edge - measure_text_width(left)))
        })
        .collect()
}
