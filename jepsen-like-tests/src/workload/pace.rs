//! Sending one batch after another at a set pace, with a bounded number of them in flight.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::now_ms;
use super::send::{Target, send};
use crate::history::Recorder;
use crate::values::{Batch, Kind};

/// Batches of a writer that wait for their outcome at most.
pub(super) const MAX_IN_FLIGHT: usize = 8;
/// How late a late sample is at most. The cluster takes half an hour, counted from the series' newest sample.
const LATEST_MS: i64 = 20 * 60 * 1_000;

/// A writer's batches, one after another.
#[derive(Debug)]
pub(super) struct Batches {
    next: Batch,
    rng: StdRng,
    /// Timestamps used, where they don't just grow.
    used: BTreeSet<i64>,
}

impl Batches {
    pub(super) fn new(writer: u32, series: u32, seed: u64) -> Batches {
        Batches {
            next: Batch {
                writer,
                number: 0,
                series,
                timestamp_ms: 0,
            },
            rng: StdRng::seed_from_u64(seed),
            used: BTreeSet::new(),
        }
    }

    /// The next batch, to be sent now.
    pub(super) fn next(&mut self, now_ms: i64) -> Batch {
        let next = &mut self.next;
        next.timestamp_ms = match Kind::of(next.writer) {
            // The first gives the series a newest sample; then one in four is in order.
            Kind::Late if next.number > 0 && !self.rng.random_ratio(1, 4) => {
                now_ms - self.rng.random_range(1..LATEST_MS)
            }
            Kind::Late => now_ms,
            _ => now_ms.max(next.timestamp_ms + 1),
        };
        if Kind::of(next.writer) == Kind::Late {
            while !self.used.insert(next.timestamp_ms) {
                next.timestamp_ms += 1;
            }
        }
        let batch = *next;
        next.number += 1;
        batch
    }
}

/// Slots for requests in flight, handed out at a set pace.
#[derive(Debug)]
pub(super) struct Pace {
    slots: Arc<Semaphore>,
    interval: Duration,
    due: Instant,
    stopped: watch::Receiver<bool>,
}

impl Pace {
    pub(super) fn new(interval: Duration, stopped: watch::Receiver<bool>) -> Pace {
        Pace {
            slots: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            interval,
            due: Instant::now(),
            stopped,
        }
    }

    /// The next slot at its time; none when it is time to stop.
    pub(super) async fn next(&mut self) -> Option<OwnedSemaphorePermit> {
        let slots = self.slots.clone();
        let (due, interval) = (self.due, self.interval);
        let slot = async {
            tokio::time::sleep_until(due).await;
            slots.acquire_owned().await.ok()
        };
        if *self.stopped.borrow() {
            return None;
        }
        let slot = tokio::select! {
            slot = slot => slot,
            _ = self.stopped.changed() => None,
        };
        // What was missed while the cluster stood still is not made up for.
        self.due = (due + interval).max(Instant::now());
        slot
    }

    /// One slot more, at once if there is one.
    pub(super) async fn another(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().acquire_owned().await.ok()
    }

    /// Waits until every slot is free: every outcome is recorded then.
    pub(super) async fn drain(self) {
        let _all = self.slots.acquire_many(MAX_IN_FLIGHT as u32).await;
    }
}

/// Sends a writer's batches until it is time to stop.
pub(super) async fn write_paced(
    mut batches: Batches,
    interval: Duration,
    target: Target,
    recorder: Recorder,
    stopped: watch::Receiver<bool>,
) {
    let mut pace = Pace::new(interval, stopped);
    while let Some(slot) = pace.next().await {
        send(batches.next(now_ms()), &target, &recorder, slot).await;
    }
    pace.drain().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_batches_are_within_the_window_and_never_at_one_time_twice() {
        let now_ms = 10_000_000;
        let mut batches = Batches::new(Kind::Late.writer(0), 3, 7);
        let all: Vec<Batch> = (0..5_000).map(|at| batches.next(now_ms + at)).collect();
        let times: BTreeSet<i64> = all.iter().map(|batch| batch.timestamp_ms).collect();
        assert_eq!(times.len(), all.len());
        assert_eq!(all[0].timestamp_ms, now_ms);
        let newest = times.last().unwrap();
        assert!(times.first().unwrap() > &(newest - 25 * 60 * 1_000));
        let in_order = all
            .windows(2)
            .filter(|pair| pair[0].timestamp_ms < pair[1].timestamp_ms);
        assert!((1_000..4_500).contains(&in_order.count()));
    }

    #[test]
    fn other_batches_are_in_order_even_if_the_clock_stands_still() {
        let mut batches = Batches::new(3, 3, 7);
        let all: Vec<Batch> = (0..10).map(|_| batches.next(50)).collect();
        assert!(
            all.windows(2)
                .all(|pair| pair[0].timestamp_ms < pair[1].timestamp_ms)
        );
        assert_eq!(all[9].number, 9);
    }
}
