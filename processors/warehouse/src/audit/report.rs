//! What an audit found, as a value, as JSON and as text for a person.

use std::fmt;
use std::time::Duration;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

/// How an audit is run.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// Most gaps, overlaps and duplicates that are listed one by one, of each; all are counted.
    pub list: usize,
    /// How long any one question may take.
    pub timeout: Duration,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self { list: 20, timeout: Duration::from_secs(3600) }
    }
}

/// Whether every offset of every source was counted exactly once, and every count arrived everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Tables of this replica that lack what other replicas have, and why. Whatever is missing may be there.
    pub behind: Vec<String>,
    /// What was covered, by source partition.
    pub partitions: Vec<Coverage>,
    /// Offsets between the first and the last that no transaction covers.
    pub gaps: Vec<OffsetRange>,
    /// Offsets that more than one transaction covers.
    pub overlaps: Vec<OffsetRange>,
    /// Items read against items accounted for.
    pub items: Items,
    /// Each count in `batches` and in `delivery_rates`.
    pub counts: Vec<Count>,
    /// Failures counted in `batches`.
    pub failures_counted: u64,
    /// Rows in `failures`.
    pub failures_stored: u64,
    /// Rows that were there and went with a person's erasure.
    pub failures_erased: u64,
    /// Rows stored more than once.
    pub duplicates: Vec<Duplicates>,
    /// Transactions whose parts do not follow each other from 0 to the last.
    pub torn_transactions: u64,
    /// Producers whose last transaction is not all here; it may be on its way.
    pub unfinished_transactions: u64,
}

/// What was covered of one source partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Source topic.
    pub topic: String,
    /// Source partition.
    pub partition: i32,
    /// Ranges that cover at least one offset.
    pub ranges: u64,
    /// Ranges that cover none.
    pub heartbeats: u64,
    /// First offset covered; absent where only heartbeats came.
    pub first_offset: Option<i64>,
    /// Last offset covered.
    pub last_offset: Option<i64>,
    /// Records read.
    pub records: u64,
    /// Items in them.
    pub items: u64,
    /// Items sent to the dead letter.
    pub dead_lettered: u64,
    /// How many gaps there are.
    pub gaps: u64,
    /// Offsets in them.
    pub missing_offsets: u64,
    /// How many overlaps there are.
    pub overlaps: u64,
    /// Offsets in them.
    pub repeated_offsets: u64,
}

/// Offsets of a source partition, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Row)]
pub struct OffsetRange {
    /// Source topic.
    pub topic: String,
    /// Source partition.
    pub partition: i32,
    /// First.
    pub from: i64,
    /// Last.
    pub to: i64,
}

/// Every item read is counted, ignored or dead-lettered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Row)]
pub struct Items {
    /// Read from the sources.
    pub read: u64,
    /// Counted in rows.
    pub counted: u64,
    /// Ignored, with a reason.
    pub ignored: u64,
    /// Sent to the dead letter.
    pub dead_lettered: u64,
}

/// One count on both sides of the materialized views.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Its name.
    pub name: &'static str,
    /// Its sum in `batches`.
    pub batches: u64,
    /// Its sum in `delivery_rates`.
    pub delivery_rates: u64,
    /// Its sum in each roll-up of `delivery_rates`.
    pub rollups: Vec<(&'static str, u64)>,
}

/// Rows of a table that stand for the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// Which table.
    pub table: &'static str,
    /// Which columns should be unique together.
    pub key: &'static str,
    /// How many keys are stored more than once.
    pub keys: u64,
    /// Rows beyond the first of each key.
    pub surplus_rows: u64,
    /// Some of the keys.
    pub examples: Vec<String>,
}

impl Items {
    /// What the items read became.
    pub fn accounted(&self) -> u64 {
        self.counted.wrapping_add(self.ignored).wrapping_add(self.dead_lettered)
    }
}

impl AuditReport {
    /// Whether nothing is missing, nothing is twice and all totals agree.
    pub fn is_clean(&self) -> bool {
        self.findings().is_empty()
    }

