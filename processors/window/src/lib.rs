//! Sliding event-time windows over `RateBatch` rows, threshold rules and the life of alerts: what the `watch` role decides.
//!
//! Pure: the log's order and its own times decide everything; no clock, no I/O. Performing is the `watch` loop's business.
//! Instants that come in or go out are milliseconds since the epoch, lengths are seconds.

mod watch;
mod watermark;
mod windows;
mod reading;
mod grid;
mod series;
mod names;
mod patterns;
mod alerts;
mod metric;
mod rules;

pub use alerts::{Active, State, Transition};
pub use metric::{AlertSeverity, Metric, Scope, WindowSpec};
pub use reading::{CategoryTotal, Counts, PatternTotal};
pub use rules::{DEFAULT_RULES, Mistakes, Rule, Rules};
pub use watch::{SOURCE_LEFT_OUT, Settings, Watch};
pub use watermark::{SourceState, SourceStatus};
pub use windows::{AHEAD_SECONDS, REFUSALS, Windows};
