//! The peer table: where nodes listen, one lazy connection for each peer and purpose, and whether the
//! peer answered lately. Raft membership holds replica ids only; addresses live here.
//!
//! Addresses of configured peers are those of the configuration: after all nodes got new ones, the
//! cluster finds itself again, although the meta state still has the old ones. The meta state adds
//! the nodes that the configuration lacks.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use quorate_proto::{CLUSTER_ID_HEADER, ErrorCode, NODE_ID_HEADER};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::meta::NodeInfo;
use crate::grpc::status;

/// HTTP/2 windows and frames: larger than the defaults, which cost a third more CPU per byte.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// See [`STREAM_WINDOW_BYTES`].
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// See [`STREAM_WINDOW_BYTES`].
pub const MAX_FRAME_BYTES: u32 = 256 << 10;
/// Largest message between nodes: a capped log read plus one entry, with room to spare.
pub const MAX_MESSAGE_BYTES: usize = 80 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that answered within this time counts as reachable.
const REACHABLE_WITHIN: Duration = Duration::from_secs(3);

/// What a connection is for. Each purpose has its own, so that none waits behind another's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Raft entries.
    Log,
    /// Raft heartbeats and votes.
    Control,
    /// Raft snapshots.
    Snapshot,
    /// Writes for the leader.
    Forward,
    /// Read indexes, remote reads, cluster formation.
    Read,
}

#[derive(Debug)]
struct Peer {
    info: NodeInfo,
    configured: bool,
    leaving: bool,
    channels: HashMap<Purpose, Channel>,
    answered: Option<Instant>,
}

impl Peer {
    fn new(info: NodeInfo, configured: bool) -> Peer {
        Peer {
            info,
            configured,
            leaving: false,
            channels: HashMap::new(),
            answered: None,
        }
    }
}

/// All nodes, this one included.
#[derive(Debug)]
pub struct Peers {
    own: u64,
    own_header: AsciiMetadataValue,
    cluster_id: OnceLock<AsciiMetadataValue>,
    leaving: AtomicBool,
    unfit: AtomicBool,
    table: RwLock<BTreeMap<u64, Peer>>,
}

impl Peers {
    /// A table of the configured peers. Nothing is dialled yet.
    pub fn new(own: u64, nodes: impl IntoIterator<Item = NodeInfo>) -> Arc<Peers> {
        let table = nodes
            .into_iter()
            .map(|info| (info.id, Peer::new(info, true)))
            .collect();
        Arc::new(Peers {
            own,
            own_header: AsciiMetadataValue::from(own),
            cluster_id: OnceLock::new(),
            leaving: AtomicBool::new(false),
            unfit: AtomicBool::new(false),
            table: RwLock::new(table),
        })
    }

    /// This node's id.
    pub fn own(&self) -> u64 {
        self.own
    }

    /// Sets the cluster id that every call carries from now on. It never changes.
    pub fn set_cluster_id(&self, id: &str) {
        if let Ok(value) = AsciiMetadataValue::try_from(id) {
            // A second call carries the same id: the data directory is bound to it.
            let _ = self.cluster_id.set(value);
        }
    }

