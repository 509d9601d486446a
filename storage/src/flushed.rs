//! Reading what is in RocksDB: immutable generations of chunk rows.

use std::sync::Arc;

use hashbrown::HashMap;
use rocksdb::{DBRawIteratorWithThreadMode, ReadOptions};

use crate::chunk;
use crate::error::StorageError;
use crate::meta::{Generation, ShardMeta};
use crate::rows::{self, CF_CHUNKS, Db, ReplicaKey, parse_chunk_key};
use crate::tombstones::Mask;

/// Samples that the lookup cache holds at most.
const CACHE_SAMPLES_MAX: usize = 1 << 20;

/// A range of rows that is deleted once nobody refers to it any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RowRange {
    pub(crate) cf: &'static str,
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
}

/// The durable state as readers see it; holding it pins its rows.
#[derive(Clone, Debug)]
pub(crate) struct Flushed {
    pub(crate) meta: Option<ShardMeta>,
    /// Parallel to `meta.generations`.
    pub(crate) chunks: Vec<Arc<RowRange>>,
    pub(crate) labels: Option<Arc<RowRange>>,
    pub(crate) state: Option<Arc<RowRange>>,
}

impl Flushed {
    pub(crate) fn nothing() -> Self {
        Self {
            meta: None,
            chunks: Vec::new(),
            labels: None,
            state: None,
        }
    }

    /// The view of a meta row; ranges that `previous` has too are shared with it.
    pub(crate) fn of(key: ReplicaKey, meta: ShardMeta, previous: &Self) -> Self {
        let share = |range: RowRange| {
            previous
                .ranges()
                .find(|old| ***old == range)
                .cloned()
                .unwrap_or_else(|| Arc::new(range))
        };
        let chunks = meta
            .generations
            .iter()
            .map(|g| share(chunk_range(key, g.number)))
            .collect();
        let labels = Some(share(label_range(key, meta.epoch)));
        let state = Some(share(state_range(key, meta.epoch, meta.state_generation)));
        Self {
            meta: Some(meta),
            chunks,
            labels,
            state,
        }
    }

    /// All ranges of rows.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &Arc<RowRange>> {
        self.chunks.iter().chain(&self.labels).chain(&self.state)
    }

    pub(crate) fn generations(&self) -> &[Generation] {
        self.meta.as_ref().map_or(&[], |meta| &meta.generations)
    }
}

pub(crate) fn chunk_range(key: ReplicaKey, generation: u64) -> RowRange {
    let from = key.generation(generation);
    RowRange {
        cf: CF_CHUNKS,
        to: rows::successor(from.clone()),
        from,
    }
}

pub(crate) fn label_range(key: ReplicaKey, epoch: u64) -> RowRange {
    RowRange {
        cf: rows::CF_SERIES,
        from: key.labels(epoch, 0),
        to: key.labels(epoch, u64::MAX),
    }
}

pub(crate) fn state_range(key: ReplicaKey, epoch: u64, generation: u64) -> RowRange {
    RowRange {
        cf: rows::CF_SERIES,
        from: key.state(epoch, generation, 0),
        to: key.state(epoch, generation, u64::MAX),
    }
}

/// Reads chunk rows of one replica.
pub(crate) struct ChunkReader<'db> {
    key: ReplicaKey,
    rows: DBRawIteratorWithThreadMode<'db, Db>,
}

impl<'db> ChunkReader<'db> {
    pub(crate) fn new(db: &'db Db, key: ReplicaKey, fill_cache: bool) -> Result<Self, StorageError> {
        let cf = cf(db, key.shard, CF_CHUNKS)?;
        let mut options = ReadOptions::default();
        options.fill_cache(fill_cache);
        Ok(Self {
            key,
            rows: db.raw_iterator_cf_opt(&cf, options),
        })
    }

