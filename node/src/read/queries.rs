//! Answers PromQL and metadata questions: parse, open a session at the promised level, evaluate on a
//! thread of its own, report.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use quorate_proto::ErrorCode;
use quorate_query::ast::Expr;
use quorate_query::value::{Abort, EvalError, EvalOptions, Evaluated, Value};
use quorate_query::{Features, eval_instant, eval_range, parse_selector, parse_with};
use quorate_storage::{Labels, MatchOp, Matcher};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::pinning::shards_of;
use super::raw;
use super::reader::{Reader, ShardQuery};
use super::session::{Promise, Session};
use super::source::ClusterSource;
use crate::api::{
    Answer, ApiError, Caller, InstantParams, MetaParams, QueryApi, QueryCost, RangeParams, RawParams,
    RawSeries, ReadOptions,
};
use crate::cluster::View;
use crate::config::ReadLevel;

/// Settings of queries on this node.
#[derive(Debug, Clone, Copy)]
pub struct QueryLimits {
    /// The promise when the query names none.
    pub level: ReadLevel,
    /// The bound of a bounded read that names none.
    pub max_staleness: Duration,
    /// Longest query.
    pub timeout: Duration,
    /// Most samples one query may hold.
    pub max_samples: u64,
    /// Most bytes one query may hold.
    pub max_memory_bytes: u64,
    /// Most queries evaluated at a time; more wait, within their timeout.
    pub max_concurrent: u32,
    /// How far back an instant selector looks, in ms.
    pub lookback_ms: i64,
    /// Which experimental parts of PromQL are on.
    pub features: Features,
}

/// Answers queries. Clones share everything.
#[derive(Clone)]
pub struct Queries {
    reader: Arc<Reader>,
    limits: QueryLimits,
    running: Arc<Semaphore>,
}

impl Queries {
    /// Over the replicas that `reader` reaches.
    pub fn new(reader: Arc<Reader>, limits: QueryLimits) -> Queries {
        let running = Arc::new(Semaphore::new(limits.max_concurrent as usize));
        Queries {
            reader,
            limits,
            running,
        }
    }

    /// The bounds of queries.
    pub(super) fn limits(&self) -> QueryLimits {
        self.limits
    }

    /// Reads shards.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// What a request's options promise.
    pub fn promise(&self, read: ReadOptions) -> Promise {
        match read.level.unwrap_or(self.limits.level) {
            ReadLevel::Linearizable => Promise::Linearizable,
            ReadLevel::Bounded => Promise::Bounded(
                read.max_staleness_ms
                    .map_or(self.limits.max_staleness, Duration::from_millis),
            ),
            ReadLevel::Local => Promise::Local,
        }
    }

    /// The time a caller gets: its own deadline, and no more than a query may take.
    pub fn deadline(&self, caller: &Caller) -> Instant {
        caller.deadline.min(Instant::now() + self.limits.timeout)
    }

