//! A spreadsheet: what it is about on the first sheet with the charts, then a sheet per section, every column, with types, widths,
//! a frozen header and filters. Rows go to a temporary file as they come.
//!
//! **Invariant:** every text is written as text; one that looks like a formula is marked so (the quote prefix), so that it stays one
//! when somebody edits the cell.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use anyhow::Context as _;
use bounceflow_warehouse::report::{Chart, Column, Form, Kind, Section, Value};
use rust_xlsxwriter::{
    Chart as Picture, ChartAxisLabelPosition, ChartFont, ChartLegendPosition, ChartLine, ChartSolidFill, ChartType, Color,
    ExcelDateTime, Format, FormatAlign, Workbook, Worksheet, XlsxError,
};

use super::csv::is_formula;
use super::{Document, Meta};

/// Rows of a sheet, below its header.
const MOST_ROWS: u32 = 1_048_575;
/// Characters of a cell, counted as Excel does.
const MOST_CHARACTERS: usize = 32_767;
const ABOUT: &str = "About";
/// Rows of the first sheet that a chart takes.
const CHART_ROWS: u32 = 19;

pub(super) struct Xlsx {
    book: Workbook,
    /// None: the way out cannot go back, so the book is made elsewhere.
    file: Option<File>,
    out: Box<dyn Write>,
    formats: Formats,
    section: Option<Section>,
    /// Sheets of the sections, and rows of the last.
    sheets: usize,
    of_section: u32,
    row: u32,
    /// Where the next chart goes on the first sheet.
    below: u32,
}

/// How cells look; a section's cells of one kind look alike.
struct Formats {
    header: Format,
    wrapped: Format,
    formula: Format,
    kinds: Vec<(Kind, Format)>,
}

impl Formats {
    fn new() -> Self {
        let kind = |kind, pattern: &str| (kind, Format::new().set_num_format(pattern));
        let kinds = vec![
            kind(Kind::Count, "#,##0"),
            kind(Kind::Rate, "0.00%"),
            kind(Kind::Points, "+0.00;-0.00;0.00"),
            kind(Kind::Change, "+0.0%;-0.0%;0.0%"),
            kind(Kind::Difference, "+#,##0;-#,##0;0"),
            kind(Kind::Seconds, "[h]:mm:ss"),
            kind(Kind::Date, "yyyy-mm-dd"),
            kind(Kind::Time, "yyyy-mm-dd hh:mm:ss"),
        ];
        let header = Format::new().set_bold().set_text_wrap().set_align(FormatAlign::Top);
        Self {
            header: header.set_background_color(Color::RGB(0xE8_ED_F2)),
            wrapped: Format::new().set_text_wrap().set_align(FormatAlign::Top),
            formula: Format::new().set_quote_prefix(),
            kinds,
        }
    }

    fn of(&self, kind: Kind) -> Option<&Format> {
        self.kinds.iter().find(|(known, _)| *known == kind).map(|(_, format)| format)
    }
}

impl Xlsx {
    pub(super) fn new(file: Option<File>, out: Box<dyn Write>, meta: &Meta) -> anyhow::Result<Self> {
        let formats = Formats::new();
        let mut book = Workbook::new();
        let about = book.add_worksheet();
        about.set_name(ABOUT)?.set_column_width(0, 16)?.set_column_width(1, 100)?.set_print_fit_to_pages(1, 0);
        about.write_string_with_format(0, 0, meta.report.title(), &Format::new().set_bold().set_font_size(16))?;
        let mut lines = vec![("Report", meta.report.name().to_owned()), ("Days (UTC)", meta.period.to_string())];
        lines.extend(meta.filters.iter().cloned());
        lines.extend(meta.before().map(|before| ("Compared with", before.to_string())));
        lines.push(("Made", format!("{} by bounceflow {}", meta.made, env!("CARGO_PKG_VERSION"))));
        let mut row = 1;
        for (what, words) in &lines {
            row += 1;
            about.write_string(row, 0, *what)?;
            text(about, row, 1, words, &formats.formula)?;
        }
        Ok(Self { book, file, out, formats, section: None, sheets: 0, of_section: 0, row: 0, below: row + 2 })
    }

