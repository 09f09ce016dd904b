//! How old the oldest record is that a role has read and not settled: what `bounceflow_lag_seconds` says.
//!
//! The loops say when something changes, a few times a second at most; the age is computed when it is asked for, so it grows also while
//! a loop waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use metrics::gauge;

/// Those of this process. Like the recorder of metrics there is one list.
static ALL: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// Of one loop and topic.
pub struct Lag(Arc<Inner>);

struct Inner {
    role: &'static str,
    topic: String,
    /// By partition: Kafka timestamp of the oldest record that is not settled, milliseconds. Not here: all is settled.
    oldest: Mutex<BTreeMap<i32, i64>>,
}

impl Lag {
    /// Of a loop that has read nothing yet.
    pub fn new(role: &'static str, topic: &str) -> Self {
        let inner = Arc::new(Inner { role, topic: topic.to_owned(), oldest: Mutex::default() });
        locked(&ALL).push(Arc::downgrade(&inner));
        Self(inner)
    }

    /// The oldest record of a partition that is not settled has this Kafka timestamp, in milliseconds.
    pub fn since(&self, partition: i32, timestamp: i64) {
        locked(&self.0.oldest).insert(partition, timestamp);
    }

    /// All of a partition is settled.
    pub fn settled(&self, partition: i32) {
        locked(&self.0.oldest).remove(&partition);
    }

    /// A partition halts: from now on at least, where nothing of it is in hand.
    pub fn halted(&self, partition: i32) {
        locked(&self.0.oldest).entry(partition).or_insert_with(|| jiff::Timestamp::now().as_millisecond());
    }

    /// The partitions are taken away, or read anew.
    pub fn clear(&self) {
        locked(&self.0.oldest).clear();
    }
}

/// Sets the gauges as of `now`, in milliseconds.
pub(crate) fn tell(now: i64) {
    let mut all = locked(&ALL);
    all.retain(|lag| lag.strong_count() > 0);
    let mut ages: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    let alive: Vec<Arc<Inner>> = all.iter().filter_map(Weak::upgrade).collect();
    drop(all);
    for lag in &alive {
        let oldest = locked(&lag.oldest).values().min().map_or(0, |oldest| (now - oldest).max(0));
        let age = ages.entry((lag.role, &lag.topic)).or_default();
        *age = oldest.max(*age);
    }
    for ((role, topic), age) in ages {
        gauge!("bounceflow_lag_seconds", "role" => role.to_owned(), "topic" => topic.to_owned()).set(age as f64 / 1000.0);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::{recorded, value};

    #[test]
    fn the_oldest_of_all_partitions_and_threads_counts_and_grows_by_itself() {
        let (one, other) = (Lag::new("test", "t"), Lag::new("test", "t"));
        let age = |now| value(&recorded(|| tell(now)), "bounceflow_lag_seconds{role=\"test\",topic=\"t\"}");
        assert_eq!(age(10_000), Some(0.0), "told from the start");
        one.since(0, 9_000);
        one.since(1, 8_000);
        other.since(2, 9_500);
        assert_eq!(age(10_000), Some(2.0));
        assert_eq!(age(15_500), Some(7.5));
        one.settled(1);
        assert_eq!(age(10_000), Some(1.0));
        // A clock that is behind Kafka's is no debt of Kafka's.
        assert_eq!(age(0), Some(0.0));
        one.clear();
        other.halted(2);
        assert_eq!(age(10_000), Some(0.5), "what is in hand is older than the halt");
        other.clear();
        assert_eq!(age(10_000), Some(0.0));
    }
}
