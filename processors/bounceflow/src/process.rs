//! One item of one record to its outcome: enrich, classify, redact.
//!
//! Pure: no clock, no I/O. What is counted and written is the loop's business.

use std::borrow::Cow;
use std::sync::Arc;

use bounceflow_classify::{Classifier, Command, Lookups, PATTERN_VERSION, Reply, Rules, at_sign_length, redact};
use bounceflow_enrich::{Identities, IspId, Isps, Sender, domain_of, mailbox_of};
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
/// The longest recipient: 64 bytes of local part and 255 of domain (RFC 5321, 4.5.3.1) leave room to spare. Every text of an event is
/// searched for it, so it bounds what a record can cost. Bytes.
const LONGEST_RECIPIENT: usize = 512;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// A complaint says nothing about an SMTP reply: its failure carries this category and rule.
pub const COMPLAINT: &str = "complaint";
/// A text that names the recipient says nothing else either, be it a campaign or who sent: it is counted under this.
const REDACTED: &str = "redacted";
/// A word of a diagnostic that names the recipient.
const HIDDEN: &str = "***";
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
    recipient: String,
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
    if event.recipient.len() > LONGEST_RECIPIENT {
        let detail = format!("the recipient is longer than {LONGEST_RECIPIENT} bytes");
        return Outcome::Reject(rejection(RejectReason::InvalidField, &detail));
    }
    let Some(recipient) = Recipient::of(&event.recipient) else {
        return Outcome::Reject(if event.recipient.is_empty() {
            rejection(RejectReason::MissingRecipient, "the recipient is empty")
        } else {
            rejection(RejectReason::RecipientWithoutDomain, "the recipient has no valid domain")
        });
    };
    let isp = if event.local { Isps::LOCAL } else { tables.isps.of(&recipient.domain, &event.mx_host) };
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
        identity: if recipient.is_in(&identity) { Cow::Borrowed(REDACTED) } else { identity },
        sending_ip: recipient.cover(&event.sending_ip),
        campaign: recipient.cover(&event.campaign),
        event: event.event,
        severity: None,
        blocked: false,
        first_attempt: event.event.is_attempt() && event.attempt.0 == 1,
    };
    if counted_only {
        return Outcome::Count(sample);
    }
    let failure = failure(tables, scratch, &Place { position, number }, event, &recipient, &mut sample);
    Outcome::Fail(sample, failure)
}

struct Place<'a> {
    position: Position<'a>,
    number: i32,
}

fn failure<'a>(
    tables: &'a Tables,
    scratch: &'a mut Scratch,
    at: &Place<'a>,
    event: &'a DeliveryEvent<'a>,
    recipient: &Recipient<'_>,
    sample: &mut Sample<'a>,
) -> Failure<'a> {
    let Scratch { rules, classifier, key, lower, diagnostic, texts } = scratch;
    let isp = tables.isps.id(sample.isp);
    let address = recipient.address(&mut texts.recipient);
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
        recipient_domain: keep(&mut texts.recipient_domain, &recipient.domain),
        recipient_hash: hash(key, lower, address),
        recipient_key_id: &tables.recipient.key_id,
        recipient: if tables.recipient.keep_plain { address } else { "" },
        mx_host: recipient.cover(event.mx_host.trim_end_matches('.')),
        from_domain: recipient.cover(&event.from_domain),
        sending_ip: sample.sending_ip,
        pool: recipient.cover(&event.pool),
        campaign: sample.campaign,
        message_id: hide(&mut texts.message_id, &event.message_id, recipient),
        event_id: hide(&mut texts.event_id, &event.event_id, recipient),
        reply_code: event.reply_code.0,
        enhanced_code: "",
        diagnostic: "",
        command: "",
        feedback_type: recipient.cover(&event.feedback_type),
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
        recipient_domain: &recipient.domain,
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
    failure.diagnostic = redact_diagnostic(diagnostic, &event.diagnostic, recipient);
    failure
}

/// Who it was sent to.
struct Recipient<'e> {
    /// As the event has it.
    text: &'e str,
    domain: Cow<'e, str>,
}

impl<'e> Recipient<'e> {
    fn of(text: &'e str) -> Option<Self> {
        Some(Self { text, domain: domain_of(text)? })
    }

    /// The local part, and the domain as it was spelled.
    fn parts(&self) -> (&'e str, &'e str) {
        mailbox_of(self.text).rsplit_once('@').unwrap_or_default()
    }

