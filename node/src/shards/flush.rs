//! When shards are flushed: one at a time, staggered, bounded by time and by log bytes; then the log
//! that the flush made superfluous is purged. Between flushes, what merges wrote takes effect.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_storage::{PendingFlush, StorageError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::compact::{CompactionStats, Compactions};
use super::{ShardReplica, Shards};
use crate::cluster::MetaReplica;
use crate::memory::MemoryBudget;
use crate::raft::RaftLog;

/// When to flush.
#[derive(Debug, Clone, Copy)]
pub struct FlushPolicy {
    /// Longest time between two flushes of a shard that takes writes.
    pub interval: Duration,
    /// Log bytes after which a shard is flushed before its time.
    pub log_bytes: u64,
    /// Encoded bytes that the merging of what was flushed reads in a second at most.
    pub compaction_rate: u64,
}

/// Log entries kept after a flush, so that a replica that is only a little behind catches up from the
/// log and needs no snapshot.
const KEEP_ENTRIES: u64 = 512;
/// While memory is tight, a shard is flushed so often, if it has so much log behind it.
const RELIEF_INTERVAL: Duration = Duration::from_secs(10);
const RELIEF_BYTES: u64 = 1 << 20;
const META_INTERVAL: Duration = Duration::from_secs(60);
const CHECK: Duration = Duration::from_secs(1);

/// Flushes the local shards in turn until cancelled. A flush that fails at the disk stops the process:
/// the log alone would grow without bound.
pub async fn run_flushes(
    shards: Arc<Shards>,
    meta: MetaReplica,
    log: RaftLog,
    policy: FlushPolicy,
    compaction: Arc<CompactionStats>,
    memory: Arc<MemoryBudget>,
    stop: CancellationToken,
) {
    let mut compactions = Compactions::new(compaction, policy.compaction_rate, stop.clone());
    let started = Instant::now();
    let mut meta_last = started;
    let mut last: HashMap<u32, Instant> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return compactions.finish().await,
            () = tokio::time::sleep(CHECK) => {}
        }
        let all = shards.all();
        let count = u32::try_from(all.len()).unwrap_or(u32::MAX).max(1);
        for (position, replica) in (0u32..).zip(&all) {
            // Staggered: shard i of n starts its first interval i/n of an interval late.
            let offset = policy.interval * position / count;
            let since = *last.entry(replica.id()).or_insert(started + offset);
            let due = since.elapsed() >= policy.interval || replica.unflushed_bytes() >= policy.log_bytes;
            let relieves = memory.is_tight()
                && since.elapsed() >= RELIEF_INTERVAL
                && replica.unflushed_bytes() >= RELIEF_BYTES;
            if due || relieves {
                flush(replica, &log).await;
                last.insert(replica.id(), Instant::now());
            }
        }
        compactions.step(&all, &log).await;
        if meta_last.elapsed() >= META_INTERVAL {
            flush_meta(&meta).await;
            // Asking costs a walk over RocksDB's files, and flushes are minutes apart.
            if let Err(e) = log.reclaim().await {
                tracing::warn!(error = %e, "disk space of the purged log is not given back yet");
            }
            meta_last = Instant::now();
        }
    }
}

/// Makes the meta state durable and purges its log. It is small, so it needs no schedule of its own.
pub async fn flush_meta(meta: &MetaReplica) {
    let machine = meta.machine.clone();
    match tokio::task::spawn_blocking(move || machine.flush()).await {
        Ok(Ok(Some(index))) => {
            if let Err(e) = meta.group.purge(index.saturating_sub(KEEP_ENTRIES)).await {
                tracing::warn!(error = %e, "the meta log was not purged; the next flush tries again");
            }
        }
        Ok(Ok(None)) | Err(_) => {}
        Ok(Err(e)) => {
            tracing::error!(error = %e, "the meta state can't be written; stopping so that nothing is lost");
            std::process::abort();
        }
    }
}

/// Flushes one shard and purges its log.
pub async fn flush(replica: &Arc<ShardReplica>, log: &RaftLog) {
    match flush_steps(replica, log).await {
        Ok(Some(index)) => {
            crash_point!("purge_before");
            let keep_from = index.saturating_sub(KEEP_ENTRIES);
            if let Err(e) = replica.group().purge(keep_from).await {
                tracing::warn!(shard = replica.id(), error = %e, "the log was not purged; the next flush tries again");
            }
        }
        Ok(None) => {}
        Err(e) => {
            // Not a panic with a backtrace: the cause is the disk, and it is named.
            tracing::error!(shard = replica.id(), error = %e, "a flush failed; stopping so that nothing is lost");
            std::process::abort();
        }
    }
}

async fn flush_steps(replica: &Arc<ShardReplica>, log: &RaftLog) -> Result<Option<u64>, StorageError> {
    let shard = replica.storage().clone();
    // What is applied from here on may be in the flush already; counting it again only makes the next
    // flush come a little early.
    let flushing = replica.unflushed_bytes();
    let begun = tokio::task::spawn_blocking(move || shard.begin_flush()).await;
    let Some(pending) = joined(begun)? else {
        return Ok(None);
    };
    let index = make_durable(replica, pending, log).await?;
    if index.is_some() {
        replica.flushed(flushing);
    }
    Ok(index)
}

/// Lets the row of a flush or a merge ride the log's next batch, then shows the result to readers. The
/// index up to which the shard is durable; `None` when the process is stopping.
pub(super) async fn make_durable(
    replica: &Arc<ShardReplica>,
    pending: PendingFlush,
    log: &RaftLog,
) -> Result<Option<u64>, StorageError> {
    let rows = pending.rows.iter().cloned().map(crate::raft::rider).collect();
    if log.write_rider(rows).await.is_err() {
        // The log writer is gone: the process is stopping. What was written stays invisible.
        return Ok(None);
    }
    crash_point!("flush_after_meta");
    let index = pending.position.index;
    let shard = replica.storage().clone();
    let committed = tokio::task::spawn_blocking(move || shard.commit_flush(pending)).await;
    joined(committed)?;
    Ok(Some(index))
}

fn joined<T>(result: Result<Result<T, StorageError>, tokio::task::JoinError>) -> Result<T, StorageError> {
    match result {
        Ok(result) => result,
        // A panic aborts the process through its hook, so only cancellation at shutdown is left.
        Err(_) => std::process::abort(),
    }
}
