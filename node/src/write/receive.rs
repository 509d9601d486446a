//! The way of a request through the node that received it: place, forward, resolve, reply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_ingest::{Batch, CacheHasher, DecodeLimits};
use quorate_proto::ErrorCode;
use quorate_storage::{PartOutcome, RejectReason, Rejection};

use super::forward::Forwarder;
use super::leaders::{Leader, Leaders};
use super::place::{Name, Placed, Placer, ShardPart, refuse};
use super::series_cache::{KnownSeries, SeriesCache};
use super::{Committed, ShardCommands};
use crate::api::{ApiError, Refused, WriteReport, limit_behind};
use crate::cluster::{CurrentView, View};
use crate::frontend::off_worker;
use crate::shards::Shards;

/// First and longest wait between two tries of a part.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// Tries of a part whose shard has lost its quorum, as far as this node knows: the others may be better off.
const LOST_TRIES: u32 = 2;
/// How long a node that may take no writes has for handing leadership over.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(3);
/// Rounds of "send labels": one for stale ids, one more for ids retired meanwhile, and some for quotas of
/// series that others use up meanwhile.
const LABEL_ROUNDS: u32 = 6;

/// Batches of at least so many samples are placed where nobody waits: some milliseconds.
const LARGE_BATCH_SAMPLES: usize = 50_000;

/// Where a part was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The shard.
    pub shard: u32,
    /// The ring epoch under which it was placed.
    pub epoch: u64,
    /// Term of the log entry.
    pub term: u64,
    /// Index of the log entry.
    pub index: u64,
    /// Samples of the part.
    pub samples: u64,
}

/// What became of a request.
#[derive(Debug, Default)]
pub struct WriteOutcome {
    /// The parts that are resolved for good.
    pub report: WriteReport,
    /// Where they were committed.
    pub receipts: Vec<Receipt>,
    /// Set when some part is not resolved; sending all again is harmless.
    pub failure: Option<ApiError>,
}

/// New series: position in the request, key in the cache, and what the shard said.
type Learnt = Vec<(u32, u128, KnownSeries)>;

/// The receiving side of every write frontend.
pub struct WritePath {
    view: Arc<CurrentView>,
    shards: Arc<Shards>,
    leaders: Arc<Leaders>,
    forwarder: Forwarder,
    cache: SeriesCache,
    hasher: CacheHasher,
    request_limits: DecodeLimits,
    commands: Arc<ShardCommands>,
}

impl WritePath {
    /// `commands` knows the shards and their leaders. `request_limits` bounds whole requests; what bounds a
    /// series is replicated. `seed` is random and fresh for each process.
    pub fn new(
        view: Arc<CurrentView>,
        commands: Arc<ShardCommands>,
        forwarder: Forwarder,
        cached_series: usize,
        request_limits: DecodeLimits,
        seed: u128,
    ) -> WritePath {
        WritePath {
            view,
            shards: commands.shards().clone(),
            leaders: commands.leaders().clone(),
            forwarder,
            cache: SeriesCache::new(cached_series),
            hasher: CacheHasher::new(seed),
            request_limits,
            commands,
        }
    }

    /// The most samples a second that this node takes of a tenant; 0 is no limit.
    pub fn samples_per_second(&self, tenant: &str) -> u64 {
        let view = self.view.get();
        view.map_or(0, |view| view.limits_of(tenant).max_samples_per_second)
    }

    /// The limits that a tenant's requests are decoded under: those of one series come from the meta group.
    pub fn decode_limits(&self, tenant: &str) -> DecodeLimits {
        let mut limits = self.request_limits.clone();
        let size = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        if let Some(view) = self.view.get() {
            let of_tenant = view.limits_of(tenant);
            limits.max_labels_per_series = size(of_tenant.max_labels);
            limits.max_label_name_bytes = size(of_tenant.max_label_name_bytes);
            limits.max_label_value_bytes = size(of_tenant.max_label_value_bytes);
            limits.max_metric_name_bytes = size(of_tenant.max_label_name_bytes);
        }
        limits
    }

    /// Series in the cache.
    pub fn cached_series(&self) -> usize {
        self.cache.len()
    }

