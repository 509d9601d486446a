//! One shard: what is in memory, what is in RocksDB, and who may change either.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use roaring::RoaringBitmap;

use crate::activity::Activity;
use crate::chunk::Chunk;
use crate::entry::Columns;
use crate::error::StorageError;
use crate::flushed::{Flushed, LookupCache, RowRange, cf};
use crate::labels::Labels;
use crate::limits::Limits;
use crate::meta::Clock;
use crate::quota::Quotas;
use crate::recover::range_iterator;
use crate::retention::{Retentions, TenantRetentions};
use crate::retire::StaleLabels;
use crate::rows::{CF_SERIES, Db, ReplicaKey};
use crate::series::SeriesTable;
use crate::tombstones::Tombstones;

/// A place in a shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
}

/// What a restart finds without the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableState {
    /// The last entry contained; the log replays from the next one.
    pub position: Option<LogPosition>,
    /// The membership in force there, as the log gave it.
    pub membership: Option<Bytes>,
}

/// Figures of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Registered series.
    pub series: u64,
    /// Series that were retired since the shard was opened.
    pub retired_series: u64,
    /// Samples that are not durable in RocksDB yet.
    pub head_samples: u64,
    /// About how much memory those samples take.
    pub head_bytes: u64,
    /// The first index that the log has to keep for this shard; `None` when everything is flushed.
    pub oldest_unflushed_index: Option<u64>,
    /// Live generations.
    pub generations: u64,
    /// Columns of live generations.
    pub flushed_chunks: u64,
    /// Samples in live generations.
    pub flushed_samples: u64,
    /// Those of them that are native histograms.
    pub flushed_histograms: u64,
    /// Bytes of columns in live generations, before RocksDB's compression.
    pub flushed_bytes: u64,
    /// Deletions that still hide flushed samples.
    pub tombstones: u64,
    /// The highest "now" applied, Unix milliseconds.
    pub now_ms: i64,
    /// Samples before it are gone, Unix milliseconds.
    pub cut_ms: i64,
}

/// Head samples that a flush is writing. Readers use them until the flush is visible.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// Ascending by id; chunks of a series are disjoint and in time order.
    pub(crate) series: Vec<(u64, Vec<Chunk>)>,
    /// The same of native histograms; of series without them there is nothing.
    pub(crate) histograms: Vec<(u64, Vec<Chunk>)>,
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
}

impl Frozen {
    pub(crate) fn chunks_of(&self, id: u64) -> &[Chunk] {
        chunks_of(&self.series, id)
    }

    pub(crate) fn histograms_of(&self, id: u64) -> &[Chunk] {
        chunks_of(&self.histograms, id)
    }
}

fn chunks_of(series: &[(u64, Vec<Chunk>)], id: u64) -> &[Chunk] {
    match series.binary_search_by_key(&id, |(id, _)| *id) {
        Ok(at) => &series[at].1,
        Err(_) => &[],
    }
}

/// Everything that applying changes and reading reads, under one lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) applied: Option<LogPosition>,
    pub(crate) membership: Option<Bytes>,
    pub(crate) clock: Clock,
    pub(crate) table: SeriesTable,
    pub(crate) activity: Activity,
    pub(crate) frozen: Option<Arc<Frozen>>,
    pub(crate) flushed: Arc<Flushed>,
    /// Samples in open, sealed and late parts of heads; frozen ones are counted there.
    pub(crate) head_samples: u64,
    pub(crate) head_bytes: u64,
    pub(crate) next_generation: u64,
    pub(crate) next_epoch: u64,
    /// Reused by apply.
    pub(crate) columns: Columns,
    pub(crate) lookups: LookupCache,
    pub(crate) tombstones: Arc<Tombstones>,
    /// Series whose newest sample may have been deleted: `newest_bits` is not to be trusted. May hold
    /// more series than need be.
    pub(crate) vacant: RoaringBitmap,
    pub(crate) quotas: Quotas,
    pub(crate) retentions: Retentions,
    /// The log's time from which a tenant's own cut may have passed a span's end.
    pub(crate) tenant_cuts_due_ms: i64,
    /// Series retired since the last flush: their label rows are still there.
    pub(crate) retired: RoaringBitmap,
    pub(crate) retired_series: u64,
    /// Series that ever got a native histogram; others are not looked for among histograms.
    pub(crate) with_histograms: RoaringBitmap,
}

