//! What becomes of an item, and what is counted of it. Data cases, and conservation as a property.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::LazyLock;

use bounceflow::config::Config;
use bounceflow::counts::{Counts, Header, Limits, OTHER_CAMPAIGN};
use bounceflow::process::{AHEAD_MS, Outcome, Position, Scratch, TOO_OLD_MS, Tables, process};
use bounceflow_event::{DeliveryEvent, EventType, Item, Millis, Number, RateBatch, RejectReason, Tags};
use proptest::prelude::*;

const KAFKA_TIME: i64 = 1_790_000_000_000;
/// Of `kim@example.net`, where no key is configured.
const HASH_OF_KIM: [u8; 16] = [38, 166, 76, 132, 253, 199, 219, 168, 160, 146, 148, 73, 195, 216, 21, 249];
const HEADER: Header<'_> = Header { producer: "p", rules_version: "r", pattern_version: 1 };

static TABLES: LazyLock<Tables> =
    LazyLock::new(|| Tables::new(&Config::parse("[kafka]\n\"bootstrap.servers\" = \"x\"\n").unwrap()).unwrap());

fn tables() -> &'static Tables {
    &TABLES
}

fn position() -> Position<'static> {
    Position { topic: "delivery.events", partition: 3, offset: 77, timestamp: Some(KAFKA_TIME) }
}

fn bounce(recipient: &str) -> DeliveryEvent<'_> {
    let mut event = DeliveryEvent::new(EventType::Bounce, Millis(KAFKA_TIME - 1000), recipient);
    event.diagnostic = "550 5.1.1 user unknown".into();
    event.from_domain = "news.example.com".into();
    event.attempt = Number(1);
    event
}

fn rejected(event: DeliveryEvent<'_>) -> Option<RejectReason> {
    let tables = tables();
    match process(tables, &mut Scratch::new(tables), position(), 0, &Item::Event(event)) {
        Outcome::Reject(rejection) => Some(rejection.reason),
        _ => None,
    }
}

#[test]
fn what_cannot_be_counted_is_refused_by_reason() {
    assert_eq!(rejected(bounce("kim@example.org")), None);
    assert_eq!(rejected(bounce("")), Some(RejectReason::MissingRecipient));
    assert_eq!(rejected(bounce("kim")), Some(RejectReason::RecipientWithoutDomain));
    assert_eq!(rejected(bounce("kim@")), Some(RejectReason::RecipientWithoutDomain));
    assert_eq!(rejected(bounce(&format!("{}@example.org", "=".repeat(500)))), None);
    assert_eq!(rejected(bounce(&format!("{}@example.org", "=".repeat(501)))), Some(RejectReason::InvalidField));
    let at = |time| DeliveryEvent { timestamp: Millis(time), ..bounce("kim@example.org") };
    assert_eq!(rejected(at(0)), Some(RejectReason::InvalidTimestamp));
    assert_eq!(rejected(at(-5)), Some(RejectReason::InvalidTimestamp));
    // What is only counted is kept for longer than what leaves a failure.
    let months = 396 * 24 * 3600 * 1000;
    assert_eq!(rejected(at(KAFKA_TIME - months - 1)), Some(RejectReason::TooOld));
    assert_eq!(rejected(at(KAFKA_TIME - months)), None);
    let delivered = |time| DeliveryEvent { event: EventType::Delivery, ..at(time) };
    assert_eq!(rejected(delivered(KAFKA_TIME - TOO_OLD_MS - 1)), Some(RejectReason::TooOld));
    assert_eq!(rejected(delivered(KAFKA_TIME - TOO_OLD_MS)), None);
}

