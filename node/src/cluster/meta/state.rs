//! What the meta group replicates: nodes, ring, placement, limits. Changed by commands alone.

use std::collections::BTreeMap;

use quorate_raft_log::{GroupId, ReplicaId};
use quorate_ring::Ring;
use serde::{Deserialize, Serialize};

use super::limits::{LeaseRequest, Tenants, lease, set_limits};

/// The meta group's id; shards are the groups from 1.
pub const META_GROUP: GroupId = 0;
/// Replica ids below this are given out at founding, by the position of the node.
pub const FIRST_ALLOTTED_REPLICA: ReplicaId = 1_000;

/// A node as its peers know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Never reused.
    pub id: u64,
    /// `host:port` that peers and clients dial.
    pub grpc: String,
    /// `host:port` of the HTTP frontend.
    pub http: String,
    /// Replicas of a shard prefer distinct zones.
    pub zone: String,
    /// Share of shards and leaders, relative to the other nodes.
    pub weight: f64,
}

/// A replica of a group and where it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Never reused, not even on the same node.
    pub replica: ReplicaId,
    /// The node that holds it.
    pub node: u64,
}

/// Limits that decide what is stored. Configuration only seeds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterLimits {
    /// How far behind its series' newest sample an out-of-order sample may be.
    pub ooo_window_ms: u64,
    /// Age at which samples expire.
    pub retention_ms: u64,
    /// How far ahead of the leader's clock a sample may be.
    pub max_ahead_ms: u64,
    /// Series a shard takes; further ones are rejected.
    pub max_series_per_shard: u64,
    /// Labels of one series, `__name__` included.
    pub max_labels: u32,
    /// Bytes of a label name.
    pub max_label_name_bytes: u32,
    /// Bytes of a label value.
    pub max_label_value_bytes: u32,
    /// Series of one tenant in the whole cluster; 0 is no limit.
    pub max_series: u64,
    /// Samples a second that one node takes of one tenant; 0 is no limit.
    pub max_samples_per_second: u64,
}

/// A Raft group and who should hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// The wanted replicas. Raft's own membership follows through the reconciler.
    pub replicas: Vec<ReplicaInfo>,
    /// The node that should lead while it can.
    pub preferred_leader: u64,
    /// The replicas that the group was founded with: only they may initialize it.
    pub founders: Vec<ReplicaInfo>,
}

impl GroupInfo {
    /// The replica on `node`, if it holds one.
    pub fn on(&self, node: u64) -> Option<ReplicaId> {
        self.replicas.iter().find(|r| r.node == node).map(|r| r.replica)
    }

    /// The node of `replica`, if the group has it.
    pub fn node_of(&self, replica: ReplicaId) -> Option<u64> {
        let mut all = self.replicas.iter().chain(&self.founders);
        all.find(|r| r.replica == replica).map(|r| r.node)
    }
}

/// The cluster, once bootstrapped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Random id made by the founder.
    pub id: String,
    /// The encoded ring, see `quorate_ring::Ring::encode`.
    pub ring: Vec<u8>,
    /// Copies of every shard.
    pub replication_factor: u32,
    /// What is stored and refused.
    pub limits: ClusterLimits,
    /// Nodes by id.
    pub nodes: BTreeMap<u64, NodeInfo>,
    /// Groups by id, the meta group included.
    pub groups: BTreeMap<GroupId, GroupInfo>,
    /// The next replica id to allot.
    pub next_replica: ReplicaId,
    /// The last join of each node, so that a repeated request gets the same answer.
    pub joins: BTreeMap<u64, u64>,
    /// What tenants have of their own.
    pub tenants: Tenants,
}

/// A change of the meta state. Discriminants are the order of this list: append only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Makes the cluster; ignored when there is one.
    Bootstrap(Box<Cluster>),
    /// A node's addresses, zone or weight.
    UpsertNode(NodeInfo),
    /// A node came back empty: every replica it held is replaced by a new one.
    Join {
        /// The node.
        node: NodeInfo,
        /// Random, made by the joining data directory.
        nonce: u64,
    },
    /// Changes limits: of one tenant, or those that count for all that have none of their own.
    SetLimits {
        /// Absent: for all.
        tenant: Option<String>,
        /// Names and new values; no value gives a tenant's limit up for that of all.
        changes: Vec<(String, Option<u64>)>,
    },
    /// A shard asks for a larger share of a tenant's series.
    Lease(LeaseRequest),
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Applied, or nothing to do.
    Done,
    /// The meta replica allotted to a joining node, and all others of that group.
    Joined {
        /// The joiner's replica of the meta group.
        meta_replica: ReplicaId,
        /// Where all replicas of the meta group live.
        meta_replicas: Vec<(u64, ReplicaId)>,
    },
    /// Refused; nothing changed.
    Refused(String),
    /// The series that the shard may have of the tenant, `u64::MAX` for any number.
    Leased(u64),
    /// Nothing can be given out before these shards have said what they hold.
    LeaseAwaits(Vec<GroupId>),
}

/// The replicated state: empty until the bootstrap command is applied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetaState {
    /// The cluster.
    pub cluster: Option<Cluster>,
}

