//! The diagnostic as people may read it: what could name the recipient is masked, the rest stays readable.
//! Errs on the side of masking; decides nothing.

use crate::bytes::{floor_boundary, is_blank, starts_ignore_case};

/// The longest diagnostic kept, in bytes.
pub const MAX_DIAGNOSTIC: usize = 4096;

const HIDDEN: &str = "***";

/// Words after which a lone or quoted name is a local part.
const NAMES_USER: [&str; 8] = ["user", "mailbox", "account", "recipient", "login", "alias", "username", "for"];

/// Writes `diagnostic` to `out`: local parts of addresses masked, also encoded ones and those in paths or after
/// "unknown user"; white space and control characters folded to one space; at most [`MAX_DIAGNOSTIC`] bytes.
pub fn redact(diagnostic: &str, out: &mut String) {
    out.clear();
    let diagnostic = page(diagnostic);
    let mut before = Before::default();
    for word in diagnostic.split(is_gap).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        let start = out.len();
        if word.bytes().any(|b| matches!(b, b'@' | b'%' | b'=' | b'&')) {
            addresses(word, out);
        } else {
            out.push_str(word);
        }
        // An address whose quote was opened words ago has taken them back, and `start` with them.
        if out.get(start..) == Some(word) {
            if is_path(word) {
                out.truncate(start);
                out.push('/');
                out.push_str(HIDDEN);
            } else if before.names_user(word) {
                let (name_start, name_end) = name_within(word);
                out.truncate(start);
                out.push_str(&word[..name_start]);
                out.push_str(HIDDEN);
                out.push_str(&word[name_end..]);
            }
        }
        before.pass(word);
    }
    let end = floor_boundary(out, MAX_DIAGNOSTIC);
    out.truncate(end);
}

/// What is kept of a text: where it is cut, whole words only, and no quote that is cut open. Half an address would not be known for one.
fn page(diagnostic: &str) -> &str {
    if diagnostic.len() <= MAX_DIAGNOSTIC {
        return diagnostic;
    }
    let page = &diagnostic[..floor_boundary(diagnostic, MAX_DIAGNOSTIC)];
    let page = &page[..page.rfind(is_gap).unwrap_or(0)];
    let open = page.bytes().filter(|b| *b == b'"').count() % 2 == 1;
    if open { &page[..page.rfind('"').unwrap_or(0)] } else { page }
}

/// What parts words.
fn is_gap(c: char) -> bool {
    if c.is_ascii() { is_blank(c as u8) } else { c.is_whitespace() || c.is_control() }
}

/// The words before, as far as they say that a name follows.
#[derive(Default)]
struct Before {
    unknown: bool,
    user: bool,
    colon: bool,
}

impl Before {
    fn names_user(&self, word: &str) -> bool {
        if !self.user {
            return false;
        }
        let (start, end) = name_within(word);
        let name = &word[start..end];
        let quoted = start > 0 && word[..start].ends_with(['"', '\'', '`', '\u{201c}', '\u{2018}']);
        let plain = [
            "in", "or", "at", "name", "account", "is", "mailbox", "on", "error", "the", "for", "unknown", "not", "here", "has",
            "was", "does", "by", "and", "with",
        ];
        let sentence = plain.iter().any(|p| name.eq_ignore_ascii_case(p)) || name.is_empty();
        let code = name.len() >= 3 && name.as_bytes()[..3].iter().all(u8::is_ascii_digit);
        !sentence
            && !code
            && (quoted || self.unknown || (self.colon && name.bytes().any(|b| b.is_ascii_digit() || matches!(b, b'.' | b'_'))))
    }

    fn pass(&mut self, word: &str) {
        let (start, end) = name_within(word);
        let bare = &word.as_bytes()[start..end];
        let is = |words: &[&str]| words.iter().any(|w| bare.eq_ignore_ascii_case(w.as_bytes()));
        // Every word asked for begins with one of these; most others do not.
        let asked = bare.first().is_some_and(|b| matches!(b | 0x20, b'u' | b'm' | b'a' | b'r' | b'l' | b'f' | b'i'));
        let (user, unknown) = if asked { (is(&NAMES_USER), is(&["unknown", "illegal"])) } else { (false, false) };
        (self.unknown, self.user) = (unknown || (user && self.unknown), user && !word.ends_with(['.', ',', ';', ')']));
        self.colon = word.ends_with(':');
    }
}

/// The part of a word without the punctuation around it.
fn name_within(word: &str) -> (usize, usize) {
    let start = word.len() - word.trim_start_matches(|c: char| !c.is_alphanumeric()).len();
    let end = word.trim_end_matches(|c: char| !c.is_alphanumeric()).len();
    (start, end.max(start))
}

/// A file's path: mail spools hold the user's name.
fn is_path(word: &str) -> bool {
    let word = word.trim_start_matches(['"', '\'', '<', '(', '|', '`']);
    word.starts_with('/') && word[1..].contains('/') && !word.starts_with("//")
}

/// Masks the local part of every address in a word: all before each at-sign, back to what cannot be part of one.
fn addresses(word: &str, out: &mut String) {
    let url = word.contains("://");
    let mut rest = word;
    while let Some((at, len)) = at_sign(rest) {
        let local = &rest[..at];
        // A quoted local part may hold anything; another goes back to a delimiter.
        let from = match local.strip_suffix('"').map(|l| l.rfind('"')) {
            Some(Some(open)) => open,
            // `"a b"@host`: the quote was opened words ago.
            Some(None) => {
                let open = out.rfind('"').unwrap_or(out.len());
                out.truncate(open);
                0
            }
            None => local
                .rfind(['<', '>', '(', ')', '[', ']', '{', '}', ',', ';', ':', '"', '|', '\\'])
                .max(if url { local.rfind(['=', '/', '?', '&']) } else { None })
                .map_or(0, |i| i + local[i..].chars().next().map_or(1, char::len_utf8)),
        };
        out.push_str(&rest[..from]);
        if from < at {
            out.push_str(HIDDEN);
        }
        out.push_str(&rest[at..at + len]);
        rest = &rest[at + len..];
    }
    out.push_str(rest);
}

/// The first at-sign, plain or encoded, and its length.
fn at_sign(text: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find_map(|at| Some((at, at_sign_length(&bytes[at..])?)))
}

/// The length of the at-sign a text begins with, plain or encoded.
pub fn at_sign_length(text: &[u8]) -> Option<usize> {
    const ENCODED: [&[u8]; 5] = [b"%40", b"=40", b"&#64;", b"&#x40;", b"%2540"];
    match text.first()? {
        b'@' => Some(1),
        b'%' | b'=' | b'&' => ENCODED.iter().find(|sign| starts_ignore_case(text, sign)).map(|sign| sign.len()),
        _ => None,
    }
}