    /// Every fault, one sentence each.
    pub fn findings(&self) -> Vec<String> {
        let mut found = Vec::new();
        for p in &self.partitions {
            let Coverage { topic, partition, gaps, missing_offsets, overlaps, repeated_offsets, .. } = p;
            if *gaps > 0 {
                found.push(format!("{topic}/{partition}: {missing_offsets} offsets in {gaps} gaps were never counted"));
            }
            if *overlaps > 0 {
                found.push(format!(
                    "{topic}/{partition}: {repeated_offsets} offsets in {overlaps} overlaps were counted more than once"
                ));
            }
        }
        let items = &self.items;
        if items.read != items.accounted() {
            found.push(format!(
                "{} items were read, but {} are accounted for ({} counted, {} ignored, {} dead-lettered)",
                items.read,
                items.accounted(),
                items.counted,
                items.ignored,
                items.dead_lettered
            ));
        }
        for Count { name, batches, delivery_rates, rollups } in &self.counts {
            if batches != delivery_rates {
                found.push(format!("{name}: batches hold {batches}, delivery_rates {delivery_rates}"));
            }
            for (table, sum) in rollups.iter().filter(|(_, sum)| sum != delivery_rates) {
                found.push(format!("{name}: delivery_rates hold {delivery_rates}, {table} {sum}"));
            }
        }
        if self.failures_counted != self.failures_stored + self.failures_erased {
            found.push(format!(
                "{} failures were counted, {} are stored (the two topics are stored independently: while the sink is behind \
                 on one this passes; run the audit again when its lag is 0)",
                self.failures_counted, self.failures_stored
            ));
        }
        for d in self.duplicates.iter().filter(|d| d.keys > 0) {
            let Duplicates { table, key, keys, surplus_rows, .. } = d;
            found.push(format!("{table}: {keys} keys ({key}) are stored more than once, {surplus_rows} rows too many"));
        }
        if self.torn_transactions > 0 {
            found.push(format!("{} transactions lack a part", self.torn_transactions));
        }
        if self.unfinished_transactions > 0 {
            found.push(format!(
                "{} producers' last transaction lacks its last part (while the sink is behind this passes)",
                self.unfinished_transactions
            ));
        }
        found
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_coverage(f)?;
        write_ranges(f, "Gaps", &self.gaps, self.partitions.iter().map(|p| p.gaps).sum())?;
        write_ranges(f, "Overlaps", &self.overlaps, self.partitions.iter().map(|p| p.overlaps).sum())?;
        for d in self.duplicates.iter().filter(|d| d.keys > 0) {
            writeln!(f, "\nDuplicates in {} ({}): {}", d.table, d.key, d.keys)?;
            d.examples.iter().try_for_each(|example| writeln!(f, "  {example}"))?;
        }
        let Items { read, counted, ignored, dead_lettered } = self.items;
        writeln!(f, "\nItems: {read} read = {counted} counted + {ignored} ignored + {dead_lettered} dead-lettered")?;
        write!(f, "Failures: {} counted, {} stored", self.failures_counted, self.failures_stored)?;
        if self.failures_erased > 0 {
            write!(f, ", {} erased", self.failures_erased)?;
        }
        writeln!(f)?;
        writeln!(f, "\n{:<26} {:>20} {:>20}", "Count", "batches", "delivery_rates")?;
        for c in &self.counts {
            let mark = if c.batches == c.delivery_rates { "" } else { "  differs" };
            writeln!(f, "{:<26} {:>20} {:>20}{mark}", c.name, c.batches, c.delivery_rates)?;
        }
        let findings = self.findings();
        if findings.is_empty() {
            return write!(f, "\nClean: every offset was covered once and all totals agree.");
        }
        if !self.behind.is_empty() {
            writeln!(
                f,
                "\nThis replica is behind: what is missing may be at the others. Run the audit again when it has caught up:"
            )?;
            self.behind.iter().try_for_each(|why| writeln!(f, "- {why}"))?;
        }
        write!(f, "\nNot clean:")?;
        findings.iter().try_for_each(|finding| write!(f, "\n- {finding}"))
    }
}