    /// Waits for a turn.
    pub async fn turn(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, ApiError> {
        let wait = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(wait, self.running.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::ShuttingDown, "the node is stopping")),
            Err(_) => Err(ApiError::new(
                ErrorCode::Overloaded,
                format!(
                    "{} queries run already (read.max_concurrent); retry",
                    self.limits.max_concurrent
                ),
            )),
        }
    }

    /// Opens a session over the shards that any of the selectors can touch.
    pub async fn session(
        &self,
        caller: &Caller,
        read: ReadOptions,
        selectors: &[&[Matcher]],
        deadline: Instant,
    ) -> Result<(Arc<View>, Arc<Session>), ApiError> {
        let view = self.reader.view()?;
        let all: Vec<u32> = view.shards().collect();
        let mut touched = BTreeSet::new();
        for matchers in selectors {
            touched.extend(shards_of(&view.ring, &all, &caller.tenant, matchers));
        }
        let (tenant, promise) = (caller.tenant.clone(), self.promise(read));
        let shards = touched.into_iter().collect();
        let session = Session::begin(&self.reader, tenant, promise, shards, deadline).await?;
        Ok((view, Arc::new(session)))
    }

    async fn evaluate(
        &self,
        caller: Caller,
        query: String,
        read: ReadOptions,
        lookback_ms: Option<i64>,
        evaluate: impl FnOnce(&Expr, &ClusterSource, &EvalOptions<'_>) -> Result<Evaluated, EvalError>
        + Send
        + 'static,
    ) -> Result<Answer<Value>, ApiError> {
        let arrived = Instant::now();
        let expr = parse_with(&query, self.limits.features)
            .map_err(|e| ApiError::new(ErrorCode::BadData, e.to_string()))?;
        let deadline = self.deadline(&caller);
        let waiting = Instant::now();
        let permit = self.turn(deadline).await?;
        let queued = waiting.elapsed();
        let selectors = selectors(&expr);
        let selectors: Vec<&[Matcher]> = selectors.iter().map(Vec::as_slice).collect();
        let (view, session) = self.session(&caller, read, &selectors, deadline).await?;
        let source = ClusterSource {
            reader: self.reader.clone(),
            session,
            view,
            runtime: Handle::current(),
        };
        let limits = self.limits;
        // Dropping the future, as frontends do when the client goes away, ends the evaluation too.
        let abandoned = Arc::new(AtomicBool::new(false));
        let guard = SetOnDrop(abandoned.clone());
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let abort = || match () {
                () if abandoned.load(Ordering::Relaxed) => Some(Abort::Canceled),
                () if Instant::now() >= deadline => Some(Abort::Timeout),
                () => None,
            };
            let options = EvalOptions {
                lookback_ms: lookback_ms.unwrap_or(limits.lookback_ms),
                max_samples: limits.max_samples,
                max_memory_bytes: limits.max_memory_bytes,
                delayed_name_removal: limits.features.delayed_name_removal,
                abort: &abort,
                ..EvalOptions::default()
            };
            let prepared = arrived.elapsed().saturating_sub(queued);
            let started = Instant::now();
            let evaluated = evaluate(&expr, &source, &options).map_err(eval_error)?;
            let cost = QueryCost {
                queued,
                prepared,
                evaluated: started.elapsed(),
                samples: evaluated.stats.samples_read,
                peak_samples: evaluated.stats.peak_samples,
            };
            let text = |annotations: Vec<quorate_query::value::Annotation>| {
                annotations.iter().map(|a| a.render(&query)).collect()
            };
            Ok(Answer {
                value: evaluated.value,
                warnings: text(evaluated.warnings),
                infos: text(evaluated.infos),
                report: source.session.report(),
                cost,
            })
        });
        let result = work.await;
        drop(guard);
        result.map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the node is stopping"))?
    }

    /// Labels of all series that match any selector, sorted, each once.
    async fn matching(&self, caller: &Caller, params: &MetaParams) -> Result<Answer<Vec<Labels>>, ApiError> {
        let mut sets = Vec::new();
        for selector in &params.matches {
            sets.push(parse_selector(selector).map_err(|e| {
                ApiError::new(ErrorCode::BadData, format!("invalid parameter \"match[]\": {e}"))
            })?);
        }
        if sets.is_empty() {
            sets.push(vec![every_series()?]);
        }
        let deadline = self.deadline(caller);
        let _permit = self.turn(deadline).await?;
        let selectors: Vec<&[Matcher]> = sets.iter().map(Vec::as_slice).collect();
        let (view, session) = self.session(caller, params.read, &selectors, deadline).await?;
        let (reader, runtime) = (self.reader.clone(), Handle::current());
        let (start_ms, end_ms) = (params.start_ms, params.end_ms);
        let reads = session.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut found = BTreeSet::new();
            for matchers in &sets {
                for shard in shards_of(&view.ring, reads.shards(), &reads.tenant, matchers) {
                    let query = ShardQuery {
                        shard,
                        matchers,
                        start_ms,
                        end_ms,
                        samples: false,
                    };
                    found.extend(runtime.block_on(reader.labels(&reads, query))?);
                }
            }
            Ok::<_, ApiError>(found.into_iter().collect())
        });
        let value = work
            .await
            .map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the node is stopping"))??;
        Ok(Answer {
            value,
            warnings: Vec::new(),
            infos: Vec::new(),
            report: session.report(),
            cost: QueryCost::default(),
        })
    }
}

