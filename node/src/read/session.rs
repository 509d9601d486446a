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
    min_applied: BTreeMap<u32, u64>,
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
            min_applied,
            done: Mutex::default(),
        })
    }

    /// The shards that the query may touch.
    pub fn shards(&self) -> &[u32] {
        &self.shards
    }

    /// The index that a replica of `shard` must have applied.
    pub fn min_applied(&self, shard: u32) -> u64 {
        self.min_applied.get(&shard).copied().unwrap_or(0)
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
