//! What is shown while the demo runs, as lines of text. Pure: figures in, lines out.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, Table, Width};
use console::{measure_text_width, style, truncate_str};
use indicatif::HumanCount;

use crate::warehouse::{Breakdown, Profile, RECENT, Worst};
use crate::watch::Picture;

/// From this share of bounces on, the line about the present is red.
const ALARMING: f64 = 0.2;
/// From this width on, profiles say why mail bounces most.
const WIDE: usize = 98;
/// Columns of a profile's numbers.
const NUMBERS: usize = 51;
/// Columns names have at least.
const NAMES: usize = 16;
/// Columns of a label and two numbers.
const BEFORE: usize = 42;
/// Between two tables side by side.
const GAP: usize = 3;

/// What the frame is about, besides what was seen.
pub(crate) struct Moment {
    pub(crate) phase: String,
    /// How long, and how long still.
    pub(crate) time: String,
}

/// Lines that fit into so many columns and rows (at least 80 and 23).
pub(crate) fn frame(picture: &Picture, moment: &Moment, columns: usize, rows: usize) -> Vec<String> {
    let seen = &picture.seen;
    let mut flow = flow(picture, columns);
    flow.push(match &picture.trouble {
        Some(trouble) => style(format!(" {trouble}")).red().to_string(),
        None => present(seen.worst.as_ref(), columns),
    });
    let mut blocks = vec![vec![title(moment, columns)], flow, breakdown(&seen.breakdown, columns)];

    // Names get the room the longest needs, so that nothing moves while figures come in and both tables stand in line.
    let longest = |profiles: &[Profile]| profiles.iter().map(|profile| profile.name.len()).max().unwrap_or(0).max(NAMES);
    let (isp, identity) = (longest(&seen.isps), longest(&seen.identities));
    let side_by_side = isp + identity + 2 * NUMBERS + GAP <= columns;
    let (isp, identity) = if side_by_side { (isp, identity) } else { (isp.max(identity), isp.max(identity)) };
    let isps = |room, why| profiles("ISP", &seen.isps, isp, room, why);
    let identities = |room, why| profiles("IDENTITY", &seen.identities, identity, room, why);
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
    let right = format!("{} ", moment.time);
    let gap = columns.saturating_sub(measure_text_width(&left) + measure_text_width(&right)).max(1);
    style(format!("{left}{}{right}", " ".repeat(gap))).bold().reverse().to_string()
}

/// The way of the records: in Kafka, counted by classify, in ClickHouse, or unreadable.
fn flow(picture: &Picture, columns: usize) -> Vec<String> {
    let (sent, classified, stored) = (picture.sent.last(), picture.classified.last(), picture.stored.last());
    let dead: u64 = picture.seen.metrics.dead_letters.values().sum();
    let mut table = table();
    let speed = |per_second: f64| format!("{}/s", count(per_second.round() as u64));
    table.add_row(["sent", &count(sent), &speed(picture.sent.per_second()), "events in Kafka"]);
    let waiting = format!("{} not classified yet", count(sent.saturating_sub(classified)));
    table.add_row(["classified", &count(classified), &speed(picture.classified.per_second()), &waiting]);
    let behind = format!("{} not in ClickHouse yet ({:.1} s)", count(sent.saturating_sub(stored)), picture.delay().as_secs_f64());
    table.add_row(["stored", &count(stored), &speed(picture.stored.per_second()), &behind]);
    table.add_row(["dead letters", &count(dead), "", &fitting(&picture.seen.metrics.dead_letters, columns)]);
    align(&mut table, &[1, 2]);
    constrain(&mut table, &[12, 11, 10]);
    rows(&table)
}

fn present(worst: Option<&Worst>, columns: usize) -> String {
    let Some(worst) = worst else { return style(format!(" most bounces ({RECENT} s): none")).dim().to_string() };
    let rate = worst.bounces as f64 / worst.outcomes as f64;
    let mut line = format!(" most bounces ({RECENT} s): {} × {} {}", worst.isp, worst.identity, percent(Some(rate)));
    let why = format!(", {}", leading(&worst.categories));
    if measure_text_width(&line) + why.len() <= columns {
        line.push_str(&why);
    }
    if rate >= ALARMING { style(line).red().bold().to_string() } else { line }
}

