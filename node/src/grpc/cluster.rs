//! `quorate.v1.Cluster`: status, checksums, leader transfer, deletion, limits.

use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::v1::cluster_server::Cluster;
use quorate_proto::v1::{
    CardinalityRequest, CardinalityResponse, ChecksumRequest, ChecksumResponse, DeleteSeriesRequest,
    DeleteSeriesResponse, GetLimitsRequest, GroupChecksum, GroupStatus, LimitValue, LimitsResponse,
    NamedCount, NodeStatus, ReplicaStatus, SeriesMemory, SetLimitsRequest, StatusRequest, StatusResponse,
    TransferLeaderRequest, TransferLeaderResponse,
};
use tonic::{Request, Response, Status};

use super::public::caller;
use super::{Cells, api_status, status};
use crate::api::{AdminApi as _, DeleteParams, check_tenant};
use crate::cardinality::NodeCardinality;
use crate::cluster::View;
use crate::cluster::meta::{Command, LIMITS, Limit, Reply};
use crate::metrics::VERSION;
use crate::node::Node;
use crate::raft::Group;

/// How long a node may take to hear of a change of the meta group that it passed on.
const LEARNED_WITHIN: Duration = Duration::from_secs(2);
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
const CARDINALITY_TIMEOUT: Duration = Duration::from_secs(60);
/// Most entries of a list.
const CARDINALITY_MAX: u32 = 10_000;

