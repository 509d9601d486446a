//! Reading series of a generation through a cache of rows.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use rocksdb::{DBRawIteratorWithThreadMode, ReadOptions};

use super::block::Slab;
use super::cache::TimesCache;
use crate::codec::histograms::HistogramsDecoder;
use crate::codec::values::ValuesDecoder;
use crate::columns::SampleColumns;
use crate::error::StorageError;
use crate::flushed::cf;
use crate::histogram_chunk::HistogramSample;
use crate::meta::Generation;
use crate::rows::{CF_CHUNKS, Db, ReplicaKey, SlabKey, SlabKind, parse_slab_key};
use crate::tombstones::Mask;

/// A series and where it is sorted on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeriesKey {
    pub(crate) metric: u32,
    pub(crate) series: u64,
}

/// Samples to read: an inclusive window, without what is deleted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    pub(crate) mask: &'a Mask,
}

/// Reads the series of one replica. It keeps the rows it read last, since series that are read one
/// after another mostly share slabs and timestamps.
#[derive(Debug)]
pub(crate) struct SlabReader {
    key: ReplicaKey,
    fill_cache: bool,
    /// Bytes that may be kept.
    budget: usize,
    kept: usize,
    slabs: BTreeMap<Vec<u8>, Arc<Slab>>,
    times: TimesCache,
    decoder: ValuesDecoder,
}

impl SlabReader {
    /// `fill_cache` says whether rows go to the block cache of the database.
    pub(crate) fn new(key: ReplicaKey, budget: usize, fill_cache: bool) -> Self {
        Self {
            key,
            fill_cache,
            budget,
            kept: 0,
            slabs: BTreeMap::new(),
            times: TimesCache::new(key, budget / 2),
            decoder: ValuesDecoder::new(),
        }
    }

    /// Appends the floats of a series in a generation.
    pub(crate) fn read(
        &mut self,
        db: &Db,
        generation: &Generation,
        series: SeriesKey,
        window: Window<'_>,
        out: &mut SampleColumns,
    ) -> Result<(), StorageError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let shard = self.key.shard;
        let result = self.visit(
            db,
            (generation, SlabKind::Values),
            series,
            window.start_ms..=window.end_ms,
            |times, bytes| {
                append(&mut decoder, times, bytes, generation.number, window, out)
                    .map_err(|detail| corrupt_series(shard, series.series, detail))
            },
        );
        self.decoder = decoder;
        result
    }

    /// Appends the native histograms of a series in a generation.
    pub(crate) fn read_histograms(
        &mut self,
        db: &Db,
        generation: &Generation,
        series: SeriesKey,
        window: Window<'_>,
        out: &mut Vec<HistogramSample>,
    ) -> Result<(), StorageError> {
        let mut decoder = HistogramsDecoder::default();
        let mut histograms = Vec::new();
        let shard = self.key.shard;
        self.visit(
            db,
            (generation, SlabKind::Histograms),
            series,
            window.start_ms..=window.end_ms,
            |times, bytes| {
                histograms.clear();
                decoder
                    .decode(bytes, times.len(), &mut histograms)
                    .map_err(|error| corrupt_series(shard, series.series, error.to_string()))?;
                let read = times.iter().copied().zip(histograms.drain(..));
                out.extend(read.filter(|(t, _)| {
                    (window.start_ms..=window.end_ms).contains(t) && !window.mask.hides(generation.number, *t)
                }));
                Ok(())
            },
        )
    }

    /// Calls `visit` with timestamps and encoded column of each column of a series in a generation that
    /// overlaps the window of time, in order of time.
    pub(crate) fn visit(
        &mut self,
        db: &Db,
        (generation, kind): (&Generation, SlabKind),
        series: SeriesKey,
        window_ms: RangeInclusive<i64>,
        mut visit: impl FnMut(&Arc<[i64]>, &[u8]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let (start_ms, end_ms) = (*window_ms.start(), *window_ms.end());
        if kind == SlabKind::Histograms && generation.histogram_slabs == 0 {
            return Ok(());
        }
        if generation.min_ms > end_ms || generation.max_ms < start_ms {
            return Ok(());
        }
        let mut visit_slab = |times: &mut TimesCache, slab: &Slab| {
            for column in slab.columns().iter().filter(|c| c.series == series.series) {
                let timestamps = times.get(db, generation.number, column.times)?;
                let outside = timestamps.last().is_none_or(|last| *last < start_ms)
                    || timestamps.first().is_none_or(|first| *first > end_ms);
                if !outside {
                    visit(&timestamps, slab.data(column))?;
                }
            }
            Ok::<(), StorageError>(())
        };
        // The column that covers the start begins at or before it.
        let at = SlabKey {
            metric: series.metric,
            series: series.series,
            first_ms: start_ms,
        };
        let target = self.key.slab(generation.number, kind, at);
        let slabs_of = self.key.slabs(generation.number, kind);
        if let Some(slab) = self.kept_whole(&slabs_of, &target, series.series) {
            return visit_slab(&mut self.times, &slab);
        }
        let mut rows = self.seek(db, &slabs_of, &target)?;
        while let Some((key, value)) = rows.item().filter(|(key, _)| key.starts_with(&slabs_of)) {
            let at = parse_slab_key(key).ok_or_else(|| malformed_key(self.key.shard))?;
            let behind = (at.metric, at.series) > (series.metric, series.series);
            if behind || (at.series == series.series && at.first_ms > end_ms) {
                break;
            }
            let slab = self.keep(key, value)?;
            visit_slab(&mut self.times, &slab)?;
            // What follows a slab whose last column is another series' holds nothing more.
            if slab.columns().iter().any(|c| c.series == series.series)
                && slab.columns().last().is_some_and(|c| c.series != series.series)
            {
                break;
            }
            rows.next();
        }
        rows.status()
            .map_err(StorageError::rocks(self.key.shard, "reading samples"))
    }

    /// The slab that holds all columns of a series from the target on, if it is at hand.
    fn kept_whole(&self, slabs_of: &[u8], target: &Vec<u8>, series: u64) -> Option<Arc<Slab>> {
        let (_, slab) = self
            .slabs
            .range::<Vec<u8>, _>(..=target)
            .next_back()
            .filter(|(key, _)| key.starts_with(slabs_of))?;
        let columns = slab.columns();
        // If the series ends in this slab, none behind it has more; the target lies behind its key.
        let whole = columns.last().is_some_and(|last| last.series != series)
            && columns.iter().any(|column| column.series == series);
        whole.then(|| slab.clone())
    }

    /// An iterator at the last slab that begins at or before the target, else at the first behind it.
    fn seek<'db>(
        &self,
        db: &'db Db,
        slabs_of: &[u8],
        target: &[u8],
    ) -> Result<DBRawIteratorWithThreadMode<'db, Db>, StorageError> {
        let handle = cf(db, self.key.shard, CF_CHUNKS)?;
        let mut options = ReadOptions::default();
        options.fill_cache(self.fill_cache);
        let mut rows = db.raw_iterator_cf_opt(&handle, options);
        rows.seek_for_prev(target);
        if !rows.key().is_some_and(|key| key.starts_with(slabs_of)) {
            rows.status()
                .map_err(StorageError::rocks(self.key.shard, "reading samples"))?;
            rows.seek(target);
        }
        Ok(rows)
    }

    fn keep(&mut self, key: &[u8], value: &[u8]) -> Result<Arc<Slab>, StorageError> {
        if let Some(slab) = self.slabs.get(key) {
            return Ok(slab.clone());
        }
        let slab = parse_slab(self.key.shard, key, value)?;
        if self.kept + slab.memory_bytes() > self.budget {
            self.slabs.clear();
            self.kept = 0;
        }
        self.kept += slab.memory_bytes();
        self.slabs.insert(key.to_vec(), slab.clone());
        Ok(slab)
    }
}

