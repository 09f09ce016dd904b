//! The rules that come with the program: one file by provider or topic, all embedded. Holds no rule itself.

use std::sync::{Arc, LazyLock};

use bounceflow_event::{Category, RootCause, Severity};

use crate::Verdict;

/// What the name of each built-in file begins with, so that no operator's file is taken for one.
pub const BUILTIN: &str = "built-in:";
/// What the ids of the last resorts begin with: they decide by reply code and command where no words were known.
pub const FALLBACK: &str = "fallback.";
/// The name that stands for a rule where none matched.
pub(crate) const NO_RULE: &str = "none";

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each file, in the order they are read.
        pub(crate) const FILES: &[(&str, &str)] = &[$((concat!("built-in:", $name, ".toml"), include_str!(concat!("../rules/", $name, ".toml")))),*];
    };
}

files![
    "google",
    "microsoft",
    "yahoo",
    "apple",
    "north_america",
    "facebook",
    "europe",
    "russia",
    "asia",
    "gateways",
    "block_lists",
    "local_mta",
    "recipient",
    "recipient_domain",
    "sender",
    "content",
    "rate",
    "transport",
    "enhanced_codes",
    "fallback",
];

/// Where no rule at all matches, as with an operator's set that lacks a last resort.
pub(crate) fn unknown() -> &'static Verdict {
    static UNKNOWN: LazyLock<Verdict> = LazyLock::new(|| Verdict {
        severity: Severity::Soft,
        category: Category::UNKNOWN,
        blocked: false,
        root_cause: RootCause::Unknown,
        action: RootCause::Unknown.default_action(),
        rule: Arc::from(NO_RULE),
    });
    &UNKNOWN
}
