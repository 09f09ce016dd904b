//! What the process knows about its own loops: do they turn, are they ready. The HTTP side reads it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A loop that has not turned for this long is stuck: no call of a client may take longer than a request to Kafka, which is a minute.
pub(crate) const STUCK: Duration = Duration::from_secs(90);

/// The loops of this process.
#[derive(Clone)]
pub struct Health {
    started: Instant,
    loops: Arc<Mutex<Vec<Arc<Loop>>>>,
}

/// One loop's own view.
pub struct Loop {
    name: String,
    started: Instant,
    turned_ms: AtomicU64,
    patience_ms: AtomicU64,
    ready: AtomicBool,
    problem: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { started: Instant::now(), loops: Arc::default() }
    }
}

impl Health {
    /// Adds a loop; it is not ready until it says so.
    pub fn add(&self, name: impl Into<String>) -> Arc<Loop> {
        let added = Arc::new(Loop {
            name: name.into(),
            started: self.started,
            turned_ms: AtomicU64::new(self.started.elapsed().as_millis() as u64),
            patience_ms: AtomicU64::new(STUCK.as_millis() as u64),
            ready: AtomicBool::new(false),
            problem: Mutex::new(None),
        });
        self.loops.lock().unwrap_or_else(|e| e.into_inner()).push(Arc::clone(&added));
        added
    }

    /// Forgets them: others take their place.
    pub fn clear(&self) {
        self.loops.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }

    /// One has ended: it turns no more, and is not stuck.
    pub fn ended(&self, name: &str) {
        let loops = self.loops.lock().unwrap_or_else(|e| e.into_inner());
        loops.iter().filter(|l| l.name == name).for_each(|l| l.patience_ms.store(u64::MAX, Ordering::Relaxed));
    }

    /// The loops that do not turn.
    pub fn stuck(&self) -> Vec<String> {
        let now = self.started.elapsed();
        self.each(|l| {
            let turned = Duration::from_millis(l.turned_ms.load(Ordering::Relaxed));
            let still = now.saturating_sub(turned);
            (still > Duration::from_millis(l.patience_ms.load(Ordering::Relaxed)))
                .then(|| format!("{}: has not turned for {} s", l.name, still.as_secs()))
        })
    }

    /// The loops that are not ready, and why.
    pub fn not_ready(&self) -> Vec<String> {
        self.each(|l| {
            let problem = l.problem.lock().unwrap_or_else(|e| e.into_inner()).clone();
            match problem {
                Some(problem) => Some(format!("{}: {problem}", l.name)),
                None if !l.ready.load(Ordering::Relaxed) => Some(format!("{}: starting", l.name)),
                None => None,
            }
        })
    }

    fn each(&self, ask: impl Fn(&Loop) -> Option<String>) -> Vec<String> {
        self.loops.lock().unwrap_or_else(|e| e.into_inner()).iter().filter_map(|l| ask(l)).collect()
    }
}

impl Loop {
    /// The loop went round once more.
    pub fn turn(&self) {
        self.turn_within(STUCK);
    }

    /// The same, and it is stuck unless the next turn comes within this time.
    pub fn turn_within(&self, patience: Duration) {
        self.patience_ms.store(patience.as_millis() as u64, Ordering::Relaxed);
        self.turned_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The loop does its work.
    pub fn ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Something waits for an operator; none: nothing does any more.
    pub fn problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(|e| e.into_inner()) = problem;
    }
}
