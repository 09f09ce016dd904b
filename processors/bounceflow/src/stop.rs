//! One flag that asks every loop to end, and a way to wait that hears it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Asks every loop to end. Clones share the flag.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Asks.
    pub fn set(&self) {
        *self.0.0.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.0.1.notify_all();
    }

    /// Whether it was asked.
    pub fn is_set(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for `time`, or until asked.
    pub fn wait(&self, time: Duration) {
        let guard = self.0.0.lock().unwrap_or_else(|e| e.into_inner());
        drop(self.0.1.wait_timeout_while(guard, time, |set| !*set));
    }
}
