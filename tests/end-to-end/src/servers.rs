//! The servers of this test binary: one Kafka and one ClickHouse, started on first use, gone when the process ends.
//! Tests kill and pause them, so one test at a time has them.

use std::ops::Deref;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bounceflow_stack::{ClickHouse, ClickHouseOptions, Kafka, KafkaOptions, Stack};

static STACK: LazyLock<std::result::Result<Stack, String>> = LazyLock::new(|| {
    std::thread::scope(|scope| {
        let kafka = scope.spawn(|| Kafka::start_own(KafkaOptions::default()));
        let clickhouse = ClickHouse::start_own(ClickHouseOptions::default());
        let kafka = kafka.join().map_err(|_| anyhow!("the thread that starts Kafka panicked"))?;
        Ok(Stack { kafka: kafka?, clickhouse: clickhouse? })
    })
    .map_err(|e: anyhow::Error| format!("{e:#}"))
});
static TURN: Mutex<()> = Mutex::new(());

/// Both servers, for the one test whose turn it is.
pub struct Servers {
    stack: &'static Stack,
    _turn: MutexGuard<'static, ()>,
}

impl Servers {
    /// Waits for its turn and brings up what an earlier test left dead or frozen.
    pub fn take() -> Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner); // a test that failed is no reason to fail
        let stack = STACK.as_ref().map_err(|e| anyhow!("{e}"))?;
        if stack.kafka.pid().is_none() {
            stack.kafka.restart().context("bringing Kafka back")?;
        }
        stack.kafka.resume()?;
        if stack.clickhouse.pid().is_some() {
            stack.clickhouse.resume()?;
        }
        if stack.clickhouse.query_within(Duration::from_secs(10), "SELECT 1").is_err() {
            stack.clickhouse.restart().context("bringing ClickHouse back")?;
        }
        Ok(Self { stack, _turn: turn })
    }
}

impl Deref for Servers {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        self.stack
    }
}
