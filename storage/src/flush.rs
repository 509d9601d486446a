//! Flush in two steps. `begin_flush` seals the head at the applied index and ingests its rows; nothing
//! refers to them yet. The returned meta row makes them count, in the same synced write as the log's
//! next batch. `commit_flush` then shows them to readers and drops the sealed head.
//!
//! Crash before the meta row: the rows are not listed, reopening deletes them, the log replays.
//! Crash after it: reopening finds them listed.

use std::sync::{Arc, Weak};

use crate::error::StorageError;
use rocksdb::WriteOptions;

use crate::flushed::{Flushed, cf, chunk_range, state_range};
use crate::labels::Labels;
use crate::meta::{Generation, ShardMeta};
use crate::rows::{CF_CHUNKS, CF_SERIES, CF_SHARD_META};
use crate::series_rows::{SeriesState, StateBlocks, encode_labels_row};
use crate::shard::{Frozen, Gate, LogPosition, Shard, State, delete_range};
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

/// A flush whose rows are ingested. After [`Self::rows`] are durable, hand it to
/// [`Shard::commit_flush`]; if they certainly never will be, to [`Shard::abort_flush`]. Dropping it
/// without either poisons the shard, since nobody can know any more what is durable.
#[derive(Debug)]
pub struct PendingFlush {
    /// Rows that must become durable before the commit.
    pub rows: Vec<RiderRow>,
    /// The last entry that the flush contains.
    pub position: LogPosition,
    meta: ShardMeta,
    frozen: Arc<Frozen>,
    shard: Weak<Shard>,
    resolved: bool,
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
        let Sealed { meta, frozen, .. } = sealed;
        let row = RiderRow {
            cf: CF_SHARD_META,
            key: self.key.prefix(),
            value: Some(meta.encode()),
        };
        Ok(Some(PendingFlush {
            rows: vec![row],
            position: meta.position,
            meta,
            frozen,
            shard: Arc::downgrade(self),
            resolved: false,
        }))
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
        state.next_generation += 1;
        let cut_ms = state.clock.cut_ms;
        // Generations that lie before the retention cut as a whole are left out, and so deleted.
        let kept = state.flushed.generations().iter().filter(|g| g.max_ms >= cut_ms);
        let generations: Vec<Generation> = kept.copied().collect();
        Arc::make_mut(&mut state.tombstones).prune(&generations);
        let previous = state.flushed.meta.as_ref();
        let meta = ShardMeta {
            position,
            membership: state.membership.clone(),
            clock: state.clock,
            next_id: state.table.next_id(),
            epoch: previous.map_or(0, |meta| meta.epoch),
            state_generation: number,
            next_generation: number + 1,
            generations,
            tombstones: Tombstones::clone(&state.tombstones),
            vacant: state.vacant.clone(),
        };
        let first_new = previous.map_or(1, |meta| meta.next_id);
        let table = &state.table;
        let new_series = (first_new..table.next_id())
            .filter_map(|id| {
                let tenant = table.tenant_name(table.tenant_of(id)?).to_owned();
                Some((id, tenant, table.labels(id)?))
            })
            .collect();
        let states = (1..table.next_id()).filter_map(|id| table.state_of(id)).collect();
        Ok(Some(Sealed {
            meta,
            frozen,
            new_series,
            states,
        }))
    }

    fn freeze(&self, state: &mut State) -> Result<Frozen, StorageError> {
        let series = state
            .table
            .take_heads()
            .map_err(|(id, error)| StorageError::chunk(self.key.shard, id)(error))?;
        let frozen = Frozen {
            series,
            samples: state.head_samples,
            bytes: state.head_bytes,
        };
        state.head_samples = 0;
        state.head_bytes = 0;
        Ok(frozen)
    }

    fn ingest_sealed(&self, sealed: &mut Sealed) -> Result<(), StorageError> {
        let number = sealed.meta.state_generation;
        let (mut chunks, generation) = self.write_chunks(number, &sealed.frozen)?;
        sealed.meta.generations.extend(generation);
        let mut series = SstFile::new(self, CF_SERIES, number);
        for (id, tenant, labels) in &sealed.new_series {
            series.put(
                &self.key.labels(sealed.meta.epoch, *id),
                &encode_labels_row(tenant, labels),
            )?;
        }
        for (block, row) in StateBlocks::new(&sealed.states).enumerate() {
            series.put(&self.key.state(sealed.meta.epoch, number, block as u64), &row)?;
        }
        if mutant!("meta_before_slab") {
            series.ingest()?;
            self.write_meta(&sealed.meta)?;
        }
        crash_point!("flush_before_ingest");
        chunks.ingest()?;
        series.ingest()
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

    /// The rows of the samples, to be ingested, and what they are.
    fn write_chunks(
        &self,
        number: u64,
        frozen: &Frozen,
    ) -> Result<(SstFile, Option<Generation>), StorageError> {
        let mut file = SstFile::new(self, CF_CHUNKS, number);
        let mut generation = Generation {
            number,
            min_ms: i64::MAX,
            max_ms: i64::MIN,
            chunks: 0,
            samples: 0,
            bytes: 0,
        };
        for (id, chunks) in &frozen.series {
            for chunk in chunks {
                file.put(&self.key.chunk(number, *id, chunk.first_ms), &chunk.bytes)?;
                generation.min_ms = generation.min_ms.min(chunk.first_ms);
                generation.max_ms = generation.max_ms.max(chunk.last_ms);
                generation.chunks += 1;
                generation.samples += u64::from(chunk.samples);
                generation.bytes += chunk.bytes.len() as u64;
            }
        }
        Ok((file, (generation.chunks > 0).then_some(generation)))
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
                    let new = Arc::new(Flushed::of(self.key, pending.meta.clone(), &state.flushed));
                    state.frozen = None;
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
                {
                    let mut state = self.state.write();
                    // Not what the flush began with: deletions may have come meanwhile.
                    let frozen = state.frozen.take().unwrap_or_else(|| pending.frozen.clone());
                    state.head_samples += frozen.samples;
                    state.head_bytes += frozen.bytes;
                    for (id, chunks) in &frozen.series {
                        state.table.put_back(*id, chunks);
                    }
                }
                // Label rows stay: the next flush writes the same ones again.
                let number = pending.meta.state_generation;
                let chunks = chunk_range(self.key, number);
                let states = state_range(self.key, pending.meta.epoch, number);
                let deleted = delete_range(&self.db, self.key.shard, &chunks)
                    .and_then(|()| delete_range(&self.db, self.key.shard, &states));
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
