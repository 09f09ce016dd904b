//! What the simulator decided to send, counted: the figures everything downstream is compared with.

use std::collections::BTreeMap;

use bounceflow_event::{EventType, Severity};
use serde::{Deserialize, Serialize};

use super::mix::fnv1a;

/// What was sent, by the simulator's own labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The seed of the run.
    pub seed: u64,
    /// False while the run goes on and where it was broken off by an error: what is counted here may not be in Kafka.
    pub complete: bool,
    /// Records written, of every kind.
    pub records: u64,
    /// Items in them: events, ignored ones, and one per garbage record.
    pub items: u64,
    /// Records that cannot be read.
    pub garbage: Checksum,
    /// Items that say nothing about a delivery.
    pub ignored: u64,
    /// Items never attempted.
    pub drops: u64,
    /// Deferrals, bounces, late bounces and complaints.
    pub failures: u64,
    /// Every event.
    pub totals: Totals,
    /// The same by ISP and identity, sorted, without empty ones.
    pub by_isp_identity: Vec<Row>,
    /// Deferrals, bounces and late bounces by category.
    pub by_category: BTreeMap<String, u64>,
}

/// Events of one ISP and one identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Who answered. `other` for those outside the tables, `local` where the sending MTA failed by itself.
    pub isp: String,
    /// From domain.
    pub identity: String,
    /// How many.
    #[serde(flatten)]
    pub totals: Totals,
}

/// Events by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Accepted by the receiving server.
    pub deliveries: u64,
    /// Deliveries, deferrals and bounces at the first attempt.
    pub first_attempts: u64,
    /// Bounces that are permanent for the recipient.
    pub hard: u64,
    /// Bounces that are final for the message alone.
    pub soft: u64,
    /// Attempts that will be made again.
    pub deferred: u64,
    /// Complaints.
    pub complaints: u64,
    /// Bounces that came after a delivery. They are in neither `hard` nor `soft`.
    pub late_bounces: u64,
    /// Never attempted.
    pub drops: u64,
}

impl Totals {
    /// Adds what `other` counted.
    pub fn add(&mut self, other: &Self) {
        self.deliveries += other.deliveries;
        self.first_attempts += other.first_attempts;
        self.hard += other.hard;
        self.soft += other.soft;
        self.deferred += other.deferred;
        self.complaints += other.complaints;
        self.late_bounces += other.late_bounces;
        self.drops += other.drops;
    }

    /// Deferrals, bounces, late bounces and complaints.
    pub fn failures(&self) -> u64 {
        self.hard + self.soft + self.deferred + self.complaints + self.late_bounces
    }
}

/// A multiset of payloads: how many, and the wrapping sum of their 64-bit FNV-1a hashes, so that order does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Payloads.
    pub count: u64,
    /// Sum of their hashes; sixteen hexadecimal digits in JSON, as many readers of JSON lose the end of large numbers.
    #[serde(with = "hex")]
    pub checksum: u64,
}

impl Checksum {
    /// Takes one payload in.
    pub fn add(&mut self, payload: &[u8]) {
        self.count += 1;
        self.checksum = self.checksum.wrapping_add(fnv1a(payload));
    }
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(sum: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{sum:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

/// One counted event.
pub(super) struct Counted {
    pub(super) event: EventType,
    pub(super) severity: Option<Severity>,
    pub(super) category: Option<u16>,
    pub(super) isp: u16,
    pub(super) identity: u16,
    pub(super) first_attempt: bool,
    pub(super) recipients: u64,
}

/// One item that counts, as `--labels` writes it.
#[derive(Serialize)]
pub(super) struct Label<'a> {
    pub(super) time_ms: i64,
    pub(super) event: &'a str,
    pub(super) severity: &'a str,
    pub(super) category: &'a str,
    pub(super) isp: &'a str,
    pub(super) identity: &'a str,
    pub(super) sending_ip: &'a str,
    pub(super) campaign: &'a str,
    pub(super) recipient_domain: &'a str,
    /// 0 where none was made or it is long past.
    pub(super) attempt: u16,
    /// This many items are alike.
    pub(super) recipients: u8,
}

/// Counts while the run goes on.
pub(super) struct Tally {
    identities: usize,
    cells: Vec<Totals>,
    categories: Vec<u64>,
    pub(super) items: u64,
    pub(super) ignored: u64,
    pub(super) garbage: Checksum,
}

impl Tally {
    pub(super) fn new(isps: usize, identities: usize, categories: usize) -> Self {
        Self {
            identities,
            cells: vec![Totals::default(); isps * identities],
            categories: vec![0; categories],
            items: 0,
            ignored: 0,
            garbage: Checksum::default(),
        }
    }

    /// A log record that says nothing about a delivery is one item, however many recipients it names.
    pub(super) fn ignore(&mut self) {
        self.items += 1;
        self.ignored += 1;
    }

    pub(super) fn reject(&mut self, payload: &[u8]) {
        self.items += 1;
        self.garbage.add(payload);
    }

    pub(super) fn count(&mut self, c: &Counted) {
        let n = c.recipients;
        self.items += n;
        let cell = &mut self.cells[usize::from(c.isp) * self.identities + usize::from(c.identity)];
        match (c.event, c.severity) {
            (EventType::Delivery, _) => cell.deliveries += n,
            (EventType::Deferral, _) => cell.deferred += n,
            (EventType::Bounce, Some(Severity::Hard)) => cell.hard += n,
            (EventType::Bounce, _) => cell.soft += n,
            (EventType::OobBounce, _) => cell.late_bounces += n,
            (EventType::Complaint, _) => cell.complaints += n,
            (EventType::Drop, _) => cell.drops += n,
        }
        if c.first_attempt && c.event.is_attempt() {
            cell.first_attempts += n;
        }
        if let Some(category) = c.category {
            self.categories[usize::from(category)] += n;
        }
    }

    pub(super) fn expected(
        &self,
        seed: u64,
        records: u64,
        isps: &[String],
        identities: &[&str],
        categories: &[String],
    ) -> Expected {
        let mut totals = Totals::default();
        let mut by_isp_identity = Vec::new();
        for (i, cell) in self.cells.iter().enumerate().filter(|(_, cell)| **cell != Totals::default()) {
            totals.add(cell);
            by_isp_identity.push(Row {
                isp: isps[i / self.identities].clone(),
                identity: identities[i % self.identities].to_owned(),
                totals: *cell,
            });
        }
        by_isp_identity.sort_by(|a, b| (&a.isp, &a.identity).cmp(&(&b.isp, &b.identity)));
        let by_category = categories.iter().cloned().zip(self.categories.iter().copied()).filter(|(_, n)| *n > 0).collect();
        Expected {
            seed,
            complete: false,
            records,
            items: self.items,
            garbage: self.garbage,
            ignored: self.ignored,
            drops: totals.drops,
            failures: totals.failures(),
            totals,
            by_isp_identity,
            by_category,
        }
    }
}