impl MetaState {
    /// Applies a command. Depends on the state and the command alone.
    pub fn apply(&mut self, command: Command) -> Reply {
        match (command, &mut self.cluster) {
            (Command::Bootstrap(cluster), none @ None) => match Ring::decode(&cluster.ring) {
                Ok(_) => {
                    *none = Some(*cluster);
                    Reply::Done
                }
                Err(e) => Reply::Refused(format!("bootstrap carries an unreadable ring: {e}")),
            },
            (Command::Bootstrap(_), Some(_)) => Reply::Done,
            (_, None) => Reply::Refused("the cluster is not bootstrapped yet; retry".into()),
            (Command::UpsertNode(node), Some(cluster)) => cluster.upsert(node),
            (Command::Join { node, nonce }, Some(cluster)) => cluster.join(node, nonce),
            (Command::SetLimits { tenant, changes }, Some(cluster)) => {
                set_limits(cluster, tenant.as_deref(), &changes).map_or_else(Reply::Refused, |()| Reply::Done)
            }
            (Command::Lease(request), Some(cluster)) => lease(cluster, request),
        }
    }
}

impl Cluster {
    fn upsert(&mut self, node: NodeInfo) -> Reply {
        match self.nodes.get_mut(&node.id) {
            Some(known) => {
                *known = node;
                Reply::Done
            }
            None => Reply::Refused(format!("node {} is not a member", node.id)),
        }
    }

    /// Gives `node` a new replica in place of each one it held. The old ids are never used again,
    /// because an id whose log is gone could vote twice in one term.
    fn join(&mut self, node: NodeInfo, nonce: u64) -> Reply {
        let id = node.id;
        if !self.nodes.contains_key(&id) {
            return Reply::Refused(format!("node {id} is not a member"));
        }
        if self.joins.get(&id) != Some(&nonce) {
            for group in self.groups.values_mut() {
                for held in group.replicas.iter_mut().filter(|r| r.node == id) {
                    held.replica = self.next_replica;
                    self.next_replica += 1;
                }
            }
            self.joins.insert(id, nonce);
            self.nodes.insert(id, node);
        }
        let Some(meta) = self.groups.get(&META_GROUP) else {
            return Reply::Refused("the cluster has no meta group".into());
        };
        match meta.on(id) {
            Some(meta_replica) => Reply::Joined {
                meta_replica,
                meta_replicas: meta.replicas.iter().map(|r| (r.node, r.replica)).collect(),
            },
            None => Reply::Refused(format!("node {id} holds no replica of the meta group")),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use quorate_ring::ShardWeight;

    fn node(id: u64) -> NodeInfo {
        NodeInfo {
            id,
            grpc: format!("h{id}:1"),
            http: format!("h{id}:2"),
            zone: String::new(),
            weight: 1.0,
        }
    }

    /// Three nodes, the meta group and one shard.
    pub(crate) fn cluster() -> Cluster {
        let ring = Ring::build(
            1,
            8,
            &[ShardWeight {
                shard: 1,
                weight: 1.0,
            }],
        )
        .unwrap();
        let replicas: Vec<_> = (1..=3).map(|n| ReplicaInfo { replica: n, node: n }).collect();
        let group = GroupInfo {
            replicas: replicas.clone(),
            preferred_leader: 1,
            founders: replicas,
        };
        Cluster {
            id: "c".into(),
            ring: ring.encode(),
            replication_factor: 3,
            limits: ClusterLimits {
                ooo_window_ms: 1,
                retention_ms: 2,
                max_ahead_ms: 3,
                max_series_per_shard: 4,
                max_labels: 5,
                max_label_name_bytes: 6,
                max_label_value_bytes: 7,
                max_series: 0,
                max_samples_per_second: 0,
            },
            nodes: (1..=3).map(|n| (n, node(n))).collect(),
            groups: BTreeMap::from([(0, group.clone()), (1, group)]),
            next_replica: FIRST_ALLOTTED_REPLICA,
            joins: BTreeMap::new(),
            tenants: Tenants::default(),
        }
    }

    #[test]
    fn the_first_bootstrap_wins() {
        let mut state = MetaState::default();
        assert!(matches!(
            state.apply(Command::UpsertNode(node(1))),
            Reply::Refused(_)
        ));
        assert_eq!(state.apply(Command::Bootstrap(Box::new(cluster()))), Reply::Done);
        let mut second = cluster();
        second.id = "other".into();
        state.apply(Command::Bootstrap(Box::new(second)));
        assert_eq!(state.cluster.as_ref().map(|c| c.id.as_str()), Some("c"));
    }

    #[test]
    fn a_join_allots_fresh_ids_once_per_nonce() {
        let mut state = MetaState {
            cluster: Some(cluster()),
        };
        let first = state.apply(Command::Join {
            node: node(2),
            nonce: 7,
        });
        let Reply::Joined { meta_replica, .. } = first else {
            panic!("{first:?}")
        };
        assert_eq!(meta_replica, FIRST_ALLOTTED_REPLICA);
        assert_eq!(
            state.apply(Command::Join {
                node: node(2),
                nonce: 7
            }),
            first
        );
        let again = state.apply(Command::Join {
            node: node(2),
            nonce: 8,
        });
        let Reply::Joined { meta_replica, .. } = again else {
            panic!("{again:?}")
        };
        assert_eq!(meta_replica, FIRST_ALLOTTED_REPLICA + 2);
        let groups = &state.cluster.as_ref().unwrap().groups;
        assert_eq!(groups[&1].on(2), Some(FIRST_ALLOTTED_REPLICA + 3));
        assert_eq!(groups[&1].on(1), Some(1));
        assert!(matches!(
            state.apply(Command::Join {
                node: node(9),
                nonce: 1
            }),
            Reply::Refused(_)
        ));
    }
}
