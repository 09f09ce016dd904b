//! What a rule looks at: over which keys (scope), which rate (metric), how long (window), how bad (severity).
//! Owns their spelling in rule files and on the wire; counting is the windows' business.

use std::fmt;
use std::str::FromStr;

/// An evaluation happens at every multiple of this, seconds of event time.
pub(crate) const STEP_SECONDS: u32 = 10;

/// Over which keys a rule is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// One key: everything that was sent.
    Overall,
    /// A key per ISP.
    Isp,
    /// A key per identity.
    Identity,
    /// A key per ISP and identity.
    IspIdentity,
}

impl Scope {
    /// Every scope, the widest first.
    pub const ALL: [Self; 4] = [Self::Overall, Self::Isp, Self::Identity, Self::IspIdentity];

    /// The spelling in rule files and in the HTTP API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overall => "overall",
            Self::Isp => "isp",
            Self::Identity => "identity",
            Self::IspIdentity => "isp_identity",
        }
    }

    /// Whether its keys name an ISP; otherwise theirs is empty.
    pub const fn has_isp(self) -> bool {
        matches!(self, Self::Isp | Self::IspIdentity)
    }

    /// Whether its keys name an identity; otherwise theirs is empty.
    pub const fn has_identity(self) -> bool {
        matches!(self, Self::Identity | Self::IspIdentity)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == s).ok_or(())
    }
}

/// A rate over a window: numerator / denominator. Outcomes are deliveries + hard + soft, attempts are outcomes + deferred.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Metric {
    /// Hard and soft bounces / outcomes.
    Bounce,
    /// Hard bounces / outcomes.
    Hard,
    /// Soft bounces / outcomes.
    Soft,
    /// Bounces that refused the sender or the content / outcomes.
    Blocked,
    /// Deferrals / attempts.
    Deferred,
    /// Complaints / deliveries, over 24 h: they come hours late.
    Complaint,
    /// Late bounces / deliveries, over 24 h: they come hours late.
    LateBounce,
    /// Bounces of one category / outcomes.
    Category(Box<str>),
}

impl Metric {
    /// Every metric but those of single categories.
    pub const NAMED: [Self; 7] =
        [Self::Bounce, Self::Hard, Self::Soft, Self::Blocked, Self::Deferred, Self::Complaint, Self::LateBounce];

    /// The rate's name without the category's: `category` for those. [`fmt::Display`] spells all of it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bounce => "bounce_rate",
            Self::Hard => "hard_rate",
            Self::Soft => "soft_rate",
            Self::Blocked => "blocked_rate",
            Self::Deferred => "deferred_rate",
            Self::Complaint => "complaint_rate",
            Self::LateBounce => "late_bounce_rate",
            Self::Category(_) => "category",
        }
    }

    /// Whether the numerator comes hours after the denominator: only a window of a day says anything.
    pub const fn comes_late(&self) -> bool {
        matches!(self, Self::Complaint | Self::LateBounce)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Category(category) => write!(f, ":{category}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Metric {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        match s.strip_prefix("category:") {
            Some(category) if !category.is_empty() => Ok(Self::Category(category.into())),
            Some(_) => Err(()),
            None => Self::NAMED.into_iter().find(|metric| metric.name() == s).ok_or(()),
        }
    }
}

/// A sliding window: of event time, half open. At instant T it covers `[E - length, E)` with E = T rounded down to `slide`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowSpec {
    /// How far it reaches back, seconds.
    pub length: u32,
    /// How far it moves at a time, seconds: a sixtieth of its length, rounded up to whole steps.
    pub slide: u32,
}

impl WindowSpec {
    /// The shortest there is, seconds.
    pub const SHORTEST: u32 = 60;
    /// The longest there is, seconds.
    pub const LONGEST: u32 = 86_400;

    /// A window of `length` seconds. Refused with what to write instead unless it is 60 s to 24 h and whole slides long.
    pub fn new(length: u32) -> Result<Self, String> {
        let range = Self::SHORTEST..=Self::LONGEST;
        if !range.contains(&length) {
            return Err("is out of range; write 1m to 24h".into());
        }
        let slide = slide_of(length);
        if length.is_multiple_of(slide) {
            return Ok(Self { length, slide });
        }
        let fits = |length: &u32| length.is_multiple_of(slide_of(*length));
        let below = (Self::SHORTEST..length).rev().find(fits);
        let above = (length..=Self::LONGEST).find(fits);
        let nearest: Vec<String> = below.into_iter().chain(above).map(duration).collect();
        Err(format!("is not whole slides of {slide}s long; write {}", nearest.join(" or ")))
    }
}

fn slide_of(length: u32) -> u32 {
    length.div_ceil(60).next_multiple_of(STEP_SECONDS)
}

/// Seconds as rule files spell them: `90s`, `15m`, `1h 30m`.
pub(crate) fn duration(seconds: u32) -> String {
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let spelled: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if spelled.is_empty() { "0s".into() } else { spelled.join(" ") }
}

/// How loud an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AlertSeverity {
    /// Good to know.
    Info,
    /// Somebody should look in working hours.
    Warning,
    /// Somebody must act now.
    Critical,
}

impl AlertSeverity {
    /// Every severity, the quietest first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// The spelling in rule files, on the wire and in Alertmanager.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for AlertSeverity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AlertSeverity {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == s).ok_or(())
    }
}
