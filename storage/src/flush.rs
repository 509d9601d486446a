//! Flush in two steps. `begin_flush` seals the head at the applied index and ingests its rows; nothing
//! refers to them yet. The returned meta row makes them count, in the same synced write as the log's
//! next batch. `commit_flush` then shows them to readers and drops the sealed head.
//!
//! Crash before the meta row: the rows are not listed, reopening deletes them, the log replays.
//! Crash after it: reopening finds them listed.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use roaring::RoaringBitmap;
use rocksdb::WriteOptions;

use crate::activity::Activity;
use crate::chunk::{self, Chunk};
use crate::error::StorageError;
use crate::flushed::{Flushed, activity_range, cf, chunk_range, state_range};
use crate::histogram::Histogram;
use crate::histogram_chunk;
use crate::labels::Labels;
use crate::meta::{Generation, Level, ShardMeta};
use crate::metrics::Metrics;
use crate::rows::{CF_SERIES, CF_SHARD_META};
use crate::series_rows::{SeriesState, StateBlocks, encode_labels_row};
use crate::shard::{Frozen, Gate, LogPosition, Shard, State, delete_range};
use crate::slab::{BUCKET_MS, GenerationWriter, WrittenGeneration, metric_number};
use crate::sst::SstFile;
use crate::tombstones::Tombstones;

/// A row to write together with the log's next synced batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RiderRow {
    /// Its column family.
    pub cf: &'static str,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value; `None` deletes it.
    pub value: Option<Vec<u8>>,
}

/// A flush, or a merge of generations, whose rows are ingested. After [`Self::rows`] are durable, hand it
/// to [`Shard::commit_flush`]; if they certainly never will be, to [`Shard::abort_flush`]. Dropping it
/// without either poisons the shard, since nobody can know any more what is durable.
#[derive(Debug)]
pub struct PendingFlush {
    /// Rows that must become durable before the commit.
    pub rows: Vec<RiderRow>,
    /// The last entry that the flush contains.
    pub position: LogPosition,
    meta: ShardMeta,
    metrics: Arc<Metrics>,
    /// Series retired since the flush before.
    retired: RoaringBitmap,
    /// Numbers of the generations ingested for it.
    written: Vec<u64>,
    /// What a flush took out of the head.
    frozen: Option<Arc<Frozen>>,
    shard: Weak<Shard>,
    resolved: bool,
}

impl PendingFlush {
    /// A meta row that lists a merged generation in place of others. The gate is closed for it.
    pub(crate) fn of_swap(shard: &Arc<Shard>, meta: ShardMeta, metrics: Arc<Metrics>, written: u64) -> Self {
        Self::new(shard, meta, metrics, vec![written], None)
    }

    fn new(
        shard: &Arc<Shard>,
        meta: ShardMeta,
        metrics: Arc<Metrics>,
        written: Vec<u64>,
        frozen: Option<Arc<Frozen>>,
    ) -> Self {
        let row = RiderRow {
            cf: CF_SHARD_META,
            key: shard.key.prefix(),
            value: Some(meta.encode()),
        };
        Self {
            rows: vec![row],
            position: meta.position,
            meta,
            metrics,
            retired: RoaringBitmap::new(),
            written,
            frozen,
            shard: Arc::downgrade(shard),
            resolved: false,
        }
    }
}

impl Drop for PendingFlush {
    fn drop(&mut self) {
        if let Some(shard) = self.shard.upgrade().filter(|_| !self.resolved) {
            shard.poison("a flush was dropped without commit or abort");
            shard.open_gate();
        }
    }
}

/// What is copied under the lock when the head is sealed.
struct Sealed {
    meta: ShardMeta,
    frozen: Arc<Frozen>,
    /// Tenant, id and labels of series that no flush has contained.
    new_series: Vec<(u64, String, Labels)>,
    states: Vec<SeriesState>,
    activity: Activity,
    /// Series retired since the last flush.
    retired: RoaringBitmap,
    /// Metric numbers of all series that the flush may contain.
    metrics: Arc<Metrics>,
    buckets: Option<Buckets>,
}

/// The buckets that sealed samples lie in. Each has the number of its generation set aside while the
/// head is sealed: a deletion that comes later hides it.
#[derive(Clone, Copy)]
struct Buckets {
    first: i64,
    last: i64,
    first_number: u64,
}

