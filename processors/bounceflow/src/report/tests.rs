//! Every format of text as it looks, of rows made up by hand. That names survive is shown end to end, by readers of each format.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::rc::Rc;

use bounceflow_warehouse::report::{Filters, Kind, Period, Report, Request, Section, Sender, UnknownName, Value};

use super::{Document, Meta, chart, csv, html, json, markdown, refusal, table};

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn period() -> Period {
    Period::new("2026-05-01".parse().unwrap(), "2026-05-31".parse().unwrap()).unwrap()
}

fn sections(report: Report) -> Vec<Section> {
    let request = Request {
        report,
        period: period(),
        filters: Filters::default(),
        sender: Sender::FromDomain,
        fallback_rules: String::new(),
    };
    request.sections()
}

/// A value for each column by its kind, and these texts for the first of them.
fn row(section: &Section, n: u64, texts: &[&str]) -> Vec<Value> {
    let mut texts = texts.iter();
    let mut value = |kind| match kind {
        Kind::Text => Value::Text(texts.next().unwrap_or(&"word").to_string()),
        Kind::Date => Value::Text(format!("2026-05-{:02}", n % 31 + 1)),
        Kind::Time => Value::Text(format!("2026-05-{:02}T12:00:00.250Z", n % 31 + 1)),
        Kind::Count | Kind::Seconds => Value::Count(n * 1234),
        Kind::Rate if n.is_multiple_of(3) => Value::Null,
        Kind::Rate => Value::Number(n as f64 / 100.0),
        Kind::Points | Kind::Change | Kind::Difference => Value::Number(n as f64 / 8.0 - 0.5),
    };
    section.columns.iter().map(|column| value(column.kind)).collect()
}

fn written(report: Report, make: impl FnOnce(Box<dyn std::io::Write>, &Meta) -> anyhow::Result<Box<dyn Document>>) -> String {
    let out = Shared::default();
    let filters = vec![("isp", "gmail".to_owned()), ("campaign", "=1+1|<b>".to_owned())];
    let meta = Meta { report, period: period(), filters, made: "2026-06-01T08:00:00Z".to_owned() };
    let mut document = make(Box::new(out.clone()), &meta).unwrap();
    for section in sections(report) {
        document.begin(section.clone()).unwrap();
        for (n, texts) in
            (1..).zip([["=1+1", "a\"b,c"], ["two\nlines", "<script>|*x*"], ["long-campaign-of-spring", "mail.shop.example"]])
        {
            document.row(&row(&section, n, &texts)).unwrap();
        }
        document.end().unwrap();
    }
    document.finish().unwrap();
    let bytes = out.0.borrow().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_table_of_a_terminal() {
    insta::assert_snapshot!(written(Report::BounceReport, |out, meta| Ok(Box::new(table::Table::new(out, meta, Some(80))?))));
}

#[test]
fn a_table_as_wide_as_it_is() {
    insta::assert_snapshot!(written(Report::AlertHistory, |out, meta| Ok(Box::new(table::Table::new(out, meta, None)?))));
}

#[test]
fn comma_separated_values() {
    insta::assert_snapshot!(written(Report::BounceReport, |out, meta| Ok(Box::new(csv::Csv::new(out, meta)))));
}

#[test]
fn comma_separated_values_of_several_sections() {
    let text = written(Report::Monthly, |out, meta| Ok(Box::new(csv::Csv::new(out, meta))));
    let first: Vec<_> = text.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(first[..9], ["section", "kpis", "kpis", "lines\"", "kpis", "section", "days", "days", "days"], "{text}");
}

#[test]
fn json_of_rows() {
    insta::assert_snapshot!(written(Report::BounceReport, |out, meta| Ok(Box::new(json::Json::new(out, meta)?))));
}

#[test]
fn markdown_of_rows() {
    insta::assert_snapshot!(written(Report::BounceReport, |out, meta| Ok(Box::new(markdown::Markdown::new(out, meta)?))));
}

#[test]
fn html_of_rows() {
    let page = written(Report::FailureBreakdown, |out, meta| Ok(Box::new(html::Html::new(out, meta)?)));
    let (_, body) = page.split_once("</style></head>").unwrap();
    insta::assert_snapshot!(body);
}

#[test]
fn a_page_and_more_keep_their_columns() {
    let out = Shared::default();
    let meta = Meta { report: Report::BounceReport, period: period(), filters: Vec::new(), made: String::new() };
    let mut table = table::Table::new(Box::new(out.clone()), &meta, Some(100)).unwrap();
    let section = sections(Report::BounceReport).remove(0);
    table.begin(section.clone()).unwrap();
    for n in 1..=1200 {
        let long = "w".repeat(n as usize % 90 + 1);
        table.row(&row(&section, n, &[&format!("campaign-{n}"), &long, &long])).unwrap();
    }
    table.end().unwrap();
    let text = String::from_utf8(out.0.borrow().clone()).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("campaign-")).count();
    assert_eq!((rows, text.matches("Campaign").count()), (1200, 1));
    assert!(text.lines().filter(|line| !line.starts_with("Not shown")).all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn charts_are_drawn_of_any_figures() {
    for report in Report::ALL {
        for section in sections(report) {
            let Some(drawn) = &section.chart else { continue };
            for rows in [0, 1, 2, 9, 10, 500] {
                let rows: Vec<_> = (0..rows).map(|n| row(&section, n, &["<script>", "&"])).collect();
                let svg = chart::svg(drawn, &section, &rows).unwrap();
                assert!(svg.is_some() || rows.len() < 2, "{report:?}");
                assert!(!svg.unwrap_or_default().contains("<script"), "{report:?}");
            }
        }
    }
}

#[test]
fn names_that_are_offered_do_not_steer_the_terminal() {
    let near = vec!["spring\x1b[2J".to_owned(), "a\u{202e}b".to_owned()];
    let said = refusal(&UnknownName { what: "campaign", name: "sprin\x1bg".to_owned(), near });
    assert_eq!(said, "no campaign is called \"sprin\\u{1b}g\"; did you mean spring\\u{1b}[2J or a\\u{202e}b?");
}
