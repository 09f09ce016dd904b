//! bounceflow: delivery events from Kafka to exact failure rates and classified failures in ClickHouse.
//!
//! The binary's own library, so that tests and benchmarks reach its parts. The loops (`classify`, `sink`, `watch`) are one file each, read
//! from the top; what they decide is decided in pure code (`process`, `counts`, `starting`, `intent`).

#[macro_use]
pub mod failpoint;
pub mod cli;
mod command;
pub mod config;
pub mod secrets;
pub mod run;
pub mod classify;
pub mod record;
pub mod process;
pub mod counts;
pub mod sink;
pub mod intent;
pub mod watch;
pub mod evidence;
pub mod board;
pub mod alertmanager;
pub mod dead_letter;
pub mod erase;
pub mod report;
mod printable;
mod progress;
pub mod starting;
pub mod quiet;
pub mod kafka;
pub mod trouble;
pub mod schemas;
pub mod rules;
pub mod explain;
pub mod topics;
pub mod replay;
pub mod simulate;
pub mod top;
pub mod http;
pub mod api;
pub mod health;
pub mod metrics;
pub mod lag;
pub mod telemetry;
pub mod stop;