    /// The cluster id; `None` while the cluster forms.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.get().and_then(|v| v.to_str().ok())
    }

    /// Takes over what the meta state says of other nodes. A changed address drops the old connections.
    pub fn update(&self, nodes: impl IntoIterator<Item = NodeInfo>) {
        let mut table = self.table.write();
        for mut info in nodes.into_iter().filter(|info| info.id != self.own) {
            let Some(peer) = table.get_mut(&info.id) else {
                table.insert(info.id, Peer::new(info, false));
                continue;
            };
            if peer.configured {
                info.grpc.clone_from(&peer.info.grpc);
                if !peer.info.http.is_empty() {
                    info.http.clone_from(&peer.info.http);
                }
            }
            if peer.info.grpc != info.grpc {
                peer.channels.clear();
                peer.answered = None;
            }
            peer.info = info;
        }
    }

    /// From now on this node tells its peers that it is stopping.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether this node may take writes, and so lead. Its peers hear of it.
    pub fn set_fit(&self, fit: bool) {
        self.unfit.store(!fit, Ordering::Relaxed);
    }

    /// Whether this node wants no leadership: it is stopping, or may take no writes.
    pub fn leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.unfit.load(Ordering::Relaxed)
    }

    /// Notes whether `node` says that it wants no leadership.
    pub fn note_leaving(&self, node: u64, leaving: bool) {
        if let Some(peer) = self.table.write().get_mut(&node) {
            peer.leaving = leaving;
        }
    }

    /// Whether `node` can be given leadership: it answers, and wants it.
    pub fn may_lead(&self, node: u64) -> bool {
        match node == self.own {
            true => !self.leaving(),
            false => self.reachable(node) && self.table.read().get(&node).is_some_and(|p| !p.leaving),
        }
    }

    /// Every node, in id order.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        self.table.read().values().map(|p| p.info.clone()).collect()
    }

    /// Ids of all nodes but this one.
    pub fn others(&self) -> Vec<u64> {
        self.table
            .read()
            .keys()
            .copied()
            .filter(|id| *id != self.own)
            .collect()
    }

    /// A node's entry.
    pub fn info(&self, node: u64) -> Option<NodeInfo> {
        self.table.read().get(&node).map(|p| p.info.clone())
    }

    /// The connection to `node` for `purpose`; it is dialled at its first use.
    pub fn channel(&self, node: u64, purpose: Purpose) -> Result<Channel, Status> {
        if let Some(channel) = self
            .table
            .read()
            .get(&node)
            .and_then(|p| p.channels.get(&purpose))
        {
            return Ok(channel.clone());
        }
        let mut table = self.table.write();
        let peer = table.get_mut(&node).ok_or_else(|| {
            status(
                ErrorCode::NotFound,
                format!("node {node} is not in the peer table"),
            )
        })?;
        if let Some(channel) = peer.channels.get(&purpose) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", peer.info.grpc))
            .map_err(|e| status(ErrorCode::Internal, format!("address of node {node}: {e}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_lazy();
        peer.channels.insert(purpose, channel.clone());
        Ok(channel)
    }

    /// Notes that `node` answered.
    pub fn answered(&self, node: u64) {
        if let Some(peer) = self.table.write().get_mut(&node) {
            peer.answered = Some(Instant::now());
        }
    }

    /// Whether `node` answered lately.
    pub fn reachable(&self, node: u64) -> bool {
        node == self.own
            || self
                .table
                .read()
                .get(&node)
                .and_then(|p| p.answered)
                .is_some_and(|at| at.elapsed() < REACHABLE_WITHIN)
    }

    /// Wraps a message with the sender's identity and a deadline.
    pub fn request<T>(&self, message: T, timeout: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(NODE_ID_HEADER, self.own_header.clone());
        if let Some(id) = self.cluster_id.get() {
            metadata.insert(CLUSTER_ID_HEADER, id.clone());
        }
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }

    /// The sending node of a call, refused when it belongs to another cluster.
    pub fn caller(&self, metadata: &MetadataMap) -> Result<u64, Status> {
        let node = metadata
            .get(NODE_ID_HEADER)
            .and_then(|v| v.to_str().ok()?.parse().ok());
        let theirs = metadata.get(CLUSTER_ID_HEADER).and_then(|v| v.to_str().ok());
        match (node, theirs, self.cluster_id()) {
            (Some(node), Some(theirs), Some(ours)) if theirs == ours => Ok(node),
            (_, _, None) => Err(status(
                ErrorCode::Starting,
                "this node is not bound to a cluster yet; retry",
            )),
            (_, theirs, Some(ours)) => Err(status(
                ErrorCode::WrongCluster,
                format!(
                    "caller is of cluster {}, this node is of {ours}; check the peers list of the caller",
                    theirs.unwrap_or("(none)")
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: u64, grpc: &str, weight: f64) -> NodeInfo {
        NodeInfo {
            id,
            grpc: grpc.into(),
            http: String::new(),
            zone: String::new(),
            weight,
        }
    }

    #[test]
    fn configured_addresses_beat_those_of_the_meta_state() {
        let peers = Peers::new(1, [info(1, "a:1", 1.0), info(2, "b:1", 1.0)]);
        let mut old = info(2, "old:1", 3.0);
        old.http = "b:2".into();
        peers.update([info(1, "old:1", 3.0), old, info(3, "c:1", 1.0)]);
        assert_eq!(peers.info(1), Some(info(1, "a:1", 1.0)));
        let known = peers.info(2).unwrap();
        assert_eq!(
            (known.grpc.as_str(), known.http.as_str(), known.weight),
            ("b:1", "b:2", 3.0)
        );
        peers.update([info(3, "d:1", 1.0)]);
        assert_eq!(peers.info(3).unwrap().grpc, "d:1");
        assert_eq!(peers.others(), [2, 3]);
    }

    #[test]
    fn only_nodes_that_answer_and_stay_may_lead() {
        let peers = Peers::new(1, [info(1, "a:1", 1.0), info(2, "b:1", 1.0)]);
        assert!(peers.may_lead(1) && !peers.may_lead(2) && !peers.may_lead(9));
        peers.answered(2);
        assert!(peers.may_lead(2));
        peers.note_leaving(2, true);
        assert!(!peers.may_lead(2) && peers.reachable(2));
        peers.note_leaving(2, false);
        assert!(peers.may_lead(2));
        peers.set_fit(false);
        assert!(!peers.may_lead(1));
        peers.set_fit(true);
        assert!(peers.may_lead(1));
        peers.leave();
        peers.set_fit(true);
        assert!(!peers.may_lead(1));
    }

    #[test]
    fn callers_of_another_cluster_are_refused() {
        let ours = Peers::new(1, [info(1, "a:1", 1.0)]);
        let theirs = Peers::new(2, [info(2, "b:1", 1.0)]);
        let call = |from: &Peers| from.request((), None).metadata().clone();
        let code = |result: Result<u64, Status>| result.map_err(|e| crate::grpc::code_of(&e));
        assert_eq!(code(ours.caller(&call(&theirs))), Err(ErrorCode::Starting));
        ours.set_cluster_id("x");
        assert_eq!(code(ours.caller(&call(&theirs))), Err(ErrorCode::WrongCluster));
        theirs.set_cluster_id("y");
        assert_eq!(code(ours.caller(&call(&theirs))), Err(ErrorCode::WrongCluster));
        ours.set_cluster_id("y");
        assert_eq!(ours.cluster_id(), Some("x"));
        let same = Peers::new(3, [info(3, "c:1", 1.0)]);
        same.set_cluster_id("x");
        assert_eq!(code(ours.caller(&call(&same))), Ok(3));
    }
}
