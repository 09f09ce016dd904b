//! The model on a terminal. Draws what it is given, and tells the model how much of each list is in sight; decides nothing else.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use crate::api::Row;

use super::columns::Columns;
use super::format;
use super::model::{Cursor, Figure, Focus, Model};
use super::pages;
use super::words::{self, Palette};

/// In less, nothing can be read.
const LEAST: (u16, u16) = (40, 10);

/// Resolved alerts in sight.
const MOST_OVER: usize = 3;

/// Where each part stands on a screen of some size.
struct Layout {
    header: Vec<Line<'static>>,
    /// What stands below the header and above the footer.
    body: Rect,
    rates: Rect,
    alerts: Rect,
    footer: Rect,
    /// Each alert's lines.
    blocks: Vec<Vec<Line<'static>>>,
}

/// Draws all of it.
pub(super) fn draw(model: &mut Model, palette: Palette, frame: &mut Frame) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let (columns, lines) = LEAST;
        return put(buffer, area, 0, &Line::raw(format!("make this larger: {columns} × {lines}")));
    }
    let layout = lay_out(model, palette, area);
    for (at, line) in layout.header.iter().enumerate() {
        put(buffer, area, at, line);
    }
    match &model.page {
        Some(page) => {
            let (title, lines) = pages::page(model, page, palette, usize::from(layout.body.width));
            put(buffer, layout.body, 0, &rule(&[title], "", layout.body.width, palette.strong()));
            let room = usize::from(layout.body.height).saturating_sub(1);
            model.scroll = model.scroll.min(lines.len().saturating_sub(room));
            for (at, line) in lines.iter().skip(model.scroll).take(room).enumerate() {
                put(buffer, layout.body, at + 1, line);
            }
        }
        None if model.rates.is_none() && model.trouble.is_some() => no_answer(model, palette, buffer, layout.body),
        None => {
            rates(model, palette, buffer, layout.rates);
            alerts(model, palette, buffer, &layout);
        }
    }
    footer(model, palette, buffer, layout.footer);
}

fn lay_out(model: &Model, palette: Palette, area: Rect) -> Layout {
    let width = usize::from(area.width);
    let header = words::header(model, palette, width);
    let top = header.len() as u16;
    let body = Rect { y: area.y + top, height: area.height.saturating_sub(top + 1), ..area };
    let footer = Rect { y: area.bottom() - 1, height: 1, ..area };
    let blocks: Vec<_> = model.alerts.iter().map(|alert| words::alert(alert, model.now, palette, width)).collect();
    // Titles, the head of the table, and all there is to show.
    let rates_want = (2 + model.rows.len().max(1)) as u16;
    // Those that are over make no room for themselves, unless the reader is among them.
    let over = blocks.iter().filter(|block| block.len() == 1).count();
    let hidden = if model.focus == Focus::Alerts { 0 } else { over.saturating_sub(MOST_OVER) };
    let alerts_want = (1 + blocks.iter().map(Vec::len).sum::<usize>() - hidden) as u16;
    let half = body.height / 2;
    let alerts_get = alerts_want.min(half.max(body.height.saturating_sub(rates_want)));
    let rates = Rect { height: body.height - alerts_get, ..body };
    let alerts = Rect { y: rates.bottom(), height: alerts_get, ..body };
    Layout { header, body, rates, alerts, footer, blocks }
}

fn rates(model: &mut Model, palette: Palette, buffer: &mut Buffer, area: Rect) {
    let room = usize::from(area.height).saturating_sub(2);
    model.row.show(model.rows.len(), |_| room);
    let style = if model.focus == Focus::Rows { palette.strong() } else { Style::new() };
    put(buffer, area, 0, &rule(&words::rates_title(model), &in_sight(&model.row, model.rows.len()), area.width, style));
    let scope = model.rates.as_ref().map_or(model.ask.scope.as_str(), |rates| &rates.scope);
    let columns = Columns::fit(&model.rows, scope, (model.ask.sort, model.ask.ascending), usize::from(area.width));
    put(buffer, area, 1, &Line::styled(columns.head(), palette.quiet()));
    for (at, row) in model.rows.iter().enumerate().skip(model.row.first).take(room) {
        let selected = model.focus == Focus::Rows && at == model.row.at;
        put(buffer, area, at - model.row.first + 2, &row_line(model, row, &columns, palette, selected));
    }
    if model.rows.is_empty() && model.rates.is_some() {
        let why = match model.ask.filter.is_empty() {
            true => "nothing is counted in this window",
            false => "no ISP and no identity contains this",
        };
        put(buffer, area, 2, &Line::raw(format!("  {why}")));
    }
}

