//! Reply codes and enhanced status codes: reading them, and the patterns by which rules name them.

use std::fmt;

/// An enhanced status code (RFC 3463), `5.1.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about: addressing, mailbox, system, …
    pub subject: u16,
    /// What exactly.
    pub detail: u16,
}

impl EnhancedCode {
    /// Reads `5.1.1`, with nothing before or after it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (code, rest) = Self::parse_prefix(text)?;
        rest.is_empty().then_some(code)
    }

    /// Reads a code at the start of `text` and returns what follows it; `5.1.1234` and `5.1.1.2` are none.
    pub(crate) fn parse_prefix(text: &[u8]) -> Option<(Self, &[u8])> {
        let [class @ (b'2' | b'4' | b'5'), b'.', rest @ ..] = text else { return None };
        let (subject, rest) = up_to_three_digits(rest)?;
        let [b'.', rest @ ..] = rest else { return None };
        let (detail, rest) = up_to_three_digits(rest)?;
        if matches!(rest, [b'.', d, ..] if d.is_ascii_digit()) {
            return None;
        }
        Some((Self { class: class - b'0', subject, detail }, rest))
    }

    /// `x.0.0` repeats the class and says nothing more: many MTAs put it where the reply had none.
    pub(crate) fn is_vague(self) -> bool {
        self.subject == 0 && self.detail == 0
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

fn up_to_three_digits(text: &[u8]) -> Option<(u16, &[u8])> {
    let n = text.iter().take(4).take_while(|b| b.is_ascii_digit()).count();
    if n == 0 || n == 4 {
        return None;
    }
    Some((text[..n].iter().fold(0, |v, b| v * 10 + u16::from(b - b'0')), &text[n..]))
}

/// The failure code (4xx, 5xx) made of exactly the first three bytes, if they are one.
pub(crate) fn reply_code(text: &[u8]) -> Option<u16> {
    match text {
        [a @ (b'4' | b'5'), b, c, ..] if b.is_ascii_digit() && c.is_ascii_digit() => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}

/// `550`, `55x`, `5xx`, or `none` for a reply without a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyPattern {
    low: u16,
    high: u16,
}

impl ReplyPattern {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "none" {
            return Some(Self { low: 0, high: 0 });
        }
        if text.len() != 3 {
            return None;
        }
        let digits = text.trim_end_matches('x');
        let n: u16 = digits.parse().ok()?;
        let unit = 10u16.pow(3 - digits.len() as u32);
        let low = n * unit;
        (100..=999).contains(&low).then_some(Self { low, high: low + unit - 1 })
    }

    pub(crate) fn matches(self, code: u16) -> bool {
        (self.low..=self.high).contains(&code)
    }

    pub(crate) fn covers(self, other: Self) -> bool {
        self.low <= other.low && other.high <= self.high
    }
}

/// `5.1.1`, `x.2.2`, `5.7.x`, `5.7.606-649`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EnhancedPattern {
    class: Option<u8>,
    subject: Option<u16>,
    detail: (u16, u16),
}

impl EnhancedPattern {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let class = match class {
            "x" => None,
            "2" | "4" | "5" => Some(class.as_bytes()[0] - b'0'),
            _ => return None,
        };
        let subject = if subject == "x" { None } else { Some(subject.parse().ok()?) };
        let detail = match detail.split_once('-') {
            _ if detail == "x" => (0, u16::MAX),
            Some((low, high)) => (low.parse().ok()?, high.parse().ok()?),
            None => (detail.parse().ok()?, detail.parse().ok()?),
        };
        (detail.0 <= detail.1).then_some(Self { class, subject, detail })
    }

    pub(crate) fn matches(self, code: EnhancedCode) -> bool {
        self.class.is_none_or(|c| c == code.class)
            && self.subject.is_none_or(|s| s == code.subject)
            && (self.detail.0..=self.detail.1).contains(&code.detail)
    }

    pub(crate) fn covers(self, other: Self) -> bool {
        self.class.is_none_or(|c| other.class == Some(c))
            && self.subject.is_none_or(|s| other.subject == Some(s))
            && (self.detail.0 <= other.detail.0 && other.detail.1 <= self.detail.1)
    }

    /// The one (subject, detail) this names, if it is one: rules are indexed by it.
    pub(crate) fn key(self) -> Option<(u16, u16)> {
        (self.detail.0 == self.detail.1).then_some((self.subject?, self.detail.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enhanced_codes_are_read_whole() {
        let code = |t: &str| EnhancedCode::parse(t.as_bytes()).map(|c| c.to_string());
        assert_eq!(code("5.7.606").as_deref(), Some("5.7.606"));
        for bad in ["", "5", "5.1", "5.1.", "3.1.1", "5.1.1.", "5.1.1.2", "5.1.1234", "55.1.1", "5.1.x"] {
            assert_eq!(code(bad), None, "{bad}");
        }
    }

    #[test]
    fn patterns_match_what_they_name() {
        let reply = |p, c| ReplyPattern::parse(p).is_some_and(|p| p.matches(c));
        assert!(reply("5xx", 550) && reply("55x", 559) && reply("550", 550) && reply("none", 0));
        assert!(!reply("5xx", 450) && !reply("55x", 560) && !reply("none", 550) && !reply("x50", 550) && !reply("xxx", 0));
        let enhanced =
            |p, c: &str| EnhancedPattern::parse(p).zip(EnhancedCode::parse(c.as_bytes())).is_some_and(|(p, c)| p.matches(c));
        assert!(enhanced("x.2.2", "4.2.2") && enhanced("5.7.x", "5.7.26") && enhanced("5.7.606-649", "5.7.620"));
        assert!(!enhanced("5.2.2", "4.2.2") && !enhanced("5.7.606-649", "5.7.605") && !enhanced("5.7.1", "5.7.13"));
    }
}
