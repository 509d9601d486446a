//! Commands other than writes for shards: found their way to the leader, which puts them into the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use quorate_proto::ErrorCode;
use quorate_proto::internal::peer_client::PeerClient;
use quorate_proto::internal::shard_command_request::Command as Body;
use quorate_proto::internal::{
    MatcherSet, QuotaRequest, SampleDeletion, ShardCommandRequest, ShardCommandResponse,
};
use quorate_storage::{Deletion, MAX_DELETION_MATCHERS, encode_deletion_entry};

use super::batcher::propose_error;
use super::leaders::{Leader, Leaders};
use super::quota::{Lease, Quotas};
use super::receive::{BACKOFF, worth_another_try};
use crate::api::ApiError;
use crate::cluster::meta::{Command as MetaCommand, Reply};
use crate::cluster::{Gate, Peers, Purpose};
use crate::read::{matcher_from_proto, matcher_to_proto};
use crate::shards::{ShardReplica, Shards};

/// Deletions of flushed samples that a shard remembers at most; each costs every read a little.
const MAX_TOMBSTONES: u64 = 1_000;

/// Sends commands to the leaders of shards, and carries out those that others send.
pub struct ShardCommands {
    shards: Arc<Shards>,
    leaders: Arc<Leaders>,
    peers: Arc<Peers>,
    gate: Arc<Gate>,
    quotas: Quotas,
}

impl ShardCommands {
    /// Over the known leaders. `gate` stamps what is proposed here, `quotas` asks the meta group.
    pub fn new(
        shards: Arc<Shards>,
        leaders: Arc<Leaders>,
        peers: Arc<Peers>,
        gate: Arc<Gate>,
        quotas: Quotas,
    ) -> ShardCommands {
        ShardCommands {
            shards,
            leaders,
            peers,
            gate,
            quotas,
        }
    }

    pub(super) fn shards(&self) -> &Arc<Shards> {
        &self.shards
    }

    pub(super) fn leaders(&self) -> &Arc<Leaders> {
        &self.leaders
    }

    /// Deletes samples from every one of `shards`. Returns once each leader has applied it. After an error
    /// some shards may have done so; deleting again is harmless.
    pub async fn delete(
        &self,
        shards: impl Iterator<Item = u32>,
        deletion: &Deletion,
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let matchers: usize = deletion.matcher_sets.iter().map(|set| set.len() + 1).sum();
        if matchers > MAX_DELETION_MATCHERS {
            let what = format!("expected at most {MAX_DELETION_MATCHERS} matchers, found {matchers}");
            return Err(ApiError::new(ErrorCode::BadData, what));
        }
        let body = Body::Deletion(to_proto(deletion));
        let runs = shards.map(|shard| self.run(shard, &body, deadline));
        let outcomes = futures_util::future::join_all(runs).await;
        outcomes.into_iter().try_for_each(|done| done.map(drop))
    }

    /// Asks for room for `wanted` more series of a tenant on a shard. Whether there is some now.
    pub async fn raise_quota(
        &self,
        shard: u32,
        tenant: &str,
        wanted: u64,
        deadline: Instant,
    ) -> Result<bool, ApiError> {
        let request = QuotaRequest {
            tenant: tenant.to_owned(),
            wanted,
            epoch: self.quotas.epoch()?,
        };
        self.run(shard, &Body::Quota(request), deadline).await
    }

    /// Changes limits through the meta group.
    pub async fn set_limits(&self, command: &MetaCommand) -> Result<Reply, ApiError> {
        self.quotas.command(command).await
    }

    /// Brings the limits that this node knows of into the log of every one of `shards`, so that none decides
    /// by older ones any more.
    pub async fn spread_limits(
        &self,
        shards: impl Iterator<Item = u32>,
        tenant: Option<&str>,
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let runs = shards.map(|shard| self.raise_quota(shard, tenant.unwrap_or_default(), 0, deadline));
        let outcomes = futures_util::future::join_all(runs).await;
        outcomes.into_iter().try_for_each(|done| done.map(drop))
    }

