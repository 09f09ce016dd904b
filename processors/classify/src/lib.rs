//! SMTP reply to verdict: what a reply says, who must act and what they do, and which rule says so.
//!
//! [`Reading`] folds and masks a reply; [`Rules`] decide from the reading alone; [`Classifier`] joins both behind a bounded
//! cache. **Invariant:** rules see nothing but the [`Reading`], so that a verdict is a function of the cache's key.
//!
//! Pure: no clock, no randomness, no I/O, no logging; any string in, never a panic.

mod bytes;
mod codes;
mod command;
mod provider;
mod mask;
mod scan;
mod wrapper;
mod reading;
mod rule;
mod covers;
mod file;
mod rules;
mod builtin;
mod classifier;
mod redact;

use std::sync::Arc;

use bounceflow_event::{Action, Category, EventType, RootCause, Severity};

use builtin::NO_RULE;
pub use builtin::{BUILTIN, FALLBACK};
pub use classifier::{Classified, Classifier, Lookups};
pub use codes::EnhancedCode;
pub use command::Command;
pub use provider::is_family;
pub use reading::{PATTERN_VERSION, Reading};
pub use redact::{MAX_DIAGNOSTIC, at_sign_length, redact};
pub use rule::{Example, Rule, RulesError};
pub use rules::{ExampleFailure, Match, NeverWins, Rules, RulesErrors};

/// What is known of a reply. An empty string or 0 means: not said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reply<'a> {
    /// What the sender reports: a deferral is being retried, a bounce is final.
    pub event: Option<EventType>,
    /// The three-digit code, `550`.
    pub reply_code: u16,
    /// The enhanced status code, `5.1.1`.
    pub enhanced_code: &'a str,
    /// The text of the reply, with or without its codes, as logged.
    pub diagnostic: &'a str,
    /// The SMTP command that was refused: `RCPT TO:<…>`, `.` for the end of DATA.
    pub command: &'a str,
    /// The mailbox provider's id, where it is known.
    pub isp: &'a str,
    /// The host that answered; tells the provider where `isp` does not.
    pub mx_host: &'a str,
    /// The recipient's domain; tells the provider where neither of the others does.
    pub recipient_domain: &'a str,
}

/// What a reply means. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the sender should do with the recipient and the message.
    pub severity: Severity,
    /// Why the message was refused.
    pub category: Category,
    /// The provider refused the sender or the content, not the recipient.
    pub blocked: bool,
    /// Who must act.
    pub root_cause: RootCause,
    /// What they do.
    pub action: Action,
    /// The rule that decided: operators argue with it by this name.
    pub rule: Arc<str>,
}

/// Whether no rule knew the words of a reply with this verdict: its category is `unknown`, or a last resort decided.
pub fn is_unmatched(category: &str, rule: &str) -> bool {
    category == Category::UNKNOWN.as_str() || rule.starts_with(FALLBACK) || rule == NO_RULE
}
