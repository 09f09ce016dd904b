//! Named steps of the loops at which a test may strike: the process kills itself, freezes itself or sleeps there.
//!
//! Compiled in only with the feature `failpoints`; without it a step is nothing at all. What happens at a step is said by the
//! variable `FAILPOINTS`, in the notation of the crate `fail`: `sink.before-intent=20*off->1*return(kill)` kills at the 21st time.
//! Orders: `kill`, `stop` (SIGSTOP), `panic` and `hang` (at a moment: the thread never goes on), and `kill MICROSECONDS` for a step that lasts, that long after it began if it is still under way.

/// A step: a moment (`failpoint!("name")`), or one that lasts (`failpoint!("name", expression)`, whose value it is).
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reached($name);
    };
    ($name:literal, $step:expr) => {{
        #[cfg(feature = "failpoints")]
        let _under_way = $crate::failpoint::begun($name);
        $step
    }};
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::getpid;

    /// Runs the command line with the steps armed as `FAILPOINTS` says.
    pub fn main() -> std::process::ExitCode {
        let _scenario = fail::FailScenario::setup();
        crate::cli::main()
    }

    /// A moment is reached.
    pub(crate) fn reached(name: &'static str) {
        if let Some(order) = order(name) {
            obey(name, &order);
        }
    }

    /// A step that lasts has begun; it is over when what is returned is dropped.
    pub(crate) fn begun(name: &'static str) -> UnderWay {
        let under_way = UnderWay(Arc::new(Mutex::new(true)));
        if let Some(order) = order(name) {
            let step = Arc::clone(&under_way.0);
            thread::spawn(move || {
                let (what, after) = order.split_once(' ').unwrap_or((&order, "0"));
                thread::sleep(Duration::from_micros(after.parse().unwrap_or(0)));
                // Held: the step cannot end between the look and the stroke.
                let lasts = step.lock().unwrap_or_else(|e| e.into_inner());
                if *lasts {
                    obey(name, what);
                }
            });
        }
        under_way
    }

    /// A step that lasts.
    pub(crate) struct UnderWay(Arc<Mutex<bool>>);

    impl Drop for UnderWay {
        fn drop(&mut self) {
            *self.0.lock().unwrap_or_else(|e| e.into_inner()) = false;
        }
    }

    /// What is to be done at this step now, if anything.
    fn order(name: &'static str) -> Option<String> {
        fail::fail_point!(name, |order| Some(order.unwrap_or_default()));
        None
    }

    fn obey(name: &'static str, order: &str) {
        let signal = match order {
            "kill" => Signal::SIGKILL,
            "stop" => Signal::SIGSTOP,
            "panic" => {
                tracing::warn!(failpoint = name, order, "Fault struck");
                panic!("as a test ordered");
            }
            "hang" => {
                tracing::warn!(failpoint = name, order, "Fault struck");
                loop {
                    thread::park();
                }
            }
            _ => return tracing::error!(failpoint = name, order, "No such order of a failpoint; nothing is done"),
        };
        tracing::warn!(failpoint = name, order, "Fault struck");
        // To the whole process, whichever thread this is.
        if let Err(error) = kill(getpid(), signal) {
            tracing::error!(failpoint = name, order, %error, "The fault did not strike");
        }
    }
}

#[cfg(feature = "failpoints")]
pub use armed::main;
#[cfg(feature = "failpoints")]
pub(crate) use armed::{begun, reached};
