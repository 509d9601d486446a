//! Has the cluster come up?

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_client::{Client, StatusResponse};

use super::directory::NodeEntry;
use super::node::SHARDS;

/// Longest wait for a node's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_000);

/// How far the cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Progress {
    /// Nodes that answer.
    pub(super) answering: usize,
    pub(super) nodes: usize,
    /// The node that leads each group, as the nodes tell it; group 0 is `meta`.
    pub(super) leaders: BTreeMap<u32, u64>,
}

impl Progress {
    /// All nodes answer and every group has a leader.
    pub(super) fn is_complete(&self) -> bool {
        self.answering == self.nodes && (0..=SHARDS).all(|group| self.leaders.contains_key(&group))
    }

    pub(super) fn describe(&self) -> String {
        let Self { answering, nodes, .. } = self;
        let shards = self.leaders.keys().filter(|group| **group > 0).count();
        format!("{answering} of {nodes} nodes answer, {shards} of {SHARDS} shards have a leader")
    }

    fn from_statuses(nodes: usize, statuses: &[StatusResponse]) -> Self {
        let groups = statuses.iter().flat_map(|status| &status.groups);
        let leaders = groups
            .filter_map(|group| Some((group.group, group.leader_node?)))
            .collect();
        Self {
            answering: statuses.len(),
            nodes,
            leaders,
        }
    }
}

/// Asks all nodes at once.
pub(super) async fn progress(nodes: &[NodeEntry]) -> Progress {
    let asked = nodes.iter().map(|node| tokio::spawn(status(node.grpc.clone())));
    let asked: Vec<_> = asked.collect();
    let mut statuses = Vec::new();
    for answer in asked {
        statuses.extend(answer.await.ok().flatten());
    }
    Progress::from_statuses(nodes.len(), &statuses)
}

/// A node's answer; none while it has none.
pub(super) async fn status(grpc: String) -> Option<StatusResponse> {
    let builder = Client::builder()
        .endpoint(grpc)
        .timeout(ANSWER_TIMEOUT)
        .max_attempts(1);
    builder.connect().ok()?.status().await.ok()
}

#[cfg(test)]
mod tests {
    use quorate_client::GroupStatus;

    use super::*;

    fn answer(groups: &[(u32, Option<u64>)]) -> StatusResponse {
        let group = |(group, leader_node): &(u32, Option<u64>)| GroupStatus {
            group: *group,
            leader_node: *leader_node,
            ..Default::default()
        };
        StatusResponse {
            groups: groups.iter().map(group).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn complete_means_every_node_and_every_group() {
        let half: Vec<_> = (0..5).map(|group| (group, Some(1))).collect();
        let mut rest: Vec<_> = (0..9).map(|group| (group, (group >= 5).then_some(2))).collect();
        let both = [answer(&half), answer(&rest)];
        assert!(Progress::from_statuses(2, &both).is_complete());
        assert!(!Progress::from_statuses(3, &both).is_complete());
        rest[7].1 = None;
        let progress = Progress::from_statuses(2, &[answer(&half), answer(&rest)]);
        assert!(!progress.is_complete());
        assert_eq!(
            progress.describe(),
            "2 of 2 nodes answer, 7 of 8 shards have a leader"
        );
    }
}
