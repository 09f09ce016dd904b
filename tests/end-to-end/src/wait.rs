//! Waiting on a condition, within a bound. Nothing here waits blindly.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// More than anything takes on a busy machine with two cores; a bound, never an expectation.
pub const LONG: Duration = Duration::from_secs(180);

/// Asks until the answer is there. `ask` says in its error what is still missing; the last one is part of the failure.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + LONG;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(missing) if Instant::now() > deadline => bail!("{what}: not within {LONG:?}: {missing:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}
