//! The simulator against the decoder: what it says it made is what can be read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bounceflow_event::avro::{DELIVERY_EVENT, Schemas};
use bounceflow_event::{Decoder, DeliveryEvent, EventType, Format, Item};
use clap::{Parser, ValueEnum};

use super::mix::fnv1a;
use super::*;

const START_MS: i64 = 1_790_000_000_000;
const WIRES: [Wire; 5] = [Wire::Json, Wire::Avro, Wire::AvroConfluent, Wire::Kumomta, Wire::Mixed];

fn options(wire: Wire) -> Options {
    Options { start_ms: START_MS, wire, schema_id: 7, ..Options::default() }
}

fn decoder() -> Decoder {
    let mut schemas = Schemas::default();
    schemas.add_id(7, DELIVERY_EVENT).unwrap();
    Decoder::new(Format::Auto, 1 << 20, schemas)
}

/// An event as the processors go on with it.
#[derive(Debug)]
struct Read {
    event: EventType,
    time: i64,
    identity: String,
    domain: String,
    mx: String,
    local: bool,
    first_attempt: bool,
    diagnostic: String,
}

/// What the decoder leaves to its caller: no recipient or domain, no time or one before 36 months ago.
fn read(event: DeliveryEvent) -> Option<Read> {
    let domain = event.recipient.rsplit_once('@').map(|(_, domain)| domain.to_owned()).filter(|d| !d.is_empty())?;
    let oldest = START_MS - 3 * 366 * 86_400_000;
    let from = if event.from_domain.is_empty() { event.sender.rsplit_once('@')?.1 } else { &event.from_domain };
    (event.timestamp.0 > oldest).then(|| Read {
        event: event.event,
        time: event.timestamp.0,
        identity: from.to_owned(),
        domain,
        mx: event.mx_host.trim_end_matches('.').to_owned(),
        local: event.local,
        first_attempt: event.attempt.0 == 1,
        diagnostic: event.diagnostic.to_string(),
    })
}

#[derive(Default)]
struct Decoded {
    events: Vec<Read>,
    ignored: u64,
    rejected: u64,
}

fn decode(decoder: &Decoder, payload: &[u8]) -> Decoded {
    let mut out = Decoded::default();
    decoder.decode(Some(payload), &mut |item| match item {
        Item::Event(event) => match read(event) {
            Some(event) => out.events.push(event),
            None => out.rejected += 1,
        },
        Item::Ignored(_) => out.ignored += 1,
        Item::Rejected(_) => out.rejected += 1,
    });
    out
}

/// Makes `n` records and reads them; every record is checked to be what it was said to be.
fn run_through(options: Options, n: u64) -> (Decoded, Expected) {
    let mut generator = Generator::new(options).unwrap();
    let decoder = decoder();
    let (mut all, mut payload) = (Decoded::default(), Vec::new());
    for _ in 0..n {
        let garbage = generator.next(&mut payload).unwrap().garbage;
        let decoded = decode(&decoder, &payload);
        let text = String::from_utf8_lossy(&payload);
        if garbage {
            assert!(decoded.events.is_empty() && decoded.ignored == 0 && decoded.rejected == 1, "garbage was taken: {text}");
        } else {
            assert_eq!(decoded.rejected, 0, "refused: {text}");
            // Multi-recipient receptions are one record of the log, and are ignored as one.
            assert!(decoded.events.len() as u64 + decoded.ignored > 0, "nothing in {text}");
        }
        all.events.extend(decoded.events);
        all.ignored += decoded.ignored;
        all.rejected += decoded.rejected;
    }
    (all, generator.expected())
}

fn hash_of_first(options: Options, n: usize) -> u64 {
    let mut generator = Generator::new(options).unwrap();
    let (mut all, mut payload) = (Vec::new(), Vec::new());
    for _ in 0..n {
        generator.next(&mut payload).unwrap();
        all.extend_from_slice(&payload);
    }
    fnv1a(&all)
}

/// Changes with every change of the replies, the world or the schema: then these are to be set anew. Without such a change a
/// difference means that runs can no longer be repeated.
#[test]
fn the_same_seed_gives_the_same_bytes() {
    let hashes: Vec<String> =
        WIRES.iter().map(|wire| format!("{wire:?} {:016x}", hash_of_first(options(*wire), 10_000))).collect();
    assert_eq!(hashes, PINNED);
}

