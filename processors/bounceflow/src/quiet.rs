//! Places of partitions at rest, moved past marks of transactions.
//!
//! What a transaction wrote ends in a mark that no reader is handed, so the place of whoever read it all stands before the mark. Once
//! retention has removed that too, the place lies before the log, as if records had been lost. So the loops look now and then whether there
//! is anything but marks behind the places of partitions that stand still.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::kafka;

/// A partition is at rest when nothing came for this long; and so often it is looked at.
pub const REST: Duration = Duration::from_secs(60);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at partitions at rest.
pub struct Quiet {
    properties: BTreeMap<String, String>,
    looked: Instant,
}

impl Quiet {
    /// The first look is due after [`REST`].
    pub fn new(properties: &BTreeMap<String, String>) -> Self {
        Self { properties: properties.clone(), looked: Instant::now() }
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
    pub fn ends(&self, topic: &str, places: &[(i32, i64)]) -> Vec<(i32, i64)> {
        self.look(topic, places).unwrap_or_else(|error| {
            tracing::info!(topic, %error, "What stands behind the last records could not be seen; another look comes in a minute");
            Vec::new()
        })
    }

    fn look(&self, topic: &str, places: &[(i32, i64)]) -> anyhow::Result<Vec<(i32, i64)>> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        // One of its own for each look: what one has under way is never taken for an answer to the next.
        let reader = kafka::outsider(&self.properties, "read_committed")?;
        let mut stretches = Vec::new();
        for (partition, place) in places {
            // One without a leader does not keep the others from being looked at, nor does one whose place has been passed already.
            match reader.bounds(topic, *partition) {
                Ok((low, end)) if low <= *place && *place < end => stretches.push((*partition, *place, end)),
                Ok(_) => {}
                Err(error) => tracing::info!(topic, partition, %error, "Where a partition at rest ends is not known"),
            }
        }
        if stretches.is_empty() {
            return Ok(Vec::new());
        }
        let empty = reader.without_record(topic, &stretches, PATIENCE)?;
        stretches.retain(|(partition, ..)| empty.contains(partition));
        Ok(stretches.into_iter().map(|(partition, _, end)| (partition, end)).collect())
    }
}
