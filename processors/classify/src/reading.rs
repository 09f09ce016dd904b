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
        if self.scan.reply != 0 {
            push_number(template, self.scan.reply);
        }
        if let Some(e) = self.scan.enhanced.filter(|e| !e.is_vague()) {
            if !template.is_empty() {
                template.push(' ');
            }
            push_number(template, u16::from(e.class));
            template.push('.');
            push_number(template, e.subject);
            template.push('.');
            push_number(template, e.detail);
        }
        let body = std::str::from_utf8(&self.scan.out).unwrap_or_default();
        if !template.is_empty() && !body.is_empty() {
            template.push(' ');
        }
        self.body = template.len();
        template.push_str(body);
        self.fingerprint = fingerprint(template.as_bytes());
    }

    /// The codes and the masked text, as one line: what two replies that say the same share.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// The masked text without the codes before it.
    pub fn body(&self) -> &str {
        &self.template[self.body..]
    }

    /// A 64-bit hash of [`Reading::template`], the same on every machine for one [`PATTERN_VERSION`].
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

/// Adds a number below 1000.
fn push_number(out: &mut String, n: u16) {
    for unit in [100, 10, 1] {
        if n >= unit || unit == 1 {
            out.push(char::from(b'0' + (n / unit % 10) as u8));
        }
    }
}

/// The hash behind fingerprints, fixed for good: FNV-1a's basis, its step taken over little-endian words of eight bytes (the
/// last one padded with zeros) with another multiplier and a shift that carries the high half down, then the length.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |h: u64, word: u64| {
        let h = (h ^ word).wrapping_mul(STEP);
        h ^ (h >> 32)
    };
    let (words, tail) = bytes.as_chunks::<8>();
    let h = words.iter().fold(0xcbf2_9ce4_8422_2325, |h, w| step(h, u64::from_le_bytes(*w)));
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    step(step(h, u64::from_le_bytes(last)), bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_never_change() {
        assert_eq!(fingerprint(b""), FIXED[0]);
        assert_eq!(fingerprint(b"550 5.1.1 <addr>: user unknown"), FIXED[1]);
    }

    const FIXED: [u64; 2] = [9_656_713_507_271_086_597, 12_633_116_065_514_369_452];
}
