//! One flag that asks every loop to end, and a way to wait that hears it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Asks every loop to end. Clones share the flag.
#[derive(Clone, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Default)]
struct Shared {
    set: AtomicBool,
    /// For those who wait: nothing is in it.
    waiting: Mutex<()>,
    wake: Condvar,
}

impl Stop {
    /// Asks.
    pub fn set(&self) {
        // Set while nobody is between looking and waiting.
        let _nobody = self.0.waiting.lock().unwrap_or_else(|e| e.into_inner());
        self.0.set.store(true, Ordering::Release);
        self.0.wake.notify_all();
    }

    /// Whether it was asked.
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    /// Waits for `time`, or until asked.
    pub fn wait(&self, time: Duration) {
        let waiting = self.0.waiting.lock().unwrap_or_else(|e| e.into_inner());
        drop(self.0.wake.wait_timeout_while(waiting, time, |()| !self.is_set()));
    }
}
