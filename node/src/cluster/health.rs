//! Conditions under which a node must not lead or take writes: a disk that is full or hangs, a clock
//! that is off.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use quorate_proto::ErrorCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock_anchor::{ClockAnchor, Comparison, MAX_CLOCK_SKEW_MS, Reading};
use super::formation::hello;
use super::peers::Peers;
use crate::api::ApiError;
use crate::clock::Clock;
use crate::memory::MemoryBudget;

const CHECK: Duration = Duration::from_secs(1);
/// Bytes of commands that a node may take after its disk fell below the reserve, and before it has space again: what
/// was on its way then. Left lying, it would block the entry with which a new leader's term begins, and with it reads.
const DRAIN_BYTES: u64 = 4 << 20;

/// Why this node takes no writes at the moment, if so.
pub struct Gate {
    clock: Arc<dyn Clock>,
    anchor: ClockAnchor,
    disk_low: AtomicBool,
    /// Bytes of commands taken since `disk_low` is set.
    drained: AtomicU64,
    skew_ms: AtomicI64,
    stopping: AtomicBool,
    log_stalled: OnceLock<watch::Receiver<bool>>,
    memory: OnceLock<Arc<MemoryBudget>>,
}

impl Gate {
    /// Open but for the clock, which has to be compared first.
    pub fn new(clock: Arc<dyn Clock>) -> Gate {
        Gate {
            clock,
            anchor: ClockAnchor::default(),
            disk_low: AtomicBool::new(false),
            drained: AtomicU64::new(0),
            skew_ms: AtomicI64::new(0),
            stopping: AtomicBool::new(false),
            log_stalled: OnceLock::new(),
            memory: OnceLock::new(),
        }
    }

    /// `Err` when a write must not be proposed here.
    pub fn check(&self) -> Result<(), ApiError> {
        self.stamp().map(drop)
    }

    /// `Err` when no more samples must be taken here. Unlike [`Gate::check`], memory counts as well: it is no
    /// reason to lead nothing, because followers hold the same samples.
    pub fn admit(&self) -> Result<(), ApiError> {
        self.memory.get().map_or(Ok(()), |memory| memory.check())?;
        self.check()
    }

    /// From now on [`Gate::admit`] refuses while `memory` does.
    pub fn follow_memory(&self, memory: Arc<MemoryBudget>) {
        // Set once: a node has one budget.
        let _ = self.memory.set(memory);
    }

    /// The time for an entry that is proposed now, in ms since the Unix epoch. It is the reading that was
    /// checked: another one could have jumped.
    pub fn stamp(&self) -> Result<i64, ApiError> {
        let refuse = |code, what: String| Err(ApiError::new(code, what));
        if self.stopping.load(Ordering::Relaxed) {
            return refuse(
                ErrorCode::ShuttingDown,
                "the node is stopping; retry elsewhere".into(),
            );
        }
        if self.log_stalled() {
            return refuse(
                ErrorCode::DiskStalled,
                "the disk of this node does not answer; retry elsewhere".into(),
            );
        }
        if self.disk_low() {
            return refuse(
                ErrorCode::DiskReserve,
                "free disk space is below disk_reserve_bytes; free some or add a node".into(),
            );
        }
        let reading = self.read_clock();
        match self.anchor.distrusts(reading) {
            Some(why) => refuse(ErrorCode::ClockSkew, why),
            None => Ok(reading.wall_ms),
        }
    }

    fn read_clock(&self) -> Reading {
        Reading {
            wall_ms: self.clock.now_ms(),
            at: Instant::now(),
        }
    }

    /// From now on the gate is closed while `stalled` says that the log's device does not answer.
    pub fn follow_log(&self, stalled: watch::Receiver<bool>) {
        // Set once: a node opens one log.
        let _ = self.log_stalled.set(stalled);
    }

    /// Whether the log's device does not answer.
    pub fn log_stalled(&self) -> bool {
        self.log_stalled.get().is_some_and(|stalled| *stalled.borrow())
    }

    /// Whether free disk space is below the reserve.
    pub fn disk_low(&self) -> bool {
        self.disk_low.load(Ordering::Relaxed)
    }

    /// Whether commands of so many bytes, proposed elsewhere, may be written here. Below the reserve that ends soon.
    pub fn room_for(&self, bytes: usize) -> bool {
        let more =
            |drained: u64| Some(drained.saturating_add(bytes as u64)).filter(|sum| *sum <= DRAIN_BYTES);
        !self.disk_low()
            || self
                .drained
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
                .is_ok()
    }

    /// Whether that is news.
    fn set_disk_low(&self, low: bool) -> bool {
        let crossed = self.disk_low.swap(low, Ordering::Relaxed) != low;
        if crossed {
            self.drained.store(0, Ordering::Relaxed);
        }
        crossed
    }

    /// How far this clock is ahead of the median of all nodes' clocks.
    pub fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::Relaxed)
    }

    /// No further writes are proposed here.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// Watches free space under `dir` until cancelled.
