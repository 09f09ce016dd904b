//! KumoMTA JSON log records.
//!
//! Fields and outcome map: KumoMTA docs/reference/log_record.md and crates/kumo-log-types (2026-08).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Format, IgnoreReason, Item, RejectReason, json, reject};
use crate::delivery_event::DeliveryEvent;
use crate::text::{Millis, Number, Tags, Text};
use crate::vocabulary::EventType;

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(default)]
    r#type: Text<'a>,
    #[serde(default)]
    id: Text<'a>,
    #[serde(default)]
    sender: Text<'a>,
    /// Text, or since 2025.12 an array of it.
    #[serde(borrow, default)]
    recipient: Option<&'a RawValue>,
    /// `campaign:tenant@domain`; campaign and tenant are optional.
    #[serde(default)]
    queue: Text<'a>,
    #[serde(default)]
    response: Option<Response<'a>>,
    #[serde(default)]
    peer_address: Option<Peer<'a>>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event_time: Option<&'a RawValue>,
    #[serde(default)]
    created: Millis,
    #[serde(default)]
    created_time: Millis,
    /// Attempts before this one.
    #[serde(default)]
    num_attempts: Number,
    #[serde(default)]
    egress_pool: Text<'a>,
    #[serde(default)]
    source_address: Option<SourceAddress<'a>>,
    #[serde(default)]
    feedback_report: Option<FeedbackReport<'a>>,
    #[serde(default)]
    meta: Tags<'a>,
    #[serde(default)]
    headers: Tags<'a>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(default)]
    code: Number,
    #[serde(default)]
    enhanced_code: Option<EnhancedCode>,
    #[serde(borrow, default)]
    content: Text<'a>,
    #[serde(default)]
    command: Text<'a>,
}

#[derive(Deserialize)]
struct EnhancedCode {
    class: u16,
    subject: u16,
    detail: u16,
}

#[derive(Deserialize)]
struct Peer<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
}

#[derive(Deserialize)]
struct SourceAddress<'a> {
    #[serde(borrow, default)]
    address: Text<'a>,
}

#[derive(Deserialize)]
struct FeedbackReport<'a> {
    #[serde(borrow, default)]
    feedback_type: Text<'a>,
    #[serde(borrow, default)]
    original_rcpto_to: Option<&'a RawValue>,
    #[serde(default)]
    original_mail_from: Text<'a>,
    #[serde(default)]
    source_ip: Text<'a>,
    #[serde(borrow, default)]
    reported_domain: Option<&'a RawValue>,
    /// What KumoMTA wrote into the original message to find here again: any JSON.
    #[serde(borrow, default)]
    supplemental_trace: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Trace<'a> {
    #[serde(borrow, default)]
    recipient: Option<&'a RawValue>,
}

