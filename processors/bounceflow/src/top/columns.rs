//! Which columns of the rates fit a width, and the text in them. Shared by the view and the plain report.

use crate::api::Row;

use super::format;
use super::model::{Figure, Scope};

/// A row begins with a mark and a space.
pub(super) const MARK: usize = 2;
/// Less than this makes no name.
const LEAST_ISP: usize = 12;
const LEAST_IDENTITY: usize = 16;
/// Names get this much before the figures of the second rank get any.
const GOOD_NAME: usize = 28;
const MOST_NAME: usize = 48;
/// A bar per part of the window, or per two.
const TREND: usize = 20;
const LEAST_TREND: usize = 10;
/// What goes in first where room is short.
const FIRST: [Shown; 6] = [
    Shown::Figure(Figure::Outcomes),
    Shown::Figure(Figure::BounceRate),
    Shown::Figure(Figure::HardRate),
    Shown::Figure(Figure::BlockedRate),
    Shown::Figure(Figure::DeferredRate),
    Shown::Trend,
];
const SECOND: [Shown; 4] = [
    Shown::Figure(Figure::ComplaintRate),
    Shown::Figure(Figure::SoftRate),
    Shown::Figure(Figure::LateBounceRate),
    Shown::Figure(Figure::Attempts),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Isp,
    Identity,
    /// The name of the one row over all.
    All,
    Figure(Figure),
    Trend,
}

#[derive(Clone, Debug)]
struct Column {
    shown: Shown,
    width: usize,
    /// Counts of the whole column are shortened, or none: they are compared with each other.
    short: bool,
}

/// The columns of a table, fitted to a width.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    columns: Vec<Column>,
    sort: Figure,
    ascending: bool,
}

/// One cell, filled up to the width of its column, and the figure in it.
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) figure: Option<Figure>,
    pub(super) is_trend: bool,
}

impl Columns {
    /// Chooses by priority what fits; the figure sorted by is always shown.
    pub(super) fn fit(rows: &[Row], scope: &str, (sort, ascending): (Figure, bool), width: usize) -> Self {
        let longest = |name: fn(&Row) -> &str| {
            let longest = rows.iter().map(|row| format::width(name(row))).max().unwrap_or(0);
            longest.min(MOST_NAME)
        };
        let isp = (Shown::Isp, longest(|row| &row.isp).max(3), LEAST_ISP);
        let identity = (Shown::Identity, longest(|row| &row.identity).max(8), LEAST_IDENTITY);
        let names = match scope {
            s if s == Scope::Isp.as_str() => vec![isp],
            s if s == Scope::Identity.as_str() => vec![identity],
            s if s == Scope::Overall.as_str() => vec![(Shown::All, 3, 3)],
            _ => vec![isp, identity],
        };
        let mut chosen: Vec<Column> =
            names.iter().map(|&(shown, natural, least)| Column { shown, width: natural.min(least), short: false }).collect();
        // A gap before each column but the first.
        let mut free = width.saturating_sub(MARK + chosen.iter().map(|column| column.width + 1).sum::<usize>() - 1);
        let add = |chosen: &mut Vec<Column>, free: &mut usize, shown: Shown, must: bool| {
            let width = shown.width();
            let new = chosen.iter().all(|column| column.shown != shown);
            if new && (must || *free > width) {
                *free = free.saturating_sub(width + 1);
                chosen.push(Column { shown, width, short: false });
            }
        };
        let grow = |chosen: &mut [Column], free: &mut usize, most: usize| {
            for (column, &(_, natural, _)) in chosen.iter_mut().zip(&names) {
                let more = natural.min(most).saturating_sub(column.width).min(*free);
                column.width += more;
                *free -= more;
            }
        };
        add(&mut chosen, &mut free, Shown::Figure(sort), true);
        FIRST.into_iter().for_each(|shown| add(&mut chosen, &mut free, shown, false));
        grow(&mut chosen, &mut free, GOOD_NAME);
        for shown in SECOND {
            add(&mut chosen, &mut free, shown, false);
            if let Some(trend) = chosen.iter_mut().find(|column| column.shown == Shown::Trend)
                && free >= TREND - trend.width
            {
                free -= TREND - trend.width;
                trend.width = TREND;
            }
        }
        grow(&mut chosen, &mut free, MOST_NAME);
        for column in &mut chosen {
            if let Shown::Figure(figure) = column.shown {
                column.short = rows.iter().any(|row| format::width(&figure_of(figure, row, false)) > column.width);
            }
        }
        chosen.sort_by_key(|column| column.shown.place());
        Self { columns: chosen, sort, ascending }
    }

