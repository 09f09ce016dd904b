//! The view from one fixture: key scripts on the model, drawings and the plain report as snapshots.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::model::{Answer, Ask, Figure, Focus, Model, Page, Scope, Trouble};
use super::words::Palette;
use super::{draw, keys, plain};
use crate::api::{Alert, Alertmanager, Alerts, Rates, Row, Source, Status};

/// 14:20:42 UTC; the figures are of 42 s before.
const NOW: i64 = 1_790_000_442_000;
const EVALUATED: i64 = NOW - 42_000;

/// ISP, identity; deliveries, hard, soft, deferred, blocked, complaints, late bounces.
type Counted = (&'static str, &'static str, [u64; 7]);
const ROWS: [Counted; 18] = [
    ("gmail", "news.shop.example.com", [11_783, 49, 468, 800, 480, 6, 0]),
    ("gmail", "billing.example.com", [8120, 12, 9, 55, 3, 0, 1]),
    ("microsoft", "news.shop.example.com", [6904, 310, 55, 2210, 40, 4, 2]),
    ("microsoft", "billing.example.com", [5021, 8, 4, 77, 0, 0, 0]),
    ("yahoo", "news.shop.example.com", [4410, 22, 31, 640, 18, 9, 0]),
    ("google_workspace", "news.shop.example.com", [3990, 35, 12, 60, 5, 1, 0]),
    ("microsoft_365", "alerts.example.com", [2750, 9, 3, 18, 0, 0, 0]),
    ("apple", "news.shop.example.com", [2200, 14, 2, 12, 0, 0, 0]),
    ("gmx", "news.shop.example.com", [1834, 3, 0, 2, 0, 1, 0]),
    ("web_de", "news.shop.example.com", [1702, 4, 1, 3, 0, 0, 0]),
    ("t_online", "alerts.example.com", [911, 2, 60, 12, 58, 0, 0]),
    ("comcast", "billing.example.com", [640, 1, 0, 4, 0, 0, 0]),
    ("orange", "tenant-42.mailer.example.net", [320, 0, 0, 1, 0, 0, 0]),
    ("laposte", "tenant-42.mailer.example.net", [204, 0, 1, 0, 0, 0, 0]),
    ("other", "news.shop.example.com", [5310, 402, 40, 300, 11, 2, 3]),
    ("other", "tenant-7-with-quite-a-long-name.mailer.example.net", [88, 1, 0, 0, 0, 0, 0]),
    ("mail_ru", "alerts.example.com", [45, 0, 3, 9, 0, 0, 0]),
    ("qq", "alerts.example.com", [0, 0, 0, 17, 0, 0, 0]),
];

fn row(&(isp, identity, [deliveries, hard, soft, deferred, blocked, complaints, late_bounces]): &Counted) -> Row {
    let ratio = |n: u64, of: u64| (of > 0).then(|| n as f64 / of as f64);
    let outcomes = deliveries + hard + soft;
    let attempts = outcomes + deferred;
    let rate = ratio(hard + soft + deferred, attempts).unwrap_or(0.0);
    // It rises, and nothing was sent in the first parts.
    let spark = (0..20).map(|part| (part > 3).then_some(rate * f64::from(part) / 10.0)).collect();
    Row {
        isp: isp.into(),
        identity: identity.into(),
        deliveries,
        hard,
        soft,
        deferred,
        blocked,
        complaints,
        late_bounces,
        first_attempts: outcomes,
        outcomes,
        attempts,
        bounce_rate: ratio(hard + soft, outcomes),
        hard_rate: ratio(hard, outcomes),
        soft_rate: ratio(soft, outcomes),
        blocked_rate: ratio(blocked, outcomes),
        deferred_rate: ratio(deferred, attempts),
        complaint_rate: ratio(complaints, deliveries),
        late_bounce_rate: ratio(late_bounces, deliveries),
        spark,
    }
}

fn rates() -> Rates {
    Rates {
        evaluated_to: Some(EVALUATED),
        window_seconds: 300,
        scope: "isp_identity".into(),
        total: ROWS.len(),
        rows: ROWS.iter().map(row).collect(),
    }
}