#[test]
fn a_clock_that_runs_ahead_is_clamped_to_the_records_kafka_time() {
    let tables = tables();
    let mut scratch = Scratch::new(tables);
    for (time, expect) in
        [(KAFKA_TIME + AHEAD_MS, KAFKA_TIME + AHEAD_MS), (KAFKA_TIME + AHEAD_MS + 1, KAFKA_TIME), (i64::MAX, KAFKA_TIME)]
    {
        let item = Item::Event(DeliveryEvent { timestamp: Millis(time), ..bounce("kim@example.org") });
        let Outcome::Fail(sample, failure) = process(tables, &mut scratch, position(), 0, &item) else { panic!() };
        assert_eq!((sample.time, failure.event_time), (expect, expect));
    }
}

#[test]
fn a_failure_says_who_what_why_and_where_it_stood() {
    let tables = tables();
    let mut event = bounce("Kim@GMAIL.com");
    event.diagnostic = "550-5.1.1 The email account that you tried to reach does not exist: kim@gmail.com".into();
    event.command = "RCPT TO:<kim@gmail.com>".into();
    event.mx_host = "gmail-smtp-in.l.google.com.".into();
    let item = Item::Event(event);
    let mut scratch = Scratch::new(tables);
    let Outcome::Fail(sample, failure) = process(tables, &mut scratch, position(), 2, &item) else { panic!() };
    assert!(sample.first_attempt);
    assert_eq!(
        (failure.isp, failure.identity, failure.category, failure.severity, failure.rule),
        ("gmail", "news.example.com", "invalid_recipient", "hard", "google.no_such_user")
    );
    assert_eq!((failure.reply_code, failure.enhanced_code, failure.command), (550, "5.1.1", "rcpt"));
    assert_eq!((failure.recipient_domain, failure.mx_host), ("gmail.com", "gmail-smtp-in.l.google.com"));
    assert_eq!(
        (failure.source_topic, failure.source_partition, failure.source_offset, failure.source_item),
        ("delivery.events", 3, 77, 2)
    );
}

#[test]
fn no_plain_address_leaves_and_one_recipient_has_one_hash() {
    let tables = tables();
    let mut event = bounce("Kim.Lee@example.org");
    event.diagnostic = "550 5.1.1 <kim.lee@example.org>: no such user".into();
    event.message_id = "bounce-kim.lee=example.org-1@mta".into();
    event.event_id = "KIM.LEE@EXAMPLE.ORG/5".into();
    event.campaign = "to-kim.lee@example.org".into();
    event.tags = Tags(vec![("owner".into(), "Kim.Lee@example.org".into()), ("team".into(), "ann@example.com".into())]);
    let item = Item::Event(event);
    let mut scratch = Scratch::new(tables);
    let Outcome::Fail(sample, failure) = process(tables, &mut scratch, position(), 0, &item) else { panic!() };
    let everything = format!("{sample:?} {failure:?}").to_lowercase();
    assert!(!everything.contains("kim.lee"), "{everything}");
    assert!(!everything.contains("ann@"), "{everything}");
    let hash = failure.recipient_hash;
    assert!(failure.recipient.is_empty());
    let lower = Item::Event(bounce("kim.lee@EXAMPLE.org"));
    let Outcome::Fail(_, again) = process(tables, &mut scratch, position(), 0, &lower) else { panic!() };
    assert_eq!(again.recipient_hash, hash);
    let other = Item::Event(bounce("kim.lee@example.net"));
    let Outcome::Fail(_, other) = process(tables, &mut scratch, position(), 0, &other) else { panic!() };
    assert_ne!(other.recipient_hash, hash);
}

