//! Byte classes and tests shared by the masking and the redaction. Decides nothing.

/// Space, control characters and DEL: all folded to one space.
pub(crate) const fn is_blank(b: u8) -> bool {
    b <= b' ' || b == 0x7f
}

/// What follows a text so that [`letters_at`] may read eight bytes at any of its places.
pub(crate) const PADDING: [u8; 8] = [0; 8];

/// How many of `a` to `z` follow each other at `start`, a place of the text before the [`PADDING`].
pub(crate) fn letters_at(padded: &[u8], start: usize) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut n = 0;
    while let Some(eight) = padded.get(start + n..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*eight);
        // The high bit of a byte says: from `a` on, beyond `z`, beyond ASCII.
        let low = word & (EACH * 0x7f);
        let others = !((low + EACH * (0x80 - 0x61)) & !(low + EACH * (0x80 - 0x7b)) & !word) & (EACH * 0x80);
        if others != 0 {
            return n + others.trailing_zeros() as usize / 8;
        }
        n += 8;
    }
    n
}

/// Appends a word. Most are short, and a call to copy one takes longer than the copy.
pub(crate) fn append(out: &mut Vec<u8>, word: &[u8]) {
    match (word.first_chunk::<4>(), word.last_chunk::<4>()) {
        (Some(first), Some(last)) if word.len() <= 8 => {
            out.extend_from_slice(first);
            out.truncate(out.len() + word.len() - 8);
            out.extend_from_slice(last);
        }
        (None, _) => word.iter().for_each(|b| out.push(*b)),
        _ => out.extend_from_slice(word),
    }
}

/// Most letters beyond ASCII that have no other lower case: small ones, and those of scripts without case. Asked first, as the
/// tables of all of Unicode are slow.
pub(crate) const fn is_lower_case(c: char) -> bool {
    matches!(c, '\u{df}'..='\u{ff}' | '\u{3ac}'..='\u{3ce}' | '\u{430}'..='\u{45f}' | '\u{590}'..='\u{109f}' | '\u{2e80}'..='\u{a63f}')
}

/// The largest index not beyond `max` at which `text` may be cut.
pub(crate) fn floor_boundary(text: &str, max: usize) -> usize {
    if text.len() <= max {
        return text.len();
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// Where `needle` (lower case) starts in `hay`, whatever the case there.
pub(crate) fn find_ignore_case(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w[0].eq_ignore_ascii_case(&needle[0]) && w.eq_ignore_ascii_case(needle))
}

/// Does `hay` start with `prefix` (lower case), whatever the case there?
pub(crate) fn starts_ignore_case(hay: &[u8], prefix: &[u8]) -> bool {
    hay.len() >= prefix.len() && hay[..prefix.len()].eq_ignore_ascii_case(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted_up_to_any_other_byte_at_any_place() {
        for n in 0..20 {
            for other in (0..=u8::MAX).filter(|b| !b.is_ascii_lowercase()) {
                let text = [&b"@"[..], &b"zabcdefghijklmnopqrstuvwxyz"[..n], &[other, b'a', b'z'], &PADDING].concat();
                assert_eq!(letters_at(&text, 1), n, "{n} and {other}");
            }
            let text = [&b"azbycxdwevfugthsirjqkplo"[..n], &PADDING].concat();
            assert_eq!(letters_at(&text, 0), n);
        }
    }

    #[test]
    fn words_of_any_length_are_appended_whole() {
        let mut out = Vec::new();
        let word = b"abcdefghijkl";
        (0..=word.len()).for_each(|n| append(&mut out, &word[..n]));
        assert_eq!(out, (0..=word.len()).flat_map(|n| &word[..n]).copied().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_taken_for_lower_case_is() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| is_lower_case(*c)) {
            assert!(c.to_lowercase().eq([c]), "{c:?}");
        }
    }
}
