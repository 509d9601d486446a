//! Counters of the log writer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const BUCKETS: usize = 26;

/// Counts of durations in buckets whose upper bounds double, from 1 µs to 16 s and above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// `(upper bound in µs, count at or below it and above the bound before)`; the last bound is `u64::MAX`.
    pub buckets: Vec<(u64, u64)>,
    /// Sum of all durations in µs.
    pub sum_us: u64,
    /// Number of durations.
    pub count: u64,
}

/// What the log writer did so far, and what it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterStats {
    /// Time of each synced write.
    pub sync: Histogram,
    /// Batches written, synced or not.
    pub batches: u64,
    /// Operations in them.
    pub operations: u64,
    /// Bytes of entries in them.
    pub bytes: u64,
    /// Operations waiting for the writer now.
    pub queued_operations: u64,
    /// Bytes of entries waiting for the writer now.
    pub queued_bytes: u64,
    /// True while the device does not answer.
    pub stalled: bool,
    /// How often that began.
    pub stalls: u64,
    /// True after a write failed; nothing is written any more.
    pub failed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
    batches: AtomicU64,
    operations: AtomicU64,
    bytes: AtomicU64,
    queued_operations: AtomicU64,
    queued_bytes: AtomicU64,
    /// Number of the batch being written, 0 between batches.
    writing: AtomicU64,
    stalled: AtomicBool,
    stalls: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    pub(crate) fn queued(&self, bytes: usize) {
        self.queued_operations.fetch_add(1, Relaxed);
        self.queued_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Takes back what [`queued`](Self::queued) counted.
    pub(crate) fn refused(&self, bytes: usize) {
        self.queued_operations.fetch_sub(1, Relaxed);
        self.queued_bytes.fetch_sub(bytes as u64, Relaxed);
    }

    /// A batch goes to the device now.
    pub(crate) fn writes(&self) {
        // Only the writer changes these two.
        self.writing.store(self.batches.load(Relaxed) + 1, Relaxed);
    }

    /// The batch that the device has not answered yet.
    pub(crate) fn writing(&self) -> Option<u64> {
        Some(self.writing.load(Relaxed)).filter(|batch| *batch != 0)
    }

    pub(crate) fn stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Relaxed);
        self.stalls.fetch_add(u64::from(stalled), Relaxed);
    }

    pub(crate) fn wrote(&self, operations: usize, bytes: usize, sync: Option<Duration>) {
        self.queued_operations.fetch_sub(operations as u64, Relaxed);
        self.queued_bytes.fetch_sub(bytes as u64, Relaxed);
        self.writing.store(0, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.operations.fetch_add(operations as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        if let Some(took) = sync {
            let us = took.as_micros().min(u128::from(u64::MAX)) as u64;
            self.buckets[bucket(us)].fetch_add(1, Relaxed);
            self.sum_us.fetch_add(us, Relaxed);
        }
    }

    pub(crate) fn failed(&self) {
        self.failed.store(1, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> WriterStats {
        let bound = |i: usize| if i + 1 == BUCKETS { u64::MAX } else { 1 << i };
        let buckets: Vec<_> = self
            .buckets
            .iter()
            .enumerate()
            .map(|(i, n)| (bound(i), n.load(Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        WriterStats {
            sync: Histogram {
                buckets,
                sum_us: self.sum_us.load(Relaxed),
                count,
            },
            batches: self.batches.load(Relaxed),
            operations: self.operations.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            queued_operations: self.queued_operations.load(Relaxed),
            queued_bytes: self.queued_bytes.load(Relaxed),
            stalled: self.stalled.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
            failed: self.failed.load(Relaxed) != 0,
        }
    }
}

fn bucket(us: u64) -> usize {
    // The smallest i with us <= 2^i.
    let i = u64::BITS - us.saturating_sub(1).leading_zeros();
    (i as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_below_its_bound() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 1024, 1025].map(bucket),
            [0, 0, 1, 2, 2, 3, 10, 11]
        );
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        let counters = Counters::default();
        counters.queued(10);
        counters.wrote(1, 10, Some(Duration::from_micros(300)));
        let stats = counters.snapshot();
        assert_eq!(
            (stats.sync.count, stats.sync.sum_us, stats.queued_bytes),
            (1, 300, 0)
        );
        assert_eq!(stats.sync.buckets.iter().find(|(_, n)| *n > 0), Some(&(512, 1)));
    }
}
