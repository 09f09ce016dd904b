//! With whose rights the views read: those of the user that migrates, so that a reader needs no right to any table behind them.
//!
//! Not a migration: the user has no name that a file could know, changes over the years, and `CREATE OR REPLACE VIEW` forgets it.
//! So every run of `migrate` looks, and names the user in full: `CURRENT_USER` would be nobody where `ON CLUSTER` is carried out.

use std::collections::BTreeSet;

use clickhouse::Row;
use serde::Deserialize;

use crate::check::quote;
use crate::client::Warehouse;
use crate::error::WarehouseError;
use crate::migrations::{MIGRATIONS, statements};
use crate::replication::{Replication, created};
use crate::sharding::{THRESHOLDS, is_shown};

#[derive(Row, Deserialize)]
struct View {
    name: String,
    create_table_query: String,
}

impl Warehouse {
    /// Makes the views of the migrations read with the rights of this user, where they do not yet. Those of others stay as they are: with
    /// these rights, one would show its readers what nobody let them read.
    pub(crate) async fn define_views(&self) -> Result<(), WarehouseError> {
        let user: String = self.timed("say who asks", self.client().query_raw("SELECT currentUser()").fetch_one()).await?;
        let defined = defined_by(&user);
        let views = self.client().query_raw(
            "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() AND engine = 'View' ORDER BY name",
        );
        let mut views = self.timed("list views", views.fetch_all::<View>()).await?;
        let ours = ours();
        views.retain(|view| ours.contains(&*view.name) && !view.create_table_query.contains(&defined));
        for View { name, .. } in views {
            let statement = format!("ALTER TABLE {} MODIFY SQL SECURITY DEFINER DEFINER = {}", quote(&name), quoted(&user));
            let statement = self.replicated(&statement, Replication::on_cluster)?;
            self.timed("give a view its rights", self.client().query_raw(&statement).execute()).await?;
        }
        Ok(())
    }
}

/// Names of the views that the migrations create, and of the table that is one over all shards.
fn ours() -> BTreeSet<&'static str> {
    let views = MIGRATIONS.iter().flat_map(|m| statements(m.sql)).filter(|statement| is_shown(statement)).filter_map(created);
    views.chain([THRESHOLDS]).collect()
}

/// Also where it need not be.
fn quoted(user: &str) -> String {
    format!("`{}`", user.replace('\\', "\\\\").replace('`', "\\`"))
}

/// How the server says it in the definition of a view.
fn defined_by(user: &str) -> String {
    format!(" DEFINER = {} SQL SECURITY DEFINER ", quote(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_that_people_read_are_ours_and_what_fills_tables_is_not() {
        let ours = ours();
        for name in ["failure_details", "isp_profiles", "isp_profiles_this_week", "alert_history", "reporting_day", "thresholds"]
        {
            assert!(ours.contains(name), "{name}: {ours:?}");
        }
        assert!(!ours.iter().any(|name| name.ends_with("_mv") || *name == "failures"), "{ours:?}");
    }
}
