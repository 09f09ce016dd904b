//! Who answered (ISP) and who sent (identity).
//!
//! Pure: strings in, names out, from tables built once and then only read. No clock, no I/O, no logging; nothing is
//! allocated per call while the input is spelled the usual way. Rollups of MX hosts made by an MTA (KumoMTA's `site`)
//! are for the caller to undo.

mod domain;
mod isp;
mod identity;
mod rule;
mod mistakes;

pub use domain::{domain_of, mailbox_of, normalize_domain, organizational_domain};
pub use identity::{Identities, IdentityConfig, IdentityMap, OneOrMany, Sender, UNKNOWN};
pub use isp::{Isp, IspId, IspKind, Isps, TableError};
pub use mistakes::{Mistake, Mistakes};