#[test]
fn an_identity_that_names_its_recipient_is_none() {
    for source in ["campaign", "pool", "tenant", "tag:who", "sending_ip"] {
        let config = format!("[kafka]\n\"bootstrap.servers\" = \"x\"\n[identity]\nsource = \"{source}\"\n");
        for keep_plain in [false, true] {
            let tables =
                Tables::new(&Config::parse(&format!("{config}[recipient]\nkeep_plain = {keep_plain}\n")).unwrap()).unwrap();
            for (said, expect) in [
                ("for Kim.Lee@example.org", "redacted"),
                ("b-kim.lee=example.org-7", "redacted"),
                ("ann@example.org", "ann@example.org"),
            ] {
                for kind in [EventType::Bounce, EventType::Delivery] {
                    let mut event = DeliveryEvent { event: kind, ..bounce("kim.lee@example.org") };
                    let tags = vec![("who".into(), said.to_owned().into())];
                    (event.campaign, event.pool, event.tenant, event.tags) = (said.into(), said.into(), said.into(), Tags(tags));
                    event.sending_ip = said.into();
                    let mut scratch = Scratch::new(&tables);
                    match process(&tables, &mut scratch, position(), 0, &Item::Event(event)) {
                        Outcome::Count(sample) => assert_eq!(sample.identity, expect, "{source}, delivered"),
                        Outcome::Fail(sample, failure) => {
                            assert_eq!((&*sample.identity, failure.identity), (expect, expect), "{source}");
                            assert_eq!(
                                (failure.pool, failure.campaign, failure.sending_ip),
                                (expect, expect, expect),
                                "{source}"
                            );
                        }
                        _ => panic!("{source}"),
                    }
                }
            }
        }
    }
}

#[test]
fn however_an_id_or_tag_names_the_recipient_it_does_not_leave() {
    let tables = tables();
    for (said, expect) in [
        ("b-kim.lee=example.org-7", "redacted"),
        ("b-KIM.LEE=Example.org-7@mta", "***@mta"),
        ("kim.lee%40example.org", "***%40example.org"),
        ("m=kim.lee%2540example.org", "***%2540example.org"),
        ("b-kim%2Elee=example.org", "redacted"),
        ("b-kim.lee%3Dexample.org", "redacted"),
        ("%6Bim.lee%40example%2Eorg", "***%40example%2Eorg"),
        ("kim.lee=40example.org", "***=40example.org"),
        ("kim.lee&#64;example.org", "***&#64;example.org"),
        ("kim.lee&#X40;example.org", "***&#X40;example.org"),
        ("kim.lee.example.org", "kim.lee.example.org"),
    ] {
        let mut event = bounce("Kim.Lee@example.org");
        (event.message_id, event.event_id) = (said.into(), said.into());
        event.tags = Tags(vec![("t".into(), said.into()), (said.into(), "t".into())]);
        event.diagnostic = format!("550 5.1.1 no such user {said} here").into();
        event.campaign = said.into();
        (event.from_domain, event.mx_host, event.feedback_type) = (said.into(), said.into(), said.into());
        let item = Item::Event(event);
        let mut scratch = Scratch::new(tables);
        let Outcome::Fail(sample, failure) = process(tables, &mut scratch, position(), 0, &item) else { panic!() };
        assert_eq!((failure.message_id, failure.event_id), (expect, expect), "{said}");
        let tags: Vec<(&str, &str)> = failure.tags.0.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(tags, [("t", expect), (expect, "t")], "{said}");
        let whole = if said == expect { said } else { "redacted" };
        assert_eq!((sample.campaign, failure.campaign, failure.from_domain), (whole, whole, whole), "{said}");
        assert_eq!((failure.mx_host, failure.feedback_type), (whole, whole), "{said}");
        let word = if expect == "redacted" { "***" } else { expect };
        assert_eq!(failure.diagnostic, format!("550 5.1.1 no such user {word} here"), "{said}");
    }
    // Somebody else's: only in tags, which are the operator's own words.
    let mut event = bounce("kim.lee@example.org");
    event.tags = Tags(vec![("owner".into(), "ann%40example.com".into()), ("price".into(), "20%-off&usd=40".into())]);
    event.message_id = "7.ann@mta.example".into();
    let item = Item::Event(event);
    let mut scratch = Scratch::new(tables);
    let Outcome::Fail(_, failure) = process(tables, &mut scratch, position(), 0, &item) else { panic!() };
    assert_eq!((&*failure.tags.0[0].1, &*failure.tags.0[1].1), ("***%40example.com", "20%-off&usd=40"));
    assert_eq!(failure.message_id, "7.ann@mta.example");
}

