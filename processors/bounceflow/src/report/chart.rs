//! Charts as SVG, for HTML: static pictures without script, font or picture of their own, so that they show wherever SVG does.

use std::error::Error;

use bounceflow_warehouse::report::{Chart, Form, Kind, Section, Value};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::words;
use crate::printable::printable;

/// Of the series, in order: told apart by the colour-blind and in print.
pub(super) const COLOURS: [(u8, u8, u8); 3] = [(0x1f, 0x5f, 0xa8), (0xe0, 0x7b, 0x18), (0x4b, 0x8b, 0x4b)];
const INK: RGBColor = RGBColor(0x33, 0x3d, 0x47);
const GRID: RGBColor = RGBColor(0xdd, 0xe2, 0xe7);
const WIDTH: u32 = 760;
/// Of a bar, in pixels.
const BAR: u32 = 13;
const LABEL_WIDTH: u32 = 200;
/// Characters of a label.
const LABEL: usize = 30;
const FONT: (&str, u32) = ("sans-serif", 14);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What is drawn.
struct Figures {
    labels: Vec<String>,
    /// By series, its kind and a value per row.
    series: Vec<(Kind, Vec<Option<f64>>)>,
}

/// The picture; none where there is nothing to see.
pub(super) fn svg(chart: &Chart, section: &Section, rows: &[Vec<Value>]) -> anyhow::Result<Option<String>> {
    let Some(figures) = Figures::of(chart, section, rows) else { return Ok(None) };
    let height = match chart.form {
        Form::Bars => 14 + figures.labels.len() as u32 * (BAR * figures.series.len() as u32 + 10),
        Form::Lines => 260,
    };
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
    let drawn = match chart.form {
        Form::Bars => bars(&area, &figures),
        Form::Lines => lines(&area, &figures),
    };
    // Its errors borrow from the text it draws into.
    drawn.and_then(|()| Ok(area.present()?)).map_err(|e| anyhow::anyhow!("cannot draw a chart: {e}"))?;
    drop(area);
    Ok(Some(text))
}

impl Figures {
    fn of(chart: &Chart, section: &Section, rows: &[Vec<Value>]) -> Option<Self> {
        let label = section.column(chart.label)?;
        let places: Vec<usize> = chart.series.iter().filter_map(|name| section.column(name)).collect();
        let rows = &rows[..rows.len().min(chart.rows)];
        let kind = |place: usize| section.columns[place].kind;
        let labels = rows.iter().map(|row| short(&words::shown(kind(label), &row[label]))).collect();
        let values = |place: &usize| (kind(*place), rows.iter().map(|row| row[*place].as_f64()).collect::<Vec<_>>());
        let series: Vec<_> = places.iter().map(values).collect();
        let anything = series.iter().any(|(_, values)| values.iter().flatten().any(|value| *value != 0.0));
        anything.then_some(Self { labels, series })
    }

    /// The least and the largest value, 0 among them.
    fn bounds(&self) -> (f64, f64) {
        let values = || self.series.iter().flat_map(|(_, values)| values.iter().flatten().copied());
        (values().fold(0.0, f64::min), values().fold(0.0, f64::max))
    }
}

fn short(text: &str) -> String {
    let text = printable(text, false);
    if text.chars().count() <= LABEL { text } else { text.chars().take(LABEL - 1).chain(['…']).collect() }
}

fn colour(series: usize) -> RGBColor {
    let (r, g, b) = COLOURS[series % COLOURS.len()];
    RGBColor(r, g, b)
}

fn ink(horizontal: HPos) -> TextStyle<'static> {
    FONT.into_font().color(&INK).pos(Pos::new(horizontal, VPos::Center))
}

/// A row's bars lie one below the other, the first row on top; the value stands at the end of each.
fn bars(area: &Area<'_>, figures: &Figures) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (least, most) = figures.bounds();
    let rows = figures.labels.len();
    // Room for the words at the ends.
    let room = (most - least) * 0.14;
    let from = if least < 0.0 { least - room } else { 0.0 };
    let mut chart =
        ChartBuilder::on(area).margin(7).margin_left(LABEL_WIDTH).build_cartesian_2d(from..most + room, rows as f64..0.0)?;
    let middle = |row: usize| row as f64 + 0.5;
    chart.draw_series(LineSeries::new([(0.0, 0.0), (0.0, rows as f64)], GRID))?;
    chart.draw_series(
        figures
            .labels
            .iter()
            .enumerate()
            .map(|(row, label)| EmptyElement::at((from, middle(row))) + Text::new(label.clone(), (-8, 0), ink(HPos::Right))),
    )?;
    let among = figures.series.len() as u32;
    for (at, (kind, values)) in figures.series.iter().enumerate() {
        let at = at as u32;
        let (above, below) = (5 + at * BAR, 5 + (among - 1 - at) * BAR);
        let drawn = |(row, value): (usize, &Option<f64>)| value.map(|value| (row, value));
        chart.draw_series(values.iter().enumerate().filter_map(drawn).map(|(row, value)| {
            let corners = [(0.0, row as f64), (value, row as f64 + 1.0)];
            let mut bar = Rectangle::new(corners, colour(at as usize).filled());
            bar.set_margin(above, below, 0, 0);
            bar
        }))?;
        // From the middle of the row to the middle of the bar.
        let down = (at * BAR + BAR / 2) as i32 - (among * BAR / 2) as i32;
        chart.draw_series(values.iter().enumerate().filter_map(drawn).map(|(row, value)| {
            let (right, anchor) = if value < 0.0 { (-4, HPos::Right) } else { (4, HPos::Left) };
            let words = words::shown(*kind, &number(*kind, value));
            EmptyElement::at((value, middle(row))) + Text::new(words, (right, down), ink(anchor))
        }))?;
    }
    Ok(())
}

/// One line per series, left to right.
fn lines(area: &Area<'_>, figures: &Figures) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (least, most) = figures.bounds();
    let last = figures.labels.len().saturating_sub(1).max(1);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(30)
        .x_label_area_size(24)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last as f64, least..most * 1.08)?;
    let kind = figures.series.first().map_or(Kind::Count, |(kind, _)| *kind);
    let label = |place: &f64| match figures.labels.get(place.round() as usize) {
        Some(label) if place.fract().abs() < 0.01 => label.clone(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&label)
        .y_label_formatter(&|value| words::shown(kind, &number(kind, *value)))
        .label_style(FONT.into_font().color(&INK))
        .draw()?;
    for (at, (_, values)) in figures.series.iter().enumerate() {
        // A gap where there is no value.
        for piece in values.iter().enumerate().collect::<Vec<_>>().split(|(_, value)| value.is_none()) {
            let points: Vec<(f64, f64)> = piece.iter().filter_map(|(x, value)| Some((*x as f64, (**value)?))).collect();
            if points.len() == 1 {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour(at).filled())))?;
            }
            chart.draw_series(LineSeries::new(points, colour(at).stroke_width(2)))?;
        }
    }
    Ok(())
}

fn number(kind: Kind, value: f64) -> Value {
    match kind {
        Kind::Count | Kind::Seconds => Value::Count(value.max(0.0) as u64),
        _ => Value::Number(value),
    }
}
