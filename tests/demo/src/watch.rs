//! Looks at everything once a second, and at the input topic more often: between the two stands how far behind ClickHouse is.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::history::History;
use crate::interrupt::Interrupt;
use crate::kafka::Topics;
use crate::place::EVENTS;
use crate::prometheus::Metrics;
use crate::warehouse::{Breakdown, Profile, Stored, Warehouse, Worst};

const GLANCE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_secs(1);

/// What was seen at one time.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) metrics: Metrics,
    pub(crate) stored: Stored,
    pub(crate) breakdown: Vec<Breakdown>,
    pub(crate) isps: Vec<Profile>,
    pub(crate) identities: Vec<Profile>,
    pub(crate) worst: Option<Worst>,
}

/// What was seen last, and how the counters moved until then.
#[derive(Default)]
pub(crate) struct Picture {
    /// Records in the input topic.
    pub(crate) sent: History,
    /// Records classify has committed.
    pub(crate) classified: History,
    /// Records whose counts ClickHouse has.
    pub(crate) stored: History,
    pub(crate) seen: Seen,
    /// Why the last look failed, if it did.
    pub(crate) trouble: Option<String>,
}

impl Picture {
    /// How long the oldest record that ClickHouse does not have has been in Kafka.
    pub(crate) fn delay(&self) -> Duration {
        self.sent.above(self.stored.last()).map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Takes pictures of everything there is to look at.
pub(crate) struct Watch<'a> {
    topics: &'a Topics,
    warehouse: &'a Warehouse<'a>,
    metrics: &'a str,
    pub(crate) picture: Picture,
    next_look: Instant,
}

impl<'a> Watch<'a> {
    /// `metrics` is the address of the roles' HTTP side.
    pub(crate) fn new(topics: &'a Topics, warehouse: &'a Warehouse<'a>, metrics: &'a str) -> Self {
        Self { topics, warehouse, metrics, picture: Picture::default(), next_look: Instant::now() }
    }

    /// Waits for the next full look and takes it. A look that fails leaves what was seen before.
    pub(crate) fn look(&mut self, interrupt: &Interrupt) {
        // Looks that take long, on a large database, are taken less often.
        while Instant::now() < self.next_look && !interrupt.asked() {
            let glance = Instant::now() + GLANCE;
            let glanced = self.glance();
            self.note(glanced);
            interrupt.sleep_until(glance.min(self.next_look));
        }
        self.look_at_once();
    }

    /// Takes it now.
    pub(crate) fn look_at_once(&mut self) {
        let start = Instant::now();
        let looked = self.look_now();
        self.note(looked);
        self.next_look = start + LOOK.max(start.elapsed() * 4);
    }

    fn note(&mut self, result: Result<()>) {
        self.picture.trouble = result.err().map(|e| format!("{e:#}"));
    }

    fn glance(&mut self) -> Result<()> {
        let records = self.topics.records(EVENTS)?;
        self.picture.sent.add(Instant::now(), records);
        Ok(())
    }

    fn look_now(&mut self) -> Result<()> {
        // From the end of the path to its beginning, so that no stage is seen ahead of the one before it.
        let stored = self.warehouse.stored()?;
        self.picture.stored.add(Instant::now(), stored.records);
        let metrics = Metrics::read(self.metrics)?;
        self.picture.classified.add(Instant::now(), metrics.records);
        self.glance()?;
        self.picture.seen = Seen {
            metrics,
            stored,
            breakdown: self.warehouse.breakdown()?,
            isps: self.warehouse.isps()?,
            identities: self.warehouse.identities()?,
            worst: self.warehouse.worst()?,
        };
        Ok(())
    }
}
