//! One pass over a diagnostic: wrappers of MTAs found, codes read, variable parts handed to the masking.
//! Owns what a reply's text looks like around its words; must not know what any word means for a verdict.

use crate::bytes::{PADDING, is_blank, is_lower_case, letters_at, starts_ignore_case};
use crate::codes::{EnhancedCode, reply_code};
use crate::command::Command;
use crate::wrapper::spaced_qmail_log;

/// What a byte may do to the word it stands in, as bits: a word's flags are the union of its bytes'.
pub(crate) const LETTER: u8 = 1;
pub(crate) const DIGIT: u8 = 2;
pub(crate) const DOT: u8 = 4;
pub(crate) const AT: u8 = 8;
pub(crate) const COLON: u8 = 16;
pub(crate) const SLASH: u8 = 32;
pub(crate) const INNER: u8 = 64;
const BREAK: u8 = 128;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut t = [BREAK; 256];
    let mut i = 0;
    while i < 128 {
        let b = i as u8;
        t[i] = match b {
            b'a'..=b'z' | b'A'..=b'Z' => LETTER,
            b'0'..=b'9' => DIGIT,
            b'.' => DOT,
            b'@' => AT,
            b':' => COLON,
            b'/' => SLASH,
            b'-' | b'_' | b'#' | b'+' | b'%' | b'&' | b'=' | b'~' | b'!' | b'?' | b'$' | b'^' | b'*' => INNER,
            _ => BREAK,
        };
        i += 1;
    }
    t
}

/// The reply while it is read. Reused: warm, it allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The masked text.
    pub(crate) out: Vec<u8>,
    /// The text being read, in lower case, and [`PADDING`] after it.
    lower: Vec<u8>,
    /// Scratch: a part of a URL.
    pub(crate) word: Vec<u8>,
    pub(crate) reply: u16,
    pub(crate) enhanced: Option<EnhancedCode>,
    pub(crate) command: Command,
    pub(crate) greeting: bool,
    /// White space was passed since the last output.
    pub(crate) gap: bool,
    /// The bracket that closes one already left out.
    pub(crate) skip_close: u8,
    /// The last thing read was an opening bracket or a quote.
    pub(crate) opened: bool,
    quoted: bool,
    pub(crate) line_start: bool,
    pub(crate) code_seen: bool,
    pub(crate) wrap_end: usize,
    pub(crate) done: bool,
}

impl Scan {
    pub(crate) fn start(&mut self, reply: u16, enhanced: Option<EnhancedCode>, command: Command) {
        self.out.clear();
        self.reply = reply;
        self.enhanced = enhanced;
        self.command = command;
        self.greeting = command == Command::Connect;
        (self.gap, self.opened, self.quoted, self.line_start) = (false, false, false, true);
        (self.code_seen, self.done) = (false, false);
        (self.skip_close, self.wrap_end) = (0, 0);
    }

    pub(crate) fn text(&mut self, text: &str) {
        let spaced = spaced_qmail_log(text);
        let text = spaced.as_deref().unwrap_or(text);
        let bytes = text.as_bytes();
        let mut lower = std::mem::take(&mut self.lower);
        lower.clear();
        lower.extend_from_slice(bytes);
        lower.make_ascii_lowercase();
        lower.extend_from_slice(&PADDING);
        let mut i = 0;
        while i < bytes.len() && !self.done {
            let b = bytes[i];
            if CLASS[usize::from(b)] != BREAK {
                i = self.word_at(&lower, i);
            } else if is_blank(b) {
                self.gap = true;
                self.line_start |= b == b'\n';
                i += 1;
            } else if b < 0x80 {
                i += self.joint(b, &bytes[i + 1..]);
            } else {
                i = self.beyond_ascii(text, i);
            }
        }
        self.lower = lower;
        self.unwrap_reply();
    }

