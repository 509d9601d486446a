//! What is in RocksDB as readers see it: immutable generations.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::codec::histograms::{HistogramsDecoder, MAX_HISTOGRAM_CELLS, cells};
use crate::codec::values::ValuesDecoder;
use crate::error::StorageError;
use crate::histogram::Histogram;
use crate::meta::{Generation, ShardMeta};
use crate::metrics::Metrics;
use crate::rows::{self, CF_CHUNKS, Db, ReplicaKey, SlabKind};
use crate::slab::{SeriesKey, SlabReader};
use crate::tombstones::Mask;

/// Samples that the lookup cache holds at most.
const CACHE_SAMPLES_MAX: usize = 1 << 20;
/// Cells of histograms that it holds at most; more than any column has.
const CACHE_CELLS_MAX: usize = 64 * MAX_HISTOGRAM_CELLS;
/// Bytes of rows that it keeps beside.
const LOOKUP_BYTES_MAX: usize = 4 << 20;

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
    pub(crate) activity: Option<Arc<RowRange>>,
    /// Of the registered series that a flush has contained.
    pub(crate) metrics: Arc<Metrics>,
}

impl Flushed {
    pub(crate) fn nothing() -> Self {
        Self {
            meta: None,
            chunks: Vec::new(),
            labels: None,
            state: None,
            activity: None,
            metrics: Arc::default(),
        }
    }

    /// The view of a meta row; ranges that `previous` has too are shared with it.
    pub(crate) fn of(key: ReplicaKey, meta: ShardMeta, metrics: Arc<Metrics>, previous: &Self) -> Self {
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
        let activity = Some(share(activity_range(key, meta.epoch, meta.state_generation)));
        Self {
            meta: Some(meta),
            chunks,
            labels,
            state,
            activity,
            metrics,
        }
    }

    /// Where a series is sorted; `None` if nothing of it was ever flushed, or it is retired.
    pub(crate) fn series_key(&self, series: u64) -> Option<SeriesKey> {
        let metric = self.metrics.get(series)?;
        Some(SeriesKey { metric, series })
    }