    /// Gets a command carried out by whoever leads, through changes of leadership, until the deadline.
    async fn run(&self, shard: u32, body: &Body, deadline: Instant) -> Result<bool, ApiError> {
        let started = Instant::now();
        let mut backoff = BACKOFF.0;
        let mut attempt = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let tried = match self.leaders.find(shard, attempt) {
                Leader::Local(_) => tokio::time::timeout(left, self.execute(shard, body.clone(), deadline))
                    .await
                    .unwrap_or_else(|_| Err(late(shard))),
                Leader::Remote(node) => self.ask(node, shard, body, left).await,
                Leader::Guess(pick) => {
                    let tried = self.ask(pick.target, shard, body, left).await;
                    let refused = |e: &ApiError| e.code == ErrorCode::NotLeader;
                    self.leaders
                        .guessed(&pick, tried.as_ref().err().is_none_or(refused));
                    tried
                }
                Leader::Unknown => {
                    let what = format!("shard {shard} has no leader at the moment");
                    Err(ApiError::new(ErrorCode::NoLeader, what))
                }
            };
            let error = match tried {
                Ok(granted) => return Ok(granted),
                Err(error) => error,
            };
            let over = Instant::now() + backoff >= deadline;
            if over || !worth_another_try(error.code, started.elapsed()) {
                return Err(error);
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
            attempt += 1;
        }
    }

    async fn ask(&self, node: u64, shard: u32, body: &Body, left: Duration) -> Result<bool, ApiError> {
        let failed = |e: tonic::Status| {
            ApiError::new(
                crate::grpc::code_of(&e),
                format!("command at node {node}: {}", e.message()),
            )
        };
        let request = ShardCommandRequest {
            shard,
            timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            command: Some(body.clone()),
        };
        let channel = self.peers.channel(node, Purpose::Forward).map_err(failed)?;
        let mut client = PeerClient::new(channel);
        let call = client.command(self.peers.request(request, Some(left)));
        let reply = tokio::time::timeout(left, call).await.map_err(|_| late(shard))?;
        let reply = reply.map_err(failed)?.into_inner();
        self.peers.answered(node);
        if reply.code.is_empty() {
            return Ok(reply.granted);
        }
        let code = ErrorCode::from_name(&reply.code).unwrap_or(ErrorCode::Internal);
        // None takes back a hint that turned out wrong.
        if code == ErrorCode::NotLeader {
            self.leaders.hint(shard, reply.leader_node);
        }
        Err(ApiError::new(code, reply.message))
    }

    /// Carries out a command of a peer, if this node leads the shard.
    pub async fn serve(&self, request: ShardCommandRequest) -> ShardCommandResponse {
        let shard = request.shard;
        let wait = Duration::from_millis(request.timeout_ms.into());
        let done = match request.command {
            Some(body) => tokio::time::timeout(wait, self.execute(shard, body, Instant::now() + wait))
                .await
                .unwrap_or_else(|_| Err(late(shard))),
            None => Err(ApiError::new(
                ErrorCode::BadData,
                "the command is unknown to this node; upgrade it",
            )),
        };
        let error = match done {
            Ok(granted) => {
                return ShardCommandResponse {
                    granted,
                    ..ShardCommandResponse::default()
                };
            }
            Err(error) => error,
        };
        ShardCommandResponse {
            leader_node: (error.code == ErrorCode::NotLeader)
                .then(|| self.leaders.node(shard))
                .flatten(),
            code: error.code.name().into(),
            message: error.message,
            granted: false,
        }
    }

