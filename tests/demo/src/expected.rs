//! What was sent, as the simulator's file says it by its own labels.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// What was sent.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Expected {
    /// The simulator has finished, and Kafka has everything.
    pub(crate) complete: bool,
    pub(crate) records: u64,
    pub(crate) ignored: u64,
    pub(crate) failures: u64,
    pub(crate) garbage: Checksum,
    pub(crate) totals: Totals,
    pub(crate) by_isp_identity: Vec<Pair>,
}

/// Payloads in any order: how many, and the wrapping sum of their 64-bit FNV-1a hashes in hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Checksum {
    pub(crate) count: u64,
    pub(crate) checksum: String,
}

/// One ISP and one identity, as the simulator's file and ClickHouse both give it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Pair {
    pub(crate) isp: String,
    pub(crate) identity: String,
    #[serde(flatten)]
    pub(crate) totals: Totals,
}

/// Events by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Totals {
    pub(crate) deliveries: u64,
    pub(crate) first_attempts: u64,
    pub(crate) hard: u64,
    pub(crate) soft: u64,
    pub(crate) deferred: u64,
    pub(crate) complaints: u64,
    pub(crate) late_bounces: u64,
    pub(crate) drops: u64,
}

impl Totals {
    /// The columns of `delivery_rates`.
    pub(crate) const COLUMNS: [&str; 8] =
        ["deliveries", "first_attempts", "hard", "soft", "deferred", "complaints", "late_bounces", "drops"];

    /// In the order of [`Totals::COLUMNS`].
    pub(crate) fn counts(&self) -> [u64; 8] {
        let Self { deliveries, first_attempts, hard, soft, deferred, complaints, late_bounces, drops } = *self;
        [deliveries, first_attempts, hard, soft, deferred, complaints, late_bounces, drops]
    }
}

impl Expected {
    /// Reads the file; the simulator replaces it as a whole.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("what was sent: {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("what was sent: {}", file.display()))
    }
}
