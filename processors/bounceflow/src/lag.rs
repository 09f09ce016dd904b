//! How far roles are behind: `bounceflow_lag_seconds`, how old the oldest record is that a role has read and not settled, and
//! `bounceflow_lag_records`, how many it has not read.
//!
//! The loops and their clients say when something changes, a few times a second at most; the gauges are set when somebody asks, so an age
//! grows also while a loop waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use metrics::gauge;

/// Those of this process. Like the recorder of metrics there is one list.
static LAGS: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());
static CLIENTS: Mutex<Vec<Weak<Unread>>> = Mutex::new(Vec::new());

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
        locked(&LAGS).push(Arc::downgrade(&inner));
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

/// What the partitions of one client hold that it has not read.
pub struct Unread {
    role: &'static str,
    records: Mutex<BTreeMap<String, i64>>,
}

impl Unread {
    /// Of a client that has said nothing yet.
    pub fn new(role: &'static str) -> Arc<Self> {
        let new = Arc::new(Self { role, records: Mutex::default() });
        locked(&CLIENTS).push(Arc::downgrade(&new));
        new
    }

    /// Records of a topic.
    pub fn set(&self, topic: &str, records: i64) {
        locked(&self.records).insert(topic.to_owned(), records);
    }
}

/// Sets the gauges as of `now`, in milliseconds.
pub(crate) fn tell(now: i64) {
    let mut all: BTreeMap<(&str, String), (i64, i64)> = BTreeMap::new();
    for lag in alive(&LAGS) {
        let age = locked(&lag.oldest).values().min().map_or(0, |oldest| (now - oldest).max(0));
        let (oldest, _) = all.entry((lag.role, lag.topic.clone())).or_default();
        *oldest = age.max(*oldest);
    }
    for client in alive(&CLIENTS) {
        for (topic, records) in &*locked(&client.records) {
            all.entry((client.role, topic.clone())).or_default().1 += records;
        }
    }
    for ((role, topic), (age, records)) in all {
        gauge!("bounceflow_lag_seconds", "role" => role.to_owned(), "topic" => topic.clone()).set(age as f64 / 1000.0);
        gauge!("bounceflow_lag_records", "role" => role.to_owned(), "topic" => topic).set(records as f64);
    }
}

/// What somebody still holds of a list; the rest is dropped from it.
fn alive<T>(list: &Mutex<Vec<Weak<T>>>) -> Vec<Arc<T>> {
    let mut list = locked(list);
    list.retain(|weak| weak.strong_count() > 0);
    list.iter().filter_map(Weak::upgrade).collect()
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

    #[test]
    fn clients_of_a_role_are_added_up_until_they_are_gone() {
        let (one, other, stranger) = (Unread::new("adds"), Unread::new("adds"), Unread::new("stranger"));
        let records = || value(&recorded(|| tell(0)), "bounceflow_lag_records{role=\"adds\",topic=\"t\"}");
        assert_eq!(records(), None);
        one.set("t", 5);
        other.set("t", 7);
        stranger.set("t", 1000);
        assert_eq!(records(), Some(12.0));
        one.set("t", 0);
        assert_eq!(records(), Some(7.0));
        drop(other);
        assert_eq!(records(), Some(0.0));
    }
}
