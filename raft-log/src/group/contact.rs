//! When this replica last belonged to a working quorum, and when that is too long ago (RFT-12).
//!
//! A leader that lost its quorum stays leader: nobody tells it otherwise. A follower goes on naming a
//! leader that is dead. What they still accept would wait for a majority that may be gone for hours, so
//! callers are told after a while instead.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use openraft::async_runtime::Select2;
use openraft::{AsyncRuntime, Instant};
use parking_lot::Mutex;

use super::status::{GroupStatus, Role};
use super::{Group, GroupInner};

/// The newest sign of a quorum: on a leader, an acknowledgement by a majority; on a follower, a
/// heartbeat of its leader.
pub(crate) struct Contact<R: AsyncRuntime> {
    last: Mutex<R::Instant>,
    /// This replica is the only voter, so it is its own quorum.
    alone: AtomicBool,
    leads: AtomicBool,
}

impl<R: AsyncRuntime> Contact<R> {
    /// Opening a replica counts as one: it has not had the time to hear from anybody.
    pub(crate) fn new() -> Self {
        Self {
            last: Mutex::new(R::Instant::now()),
            alone: AtomicBool::new(false),
            leads: AtomicBool::new(false),
        }
    }

    /// Notes a message of the current leader.
    pub(crate) fn heard_now(&self) {
        *self.last.lock() = R::Instant::now();
    }

    /// Takes over what the status says.
    pub(super) fn follow(&self, status: &GroupStatus) {
        let leads = status.role == Role::Leader;
        let own = |set: &Vec<_>| set.as_slice() == [status.replica];
        self.alone.store(
            leads && !status.voters.is_empty() && status.voters.iter().all(own),
            Relaxed,
        );
        if leads && !self.leads.swap(true, Relaxed) {
            // A majority has just voted for it.
            self.heard_now();
        }
        if !leads {
            self.leads.store(false, Relaxed);
            return;
        }
        if let Some(age) = status.quorum_ack_age {
            let now = R::Instant::now();
            let mut last = self.last.lock();
            if now.saturating_duration_since(*last) > age {
                *last = now - age;
            }
        }
    }

    fn age(&self) -> Duration {
        match self.alone.load(Relaxed) {
            true => Duration::ZERO,
            false => self.last.lock().elapsed(),
        }
    }
}

/// Why waiting makes no sense.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hopeless {
    /// No sign of a quorum for so long.
    QuorumLost(Duration),
    /// The device of the log does not answer.
    Stalled,
}

impl<R: AsyncRuntime> GroupInner<R> {
    /// After how long without contact the quorum counts as lost. Who does not lead gives the others the
    /// time of two elections more: a leader that died is no lost quorum.
    fn quorum_limit(&self) -> Duration {
        let limit = Duration::from_millis(self.config.quorum_timeout_ms);
        match self.contact.leads.load(Relaxed) {
            true => limit,
            false => limit + 2 * self.config.election_timeout_max(),
        }
    }

    /// For how long there was no sign of a quorum, if that is too long.
    pub(super) fn quorum_lost(&self) -> Option<Duration> {
        let age = self.contact.age();
        (age > self.quorum_limit()).then_some(age)
    }

    /// Waits until the quorum is lost; tells for how long it was not heard of.
    pub(super) async fn until_quorum_lost(&self) -> Duration {
        loop {
            if let Some(age) = self.quorum_lost() {
                return age;
            }
            let left = self.quorum_limit().saturating_sub(self.contact.age());
            R::sleep(left + Duration::from_millis(1)).await;
        }
    }

    /// Whether the device of the log does not answer.
    pub(super) fn is_stalled(&self) -> bool {
        *self.stalled.borrow()
    }

    /// Waits until this replica can't do anything as leader, and tells why.
    pub(super) async fn until_hopeless(&self) -> Hopeless {
        let mut stalled = self.stalled.clone();
        // A closed channel means that the log is shutting down, which others notice.
        let until_stalled = async move {
            if stalled.wait_for(|stalled| *stalled).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        match R::select2(until_stalled, self.until_quorum_lost()).await {
            Select2::First(()) => Hopeless::Stalled,
            Select2::Second(age) => Hopeless::QuorumLost(age),
        }
    }
}

impl<R: AsyncRuntime> Group<R> {
    /// How long ago there was a sign that this replica belongs to a working quorum.
    pub fn quorum_age(&self) -> Duration {
        self.inner.contact.age()
    }

    /// For how long there was no sign of a quorum, if that is longer than
    /// [`GroupConfig::quorum_timeout_ms`](crate::GroupConfig::quorum_timeout_ms), and two elections if
    /// this replica does not lead. Cheap.
    pub fn quorum_lost(&self) -> Option<Duration> {
        self.inner.quorum_lost()
    }

    /// Waits until [`quorum_lost`](Self::quorum_lost); tells for how long it was not heard of.
    pub async fn until_quorum_lost(&self) -> Duration {
        self.inner.until_quorum_lost().await
    }
}
