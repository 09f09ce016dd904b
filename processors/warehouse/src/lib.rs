//! Everything bounceflow knows about ClickHouse: migrations, encoding rows, one insert of one block, what an answer means, replicas and
//! shards, counting a range, checking that repeats are dropped, the audit, erasure, the tables of a replay, the list of what no rule
//! knew, and the questions behind reports.
//!
//! It never decides about offsets, retries or intents: that is the sink's loop. Encoding and [`judge`] are pure.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod row_binary;
pub mod block;
pub mod answer;
pub mod access;
pub mod client;
pub mod migrations;
mod definer;
pub mod replication;
pub mod sharding;
pub mod check;
pub mod replicas;
pub mod shards;
pub mod pipelines;
mod counts;
pub mod audit;
mod rollups;
pub mod retention;
pub mod unmatched;
pub mod report;
pub mod erase;
pub mod replay;
pub mod error;

pub use access::{Access, Credentials};
pub use answer::{Answer, Verdict, advice, is_held_off, is_of_the_server, judge};
pub use audit::{AuditOptions, AuditReport};
pub use block::{Block, BlockBuilder, ENCODER_VERSION, LogPosition, MAX_BLOCK_BYTES, MAX_BLOCK_ROWS, Table, columns};
pub use client::{Held, Settings, TokenRange, Warehouse};
pub use erase::{Erasure, Person};
pub use error::{UnprotectedTable, WarehouseError};
pub use migrations::Applied;
pub use replay::{Comparison, Replaced, Replay, State};
pub use replicas::Replicas;
pub use replication::Replication;
pub use retention::Retention;
pub use sharding::Sharding;
pub use shards::Shards;
pub use unmatched::{Unmatched, UnmatchedQuery};
