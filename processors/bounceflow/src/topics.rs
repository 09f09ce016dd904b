//! `bounceflow create-topics`: bounceflow's own topics, with the settings the design needs. Existing topics are left as they are.

use std::collections::BTreeMap;

use anyhow::Context as _;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

use crate::config::Config;
use crate::kafka::{self, CALL_TIMEOUT};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// How many partitions and copies.
#[derive(clap::Args)]
pub struct Args {
    /// Partitions of the topic of failures
    #[arg(long, default_value_t = 6)]
    failures_partitions: i32,
    /// Copies of each partition; 0: the broker's default. With three or more, a record counts as written once two have it
    #[arg(long, default_value_t = 0)]
    replication: i32,
    /// Create the input topics as well, with this many partitions
    #[arg(long, value_name = "PARTITIONS")]
    inputs: Option<i32>,
}

/// Creates what is missing. Returns a line per topic.
pub fn create(config: &Config, args: &Args) -> anyhow::Result<Vec<String>> {
    let topics = &config.topics;
    let days = |n: i64| (n * DAY_MS).to_string();
    // What is made of a record may be as large as the largest that is read: refused by the broker, it would come again for ever.
    let largest = || ("max.message.bytes", "67108864".to_owned());
    let mut wanted = vec![
        (topics.failures.as_str(), args.failures_partitions, vec![("retention.ms", days(7)), largest()]),
        // One partition: its order decides every evaluation. Log append time: idle timeouts are measured in it.
        (&topics.rates, 1, vec![("retention.ms", days(8)), ("message.timestamp.type", "LogAppendTime".to_owned()), largest()]),
        // Every transition, never compacted: a watch that starts reads from it what is firing.
        (&topics.alerts, 1, vec![("retention.ms", days(90)), ("cleanup.policy", "delete".to_owned())]),
        // Compacted as well, so that the tombstone of an erased letter removes it: within a day of the next letter behind it.
        (
            &topics.dead_letter,
            1,
            vec![
                ("retention.ms", days(30)),
                ("cleanup.policy", "compact,delete".to_owned()),
                ("segment.ms", days(1)),
                ("max.compaction.lag.ms", days(1)),
                largest(),
            ],
        ),
        (&topics.schemas, 1, vec![("cleanup.policy", "compact".to_owned())]),
    ];
    if let Some(partitions) = args.inputs {
        wanted.extend(config.inputs.iter().map(|input| (input.topic.as_str(), partitions, vec![])));
    }
    let replication = if args.replication > 0 { args.replication } else { -1 };
    if args.replication >= 3 {
        // A broker's own default is 1: what one broker acknowledged would be lost with it.
        wanted.iter_mut().for_each(|(_, _, settings)| settings.push(("min.insync.replicas", "2".to_owned())));
    }
    let new: Vec<NewTopic> = wanted
        .iter()
        .map(|(name, partitions, settings)| {
            let topic = NewTopic::new(name, *partitions, TopicReplication::Fixed(replication));
            settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
        })
        .collect();
    let (admin, options) = admin(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = runtime.block_on(admin.create_topics(&new, &options)).context("Kafka does not answer")?;
    results
        .into_iter()
        .map(|result| match result {
            Ok(name) => Ok(format!("created {name}")),
            Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(format!("exists  {name}")),
            Err((name, e)) => anyhow::bail!("topic {name}: {e}"),
        })
        .collect()
}

/// What a topic's settings say, by their names. A topic that is not there has none.
pub(crate) fn settings(config: &Config, topic: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let (admin, options) = admin(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = [ResourceSpecifier::Topic(topic)];
    let answered = runtime.block_on(admin.describe_configs(&asked, &options)).context("Kafka does not answer")?;
    match answered.into_iter().next() {
        Some(Ok(resource)) => Ok(resource.entries.into_iter().filter_map(|e| Some((e.name, e.value?))).collect()),
        Some(Err(RDKafkaErrorCode::UnknownTopicOrPartition)) | None => Ok(BTreeMap::new()),
        Some(Err(e)) => anyhow::bail!("topic {topic}: the broker does not tell its settings: {e}"),
    }
}

fn admin(config: &Config) -> anyhow::Result<(AdminClient<DefaultClientContext>, AdminOptions)> {
    // The client below only knows that nobody answered in time.
    kafka::reach(&config.kafka)?;
    let mut client = ClientConfig::new();
    client.extend(config.kafka.clone());
    let options = AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT)).request_timeout(Some(CALL_TIMEOUT));
    Ok((client.create()?, options))
}
