//! `quorate.v1.Cluster`: status, checksums, leader transfer.

use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::v1::cluster_server::Cluster;
use quorate_proto::v1::{
    ChecksumRequest, ChecksumResponse, GroupChecksum, GroupStatus, NodeStatus, ReplicaStatus, StatusRequest,
    StatusResponse, TransferLeaderRequest, TransferLeaderResponse,
};
use tonic::{Request, Response, Status};

use super::{Cells, status};
use crate::cluster::View;
use crate::metrics::VERSION;
use crate::node::Node;
use crate::raft::Group;

const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

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