/// The service.
pub(super) struct ClusterService {
    /// The node, when it is up.
    pub cells: Cells,
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let node = self.cells.node()?;
        let view = node
            .view()
            .get()
            .ok_or_else(|| status(ErrorCode::Starting, "the cluster is still forming"))?;
        let nodes = node.peers().nodes().into_iter().map(|info| NodeStatus {
            reachable: node.peers().reachable(info.id),
            id: info.id,
            http: info.http,
            grpc: info.grpc,
            zone: info.zone,
            weight: info.weight,
        });
        Ok(Response::new(StatusResponse {
            cluster_id: view.cluster_id.clone(),
            ring_epoch: view.ring.epoch(),
            node: node.peers().own(),
            nodes: nodes.collect(),
            groups: view
                .groups
                .keys()
                .map(|group| group_status(&node, &view, *group))
                .collect(),
            version: VERSION.into(),
        }))
    }

    async fn checksum(
        &self,
        request: Request<ChecksumRequest>,
    ) -> Result<Response<ChecksumResponse>, Status> {
        let node = self.cells.node()?;
        let wanted = request.into_inner().groups;
        let replicas = node.shards().all();
        let chosen = replicas
            .into_iter()
            .filter(|r| wanted.is_empty() || wanted.contains(&r.id()));
        let mut groups = Vec::new();
        for replica in chosen {
            let shard = replica.storage().clone();
            let sum = tokio::task::spawn_blocking(move || shard.checksum())
                .await
                .map_err(|_| status(ErrorCode::ShuttingDown, "the node is stopping"))?
                .map_err(|e| status(ErrorCode::Internal, e.to_string()))?;
            groups.push(GroupChecksum {
                group: replica.id(),
                applied_index: sum.position.map_or(0, |p| p.index),
                checksum: sum.checksum,
                series: sum.series,
                samples: sum.samples,
            });
        }
        Ok(Response::new(ChecksumResponse {
            node: node.peers().own(),
            groups,
        }))
    }

    async fn cardinality(
        &self,
        request: Request<CardinalityRequest>,
    ) -> Result<Response<CardinalityResponse>, Status> {
        let node = self.cells.node()?;
        let tenant = caller(request.metadata(), CARDINALITY_TIMEOUT)?.tenant;
        let limit = match request.into_inner().limit {
            0 => 10,
            limit => limit.min(CARDINALITY_MAX) as usize,
        };
        let own = node.peers().own();
        let answer = tokio::task::spawn_blocking(move || {
            let shards = node.shards().all();
            let shards: Vec<_> = shards.iter().map(|r| r.storage().clone()).collect();
            let all_series = shards.iter().map(|shard| shard.stats().series).sum();
            let counted = NodeCardinality::of(&shards, &tenant);
            cardinality_response(&counted, own, all_series, limit)
        });
        let answer = answer
            .await
            .map_err(|_| status(ErrorCode::ShuttingDown, "the node is stopping"))?;
        Ok(Response::new(answer))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let node = self.cells.node()?;
        let TransferLeaderRequest { group, to_node } = request.into_inner();
        let view = node
            .view()
            .get()
            .ok_or_else(|| status(ErrorCode::Starting, "the cluster is still forming"))?;
        let to = view
            .groups
            .get(&group)
            .and_then(|g| g.on(to_node))
            .ok_or_else(|| {
                status(
                    ErrorCode::NotFound,
                    format!("node {to_node} holds no replica of group {group}"),
                )
            })?;
        let local = local_group(&node, group).ok_or_else(|| {
            status(
                ErrorCode::NotLeader,
                format!("this node holds no replica of group {group}"),
            )
        })?;
        local
            .transfer_leader(to, TRANSFER_TIMEOUT)
            .await
            .map_err(|e| status(ErrorCode::NotLeader, e.to_string()))?;
        Ok(Response::new(TransferLeaderResponse {}))
    }

    async fn delete_series(
        &self,
        request: Request<DeleteSeriesRequest>,
    ) -> Result<Response<DeleteSeriesResponse>, Status> {
        let _inside = self.cells.public.enter()?;
        let node = self.cells.node()?;
        let caller = caller(request.metadata(), self.cells.write_timeout)?;
        let request = request.into_inner();
        let params = DeleteParams {
            matches: request.matches,
            start_ms: request.start_ms.unwrap_or(i64::MIN),
            end_ms: request.end_ms.unwrap_or(i64::MAX),
        };
        let deleted = node.admin().delete_series(caller, params).await;
        deleted.map_err(api_status)?;
        Ok(Response::new(DeleteSeriesResponse {}))
    }

    async fn get_limits(
        &self,
        request: Request<GetLimitsRequest>,
    ) -> Result<Response<LimitsResponse>, Status> {
        let node = self.cells.node()?;
        limits(&node, request.into_inner().tenant).map(Response::new)
    }

    async fn set_limits(
        &self,
        request: Request<SetLimitsRequest>,
    ) -> Result<Response<LimitsResponse>, Status> {
        let node = self.cells.node()?;
        let SetLimitsRequest { tenant, changes } = request.into_inner();
        if let Some(tenant) = &tenant {
            check_tenant(tenant).map_err(api_status)?;
        }
        let changes: Vec<_> = changes
            .into_iter()
            .map(|change| (change.name, change.value))
            .collect();
        let command = Command::SetLimits {
            tenant: tenant.clone(),
            changes: changes.clone(),
        };
        match node.commands().set_limits(&command).await.map_err(api_status)? {
            Reply::Refused(why) => Err(status(ErrorCode::BadData, why)),
            _ => {
                learned(&node, tenant.as_deref(), &changes).await;
                let shards: Vec<u32> = node
                    .view()
                    .get()
                    .map(|v| v.shards().collect())
                    .unwrap_or_default();
                let deadline = std::time::Instant::now() + self.cells.write_timeout;
                let spread = node
                    .commands()
                    .spread_limits(shards.into_iter(), tenant.as_deref(), deadline);
                // They are set; a shard without a leader gets them when it has one.
                spread.await.map_err(|e| {
                    status(
                        e.code,
                        format!("the limits are set, but not in force everywhere yet: {e}"),
                    )
                })?;
                limits(&node, tenant).map(Response::new)
            }
        }
    }
}