    /// The next sheet of a section: a second one where the first is full.
    fn sheet(&mut self) -> anyhow::Result<()> {
        let Some(section) = &self.section else { return Ok(()) };
        (self.sheets, self.of_section, self.row) = (self.sheets + 1, self.of_section + 1, 0);
        let name = sheet_name(&section.title, self.of_section);
        let sheet = self.book.add_worksheet_with_constant_memory()?;
        sheet.set_name(name)?.set_freeze_panes(1, 1)?.set_landscape().set_repeat_rows(0, 0)?.set_print_fit_to_pages(1, 0);
        sheet.set_row_height(0, 32)?;
        for (at, column) in (0..).zip(&section.columns) {
            sheet.set_column_width(at, width(column))?;
            let unit = if column.kind == Kind::Points { " (% points)" } else { "" };
            let title = column.title().trim_end_matches(" points").to_owned() + unit;
            sheet.write_string_with_format(0, at, title, &self.formats.header)?;
        }
        Ok(())
    }

    /// Headers filter the rows below them.
    fn close_sheet(&mut self) -> anyhow::Result<()> {
        let Some(section) = &self.section else { return Ok(()) };
        let last = u16::try_from(section.columns.len() - 1).context("too many columns")?;
        let sheet = self.book.worksheet_from_index(self.sheets)?;
        sheet.autofilter(0, 0, self.row, last)?;
        Ok(())
    }

    /// On the first sheet: the title of the section, what must be known, and its chart.
    fn tell(&mut self, first_rows: u32) -> anyhow::Result<()> {
        let Some(section) = &self.section else { return Ok(()) };
        let about = self.book.worksheet_from_index(0)?;
        about.write_string_with_format(self.below, 0, &section.title, &Format::new().set_bold())?;
        let note = if first_rows == 0 { "Nothing was counted." } else { &section.note };
        about.write_string_with_format(self.below, 1, note, &self.formats.wrapped)?;
        self.below += 1;
        if let Some(chart) = &section.chart
            && first_rows > 0
            && let Some(picture) = picture(chart, section, first_rows)
        {
            about.insert_chart(self.below, 1, &picture)?;
            self.below += CHART_ROWS + 1;
        }
        Ok(())
    }
}

impl Document for Xlsx {
    fn begin(&mut self, section: Section) -> anyhow::Result<()> {
        (self.section, self.of_section) = (Some(section), 0);
        self.sheet()
    }

