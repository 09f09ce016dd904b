//! Compares what was sent with what is held. Pure. Every figure that can differ is compared; one that differs is enough.

use std::collections::{BTreeMap, BTreeSet};

use console::style;

use crate::expected::{Expected, Pair, Totals};
use crate::holdings::Holdings;
use crate::view::{align, count, headed, table};

/// Differences between pairs that are listed one by one.
const LISTED: usize = 5;

/// What `bounceflow audit` says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit {
    pub(crate) clean: bool,
    pub(crate) text: String,
}

/// One figure on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    name: String,
    /// Who holds it.
    holder: &'static str,
    sent: u64,
    held: u64,
}

pub(crate) struct Comparison {
    totals: Vec<Figure>,
    /// Pairs of ISP and identity on either side.
    pairs: usize,
    /// Those of them that differ.
    pairs_differing: usize,
    /// Where they differ, the name of each beginning with its pair.
    differences: Vec<Figure>,
    same_bytes: bool,
    audit: Audit,
}

impl Figure {
    fn new(name: impl Into<String>, holder: &'static str, sent: u64, held: u64) -> Self {
        Self { name: name.into(), holder, sent, held }
    }

    fn differs(&self) -> bool {
        self.sent != self.held
    }

    fn difference(&self) -> String {
        let sign = if self.held > self.sent {
            "+"
        } else if self.differs() {
            "−"
        } else {
            ""
        };
        format!("{sign}{}", count(self.held.abs_diff(self.sent)))
    }
}

impl Comparison {
    pub(crate) fn new(expected: &Expected, held: &Holdings) -> Self {
        let stored = &held.stored;
        let mut totals = vec![
            Figure::new("records", "Kafka", expected.records, held.records),
            Figure::new("", "ClickHouse batches", expected.records, stored.records),
        ];
        let sums = held.pairs.iter().fold([0; 8], |mut sums, pair| {
            sums.iter_mut().zip(pair.totals.counts()).for_each(|(sum, n)| *sum += n);
            sums
        });
        for (i, name) in Totals::COLUMNS.iter().enumerate() {
            let name = name.replace('_', " ");
            totals.push(Figure::new(name, "ClickHouse delivery_rates", expected.totals.counts()[i], sums[i]));
        }
        let garbage = expected.garbage.count;
        totals.extend([
            Figure::new("failures, one by one", "ClickHouse failures", expected.failures, stored.failures),
            Figure::new("ignored", "ClickHouse batches", expected.ignored, stored.ignored),
            Figure::new("unreadable", "ClickHouse batches", garbage, stored.dead_lettered),
            Figure::new("", "dead-letter topic", garbage, held.dead_letters.count),
            Figure::new("", "/metrics", garbage, held.metrics.dead_letters.values().sum()),
        ]);

        let (sent, found) = (by_key(&expected.by_isp_identity), by_key(&held.pairs));
        let keys: BTreeSet<_> = sent.keys().chain(found.keys()).copied().collect();
        let (mut pairs_differing, mut differences) = (0, Vec::new());
        for key in &keys {
            let counts = |side: &BTreeMap<_, Totals>| side.get(key).copied().unwrap_or_default().counts();
            let both = counts(&sent).into_iter().zip(counts(&found)).zip(Totals::COLUMNS);
            let figures = both.map(|((sent, held), column)| {
                let name = format!("{} × {}: {}", key.0, key.1, column.replace('_', " "));
                Figure::new(name, "ClickHouse delivery_rates", sent, held)
            });
            let before = differences.len();
            differences.extend(figures.filter(Figure::differs));
            pairs_differing += usize::from(differences.len() > before);
        }
        let same_bytes = held.dead_letters == expected.garbage;
        Self { totals, pairs: keys.len(), pairs_differing, differences, same_bytes, audit: held.audit.clone() }
    }

    pub(crate) fn is_exact(&self) -> bool {
        !self.totals.iter().any(Figure::differs) && self.pairs_differing == 0 && self.same_bytes && self.audit.clean
    }

    /// The summary, for a person.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut table = table();
        table.set_header(["COMPARED", "sent", "held", "difference", "by"]);
        for figure in &self.totals {
            table.add_row([&figure.name, &count(figure.sent), &count(figure.held), &figure.difference(), figure.holder]);
        }
        align(&mut table, &[1, 2, 3]);
        let mut lines = headed(&table);
        for (line, figure) in lines.iter_mut().skip(1).zip(&self.totals) {
            *line = mark(!figure.differs(), line);
        }
        lines.push(String::new());
        let pairs = format!(
            " ISP × identity: {} pairs compared, {} differ",
            count(self.pairs as u64),
            count(self.pairs_differing as u64)
        );
        lines.push(mark(self.pairs_differing == 0, &pairs));
        for figure in self.differences.iter().take(LISTED) {
            lines.push(format!("   {}: {} sent, {} held", figure.name, count(figure.sent), count(figure.held)));
        }
        let unlisted = self.differences.len().saturating_sub(LISTED);
        if unlisted > 0 {
            lines.push(format!("   … and {} more", count(unlisted as u64)));
        }
        let bytes = if self.same_bytes { "byte for byte what was sent" } else { "not the bytes that were sent" };
        lines.push(mark(self.same_bytes, &format!(" dead letters:   {bytes}")));
        if self.audit.clean {
            lines.push(format!(" audit:          {}", self.audit.text.trim().lines().last().unwrap_or_default()));
        } else {
            lines.push(mark(false, " audit:"));
            // The findings; all of it where there are none, as it failed otherwise.
            let text = self.audit.text.trim();
            let findings = text.split_once("Not clean:\n").map_or(text, |(_, findings)| findings);
            lines.extend(findings.lines().map(|line| format!("   {line}")));
        }
        lines.push(String::new());
        lines.push(self.verdict());
        lines
    }

    fn verdict(&self) -> String {
        if self.is_exact() {
            return style(" exact: sent = stored").green().bold().to_string();
        }
        let totals = self.totals.iter().filter(|figure| figure.differs()).count();
        let mut why = Vec::new();
        if totals > 0 {
            why.push(format!("{totals} of {} totals differ", self.totals.len()));
        }
        if self.pairs_differing > 0 {
            why.push(format!("{} of {} pairs differ", self.pairs_differing, self.pairs));
        }
        if !self.same_bytes {
            why.push("dead letters differ".to_owned());
        }
        if !self.audit.clean {
            why.push("the audit is not clean".to_owned());
        }
        style(format!(" NOT exact: {}", why.join(", "))).red().bold().to_string()
    }
}

