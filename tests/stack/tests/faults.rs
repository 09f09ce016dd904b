//! Servers that are killed, restarted and frozen, and servers that cannot start.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::thread;
use std::time::Duration;

use bounceflow_stack::{Alertmanager, ClickHouse, ClickHouseOptions, ClickHouseUser, Kafka, KafkaOptions};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfig};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

#[test]
fn clickhouse_keeps_its_data_over_a_kill() {
    let clickhouse = ClickHouse::start_own(ClickHouseOptions::default()).unwrap();
    clickhouse.query("CREATE DATABASE d").unwrap();
    clickhouse.query("CREATE TABLE d.t (x UInt32) ENGINE = MergeTree ORDER BY x").unwrap();
    for round in 1..=3 {
        clickhouse.query("INSERT INTO d.t SELECT number FROM numbers(1000)").unwrap();
        let (pid, address) = (clickhouse.pid().unwrap(), clickhouse.url().to_owned());
        clickhouse.kill().unwrap();
        assert_eq!(clickhouse.pid(), None);
        clickhouse.query_within(SHORT, "SELECT 1").unwrap_err();
        clickhouse.restart().unwrap();
        assert_ne!(clickhouse.pid(), Some(pid));
        assert_eq!(clickhouse.url(), address);
        assert_eq!(clickhouse.query("SELECT count() FROM d.t").unwrap().trim(), (round * 1000).to_string());
    }
    clickhouse.restart().unwrap(); // of a running one: kills it first
    assert_eq!(clickhouse.query("SELECT count() FROM d.t").unwrap(), "3000\n");
    clickhouse.stop().unwrap();
}

#[test]
fn kafka_keeps_its_data_over_a_kill() {
    let kafka = Kafka::start_own(KafkaOptions::default()).unwrap();
    create_topic(&kafka, "t");
    let address = kafka.bootstrap().to_owned();
    for round in 1..=2_u8 {
        produce(&kafka, &[round; 2_000_000]); // larger than a broker takes by default
        let pid = kafka.pid().unwrap();
        kafka.kill().unwrap();
        assert_eq!(kafka.pid(), None);
        kafka.restart().unwrap();
        assert_ne!(kafka.pid(), Some(pid));
        assert_eq!(kafka.bootstrap(), address);
        assert_eq!(first_bytes(&kafka, round.into()), (1..=round).collect::<Vec<_>>());
    }
}

#[test]
fn alertmanager_comes_back_on_its_port() {
    let alertmanager = Alertmanager::start_own().unwrap();
    let url = alertmanager.url().to_owned();
    assert_eq!(alertmanager.alerts().unwrap().trim(), "[]");
    alertmanager.kill().unwrap();
    alertmanager.alerts().unwrap_err();
    alertmanager.restart().unwrap();
    assert_eq!((alertmanager.url(), alertmanager.alerts().unwrap().trim()), (&*url, "[]"));
}

#[test]
fn a_frozen_clickhouse_does_not_answer() {
    let clickhouse = ClickHouse::start_own(ClickHouseOptions::default()).unwrap();
    clickhouse.pause().unwrap();
    clickhouse.query_within(SHORT, "SELECT 1").unwrap_err();
    clickhouse.resume().unwrap();
    assert_eq!(clickhouse.query("SELECT 1").unwrap(), "1\n");
    clickhouse.pause().unwrap();
    clickhouse.kill().unwrap(); // a frozen one dies too
    clickhouse.pause().unwrap_err(); // and then there is nothing to freeze
}

#[test]
fn a_frozen_kafka_does_not_answer() {
    let kafka = Kafka::start_own(KafkaOptions::default().property("num.partitions", 3)).unwrap();
    let client: BaseProducer = config(&kafka).create().unwrap();
    kafka.pause().unwrap();
    client.client().fetch_metadata(None, SHORT).unwrap_err();
    kafka.resume().unwrap();
    client.client().fetch_metadata(None, LONG).unwrap();
}

