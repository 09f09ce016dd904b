//! For how long each class of data is kept: the configuration's word, made the tables' own by `migrate`, and written down there.

use crate::client::Warehouse;
use crate::error::WarehouseError;
use crate::replication::Replication;
use crate::rollups::ROLLUPS;

/// Days after the event; 0: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Texts of replies: of failures, of alerts, and samples of patterns in `batches`. They are redacted; who masks can err.
    pub diagnostics: u32,
    /// Failures: each is about a person.
    pub failures: u32,
    /// Counts, which are about nobody.
    pub rates: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { diagnostics: 30, failures: 396, rates: 1096 }
    }
}

/// BAD_ARGUMENTS: what has no TTL cannot lose it.
const NOTHING_TO_REMOVE: u32 = 36;
/// What `batches` keeps of each pattern of a transaction; one of these is a sample.
const PATTERNS: [&str; 7] = ["pattern", "isp", "identity", "category", "rule", "count", "sample"];
/// More would reach beyond the last day a `DateTime` can name.
const MOST_DAYS: u32 = 20 * 366;

impl Retention {
    /// For ever.
    pub const UNBOUNDED: Self = Self { diagnostics: 0, failures: 0, rates: 0 };

    /// Every mistake in it, at once.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let classes = self.classes().into_iter().filter(|(_, days, _)| *days > MOST_DAYS);
        classes
            .map(|(class, days, _)| format!("retention.{class} is {days} days, must be at most {MOST_DAYS}; 0: for ever"))
            .collect()
    }

    /// The classes with their days, and the statements that make it so.
    fn classes(&self) -> [(&'static str, u32, Vec<String>); 3] {
        let rows = |table: &str, time: &str, days: u32| match days {
            0 => format!("ALTER TABLE {table} REMOVE TTL"),
            _ => format!("ALTER TABLE {table} MODIFY TTL {time} + INTERVAL {days} DAY"),
        };
        let column = |table: &str, column: &str, days: u32| match days {
            0 => format!("ALTER TABLE {table} MODIFY COLUMN {column} REMOVE TTL"),
            _ => format!("ALTER TABLE {table} MODIFY COLUMN {column} TTL toDateTime(event_time) + INTERVAL {days} DAY"),
        };
        let mut texts = vec![column("failures", "diagnostic", self.diagnostics), column("alerts", "sample", self.diagnostics)];
        // All of a nested column, so that its parts keep one length.
        match self.diagnostics {
            0 => texts.extend(PATTERNS.map(|name| format!("ALTER TABLE batches MODIFY COLUMN `patterns.{name}` REMOVE TTL"))),
            days => {
                let ttl = |name| format!("MODIFY COLUMN `patterns.{name}` TTL toDateTime(log_time) + INTERVAL {days} DAY");
                texts.push(format!("ALTER TABLE batches {}", PATTERNS.map(ttl).join(", ")));
            }
        }
        let rates = [("delivery_rates", "minute")].into_iter().chain(ROLLUPS.map(|rollup| (rollup.table, rollup.time())));
        [
            ("diagnostics", self.diagnostics, texts),
            ("failures", self.failures, vec![rows("failures", "toDateTime(event_time)", self.failures)]),
            ("rates", self.rates, rates.map(|(table, time)| rows(table, time, self.rates)).collect()),
        ]
    }
}

impl Warehouse {
    /// For how many days each class is kept here.
    pub(crate) async fn kept(&self) -> Result<Vec<(String, u32)>, WarehouseError> {
        let set = "SELECT toString(class) AS name, argMax(days, set_at) FROM retention GROUP BY name ORDER BY name";
        self.timed("read retention", self.client().query_raw(set).fetch_all()).await
    }

    /// Makes the tables keep what the settings say, where they say otherwise than before.
    pub(crate) async fn keep(&self, progress: &mut (dyn FnMut(&str) + Send)) -> Result<(), WarehouseError> {
        let set = self.kept().await?;
        for (class, days, statements) in self.settings.retention.classes() {
            let before = set.iter().find(|(name, _)| name == class).map_or(0, |(_, days)| *days);
            if before == days {
                continue;
            }
            let what = format!("keep {class} for {}", if days == 0 { "ever".to_owned() } else { format!("{days} days") });
            progress(&what);
            for statement in statements {
                let statement = self.replicated(&statement, Replication::rewrite)?;
                match self.timed(&what, self.client().query_raw(&statement).execute()).await {
                    // Interrupted after this statement, before all was written down.
                    Err(WarehouseError::Refused { code: Some(NOTHING_TO_REMOVE), .. }) if days == 0 => {}
                    done => done?,
                }
            }
            let record = self.client().query("INSERT INTO retention SELECT ?, ?, now64(3, 'UTC')").bind(class).bind(days);
            self.timed(&what, record.execute()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_named_is_refused() {
        assert_eq!(Retention::default().mistakes(), [""; 0]);
        assert_eq!(Retention { failures: 100_000, ..Retention::UNBOUNDED }.mistakes().len(), 1);
    }
}