    /// The address that is hashed and kept: one person has one, however sources write it. `bounceflow erase` asks for the same.
    fn address<'b>(&self, buffer: &'b mut String) -> &'b str {
        let (local, spelled) = self.parts();
        let domain = if spelled.eq_ignore_ascii_case(&self.domain) { spelled } else { &self.domain };
        buffer.clear();
        buffer.extend([local, "@", domain]);
        buffer
    }

    /// Whether a text names them.
    fn is_in(&self, text: &str) -> bool {
        // Most texts hold no such sign. Without a way out, so that many bytes are looked at at once.
        if !text.bytes().fold(false, |found, b| found | matches!(b, b'@' | b'=' | b'%' | b'&')) {
            return false;
        }
        let (local, spelled) = self.parts();
        names(text, local, spelled) || (!spelled.eq_ignore_ascii_case(&self.domain) && names(text, local, &self.domain))
    }

    /// A text that means nothing once a part of it is hidden.
    fn cover<'t>(&self, text: &'t str) -> &'t str {
        if self.is_in(text) { REDACTED } else { text }
    }
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

/// The address in small letters, each by itself: what stands behind it does not change one (as it would a sigma).
pub fn lowered(address: &str) -> String {
    address.chars().flat_map(char::to_lowercase).collect()
}

/// First 16 bytes of HMAC-SHA-256 over the lower-cased address.
fn hash(key: &Hmac<Sha256>, lower: &mut Vec<u8>, address: &str) -> RecipientHash {
    lower.clear();
    if address.is_ascii() {
        lower.extend(address.bytes().map(|b| b.to_ascii_lowercase()));
    } else {
        lower.extend(lowered(address).into_bytes());
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
fn hide<'a>(buffer: &'a mut String, text: &'a str, recipient: &Recipient<'_>) -> &'a str {
    if !recipient.is_in(text) {
        return text;
    }
    redact(text, buffer);
    // VERP has no at-sign to be known by.
    recipient.cover(buffer)
}

/// Tags are the operator's own words, so any address in them is redacted, not only the recipient's.
fn hide_tags<'a>(tags: &'a Tags<'a>, recipient: &Recipient<'_>) -> Tags<'a> {
    let hide = |text: &'a str| {
        if !holds_at_sign(text) && !recipient.is_in(text) {
            return Cow::Borrowed(text);
        }
        let mut redacted = String::new();
        redact(text, &mut redacted);
        if recipient.is_in(&redacted) { Cow::Borrowed(REDACTED) } else { Cow::Owned(redacted) }
    };
    Tags(tags.0.iter().map(|(k, v)| (hide(k), hide(v))).collect())
}

/// Whether there is an at-sign, plain or encoded. Not `=40`, which may be a number.
fn holds_at_sign(text: &str) -> bool {
    let text = text.as_bytes();
    memchr::memchr3_iter(b'@', b'%', b'&', text).any(|at| at_sign_length(&text[at..]).is_some())
}

/// The diagnostic with addresses redacted, and the recipient's also as VERP writes it.
fn redact_diagnostic<'a>(buffer: &'a mut String, diagnostic: &str, recipient: &Recipient<'_>) -> &'a str {
    redact(diagnostic, buffer);
    if recipient.is_in(buffer) {
        let words: Vec<&str> = buffer.split(' ').map(|word| if recipient.is_in(word) { HIDDEN } else { word }).collect();
        *buffer = words.join(" ");
    }
    recipient.cover(buffer)
}

/// Whether the address stands in the text, whatever the case; also with its at-sign encoded or as VERP writes it, `kim=example.net`, and
/// with any of its characters percent-encoded.
fn names(text: &str, local: &str, domain: &str) -> bool {
    let (text, local, domain) = (text.as_bytes(), local.as_bytes(), domain.as_bytes());
    // Every place where its at-sign may stand decides where its parts would be.
    let mut places = memchr::memchr3_iter(b'@', b'=', b'%', text).chain(memchr::memchr_iter(b'&', text));
    places.any(|at| {
        let verp = match &text[at..] {
            [b'=', ..] => Some(1),
            [b'%', b'3', b'D' | b'd', ..] => Some(3),
            _ => None,
        };
        let mut signs = at_sign_length(&text[at..]).into_iter().chain(verp);
        signs.any(|length| ends_with(&text[..at], local) && starts_with(&text[at + length..], domain))
    })
}

fn starts_with(mut text: &[u8], part: &[u8]) -> bool {
    part.iter().all(|wanted| {
        let length = match text {
            [byte, ..] if byte.eq_ignore_ascii_case(wanted) => 1,
            [b'%', high, low, ..] if is_encoded([*high, *low], *wanted) => 3,
            _ => return false,
        };
        text = &text[length..];
        true
    })
}

fn ends_with(mut text: &[u8], part: &[u8]) -> bool {
    part.iter().rev().all(|wanted| {
        let length = match text {
            [.., byte] if byte.eq_ignore_ascii_case(wanted) => 1,
            [.., b'%', high, low] if is_encoded([*high, *low], *wanted) => 3,
            _ => return false,
        };
        text = &text[..text.len() - length];
        true
    })
}

/// Whether two hexadecimal digits stand for this byte, whatever its case.
fn is_encoded([high, low]: [u8; 2], wanted: u8) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = digit(high).zip(digit(low)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
    byte.is_some_and(|byte| byte.eq_ignore_ascii_case(&wanted))
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