fn by_key(pairs: &[Pair]) -> BTreeMap<(&str, &str), Totals> {
    pairs.iter().map(|pair| ((pair.isp.as_str(), pair.identity.as_str()), pair.totals)).collect()
}

fn mark(good: bool, line: &str) -> String {
    if good { line.to_owned() } else { style(line).red().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expected::Checksum;
    use crate::prometheus::Metrics;
    use crate::warehouse::Stored;

    fn pair(isp: &str, deliveries: u64, hard: u64) -> Pair {
        let totals = Totals { deliveries, hard, first_attempts: deliveries + hard, ..Totals::default() };
        Pair { isp: isp.to_owned(), identity: "a.example".to_owned(), totals }
    }

    fn both() -> (Expected, Holdings) {
        let garbage = Checksum { count: 3, checksum: "00000000deadbeef".to_owned() };
        let pairs = vec![pair("gmail", 1000, 20), pair("yahoo", 500, 5)];
        let totals = Totals { deliveries: 1500, hard: 25, first_attempts: 1525, ..Totals::default() };
        let expected = Expected {
            complete: true,
            records: 1530,
            ignored: 2,
            failures: 25,
            garbage: garbage.clone(),
            totals,
            by_isp_identity: pairs.clone(),
        };
        let held = Holdings {
            records: 1530,
            dead_letters: garbage,
            metrics: Metrics { records: 1530, dead_letters: BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]) },
            stored: Stored { records: 1530, ignored: 2, dead_lettered: 3, counted_failures: 25, failures: 25 },
            pairs,
            audit: Audit { clean: true, text: "…\nClean: all is well.\n".to_owned() },
        };
        (expected, held)
    }

    fn text(comparison: &Comparison) -> String {
        console::strip_ansi_codes(&comparison.lines().join("\n")).into_owned()
    }

    #[test]
    fn equal_sides_are_exact() {
        let (expected, held) = both();
        let comparison = Comparison::new(&expected, &held);
        assert!(comparison.is_exact());
        let text = text(&comparison);
        assert!(text.ends_with("exact: sent = stored"), "{text}");
        assert!(text.contains("2 pairs compared, 0 differ") && text.contains("Clean: all is well."), "{text}");
    }

    #[test]
    fn every_figure_counts() {
        type Break = fn(&mut Holdings);
        let breaks: [Break; 10] = [
            |held| held.records += 1,
            |held| held.dead_letters.count -= 1,
            |held| held.dead_letters.checksum.clear(),
            |held| held.metrics.dead_letters.clear(),
            |held| held.stored.records -= 1,
            |held| held.stored.ignored += 1,
            |held| held.stored.dead_lettered -= 1,
            |held| held.stored.failures += 1,
            |held| drop(held.pairs.pop()),
            |held| held.audit.clean = false,
        ];
        for (i, broken) in breaks.iter().enumerate() {
            let (expected, mut held) = both();
            broken(&mut held);
            let comparison = Comparison::new(&expected, &held);
            assert!(!comparison.is_exact(), "break {i}");
            assert!(text(&comparison).contains("NOT exact: "), "break {i}");
        }
    }

    #[test]
    fn what_one_pair_lacks_and_another_has_is_seen() {
        let (expected, mut held) = both();
        held.pairs[0].totals.deliveries -= 7;
        held.pairs[1].totals.deliveries += 7;
        let comparison = Comparison::new(&expected, &held);
        let text = text(&comparison);
        assert!(!comparison.is_exact() && text.ends_with("NOT exact: 2 of 2 pairs differ"), "{text}");
        assert!(text.contains("gmail × a.example: deliveries: 1,000 sent, 993 held"), "{text}");
    }

    #[test]
    fn of_an_audit_only_the_findings_are_shown() {
        let (expected, mut held) = both();
        held.audit = Audit { clean: false, text: "Source …\n\nNot clean:\n- 3 offsets lost".to_owned() };
        let found = text(&Comparison::new(&expected, &held));
        assert!(found.contains(" audit:\n   - 3 offsets lost\n") && !found.contains("Source"), "{found}");
        held.audit.text = "no ClickHouse".to_owned();
        assert!(text(&Comparison::new(&expected, &held)).contains(" audit:\n   no ClickHouse\n"));
    }

    #[test]
    fn a_pair_nobody_sent_is_a_difference() {
        let (expected, mut held) = both();
        held.pairs.push(pair("nobody", 1, 0));
        let comparison = Comparison::new(&expected, &held);
        assert_eq!((comparison.pairs, comparison.pairs_differing, comparison.differences.len()), (3, 1, 2));
        assert!(text(&comparison).contains("+1"));
    }
}
