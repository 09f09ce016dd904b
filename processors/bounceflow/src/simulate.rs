//! `bounceflow simulate`: realistic delivery events into Kafka, with the truth about them in a file.
//!
//! [`Generator`] decides and writes records; it is pure. This file is the edge: arguments, pace, progress, Kafka.
//! Nothing here may ask `classify` or `enrich`: what they say is compared with what was decided here.

mod mix;
mod replies;
mod world;
mod scenario;
mod event;
mod formats;
mod garbage;
mod expected;
mod generator;
mod producer;
mod run;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};

pub use expected::{Checksum, Expected, Row, Totals};
pub use generator::{Generator, Made, Options, Wire};
pub use run::{run, run_until};
pub use scenario::ScenarioError;

/// Write realistic delivery events to Kafka
///
/// Recipients at some thirty providers, twelve senders, first attempts and retries, real replies of providers, late bounces,
/// complaints, drops, and a few records nobody can read. What was sent is counted by the simulator's own labels, never by
/// bounceflow's rules, so that the two can be compared.
///
/// The same seed, start, time per event and options give the same records byte for byte, however fast they are sent.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  Ten million records as fast as it goes, to fill a topic:
    bounceflow simulate --bootstrap localhost:9092 --count 10000000 --seed 7 --start 2026-09-21T12:00:00Z

  Traffic for a demo, with an incident after half a minute and the truth in a file:
    bounceflow simulate --format mixed --rate 20000 --duration 90s \\
        --scenario processors/bounceflow/scenarios/gmail-refuses-one-sender.toml --expected expected.json")]
pub struct Args {
    /// Kafka brokers to begin with
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub bootstrap: String,

    /// Topic to write to
    #[arg(long, default_value = "delivery.events")]
    pub topic: String,

    /// Further librdkafka property, may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = property)]
    pub kafka: Vec<(String, String)>,

    /// How records are written
    #[arg(long, value_enum, default_value_t)]
    pub format: Wire,

    /// Schema id of --format avro-confluent
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub schema_id: u32,

    /// Key of the records
    #[arg(long, value_enum, default_value_t)]
    pub key: Key,

    /// Records to write; without it and --duration, until it is stopped
    #[arg(long)]
    pub count: Option<u64>,

    /// Records per second; without it, as fast as it goes
    #[arg(long, value_name = "EVENTS_PER_SECOND")]
    pub rate: Option<f64>,

    /// How long to write: 90s, 5m. With --rate it stands for the count
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,

    /// Another seed, other events
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Event time of the first record (RFC 3339); without it, now. The same records again need the same start
    #[arg(long, value_name = "TIME", value_parser = start)]
    pub start: Option<i64>,

    /// Event time from one record to the next: 50us, 1ms. Without it, what --rate gives, else 10us
    #[arg(long, value_parser = duration, conflicts_with = "span")]
    pub time_per_event: Option<Duration>,

    /// Event time from the first record to the end, shared among --count records
    #[arg(long, value_parser = duration, requires = "count")]
    pub span: Option<Duration>,

    /// Share of deferrals, bounces, late bounces and complaints, 0 to 0.5; drops come on top
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub failures: f64,

    /// Share of records that cannot be read, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.001)]
    pub garbage: f64,

    /// Write each record that cannot be read to this file as well, one a line, in hexadecimal digits
    #[arg(long, value_name = "FILE")]
    pub garbage_file: Option<PathBuf>,

    /// Incidents (TOML), such as processors/bounceflow/scenarios/gmail-refuses-one-sender.toml of the repository
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,

    /// Write what was sent to this file (JSON), every second and at the end
    #[arg(long, value_name = "FILE")]
    pub expected: Option<PathBuf>,

    /// Write the truth about each item that counts to this file, a line of JSON for each
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,

    /// Make everything and send nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
}

/// Key of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Key {
    /// The id of the message: its attempts stay in order
    #[default]
    MessageId,
    /// No key
    None,
}

impl Args {
    /// Reads the scenario and settles times. `now_ms` stands for an absent start.
    pub fn options(&self, now_ms: i64) -> anyhow::Result<Options> {
        let scenario = match &self.scenario {
            None => None,
            Some(file) => Some(std::fs::read_to_string(file).with_context(|| format!("--scenario {}", file.display()))?),
        };
        if let Some(rate) = self.rate {
            ensure!(rate > 0.0 && rate.is_finite(), "--rate is {rate}, must be above 0");
        }
        let by_span = self
            .span
            .zip(self.count)
            .map(|(span, count)| Duration::from_nanos((span.as_nanos() / u128::from(count.max(1))) as u64));
        let by_rate = self.rate.map(|rate| Duration::from_nanos((1e9 / rate) as u64));
        Ok(Options {
            seed: self.seed,
            start_ms: self.start.unwrap_or(now_ms.div_euclid(1000) * 1000),
            time_per_event: self.time_per_event.or(by_span).or(by_rate).unwrap_or(Duration::from_micros(10)),
            wire: self.format,
            schema_id: self.schema_id,
            failures: self.failures,
            garbage: self.garbage,
            scenario,
            labels: self.labels.is_some(),
        })
    }

    /// Records to write, where that is known beforehand.
    pub fn records(&self) -> Option<u64> {
        let timed = self.duration.zip(self.rate).map(|(duration, rate)| (duration.as_secs_f64() * rate).round() as u64);
        match (self.count, timed) {
            (Some(count), Some(timed)) => Some(count.min(timed)),
            (count, timed) => count.or(timed),
        }
    }
}

fn property(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string());
    }
    let duration: jiff::SignedDuration = text.parse().map_err(|e| format!("{e}; write it as 90s, 5m or 50us"))?;
    Duration::try_from(duration).map_err(|_| "must not be negative".to_owned())
}

fn start(text: &str) -> Result<i64, String> {
    let time: jiff::Timestamp = text.parse().map_err(|e| format!("{e}; write it as 2026-09-21T12:00:00Z"))?;
    Ok(time.as_millisecond())
}
