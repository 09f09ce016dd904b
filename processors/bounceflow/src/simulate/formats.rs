//! One item in each source format. JSON is written by hand, as it is most of what a benchmark sends.

use bounceflow_event::avro::{AvroError, WriterSchema};
use bounceflow_event::{DeliveryEvent, EventType, Millis, Number, Tags, Text};

use super::event::{View, push_number, push_time};

/// `,"name":"value"`, left out where empty. The value needs no escapes.
macro_rules! field {
    ($out:expr, $name:literal, $value:expr) => {
        let value: &str = $value;
        if !value.is_empty() {
            $out.extend([concat!(",\"", $name, "\":\""), value, "\""]);
        }
    };
}

macro_rules! number {
    ($out:expr, $name:literal, $value:expr) => {
        $out.push_str(concat!(",\"", $name, "\":"));
        push_number($out, $value);
    };
}

/// bounceflow's own JSON.
pub(super) fn json(view: &View, out: &mut String) {
    let (decision, texts) = (view.decision, view.texts);
    out.extend(["{\"event\":\"", decision.event.as_str(), "\",\"event_id\":\"", &texts.event_id, "\""]);
    number!(out, "timestamp", decision.time);
    number!(out, "sent_at", decision.message.sent_at);
    field!(out, "recipient", &texts.recipient);
    field!(out, "message_id", &texts.message_id);
    field!(out, "sender", &texts.sender);
    field!(out, "from_domain", &view.identity.domain);
    field!(out, "sending_ip", view.ip);
    field!(out, "pool", view.pool);
    field!(out, "campaign", view.campaign);
    field!(out, "mx_host", view.mx.map_or("", |mx| &mx.host));
    field!(out, "command", &texts.command);
    if view.code != 0 {
        number!(out, "reply_code", i64::from(view.code));
    }
    field!(out, "enhanced_code", view.enhanced);
    if !texts.diagnostic.is_empty() {
        out.push_str(",\"diagnostic\":");
        quoted(&texts.diagnostic, out);
    }
    if decision.message.attempt != 0 {
        number!(out, "attempt", i64::from(decision.message.attempt));
    }
    field!(out, "feedback_type", feedback_type(decision.event));
    if let Some(tag) = view.tag {
        field!(out, "tenant", &view.identity.tenant);
        field!(out, "dkim_domain", &view.identity.dkim);
        out.extend([",\"tags\":{\"segment\":\"", tag, "\"}"]);
    }
    out.push('}');
}

/// `DeliveryEvent` in Avro: single-object encoding, or the Confluent wire format under `schema_id`.
pub(super) fn avro(view: &View, schema: &WriterSchema, schema_id: Option<u32>, out: &mut Vec<u8>) -> Result<(), AvroError> {
    let (decision, texts) = (view.decision, view.texts);
    let mut event = DeliveryEvent::new(decision.event, Millis(decision.time), texts.recipient.as_str());
    event.event_id = Text::new(&texts.event_id);
    event.sent_at = Millis(decision.message.sent_at);
    event.message_id = Text::new(&texts.message_id);
    event.sender = Text::new(&texts.sender);
    event.from_domain = Text::new(&view.identity.domain);
    event.sending_ip = Text::new(view.ip);
    event.pool = Text::new(view.pool);
    event.campaign = Text::new(view.campaign);
    event.mx_host = Text::new(view.mx.map_or("", |mx| &mx.host));
    event.command = Text::new(&texts.command);
    event.reply_code = Number(i32::from(view.code));
    event.enhanced_code = Text::new(view.enhanced);
    event.diagnostic = Text::new(&texts.diagnostic);
    event.attempt = Number(i32::from(decision.message.attempt));
    event.feedback_type = Text::new(feedback_type(decision.event));
    if let Some(tag) = view.tag {
        event.tenant = Text::new(&view.identity.tenant);
        event.dkim_domain = Text::new(&view.identity.dkim);
        event.tags = Tags(vec![("segment".into(), tag.into())]);
    }
    match schema_id {
        None => schema.encode(&event, out),
        Some(id) => schema.encode_confluent(id, &event, out),
    }
}

fn feedback_type(event: EventType) -> &'static str {
    if event == EventType::Complaint { "abuse" } else { "" }
}