const PINNED: [&str; 5] = [
    "Json 5fa3777fb7c4edf9",
    "Avro 8daae08180f62269",
    "AvroConfluent b76f2243af9d03db",
    "Kumomta d61bd74c7f5dcbf6",
    "Mixed efc81dc45b1b39fc",
];

#[test]
fn another_seed_gives_other_bytes() {
    assert_ne!(hash_of_first(options(Wire::Json), 100), hash_of_first(Options { seed: 2, ..options(Wire::Json) }, 100));
}

#[test]
fn what_is_expected_is_what_can_be_read() {
    let names = names();
    for wire in WIRES {
        let (read, expected) = run_through(Options { failures: 0.2, garbage: 0.01, ..options(wire) }, 60_000);
        let of = |event| read.events.iter().filter(|e| e.event == event).count() as u64;
        let totals = expected.totals;
        assert_eq!(of(EventType::Delivery), totals.deliveries, "{wire:?}");
        assert_eq!(of(EventType::Deferral), totals.deferred, "{wire:?}");
        assert_eq!(of(EventType::Bounce), totals.hard + totals.soft, "{wire:?}");
        assert_eq!(of(EventType::OobBounce), totals.late_bounces, "{wire:?}");
        assert_eq!(of(EventType::Complaint), totals.complaints, "{wire:?}");
        assert_eq!(of(EventType::Drop), totals.drops, "{wire:?}");
        let first = read.events.iter().filter(|e| e.first_attempt && e.event.is_attempt()).count() as u64;
        assert_eq!(first, totals.first_attempts, "{wire:?}");
        assert!(first < totals.deliveries + totals.deferred + totals.hard + totals.soft);
        assert_eq!(read.ignored, expected.ignored, "{wire:?}");
        assert_eq!(read.rejected, expected.garbage.count, "{wire:?}");
        assert_eq!(read.events.len() as u64 + read.ignored + read.rejected, expected.items, "{wire:?}");
        assert_eq!((expected.records, expected.drops, expected.failures), (60_000, totals.drops, totals.failures()));
        assert_eq!(expected.by_category.values().sum::<u64>(), totals.failures() - totals.complaints);

        // By identity and by the domain or MX in the record.
        let mut counted: BTreeMap<(String, String), u64> = BTreeMap::new();
        for e in &read.events {
            *counted.entry((isp(&names, e), e.identity.clone())).or_default() += 1;
        }
        let rows = expected.by_isp_identity.iter().map(|row| {
            let t = row.totals;
            ((row.isp.clone(), row.identity.clone()), t.deliveries + t.failures() + t.drops)
        });
        assert_eq!(counted, rows.collect(), "{wire:?}");
        let kumomta = matches!(wire, Wire::Kumomta | Wire::Mixed);
        assert_eq!(expected.ignored > 0, kumomta);
        assert_eq!(expected.by_isp_identity.iter().any(|row| row.isp == "local"), kumomta);
    }
}

/// Labels by domain alone and with the MX, by the world's own names.
type Names = BTreeMap<String, (String, String)>;

fn names() -> Names {
    let world = world::World::load().unwrap();
    let label = |i: u16| world.isps[usize::from(i)].clone();
    world.domains.iter().map(|d| (d.name.clone(), (label(d.isp_by_domain), label(d.isp)))).collect()
}

fn isp(names: &Names, e: &Read) -> String {
    let (by_domain, by_mx) = &names[&e.domain];
    match (e.local, e.mx.is_empty()) {
        (true, _) => "local".into(),
        (false, true) => by_domain.clone(),
        (false, false) => by_mx.clone(),
    }
}

#[test]
fn garbage_is_of_every_kind_and_never_alike() {
    let mut generator = Generator::new(Options { garbage: 1.0, ..options(Wire::Mixed) }).unwrap();
    let decoder = decoder();
    let (mut seen, mut checksum, mut payload) = (HashSet::new(), Checksum::default(), Vec::new());
    for _ in 0..50_000 {
        assert!(generator.next(&mut payload).unwrap().garbage);
        assert!(decode(&decoder, &payload).rejected == 1, "{}", String::from_utf8_lossy(&payload));
        checksum.add(&payload);
        assert!(seen.insert(payload.clone()), "twice: {}", String::from_utf8_lossy(&payload));
    }
    assert_eq!(generator.expected().garbage, checksum);
    assert_eq!(generator.expected().items, 50_000);
}

