//! What each key does to the model.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Cursor, Figure, Focus, Model, Page, Scope};

/// Keys and what they do, for the page of help.
pub(super) const HELP: [(&str, &str); 13] = [
    ("s, r", "sort by the next figure, in the reverse order"),
    ("/", "filter: ISP or identity contains what you type; ⏎ keeps it, esc drops it"),
    ("tab", "next scope: ISP × identity, ISP, identity, overall"),
    ("w", "next window"),
    ("a", "move in the alerts, or back in the rates"),
    ("↑ ↓ k j", "select"),
    ("PgUp PgDn", "a page up, down"),
    ("Home End", "first, last"),
    ("⏎", "the selected alert or row in detail; ← → the one before or after"),
    ("i", "how the pipeline is: sources, problems, Alertmanager"),
    ("? h", "this page"),
    ("esc", "one step back: leaves the page, then the filter, then the program"),
    ("q, ctrl-c", "quit (q leaves a page first)"),
];

/// Acts on one key.
pub(super) fn press(model: &mut Model, key: KeyEvent) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && key.code == KeyCode::Char('c') {
        model.done = true;
    } else if model.typing {
        typed(model, key.code, control);
    } else if model.page.is_some() {
        on_page(model, key.code);
    } else {
        on_lists(model, key.code);
    }
}

fn typed(model: &mut Model, key: KeyCode, control: bool) {
    let filter = &mut model.ask.filter;
    match key {
        KeyCode::Char('u') if control => filter.clear(),
        KeyCode::Char(c) if !control => filter.push(c),
        KeyCode::Backspace if filter.is_empty() => model.typing = false,
        KeyCode::Backspace => drop(filter.pop()),
        KeyCode::Enter => model.typing = false,
        KeyCode::Esc => {
            filter.clear();
            model.typing = false;
        }
        // The list shrinks while it is typed: let the reader walk in it.
        KeyCode::Up | KeyCode::Down => moved(model, key),
        _ => return,
    }
    model.arrange();
}

fn on_page(model: &mut Model, key: KeyCode) {
    match key {
        KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => close(model),
        KeyCode::Char('?' | 'h') if model.page == Some(Page::Help) => close(model),
        KeyCode::Char('i') if model.page == Some(Page::Status) => close(model),
        KeyCode::Char('?' | 'h') => open(model, Page::Help),
        KeyCode::Char('i') => open(model, Page::Status),
        // Drawing bounds it by the lines there are.
        KeyCode::Up | KeyCode::Char('k') => model.scroll = model.scroll.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => model.scroll = model.scroll.saturating_add(1),
        KeyCode::PageUp => model.scroll = model.scroll.saturating_sub(10),
        KeyCode::PageDown => model.scroll = model.scroll.saturating_add(10),
        KeyCode::Home => model.scroll = 0,
        KeyCode::End => model.scroll = usize::MAX,
        KeyCode::Left | KeyCode::Right if matches!(model.page, Some(Page::Row { .. } | Page::Alert { .. })) => {
            moved(model, if key == KeyCode::Left { KeyCode::Up } else { KeyCode::Down });
            detail(model);
        }
        _ => {}
    }
}

fn on_lists(model: &mut Model, key: KeyCode) {
    match key {
        KeyCode::Char('q') => model.done = true,
        KeyCode::Esc if model.ask.filter.is_empty() => model.done = true,
        KeyCode::Esc => {
            model.ask.filter.clear();
            model.arrange();
        }
        KeyCode::Char('/') => {
            model.typing = true;
            model.focus = Focus::Rows;
        }
        KeyCode::Char('s') => {
            model.ask.sort = after(&Figure::ALL, &model.ask.sort);
            model.arrange();
        }
        KeyCode::Char('r') => {
            model.ask.ascending = !model.ask.ascending;
            model.arrange();
        }
        KeyCode::Tab => model.ask.scope = after(&Scope::ALL, &model.ask.scope),
        KeyCode::Char('w') => {
            let windows = model.status.as_ref().map(|status| status.windows.as_slice()).unwrap_or_default();
            // Counted from what was last asked for, so that two quick presses are two steps.
            let from = model.ask.window.filter(|asked| windows.contains(asked)).or(model.window());
            model.ask.window = match from {
                Some(from) if !windows.is_empty() => Some(after(windows, &from)),
                _ => windows.first().copied(),
            };
        }
        KeyCode::Char('a') => {
            model.focus = match model.focus {
                Focus::Rows if !model.alerts.is_empty() => Focus::Alerts,
                _ => Focus::Rows,
            };
        }
        KeyCode::Enter => detail(model),
        KeyCode::Char('i') => open(model, Page::Status),
        KeyCode::Char('?' | 'h') => open(model, Page::Help),
        _ => moved(model, key),
    }
}

fn moved(model: &mut Model, key: KeyCode) {
    let page = |cursor: &Cursor| cursor.in_sight.max(2) - 1;
    match key {
        KeyCode::Up | KeyCode::Char('k') => model.go(|cursor, _| cursor.at.saturating_sub(1)),
        KeyCode::Down | KeyCode::Char('j') => model.go(|cursor, _| cursor.at + 1),
        KeyCode::PageUp => model.go(|cursor, _| cursor.at.saturating_sub(page(cursor))),
        KeyCode::PageDown => model.go(|cursor, _| cursor.at + page(cursor)),
        KeyCode::Home => model.go(|_, _| 0),
        KeyCode::End => model.go(|_, len| len),
        _ => {}
    }
}

fn detail(model: &mut Model) {
    let page = match model.focus {
        Focus::Rows => model.selected_row().map(|row| Page::Row { isp: row.isp.clone(), identity: row.identity.clone() }),
        Focus::Alerts => model.selected_alert().map(|alert| Page::Alert { id: alert.id.clone() }),
    };
    if let Some(page) = page {
        open(model, page);
    }
}

fn open(model: &mut Model, page: Page) {
    model.page = Some(page);
    model.scroll = 0;
}

fn close(model: &mut Model) {
    model.page = None;
    model.scroll = 0;
}

/// The one after `from`, the first one after the last; also where `from` is none of them.
fn after<T: Copy + PartialEq>(all: &[T], from: &T) -> T {
    let next = all.iter().position(|one| one == from).map_or(0, |at| (at + 1) % all.len());
    all[next]
}
