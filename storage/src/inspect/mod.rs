//! Looking at a database without opening its shards: nothing is repaired, deleted or replayed.

mod dump;
mod entry;
mod generation;
mod verify;

use std::ops::ControlFlow;

use roaring::RoaringBitmap;

use crate::error::StorageError;
use crate::flushed::RowRange;
use crate::flushed::cf;
use crate::meta::ShardMeta;
use crate::recover::scan_while;
use crate::rows::{CF_CHUNKS, CF_SERIES, CF_SHARD_META, Db, ReplicaKey};

pub use dump::{DumpedSeries, dump};
pub use entry::{EntrySummary, describe_entry};
pub use verify::{ReplicaReport, verify};

/// A replica that has rows, and what its meta row says.
#[derive(Clone, Debug)]
pub struct StoredReplica {
    /// The shard.
    pub shard: u32,
    /// The replica.
    pub replica: u64,
    pub(crate) meta: Option<ShardMeta>,
}

/// What is known of a generation from the meta row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredGeneration {
    /// Its number.
    pub number: u64,
    /// 0 flushed, 1 merged, 2 merged with all of its bucket.
    pub level: u8,
    /// Earliest sample, Unix milliseconds.
    pub min_ms: i64,
    /// Latest sample.
    pub max_ms: i64,
    /// Value columns.
    pub columns: u64,
    /// Samples, deleted ones included.
    pub samples: u64,
    /// Bytes before compression by blocks.
    pub bytes: u64,
}

impl StoredReplica {
    pub(crate) fn key(&self) -> ReplicaKey {
        ReplicaKey {
            shard: self.shard,
            replica: self.replica,
        }
    }

    /// Term and index of the last entry contained; `None` if nothing was ever flushed.
    pub fn position(&self) -> Option<(u64, u64)> {
        let meta = self.meta.as_ref()?;
        Some((meta.position.term, meta.position.index))
    }

    /// Registered series, without those that are retired.
    pub fn series(&self) -> u64 {
        self.meta.as_ref().map_or(0, |meta| meta.series)
    }

    /// Samples before it are gone, Unix milliseconds.
    pub fn cut_ms(&self) -> Option<i64> {
        self.meta.as_ref().map(|meta| meta.clock.cut_ms)
    }

    /// Deletions that hide samples.
    pub fn tombstones(&self) -> usize {
        self.meta.as_ref().map_or(0, |meta| meta.tombstones.len())
    }

    /// Live generations.
    pub fn generations(&self) -> Vec<StoredGeneration> {
        let generations = self.meta.iter().flat_map(|meta| &meta.generations);
        let stored = generations.map(|g| StoredGeneration {
            number: g.number,
            level: g.level as u8,
            min_ms: g.min_ms,
            max_ms: g.max_ms,
            columns: g.columns,
            samples: g.samples,
            bytes: g.bytes,
        });
        stored.collect()
    }
}

/// Every replica of which there is any row, in order of shard and replica.
pub fn replicas(db: &Db) -> Result<Vec<StoredReplica>, StorageError> {
    let mut found = Vec::new();
    for family in [CF_SHARD_META, CF_CHUNKS, CF_SERIES] {
        let handle = cf(db, 0, family)?;
        let mut rows = db.raw_iterator_cf(&handle);
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            let malformed = || StorageError::corrupt(0, format!("a row of {family}"), "its key is malformed");
            let (shard, rest) = key.split_first_chunk::<4>().ok_or_else(malformed)?;
            let replica = rest.first_chunk::<8>().ok_or_else(malformed)?;
            let key = ReplicaKey {
                shard: u32::from_be_bytes(*shard),
                replica: u64::from_be_bytes(*replica),
            };
            found.push(key);
            rows.seek(key.end());
        }
        rows.status()
            .map_err(StorageError::rocks(0, "listing replicas"))?;
    }
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|key| stored(db, key)).collect()
}

fn stored(db: &Db, key: ReplicaKey) -> Result<StoredReplica, StorageError> {
    let handle = cf(db, key.shard, CF_SHARD_META)?;
    let row = db
        .get_cf(&handle, key.prefix())
        .map_err(StorageError::rocks(key.shard, "reading the meta row"))?;
    let meta = row.map(|row| ShardMeta::decode(&row)).transpose();
    Ok(StoredReplica {
        shard: key.shard,
        replica: key.replica,
        meta: meta.map_err(|detail| StorageError::corrupt(key.shard, "the meta row", detail))?,
    })
}

/// Tenant and labels of every series of a replica that is `live`, by id, until `visit` breaks off.
fn labels_rows(
    db: &Db,
    replica: &StoredReplica,
    live: &RoaringBitmap,
    mut visit: impl FnMut(u64, &str, crate::Labels) -> Result<ControlFlow<()>, StorageError>,
) -> Result<(), StorageError> {
    let Some(meta) = &replica.meta else { return Ok(()) };
    let key = replica.key();
    let range = RowRange {
        cf: CF_SERIES,
        from: key.labels(meta.epoch, 0),
        to: key.labels(meta.epoch, meta.next_id),
    };
    scan_while(db, key.shard, &range, |row_key, value| {
        let id = crate::rows::trailing_u64(row_key).unwrap_or(0);
        if !u32::try_from(id).is_ok_and(|id| live.contains(id)) {
            return Ok(ControlFlow::Continue(()));
        }
        let (tenant, labels) = crate::series_rows::decode_labels_row(value).map_err(|detail| {
            StorageError::corrupt(key.shard, format!("the label row of series {id}"), detail)
        })?;
        visit(id, tenant, labels)
    })
}
