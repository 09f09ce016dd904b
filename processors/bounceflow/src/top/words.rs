//! The lines of text: header, titles, alerts. Shared by the view (in colour or not) and the plain report.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use crate::api::{Alert, Source, Status};

use super::format;
use super::model::{Figure, Focus, Model, Page, Scope};

/// A watermark this far behind is worth a look; this far, worth a call.
const SLOW_MS: i64 = 2 * 60_000;
const STUCK_MS: i64 = 10 * 60_000;
/// A key cut shorter than this could be any.
const LEAST_KEY: usize = 20;
/// From here on, evidence is spelled out.
const WIDE: usize = 100;
/// Lines of problems in the header.
const MOST_PROBLEMS: usize = 3;

/// Styles. Without colour the text says the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    pub(super) colour: bool,
}

impl Palette {
    pub(super) const PLAIN: Self = Self { colour: false };

    fn of(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn good(self) -> Style {
        self.of(Color::Green)
    }

    pub(super) fn warn(self) -> Style {
        self.of(Color::Yellow)
    }

    pub(super) fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn trend(self) -> Style {
        self.of(Color::Cyan)
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Of an alert.
    pub(super) fn state(self, state: &str) -> Style {
        match state {
            "firing" => self.bad(),
            "pending" => self.warn(),
            _ => self.quiet(),
        }
    }
}

/// Stands before a row or an alert.
pub(super) fn mark(state: Option<&str>) -> &'static str {
    match state {
        Some("firing") => "!",
        Some("pending") => "?",
        _ => " ",
    }
}

/// Parts joined by `separator`, whole, in as many lines of `width` as it takes, `lines` at most. From the first that does not fit
/// there, all are left out: a later one alone would mislead.
pub(super) fn flow(parts: Vec<Line<'static>>, separator: &'static str, width: usize, lines: usize) -> Vec<Line<'static>> {
    let mut flowed: Vec<Line<'static>> = Vec::new();
    for part in parts {
        let fits = flowed.last().is_some_and(|line| line.width() + format::width(separator) + part.width() <= width);
        if !fits && flowed.len() == lines {
            break;
        }
        match flowed.last_mut() {
            Some(line) if fits => {
                line.push_span(separator);
                line.spans.extend(part.spans);
            }
            _ => flowed.push(part),
        }
    }
    flowed
}

/// How far the figures are and how the pipeline is, in at most two lines; below, what is wrong.
pub(super) fn header(model: &Model, palette: Palette, width: usize) -> Vec<Line<'static>> {
    let mut parts = vec![Line::styled("bounceflow top", palette.strong())];
    if let Some(status) = &model.status {
        parts.extend(progress(status, model.now, palette));
    }
    parts.push(Line::styled(model.url.clone(), palette.quiet()));
    let mut lines = flow(parts, " · ", width, 2);
    if model.is_old() {
        for line in &mut lines {
            *line = std::mem::take(line).patch_style(palette.quiet());
        }
    }
    // Old problems say nothing about now.
    let lines_of = if model.is_old() { old(model, palette) } else { problems(model, palette) };
    let mut problems: Vec<Line<'static>> = lines_of
        .into_iter()
        .flat_map(|problem| {
            let style = problem.style;
            let wrapped = format::wrap(&problem.to_string(), width);
            wrapped.into_iter().map(move |line| Line::styled(line, style))
        })
        .collect();
    if problems.len() > MOST_PROBLEMS {
        problems.truncate(MOST_PROBLEMS - 1);
        problems.push(Line::styled("… press i for all of it", palette.warn()));
    }
    lines.extend(problems);
    lines
}

fn progress(status: &Status, now: i64, palette: Palette) -> Vec<Line<'static>> {
    let mut parts = vec![match status.evaluated_to {
        Some(ms) => Line::raw(format!("event time {} UTC", format::time(ms, now))),
        None => Line::styled("nothing evaluated yet", palette.warn()),
    }];
    if let Some(watermark) = status.watermark {
        let behind = now - watermark;
        let style = match behind {
            STUCK_MS.. => palette.bad(),
            SLOW_MS.. => palette.warn(),
            _ => Style::new(),
        };
        parts.push(Line::styled(format!("watermark {} behind", format::age(behind)), style));
    }
    let lag = u64::try_from(status.lag_records).unwrap_or(0);
    parts.push(Line::raw(format!("lag {}", format::count(lag))));
    parts.push(sources(&status.sources, palette));
    parts.push(Line::raw(format!("{} keys", format::count(status.keys as u64))));
    let failing = status.alertmanagers.iter().filter(|alertmanager| alertmanager.error.is_some()).count();
    parts.push(match (failing, status.alertmanagers.len()) {
        (_, 0) => Line::styled("no Alertmanager", palette.quiet()),
        (0, _) => Line::styled("Alertmanager ok", palette.good()),
        (1, 1) => Line::styled("Alertmanager fails", palette.bad()),
        (failing, all) => Line::styled(format!("{failing} of {all} Alertmanagers fail"), palette.bad()),
    });
    parts
}

