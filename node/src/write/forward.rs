//! Sends parts to the leaders on other nodes: one long-lived stream for each peer, pipelined, replies
//! in any order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::ErrorCode;
use quorate_proto::internal::peer_client::PeerClient;
use quorate_proto::internal::{ForwardRequest, ForwardResponse};
use quorate_storage::PartOutcome;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::Committed;
use crate::api::ApiError;
use crate::cluster::{MAX_MESSAGE_BYTES, Peers, Purpose};

/// Messages queued for one peer's stream.
const STREAM_QUEUE: usize = 256;

/// A part that another node did not commit, and whom it named as leader.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub error: ApiError,
    /// The leader it knows of.
    pub leader: Option<u64>,
}

/// Requests without an answer yet; `None` once the stream broke.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<ForwardResponse>>>>>;

struct Stream {
    requests: mpsc::Sender<ForwardRequest>,
    waiting: Waiting,
}

/// Streams to all peers, opened at first use and again after a failure.
pub struct Forwarder {
    peers: Arc<Peers>,
    streams: tokio::sync::Mutex<HashMap<u64, Arc<Stream>>>,
    sequence: AtomicU64,
}

impl Forwarder {
    /// No stream is opened yet.
    pub fn new(peers: Arc<Peers>) -> Forwarder {
        Forwarder {
            peers,
            streams: tokio::sync::Mutex::default(),
            sequence: AtomicU64::new(1),
        }
    }

    /// Commits a part at `node`. An error may hide a commit; sending the part again is harmless.
    pub async fn send(
        &self,
        node: u64,
        shard: u32,
        ring_epoch: u64,
        part: Bytes,
        deadline: Instant,
    ) -> Result<Committed, Refused> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let exchange = self.exchange(node, shard, ring_epoch, part, remaining);
        match tokio::time::timeout(remaining, exchange).await {
            Ok(result) => result,
            Err(_) => Err(unavailable(
                ErrorCode::Timeout,
                format!("node {node} did not answer in time"),
            )),
        }
    }

    async fn exchange(
        &self,
        node: u64,
        shard: u32,
        ring_epoch: u64,
        part: Bytes,
        remaining: Duration,
    ) -> Result<Committed, Refused> {
        let stream = self.stream(node).await?;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (reply, answered) = oneshot::channel();
        let lost = || unavailable(ErrorCode::NoLeader, format!("the stream to node {node} broke"));
        stream
            .waiting
            .lock()
            .as_mut()
            .ok_or_else(lost)?
            .insert(sequence, reply);
        let _forget = Forget {
            waiting: &stream.waiting,
            sequence,
        };
        let timeout_ms = u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX);
        let request = ForwardRequest {
            sequence,
            shard,
            ring_epoch,
            part,
            timeout_ms,
        };
        stream.requests.send(request).await.map_err(|_| lost())?;
        decode(answered.await.map_err(|_| lost())?)
    }

    async fn stream(&self, node: u64) -> Result<Arc<Stream>, Refused> {
        let mut streams = self.streams.lock().await;
        if let Some(stream) = streams.get(&node)
            && stream.waiting.lock().is_some()
        {
            return Ok(stream.clone());
        }
        let failed =
            |e: tonic::Status| unavailable(crate::grpc::code_of(&e), format!("node {node}: {}", e.message()));
        let channel = self.peers.channel(node, Purpose::Forward).map_err(failed)?;
        let (requests, outgoing) = mpsc::channel(STREAM_QUEUE);
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let stream = Arc::new(Stream {
            requests,
            waiting: waiting.clone(),
        });
        streams.insert(node, stream.clone());
        tokio::spawn(run_stream(self.peers.clone(), node, channel, outgoing, waiting));
        Ok(stream)
    }
}

/// Takes a request out of the waiting table however its wait ends.
struct Forget<'a> {
    waiting: &'a Waiting,
    sequence: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.remove(&self.sequence);
        }
    }
}

async fn run_stream(
    peers: Arc<Peers>,
    node: u64,
    channel: tonic::transport::Channel,
    outgoing: mpsc::Receiver<ForwardRequest>,
    waiting: Waiting,
) {
    let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    match client
        .forward(peers.request(ReceiverStream::new(outgoing), None))
        .await
    {
        Ok(replies) => {
            let mut replies = replies.into_inner();
            while let Ok(Some(reply)) = replies.message().await {
                peers.answered(node);
                let waiter = waiting.lock().as_mut().and_then(|w| w.remove(&reply.sequence));
                if let Some(waiter) = waiter {
                    // The requester may have given up.
                    let _ = waiter.send(reply);
                }
            }
        }
        Err(e) => tracing::debug!(node, error = %e, "the forward stream did not open"),
    }
    // Dropping the senders tells every waiter that the stream broke.
    *waiting.lock() = None;
}

fn decode(reply: ForwardResponse) -> Result<Committed, Refused> {
    if !reply.code.is_empty() {
        let code = ErrorCode::from_name(&reply.code).unwrap_or(ErrorCode::Internal);
        return Err(Refused {
            error: ApiError::new(code, reply.message),
            leader: reply.leader_node,
        });
    }
    match PartOutcome::decode(&reply.outcome) {
        Ok((outcome, _)) => Ok(Committed {
            outcome,
            term: reply.term,
            index: reply.index,
        }),
        Err(e) => Err(unavailable(
            ErrorCode::Internal,
            format!("unreadable outcome from a peer: {e}"),
        )),
    }
}

fn unavailable(code: ErrorCode, message: String) -> Refused {
    Refused {
        error: ApiError::new(code, message),
        leader: None,
    }
}
