//! Conditions under which a node must not lead or take writes: a full disk, a clock that is off.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use quorate_proto::ErrorCode;
use tokio_util::sync::CancellationToken;

use super::formation::hello;
use super::peers::Peers;
use crate::api::ApiError;
use crate::clock::Clock;

/// Furthest that a leader's clock may be from the median of all nodes' clocks.
pub(super) const MAX_CLOCK_SKEW_MS: i64 = 60_000;
const CHECK: Duration = Duration::from_secs(1);

/// Why this node takes no writes at the moment, if so.
#[derive(Debug, Default)]
pub struct Gate {
    disk_low: AtomicBool,
    skew_ms: AtomicI64,
    stopping: AtomicBool,
}

impl Gate {
    /// `Err` when a write must not be proposed here.
    pub fn check(&self) -> Result<(), ApiError> {
        let refuse = |code, what: String| Err(ApiError::new(code, what));
        if self.stopping.load(Ordering::Relaxed) {
            return refuse(
                ErrorCode::ShuttingDown,
                "the node is stopping; retry elsewhere".into(),
            );
        }
        if self.disk_low() {
            return refuse(
                ErrorCode::DiskReserve,
                "free disk space is below disk_reserve_bytes; free some or add a node".into(),
            );
        }
        let skew_ms = self.skew_ms();
        if skew_ms.abs() > MAX_CLOCK_SKEW_MS {
            return refuse(
                ErrorCode::ClockSkew,
                format!("this node's clock is {skew_ms} ms off the median of the cluster; check NTP"),
            );
        }
        Ok(())
    }

    /// Whether free disk space is below the reserve.
    pub fn disk_low(&self) -> bool {
        self.disk_low.load(Ordering::Relaxed)
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
                if gate.disk_low.swap(low, Ordering::Relaxed) != low {
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
pub async fn watch_clock(gate: Arc<Gate>, peers: Arc<Peers>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let mut reachable: BTreeMap<u64, bool> = BTreeMap::new();
    loop {
        let calls = peers.others().into_iter().map(|node| {
            let (peers, clock) = (&peers, &clock);
            async move {
                let sent_ms = clock.now_ms();
                let reply = hello(peers, node).await.ok()?;
                let middle_ms = sent_ms + (clock.now_ms() - sent_ms) / 2;
                Some(middle_ms - reply.now_ms)
            }
        });
        let mut ahead_ms: Vec<i64> = futures_util::future::join_all(calls)
            .await
            .into_iter()
            .flatten()
            .collect();
        ahead_ms.push(0);
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

    #[test]
    fn the_gate_names_the_reason() {
        let gate = Gate::default();
        assert!(gate.check().is_ok());
        gate.skew_ms.store(-MAX_CLOCK_SKEW_MS - 1, Ordering::Relaxed);
        assert_eq!(gate.check().unwrap_err().code, ErrorCode::ClockSkew);
        gate.disk_low.store(true, Ordering::Relaxed);
        assert_eq!(gate.check().unwrap_err().code, ErrorCode::DiskReserve);
        gate.stop();
        assert_eq!(gate.check().unwrap_err().code, ErrorCode::ShuttingDown);
    }
}
