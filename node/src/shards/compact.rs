//! Merging of flushed generations: one shard at a time, at a bounded rate, beside everything else.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_storage::{Merge, MergedGeneration, StorageError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::ShardReplica;
use super::flush::make_durable;
use crate::raft::RaftLog;

/// A merge waits when it is this far ahead of its rate.
const AHEAD: Duration = Duration::from_millis(20);

/// What merges did since the start of the process.
#[derive(Debug, Default)]
pub struct CompactionStats {
    merges: AtomicU64,
    generations: AtomicU64,
    samples: AtomicU64,
    failures: AtomicU64,
}

impl CompactionStats {
    /// Name, help and value of each counter.
    pub fn counters(&self) -> [(&'static str, &'static str, u64); 4] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            (
                "quorate_compactions",
                "Merges of stored generations that took effect",
                of(&self.merges),
            ),
            (
                "quorate_compaction_generations",
                "Generations that they replaced",
                of(&self.generations),
            ),
            (
                "quorate_compaction_samples",
                "Samples that they wrote",
                of(&self.samples),
            ),
            (
                "quorate_compaction_failures",
                "Merges that failed; what they read stays",
                of(&self.failures),
            ),
        ]
    }
}

type Merging = JoinHandle<Result<Option<MergedGeneration>, StorageError>>;

/// Merges for all shards of a node.
pub(super) struct Compactions {
    stats: Arc<CompactionStats>,
    /// Encoded bytes read in a second at most.
    bytes_per_second: u64,
    stop: CancellationToken,
    running: Option<(Arc<ShardReplica>, Merging)>,
    /// The shard that was merged last; the next one has its turn.
    last: u32,
}

impl Compactions {
    pub(super) fn new(stats: Arc<CompactionStats>, bytes_per_second: u64, stop: CancellationToken) -> Self {
        Self {
            stats,
            bytes_per_second,
            stop,
            running: None,
            last: 0,
        }
    }

    /// Takes up the result of a merge that is done, and begins the next. The caller does not flush
    /// meanwhile: a shard takes one change at a time.
    pub(super) async fn step(&mut self, all: &[Arc<ShardReplica>], log: &RaftLog) {
        if self
            .running
            .as_ref()
            .is_some_and(|(_, merging)| merging.is_finished())
        {
            self.take_up(log).await;
        }
        if self.running.is_some() || self.stop.is_cancelled() {
            return;
        }
        let (behind, ahead): (Vec<_>, Vec<_>) = all.iter().partition(|replica| replica.id() > self.last);
        let mut turns = behind.into_iter().chain(ahead);
        let Some(replica) = turns.find(|replica| replica.storage().merge_due()).cloned() else {
            return;
        };
        self.last = replica.id();
        let shard = replica.storage().clone();
        let mut pace = Pace::new(self.bytes_per_second, self.stop.clone());
        let merging =
            tokio::task::spawn_blocking(move || shard.merge(Merge::Due, &mut |bytes| pace.read(bytes)));
        self.running = Some((replica, merging));
    }

    async fn take_up(&mut self, log: &RaftLog) {
        let Some((replica, merging)) = self.running.take() else {
            return;
        };
        match merging.await {
            Ok(Ok(Some(merged))) => {
                if let Err(error) = swap(&replica, merged, log, &self.stats).await {
                    // Like a flush that fails: the cause is the disk.
                    tracing::error!(shard = replica.id(), %error, "a merge failed; stopping so that nothing is lost");
                    std::process::abort();
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                self.stats.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(shard = replica.id(), %error, "stored generations were not merged; they stay as they are");
            }
            // A panic aborts the process through its hook, so only cancellation at shutdown is left.
            Err(_) => {}
        }
    }

    /// Waits until nothing is merged any more. What was merged last and not taken up is given up.
    pub(super) async fn finish(&mut self) {
        if let Some((_, merging)) = self.running.take() {
            let _ = merging.await;
        }
    }
}

/// Puts a merged generation in place of its inputs.
async fn swap(
    replica: &Arc<ShardReplica>,
    merged: MergedGeneration,
    log: &RaftLog,
    stats: &CompactionStats,
) -> Result<(), StorageError> {
    let (inputs, samples) = (merged.inputs() as u64, merged.samples());
    let shard = replica.storage().clone();
    let begun = tokio::task::spawn_blocking(move || shard.begin_swap(merged)).await;
    let Ok(begun) = begun else { return Ok(()) };
    // A replica that was dropped meanwhile refuses; there is nothing left to do for it.
    let Ok(Some(pending)) = begun else { return Ok(()) };
    crash_point!("merge_before_meta");
    if make_durable(replica, pending, log).await?.is_some() {
        stats.merges.fetch_add(1, Ordering::Relaxed);
        stats.generations.fetch_add(inputs, Ordering::Relaxed);
        stats.samples.fetch_add(samples, Ordering::Relaxed);
    }
    Ok(())
}

/// Keeps a merge at its rate.
struct Pace {
    started: Instant,
    read: u64,
    bytes_per_second: u64,
    stop: CancellationToken,
}

impl Pace {
    fn new(bytes_per_second: u64, stop: CancellationToken) -> Self {
        Self {
            started: Instant::now(),
            read: 0,
            bytes_per_second: bytes_per_second.max(1),
            stop,
        }
    }

    /// Notes what was read, and waits if that was too much. Runs on a thread that may block.
    fn read(&mut self, bytes: u64) -> ControlFlow<()> {
        self.read += bytes;
        let due = Duration::from_secs_f64(self.read as f64 / self.bytes_per_second as f64);
        let ahead = due.saturating_sub(self.started.elapsed());
        if ahead > AHEAD && !self.stop.is_cancelled() {
            std::thread::sleep(ahead);
        }
        match self.stop.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_keeps_its_rate_and_stops() {
        let stop = CancellationToken::new();
        let mut pace = Pace::new(1 << 20, stop.clone());
        for _ in 0..4 {
            assert!(pace.read(32 << 10).is_continue());
        }
        // An eighth of a second's bytes took nearly as long.
        assert!(pace.started.elapsed() >= Duration::from_millis(100));
        stop.cancel();
        assert!(pace.read(1 << 30).is_break());
    }
}
