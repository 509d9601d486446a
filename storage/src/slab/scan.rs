//! Reading a generation from one end to the other.

use std::sync::Arc;

use rocksdb::DBRawIteratorWithThreadMode;

use super::block::{Column, Slab};
use super::cache::TimesCache;
use super::reader::{corrupt_series, parse_slab};
use crate::codec::histograms::HistogramsDecoder;
use crate::codec::values::ValuesDecoder;
use crate::columns::SampleColumns;
use crate::error::StorageError;
use crate::flushed::slab_range;
use crate::histogram_chunk::HistogramSample;
use crate::recover::range_iterator;
use crate::rows::{Db, ReplicaKey, SlabKind};

/// All columns of one kind of a generation, in their order on disk.
pub(crate) struct SlabScan<'db> {
    db: &'db Db,
    key: ReplicaKey,
    generation: u64,
    rows: DBRawIteratorWithThreadMode<'db, Db>,
    slab: Option<Arc<Slab>>,
    next: usize,
    times: TimesCache,
    decoder: ValuesDecoder,
    histograms: HistogramsDecoder,
}

impl<'db> SlabScan<'db> {
    /// Timestamps are kept in about `budget` bytes.
    pub(crate) fn new(
        db: &'db Db,
        key: ReplicaKey,
        (generation, kind): (u64, SlabKind),
        budget: usize,
    ) -> Result<Self, StorageError> {
        let range = slab_range(key, generation, kind);
        let mut rows = range_iterator(db, key.shard, &range)?;
        rows.seek(&range.from);
        let mut scan = Self {
            db,
            key,
            generation,
            rows,
            slab: None,
            next: 0,
            times: TimesCache::new(key, budget),
            decoder: ValuesDecoder::new(),
            histograms: HistogramsDecoder::default(),
        };
        scan.load()?;
        Ok(scan)
    }

    fn load(&mut self) -> Result<(), StorageError> {
        self.next = 0;
        self.slab = match self.rows.item() {
            Some((key, value)) => Some(parse_slab(self.key.shard, key, value)?),
            None => None,
        };
        self.rows
            .status()
            .map_err(StorageError::rocks(self.key.shard, "reading samples"))
    }

    /// The column that comes next; `None` at the end.
    pub(crate) fn peek(&self) -> Option<Column> {
        self.slab.as_ref()?.columns().get(self.next).copied()
    }

    /// Appends the histograms of the next column, which is one of such, and moves on; returns how many
    /// bytes it takes.
    pub(crate) fn take_histograms(&mut self, out: &mut Vec<HistogramSample>) -> Result<u64, StorageError> {
        let (Some(slab), Some(column)) = (self.slab.clone(), self.peek()) else {
            return Ok(0);
        };
        let times = self.times.get(self.db, self.generation, column.times)?;
        let data = slab.data(&column);
        let mut histograms = Vec::with_capacity(times.len());
        self.histograms
            .decode(data, times.len(), &mut histograms)
            .map_err(|error| corrupt_series(self.key.shard, column.series, error.to_string()))?;
        out.extend(times.iter().copied().zip(histograms));
        self.skip()?;
        Ok(data.len() as u64)
    }

    /// Appends the samples of the next column and moves on; returns how many bytes its values take.
    pub(crate) fn take(&mut self, out: &mut SampleColumns) -> Result<u64, StorageError> {
        let (Some(slab), Some(column)) = (self.slab.clone(), self.peek()) else {
            return Ok(0);
        };
        let times = self.times.get(self.db, self.generation, column.times)?;
        out.timestamps.extend_from_slice(&times);
        let data = slab.data(&column);
        self.decoder
            .decode(data, times.len(), &mut out.values)
            .map_err(|error| corrupt_series(self.key.shard, column.series, error.to_string()))?;
        self.skip()?;
        Ok(data.len() as u64)
    }

    /// Moves on to the next column.
    pub(crate) fn skip(&mut self) -> Result<(), StorageError> {
        self.next += 1;
        if self
            .slab
            .as_ref()
            .is_some_and(|slab| self.next >= slab.columns().len())
        {
            self.rows.next();
            self.load()?;
        }
        Ok(())
    }
}
