//! Merging generations: their columns in order of metric and series, samples of a series in order of
//! time, without what is deleted or before the retention cut.

use std::ops::ControlFlow;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::columns::SampleColumns;
use crate::error::StorageError;
use crate::flushed::Flushed;
use crate::histogram::Histogram;
use crate::histogram_chunk::HistogramSample;
use crate::meta::{Generation, ShardMeta};
use crate::rows::SlabKind;
use crate::shard::Shard;
use crate::slab::{GenerationWriter, SeriesKey, SlabScan, WrittenGeneration};
use crate::tombstones::Mask;

/// Bytes of timestamps that all inputs keep together.
const TIMES_BYTES_MAX: usize = 64 << 20;

/// What a merge reads and how it is slowed down.
pub(super) struct Inputs<'a> {
    pub(super) shard: &'a Shard,
    pub(super) flushed: &'a Flushed,
    pub(super) meta: &'a ShardMeta,
    pub(super) shorter: &'a [(RoaringBitmap, i64)],
    pub(super) generations: &'a [Generation],
}

impl Inputs<'_> {
    /// Samples of a series before it are gone.
    fn cut_ms(&self, series: u64) -> i64 {
        let own = self.shorter.iter();
        let own = own.filter(|(ids, _)| u32::try_from(series).is_ok_and(|id| ids.contains(id)));
        own.map(|(_, cut_ms)| *cut_ms)
            .fold(self.meta.clock.cut_ms, i64::max)
    }
}

/// Writes the samples of all inputs into one generation. `None` when `pace`, which is told how many bytes
/// were read, breaks off; `Some(None)` when nothing is left of them.
pub(super) fn merge(
    inputs: &Inputs<'_>,
    mut writer: GenerationWriter,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Option<WrittenGeneration>>, StorageError> {
    if merge_floats(inputs, &mut writer, pace)?.is_break() {
        return Ok(None);
    }
    let any = inputs.generations.iter().any(|g| g.histogram_slabs > 0);
    if any && merge_histograms(inputs, &mut writer, pace)?.is_break() {
        return Ok(None);
    }
    writer.finish().map(Some)
}

fn scans<'a>(inputs: &Inputs<'a>, kind: SlabKind) -> Result<Vec<SlabScan<'a>>, StorageError> {
    let shard = inputs.shard;
    let budget = TIMES_BYTES_MAX / inputs.generations.len().max(1);
    let scans = inputs
        .generations
        .iter()
        .map(|g| SlabScan::new(&shard.db, shard.key, (g.number, kind), budget));
    scans.collect()
}

