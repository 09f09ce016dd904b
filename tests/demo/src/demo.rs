//! The demo from its first line to its verdict.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bounceflow_stack::Stack;

use crate::Args;
use crate::alerts::Alerts;
use crate::child::Child;
use crate::comparison::Comparison;
use crate::expected::Expected;
use crate::holdings::Holdings;
use crate::interrupt::Interrupt;
use crate::kafka::Topics;
use crate::live::Live;
use crate::place::{EVENTS, Place};
use crate::screen::{self, Screen};
use crate::view::{Moment, clock, count, frame};
use crate::warehouse::{DATABASE, Warehouse};
use crate::watch::Watch;

const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const SETTLING: Duration = Duration::from_millis(250);
const ENDED_WITHIN: Duration = Duration::from_secs(30);
const READING: Duration = Duration::from_secs(3);
/// When the incident begins: `scenario.toml`.
const INCIDENT: Duration = Duration::from_secs(6);

/// Whether what was sent is what is stored.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let interrupt = Interrupt::listen()?;
    say("bounceflow demo: simulated mail traffic, real Kafka, real ClickHouse")?;
    say("- starting Kafka and ClickHouse (downloaded the first time)")?;
    let started = Instant::now();
    let stack = Stack::start()?;
    interrupt.orderly();
    let (kafka, clickhouse) = (stack.kafka.bootstrap(), stack.clickhouse.url());
    say(&format!("  Kafka {kafka}, ClickHouse {clickhouse}, after {:.1} s", started.elapsed().as_secs_f64()))?;
    let place = Place::new(&stack)?;
    // Said at once: it takes a moment until the servers are gone.
    let exact = show(args, &interrupt, &stack, &place).or_else(|e| say(&format!("demo: {e:#}")).map(|()| false))?;
    if !exact {
        say(&format!("configuration and logs are left in {}", place.keep()?.display()))?;
    }
    stack.stop()?;
    Ok(exact)
}

fn show(args: &Args, interrupt: &Interrupt, stack: &Stack, place: &Place) -> Result<bool> {
    let (topics, warehouse) = (Topics::new(stack.kafka.bootstrap())?, Warehouse::new(&stack.clickhouse));
    say("- creating topics (bounceflow create-topics)")?;
    place.create_topics()?;
    say("- creating tables and views (bounceflow migrate)")?;
    warehouse.is_new()?;
    place.migrate()?;
    ensure!(!interrupt.asked(), "stopped");
    say("- starting bounceflow, all roles in one process (bounceflow run)")?;
    let (mut roles, address) = place.start_roles(interrupt)?;
    ensure!(topics.records(EVENTS)? == 0, "this Kafka already has records in {EVENTS}: the demo needs one without");
    let time = if args.keep { "until Ctrl-C".to_owned() } else { format!("for {} s", args.seconds) };
    say(&format!("- sending {} events a second {time} (bounceflow simulate)", count(args.rate)))?;
    if args.keep || args.seconds > 20 {
        say("  from second 6 to 18 Gmail refuses most mail of news.shopwave.example: an alert fires, and ends")?;
        say("- showing rates and alerts meanwhile (bounceflow top; q leaves it)")?;
    }
    let help = if args.keep { help(stack, place, &address) } else { Vec::new() };
    screen::print(&help)?;
    say("")?;

    let mut screen = Screen::below(&help);
    let mut watch = Watch::new(&topics, &warehouse, &address);
    let traffic = place.start_traffic(args, stack.kafka.bootstrap())?;
    let mut alerts = Alerts::new(Instant::now());
    // Long enough to read what stands above, where it is a terminal that top takes over.
    interrupt.sleep_until(Instant::now() + READING);
    let live = Live::start(place.top(&address))?;
    send(traffic, &mut roles, interrupt, &mut watch, &mut alerts, (live, &address))?;
    let expected = Expected::read(&place.expected())?;
    ensure!(expected.complete, "the simulator ended before Kafka had everything");
    settle(&expected, &mut roles, &mut watch, &mut screen)?;

    say("\ncomparing what was sent with what is held (OPTIMIZE TABLE delivery_rates FINAL, bounceflow audit)\n")?;
    let comparison = Comparison::new(&expected, &Holdings::gather(place, &topics, &warehouse, &address)?);
    screen::print(&comparison.lines())?;
    say("")?;
    screen::print(&alerts.lines(INCIDENT))?;
    roles.stop(ENDED_WITHIN)?;
    Ok(comparison.is_exact())
}

/// Watches until the traffic has ended by itself, or because somebody asked. `top` shows it meanwhile.
fn send(
    mut traffic: Child,
    roles: &mut Child,
    interrupt: &Interrupt,
    watch: &mut Watch,
    alerts: &mut Alerts,
    (live, address): (Live, &str),
) -> Result<()> {
    let mut live = Some(live);
    loop {
        watch.look(interrupt);
        // One that fails is followed by another.
        let _ = alerts.look(address);
        roles.still_runs()?;
        if let Some(top) = &mut live
            && !top.runs()?
        {
            live = None;
            say("top has been left; the traffic goes on to its end, Ctrl-C ends it now")?;
        }
        match traffic.ended()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(traffic.died(status)),
            None if interrupt.asked() => return traffic.stop(ENDED_WITHIN),
            None => {}
        }
    }
}

/// Waits until ClickHouse has everything that was sent. What is missing after a while is for the comparison to tell.
fn settle(expected: &Expected, roles: &mut Child, watch: &mut Watch, screen: &mut Screen) -> Result<()> {
    let start = Instant::now();
    loop {
        watch.look_at_once();
        roles.still_runs()?;
        let stored = &watch.picture.seen.stored;
        let records = expected.records.saturating_sub(stored.records);
        let failures = stored.counted_failures.saturating_sub(stored.failures);
        let settled = watch.picture.trouble.is_none() && records == 0 && failures == 0;
        let phase = if settled {
            "all is stored".to_owned()
        } else {
            format!("all is sent; ClickHouse lacks {} records, {} failures", count(records), count(failures))
        };
        let moment = Moment { phase, time: clock(start.elapsed()) };
        if settled || start.elapsed() > SETTLED_WITHIN {
            return Ok(screen.draw_last(|size| frame(&watch.picture, &moment, size.columns, size.rows))?);
        }
        screen.draw(|size| frame(&watch.picture, &moment, size.columns, size.rows))?;
        thread::sleep(SETTLING);
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
        query(
            "SELECT severity, category, root_cause, sum(failures) AS n FROM failure_breakdown GROUP BY ALL ORDER BY n DESC LIMIT 15 FORMAT PrettyCompact",
        ),
        query("SELECT isp, attempts, bounce_rate, deferred_rate FROM isp_profiles ORDER BY attempts DESC FORMAT PrettyCompact"),
        query(
            "SELECT identity, attempts, bounce_rate, deferred_rate FROM identity_profiles ORDER BY attempts DESC FORMAT PrettyCompact",
        ),
        format!("  curl http://{address}/metrics"),
        format!("  {binary} audit -c {}", config.display()),
        format!("Kafka is at {}. Ctrl-C ends the traffic and compares.", stack.kafka.bootstrap()),
    ]
}

fn say(line: &str) -> Result<()> {
    screen::print(&[line.to_owned()]).context("cannot print")
}