fn breakdown(breakdown: &[Breakdown], columns: usize) -> Vec<String> {
    let all: u64 = breakdown.iter().map(|row| row.n).sum();
    let mut table = table();
    table.set_header(["FAILURES", "count", "share", "most frequent"]);
    for (kind, is) in KINDS {
        let of_kind: Vec<&Breakdown> = breakdown.iter().filter(|row| is(row)).collect();
        let n: u64 = of_kind.iter().map(|row| row.n).sum();
        let categories = of_kind.iter().filter(|row| row.category != kind).map(|row| (row.category.clone(), row.n)).fold(
            BTreeMap::new(),
            |mut all, (name, n)| {
                *all.entry(name).or_insert(0) += n;
                all
            },
        );
        let share = (all > 0).then(|| n as f64 / all as f64);
        table.add_row([kind, &count(n), &percent(share), &fitting(&categories, columns)]);
    }
    align(&mut table, &[1, 2]);
    constrain(&mut table, &[12, 11, 10]);
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

fn profiles(title: &str, profiles: &[Profile], names: usize, room: usize, why: bool) -> Vec<String> {
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
            row.push(leading(&profile.categories));
        }
        table.add_row(row);
    }
    align(&mut table, &[1, 2, 3, 4, 5]);
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

/// As many of the largest as fit whole behind a label and two numbers.
fn fitting(counts: &BTreeMap<String, u64>, columns: usize) -> String {
    let texts = (1..=5).rev().map(|entries| most(counts, entries));
    texts.into_iter().find(|text| measure_text_width(text) + BEFORE <= columns).unwrap_or_default()
}

/// The name of the largest entry.
fn leading(counts: &BTreeMap<String, u64>) -> String {
    most(counts, 1).rsplit_once(' ').map_or_else(String::new, |(name, _)| name.to_owned())
}

pub(crate) fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

pub(crate) fn clock(time: Duration) -> String {
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::watch::Seen;

    fn picture() -> Picture {
        let start = Instant::now();
        let profile = |name: String| Profile {
            name,
            deliveries: 1_234_567,
            hard: 12_345,
            soft: 678,
            deferred: 9,
            bounce_rate: Some(0.0105),
            categories: BTreeMap::from([("invalid_recipient".to_owned(), 12_000), ("mailbox_full".to_owned(), 1023)]),
        };
        let row = |event_type: &str, severity: &str, category: &str, n| Breakdown {
            event_type: event_type.to_owned(),
            severity: severity.to_owned(),
            category: category.to_owned(),
            n,
        };
        let mut picture = Picture {
            seen: Seen {
                worst: Some(Worst {
                    isp: "google_workspace".to_owned(),
                    identity: "sender-99.some-name.example".to_owned(),
                    bounces: 300,
                    outcomes: 1000,
                    categories: BTreeMap::from([("invalid_recipient".to_owned(), 300)]),
                }),
                breakdown: vec![
                    row("bounce", "hard", "invalid_recipient", 600),
                    row("bounce", "soft", "mailbox_full", 300),
                    row("complaint", "", "", 100),
                ],
                isps: (0..30).map(|n| profile(format!("isp_{n}"))).collect(),
                identities: (0..12).map(|n| profile(format!("sender-{n:02}.some-name.example"))).collect(),
                ..Seen::default()
            },
            ..Picture::default()
        };
        for second in 0..3 {
            picture.sent.add(start + Duration::from_secs(second), second * 5000);
        }
        picture
    }

    fn shown(columns: usize, rows: usize) -> Vec<String> {
        let moment = Moment { phase: "traffic flows".to_owned(), time: clock(Duration::from_secs(75)) };
        frame(&picture(), &moment, columns, rows).iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect()
    }

    #[test]
    fn a_frame_fits_and_uses_the_room_there_is() {
        for (columns, rows) in [(80, 23), (80, 39), (100, 30), (120, 39), (160, 23), (200, 60)] {
            let lines = shown(columns, rows);
            assert!(lines.len() <= rows, "{columns}×{rows}: {} lines", lines.len());
            assert!(lines.iter().all(|line| measure_text_width(line) <= columns), "{columns}×{rows}");
            assert!(!lines.iter().any(|line| line.contains('…')), "{columns}×{rows}: cut off\n{}", lines.join("\n"));
            let listed = lines.iter().filter(|line| line.contains("1,234,567")).count();
            assert!(listed >= if columns < 160 { 9 } else { 6 }, "{columns}×{rows}: {listed} profiles");
        }
    }

    #[test]
    fn figures_are_readable() {
        let text = shown(80, 40).join("\n");
        assert!(text.contains("traffic flows") && text.contains("1:15"), "{text}");
        let words: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "sent 10,000 5,000/s events in Kafka",
            "hard 600 60.0% invalid_recipient 600",
            "complaint 100 10.0%",
            "isp_0 1,234,567 12,345 678 9 1.1%",
        ] {
            assert!(words.iter().any(|words| words == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_largest_come_first() {
        let counts = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2000), (String::new(), 9), ("c".to_owned(), 30)]);
        assert_eq!(most(&counts, 2), "b 2,000, c 30");
        assert_eq!((percent(None), percent(Some(0.5))), ("–".to_owned(), "50.0%".to_owned()));
    }
}