fn merge_floats(
    inputs: &Inputs<'_>,
    writer: &mut GenerationWriter,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StorageError> {
    let mut scans = scans(inputs, SlabKind::Values)?;
    let mut merged = Merged::default();
    while let Some(key) = next_series(inputs, &mut scans)? {
        let mask = inputs.meta.tombstones.over(key.series);
        let bytes = merged.take(inputs, &mut scans, key.series, &mask)?;
        merged.put_in_order();
        writer.series(key.metric, key.series, &merged.columns.timestamps, &merged.bits)?;
        if pace(bytes).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn merge_histograms(
    inputs: &Inputs<'_>,
    writer: &mut GenerationWriter,
    pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StorageError> {
    let mut scans = scans(inputs, SlabKind::Histograms)?;
    let (mut merged, mut one): (Vec<HistogramSample>, Vec<HistogramSample>) = (Vec::new(), Vec::new());
    while let Some(key) = next_series(inputs, &mut scans)? {
        let cut_ms = inputs.cut_ms(key.series);
        let mask = inputs.meta.tombstones.over(key.series);
        merged.clear();
        let mut bytes = 0;
        for (scan, generation) in scans.iter_mut().zip(inputs.generations) {
            while scan.peek().is_some_and(|column| column.series == key.series) {
                bytes += scan.take_histograms(&mut one)?;
            }
            let lost = mutant!("tombstone_forgotten_at_merge");
            let kept =
                |(t, _): &HistogramSample| *t >= cut_ms && (lost || !mask.hides(generation.number, *t));
            merged.extend(one.drain(..).filter(kept));
        }
        // As for floats: of two with one timestamp the one that was flushed first stays.
        merged.sort_by_key(|(t, _)| *t);
        merged.dedup_by_key(|(t, _)| *t);
        let (timestamps, histograms): (Vec<i64>, Vec<Arc<Histogram>>) = merged.drain(..).unzip();
        writer.histogram_series(key.metric, key.series, &timestamps, &histograms)?;
        if pace(bytes).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The first series, in the order on disk, that any input comes to. Columns of retired series are left
/// behind.
fn next_series(inputs: &Inputs<'_>, scans: &mut [SlabScan<'_>]) -> Result<Option<SeriesKey>, StorageError> {
    let mut first: Option<SeriesKey> = None;
    for scan in scans {
        let Some(key) = skip_retired(inputs, scan)? else {
            continue;
        };
        if first.is_none_or(|first| (key.metric, key.series) < (first.metric, first.series)) {
            first = Some(key);
        }
    }
    Ok(first)
}

/// The series that a scan comes to, behind the columns of retired ones.
fn skip_retired(inputs: &Inputs<'_>, scan: &mut SlabScan<'_>) -> Result<Option<SeriesKey>, StorageError> {
    while let Some(column) = scan.peek() {
        if let Some(key) = inputs.flushed.series_key(column.series) {
            return Ok(Some(key));
        }
        if column.series >= inputs.meta.next_id {
            let what = format!("a column of series {}", column.series);
            let shard = inputs.shard.key.shard;
            return Err(StorageError::corrupt(
                shard,
                what,
                "no such series was ever registered",
            ));
        }
        scan.skip()?;
    }
    Ok(None)
}

/// The samples of one series.
#[derive(Default)]
struct Merged {
    columns: SampleColumns,
    bits: Vec<u64>,
    one: SampleColumns,
}

impl Merged {
    /// Takes a series out of all inputs, older generations first; returns how many bytes that were.
    fn take(
        &mut self,
        inputs: &Inputs<'_>,
        scans: &mut [SlabScan<'_>],
        series: u64,
        mask: &Mask,
    ) -> Result<u64, StorageError> {
        self.columns.clear();
        let cut_ms = inputs.cut_ms(series);
        let mut bytes = 0;
        for (scan, generation) in scans.iter_mut().zip(inputs.generations) {
            self.one.clear();
            while scan.peek().is_some_and(|column| column.series == series) {
                bytes += scan.take(&mut self.one)?;
            }
            for (t, value) in self.one.iter() {
                let lost = mutant!("tombstone_forgotten_at_merge");
                if t >= cut_ms && (lost || !mask.hides(generation.number, t)) {
                    self.columns.push(t, value);
                }
            }
        }
        Ok(bytes)
    }

    /// Puts the samples in order of time. Apply stores one sample for a timestamp; should there be two
    /// all the same, the one that was flushed first stays.
    fn put_in_order(&mut self) {
        let timestamps = &self.columns.timestamps;
        if timestamps.windows(2).any(|two| two[0] >= two[1]) {
            let mut rows: Vec<(i64, f64)> = self.columns.iter().collect();
            rows.sort_by_key(|row| row.0);
            rows.dedup_by_key(|row| row.0);
            self.columns.clear();
            for (t, value) in rows {
                self.columns.push(t, value);
            }
        }
        if mutant!("sample_dropped_at_merge") && self.columns.len() > 1 {
            self.columns.timestamps.pop();
            self.columns.values.pop();
        }
        self.bits.clear();
        self.bits
            .extend(self.columns.values.iter().map(|value| value.to_bits()));
    }
}
