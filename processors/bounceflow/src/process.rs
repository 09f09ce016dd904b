//! One item of one record to its outcome: enrich, classify, redact.
//!
//! Pure: no clock, no I/O. What is counted and written is the loop's business.

use std::borrow::Cow;
use std::sync::Arc;

use bounceflow_classify::{Classifier, Command, Lookups, PATTERN_VERSION, Reply, Rules, redact};
use bounceflow_enrich::{Identities, IspId, Isps, Sender, domain_of};
use bounceflow_event::avro::{self, WriterSchema};
use bounceflow_event::{
    Action, DeliveryEvent, EventType, Failure, Format, IgnoreReason, Item, RecipientHash, RejectReason, Rejection, RootCause,
    Severity, Tags,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::{self, Config};
use crate::rules::Current;

/// An event time later than the record's Kafka time by more than this is clamped to it. Milliseconds.
pub const AHEAD_MS: i64 = 5 * 60 * 1000;
/// An event older than this, seen from the record's Kafka time, is refused, however long data is kept: 36 months. Milliseconds.
pub const TOO_OLD_MS: i64 = 1096 * DAY_MS;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// A complaint says nothing about an SMTP reply: its failure carries this category and rule.
pub const COMPLAINT: &str = "complaint";
/// A campaign that names its recipient is none: it is counted under this.
const REDACTED: &str = "redacted";
const COMPLAINT_RULE: &str = "event.complaint";

/// What decides: the same for every record, shared by the threads.
pub struct Tables {
    /// Who answered.
    pub isps: Isps,
    /// Who sent.
    pub identities: Identities,
    /// What a reply means. Looked at between transactions only: what is counted together was decided by the same rules.
    pub rules: Arc<Current>,
    /// How a recipient is hidden.
    pub recipient: config::Recipient,
    /// What would be gone again at once is not taken.
    pub kept: Kept,
    /// How failures are written.
    pub failure_schema: WriterSchema,
    /// How counts are written.
    pub batch_schema: WriterSchema,
}

impl Tables {
    /// From a configuration and the built-in schemas.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            isps: config.isps.clone(),
            identities: config.identities.clone(),
            rules: Arc::new(Current::new(Arc::clone(&config.classify.compiled))),
            recipient: config.recipient.clone(),
            kept: Kept::new(config.clickhouse.retention),
            failure_schema: WriterSchema::parse(avro::FAILURE)?,
            batch_schema: WriterSchema::parse(avro::RATE_BATCH)?,
        })
    }
}

/// How old an event may be, seen from its record's Kafka time. Milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// One that leaves a failure.
    pub failures: i64,
    /// One that is counted only.
    pub rates: i64,
}

impl Kept {
    fn new(retention: bounceflow_warehouse::Retention) -> Self {
        let oldest = |days: u32| if days == 0 { TOO_OLD_MS } else { TOO_OLD_MS.min(i64::from(days) * DAY_MS) };
        let rates = oldest(retention.rates);
        Self { failures: oldest(retention.failures).min(rates), rates }
    }
}

/// Where a record stands, and when Kafka took it.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// The record's Kafka timestamp, milliseconds; none where it has none.
    pub timestamp: Option<i64>,
}

/// What becomes of one item.
#[allow(clippy::large_enum_variant, reason = "built in place and used at once, once per failure")]
pub enum Outcome<'a> {
    /// It is counted.
    Count(Sample<'a>),
    /// It is counted and leaves a failure.
    Fail(Sample<'a>, Failure<'a>),
    /// It says nothing about a delivery.
    Ignore(IgnoreReason),
    /// It goes to the dead letter.
    Reject(Rejection),
}

/// What of an item is counted, and under which key.
#[derive(Debug, Clone)]
pub struct Sample<'a> {
    /// Event time, milliseconds.
    pub time: i64,
    /// Who answered.
    pub isp: IspId,
    /// Who sent.
    pub identity: Cow<'a, str>,
    /// Sending IP.
    pub sending_ip: &'a str,
    /// Campaign.
    pub campaign: &'a str,
    /// What happened.
    pub event: EventType,
    /// Of bounces, late bounces and deferrals.
    pub severity: Option<Severity>,
    /// Refused the sender or the content.
    pub blocked: bool,
    /// The first attempt of its message.
    pub first_attempt: bool,
}

/// What one thread keeps between items, so that nothing is allocated anew.
pub struct Scratch {
    rules: Arc<Rules>,
    classifier: Classifier,
    key: Hmac<Sha256>,
    lower: Vec<u8>,
    diagnostic: String,
    texts: Texts,
}

/// Texts a failure borrows.
#[derive(Default)]
struct Texts {
    identity: String,
    recipient_domain: String,
    message_id: String,
    event_id: String,
    enhanced_code: String,
}

impl Scratch {
    /// For one thread.
    pub fn new(tables: &Tables) -> Self {
        let rules = tables.rules.get();
        Self {
            classifier: Classifier::new(Arc::clone(&rules)),
            rules,
            key: keyed(&tables.recipient.key),
            lower: Vec::new(),
            diagnostic: String::new(),
            texts: Texts::default(),
        }
    }

