//! Names that a user typed and nobody knows, each with what it may have been meant for. Whether a name is known is asked of all days:
//! one that is merely not of the period gives an empty report, not a refusal.

use clickhouse::Row;
use serde::Deserialize;

use super::Filters;
use crate::client::Warehouse;
use crate::error::WarehouseError;

/// A name that is neither in the tables nor among those known otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// What it should have named: `isp`, `identity` or `campaign`.
    pub what: &'static str,
    /// As typed.
    pub name: String,
    /// Known ones that look like it, the nearest first.
    pub near: Vec<String>,
}

#[derive(Row, Deserialize)]
struct Found {
    known: bool,
    near: Vec<String>,
}

impl Warehouse {
    /// The names of a filter that nothing is known of. `isps` are known although nothing may be counted of them yet.
    pub async fn unknown_names(&self, filters: &Filters, isps: &[String]) -> Result<Vec<UnknownName>, WarehouseError> {
        let mut unknown = Vec::new();
        for (what, _, names) in filters.parameters() {
            // Campaigns beyond those counted apart have their names in failures alone.
            let more = match what {
                "isp" => "UNION DISTINCT SELECT arrayJoin({isps:Array(String)}) AS name",
                "campaign" => "UNION DISTINCT SELECT DISTINCT campaign AS name FROM failure_details",
                _ => "",
            };
            // One letter in three may be wrong, or one is part of the other.
            let sql = format!(
                "WITH lowerUTF8(left({{name:String}}, 200)) AS asked
                SELECT countIf(name = {{name:String}}) > 0 AS known,
                    arrayMap(pair -> pair.2, groupArraySortedIf(3)((far, name), name != '' AND (far * 3 <= lengthUTF8(asked)
                        OR (lengthUTF8(asked) > 2 AND position(lowerUTF8(name), asked) > 0)))) AS near
                FROM (SELECT name, damerauLevenshteinDistance(lowerUTF8(left(name, 200)), asked) AS far FROM
                    (SELECT DISTINCT toString({what}) AS name FROM daily_rates_by_identity {more}))"
            );
            for name in names {
                let query = self.client().query_raw(&sql).param("name", name).param("isps", isps);
                let Found { known, near } = self.timed("look up a name", query.fetch_one()).await?;
                if !known {
                    unknown.push(UnknownName { what, name: name.clone(), near });
                }
            }
        }
        Ok(unknown)
    }
}
