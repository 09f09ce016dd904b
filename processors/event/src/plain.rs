//! `Failure` records as bounceflow writes them today, read straight by position: the sink reads millions of them, all of one schema.
//!
//! It takes the plain case alone. Whatever looks unusual is `None`, and the general reader, which knows every writer's schema,
//! says what it is: so the two never differ in what they accept, nor in why they refuse.

use std::borrow::Cow;

use crate::text::Tags;
use crate::wire::{Failure, RecipientHash};

/// Fingerprint of `schemas/avro/Failure.avsc`: the order of fields below is that file's.
pub(crate) const FAILURE_FINGERPRINT: u64 = u64::from_le_bytes([0xdc, 0x07, 0x48, 0x70, 0x70, 0xc4, 0xd0, 0x8d]);

/// Reads the datum behind the fingerprint, to its last byte.
pub(crate) fn failure(datum: &[u8]) -> Option<Failure<'_>> {
    let mut d = Datum(datum);
    // Evaluated as written.
    let failure = Failure {
        event_time: d.long()?,
        sent_time: d.long()?,
        ingested_time: d.long()?,
        event_type: d.text()?,
        severity: d.text()?,
        category: d.text()?,
        blocked: d.boolean()?,
        root_cause: d.text()?,
        action: d.text()?,
        rule: d.text()?,
        rules_version: d.text()?,
        pattern: d.long()?,
        pattern_version: d.int()?,
        isp: d.text()?,
        identity: d.text()?,
        recipient_domain: d.text()?,
        recipient_hash: RecipientHash(d.fixed()?),
        recipient_key_id: d.text()?,
        recipient: d.text()?,
        mx_host: d.text()?,
        from_domain: d.text()?,
        sending_ip: d.text()?,
        pool: d.text()?,
        campaign: d.text()?,
        message_id: d.text()?,
        event_id: d.text()?,
        reply_code: d.int()?,
        enhanced_code: d.text()?,
        diagnostic: d.text()?,
        command: d.text()?,
        feedback_type: d.text()?,
        attempt: d.int()?,
        tags: d.tags()?,
        source_topic: d.text()?,
        source_partition: d.int()?,
        source_offset: d.long()?,
        source_item: d.int()?,
    };
    d.0.is_empty().then_some(failure)
}

/// What is left of a datum.
struct Datum<'a>(&'a [u8]);

impl<'a> Datum<'a> {
    #[inline]
    fn long(&mut self) -> Option<i64> {
        let mut value = 0_u64;
        // Nine groups of seven bits; a number that needs a tenth is left to the general reader.
        for (i, byte) in self.0.iter().take(9).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if *byte < 0x80 {
                self.0 = &self.0[i + 1..];
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        None
    }

    #[inline]
    fn int(&mut self) -> Option<i32> {
        self.long()?.try_into().ok()
    }

    #[inline]
    fn boolean(&mut self) -> Option<bool> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        match first {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    #[inline]
    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.long()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (fixed, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*fixed)
    }

    /// One block of entries at most, as bounceflow writes them.
    fn tags(&mut self) -> Option<Tags<'a>> {
        let count = usize::try_from(self.long()?).ok()?;
        // An entry takes two bytes at least: a count that cannot be true reserves nothing.
        if count > self.0.len() / 2 {
            return None;
        }
        let mut tags = Vec::with_capacity(count);
        for _ in 0..count {
            tags.push((Cow::Borrowed(self.text()?), Cow::Borrowed(self.text()?)));
        }
        (count == 0 || self.long()? == 0).then_some(Tags(tags))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::avro::{FAILURE, Schemas, WriterSchema};

    fn written() -> (Schemas, Vec<u8>) {
        let mut schemas = Schemas::default();
        schemas.add(FAILURE).unwrap();
        let failure = Failure {
            event_time: i64::MAX / 2,
            sent_time: -1,
            ingested_time: 1_790_000_000_000,
            event_type: "bounce",
            severity: "hard",
            category: "invalid_recipient",
            blocked: true,
            root_cause: "list",
            action: "remove",
            rule: "r",
            rules_version: "",
            pattern: -2,
            pattern_version: i32::MIN,
            isp: "gmail",
            identity: "häns.example",
            recipient_domain: "例え.jp",
            recipient_hash: RecipientHash(*b"0123456789abcdef"),
            recipient_key_id: "1",
            recipient: "",
            mx_host: "mx",
            from_domain: "",
            sending_ip: "::1",
            pool: "",
            campaign: "c",
            message_id: "m",
            event_id: "e",
            reply_code: 550,
            enhanced_code: "5.1.1",
            diagnostic: "550 5.1.1 no such user, and more than one byte of length can say, so that the length itself takes two bytes and no fewer",
            command: "RCPT",
            feedback_type: "",
            attempt: i32::MAX,
            tags: Tags(vec![("k".into(), "v".into()), ("ü".into(), "".into())]),
            source_topic: "t",
            source_partition: 3,
            source_offset: 1 << 40,
            source_item: 0,
        };
        let mut bytes = Vec::new();
        WriterSchema::parse(FAILURE).unwrap().encode(&failure, &mut bytes).unwrap();
        (schemas, bytes)
    }

    #[test]
    fn the_fingerprint_is_that_of_the_schema() {
        let found = WriterSchema::parse(FAILURE).unwrap().fingerprint();
        assert_eq!(found, FAILURE_FINGERPRINT, "{found:#018x}: the schema changed; read its fields here in their new order");
    }

    #[test]
    fn the_plain_case_is_taken_and_reads_as_the_general_reader_does() {
        let (schemas, bytes) = written();
        assert_eq!(failure(&bytes[10..]).unwrap(), schemas.decode::<Failure>(&bytes).unwrap());
        assert_eq!(schemas.decode_failure(&bytes), schemas.decode(&bytes));
    }

    #[test]
    fn whatever_is_done_to_the_bytes_both_readers_say_the_same() {
        let (schemas, good) = written();
        let check = |bytes: &[u8]| {
            let general = schemas.decode::<Failure>(bytes);
            if let Some(plain) = bytes.get(10..).and_then(failure) {
                assert_eq!(Ok(&plain), general.as_ref(), "{bytes:02x?}");
            }
            assert_eq!(schemas.decode_failure(bytes), general);
        };
        for end in 0..good.len() {
            check(&good[..end]);
        }
        check(&[&good[..], &[0]].concat());
        for i in 10..good.len() {
            for value in 0..=255 {
                let mut bytes = good.clone();
                bytes[i] = value;
                check(&bytes);
            }
        }
    }
}
