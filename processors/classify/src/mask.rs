//! What in a word varies from reply to reply, and the placeholder it becomes: two replies that say the same read the same.
//! Codes and short tokens of providers (`tss04`, `rp-001`, `aup#1260`) stay, since rules need them. Decides nothing.

use crate::bytes::append;
use crate::scan::{AT, COLON, DIGIT, DOT, INNER, LETTER, SLASH, Scan, flags_of};

/// Hosts that are themselves the message: block lists and lookup pages. Their own labels stay, longer ones are keys.
const KEPT_HOSTS: [&[u8]; 26] = [
    b"spamhaus.org",
    b"spamhaus.net",
    b"spamcop.net",
    b"sorbs.net",
    b"barracudacentral.org",
    b"uribl.com",
    b"surbl.org",
    b"cloudmark.com",
    b"proofpoint.com",
    b"senderscore.com",
    b"senderscore.net",
    b"invaluement.com",
    b"uceprotect.net",
    b"abusix.zone",
    b"mailspike.net",
    b"abuseat.org",
    b"njabl.org",
    b"ahbl.org",
    b"manitu.net",
    b"psbl.org",
    b"surriel.com",
    b"spfbl.net",
    b"truncate.gbudb.net",
    b"backscatterer.org",
    b"mimecast.org",
    b"openspf.org",
];

/// Last labels that make `a.b` a host and not two sentences without a space between them.
const TLDS: [&[u8]; 44] = [
    b"com",
    b"net",
    b"org",
    b"edu",
    b"gov",
    b"mil",
    b"int",
    b"info",
    b"biz",
    b"name",
    b"pro",
    b"mobi",
    b"jobs",
    b"aero",
    b"coop",
    b"museum",
    b"arpa",
    b"local",
    b"localdomain",
    b"localhost",
    b"lan",
    b"intern",
    b"internal",
    b"invalid",
    b"example",
    b"test",
    b"dev",
    b"app",
    b"cloud",
    b"online",
    b"site",
    b"xyz",
    b"shop",
    b"email",
    b"mail",
    b"tech",
    b"live",
    b"club",
    b"systems",
    b"support",
    b"solutions",
    b"agency",
    b"home",
    b"domain",
];

/// Words that come before a local part written without its domain.
const BEFORE_USER: [&[u8]; 8] =
    [b"unknown user ", b"unknown user: ", b"illegal user: ", b"no such user: ", b"unknown: ", b"user ", b"mailbox ", b"account "];

impl Scan {
    pub(crate) fn letters(&mut self, word: &[u8]) {
        let vowels = |w: &[u8]| w.iter().filter(|b| matches!(b, b'a' | b'e' | b'i' | b'o' | b'u' | b'y')).count();
        if word.len() >= 14 && (word.len() > 28 || vowels(word) * 5 < word.len()) {
            return self.hole(b"<id>");
        }
        if self.is_user(word) {
            return self.hole(b"<user>");
        }
        append(&mut self.out, word);
    }

    /// A name that stands where a local part does: quoted after "user", or right after "unknown user".
    fn is_user(&self, word: &[u8]) -> bool {
        let Some(before) = self.out.len().checked_sub(2).map(|n| self.out[n]) else { return false };
        if self.out.last() != Some(&b' ') || !matches!(before, b'r' | b':' | b'x' | b't') {
            return false;
        }
        let Some(at) = BEFORE_USER.iter().position(|w| self.out.ends_with(w)) else { return false };
        if at >= 3 {
            return self.was_quoted();
        }
        !matches!(word, b"in" | b"or" | b"at" | b"name" | b"account" | b"is" | b"mailbox" | b"on" | b"error" | b"the" | b"for")
    }