fn alerts() -> Alerts {
    let blocked = Alert {
        id: "gmail_blocked/gmail/news.shop.example.com/1790000130".into(),
        rule: "gmail_blocked".into(),
        state: "firing".into(),
        severity: "critical".into(),
        isp: "gmail".into(),
        identity: "news.shop.example.com".into(),
        since: NOW - 312_000,
        fired_at: Some(NOW - 192_000),
        metric: "blocked_rate".into(),
        window_seconds: 300,
        threshold: 0.02,
        numerator: 480,
        denominator: 12_300,
        categories: vec![("reputation".into(), 450), ("policy".into(), 30)],
        pattern: -6_148_914_691_236_517_206,
        sample: "550 5.7.1 [[ip]] Our system has detected that this message is likely suspicious due to the very low \
                 reputation of the sending domain. To best protect our users from spam, the message has been blocked.\u{1b}[2J"
            .into(),
        root_cause: "reputation".into(),
        action: "request_delisting".into(),
        annotations: [("summary".to_owned(), "Gmail refuses mail of news.shop.example.com".to_owned())].into(),
        ..Alert::default()
    };
    let deferred = Alert {
        id: "deferred_rate/microsoft/news.shop.example.com/1789999542".into(),
        rule: "deferred_rate".into(),
        severity: "warning".into(),
        isp: "microsoft".into(),
        since: NOW - 900_000,
        fired_at: Some(NOW - 600_000),
        metric: "deferred_rate".into(),
        threshold: 0.2,
        numerator: 2210,
        denominator: 9479,
        categories: vec![("rate_limited".into(), 2100), ("greylisted".into(), 110)],
        sample: "451 4.7.650 The mail server [[ip]] has been temporarily rate limited due to IP reputation.".into(),
        root_cause: "throttling".into(),
        action: "reduce_velocity".into(),
        annotations: [].into(),
        ..blocked.clone()
    };
    let pending = Alert {
        id: "hard_rate/other/news.shop.example.com/1790000382".into(),
        rule: "hard_rate".into(),
        state: "pending".into(),
        isp: "other".into(),
        since: NOW - 60_000,
        fired_at: None,
        metric: "hard_rate".into(),
        threshold: 0.05,
        numerator: 402,
        denominator: 5752,
        categories: vec![("invalid_recipient".into(), 390), ("invalid_domain".into(), 12)],
        sample: "550 5.1.1 <[address]>: User unknown".into(),
        root_cause: "list".into(),
        action: "remove_recipient".into(),
        annotations: [].into(),
        ..blocked.clone()
    };
    let resolved = Alert {
        id: "hard_rate/yahoo/billing.example.com/1789993442".into(),
        state: "resolved".into(),
        isp: "yahoo".into(),
        identity: "billing.example.com".into(),
        since: NOW - 7_000_000,
        fired_at: Some(NOW - 6_900_000),
        resolved_at: Some(NOW - 3_000_000),
        ..pending.clone()
    };
    Alerts { evaluated_to: Some(EVALUATED), alerts: vec![blocked, deferred, pending, resolved] }
}

fn status() -> Status {
    let source = |topic: &str, partition, state: &str, behind: i64| Source {
        topic: topic.into(),
        partition,
        max_event_time: Some(EVALUATED - behind),
        listed: NOW - 3000,
        state: state.into(),
        since: (behind > 0).then_some(NOW - behind),
    };
    let mut sources: Vec<Source> = (0..9).map(|partition| source("delivery.events", partition, "current", 0)).collect();
    sources.push(source("ses.notifications", 0, "behind", 150_000));
    sources.push(source("ses.notifications", 1, "left_out", 900_000));
    Status {
        ready: false,
        problems: vec![
            "the rates topic does not reach back far enough for the windows of complaint_rate: not judged until it does".into(),
        ],
        watermark: Some(EVALUATED),
        evaluated_to: Some(EVALUATED),
        log_time: Some(NOW - 2000),
        lag_records: 0,
        keys: 8214,
        windows: vec![60, 300, 900, 3600, 86_400],
        unjudged_rules: vec!["complaint_rate".into()],
        sources,
        refused: [("late".to_owned(), 12)].into(),
        alertmanagers: vec![Alertmanager { url: "http://alertmanager:9093".into(), last_ok: Some(NOW - 9000), error: None }],
    }
}

