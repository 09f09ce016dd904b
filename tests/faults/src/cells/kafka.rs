//! Brokers die and come back.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use bounceflow_end_to_end::until;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::field::Field;

/// What a client says when it lost a broker.
const LOST: &str = "Kafka client";

pub(crate) fn restart(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    let mut strikes = 0;
    for _ in 0..2 {
        let before = field.said(LOST, "")?;
        field.pipeline.servers.kafka.kill()?;
        field.wait_for_said(LOST, "", before)?;
        thread::sleep(Duration::from_secs(1));
        field.pipeline.servers.kafka.restart()?;
        strikes += 1;
        field.say("the broker was killed and is back");
        progress(field)?;
    }
    Ok(strikes)
}

pub(crate) fn one_of_three(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    let mut strikes = 0;
    for broker in 0..3 {
        let before = field.said(LOST, "")?;
        field.pipeline.servers.kafka.kill_broker(broker)?;
        field.wait_for_said(LOST, "", before)?;
        // The two that are left carry it.
        progress(field)?;
        field.pipeline.servers.kafka.restart_broker(broker)?;
        strikes += 1;
        field.say(&format!("broker {broker} was killed, the others carried on, it is back"));
        in_sync(field)?;
        if !field.flowing()? {
            break;
        }
    }
    Ok(strikes)
}

/// Waits until more has arrived than had, or everything has.
fn progress(field: &mut Field) -> Result<()> {
    let count = |field: &Field| field.pipeline.count("SELECT count() FROM {db}.batches");
    let before = count(field)?;
    until("more to arrive", || {
        field.all_alive()?;
        ensure!(count(field)? > before, "nothing did");
        Ok(())
    })
}

/// Waits until every partition of every topic has all its replicas again: the next kill must not be the second.
fn in_sync(field: &Field) -> Result<()> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", field.pipeline.servers.kafka.bootstrap()).set("broker.address.family", "v4");
    let client: BaseConsumer = client.create()?;
    until("all replicas to be in sync", || {
        let metadata = client.fetch_metadata(None, Duration::from_secs(10))?;
        for topic in metadata.topics() {
            for partition in topic.partitions() {
                let (replicas, in_sync) = (partition.replicas().len(), partition.isr().len());
                ensure!(in_sync == replicas && replicas == 3, "{}/{}: {in_sync} of {replicas}", topic.name(), partition.id());
            }
        }
        Ok(())
    })
}
