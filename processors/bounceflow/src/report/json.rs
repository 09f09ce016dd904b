//! JSON: one object with `meta` and `sections`; a section says its columns and has a row object per row, one a line.

use std::io::Write;

use bounceflow_warehouse::report::{Column, Period, Section, Value};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;

use super::{Document, Meta};

/// Version of what this module writes: higher where a reader of before would be misled.
const FORMAT: u32 = 1;

pub(super) struct Json {
    out: Box<dyn Write>,
    section: Option<Section>,
    /// What stands before the next section or row.
    separator: &'static str,
}

impl Json {
    pub(super) fn new(mut out: Box<dyn Write>, meta: &Meta) -> anyhow::Result<Self> {
        let mut filters = serde_json::Map::new();
        for (what, name) in &meta.filters {
            match filters.entry(*what).or_insert_with(|| json!([])) {
                serde_json::Value::Array(names) => names.push(json!(name)),
                _ => continue,
            }
        }
        let days = |period: Period| json!({ "from": period.from().to_string(), "to": period.to().to_string() });
        let meta = json!({
            "report": meta.report.name(),
            "period": days(meta.period),
            "compared_with": meta.before().map(days),
            "time_zone": "UTC",
            "filters": filters,
            "made": meta.made,
            "versions": { "bounceflow": env!("CARGO_PKG_VERSION"), "format": FORMAT },
        });
        write!(out, "{{\"meta\":{meta},\n\"sections\":[")?;
        Ok(Self { out, section: None, separator: "" })
    }
}

impl Document for Json {
    fn begin(&mut self, section: Section) -> anyhow::Result<()> {
        let column = |column: &Column| json!({ "name": column.name, "kind": column.kind.as_str(), "title": column.title() });
        let columns: Vec<_> = section.columns.iter().map(column).collect();
        let Section { name, title, note, .. } = &section;
        let head = json!({ "name": name, "title": title, "note": note, "columns": columns }).to_string();
        write!(self.out, "{}\n{},\"rows\":[", self.separator, head.trim_end_matches('}'))?;
        self.separator = "";
        self.section = Some(section);
        Ok(())
    }

    fn row(&mut self, row: &[Value]) -> anyhow::Result<()> {
        if let Some(section) = &self.section {
            writeln!(self.out, "{}", self.separator)?;
            serde_json::to_writer(&mut self.out, &Row { columns: &section.columns, row }).map_err(std::io::Error::from)?;
            self.separator = ",";
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        write!(self.out, "]}}")?;
        self.separator = ",";
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        writeln!(self.out, "]}}")?;
        Ok(self.out.flush()?)
    }
}

struct Row<'a> {
    columns: &'a [Column],
    row: &'a [Value],
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.row.len()))?;
        for (column, value) in std::iter::zip(self.columns, self.row) {
            match value {
                Value::Null => map.serialize_entry(column.name, &())?,
                Value::Text(text) => map.serialize_entry(column.name, text)?,
                Value::Count(n) => map.serialize_entry(column.name, n)?,
                Value::Number(n) => map.serialize_entry(column.name, n)?,
            }
        }
        map.end()
    }
}
