//! The meta group: nodes, ring, placement and limits, replicated like any shard.

mod limits;
mod machine;
mod remote;
mod state;

pub use limits::{LIMITS, LeaseRequest, Limit, TenantLimits, Tenants};
pub use machine::{META_CF, MetaMachine, column_family, decode_command, decode_reply, encode_command};
pub use remote::propose_remote;
#[cfg(test)]
pub(crate) use state::tests::cluster as test_cluster;
pub use state::{
    Cluster, ClusterLimits, Command, FIRST_ALLOTTED_REPLICA, GroupInfo, META_GROUP, MetaState, NodeInfo,
    ReplicaInfo, Reply,
};
