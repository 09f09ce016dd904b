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
        let clickhouse = ClickHouse::start_own(
            // What was inserted, and when, is read from the log of queries.
            ClickHouseOptions::default().server_setting("query_log", "").query_setting("log_queries", 1),
        );
        let kafka = kafka.join().map_err(|_| anyhow!("the thread that starts Kafka panicked"))?;
        Ok(Stack { kafka: kafka?, clickhouse: clickhouse? })
    })
    .map_err(|e: anyhow::Error| format!("{e:#}"))
});
static TURN: Mutex<()> = Mutex::new(());

/// Both servers, for the one test whose turn it is.
pub struct Servers {
    shared: &'static Stack,
    /// Servers of this test alone, instead of the shared ones.
    own: Option<Box<Stack>>,
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
        Ok(Self { shared: stack, own: None, _turn: turn })
    }

    /// A broker, or brokers, of its own instead of the shared one.
    pub fn with_kafka(mut self, options: KafkaOptions) -> Result<Self> {
        let clickhouse = ClickHouse::external(self.shared.clickhouse.url())?;
        self.own = Some(Box::new(Stack { kafka: Kafka::start_own(options)?, clickhouse }));
        Ok(self)
    }

    /// Both of its own.
    pub fn with_both(mut self, kafka: KafkaOptions, clickhouse: ClickHouseOptions) -> Result<Self> {
        self.own = Some(Box::new(Stack { kafka: Kafka::start_own(kafka)?, clickhouse: ClickHouse::start_own(clickhouse)? }));
        Ok(self)
    }

    /// A ClickHouse of its own instead of the shared one.
    pub fn with_clickhouse(mut self, options: ClickHouseOptions) -> Result<Self> {
        let kafka = Kafka::external(self.shared.kafka.bootstrap())?;
        self.own = Some(Box::new(Stack { kafka, clickhouse: ClickHouse::start_own(options)? }));
        Ok(self)
    }
}

impl Deref for Servers {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        self.own.as_deref().unwrap_or(self.shared)
    }
}