    /// The rules it decides by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How often the cache of verdicts was asked since this was last called.
    pub fn take_lookups(&mut self) -> Lookups {
        self.classifier.take_lookups()
    }

    /// Takes the rules in force, if they are others by now.
    pub fn renew(&mut self, tables: &Tables) {
        let rules = tables.rules.get();
        if !Arc::ptr_eq(&rules, &self.rules) {
            self.classifier.replace(Arc::clone(&rules));
            self.rules = rules;
        }
    }
}

/// Decides what becomes of an item.
pub fn process<'a>(
    tables: &'a Tables,
    scratch: &'a mut Scratch,
    position: Position<'a>,
    number: i32,
    item: &'a Item<'a>,
) -> Outcome<'a> {
    let event = match item {
        Item::Event(event) => event,
        Item::Ignored(reason) => return Outcome::Ignore(*reason),
        Item::Rejected(rejection) => return Outcome::Reject(rejection.clone()),
    };
    let counted_only = matches!(event.event, EventType::Delivery | EventType::Drop);
    let kept = if counted_only { tables.kept.rates } else { tables.kept.failures };
    let time = match event_time(event.timestamp.0, position.timestamp, kept) {
        Ok(time) => time,
        Err(rejection) => return Outcome::Reject(rejection),
    };
    let Some(recipient_domain) = domain_of(&event.recipient) else {
        return Outcome::Reject(if event.recipient.is_empty() {
            rejection(RejectReason::MissingRecipient, "the recipient is empty")
        } else {
            rejection(RejectReason::RecipientWithoutDomain, "the recipient has no valid domain")
        });
    };
    let isp = if event.local { Isps::LOCAL } else { tables.isps.of(&recipient_domain, &event.mx_host) };
    let identity = tables.identities.of(&Sender {
        from_domain: &event.from_domain,
        envelope: &event.sender,
        tenant: &event.tenant,
        dkim_domain: &event.dkim_domain,
        pool: &event.pool,
        sending_ip: &event.sending_ip,
        campaign: &event.campaign,
        tags: &event.tags.0,
    });
    let mut sample = Sample {
        time,
        isp,
        identity,
        sending_ip: &event.sending_ip,
        campaign: if names(&event.campaign, &event.recipient) { REDACTED } else { &event.campaign },
        event: event.event,
        severity: None,
        blocked: false,
        first_attempt: event.event.is_attempt() && event.attempt.0 == 1,
    };
    if counted_only {
        return Outcome::Count(sample);
    }
    let at = Place { position, number, recipient_domain: &recipient_domain };
    let failure = failure(tables, scratch, &at, event, &mut sample);
    Outcome::Fail(sample, failure)
}

struct Place<'p, 'a> {
    position: Position<'a>,
    number: i32,
    recipient_domain: &'p str,
}

fn failure<'a>(
    tables: &'a Tables,
    scratch: &'a mut Scratch,
    at: &Place<'_, 'a>,
    event: &'a DeliveryEvent<'a>,
    sample: &mut Sample<'a>,
) -> Failure<'a> {
    let Scratch { rules, classifier, key, lower, diagnostic, texts } = scratch;
    let isp = tables.isps.id(sample.isp);
    let recipient = &*event.recipient;
    let mut failure = Failure {
        event_time: sample.time,
        sent_time: event.sent_at.0.max(0),
        ingested_time: at.position.timestamp.unwrap_or(0),
        event_type: event.event.as_str(),
        severity: "",
        category: COMPLAINT,
        blocked: false,
        root_cause: RootCause::List.as_str(),
        action: Action::RemoveRecipient.as_str(),
        rule: COMPLAINT_RULE,
        rules_version: rules.version(),
        pattern: 0,
        pattern_version: PATTERN_VERSION as i32,
        isp,
        identity: keep(&mut texts.identity, &sample.identity),
        recipient_domain: keep(&mut texts.recipient_domain, at.recipient_domain),
        recipient_hash: hash(key, lower, recipient),
        recipient_key_id: &tables.recipient.key_id,
        recipient: if tables.recipient.keep_plain { recipient } else { "" },
        mx_host: event.mx_host.trim_end_matches('.'),
        from_domain: &event.from_domain,
        sending_ip: &event.sending_ip,
        pool: &event.pool,
        campaign: sample.campaign,
        message_id: hide(&mut texts.message_id, &event.message_id, recipient),
        event_id: hide(&mut texts.event_id, &event.event_id, recipient),
        reply_code: event.reply_code.0,
        enhanced_code: "",
        diagnostic: "",
        command: "",
        feedback_type: &event.feedback_type,
        attempt: event.attempt.0,
        tags: hide_tags(&event.tags, recipient),
        source_topic: at.position.topic,
        source_partition: at.position.partition,
        source_offset: at.position.offset,
        source_item: at.number,
    };
    if event.event == EventType::Complaint {
        return failure;
    }
    let classified = classifier.classify(&Reply {
        event: Some(event.event),
        reply_code: u16::try_from(event.reply_code.0).unwrap_or(0),
        enhanced_code: &event.enhanced_code,
        diagnostic: &event.diagnostic,
        command: &event.command,
        isp,
        mx_host: &event.mx_host,
        recipient_domain: at.recipient_domain,
    });
    let (verdict, reading) = (classified.verdict, classified.reading);
    sample.severity = Some(verdict.severity);
    sample.blocked = verdict.blocked;
    failure.severity = verdict.severity.as_str();
    failure.category = verdict.category.as_str();
    failure.blocked = verdict.blocked;
    failure.root_cause = verdict.root_cause.as_str();
    failure.action = verdict.action.as_str();
    failure.rule = &verdict.rule;
    failure.pattern = classified.fingerprint as i64;
    failure.reply_code = i32::from(reading.reply_code());
    failure.enhanced_code = match reading.enhanced_code() {
        Some(code) => write_into(&mut texts.enhanced_code, code),
        None => "",
    };
    failure.command = match reading.command() {
        Command::None => "",
        command => command.as_str(),
    };
    redact(&event.diagnostic, diagnostic);
    failure.diagnostic = diagnostic;
    failure
}