#[test]
fn shares_are_as_asked_for() {
    let near = |what: &str, got: f64, wanted: f64| assert!((got / wanted - 1.0).abs() < 0.1, "{what}: {got}, wanted {wanted}");
    for (failures, wire) in [(0.05, Wire::Json), (0.2, Wire::Mixed), (0.5, Wire::Avro)] {
        let mut generator = Generator::new(Options { failures, garbage: 0.01, ..options(wire) }).unwrap();
        let mut payload = Vec::new();
        for _ in 0..300_000 {
            generator.next(&mut payload).unwrap();
        }
        let expected = generator.expected();
        let t = expected.totals;
        let events = (t.deliveries + expected.failures + t.drops) as f64;
        near("failures", expected.failures as f64 / events, failures);
        near("deferred", t.deferred as f64 / events, 0.5 * failures);
        near("hard", t.hard as f64 / events, 0.18 * failures);
        near("soft", t.soft as f64 / events, 0.22 * failures);
        near("late bounces", t.late_bounces as f64 / events, 0.04 * failures);
        near("complaints", t.complaints as f64 / events, 0.06 * failures);
        near("drops", t.drops as f64 / events, 0.08 * failures);
        near("garbage", expected.garbage.count as f64 / 300_000.0, 0.01);
        let of =
            |isp: &str| expected.by_isp_identity.iter().filter(|r| r.isp == isp).map(|r| r.totals.deliveries).sum::<u64>() as f64;
        near("gmail", of("gmail") / t.deliveries as f64, 0.4);
        near("office365", of("office365") / t.deliveries as f64, 0.07);
        let identities: HashSet<&str> = expected.by_isp_identity.iter().map(|r| r.identity.as_str()).collect();
        assert_eq!(identities.len(), 12);
        let isps: HashSet<&str> = expected.by_isp_identity.iter().map(|r| r.isp.as_str()).collect();
        assert!(isps.len() >= 28, "{isps:?}");
    }
}

#[test]
fn incidents_strike_in_their_window_their_isp_and_their_identity() {
    let text = include_str!("../../scenarios/gmail-refuses-one-sender.toml");
    let scenario = Some(text.to_owned());
    // A hundred seconds of event time.
    let options =
        Options { failures: 0.0, garbage: 0.0, scenario, time_per_event: Duration::from_millis(1), ..options(Wire::Mixed) };
    let (read, expected) = run_through(options, 100_000);
    let names = names();
    let (mut refused, mut offered) = (0, 0);
    for e in &read.events {
        let offset = e.time - START_MS;
        if e.event == EventType::Delivery {
            offered +=
                u64::from((30_000..60_000).contains(&offset) && e.domain == "gmail.com" && e.identity == "news.shopwave.example");
            continue;
        }
        assert!((30_000..60_000).contains(&offset), "{e:?}");
        if e.event == EventType::Bounce {
            assert!(e.domain.starts_with("g") && e.identity == "news.shopwave.example", "{e:?}");
            assert!(e.diagnostic.contains("very low reputation of the sending domain"), "{e:?}");
            refused += u64::from(e.domain == "gmail.com");
        } else {
            assert!(e.event == EventType::Deferral && isp(&names, e) == "yahoo" && e.diagnostic.contains("TSS04"), "{e:?}");
        }
    }
    let share = refused as f64 / (refused + offered) as f64;
    assert!((0.37..0.43).contains(&share), "{share}");
    assert_eq!(expected.by_category.keys().collect::<Vec<_>>(), ["reputation"]);
    assert!(expected.totals.soft > 0 && expected.totals.deferred > 0 && expected.totals.hard == 0);
}

#[test]
fn complaints_can_be_an_incident() {
    let scenario = "[[incident]]\nfrom = 0\nuntil = 1000\nisp = \"outlook\"\noutcome = \"complaint\"\nshare = 0.5\n".to_owned();
    let (_, expected) = run_through(Options { failures: 0.0, scenario: Some(scenario), ..options(Wire::Json) }, 20_000);
    let rows = expected.by_isp_identity.iter().filter(|r| r.totals.complaints > 0);
    assert!(rows.clone().count() >= 10 && rows.clone().all(|r| r.isp == "outlook"));
}

