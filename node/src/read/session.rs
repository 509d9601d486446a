//! One query's reads: for each shard the replica to ask, what it must have applied, and what was
//! read in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_proto::ErrorCode;

use super::Reader;
use crate::api::{ApiError, ReadReport, ShardRead};
use crate::config::ReadLevel;

/// What a query was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Sees every write acknowledged before it began.
    Linearizable,
    /// Sees every write acknowledged longer ago than this.
    Bounded(Duration),
    /// Sees what the replica has.
    Local,
}

impl Promise {
    /// As reported to the client.
    pub fn level(self) -> ReadLevel {
        match self {
            Promise::Linearizable => ReadLevel::Linearizable,
            Promise::Bounded(_) => ReadLevel::Bounded,
            Promise::Local => ReadLevel::Local,
        }
    }
}

/// A query's reads.
pub struct Session {
    /// The tenant asked for.
    pub tenant: Arc<str>,
    /// What was promised.
    pub promise: Promise,
    /// When the query's time is up.
    pub deadline: Instant,
    shards: Vec<u32>,
    min_applied: Mutex<BTreeMap<u32, u64>>,
    done: Mutex<BTreeMap<u32, ShardRead>>,
}

impl Session {
    /// Finds out what replicas must have applied to keep the promise. `shards` are those that the
    /// query may touch.
    pub async fn begin(
        reader: &Reader,
        tenant: Arc<str>,
        promise: Promise,
        shards: Vec<u32>,
        deadline: Instant,
    ) -> Result<Session, ApiError> {
        let min_applied = match promise {
            Promise::Linearizable => reader.indexes().get(&shards, deadline).await?,
            Promise::Bounded(_) | Promise::Local => BTreeMap::new(),
        };
        Ok(Session {
            tenant,
            promise,
            deadline,
            shards,
            min_applied: Mutex::new(min_applied),
            done: Mutex::default(),
        })
    }

    /// The shards that the query may touch.
    pub fn shards(&self) -> &[u32] {
        &self.shards
    }

    /// The index that a replica of `shard` must have applied.
    pub fn min_applied(&self, shard: u32) -> u64 {
        self.min_applied.lock().get(&shard).copied().unwrap_or(0)
    }

    /// What replicas of `shard` have to keep: the promise, or more than that after [`Session::strengthen`].
    pub fn promise_of(&self, shard: u32) -> Promise {
        match self.promise {
            Promise::Bounded(_) if self.min_applied.lock().contains_key(&shard) => Promise::Linearizable,
            promise => promise,
        }
    }

    /// Asks the leader of `shard` for its read index, so that a replica can keep a bounded promise that none could by
    /// what it knew: after a start, nobody has heard of a leader yet. False if there is nothing to strengthen.
    pub async fn strengthen(&self, reader: &Reader, shard: u32) -> Result<bool, ApiError> {
        if !matches!(self.promise_of(shard), Promise::Bounded(_)) {
            return Ok(false);
        }
        let found = reader.indexes().get(&[shard], self.deadline).await?;
        self.min_applied.lock().extend(found);
        Ok(true)
    }

    /// Time left.
    pub fn remaining(&self) -> Result<Duration, ApiError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(ApiError::new(ErrorCode::Timeout, "query timed out")),
            false => Ok(left),
        }
    }

    /// Notes a read. A second read of the same shard widens what the first one noted.
    pub fn note(&self, read: ShardRead) {
        let mut done = self.done.lock();
        let known = done.entry(read.shard).or_insert(read);
        known.applied_before = known.applied_before.min(read.applied_before);
        known.applied_after = known.applied_after.max(read.applied_after);
        known.staleness_ms = known.staleness_ms.max(read.staleness_ms);
        known.node = read.node;
    }

    /// What was read.
    pub fn report(&self) -> ReadReport {
        ReadReport {
            level: self.promise.level(),
            shards: self.done.lock().values().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(deadline: Instant) -> Session {
        Session {
            tenant: "t".into(),
            promise: Promise::Bounded(Duration::from_secs(1)),
            deadline,
            shards: vec![1, 2],
            min_applied: Mutex::new(BTreeMap::from([(1, 7)])),
            done: Mutex::default(),
        }
    }

    #[test]
    fn repeated_reads_of_a_shard_are_reported_as_one_that_spans_them() {
        let session = session(Instant::now() + Duration::from_secs(60));
        let read = |shard, node, applied_before, applied_after, staleness_ms| ShardRead {
            shard,
            node,
            applied_before,
            applied_after,
            staleness_ms,
        };
        session.note(read(2, 1, 5, 6, Some(10)));
        session.note(read(1, 1, 9, 9, Some(0)));
        session.note(read(2, 3, 4, 8, Some(40)));
        let report = session.report();
        assert_eq!(report.level, ReadLevel::Bounded);
        assert_eq!(
            report.shards,
            [read(1, 1, 9, 9, Some(0)), read(2, 3, 4, 8, Some(40))]
        );
        assert_eq!((session.min_applied(1), session.min_applied(2)), (7, 0));
        assert_eq!(session.promise_of(1), Promise::Linearizable);
        assert_eq!(session.promise_of(2), session.promise);
    }

    #[test]
    fn time_that_is_up_is_a_timeout() {
        let late = session(Instant::now());
        assert_eq!(late.remaining().map_err(|e| e.code), Err(ErrorCode::Timeout));
        assert!(
            session(Instant::now() + Duration::from_secs(60))
                .remaining()
                .is_ok()
        );
    }
}
