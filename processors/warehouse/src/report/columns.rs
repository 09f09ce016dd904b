//! What a section holds: columns, their kinds, one value, and the chart drawn of some of them. Pure.

/// What the values of a column are, which decides how each format writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Words.
    Text,
    /// A whole number, not negative.
    Count,
    /// A fraction of one, shown in per cent.
    Rate,
    /// A difference of two rates, in percentage points.
    Points,
    /// A relative change: 0.1 is a tenth more.
    Change,
    /// A number that may be negative, shown without decimals.
    Difference,
    /// A length of time in seconds.
    Seconds,
    /// A day: `2026-05-01`.
    Date,
    /// A moment in UTC: `2026-05-01T12:00:00Z`.
    Time,
}

impl Kind {
    /// Its name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Count => "count",
            Self::Rate => "rate",
            Self::Points => "points",
            Self::Change => "change",
            Self::Difference => "difference",
            Self::Seconds => "seconds",
            Self::Date => "date",
            Self::Time => "time",
        }
    }

    /// Whether its values are numbers.
    pub const fn is_number(self) -> bool {
        !matches!(self, Self::Text | Self::Date | Self::Time)
    }
}

/// A value; its column's kind says what it means. Dates and times are text as their kinds say.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing to divide by, or not known.
    Null,
    /// Text, date or time.
    Text(String),
    /// A whole number.
    Count(u64),
    /// Any other number.
    Number(f64),
}

impl Value {
    /// As a number, for charts and cells.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Count(n) => Some(*n as f64),
            Self::Number(n) => Some(*n),
            Self::Null | Self::Text(_) => None,
        }
    }
}

/// A column of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// As in the views.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Whether people need it: the others stand where there is room for all.
    pub main: bool,
    /// Where it comes from; its name where empty.
    sql: &'static str,
}

impl Column {
    /// One that people need.
    pub(super) const fn main(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, main: true, sql: "" }
    }

    /// One for those who go on counting.
    pub(super) const fn further(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, main: false, sql: "" }
    }

    /// The same, made of this expression.
    #[must_use]
    pub(super) const fn of(self, sql: &'static str) -> Self {
        Self { sql, ..self }
    }

    pub(super) fn select(&self) -> String {
        let Self { name, kind, sql, .. } = self;
        let sql = if sql.is_empty() { name } else { sql };
        match kind {
            Kind::Text => format!("toString({sql}) AS {name}"),
            _ if sql == name => (*name).to_owned(),
            _ => format!("{sql} AS {name}"),
        }
    }

    /// For people: `top_isp` is `Top ISP`.
    pub fn title(&self) -> String {
        let mut title = String::new();
        for (i, word) in self.name.split('_').enumerate() {
            if i > 0 {
                title.push(' ');
            }
            match word {
                "isp" | "ip" | "kpi" => title.push_str(&word.to_uppercase()),
                "isps" => title.push_str("ISPs"),
                _ if i == 0 => title.extend(word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1))),
                _ => title.push_str(word),
            }
        }
        title
    }
}

/// The picture of a section's first rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chart {
    /// What it shows.
    pub title: &'static str,
    /// How.
    pub form: Form,
    /// Column that names a row.
    pub label: &'static str,
    /// Columns that are drawn.
    pub series: &'static [&'static str],
    /// Of how many rows at most.
    pub rows: usize,
}

/// How a chart shows its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A bar per row and series, side by side.
    Bars,
    /// A line per series from row to row.
    Lines,
}
