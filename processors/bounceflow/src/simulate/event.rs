//! What was decided about one item, and the texts made of it. Every format is written from this.

use bounceflow_event::EventType;

use super::mix::{mix, pick};
use super::replies::{Command, Part, Replies, Role};
use super::world::{Identity, Mx, World};

/// How one record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Json,
    Avro,
    Kumomta,
}

/// A message under way. Everything else about it follows from these numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) id: u64,
    pub(super) sent_at: i64,
    pub(super) domain: u16,
    pub(super) identity: u16,
    pub(super) mx: u8,
    pub(super) pool: u8,
    pub(super) ip: u8,
    pub(super) campaign: u8,
    pub(super) shape: Shape,
    /// 1 for the first; 0 where none was made or it is long past.
    pub(super) attempt: u16,
}

/// One item, decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision {
    pub(super) event: EventType,
    pub(super) message: Message,
    pub(super) reply: Option<u16>,
    pub(super) time: i64,
    pub(super) event_id: u64,
    pub(super) recipients: u8,
    /// Whether the record names the MX.
    pub(super) mx_known: bool,
    /// KumoMTA's note that it took the message, which says nothing about a delivery.
    pub(super) reception: bool,
}

/// The texts of one item. Kept from one to the next, so that nothing is allocated.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) event_id: String,
    pub(super) message_id: String,
    pub(super) recipient: String,
    /// Further recipients of the same record.
    pub(super) others: Vec<String>,
    pub(super) sender: String,
    pub(super) command: String,
    pub(super) diagnostic: String,
}

/// One item with its texts.
pub(super) struct View<'a> {
    pub(super) decision: &'a Decision,
    pub(super) texts: &'a Texts,
    pub(super) identity: &'a Identity,
    pub(super) domain: &'a str,
    pub(super) ip: &'a str,
    pub(super) pool: &'a str,
    pub(super) campaign: &'a str,
    pub(super) mx: Option<&'a Mx>,
    /// 0 where there is none.
    pub(super) code: u16,
    pub(super) enhanced: &'a str,
    pub(super) expired: bool,
    pub(super) tag: Option<&'a str>,
}

impl<'a> View<'a> {
    pub(super) fn new(decision: &'a Decision, world: &'a World, replies: &'a Replies, texts: &'a mut Texts) -> Self {
        let message = &decision.message;
        let identity = &world.identities[usize::from(message.identity)];
        let domain = &world.domains[usize::from(message.domain)];
        let pool = &identity.pools[usize::from(message.pool)];
        let ip = &pool.ips[usize::from(message.ip)];
        let mx = if decision.mx_known { domain.mx.get(usize::from(message.mx)) } else { None };
        let reply = decision.reply.map(|r| replies.get(r));
        let delivered = decision.event == EventType::Delivery;
        let kumomta = message.shape == Shape::Kumomta;
        let (code, enhanced, command, parts) = match reply {
            Some(r) => (r.code, r.enhanced.as_str(), r.command, r.text.as_slice()),
            None if delivered => {
                // ESPs say little about what went well.
                let (enhanced, command) = if kumomta { ("2.0.0", Command::Data) } else { ("", Command::Connect) };
                (250, enhanced, command, world.accepted[usize::from(domain.provider)].as_slice())
            }
            None => (0, "", Command::Connect, [].as_slice()),
        };
        ids(decision, texts);
        local_part(message.id, world, &mut texts.recipient);
        texts.recipient.push('@');
        texts.recipient.push_str(&domain.name);
        texts.others.clear();
        for n in 1..decision.recipients {
            let mut other = String::new();
            local_part(mix(message.id ^ u64::from(n)), world, &mut other);
            other.push('@');
            other.push_str(&domain.name);
            texts.others.push(other);
        }
        texts.sender.clear();
        let tag = (message.id & 6 == 0).then_some(world.words.first[pick(message.id >> 32, 32, 8)].as_str());
        if kumomta || !delivered || tag.is_some() {
            texts.sender.extend(["bounce@", &identity.domain]);
        }
        texts.command.clear();
        match command {
            Command::Connect => {}
            Command::Mail => texts.command.extend(["MAIL FROM:<", &texts.sender, ">"]),
            Command::Rcpt => texts.command.extend(["RCPT TO:<", &texts.recipient, ">"]),
            Command::Data => texts.command.push('.'),
        }
        // Half of the ESPs' records hold the codes in the text as well. KumoMTA's never do.
        texts.diagnostic.clear();
        if !kumomta && !delivered && message.id & 1 == 0 {
            if code != 0 {
                push_number(&mut texts.diagnostic, i64::from(code));
                texts.diagnostic.push(' ');
            }
            if !enhanced.is_empty() {
                texts.diagnostic.extend([enhanced, " "]);
            }
        }
        let fill = Fill { decision, domain: &domain.name, from: &identity.domain, ip, mx, code };
        fill.text(parts, &texts.recipient, &texts.sender, &mut texts.diagnostic);
        Self {
            decision,
            texts,
            identity,
            domain: &domain.name,
            ip,
            pool: &pool.name,
            campaign: &identity.campaigns[usize::from(message.campaign)],
            mx,
            code,
            enhanced,
            expired: reply.is_some_and(|r| r.role == Role::Expired),
            tag,
        }
    }
}

