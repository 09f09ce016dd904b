//! ClickHouse dies, is gone, hangs, or refuses by a limit of its own. Each refusal is the server's real one.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bounceflow_end_to_end::until;

use crate::field::Field;

/// What a sink says of an insert that was not taken, whatever the cause.
pub(crate) const NOT_TAKEN: &str = "An insert was not taken";
const STRIKES: u64 = 3;

pub(crate) fn kill_inserting(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    let mut strikes = 0;
    let mut tries = 0;
    while strikes < STRIKES {
        tries += 1;
        ensure!(tries <= 20, "of {tries} kills only {strikes} met an insert");
        if !field.flowing()? && strikes > 0 {
            break;
        }
        until("an insert to be under way", || {
            let under_way = field
                .pipeline
                .count("SELECT count() FROM system.processes WHERE query_kind = 'Insert' AND current_database = '{db}'")?;
            ensure!(under_way > 0, "none");
            Ok(())
        })?;
        // An insert that had begun ends otherwise than one that never reached the server.
        let before = broken(field)?;
        field.pipeline.servers.clickhouse.kill()?;
        field.wait_for_said(NOT_TAKEN, "", 0)?;
        thread::sleep(Duration::from_millis(300));
        let struck = broken(field)? > before;
        field.say(if struck { "ClickHouse killed within an insert" } else { "ClickHouse killed beside an insert" });
        strikes += u64::from(struck);
        field.pipeline.servers.clickhouse.restart()?;
    }
    Ok(strikes)
}

/// Inserts that broke off after they had begun.
fn broken(field: &Field) -> Result<u64> {
    Ok(field.said(NOT_TAKEN, "no answer of ClickHouse")? - field.said(NOT_TAKEN, "Connection refused")?)
}

pub(crate) fn kill_merging(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    let mut strikes = 0;
    for turn in 0u32.. {
        ensure!(turn < 60, "of {turn} kills only {strikes} met a merge");
        if strikes == STRIKES || (strikes > 0 && !field.flowing()?) {
            break;
        }
        thread::sleep(Duration::from_millis(500)); // for more parts
        let table = ["failures", "delivery_rates", "batches"][turn as usize % 3];
        let (pipeline, clickhouse) = (&field.pipeline, &field.pipeline.servers.clickhouse);
        let sql = format!("OPTIMIZE TABLE {}.{table} FINAL", pipeline.database());
        let broken_off = thread::scope(|scope| -> Result<bool> {
            let merging = scope.spawn(|| clickhouse.query(&sql));
            let deadline = Instant::now() + Duration::from_secs(10);
            while !merging.is_finished() && Instant::now() < deadline {
                if pipeline.count("SELECT count() FROM system.merges WHERE database = '{db}'")? > 0 {
                    clickhouse.kill()?;
                    // Seen to run, and not answered: it was killed within the merge.
                    return Ok(merging.join().map_err(|_| anyhow::anyhow!("panicked"))?.is_err());
                }
            }
            Ok(false)
        })?;
        if clickhouse.pid().is_none() {
            field.pipeline.servers.clickhouse.restart()?;
            strikes += u64::from(broken_off);
            field.say(&format!("killed while it merged {table}: {broken_off}"));
        }
    }
    Ok(strikes)
}

/// Gone for a minute under full traffic; how long the sinks need to catch up then, and how much memory they took.
pub(crate) fn gone(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    thread::sleep(Duration::from_secs(5));
    let before = field.behind("sink")?;
    let memory_before = peak_memory(field)?;
    field.pipeline.servers.clickhouse.kill()?;
    field.say(&format!("ClickHouse is gone; {before} records behind"));
    thread::sleep(Duration::from_secs(60));
    ensure!(field.said(NOT_TAKEN, "Connection refused")? > 0, "nobody missed it");
    ensure!(field.flowing()?, "the traffic was over before it came back");
    let most = field.behind("sink")?;
    field.pipeline.servers.clickhouse.restart()?;
    let back = Instant::now();
    // As far behind as before the fault, with what half a second of traffic brings allowed for the measurement itself.
    let usual = before + field.order.rate / 2;
    let deadline = back + Duration::from_secs(170);
    loop {
        let now = field.behind("sink")?;
        if now <= usual {
            break;
        }
        ensure!(Instant::now() < deadline, "not caught up: {now} records behind, {most} at worst");
        thread::sleep(Duration::from_millis(100));
    }
    let seconds = back.elapsed().as_secs_f64();
    let flowing = field.flowing()?;
    let memory = peak_memory(field)?;
    field.say(&format!("caught up after {seconds:.1} s from {most} records behind; traffic still flows: {flowing}"));
    let events = field.pipeline.count("SELECT sum(items) FROM {db}.batches")? as f64;
    let whole = field.seconds_of_traffic();
    for (name, value) in [
        ("catch_up_s", seconds),
        ("events_per_s", events / whole),
        ("sink_peak_mib_before", memory_before),
        ("sink_peak_mib", memory),
    ] {
        field.measure(name, value);
    }
    Ok(1)
}