/// One text or an array of texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<'a> {
    #[serde(borrow)]
    One(Text<'a>),
    Many(Vec<Text<'a>>),
}

/// A record of several recipients is as many events, each with all of the record's tags and texts. Bytes, where each were as long as it.
const MOST_COPIED: usize = 64 << 20;

pub(super) fn items<'a>(payload: &'a [u8], each: &mut dyn FnMut(Item<'a>)) {
    json::each_object(payload, Format::Kumomta, each, &mut |object, each| record(object, each));
}

/// Whether the object has the two fields every log record has.
pub(super) fn looks_like(object: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Probe<'a> {
        r#type: Text<'a>,
        #[serde(borrow)]
        #[allow(dead_code, reason = "its presence is the question")]
        id: &'a RawValue,
    }
    serde_json::from_slice::<Probe>(object).is_ok_and(|p| !p.r#type.is_empty())
}

pub(super) fn record<'a>(object: &'a [u8], each: &mut dyn FnMut(Item<'a>)) {
    let record: Record = match serde_json::from_slice(object) {
        Ok(record) => record,
        Err(e) if e.is_data() => {
            if let Some(item) = json::misfit(object, Format::Kumomta) {
                return each(item);
            }
            let detail = format!("a field of the wrong kind or twice, at line {} column {}", e.line(), e.column());
            return each(reject(RejectReason::InvalidField, detail, Format::Kumomta));
        }
        Err(e) => return each(json::syntax(object, &e, Format::Kumomta)),
    };
    let event = match &*record.r#type {
        "Delivery" => EventType::Delivery,
        "TransientFailure" => EventType::Deferral,
        "Bounce" | "Expiration" => EventType::Bounce,
        "AdminBounce" => EventType::Drop,
        "OOB" => EventType::OobBounce,
        "Feedback" => EventType::Complaint,
        "Reception" | "Rejection" | "AdminRebind" | "DeferredInjectionRebind" | "Delayed" | "XferOut" | "XferIn" => {
            return each(Item::Ignored(IgnoreReason::NotAnOutcome));
        }
        "" => return each(reject(RejectReason::UnknownFormat, "no field `type`: not a KumoMTA log record", Format::Kumomta)),
        _ => return each(reject(RejectReason::UnknownEvent, "`type` is no KumoMTA record type", Format::Kumomta)),
    };
    let time = [record.event_time, record.timestamp].into_iter().flatten();
    let Some(timestamp) = time.filter_map(|t| serde_json::from_str::<Millis>(t.get()).ok()).find(|t| t.0 != 0) else {
        return each(reject(RejectReason::InvalidTimestamp, "neither `event_time` nor `timestamp` can be read", Format::Kumomta));
    };
    let recipients = match recipients(&record) {
        Ok(recipients) => recipients,
        Err(field) => {
            if let Some(item) = json::misfit(object, Format::Kumomta) {
                return each(item);
            }
            let detail = format!("`{field}` is neither text nor an array of text");
            return each(reject(RejectReason::InvalidField, detail, Format::Kumomta));
        }
    };
    if recipients.is_empty() {
        return each(reject(RejectReason::MissingRecipient, "no recipient", Format::Kumomta));
    }
    if recipients.len().saturating_mul(object.len()) > MOST_COPIED {
        let detail = format!(
            "{} recipients of a record of {} bytes: more than {MOST_COPIED} bytes in all",
            recipients.len(),
            object.len()
        );
        return each(reject(RejectReason::InvalidField, detail, Format::Kumomta));
    }
    let template = event_of(record, event, timestamp);
    let (last, others) = match recipients.split_last() {
        Some(split) => split,
        None => return,
    };
    for recipient in others {
        each(Item::Event(DeliveryEvent { recipient: recipient.clone(), ..template.clone() }));
    }
    each(Item::Event(DeliveryEvent { recipient: last.clone(), ..template }));
}

fn recipients<'a>(record: &Record<'a>) -> Result<Vec<Text<'a>>, &'static str> {
    let read = |raw: Option<&'a RawValue>, field| match raw.map(|r| serde_json::from_str::<OneOrMany>(r.get())) {
        None => Ok(Vec::new()),
        Some(Ok(OneOrMany::One(one))) => Ok(vec![one]),
        Some(Ok(OneOrMany::Many(many))) => Ok(many),
        Some(Err(_)) => Err(field),
    };
    let mut all = Vec::new();
    // A feedback record's own recipient is the mailbox of the feedback loop; the report names who complained.
    if let Some(report) = &record.feedback_report {
        all = read(report.original_rcpto_to, "feedback_report.original_rcpto_to")?;
        if all.iter().all(|r| r.is_empty()) {
            let trace: Trace = report.supplemental_trace.and_then(|t| serde_json::from_str(t.get()).ok()).unwrap_or_default();
            all = read(trace.recipient, "feedback_report.supplemental_trace.recipient").unwrap_or_default();
        }
    }
    if all.iter().all(|r| r.is_empty()) {
        all = read(record.recipient, "recipient")?;
    }
    Ok(all.into_iter().map(bare).filter(|r| !r.is_empty()).collect())
}

