//! Reads of a replica on this node.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_storage::{Matcher, SelectLimits, SelectedSeries, StorageError};

use super::freshness::Freshness;
use super::session::Promise;
use crate::api::{ApiError, ShardRead};
use crate::shards::ShardReplica;

/// What to read of a shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection<'a> {
    /// Whose series.
    pub tenant: &'a str,
    /// All of them hold.
    pub matchers: &'a [Matcher],
    /// Oldest sample, ms, inclusive.
    pub start_ms: i64,
    /// Newest sample, ms, inclusive.
    pub end_ms: i64,
    /// Bounds of what storage may select.
    pub limits: &'a SelectLimits,
}

/// How long a replica may take to catch up before another one is asked: one that is cut off, or out of space, may
/// never.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Waits until the local replica can keep the promise.
pub(super) async fn fresh_enough(
    replica: &ShardReplica,
    freshness: &Freshness,
    promise: Promise,
    min_applied: u64,
    remaining: Duration,
) -> Result<(), ApiError> {
    match promise {
        Promise::Linearizable => {
            let wait = remaining.min(CATCH_UP);
            let waited = replica.group().wait_applied(min_applied, wait).await;
            waited.map_err(|e| ApiError::new(ErrorCode::TooStale, format!("shard {}: {e}", replica.id())))
        }
        Promise::Bounded(bound) => match age(replica, freshness) {
            Some(age) if age <= bound => Ok(()),
            age => Err(ApiError::new(
                ErrorCode::TooStale,
                format!(
                    "shard {}: the replica can't promise to be within {bound:?} (it knows of {age:?}); allow more, or read local",
                    replica.id()
                ),
            )),
        },
        Promise::Local => Ok(()),
    }
}

/// Upper bound of the replica's age, when known.
pub(super) fn age(replica: &ShardReplica, freshness: &Freshness) -> Option<Duration> {
    freshness.age(replica.id(), replica.storage().applied().map_or(0, |p| p.index))
}

/// Selects series of a replica that is fresh enough. Blocks on the disk.
pub(super) fn select(
    replica: &Arc<ShardReplica>,
    freshness: &Freshness,
    promise: Promise,
    node: u64,
    selection: Selection<'_>,
) -> Result<(Vec<SelectedSeries>, ShardRead), ApiError> {
    let shard = replica.storage();
    let applied = || shard.applied().map_or(0, |p| p.index);
    let staleness_ms = match promise {
        Promise::Linearizable => Some(0),
        Promise::Bounded(_) | Promise::Local => {
            age(replica, freshness).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        }
    };
    let applied_before = applied();
    let Selection {
        tenant,
        matchers,
        start_ms,
        end_ms,
        limits,
    } = selection;
    let series = shard
        .select(tenant, matchers, start_ms, end_ms, limits)
        .map_err(|e| storage_error(&e))?;
    replica.count_read();
    let read = ShardRead {
        shard: replica.id(),
        node,
        applied_before,
        applied_after: applied(),
        staleness_ms,
    };
    Ok((series, read))
}

/// What a client sees of a storage error.
pub(super) fn storage_error(error: &StorageError) -> ApiError {
    let code = match error {
        StorageError::TooMuch { .. } => ErrorCode::QueryLimit,
        _ => ErrorCode::Internal,
    };
    ApiError::new(code, error.to_string())
}
