//! The terminal's table: as many columns as fit the width, those people need first; the others are named below. Page by page, so that
//! any number of rows can pass: the first page decides how wide columns are.

use std::io::Write;

use bounceflow_warehouse::report::{Column, Kind, Section, Value};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Width, presets};

use super::{Document, Meta, words};
use crate::printable::printable;

/// Rows that are held to be set together.
const PAGE: usize = 500;
/// A text may be wrapped to this many characters, so that more columns fit.
const NARROW: usize = 14;
/// The same of the first column: it names the row.
const NAME: usize = 30;
/// Between two columns.
const GAP: usize = 2;

pub(super) struct Table {
    out: Box<dyn Write>,
    /// None: as wide as it is.
    width: Option<usize>,
    section: Option<Section>,
    page: Vec<Vec<String>>,
    layout: Option<Layout>,
}

/// Which columns are shown, and how wide.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    shown: Vec<(usize, usize)>,
    left_out: Vec<usize>,
}

impl Table {
    pub(super) fn new(mut out: Box<dyn Write>, meta: &Meta, width: Option<u16>) -> anyhow::Result<Self> {
        writeln!(out, "{}, {} (UTC)", meta.report.title(), meta.period)?;
        for (what, name) in &meta.filters {
            writeln!(out, "{what}: {}", printable(name, false))?;
        }
        Ok(Self { out, width: width.map(usize::from), section: None, page: Vec::new(), layout: None })
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let Some(section) = &self.section else { return Ok(()) };
        let first = self.layout.is_none();
        let layout = self.layout.get_or_insert_with(|| Layout::new(&section.columns, &self.page, self.width));
        let mut table = comfy_table::Table::new();
        let arrangement = if self.width.is_some() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.load_style(presets::NOTHING).set_content_arrangement(arrangement);
        if let Some(width) = self.width {
            // Columns have their widths, whose sum is no wider; only a first column alone may be.
            table.set_width(u16::try_from(width.max(NARROW) + GAP).unwrap_or(u16::MAX));
        }
        if first {
            table.set_header(layout.shown.iter().map(|(i, _)| section.columns[*i].title()));
            table.add_row(layout.shown.iter().map(|(_, width)| "─".repeat(*width)));
        }
        for row in self.page.drain(..) {
            table.add_row(layout.shown.iter().map(|(i, _)| &row[*i]));
        }
        for (place, (i, width)) in layout.shown.iter().enumerate() {
            let Some(column) = table.column_mut(place) else { continue };
            let width = Width::Fixed(u16::try_from(width + GAP).unwrap_or(u16::MAX));
            column.set_padding((0, GAP as u16));
            column.set_constraint(match self.width {
                Some(_) => ColumnConstraint::Absolute(width),
                None => ColumnConstraint::LowerBoundary(width),
            });
            if section.columns[*i].kind.is_number() {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(self.out.flush()?)
    }
}

impl Document for Table {
    fn begin(&mut self, section: Section) -> anyhow::Result<()> {
        writeln!(self.out, "\n{}\n", section.title)?;
        (self.section, self.layout) = (Some(section), None);
        Ok(())
    }

    fn row(&mut self, row: &[Value]) -> anyhow::Result<()> {
        let Some(section) = &self.section else { return Ok(()) };
        let words = |(column, value): (&Column, &Value)| printable(&words::shown(column.kind, value), false);
        self.page.push(std::iter::zip(&section.columns, row).map(words).collect());
        if self.page.len() == PAGE { self.flush() } else { Ok(()) }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.page.is_empty() && self.layout.is_none() {
            writeln!(self.out, "Nothing was counted.")?;
        } else {
            self.flush()?;
        }
        let (Some(section), Some(layout)) = (self.section.take(), self.layout.take()) else { return Ok(()) };
        if !section.note.is_empty() {
            writeln!(self.out, "\n{}", section.note)?;
        }
        if !layout.left_out.is_empty() {
            let (main, further): (Vec<&Column>, Vec<_>) =
                layout.left_out.iter().map(|i| &section.columns[*i]).partition(|column| column.main);
            let mut names: Vec<_> = main.iter().map(|column| column.name.to_owned()).collect();
            if !further.is_empty() {
                names.push(format!("{} more", further.len()));
            }
            writeln!(self.out, "Not shown for want of width (csv, json and xlsx have them): {}", names.join(", "))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

impl Layout {
    fn new(columns: &[Column], page: &[Vec<String>], width: Option<usize>) -> Self {
        let cells = |i: usize| page.iter().map(|row| console_width(&row[i])).max().unwrap_or(0);
        let word = |i: usize| columns[i].title().split(' ').map(console_width).max().unwrap_or(0);
        let Some(width) = width else {
            let shown = (0..columns.len()).map(|i| (i, cells(i).max(console_width(&columns[i].title())))).collect();
            return Self { shown, left_out: Vec::new() };
        };
        // The least each needs: numbers are not wrapped, texts are, titles at their spaces.
        let least = |i: usize| match columns[i].kind {
            Kind::Text => cells(i).min(if i == 0 { NAME } else { NARROW }).max(word(i)),
            _ => cells(i).max(word(i)),
        };
        let by_need = (0..columns.len()).filter(|i| columns[*i].main).chain((0..columns.len()).filter(|i| !columns[*i].main));
        let (mut shown, mut left_out, mut room) = (Vec::new(), Vec::new(), width);
        for i in by_need {
            let needs = least(i) + if shown.is_empty() { 0 } else { GAP };
            if shown.is_empty() || (needs <= room && left_out.is_empty()) {
                room = room.saturating_sub(needs);
                shown.push((i, least(i).min(width)));
            } else {
                left_out.push(i);
            }
        }
        shown.sort_unstable();
        left_out.sort_unstable();
        // What is left goes to the texts that would be wrapped, the short ones first: those are names.
        let mut wrapped: Vec<(usize, usize)> = (0..shown.len()).map(|at| (cells(shown[at].0), at)).collect();
        wrapped.sort_unstable();
        for (wish, at) in wrapped {
            let more = wish.saturating_sub(shown[at].1).min(room);
            shown[at].1 += more;
            room -= more;
        }
        Self { shown, left_out }
    }
}

/// How many places it takes in a terminal.
fn console_width(text: &str) -> usize {
    console::measure_text_width(text)
}
