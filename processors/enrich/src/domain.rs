//! Domains in one spelling: lower-case, A-labels, no trailing dot. What is no domain is `None`, never a guess.

use std::borrow::Cow;

/// RFC 5321, 4.5.3.1.2.
const MAX_DOMAIN: usize = 255;
/// RFC 1035, 2.3.4.
const MAX_LABEL: usize = 63;
/// U-labels may be longer in UTF-8 than as A-labels; beyond this none can fit, and decoding is not linear.
const MAX_UNICODE: usize = 4 * MAX_DOMAIN;

/// The domain of an address in its one spelling, `None` where there is none or it is malformed.
///
/// What follows the last `@` counts, so quoted local parts, source routes and `Name <a@b>` work. Address literals are
/// kept as they are. Borrowed when already normal.
pub fn domain_of(address: &str) -> Option<Cow<'_, str>> {
    let address = address.trim();
    let address = address.strip_suffix('>').unwrap_or(address);
    let at = address.rfind('@')?;
    normalize_domain(&address[at + 1..])
}

/// The address in what sources write for one: without blanks and angle brackets around it, and without a name before these. Its domain
/// is the one that [`domain_of`] finds.
pub fn mailbox_of(address: &str) -> &str {
    let address = address.trim();
    let address = address.strip_suffix('>').unwrap_or(address);
    let local = &address[..address.rfind('@').unwrap_or(0)];
    // A quoted local part may hold a bracket of its own; it begins at the last quote that is none of its characters.
    let quoted = local.strip_suffix('"').and_then(|inside| {
        let mut quotes = inside.rmatch_indices('"').map(|(at, _)| at);
        quotes.find(|at| !inside[..*at].ends_with('\\'))
    });
    let opened = local[..quoted.unwrap_or(local.len())].rfind('<');
    opened.map_or(address, |at| address[at + 1..].trim_start())
}

/// A bare domain in its one spelling, by the rules of [`domain_of`].
///
/// ASCII is taken as DNS takes it: an A-label is not decoded, since a server answered to that very name.
pub fn normalize_domain(domain: &str) -> Option<Cow<'_, str>> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    match spelling(domain)? {
        Spelling::Normal => Some(Cow::Borrowed(domain)),
        Spelling::UpperCase => Some(Cow::Owned(domain.to_ascii_lowercase())),
        Spelling::Unicode => from_unicode(domain).map(Cow::Owned),
    }
}

/// The part of a domain that somebody registered (`shop.co.uk` of `news.shop.co.uk`), by the public suffix list.
/// A public suffix, a single label or an address literal stays as it is.
pub fn organizational_domain(domain: &str) -> &str {
    if domain.starts_with('[') {
        return domain;
    }
    psl::domain_str(domain).unwrap_or(domain)
}

enum Spelling {
    Normal,
    UpperCase,
    Unicode,
}

fn spelling(domain: &str) -> Option<Spelling> {
    if domain.starts_with('[') {
        return is_literal(domain).then_some(Spelling::Normal);
    }
    let (mut upper, mut label) = (false, 0);
    for byte in domain.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b'A'..=b'Z' => {
                upper = true;
                label += 1;
            }
            b'.' if (1..=MAX_LABEL).contains(&label) => label = 0,
            // Lengths and the rest of the characters are judged after the conversion.
            0x80.. => return (domain.len() <= MAX_UNICODE).then_some(Spelling::Unicode),
            _ => return None,
        }
    }
    let fits = (1..=MAX_LABEL).contains(&label) && domain.len() <= MAX_DOMAIN;
    fits.then_some(if upper { Spelling::UpperCase } else { Spelling::Normal })
}

fn from_unicode(domain: &str) -> Option<String> {
    let mut ascii = idna::domain_to_ascii(domain).ok()?;
    // Other scripts have dots of their own, which only now are trailing ones.
    if ascii.ends_with('.') {
        ascii.pop();
    }
    // A full-width bracket must not make a literal out of a name.
    let normal = !ascii.starts_with('[') && matches!(spelling(&ascii)?, Spelling::Normal);
    normal.then_some(ascii)
}

fn is_literal(domain: &str) -> bool {
    domain.len() <= MAX_DOMAIN
        && domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')).is_some_and(|inside| {
            !inside.is_empty() && inside.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-'))
        })
}
