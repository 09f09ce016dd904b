//! Figures and text as people read them: counts, rates, lengths, times; cut and wrapped to a width. No clock, no state.

use ratatui::text::Span;

pub(super) use crate::evidence::length;

/// Stands for what is not known.
pub(super) const NONE: &str = "–";
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The full height of a chart is at least this rate: noise around nothing must not look like an incident.
const LEAST_TOP: f64 = 0.05;

/// With thousands separators: `12,345`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Six columns at most: `9,999`, `12.3k`, `1.2M`.
pub(super) fn short(n: u64) -> String {
    if n < 10_000 {
        return count(n);
    }
    let mut value = n as f64;
    for unit in ["k", "M", "G", "T", "P"] {
        value /= 1000.0;
        // What would be rounded up to 1000.0 belongs to the next unit.
        if value < 999.95 {
            return format!("{value:.1}{unit}");
        }
    }
    format!("{:.0}E", value / 1000.0)
}

/// A fraction in %, with one decimal; with two below 0.1 %. Six columns at most.
pub(super) fn rate(fraction: Option<f64>) -> String {
    let Some(fraction) = fraction.filter(|fraction| fraction.is_finite()) else { return NONE.to_owned() };
    let percent = fraction * 100.0;
    match percent {
        0.0 => "0%".to_owned(),
        p if p < 0.005 => "<0.01%".to_owned(),
        p if p < 0.095 => format!("{p:.2}%"),
        p if p < 99.95 => format!("{p:.1}%"),
        p => format!("{p:.0}%"),
    }
}

/// Numerator / denominator in %.
pub(super) fn share(numerator: i64, denominator: i64) -> String {
    rate((denominator > 0).then(|| numerator as f64 / denominator as f64))
}

/// How long ago: `42 s`, `5 min`, `3 h 20 min`, `2 d 4 h`. What lies ahead is 0.
pub(super) fn age(milliseconds: i64) -> String {
    let seconds = milliseconds.max(0) / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{minutes} min"),
        7200..172_800 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Time of day in UTC; with month and day where that is not the day of `now`.
pub(super) fn time(ms: i64, now: i64) -> String {
    written(ms, if same_day(ms, now) { "%H:%M:%S" } else { "%m-%d %H:%M:%S" })
}

/// The same without seconds.
pub(super) fn minute(ms: i64, now: i64) -> String {
    written(ms, if same_day(ms, now) { "%H:%M" } else { "%m-%d %H:%M" })
}

/// Day and time, UTC.
pub(super) fn date(ms: i64) -> String {
    written(ms, "%Y-%m-%d %H:%M:%S UTC")
}

fn same_day(a: i64, b: i64) -> bool {
    const DAY: i64 = 86_400_000;
    a.div_euclid(DAY) == b.div_euclid(DAY)
}

fn written(ms: i64, format: &str) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| NONE.to_owned(), |time| time.strftime(format).to_string())
}

