//! How a cluster comes to be, and how an empty node comes back.
//!
//! The peer with the lowest id founds: once every configured peer has answered and all are empty, it
//! makes the cluster id, binds itself, then binds each peer. All else follows from what a data
//! directory is bound to, so that every step can be repeated and interrupted anywhere. An empty node
//! that meets a bound peer never founds and never votes under its old replica ids: it asks the meta
//! group for new ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::internal::peer_client::PeerClient;
use quorate_proto::internal::{FoundRequest, HelloRequest, HelloResponse, MetaReplica};
use quorate_raft_log::ReplicaId;

use super::identity::{DataDir, Founding, Identity, IdentityError};
use super::meta::{self, Command, NodeInfo, Reply};
use super::peers::{Peers, Purpose};
use super::readiness::Readiness;

const POLL: Duration = Duration::from_millis(200);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an empty node leaves a founder the chance to bind it before it asks to join.
const JOIN_AFTER_POLLS: u32 = 15;

/// The data directory and what it is bound to, shared with the gRPC service that peers call.
#[derive(Debug)]
pub struct Binding {
    dir: DataDir,
    identity: Mutex<Option<Identity>>,
    own: u64,
}

impl Binding {
    /// Reads the identity of a locked data directory.
    pub fn open(dir: DataDir, own: u64) -> Result<Arc<Binding>, IdentityError> {
        let identity = dir.identity(own)?;
        Ok(Arc::new(Binding {
            dir,
            identity: Mutex::new(identity),
            own,
        }))
    }

    /// What the node is bound to.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.lock().clone()
    }

    /// The data directory.
    pub fn dir(&self) -> &DataDir {
        &self.dir
    }

    /// Answers a peer's `Hello`.
    pub fn hello(&self, caller: u64, now_ms: i64) -> HelloResponse {
        let identity = self.identity.lock();
        let founding = identity.as_ref().and_then(|i| i.founding.as_ref());
        HelloResponse {
            node_id: self.own,
            cluster_id: identity
                .as_ref()
                .map(|i| i.cluster_id.clone())
                .unwrap_or_default(),
            now_ms,
            awaiting_caller: founding.is_some_and(|f| !f.bound.contains(&caller)),
        }
    }

    /// Binds an empty node to the founder's cluster; fine to repeat. `Err` says why it is refused.
    pub fn found(&self, request: &FoundRequest) -> Result<(), String> {
        let mut identity = self.identity.lock();
        if let Some(bound) = identity.as_ref() {
            if bound.cluster_id == request.cluster_id {
                return Ok(());
            }
            return Err(format!(
                "node {} belongs to cluster {} already",
                self.own, bound.cluster_id
            ));
        }
        let meta_replicas: Vec<_> = request
            .meta_replicas
            .iter()
            .map(|m| (m.node, m.replica))
            .collect();
        let Some(own) = meta_replicas.iter().find(|(node, _)| *node == self.own) else {
            return Err(format!(
                "the founder's peers list lacks node {}; make the lists equal",
                self.own
            ));
        };
        let new = Identity {
            cluster_id: request.cluster_id.clone(),
            node_id: self.own,
            meta_replica: Some(own.1),
            meta_replicas,
            founding: None,
            database: false,
        };
        self.dir.bind(&new).map_err(|e| e.to_string())?;
        *identity = Some(new);
        Ok(())
    }

    /// `Err` when the database should be in `dir` and is not.
    pub fn database_expected(&self, dir: &Path) -> Result<(), IdentityError> {
        let expected = self.identity.lock().as_ref().is_some_and(|i| i.database);
        let found = std::fs::metadata(dir.join("CURRENT")).is_ok();
        match expected && !found {
            true => Err(IdentityError::DatabaseLost {
                dir: self.dir.path().to_path_buf(),
                database: dir.to_path_buf(),
            }),
            false => Ok(()),
        }
    }

    /// Notes that the database exists, before anything in it counts.
    pub fn database_created(&self) -> Result<(), IdentityError> {
        self.update(|identity| identity.database = true)
    }

    /// Changes the identity of a bound node durably.
    pub fn update(&self, change: impl FnOnce(&mut Identity)) -> Result<(), IdentityError> {
        let mut identity = self.identity.lock();
        if let Some(known) = identity.as_mut() {
            let mut new = known.clone();
            change(&mut new);
            self.dir.bind(&new)?;
            *known = new;
        }
        Ok(())
    }

    /// Binds unless the founder was faster. Returns what holds now.
    fn bind_if_empty(&self, new: Identity) -> Result<Identity, IdentityError> {
        let mut identity = self.identity.lock();
        if let Some(bound) = identity.as_ref() {
            return Ok(bound.clone());
        }
        self.dir.bind(&new)?;
        *identity = Some(new.clone());
        Ok(new)
    }
}

