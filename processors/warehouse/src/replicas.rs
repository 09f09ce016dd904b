//! The servers that hold the same tables, and which of them is spoken to.
//!
//! **Invariant:** only servers that hold the same replicated tables stand in for each other: a token one remembers is known to all of
//! them, because it is kept in ClickHouse Keeper. Two servers without that would each store a repeat.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use clickhouse::Row;
use serde::Deserialize;

use crate::client::{Settings, Warehouse};
use crate::error::WarehouseError;
use crate::migrations::Applied;

/// Every replica of one shard; often it is the only one.
pub struct Replicas {
    all: Vec<Replica>,
    current: AtomicUsize,
}

struct Replica {
    warehouse: Warehouse,
    /// Whether its tables were found fit to be written to.
    checked: AtomicBool,
}

#[derive(Row, Deserialize, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) table: String,
    pub(crate) path: String,
}

impl Replicas {
    /// Connects lazily: nothing is sent before the first call.
    pub fn new(settings: Settings) -> Result<Self, WarehouseError> {
        let mistakes = settings.mistakes();
        if !mistakes.is_empty() {
            return Err(WarehouseError::Settings(mistakes.join("; ")));
        }
        let urls = [&settings.url].into_iter().chain(&settings.further);
        let replica = |url: &String| {
            let warehouse = Warehouse::new(Settings { url: url.clone(), further: Vec::new(), ..settings.clone() })?;
            Ok(Replica { warehouse, checked: AtomicBool::new(false) })
        };
        Ok(Self { all: urls.map(replica).collect::<Result<_, WarehouseError>>()?, current: AtomicUsize::new(0) })
    }

    /// All of them.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Warehouse> {
        self.all.iter().map(|replica| &replica.warehouse)
    }

    /// The replica spoken to now, whether or not it answers.
    pub fn any(&self) -> &Warehouse {
        &self.all[self.current.load(Ordering::Relaxed) % self.all.len()].warehouse
    }

    /// The replica to write to. One that was not there when the others were checked is checked now.
    pub async fn writable(&self) -> Result<&Warehouse, WarehouseError> {
        let replica = &self.all[self.current.load(Ordering::Relaxed) % self.all.len()];
        if !replica.checked.load(Ordering::Relaxed) {
            if let Err(e) = self.fit(&replica.warehouse).await {
                self.pass_by(&replica.warehouse);
                return Err(self.naming(&replica.warehouse, e));
            }
            replica.checked.store(true, Ordering::Relaxed);
        }
        Ok(&replica.warehouse)
    }

    /// Turns to the next replica, unless somebody has turned away from `from` already.
    pub fn pass_by(&self, from: &Warehouse) {
        let at = |i: usize| &self.all[i % self.all.len()].warehouse.settings.url;
        let current = self.current.load(Ordering::Relaxed);
        if *at(current) == from.settings.url {
            let _ = self.current.compare_exchange(current, current + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The first replica that answers; the error of the last one where none does.
    pub async fn answering(&self) -> Result<&Warehouse, WarehouseError> {
        let mut last = None;
        for replica in &self.all {
            match replica.warehouse.ping().await {
                Err(e @ WarehouseError::Unreachable { .. }) => last = Some(e),
                answer => return answer.map(|()| &replica.warehouse),
            }
        }
        Err(last.unwrap_or_else(|| WarehouseError::Settings("no address".to_owned())))
    }

    /// Whether the sink may write: at least one replica answers, and every one that does is fit.
    pub async fn check(&self) -> Result<(), WarehouseError> {
        let mut unreachable = None;
        let mut fit = None;
        for (i, replica) in self.all.iter().enumerate() {
            match self.fit(&replica.warehouse).await {
                Ok(()) => {
                    replica.checked.store(true, Ordering::Relaxed);
                    fit.get_or_insert(i);
                }
                Err(e @ WarehouseError::Unreachable { .. }) => unreachable = Some(e),
                Err(e) => return Err(self.naming(&replica.warehouse, e)),
            }
        }
        match (fit, unreachable) {
            (Some(i), _) => {
                self.current.store(i, Ordering::Relaxed);
                Ok(())
            }
            (None, Some(e)) => Err(e),
            (None, None) => Err(WarehouseError::Settings("no address".to_owned())),
        }
    }

    /// Brings every replica to this binary's schema; with `ON CLUSTER` one of them has all of them do it, once each has what was made
    /// before it came.
    pub async fn migrate(&self, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Applied>, WarehouseError> {
        let mut versions = Vec::new();
        for replica in &self.all {
            let (version, missing) = replica.warehouse.version().await.map_err(|e| self.naming(&replica.warehouse, e))?;
            versions.push((version, Reverse(missing)));
        }
        // The one that is ahead knows what the tables are now; one that joins late takes them over from it.
        let newest = versions.iter().max();
        let lead = versions.iter().position(|version| Some(version) == newest).unwrap_or_default();
        let lead = &self.all[lead];
        let others = self.all.iter().filter(|replica| !std::ptr::eq(*replica, lead));
        if lead.warehouse.settings.replication.as_ref().is_some_and(|r| r.cluster.is_some()) {
            let of_lead = |e| self.naming(&lead.warehouse, e);
            let recorded = lead.warehouse.prepare().await.map_err(of_lead)?;
            lead.warehouse.check_whole(&recorded).await.map_err(of_lead)?;
            for Replica { warehouse, .. } in others {
                warehouse.join(&lead.warehouse, &recorded, progress).await.map_err(|e| self.naming(warehouse, e))?;
            }
            return lead.warehouse.migrate(progress).await.map_err(of_lead);
        }
        if self.all.len() > 1 {
            progress(&format!("at {}", lead.warehouse.settings.url));
        }
        let mut applied = lead.warehouse.migrate(progress).await.map_err(|e| self.naming(&lead.warehouse, e))?;
        for Replica { warehouse, .. } in others {
            progress(&format!("at {}", warehouse.settings.url));
            applied.extend(warehouse.apply(Some(&lead.warehouse), progress).await.map_err(|e| self.naming(warehouse, e))?);
        }
        Ok(applied)
    }

    /// Whether a replica's tables are as they must be, and the same as those of the replicas already checked.
    async fn fit(&self, one: &Warehouse) -> Result<(), WarehouseError> {
        one.check().await?;
        let known = self.all.iter().filter(|r| r.checked.load(Ordering::Relaxed) && r.warehouse.settings.url != one.settings.url);
        for other in known {
            // One that has gone again cannot be asked; it was compared with the others when it was checked.
            let Ok(there) = other.warehouse.places().await else { continue };
            if let Some(place) = one.places().await?.iter().find(|place| !there.contains(place)) {
                return Err(WarehouseError::OtherTables {
                    one: one.settings.url.clone(),
                    other: other.warehouse.settings.url.clone(),
                    table: place.table.clone(),
                    path: place.path.clone(),
                });
            }
        }
        Ok(())
    }

    fn naming(&self, replica: &Warehouse, error: WarehouseError) -> WarehouseError {
        if self.all.len() == 1 {
            return error;
        }
        WarehouseError::AtReplica { url: replica.settings.url.clone(), error: Box::new(error) }
    }
}

impl Warehouse {
    /// Where the replicated tables of the database are registered.
    pub(crate) async fn places(&self) -> Result<Vec<Place>, WarehouseError> {
        let query = self.client().query_raw(
            "SELECT table, concat(zookeeper_name, ':', zookeeper_path) AS path FROM system.replicas WHERE database = currentDatabase()
            AND table != 'schema_migrations' ORDER BY table",
        );
        self.timed("read system.replicas", query.fetch_all::<Place>()).await
    }
}