    /// A word without spaces, brackets or quotes in it, and without punctuation around it.
    pub(crate) fn masked(&mut self, word: &[u8], flags: u8) {
        self.space();
        if flags & (DIGIT | DOT | AT | COLON | SLASH) == 0 && !word.contains(&b'=') {
            return self.letters(word);
        }
        if let Some(at) = word.iter().position(|b| *b == b'=') {
            return self.split(word, at);
        }
        if flags & AT != 0 && self.address(word) {
            return;
        }
        if flags & COLON != 0 {
            return self.with_colon(word);
        }
        if flags & SLASH != 0 {
            return self.with_slash(word);
        }
        if flags & DOT != 0 {
            if is_ipv4(word) {
                return self.hole(b"<ip>");
            }
            if let Some(at) = word.windows(2).position(|w| w == b"..") {
                return self.split(word, at);
            }
            if let Some(bare) = word.strip_suffix(b"'s").or(Some(word)).filter(|w| is_host(w)) {
                self.host(bare);
                if bare.len() < word.len() {
                    self.out.extend_from_slice(b"'s");
                }
                return;
            }
        }
        self.token(word);
    }

    /// `user@host` and what hides one; false where the `@` is just a sign.
    pub(crate) fn address(&mut self, word: &[u8]) -> bool {
        let Some(at) = word.iter().position(|b| *b == b'@') else { return false };
        let Some(after) = word.get(at + 1).filter(|b| b.is_ascii_alphanumeric() || **b == b'[') else { return false };
        debug_assert!(*after != b' ');
        if at == 0 && !self.gap {
            // The local part was quoted or is not ASCII: it is already out.
            let keep = self.out.iter().rposition(|b| *b == b' ').map_or(0, |n| n + 1);
            self.out.truncate(keep);
        } else if let Some(colon) = word[..at].iter().rposition(|b| *b == b':')
            && word[..colon].iter().all(|b| b.is_ascii_alphabetic())
        {
            self.space();
            self.out.extend_from_slice(&word[..=colon]);
        }
        self.hole(b"<addr>");
        let tail = word.iter().rev().take_while(|b| matches!(b, b':' | b'.' | b'!' | b'?' | b'-')).count();
        self.out.extend_from_slice(&word[word.len() - tail..]);
        true
    }

    fn split(&mut self, word: &[u8], at: usize) {
        self.part(&word[..at]);
        self.out.push(word[at]);
        self.part(&word[at + 1..]);
    }

    fn part(&mut self, part: &[u8]) {
        if !part.is_empty() {
            self.masked(part, flags_of(part));
        }
    }

