//! Starts, pauses, kills and stops real Kafka, ClickHouse, ZooKeeper, Alertmanager, Prometheus and Kubernetes API servers for tests,
//! demo and benchmarks; has the tools that tests of a deployment need ([`tools`]).
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let stack = bounceflow_stack::Stack::start()?;
//! stack.clickhouse.query("CREATE DATABASE demo")?;
//! stack.clickhouse.kill()?; // SIGKILL
//! stack.clickhouse.restart()?; // same ports, same data
//! println!("{} {}", stack.kafka.bootstrap(), stack.clickhouse.url());
//! # Ok(()) } // dropped: servers and data folders are gone, as they are when this process is SIGKILLed
//! ```
//!
//! The servers are downloaded once into `$XDG_CACHE_HOME/bounceflow` (else `~/.cache/bounceflow`) by `mvn`, `npm`, `go` and
//! `apt-get`. Where `BOUNCEFLOW_KAFKA`, `BOUNCEFLOW_CLICKHOUSE` or `BOUNCEFLOW_ALERTMANAGER` names a running server, `start` uses
//! that one.
//!
//! It must not know anything of topics, tables or schemas: what runs on the servers is its callers' business.
#![cfg(target_os = "linux")]

mod alertmanager;
mod certificates;
mod clickhouse;
mod clock;
mod download;
mod guardian;
mod interserver;
mod kafka;
mod keeper;
mod kubernetes;
mod launcher;
mod ports;
mod program;
mod prometheus;
mod server;
mod stack;
mod tls_proxy;
pub mod tools;

pub use alertmanager::Alertmanager;
pub use certificates::{Authority, Certificate};
pub use clickhouse::{ClickHouse, ClickHouseOptions, ClickHouseUser, Replica};
pub use clock::Clocks;
pub use kafka::{Kafka, KafkaOptions, KafkaSecurity};
pub use keeper::Keeper;
pub use kubernetes::Kubernetes;
pub use program::{built, said};
pub use prometheus::{Prometheus, PrometheusOptions, promtool};
pub use stack::Stack;
pub use tls_proxy::TlsProxy;