    /// All ranges of rows.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &Arc<RowRange>> {
        let series = self.activity.iter().chain(&self.labels).chain(&self.state);
        self.chunks.iter().chain(series)
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

/// The slabs of one kind of a generation.
pub(crate) fn slab_range(key: ReplicaKey, generation: u64, kind: SlabKind) -> RowRange {
    let from = key.slabs(generation, kind);
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

pub(crate) fn activity_range(key: ReplicaKey, epoch: u64, generation: u64) -> RowRange {
    RowRange {
        cf: rows::CF_SERIES,
        from: key.activity(epoch, generation, i64::MIN),
        to: key.activity(epoch, generation, i64::MAX),
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

/// A decoded column: the one that a lookup of a series in a generation met last.
#[derive(Debug)]
struct Decoded {
    timestamps: Arc<[i64]>,
    values: Vec<f64>,
}

/// Keeps decoded columns between lookups, so that resending a large batch decodes each once.
#[derive(Debug, Default)]
pub(crate) struct LookupCache {
    reader: Option<SlabReader>,
    decoder: ValuesDecoder,
    decoded: HashMap<(u64, u64), Decoded>,
    samples: usize,
    histograms: HashMap<(u64, u64), DecodedHistograms>,
    cells: usize,
}

/// The same of histograms.
#[derive(Debug)]
struct DecodedHistograms {
    timestamps: Arc<[i64]>,
    histograms: Vec<Arc<Histogram>>,
}

impl LookupCache {
    fn clear(&mut self) {
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
        let Some(series) = flushed.series_key(series) else {
            return Ok(None);
        };
        for generation in flushed.generations().iter().rev() {
            let outside = timestamp_ms < generation.min_ms || timestamp_ms > generation.max_ms;
            if outside || mask.hides(generation.number, timestamp_ms) {
                continue;
            }
            let place = (generation.number, series.series);
            let hit = self
                .decoded
                .get(&place)
                .filter(|column| column.covers(timestamp_ms));
            let found = match hit {
                Some(column) => column.get(timestamp_ms),
                None => self.load(db, key, generation, series, timestamp_ms)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn load(
        &mut self,
        db: &Db,
        key: ReplicaKey,
        generation: &Generation,
        series: SeriesKey,
        timestamp_ms: i64,
    ) -> Result<Option<u64>, StorageError> {
        let reader = self
            .reader
            .get_or_insert_with(|| SlabReader::new(key, LOOKUP_BYTES_MAX, true));
        let decoder = &mut self.decoder;
        let mut loaded = None;
        reader.visit(
            db,
            (generation, SlabKind::Values),
            series,
            timestamp_ms..=timestamp_ms,
            |timestamps, bytes| {
                let mut values = Vec::with_capacity(timestamps.len());
                decoder
                    .decode(bytes, timestamps.len(), &mut values)
                    .map_err(|error| {
                        let what = format!("a column of series {}", series.series);
                        StorageError::corrupt(key.shard, what, &error.to_string())
                    })?;
                let timestamps = timestamps.clone();
                loaded = Some(Decoded { timestamps, values });
                Ok(())
            },
        )?;
        let Some(column) = loaded else { return Ok(None) };
        let found = column.get(timestamp_ms);
        if self.samples + column.values.len() > CACHE_SAMPLES_MAX {
            self.clear();
        }
        self.samples += column.values.len();
        if let Some(old) = self.decoded.insert((generation.number, series.series), column) {
            self.samples -= old.values.len();
        }
        Ok(found)
    }
}

impl LookupCache {
    /// The native histogram of a series at a timestamp in any flushed generation that does not hide it.
    pub(crate) fn lookup_histogram(
        &mut self,
        db: &Db,
        key: ReplicaKey,
        flushed: &Flushed,
        mask: &Mask,
        series: u64,
        timestamp_ms: i64,
    ) -> Result<Option<Arc<Histogram>>, StorageError> {
        let Some(series) = flushed.series_key(series) else {
            return Ok(None);
        };
        for generation in flushed.generations().iter().rev() {
            let outside = timestamp_ms < generation.min_ms || timestamp_ms > generation.max_ms;
            if outside || generation.histogram_slabs == 0 || mask.hides(generation.number, timestamp_ms) {
                continue;
            }
            let place = (generation.number, series.series);
            if !self
                .histograms
                .get(&place)
                .is_some_and(|column| covers(&column.timestamps, timestamp_ms))
            {
                self.load_histograms(db, key, generation, series, timestamp_ms)?;
            }
            let column = self.histograms.get(&place);
            let found = column.and_then(|column| {
                let at = column.timestamps.binary_search(&timestamp_ms).ok()?;
                column.histograms.get(at).cloned()
            });
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn load_histograms(
        &mut self,
        db: &Db,
        key: ReplicaKey,
        generation: &Generation,
        series: SeriesKey,
        timestamp_ms: i64,
    ) -> Result<(), StorageError> {
        let reader = self
            .reader
            .get_or_insert_with(|| SlabReader::new(key, LOOKUP_BYTES_MAX, true));
        let mut loaded = None;
        reader.visit(
            db,
            (generation, SlabKind::Histograms),
            series,
            timestamp_ms..=timestamp_ms,
            |timestamps, bytes| {
                let mut histograms = Vec::with_capacity(timestamps.len());
                HistogramsDecoder::default()
                    .decode(bytes, timestamps.len(), &mut histograms)
                    .map_err(|error| {
                        let what = format!("a column of series {}", series.series);
                        StorageError::corrupt(key.shard, what, &error.to_string())
                    })?;
                let timestamps = timestamps.clone();
                loaded = Some(DecodedHistograms {
                    timestamps,
                    histograms,
                });
                Ok(())
            },
        )?;
        let Some(column) = loaded else { return Ok(()) };
        let cells = column
            .histograms
            .iter()
            .map(|histogram| cells(histogram))
            .sum::<usize>();
        if self.cells + cells > CACHE_CELLS_MAX {
            self.histograms.clear();
            self.cells = 0;
        }
        self.cells += cells;
        self.histograms.insert((generation.number, series.series), column);
        Ok(())
    }
}

fn covers(timestamps: &[i64], timestamp_ms: i64) -> bool {
    let (first, last) = (timestamps.first(), timestamps.last());
    first.is_some_and(|first| *first <= timestamp_ms) && last.is_some_and(|last| timestamp_ms <= *last)
}

impl Decoded {
    fn covers(&self, timestamp_ms: i64) -> bool {
        covers(&self.timestamps, timestamp_ms)
    }

    fn get(&self, timestamp_ms: i64) -> Option<u64> {
        let at = self.timestamps.binary_search(&timestamp_ms).ok()?;
        self.values.get(at).map(|value| value.to_bits())
    }
}