fn unheard() -> Model {
    let ask = Ask {
        scope: Scope::IspIdentity,
        window: None,
        sort: Figure::Outcomes,
        ascending: false,
        isp: None,
        identity: None,
        filter: String::new(),
        limit: 500,
    };
    Model::new("http://127.0.0.1:9090".into(), ask, NOW)
}

fn answer(model: &Model) -> Answer {
    Answer { status: Some(status()), alerts: Some(alerts()), rates: Some((model.ask.clone(), rates())), trouble: None }
}

fn heard() -> Model {
    let mut model = unheard();
    model.hear(answer(&model), NOW);
    model
}

fn trouble() -> Answer {
    let trouble = Trouble { said: "no answer from http://127.0.0.1:9090: connection refused".into(), advice: "Start it.".into() };
    Answer { trouble: Some(trouble), ..Answer::default() }
}

/// Keys by name, one after the other; single characters are themselves.
fn press(model: &mut Model, script: &str) {
    for name in script.split_whitespace() {
        let (code, modifiers) = match name {
            "enter" => (KeyCode::Enter, KeyModifiers::NONE),
            "esc" => (KeyCode::Esc, KeyModifiers::NONE),
            "tab" => (KeyCode::Tab, KeyModifiers::NONE),
            "up" => (KeyCode::Up, KeyModifiers::NONE),
            "down" => (KeyCode::Down, KeyModifiers::NONE),
            "right" => (KeyCode::Right, KeyModifiers::NONE),
            "pgdn" => (KeyCode::PageDown, KeyModifiers::NONE),
            "pgup" => (KeyCode::PageUp, KeyModifiers::NONE),
            "home" => (KeyCode::Home, KeyModifiers::NONE),
            "end" => (KeyCode::End, KeyModifiers::NONE),
            "back" => (KeyCode::Backspace, KeyModifiers::NONE),
            "^c" => (KeyCode::Char('c'), KeyModifiers::CONTROL),
            "^u" => (KeyCode::Char('u'), KeyModifiers::CONTROL),
            other => (KeyCode::Char(other.chars().next().unwrap()), KeyModifiers::NONE),
        };
        keys::press(model, KeyEvent::new(code, modifiers));
    }
}

fn drawn(model: &mut Model, columns: u16, lines: u16, colour: bool) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| draw::draw(model, Palette { colour }, frame)).unwrap();
    terminal.backend().clone()
}

/// The model after some keys, drawn before them too, as it is for a reader.
fn view(script: &str, columns: u16, lines: u16) -> TestBackend {
    let mut model = heard();
    drawn(&mut model, columns, lines, true);
    press(&mut model, script);
    drawn(&mut model, columns, lines, true)
}

#[test]
fn the_view_at_80_by_24() {
    insta::assert_snapshot!(view("", 80, 24));
}

#[test]
fn the_view_at_120_by_40() {
    insta::assert_snapshot!(view("", 120, 40));
}

#[test]
fn the_view_at_45_by_14() {
    insta::assert_snapshot!(view("s s s r", 45, 14));
}

#[test]
fn typing_a_filter() {
    insta::assert_snapshot!(view("/ m i c r", 80, 24));
}

#[test]
fn an_alert_in_detail() {
    insta::assert_snapshot!(view("a enter", 80, 24));
}

#[test]
fn a_row_in_detail() {
    insta::assert_snapshot!(view("enter", 80, 24));
}

#[test]
fn the_pipeline() {
    insta::assert_snapshot!(view("i", 80, 30));
}

#[test]
fn help_names_every_key() {
    insta::assert_snapshot!(view("?", 80, 40));
}

#[test]
fn a_server_that_never_answered() {
    let mut model = unheard();
    model.hear(trouble(), NOW);
    insta::assert_snapshot!(drawn(&mut model, 80, 24, true));
}

