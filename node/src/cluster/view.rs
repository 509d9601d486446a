//! The cluster as the last applied meta state describes it, parsed once and shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use quorate_raft_log::{GroupId, ReplicaId};
use quorate_ring::{Ring, RingError};
use quorate_storage::TenantRetentions;

use super::meta::{Cluster, ClusterLimits, GroupInfo, META_GROUP, NodeInfo, TenantLimits, Tenants};

/// Ring, placement and limits of one meta state.
#[derive(Debug)]
pub struct View {
    /// The cluster's id.
    pub cluster_id: String,
    /// Which shard a key belongs to.
    pub ring: Ring,
    /// Who holds each group.
    pub groups: BTreeMap<GroupId, GroupInfo>,
    /// Nodes by id.
    pub nodes: BTreeMap<u64, NodeInfo>,
    /// What is stored and refused.
    pub limits: ClusterLimits,
    /// What tenants have of their own.
    pub tenants: Tenants,
    /// Of tenants that keep samples for a shorter time than all.
    pub retentions: TenantRetentions,
}

impl View {
    /// Parses a meta state.
    pub fn new(cluster: &Cluster) -> Result<View, RingError> {
        Ok(View {
            cluster_id: cluster.id.clone(),
            ring: Ring::decode(&cluster.ring)?,
            groups: cluster.groups.clone(),
            nodes: cluster.nodes.clone(),
            limits: cluster.limits,
            tenants: cluster.tenants.clone(),
            retentions: cluster.tenants.retentions(&cluster.limits),
        })
    }

    /// The limits in force for a tenant.
    pub fn limits_of(&self, tenant: &str) -> TenantLimits {
        self.tenants.limits_of(tenant, &self.limits)
    }

    /// The epoch of quotas that shards have to be in; 0 while no tenant's series are limited.
    pub fn quota_epoch(&self) -> u64 {
        self.tenants.quota_epoch(&self.limits)
    }

    /// Whether all that a tenant may have is given out to shards.
    pub fn used_up(&self, tenant: &str) -> bool {
        let limit = self.limits_of(tenant).max_series;
        limit > 0 && self.tenants.leased(tenant) >= limit
    }

    /// Every shard, in order.
    pub fn shards(&self) -> impl Iterator<Item = u32> + '_ {
        self.groups.keys().copied().filter(|g| *g != META_GROUP)
    }

    /// The node of a replica.
    pub fn node_of(&self, group: GroupId, replica: ReplicaId) -> Option<u64> {
        self.groups.get(&group)?.node_of(replica)
    }
}

/// The current [`View`]; empty until the cluster is bootstrapped.
#[derive(Debug, Default)]
pub struct CurrentView(ArcSwapOption<View>);

impl CurrentView {
    /// The view, if there is one yet.
    pub fn get(&self) -> Option<Arc<View>> {
        self.0.load_full()
    }

    /// Replaces the view.
    pub fn set(&self, view: Arc<View>) {
        self.0.store(Some(view));
    }
}
