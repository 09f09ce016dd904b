//! The pages that stand over the lists: one row, one alert, the pipeline, help. Lines wrapped to a width.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::api::{Alert, Row, Status};

use super::format;
use super::keys;
use super::model::{Figure, Model, Page};
use super::words::{self, Palette};

/// Labels stand left of the text.
const LABEL: usize = 13;

/// Title and lines of a page.
pub(super) fn page(model: &Model, page: &Page, palette: Palette, width: usize) -> (String, Vec<Line<'static>>) {
    let mut text = Text { lines: Vec::new(), width, palette };
    let title = match page {
        Page::Alert { id } => {
            match model.alerts.iter().find(|alert| alert.id == *id) {
                Some(alert) => alert_page(alert, model.now, &mut text),
                None => text.line("It is over, and has left the list.", Style::new()),
            }
            "alert".to_owned()
        }
        Page::Row { isp, identity } => {
            let all = model.rates.as_ref().map(|rates| rates.rows.as_slice()).unwrap_or_default();
            match all.iter().find(|row| row.isp == *isp && row.identity == *identity) {
                Some(row) => row_page(model, row, &mut text),
                None => text.line("Nothing is counted for it in what is shown now.", Style::new()),
            }
            words::key_in_words(isp, identity)
        }
        Page::Status => {
            match &model.status {
                Some(status) => status_page(model, status, &mut text),
                None => text.line("Nothing heard yet.", Style::new()),
            }
            format!("pipeline of {}", model.url)
        }
        Page::Help => {
            help_page(&mut text);
            "help".to_owned()
        }
    };
    (title, text.lines)
}

fn alert_page(alert: &Alert, now: i64, text: &mut Text) {
    let palette = text.palette;
    let state = format!("{}, {}", alert.state.to_uppercase(), alert.severity);
    text.field("rule", &alert.rule, palette.strong());
    text.field("state", &state, palette.state(&alert.state));
    text.field("where", &words::key_in_words(&alert.isp, &alert.identity), palette.strong());
    text.field("since", &format!("{}, {} ago", format::date(alert.since), format::age(now - alert.since)), Style::new());
    if let Some(fired) = alert.fired_at {
        text.field("fired", &format::date(fired), Style::new());
    }
    if let Some(resolved) = alert.resolved_at {
        let lasted = format::age(resolved - alert.since);
        text.field("resolved", &format!("{}, lasted {lasted}", format::date(resolved)), Style::new());
    }
    text.field("evidence", &words::evidence(alert, true), Style::new());
    let categories: Vec<String> = alert
        .categories
        .iter()
        .map(|(category, n)| format!("{category} {} ({})", words::counted(*n), format::share(*n, alert.numerator)))
        .collect();
    if !categories.is_empty() {
        text.field("categories", &categories.join(", "), Style::new());
    }
    text.line("", Style::new());
    text.field("root cause", &alert.root_cause, palette.strong());
    text.field("action", &words::action_in_words(&alert.action), palette.strong());
    if !alert.sample.is_empty() {
        text.field("reply", &alert.sample, Style::new());
    }
    if alert.pattern != 0 {
        text.field("pattern", &format!("{:016x}", alert.pattern), Style::new());
    }
    for (name, annotation) in &alert.annotations {
        text.field(name, annotation, Style::new());
    }
    text.field("id", &alert.id, palette.quiet());
}

fn row_page(model: &Model, row: &Row, text: &mut Text) {
    let palette = text.palette;
    let window = i64::from(model.window().unwrap_or(0));
    let evaluated = model.rates.as_ref().and_then(|rates| rates.evaluated_to);
    let to = evaluated.map_or_else(String::new, |ms| format!(" to {}", format::date(ms)));
    text.field("window", &format!("last {}{to}", format::length(window)), Style::new());
    let [deliveries, hard, soft, deferred, first] =
        [row.deliveries, row.hard, row.soft, row.deferred, row.first_attempts].map(format::count);
    let outcomes = format!("{} = {deliveries} deliveries + {hard} hard + {soft} soft", format::count(row.outcomes));
    let attempts = format!("{} = outcomes + {deferred} deferred; {first} were first attempts", format::count(row.attempts));
    text.field("outcomes", &outcomes, Style::new());
    text.field("attempts", &attempts, Style::new());
    text.line("", Style::new());
    let rates = [
        (Figure::BounceRate, row.hard + row.soft, row.outcomes, "outcomes"),
        (Figure::HardRate, row.hard, row.outcomes, "outcomes"),
        (Figure::SoftRate, row.soft, row.outcomes, "outcomes"),
        (Figure::BlockedRate, row.blocked, row.outcomes, "outcomes"),
        (Figure::DeferredRate, row.deferred, row.attempts, "attempts"),
        (Figure::ComplaintRate, row.complaints, row.deliveries, "deliveries"),
        (Figure::LateBounceRate, row.late_bounces, row.deliveries, "deliveries"),
    ];
    let widest = rates.iter().map(|(_, n, _, _)| format::count(*n).len()).max().unwrap_or(0);
    for (figure, n, of, what) in rates {
        let alert = model.alert_on(&row.isp, &row.identity, Some(figure));
        let (style, note) = match alert {
            Some(alert) => (palette.state(&alert.state), format!("  {} {}", alert.state, alert.rule)),
            None => (Style::new(), String::new()),
        };
        let name = words::figure_in_words(figure);
        let name = name.strip_suffix(" rate").unwrap_or(name);
        let rate = format::right(&format::rate(figure.of(row)), 6);
        let n = format::right(&format::count(n), widest);
        let line = format!("{}{rate}  {n} of {} {what}{note}", format::left(name, LABEL), format::count(of));
        text.lines.push(Line::styled(format::cut(&line, text.width), style));
    }
    text.line("", Style::new());
    let parts = row.spark.len().max(1);
    let peak = format::rate(format::peak(&row.spark));
    let each = format::length(window / parts as i64);
    text.line(
        &format!("hard, soft and deferred of attempts, {parts} parts of {each}, the newest at the right; peak {peak}"),
        Style::new(),
    );
    let wide: Vec<Option<f64>> = row.spark.iter().flat_map(|value| [*value; 2]).collect();
    for line in format::chart(&wide, 4) {
        text.lines.push(Line::styled(line, palette.trend()));
    }
}

