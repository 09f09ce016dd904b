//! The cells of the matrix: what each differs in, and the fault it forces. A cell's `play` starts team and traffic, strikes, mends
//! what it broke, and says how often its fault was seen to strike; the comparison is not its business.

mod forced;
mod zombies;
mod members;
mod panics;
mod hangs;
mod clickhouse;
mod answers;
mod kafka;
mod poison;
mod window;

use anyhow::Result;

use crate::field::{Field, Order};

/// Which servers a cell needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Servers {
    /// Those every cell may use, one after the other.
    Shared,
    /// The same, with a proxy before ClickHouse.
    BehindProxy,
    /// Three brokers of its own.
    ThreeBrokers,
    /// A ClickHouse of its own with little memory.
    SmallMemory,
}

/// A setting of the configuration and its value.
pub(crate) type Setting = (&'static [&'static str], i64);

/// One cell.
pub(crate) struct Cell {
    /// What it is asked for by.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) about: &'static str,
    /// What it needs.
    pub(crate) servers: Servers,
    /// How its configuration differs.
    pub(crate) settings: &'static [Setting],
    /// Whether a process may end by itself, as it does where it cannot go on, and is started again, as its supervisor would.
    pub(crate) supervised: bool,
    /// How its traffic differs.
    pub(crate) order: fn(Order) -> Order,
    /// Strikes.
    pub(crate) play: fn(&mut Field) -> Result<u64>,
}

impl Cell {
    const fn new(name: &'static str, about: &'static str, play: fn(&mut Field) -> Result<u64>) -> Self {
        Self { name, about, servers: Servers::Shared, settings: &[], supervised: false, order: |order| order, play }
    }

    const fn on(mut self, servers: Servers) -> Self {
        self.servers = servers;
        self
    }

    const fn with(mut self, settings: &'static [Setting]) -> Self {
        self.settings = settings;
        self
    }

    const fn supervised(mut self) -> Self {
        self.supervised = true;
        self
    }

    const fn ordered(mut self, order: fn(Order) -> Order) -> Self {
        self.order = order;
        self
    }
}

/// All of them, in the order they are played.
pub(crate) const CELLS: &[Cell] = &[
    Cell::new("sink-kill-before-intent", "the sink dies with a batch closed and no intent", forced::sink_before_intent),
    Cell::new("sink-kill-after-intent", "the sink dies with the intent committed and nothing sent", forced::sink_after_intent),
    Cell::new("sink-kill-during-post", "the sink dies while inserts are under way", forced::sink_during_post),
    Cell::new("sink-kill-after-ok", "the sink dies when ClickHouse said OK and no offset moved", forced::sink_after_ok),
    Cell::new("sink-kill-after-commit", "the sink dies when the offsets have moved", forced::sink_after_commit),
    Cell::new(
        "classify-kill-before-commit",
        "classify dies with everything of a transaction sent",
        forced::classify_before_commit,
    ),
    Cell::new("classify-kill-during-commit", "classify dies within the commit", forced::classify_during_commit),
    Cell::new("classify-kill-after-commit", "classify dies when the commit is done", forced::classify_after_commit),
    Cell::new("classify-panic", "classify panics over records, which are sent again from the dead letter", panics::classify),
    Cell::new("hung-calls", "a call never returns in classify, nor in the sink; both end by themselves", hangs::both)
        .supervised(),
    Cell::new("random-kills", "30 kills of either role at random", members::random_kills),
    Cell::new("classify-zombie", "classify sleeps through its expulsion, also before a commit", zombies::classify).ordered(slow),
    Cell::new("sink-zombie", "the sink sleeps through its expulsion with an intent open", zombies::sink).ordered(slow),
    Cell::new("sink-zombie-after-intent", "the same, asleep between intent and insert", zombies::sink_after_intent).ordered(slow),
    Cell::new("rebalance-storm", "a process of each role joins or leaves every 5 s for a minute", members::storm)
        .ordered(|order| Order { rate: order.events / 62, ..order }),
    Cell::new(
        "rolling-restart",
        "every process of all three roles is restarted in turn, as an upgrade does",
        members::rolling_restart,
    )
    .ordered(|order| Order { events: order.events.max(order.rate * 90), ..order }),
    Cell::new("clickhouse-kill-inserting", "ClickHouse is killed while it inserts", clickhouse::kill_inserting)
        .with(&[(&["sink", "linger_ms"], 500)]),
    Cell::new("clickhouse-kill-merging", "ClickHouse is killed while it merges", clickhouse::kill_merging),
    Cell::new("clickhouse-gone-60s", "ClickHouse is gone for a minute", clickhouse::gone)
        .ordered(|order| Order { events: order.events.max(order.rate * 110), ..order }),
    Cell::new("clickhouse-hung", "ClickHouse accepts and never answers", clickhouse::hung)
        .with(&[(&["clickhouse", "insert_timeout_ms"], 1500)]),
    Cell::new("clickhouse-half-close", "connections break within request and answer", answers::half_close)
        .on(Servers::BehindProxy),
    Cell::new("clickhouse-500", "a gateway answers 500, with and without the insert done", answers::error_500)
        .on(Servers::BehindProxy),
    Cell::new("clickhouse-read-only", "the tables are read-only for a while", clickhouse::read_only),
    Cell::new("clickhouse-disk-full", "the disk has not enough room for a while (243), also for a view", clickhouse::disk_full),
    Cell::new("clickhouse-out-of-memory", "the server has no memory left for a while (241)", clickhouse::out_of_memory)
        .on(Servers::SmallMemory),
    Cell::new("kafka-restart", "the broker is killed and comes back", kafka::restart).supervised(),
    Cell::new("kafka-one-of-three-killed", "three brokers, each killed in turn", kafka::one_of_three)
        .on(Servers::ThreeBrokers)
        .supervised()
        // Long enough for each to be killed and to catch up again.
        .ordered(|order| Order { rate: (order.events / 120).min(order.rate), ..order }),
    Cell::new("poison-first", "ClickHouse refuses the first row of a batch", poison::first).with(poison::BATCHES),
    Cell::new("poison-middle", "ClickHouse refuses a row in the middle of a batch", poison::middle).with(poison::BATCHES),
    Cell::new("poison-last", "ClickHouse refuses the last row of a batch", poison::last).with(poison::BATCHES),
    Cell::new("small-dedup-window", "the deduplication window is made small while inserts hang in the air", window::small)
        .on(Servers::BehindProxy),
];

/// Traffic for 40 s: a fault that takes its time.
fn slow(order: Order) -> Order {
    Order { rate: (order.events / 40).min(order.rate), ..order }
}
