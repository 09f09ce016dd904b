//! Owns Ctrl-C and SIGTERM: one asks for an orderly end, a second one ends this process at once. Nothing needs to be undone
//! then: servers and children end with their owner, however it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Until [`Interrupt::orderly`] the first signal already ends the process.
    pub(crate) fn listen() -> Result<Self> {
        let (asked, at_once) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        for signal in [SIGINT, SIGTERM] {
            // In this order: a signal looks whether there was one before it, then says that there was one.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&at_once))?;
            flag::register(signal, Arc::clone(&at_once))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Self { asked, at_once })
    }

    /// From now on the first signal only asks.
    pub(crate) fn orderly(&self) {
        self.at_once.store(false, Ordering::SeqCst);
    }

    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Sleeps until then, or until asked to end.
    pub(crate) fn sleep_until(&self, end: Instant) {
        while !self.asked() && Instant::now() < end {
            thread::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(20)));
        }
    }
}