/// Waits until this node knows of changes that the meta group has made, or somebody else has changed them
/// again.
async fn learned(node: &Node, tenant: Option<&str>, changes: &[(String, Option<u64>)]) {
    let known = || {
        node.view().get().is_some_and(|view| {
            let own = tenant.map(|tenant| view.tenants.own(tenant));
            changes.iter().all(|(name, value)| match &own {
                Some(own) => own.get(name) == value.as_ref(),
                None => view.limits.value(name) == *value,
            })
        })
    };
    let until = tokio::time::Instant::now() + LEARNED_WITHIN;
    while !known() && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The limits that count for all tenants, or for one, as this node knows them.
fn limits(node: &Node, tenant: Option<String>) -> Result<LimitsResponse, Status> {
    let view = node
        .view()
        .get()
        .ok_or_else(|| status(ErrorCode::Starting, "the cluster is still forming"))?;
    let own = tenant.map(|tenant| view.tenants.own(&tenant)).unwrap_or_default();
    let value = |limit: &Limit| LimitValue {
        name: limit.name.into(),
        value: own
            .get(limit.name)
            .copied()
            .or_else(|| view.limits.value(limit.name))
            .unwrap_or_default(),
        own: own.contains_key(limit.name),
        time: limit.is_time,
        by_tenant: limit.by_tenant,
    };
    Ok(LimitsResponse {
        limits: LIMITS.iter().map(value).collect(),
        tenants: view.tenants.with_limits().map(str::to_owned).collect(),
    })
}

fn cardinality_response(
    counted: &NodeCardinality,
    node: u64,
    all_series: u64,
    limit: usize,
) -> CardinalityResponse {
    let named = |list: Vec<(String, u64)>| -> Vec<NamedCount> {
        list.into_iter()
            .map(|(name, count)| NamedCount { name, count })
            .collect()
    };
    let (series, memory) = (&counted.series, counted.series.memory);
    CardinalityResponse {
        node,
        shards: counted.shards,
        active_series: series.active_series,
        registered_series: series.registered_series,
        label_pairs: series.label_pairs(),
        series_by_metric: named(series.series_by_metric(limit)),
        values_by_label: named(series.values_by_label(limit)),
        value_bytes_by_label: named(series.value_bytes_by_label(limit)),
        series_by_pair: named(series.series_by_pair(limit)),
        all_series,
        memory: Some(SeriesMemory {
            series: memory.series,
            labels: memory.labels,
            symbols: memory.symbols,
            postings: memory.postings,
            chunks: memory.chunks,
        }),
        head_chunks: series.head_chunks,
        head_samples: counted.head_samples,
        flushed_chunks: counted.flushed_chunks,
        flushed_samples: counted.flushed_samples,
        flushed_bytes: counted.flushed_bytes,
    }
}

fn local_group(node: &Node, group: u32) -> Option<Group> {
    node.groups().into_iter().find(|g| g.group() == group)
}

fn group_status(node: &Node, view: &View, id: u32) -> GroupStatus {
    let mut answer = GroupStatus {
        group: id,
        ..GroupStatus::default()
    };
    if let Some(info) = view.groups.get(&id) {
        let replicas = info.replicas.iter();
        answer.replicas = replicas
            .map(|r| ReplicaStatus {
                replica: r.replica,
                node: r.node,
                voter: true,
            })
            .collect();
    }
    answer.leader_node = node.leaders().node(id);
    if let Some(group) = local_group(node, id) {
        let status = group.status();
        answer.term = status.term;
        answer.leader_node = status.leader.and_then(|leader| view.node_of(id, leader));
        answer.last_log_index = status.last_log.unwrap_or(0);
        answer.committed_index = status.committed.map_or(0, |p| p.index);
        answer.applied_index = status.applied.map_or(0, |p| p.index);
        answer.flushed_index = status.snapshot.map_or(0, |p| p.index);
        answer.state = format!("{:?}", status.role).to_lowercase();
        let voters: Vec<u64> = status.voters.into_iter().flatten().collect();
        for replica in &mut answer.replicas {
            replica.voter = voters.contains(&replica.replica);
        }
    }
    if let Some(replica) = node.shards().get(id) {
        answer.series = replica.storage().stats().series;
        answer.flushed_index = replica.storage().durable().position.map_or(0, |p| p.index);
    }
    answer
}
