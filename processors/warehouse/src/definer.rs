//! With whose rights the views read: those of the user that migrates, so that a reader needs no right to any table behind them.
//!
//! Not a migration: the user has no name that a file could know, changes over the years, and `CREATE OR REPLACE VIEW` forgets it.
//! So every run of `migrate` looks, and names the user in full: `CURRENT_USER` would be nobody where `ON CLUSTER` is carried out.

use clickhouse::Row;
use serde::Deserialize;

use crate::check::quote;
use crate::client::Warehouse;
use crate::error::WarehouseError;
use crate::replication::Replication;

#[derive(Row, Deserialize)]
struct View {
    name: String,
    create_table_query: String,
}

impl Warehouse {
    /// Makes the views read with the rights of this user, where they do not yet.
    pub(crate) async fn define_views(&self) -> Result<(), WarehouseError> {
        let user: String = self.timed("say who asks", self.client().query_raw("SELECT currentUser()").fetch_one()).await?;
        let defined = defined_by(&user);
        let views = self.client().query_raw(
            "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() AND engine = 'View' ORDER BY name",
        );
        let mut views = self.timed("list views", views.fetch_all::<View>()).await?;
        views.retain(|view| !view.create_table_query.contains(&defined));
        for View { name, .. } in views {
            let statement = format!("ALTER TABLE {} MODIFY SQL SECURITY DEFINER DEFINER = {}", quote(&name), quoted(&user));
            let statement = self.replicated(&statement, Replication::on_cluster)?;
            self.timed("give a view its rights", self.client().query_raw(&statement).execute()).await?;
        }
        Ok(())
    }
}

/// Also where it need not be.
fn quoted(user: &str) -> String {
    format!("`{}`", user.replace('\\', "\\\\").replace('`', "\\`"))
}

/// How the server says it in the definition of a view.
fn defined_by(user: &str) -> String {
    format!(" DEFINER = {} SQL SECURITY DEFINER ", quote(user))
}
