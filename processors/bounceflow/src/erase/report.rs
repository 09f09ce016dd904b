//! What an erasure removed and what still holds the people until when: as a value, as JSON and as text. It never holds an address.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::config::Config;
use crate::dead_letter::shelf::{self, Place};
use crate::evidence::{length, time};
use crate::topics;

/// Kafka's own default.
const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;

#[derive(Serialize)]
pub(super) struct Report {
    pub(super) dry_run: bool,
    pub(super) people: usize,
    /// Nothing was on its way that could not be waited for.
    pub(super) complete: bool,
    /// What was not settled in time, so that something may come behind.
    pub(super) waiting: Vec<String>,
    pub(super) rows: Rows,
    pub(super) dead_letters: Letters,
    pub(super) held: Vec<Held>,
}

/// Rows of `failures`.
#[derive(Serialize)]
pub(super) struct Rows {
    pub(super) total: u64,
    pub(super) by_key: BTreeMap<String, u64>,
    /// For so long the server keeps the files of the parts without these rows' deletion.
    pub(super) old_files_seconds: u64,
}

#[derive(Serialize)]
pub(super) struct Letters {
    pub(super) letters: Vec<Letter>,
    /// Whether the topic is compacted, so that tombstones remove letters.
    pub(super) compacted: bool,
}

/// A dead letter that holds somebody.
#[derive(Serialize)]
pub(super) struct Letter {
    place: String,
    refused: String,
    /// When retention removes it at the latest; none: the topic keeps records for ever.
    expires: Option<String>,
    /// Whether compaction removes it before.
    removed_by_compaction: bool,
}

/// A topic that may hold the people still.
#[derive(Serialize)]
pub(super) struct Held {
    topic: String,
    holds: &'static str,
    kept: String,
    /// When the last record there is now has expired; none: never by time.
    gone_by: Option<String>,
}

/// How long a topic keeps records.
pub(super) struct Kept {
    /// Milliseconds; none: for ever.
    retention: Option<i64>,
    /// Records go with their segment, and a segment takes this long to fill at most.
    segment: i64,
    pub(super) compacted: bool,
}

impl Kept {
    pub(super) fn of(config: &Config, topic: &str) -> anyhow::Result<Self> {
        let settings = topics::settings(config, topic)?;
        let number = |name: &str| settings.get(name).and_then(|value| value.parse::<i64>().ok());
        let policy = settings.get("cleanup.policy").map_or("delete", String::as_str);
        let deletes = policy.contains("delete");
        Ok(Self {
            retention: Some(number("retention.ms").unwrap_or(WEEK_MS)).filter(|ms| *ms >= 0 && deletes),
            segment: number("segment.ms").unwrap_or(WEEK_MS),
            compacted: policy.contains("compact"),
        })
    }

    /// When a record of this time is gone at the latest.
    fn until(&self, from: i64) -> Option<String> {
        Some(time(from.saturating_add(self.retention?).saturating_add(self.segment)))
    }
}

impl Letter {
    pub(super) fn new(place: &Place, letter: &shelf::Letter, kept: &Kept) -> Self {
        Self {
            place: place.to_string(),
            refused: time(letter.time),
            expires: kept.until(letter.time),
            removed_by_compaction: kept.compacted && letter.removable,
        }
    }
}

/// The topics that hold people, and how long they keep what is in them now.
pub(super) fn held(config: &Config, now: i64) -> anyhow::Result<Vec<Held>> {
    let inputs = config.inputs.iter().map(|input| (&input.topic, "the plain address, as the source wrote it"));
    let own = [(&config.topics.failures, if config.recipient.keep_plain { "the plain address" } else { "the hash" })];
    let topics = inputs.chain(own).map(|(topic, holds)| {
        let kept = Kept::of(config, topic)?;
        let days = kept.retention.map(|ms| format!("{} from each record's time", length(ms / 1000)));
        let gone_by = kept.until(now);
        Ok(Held { topic: topic.clone(), holds, kept: days.unwrap_or_else(|| "for ever".to_owned()), gone_by })
    });
    topics.collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, people) = (if self.dry_run { "would be" } else { "were" }, self.people);
        writeln!(f, "{people} {}", if people == 1 { "person" } else { "people" })?;
        let keys: Vec<String> = self.rows.by_key.iter().map(|(key, rows)| format!("{rows} under key id {key}")).collect();
        writeln!(f, "failures      {} rows {done} deleted: {}", self.rows.total, keys.join(", "))?;
        if self.rows.total > 0 {
            writeln!(
                f,
                "              the server keeps the files of before for {} more; backups keep what they hold",
                length(self.rows.old_files_seconds as i64)
            )?;
        }
        let letters = &self.dead_letters.letters;
        writeln!(f, "dead letters  {} {done} taken out of reach of list, show and resend", letters.len())?;
        for Letter { place, refused, expires, removed_by_compaction } in letters {
            let until = expires.as_ref().map_or("kept for ever".to_owned(), |expires| format!("gone by {expires}"));
            let sooner = if *removed_by_compaction { ", sooner by compaction" } else { "" };
            writeln!(f, "              {place} refused {refused}, {until}{sooner}")?;
        }
        writeln!(f, "still held, until it expires:")?;
        for Held { topic, holds, kept, gone_by } in &self.held {
            let until = gone_by.as_ref().map_or(String::new(), |by| format!(": gone by {by}"));
            writeln!(f, "  {topic}: {holds}, kept {kept}{until}")?;
        }
        if self.complete {
            write!(
                f,
                "{}",
                if self.dry_run {
                    "Nothing was removed."
                } else {
                    "Everything that was in Kafka when this began was settled first."
                }
            )
        } else {
            let what = self.waiting.join("; ");
            let next = if self.dry_run { "more may come" } else { "run this again when it has caught up" };
            write!(f, "Not all: {what}; {next}.")
        }
    }
}