/// The hash that stands for an address under each key of the configuration, the one in use first, with the key's name.
pub fn recipient_hashes(recipient: &config::Recipient, address: &str) -> Vec<(String, RecipientHash)> {
    let keys = std::iter::once((&recipient.key_id, &recipient.key)).chain(&recipient.old_keys);
    keys.map(|(id, key)| (id.clone(), hash(&keyed(key), &mut Vec::new(), address))).collect()
}

#[allow(clippy::expect_used, reason = "HMAC takes a key of any length: RFC 2104")]
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes any key")
}

/// First 16 bytes of HMAC-SHA-256 over the lower-cased address.
fn hash(key: &Hmac<Sha256>, lower: &mut Vec<u8>, address: &str) -> RecipientHash {
    lower.clear();
    if address.is_ascii() {
        lower.extend(address.bytes().map(|b| b.to_ascii_lowercase()));
    } else {
        lower.extend(address.chars().flat_map(char::to_lowercase).collect::<String>().into_bytes());
    }
    let mut mac = key.clone();
    mac.update(lower);
    let full = mac.finalize().into_bytes();
    let mut half = [0; 16];
    half.copy_from_slice(&full[..16]);
    RecipientHash(half)
}

fn keep<'a>(buffer: &'a mut String, text: &str) -> &'a str {
    buffer.clear();
    buffer.push_str(text);
    buffer
}

fn write_into(buffer: &mut String, value: impl std::fmt::Display) -> &str {
    use std::fmt::Write;
    buffer.clear();
    // Writing to a string does not fail.
    let _ = write!(buffer, "{value}");
    buffer
}

/// An id or name as it is, unless the recipient's address stands in it: then with addresses redacted.
fn hide<'a>(buffer: &'a mut String, text: &'a str, recipient: &str) -> &'a str {
    if names(text, recipient) {
        redact(text, buffer);
        buffer
    } else {
        text
    }
}

/// Tags are the operator's own words, so any address in them is redacted, not only the recipient's.
fn hide_tags<'a>(tags: &'a Tags<'a>, recipient: &str) -> Tags<'a> {
    let hide = |text: &'a str| {
        if text.contains('@') || names(text, recipient) {
            let mut redacted = String::new();
            redact(text, &mut redacted);
            Cow::Owned(redacted)
        } else {
            Cow::Borrowed(text)
        }
    };
    Tags(tags.0.iter().map(|(k, v)| (hide(k), hide(v))).collect())
}

/// Whether the address stands in the text, whatever the case; also as VERP writes it, `kim=example.net`.
fn names(text: &str, recipient: &str) -> bool {
    let (text, recipient) = (text.as_bytes(), recipient.as_bytes());
    // Every place where its at-sign may stand decides where the address would begin.
    let Some(before) = memchr::memchr(b'@', recipient) else { return false };
    memchr::memchr2_iter(b'@', b'=', text).any(|at| {
        let place = at.checked_sub(before).and_then(|start| text.get(start..start + recipient.len()));
        place.is_some_and(|place| {
            place.iter().zip(recipient).all(|(a, b)| a.eq_ignore_ascii_case(b) || (*a == b'=' && *b == b'@'))
        })
    })
}

/// The event time to count under.
fn event_time(time: i64, kafka: Option<i64>, kept: i64) -> Result<i64, Rejection> {
    if time <= 0 {
        return Err(rejection(RejectReason::InvalidTimestamp, "the time is missing or before 1970"));
    }
    match kafka {
        Some(kafka) if time > kafka + AHEAD_MS => Ok(kafka),
        Some(kafka) if time < kafka - kept => {
            Err(rejection(RejectReason::TooOld, &format!("older than the {} days for which it is kept", kept / DAY_MS)))
        }
        _ => Ok(time),
    }
}

fn rejection(reason: RejectReason, detail: &str) -> Rejection {
    Rejection { reason, detail: detail.to_owned(), format: Format::Auto }
}
