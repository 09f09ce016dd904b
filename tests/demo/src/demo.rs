//! The demo from its first line to its verdict.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bounceflow_stack::Stack;

use crate::Args;
use crate::child::Child;
use crate::comparison::Comparison;
use crate::expected::Expected;
use crate::holdings::Holdings;
use crate::interrupt::Interrupt;
use crate::kafka::Topics;
use crate::place::{EVENTS, Place};
use crate::screen::{self, Screen};
use crate::view::{Moment, count, frame};
use crate::warehouse::{DATABASE, Warehouse};
use crate::watch::Watch;

const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// Whether what was sent is what is stored.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let interrupt = Interrupt::listen()?;
    say("bounceflow demo: simulated mail traffic through real Kafka and ClickHouse; Ctrl-C ends it early")?;
    say("- starting Kafka and ClickHouse (downloaded the first time)")?;
    let started = Instant::now();
    let stack = Stack::start()?;
    interrupt.orderly();
    let (kafka, clickhouse) = (stack.kafka.bootstrap(), stack.clickhouse.url());
    say(&format!("  Kafka {kafka}, ClickHouse {clickhouse}, after {:.1} s", started.elapsed().as_secs_f64()))?;
    let place = Place::new(&stack)?;
    let exact = show(args, &interrupt, &stack, &place);
    if !matches!(exact, Ok(true)) {
        say(&format!("configuration and logs are left in {}", place.keep().display()))?;
    }
    stack.stop()?;
    exact
}

fn show(args: &Args, interrupt: &Interrupt, stack: &Stack, place: &Place) -> Result<bool> {
    let (topics, warehouse) = (Topics::new(stack.kafka.bootstrap())?, Warehouse::new(&stack.clickhouse));
    say("- creating topics (bounceflow create-topics)")?;
    place.create_topics()?;
    ensure!(topics.records(EVENTS)? == 0, "this Kafka already has records in {EVENTS}: the demo needs one without");
    say("- creating tables and views (bounceflow migrate)")?;
    warehouse.is_new()?;
    place.migrate()?;
    ensure!(!interrupt.asked(), "stopped");
    say("- starting bounceflow, all roles in one process (bounceflow run)")?;
    let (mut roles, address) = place.start_roles(interrupt)?;
    let time = if args.keep { "until Ctrl-C".to_owned() } else { format!("for {} s", args.seconds) };
    say(&format!("- sending {} events a second {time} (bounceflow simulate); from second 30 to 60", count(args.rate)))?;
    say("  Gmail refuses 40% of news.shopwave.example, and Yahoo defers more")?;
    let mut above = 0;
    if args.keep {
        let help = help(stack, place, &address);
        above = help.len();
        screen::print(&help)?;
    }
    say("")?;

    let mut screen = Screen::new(above);
    let mut watch = Watch::new(&topics, &warehouse, &address);
    let traffic = place.start_traffic(args, stack.kafka.bootstrap())?;
    let total = (!args.keep).then(|| Duration::from_secs(args.seconds));
    send(traffic, &mut roles, interrupt, &mut watch, &mut screen, total)?;
    let expected = Expected::read(&place.expected())?;
    ensure!(expected.complete, "the simulator ended before Kafka had everything");
    settle(&expected, &mut roles, interrupt, &mut watch, &mut screen)?;

    say("\ncomparing what was sent with what is held (OPTIMIZE TABLE delivery_rates FINAL, bounceflow audit)\n")?;
    let comparison = Comparison::new(&expected, &Holdings::gather(place, &topics, &warehouse, &address)?);
    screen::print(&comparison.lines())?;
    roles.stop(ENDED_WITHIN)?;
    Ok(comparison.is_exact())
}

/// Watches until the traffic has ended by itself, or because somebody asked.
fn send(
    mut traffic: Child,
    roles: &mut Child,
    interrupt: &Interrupt,
    watch: &mut Watch,
    screen: &mut Screen,
    total: Option<Duration>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        watch.look(interrupt);
        roles.still_runs()?;
        let ended = traffic.ended()?;
        let phase = if ended.is_some() { "all is sent" } else { "traffic flows" };
        let moment = Moment { phase: phase.to_owned(), elapsed: start.elapsed(), total };
        screen.draw(|size| frame(watch, &moment, size.columns, size.rows))?;
        match ended {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(traffic.died(status)),
            None if interrupt.asked() => return traffic.stop(ENDED_WITHIN),
            None => {}
        }
    }
}

/// Waits until ClickHouse has everything that was sent. What is missing after a while is for the comparison to tell.
fn settle(expected: &Expected, roles: &mut Child, interrupt: &Interrupt, watch: &mut Watch, screen: &mut Screen) -> Result<()> {
    let _ = interrupt;
    let start = Instant::now();
    loop {
        watch.look_at_once();
        roles.still_runs()?;
        let stored = &watch.seen.stored;
        let records = expected.records.saturating_sub(stored.records);
        let failures = stored.counted_failures.saturating_sub(stored.failures);
        let settled = watch.trouble.is_none() && records == 0 && failures == 0;
        let phase = if settled {
            "all is stored".to_owned()
        } else {
            format!("all is sent; ClickHouse lacks {} records, {} failures", count(records), count(failures))
        };
        let moment = Moment { phase, elapsed: start.elapsed(), total: Some(SETTLED_WITHIN) };
        let over = settled || start.elapsed() > SETTLED_WITHIN;
        if over {
            return Ok(screen.draw_last(|size| frame(watch, &moment, size.columns, size.rows))?);
        }
        screen.draw(|size| frame(watch, &moment, size.columns, size.rows))?;
    }
}

/// How to look into what stays up.
fn help(stack: &Stack, place: &Place, address: &str) -> Vec<String> {
    let url = format!("{}/?database={DATABASE}", stack.clickhouse.url());
    let query = |sql: &str| format!("  curl '{url}' -d '{sql}'");
    let (binary, config) = (place.binary().display(), place.config());
    vec![
        String::new(),
        "Query it, in another terminal:".to_owned(),
        query("SELECT * FROM failure_breakdown ORDER BY failures DESC LIMIT 15 FORMAT PrettyCompact"),
        query("SELECT isp, attempts, bounce_rate, deferred_rate FROM isp_profiles ORDER BY attempts DESC FORMAT PrettyCompact"),
        query("SELECT identity, attempts, bounce_rate, deferred_rate FROM identity_profiles ORDER BY attempts DESC FORMAT PrettyCompact"),
        format!("  curl http://{address}/metrics"),
        format!("  {binary} audit -c {}", config.display()),
        format!("Kafka is at {}. Ctrl-C ends the traffic and compares.", stack.kafka.bootstrap()),
    ]
}

fn say(line: &str) -> Result<()> {
    screen::print(&[line.to_owned()]).context("cannot print")
}
