//! Writing a generation: series in order of metric and id go to slabs, floats to one kind and histograms
//! to another, their timestamps to rows that all share.

use std::sync::Arc;

use super::block::SlabBuilder;
use super::times::{FinishedRow, TimesBuilder};
use super::{BUCKET_MS, COLUMN_SAMPLES};
use crate::codec::histograms::{HistogramsEncoder, column_len};
use crate::codec::values::ValuesEncoder;
use crate::error::StorageError;
use crate::histogram::Histogram;
use crate::meta::{Generation, Level};
use crate::rows::{CF_CHUNKS, ReplicaKey, SlabKey, SlabKind};
use crate::shard::Shard;
use crate::sst::SstFile;

/// Rows of timestamps wait in memory up to this size, so that they come last in the file of the slabs.
/// Beyond it they get a file of their own.
const WAITING_BYTES: usize = 4 << 20;
/// Columns end at multiples of one of these, so that those of series that began at different times
/// still share their timestamps.
const WINDOWS_MS: [i64; 14] = [
    BUCKET_MS,
    BUCKET_MS / 2,
    BUCKET_MS / 3,
    BUCKET_MS / 4,
    BUCKET_MS / 6,
    BUCKET_MS / 8,
    BUCKET_MS / 12,
    BUCKET_MS / 24,
    30 * 60_000,
    15 * 60_000,
    5 * 60_000,
    60_000,
    10_000,
    1_000,
];

/// A generation whose files are not ingested yet.
pub(crate) struct WrittenGeneration {
    files: Vec<SstFile>,
    pub(crate) generation: Generation,
}

impl WrittenGeneration {
    /// Ingests the rows; durable on return.
    pub(crate) fn ingest(&mut self) -> Result<(), StorageError> {
        SstFile::ingest_all(&mut self.files)
    }
}

/// The slabs of one kind: their file and the one that is not full yet.
struct Slabs {
    kind: SlabKind,
    file: SstFile,
    open: SlabBuilder,
    /// Of the open slab.
    key: Vec<u8>,
}

impl Slabs {
    fn new(shard: &Shard, number: u64, kind: SlabKind, name: &str) -> Self {
        Self {
            kind,
            file: SstFile::new(shard, CF_CHUNKS, &format!("{number}-{name}")),
            open: SlabBuilder::default(),
            key: Vec::new(),
        }
    }

    /// Writes the open slab, if there is one, and says so.
    fn close(&mut self, lost: bool) -> Result<bool, StorageError> {
        if self.open.is_empty() {
            return Ok(false);
        }
        let bytes = self.open.finish();
        if !lost {
            self.file.put(&self.key, &bytes)?;
        }
        Ok(true)
    }
}

/// Writes the rows of one generation.
pub(crate) struct GenerationWriter {
    key: ReplicaKey,
    values: Slabs,
    histograms: Slabs,
    /// Rows of timestamps beyond [`WAITING_BYTES`].
    times_file: SstFile,
    waiting: Vec<FinishedRow>,
    waiting_bytes: usize,
    times: TimesBuilder,
    encoder: ValuesEncoder,
    histograms_encoder: HistogramsEncoder,
    generation: Generation,
}

impl GenerationWriter {
    pub(crate) fn new(shard: &Shard, number: u64, level: Level) -> Self {
        Self {
            key: shard.key,
            values: Slabs::new(shard, number, SlabKind::Values, "slabs"),
            histograms: Slabs::new(shard, number, SlabKind::Histograms, "histograms"),
            times_file: SstFile::new(shard, CF_CHUNKS, &format!("{number}-times")),
            waiting: Vec::new(),
            waiting_bytes: 0,
            times: TimesBuilder::default(),
            encoder: ValuesEncoder::new(),
            histograms_encoder: HistogramsEncoder::default(),
            generation: Generation::empty(number, level),
        }
    }

    /// Adds a series, which comes behind all before it in the order of metric and id, with its floats in
    /// order of time.
    pub(crate) fn series(
        &mut self,
        metric: u32,
        series: u64,
        timestamps: &[i64],
        bits: &[u64],
    ) -> Result<(), StorageError> {
        let (mut timestamps, mut bits) = (timestamps, bits);
        let window_ms = window_ms(timestamps);
        while !timestamps.is_empty() {
            let end = column_end(timestamps, window_ms);
            if let Some(place) = self.begin(SlabKind::Values, metric, series, &timestamps[..end])? {
                let encoder = &mut self.encoder;
                let bits = &bits[..end];
                let bytes = self
                    .values
                    .open
                    .push(series, place, |out| encoder.encode(bits, out));
                self.generation.bytes += bytes;
            }
            if self.values.open.is_full() {
                self.close_values()?;
            }
            (timestamps, bits) = (&timestamps[end..], &bits[end..]);
        }
        Ok(())
    }

