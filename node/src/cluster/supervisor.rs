//! Opens the replicas that the meta state gives to this node, and founds new groups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_raft_log::{GroupConfig, GroupId, GroupStatus, ReplicaId};
use quorate_storage::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::meta::{Cluster, META_GROUP, MetaMachine, MetaState};
use super::peers::Peers;
use super::readiness::Readiness;
use super::view::{CurrentView, View};
use crate::raft::{Group, RaftLog};
use crate::shards::{ShardMachine, ShardReplica, Shards};

/// When a replica that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long the preferred leader of a new group has for founding it before the others do as well.
const FOUNDING_PATIENCE: Duration = Duration::from_secs(3);

/// This node's replica of the meta group.
#[derive(Clone)]
pub struct MetaReplica {
    /// Its id.
    pub replica: ReplicaId,
    /// Its Raft group.
    pub group: Group,
    /// Its state.
    pub machine: MetaMachine,
}

/// What the supervisor works with.
pub struct SupervisorParts {
    /// The one log.
    pub log: RaftLog,
    /// The one store.
    pub store: Arc<Store>,
    /// Open shard replicas.
    pub shards: Arc<Shards>,
    /// Nodes.
    pub peers: Arc<Peers>,
    /// Where the parsed meta state goes.
    pub view: Arc<CurrentView>,
    /// What the node waits for.
    pub readiness: Arc<Readiness>,
    /// This node's replica of the meta group.
    pub meta_replica: ReplicaId,
    /// Raft's times and bounds.
    pub group_config: GroupConfig,
}

/// Keeps the open replicas as the meta state wants them.
pub struct Supervisor {
    parts: SupervisorParts,
    opened: Mutex<BTreeMap<GroupId, ReplicaId>>,
}

impl Supervisor {
    /// Nothing is open yet.
    pub fn new(parts: SupervisorParts) -> Supervisor {
        Supervisor {
            parts,
            opened: Mutex::default(),
        }
    }

    /// Follows the meta state until cancelled.
    pub async fn run(self, mut states: watch::Receiver<Arc<MetaState>>, stop: CancellationToken) {
        loop {
            let state = states.borrow_and_update().clone();
            let complete = self.follow(&state).await;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if !complete => {}
            }
        }
    }

    /// Opens what the state wants. `false`: something could not be opened.
    async fn follow(&self, state: &MetaState) -> bool {
        let parts = &self.parts;
        let own = parts.peers.own();
        let Some(cluster) = &state.cluster else {
            parts.readiness.wait_for(
                "meta",
                "the meta group to elect a leader and describe the cluster",
            );
            return true;
        };
        if !is_current(cluster, own, parts.meta_replica) {
            parts.readiness.wait_for(
                "meta",
                "the part of the meta log that gives this node its new replica ids",
            );
            return true;
        }
        let view = match View::new(cluster) {
            Ok(view) => Arc::new(view),
            Err(e) => {
                // Apply checked the ring, so this is a defect; keep the old view and say so.
                tracing::error!(error = %e, "the meta state carries an unreadable ring");
                return true;
            }
        };
        parts.peers.update(cluster.nodes.values().cloned());
        parts.view.set(view.clone());
        parts.readiness.done("meta");
        let held = |shard| view.groups.get(&shard)?.on(own).map(|replica| (shard, replica));
        let missing: Vec<(u32, ReplicaId)> = view
            .shards()
            .filter_map(held)
            .filter(|(s, r)| self.opened.lock().get(s) != Some(r))
            .collect();
        if missing.is_empty() {
            return true;
        }
        parts
            .readiness
            .wait_for("shards", format!("{} shards to be opened", missing.len()));
        let mut failures = Vec::new();
        for (shard, replica) in missing {
            match self.open(&view, shard, replica).await {
                Ok(()) => {
                    self.opened.lock().insert(shard, replica);
                }
                Err(e) => {
                    tracing::error!(shard, replica, error = %e, "can't open a replica");
                    failures.push(format!("shard {shard}, which can't be opened: {e}"));
                }
            }
        }
        match failures.is_empty() {
            true => parts.readiness.done("shards"),
            false => parts.readiness.wait_for("shards", failures.join("; ")),
        }
        failures.is_empty()
    }

    async fn open(&self, view: &Arc<View>, shard: u32, replica: ReplicaId) -> anyhow::Result<()> {
        let parts = &self.parts;
        if let Some(old) = parts.shards.remove(shard) {
            parts.log.close_group(shard, old.replica()).await;
        }
        let store = parts.store.clone();
        let opened = tokio::task::spawn_blocking(move || store.open_shard(shard, replica)).await??;
        let unflushed = Arc::new(AtomicU64::new(0));
        let machine = Arc::new(ShardMachine::new(opened.clone(), unflushed.clone()));
        let group = parts
            .log
            .open_group(shard, replica, machine, parts.group_config.clone())
            .await?;
        tokio::spawn(report_leader(group.group(), group.watch(), parts.view.clone()));
        parts.shards.insert(ShardReplica::new(
            shard,
            replica,
            opened,
            group.clone(),
            unflushed,
        ));
        if let Some(info) = view.groups.get(&shard) {
            let voters: Vec<ReplicaId> = info.founders.iter().map(|r| r.replica).collect();
            let first = info.preferred_leader == parts.peers.own();
            if voters.contains(&replica) {
                tokio::spawn(found(group, voters, first));
            }
        }
        Ok(())
    }
}

