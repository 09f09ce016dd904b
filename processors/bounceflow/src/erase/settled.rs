//! Whether a role has settled what its input held at a moment: only then is nothing of a person on its way any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::kafka::{self, Consumer};
use crate::progress::note;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two lines that say what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long the broker may take to hand out a record, or to say that there is none.
const PATIENCE: Duration = Duration::from_secs(30);

/// How far a group has settled a topic.
pub(super) struct Settled {
    /// Every record that was there is settled.
    pub(super) all: bool,
    /// By partition, the first offset that is not settled.
    pub(super) to: BTreeMap<i32, i64>,
}

/// Waits until `group` has settled everything `topic` holds by now, until `deadline` at most.
pub(super) fn wait(config: &Config, group: &str, topic: &str, deadline: Instant) -> anyhow::Result<Settled> {
    kafka::wait_until_stable(&config.kafka, topic)?;
    let ends = kafka::ends(&config.kafka, topic)?;
    let consumer = Consumer::alone(&config.kafka, "", group)?;
    let mut said: Option<Instant> = None;
    loop {
        let settled = look(config, &consumer, topic, &ends)?;
        if settled.all || Instant::now() >= deadline {
            return Ok(settled);
        }
        if said.is_none_or(|at| at.elapsed() > SAY_EVERY) {
            said = Some(Instant::now());
            note(format_args!("waiting until group {group} has settled what is in {topic}"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn look(config: &Config, consumer: &Consumer, topic: &str, ends: &[i64]) -> anyhow::Result<Settled> {
    let partitions: Vec<(String, i32)> = (0..ends.len() as i32).map(|partition| (topic.to_owned(), partition)).collect();
    let mut settled = Settled { all: true, to: BTreeMap::new() };
    let mut stretches = Vec::new();
    for left in consumer.committed(&partitions)? {
        settled.to.insert(left.partition, left.offset.unwrap_or(0));
        let from = left.offset.unwrap_or(0).max(left.low);
        let end = ends[left.partition as usize];
        if from < end {
            stretches.push((left.partition, from, end));
        }
    }
    // The end of a log may be marks of transactions alone: whether there is a record, only reading tells.
    if !stretches.is_empty() {
        let reader = kafka::outsider(&config.kafka, "read_committed")?;
        settled.all = reader.without_record(topic, &stretches, PATIENCE)?.len() == stretches.len();
    }
    Ok(settled)
}