#[test]
fn a_server_that_no_longer_answers() {
    let mut model = heard();
    model.hear(trouble(), NOW + 35_000);
    insta::assert_snapshot!(drawn(&mut model, 80, 24, true));
    let again = answer(&model);
    model.hear(again, NOW + 36_000);
    assert!(!drawn(&mut model, 80, 24, true).to_string().contains("OLD"));
}

#[test]
fn the_plain_report() {
    let report = plain::report(&heard());
    assert!(report.iter().all(|line| !line.chars().any(char::is_control)), "the sample steers the terminal");
    insta::assert_snapshot!(report.join("\n"));
}

#[test]
fn nothing_is_drawn_in_colour_where_none_is_wanted() {
    let coloured = |colour| {
        let mut model = heard();
        model.hear(trouble(), NOW);
        let mut cells = drawn(&mut model, 120, 40, colour).buffer().content.clone();
        model.hear(answer(&heard()), NOW);
        cells.extend(drawn(&mut model, 120, 40, colour).buffer().content.clone());
        cells.iter().any(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset))
    };
    assert!(coloured(true));
    assert!(!coloured(false));
}

#[test]
fn every_size_and_page_can_be_drawn() {
    for script in ["", "a end", "? end", "i", "enter", "a enter end", "/ x y z", "tab", "end"] {
        let mut model = heard();
        press(&mut model, script);
        for columns in [1, 39, 40, 41, 60, 80, 200] {
            for lines in [1, 9, 10, 11, 13, 17, 24, 60] {
                drawn(&mut model, columns, lines, true);
            }
        }
    }
    drawn(&mut unheard(), 80, 24, true);
}

#[test]
fn rows_are_sorted_by_what_is_asked_and_those_without_it_come_last() {
    let keys = |model: &Model| model.rows.iter().map(|row| row.isp.clone()).collect::<Vec<_>>();
    let mut model = heard();
    assert_eq!(keys(&model)[..3], ["gmail", "gmail", "microsoft"]);
    press(&mut model, "s s");
    assert_eq!(model.ask.sort, Figure::BounceRate);
    assert_eq!((keys(&model)[0].as_str(), keys(&model)[17].as_str()), ("other", "qq"));
    press(&mut model, "r");
    assert_eq!((keys(&model)[0].as_str(), keys(&model)[17].as_str()), ("orange", "qq"));
    press(&mut model, "s s s s s s s");
    assert_eq!((model.ask.sort, model.ask.ascending), (Figure::Outcomes, true));
    assert_eq!(keys(&model)[0], "qq");
}

#[test]
fn a_filter_is_typed_kept_and_dropped() {
    let mut model = heard();
    press(&mut model, "/ B I l l x back");
    assert_eq!((model.rows.len(), model.ask.filter.as_str(), model.typing), (3, "BIll", true));
    // Letters that are keys elsewhere are letters here.
    press(&mut model, "q");
    assert_eq!((model.rows.len(), model.done), (0, false));
    press(&mut model, "^u g m x enter s");
    assert_eq!((model.rows.len(), model.typing, model.ask.sort), (1, false, Figure::Attempts));
    press(&mut model, "esc");
    assert_eq!((model.rows.len(), model.done), (ROWS.len(), false));
    press(&mut model, "/ g esc");
    assert_eq!((model.ask.filter.as_str(), model.typing), ("", false));
    press(&mut model, "esc");
    assert!(model.done);
}

#[test]
fn scope_and_window_go_round_and_an_answer_to_an_older_question_is_not_shown() {
    let mut model = heard();
    let older = answer(&model);
    press(&mut model, "tab");
    assert_eq!(model.ask.scope, Scope::Isp);
    let stale = Answer { rates: older.rates.map(|(ask, rates)| (ask, Rates { total: 999, ..rates })), ..Answer::default() };
    model.hear(stale, NOW);
    assert_eq!(model.rates.as_ref().unwrap().total, ROWS.len());
    assert!(drawn(&mut model, 120, 40, true).to_string().contains("asking for ISP, 5 min"));
    press(&mut model, "tab tab tab w");
    assert_eq!((model.ask.scope, model.ask.window), (Scope::IspIdentity, Some(900)));
    press(&mut model, "w w w");
    assert_eq!(model.ask.window, Some(60));
}