    /// Adds the native histograms of a series, which comes behind all others that had some.
    pub(crate) fn histogram_series(
        &mut self,
        metric: u32,
        series: u64,
        timestamps: &[i64],
        histograms: &[Arc<Histogram>],
    ) -> Result<(), StorageError> {
        let (mut timestamps, mut histograms) = (timestamps, histograms);
        let window_ms = window_ms(timestamps);
        while !timestamps.is_empty() {
            let end = column_end(timestamps, window_ms).min(column_len(histograms));
            if let Some(place) = self.begin(SlabKind::Histograms, metric, series, &timestamps[..end])? {
                let encoder = &mut self.histograms_encoder;
                let column = &histograms[..end];
                let bytes = self
                    .histograms
                    .open
                    .push(series, place, |out| encoder.encode(column, out));
                self.generation.bytes += bytes;
                self.generation.histograms += end as u64;
            }
            if self.histograms.open.is_full() {
                self.close_histograms()?;
            }
            (timestamps, histograms) = (&timestamps[end..], &histograms[end..]);
        }
        Ok(())
    }

    /// Counts a column that begins now; returns the place of its timestamps.
    fn begin(
        &mut self,
        kind: SlabKind,
        metric: u32,
        series: u64,
        timestamps: &[i64],
    ) -> Result<Option<u64>, StorageError> {
        let (Some(first), Some(last)) = (timestamps.first(), timestamps.last()) else {
            return Ok(None);
        };
        let slabs = match kind {
            SlabKind::Values => &mut self.values,
            SlabKind::Histograms => &mut self.histograms,
        };
        if slabs.open.is_empty() {
            let at = SlabKey {
                metric,
                series,
                first_ms: *first,
            };
            slabs.key = self.key.slab(self.generation.number, slabs.kind, at);
        }
        let (place, row) = self.times.place(timestamps);
        if let Some(row) = row {
            self.keep(row)?;
        }
        self.generation.columns += 1;
        self.generation.samples += timestamps.len() as u64;
        self.generation.min_ms = self.generation.min_ms.min(*first);
        self.generation.max_ms = self.generation.max_ms.max(*last);
        Ok(Some(place))
    }

    fn close_values(&mut self) -> Result<(), StorageError> {
        let lost = mutant!("slab_lost") && self.generation.slabs == 0;
        self.generation.slabs += u64::from(self.values.close(lost)?);
        Ok(())
    }

    fn close_histograms(&mut self) -> Result<(), StorageError> {
        self.generation.histogram_slabs += u64::from(self.histograms.close(false)?);
        Ok(())
    }

    fn keep(&mut self, row: FinishedRow) -> Result<(), StorageError> {
        self.generation.time_rows += 1;
        self.generation.bytes += row.bytes.len() as u64;
        self.waiting_bytes += row.bytes.len();
        self.waiting.push(row);
        if self.waiting_bytes > WAITING_BYTES {
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<(), StorageError> {
        self.waiting_bytes = 0;
        for row in self.waiting.drain(..) {
            let key = self.key.times(self.generation.number, row.number);
            self.times_file.put(&key, &row.bytes)?;
        }
        Ok(())
    }

    /// Closes what is open. `None` when no series was added.
    pub(crate) fn finish(mut self) -> Result<Option<WrittenGeneration>, StorageError> {
        self.close_values()?;
        self.close_histograms()?;
        if let Some(row) = self.times.finish() {
            self.keep(row)?;
        }
        if self.generation.columns == 0 {
            return Ok(None);
        }
        if self.times_file.is_empty() {
            // The last file of slabs takes them; rows of timestamps sort behind all slabs.
            std::mem::swap(&mut self.times_file, &mut self.values.file);
            self.spill()?;
        } else {
            self.spill()?;
        }
        Ok(Some(WrittenGeneration {
            files: vec![self.histograms.file, self.values.file, self.times_file],
            generation: self.generation,
        }))
    }
}

/// Where the first column of a series ends.
fn column_end(timestamps: &[i64], window_ms: i64) -> usize {
    let end = timestamps.len();
    let Some(first) = timestamps.first().filter(|_| end > COLUMN_SAMPLES) else {
        return end;
    };
    let window = first.div_euclid(window_ms);
    timestamps
        .partition_point(|t| t.div_euclid(window_ms) == window)
        .min(COLUMN_SAMPLES)
}

/// The longest window in which a series with these timestamps has about as many samples as fit a column.
fn window_ms(timestamps: &[i64]) -> i64 {
    let (Some(first), Some(last)) = (timestamps.first(), timestamps.last()) else {
        return BUCKET_MS;
    };
    let span = last.abs_diff(*first) as f64;
    let windows = timestamps.len() as f64 / COLUMN_SAMPLES as f64;
    let fits = |window: &i64| *window as f64 * windows <= span;
    WINDOWS_MS.into_iter().find(fits).unwrap_or(1_000)
}
