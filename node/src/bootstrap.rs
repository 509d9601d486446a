//! The first command of the meta group: the cluster as the founder's configuration describes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use quorate_raft_log::{ReplicaId, Role};
use quorate_ring::{NodeSpec, Ring, ShardWeight, place};

use crate::cluster::Identity;
use crate::cluster::meta::{
    Cluster, Command, FIRST_ALLOTTED_REPLICA, GroupInfo, META_GROUP, MetaMachine, ReplicaInfo, Tenants,
    encode_command,
};
use crate::config::Config;
use crate::raft::Group;
use crate::settings;

const RETRY: Duration = Duration::from_millis(200);
/// The first ring's epoch.
const FIRST_EPOCH: u64 = 1;

/// Waits until the cluster is described, and describes it while this node leads the meta group and
/// nobody has. Of two descriptions the first in the log counts.
pub(crate) async fn bootstrap(group: Group, machine: MetaMachine, config: Arc<Config>, identity: Identity) {
    while machine.state().cluster.is_none() {
        if group.status().role == Role::Leader {
            let described = match describe(&config, &identity) {
                Ok(cluster) => {
                    encode_command(&Command::Bootstrap(Box::new(cluster))).map_err(anyhow::Error::msg)
                }
                Err(e) => Err(e),
            };
            match described {
                Ok(command) => {
                    if let Err(e) = group.propose(command).await {
                        tracing::warn!(error = %e, "describing the cluster did not work yet");
                    }
                }
                Err(e) => tracing::error!(error = %e, "the configuration describes no cluster"),
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn describe(config: &Config, identity: &Identity) -> anyhow::Result<Cluster> {
    let nodes = settings::nodes(config);
    let shards: Vec<u32> = (1..=config.shards).collect();
    let weights: Vec<_> = shards
        .iter()
        .map(|&shard| ShardWeight { shard, weight: 1.0 })
        .collect();
    let ring = Ring::build(FIRST_EPOCH, config.spread, &weights)?;
    let specs: Vec<_> = nodes
        .iter()
        .map(|n| NodeSpec {
            id: n.id,
            weight: n.weight,
            zone: n.zone.clone(),
        })
        .collect();
    let placement = place(&shards, &specs, config.replication_factor as usize)?;
    let mut next_replica: ReplicaId = FIRST_ALLOTTED_REPLICA;
    let mut groups = BTreeMap::new();
    let meta: Vec<ReplicaInfo> = identity
        .meta_replicas
        .iter()
        .map(|&(node, replica)| ReplicaInfo { replica, node })
        .collect();
    let founder = nodes.iter().map(|n| n.id).min().context("peers is empty")?;
    groups.insert(
        META_GROUP,
        GroupInfo {
            replicas: meta.clone(),
            preferred_leader: founder,
            founders: meta,
        },
    );
    for (shard, holders) in &placement.assignments {
        let replicas: Vec<ReplicaInfo> = holders
            .iter()
            .zip(next_replica..)
            .map(|(&node, replica)| ReplicaInfo { replica, node })
            .collect();
        next_replica += replicas.len() as u64;
        let preferred_leader = *holders.first().context("a shard without replicas")?;
        groups.insert(
            *shard,
            GroupInfo {
                founders: replicas.clone(),
                replicas,
                preferred_leader,
            },
        );
    }
    Ok(Cluster {
        id: identity.cluster_id.clone(),
        ring: ring.encode(),
        replication_factor: config.replication_factor,
        limits: settings::cluster_limits(&config.limits),
        nodes: nodes.into_iter().map(|n| (n.id, n)).collect(),
        groups,
        next_replica,
        joins: BTreeMap::new(),
        tenants: Tenants::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Peer, Peers};

    #[test]
    fn three_nodes_get_every_shard_and_share_the_leaders() {
        let peer = |id: u64| Peer {
            id,
            grpc: crate::config::HostPort::parse(&format!("127.0.0.1:{}", 7000 + id)).unwrap(),
            http: None,
            zone: None,
            weight: None,
        };
        let config = Config {
            node_id: 1,
            peers: Peers((1..=3).map(peer).collect()),
            ..Config::default()
        };
        let identity = Identity {
            cluster_id: "c".into(),
            node_id: 1,
            meta_replica: Some(1),
            meta_replicas: vec![(1, 1), (2, 2), (3, 3)],
            founding: None,
            database: false,
        };
        let cluster = describe(&config, &identity).unwrap();
        assert_eq!(cluster.groups.len(), 9);
        let mut led = BTreeMap::new();
        let mut ids = std::collections::BTreeSet::new();
        for (group, info) in cluster.groups.iter().filter(|(g, _)| **g != META_GROUP) {
            assert_eq!(info.replicas.len(), 3, "{group}");
            *led.entry(info.preferred_leader).or_insert(0) += 1;
            assert!(
                info.replicas.iter().all(|r| ids.insert(r.replica)),
                "replica ids are unique"
            );
        }
        assert!(led.values().all(|n| (2..=3).contains(n)), "{led:?}");
        assert_eq!(describe(&config, &identity).unwrap(), cluster);
    }
}
