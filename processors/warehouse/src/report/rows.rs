//! The rows of a section, one at a time, as the server makes them: however many there are, one is held.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use clickhouse::query::BytesCursor;
use serde::Deserialize;
use serde::de::{Unexpected, Visitor};
use tokio::io::{AsyncBufReadExt as _, Lines};

use super::columns::{Kind, Value};
use super::{Request, Section};
use crate::client::{SPILL_BYTES, Warehouse};
use crate::error::WarehouseError;

/// How long the server may be silent: a report may look through years.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);
const WHAT: &str = "make the report";

/// The rows of a section that are still to come.
pub struct Rows {
    lines: Lines<BytesCursor>,
    kinds: Vec<Kind>,
    row: Vec<Value>,
    url: String,
}

impl Warehouse {
    /// Asks for the rows of a section.
    pub fn report(&self, request: &Request, section: &Section) -> Result<Rows, WarehouseError> {
        let Request { period, filters, fallback_rules, .. } = request;
        let mut query = self
            .client()
            .query_raw(&section.sql())
            .param("from", period.from().to_string())
            .param("to", period.to().to_string())
            .param("before", period.before().from().to_string())
            .param("fallback", fallback_rules)
            .with_setting("max_bytes_before_external_group_by", SPILL_BYTES)
            .with_setting("max_bytes_before_external_sort", SPILL_BYTES)
            .with_setting("output_format_json_quote_64bit_integers", "0")
            .with_setting("output_format_json_quote_denormals", "0")
            .with_setting("output_format_json_validate_utf8", "1")
            .with_setting("date_time_output_format", "iso");
        for (_, parameter, names) in filters.parameters() {
            query = query.param(parameter, names);
        }
        let cursor = query.fetch_bytes("JSONCompactEachRow").map_err(|e| self.refused(&e))?;
        let kinds = section.columns.iter().map(|column| column.kind).collect();
        Ok(Rows { lines: cursor.lines(), kinds, row: Vec::new(), url: self.settings.url.clone() })
    }

    fn refused(&self, error: &clickhouse::error::Error) -> WarehouseError {
        WarehouseError::of_query(WHAT, &self.settings.url, error)
    }
}

impl Rows {
    /// The next row, a value per column; none: that was all.
    pub async fn next(&mut self) -> Result<Option<&[Value]>, WarehouseError> {
        let line = match tokio::time::timeout(PATIENCE, self.lines.next_line()).await {
            Ok(line) => line.map_err(|e| WarehouseError::of_query(WHAT, &self.url, &clickhouse::error::Error::from(e)))?,
            Err(_) => {
                return Err(WarehouseError::unreachable(&self.url, format!("no row within {PATIENCE:?}")));
            }
        };
        let Some(line) = line else { return Ok(None) };
        let unreadable = |message: String| {
            let (url, what) = (self.url.clone(), format!("{WHAT} in a way it can be read"));
            WarehouseError::Refused { url, what, code: None, message }
        };
        let cells: Vec<Cell<'_>> = serde_json::from_str(&line).map_err(|e| unreadable(e.to_string()))?;
        if cells.len() != self.kinds.len() {
            return Err(unreadable(format!("{} values for {} columns", cells.len(), self.kinds.len())));
        }
        self.row.clear();
        for (kind, cell) in std::iter::zip(&self.kinds, cells) {
            self.row.push(value(*kind, cell).map_err(unreadable)?);
        }
        Ok(Some(&self.row))
    }
}

/// A value as the server writes it.
#[derive(Debug, PartialEq)]
enum Cell<'a> {
    Null,
    Text(Cow<'a, str>),
    Whole(u64),
    Number(f64),
}

fn value(kind: Kind, cell: Cell<'_>) -> Result<Value, String> {
    match (kind, cell) {
        (_, Cell::Null) => Ok(Value::Null),
        (Kind::Text | Kind::Date | Kind::Time, Cell::Text(text)) => Ok(Value::Text(text.into_owned())),
        (Kind::Count | Kind::Seconds, Cell::Whole(n)) => Ok(Value::Count(n)),
        (Kind::Rate | Kind::Points | Kind::Change | Kind::Difference, Cell::Whole(n)) => Ok(Value::Number(n as f64)),
        (Kind::Rate | Kind::Points | Kind::Change | Kind::Difference, Cell::Number(n)) => Ok(Value::Number(n)),
        (kind, cell) => Err(format!("{cell:?} is no {}", kind.as_str())),
    }
}

impl<'de> Deserialize<'de> for Cell<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Cell<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or null")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Cell::Null)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cell::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cell::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
                Ok(Cell::Whole(n))
            }

            fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
                Ok(Cell::Number(n as f64))
            }

            fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Self::Value, E> {
                if n.is_finite() { Ok(Cell::Number(n)) } else { Err(E::invalid_value(Unexpected::Float(n), &self)) }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_values_by_the_kinds_of_its_columns() {
        let line = r#"["=1+1\n|<b>",18446744073709551615,0,0.25,-3,null,"2026-05-01"]"#;
        let cells: Vec<Cell<'_>> = serde_json::from_str(line).unwrap();
        let kinds = [Kind::Text, Kind::Count, Kind::Rate, Kind::Rate, Kind::Points, Kind::Rate, Kind::Date];
        let values: Vec<Value> = std::iter::zip(kinds, cells).map(|(kind, cell)| value(kind, cell).unwrap()).collect();
        assert_eq!(
            values,
            [
                Value::Text("=1+1\n|<b>".to_owned()),
                Value::Count(u64::MAX),
                Value::Number(0.0),
                Value::Number(0.25),
                Value::Number(-3.0),
                Value::Null,
                Value::Text("2026-05-01".to_owned())
            ]
        );
        assert!(value(Kind::Count, Cell::Number(0.5)).is_err());
        assert!(serde_json::from_str::<Cell<'_>>("[1]").is_err());
    }
}
