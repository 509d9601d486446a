//! Writing a generation: series in order of metric and id go to slabs, their timestamps to rows that
//! all share.

use super::block::SlabBuilder;
use super::times::{FinishedRow, TimesBuilder};
use super::{BUCKET_MS, COLUMN_SAMPLES};
use crate::codec::values::ValuesEncoder;
use crate::error::StorageError;
use crate::meta::{Generation, Level};
use crate::rows::{CF_CHUNKS, ReplicaKey};
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

/// Writes the rows of one generation.
pub(crate) struct GenerationWriter {
    key: ReplicaKey,
    slabs: SstFile,
    /// Rows of timestamps beyond [`WAITING_BYTES`].
    times_file: SstFile,
    waiting: Vec<FinishedRow>,
    waiting_bytes: usize,
    slab: SlabBuilder,
    slab_key: Vec<u8>,
    times: TimesBuilder,
    encoder: ValuesEncoder,
    generation: Generation,
}

impl GenerationWriter {
    pub(crate) fn new(shard: &Shard, number: u64, level: Level) -> Self {
        Self {
            key: shard.key,
            slabs: SstFile::new(shard, CF_CHUNKS, &format!("{number}-slabs")),
            times_file: SstFile::new(shard, CF_CHUNKS, &format!("{number}-times")),
            waiting: Vec::new(),
            waiting_bytes: 0,
            slab: SlabBuilder::default(),
            slab_key: Vec::new(),
            times: TimesBuilder::default(),
            encoder: ValuesEncoder::new(),
            generation: Generation::empty(number, level),
        }
    }

    /// Adds a series, which comes behind all before it in the order of metric and id, with its samples
    /// in order of time.
    pub(crate) fn series(
        &mut self,
        metric: u32,
        series: u64,
        timestamps: &[i64],
        bits: &[u64],
    ) -> Result<(), StorageError> {
        let (mut timestamps, mut bits) = (timestamps, bits);
        let window_ms = window_ms(timestamps);
        while let Some(first) = timestamps.first() {
            let mut end = timestamps.len();
            if end > COLUMN_SAMPLES {
                let window = first.div_euclid(window_ms);
                end = timestamps
                    .partition_point(|t| t.div_euclid(window_ms) == window)
                    .min(COLUMN_SAMPLES);
            }
            self.column(metric, series, &timestamps[..end], &bits[..end])?;
            (timestamps, bits) = (&timestamps[end..], &bits[end..]);
        }
        Ok(())
    }

    fn column(
        &mut self,
        metric: u32,
        series: u64,
        timestamps: &[i64],
        bits: &[u64],
    ) -> Result<(), StorageError> {
        let (Some(first), Some(last)) = (timestamps.first(), timestamps.last()) else {
            return Ok(());
        };
        if self.slab.is_empty() {
            self.slab_key = self.key.slab(self.generation.number, metric, series, *first);
        }
        let (place, row) = self.times.place(timestamps);
        if let Some(row) = row {
            self.keep(row)?;
        }
        self.generation.bytes += self.slab.push(series, place, bits, &mut self.encoder);
        self.generation.columns += 1;
        self.generation.samples += bits.len() as u64;
        self.generation.min_ms = self.generation.min_ms.min(*first);
        self.generation.max_ms = self.generation.max_ms.max(*last);
        if self.slab.is_full() {
            self.close_slab()?;
        }
        Ok(())
    }

    fn close_slab(&mut self) -> Result<(), StorageError> {
        if self.slab.is_empty() {
            return Ok(());
        }
        let lost = mutant!("slab_lost") && self.generation.slabs == 0;
        let bytes = self.slab.finish();
        self.generation.slabs += 1;
        if lost {
            return Ok(());
        }
        self.slabs.put(&self.slab_key, &bytes)
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
        self.close_slab()?;
        if let Some(row) = self.times.finish() {
            self.keep(row)?;
        }
        if self.generation.columns == 0 {
            return Ok(None);
        }
        if self.times_file.is_empty() {
            std::mem::swap(&mut self.times_file, &mut self.slabs);
            self.spill()?;
        } else {
            self.spill()?;
        }
        Ok(Some(WrittenGeneration {
            files: vec![self.slabs, self.times_file],
            generation: self.generation,
        }))
    }
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