/// Columns a text takes on the terminal.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text in `columns` at most, with `…` where something is missing.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let (mut kept, mut free) = (String::new(), columns.saturating_sub(1));
    for c in text.chars() {
        let columns = width(c.encode_utf8(&mut [0; 4]));
        if columns > free {
            break;
        }
        free -= columns;
        kept.push(c);
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

/// Cut or filled up to `columns`.
pub(super) fn left(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    let fill = columns.saturating_sub(width(&text));
    text + &" ".repeat(fill)
}

/// Filled up to `columns` at the left.
pub(super) fn right(text: &str, columns: usize) -> String {
    " ".repeat(columns.saturating_sub(width(text))) + text
}

/// Words in lines of at most `columns`; a longer word is broken. At least one line.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let (columns, mut lines, mut line) = (columns.max(1), Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if !line.is_empty() && width(&line) + width(c.encode_utf8(&mut [0; 4])) > columns {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// Without control characters: a reply must not steer the reader's terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// One line of bars in `cells` columns; where there are fewer columns than values, a column shows the highest of its values.
pub(super) fn spark(values: &[Option<f64>], cells: usize) -> String {
    let merged: Vec<Option<f64>> = (0..cells.min(values.len()))
        .map(|cell| {
            let (from, to) = (cell * values.len() / cells, (cell + 1) * values.len() / cells);
            values[from..to].iter().flatten().copied().reduce(f64::max)
        })
        .collect();
    chart(&merged, 1).concat()
}

/// Bars `height` lines high, the top line first. A space is no value, the lowest bar is 0.
pub(super) fn chart(values: &[Option<f64>], height: usize) -> Vec<String> {
    let top = peak(values).unwrap_or(0.0).max(LEAST_TOP);
    let steps = height * LEVELS.len();
    let bars: Vec<Option<usize>> =
        values.iter().map(|value| value.map(|value| ((value / top * steps as f64).ceil() as usize).clamp(1, steps))).collect();
    (0..height)
        .rev()
        .map(|line| {
            let below = line * LEVELS.len();
            let cell = |bar: &Option<usize>| match bar {
                Some(bar) if *bar > below => LEVELS[(bar - below).min(LEVELS.len()) - 1],
                _ => ' ',
            };
            bars.iter().map(cell).collect()
        })
        .collect()
}

/// The highest value.
pub(super) fn peak(values: &[Option<f64>]) -> Option<f64> {
    values.iter().flatten().copied().reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")];
        for (n, expected) in cases {
            assert_eq!(count(n), expected);
        }
        let cases = [
            (9_999, "9,999"),
            (10_000, "10.0k"),
            (12_345, "12.3k"),
            (999_949, "999.9k"),
            (999_950, "1.0M"),
            (1_234_567_890, "1.2G"),
            (u64::MAX, "18E"),
        ];
        for (n, expected) in cases {
            assert_eq!(short(n), expected, "{n}");
            assert!(short(n).len() <= 6);
        }
    }

    #[test]
    fn rates() {
        let cases = [
            (None, "–"),
            (Some(f64::NAN), "–"),
            (Some(0.0), "0%"),
            (Some(0.000_01), "<0.01%"),
            (Some(0.000_05), "0.01%"),
            (Some(0.000_5), "0.05%"),
            (Some(0.000_949), "0.09%"),
            (Some(0.000_951), "0.1%"),
            (Some(0.042), "4.2%"),
            (Some(0.999), "99.9%"),
            (Some(0.999_6), "100%"),
            (Some(1.0), "100%"),
        ];
        for (fraction, expected) in cases {
            assert_eq!(rate(fraction), expected, "{fraction:?}");
            assert!(width(&rate(fraction)) <= 6);
        }
        assert_eq!(share(480, 12_300), "3.9%");
        assert_eq!(share(1, 0), "–");
    }

    #[test]
    fn lengths_and_ages() {
        let cases = [(90, "90 s"), (300, "5 min"), (5400, "90 min"), (3600, "1 h"), (86_400, "24 h"), (0, "0 s")];
        for (seconds, expected) in cases {
            assert_eq!(length(seconds), expected);
        }
        let cases = [(-5, "0 s"), (42, "42 s"), (119, "119 s"), (300, "5 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")];
        for (seconds, expected) in cases {
            assert_eq!(age(seconds * 1000), expected);
        }
    }

    #[test]
    fn another_day_is_named() {
        let now = 1_790_000_400_000;
        assert_eq!(time(now, now), "14:20:00");
        assert_eq!(time(now - 86_400_000, now), "09-20 14:20:00");
        assert_eq!(date(now), "2026-09-21 14:20:00 UTC");
        assert_eq!(time(i64::MAX, now), NONE);
    }

    #[test]
    fn text_is_cut_by_columns_not_by_bytes() {
        let cases = [("gmail", 5, "gmail"), ("google", 5, "goog…"), ("日本語", 5, "日本…"), ("日本語", 4, "日…"), ("ab", 0, "")];
        for (text, columns, expected) in cases {
            assert_eq!(cut(text, columns), expected);
            assert_eq!(width(&left(text, columns)), columns);
        }
        assert_eq!(wrap("a bc def ghijklm", 4), ["a bc", "def", "ghij", "klm"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(clean("550\u{1b}[2J no\r\n"), "550 [2J no  ");
    }

    #[test]
    fn bars_reach_up_to_the_peak_and_never_less_than_five_percent() {
        assert_eq!(spark(&[Some(0.0), None, Some(0.2), Some(0.4)], 4), "▁ ▄█");
        assert_eq!(spark(&[Some(0.0), Some(0.001)], 2), "▁▁");
        assert_eq!(spark(&[Some(0.1), None, Some(0.4), Some(0.2)], 2), "▂█");
        assert_eq!(spark(&[], 10), "");
        assert_eq!(chart(&[Some(1.0), Some(0.5), Some(0.75), None], 2), ["█ ▄ ", "███ "]);
    }
}