    /// The leader's side.
    async fn execute(&self, shard: u32, body: Body, deadline: Instant) -> Result<bool, ApiError> {
        let Some(replica) = self.shards.get(shard).filter(|replica| replica.leads()) else {
            let what = format!("this node does not lead shard {shard}");
            return Err(ApiError::new(ErrorCode::NotLeader, what));
        };
        match body {
            Body::Deletion(deletion) => self.delete_here(&replica, deletion).await.map(|()| true),
            Body::Quota(request) if request.epoch > self.quotas.epoch()? => {
                let what =
                    format!("this node has not heard of the newest limits of shard {shard} yet; retry");
                Err(ApiError::new(ErrorCode::Starting, what))
            }
            Body::Quota(QuotaRequest { tenant, .. }) if tenant.is_empty() => {
                self.quotas.enter(&replica).await.map(|_| true)
            }
            Body::Quota(QuotaRequest {
                tenant, wanted: 0, ..
            }) => {
                let held = self.quotas.held(&replica, &tenant).await?;
                self.quotas.lease(shard, &tenant, held, 0).await.map(|_| true)
            }
            Body::Quota(QuotaRequest { tenant, wanted, .. }) => {
                self.raise_here(&replica, &tenant, wanted, deadline).await
            }
        }
    }

    /// Waits, if need be, until every other shard has told the meta group what it holds.
    fn raise_here<'a>(
        &'a self,
        replica: &'a ShardReplica,
        tenant: &'a str,
        wanted: u64,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        let raised = async move {
            let shard = replica.id();
            // One at a time for each shard, so that requests at the same moment don't each take a share.
            let turn = self.quotas.turn(shard);
            let _turn = turn.lock().await;
            loop {
                let held = self.quotas.held(replica, tenant).await?;
                let (registered, _) = replica.storage().tenant_series(tenant);
                let free = held.saturating_sub(registered);
                if free >= wanted {
                    return Ok(true);
                }
                match self.quotas.lease(shard, tenant, held, wanted - free).await? {
                    Lease::Series(series) => {
                        if series > held {
                            self.quotas.put(replica, tenant, series).await?;
                        }
                        return Ok(series > registered);
                    }
                    Lease::Awaits(shards) => {
                        // These calls take no turn, so shards can wait for each other.
                        let told = shards
                            .iter()
                            .map(|other| self.raise_quota(*other, tenant, 0, deadline));
                        let told = futures_util::future::join_all(told).await;
                        told.into_iter()
                            .try_for_each(|told: Result<bool, ApiError>| told.map(drop))?;
                    }
                }
            }
        };
        raised.boxed()
    }

    async fn delete_here(&self, replica: &ShardReplica, deletion: SampleDeletion) -> Result<(), ApiError> {
        let tombstones = replica.storage().stats().tombstones;
        if tombstones >= MAX_TOMBSTONES {
            let what = format!(
                "{tombstones} deletions of shard {} wait for its old samples to be compacted; retry later, \
                 and delete with fewer and wider windows",
                replica.id()
            );
            return Err(ApiError::new(ErrorCode::Overloaded, what));
        }
        let deletion = from_proto(deletion)?;
        let entry = encode_deletion_entry(self.gate.stamp()?, &deletion);
        let proposed = replica.group().propose(entry).await;
        proposed.map(drop).map_err(|e| propose_error(&e))
    }
}

fn late(shard: u32) -> ApiError {
    ApiError::new(
        ErrorCode::NoQuorum,
        format!("shard {shard} did not answer in time"),
    )
}

fn to_proto(deletion: &Deletion) -> SampleDeletion {
    let set = |set: &Vec<quorate_storage::Matcher>| MatcherSet {
        matchers: set.iter().map(matcher_to_proto).collect(),
    };
    SampleDeletion {
        tenant: deletion.tenant.clone(),
        matcher_sets: deletion.matcher_sets.iter().map(set).collect(),
        start_ms: deletion.start_ms,
        end_ms: deletion.end_ms,
    }
}

fn from_proto(deletion: SampleDeletion) -> Result<Deletion, ApiError> {
    crate::api::check_tenant(&deletion.tenant)?;
    let set = |set: MatcherSet| set.matchers.iter().map(matcher_from_proto).collect();
    Ok(Deletion {
        tenant: deletion.tenant,
        matcher_sets: deletion
            .matcher_sets
            .into_iter()
            .map(set)
            .collect::<Result<_, _>>()?,
        start_ms: deletion.start_ms,
        end_ms: deletion.end_ms,
    })
}
