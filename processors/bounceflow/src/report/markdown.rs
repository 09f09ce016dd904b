//! Markdown with tables (GitHub's): the columns people need, values as people read them.
//!
//! **Invariant:** a text is shown as it is: none of it becomes markup, HTML or another cell.

use std::io::Write;

use bounceflow_warehouse::report::{Section, Value};

use super::{Document, Meta, words};

pub(super) struct Markdown {
    out: Box<dyn Write>,
    section: Option<Section>,
    rows: u64,
}

impl Markdown {
    pub(super) fn new(mut out: Box<dyn Write>, meta: &Meta) -> anyhow::Result<Self> {
        writeln!(out, "# {}, {}\n", escaped(meta.report.title()), meta.period)?;
        for (what, name) in &meta.filters {
            writeln!(out, "- {what}: {}", escaped(name))?;
        }
        if let Some(before) = meta.before() {
            writeln!(out, "- compared with {before}")?;
        }
        writeln!(out, "- days in UTC; made {}", meta.made)?;
        Ok(Self { out, section: None, rows: 0 })
    }
}

impl Document for Markdown {
    fn begin(&mut self, section: Section) -> anyhow::Result<()> {
        let main = || section.columns.iter().filter(|column| column.main);
        writeln!(self.out, "\n## {}\n", escaped(&section.title))?;
        if !section.note.is_empty() {
            writeln!(self.out, "{}\n", escaped(&section.note))?;
        }
        let titles: Vec<_> = main().map(|column| escaped(&column.title())).collect();
        let marks: Vec<_> = main().map(|column| if column.kind.is_number() { "---:" } else { "---" }).collect();
        writeln!(self.out, "| {} |\n| {} |", titles.join(" | "), marks.join(" | "))?;
        (self.section, self.rows) = (Some(section), 0);
        Ok(())
    }

    fn row(&mut self, row: &[Value]) -> anyhow::Result<()> {
        let Some(section) = &self.section else { return Ok(()) };
        for (column, value) in std::iter::zip(&section.columns, row).filter(|(column, _)| column.main) {
            write!(self.out, "| {} ", escaped(&words::shown(column.kind, value)))?;
        }
        self.rows += 1;
        Ok(writeln!(self.out, "|")?)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.rows == 0 {
            writeln!(self.out, "\nNothing was counted.")?;
        }
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

/// Signs that mean something get a backslash, line breaks are `<br>`, as a cell has one line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' | '\r' => out.push_str("<br>"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // The colon because some readers make links of addresses.
            '\\' | ':' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '!' | '|' | '~' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