/// Runs until this node is bound: by founding, by a founder, by joining, or long ago.
pub async fn form(
    binding: &Binding,
    own: &NodeInfo,
    peers: &Arc<Peers>,
    readiness: &Readiness,
) -> Result<Identity, IdentityError> {
    let mut polls_bound_elsewhere = 0;
    // One for all tries, so that a repeated request gets the same replica ids.
    let nonce = rand::random();
    loop {
        if let Some(identity) = binding.identity() {
            peers.set_cluster_id(&identity.cluster_id);
            readiness.done("cluster");
            return Ok(identity);
        }
        let (answers, silent) = hello_all(peers).await;
        let bound_elsewhere = answers.values().find(|a| !a.cluster_id.is_empty());
        if let Some(bound) = bound_elsewhere {
            polls_bound_elsewhere += 1;
            let awaited = answers.values().any(|a| a.awaiting_caller);
            if mutant!("wiped_keeps_id") {
                binding.bind_if_empty(old_identity(own.id, peers, &bound.cluster_id))?;
                continue;
            }
            if !awaited && polls_bound_elsewhere >= JOIN_AFTER_POLLS {
                join(binding, own, peers, readiness, &bound.cluster_id, nonce).await?;
            } else {
                readiness.wait_for("cluster", "the founder to bind this node");
            }
        } else if !silent.is_empty() {
            readiness.wait_for(
                "cluster",
                format!("peers that have not answered yet: {}", silent.join(", ")),
            );
        } else if peers.others().iter().all(|id| *id > own.id) {
            let identity = binding.bind_if_empty(found_identity(own.id, peers))?;
            tracing::info!(cluster = identity.cluster_id, "founding a new cluster");
            continue;
        } else {
            readiness.wait_for("cluster", "the peer with the lowest id to found the cluster");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The founder's remaining work: bind every peer. Runs beside the meta group, which needs only a
/// majority of them.
pub async fn bind_peers(binding: Arc<Binding>, peers: Arc<Peers>, readiness: Arc<Readiness>) {
    loop {
        let Some(identity) = binding.identity() else {
            return;
        };
        let Some(founding) = identity.founding.clone() else {
            readiness.done("founding");
            return;
        };
        let unbound: Vec<u64> = peers
            .others()
            .into_iter()
            .filter(|id| !founding.bound.contains(id))
            .collect();
        if unbound.is_empty() {
            if let Err(e) = binding.update(|identity| identity.founding = None) {
                tracing::error!(error = %e, "can't record that the cluster is founded");
            }
            continue;
        }
        for node in unbound {
            match bind_peer(&peers, &identity, node).await {
                Ok(()) => {
                    let noted = binding.update(|identity| {
                        if let Some(founding) = &mut identity.founding {
                            founding.bound.push(node);
                        }
                    });
                    if let Err(e) = noted {
                        tracing::error!(error = %e, node, "can't record that a node is bound");
                    }
                }
                Err(e) => readiness.wait_for("founding", format!("node {node} to be bound: {e}")),
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn bind_peer(peers: &Peers, identity: &Identity, node: u64) -> Result<(), String> {
    let channel = peers
        .channel(node, Purpose::Read)
        .map_err(|e| e.message().to_string())?;
    let request = FoundRequest {
        cluster_id: identity.cluster_id.clone(),
        founder: identity.node_id,
        meta_replicas: identity
            .meta_replicas
            .iter()
            .map(|(node, replica)| MetaReplica {
                node: *node,
                replica: *replica,
            })
            .collect(),
    };
    let reply = PeerClient::new(channel)
        .found(peers.request(request, Some(CALL_TIMEOUT)))
        .await;
    match reply.map(|r| r.into_inner().refused) {
        Ok(refused) if refused.is_empty() => Ok(()),
        Ok(refused) => Err(refused),
        Err(e) => Err(e.message().to_string()),
    }
}

/// Meta replica ids at founding follow from the positions of the nodes, so that every founder that
/// ever tries picks the same.
fn found_identity(own: u64, peers: &Peers) -> Identity {
    let meta_replicas: Vec<(u64, ReplicaId)> = peers
        .nodes()
        .iter()
        .zip(1..)
        .map(|(node, replica)| (node.id, replica))
        .collect();
    Identity {
        cluster_id: format!("{:032x}", rand::random::<u128>()),
        node_id: own,
        meta_replica: meta_replicas
            .iter()
            .find(|(node, _)| *node == own)
            .map(|(_, r)| *r),
        meta_replicas,
        founding: Some(Founding { bound: vec![own] }),
        database: false,
    }
}

/// What this node was when the cluster was founded, as if it had lost nothing.
fn old_identity(own: u64, peers: &Peers, cluster_id: &str) -> Identity {
    Identity {
        cluster_id: cluster_id.to_string(),
        founding: None,
        ..found_identity(own, peers)
    }
}

async fn join(
    binding: &Binding,
    own: &NodeInfo,
    peers: &Peers,
    readiness: &Readiness,
    cluster_id: &str,
    nonce: u64,
) -> Result<(), IdentityError> {
    readiness.wait_for(
        "cluster",
        "new replica ids from the meta group, because this node came back empty",
    );
    peers.set_cluster_id(cluster_id);
    let command = Command::Join {
        node: own.clone(),
        nonce,
    };
    match meta::propose_remote(peers, &command, CALL_TIMEOUT).await {
        Ok(Reply::Joined {
            meta_replica,
            meta_replicas,
        }) => {
            tracing::info!(meta_replica, "joining under new replica ids");
            binding.bind_if_empty(Identity {
                cluster_id: cluster_id.to_string(),
                node_id: own.id,
                meta_replica: Some(meta_replica),
                meta_replicas,
                founding: None,
                database: false,
            })?;
        }
        Ok(Reply::Refused(why)) => {
            readiness.wait_for("cluster", format!("the meta group to admit this node: {why}"))
        }
        Ok(Reply::Done | Reply::Leased(_) | Reply::LeaseAwaits(_)) => {
            readiness.wait_for("cluster", "an answer of the meta group that names replica ids")
        }
        Err(e) => readiness.wait_for("cluster", format!("the meta group to answer: {}", e.message())),
    }
    Ok(())
}

/// Asks every peer who it is. Returns the answers and, as text, who did not answer and why.
async fn hello_all(peers: &Arc<Peers>) -> (BTreeMap<u64, HelloResponse>, Vec<String>) {
    let calls = peers
        .nodes()
        .into_iter()
        .filter(|n| n.id != peers.own())
        .map(|node| async move {
            let reply = hello(peers, node.id).await;
            (node, reply)
        });
    let mut answers = BTreeMap::new();
    let mut silent = Vec::new();
    for (node, reply) in futures_util::future::join_all(calls).await {
        match reply {
            Ok(answer) if answer.node_id == node.id => {
                answers.insert(node.id, answer);
            }
            Ok(answer) => silent.push(format!(
                "node {} at {} calls itself node {}; correct the peers list",
                node.id, node.grpc, answer.node_id
            )),
            Err(_) => silent.push(format!("node {} at {}", node.id, node.grpc)),
        }
    }
    (answers, silent)
}

/// Tells every peer that this node is stopping, so that none gives it leadership any more.
pub async fn say_goodbye(peers: &Arc<Peers>) {
    peers.leave();
    let calls = peers.others().into_iter().map(|node| async move {
        // A peer that is away has nothing to give.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, hello(peers, node)).await;
    });
    futures_util::future::join_all(calls).await;
}

/// Asks one peer who it is.
pub async fn hello(peers: &Peers, node: u64) -> Result<HelloResponse, tonic::Status> {
    let channel = peers.channel(node, Purpose::Read)?;
    let request = HelloRequest {
        node_id: peers.own(),
        cluster_id: peers.cluster_id().unwrap_or_default().to_string(),
        leaving: peers.leaving(),
    };
    let reply = PeerClient::new(channel)
        .hello(peers.request(request, Some(CALL_TIMEOUT)))
        .await?;
    peers.answered(node);
    Ok(reply.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(dir: &std::path::Path, own: u64) -> Arc<Binding> {
        Binding::open(DataDir::open(dir).unwrap(), own).unwrap()
    }

    fn found(cluster: &str) -> FoundRequest {
        let meta_replicas = (1..=3).map(|n| MetaReplica { node: n, replica: n }).collect();
        FoundRequest {
            cluster_id: cluster.into(),
            founder: 1,
            meta_replicas,
        }
    }

    #[test]
    fn an_empty_node_is_bound_once_and_for_one_cluster() {
        let tmp = tempfile::tempdir().unwrap();
        {
            let node = binding(tmp.path(), 2);
            assert_eq!(node.hello(1, 5).cluster_id, "");
            node.found(&found("a")).unwrap();
            node.found(&found("a")).unwrap();
            assert!(
                node.found(&found("b"))
                    .unwrap_err()
                    .contains("belongs to cluster a")
            );
        }
        let reopened = binding(tmp.path(), 2);
        assert_eq!(reopened.identity().unwrap().meta_replica, Some(2));
        assert_eq!(reopened.hello(1, 5).cluster_id, "a");
    }

    #[test]
    fn a_founder_awaits_only_whom_it_has_not_bound() {
        let tmp = tempfile::tempdir().unwrap();
        let node = binding(tmp.path(), 1);
        let identity = Identity {
            cluster_id: "a".into(),
            node_id: 1,
            meta_replica: Some(1),
            meta_replicas: vec![(1, 1), (2, 2), (3, 3)],
            founding: Some(Founding { bound: vec![1, 2] }),
            database: true,
        };
        node.bind_if_empty(identity).unwrap();
        assert!(node.hello(3, 0).awaiting_caller);
        assert!(!node.hello(2, 0).awaiting_caller);
    }

    #[test]
    fn a_node_missing_from_the_founders_list_is_not_bound() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(
            binding(tmp.path(), 9)
                .found(&found("a"))
                .unwrap_err()
                .contains("lacks node 9")
        );
    }

    /// A node as far as formation goes: a listening server and a data directory.
    struct Former {
        own: NodeInfo,
        peers: Arc<Peers>,
        binding: Arc<Binding>,
        readiness: Arc<Readiness>,
        stop: tokio_util::sync::CancellationToken,
    }

    async fn listeners(count: usize) -> (Vec<tokio::net::TcpListener>, Vec<NodeInfo>) {
        let (mut listeners, mut nodes) = (Vec::new(), Vec::new());
        for id in 1..=count as u64 {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let grpc = listener.local_addr().unwrap().to_string();
            nodes.push(NodeInfo {
                id,
                grpc,
                http: String::new(),
                zone: String::new(),
                weight: 1.0,
            });
            listeners.push(listener);
        }
        (listeners, nodes)
    }

    impl Former {
        fn start(dir: &Path, id: u64, listener: tokio::net::TcpListener, nodes: &[NodeInfo]) -> Former {
            let peers = Peers::new(id, nodes.to_vec());
            let binding = binding(dir, id);
            let config = crate::config::Config::default();
            let cells = crate::grpc::Cells {
                peers: peers.clone(),
                binding: binding.clone(),
                clock: Arc::new(crate::clock::SystemClock),
                log: Arc::default(),
                node: Arc::default(),
                public: crate::grpc::PublicGate::default(),
                bytes_in_flight: crate::metrics::Metrics::new(&config).bytes_in_flight().clone(),
                write_timeout: Duration::from_secs(1),
                gate: Arc::new(crate::cluster::Gate::new(Arc::new(crate::clock::SystemClock))),
            };
            let stop = tokio_util::sync::CancellationToken::new();
            tokio::spawn(crate::grpc::serve(listener, cells, stop.clone()));
            let own = nodes.iter().find(|n| n.id == id).unwrap().clone();
            Former {
                own,
                peers,
                binding,
                readiness: Arc::default(),
                stop,
            }
        }

        /// Forms, and goes on founding if that is this node's part.
        async fn form(&self) -> Identity {
            let Former {
                own,
                peers,
                binding,
                readiness,
                ..
            } = self;
            let identity = form(binding, own, peers, readiness).await.unwrap();
            if identity.founding.is_some() {
                bind_peers(binding.clone(), peers.clone(), readiness.clone()).await;
            }
            identity
        }
    }

    #[tokio::test]
    async fn three_empty_nodes_become_one_cluster_and_remember_it() {
        let tmp = tempfile::tempdir().unwrap();
        let (listeners, nodes) = listeners(3).await;
        let dir = |id: u64| tmp.path().join(id.to_string());
        let formers: Vec<Former> = listeners
            .into_iter()
            .zip(1..)
            .map(|(listener, id)| Former::start(&dir(id), id, listener, &nodes))
            .collect();
        let formed = futures_util::future::join_all(formers.iter().map(Former::form)).await;
        let founders = formed.iter().filter(|i| i.founding.is_some());
        assert_eq!(founders.map(|i| i.node_id).collect::<Vec<_>>(), [1]);
        let replicas: Vec<_> = formed.iter().map(|i| i.meta_replica).collect();
        assert_eq!(replicas, [Some(1), Some(2), Some(3)]);
        assert!(
            formed
                .iter()
                .all(|i| i.cluster_id == formed[0].cluster_id && i.cluster_id.len() == 32)
        );
        assert!(formers.iter().all(|f| f.readiness.pending().is_empty()));
        // The founder's work is done and durable: nobody is awaited any more.
        assert_eq!(formers[0].binding.identity().unwrap().founding, None);
        assert!(!formers[0].binding.hello(3, 0).awaiting_caller);
        for former in &formers {
            former.stop.cancel();
        }
    }

    #[tokio::test]
    async fn an_empty_node_waits_for_silent_peers_and_names_them() {
        let tmp = tempfile::tempdir().unwrap();
        let (mut listeners, nodes) = listeners(3).await;
        let former = Former::start(tmp.path(), 1, listeners.remove(0), &nodes);
        drop(listeners);
        let waits = async {
            while former.readiness.pending().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            identity = former.form() => panic!("formed alone: {identity:?}"),
            () = waits => {}
        }
        let waits = former.readiness.pending().join("\n");
        assert!(
            waits.contains(&nodes[1].grpc) && waits.contains(&nodes[2].grpc),
            "{waits}"
        );
        assert_eq!(former.binding.identity(), None);
        former.stop.cancel();
    }

    #[tokio::test]
    async fn an_empty_node_that_meets_a_cluster_never_founds_another() {
        let tmp = tempfile::tempdir().unwrap();
        let (mut listeners, nodes) = listeners(2).await;
        // Node 2 has a cluster but no log to admit anybody by; node 1 would be the founder.
        let bound = Former::start(&tmp.path().join("2"), 2, listeners.remove(1), &nodes);
        bound.binding.found(&found("a")).unwrap();
        bound.peers.set_cluster_id("a");
        let empty = Former::start(&tmp.path().join("1"), 1, listeners.remove(0), &nodes);
        let asked_to_join = async {
            while !empty
                .readiness
                .pending()
                .iter()
                .any(|wait| wait.contains("meta group to answer"))
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            identity = empty.form() => panic!("formed: {identity:?}"),
            () = asked_to_join => {}
        }
        assert_eq!(empty.binding.identity(), None);
        empty.stop.cancel();
        bound.stop.cancel();
    }
}