/// An address without the angle brackets that feedback reports put around it.
fn bare(address: Text<'_>) -> Text<'_> {
    match address.0 {
        Cow::Borrowed(a) => Text::new(unbracketed(a)),
        Cow::Owned(a) => unbracketed(&a).to_owned().into(),
    }
}

fn unbracketed(address: &str) -> &str {
    let address = address.trim();
    address.strip_prefix('<').and_then(|a| a.strip_suffix('>')).unwrap_or(address)
}

/// The domain of a From header, whatever follows the address.
fn domain_of_from(from: &str) -> Option<&str> {
    let (_, rest) = from.rsplit_once('@')?;
    let end = rest.find(|c: char| c.is_whitespace() || ">,;()\"".contains(c)).unwrap_or(rest.len());
    Some(&rest[..end])
}

fn event_of<'a>(record: Record<'a>, event: EventType, timestamp: Millis) -> DeliveryEvent<'a> {
    let mut out = DeliveryEvent::new(event, timestamp, Text::default());
    out.message_id = record.id;
    out.pool = record.egress_pool;
    if let Some(address) = record.source_address {
        out.sending_ip = ip_of(&address.address);
    }
    // An OOB or Feedback record is about a message that arrived, the report: its headers, times and attempts say nothing of the
    // message reported on. An OOB's sender and peer are put right by KumoMTA; a Feedback's are those of the feedback loop.
    if !matches!(event, EventType::OobBounce | EventType::Complaint) {
        out.sent_at = if record.created_time.0 != 0 { record.created_time } else { record.created };
        // Counted are the attempts made before this one, on a Delivery and a failure alike.
        out.attempt = Number(record.num_attempts.0.saturating_add(1));
        let header_from = record.headers.0.iter().find(|(name, _)| name.eq_ignore_ascii_case("from"));
        if let Some(domain) = header_from.and_then(|(_, from)| domain_of_from(from)) {
            out.from_domain = domain.to_owned().into();
        }
    }
    if event == EventType::Complaint {
        let trace = record.feedback_report.as_ref().and_then(|r| serde_json::from_str(r.supplemental_trace?.get()).ok());
        (out.campaign, out.tenant) = queue_parts(&Text::default(), &trace.unwrap_or_default());
    } else {
        out.sender = record.sender;
        (out.campaign, out.tenant) = queue_parts(&record.queue, &record.meta);
        if let Some(peer) = record.peer_address {
            out.mx_host = peer.name;
        }
    }
    if let Some(response) = record.response {
        out.local = response.content.contains("KumoMTA internal");
        out.reply_code = response.code;
        if let Some(code) = response.enhanced_code {
            out.enhanced_code = format!("{}.{}.{}", code.class, code.subject, code.detail).into();
        }
        out.diagnostic = response.content;
        out.command = response.command;
    }
    if let Some(report) = record.feedback_report {
        out.feedback_type = report.feedback_type;
        if !report.original_mail_from.is_empty() {
            out.sender = bare(report.original_mail_from);
        }
        if !report.source_ip.is_empty() {
            out.sending_ip = report.source_ip;
        }
        let reported = match report.reported_domain.map(|d| serde_json::from_str(d.get())) {
            Some(Ok(OneOrMany::One(domain))) => vec![domain],
            Some(Ok(OneOrMany::Many(domains))) => domains,
            _ => Vec::new(),
        };
        if let Some(domain) = reported.into_iter().find(|d| !d.is_empty()) {
            out.from_domain = domain;
        }
    }
    out.tags = record.meta;
    out
}

/// `198.51.100.13:41822` or `[2001:db8::1]:25` without the port.
fn ip_of<'a>(address: &Text<'a>) -> Text<'a> {
    let bare = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => match address.rsplit_once(':') {
            Some((v4, _)) if !v4.contains(':') => v4,
            _ => address,
        },
    };
    bare.to_owned().into()
}

/// Campaign and tenant of `campaign:tenant@domain`; what `meta` says of them wins.
fn queue_parts<'a>(queue: &Text<'a>, meta: &Tags<'a>) -> (Text<'a>, Text<'a>) {
    let local = queue.rsplit_once('@').map(|(local, _)| local);
    let (campaign, tenant) = match local {
        None => (queue.split_once(':').map_or("", |(campaign, _)| campaign), ""),
        Some(local) => local.split_once(':').unwrap_or(("", local)),
    };
    let pick = |name: &str, queued: &str| Text::from(meta.get(name).unwrap_or(queued).to_owned());
    (pick("campaign", campaign), pick("tenant", tenant))
}