#[test]
fn the_selection_moves_in_bounds_and_stays_with_its_row() {
    let mut model = heard();
    drawn(&mut model, 80, 24, true);
    press(&mut model, "up");
    assert_eq!(model.row.at, 0);
    press(&mut model, "down down");
    assert_eq!(model.selected_row().unwrap().isp, "microsoft");
    press(&mut model, "s s");
    assert_eq!(model.selected_row().unwrap().isp, "microsoft");
    assert_ne!(model.row.at, 2);
    press(&mut model, "end down");
    assert_eq!(model.row.at, ROWS.len() - 1);
    let last = drawn(&mut model, 80, 24, true).to_string();
    assert!(last.contains("  qq ") && !last.contains("! gmail  "), "{last}");
    press(&mut model, "pgup");
    assert_eq!(model.row.at, ROWS.len() - model.row.in_sight);
    press(&mut model, "home");
    assert_eq!((model.row.at, model.focus), (0, Focus::Rows));
    // At the top, the view shows whatever is first.
    press(&mut model, "r");
    assert_eq!(model.row.at, 0);
}

#[test]
fn the_selected_line_is_reversed_over_its_whole_width() {
    let reversed = |script: &str| {
        let buffer = view(script, 80, 24).buffer().clone();
        let lines = buffer.content.chunks(80).enumerate();
        let all = |line: &[ratatui::buffer::Cell]| line.iter().all(|cell| cell.modifier.contains(Modifier::REVERSED));
        lines.filter(|(_, line)| all(line)).map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (first, second) = (reversed(""), reversed("down"));
    assert_eq!(first.len(), 1);
    assert_eq!(second, [first[0] + 1]);
    assert_eq!(reversed("a").len(), 1);
    assert!(reversed("a")[0] > first[0]);
}

#[test]
fn pages_open_scroll_and_close() {
    let mut model = heard();
    press(&mut model, "a down enter");
    let id = |model: &Model| match &model.page {
        Some(Page::Alert { id }) => id.clone(),
        page => panic!("{page:?}"),
    };
    assert!(id(&model).starts_with("deferred_rate"));
    press(&mut model, "right");
    assert!(id(&model).starts_with("hard_rate/other"));
    press(&mut model, "q");
    assert_eq!((model.page.as_ref(), model.done), (None, false));
    press(&mut model, "? end");
    drawn(&mut model, 80, 15, true);
    assert!((1..40).contains(&model.scroll), "{}", model.scroll);
    press(&mut model, "i");
    assert_eq!((model.page.as_ref(), model.scroll), (Some(&Page::Status), 0));
    press(&mut model, "esc");
    assert_eq!((model.page.as_ref(), model.done), (None, false));
    press(&mut model, "? ^c");
    assert!(model.done);
}

#[test]
fn an_alert_that_is_gone_is_not_shown_with_anothers_figures() {
    let mut model = heard();
    press(&mut model, "a enter");
    model.hear(Answer { alerts: Some(Alerts::default()), ..Answer::default() }, NOW);
    assert!(drawn(&mut model, 80, 24, true).to_string().contains("It is over"));
    press(&mut model, "esc down enter");
    assert_eq!(model.page, None);
}

#[test]
fn the_window_by_default_is_the_shortest_of_five_minutes_or_more() {
    let ask = |window| Ask { window, ..unheard().ask };
    assert_eq!(ask(None).window(&[60, 300, 900]), Ok(Some(300)));
    assert_eq!(ask(None).window(&[60, 120]), Ok(Some(120)));
    assert_eq!(ask(None).window(&[]), Ok(None));
    assert_eq!(ask(Some(60)).window(&[60, 300]), Ok(Some(60)));
    let trouble = ask(Some(420)).window(&[60, 3600]).unwrap_err();
    assert_eq!(
        (trouble.said.as_str(), trouble.advice.as_str()),
        ("there is no window of 7 min", "Ask for one of these: 1 min, 1 h.")
    );
}