    /// The names of the columns; an arrow at the one sorted by says whether it falls or rises.
    pub(super) fn head(&self) -> String {
        let mut head = " ".repeat(MARK);
        for (at, column) in self.columns.iter().enumerate() {
            let arrow = if self.ascending { "↑" } else { "↓" };
            let name = match column.shown {
                Shown::Figure(figure) if figure == self.sort => format!("{arrow}{}", column.shown.name()),
                shown => shown.name().to_owned(),
            };
            head += &match column.shown {
                // The arrow of a name as wide as its column stands in the gap.
                Shown::Figure(_) => format::right(&name, column.width + 1),
                _ if at == 0 => format::left(&name, column.width),
                _ => format!(" {}", format::left(&name, column.width)),
            };
        }
        head
    }

    /// The cells of a row, a gap before each but the first.
    pub(super) fn cells(&self, row: &Row) -> Vec<Cell> {
        let cell = |column: &Column| {
            let (text, figure) = match column.shown {
                Shown::Isp => (format::left(&row.isp, column.width), None),
                Shown::Identity => (format::left(&row.identity, column.width), None),
                Shown::All => ("all".to_owned(), None),
                Shown::Trend => (format::left(&format::spark(&row.spark, column.width), column.width), None),
                Shown::Figure(figure) => (format::right(&figure_of(figure, row, column.short), column.width), Some(figure)),
            };
            Cell { text, figure, is_trend: column.shown == Shown::Trend }
        };
        self.columns.iter().map(cell).collect()
    }
}

impl Shown {
    const fn name(self) -> &'static str {
        match self {
            Self::Isp => "ISP",
            Self::Identity => "identity",
            Self::All => "",
            Self::Trend => "trend",
            Self::Figure(figure) => match figure {
                Figure::Outcomes => "outcomes",
                Figure::Attempts => "attempts",
                Figure::BounceRate => "bounce",
                Figure::HardRate => "hard",
                Figure::SoftRate => "soft",
                Figure::BlockedRate => "blocked",
                Figure::DeferredRate => "defer",
                Figure::ComplaintRate => "complaint",
                Figure::LateBounceRate => "late",
            },
        }
    }

    /// Names of ISPs and identities get theirs from the rows.
    fn width(self) -> usize {
        match self {
            Self::Isp | Self::Identity | Self::All => 0,
            Self::Trend => LEAST_TREND,
            Self::Figure(_) => self.name().len().max(6),
        }
    }

    /// From left to right.
    fn place(self) -> usize {
        match self {
            Self::All | Self::Isp => 0,
            Self::Identity => 1,
            Self::Figure(figure) => 2 + Figure::ALL.iter().position(|&other| other == figure).unwrap_or(0),
            Self::Trend => usize::MAX,
        }
    }
}

fn figure_of(figure: Figure, row: &Row, short: bool) -> String {
    let count = if short { format::short } else { format::count };
    match figure {
        Figure::Outcomes => count(row.outcomes),
        Figure::Attempts => count(row.attempts),
        rate => format::rate(rate.of(row)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row { isp: "google_workspace".into(), identity: "news.shop.example.com".into(), outcomes: 12_345_678, ..Row::default() }
    }

    fn head(width: usize, sort: Figure) -> String {
        Columns::fit(&[row()], "isp_identity", (sort, false), width).head()
    }

    #[test]
    fn columns_go_by_priority_and_the_one_sorted_by_stays() {
        let names = |head: &str| head.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            names(&head(80, Figure::Outcomes)),
            ["ISP", "identity", "↓outcomes", "bounce", "hard", "blocked", "defer", "trend"]
        );
        assert_eq!(names(&head(50, Figure::Outcomes)), ["ISP", "identity", "↓outcomes", "bounce"]);
        assert_eq!(names(&head(50, Figure::LateBounceRate)), ["ISP", "identity", "outcomes", "↓late"]);
        assert_eq!(names(&head(200, Figure::Outcomes)).len(), 12);
    }

    #[test]
    fn every_line_is_as_wide_as_the_head_and_none_wider_than_asked() {
        for width in 46..200 {
            for sort in Figure::ALL {
                let columns = Columns::fit(&[row()], "isp_identity", (sort, true), width);
                let cells = columns.cells(&row());
                let line = MARK + cells.iter().map(|cell| format::width(&cell.text) + 1).sum::<usize>() - 1;
                assert_eq!(format::width(&columns.head()), line, "{width} {sort:?}");
                assert!(line <= width, "{width} {sort:?}: {}", columns.head());
            }
        }
    }

    #[test]
    fn counts_of_a_column_are_shortened_together() {
        let small = Row { outcomes: 98_765, ..row() };
        let text = |rows: &[Row]| {
            let columns = Columns::fit(rows, "overall", (Figure::Outcomes, false), 80);
            rows.iter().map(|row| columns.cells(row)[1].text.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(text(&[row(), small.clone()]), ["12.3M", "98.8k"]);
        assert_eq!(text(&[small]), ["98,765"]);
    }
}
