//! `bounceflow dead-letter show`: one letter in full. What is printed never steers a terminal: control characters are spelt out.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use serde::de::IgnoredAny;

use super::Filter;
use super::letter::{DETAIL, FORMAT};
use super::shelf::{Headers, Letter, Place, Shelf, State};
use crate::config::Config;
use crate::evidence::time;
use crate::printable::printable;
use crate::progress::note;

/// More of a record is left to --raw. Bytes.
const SHOWN: usize = 64 * 1024;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Which letters, as `list` names them: PARTITION:OFFSET
    #[arg(value_name = "PARTITION:OFFSET", required_unless_present_any = ["reason", "from", "to", "by"])]
    places: Vec<Place>,
    #[command(flatten)]
    filter: Filter,
    /// Of those the filter fits, the latest so many
    #[arg(long, default_value_t = 10)]
    limit: usize,
    /// Write the record of one letter, byte for byte
    #[arg(long)]
    raw: bool,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let shelf = Shelf::read(config, |_, _| {})?;
    let mut places: BTreeSet<Place> = BTreeSet::new();
    let mut missing = 0;
    for place in &args.places {
        match shelf.letters.get(place).map(|letter| letter.state) {
            None => {
                note(format_args!("{place}: no dead letter there; `bounceflow dead-letter list` names examples"));
                missing += 1;
            }
            Some(State::Erased) => {
                note(format_args!("{place}: erased"));
                missing += 1;
            }
            Some(_) => drop(places.insert(*place)),
        }
    }
    if !args.filter.is_empty() {
        let fits = shelf.letters.iter().filter(|(_, l)| l.state != State::Erased && args.filter.fits(&shelf, l));
        let mut fits: Vec<_> = fits.map(|(place, letter)| (letter.time, *place)).collect();
        fits.sort_unstable();
        places.extend(fits.iter().rev().take(args.limit).map(|(_, place)| *place));
    }
    let mut out = std::io::stdout().lock();
    if args.raw {
        anyhow::ensure!(
            places.len() == 1,
            "--raw writes one record, and {} letters are meant: name one as PARTITION:OFFSET",
            places.len()
        );
        anyhow::ensure!(
            !out.is_terminal(),
            "--raw writes any bytes, which may steer a terminal: send them to a file or through a pipe"
        );
    }
    missing += Shelf::open(config, &places, |place, record| {
        let Some(letter) = shelf.letters.get(&place) else { return Ok(()) };
        if args.raw {
            out.write_all(record.payload().unwrap_or_default())?;
        } else {
            out.write_all(text(&shelf, place, letter, record).as_bytes())?;
        }
        Ok(())
    })?;
    out.flush()?;
    Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn text(shelf: &Shelf, place: Place, letter: &Letter, record: &BorrowedMessage<'_>) -> String {
    let headers = Headers::of(record);
    let detail = headers.text(DETAIL).unwrap_or("");
    let mut text = format!("── {place} ── {}\n", time(letter.time));
    let mut line = |name: &str, words: &str| {
        let _ = writeln!(text, "{name:<9} {}", printable(words, false));
    };
    line("why", &format!("{}{}{detail}", shelf.reason(letter), if detail.is_empty() { "" } else { ": " }));
    let mut by = letter.by.as_str().to_owned();
    if let Some(format) = headers.text(FORMAT) {
        by.push_str(&format!(", read as {format}"));
    }
    line("by", &by);
    let item = if letter.others > 0 {
        let more = match letter.items().len() {
            1 => String::new(),
            several => format!(" and {} more", several - 1),
        };
        format!(", item {} (from 0){more}; {} other items of it are counted", letter.item, letter.others)
    } else {
        String::new()
    };
    let came = if letter.timestamp < 0 { String::new() } else { format!(", written {}", time(letter.timestamp)) };
    line(
        "from",
        &format!("{}, partition {}, offset {}{item}{came}", shelf.topic(letter), letter.source.partition, letter.source.offset),
    );
    if letter.resent > 0 {
        line("history", &format!("had been sent again {} before", times(letter.resent)));
    }
    line(
        "state",
        if letter.state == State::Resent { "sent again" } else { "waits: `bounceflow dead-letter resend` sends it again" },
    );
    if let Some(key) = headers.source_key(letter, record) {
        line("key", &String::from_utf8_lossy(key));
    }
    for (name, value) in headers.own() {
        line("header", &format!("{name} = {}", String::from_utf8_lossy(value)));
    }
    match record.payload() {
        None => line("record", "a tombstone: no value"),
        Some(payload) => {
            line("record", &format!("{} bytes", payload.len()));
            text.push_str(&body(payload));
        }
    }
    text.push('\n');
    text
}

fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// The record as people read it.
fn body(payload: &[u8]) -> String {
    let text = std::str::from_utf8(payload).ok().filter(|text| {
        let control = text.chars().filter(|c| c.is_control() && !c.is_whitespace()).count();
        control * 20 <= text.len()
    });
    let mut shown = match text {
        Some(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => printable(&pretty(text), true),
        Some(text) => printable(text, true),
        None => hex(&payload[..payload.len().min(SHOWN / 4)]),
    };
    let all = shown.len() <= SHOWN && (text.is_some() || payload.len() <= SHOWN / 4);
    let end = (0..=shown.len().min(SHOWN)).rev().find(|end| shown.is_char_boundary(*end)).unwrap_or(0);
    shown.truncate(end);
    if !shown.ends_with('\n') {
        shown.push('\n');
    }
    if !all {
        shown.push_str("… cut here; --raw writes all of it\n");
    }
    shown
}

/// Valid JSON, on lines of its own; every value exactly as it was written.
fn pretty(json: &str) -> String {
    let (mut out, mut depth, mut text, mut escaped) = (String::with_capacity(json.len() * 2), 0_usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if text {
            out.push(c);
            (text, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                if let Some(close) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_whitespace() => {}
            c => {
                text = c == '"';
                out.push(c);
            }
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth.min(40)));
}

/// Offset, sixteen bytes, and what of them is ASCII.
fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (row, chunk) in bytes.chunks(16).enumerate() {
        let _ = write!(out, "{:08x} ", row * 16);
        for i in 0..16 {
            let gap = if i % 8 == 0 { " " } else { "" };
            let _ = match chunk.get(i) {
                Some(byte) => write!(out, "{gap}{byte:02x} "),
                None => write!(out, "{gap}   "),
            };
        }
        let ascii = chunk.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' });
        let _ = writeln!(out, " |{}|", ascii.collect::<String>());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        let any: Vec<u8> = (0..=255).collect();
        for shown in [body(&any), body(b"\x1b]0;title\x07"), body("{\"a\":\"\u{9b}1m\"}".as_bytes())] {
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        }
    }

    #[test]
    fn json_is_shown_as_it_was_written() {
        let shown = body(br#" {"b":1.0,"a":[ ],"text":"x\"{,}","n":12345678901234567890, "o":[{"y":null},2]} "#);
        let expect = "{\n  \"b\": 1.0,\n  \"a\": [],\n  \"text\": \"x\\\"{,}\",\n  \"n\": 12345678901234567890,\n  \"o\": [\n    {\n      \
                      \"y\": null\n    },\n    2\n  ]\n}\n";
        assert_eq!(shown, expect);
    }

    #[test]
    fn bytes_are_shown_in_rows() {
        assert_eq!(body(b"\xc3\x01AB\x00"), "00000000  c3 01 41 42 00 ".to_owned() + &" ".repeat(34) + " |..AB.|\n");
        assert!(body(&vec![0xff; SHOWN]).ends_with("--raw writes all of it\n"));
    }
}