    /// Reads the word that starts at `start` of the text in lower case, which [`PADDING`] follows; returns where it ends.
    fn word_at(&mut self, padded: &[u8], start: usize) -> usize {
        let bytes = &padded[..padded.len() - PADDING.len()];
        if matches!(bytes[start..], [b'h' | b'f', b't', ..] | [b'w', b'w', ..])
            && let Some(end) = url_end(&bytes[start..])
        {
            self.space();
            self.url(&bytes[start..start + end]);
            self.passed();
            return start + end;
        }
        // Most words are letters only, and most of a reply's time would go to asking each of them what it is.
        let mut i = start + letters_at(padded, start);
        let mut flags = if i > start { LETTER } else { 0 };
        while let Some(&b) = bytes.get(i) {
            let class = CLASS[usize::from(b)];
            if class == BREAK {
                let apostrophe =
                    b == b'\'' && bytes[i - 1].is_ascii_alphabetic() && bytes.get(i + 1).is_some_and(u8::is_ascii_alphabetic);
                if !apostrophe {
                    break;
                }
                flags |= INNER;
            } else {
                flags |= class;
            }
            i += 1;
        }
        self.word(&bytes[start..i], flags, &bytes[i..]);
        i
    }

    /// One word with the punctuation around it; `rest` is the text after it.
    pub(crate) fn word(&mut self, word: &[u8], flags: u8, rest: &[u8]) {
        // Google ends its replies with the id of the session, which may happen to have no digit: `…-abc - gsmtp`.
        if rest.starts_with(b" - ") && starts_ignore_case(rest, b" - gsmtp") {
            self.space();
            self.hole(b"<id>");
            return self.passed();
        }
        if flags == LETTER {
            // A string of bytes as Python prints it: `(550, b'5.7.1 …')`.
            if word == b"b" && rest.first() == Some(&b'\'') {
                return;
            }
            if word == b"reply" && self.out.ends_with(b"(in") {
                return self.in_reply_to(rest);
            }
            if word == b"delivery" && self.out.ends_with(b"(") && starts_ignore_case(rest, b" attempts") {
                self.out.pop();
                self.done = true;
                return;
            }
            self.space();
            self.letters(word);
            return self.passed();
        }
        if flags & INNER != 0 && self.log_field(word, rest) {
            return;
        }
        if flags & AT != 0 && self.address(word) {
            return self.passed();
        }
        if flags & SLASH != 0 && word[0] == b'/' && word[1..].contains(&b'/') {
            self.hole(b"<path>");
            return self.passed();
        }
        let edge = |b: &u8| !b.is_ascii_alphanumeric();
        let lead = word.iter().take_while(|b| edge(b)).count();
        if lead == word.len() {
            self.punctuation(word);
            return;
        }
        let tail = word.len() - word.iter().rev().take_while(|b| edge(b)).count();
        let core = &word[lead..tail];
        self.punctuation(&word[..lead]);
        if flags & DIGIT != 0 && self.code(core, &word[tail..], rest) {
            return;
        }
        self.masked(core, if core.len() == word.len() { flags } else { flags_of(core) });
        self.passed();
        self.punctuation(&word[tail..]);
        if word[tail..].starts_with(b":") {
            self.after_colon(core, rest);
        }
    }

    pub(crate) fn passed(&mut self) {
        (self.opened, self.quoted, self.line_start, self.skip_close) = (false, false, false, self.skip_close);
    }

