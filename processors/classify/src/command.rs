//! Which SMTP command was refused, from the field or from an MTA's wrapper. Decides nothing.

use serde::Deserialize;

use crate::bytes::starts_ignore_case;

/// The SMTP command a reply answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Not known.
    #[default]
    None,
    /// The connection itself, or the greeting.
    Connect,
    /// HELO, EHLO, LHLO.
    Helo,
    /// STARTTLS.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA, BDAT or the end of the data.
    Data,
}

impl Command {
    /// The spelling in rules.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Connect => "connect",
            Self::Helo => "helo",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
        }
    }

    /// Reads a command as logged: `RCPT TO:<…>`, `rcpt`, `.`, `end of DATA`.
    pub fn parse(text: &str) -> Self {
        const NAMES: [(&str, Command); 15] = [
            ("rcpt", Command::Rcpt),
            ("mail", Command::Mail),
            ("data", Command::Data),
            (".", Command::Data),
            ("end of", Command::Data),
            ("bdat", Command::Data),
            ("ehlo", Command::Helo),
            ("helo", Command::Helo),
            ("lhlo", Command::Helo),
            ("connect", Command::Connect),
            ("initial connection", Command::Connect),
            ("greeting", Command::Connect),
            ("conn", Command::Connect),
            ("starttls", Command::Tls),
            ("auth", Command::Auth),
        ];
        let text = text.trim_ascii_start().as_bytes();
        let Some(first) = text.first().map(u8::to_ascii_lowercase) else { return Self::None };
        let mut names = NAMES.iter().filter(|(name, _)| name.as_bytes()[0] == first);
        names.find(|(name, _)| starts_ignore_case(text, name.as_bytes())).map_or(Self::None, |(_, c)| *c)
    }
}