#[test]
fn clickhouse_takes_options() {
    let reader = ClickHouseUser { name: "reader".into(), password: "a<b&c".into(), grants: vec!["GRANT SELECT ON d.*".into()] };
    let admin = ClickHouseUser { name: "admin".into(), password: "x".into(), grants: vec![] };
    let options = ClickHouseOptions::default()
        .server_setting("mark_cache_size", 1_000_000)
        .query_setting("max_threads", 1)
        .user(reader)
        .user(admin);
    let clickhouse = ClickHouse::start_own(options).unwrap();
    let settings = "SELECT getSetting('max_threads'), timezone(), \
                    (SELECT value FROM system.server_settings WHERE name = 'mark_cache_size')";
    assert_eq!(clickhouse.query(settings).unwrap(), "1\tUTC\t1000000\n");
    clickhouse.query("CREATE DATABASE d").unwrap();
    clickhouse.query("CREATE TABLE d.t (x UInt32) ENGINE = MergeTree ORDER BY x").unwrap();

    let named =
        |user: &str, password: &str| ClickHouse::external(format!("{}/?user={user}&password={password}", clickhouse.url()));
    named("admin", "x").unwrap().query("INSERT INTO d.t VALUES (1)").unwrap();
    let reader = named("reader", "a%3Cb%26c").unwrap();
    assert_eq!(reader.query("SELECT count() FROM d.t").unwrap(), "1\n");
    assert!(format!("{:#}", reader.query("INSERT INTO d.t VALUES (1)").unwrap_err()).contains("ACCESS_DENIED"));
    named("reader", "wrong").unwrap_err();
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let error = Kafka::start_own(KafkaOptions::default().property("message.max.bytes", "many")).unwrap_err();
    assert!(format!("{error:#}").contains("message.max.bytes"), "{error:#}");
    let options = KafkaOptions { heap: "1x".into(), ..KafkaOptions::default() };
    let error = Kafka::start_own(options).unwrap_err();
    assert!(format!("{error:#}").contains("Invalid maximum heap size"), "{error:#}");
    let error = ClickHouse::start_own(ClickHouseOptions::default().query_setting("max_threads", "many")).unwrap_err();
    assert!(format!("{error:#}").contains("many"), "{error:#}");
}

#[test]
fn many_at_once_get_ports_of_their_own() {
    let servers: Vec<_> =
        (0..4).map(|_| thread::spawn(|| ClickHouse::start_own(ClickHouseOptions::default()).unwrap())).collect();
    let servers: Vec<_> = servers.into_iter().map(|server| server.join().unwrap()).collect();
    for (number, server) in servers.iter().enumerate() {
        server.query(&format!("CREATE DATABASE only_{number}")).unwrap();
    }
    for server in &servers {
        assert_eq!(server.query("SELECT count() FROM system.databases WHERE name LIKE 'only%'").unwrap(), "1\n");
    }
}

fn config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap()).set("message.max.bytes", "10000000").set("group.id", "g");
    config
}

fn create_topic(kafka: &Kafka, name: &str) {
    let admin = AdminClient::<DefaultClientContext>::from_config(&config(kafka)).unwrap();
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(LONG));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for result in runtime.block_on(admin.create_topics(&[topic], &options)).unwrap() {
        result.unwrap();
    }
}

fn produce(kafka: &Kafka, payload: &[u8]) {
    let producer: BaseProducer = config(kafka).create().unwrap();
    producer.send(BaseRecord::<(), [u8]>::to("t").payload(payload)).unwrap();
    producer.flush(LONG).unwrap();
}

/// The first byte of each of so many records.
fn first_bytes(kafka: &Kafka, records: usize) -> Vec<u8> {
    let consumer: BaseConsumer = config(kafka).create().unwrap();
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset("t", 0, Offset::Beginning).unwrap();
    consumer.assign(&partitions).unwrap();
    let mut found = Vec::new();
    while found.len() < records {
        // An error is what the client tells of what it then retries.
        if let Ok(record) = consumer.poll(LONG).expect("a record") {
            found.push(record.payload().unwrap()[0]);
        }
    }
    found
}
