//! Everything the comparison needs, gathered once nothing moves any more.

use anyhow::{Context, Result};

use crate::comparison::Audit;
use crate::expected::{Checksum, Pair};
use crate::kafka::Topics;
use crate::place::{DEAD_LETTER, EVENTS, Place};
use crate::prometheus::Metrics;
use crate::warehouse::{Stored, Warehouse};

/// What is held, and by whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings {
    /// Records in the input topic.
    pub(crate) records: u64,
    /// What the dead-letter topic holds.
    pub(crate) dead_letters: Checksum,
    /// What classify says.
    pub(crate) metrics: Metrics,
    /// What `batches` and `failures` add up to.
    pub(crate) stored: Stored,
    /// What `delivery_rates` holds.
    pub(crate) pairs: Vec<Pair>,
    pub(crate) audit: Audit,
}

impl Holdings {
    pub(crate) fn gather(place: &Place, topics: &Topics, warehouse: &Warehouse, metrics: &str) -> Result<Self> {
        warehouse.merge().context("merging delivery_rates")?;
        let (clean, text) = place.audit()?;
        Ok(Self {
            records: topics.records(EVENTS)?,
            dead_letters: topics.checksum(DEAD_LETTER)?,
            metrics: Metrics::read(metrics)?,
            stored: warehouse.stored()?,
            pairs: warehouse.pairs()?,
            audit: Audit { clean, text },
        })
    }
}
