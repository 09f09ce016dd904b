//! The words of the field, as closed enums where the set is closed and as open strings where operators may add their own.
//! Spelling here is the spelling on the wire, in ClickHouse and in metrics; nothing here decides anything.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a delivery event says happened to one message for one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// Accepted by the receiving server.
    Delivery,
    /// Refused for now; the sending server will retry (4xx).
    Deferral,
    /// Refused for good while sending, or given up after retries.
    Bounce,
    /// A DSN that came after a delivery: a late bounce.
    OobBounce,
    /// A recipient reported the message as spam (feedback loop).
    Complaint,
    /// Never attempted: the sender's own suppression or policy. Kept out of every ISP rate.
    Drop,
}

impl EventType {
    /// Every type, in the order of the documentation.
    pub const ALL: [Self; 6] = [Self::Delivery, Self::Deferral, Self::Bounce, Self::OobBounce, Self::Complaint, Self::Drop];

    /// The spelling used on the wire, in ClickHouse and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Deferral => "deferral",
            Self::Bounce => "bounce",
            Self::OobBounce => "oob_bounce",
            Self::Complaint => "complaint",
            Self::Drop => "drop",
        }
    }

    /// Deliveries, deferrals and bounces are attempts; the rest says something about an attempt made earlier, or none.
    pub const fn is_attempt(self) -> bool {
        matches!(self, Self::Delivery | Self::Deferral | Self::Bounce)
    }
}

impl std::str::FromStr for EventType {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|e| e.as_str() == s).ok_or(())
    }
}

/// What the sender should do with the recipient and the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Permanent: stop sending to this recipient.
    Hard,
    /// Final for this message; the recipient may be fine.
    Soft,
    /// Transient: being retried.
    Deferred,
}

impl Severity {
    /// Every severity, the gravest first.
    pub const ALL: [Self; 3] = [Self::Hard, Self::Soft, Self::Deferred];

    /// The spelling used on the wire, in ClickHouse and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
            Self::Deferred => "deferred",
        }
    }
}

/// Why a message was refused. An open set: the constants are the field's, operators' rules may add their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Category(Cow<'static, str>);

macro_rules! categories {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        impl Category {
            $($(#[$doc])* pub const $name: Self = Self(Cow::Borrowed($text));)*
            /// Every category this version knows, in the order of the documentation.
            pub const KNOWN: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

categories! {
    /// The mailbox does not exist.
    INVALID_RECIPIENT = "invalid_recipient";
    /// The recipient's domain does not exist or takes no mail.
    INVALID_DOMAIN = "invalid_domain";
    /// The mailbox existed and is disabled, suspended or abandoned.
    INACTIVE_MAILBOX = "inactive_mailbox";
    /// Over quota.
    MAILBOX_FULL = "mailbox_full";
    /// The content, its links or attachments were judged spam or malicious.
    SPAM_CONTENT = "spam_content";
    /// The sending IP or domain has a bad name (block lists, low reputation).
    REPUTATION = "reputation";
    /// SPF, DKIM or DMARC of the sender failed.
    AUTHENTICATION = "authentication";
    /// The receiver's policy refuses it for another reason (also: no or generic reverse DNS).
    POLICY = "policy";
    /// The envelope or header sender was refused.
    SENDER_REJECTED = "sender_rejected";
    /// Too many messages, connections or recipients.
    RATE_LIMITED = "rate_limited";
    /// Greylisted: try later.
    GREYLISTED = "greylisted";
    /// The message is larger than the receiver takes.
    MESSAGE_TOO_LARGE = "message_too_large";
    /// DNS of the recipient's domain failed for now.
    DNS = "dns";
    /// No connection, or it broke (also TLS).
    NETWORK = "network";
    /// The remote system failed by its own fault.
    REMOTE_SYSTEM = "remote_system";
    /// Given up after the retry time.
    EXPIRED = "expired";
    /// An SMTP command or syntax was refused.
    PROTOCOL = "protocol";
    /// Nothing matched.
    UNKNOWN = "unknown";
}

impl Category {
    /// A category of the operator's own. It should be lower-case words joined by `_`.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// The spelling used on the wire, in ClickHouse and in metrics.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who must act. Each root cause has one [`Action`] by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootCause {
    /// The recipient list holds addresses that do not exist.
    List,
    /// What is sent.
    Content,
    /// SPF, DKIM, DMARC of the sender.
    Authentication,
    /// DNS, PTR, TLS, routing.
    Infrastructure,
    /// Sent too fast.
    Throttling,
    /// The name of the sending IP or domain.
    Reputation,
    /// The recipient's mailbox.
    Mailbox,
    /// Not known.
    Unknown,
}

/// What the sender does about a root cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Remove the recipient from the list.
    RemoveRecipient,
    /// Review the content.
    ReviewContent,
    /// Fix SPF, DKIM or DMARC.
    FixAuthentication,
    /// Fix DNS, PTR or TLS.
    FixInfrastructure,
    /// Reduce velocity.
    ReduceVelocity,
    /// Request delisting and slow down.
    RequestDelisting,
    /// Retry later.
    RetryLater,
    /// Look at the reply: nothing is known about it.
    Investigate,
}

impl RootCause {
    /// The spelling used on the wire, in ClickHouse and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Content => "content",
            Self::Authentication => "authentication",
            Self::Infrastructure => "infrastructure",
            Self::Throttling => "throttling",
            Self::Reputation => "reputation",
            Self::Mailbox => "mailbox",
            Self::Unknown => "unknown",
        }
    }

    /// What is done about it unless a rule says otherwise.
    pub const fn default_action(self) -> Action {
        match self {
            Self::List => Action::RemoveRecipient,
            Self::Content => Action::ReviewContent,
            Self::Authentication => Action::FixAuthentication,
            Self::Infrastructure => Action::FixInfrastructure,
            Self::Throttling => Action::ReduceVelocity,
            Self::Reputation => Action::RequestDelisting,
            Self::Mailbox => Action::RetryLater,
            Self::Unknown => Action::Investigate,
        }
    }
}

impl Action {
    /// The spelling used on the wire, in ClickHouse and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RemoveRecipient => "remove_recipient",
            Self::ReviewContent => "review_content",
            Self::FixAuthentication => "fix_authentication",
            Self::FixInfrastructure => "fix_infrastructure",
            Self::ReduceVelocity => "reduce_velocity",
            Self::RequestDelisting => "request_delisting",
            Self::RetryLater => "retry_later",
            Self::Investigate => "investigate",
        }
    }
}