fn status_page(model: &Model, status: &Status, text: &mut Text) {
    let (palette, now) = (text.palette, model.now);
    let when = |ms: Option<i64>| {
        ms.map_or_else(|| "not yet".to_owned(), |ms| format!("{}, {} ago", format::date(ms), format::age(now - ms)))
    };
    let state = if status.ready { ("ready", palette.good()) } else { ("not ready", palette.bad()) };
    text.field("state", state.0, state.1);
    for problem in words::old(model, palette).into_iter().chain(words::problems(model, palette)) {
        text.line(&problem.to_string(), problem.style);
    }
    text.field("watermark", &when(status.watermark), Style::new());
    text.field("evaluated to", &when(status.evaluated_to), Style::new());
    text.field("log time", &when(status.log_time), Style::new());
    text.field("lag", &format!("{} batches not read yet", words::counted(status.lag_records)), Style::new());
    text.field("memory", &format!("{} keys", format::count(status.keys as u64)), Style::new());
    let windows: Vec<String> = status.windows.iter().map(|&s| format::length(i64::from(s))).collect();
    text.field("windows", &windows.join(", "), Style::new());
    if status.alertmanagers.is_empty() {
        text.field("Alertmanager", "none is configured", Style::new());
    }
    for alertmanager in &status.alertmanagers {
        text.field("Alertmanager", &format!("{}, last sent {}", alertmanager.url, when(alertmanager.last_ok)), Style::new());
    }
    let refused: Vec<String> = status.refused.iter().map(|(reason, n)| format!("{reason} {}", format::count(*n))).collect();
    if !refused.is_empty() {
        text.field("not counted", &refused.join(", "), palette.warn());
    }
    text.line("", Style::new());
    text.line("sources, those that hold the watermark first:", palette.strong());
    let order = |state: &str| ["left_out", "behind", "idle", "current"].iter().position(|other| *other == state);
    let mut sources: Vec<_> = status.sources.iter().collect();
    sources.sort_by_key(|source| (order(&source.state), &source.topic, source.partition));
    for source in sources {
        let style = match source.state.as_str() {
            "left_out" => palette.bad(),
            "behind" => palette.warn(),
            _ => Style::new(),
        };
        let name = format!("{}/{}", source.topic, source.partition);
        let event = source.max_event_time.map_or_else(|| "none seen".to_owned(), |ms| format::time(ms, now));
        let since = source.since.map_or_else(String::new, |ms| format!(" since {}", format::time(ms, now)));
        let state = format!("{}{since}", source.state.replace('_', " "));
        text.line(&format!("{name}  {state}, events to {event}, listed {}", format::time(source.listed, now)), style);
    }
}

fn help_page(text: &mut Text) {
    for (key, what) in keys::HELP {
        text.field(key, what, Style::new());
    }
    text.line("", Style::new());
    for (name, what) in [
        ("! ?", "an alert fires, is pending, on exactly this row; the rate it is about is in colour"),
        ("outcomes", "deliveries + bounces; attempts: outcomes + deferrals"),
        ("bounce", "hard and soft bounces of outcomes; so are hard, soft, and blocked: the sender or the content was refused"),
        ("defer", "deferred of attempts: a message deferred ten times is ten attempts"),
        ("complaint", "of deliveries, as are late bounces: they come hours later, so choose a long window"),
        ("trend", "hard, soft and deferred of attempts, the newest at the right. Full height is the row's peak, at least 5%"),
    ] {
        text.field(name, what, Style::new());
    }
}

struct Text {
    lines: Vec<Line<'static>>,
    width: usize,
    palette: Palette,
}

impl Text {
    fn line(&mut self, text: &str, style: Style) {
        self.lines.extend(format::wrap(text, self.width).into_iter().map(|line| Line::styled(line, style)));
    }

    fn field(&mut self, label: &str, text: &str, style: Style) {
        let mut label = label.to_owned();
        for line in format::wrap(text, self.width.saturating_sub(LABEL)) {
            let label = Span::styled(format::left(&std::mem::take(&mut label), LABEL), self.palette.quiet());
            self.lines.push(Line::from(vec![label, Span::styled(line, style)]));
        }
    }
}