/// Appends the samples of a column that lie in the window; the error says what does not fit.
fn append(
    decoder: &mut ValuesDecoder,
    times: &[i64],
    bytes: &[u8],
    generation: u64,
    window: Window<'_>,
    out: &mut SampleColumns,
) -> Result<(), String> {
    let from = times.partition_point(|t| *t < window.start_ms);
    let to = times.partition_point(|t| *t <= window.end_ms).max(from);
    let before = out.values.len();
    decoder
        .decode(bytes, times.len(), &mut out.values)
        .map_err(|error| error.to_string())?;
    out.values.truncate(before + to);
    out.values.drain(before..before + from);
    out.timestamps.extend_from_slice(&times[from..to]);
    if !window.mask.is_empty() {
        let mut kept = before;
        for at in before..out.timestamps.len() {
            if !window.mask.hides(generation, out.timestamps[at]) {
                out.timestamps[kept] = out.timestamps[at];
                out.values[kept] = out.values[at];
                kept += 1;
            }
        }
        out.timestamps.truncate(kept);
        out.values.truncate(kept);
    }
    Ok(())
}

pub(super) fn corrupt_series(shard: u32, series: u64, detail: String) -> StorageError {
    StorageError::corrupt(shard, format!("a column of series {series}"), &detail)
}

fn malformed_key(shard: u32) -> StorageError {
    StorageError::corrupt(shard, "a slab row", "its key is malformed")
}

pub(super) fn parse_slab(shard: u32, key: &[u8], value: &[u8]) -> Result<Arc<Slab>, StorageError> {
    Slab::parse(value.to_vec()).map(Arc::new).map_err(|detail| {
        let what = match parse_slab_key(key) {
            Some(at) => format!("the slab that begins with series {}", at.series),
            None => "a slab".to_owned(),
        };
        StorageError::corrupt(shard, what, detail)
    })
}