impl Buckets {
    fn of(frozen: &Frozen, first_number: u64) -> Option<Self> {
        let series = || frozen.series.iter().chain(&frozen.histograms);
        let chunks = || series().flat_map(|(_, chunks)| chunks);
        let first_ms = chunks().map(|chunk| chunk.first_ms).min()?;
        let last_ms = chunks().map(|chunk| chunk.last_ms).max()?;
        Some(Self {
            first: first_ms.div_euclid(BUCKET_MS),
            last: last_ms.div_euclid(BUCKET_MS),
            first_number,
        })
    }

    fn next_number(&self) -> u64 {
        self.first_number + self.last.abs_diff(self.first) + 1
    }

    fn number(&self, bucket: i64) -> u64 {
        self.first_number + bucket.abs_diff(self.first)
    }
}

/// Frozen series in the order in which a generation holds them, each with its metric number.
fn in_order<'a>(series: &'a [(u64, Vec<Chunk>)], metrics: &Metrics) -> Vec<(u32, &'a (u64, Vec<Chunk>))> {
    let metric = |id: u64| metrics.get(id).unwrap_or_default();
    let mut order: Vec<_> = series.iter().map(|one| (metric(one.0), one)).collect();
    order.sort_unstable_by_key(|(metric, (id, _))| (*metric, *id));
    order
}

impl Shard {
    /// Seals the head at the last applied entry and ingests its rows. `None` when there is nothing to
    /// flush, or another flush or the switch to a snapshot is under way.
    pub fn begin_flush(self: &Arc<Self>) -> Result<Option<PendingFlush>, StorageError> {
        self.check_poison()?;
        {
            let mut gate = self.gate.lock();
            if *gate != Gate::Idle {
                return Ok(None);
            }
            *gate = Gate::Flushing;
        }
        let result = self.seal_and_ingest();
        if !matches!(result, Ok(Some(_))) {
            self.open_gate();
        }
        self.or_poison(result)
    }

    fn seal_and_ingest(self: &Arc<Self>) -> Result<Option<PendingFlush>, StorageError> {
        self.sweep()?;
        let Some(mut sealed) = self.seal_head()? else {
            return Ok(None);
        };
        crash_point!("flush_before_slab");
        self.ingest_sealed(&mut sealed)?;
        crash_point!("flush_after_ingest");
        let number = sealed.meta.state_generation;
        let written = sealed.meta.generations.iter().map(|g| g.number);
        let written = written.filter(|g| *g >= number).collect();
        let frozen = Some(sealed.frozen);
        let mut pending = PendingFlush::new(self, sealed.meta, sealed.metrics, written, frozen);
        pending.retired = sealed.retired;
        Ok(Some(pending))
    }

    /// Moves all head samples into `frozen` and copies what the flush writes. Applying goes on in empty
    /// heads as soon as this returns.
    fn seal_head(&self) -> Result<Option<Sealed>, StorageError> {
        let mut state = self.state.write();
        let Some(position) = state
            .applied
            .filter(|applied| Some(*applied) != state.durable_position())
        else {
            return Ok(None);
        };
        let frozen = Arc::new(self.freeze(&mut state)?);
        state.frozen = Some(frozen.clone());
        let number = state.next_generation;
        let buckets = Buckets::of(&frozen, number);
        state.next_generation = buckets.map_or(number + 1, |buckets| buckets.next_number());
        let cut_ms = state.clock.cut_ms;
        // Generations that lie before the retention cut as a whole are left out, and so deleted.
        let kept = state.flushed.generations().iter().filter(|g| g.max_ms >= cut_ms);
        let generations: Vec<Generation> = kept.copied().collect();
        Arc::make_mut(&mut state.tombstones).prune(&generations);
        let now_ms = state.clock.now_ms;
        state.activity.pack(now_ms);
        let previous = state.flushed.meta.as_ref();
        let meta = ShardMeta {
            position,
            membership: state.membership.clone(),
            clock: state.clock,
            next_id: state.table.next_id(),
            epoch: previous.map_or(0, |meta| meta.epoch),
            state_generation: number,
            series: state.table.len(),
            activity_rows: state.activity.len(),
            next_generation: state.next_generation,
            generations,
            tombstones: Tombstones::clone(&state.tombstones),
            vacant: state.vacant.clone(),
            quotas: state.quotas.clone(),
            with_histograms: state.with_histograms.clone(),
            retentions: state.retentions.clone(),
        };
        let first_new = previous.map_or(1, |meta| meta.next_id);
        let table = &state.table;
        let new_series = (first_new..table.next_id())
            .filter_map(|id| {
                let tenant = table.tenant_name(table.tenant_of(id)?).to_owned();
                Some((id, tenant, table.labels(id)?))
            })
            .collect();
        let states = table.ids().filter_map(|id| table.state_of(id)).collect();
        Ok(Some(Sealed {
            meta,
            frozen,
            new_series,
            states,
            activity: state.activity.clone(),
            retired: state.retired.clone(),
            metrics: state.flushed.metrics.clone(),
            buckets,
        }))
    }

