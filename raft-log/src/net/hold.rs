//! Holds that keep a group's log from being purged under a snapshot transfer.
//!
//! A snapshot that takes longer to transfer than the log behind it is kept is useless on arrival:
//! the receiver needs entries that are gone, and the next snapshot starts (openraft#1706).

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::{AsyncRuntime, Instant};
use parking_lot::Mutex;

use crate::position::ReplicaId;

/// The holds of one group.
pub(crate) struct PurgeHolds<R: AsyncRuntime> {
    holds: Mutex<BTreeMap<ReplicaId, Hold<R>>>,
    linger: Duration,
}

struct Hold<R: AsyncRuntime> {
    /// The snapshot covers up to this index; later entries must stay.
    index: u64,
    /// `None` while the transfer runs; afterwards when the hold ends by itself.
    expires: Option<R::Instant>,
}

impl<R: AsyncRuntime> PurgeHolds<R> {
    /// Holds go on for `linger` after a transfer, so that the receiver can catch up from the log.
    pub(crate) fn new(linger: Duration) -> Self {
        Self {
            holds: Mutex::new(BTreeMap::new()),
            linger,
        }
    }

    /// Holds the log after `index` while a snapshot that ends there travels to `to`, that is until the
    /// returned guard is dropped, and `linger` longer.
    pub(crate) fn transfer(&self, to: ReplicaId, index: u64) -> Transfer<'_, R> {
        self.holds.lock().insert(to, Hold { index, expires: None });
        Transfer { holds: self, to }
    }

    /// The highest index at or below `wanted` that may be purged. `matched` tells what the
    /// group's other replicas have, `last` the newest entry.
    pub(crate) fn limit(
        &self,
        wanted: u64,
        matched: &BTreeMap<ReplicaId, Option<u64>>,
        last: Option<u64>,
    ) -> u64 {
        let now = R::Instant::now();
        let mut holds = self.holds.lock();
        holds.retain(|replica, hold| match hold.expires {
            None => true,
            Some(expires) => {
                // Gone from the group, caught up, or given up on.
                let has = matched.get(replica).copied();
                now < expires && has.is_some_and(|has| has.is_none_or(|has| Some(has) < last))
            }
        });
        holds.iter().fold(wanted, |limit, (replica, hold)| {
            let has = matched.get(replica).copied().flatten().unwrap_or(0);
            limit.min(hold.index.max(has))
        })
    }
}

/// A transfer that is under way.
pub(crate) struct Transfer<'a, R: AsyncRuntime> {
    holds: &'a PurgeHolds<R>,
    to: ReplicaId,
}

impl<R: AsyncRuntime> Drop for Transfer<'_, R> {
    fn drop(&mut self) {
        if let Some(hold) = self.holds.holds.lock().get_mut(&self.to) {
            hold.expires = Some(R::Instant::now() + self.holds.linger);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokioRuntime;

    #[test]
    fn a_transfer_holds_back_the_purge_until_the_receiver_caught_up() {
        let holds = PurgeHolds::<TokioRuntime>::new(Duration::from_secs(60));
        let matched = |at: Option<u64>| BTreeMap::from([(7, at)]);
        assert_eq!(holds.limit(100, &matched(None), Some(120)), 100);
        let transfer = holds.transfer(7, 40);
        assert_eq!(holds.limit(100, &matched(None), Some(120)), 40);
        assert_eq!(holds.limit(30, &matched(None), Some(120)), 30);
        drop(transfer);
        assert_eq!(holds.limit(100, &matched(Some(40)), Some(120)), 40);
        assert_eq!(holds.limit(100, &matched(Some(70)), Some(120)), 70);
        assert_eq!(holds.limit(100, &matched(Some(120)), Some(120)), 100);
    }

    #[test]
    fn a_hold_ends_when_its_time_is_over() {
        let holds = PurgeHolds::<TokioRuntime>::new(Duration::ZERO);
        let matched = BTreeMap::from([(7, None)]);
        let transfer = holds.transfer(7, 40);
        assert_eq!(holds.limit(100, &matched, Some(120)), 40);
        drop(transfer);
        assert_eq!(holds.limit(100, &matched, Some(120)), 100);
    }
}