/// Whether `cluster` is a state since this node was last given replica ids. A node that came back
/// empty replays the meta log from its start, through states in which it still holds the replicas whose
/// logs it lost. Opened again, those would forget their votes and entries. Each time a node
/// gets new ids, it gets a new one in the meta group as well.
fn is_current(cluster: &Cluster, own: u64, meta_replica: ReplicaId) -> bool {
    cluster.groups.get(&META_GROUP).and_then(|meta| meta.on(own)) == Some(meta_replica)
}

/// Founds a group whose log is empty. Every founding replica may do so with the same voters; the
/// preferred leader goes first so that it wins the first election.
pub(super) async fn found(group: Group, voters: Vec<ReplicaId>, first: bool) {
    let mut status = group.watch();
    if !first {
        let led = status.wait_for(|s| s.leader.is_some());
        // Either way: when the time is up, or when the group is led, the call below settles it.
        let _ = tokio::time::timeout(FOUNDING_PATIENCE, led).await;
    }
    if let Err(e) = group.initialize(&voters).await {
        tracing::warn!(group = group.group(), error = %e, "founding a group did not work; another founder may have been faster");
    }
}

/// Logs who leads a group, as it changes, until the group is closed.
pub async fn report_leader(group: GroupId, mut status: watch::Receiver<GroupStatus>, view: Arc<CurrentView>) {
    let mut known = None;
    while status.changed().await.is_ok() {
        let (leader, term) = {
            let status = status.borrow_and_update();
            (status.leader, status.term)
        };
        if leader == known {
            continue;
        }
        known = leader;
        match leader {
            Some(replica) => {
                let node = view.get().and_then(|view| view.node_of(group, replica));
                tracing::info!(group, term, replica, node, "a leader was elected");
            }
            None => tracing::info!(group, term, "no leader is known"),
        }
    }
}

/// Opens this node's replica of the meta group and, as a founder, founds it.
pub async fn open_meta(
    log: &RaftLog,
    db: Arc<crate::Db>,
    replica: ReplicaId,
    founders: &[(u64, ReplicaId)],
    own: u64,
    changed: watch::Sender<Arc<MetaState>>,
    config: GroupConfig,
) -> anyhow::Result<MetaReplica> {
    let machine = MetaMachine::open(db, replica, changed)?;
    let group = log
        .open_group(META_GROUP, replica, Arc::new(machine.clone()), config)
        .await?;
    let voters: Vec<ReplicaId> = founders.iter().map(|(_, replica)| *replica).collect();
    let founded = voters.iter().all(|r| *r < super::meta::FIRST_ALLOTTED_REPLICA);
    if founded && voters.contains(&replica) {
        let first = founders.iter().all(|(node, _)| own <= *node);
        tokio::spawn(found(group.clone(), voters, first));
    }
    Ok(MetaReplica {
        replica,
        group,
        machine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::meta::{Command, NodeInfo, Reply, test_cluster};

    #[test]
    fn states_from_before_a_node_came_back_empty_are_not_followed() {
        let mut state = MetaState {
            cluster: Some(test_cluster()),
        };
        let before = state.cluster.clone().unwrap();
        let node = NodeInfo {
            id: 2,
            grpc: "h:1".into(),
            http: String::new(),
            zone: String::new(),
            weight: 1.0,
        };
        let Reply::Joined { meta_replica, .. } = state.apply(Command::Join { node, nonce: 1 }) else {
            panic!("a member may join")
        };
        let after = state.cluster.unwrap();
        assert!(!is_current(&before, 2, meta_replica));
        assert!(is_current(&after, 2, meta_replica));
        assert!(is_current(&before, 1, 1) && is_current(&after, 1, 1));
    }
}