    /// Stores a decoded request. Returns once every part is resolved or its time is up.
    pub async fn write(&self, tenant: &str, batch: &Batch, deadline: Instant) -> WriteOutcome {
        let Some(view) = self.view.get() else {
            let failure = ApiError::new(ErrorCode::Starting, "the cluster is still forming; retry");
            return WriteOutcome {
                failure: Some(failure),
                ..WriteOutcome::default()
            };
        };
        self.cache.enter_epoch(view.ring.epoch());
        let limits = self.decode_limits(tenant);
        let placer = Placer {
            view: &view,
            shards: &self.shards,
            cache: &self.cache,
            hasher: &self.hasher,
            limits: &limits,
            tenant,
        };
        let placed = off_worker(batch.samples() >= LARGE_BATCH_SAMPLES, || placer.place(batch));
        let mut outcome = WriteOutcome::default();
        outcome.report.rejections = placed.refused;
        for refused in &mut outcome.report.rejections {
            name_label_limit(refused, tenant);
        }
        let parts = placed
            .parts
            .into_iter()
            .map(|part| self.resolve(&placer, batch, part, deadline));
        let mut learnt = Learnt::new();
        for (part, given) in futures_util::future::join_all(parts).await {
            outcome.add(part);
            learnt.extend(given);
        }
        // In the order in which they will come again.
        learnt.sort_unstable_by_key(|(position, _, _)| *position);
        self.cache
            .insert(learnt.into_iter().map(|(_, key, known)| (key, known)));
        if mutant!("partial_acked_whole") && !outcome.receipts.is_empty() {
            outcome.failure = None;
        }
        outcome
    }

    /// Commits one part; series whose ids the shard does not know are sent again with labels.
    async fn resolve(
        &self,
        placer: &Placer<'_>,
        batch: &Batch,
        mut part: ShardPart,
        deadline: Instant,
    ) -> (WriteOutcome, Learnt) {
        let (mut outcome, mut learnt) = (WriteOutcome::default(), Learnt::new());
        for _ in 0..LABEL_ROUNDS {
            let (shard, samples) = (part.shard, part.builder.samples());
            let committed = match self
                .commit(placer.view, shard, part.builder.finish(), deadline)
                .await
            {
                Ok(committed) => committed,
                Err(e) => {
                    outcome.failure = Some(e);
                    return (outcome, learnt);
                }
            };
            learnt.extend(learn(shard, &part.series, &committed.outcome));
            outcome.receipts.push(Receipt {
                shard,
                epoch: placer.view.ring.epoch(),
                term: committed.term,
                index: committed.index,
                samples,
            });
            outcome.report.stored += committed.outcome.stored;
            outcome.report.duplicates += committed.outcome.duplicates;
            let more_quota = match self
                .more_quota(placer, (shard, &part.series), &committed.outcome, deadline)
                .await
            {
                Ok(more) => more,
                Err(e) => {
                    outcome.failure = Some(e);
                    return (outcome, learnt);
                }
            };
            for mut rejection in committed.outcome.rejections {
                if rejection.reason == RejectReason::TenantSeriesLimit {
                    if more_quota {
                        continue;
                    }
                    let limit = placer.view.limits_of(placer.tenant).max_series;
                    rejection.first += &how_to_raise("max_series", limit, placer.tenant);
                }
                let reason = rejection.reason.as_str();
                refuse(&mut outcome.report.rejections, reason, rejection.samples, || {
                    rejection.first
                });
            }
            let unknown = &committed.outcome.unknown_ids;
            if unknown.is_empty() && !more_quota {
                return (outcome, learnt);
            }
            let again: Vec<Placed> = part
                .series
                .iter()
                .filter(|s| match s.name {
                    Name::Known(id) => unknown.contains(&id),
                    Name::New(ordinal) => more_quota && !registered(&committed.outcome.new_ids, ordinal),
                })
                .copied()
                .collect();
            again.iter().for_each(|s| self.cache.remove(s.key));
            part = placer.with_labels(batch, shard, &again);
        }
        let shard = part.shard;
        let what = format!("shard {shard} asked for labels {LABEL_ROUNDS} times; retry");
        outcome.failure = Some(ApiError::new(ErrorCode::Overloaded, what));
        (outcome, learnt)
    }

    /// Whether series that the tenant had no quota for can be registered now, because there is more of it.
    async fn more_quota(
        &self,
        placer: &Placer<'_>,
        (shard, series): (u32, &[Placed]),
        outcome: &PartOutcome,
        deadline: Instant,
    ) -> Result<bool, ApiError> {
        let limited = |r: &Rejection| r.reason == RejectReason::TenantSeriesLimit;
        if !outcome.rejections.iter().any(limited) {
            return Ok(false);
        }
        // The newest, not the one that the request began with.
        let used_up = self.view.get().is_some_and(|view| view.used_up(placer.tenant));
        if used_up {
            return Ok(false);
        }
        let without_id = |s: &&Placed| matches!(s.name, Name::New(at) if !registered(&outcome.new_ids, at));
        let wanted = series.iter().filter(without_id).count() as u64;
        self.commands
            .raise_quota(shard, placer.tenant, wanted, deadline)
            .await
    }

