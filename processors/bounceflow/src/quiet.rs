//! Places of partitions at rest, moved past marks of transactions.
//!
//! What a transaction wrote ends in a mark that no reader is handed, so the place of whoever read it all stands before the mark. Once
//! retention has removed that too, the place lies before the log, as if records had been lost. So the loops look now and then whether there
//! is anything but marks behind the places of partitions that stand still.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::kafka::{self, Consumer};

/// A partition is at rest when nothing came for this long; and so often it is looked at.
pub const REST: Duration = Duration::from_secs(60);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at partitions at rest.
pub struct Quiet {
    properties: BTreeMap<String, String>,
    /// Reads nothing.
    asks: Option<Consumer>,
    looked: Instant,
}

impl Quiet {
    /// The first look is due after [`REST`].
    pub fn new(properties: &BTreeMap<String, String>) -> Self {
        Self { properties: properties.clone(), asks: None, looked: Instant::now() }
    }

    /// Whether to look again. True once.
    pub fn is_due(&mut self) -> bool {
        let due = self.looked.elapsed() >= REST;
        if due {
            self.looked = Instant::now();
        }
        due
    }

    /// Of these places (partition, next offset), those behind which the log holds no record, each with the log's end.
    ///
    /// What cannot be seen now is seen the next time.
    pub fn ends(&mut self, topic: &str, places: &[(i32, i64)]) -> Vec<(i32, i64)> {
        self.look(topic, places).unwrap_or_else(|error| {
            tracing::info!(topic, %error, "What stands behind the last records could not be seen; another look comes in a minute");
            Vec::new()
        })
    }

    fn look(&mut self, topic: &str, places: &[(i32, i64)]) -> anyhow::Result<Vec<(i32, i64)>> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let asks = match self.asks.take() {
            Some(asks) => asks,
            None => kafka::outsider(&self.properties, "read_committed")?,
        };
        let asks = self.asks.insert(asks);
        let mut stretches = Vec::new();
        for (partition, place) in places {
            let end = asks.end_of(topic, *partition)?;
            if end > *place {
                stretches.push((*partition, *place, end));
            }
        }
        if stretches.is_empty() {
            return Ok(Vec::new());
        }
        // A reader of its own for each look: what one has under way is never taken for an answer to the next.
        let empty = kafka::outsider(&self.properties, "read_committed")?.without_record(topic, &stretches, PATIENCE)?;
        stretches.retain(|(partition, ..)| empty.contains(partition));
        Ok(stretches.into_iter().map(|(partition, _, end)| (partition, end)).collect())
    }
}
