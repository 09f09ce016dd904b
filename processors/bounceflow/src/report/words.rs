//! Values as people read them: thousands apart, per cent, points with a sign, times without a T. Pure.

use bounceflow_warehouse::report::{Kind, Value};
use indicatif::HumanCount;

/// What people read; empty where there is nothing to say.
pub(super) fn shown(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (_, Value::Null) => String::new(),
        (Kind::Time, Value::Text(time)) => time.split_once('.').map_or(time.trim_end_matches('Z'), |(s, _)| s).replace('T', " "),
        (_, Value::Text(text)) => text.clone(),
        (Kind::Seconds, Value::Count(seconds)) => duration(*seconds),
        (_, Value::Count(n)) => HumanCount(*n).to_string(),
        (Kind::Rate, Value::Number(n)) if *n > 0.0 && *n < 0.00005 => "<0.01 %".to_owned(),
        (Kind::Rate, Value::Number(n)) => format!("{:.2} %", 100.0 * n),
        (Kind::Change, Value::Number(n)) => format!("{} %", signed(100.0 * n, 1)),
        (Kind::Difference, Value::Number(n)) => {
            let sign = if *n <= -0.5 {
                "-"
            } else if *n >= 0.5 {
                "+"
            } else {
                ""
            };
            format!("{sign}{}", HumanCount(n.abs().round() as u64))
        }
        (_, Value::Number(n)) => signed(*n, 2),
    }
}

/// With a sign, where it is not 0 as shown.
fn signed(n: f64, decimals: usize) -> String {
    let text = format!("{n:+.decimals$}");
    if text.bytes().any(|b| (b'1'..=b'9').contains(&b)) { text } else { format!("{:.decimals$}", 0.0) }
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s:02} s"),
        (0, h, m, _) => format!("{h} h {m:02} min"),
        (d, h, ..) => format!("{d} d {h:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_words() {
        for (kind, value, expect) in [
            (Kind::Count, Value::Count(1_234_567), "1,234,567"),
            (Kind::Rate, Value::Number(0.02134), "2.13 %"),
            (Kind::Rate, Value::Number(0.00001), "<0.01 %"),
            (Kind::Rate, Value::Number(0.0), "0.00 %"),
            (Kind::Rate, Value::Null, ""),
            (Kind::Points, Value::Number(-0.001), "0.00"),
            (Kind::Points, Value::Number(1.256), "+1.26"),
            (Kind::Change, Value::Number(-0.25), "-25.0 %"),
            (Kind::Difference, Value::Number(-1234.4), "-1,234"),
            (Kind::Seconds, Value::Count(59), "59 s"),
            (Kind::Seconds, Value::Count(3725), "1 h 02 min"),
            (Kind::Seconds, Value::Count(190_000), "2 d 04 h"),
            (Kind::Time, Value::Text("2026-05-01T12:00:00.250Z".into()), "2026-05-01 12:00:00"),
            (Kind::Date, Value::Text("2026-05-01".into()), "2026-05-01"),
            (Kind::Text, Value::Text("a.b T Z".into()), "a.b T Z"),
        ] {
            assert_eq!(shown(kind, &value), expect, "{value:?}");
        }
    }
}