fn row_line(model: &Model, row: &Row, columns: &Columns, palette: Palette, selected: bool) -> Line<'static> {
    let alert = |figure| model.alert_on(&row.isp, &row.identity, figure).map(|alert| alert.state.as_str());
    let (mark, old) = (alert(None), model.is_old());
    let mut spans = vec![Span::styled(words::mark(mark), mark.map_or(Style::new(), |state| palette.state(state)))];
    for cell in columns.cells(row) {
        spans.push(Span::raw(" "));
        let style = match cell.figure {
            _ if old => palette.quiet(),
            Some(Figure::Outcomes | Figure::Attempts) => Style::new(),
            Some(figure) => alert(Some(figure)).map_or(Style::new(), |state| palette.state(state)),
            None if cell.is_trend => palette.trend(),
            None => Style::new(),
        };
        spans.push(Span::styled(cell.text, style));
    }
    let line = Line::from(spans);
    if selected { line.patch_style(Style::new().add_modifier(Modifier::REVERSED)) } else { line }
}

fn alerts(model: &mut Model, palette: Palette, buffer: &mut Buffer, layout: &Layout) {
    let (area, blocks) = (layout.alerts, &layout.blocks);
    let room = usize::from(area.height).saturating_sub(1);
    // Whole alerts that fit from one on; one at least.
    let fits = |first: usize| {
        let mut used = 0;
        let whole = blocks[first..].iter().take_while(|block| {
            used += block.len();
            used <= room
        });
        whole.count().max(1)
    };
    if !blocks.is_empty() {
        model.alert.show(blocks.len(), fits);
    }
    let focused = model.focus == Focus::Alerts;
    let firing = model.alerts.iter().any(|alert| alert.state == "firing");
    let style = if firing { palette.bad() } else { Style::new() };
    let style = if focused { style.patch(palette.strong()) } else { style };
    let title = words::alerts_title(model);
    put(buffer, area, 0, &rule(&[title], &in_sight(&model.alert, blocks.len()), area.width, style));
    let mut at = 1;
    for (number, block) in blocks.iter().enumerate().skip(model.alert.first) {
        for (part, line) in block.iter().enumerate() {
            let mut line = line.clone();
            if model.is_old() {
                line = line.patch_style(palette.quiet());
            }
            if focused && part == 0 && number == model.alert.at {
                line = line.patch_style(Style::new().add_modifier(Modifier::REVERSED));
            }
            put(buffer, area, at, &line);
            at += 1;
        }
    }
}

fn no_answer(model: &Model, palette: Palette, buffer: &mut Buffer, area: Rect) {
    let Some(trouble) = &model.trouble else { return };
    let width = usize::from(area.width);
    let said = format::wrap(&trouble.said, width).into_iter().map(|line| Line::styled(line, palette.bad()));
    let advice = format::wrap(&trouble.advice, width).into_iter().map(Line::raw);
    let still = Line::styled("It is asked again until it answers.", palette.quiet());
    for (at, line) in said.chain(advice).chain([still]).enumerate() {
        put(buffer, area, at + 1, &line);
    }
}

fn footer(model: &Model, palette: Palette, buffer: &mut Buffer, area: Rect) {
    let width = usize::from(area.width);
    let line = if model.typing {
        let typed = Span::styled(format!("/{}", model.ask.filter), palette.strong());
        let cursor = Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED));
        let what = Span::styled("  contained in ISP or identity; ⏎ keep, esc drop", palette.quiet());
        Line::from(vec![typed, cursor, what])
    } else {
        let parts = words::footer(model).iter().map(|part| Line::styled(*part, palette.quiet())).collect();
        words::flow(parts, "  ", width, 1).pop().unwrap_or_default()
    };
    put(buffer, area, 0, &line);
}

/// `── title · of · parts ─────── right ──`
fn rule(parts: &[String], right: &str, width: u16, style: Style) -> Line<'static> {
    let right = if right.is_empty() { String::new() } else { format!(" {right} ──") };
    let room = usize::from(width).saturating_sub(format::width(&right) + 4);
    let parts = parts.iter().map(|part| Line::raw(part.clone())).collect();
    let title = words::flow(parts, " · ", room, 1).pop().unwrap_or_default().to_string();
    let left = format!("── {} ", format::cut(&title, room));
    let fill = usize::from(width).saturating_sub(format::width(&left) + format::width(&right));
    Line::styled(format!("{left}{}{right}", "─".repeat(fill)), style)
}

/// `11–20 of 143`, where not all of it is in sight.
fn in_sight(cursor: &Cursor, len: usize) -> String {
    let (first, last) = (cursor.first + 1, (cursor.first + cursor.in_sight).min(len));
    if last + 1 - first.min(last + 1) >= len { String::new() } else { format!("{first}–{last} of {len}") }
}

/// A line of an area; what is below it is not drawn.
fn put(buffer: &mut Buffer, area: Rect, line: usize, text: &Line) {
    if line >= usize::from(area.height) {
        return;
    }
    let y = area.y + line as u16;
    buffer.set_line(area.x, y, text, area.width);
    // A selected line is selected over its whole width.
    if text.style.add_modifier.contains(Modifier::REVERSED) {
        buffer.set_style(Rect { y, height: 1, ..area }, Style::new().add_modifier(Modifier::REVERSED));
    }
}
