//! The roll-ups of `delivery_rates`: which there are, and what makes a row of each. Pure.
//!
//! Their views in `schemas/clickhouse` feed them; a replay makes them anew for whole months. Both by the same SELECT: a test compares.

use crate::counts::{CATEGORIES, COUNTS};

/// A table that a view chained to `delivery_rates` adds to. It has the partitions of `delivery_rates`: months.
pub(crate) struct Rollup {
    pub(crate) table: &'static str,
    /// Its key, made of the columns of `delivery_rates`, called `r`.
    key: &'static [(&'static str, &'static str)],
}

const DAY: (&str, &str) = ("date", "toDate(minute)");
const ISP: (&str, &str) = ("isp", "isp");
const IDENTITY: (&str, &str) = ("identity", "identity");
const CAMPAIGN: (&str, &str) = ("campaign", "campaign");
/// IPv4 inside IPv6 is IPv4.
const SENDING_IP: (&str, &str) = ("sending_ip", r"replaceRegexpOne(r.sending_ip, '^::ffff:([0-9.]+)$', '\\1')");

pub(crate) const ROLLUPS: [Rollup; 3] = [
    Rollup { table: "hourly_rates", key: &[("hour", "toStartOfHour(minute)"), ISP, IDENTITY] },
    Rollup { table: "daily_rates", key: &[DAY, ISP, IDENTITY, SENDING_IP] },
    Rollup { table: "daily_rates_by_identity", key: &[DAY, IDENTITY, CAMPAIGN, ISP] },
];

impl Rollup {
    /// Its column of time.
    pub(crate) fn time(&self) -> &'static str {
        self.key[0].0
    }

    /// What rows of `from`, a table or a subquery like `delivery_rates`, add.
    pub(crate) fn select(&self, from: &str) -> String {
        let named = |(name, made): &(&str, &str)| if name == made { (*name).to_owned() } else { format!("{made} AS {name}") };
        let keys = self.key.iter().map(named);
        let counts = COUNTS.iter().map(|c| format!("sum(r.{c}) AS {c}"));
        let maps = CATEGORIES.iter().map(|(_, map)| format!("sumMap(r.{map}) AS {map}"));
        let columns: Vec<String> = keys.chain(counts).chain(maps).collect();
        let names: Vec<&str> = self.key.iter().map(|(name, _)| *name).collect();
        format!("SELECT {} FROM {from} AS r GROUP BY {}", columns.join(", "), names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::{MIGRATIONS, statements};

    #[test]
    fn the_views_say_the_same() {
        let words = |sql: &str| sql.split_whitespace().collect::<Vec<_>>().join(" ");
        let all: Vec<String> = MIGRATIONS.iter().flat_map(|m| statements(m.sql)).map(words).collect();
        for rollup in &ROLLUPS {
            let table = rollup.table;
            let view =
                format!("CREATE MATERIALIZED VIEW IF NOT EXISTS {table}_mv TO {table} AS {}", rollup.select("delivery_rates"));
            assert!(all.contains(&view), "{view}");
        }
        let views = all.iter().filter(|s| s.starts_with("CREATE MATERIALIZED VIEW") && s.contains("FROM delivery_rates"));
        assert_eq!(views.count(), ROLLUPS.len());
    }
}
