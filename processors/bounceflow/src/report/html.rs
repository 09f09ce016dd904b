//! HTML: one file that needs no other and no network, made for mailing. The columns people need, values as people read them, charts as
//! inline SVG with the same figures in the table below, so that nothing is lost where a mail program shows no SVG.
//!
//! **Invariant:** every text passes through [`Escaped`]; there is no script, and nothing is fetched.

use std::fmt::{self, Write as _};
use std::io::Write;

use bounceflow_warehouse::report::{Kind, Section, Value};

use super::{Document, Meta, chart, words};

/// Levels and outcomes that are shown in a colour of their own.
const GOOD: &[&str] = &["Healthy", "Low", "yes", "resolved"];
const FAIR: &[&str] = &["Watch", "lapsed"];
const POOR: &[&str] = &["Critical", "High", "no", "open"];

const STYLE: &str = "\
body{margin:0;padding:24px;background:#fff;color:#222b33;font:14px/1.45 -apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}\
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:36px 0 6px}p{margin:0 0 10px;color:#55606b;max-width:760px}\
figure{margin:12px 0 16px}figcaption{font-weight:600;margin-bottom:4px}svg{max-width:100%;height:auto}\
.key{font-weight:400;color:#55606b;margin-left:12px;white-space:nowrap}\
table{border-collapse:collapse;font-size:13px}th,td{padding:5px 9px;border-bottom:1px solid #dde2e7;text-align:left;vertical-align:top}\
th{border-bottom:2px solid #8a96a3;vertical-align:bottom}tbody tr:nth-child(even){background:#f6f8fa}\
.n{text-align:right;font-variant-numeric:tabular-nums}td.n,td.t{white-space:nowrap}.w{max-width:420px;overflow-wrap:break-word}\
.good,.fair,.poor{font-weight:600;padding:1px 7px;border-radius:9px}.good{color:#1d6b34;background:#e3f3e7}\
.fair{color:#7a5200;background:#fdf0d0}.poor{color:#9b1c1c;background:#fde4e4}\
footer{margin-top:36px;color:#55606b;font-size:12px}\
@media print{body{padding:0}tr,figure{break-inside:avoid}}";

pub(super) struct Html {
    out: Box<dyn Write>,
    section: Option<Section>,
    /// The first rows wait for the chart above them.
    first: Vec<Vec<Value>>,
    charted: bool,
    rows: u64,
    made: String,
}

impl Html {
    pub(super) fn new(mut out: Box<dyn Write>, meta: &Meta) -> anyhow::Result<Self> {
        let (title, period) = (Escaped(meta.report.title()).to_string(), meta.period);
        write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta name=\"color-scheme\" content=\"light\">\n\
             <title>{title}, {period}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n<p>{period} (UTC)"
        )?;
        for (what, name) in &meta.filters {
            write!(out, "<br>{what}: <b>{}</b>", Escaped(name))?;
        }
        if let Some(before) = meta.before() {
            write!(out, "<br>compared with {before}")?;
        }
        writeln!(out, "</p>")?;
        Ok(Self { out, section: None, first: Vec::new(), charted: false, rows: 0, made: meta.made.clone() })
    }

    /// The chart of the first rows, the head of the table, and those rows.
    fn chart(&mut self) -> anyhow::Result<()> {
        let Some(section) = &self.section else { return Ok(()) };
        if let Some(chart) = &section.chart
            && let Some(svg) = chart::svg(chart, section, &self.first)?
        {
            write!(self.out, "<figure><figcaption>{}", Escaped(chart.title))?;
            for (name, (r, g, b)) in std::iter::zip(chart.series, chart::COLOURS).filter(|_| chart.series.len() > 1) {
                let title = section.column(name).map(|at| section.columns[at].title()).unwrap_or_default();
                let colour = format!("#{r:02x}{g:02x}{b:02x}");
                write!(self.out, "<span class=\"key\"><span style=\"color:{colour}\">■</span> {}</span>", Escaped(&title))?;
            }
            let svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", Escaped(chart.title)), 1);
            writeln!(self.out, "</figcaption>\n{svg}</figure>")?;
        }
        if !self.first.is_empty() {
            write!(self.out, "<table><thead><tr>")?;
            for column in section.columns.iter().filter(|column| column.main) {
                write!(self.out, "<th class=\"{}\">{}</th>", class(column.kind), Escaped(&column.title()))?;
            }
            writeln!(self.out, "</tr></thead><tbody>")?;
        }
        self.charted = true;
        for row in std::mem::take(&mut self.first) {
            self.line(&row)?;
        }
        Ok(())
    }

    fn line(&mut self, row: &[Value]) -> anyhow::Result<()> {
        let Some(section) = &self.section else { return Ok(()) };
        write!(self.out, "<tr>")?;
        for (column, value) in std::iter::zip(&section.columns, row).filter(|(column, _)| column.main) {
            let text = words::shown(column.kind, value);
            write!(self.out, "<td class=\"{}\">", class(column.kind))?;
            match level(column.name, &text) {
                Some(level) => write!(self.out, "<span class=\"{level}\">{}</span>", Escaped(&text))?,
                None => write!(self.out, "{}", Escaped(&text))?,
            }
            write!(self.out, "</td>")?;
        }
        Ok(writeln!(self.out, "</tr>")?)
    }
}

impl Document for Html {
    fn begin(&mut self, section: Section) -> anyhow::Result<()> {
        writeln!(self.out, "<h2 id=\"{}\">{}</h2>", section.name, Escaped(&section.title))?;
        if !section.note.is_empty() {
            writeln!(self.out, "<p>{}</p>", Escaped(&section.note))?;
        }
        (self.section, self.charted, self.rows) = (Some(section), false, 0);
        Ok(())
    }

    fn row(&mut self, row: &[Value]) -> anyhow::Result<()> {
        self.rows += 1;
        if self.charted {
            return self.line(row);
        }
        self.first.push(row.to_vec());
        let waits_for = self.section.as_ref().and_then(|section| section.chart).map_or(1, |chart| chart.rows);
        if self.first.len() < waits_for { Ok(()) } else { self.chart() }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if !self.charted {
            self.chart()?;
        }
        let end = if self.rows > 0 { "</tbody></table>" } else { "<p>Nothing was counted.</p>" };
        Ok(writeln!(self.out, "{end}")?)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        writeln!(
            self.out,
            "<footer>Made {} by bounceflow {version}. Days are days in UTC. Rates are made of the sums of all days.</footer>\n\
             </body></html>",
            self.made
        )?;
        Ok(self.out.flush()?)
    }
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "w",
        Kind::Date | Kind::Time => "t",
        _ => "n",
    }
}

fn level(column: &str, text: &str) -> Option<&'static str> {
    let coloured = matches!(column, "status" | "risk" | "within_guide" | "outcome");
    [("good", GOOD), ("fair", FAIR), ("poor", POOR)].into_iter().find(|(_, words)| coloured && words.contains(&text)).map(|l| l.0)
}

/// A text inside HTML, or inside an attribute in quotes. What cannot be in HTML is shown as U+FFFD; line breaks stay to be seen.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '&' => f.write_str("&amp;"),
                '<' => f.write_str("&lt;"),
                '>' => f.write_str("&gt;"),
                '"' => f.write_str("&quot;"),
                '\'' => f.write_str("&#39;"),
                '\r' if chars.peek() == Some(&'\n') => Ok(()),
                '\n' | '\r' => f.write_str("<br>"),
                '\t' => f.write_char(c),
                c if c.is_control() => f.write_char('\u{fffd}'),
                c => f.write_char(c),
            }?;
        }
        Ok(())
    }
}
