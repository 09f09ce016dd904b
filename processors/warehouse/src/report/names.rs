//! Names that a user typed and nobody knows, each with what it may have been meant for. Whether a name is known is asked of all days of
//! the roll-up: one that is merely not of the period gives an empty report, not a refusal. Failures, of which there may be years, are
//! only asked for one name, and within the period.

use clickhouse::Row;
use serde::Deserialize;

use super::rates::BY_IDENTITY;
use super::rows::PATIENCE;
use super::{Filters, Period};
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
struct Near {
    near: Vec<String>,
}

const WHAT: &str = "look up a name";

impl Warehouse {
    /// The names of a filter that nothing is known of. `isps` are known although nothing may be counted of them yet.
    pub async fn unknown_names(
        &self,
        filters: &Filters,
        period: Period,
        isps: &[String],
    ) -> Result<Vec<UnknownName>, WarehouseError> {
        let mut unknown = Vec::new();
        for (what, _, names) in filters.parameters() {
            for name in names {
                let known = (what == "isp" && isps.contains(name))
                    || self.is_counted(what, name).await?
                    || (what == "campaign" && self.has_failed(name, period).await?);
                if !known {
                    let near = self.near(what, name, isps).await?;
                    unknown.push(UnknownName { what, name: name.clone(), near });
                }
            }
        }
        Ok(unknown)
    }

    async fn is_counted(&self, what: &str, name: &str) -> Result<bool, WarehouseError> {
        let sql = format!("SELECT count() FROM (SELECT 1 FROM {BY_IDENTITY} WHERE {what} = {{name:String}} LIMIT 1)");
        let query = self.client().query_raw(&sql).param("name", name);
        Ok(self.timed_within(PATIENCE, WHAT, query.fetch_one::<u64>()).await? > 0)
    }

    /// Campaigns beyond those counted apart have their names in failures alone.
    async fn has_failed(&self, campaign: &str, period: Period) -> Result<bool, WarehouseError> {
        let sql = "SELECT count() FROM (
                SELECT 1 FROM failure_details
                WHERE campaign = {name:String} AND date BETWEEN {from:Date} AND {to:Date} LIMIT 1)";
        let query = self
            .client()
            .query_raw(sql)
            .param("name", campaign)
            .param("from", period.from().to_string())
            .param("to", period.to().to_string());
        Ok(self.timed_within(PATIENCE, WHAT, query.fetch_one::<u64>()).await? > 0)
    }

    async fn near(&self, what: &str, name: &str, isps: &[String]) -> Result<Vec<String>, WarehouseError> {
        let more = if what == "isp" { "UNION DISTINCT SELECT arrayJoin({isps:Array(String)}) AS name" } else { "" };
        // One letter in three may be wrong, or one is part of the other.
        let sql = format!(
            "WITH lowerUTF8(left({{name:String}}, 200)) AS asked
            SELECT arrayMap(pair -> pair.2, groupArraySortedIf(3)((far, name), name != '' AND (far * 3 <= lengthUTF8(asked)
                OR (lengthUTF8(asked) > 2 AND position(lowerUTF8(name), asked) > 0)))) AS near
            FROM (SELECT name, damerauLevenshteinDistance(lowerUTF8(left(name, 200)), asked) AS far FROM
                (SELECT DISTINCT toString({what}) AS name FROM {BY_IDENTITY} {more}))"
        );
        let query = self.client().query_raw(&sql).param("name", name).param("isps", isps);
        let Near { near } = self.timed_within(PATIENCE, WHAT, query.fetch_one()).await?;
        Ok(near)
    }
}
