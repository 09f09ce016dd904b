//! The shards of the tables: which one a Kafka partition's rows go to, and what holds for all of them together.
//!
//! **Invariant:** all rows of a range stand in one shard, the one its intent names. New ranges of a partition go to [`Shards::of`], said
//! nowhere else, so tokens, counts of ranges and halts are those of one server, and shards know nothing of each other.
//! **Invariant:** each shard remembers its number (`pipelines`), and answers to no other.

use std::sync::Arc;

use crate::block::Table;
use crate::client::{Settings, Warehouse};
use crate::error::WarehouseError;
use crate::migrations::Applied;
use crate::replicas::{Place, Replicas};
use crate::sharding::Sharding;

/// Every shard; often there is one.
pub struct Shards {
    all: Vec<Arc<Replicas>>,
    sharding: Option<Sharding>,
}

/// What of a shard is compared with the others.
struct Known<'a> {
    server: &'a Warehouse,
    kept: Vec<(String, u32)>,
    places: Vec<Place>,
}

impl Shards {
    /// Connects lazily: nothing is sent before the first call.
    pub fn new(settings: Settings) -> Result<Self, WarehouseError> {
        let mistakes = settings.mistakes();
        if !mistakes.is_empty() {
            return Err(WarehouseError::Settings(mistakes.join("; ")));
        }
        let (addresses, sharding) = (settings.shards(), settings.sharding.clone());
        let shard = |mut urls: Vec<String>| {
            let further = urls.split_off(1);
            let url = urls.concat();
            Replicas::new(Settings { url, further, sharding: None, ..settings.clone() }).map(Arc::new)
        };
        Ok(Self { all: addresses.into_iter().map(shard).collect::<Result<_, _>>()?, sharding })
    }

    /// The shard that takes what a Kafka partition of this number brings from now on.
    pub fn of(&self, partition: i32) -> u32 {
        shard_of(partition, self.all.len())
    }