    /// A code in the text: true where the word was one and is dealt with.
    pub(crate) fn code(&mut self, core: &[u8], tail: &[u8], rest: &[u8]) -> bool {
        if let Some(code) = reply_code(core) {
            let after = core.get(3).copied();
            if after.is_none() || after == Some(b'-') || after == Some(b':') || after == Some(b'_') {
                let inner = core.get(4..).unwrap_or_default();
                let known = self.reply == code;
                if self.says_code(code, known, inner, rest) {
                    self.line_start = false;
                    if self.reply == 0 {
                        self.reply = code;
                    }
                    if self.reply == code {
                        self.left_out();
                        if !self.code_seen {
                            (self.code_seen, self.wrap_end) = (true, self.out.len());
                        }
                    } else {
                        self.gap = true;
                        self.space();
                        self.out.extend_from_slice(&core[..3]);
                    }
                    (self.opened, self.gap) = (true, true);
                    if !inner.is_empty() {
                        self.gap = true;
                        self.word(inner, flags_of(inner), rest);
                        self.punctuation(tail);
                    }
                    return true;
                }
            }
        }
        if core.get(1) != Some(&b'.') {
            return false;
        }
        let Some((code, inner)) = EnhancedCode::parse_prefix(core) else { return false };
        if inner.first().is_some_and(u8::is_ascii_alphanumeric) || code.class == 2 {
            return false;
        }
        if self.enhanced.is_none_or(|e| e.is_vague() && !code.is_vague()) {
            self.enhanced = Some(code);
        }
        if self.enhanced == Some(code) || code.is_vague() {
            self.left_out();
        } else {
            self.space();
            self.out.extend_from_slice(&core[..core.len() - inner.len()]);
        }
        self.line_start = false;
        if inner.len() > 1 {
            self.gap = true;
            self.word(&inner[1..], flags_of(&inner[1..]), rest);
            self.punctuation(tail);
        }
        true
    }

    /// Is a three-digit number here a reply code, and not just a number?
    fn says_code(&self, code: u16, known: bool, inner: &[u8], rest: &[u8]) -> bool {
        if known || self.line_start || self.out.is_empty() {
            return true;
        }
        let next = if inner.is_empty() { rest.trim_ascii_start() } else { inner };
        let next = next.strip_prefix(b"(").unwrap_or(next);
        if EnhancedCode::parse_prefix(next.strip_prefix(b"#").unwrap_or(next)).is_some_and(|(e, _)| e.class != 2) {
            return true;
        }
        let usual = matches!(code, 420..=429 | 430..=439 | 450..=459 | 500..=504 | 520..=529 | 530..=539 | 550..=559 | 571);
        let before = self.out.trim_ascii_end();
        usual
            && (self.opened
                || before.ends_with(b":")
                || before.ends_with(b"=")
                || [&b"code"[..], b"error", b"said", b"returned", b"response"].iter().any(|w| before.ends_with(w)))
    }

    /// A code was read and left out: so are brackets that held nothing else.
    fn left_out(&mut self) {
        match self.out.last() {
            Some(b'(') => self.skip_close = b')',
            Some(b'[') => self.skip_close = b']',
            _ => return,
        }
        self.out.pop();
    }

    /// Brackets, quotes and separators between words. Returns how many bytes were read.
    fn joint(&mut self, b: u8, rest: &[u8]) -> usize {
        match b {
            b'<' => {
                if let Some(n) = tag_len(rest) {
                    self.gap = true;
                    return n + 1;
                }
                self.opened = true;
            }
            b'"' | b'\'' | b'`' => (self.opened, self.quoted) = (true, true),
            b'(' | b'[' | b'{' => {
                self.space();
                // Postfix's log: `status=bounced (host mx said: …)`.
                let status = [&b"status=bounced "[..], b"status=deferred "].iter().any(|s| self.out.ends_with(s));
                self.out.push(b);
                if status && !self.code_seen {
                    self.wrap_end = self.out.len();
                }
                (self.opened, self.skip_close) = (true, 0);
            }
            b')' | b']' | b'}' => {
                let skip = self.skip_close == b;
                self.skip_close = 0;
                let open = if b == b')' { b'(' } else { b - 2 };
                if self.out.last() == Some(&open) {
                    self.out.pop();
                } else if !skip {
                    self.out.push(b);
                }
            }
            b',' | b';' => {
                let wrapper = match &self.out[..] {
                    b"smtp" | b"x-postfix" | b"x-exim" => true,
                    // Before a number alone, the type is what says that it is an exit status.
                    b"x-unix" | b"unix" => rest.iter().any(|b| b.is_ascii_alphabetic() || !b.is_ascii()),
                    _ => false,
                };
                if b == b';' && wrapper {
                    self.out.clear();
                } else if b == b';' && !self.code_seen && self.out.ends_with(b": smtp") {
                    // The same type after words of the reporting server.
                    self.wrap_end = self.out.len();
                    self.opened = true;
                } else if !self.out.is_empty() {
                    self.out.push(b);
                }
                self.skip_close = 0;
            }
            // A line end that was escaped on its way here.
            b'\\' if matches!(rest, [b'n' | b'r' | b't', after, ..] if !after.is_ascii_lowercase()) => {
                (self.gap, self.line_start) = (true, true);
                return 2;
            }
            _ => {}
        }
        1
    }

