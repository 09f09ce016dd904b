//! What nobody can read costs only itself: it goes to the dead letter byte for byte, says why and where it stood, and its
//! neighbours are counted. And no plain address leaves classify but there.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Dice, Incoming, Outgoing, Pipeline, Process};
use bounceflow_event::avro::{DELIVERY_EVENT, WriterSchema};
use bounceflow_event::{DeliveryEvent, EventType, Millis, Text};
use serde_json::{Value, json};

const HOUR: i64 = 3_600_000;
/// In every address, and in nothing else.
const SECRET: &str = "geheim";

/// A record, and what must become of it.
struct Case {
    name: &'static str,
    payload: Option<Vec<u8>>,
    expect: Expect,
}

enum Expect {
    /// So many items are counted.
    Counted(u64),
    /// Ignored for this reason.
    Ignored(&'static str),
    /// Dead-lettered for this reason, tried in this format; the item, and how many others of the record are counted.
    Dead(&'static str, &'static str, i32, i32),
}
use Expect::{Counted, Dead, Ignored};

fn event(time: i64, recipient: &str) -> Value {
    json!({"event": "delivery", "timestamp": time, "recipient": recipient, "from_domain": "news.example", "attempt": 1})
}

fn bounce(time: i64, recipient: &str, diagnostic: &str) -> Value {
    json!({"event": "bounce", "timestamp": time, "recipient": recipient, "from_domain": "news.example", "attempt": 1,
        "reply_code": 550, "enhanced_code": "5.1.1", "diagnostic": diagnostic})
}

fn avro(time: i64) -> Result<Vec<u8>> {
    let mut event = DeliveryEvent::new(EventType::Delivery, Millis(time), format!("kim.{SECRET}@gmail.com"));
    event.event_id = Text::new("a-rather-long-id-at-the-end-of-the-record");
    let mut bytes = Vec::new();
    WriterSchema::parse(DELIVERY_EVENT)?.encode(&event, &mut bytes)?;
    Ok(bytes)
}

fn cases(now: i64) -> Result<Vec<Case>> {
    let kim = format!("kim.{SECRET}@gmail.com");
    let good = || event(now, &kim).to_string().into_bytes();
    let text = |value: Value| Some(value.to_string().into_bytes());
    let case = |name, payload, expect| Case { name, payload, expect };
    let mut unknown_fingerprint = avro(now)?;
    unknown_fingerprint[2..10].copy_from_slice(b"whatever");
    let mut unknown_id = vec![0, 0, 0, 0x12, 0x34];
    unknown_id.extend_from_slice(&avro(now)?[10..]);
    let truncated = avro(now)?[..20].to_vec();
    let mut not_utf8 = good();
    let at = not_utf8.windows(3).position(|w| w == b"kim").context("no kim")?;
    not_utf8[at] = 0xff;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_field = format!("{{\"event\":\"delivery\",\"recipient\":{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_001));
    let mut huge = event(now, &kim);
    huge["campaign"] = "x".repeat(2 << 20).into();
    let mut long = bounce(now, &kim, &"long story, ".repeat(900_000));
    long["campaign"] = "ten megabytes".into();
    let mut without_recipient = event(now, &kim);
    without_recipient.as_object_mut().context("an object")?.remove("recipient");
    let mut leaky = bounce(
        now,
        &format!("Kim.{SECRET}@T-Online.de"),
        &format!("550 5.1.1 <kim.{SECRET}@t-online.de>: kim.{SECRET}@t-online.de unknown"),
    );
    leaky["message_id"] = format!("bounce+kim.{SECRET}=t-online.de@news.example").into();
    leaky["event_id"] = format!("kim.{SECRET}@t-online.de/7").into();
    leaky["campaign"] = format!("for kim.{SECRET}@t-online.de").into();
    leaky["command"] = format!("RCPT TO:<kim.{SECRET}@t-online.de>").into();
    leaky["tags"] =
        json!({"verp": format!("b-kim.{SECRET}=t-online.de@news.example"), format!("kim.{SECRET}@t-online.de"): "key"});
    Ok(vec![
        case("good before", Some(good()), Counted(1)),
        case("truncated Avro", Some(truncated), Dead("malformed_avro", "avro", 0, 0)),
        case("unknown fingerprint", Some(unknown_fingerprint), Dead("unknown_schema", "avro", 0, 0)),
        case("unknown schema id", Some(unknown_id), Dead("unknown_schema", "avro", 0, 0)),
        case("good Avro", Some(avro(now)?), Counted(1)),
        case("invalid UTF-8", Some(not_utf8), Dead("invalid_utf8", "json", 0, 0)),
        case("10,000 arrays deep", Some(deep.into_bytes()), Dead("too_deep", "json", 0, 0)),
        case("10,000 objects deep", Some(deep_field.into_bytes()), Dead("too_deep", "json", 0, 0)),
        case("huge JSON", text(huge), Dead("too_large", "json", 0, 0)),
        case("10 MB diagnostic", text(long), Dead("too_large", "json", 0, 0)),
        case("no recipient", text(without_recipient), Dead("missing_recipient", "json", 0, 0)),
        case("empty recipient", text(event(now, "")), Dead("missing_recipient", "json", 0, 0)),
        case("no domain", text(event(now, &format!("kim.{SECRET}"))), Dead("recipient_without_domain", "json", 0, 0)),
        case(
            "internationalised domain",
            text(bounce(now, &format!("kim.{SECRET}@Bücher.example"), "550 5.1.1 no such user")),
            Counted(1),
        ),
        case("in the future", text(bounce(now + 48 * HOUR, &kim, "550 5.1.1 from the future")), Counted(1)),
        case("in the far past", text(event(1_000_000_000_000, &kim)), Dead("too_old", "json", 0, 0)),
        case("before 1970", text(event(-5, &kim)), Dead("invalid_timestamp", "json", 0, 0)),
        case("no JSON", Some(b"status=deferred".to_vec()), Dead("malformed_json", "json", 0, 0)),
        case("JSON of no known shape", text(json!({"temperature": 21})), Dead("unknown_format", "json", 0, 0)),
        case(
            "unknown event",
            text(json!({"event": "opened", "timestamp": now, "recipient": kim})),
            Dead("unknown_event", "json", 0, 0),
        ),
        case("a tombstone", None, Ignored("tombstone")),
        case("an empty array", Some(b"[]".to_vec()), Ignored("empty")),
        case(
            "one bad item of three",
            text(json!([event(now, &kim), {"event": "delivery", "timestamp": now}, event(now, &kim)])),
            Dead("missing_recipient", "json", 1, 2),
        ),
        case("addresses everywhere", text(leaky), Counted(1)),
        case("good after", Some(good()), Counted(1)),
    ])
}

#[test]
fn a_bad_record_costs_only_itself_and_no_address_leaves_classify() -> Result<()> {
    let pipeline = Pipeline::builder("bad_input")?.build()?;
    let mut process = pipeline.run("all", 0, &[])?;
    let now = now_ms()?;
    let cases = cases(now)?;
    let records: Vec<Outgoing> = cases
        .iter()
        .map(|case| Outgoing { key: Some(case.name.into()), payload: case.payload.clone(), ..Outgoing::default() })
        .collect();
    let offsets = pipeline.kafka.write(&pipeline.topic("events"), &records)?;
    pipeline.settled("classify")?;
    let sent = pipeline.kafka.read_all(&pipeline.topic("events"))?;

    let dead = pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?;
    let mut letters: BTreeMap<&str, &Incoming> = BTreeMap::new();
    for letter in &dead {
        let name = letter.headers.get("bounceflow.source.key").context("a letter without its record's key")?;
        ensure!(letters.insert(name, letter).is_none(), "{name} is in the dead letter twice");
    }
    let (mut counted, mut reasons, mut ignored) = (0, BTreeMap::<&str, u64>::new(), BTreeMap::<&str, u64>::new());
    for ((case, offset), sent) in cases.iter().zip(offsets).zip(&sent) {
        match case.expect {
            Counted(items) => counted += items,
            Ignored(reason) => *ignored.entry(reason).or_default() += 1,
            Dead(reason, format, item, others) => {
                counted += u64::try_from(others)?;
                *reasons.entry(reason).or_default() += 1;
                let letter = letters.remove(case.name).with_context(|| format!("{} is not in the dead letter", case.name))?;
                ensure!(letter.payload == case.payload, "{}: not byte for byte", case.name);
                let mut headers = letter.headers.clone();
                let detail = headers.remove("bounceflow.detail").unwrap_or_default();
                ensure!(!detail.is_empty() && detail.len() < 300 && !detail.contains(SECRET), "{}: {detail:?}", case.name);
                let expect = [
                    ("bounceflow.source.topic", pipeline.topic("events")),
                    ("bounceflow.source.partition", "0".into()),
                    ("bounceflow.source.offset", offset.to_string()),
                    ("bounceflow.source.item", item.to_string()),
                    ("bounceflow.source.timestamp", sent.timestamp.to_string()),
                    ("bounceflow.source.key", case.name.into()),
                    ("bounceflow.reason", reason.into()),
                    ("bounceflow.format", format.into()),
                    ("bounceflow.others_counted", others.to_string()),
                    ("bounceflow.by", "classify".into()),
                ];
                let expect: BTreeMap<String, String> = expect.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
                ensure!(headers == expect, "{}: {headers:#?} instead of {expect:#?}", case.name);
            }
        }
    }
    ensure!(letters.is_empty(), "in the dead letter, and should not be: {:?}", letters.keys());

    let items = "SELECT sum(deliveries + hard + soft + deferred + complaints + late_bounces + drops) FROM {db}.delivery_rates";
    pipeline.wait_for_value(items, &counted.to_string())?;
    for (reason, count) in &reasons {
        let name = "bounceflow_classify_dead_lettered_total";
        let metric = process.metric(name, &[("topic", &pipeline.topic("events")), ("reason", reason)])?;
        ensure!(metric == *count as f64, "{name} {reason} is {metric} instead of {count}");
    }
    for (reason, count) in &ignored {
        let metric = process.metric("bounceflow_classify_ignored_total", &[("reason", reason)])?;
        ensure!(metric == *count as f64, "ignored {reason} is {metric} instead of {count}");
    }
    let stored = pipeline.value("SELECT arraySum(ignored.count) FROM {db}.batches WHERE notEmpty(ignored.count) FORMAT TSV")?;
    ensure!(
        stored.lines().filter_map(|n| n.parse::<u64>().ok()).sum::<u64>() == ignored.values().sum::<u64>(),
        "ignored: {stored}"
    );

    pipeline.wait_for_value("SELECT count() FROM {db}.failures", "3")?;
    let domain = pipeline.value("SELECT recipient_domain FROM {db}.failures WHERE diagnostic LIKE '%no such user%'")?;
    ensure!(domain == "xn--bcher-kva.example", "{domain}");
    let future = sent.iter().find(|r| r.key.as_deref() == Some(b"in the future")).context("not sent")?.timestamp;
    let time = "SELECT toUnixTimestamp64Milli(event_time) FROM {db}.failures WHERE diagnostic LIKE '%from the future%'";
    ensure!(pipeline.count(time)? == u64::try_from(future)?, "not clamped to the record's Kafka time");
    nothing_leaks(&pipeline, &mut process)?;

    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

/// Looks for the secret part of every address wherever something leaves classify, but in the dead letter.
fn nothing_leaks(pipeline: &Pipeline, process: &mut Process) -> Result<()> {
    for which in ["failures", "rates"] {
        let records = pipeline.kafka.read_all(&pipeline.topic(which))?;
        ensure!(!records.is_empty(), "nothing in {which}");
        for record in records {
            let bytes = [record.key.unwrap_or_default(), record.payload.unwrap_or_default()].concat();
            let text = String::from_utf8_lossy(&bytes).to_lowercase();
            ensure!(!text.contains(SECRET), "an address in {which}: {text}");
        }
    }
    // The hash is no text.
    for (table, columns) in
        [("failures", "* REPLACE (hex(recipient_hash) AS recipient_hash)"), ("batches", "*"), ("delivery_rates", "*")]
    {
        let rows = pipeline.value(&format!("SELECT {columns} FROM {{db}}.{table} FORMAT JSONEachRow"))?;
        ensure!(!rows.is_empty() && !rows.to_lowercase().contains(SECRET), "an address in {table}: {rows}");
    }
    let (_, metrics) = process.get("/metrics")?;
    ensure!(!metrics.to_lowercase().contains(SECRET), "an address in /metrics: {metrics}");
    let logs = pipeline.all_logs()?;
    ensure!(!logs.is_empty() && !logs.to_lowercase().contains(SECRET), "an address in the logs");
    Ok(())
}

#[test]
fn a_diagnostic_of_ten_megabytes_is_cut_where_such_records_are_allowed() -> Result<()> {
    let pipeline = Pipeline::builder("long_diagnostic")?.set(&["inputs", "0", "max_record_bytes"], 20 << 20)?.build()?;
    let mut process = pipeline.run("all", 0, &[])?;
    let diagnostic = format!("550 5.1.1 {}", "ü no such user here ".repeat(500_000));
    let long = bounce(now_ms()?, "kim@gmail.com", &diagnostic).to_string();
    ensure!(long.len() > 10_000_000, "only {} bytes", long.len());
    pipeline.kafka.write(&pipeline.topic("events"), &[Outgoing::new(long)])?;
    pipeline.wait_for_value("SELECT count() FROM {db}.failures", "1")?;
    let stored = pipeline.value("SELECT diagnostic FROM {db}.failures")?;
    ensure!(stored.len() <= 4096 && stored.len() > 4000, "{} bytes", stored.len());
    ensure!(stored.starts_with("550 5.1.1 ü no such user here"), "{stored}");
    ensure!(pipeline.value("SELECT category, severity FROM {db}.failures")? == "invalid_recipient\thard", "not classified");
    pipeline.wait_for_value("SELECT sum(hard) FROM {db}.delivery_rates", "1")?;
    ensure!(pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?.is_empty(), "it went to the dead letter as well");
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn a_record_of_which_no_item_can_be_read_is_one_letter() -> Result<()> {
    const ITEMS: usize = 50_000;
    let pipeline = Pipeline::builder("many_items")?.build()?;
    let mut process = pipeline.run("all", 0, &[])?;
    let record = format!("[{}0]", "0,".repeat(ITEMS - 1));
    let beside = event(now_ms()?, "kim@gmail.com").to_string();
    let records = [Outgoing::new(record.as_str()), Outgoing::new(record.as_str()), Outgoing::new(beside)];
    pipeline.kafka.write(&pipeline.topic("events"), &records)?;
    pipeline.wait_for_value("SELECT sum(deliveries) FROM {db}.delivery_rates", "1")?;
    pipeline.settled("classify")?;
    let dead = pipeline.kafka.read_all(&pipeline.topic("dead-letter"))?;
    ensure!(dead.len() == 2 && dead.iter().all(|letter| letter.payload.as_deref() == Some(record.as_bytes())), "{}", dead.len());
    let detail = &dead[0].headers["bounceflow.detail"];
    ensure!(detail.ends_with(&format!("the other {} items of the record are refused as well", ITEMS - 1)), "{detail}");
    let counted = process.metric("bounceflow_classify_dead_lettered_total", &[])?;
    ensure!(counted == 2.0 * ITEMS as f64, "{counted} items counted as refused");
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

#[test]
fn a_dead_letter_larger_than_its_topic_takes_waits_until_the_topic_takes_it() -> Result<()> {
    let pipeline = Pipeline::builder("large_letter")?.build()?;
    let letters = pipeline.topic("dead-letter");
    pipeline.kafka.largest_record(&letters, 10_000)?;
    let mut process = pipeline.run("classify", 0, &[])?;
    // The limit is one of what is sent, and that is compressed.
    let mut dice = Dice::new(1);
    let garbage: Vec<u8> = (0..20_000).map(|_| dice.below(256) as u8).collect();
    pipeline.kafka.write(&pipeline.topic("events"), &[Outgoing::new(garbage.clone())])?;
    let said = process.wait_for("Raise the topic's max.message.bytes")?;
    ensure!(said["topic"] == letters && said["bytes"] == garbage.len(), "{said}");
    ensure!(pipeline.kafka.read_all(&letters)?.is_empty(), "the topic took it");

    pipeline.kafka.largest_record(&letters, 100_000)?;
    pipeline.settled("classify")?;
    let dead = pipeline.kafka.read_all(&letters)?;
    ensure!(dead.len() == 1 && dead[0].payload.as_ref() == Some(&garbage), "{} letters", dead.len());
    ensure!(process.stop()?.success(), "it did not end well");
    pipeline.passed();
    Ok(())
}

fn now_ms() -> Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_millis())?)
}