#[test]
fn every_mistake_of_a_scenario_is_listed() {
    let text = r#"
        speed = 3
        [[incident]]
        from = 60
        until = 30
        isp = "gmial"
        identity = "nobody.example"
        outcome = "rudeness/soft"
        share = 1.5
        [[incident]]
        from = 0
        until = 30
        outcome = "gmail-dmarc"
        isp = "yahoo"
        share = 0.1
        [[incident]]
        from = 0
        until = 30
        outcome = "gmail-dmarc"
        share = 0.1
        colour = "red"
        [[incident]]
        from = 0
        until = "noon"
        outcome = "gmail-dmarc"
        share = 0.1
        [[incident]]
        from = 0
        until = 30
        outcome = "suppressed-by-customer"
        share = 0.1
    "#;
    let Err(error) = Generator::new(Options { scenario: Some(text.to_owned()), ..Options::default() }) else { panic!("taken") };
    let ScenarioError(mistakes) = error.downcast_ref().unwrap();
    let paths: Vec<&str> = mistakes.iter().map(|m| m.split(':').next().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "speed",
            "incident[0].until",
            "incident[0].share",
            "incident[0].isp",
            "incident[0].identity",
            "incident[0].outcome",
            "incident[1].outcome",
            "incident[2].colour",
            "incident[3].until",
            "incident[4].outcome"
        ],
        "{mistakes:#?}"
    );
}

#[test]
fn records_are_as_long_as_real_ones() {
    let mean = |wire| {
        let mut generator = Generator::new(options(wire)).unwrap();
        let (mut bytes, mut payload) = (0, Vec::new());
        for _ in 0..10_000 {
            generator.next(&mut payload).unwrap();
            bytes += payload.len();
        }
        bytes / 10_000
    };
    let (json, avro) = (mean(Wire::Json), mean(Wire::Avro));
    assert!((410..450).contains(&json) && (230..275).contains(&avro), "JSON {json}, Avro {avro}");
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(line: &str) -> Args {
    Cli::try_parse_from(line.split(' ')).unwrap().args
}

#[test]
fn arguments_settle_count_and_time() {
    let rated = args("simulate --rate 20000 --duration 90s --start 2026-09-21T12:00:00Z");
    assert_eq!(rated.records(), Some(1_800_000));
    let options = rated.options(0).unwrap();
    assert_eq!((options.start_ms, options.time_per_event), (1_789_992_000_000, Duration::from_micros(50)));
    let options = args("simulate --count 1000 --span 10s").options(1_234_567).unwrap();
    assert_eq!((options.start_ms, options.time_per_event), (1_234_000, Duration::from_millis(10)));
    assert_eq!(args("simulate --rate 10 --time-per-event 50us").options(0).unwrap().time_per_event, Duration::from_micros(50));
    assert_eq!(args("simulate --format kumomta --kafka linger.ms=5").kafka, [("linger.ms".to_owned(), "5".to_owned())]);
    assert!(args("simulate --rate 0").options(0).is_err());
    assert!(Cli::try_parse_from(["simulate", "--duration", "soon"]).is_err());
    assert_eq!(Wire::value_variants().len(), WIRES.len());
}

#[test]
fn a_dry_run_leaves_the_truth_in_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let (expected, garbage) = (dir.path().join("expected.json"), dir.path().join("garbage.hex"));
    let line = format!(
        "simulate --dry-run -q --count 20000 --garbage 0.01 --expected {} --garbage-file {}",
        expected.display(),
        garbage.display()
    );
    let returned = run_until(args(&line), &AtomicBool::new(false)).unwrap();
    let saved: Expected = serde_json::from_slice(&std::fs::read(&expected).unwrap()).unwrap();
    assert_eq!(saved, returned);
    assert!(saved.complete && saved.records == 20_000);
    let mut checksum = Checksum::default();
    for hex in std::fs::read_to_string(&garbage).unwrap().lines() {
        let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        checksum.add(&(0..hex.len()).step_by(2).map(byte).collect::<Vec<u8>>());
    }
    assert_eq!(checksum, saved.garbage);
    assert!(std::fs::read_dir(dir.path()).unwrap().count() == 2, "the file beside is gone");
}
