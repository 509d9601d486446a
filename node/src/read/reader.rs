//! Chooses a replica for each read of a shard, and goes on to the next when one fails.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use quorate_client::balance::{BackoffOptions, Balancer, Policy};
use quorate_proto::ErrorCode;
use quorate_query::source::SeriesCursor;
use quorate_storage::{Labels, Matcher, SelectLimits};

use super::freshness::Freshness;
use super::index::ReadIndexes;
use super::local::{self, Selection};
use super::remote;
use super::session::{Promise, Session};
use super::source::LocalCursor;
use crate::api::ApiError;
use crate::cluster::{CurrentView, Peers, View};
use crate::shards::Shards;

/// How the replica of a read is chosen among those that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaPolicy {
    /// This node's own replica while it can keep the promise, else round robin.
    LocalFirst,
    /// All replicas in turn.
    RoundRobin,
    /// All replicas in proportion to the weights of their nodes.
    Weighted,
}

/// How a [`Reader`] reads.
#[derive(Debug)]
pub struct ReaderOptions {
    /// How replicas are chosen.
    pub policy: ReplicaPolicy,
    /// Bounds of one selection at a replica.
    pub select: SelectLimits,
    /// Most samples taken from a replica on another node.
    pub max_samples: u64,
}

/// Reads shards, wherever their replicas are.
pub struct Reader {
    shards: Arc<Shards>,
    view: Arc<CurrentView>,
    peers: Arc<Peers>,
    indexes: Arc<ReadIndexes>,
    freshness: Arc<Freshness>,
    balancer: Mutex<Balancer<u64>>,
    options: ReaderOptions,
    started: Instant,
}

/// What of a shard to read.
#[derive(Debug, Clone, Copy)]
pub struct ShardQuery<'a> {
    /// The shard.
    pub shard: u32,
    /// All of them hold.
    pub matchers: &'a [Matcher],
    /// Oldest sample, ms, inclusive.
    pub start_ms: i64,
    /// Newest sample, ms, inclusive.
    pub end_ms: i64,
    /// Labels only, or samples too.
    pub samples: bool,
}

impl Reader {
    /// Over the local replicas and those of the peers.
    pub fn new(
        shards: Arc<Shards>,
        view: Arc<CurrentView>,
        peers: Arc<Peers>,
        indexes: Arc<ReadIndexes>,
        freshness: Arc<Freshness>,
        options: ReaderOptions,
    ) -> Arc<Reader> {
        let balancing = match options.policy {
            ReplicaPolicy::Weighted => Policy::Weighted,
            ReplicaPolicy::LocalFirst | ReplicaPolicy::RoundRobin => Policy::RoundRobin,
        };
        let mut balancer = Balancer::new(balancing, BackoffOptions::default());
        balancer.set_targets(peers.nodes().iter().map(|n| (n.id, n.weight)));
        Arc::new(Reader {
            shards,
            view,
            peers,
            indexes,
            freshness,
            balancer: Mutex::new(balancer),
            options,
            started: Instant::now(),
        })
    }

    /// Asks leaders for read indexes.
    pub fn indexes(&self) -> &ReadIndexes {
        &self.indexes
    }

    /// The current ring and placement.
    pub fn view(&self) -> Result<Arc<View>, ApiError> {
        self.view
            .get()
            .ok_or_else(|| ApiError::new(ErrorCode::Starting, "the cluster is still forming; retry"))
    }

    /// The local replicas.
    pub fn shards(&self) -> &Arc<Shards> {
        &self.shards
    }

    /// Ages of the local replicas.
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Bounds of one selection.
    pub fn limits(&self) -> &SelectLimits {
        &self.options.select
    }

    /// Series of one shard from a replica that keeps the session's promise. Each replica is tried once, and
    /// again if one only has to catch up, or if none knows how old it is before the leader is asked.
    pub async fn read(
        &self,
        session: &Session,
        query: ShardQuery<'_>,
    ) -> Result<Vec<Box<dyn SeriesCursor>>, ApiError> {
        let view = self.view()?;
        let group = view.groups.get(&query.shard).ok_or_else(|| {
            ApiError::new(
                ErrorCode::Internal,
                format!("shard {} is not placed", query.shard),
            )
        })?;
        let all = || group.replicas.iter().map(|r| r.node).collect();
        let mut left: Vec<u64> = all();
        let mut lagging = false;
        let mut failure = None;
        let mut local_first = self.options.policy == ReplicaPolicy::LocalFirst;
        while !left.is_empty() {
            let own = self.peers.own();
            let pick = match local_first && left.contains(&own) {
                true => None,
                false => self
                    .balancer
                    .lock()
                    .pick_among(self.now_ms(), |node| left.contains(node)),
            };
            local_first = false;
            let node = pick.as_ref().map_or(own, |p| p.target);
            left.retain(|n| *n != node);
            let result = match node == own {
                true => self.read_local(session, query).await,
                false => remote::read(&self.peers, session, query, node, self.options.max_samples).await,
            };
            if let Some(pick) = &pick {
                let mut balancer = self.balancer.lock();
                match &result {
                    Ok(_) => balancer.succeeded(pick),
                    Err(e) if e.code.retryable() => {
                        balancer.failed(pick, self.now_ms(), rand::random());
                    }
                    Err(_) => balancer.inconclusive(pick),
                }
            }
            match result {
                Ok(series) => return Ok(series),
                Err(e) if e.code.retryable() => {
                    lagging |= e.code == ErrorCode::TooStale;
                    failure.get_or_insert(e);
                }
                Err(e) => return Err(e),
            }
            session.remaining()?;
            if left.is_empty() && std::mem::take(&mut lagging) {
                let again = match session.promise_of(query.shard) {
                    Promise::Linearizable => true,
                    // A leader that doesn't answer either is no news: what the replicas said stands.
                    Promise::Bounded(_) => session.strengthen(self, query.shard).await.unwrap_or(false),
                    Promise::Local => false,
                };
                if again {
                    left = all();
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            ApiError::new(
                ErrorCode::TooStale,
                format!("shard {} has no replica to read", query.shard),
            )
        }))
    }

    async fn read_local(
        &self,
        session: &Session,
        query: ShardQuery<'_>,
    ) -> Result<Vec<Box<dyn SeriesCursor>>, ApiError> {
        let replica = self.shards.get(query.shard).ok_or_else(|| {
            ApiError::new(
                ErrorCode::Starting,
                format!("the replica of shard {} is not open yet", query.shard),
            )
        })?;
        let (promise, min_applied) = (session.promise_of(query.shard), session.min_applied(query.shard));
        local::fresh_enough(
            &replica,
            &self.freshness,
            promise,
            min_applied,
            session.remaining()?,
        )
        .await?;
        let selection = Selection {
            tenant: &session.tenant,
            matchers: query.matchers,
            start_ms: query.start_ms,
            end_ms: query.end_ms,
            limits: &self.options.select,
        };
        let (series, read) = local::select(&replica, &self.freshness, promise, self.peers.own(), selection)?;
        session.note(read);
        Ok(series
            .into_iter()
            .map(|s| Box::new(LocalCursor::new(s)) as Box<dyn SeriesCursor>)
            .collect())
    }

    /// Series labels of one shard.
    pub async fn labels(&self, session: &Session, query: ShardQuery<'_>) -> Result<Vec<Labels>, ApiError> {
        let series = self
            .read(
                session,
                ShardQuery {
                    samples: false,
                    ..query
                },
            )
            .await?;
        Ok(series.iter().map(|s| s.labels().clone()).collect())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