    fn with_colon(&mut self, word: &[u8]) {
        let bare = word.strip_prefix(b"ipv6:").unwrap_or(word);
        let colons = bare.iter().filter(|b| **b == b':').count();
        if colons >= 2 && bare.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) {
            let clock = colons == 2 && bare.split(|b| *b == b':').all(|p| !p.is_empty() && p.len() <= 2);
            return self.hole(if clock { b"<time>" } else { b"<ip>" });
        }
        if word.iter().all(|b| b.is_ascii_digit() || *b == b':') {
            return self.hole(b"<time>");
        }
        if is_timestamp(word) {
            return self.hole(b"<time>");
        }
        let at = word.iter().position(|b| *b == b':').unwrap_or(0);
        // `did not like our RCPT TO:550 5.1.1 …`
        if at > 0 && word.len() == at + 4 && crate::codes::reply_code(&word[at + 1..]).is_some() {
            self.part(&word[..at]);
            self.out.push(b':');
            if self.code(&word[at + 1..], b"", b"") {
                return;
            }
            return self.part(&word[at + 1..]);
        }
        self.split(word, at);
    }

    fn with_slash(&mut self, word: &[u8]) {
        let at = word.iter().position(|b| *b == b'/').unwrap_or(0);
        let (head, tail) = (&word[..at], &word[at + 1..]);
        if is_ipv4(head) && tail.iter().all(u8::is_ascii_digit) {
            self.hole(b"<ip>");
        } else if word.iter().all(|b| b.is_ascii_digit() || *b == b'/') {
            self.hole(if tail.contains(&b'/') { b"<time>" } else { b"<num>" });
        } else if is_host(head) {
            self.url(word);
        } else if word.len() > 40 && word.iter().any(u8::is_ascii_digit) {
            self.hole(b"<id>");
        } else {
            self.split(word, at);
        }
    }

    /// A host that rules may name stays; any other is a placeholder.
    fn host(&mut self, host: &[u8]) {
        let Some(kept) = KEPT_HOSTS.iter().find(|k| has_suffix(host, k)) else { return self.hole(b"<host>") };
        let own = &host[..host.len() - kept.len()];
        for label in own.split(|b| *b == b'.').filter(|l| !l.is_empty()) {
            if label.len() <= 12 && label.iter().all(u8::is_ascii_alphabetic) {
                self.out.extend_from_slice(label);
                self.out.push(b'.');
            }
        }
        self.out.extend_from_slice(kept);
    }

    /// A URL without its scheme: host, path and names of parameters stay, what varies in them does not.
    pub(crate) fn url(&mut self, url: &[u8]) {
        let mut rest = match url.iter().position(|b| *b == b':') {
            Some(at) if url[at..].starts_with(b"://") => &url[at + 3..],
            _ => url,
        };
        let host_len = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#' | b':')).unwrap_or(rest.len());
        let mut word = std::mem::take(&mut self.word);
        self.url_part(&rest[..host_len], &mut word, true, false);
        rest = &rest[host_len..];
        let mut query = false;
        while let Some((&mark, after)) = rest.split_first() {
            query |= mark == b'?';
            let len =
                after.iter().position(|b| matches!(b, b'/' | b'?' | b'#' | b'&' | b'=' | b';' | b',')).unwrap_or(after.len());
            self.out.push(mark);
            self.url_part(&after[..len], &mut word, false, query);
            rest = &after[len..];
        }
        while self.out.last() == Some(&b'/') {
            self.out.pop();
        }
        self.word = word;
    }

    fn url_part(&mut self, part: &[u8], word: &mut Vec<u8>, is_url_host: bool, query: bool) {
        if part.is_empty() {
            return;
        }
        word.clear();
        word.extend(part.iter().map(u8::to_ascii_lowercase));
        if is_ipv4(word) {
            self.out.extend_from_slice(b"<ip>");
        } else if is_url_host {
            self.out.extend_from_slice(word.strip_prefix(b"www.").unwrap_or(word));
        } else if word.contains(&b'@') || word.windows(3).any(|w| w == b"%40") {
            self.out.extend_from_slice(b"<addr>");
        } else if word.contains(&b':') || word.contains(&b'%') {
            self.out.extend_from_slice(b"<id>");
        } else if query && is_host(word) {
            self.out.extend_from_slice(b"<host>");
        } else if word.iter().all(u8::is_ascii_digit) {
            // Short numbers name a page, long ones an event.
            self.out.extend_from_slice(if word.len() <= 8 { word } else { b"<num>" });
        } else if word.len() > 40 || !is_tame(word) || (query && self.out.ends_with(b"=") && is_key(word)) {
            self.out.extend_from_slice(b"<id>");
        } else {
            self.out.extend_from_slice(word);
        }
    }

    /// A word of letters, digits and marks between them.
    fn token(&mut self, word: &[u8]) {
        if word.iter().all(|b| !b.is_ascii_alphabetic()) {
            let marks = word.iter().filter(|b| matches!(b, b'-' | b'.')).count();
            let name: &'static [u8] = match (marks, word.len()) {
                (0 | 1, 0..=10) | (0, _) => b"<num>",
                (2, 8..=10) => b"<time>",
                _ => b"<id>",
            };
            return self.hole(name);
        }
        if is_timestamp(word) {
            return self.hole(b"<time>");
        }
        // Long and of letters alone are the names of exceptions, `storedrv.submission.exception:sendasdenied…`.
        if (word.len() > 40 && word.iter().any(u8::is_ascii_digit)) || !is_tame(word) {
            return self.hole(b"<id>");
        }
        // `OFR005_104`: the digits in the middle are the front end's, those at the end the meaning.
        if let Some(at) = word.len().checked_sub(4).filter(|at| matches!(word[*at], b'_' | b'-')) {
            let letters = word.iter().take_while(|b| b.is_ascii_alphabetic()).count();
            if (3..=6).contains(&letters)
                && word[letters..at].iter().all(u8::is_ascii_digit)
                && word[at + 1..].iter().all(u8::is_ascii_digit)
            {
                self.out.extend_from_slice(&word[..letters]);
                self.out.push(b'_');
                return self.out.extend_from_slice(&word[at + 1..]);
            }
        }
        let digits = word.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 {
            self.hole(b"<num>");
        }
        self.out.extend_from_slice(&word[digits..]);
    }

    /// Puts a placeholder, without the brackets around it and only once in a row.
    pub(crate) fn hole(&mut self, name: &'static [u8]) {
        if self.out.trim_ascii_end().ends_with(name) {
            self.gap = true;
            return;
        }
        match self.out.last() {
            Some(b'(') => {
                self.out.pop();
                self.skip_close = b')';
            }
            Some(b'[') => {
                self.out.pop();
                self.skip_close = b']';
            }
            _ => {}
        }
        self.gap |= self.out.last().is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'>' | b',' | b';' | b')' | b']'));
        self.space();
        self.out.extend_from_slice(name);
    }
}