/// The most memory any sink ever took. MiB.
fn peak_memory(field: &Field) -> Result<f64> {
    let sinks = field.team.iter().filter(|member| member.role == "sink");
    sinks.map(|sink| sink.process.memory_mib("VmHWM")).try_fold(0f64, |peak, one| Ok(peak.max(one?)))
}

pub(crate) fn hung(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    let mut strikes = 0;
    for _ in 0..STRIKES {
        let before = field.said(NOT_TAKEN, "no answer within")?;
        field.pipeline.servers.clickhouse.pause()?;
        strikes += field.wait_for_said(NOT_TAKEN, "no answer within", before)?;
        thread::sleep(Duration::from_secs(2));
        field.pipeline.servers.clickhouse.resume()?;
        if !field.flowing()? {
            break;
        }
        thread::sleep(Duration::from_secs(2));
    }
    Ok(strikes)
}

pub(crate) fn read_only(field: &mut Field) -> Result<u64> {
    refuse_for_a_while(
        field,
        &["failures", "delivery_rates", "batches"],
        "table_readonly = 1",
        "table_readonly",
        "TABLE_IS_PERMANENTLY_READ_ONLY",
    )
}

pub(crate) fn disk_full(field: &mut Field) -> Result<u64> {
    // More than any disk has free.
    let setting = "min_free_disk_bytes_to_perform_insert";
    refuse_for_a_while(
        field,
        &["failures", "delivery_rates", "batches"],
        &format!("{setting} = 1000000000000000000"),
        setting,
        "Code: 243",
    )
}

/// Lets the server refuse inserts into one table after the other by a setting of the table, until the sinks have heard it.
fn refuse_for_a_while(field: &mut Field, tables: &[&str], setting: &str, name: &str, code: &str) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    let mut strikes = 0;
    for table in tables {
        let before = field.said(NOT_TAKEN, code)?;
        field.pipeline.value(&format!("ALTER TABLE {{db}}.{table} MODIFY SETTING {setting}"))?;
        // Behind the end of the traffic nothing may come any more that could be refused.
        let mut heard = 0;
        let mut late = None;
        while heard == 0 && late.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(5)) {
            thread::sleep(Duration::from_millis(100));
            heard = field.said(NOT_TAKEN, code)? - before;
            if !field.flowing()? {
                late.get_or_insert_with(Instant::now);
            }
        }
        thread::sleep(Duration::from_secs(1));
        field.pipeline.value(&format!("ALTER TABLE {{db}}.{table} RESET SETTING {name}"))?;
        field.say(&format!("{table} refused {heard} inserts with {code}"));
        strikes += heard;
    }
    ensure!(strikes > 0, "no insert was refused with {code}");
    Ok(strikes)
}

pub(crate) fn out_of_memory(field: &mut Field) -> Result<u64> {
    field.start_team()?;
    field.start_traffic()?;
    field.under_way()?;
    let before = field.said(NOT_TAKEN, "Code: 241")?;
    // A table in memory that grows until the server itself says that there is no more.
    field.pipeline.value("CREATE TABLE {db}.hog (s String) ENGINE = Memory")?;
    let mut full = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    let heard = loop {
        for size in [16u64 << 20, 1 << 20, 1 << 16] {
            let fill = format!("INSERT INTO {{db}}.hog SELECT randomString({size}) FROM numbers(4)");
            if let Err(e) = field.pipeline.value(&fill) {
                if !e.to_string().contains("Code: 241") {
                    bail!("the hog was refused otherwise: {e:#}");
                }
                full += 1;
            }
        }
        let heard = field.said(NOT_TAKEN, "Code: 241")? - before;
        if heard >= STRIKES || Instant::now() > deadline {
            break heard;
        }
        thread::sleep(Duration::from_millis(100));
    };
    // A server without memory may refuse even that; then it is started again, and the table is empty.
    if field.pipeline.value("DROP TABLE {db}.hog SYNC").is_err() {
        field.pipeline.servers.clickhouse.restart()?;
        field.pipeline.value("DROP TABLE {db}.hog SYNC")?;
    }
    field.say(&format!("{heard} inserts were refused for want of memory; the hog itself {full} times"));
    ensure!(heard > 0, "no insert was refused for want of memory");
    Ok(heard)
}