    fn row(&mut self, row: &[Value]) -> anyhow::Result<()> {
        if self.row == MOST_ROWS {
            self.close_sheet()?;
            self.sheet()?;
        }
        self.row += 1;
        let Some(section) = &self.section else { return Ok(()) };
        let sheet = self.book.worksheet_from_index(self.sheets)?;
        for (at, (column, value)) in (0..).zip(std::iter::zip(&section.columns, row)) {
            let format = self.formats.of(column.kind);
            match (column.kind, value, format) {
                (_, Value::Null, _) => {}
                (Kind::Date | Kind::Time, Value::Text(time), Some(format)) => {
                    sheet.write_datetime_with_format(self.row, at, ExcelDateTime::parse_from_str(time)?, format)?;
                }
                (Kind::Seconds, Value::Count(seconds), Some(format)) => {
                    sheet.write_number_with_format(self.row, at, *seconds as f64 / 86_400.0, format)?;
                }
                (_, Value::Text(words), _) => text(sheet, self.row, at, words, &self.formats.formula)?,
                (_, value, Some(format)) => {
                    sheet.write_number_with_format(self.row, at, value.as_f64().unwrap_or_default(), format)?;
                }
                (_, value, None) => {
                    sheet.write_number(self.row, at, value.as_f64().unwrap_or_default())?;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.close_sheet()?;
        self.tell(if self.of_section > 1 { MOST_ROWS } else { self.row })?;
        self.section = None;
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        match &mut self.file {
            Some(file) => self.book.save_to_writer(file)?,
            None => {
                let mut file = tempfile::tempfile()?;
                self.book.save_to_writer(&mut file)?;
                file.seek(SeekFrom::Start(0))?;
                std::io::copy(&mut file, &mut self.out)?;
            }
        }
        Ok(self.out.flush()?)
    }
}

fn text(sheet: &mut Worksheet, row: u32, column: u16, words: &str, formula: &Format) -> Result<(), XlsxError> {
    let words = cut(words);
    if is_formula(words) {
        sheet.write_string_with_format(row, column, words, formula)?;
    } else if !words.is_empty() {
        sheet.write_string(row, column, words)?;
    }
    Ok(())
}

/// What fits a cell.
fn cut(words: &str) -> &str {
    let mut length = 0;
    let end = words.char_indices().find(|(_, c)| {
        length += c.len_utf16();
        length > MOST_CHARACTERS
    });
    end.map_or(words, |(end, _)| &words[..end])
}

fn sheet_name(title: &str, number: u32) -> String {
    if number == 1 { title.to_owned() } else { format!("{title} ({number})") }
}

/// In characters: names and dates whole, long texts bearable.
fn width(column: &Column) -> f64 {
    let words = column.title().split(' ').map(str::len).max().unwrap_or(0);
    let cells = match (column.kind, column.name) {
        (Kind::Text, "sample" | "bounce_text") => 80,
        (Kind::Text, "identity" | "campaign" | "name" | "from_domain" | "recipient_domain" | "kpi" | "rule" | "action") => 26,
        (Kind::Text, _) => 18,
        (Kind::Time, _) => 19,
        _ => 11,
    };
    cells.max(words + 4) as f64
}

/// A chart of the spreadsheet's own: it follows the cells.
fn picture(chart: &Chart, section: &Section, rows: u32) -> Option<Picture> {
    let last = rows.min(u32::try_from(chart.rows).ok()?);
    let place = |name: &str| section.column(name).and_then(|at| u16::try_from(at).ok());
    let label = place(chart.label)?;
    let sheet = sheet_name(&section.title, 1);
    let mut picture = Picture::new(match chart.form {
        Form::Bars => ChartType::Bar,
        Form::Lines => ChartType::Line,
    });
    let mut percent = false;
    for (series, (r, g, b)) in std::iter::zip(chart.series, super::chart::COLOURS) {
        let at = place(series)?;
        let column = section.columns[usize::from(at)];
        percent |= column.kind == Kind::Rate;
        let colour = Color::RGB(u32::from_be_bytes([0, r, g, b]));
        let drawn = picture.add_series();
        drawn.set_name(column.title().as_str()).set_categories((sheet.as_str(), 1, label, last, label));
        drawn.set_values((sheet.as_str(), 1, at, last, at));
        match chart.form {
            Form::Bars => drawn.set_format(ChartSolidFill::new().set_color(colour)),
            Form::Lines => drawn.set_format(ChartLine::new().set_color(colour).set_width(2)),
        };
    }
    let signed =
        chart.series.iter().any(|name| place(name).is_some_and(|at| section.columns[usize::from(at)].kind == Kind::Difference));
    // The axis of the rows of a bar chart is the upright one; its first row belongs on top, and the figures below.
    let values = match chart.form {
        Form::Bars => {
            picture.y_axis().set_reverse().set_label_position(ChartAxisLabelPosition::Low);
            picture.x_axis().set_label_position(ChartAxisLabelPosition::High)
        }
        Form::Lines => {
            picture.x_axis().set_num_format("yyyy-mm-dd");
            picture.y_axis()
        }
    };
    values.set_num_format(if percent { "0.0%" } else { "#,##0" });
    values.set_major_gridlines_line(ChartLine::new().set_color(Color::RGB(0xDD_E2_E7)));
    if !signed {
        values.set_min(0);
    }
    picture.title().set_name(chart.title).set_font(ChartFont::new().set_size(12).set_bold());
    if chart.series.len() == 1 {
        picture.legend().set_hidden();
    } else {
        picture.legend().set_position(ChartLegendPosition::Bottom);
    }
    picture.set_width(720).set_height(CHART_ROWS * 20);
    Some(picture)
}
