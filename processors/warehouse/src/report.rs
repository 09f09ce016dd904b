//! The questions behind `bounceflow report`: which reports there are, of which sections they are made, and a section's rows as a stream.
//!
//! **Invariant:** every figure of a period is a sum over its days, and every rate a quotient of two such sums: no rate is averaged.
//! **Invariant:** names that users type travel as query parameters, never inside the text of a query.
//! How rows are shown is the caller's. Only views and roll-ups are read, so a user who may read no more can make reports.

mod period;
mod columns;
mod rates;
mod failures;
mod monthly;
mod names;
mod rows;

pub use columns::{Chart, Column, Form, Kind, Value};
pub use names::UnknownName;
pub use period::Period;
pub use rows::Rows;

/// A report, by what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Report::about says it")]
pub enum Report {
    Monthly,
    FailureBreakdown,
    IspProfiles,
    IdentityProfiles,
    CampaignKpis,
    IpProfiles,
    IspIdentityMatrix,
    SmtpPatterns,
    BounceReport,
    AlertHistory,
    Unmatched,
}

impl Report {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Monthly,
        Self::FailureBreakdown,
        Self::IspProfiles,
        Self::IdentityProfiles,
        Self::CampaignKpis,
        Self::IpProfiles,
        Self::IspIdentityMatrix,
        Self::SmtpPatterns,
        Self::BounceReport,
        Self::AlertHistory,
        Self::Unmatched,
    ];

    /// As people type it: the name of its view, with hyphens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Monthly => "monthly",
            Self::FailureBreakdown => "failure-breakdown",
            Self::IspProfiles => "isp-profiles",
            Self::IdentityProfiles => "identity-profiles",
            Self::CampaignKpis => "campaign-kpis",
            Self::IpProfiles => "ip-profiles",
            Self::IspIdentityMatrix => "isp-identity-matrix",
            Self::SmtpPatterns => "smtp-patterns",
            Self::BounceReport => "bounce-report",
            Self::AlertHistory => "alert-history",
            Self::Unmatched => "unmatched",
        }
    }

    /// As its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Monthly => "E-mail delivery",
            Self::FailureBreakdown => "Failure breakdown",
            Self::IspProfiles => "ISP profiles",
            Self::IdentityProfiles => "Identity profiles",
            Self::CampaignKpis => "Campaign KPIs",
            Self::IpProfiles => "IP profiles",
            Self::IspIdentityMatrix => "ISP-identity matrix",
            Self::SmtpPatterns => "SMTP patterns",
            Self::BounceReport => "Bounce report",
            Self::AlertHistory => "Alert history",
            Self::Unmatched => "Unmatched replies",
        }
    }

    /// Whether it sets the period beside the one before.
    pub const fn compares(self) -> bool {
        !matches!(self, Self::BounceReport | Self::AlertHistory | Self::Unmatched)
    }

    /// What it tells, in a line.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Monthly => "All in one: KPIs, days, ISPs, identities, campaigns, replies, what changed",
            Self::FailureBreakdown => "What failed: every category with severity and root cause",
            Self::IspProfiles => "Every mailbox provider: rates, share of the volume, status",
            Self::IdentityProfiles => "Every sender: rates, top ISP, risk",
            Self::CampaignKpis => "Every campaign: rates beside the hard-bounce guide, complaints, late bounces",
            Self::IpProfiles => "Every sending IP at every ISP",
            Self::IspIdentityMatrix => "Every sender at every ISP, side by side",
            Self::SmtpPatterns => "The replies that failed mail, by wording",
            Self::BounceReport => "Bounces by campaign, sender and recipient domain, with their text",
            Self::AlertHistory => "The alerts that began in the period, and how they ended",
            Self::Unmatched => "Replies that no rule knew the words of",
        }
    }

    /// Which filters its figures can be broken down by, besides the period.
    pub const fn takes(self) -> Takes {
        let all = Takes { isp: true, identity: true, campaign: true, group_by: false };
        match self {
            Self::IpProfiles | Self::AlertHistory => Takes { campaign: false, ..all },
            Self::BounceReport => Takes { group_by: true, ..all },
            _ => all,
        }
    }
}

/// What a report can be narrowed down by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the options are called")]
pub struct Takes {
    pub isp: bool,
    pub identity: bool,
    pub campaign: bool,
    pub group_by: bool,
}

/// Of whom a report is; an empty list: of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Mailbox providers.
    pub isps: Vec<String>,
    /// Senders.
    pub identities: Vec<String>,
    /// Campaigns.
    pub campaigns: Vec<String>,
}

impl Filters {
    /// As a condition on the columns of those names, to be bound by [`Filters::parameters`].
    fn condition(&self) -> String {
        let mut condition = String::new();
        for (column, parameter, names) in self.parameters() {
            if !names.is_empty() {
                condition.push_str(&format!(" AND {column} IN {{{parameter}:Array(String)}}"));
            }
        }
        condition
    }

    fn parameters(&self) -> [(&'static str, &'static str, &[String]); 3] {
        [("isp", "isps", &self.isps), ("identity", "identities", &self.identities), ("campaign", "campaigns", &self.campaigns)]
    }
}

/// By which side of the sender `bounce-report` tells bounces apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sender {
    /// Domain of the header From.
    #[default]
    FromDomain,
    /// Address it was sent from.
    SendingIp,
}

/// What is asked of the warehouse.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which report.
    pub report: Report,
    /// Of which days.
    pub period: Period,
    /// Of whom.
    pub filters: Filters,
    /// How `bounce-report` tells senders apart.
    pub sender: Sender,
    /// How the ids of the last resorts among the rules begin: for `unmatched`.
    pub fallback_rules: String,
}

impl Request {
    /// The sections of the report, in order.
    pub fn sections(&self) -> Vec<Section> {
        match self.report {
            Report::Monthly => monthly::sections(self),
            Report::FailureBreakdown => vec![failures::breakdown(self)],
            Report::IspProfiles => vec![rates::isps(self)],
            Report::IdentityProfiles => vec![rates::identities(self)],
            Report::CampaignKpis => vec![rates::campaigns(self)],
            Report::IpProfiles => vec![rates::ips(self)],
            Report::IspIdentityMatrix => vec![rates::matrix(self)],
            Report::SmtpPatterns => vec![failures::patterns(self)],
            Report::BounceReport => vec![failures::bounces(self)],
            Report::AlertHistory => vec![failures::alerts(self)],
            Report::Unmatched => vec![failures::unmatched(self)],
        }
    }
}

/// One table of a report: what it holds, and the question that fills it.
#[derive(Clone, Debug)]
pub struct Section {
    /// For machines: letters, digits and `_`.
    pub name: &'static str,
    /// For people.
    pub title: String,
    /// What must be known to read it.
    pub note: String,
    /// What it holds, in order.
    pub columns: Vec<Column>,
    /// The picture of its first rows.
    pub chart: Option<Chart>,
    /// What stands before SELECT.
    with: String,
    /// What stands behind the columns.
    from: String,
}

impl Section {
    /// Only the first rows; `note` says which those are.
    #[must_use]
    fn first(mut self, rows: u32, note: &str) -> Self {
        self.from = format!("{} LIMIT {rows}", self.from);
        self.note = format!("{note} {}", self.note).trim_end().to_owned();
        self
    }

    /// The place of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn sql(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(Column::select).collect();
        format!("{}\nSELECT {}\n{}", self.with, columns.join(",\n    "), self.from)
    }
}
