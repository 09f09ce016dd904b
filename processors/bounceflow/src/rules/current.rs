//! The rules in force, and how they are read anew while the process runs: all of them, or none.
//! Owns the swap; when a thread takes the new ones is the thread's business, between two transactions.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use bounceflow_classify::Rules;
use bounceflow_enrich::Isps;

use super::files;

/// Mistakes of one reload that are logged; the rest is counted.
const LOGGED: usize = 50;

/// The rules in force in this process.
#[derive(Debug)]
pub struct Current(RwLock<Arc<Rules>>);

impl Current {
    /// Those the process starts with.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self(RwLock::new(rules))
    }

    /// Those in force now.
    pub fn get(&self) -> Arc<Rules> {
        Arc::clone(&self.0.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// Reads the files anew, and says whether they were taken. Where one of them has a mistake, the rules in force stay.
    pub fn reload(&self, paths: &[PathBuf], isps: &Isps) -> bool {
        let old = self.get();
        match files::load(paths, isps) {
            Ok(rules) => {
                let (rules_version, old_version) = (rules.version().to_owned(), old.version());
                tracing::info!(rules_version, old_version, rules = rules.iter().len(), "Rules read anew");
                // Threads keep their caches where nothing changed.
                if rules_version != old_version {
                    *self.0.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(rules);
                }
                true
            }
            Err(mistakes) => {
                let rules_version = old.version();
                for e in mistakes.0.iter().take(LOGGED) {
                    let (file, line, reason) = (&e.file, e.line, &e.reason);
                    tracing::error!(file, line, reason, rules_version, "Rules refused; those in force stay");
                }
                if mistakes.0.len() > LOGGED {
                    tracing::error!(more = mistakes.0.len() - LOGGED, rules_version, "Further mistakes in the rules");
                }
                false
            }
        }
    }
}
