//! The canonical delivery event: `schemas/avro/DeliveryEvent.avsc` and the same fields as JSON.

use serde::{Deserialize, Serialize};

use crate::text::{Millis, Number, Tags, Text};
use crate::vocabulary::EventType;

/// What an MTA or ESP says about one message and one recipient.
///
/// Every source format is read into this. Empty text and 0 mean that the source did not say. It borrows from the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryEvent<'a> {
    /// What happened.
    pub event: EventType,
    /// When, in milliseconds since the epoch, UTC.
    pub timestamp: Millis,
    /// Recipient address.
    #[serde(borrow)]
    pub recipient: Text<'a>,
    /// The source's own id of this event.
    #[serde(default)]
    pub event_id: Text<'a>,
    /// When the message was first accepted for sending.
    #[serde(default, skip_serializing_if = "zero")]
    pub sent_at: Millis,
    /// The source's id of the message.
    #[serde(default)]
    pub message_id: Text<'a>,
    /// Envelope sender (RFC 5321 MAIL FROM).
    #[serde(default)]
    pub sender: Text<'a>,
    /// Domain of the header From (RFC 5322).
    #[serde(default)]
    pub from_domain: Text<'a>,
    /// IP address the message was sent from.
    #[serde(default)]
    pub sending_ip: Text<'a>,
    /// IP pool.
    #[serde(default)]
    pub pool: Text<'a>,
    /// Campaign.
    #[serde(default)]
    pub campaign: Text<'a>,
    /// Tenant.
    #[serde(default)]
    pub tenant: Text<'a>,
    /// DKIM `d=` (RFC 6376).
    #[serde(default)]
    pub dkim_domain: Text<'a>,
    /// Host name of the server that answered.
    #[serde(default)]
    pub mx_host: Text<'a>,
    /// SMTP command that was answered.
    #[serde(default)]
    pub command: Text<'a>,
    /// SMTP reply code.
    #[serde(default)]
    pub reply_code: Number,
    /// Enhanced status code (RFC 3463).
    #[serde(default)]
    pub enhanced_code: Text<'a>,
    /// Text of the reply.
    #[serde(default)]
    pub diagnostic: Text<'a>,
    /// 1 for the first attempt.
    #[serde(default)]
    pub attempt: Number,
    /// For complaints: Feedback-Type (RFC 5965).
    #[serde(default)]
    pub feedback_type: Text<'a>,
    /// Anything else the source carries along.
    #[serde(default)]
    pub tags: Tags<'a>,
    /// The sending MTA failed before anybody answered: kept out of ISP rates. Only some source formats can tell.
    #[serde(skip)]
    pub local: bool,
}

impl<'a> DeliveryEvent<'a> {
    /// An event with nothing but the required fields.
    pub fn new(event: EventType, timestamp: Millis, recipient: impl Into<Text<'a>>) -> Self {
        Self {
            event,
            timestamp,
            recipient: recipient.into(),
            event_id: Text::default(),
            sent_at: Millis(0),
            message_id: Text::default(),
            sender: Text::default(),
            from_domain: Text::default(),
            sending_ip: Text::default(),
            pool: Text::default(),
            campaign: Text::default(),
            tenant: Text::default(),
            dkim_domain: Text::default(),
            mx_host: Text::default(),
            command: Text::default(),
            reply_code: Number(0),
            enhanced_code: Text::default(),
            diagnostic: Text::default(),
            attempt: Number(0),
            feedback_type: Text::default(),
            tags: Tags::default(),
            local: false,
        }
    }
}

fn zero(m: &Millis) -> bool {
    m.0 == 0
}