fn ids(decision: &Decision, texts: &mut Texts) {
    texts.event_id.clear();
    push_hex(&mut texts.event_id, decision.event_id, 16);
    texts.message_id.clear();
    push_hex(&mut texts.message_id, decision.message.id, 16);
    if decision.message.shape == Shape::Kumomta {
        // A spool id is a UUID without its dashes.
        push_hex(&mut texts.message_id, mix(decision.message.id), 16);
    }
}

fn local_part(id: u64, world: &World, out: &mut String) {
    let random = mix(!id);
    let first = &world.words.first[pick(random >> 48, 16, world.words.first.len())];
    let last = &world.words.last[pick((random >> 32) & 0xffff, 16, world.words.last.len())];
    out.clear();
    match random & 3 {
        0 => out.extend([&first[..1], last]),
        1 => out.extend([first.as_str(), last]),
        _ => out.extend([first, ".", last]),
    }
    push_number(out, (random >> 2 & 0x3ff) as i64);
}

/// What stands for a reply's placeholders.
struct Fill<'a> {
    decision: &'a Decision,
    domain: &'a str,
    from: &'a str,
    ip: &'a str,
    mx: Option<&'a Mx>,
    code: u16,
}

impl Fill<'_> {
    fn text(&self, parts: &[Part], recipient: &str, sender: &str, out: &mut String) {
        let mut random = self.decision.event_id;
        for part in parts {
            random = mix(random);
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Recipient => out.push_str(recipient),
                Part::Domain => out.push_str(self.domain),
                Part::Sender => out.push_str(sender),
                Part::From => out.push_str(self.from),
                Part::Ip => out.push_str(self.ip),
                Part::Mx => out.push_str(self.mx.map_or("mx", |mx| &mx.host)),
                Part::Peer => out.push_str(self.mx.map_or("198.18.0.25", |mx| &mx.peer)),
                Part::Code => push_number(out, i64::from(self.code)),
                Part::Token => token(random, out),
                Part::Hex => push_hex(out, random, 11),
                Part::Number => push_number(out, (1_000_000 + random % 8_000_000) as i64),
                Part::Digit => push_number(out, (1 + random % 9) as i64),
                Part::Stamp => push_time(out, self.decision.time),
            }
        }
    }
}

/// Letters and digits, as servers put into their replies for their own logs.
fn token(mut random: u64, out: &mut String) {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    for n in 0..12 {
        if n == 9 {
            out.push('-');
        }
        out.push(char::from(ALPHABET[(random & 31) as usize]));
        random >>= 5;
    }
}

/// The last `digits` hexadecimal digits.
pub(super) fn push_hex(out: &mut String, n: u64, digits: u32) {
    for i in (0..digits).rev() {
        out.push(char::from(b"0123456789abcdef"[(n >> (4 * i) & 15) as usize]));
    }
}

pub(super) fn push_number(out: &mut String, n: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        out.push('-');
    }
    out.extend(digits[at..].iter().map(|d| char::from(*d)));
}

/// RFC 3339 with milliseconds.
pub(super) fn push_time(out: &mut String, ms: i64) {
    use std::fmt::Write;
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    // Writing into a String cannot fail.
    let _ = write!(out, "{time:.3}");
}