    /// The replicas of a shard; none: it is not configured.
    pub fn get(&self, shard: u32) -> Option<&Arc<Replicas>> {
        self.all.get(shard as usize)
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Replicas> {
        self.all.iter().map(Arc::as_ref)
    }

    /// Whom to ask about the rows of all shards: a server that answers.
    pub async fn reader(&self) -> Result<Warehouse, WarehouseError> {
        let mut last = None;
        for shard in &self.all {
            match (shard.answering().await, &self.sharding) {
                (Ok(server), None) => return Ok(server.clone()),
                (Ok(server), Some(_)) => return Ok(server.over_all()),
                (Err(e), _) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| WarehouseError::Settings("no address".to_owned())))
    }

    /// Whether the sink may write: every shard is fit, and they are alike and apart.
    pub async fn check(&self) -> Result<(), WarehouseError> {
        for shard in &self.all {
            shard.check().await.map_err(|e| self.naming(shard, e))?;
        }
        if self.sharding.is_none() {
            return Ok(());
        }
        let mut known: Vec<Known<'_>> = Vec::new();
        for shard in &self.all {
            let server = shard.writable().await?;
            let (kept, places) = (server.kept().await?, server.places().await?);
            server.over_all().check_version().await.map_err(|e| self.naming(shard, e))?;
            for Known { server: other, kept: as_kept, places: there } in &known {
                let (one, other) = (other.url(), server.url());
                if kept != *as_kept {
                    return Err(WarehouseError::Shards(format!(
                        "{one} and {other} do not keep data for the same time ({as_kept:?}, {kept:?} days): run `bounceflow migrate`"
                    )));
                }
                if let Some(place) = places.iter().find(|place| there.contains(place)) {
                    return Err(WarehouseError::Shards(format!(
                        "{one} and {other} hold the same table {} ({}): they are replicas of one shard. List both in one url, or look at \
                         the macro {{shard}} of each server",
                        place.table, place.path
                    )));
                }
            }
            known.push(Known { server, kept, places });
        }
        Ok(())
    }

    /// Makes sure that this pipeline's rows come from the Kafka cluster `cluster` alone, `now` in milliseconds since the epoch, and that
    /// every shard stands where it stood before.
    pub async fn claim(&self, cluster: &str, now: i64) -> Result<(), WarehouseError> {
        let mut found = Vec::new();
        for shard in &self.all {
            let server = shard.writable().await?;
            found.push((server.url(), server.owner().await?.map(|owner| owner.shard)));
        }
        // Before any of them is given a number.
        if let Some(why) = misplaced(&found) {
            return Err(WarehouseError::Shards(why));
        }
        for (shard, number) in self.all.iter().zip(0..) {
            shard.writable().await?.claim(cluster, number, now).await.map_err(|e| self.naming(shard, e))?;
        }
        Ok(())
    }

    /// Brings every shard to this binary's schema, and what shows all of them.
    pub async fn migrate(&self, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Applied>, WarehouseError> {
        let mut applied = Vec::new();
        for (number, shard) in self.all.iter().enumerate() {
            if self.sharding.is_some() {
                progress(&format!("shard {number}, {}", shard.any().url()));
            }
            applied.extend(shard.migrate(progress).await.map_err(|e| self.naming(shard, e))?);
        }
        let Some(sharding) = &self.sharding else { return Ok(applied) };
        for shard in &self.all {
            for server in shard.servers() {
                progress(&format!("{} at {}", server.over_all().database(), server.url()));
                let shards = server.show_all(sharding).await.map_err(|e| self.naming(shard, e))?;
                if shards != self.all.len() as u64 {
                    return Err(WarehouseError::Shards(format!(
                        "cluster {} has {shards} shards at {}, and [[clickhouse.shards]] names {}: make remote_servers of each server \
                         name the same ones",
                        sharding.cluster,
                        server.url(),
                        self.all.len()
                    )));
                }
            }
        }
        Ok(applied)
    }

    /// The last offset of a topic partition that any shard holds rows of, or held; see [`Warehouse::last_offset`]. All are asked: there
    /// may have been fewer when it was stored.
    pub async fn last_offset(&self, table: Table, topic: &str, partition: i32) -> Result<Option<i64>, WarehouseError> {
        let mut last = None;
        for shard in &self.all {
            let server = shard.writable().await?;
            let found = server.last_offset(table, topic, partition).await;
            if found.as_ref().is_err_and(WarehouseError::may_pass) {
                shard.pass_by(server);
            }
            last = last.max(found.map_err(|e| self.naming(shard, e))?);
        }
        Ok(last)
    }

    fn naming(&self, shard: &Replicas, error: WarehouseError) -> WarehouseError {
        match error {
            WarehouseError::AtReplica { .. } | WarehouseError::Unreachable { .. } => error,
            _ if self.all.len() == 1 => error,
            _ => WarehouseError::AtReplica { url: shard.any().url().to_owned(), error: Box::new(error) },
        }
    }
}

fn shard_of(partition: i32, shards: usize) -> u32 {
    partition.unsigned_abs() % shards.max(1) as u32
}

/// Why shards do not stand in their order, and what the order is; each with the number it remembers.
fn misplaced(found: &[(&str, Option<u32>)]) -> Option<String> {
    let (at, (url, number)) =
        found.iter().enumerate().find_map(|(i, (url, number))| Some((i, (url, number.filter(|n| *n as usize != i)?))))?;
    if let Some((other, _)) = found.iter().find(|(other, there)| other != url && *there == Some(number)) {
        return Some(format!(
            "{url} and {other} both hold shard {number}: name each server once, replicas of one shard in one url"
        ));
    }
    let last = found.iter().filter_map(|(_, number)| *number).max().unwrap_or_default();
    let known = (0..=last).map(|n| {
        let here = found.iter().find(|(_, number)| *number == Some(n));
        here.map_or_else(|| format!("shard {n}, which is not configured now"), |(url, _)| (*url).to_owned())
    });
    let new = found.iter().filter(|(_, number)| number.is_none()).map(|(url, _)| (*url).to_owned());
    let order: Vec<String> = known.chain(new).collect();
    Some(format!(
        "{url} holds shard {number} and stands at clickhouse.shards[{at}]: what is inserted again would not be known there. Write \
         [[clickhouse.shards]] in this order: {}",
        order.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_one_shard() {
        let of = |shards| (0..6).map(|partition| shard_of(partition, shards)).collect::<Vec<_>>();
        assert_eq!(of(1), [0; 6]);
        assert_eq!(of(2), [0, 1, 0, 1, 0, 1]);
        assert_eq!(of(4), [0, 1, 2, 3, 0, 1]);
    }

    #[test]
    fn shards_that_changed_places_are_told_their_order() {
        let check = |found: &[(&str, Option<u32>)], expect: Option<&str>| {
            let why = misplaced(found);
            assert!(why.as_deref().unwrap_or("nothing").contains(expect.unwrap_or("nothing")), "{why:?}");
        };
        check(&[("a", None), ("b", None)], None);
        check(&[("a", Some(0)), ("b", None)], None);
        check(&[("b", Some(1)), ("a", Some(0))], Some("b holds shard 1 and stands at clickhouse.shards[0]"));
        check(&[("b", Some(1)), ("a", Some(0))], Some("in this order: a, b"));
        check(&[("c", None), ("a", Some(0))], Some("in this order: a, c"));
        check(&[("b", Some(1))], Some("in this order: shard 0, which is not configured now, b"));
        check(&[("a", Some(0)), ("A", Some(0))], Some("A and a both hold shard 0"));
    }
}