    fn freeze(&self, state: &mut State) -> Result<Frozen, StorageError> {
        let (series, histograms) = state
            .table
            .take_heads()
            .map_err(|(id, error)| StorageError::chunk(self.key.shard, id)(error))?;
        let frozen = Frozen {
            series,
            histograms,
            samples: state.head_samples,
            bytes: state.head_bytes,
        };
        state.head_samples = 0;
        state.head_bytes = 0;
        Ok(frozen)
    }

    fn ingest_sealed(&self, sealed: &mut Sealed) -> Result<(), StorageError> {
        let number = sealed.meta.state_generation;
        if !sealed.new_series.is_empty() || !sealed.retired.is_empty() {
            let metrics = Arc::make_mut(&mut sealed.metrics);
            for (id, tenant, labels) in &sealed.new_series {
                metrics.set(*id, metric_number(tenant, labels));
            }
            sealed.retired.iter().for_each(|id| metrics.remove(u64::from(id)));
        }
        let mut written = self.write_generations(sealed)?;
        let generations = written.iter().map(|written| written.generation);
        sealed.meta.generations.extend(generations);
        // Labels and states in files of their own, so that those of all flushes have disjoint ranges.
        let mut labels = SstFile::new(self, CF_SERIES, &format!("{number}-labels"));
        for (id, tenant, series) in &sealed.new_series {
            labels.put(
                &self.key.labels(sealed.meta.epoch, *id),
                &encode_labels_row(tenant, series),
            )?;
        }
        let mut states = SstFile::new(self, CF_SERIES, &format!("{number}-states"));
        for (block, row) in StateBlocks::new(&sealed.states).enumerate() {
            states.put(&self.key.state(sealed.meta.epoch, number, block as u64), &row)?;
        }
        let mut activity = SstFile::new(self, CF_SERIES, &format!("{number}-activity"));
        for (span, row) in sealed.activity.rows() {
            activity.put(&self.key.activity(sealed.meta.epoch, number, span), &row)?;
        }
        let mut series = [activity, labels, states];
        if mutant!("meta_before_slab") {
            SstFile::ingest_all(&mut series)?;
            self.write_meta(&sealed.meta)?;
        }
        crash_point!("flush_before_ingest");
        for written in &mut written {
            written.ingest()?;
        }
        crash_point!("flush_between_ingests");
        SstFile::ingest_all(&mut series)
    }

