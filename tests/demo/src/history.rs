//! A counter over time: how fast it moves, and when it passed a value.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Speed is that of the last few seconds.
const WINDOW: Duration = Duration::from_secs(5);
/// Bounds the memory; further behind than this is shown as this.
const KEPT: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(crate) struct History {
    points: VecDeque<(Instant, u64)>,
}

impl History {
    pub(crate) fn add(&mut self, at: Instant, value: u64) {
        self.points.push_back((at, value));
        while self.points.front().is_some_and(|(first, _)| at - *first > KEPT) {
            self.points.pop_front();
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.points.back().map_or(0, |(_, value)| *value)
    }

    pub(crate) fn per_second(&self) -> f64 {
        let Some((now, last)) = self.points.back() else { return 0.0 };
        let Some((then, first)) = self.points.iter().find(|(at, _)| *now - *at <= WINDOW) else { return 0.0 };
        let seconds = (*now - *then).as_secs_f64();
        if seconds > 0.0 { last.saturating_sub(*first) as f64 / seconds } else { 0.0 }
    }

    /// Since when it is above a value; not at all if it is not.
    pub(crate) fn above(&self, value: u64) -> Option<Instant> {
        let first = self.points.partition_point(|(_, seen)| *seen <= value);
        self.points.get(first).map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let mut history = History::default();
        assert_eq!((history.last(), history.per_second()), (0, 0.0));
        for second in 0..20_u64 {
            history.add(start + Duration::from_secs(second), if second < 10 { 0 } else { (second - 10) * 100 });
        }
        assert_eq!(history.last(), 900);
        assert!((history.per_second() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_value_is_passed_once() {
        let start = Instant::now();
        let mut history = History::default();
        for second in 0..5_u64 {
            history.add(start + Duration::from_secs(second), second * 10);
        }
        assert_eq!(history.above(20), Some(start + Duration::from_secs(3)));
        assert_eq!(history.above(15), Some(start + Duration::from_secs(2)));
        assert_eq!(history.above(40), None);
    }
}
