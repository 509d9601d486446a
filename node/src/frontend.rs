//! What both write frontends share: decoding off the async threads where it is long, counting, and
//! the one outcome that clients see.

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use quorate_ingest::{Batch, DecodeError, DecodeLimits, decode_snappy_write_request};
use quorate_proto::ErrorCode;

use crate::api::{ApiError, RemoteWrite, WriteApi, WriteReport};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::write::{RateLimits, WriteOutcome, WritePath};

/// Batches kept for reuse, and the most memory that a kept one may hold.
const POOLED: usize = 16;
const POOLED_BYTES: usize = 8 << 20;

/// Compressed bodies of at least this size are decoded where nobody waits: some milliseconds.
const LARGE_BODY_BYTES: usize = 256 << 10;

/// Runs `work` here, but if it is `long`, lets another thread take over the tasks of this worker meanwhile:
/// heartbeats are among them.
pub(crate) fn off_worker<T>(long: bool, work: impl FnOnce() -> T) -> T {
    let handle = tokio::runtime::Handle::try_current();
    let many = |handle: tokio::runtime::Handle| {
        handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread
    };
    match long && handle.is_ok_and(many) {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

/// Takes writes from every protocol.
pub struct WriteFrontend {
    path: WritePath,
    metrics: Arc<Metrics>,
    pool: Mutex<Vec<Batch>>,
    rates: RateLimits,
    memory: Arc<MemoryBudget>,
}

impl WriteFrontend {
    /// In front of `path`, closed while `memory` is used up.
    pub fn new(path: WritePath, metrics: Arc<Metrics>, memory: Arc<MemoryBudget>) -> WriteFrontend {
        WriteFrontend {
            path,
            metrics,
            pool: Mutex::default(),
            rates: RateLimits::default(),
            memory,
        }
    }

    /// The limits that a tenant's requests are decoded under.
    pub fn decode_limits(&self, tenant: &str) -> DecodeLimits {
        self.path.decode_limits(tenant)
    }

    /// Series whose ids are remembered.
    pub fn cached_series(&self) -> usize {
        self.path.cached_series()
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch {
        self.pool.lock().pop().unwrap_or_default()
    }

    /// Gives a batch back.
    pub fn recycle(&self, mut batch: Batch) {
        batch.clear();
        let mut pool = self.pool.lock();
        if pool.len() < POOLED && batch.retained_bytes() <= POOLED_BYTES {
            pool.push(batch);
        }
    }

    /// Stores a batch and counts what became of it.
    pub async fn store(
        &self,
        protocol: &'static str,
        tenant: &str,
        batch: &Batch,
        deadline: Instant,
    ) -> WriteOutcome {
        if let Err(e) = self.admit(tenant, batch) {
            return WriteOutcome {
                failure: Some(e),
                ..WriteOutcome::default()
            };
        }
        let outcome = self.path.write(tenant, batch, deadline).await;
        self.metrics.count_write(protocol, &outcome.report);
        outcome
    }

    /// Refuses while there is no memory, before any is used.
    pub fn shed(&self) -> Result<(), ApiError> {
        self.memory.check().inspect_err(|_| self.metrics.count_shed())
    }

    /// Refuses what a tenant's rate does not allow.
    fn admit(&self, tenant: &str, batch: &Batch) -> Result<(), ApiError> {
        let per_second = self.path.samples_per_second(tenant);
        let samples: usize = match per_second {
            0 => return Ok(()),
            _ => batch.iter().map(|series| series.timestamps().len()).sum(),
        };
        let taken = self
            .rates
            .take(tenant, samples as u64, per_second, Instant::now());
        taken.map_err(|wait| {
            self.metrics
                .count_limited("max_samples_per_second", samples as u64);
            let what = format!(
                "tenant {tenant} sends more than max_samples_per_second={per_second} to this node; \
                 to raise the limit: quorate cluster limits set max_samples_per_second=N --for {tenant}"
            );
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            ApiError::new(ErrorCode::RateLimited, what).retry_after(wait_ms.max(1))
        })
    }

    async fn remote_write_1(&self, request: RemoteWrite) -> Result<WriteReport, ApiError> {
        let RemoteWrite {
            caller,
            body,
            mut charge,
        } = request;
        self.shed()?;
        let mut batch = self.batch();
        let limits = self.decode_limits(&caller.tenant);
        let decoded = off_worker(body.len() >= LARGE_BODY_BYTES, || {
            decode_snappy_write_request(&body, &limits, &mut batch)
        });
        drop(body);
        if let Err(e) = decoded {
            self.recycle(batch);
            return Err(decode_error(&e));
        }
        let result = match charge.grow(batch.retained_bytes() as u64) {
            Ok(()) => {
                let outcome = self
                    .store("remote_write_1", &caller.tenant, &batch, caller.deadline)
                    .await;
                let refused = !outcome.report.rejections.is_empty();
                match outcome.failure {
                    Some(_) if refused && mutant!("drop_400_for_retryable") => Ok(outcome.report),
                    Some(failure) => Err(failure),
                    None => Ok(outcome.report),
                }
            }
            Err(e) => Err(e),
        };
        self.recycle(batch);
        result
    }
}

impl WriteApi for WriteFrontend {
    fn remote_write(&self, request: RemoteWrite) -> BoxFuture<'_, Result<WriteReport, ApiError>> {
        self.remote_write_1(request).boxed()
    }
}

/// What a client sees of a request that can't be read.
pub(crate) fn decode_error(error: &DecodeError) -> ApiError {
    let code = match error {
        DecodeError::TooLarge { .. } => ErrorCode::TooLarge,
        DecodeError::RemoteWrite2 => ErrorCode::UnsupportedMedia,
        DecodeError::Snappy { .. } | DecodeError::Protobuf { .. } => ErrorCode::BadData,
    };
    ApiError::new(code, error.to_string())
}