/// A KumoMTA log record.
pub(super) fn kumomta(view: &View, out: &mut String) {
    let (decision, texts, identity) = (view.decision, view.texts, view.identity);
    let complaint = decision.event == EventType::Complaint;
    out.extend(["{\"type\":\"", record_type(view), "\""]);
    field!(out, "id", &texts.message_id);
    if complaint {
        // The record is of the report, which came from the provider to the mailbox of the feedback loop.
        out.extend([",\"sender\":\"feedback@", view.domain, "\",\"recipient\":\"fbl@", &identity.domain, "\""]);
    } else {
        field!(out, "sender", &texts.sender);
        out.push_str(",\"recipient\":");
        recipients(view, out);
    }
    out.extend([",\"queue\":\"", view.campaign, ":", &identity.tenant, "@", view.domain, "\""]);
    out.extend([",\"site\":\"", view.ip, "->", view.mx.map_or("", |mx| &mx.host), "\""]);
    number!(out, "size", (8_000 + decision.message.id % 60_000) as i64);
    response(view, out);
    match view.mx {
        Some(mx) if !decision.reception => {
            out.extend([",\"peer_address\":{\"name\":\"", &mx.host, ".\",\"addr\":\"", &mx.peer, "\"}"]);
        }
        _ => out.push_str(",\"peer_address\":null"),
    }
    for (seconds, text, ms) in [("timestamp", "event_time", decision.time), ("created", "created_time", decision.message.sent_at)]
    {
        out.extend([",\"", seconds, "\":"]);
        push_number(out, ms.div_euclid(1000));
        out.extend([",\"", text, "\":\""]);
        push_time(out, ms);
        out.push('"');
    }
    // Attempts before this one.
    number!(out, "num_attempts", i64::from(decision.message.attempt.saturating_sub(1)));
    field!(out, "bounce_classification", "Uncategorized");
    field!(out, "egress_pool", view.pool);
    out.extend([",\"egress_source\":\"", view.pool, "-", view.ip, "\",\"source_address\":{\"address\":\"", view.ip, ":"]);
    push_number(out, (32_768 + decision.event_id % 28_000) as i64);
    out.push_str("\"},\"feedback_report\":");
    if complaint {
        feedback_report(view, out)
    } else {
        out.push_str("null")
    }
    out.extend([",\"meta\":{\"tenant\":\"", &identity.tenant, "\"},\"headers\":{"]);
    if decision.message.identity % 2 == 0 && !complaint {
        out.extend(["\"From\":\"News <news@", &identity.domain, ">\""]);
    }
    out.push_str("},\"delivery_protocol\":\"ESMTP\",\"reception_protocol\":\"HTTP\",");
    out.push_str("\"nodeid\":\"0b6a4f9e-8a58-4f0d-9a31-0e7d6f2c9f11\"}");
}

fn record_type(view: &View) -> &'static str {
    match view.decision.event {
        _ if view.decision.reception => "Reception",
        EventType::Delivery => "Delivery",
        EventType::Deferral => "TransientFailure",
        EventType::Bounce if view.expired => "Expiration",
        EventType::Bounce => "Bounce",
        EventType::OobBounce => "OOB",
        EventType::Complaint => "Feedback",
        EventType::Drop => "AdminBounce",
    }
}

/// One as text, or as an array like several.
fn recipients(view: &View, out: &mut String) {
    let texts = view.texts;
    if texts.others.is_empty() && view.decision.message.id & 15 != 0 {
        return out.extend(["\"", &texts.recipient, "\""]);
    }
    out.extend(["[\"", &texts.recipient, "\""]);
    for other in &texts.others {
        out.extend([",\"", other, "\""]);
    }
    out.push(']');
}

fn response(view: &View, out: &mut String) {
    out.push_str(",\"response\":{\"code\":");
    push_number(out, i64::from(if view.code == 0 { 250 } else { view.code }));
    out.push_str(",\"enhanced_code\":");
    let mut digits = view.enhanced.split('.');
    match (digits.next(), digits.next(), digits.next()) {
        (Some(class), Some(subject), Some(detail)) => {
            out.extend(["{\"class\":", class, ",\"subject\":", subject, ",\"detail\":", detail, "}"]);
        }
        _ => out.push_str("null"),
    }
    out.push_str(",\"content\":");
    quoted(&view.texts.diagnostic, out);
    out.push_str(",\"command\":");
    if view.texts.command.is_empty() {
        out.push_str("null")
    } else {
        quoted(&view.texts.command, out)
    }
    out.push('}');
}

fn feedback_report(view: &View, out: &mut String) {
    let (texts, identity) = (view.texts, view.identity);
    out.extend(["{\"feedback_type\":\"abuse\",\"user_agent\":\"ReturnPathFBL/1.0\",\"version\":\"1\",\"original_mail_from\":\""]);
    out.extend([&texts.sender, "\",\"original_rcpto_to\":[\"", &texts.recipient, "\"],\"arrival_date\":\""]);
    push_time(out, view.decision.message.sent_at);
    out.extend(["\",\"source_ip\":\"", view.ip, "\",\"reported_domain\":[\"", &identity.domain, "\"],\"reported_uri\":[]}"]);
}

/// A JSON string.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\\']) {
        let (plain, special) = rest.split_at(at);
        out.extend([plain, "\\", &special[..1]]);
        rest = &special[1..];
    }
    out.extend([rest, "\""]);
}