#[test]
fn a_recipient_is_one_person_however_it_is_written() {
    let config = "[kafka]\n\"bootstrap.servers\" = \"x\"\n[recipient]\nkeep_plain = true\n";
    let tables = &Tables::new(&Config::parse(config).unwrap()).unwrap();
    let of = |recipient: &str| {
        let mut event = bounce(recipient);
        event.message_id = "b-kim=example.net-7".into();
        event.campaign = "kim@example.net".into();
        let item = Item::Event(event);
        let mut scratch = Scratch::new(tables);
        let Outcome::Fail(_, failure) = process(tables, &mut scratch, position(), 0, &item) else { panic!("{recipient}") };
        let said = [failure.recipient, failure.message_id, failure.campaign, failure.recipient_domain].map(str::to_owned);
        (failure.recipient_hash, said)
    };
    let (kim, said) = of("kim@example.net");
    assert_eq!(said, ["kim@example.net", "redacted", "redacted", "example.net"]);
    // What it has always been.
    assert_eq!(kim.0, HASH_OF_KIM);
    for written in [
        "<kim@example.net>",
        "Kim <kim@example.net>",
        "\"Kim <boss>\" <kim@example.net>",
        "Kim \"O < kim@example.net>",
        " kim@example.net ",
        "\t<kim@example.net>\n",
        "kim@example.net.",
        "<kim@example.net",
        "kim@example.net>",
    ] {
        assert_eq!(of(written), (kim, said.clone()), "{written}");
    }
    let (again, [plain, ..]) = of("<Kim@Example.NET>");
    assert_eq!((again, &*plain), (kim, "Kim@Example.NET"));
    for (one, other) in [
        ("jörg@bücher.example", "<jörg@xn--bcher-kva.example>"),
        ("\"kim lee\"@example.net", "Kim <\"kim lee\"@example.net>"),
        ("\"a <b\"@example.net", "<\"a <b\"@example.net>"),
        ("\"a \\\" <b\"@example.net", "<\"a \\\" <b\"@example.net>"),
    ] {
        assert_eq!(of(one).0, of(other).0, "{one}");
        assert_ne!(of(one).0, kim, "{one}");
    }
    assert_ne!(of("\"a <kim\"@example.net").0, of("kim\"@example.net").0);
}

#[test]
fn a_domain_of_other_scripts_is_seen_as_it_was_written() {
    let tables = tables();
    for said in ["b-jörg=bücher.example-7", "b-jörg=xn--bcher-kva.example-7"] {
        let item = Item::Event(DeliveryEvent { message_id: said.into(), ..bounce("jörg@bücher.example") });
        let mut scratch = Scratch::new(tables);
        let Outcome::Fail(_, failure) = process(tables, &mut scratch, position(), 0, &item) else { panic!() };
        assert_eq!(failure.message_id, "redacted", "{said}");
    }
}

fn drain(counts: &mut Counts, tables: &Tables) -> Vec<(usize, i64, i64, i64, usize)> {
    let mut parts = Vec::new();
    counts.drain(HEADER, &tables.isps, Vec::new(), |batch: &RateBatch<'_>| {
        let campaigns: std::collections::BTreeSet<_> = batch.rows.iter().map(|r| r.campaign).collect();
        let categories =
            |r: &bounceflow_event::RateRow| r.categories.iter().map(|c| c.bounces + c.deferrals + c.late_bounces).sum::<i64>();
        parts.push((
            batch.rows.len(),
            batch.rows.iter().map(bounceflow_event::RateRow::items).sum(),
            batch.ignored.iter().map(|i| i.count).sum(),
            batch.rows.iter().map(categories).sum(),
            campaigns.len(),
        ));
    });
    parts
}