fn is_ipv4(word: &[u8]) -> bool {
    let mut groups = 0;
    for group in word.split(|b| *b == b'.') {
        groups += 1;
        if groups > 4 || group.is_empty() || group.len() > 3 || !group.iter().all(u8::is_ascii_digit) {
            return false;
        }
    }
    groups == 4
}

/// `2024-06-24t08:58:06.389z` and the like.
fn is_timestamp(word: &[u8]) -> bool {
    word.len() >= 10
        && word[..4].iter().all(u8::is_ascii_digit)
        && matches!(word[4], b'-' | b'/')
        && word[5..].iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b':' | b'.' | b't' | b'z' | b'/' | b'+'))
}

fn is_host(word: &[u8]) -> bool {
    let Some(dot) = word.iter().rposition(|b| *b == b'.') else { return false };
    let tld = &word[dot + 1..];
    let real = (tld.len() == 2 && tld.iter().all(u8::is_ascii_alphabetic)) || TLDS.contains(&tld) || tld.starts_with(b"xn--");
    real && dot > 0
        && word[..dot]
            .split(|b| *b == b'.')
            .all(|l| !l.is_empty() && l.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')))
}

fn has_suffix(host: &[u8], suffix: &[u8]) -> bool {
    host.ends_with(suffix) && (host.len() == suffix.len() || host[host.len() - suffix.len() - 1] == b'.')
}

/// Every part is a word, a short number, or letters with a number after them: a token a provider documents, not an id.
/// The value of a parameter that looks up one event, such as `dixjhbwjr-dvs`: long, and more than a word.
fn is_key(value: &[u8]) -> bool {
    value.len() >= 12 && value.iter().any(|b| !b.is_ascii_alphabetic())
}

fn is_tame(word: &[u8]) -> bool {
    let named = word.len() <= 20 && word.contains(&b'#');
    named
        || word.split(|b| !b.is_ascii_alphanumeric()).all(|part| {
            let letters = part.iter().take_while(|b| b.is_ascii_alphabetic()).count();
            let digits = part[letters..].iter().take_while(|b| b.is_ascii_digit()).count();
            let rest = part.len() - letters - digits;
            match (letters, digits) {
                (0, _) => {
                    let after = &part[digits..];
                    after.iter().all(u8::is_ascii_alphabetic)
                        && (if after.is_empty() { digits <= 4 } else { digits <= 3 && after.len() <= 8 })
                }
                // Exchange's longest name of a rule has 32: `resolver.rst.restrictedtorecipientspermission`.
                (_, 0) => letters <= 36,
                (1..=4, 1..=8) | (_, 1..=2) => rest == 0 || part.len() <= 3,
                _ => false,
            }
        })
}

const _: u8 = LETTER | INNER;
