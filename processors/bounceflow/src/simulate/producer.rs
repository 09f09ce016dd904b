//! Kafka: an idempotent producer that forgets no failed record.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use super::Args;

/// Counts what Kafka did not take.
#[derive(Default)]
struct Failures {
    records: AtomicU64,
    first: Mutex<Option<String>>,
}

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.records.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut first) = self.first.lock() {
                first.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

pub(super) struct Producer {
    inner: BaseProducer<Failures>,
    topic: String,
}

impl Producer {
    /// Waits for the brokers, so that a wrong address is told at once and not when the first records time out.
    pub(super) fn connect(args: &Args, stop: &AtomicBool) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "bounceflow-simulate")
            .set("bootstrap.servers", &args.bootstrap)
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "20")
            .set("batch.size", "524288")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "262144")
            // Records taken say nothing: only the others are reported.
            .set("delivery.report.only.error", "true");
        for (key, value) in &args.kafka {
            config.set(key, value);
        }
        let inner: BaseProducer<Failures> = config.create_with_context(Failures::default()).context("Kafka client")?;
        let mut last = None;
        for _ in 0..12 {
            if stop.load(Ordering::Relaxed) {
                bail!("stopped while waiting for Kafka at {}", args.bootstrap);
            }
            match inner.client().fetch_metadata(Some(&args.topic), Duration::from_secs(5)) {
                Ok(_) => return Ok(Self { inner, topic: args.topic.clone() }),
                Err(e) => last = Some(e),
            }
        }
        bail!("Kafka does not answer at {}: {}", args.bootstrap, last.map_or_else(String::new, |e| e.to_string()))
    }

    /// Queues one record, waiting while the queue is full.
    pub(super) fn send(&self, key: Option<&str>, payload: &[u8]) -> anyhow::Result<()> {
        let mut record = BaseRecord::<str, [u8]>::to(&self.topic).payload(payload);
        record.key = key;
        loop {
            match self.inner.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.poll(Duration::from_millis(20))?;
                }
                Err((e, _)) => bail!("a record was refused: {e}"),
            }
        }
    }

    /// Serves the client; fails as soon as one record was not taken.
    pub(super) fn poll(&self, wait: Duration) -> anyhow::Result<()> {
        self.inner.poll(wait);
        if let Some((_, why)) = self.inner.client().fatal_error() {
            bail!("the Kafka client failed: {why}");
        }
        match self.inner.context().records.load(Ordering::Relaxed) {
            0 => Ok(()),
            n => {
                let first = self.inner.context().first.lock().ok().and_then(|first| first.clone());
                bail!("Kafka did not take {n} record(s), the first one because: {}", first.unwrap_or_default())
            }
        }
    }

    /// Waits until Kafka has everything. What it does not take in `message.timeout.ms` is an error.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        while self.inner.in_flight_count() > 0 {
            self.poll(Duration::from_millis(50))?;
        }
        self.poll(Duration::ZERO)
    }
}
