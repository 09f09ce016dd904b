//! The schemas of bounceflow's own records, kept in a compacted topic by fingerprint.
//!
//! A reader meets records of writers newer and older than itself during an upgrade. Each writer leaves its schemas here before
//! its first record; a reader that meets a fingerprint it does not know looks here. (A full registry does the same for input.)

use std::collections::BTreeMap;
use std::time::Duration;

use bounceflow_event::avro::{self, Schemas, WriterSchema};
use rdkafka::Message;
use rdkafka::producer::BaseRecord;

use crate::kafka::{Producer, Reader, TransactionError};

/// Leaves the schemas of everything this version writes.
pub fn publish(producer: &Producer, topic: &str) -> anyhow::Result<Result<(), TransactionError>> {
    let mut records = Vec::new();
    for json in [avro::FAILURE, avro::RATE_BATCH, avro::ALERT] {
        let schema = WriterSchema::parse(json)?;
        records.push((format!("{:016x}", schema.fingerprint()), schema.json().to_owned()));
    }
    let write = || {
        producer.begin()?;
        for (key, json) in &records {
            producer.send(BaseRecord::to(topic).key(key.as_bytes()).payload(json.as_bytes()))?;
        }
        producer.commit_without_offsets()
    };
    Ok(write())
}

/// The schemas this version knows by itself.
pub fn known() -> anyhow::Result<Schemas> {
    let mut schemas = Schemas::default();
    for json in [avro::FAILURE, avro::RATE_BATCH, avro::ALERT] {
        schemas.add(json)?;
    }
    Ok(schemas)
}

/// Adds every schema that was left in the topic. One that cannot be parsed is left out: its records will say so.
pub fn load(properties: &BTreeMap<String, String>, topic: &str, schemas: &mut Schemas) -> anyhow::Result<()> {
    Reader::open(properties, topic)?.to_end(Duration::from_secs(30), |record| {
        if let Some(Ok(json)) = record.payload().map(std::str::from_utf8)
            && let Err(e) = schemas.add(json)
        {
            tracing::warn!(topic, error = %e, "A schema in the topic of schemas cannot be used");
        }
    })
}