pub async fn watch_disk(gate: Arc<Gate>, dir: PathBuf, reserve_bytes: u64, stop: CancellationToken) {
    loop {
        match rustix::fs::statvfs(&dir) {
            Ok(stat) => {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                let low = free < reserve_bytes;
                if gate.set_disk_low(low) {
                    tracing::warn!(free, reserve_bytes, low, "free disk space crossed the reserve");
                }
            }
            Err(e) => tracing::warn!(error = %e, dir = %dir.display(), "can't tell the free disk space"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK) => {}
        }
    }
}

/// Compares clocks with all peers until cancelled. The calls also keep the peer table's idea of who
/// answers up to date, and changes of that are logged.
pub async fn watch_clock(gate: Arc<Gate>, peers: Arc<Peers>, stop: CancellationToken) {
    let mut reachable: BTreeMap<u64, bool> = BTreeMap::new();
    loop {
        // Told with the calls.
        peers.set_fit(gate.check().is_ok());
        // One reading for all: one taken when the answers are there could have jumped meanwhile.
        let reading = gate.read_clock();
        let calls = peers.others().into_iter().map(|node| {
            let peers = &peers;
            async move {
                let reply = hello(peers, node).await.ok()?;
                let half = i64::try_from(reading.at.elapsed().as_millis() / 2).unwrap_or(i64::MAX);
                Some(reading.wall_ms.saturating_add(half).saturating_sub(reply.now_ms))
            }
        });
        let mut ahead_ms: Vec<i64> = futures_util::future::join_all(calls)
            .await
            .into_iter()
            .flatten()
            .collect();
        ahead_ms.push(0);
        let agreeing = ahead_ms
            .iter()
            .filter(|ahead| ahead.saturating_abs() <= MAX_CLOCK_SKEW_MS);
        let found = Comparison {
            nodes: peers.nodes().len(),
            answered: ahead_ms.len(),
            agreeing: agreeing.count(),
        };
        gate.anchor.compared(reading, found);
        gate.skew_ms.store(median(&mut ahead_ms), Ordering::Relaxed);
        for node in peers.others() {
            let now = peers.reachable(node);
            match reachable.insert(node, now) {
                Some(true) if !now => tracing::warn!(node, "a peer does not answer"),
                None | Some(false) if now => tracing::info!(node, "a peer answers"),
                _ => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK) => {}
        }
    }
}

/// The median; with an even count, the one of the middle two that suspects this node less.
fn median(ahead_ms: &mut [i64]) -> i64 {
    ahead_ms.sort_unstable();
    let middle = ahead_ms.len().saturating_sub(1) / 2;
    let (low, high) = (ahead_ms.get(middle), ahead_ms.get(ahead_ms.len() / 2));
    match (low, high) {
        (Some(low), Some(high)) if high.abs() < low.abs() => *high,
        (Some(low), _) => *low,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_clock_of_three_accuses_itself_only() {
        // Own offset 0, both others 100 s behind: this clock is ahead.
        assert_eq!(median(&mut [0, 100_000, 100_001]), 100_000);
        // One other clock is wrong.
        assert_eq!(median(&mut [0, 3, -100_000]), 0);
        // With two nodes nobody knows who is wrong: not this one.
        assert_eq!(median(&mut [0, 100_000]), 0);
        assert_eq!(median(&mut [0, -100_000]), 0);
        assert_eq!(median(&mut [0]), 0);
    }

    struct SetClock(AtomicI64);

    impl Clock for SetClock {
        fn now_ms(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn the_gate_names_the_reason() {
        let clock = Arc::new(SetClock(AtomicI64::new(1_700_000_000_000)));
        let gate = Gate::new(clock.clone());
        // Not compared yet.
        assert_eq!(gate.check().unwrap_err().code, ErrorCode::ClockSkew);
        let alone = Comparison {
            nodes: 1,
            answered: 1,
            agreeing: 1,
        };
        gate.anchor.compared(gate.read_clock(), alone);
        assert_eq!(gate.stamp().map_err(|e| e.code), Ok(1_700_000_000_000));
        clock.0.fetch_add(365 * 86_400_000, Ordering::Relaxed);
        assert_eq!(gate.stamp().unwrap_err().code, ErrorCode::ClockSkew);
        let (stalled, receiver) = watch::channel(false);
        assert!(gate.room_for(usize::MAX));
        gate.set_disk_low(true);
        assert!(gate.room_for(0) && gate.room_for(3 << 20));
        assert!(
            !gate.room_for(2 << 20) && gate.room_for(0),
            "no more than was on its way"
        );
        gate.follow_log(receiver);
        assert_eq!(gate.check().unwrap_err().code, ErrorCode::DiskReserve);
        stalled.send_replace(true);
        assert_eq!(gate.check().unwrap_err().code, ErrorCode::DiskStalled);
        stalled.send_replace(false);
        assert_eq!(gate.check().unwrap_err().code, ErrorCode::DiskReserve);
        gate.stop();
        assert_eq!(gate.check().unwrap_err().code, ErrorCode::ShuttingDown);
    }
}
