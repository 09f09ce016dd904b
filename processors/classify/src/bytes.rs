//! Byte classes and tests shared by the masking and the redaction. Decides nothing.

/// Space, control characters and DEL: all folded to one space.
pub(crate) const fn is_blank(b: u8) -> bool {
    b <= b' ' || b == 0x7f
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
    hay.windows(needle.len()).position(|w| w.eq_ignore_ascii_case(needle))
}

/// Does `hay` start with `prefix` (lower case), whatever the case there?
pub(crate) fn starts_ignore_case(hay: &[u8], prefix: &[u8]) -> bool {
    hay.len() >= prefix.len() && hay[..prefix.len()].eq_ignore_ascii_case(prefix)
}