impl AuditReport {
    fn write_coverage(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.partitions.is_empty() {
            return writeln!(f, "Nothing has been stored yet.");
        }
        let widest = self.partitions.iter().map(|p| p.topic.chars().count()).max().unwrap_or(0).max("Source".len());
        writeln!(
            f,
            "{:<widest$} {:>9} {:>15} {:>15} {:>10} {:>15} {:>15} {:>6} {:>8}",
            "Source", "partition", "first offset", "last offset", "ranges", "items", "dead-lettered", "gaps", "overlaps"
        )?;
        let offset = |o: Option<i64>| o.map_or("-".to_owned(), |o| o.to_string());
        for p in &self.partitions {
            writeln!(
                f,
                "{:<widest$} {:>9} {:>15} {:>15} {:>10} {:>15} {:>15} {:>6} {:>8}",
                p.topic,
                p.partition,
                offset(p.first_offset),
                offset(p.last_offset),
                p.ranges,
                p.items,
                p.dead_lettered,
                p.gaps,
                p.overlaps
            )?;
        }
        Ok(())
    }
}

fn write_ranges(f: &mut fmt::Formatter<'_>, title: &str, ranges: &[OffsetRange], total: u64) -> fmt::Result {
    if total == 0 {
        return Ok(());
    }
    writeln!(f, "\n{title}: {total}")?;
    for OffsetRange { topic, partition, from, to } in ranges {
        writeln!(f, "  {topic}/{partition} {from}-{to}")?;
    }
    let unlisted = total.saturating_sub(ranges.len() as u64);
    if unlisted > 0 { writeln!(f, "  … and {unlisted} more") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean() -> AuditReport {
        AuditReport {
            behind: Vec::new(),
            partitions: vec![Coverage {
                topic: "delivery.events".to_owned(),
                ranges: 2,
                first_offset: Some(0),
                last_offset: Some(9),
                items: 10,
                ..Coverage::default()
            }],
            gaps: Vec::new(),
            overlaps: Vec::new(),
            items: Items { read: 10, counted: 8, ignored: 1, dead_lettered: 1 },
            counts: vec![Count { name: "deliveries", batches: 8, delivery_rates: 8, rollups: vec![("daily_rates", 8)] }],
            failures_counted: 0,
            failures_stored: 0,
            failures_erased: 0,
            duplicates: Vec::new(),
            torn_transactions: 0,
            unfinished_transactions: 0,
        }
    }

    #[test]
    fn a_clean_report_says_so() {
        assert!(clean().is_clean());
        let text = clean().to_string();
        assert!(text.ends_with("Clean: every offset was covered once and all totals agree."), "{text}");
        assert!(text.contains("10 read = 8 counted + 1 ignored + 1 dead-lettered"), "{text}");
    }

    #[test]
    fn every_fault_is_a_finding() {
        let mut report = clean();
        report.partitions[0].gaps = 2;
        report.partitions[0].missing_offsets = 7;
        report.partitions[0].overlaps = 1;
        report.gaps = vec![OffsetRange { topic: "delivery.events".to_owned(), partition: 0, from: 3, to: 5 }];
        report.items.read = 11;
        report.counts[0].delivery_rates = 9;
        report.failures_stored = 1;
        report.duplicates =
            vec![Duplicates { table: "failures", key: "k", keys: 1, surplus_rows: 1, examples: vec!["t/0/5".to_owned()] }];
        report.torn_transactions = 1;
        report.unfinished_transactions = 1;
        assert_eq!(report.findings().len(), 9);
        let text = report.to_string();
        assert!(text.contains("delivery.events/0 3-5\n  … and 1 more"), "{text}");
        assert!(text.contains("differs") && text.contains("t/0/5"), "{text}");
    }

    #[test]
    fn a_replica_that_is_behind_says_so_before_anything_is_missed() {
        let behind = AuditReport { behind: vec!["/replicas/b has 3 inserts to fetch".to_owned()], ..clean() };
        assert!(behind.is_clean() && !behind.to_string().contains("behind"), "it misses nothing");
        let text = AuditReport { failures_counted: 1, ..behind }.to_string();
        let (before, missed) = text.split_once("Not clean:").unwrap();
        assert!(before.contains("This replica is behind") && before.contains("has 3 inserts to fetch"), "{text}");
        assert!(missed.contains("1 failures were counted"), "{text}");
    }

    #[test]
    fn an_empty_warehouse_is_clean() {
        let report = AuditReport { partitions: Vec::new(), items: Items::default(), counts: Vec::new(), ..clean() };
        assert!(report.is_clean());
        assert!(report.to_string().starts_with("Nothing has been stored yet."));
    }
}
