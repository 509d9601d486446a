//! What the frontends need of the node: two object-safe traits, their parameters and answers. HTTP
//! and gRPC both call these; nothing here knows either.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use quorate_proto::ErrorCode;
use quorate_query::value::Value;
use quorate_storage::{Labels, Matcher, SampleColumns};

pub use crate::config::ReadLevel;
use crate::inflight::Charge;

/// A refusal or failure, in the terms of the one error table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct ApiError {
    /// Status, `errorType` and retry behaviour follow from it.
    pub code: ErrorCode,
    /// For the caller's eyes; says what was expected or what is missing.
    pub message: String,
    /// When a retry makes sense. For retryable codes without it, frontends say one second.
    pub retry_after_ms: Option<u64>,
}

impl ApiError {
    /// An error without advice on when to retry.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            message: message.into(),
            retry_after_ms: None,
        }
    }

    /// The same error, asking for a retry after `ms` milliseconds.
    pub fn retry_after(self, ms: u64) -> ApiError {
        ApiError {
            retry_after_ms: Some(ms),
            ..self
        }
    }
}

/// Who asks, and until when an answer is of use.
#[derive(Debug, Clone)]
pub struct Caller {
    /// From `X-Scope-OrgID`, checked by [`check_tenant`].
    pub tenant: Arc<str>,
    /// After this the frontend has given up. It drops the future then, as it does when the client goes
    /// away: work on other threads has to notice.
    pub deadline: Instant,
}

/// Longest tenant name in bytes.
pub const MAX_TENANT_BYTES: usize = 128;

/// Checks a tenant name: 1 to 128 bytes of letters, digits and `!-_.*'()`, as in other
/// multi-tenant Prometheus backends, and neither `.` nor `..`.
pub fn check_tenant(name: &str) -> Result<(), ApiError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!-_.*'()".contains(&byte);
    let ok = !name.is_empty()
        && name.len() <= MAX_TENANT_BYTES
        && name.bytes().all(allowed)
        && !matches!(name, "." | "..");
    match ok {
        true => Ok(()),
        false => Err(ApiError::new(
            ErrorCode::BadData,
            "the tenant (X-Scope-OrgID) has to be 1 to 128 letters, digits and !-_.*'()",
        )),
    }
}

/// A remote-write 1.0 request as it arrived.
#[derive(Debug)]
pub struct RemoteWrite {
    /// Who sends it.
    pub caller: Caller,
    /// The snappy block, not yet looked into.
    pub body: Bytes,
    /// The body's share of the bytes in flight; grow it by what decoding allocates, and drop it when the
    /// request's memory is free again.
    pub charge: Charge,
}

/// What became of a write of which every part is resolved for good: stored, there already or refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteReport {
    /// Samples newly stored.
    pub stored: u64,
    /// Samples that were there already with the same bits.
    pub duplicates: u64,
    /// Samples refused for good, by reason, in the order in which they were met.
    pub rejections: Vec<Refused>,
}

/// Samples refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// As in the label `reason` of `quorate_rejected_samples_total`.
    pub reason: &'static str,
    /// How many.
    pub samples: u64,
    /// The first, with series, timestamp and bound.
    pub first: String,
}

/// The limit, by its name in `quorate cluster limits`, that a reason of refusal comes from.
pub fn limit_behind(reason: &str) -> Option<&'static str> {
    match reason {
        "tenant_series_limit" => Some("max_series"),
        "series_limit" => Some("max_series_per_shard"),
        "too_many_labels" => Some("max_labels"),
        "label_name_too_long" | "metric_name_too_long" => Some("max_label_name_bytes"),
        "label_value_too_long" => Some("max_label_value_bytes"),
        _ => None,
    }
}

/// The way in.
pub trait WriteApi: Send + Sync {
    /// Decodes, places and stores. `Ok` means that every sample is resolved; whatever a retry could
    /// still change is an `Err` with a retryable code, and resending is harmless. Counts the samples in
    /// [`Metrics::count_write`](crate::metrics::Metrics::count_write).
    fn remote_write(&self, request: RemoteWrite) -> BoxFuture<'_, Result<WriteReport, ApiError>>;
}

/// What a query wants of the replicas it reads. `None` is the node's configured default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The promise.
    pub level: Option<ReadLevel>,
    /// Bound of [`ReadLevel::Bounded`], in milliseconds.
    pub max_staleness_ms: Option<u64>,
}

/// An instant query.
#[derive(Debug, Clone, PartialEq)]
pub struct InstantParams {
    /// PromQL. Failing to parse it is [`ErrorCode::BadData`] with a message like
    /// `1:5: parse error: …`; the frontend says which parameter it was.
    pub query: String,
    /// Milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// `None` is the configured lookback.
    pub lookback_ms: Option<i64>,
    /// What to read.
    pub read: ReadOptions,
}