    fn beyond_ascii(&mut self, text: &str, start: usize) -> usize {
        let mut i = start;
        for c in text[start..].chars() {
            if c.is_ascii() {
                break;
            }
            i += c.len_utf8();
            let plain: u8 = match c {
                '\u{2018}' | '\u{2019}' => b'\'',
                '\u{ff1a}' => b':',
                '\u{ff08}' => b'(',
                '\u{ff09}' => b')',
                '\u{ff0c}' | '\u{3001}' => b',',
                '\u{201c}' | '\u{201d}' | '\u{200b}' | '\u{feff}' | '\u{ad}' => continue,
                c if c.is_whitespace() || c.is_control() => {
                    self.gap = true;
                    continue;
                }
                c if is_lower_case(c) => {
                    self.space();
                    self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
                c => {
                    self.space();
                    let mut utf8 = [0; 4];
                    for lower in c.to_lowercase() {
                        self.out.extend_from_slice(lower.encode_utf8(&mut utf8).as_bytes());
                    }
                    continue;
                }
            };
            self.space();
            self.out.push(plain);
        }
        self.passed();
        i
    }

    /// A space where white space was passed.
    pub(crate) fn space(&mut self) {
        if self.gap {
            self.gap = false;
            if self.out.last().is_some_and(|b| *b != b' ') {
                self.out.push(b' ');
            }
        }
    }

    pub(crate) fn was_quoted(&self) -> bool {
        self.quoted
    }

    fn punctuation(&mut self, marks: &[u8]) {
        for &b in marks {
            let dropped = matches!(b, b'*' | b'#' | b'~' | b'^') || (self.out.is_empty() && b != b'/');
            if !dropped {
                self.space();
                self.out.push(b);
            }
        }
    }
}

pub(crate) fn flags_of(word: &[u8]) -> u8 {
    word.iter().fold(0, |flags, b| flags | if CLASS[usize::from(*b)] == BREAK { INNER } else { CLASS[usize::from(*b)] })
}

/// The length of a URL at the start of `text`, if there is one.
fn url_end(text: &[u8]) -> Option<usize> {
    let scheme = [&b"http://"[..], b"https://", b"www.", b"ftp://"].into_iter().find(|s| starts_ignore_case(text, s))?;
    let end = text.iter().position(|b| {
        is_blank(*b)
            || *b >= 0x80
            || matches!(b, b'<' | b'>' | b'"' | b'\'' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'\\' | b'`' | b'|')
    });
    let mut end = end.unwrap_or(text.len());
    while end > scheme.len() && matches!(text[end - 1], b'.' | b',' | b';' | b':' | b'!' | b'*') {
        end -= 1;
    }
    (end > scheme.len()).then_some(end)
}

/// The length of an HTML tag whose `<` was just read: `br>`, `/html>`.
fn tag_len(rest: &[u8]) -> Option<usize> {
    let end = rest.iter().take(8).position(|b| *b == b'>')?;
    let name = &rest[..end];
    let closing = name.first() == Some(&b'/') && end > 1 && name[1..].iter().all(u8::is_ascii_alphabetic);
    let known = [&b"br"[..], b"br/", b"br /", b"p", b"b", b"i", b"html", b"pre", b"div", b"tt"]
        .iter()
        .any(|t| name.eq_ignore_ascii_case(t));
    (closing || known).then_some(end + 1)
}
