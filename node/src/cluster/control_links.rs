//! Carries heartbeats, votes and other small messages of all groups to a peer over one gRPC stream: as calls
//! of their own they would cost several times as much, and they are most of what an idle cluster does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use quorate_proto::internal::raft_client::RaftClient;
use quorate_proto::internal::{ControlReply, ControlRequest, ControlRequests};
use quorate_raft_log::{NetworkError, Target};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::peers::{Peers, Purpose};
use super::transport::failed;

/// Messages that wait for a peer's connection; more are refused as unreachable.
const QUEUE: usize = 1_024;
/// Messages in one gRPC message.
const TOGETHER: usize = 256;
/// Opening must not hang: the peer answers with headers at once.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Messages without an answer yet; `None` once the link broke.
type Waiting = Mutex<Option<HashMap<u64, oneshot::Sender<Result<Bytes, NetworkError>>>>>;

/// The links to all peers, opened at first use and again after a failure.
pub(super) struct ControlLinks {
    peers: Arc<Peers>,
    links: Mutex<HashMap<u64, Arc<Link>>>,
    sequence: AtomicU64,
}

struct Link {
    requests: mpsc::Sender<ControlRequest>,
    waiting: Waiting,
}

/// Takes a message out of the waiting table however its wait ends.
struct Forget<'a> {
    link: &'a Link,
    sequence: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.link.waiting.lock().as_mut() {
            waiting.remove(&self.sequence);
        }
    }
}

impl ControlLinks {
    pub(super) fn new(peers: Arc<Peers>) -> ControlLinks {
        ControlLinks {
            peers,
            links: Mutex::default(),
            sequence: AtomicU64::new(1),
        }
    }

    /// Sends a message to a replica on `node` and waits for its answer.
    pub(super) async fn send(
        &self,
        node: u64,
        target: Target,
        kind: u32,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, NetworkError> {
        let link = self.link(node)?;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let unreachable = |what: &str| NetworkError::Unreachable(format!("node {node}: {what}"));
        let (reply, answered) = oneshot::channel();
        let broke = || unreachable("the connection broke");
        link.waiting
            .lock()
            .as_mut()
            .ok_or_else(broke)?
            .insert(sequence, reply);
        let _forget = Forget {
            link: &link,
            sequence,
        };
        let request = ControlRequest {
            group: target.group,
            target_replica: target.replica,
            kind,
            payload,
            sequence,
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        };
        let full = |_| unreachable("too many messages wait for the connection");
        link.requests.try_send(request).map_err(full)?;
        match tokio::time::timeout(timeout, answered).await {
            Ok(answer) => answer.map_err(|_| broke())?,
            Err(_) => Err(NetworkError::Timeout(timeout)),
        }
    }

    fn link(&self, node: u64) -> Result<Arc<Link>, NetworkError> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&node)
            && link.waiting.lock().is_some()
        {
            return Ok(link.clone());
        }
        let channel = self.peers.channel(node, Purpose::Control).map_err(failed)?;
        let (requests, outgoing) = mpsc::channel(QUEUE);
        let link = Arc::new(Link {
            requests,
            waiting: Mutex::new(Some(HashMap::new())),
        });
        links.insert(node, link.clone());
        tokio::spawn(run(self.peers.clone(), node, channel, outgoing, link.clone()));
        Ok(link)
    }
}

async fn run(
    peers: Arc<Peers>,
    node: u64,
    channel: Channel,
    outgoing: mpsc::Receiver<ControlRequest>,
    link: Arc<Link>,
) {
    let requests = ReceiverStream::new(outgoing)
        .ready_chunks(TOGETHER)
        .map(|requests| ControlRequests { requests });
    let mut client = RaftClient::new(channel);
    let opening = client.control(peers.request(requests, None));
    let broken = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
        Err(_) => NetworkError::Timeout(OPEN_TIMEOUT),
        Ok(Err(status)) => failed(status),
        Ok(Ok(replies)) => {
            let mut replies = replies.into_inner();
            loop {
                match replies.message().await {
                    Ok(Some(message)) => {
                        peers.answered(node);
                        message.replies.into_iter().for_each(|reply| link.answered(reply));
                    }
                    Ok(None) => break NetworkError::Unreachable(format!("node {node} closed the link")),
                    Err(status) => break failed(status),
                }
            }
        }
    };
    let waiting = link.waiting.lock().take();
    for waiter in waiting.into_iter().flat_map(HashMap::into_values) {
        // Who gave up meanwhile need not know.
        let _ = waiter.send(Err(broken.clone()));
    }
}

impl Link {
    fn answered(&self, reply: ControlReply) {
        let waiter = self
            .waiting
            .lock()
            .as_mut()
            .and_then(|waiting| waiting.remove(&reply.sequence));
        let Some(waiter) = waiter else { return };
        let answer = match reply.refused.is_empty() {
            true => Ok(reply.payload),
            false => Err(NetworkError::Refused(reply.refused)),
        };
        let _ = waiter.send(answer);
    }
}
