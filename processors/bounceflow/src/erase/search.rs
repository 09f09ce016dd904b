//! Whether bytes hold somebody's address or hash, however it is written: any case, quoted, percent-encoded, escaped in JSON, as VERP.
//!
//! In text an address must stand by itself (`kim@example.net` is not in `akim@example.net`). In binary records the byte before may be a
//! length, so there any occurrence counts: a letter too many is given up rather than one too few.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, BuildError};
use bounceflow_enrich::domain_of;
use bounceflow_event::avro::looks_like_avro;

/// Looks for all people at once.
pub struct Search {
    addresses: AhoCorasick,
    hashes: AhoCorasick,
}

impl Search {
    /// For these addresses, and these hashes of them.
    pub fn new(addresses: &[String], hashes: &[[u8; 16]]) -> Result<Self, BuildError> {
        let forms: Vec<String> = addresses.iter().flat_map(|address| forms(address)).collect();
        Ok(Self {
            addresses: AhoCorasick::builder().ascii_case_insensitive(true).build(&forms)?,
            hashes: AhoCorasick::new(hashes)?,
        })
    }

    /// Whether anybody of them is in these bytes.
    pub fn finds(&self, bytes: &[u8]) -> bool {
        if self.hashes.is_match(bytes) {
            return true;
        }
        let text = std::str::from_utf8(bytes).is_ok() && !looks_like_avro(bytes);
        let here =
            |bytes: &[u8]| self.addresses.find_overlapping_iter(bytes).any(|m| !text || stands_alone(bytes, m.start(), m.end()));
        here(bytes) || matches!(decoded(bytes), Cow::Owned(decoded) if here(&decoded))
    }
}

/// An address as people and machines write it; letter case aside.
fn forms(address: &str) -> Vec<String> {
    let Some((local, domain)) = address.rsplit_once('@') else { return Vec::new() };
    let local = local.strip_prefix('"').and_then(|l| l.strip_suffix('"')).unwrap_or(local);
    let mut domains = vec![domain.to_owned()];
    domains.extend(domain_of(address).map(Cow::into_owned));
    let mut forms = Vec::new();
    for domain in domains {
        for form in [format!("{local}@{domain}"), format!("{local}={domain}"), format!("\"{local}\"@{domain}")] {
            // ASCII is folded by the search itself.
            forms.extend([form.to_lowercase(), form.to_uppercase(), form]);
        }
    }
    forms.sort_unstable();
    forms.dedup();
    forms
}

/// Whether no other address goes on before or behind.
fn stands_alone(bytes: &[u8], start: usize, end: usize) -> bool {
    let word = |b: &u8| b.is_ascii_alphanumeric() || !b.is_ascii();
    // What is before a VERP address belongs to the mailer: `bounce+kim=example.net@…`.
    let verp = !bytes[start..end].contains(&b'@');
    let joins = |b: &u8| word(b) || matches!(b, b'.' | b'_') || (!verp && matches!(b, b'+' | b'-'));
    let before = start.checked_sub(1).and_then(|at| bytes.get(at));
    let (behind, next) = (bytes.get(end), bytes.get(end + 1));
    let goes_on = match behind {
        Some(b'.') => next.is_some_and(word),
        // Behind a VERP address too: `b-kim=example.net-7@…`.
        Some(b'-') => !verp,
        Some(b) => word(b),
        None => false,
    };
    !before.is_some_and(joins) && !goes_on
}

/// Percent-encoding and JSON's escapes undone; as it was where there are none. Both at once: one may stand in the other.
fn decoded(bytes: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'%', b'\\', bytes).is_none() {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let (char, length) = match byte {
            b'%' => (number(bytes, at + 1, 2), 3),
            b'\\' if bytes.get(at + 1) == Some(&b'u') => (number(bytes, at + 2, 4), 6),
            b'\\' => match bytes.get(at + 1) {
                Some(c @ (b'"' | b'\\' | b'/')) => (Some(u32::from(*c)), 2),
                // A control character: nothing an address goes on with.
                Some(_) => (Some(u32::from(b' ')), 2),
                None => (None, 1),
            },
            _ => (None, 1),
        };
        match (byte, char) {
            (_, None) => {
                out.push(byte);
                at += 1;
                continue;
            }
            (b'%', Some(encoded)) => out.push(encoded as u8),
            (_, Some(code)) => {
                let char = char::from_u32(code).unwrap_or(' ');
                out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        at += length;
    }
    Cow::Owned(out)
}

fn number(bytes: &[u8], at: usize, digits: usize) -> Option<u32> {
    let digits = bytes.get(at..at + digits)?;
    let all = digits.iter().all(u8::is_ascii_hexdigit);
    u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| all)?, 16).ok()
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "tests")]
mod tests {
    use super::*;

    fn finds(bytes: impl AsRef<[u8]>) -> bool {
        let addresses = ["Kim.Doe@Example.net".to_owned(), "jörg@bücher.example".to_owned()];
        Search::new(&addresses, &[*b"0123456789abcdef"]).expect("few patterns").finds(bytes.as_ref())
    }

    #[test]
    fn however_it_is_written() {
        for text in [
            "kim.doe@example.net",
            "550 <KIM.DOE@EXAMPLE.NET>: unknown",
            "bounce+kim.doe=example.net@news.example",
            "b-kim.doe=example.net-7",
            "https://news.example/u?m=kim.doe%40example.net&x=1",
            "https://news.example/u?m=%6Bim.doe%40example%2Enet",
            r#"{"recipient":"kim.doe\u0040example.net"}"#,
            r#"{"recipient":"\"kim.doe\"@example.net"}"#,
            r#"{"to":"Kim\n\"kim.doe\"@example.net"}"#,
            "mailto:kim.doe@example.net.",
            "jörg@bücher.example",
            "JÖRG@BÜCHER.EXAMPLE",
            "jörg@xn--bcher-kva.example",
            r#"{"recipient":"j\u00f6rg@b\u00FCcher.example"}"#,
        ] {
            assert!(finds(text), "{text}");
        }
        assert!(
            finds(b"\xc3\x01whatever\x26kim.doe@example.netabc"),
            "Avro: what is before and behind are lengths and other fields"
        );
        assert!(finds(b"\xc3\x01\x00\x000123456789abcdef\x01"), "the hash");
    }

    #[test]
    fn others_are_left_alone() {
        for text in [
            "akim.doe@example.net",
            "a.kim.doe@example.net",
            "a-kim.doe@example.net",
            "kim.doe@example.net.au",
            "kim.doe@example.network",
            "kim.doe@example.net-work.example",
            "doe@example.net",
            "kim.doe at example.net",
            "akim.doe=example.net@news.example",
            "100% of kim",
            "a\\",
            "%4",
            "",
        ] {
            assert!(!finds(text), "{text}");
        }
    }
}
