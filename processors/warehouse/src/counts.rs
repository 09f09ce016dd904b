//! The columns of counts: `batches`, `delivery_rates` and its roll-ups name them alike.

/// The counts of a row, as both tables name them.
pub(crate) const COUNTS: [&str; 10] = [
    "deliveries",
    "first_attempts",
    "hard",
    "soft",
    "deferred",
    "blocked",
    "blocked_deferrals",
    "complaints",
    "late_bounces",
    "drops",
];

/// The totals over categories in `batches`, and the maps they are the totals of in `delivery_rates`.
pub(crate) const CATEGORIES: [(&str, &str); 3] = [
    ("categorized_bounces", "bounce_categories"),
    ("categorized_deferrals", "deferral_categories"),
    ("categorized_late_bounces", "late_bounce_categories"),
];