/// `12 sources: 10 current, 1 behind`.
fn sources(sources: &[Source], palette: Palette) -> Line<'static> {
    let mut line = Line::raw(match sources.len() {
        1 => "1 source".to_owned(),
        n => format!("{n} sources"),
    });
    let states = [
        ("current", "current", palette.good()),
        ("idle", "idle", Style::new()),
        ("behind", "behind", palette.warn()),
        ("left_out", "left out", palette.bad()),
    ];
    let mut before = ": ";
    for (state, name, style) in states {
        let n = sources.iter().filter(|source| source.state == state).count();
        if n > 0 {
            line.push_span(before);
            line.push_span(Span::styled(format!("{n} {name}"), style));
            before = ", ";
        }
    }
    line
}

/// Why the figures are old, and what can be done.
pub(super) fn old(model: &Model, palette: Palette) -> Vec<Line<'static>> {
    let (Some(trouble), Some(heard)) = (&model.trouble, model.heard) else { return Vec::new() };
    let age = format::age(model.now - heard);
    vec![Line::styled(format!("OLD FIGURES, {age}: {}", trouble.said), palette.bad()), Line::raw(trouble.advice.clone())]
}

/// What the pipeline says is wrong, one line each; they may be longer than the terminal is wide.
pub(super) fn problems(model: &Model, palette: Palette) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let Some(status) = &model.status else { return lines };
    lines.extend(status.problems.iter().map(|problem| Line::styled(format!("problem: {problem}"), palette.bad())));
    if !status.ready && status.problems.is_empty() {
        lines.push(Line::styled("problem: not ready, and it does not say why", palette.bad()));
    }
    for alertmanager in &status.alertmanagers {
        if let Some(error) = &alertmanager.error {
            lines.push(Line::styled(format!("problem: {} takes no alerts: {error}", alertmanager.url), palette.bad()));
        }
    }
    lines
}

/// What the rates are over: `ISP × identity · last 5 min · by outcomes · 143 keys`.
pub(super) fn rates_title(model: &Model) -> Vec<String> {
    let mut parts = Vec::new();
    let Some(rates) = &model.rates else {
        return vec![format!("{}, asking …", scope_in_words(model.ask.scope.as_str()))];
    };
    if model.is_old() {
        parts.push("OLD".to_owned());
    }
    parts.push(scope_in_words(&rates.scope).to_owned());
    parts.push(format!("last {}", format::length(i64::from(rates.window_seconds))));
    parts.push(format!("by {}{}", figure_in_words(model.ask.sort), if model.ask.ascending { ", lowest first" } else { "" }));
    parts.push(match (model.rows.len(), rates.total) {
        (shown, total) if shown == total => format!("{} keys", format::count(total as u64)),
        (shown, total) => format!("{} of {} keys", format::count(shown as u64), format::count(total as u64)),
    });
    let globs = [("isp", &model.ask.isp), ("identity", &model.ask.identity)];
    parts.extend(globs.iter().filter_map(|(name, glob)| glob.as_ref().map(|glob| format!("{name} {glob}"))));
    if !model.ask.filter.is_empty() && !model.typing {
        parts.push(format!("filter {:?}", model.ask.filter));
    }
    let asked = (model.ask.scope.as_str(), model.ask.window.unwrap_or(rates.window_seconds));
    if asked != (rates.scope.as_str(), rates.window_seconds) {
        parts.push(format!("asking for {}, {} …", scope_in_words(asked.0), format::length(i64::from(asked.1))));
    }
    parts
}

/// `2 firing, 1 pending, 1 resolved lately`.
pub(super) fn alerts_title(model: &Model) -> String {
    let counted = [("firing", "firing"), ("pending", "pending"), ("resolved", "resolved lately")].map(|(state, name)| {
        let n = model.alerts.iter().filter(|alert| alert.state == state).count();
        (n > 0).then(|| format!("{n} {name}"))
    });
    let title: Vec<String> = counted.into_iter().flatten().collect();
    match (title.is_empty(), model.status.is_some()) {
        (true, true) => "no alert".to_owned(),
        (true, false) => "alerts".to_owned(),
        (false, _) => title.join(", "),
    }
}

