//! Byte classes and tests shared by the masking and the redaction. Decides nothing.

/// Space, control characters and DEL: all folded to one space.
pub(crate) const fn is_blank(b: u8) -> bool {
    b <= b' ' || b == 0x7f
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
    fn what_is_taken_for_lower_case_is() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| is_lower_case(*c)) {
            assert!(c.to_lowercase().eq([c]), "{c:?}");
        }
    }
}