impl QueryApi for Queries {
    fn instant(
        &self,
        caller: Caller,
        params: InstantParams,
    ) -> BoxFuture<'_, Result<Answer<Value>, ApiError>> {
        let InstantParams {
            query,
            time_ms,
            lookback_ms,
            read,
        } = params;
        self.evaluate(caller, query, read, lookback_ms, move |expr, source, options| {
            eval_instant(expr, source, time_ms, options)
        })
        .boxed()
    }

    fn range(&self, caller: Caller, params: RangeParams) -> BoxFuture<'_, Result<Answer<Value>, ApiError>> {
        let RangeParams {
            query,
            start_ms,
            end_ms,
            step_ms,
            lookback_ms,
            read,
        } = params;
        self.evaluate(caller, query, read, lookback_ms, move |expr, source, options| {
            eval_range(expr, source, (start_ms, end_ms, step_ms), options)
        })
        .boxed()
    }

    fn raw(
        &self,
        caller: Caller,
        params: RawParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<RawSeries>>, ApiError>> {
        raw::read(self, caller, params).boxed()
    }

    fn series(
        &self,
        caller: Caller,
        params: MetaParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<Labels>>, ApiError>> {
        async move {
            let mut answer = self.matching(&caller, &params).await?;
            answer.value.truncate(params.max_results.unwrap_or(usize::MAX));
            Ok(answer)
        }
        .boxed()
    }

    fn label_names(
        &self,
        caller: Caller,
        params: MetaParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<String>>, ApiError>> {
        async move {
            let answer = self.matching(&caller, &params).await?;
            let names: BTreeSet<&str> = answer
                .value
                .iter()
                .flat_map(|l| l.iter().map(|(name, _)| name))
                .collect();
            Ok(strings(names, &params, &answer))
        }
        .boxed()
    }

    fn label_values(
        &self,
        caller: Caller,
        name: String,
        params: MetaParams,
    ) -> BoxFuture<'_, Result<Answer<Vec<String>>, ApiError>> {
        async move {
            let answer = self.matching(&caller, &params).await?;
            let values: BTreeSet<&str> = answer.value.iter().filter_map(|l| l.get(&name)).collect();
            Ok(strings(values, &params, &answer))
        }
        .boxed()
    }
}

/// Tells a thread that nobody waits for it any more.
pub(super) struct SetOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn strings(found: BTreeSet<&str>, params: &MetaParams, from: &Answer<Vec<Labels>>) -> Answer<Vec<String>> {
    let most = params.max_results.unwrap_or(usize::MAX);
    Answer {
        value: found.into_iter().take(most).map(str::to_string).collect(),
        warnings: from.warnings.clone(),
        infos: from.infos.clone(),
        report: from.report.clone(),
        cost: from.cost,
    }
}

fn every_series() -> Result<Matcher, ApiError> {
    Matcher::new(MatchOp::Ne, "__name__", "").map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))
}

/// The matchers of every selector in the expression.
fn selectors(expr: &Expr) -> Vec<Vec<Matcher>> {
    let mut found = Vec::new();
    let mut left = vec![expr];
    while let Some(expr) = left.pop() {
        match expr {
            Expr::VectorSelector(selector) => found.push(selector.matchers.clone()),
            Expr::MatrixSelector(matrix) => found.push(matrix.selector.matchers.clone()),
            // It looks for info series of its own.
            Expr::Call(call) if call.func.name == "info" => {
                found.push(Vec::new());
                left.extend(call.args.first());
            }
            other => left.extend(other.children()),
        }
    }
    found
}

fn eval_error(error: EvalError) -> ApiError {
    let code = match &error {
        EvalError::Unsupported { .. } | EvalError::Execution(_) => ErrorCode::Execution,
        EvalError::Limit { .. } => ErrorCode::QueryLimit,
        EvalError::Aborted(Abort::Timeout) => ErrorCode::Timeout,
        EvalError::Aborted(Abort::Canceled) => ErrorCode::Canceled,
        EvalError::BadRequest(_) => ErrorCode::BadData,
        EvalError::Source(source) => match source.get::<ApiError>() {
            Some(known) => return known.clone(),
            None => ErrorCode::Internal,
        },
    };
    ApiError::new(code, error.to_string())
}