    /// Calls `visit` with the bytes of each chunk of the series in this generation that may overlap
    /// the inclusive window, in time order.
    pub(crate) fn visit(
        &mut self,
        generation: &Generation,
        series: u64,
        start_ms: i64,
        end_ms: i64,
        mut visit: impl FnMut(i64, &[u8]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        if generation.min_ms > end_ms || generation.max_ms < start_ms {
            return Ok(());
        }
        // The chunk that covers the start begins at or before it.
        let target = self.key.chunk(generation.number, series, start_ms);
        let of_series = &target[..target.len() - 8];
        self.rows.seek_for_prev(&target);
        if !self.rows.key().is_some_and(|key| key.starts_with(of_series)) {
            self.rows
                .status()
                .map_err(StorageError::rocks(self.key.shard, "reading chunks"))?;
            self.rows.seek(&target);
        }
        while let Some((key, value)) = self.rows.item() {
            if !key.starts_with(of_series) {
                break;
            }
            let (_, first_ms) = parse_chunk_key(key).ok_or_else(|| {
                StorageError::corrupt(self.key.shard, "a chunk row", "its key is malformed")
            })?;
            if first_ms > end_ms {
                break;
            }
            visit(first_ms, value)?;
            self.rows.next();
        }
        self.rows
            .status()
            .map_err(StorageError::rocks(self.key.shard, "reading chunks"))
    }
}

pub(crate) fn cf<'db>(
    db: &'db Db,
    shard: u32,
    name: &'static str,
) -> Result<Arc<rocksdb::BoundColumnFamily<'db>>, StorageError> {
    db.cf_handle(name).ok_or_else(|| {
        StorageError::misuse(
            shard,
            format!("column family {name} is missing; open the database with column_families()"),
        )
    })
}

/// A decoded chunk: the one that a lookup of a series in a generation met last.
#[derive(Debug)]
struct Decoded {
    first_ms: i64,
    samples: Vec<(i64, u64)>,
}

/// Keeps decoded chunks between lookups, so that resending a large batch decodes each chunk once.
#[derive(Debug, Default)]
pub(crate) struct LookupCache {
    decoded: HashMap<(u64, u64), Decoded>,
    samples: usize,
}

impl LookupCache {
    pub(crate) fn clear(&mut self) {
        self.decoded.clear();
        self.samples = 0;
    }

    /// The value bits of a series at a timestamp in any flushed generation that does not hide it.
    pub(crate) fn lookup(
        &mut self,
        db: &Db,
        key: ReplicaKey,
        flushed: &Flushed,
        mask: &Mask,
        series: u64,
        timestamp_ms: i64,
    ) -> Result<Option<u64>, StorageError> {
        let mut reader = None;
        for generation in flushed.generations().iter().rev() {
            let outside = timestamp_ms < generation.min_ms || timestamp_ms > generation.max_ms;
            if outside || mask.hides(generation.number, timestamp_ms) {
                continue;
            }
            let place = (generation.number, series);
            let hit = self
                .decoded
                .get(&place)
                .filter(|chunk| chunk.covers(timestamp_ms));
            let found = match hit {
                Some(chunk) => chunk.get(timestamp_ms),
                None => {
                    let reader = match &mut reader {
                        Some(reader) => reader,
                        none => none.insert(ChunkReader::new(db, key, true)?),
                    };
                    self.load(reader, generation, series, timestamp_ms)?
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn load(
        &mut self,
        reader: &mut ChunkReader<'_>,
        generation: &Generation,
        series: u64,
        timestamp_ms: i64,
    ) -> Result<Option<u64>, StorageError> {
        let shard = reader.key.shard;
        let place = (generation.number, series);
        let known_first = self.decoded.get(&place).map(|chunk| chunk.first_ms);
        let mut loaded = None;
        reader.visit(
            generation,
            series,
            timestamp_ms,
            timestamp_ms,
            |first_ms, bytes| {
                if known_first == Some(first_ms) {
                    return Ok(());
                }
                let mut samples = Vec::with_capacity(chunk::SAMPLES_MAX);
                chunk::decode(bytes, |t, v| {
                    samples.push((t, v));
                    true
                })
                .map_err(StorageError::chunk(shard, series))?;
                loaded = Some(Decoded { first_ms, samples });
                Ok(())
            },
        )?;
        let Some(chunk) = loaded else { return Ok(None) };
        let found = chunk.get(timestamp_ms);
        if self.samples + chunk.samples.len() > CACHE_SAMPLES_MAX {
            self.clear();
        }
        self.samples += chunk.samples.len();
        if let Some(old) = self.decoded.insert(place, chunk) {
            self.samples -= old.samples.len();
        }
        Ok(found)
    }
}

impl Decoded {
    fn covers(&self, timestamp_ms: i64) -> bool {
        self.first_ms <= timestamp_ms && self.samples.last().is_some_and(|last| timestamp_ms <= last.0)
    }

    fn get(&self, timestamp_ms: i64) -> Option<u64> {
        let at = self.samples.binary_search_by_key(&timestamp_ms, |s| s.0).ok()?;
        Some(self.samples[at].1)
    }
}
