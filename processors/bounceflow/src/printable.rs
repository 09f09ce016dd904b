//! Text of others, such as a dead letter's or a campaign's name, for a terminal.

/// Text without anything that steers a terminal or turns the direction of reading.
pub(crate) fn printable(text: &str, lines: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' if lines => out.push(c),
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                out.extend(c.escape_unicode())
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}c\u{202e}d\ne", false), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\ne");
        assert_eq!(printable("a\n\tb", true), "a\n\\tb");
    }
}