    /// Makes a meta row durable at once.
    fn write_meta(&self, meta: &ShardMeta) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let handle = cf(&self.db, self.key.shard, CF_SHARD_META)?;
        self.db
            .put_cf_opt(&handle, self.key.prefix(), meta.encode(), &options)
            .map_err(StorageError::rocks(self.key.shard, "writing the meta row"))
    }

    /// Writes the sealed samples, a generation for each bucket, without ingesting them.
    fn write_generations(&self, sealed: &Sealed) -> Result<Vec<WrittenGeneration>, StorageError> {
        let Some(buckets) = sealed.buckets else {
            return Ok(Vec::new());
        };
        let mut writers: BTreeMap<i64, GenerationWriter> = BTreeMap::new();
        let (mut timestamps, mut bits) = (Vec::new(), Vec::new());
        for (metric, (id, chunks)) in in_order(&sealed.frozen.series, &sealed.metrics) {
            timestamps.clear();
            bits.clear();
            let samples = chunks.iter().map(|chunk| chunk.samples as usize).sum();
            timestamps.reserve(samples);
            bits.reserve(samples);
            for chunk in chunks {
                chunk::decode(&chunk.bytes, |t, value| {
                    timestamps.push(t);
                    bits.push(value);
                    true
                })
                .map_err(StorageError::chunk(self.key.shard, *id))?;
            }
            let mut from = 0;
            while let Some(first) = timestamps.get(from) {
                let bucket = first.div_euclid(BUCKET_MS);
                let length = timestamps[from..].partition_point(|t| t.div_euclid(BUCKET_MS) == bucket);
                let writer = writers
                    .entry(bucket)
                    .or_insert_with(|| GenerationWriter::new(self, buckets.number(bucket), Level::Flush));
                writer.series(
                    metric,
                    *id,
                    &timestamps[from..from + length],
                    &bits[from..from + length],
                )?;
                from += length;
            }
        }
        self.write_histograms(sealed, buckets, &mut writers)?;
        let finished = writers.into_values().map(GenerationWriter::finish);
        finished.filter_map(Result::transpose).collect()
    }

    fn write_histograms(
        &self,
        sealed: &Sealed,
        buckets: Buckets,
        writers: &mut BTreeMap<i64, GenerationWriter>,
    ) -> Result<(), StorageError> {
        for (metric, (id, chunks)) in in_order(&sealed.frozen.histograms, &sealed.metrics) {
            let samples =
                histogram_chunk::decode_all(chunks).map_err(StorageError::chunk(self.key.shard, *id))?;
            let (timestamps, histograms): (Vec<i64>, Vec<Arc<Histogram>>) = samples.into_iter().unzip();
            let mut from = 0;
            while let Some(first) = timestamps.get(from) {
                let bucket = first.div_euclid(BUCKET_MS);
                let to = from + timestamps[from..].partition_point(|t| t.div_euclid(BUCKET_MS) == bucket);
                writers
                    .entry(bucket)
                    .or_insert_with(|| GenerationWriter::new(self, buckets.number(bucket), Level::Flush))
                    .histogram_series(metric, *id, &timestamps[from..to], &histograms[from..to])?;
                from = to;
            }
        }
        Ok(())
    }

    /// Shows a flush to readers and drops the sealed head. Call it after the flush's rows are durable.
    pub fn commit_flush(&self, mut pending: PendingFlush) -> Result<(), StorageError> {
        pending.resolved = true;
        let result = self
            .check_poison()
            .and_then(|()| self.check_own(&pending))
            .and_then(|()| {
                let (old, new) = {
                    let mut state = self.state.write();
                    let new = Arc::new(Flushed::of(
                        self.key,
                        pending.meta.clone(),
                        pending.metrics.clone(),
                        &state.flushed,
                    ));
                    if pending.frozen.is_some() {
                        state.frozen = None;
                        state.retired -= &pending.retired;
                        self.forget_labels(pending.meta.epoch, &pending.retired);
                    } else if let Some(meta) = &new.meta {
                        Arc::make_mut(&mut state.tombstones).prune(&meta.generations);
                    }
                    (std::mem::replace(&mut state.flushed, new.clone()), new)
                };
                self.or_poison(self.retire(old, &new))
            });
        self.open_gate();
        result
    }

    /// Takes a flush back whose rows certainly never become durable: the samples return to the head.
    pub fn abort_flush(&self, mut pending: PendingFlush) -> Result<(), StorageError> {
        pending.resolved = true;
        let result = self
            .check_poison()
            .and_then(|()| self.check_own(&pending))
            .and_then(|()| {
                let number = pending.meta.state_generation;
                let written = pending.written.iter();
                let mut ranges: Vec<_> = written.map(|number| chunk_range(self.key, *number)).collect();
                if let Some(begun) = &pending.frozen {
                    let mut state = self.state.write();
                    // Not what the flush began with: deletions may have come meanwhile.
                    let frozen = state.frozen.take().unwrap_or_else(|| begun.clone());
                    state.head_samples += frozen.samples;
                    state.head_bytes += frozen.bytes;
                    for (id, chunks) in &frozen.series {
                        if !state.table.put_back(*id, chunks) {
                            let samples: u64 = chunks.iter().map(|chunk| u64::from(chunk.samples)).sum();
                            state.head_samples = state.head_samples.saturating_sub(samples);
                        }
                    }
                    for (id, chunks) in &frozen.histograms {
                        if !state.table.put_back_histograms(*id, chunks) {
                            let samples: u64 = chunks.iter().map(|chunk| u64::from(chunk.samples)).sum();
                            state.head_samples = state.head_samples.saturating_sub(samples);
                        }
                    }
                    // Label rows stay: the next flush writes the same ones again.
                    ranges.push(state_range(self.key, pending.meta.epoch, number));
                    ranges.push(activity_range(self.key, pending.meta.epoch, number));
                }
                let deleted = ranges
                    .iter()
                    .try_for_each(|range| delete_range(&self.db, self.key.shard, range));
                self.or_poison(deleted)
            });
        self.open_gate();
        result
    }

    fn check_own(&self, pending: &PendingFlush) -> Result<(), StorageError> {
        if std::ptr::eq(pending.shard.as_ptr(), self) {
            return Ok(());
        }
        Err(StorageError::misuse(
            self.key.shard,
            "the flush belongs to another shard",
        ))
    }
}
