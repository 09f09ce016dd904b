//! The days a report is of, and the days it is compared with. Pure.

use jiff::ToSpan as _;
use jiff::civil::Date;

/// Some days (UTC), both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    from: Date,
    to: Date,
}

impl Period {
    /// None where it would end before it begins, or where ClickHouse's `Date` has no such days.
    pub fn new(from: Date, to: Date) -> Option<Self> {
        let known = |day: Date| (1980..=2140).contains(&day.year());
        (from <= to && known(from) && known(to)).then_some(Self { from, to })
    }

    /// Its first day.
    pub fn from(self) -> Date {
        self.from
    }

    /// Its last day.
    pub fn to(self) -> Date {
        self.to
    }

    /// What it is compared with: as many months before it where it is whole months, else as many days.
    pub fn before(self) -> Self {
        let days = (self.to - self.from).get_days();
        let (mut from, to) = (self.from.saturating_sub((days + 1).days()), self.from.saturating_sub(1.day()));
        if self.from.day() == 1 && self.to.saturating_add(1.day()).day() == 1 {
            let months = (i32::from(self.to.year()) - i32::from(self.from.year())) * 12
                + i32::from(self.to.month() - self.from.month())
                + 1;
            from = self.from.saturating_sub(months.months());
        }
        Self { from, to }
    }
}

impl std::fmt::Display for Period {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.from == self.to { write!(f, "{}", self.from) } else { write!(f, "{} to {}", self.from, self.to) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &str, to: &str, expect: &str) {
        let period = Period::new(from.parse().unwrap(), to.parse().unwrap()).unwrap();
        assert_eq!(period.before().to_string(), expect, "{period}");
    }

    #[test]
    fn whole_months_are_compared_with_whole_months_and_days_with_days() {
        check("2026-05-01", "2026-05-31", "2026-04-01 to 2026-04-30");
        check("2026-03-01", "2026-03-31", "2026-02-01 to 2026-02-28");
        check("2026-01-01", "2026-03-31", "2025-10-01 to 2025-12-31");
        check("2026-05-04", "2026-05-10", "2026-04-27 to 2026-05-03");
        check("2026-05-01", "2026-05-30", "2026-04-01 to 2026-04-30");
        check("2026-05-01", "2026-05-01", "2026-04-30");
        check("2026-01-01", "2026-12-31", "2025-01-01 to 2025-12-31");
    }

    #[test]
    fn a_period_goes_forward_through_days_that_clickhouse_knows() {
        let day = |text: &str| text.parse::<Date>().unwrap();
        assert_eq!(Period::new(day("2026-05-02"), day("2026-05-01")), None);
        assert_eq!(Period::new(day("1969-12-31"), day("2026-05-01")), None);
        assert_eq!(Period::new(day("2026-05-01"), day("9999-12-31")), None);
    }
}