#[test]
fn campaigns_are_capped_and_the_rest_is_other() {
    let tables = tables();
    let mut counts = Counts::new(Limits { campaigns: 3, patterns: 8 });
    let mut scratch = Scratch::new(tables);
    for i in 0..10 {
        let item = Item::Event(DeliveryEvent { campaign: format!("c{i}").into(), ..bounce("kim@example.org") });
        let Outcome::Fail(sample, failure) = process(tables, &mut scratch, position(), 0, &item) else { panic!() };
        counts.add(&sample, Some(&failure));
    }
    let mut campaigns = Vec::new();
    counts.drain(HEADER, &tables.isps, Vec::new(), |batch| {
        campaigns.extend(batch.rows.iter().map(|r| (r.campaign.to_owned(), r.hard)));
        assert_eq!(batch.patterns.iter().map(|p| p.count).sum::<i64>(), 10);
    });
    assert_eq!(campaigns, [("c0".into(), 1), ("c1".into(), 1), ("c2".into(), 1), (OTHER_CAMPAIGN.into(), 7)]);
}

#[test]
fn a_large_transaction_is_split_and_nothing_is_lost() {
    let tables = tables();
    let mut counts = Counts::new(Limits { campaigns: 100_000, patterns: 64 });
    let mut scratch = Scratch::new(tables);
    for i in 0..20_000 {
        let item = Item::Event(DeliveryEvent { campaign: format!("campaign-{i}").into(), ..bounce("kim@example.org") });
        let Outcome::Fail(sample, failure) = process(tables, &mut scratch, position(), 0, &item) else { panic!() };
        counts.add(&sample, Some(&failure));
    }
    let parts = drain(&mut counts, tables);
    assert!(parts.len() > 1);
    assert_eq!(parts.iter().map(|p| p.1).sum::<i64>(), 20_000);
    assert_eq!(drain(&mut counts, tables), [(0, 0, 0, 0, 0)], "nothing is counted twice");
}

fn events() -> impl Strategy<Value = Vec<DeliveryEvent<'static>>> {
    let kinds = prop::sample::select(vec![
        EventType::Delivery,
        EventType::Deferral,
        EventType::Bounce,
        EventType::OobBounce,
        EventType::Complaint,
        EventType::Drop,
    ]);
    let one = (kinds, 0..100_000i64, "[a-c]@(gmail\\.com|b\\.example|)", "[xy]?", 0..3i32, "\\PC{0,40}").prop_map(
        |(kind, back, recipient, campaign, attempt, diagnostic)| {
            let mut event = DeliveryEvent::new(kind, Millis(KAFKA_TIME - back), recipient);
            event.campaign = campaign.into();
            event.attempt = Number(attempt);
            event.diagnostic = diagnostic.into();
            event
        },
    );
    prop::collection::vec(one, 0..200)
}

proptest! {
    #[test]
    fn every_item_is_counted_once_or_refused(events in events()) {
        let tables = tables();
        let mut counts = Counts::new(Limits { campaigns: 1, patterns: 4 });
        let mut scratch = Scratch::new(tables);
        let (total, mut refused, mut failures) = (events.len() as i64, 0, 0);
        for event in events {
            let item = Item::Event(event);
            match process(tables, &mut scratch, position(), 0, &item) {
                Outcome::Count(sample) => counts.add(&sample, None),
                Outcome::Fail(sample, failure) => {
                    failures += i64::from(failure.event_type != "complaint");
                    counts.add(&sample, Some(&failure));
                }
                Outcome::Ignore(reason) => counts.ignore(reason),
                Outcome::Reject(_) => refused += 1,
            }
        }
        let parts = drain(&mut counts, tables);
        prop_assert_eq!(parts.iter().map(|p| p.1 + p.2).sum::<i64>() + refused, total);
        prop_assert_eq!(parts.iter().map(|p| p.3).sum::<i64>(), failures);
    }
}
