//! Against a real ClickHouse: what is written is read back, repeats add nothing, answers mean what `judge` says, audits find faults.
//!
//! One server is shared, with a fresh database per test; tests that kill or freeze a server share another one and take turns.
#![recursion_limit = "512"] // `json!` with a value per column
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

mod migrations;
mod round_trip;
mod repeats;
mod views;
mod access;
mod docs;
mod answers;
mod tls;
mod broken_answers;
mod audit;
mod alerts;
mod erase;
mod replay;
mod reports;
mod replicas;
mod shards;
