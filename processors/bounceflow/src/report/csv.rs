//! CSV (RFC 4180, UTF-8): every column by its name, values as machines read them. A report of several sections has them one below the
//! other, each with a header of its own; the first column of every line then names the section.
//!
//! **Invariant:** no field is taken for a formula by a spreadsheet: see [`harmless`].

use std::borrow::Cow;
use std::io::Write;

use bounceflow_warehouse::report::{Report, Section, Value};
use csv::{Terminator, Writer, WriterBuilder};

use super::{Document, Meta};

pub(super) struct Csv {
    out: Writer<Box<dyn Write>>,
    several: bool,
    section: &'static str,
}

impl Csv {
    pub(super) fn new(out: Box<dyn Write>, meta: &Meta) -> Self {
        let out = WriterBuilder::new().flexible(true).terminator(Terminator::CRLF).from_writer(out);
        Self { out, several: meta.report == Report::Monthly, section: "" }
    }

    fn line<'a>(&mut self, first: &str, fields: impl Iterator<Item = Cow<'a, str>>) -> anyhow::Result<()> {
        let result = (|| {
            if self.several {
                self.out.write_field(first)?;
            }
            fields.into_iter().try_for_each(|field| self.out.write_field(field.as_bytes()))?;
            self.out.write_record(None::<&[u8]>)
        })();
        Ok(result.map_err(std::io::Error::from)?)
    }
}

impl Document for Csv {
    fn begin(&mut self, section: Section) -> anyhow::Result<()> {
        self.section = section.name;
        self.line("section", section.columns.iter().map(|column| Cow::Borrowed(column.name)))
    }

    fn row(&mut self, row: &[Value]) -> anyhow::Result<()> {
        self.line(self.section, row.iter().map(field))
    }

    fn end(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

fn field(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => Cow::Borrowed(""),
        Value::Text(text) => harmless(text),
        Value::Count(n) => Cow::Owned(n.to_string()),
        Value::Number(n) => Cow::Owned(n.to_string()),
    }
}

/// A text that a spreadsheet would take for a formula gets a `'` in front, as OWASP advises: one that begins with `=`, `+`, `-`, `@`,
/// a tab or a line break, or the full-width forms of those signs.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if is_formula(text) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// Whether a spreadsheet may take it for a formula.
pub(super) fn is_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
}