impl State {
    /// Samples of a tenant before it are gone.
    pub(crate) fn cut_ms(&self, tenant: &str) -> i64 {
        self.retentions.cut_ms(tenant, &self.clock)
    }

    pub(crate) fn durable_position(&self) -> Option<LogPosition> {
        self.flushed.meta.as_ref().map(|meta| meta.position)
    }
}

/// Who may change what is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Idle,
    /// Between `begin_flush` and its commit or abort.
    Flushing,
    /// A received snapshot is being switched to.
    Installing,
}

/// A replica of a shard on this node. All methods take `&self`: one thread applies, many read.
#[derive(Debug)]
pub struct Shard {
    pub(crate) key: ReplicaKey,
    pub(crate) db: Arc<Db>,
    pub(crate) scratch_dir: PathBuf,
    pub(crate) state: RwLock<State>,
    pub(crate) gate: Mutex<Gate>,
    pub(crate) gate_changed: Condvar,
    /// Rows that left the durable state, waiting for their last reader.
    pub(crate) retired: Mutex<Vec<Arc<RowRange>>>,
    pub(crate) stale_labels: Mutex<StaleLabels>,
    poison: OnceLock<String>,
}

impl Shard {
    pub(crate) fn new(key: ReplicaKey, db: Arc<Db>, scratch_dir: PathBuf, state: State) -> Self {
        Self {
            key,
            db,
            scratch_dir,
            state: RwLock::new(state),
            gate: Mutex::new(Gate::Idle),
            gate_changed: Condvar::new(),
            retired: Mutex::new(Vec::new()),
            stale_labels: Mutex::default(),
            poison: OnceLock::new(),
        }
    }

    /// The shard's number.
    pub fn shard(&self) -> u32 {
        self.key.shard
    }

    /// The replica's id.
    pub fn replica(&self) -> u64 {
        self.key.replica
    }

    /// The last entry applied.
    pub fn applied(&self) -> Option<LogPosition> {
        self.state.read().applied
    }

    /// What the meta row holds.
    pub fn durable(&self) -> DurableState {
        let flushed = self.state.read().flushed.clone();
        DurableState {
            position: flushed.meta.as_ref().map(|meta| meta.position),
            membership: flushed.meta.as_ref().and_then(|meta| meta.membership.clone()),
        }
    }

    /// The membership applied last.
    pub fn membership(&self) -> Option<Bytes> {
        self.state.read().membership.clone()
    }

    /// The limits that an entry set; `None` while [`Limits::default`] counts.
    pub fn limits(&self) -> Option<Limits> {
        self.state.read().clock.limits
    }

    /// Whether these are the retentions that tenants have of their own by the shard's log.
    pub fn has_retentions(&self, retentions: &TenantRetentions) -> bool {
        self.state
            .read()
            .retentions
            .wanted()
            .eq(retentions.iter().map(|(tenant, ms)| (tenant.as_str(), *ms)))
    }

    /// The series of a tenant, and the quota that it has in the epoch in force, if any.
    pub fn tenant_series(&self, tenant: &str) -> (u64, Option<u64>) {
        let state = self.state.read();
        let epoch = state.clock.limits().quota_epoch;
        (state.table.tenant_series(tenant), state.quotas.get(tenant, epoch))
    }

    /// Tenant and labels of a series.
    pub fn labels_of(&self, id: u64) -> Option<(String, Labels)> {
        let state = self.state.read();
        let tenant = state.table.tenant_of(id)?;
        let labels = state.table.labels(id)?;
        Some((state.table.tenant_name(tenant).to_owned(), labels))
    }

    /// The id of a series by its canonical label bytes.
    pub fn find_series(&self, tenant: &str, labels: &[u8]) -> Option<u64> {
        self.state.read().table.find(tenant, labels)
    }

