//! A reply as read: its codes, the command it answers, and its text folded and masked. All that rules may see.
//! Reading decides nothing.

use bounceflow_event::EventType;

use crate::bytes::floor_boundary;
use crate::codes::EnhancedCode;
use crate::command::Command;
use crate::redact::MAX_DIAGNOSTIC;
use crate::scan::Scan;
use crate::{Reply, provider};

/// The version of the masking: fingerprints compare only within one.
pub const PATTERN_VERSION: u32 = 1;

/// A reply as read. A buffer to be reused: warm, reading allocates nothing.
#[derive(Debug, Default)]
pub struct Reading {
    scan: Scan,
    template: String,
    body: usize,
    fingerprint: u64,
    event: Option<EventType>,
    provider: String,
}

impl Reading {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a reply in place of the last one.
    pub fn read(&mut self, reply: &Reply<'_>) {
        let code = if (400..600).contains(&reply.reply_code) { reply.reply_code } else { 0 };
        let enhanced = EnhancedCode::parse(reply.enhanced_code.trim_ascii().as_bytes()).filter(|e| e.class != 2);
        self.event = reply.event;
        self.provider.clear();
        self.provider.push_str(provider::resolve(reply.isp, reply.mx_host, reply.recipient_domain));
        self.scan.start(code, enhanced, Command::parse(reply.command));
        self.scan.text(&reply.diagnostic[..floor_boundary(reply.diagnostic, MAX_DIAGNOSTIC)]);
        self.compose();
    }

    /// `550 5.1.1 <addr> user unknown`: the codes first, wherever they were said.
    fn compose(&mut self) {
        let template = &mut self.template;
        template.clear();
        let mut code = [b'0'; 3];
        if self.scan.reply != 0 {
            for (digit, unit) in code.iter_mut().zip([100, 10, 1]) {
                *digit += (self.scan.reply / unit % 10) as u8;
            }
            template.push_str(std::str::from_utf8(&code).unwrap_or_default());
        }
        if let Some(e) = self.scan.enhanced {
            if !e.is_vague() {
                use std::fmt::Write;
                if !template.is_empty() {
                    template.push(' ');
                }
                let _ = write!(template, "{e}");
            }
        }
        let body = std::str::from_utf8(&self.scan.out).unwrap_or_default();
        if !template.is_empty() && !body.is_empty() {
            template.push(' ');
        }
        self.body = template.len();
        template.push_str(body);
        self.fingerprint = fnv1a(template.as_bytes());
    }

    /// The codes and the masked text, as one line: what two replies that say the same share.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// The masked text without the codes before it.
    pub fn body(&self) -> &str {
        &self.template[self.body..]
    }

    /// The 64-bit FNV-1a hash of [`Reading::template`], the same on every machine for one [`PATTERN_VERSION`].
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The reply code, from the field or from the text; 0 where there is none.
    pub fn reply_code(&self) -> u16 {
        self.scan.reply
    }

    /// The enhanced code, from the field or from the text.
    pub fn enhanced_code(&self) -> Option<EnhancedCode> {
        self.scan.enhanced
    }

    /// The SMTP command the reply answers.
    pub fn command(&self) -> Command {
        self.scan.command
    }

    /// The reply came instead of a greeting.
    pub fn greeting(&self) -> bool {
        self.scan.greeting
    }

    /// What the sender reports.
    pub fn event(&self) -> Option<EventType> {
        self.event
    }

    /// The provider's id as given, else the family the host or the domain belongs to, else empty.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// 4 or 5: of the reply code, else of the enhanced code; 0 where there is neither.
    pub fn class(&self) -> u8 {
        match self.scan.reply {
            0 => self.scan.enhanced.map_or(0, |e| e.class),
            code => (code / 100) as u8,
        }
    }
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
