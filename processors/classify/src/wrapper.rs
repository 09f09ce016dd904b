//! What MTAs, their logs and their reports put around a reply: taken off, after the facts it tells were taken from it.
//! Must not know what any word means for a verdict.

use memchr::memchr_iter;

use crate::bytes::{find_ignore_case, starts_ignore_case};
use crate::command::Command;
use crate::scan::{Scan, flags_of};

impl Scan {
    /// A field of an MTA's log that holds a code or the reply itself: `dsn=5.1.1, stat=User unknown`, `stat=550 …`.
    pub(crate) fn log_field(&mut self, word: &[u8], rest: &[u8]) -> bool {
        let Some(at) = word.iter().position(|b| *b == b'=') else { return false };
        let (name, value) = (&word[..at], &word[at + 1..]);
        if value.is_empty() || value.contains(&b'=') || !matches!(name, b"stat" | b"reply" | b"dsn" | b"status" | b"code") {
            return false;
        }
        self.space();
        self.out.extend_from_slice(&word[..=at]);
        if matches!(name, b"stat" | b"reply") && !self.code_seen {
            self.wrap_end = self.out.len();
        }
        self.opened = true;
        self.word(value, flags_of(value), rest);
        true
    }

    /// `(in reply to RCPT TO command)`: what Postfix appends to a reply; nothing of the reply follows.
    pub(crate) fn in_reply_to(&mut self, rest: &[u8]) {
        self.out.truncate(self.out.len() - b"(in".len());
        let rest = rest.trim_ascii_start();
        if self.command == Command::None && starts_ignore_case(rest, b"to ") {
            self.command = std::str::from_utf8(&rest[3..]).map_or(Command::None, Command::parse);
        }
        self.done = true;
    }

    /// Words with a colon that end a wrapper or begin something that is not the reply.
    pub(crate) fn after_colon(&mut self, core: &[u8], rest: &[u8]) {
        match core {
            b"said" | b"diagnostic" | b"diagnostic-code" if !self.code_seen => self.wrap_end = self.out.len(),
            b"was" if !self.code_seen && self.out.ends_with(b"remote server was:") => self.wrap_end = self.out.len(),
            b"me" if !self.code_seen && self.out.ends_with(b"refused to talk to me:") => self.wrap_end = self.out.len(),
            b"dkim-signature" | b"x-received" | b"received" | b"return-path" | b"mime-version" | b"remote-mta" | b"arc-seal"
                if self.out.len() > 24 && (self.code_seen || find_ignore_case(rest, b"diagnostic-code:").is_none()) =>
            {
                self.out.truncate(self.out.len() - core.len() - 1);
                self.done = true;
            }
            _ => {}
        }
    }

    /// Drops what stood before the reply proper, after taking the facts from it; keeps it where nothing else was said.
    pub(crate) fn unwrap_reply(&mut self) {
        self.trim_end();
        let end = self.wrap_end.min(self.out.len());
        if end > 0 {
            self.facts_of_wrapper(end);
            let said = self.out[end..].iter().filter(|b| b.is_ascii_alphabetic() || **b >= 0x80).count();
            if said >= 3 {
                self.out.drain(..end);
                // The bracket before the reply is gone: `status=bounced (…)`.
                self.trim_end();
            }
        }
        let lead =
            self.out.iter().take_while(|b| matches!(b, b' ' | b':' | b';' | b',' | b'.' | b'-' | b')' | b']' | b'=')).count();
        self.out.drain(..lead);
        self.halve();
    }

    fn trim_end(&mut self) {
        while let Some(&b) = self.out.last() {
            let stray = (b == b')' && !self.out.contains(&b'(')) || (b == b']' && !self.out.contains(&b'['));
            if !stray && !matches!(b, b' ' | b'.' | b',' | b';' | b':' | b'(' | b'[' | b'-') {
                break;
            }
            self.out.pop();
        }
    }

    fn facts_of_wrapper(&mut self, end: usize) {
        const COMMANDS: [(&[u8], Command); 13] = [
            (b"end of data", Command::Data),
            (b"pipelined data", Command::Data),
            (b"server after data", Command::Data),
            (b"sending data block", Command::Data),
            (b"server after ehlo", Command::Helo),
            (b"after i sent the message", Command::Data),
            (b"rcpt to", Command::Rcpt),
            (b"does not like recipient", Command::Rcpt),
            (b"rejected recipient", Command::Rcpt),
            (b"mail from", Command::Mail),
            (b"does not like sender", Command::Mail),
            (b"my name was rejected", Command::Helo),
            (b"initial connection", Command::Connect),
        ];
        let wrapper = &self.out[..end];
        if self.command == Command::None {
            let named = COMMANDS.iter().find(|(phrase, _)| find_ignore_case(wrapper, phrase).is_some());
            self.command = named.map_or(Command::None, |(_, c)| *c);
        }
        self.greeting |= self.command == Command::Connect || find_ignore_case(wrapper, b"refused to talk to me").is_some();
    }

    /// The same text twice in a row (one reply per line, joined on the way here) says it once.
    fn halve(&mut self) {
        let n = self.out.len();
        if n > 8 && n % 2 == 1 && self.out[n / 2] == b' ' && self.out[..n / 2] == self.out[n / 2 + 1..] {
            self.out.truncate(n / 2);
        }
    }
}

/// What qmail-send logs, with the spaces and line ends it took out: `failure: Sorry,_no_mailbox_here_by_that_name._(#5.1.1)/`.
pub(crate) fn spaced_qmail_log(text: &str) -> Option<String> {
    // Asked of every reply, and of nearly all in vain.
    let marks = memchr_iter(b'_', text.as_bytes()).count();
    if marks < 3 || marks <= memchr_iter(b' ', text.as_bytes()).count() {
        return None;
    }
    let said =
        [&b"failure: "[..], b"deferral: ", b"remote_host_said"].iter().any(|s| find_ignore_case(text.as_bytes(), s).is_some());
    if !said {
        return None;
    }
    let mut next = text.chars().skip(1);
    let spaced = text.chars().map(|c| match (c, next.next()) {
        ('_', _) => ' ',
        ('/', None) => '\n',
        ('/', Some(after)) if after == '_' || after.is_ascii_uppercase() => '\n',
        _ => c,
    });
    Some(spaced.collect())
}
