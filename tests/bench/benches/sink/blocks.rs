//! The very blocks a sink sent, made again from its tokens, and a bare client that posts them from files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bounceflow::kafka::Reader;
use bounceflow::schemas;
use bounceflow_end_to_end::Pipeline;
use bounceflow_event::{Failure, RateBatch};
use bounceflow_warehouse::{Answer, Block, BlockBuilder, LogPosition, Settings, Table, Warehouse};
use rdkafka::Message as _;

use crate::speed::{Filled, PATIENCE};

/// What one insert held: a range of a partition.
pub(crate) struct Range {
    first: i64,
    last: i64,
}

/// A block in a file.
pub(crate) struct Stored {
    file: PathBuf,
    token: String,
    rows: u64,
}

/// What the sink of this pipeline inserted into `table`, by partition and in order, as ClickHouse noted it.
pub(crate) fn ranges(pipeline: &Pipeline, table: Table) -> Result<BTreeMap<i32, Vec<Range>>> {
    let mut ranges: BTreeMap<i32, Vec<Range>> = BTreeMap::new();
    for insert in pipeline.inserts()?.into_iter().filter(|insert| insert.table == table.name()) {
        let range = Range { first: insert.first, last: insert.last };
        ranges.entry(insert.partition).or_default().push(range);
    }
    ranges.values_mut().for_each(|of| of.sort_by_key(|range| range.first));
    Ok(ranges)
}

/// Reads the topic again and cuts it into the blocks of these ranges, one file each.
pub(crate) fn cut(filled: &Filled, pipeline: &Pipeline, table: Table, folder: &Path) -> Result<Vec<Stored>> {
    let ranges = ranges(pipeline, table)?;
    let known = schemas::known()?;
    let mut growing: BTreeMap<i32, (usize, BlockBuilder)> =
        ranges.keys().map(|partition| (*partition, (0, BlockBuilder::new(table)))).collect();
    let (mut stored, mut trouble) = (Vec::new(), Ok(()));
    let topic = filled.topic(table);
    Reader::open(&filled.properties, topic)?.to_end(PATIENCE, |record| {
        let mut take = || -> Result<()> {
            let of = ranges.get(&record.partition()).context("a partition of which nothing was inserted")?;
            let (at, builder) = growing.get_mut(&record.partition()).context("no such partition")?;
            let range = of.get(*at).context("a record behind the last insert")?;
            ensure!(record.offset() >= range.first && record.offset() <= range.last, "a record between two inserts");
            let payload = record.payload().unwrap_or_default();
            let place = LogPosition { topic, partition: record.partition(), offset: record.offset() };
            match table {
                Table::Batches => {
                    let log_time = record.timestamp().to_millis().unwrap_or(0);
                    builder.push_batch(&known.decode::<RateBatch>(payload)?, place, log_time);
                }
                _ => builder.push_failure(&known.decode::<Failure>(payload)?, place),
            }
            if record.offset() == range.last {
                let block = std::mem::replace(builder, BlockBuilder::new(table)).finish();
                let token = format!("bare:{}:{}", record.partition(), range.first);
                let file = folder.join(format!("{}-{}-{}", table, record.partition(), range.first));
                fs::write(&file, block.bytes())?;
                stored.push(Stored { file, token, rows: block.rows() });
                *at += 1;
            }
            Ok(())
        };
        if trouble.is_ok() {
            trouble = take();
        }
    })?;
    trouble?;
    ensure!(stored.len() == ranges.values().map(Vec::len).sum::<usize>(), "not every block was made again");
    Ok(stored)
}

/// The time to post the blocks from their files, over this many connections, and nothing else.
pub(crate) fn post(pipeline: &Pipeline, table: Table, blocks: &[Stored], connections: usize) -> Result<Duration> {
    let (url, database) = (pipeline.servers.clickhouse.url(), pipeline.database());
    let next = AtomicUsize::new(0);
    let client = || -> Result<()> {
        // Connections belong to a runtime, and clones of settings share them, so each has its own of all three.
        let settings = Settings { url: url.to_owned(), database: database.to_owned(), ..Settings::default() };
        let (warehouse, runtime) =
            (Warehouse::new(settings)?, tokio::runtime::Builder::new_current_thread().enable_all().build()?);
        while let Some(stored) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let block = Block::from_row_binary(table, stored.rows, fs::read(&stored.file)?.into());
            let answer = runtime.block_on(warehouse.insert(&block, &stored.token));
            ensure!(answer == Answer::Written, "{answer}");
        }
        Ok(())
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
    })?;
    Ok(started.elapsed())
}