    /// Figures for metrics and for deciding when to flush.
    pub fn stats(&self) -> ShardStats {
        let state = self.state.read();
        let generations = state.flushed.generations();
        let (frozen_samples, frozen_bytes) = state.frozen.as_ref().map_or((0, 0), |f| (f.samples, f.bytes));
        let durable_index = state.durable_position().map_or(0, |position| position.index);
        let behind = state.applied.is_some_and(|applied| applied.index > durable_index);
        ShardStats {
            series: state.table.len(),
            retired_series: state.retired_series,
            head_samples: state.head_samples + frozen_samples,
            head_bytes: state.head_bytes + frozen_bytes,
            oldest_unflushed_index: behind.then_some(durable_index + 1),
            generations: generations.len() as u64,
            flushed_chunks: generations.iter().map(|g| g.columns).sum(),
            flushed_samples: generations.iter().map(|g| g.samples).sum(),
            flushed_histograms: generations.iter().map(|g| g.histograms).sum(),
            flushed_bytes: generations.iter().map(|g| g.bytes).sum(),
            tombstones: state.tombstones.len() as u64,
            now_ms: state.clock.now_ms,
            cut_ms: state.clock.cut_ms,
        }
    }

    /// Makes every later call that changes the shard fail. The first reason stays.
    pub(crate) fn poison(&self, reason: &str) {
        if self.poison.set(reason.to_owned()).is_ok() {
            tracing::error!(
                shard = self.key.shard,
                replica = self.key.replica,
                reason,
                "shard refuses work"
            );
        }
    }

    pub(crate) fn check_poison(&self) -> Result<(), StorageError> {
        match self.poison.get() {
            Some(reason) => Err(StorageError::Poisoned {
                shard: self.key.shard,
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Poisons the shard when `result` is an error.
    pub(crate) fn or_poison<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        result.inspect_err(|error| self.poison(&error.to_string()))
    }

    pub(crate) fn open_gate(&self) {
        *self.gate.lock() = Gate::Idle;
        self.gate_changed.notify_all();
    }

    /// Remembers the rows of `old` that `new` does not have, and deletes those without readers.
    pub(crate) fn retire(&self, old: Arc<Flushed>, new: &Flushed) -> Result<(), StorageError> {
        {
            let mut retired = self.retired.lock();
            for range in old.ranges() {
                if !new.ranges().any(|kept| kept == range) {
                    retired.push(range.clone());
                }
            }
        }
        drop(old);
        self.sweep()
    }

    /// Deletes retired rows that nobody reads any more.
    pub(crate) fn sweep(&self) -> Result<(), StorageError> {
        let mut retired = self.retired.lock();
        let mut kept = Vec::new();
        for range in retired.drain(..) {
            if Arc::strong_count(&range) == 1 {
                delete_range(&self.db, self.key.shard, &range)?;
            } else {
                kept.push(range);
            }
        }
        // Whoever reads by an older meta row needs labels of series that were retired since.
        let read_by_older = kept.iter().any(|range| range.cf == CF_SERIES);
        *retired = kept;
        match read_by_older {
            true => Ok(()),
            false => self.delete_stale_labels(),
        }
    }
}

/// Deletes rows that no meta row lists; unsynced, because reopening would delete them again. No row has
/// the key where the range ends.
///
/// Rows of a generation fill whole files, which go at once; a deletion row, which costs space and time until
/// RocksDB compacts it away, is written for what is left only.
pub(crate) fn delete_range(db: &Db, shard: u32, range: &RowRange) -> Result<(), StorageError> {
    let cf = cf(db, shard, range.cf)?;
    let failed = || StorageError::rocks(shard, "deleting rows");
    db.delete_file_in_range_cf(&cf, &range.from, &range.to)
        .map_err(failed())?;
    let mut rows = range_iterator(db, shard, range)?;
    rows.seek(&range.from);
    rows.status().map_err(failed())?;
    if !rows.valid() {
        return Ok(());
    }
    delete_rows(db, shard, range)
}

/// The same by a deletion row alone: here a row may have the key where the range ends.
pub(crate) fn delete_rows(db: &Db, shard: u32, range: &RowRange) -> Result<(), StorageError> {
    let cf = cf(db, shard, range.cf)?;
    db.delete_range_cf(&cf, &range.from, &range.to)
        .map_err(StorageError::rocks(shard, "deleting rows"))
}
