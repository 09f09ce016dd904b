//! What the end-to-end tests share: real servers, one pipeline per test on topics and a database of its own, processes of the
//! real binary, and eyes on Kafka that see what no client shows (open transactions, open intents).
//!
//! It must not know how bounceflow counts: what is right is said by the tests and by the simulator.

mod servers;
mod pipeline;
mod process;
mod kafka;
mod transactions;
mod warehouse;
mod wait;
mod dice;
mod swallower;
mod collector;

pub use collector::{Collector, Span};
pub use dice::Dice;
pub use kafka::{Committed, Group, Incoming, Intent, Kafka, Outgoing};
pub use pipeline::{Builder, Pipeline};
pub use process::{Process, cpu_s};
pub use servers::Servers;
pub use swallower::Swallower;
pub use transactions::Transaction;
pub use wait::{LONG, until};
pub use warehouse::{COUNTS, Insert, TABLES, Totals, differences};