/// A range query. `start_ms <= end_ms`, `step_ms > 0` and at most 11,000 steps.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeParams {
    /// PromQL of type scalar or instant vector; anything else is [`ErrorCode::BadData`].
    pub query: String,
    /// Milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// Milliseconds since the Unix epoch, inclusive.
    pub end_ms: i64,
    /// Resolution in milliseconds.
    pub step_ms: i64,
    /// `None` is the configured lookback.
    pub lookback_ms: Option<i64>,
    /// What to read.
    pub read: ReadOptions,
}

/// What a metadata question is about.
#[derive(Debug, Clone, PartialEq)]
pub struct MetaParams {
    /// PromQL selectors; a series counts when it matches any. Empty: all series.
    pub matches: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// Milliseconds since the Unix epoch, inclusive.
    pub end_ms: i64,
    /// The callee may stop once it has this many results; the frontend asks for one more than it will
    /// return, to know that there were more.
    pub max_results: Option<usize>,
    /// What to read.
    pub read: ReadOptions,
}

/// Which samples are wanted as they are stored.
#[derive(Debug, Clone)]
pub struct RawParams {
    /// Sets of matchers; a series counts when all of any set hold.
    pub matchers: Vec<Vec<Matcher>>,
    /// Milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// Milliseconds since the Unix epoch, inclusive.
    pub end_ms: i64,
    /// What to read.
    pub read: ReadOptions,
}

/// A series and its samples, stale markers included.
#[derive(Debug, Clone)]
pub struct RawSeries {
    /// Its labels.
    pub labels: Labels,
    /// Its samples.
    pub samples: SampleColumns,
}

/// An answer and how it was come by.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer<T> {
    /// The answer itself.
    pub value: T,
    /// For the user: the result may be wrong.
    pub warnings: Vec<String>,
    /// For the user: the expression may not be what was meant.
    pub infos: Vec<String>,
    /// What was read.
    pub report: ReadReport,
    /// What an evaluation cost; zeros where nothing was evaluated.
    pub cost: QueryCost,
}

/// What a query cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QueryCost {
    /// How long the query waited for its turn.
    pub queued: Duration,
    /// How long it was parsed and its replicas were asked how far they are.
    pub prepared: Duration,
    /// How long it was evaluated, reading included.
    pub evaluated: Duration,
    /// Samples read.
    pub samples: u64,
    /// The most samples held at once.
    pub peak_samples: u64,
}

/// What was read, and how fresh it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadReport {
    /// The promise that was kept.
    pub level: ReadLevel,
    /// One for each shard touched.
    pub shards: Vec<ShardRead>,
}

/// One shard's part in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardRead {
    /// The shard.
    pub shard: u32,
    /// The node whose replica was read.
    pub node: u64,
    /// Applied log index before the first touch.
    pub applied_before: u64,
    /// Applied log index after the last touch.
    pub applied_after: u64,
    /// Upper bound of the age of what was read: 0 for linearizable, `None` when unknown.
    pub staleness_ms: Option<u64>,
}

/// What to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteParams {
    /// PromQL selectors; a series is meant when it matches any.
    pub matches: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// Milliseconds since the Unix epoch, inclusive.
    pub end_ms: i64,
}

/// Administration of what is stored.
pub trait AdminApi: Send + Sync {
    /// [`ErrorCode::Disabled`] when the configuration leaves this off.
    fn check(&self) -> Result<(), ApiError>;
    /// Deletes what is stored of the series that match when each shard gets to it. What is written later
    /// stays. Deleting again after an error is harmless.
    fn delete_series(&self, caller: Caller, params: DeleteParams) -> BoxFuture<'_, Result<(), ApiError>>;
}

/// The way out.
pub trait QueryApi: Send + Sync {
    /// Evaluates at one time.
    fn instant(
        &self,
        caller: Caller,
        params: InstantParams,
    ) -> BoxFuture<'_, Result<Answer<Value>, ApiError>>;
    /// Evaluates at each step. The value is a matrix.
    fn range(&self, caller: Caller, params: RangeParams) -> BoxFuture<'_, Result<Answer<Value>, ApiError>>;
    /// The series that have samples, sorted by labels, each once, with these samples.
    fn raw(
        &self,
        caller: Caller,
        params: RawParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<RawSeries>>, ApiError>>;
    /// The series that match, sorted, each once.
    fn series(
        &self,
        caller: Caller,
        params: MetaParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<Labels>>, ApiError>>;
    /// The label names of series that match, sorted, each once.
    fn label_names(
        &self,
        caller: Caller,
        params: MetaParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<String>>, ApiError>>;
    /// The values of a label in series that match, sorted, each once.
    fn label_values(
        &self,
        caller: Caller,
        name: String,
        params: MetaParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<String>>, ApiError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants() {
        for name in ["default", "team-1", "a", &"x".repeat(128)] {
            assert!(check_tenant(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "ä", "a|b", &"x".repeat(129)] {
            assert!(check_tenant(name).is_err(), "{name}");
        }
    }
}