    /// Gets a part committed by whoever leads, through changes of leadership, until the deadline.
    async fn commit(
        &self,
        view: &View,
        shard: u32,
        part: Bytes,
        deadline: Instant,
    ) -> Result<Committed, ApiError> {
        let started = Instant::now();
        let mut backoff = BACKOFF.0;
        let mut attempt = 0;
        loop {
            let tried = match self.leaders.find(shard, attempt) {
                Leader::Local(batcher) => {
                    let wait = deadline.saturating_duration_since(Instant::now());
                    tokio::time::timeout(wait, batcher.submit(part.clone()))
                        .await
                        .unwrap_or_else(|_| {
                            Err(ApiError::new(
                                ErrorCode::NoQuorum,
                                format!("shard {shard} did not commit in time"),
                            ))
                        })
                }
                Leader::Remote(node) => self.forward(view, node, shard, part.clone(), deadline).await,
                Leader::Guess(pick) => {
                    let tried = self
                        .forward(view, pick.target, shard, part.clone(), deadline)
                        .await;
                    let answered = |e: &ApiError| e.code == ErrorCode::NotLeader;
                    self.leaders
                        .guessed(&pick, tried.as_ref().err().is_none_or(answered));
                    tried
                }
                Leader::Unknown => Err(ApiError::new(
                    ErrorCode::NoLeader,
                    format!("shard {shard} has no leader at the moment"),
                )),
            };
            let error = match tried {
                Ok(committed) => return Ok(committed),
                Err(e) => e,
            };
            let over = Instant::now() + backoff >= deadline;
            if over || !worth_another_try(error.code, started.elapsed()) {
                return Err(error);
            }
            if let Some(lost) = self.leaders.lost(shard)
                && attempt >= LOST_TRIES
            {
                return Err(Leaders::no_quorum(shard, lost));
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
            attempt += 1;
        }
    }

    /// Sends a part to the leader on another node. Gives up early when leadership moves meanwhile, or the
    /// quorum is gone: what the old leader did with the part is unknown then, and sending it again is
    /// harmless.
    async fn forward(
        &self,
        view: &View,
        node: u64,
        shard: u32,
        part: Bytes,
        deadline: Instant,
    ) -> Result<Committed, ApiError> {
        let epoch = view.ring.epoch();
        tokio::select! {
            sent = self.forwarder.send(node, shard, epoch, part, deadline) => sent.map_err(|refused| {
                self.leaders.hint(shard, refused.leader);
                refused.error
            }),
            () = self.leaders.moved_from(shard, node) => {
                let what = format!("shard {shard} is not led by node {node} any more");
                Err(ApiError::new(ErrorCode::NotLeader, what))
            }
            () = self.leaders.given_up(shard) => {
                let what = format!("node {node} did not commit its part of shard {shard} in time");
                Err(ApiError::new(ErrorCode::NoLeader, what))
            }
        }
    }
}

/// Whether a series that came with labels has an id now.
fn registered(new_ids: &[u64], ordinal: u32) -> bool {
    new_ids.get(ordinal as usize).is_some_and(|id| *id != u64::MAX)
}

/// Names the limit that a refusal of labels comes from.
fn name_label_limit(refused: &mut Refused, tenant: &str) {
    let Some(name) = limit_behind(refused.reason) else {
        return;
    };
    refused.first += &format!("; to raise the limit: quorate cluster limits set {name}=N --for {tenant}");
}

fn how_to_raise(name: &str, limit: u64, tenant: &str) -> String {
    format!(
        "; the limit of all shards together is {name}={limit}; to raise it: \
         quorate cluster limits set {name}=N --for {tenant}"
    )
}

/// The ids that the shard gave to new series, with their positions in the request.
fn learn<'a>(
    shard: u32,
    series: &'a [Placed],
    outcome: &'a PartOutcome,
) -> impl Iterator<Item = (u32, u128, KnownSeries)> + 'a {
    series.iter().filter_map(move |one| {
        let Name::New(ordinal) = one.name else { return None };
        let id = *outcome.new_ids.get(ordinal as usize)?;
        (id != u64::MAX).then_some((one.position, one.key, KnownSeries { shard, id }))
    })
}

/// Leadership moves within a second or so, also away from nodes that may not lead; overload does not
/// pass by pressing on.
pub(super) fn worth_another_try(code: ErrorCode, so_far: Duration) -> bool {
    use ErrorCode::{ClockSkew, DiskReserve, DiskStalled, NoLeader, NotLeader, ShuttingDown, Starting};
    match code {
        NoLeader | NotLeader | Starting => true,
        ShuttingDown | DiskReserve | DiskStalled | ClockSkew => so_far < HANDED_OVER_WITHIN,
        _ => false,
    }
}

impl WriteOutcome {
    fn add(&mut self, part: WriteOutcome) {
        self.report.stored += part.report.stored;
        self.report.duplicates += part.report.duplicates;
        for Refused {
            reason,
            samples,
            first,
        } in part.report.rejections
        {
            refuse(&mut self.report.rejections, reason, samples, || first);
        }
        self.receipts.extend(part.receipts);
        self.failure = self.failure.take().or(part.failure);
    }
}