/// An alert in three lines (what and since when, how much, what about it), a resolved one in one line.
pub(super) fn alert(alert: &Alert, now: i64, palette: Palette, width: usize) -> Vec<Line<'static>> {
    // The mark says that it fires; how loud it is has to be said.
    let word = if alert.state == "firing" { &alert.severity } else { &alert.state };
    let what = Line::from(vec![
        Span::styled(format!("{} {word} ", mark(Some(&alert.state))), palette.state(&alert.state)),
        Span::styled(alert.rule.clone(), palette.strong()),
    ]);
    let when = match alert.resolved_at.filter(|_| alert.state == "resolved") {
        Some(at) => format!("{}, lasted {}", format::minute(at, now), format::age(at - alert.since)),
        None => format!("since {} ({})", format::minute(alert.since, now), format::age(now - alert.since)),
    };
    let key = key_in_words(&alert.isp, &alert.identity);
    let (rest, both) = (width.saturating_sub(what.width() + 2), format::width(&when) + 2);
    // Where is more than since when.
    let (key, when) = match rest.checked_sub(both).filter(|&room| room >= LEAST_KEY.min(format::width(&key))) {
        Some(room) => (format::cut(&key, room), vec![Line::raw(when)]),
        None => (format::cut(&key, rest), Vec::new()),
    };
    let mut lines = flow([vec![what, Line::raw(key)], when].concat(), "  ", width, 1);
    if alert.state == "resolved" {
        return lines;
    }
    let mut evidence = vec![Line::raw(format::cut(&format!("  {}", evidence(alert, width >= WIDE)), width))];
    evidence.extend(alert.categories.iter().take(3).map(|(category, n)| Line::raw(format!("{category} {}", counted(*n)))));
    lines.extend(flow(evidence, " · ", width, 1));
    let mut advice = format!("  {}: {}", alert.root_cause, action_in_words(&alert.action));
    if !alert.sample.is_empty() {
        advice += &format!(" · “{}”", alert.sample);
    }
    lines.push(Line::raw(format::cut(&advice, width)));
    lines
}

/// `blocked rate 3.9% = 480 of 12,300 outcomes in 5 min, limit 2.0%`, or with `480/12,300` where room is short.
pub(super) fn evidence(alert: &Alert, wide: bool) -> String {
    let (name, of) = metric_in_words(&alert.metric);
    let (rate, limit) = (format::share(alert.numerator, alert.denominator), format::rate(Some(alert.threshold)));
    let (numerator, denominator) = (counted(alert.numerator), counted(alert.denominator));
    let figures = if wide { format!("{numerator} of {denominator} {of}") } else { format!("{numerator}/{denominator}") };
    format!("{name} {rate} = {figures} in {}, limit {limit}", format::length(alert.window_seconds))
}

/// Which keys there are, the most needed first: the rest has to fit.
pub(super) fn footer(model: &Model) -> &'static [&'static str] {
    match (&model.page, model.focus) {
        (Some(Page::Alert { .. } | Page::Row { .. }), _) => &["esc back", "↑↓ scroll", "←→ the one before, after", "? help"],
        (Some(_), _) => &["esc back", "↑↓ scroll"],
        (None, Focus::Alerts) => &["? help", "q quit", "↑↓ select", "⏎ detail", "a rates", "i pipeline"],
        (None, Focus::Rows) => &[
            "? help",
            "q quit",
            "⏎ detail",
            "a alerts",
            "/ filter",
            "s sort",
            "tab scope",
            "w window",
            "r reverse",
            "i pipeline",
        ],
    }
}

pub(super) fn key_in_words(isp: &str, identity: &str) -> String {
    match (isp, identity) {
        ("", "") => "all mail".to_owned(),
        (isp, "") => isp.to_owned(),
        ("", identity) => identity.to_owned(),
        (isp, identity) => format!("{isp} × {identity}"),
    }
}

pub(super) fn scope_in_words(scope: &str) -> &str {
    match scope {
        s if s == Scope::IspIdentity.as_str() => "ISP × identity",
        s if s == Scope::Isp.as_str() => "ISP",
        other => other,
    }
}

pub(super) fn figure_in_words(figure: Figure) -> &'static str {
    match figure {
        Figure::Outcomes => "outcomes",
        Figure::Attempts => "attempts",
        rate => metric_in_words(rate.as_str()).0,
    }
}

/// The metric of a rule, and what it is a share of. An unknown one is shown as it is.
fn metric_in_words(metric: &str) -> (&str, &'static str) {
    match metric {
        "bounce_rate" => ("bounce rate", "outcomes"),
        "hard_rate" => ("hard rate", "outcomes"),
        "soft_rate" => ("soft rate", "outcomes"),
        "blocked_rate" => ("blocked rate", "outcomes"),
        "deferred_rate" => ("deferred rate", "attempts"),
        "complaint_rate" => ("complaint rate", "deliveries"),
        "late_bounce_rate" => ("late bounce rate", "deliveries"),
        other => (other.strip_prefix("category:").unwrap_or(other), "outcomes"),
    }
}

/// The actions are an open set: an unknown one is shown as it is.
pub(super) fn action_in_words(action: &str) -> String {
    match action {
        "remove_recipient" => "remove the recipients from the list".to_owned(),
        "fix_authentication" => "fix SPF, DKIM or DMARC of the sender".to_owned(),
        "fix_infrastructure" => "fix DNS, PTR, TLS or routing".to_owned(),
        "reduce_velocity" => "send slower".to_owned(),
        "request_delisting" => "request delisting and slow down".to_owned(),
        "investigate" => "look at the reply".to_owned(),
        other => other.replace('_', " "),
    }
}

/// A count that is never negative unless something is wrong at the other end.
pub(super) fn counted(n: i64) -> String {
    u64::try_from(n).map_or_else(|_| n.to_string(), format::count)
}
