//! Threshold rules as read from a file: what is compared, over which keys, for how long.

mod file;
mod nearest;

use std::collections::BTreeMap;
use std::fmt;

use globset::GlobSet;

use crate::metric::{AlertSeverity, Metric, Scope, WindowSpec};

/// The rule file this version was built with.
pub const DEFAULT_RULES: &str = include_str!("../rules/default.toml");

/// The rules of one file, in its order; never none.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
}

/// One threshold rule, checked. A breach is `numerator >= threshold * denominator`, at `min_volume` or more.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique within the file; part of every alert's id.
    pub name: String,
    /// Over which keys it is judged.
    pub scope: Scope,
    /// Which rate.
    pub metric: Metric,
    /// Over how long.
    pub window: WindowSpec,
    /// The fraction from which on it breaches: above 0, at most 1.
    pub threshold: f64,
    /// The fraction below which it is clear again: at most the threshold.
    pub clear: f64,
    /// The denominator from which on it is judged at all.
    pub min_volume: u64,
    /// How long it must breach before it fires (`for`), seconds.
    pub hold_for: u32,
    /// How long it must be clear before it stops firing, seconds.
    pub keep_firing: u32,
    /// How loud its alerts are.
    pub severity: AlertSeverity,
    /// Passed on with every alert: what it means for whoever is called.
    pub annotations: BTreeMap<String, String>,
    isp: Option<GlobSet>,
    identity: Option<GlobSet>,
}

/// Every mistake of a rule file: `FILE:LINE: rule NAME: what is wrong; what to do`. Displayed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

impl Rules {
    /// The rules this version was built with: `rules/default.toml`.
    pub fn builtin() -> Result<Self, Mistakes> {
        Self::parse(DEFAULT_RULES, "rules/default.toml")
    }

    /// Reads a rule file; refused with every mistake in it. `file` is only named in the mistakes.
    pub fn parse(text: &str, file: &str) -> Result<Self, Mistakes> {
        Ok(Self { rules: file::read(text, file)? })
    }

    /// The rules, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.iter()
    }

    /// How many rules there are.
    #[allow(clippy::len_without_is_empty, reason = "a file without a rule is refused")]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// The windows the rules ask for, each once, the shortest first.
    pub fn windows(&self) -> Vec<WindowSpec> {
        let mut windows: Vec<WindowSpec> = self.rules.iter().map(|rule| rule.window).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    /// The length of the longest window, seconds.
    pub fn longest(&self) -> u32 {
        self.rules.iter().map(|rule| rule.window.length).max().unwrap_or(0)
    }

    /// The longest any alert keeps firing after it cleared, seconds.
    pub fn longest_keep(&self) -> u32 {
        self.rules.iter().map(|rule| rule.keep_firing).max().unwrap_or(0)
    }
}

impl Rule {
    /// Whether its globs let this ISP through.
    pub fn fits_isp(&self, isp: &str) -> bool {
        self.isp.as_ref().is_none_or(|globs| globs.is_match(isp))
    }

    /// Whether the key is one it is judged over; the scope's own keys are for the caller to pick.
    pub fn applies(&self, isp: &str, identity: &str) -> bool {
        self.fits_isp(isp) && self.identity.as_ref().is_none_or(|globs| globs.is_match(identity))
    }
}
