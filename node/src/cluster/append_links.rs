//! Carries the append streams of all groups to a peer over one gRPC stream.
//!
//! Each stream has a window of bytes that are not answered yet, so that a group whose replica is slow holds up
//! nobody else: the receiving node queues what comes without bound.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::task::AtomicWaker;
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use quorate_proto::internal::raft_client::RaftClient;
use quorate_proto::internal::{AppendFrame, AppendFrames};
use quorate_raft_log::{NetworkError, Target};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::gather::{Frames, Gather};
use super::peers::{MAX_MESSAGE_BYTES, Peers, Purpose};

/// Bytes of a stream that may be unanswered before the next request is taken.
const WINDOW_BYTES: usize = 4 << 20;
/// Opening must not hang: the peer answers with headers at once.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

type Answer = Result<Bytes, NetworkError>;

/// The links to all peers, opened at first use and again after a failure.
pub(super) struct AppendLinks {
    peers: Arc<Peers>,
    links: Mutex<HashMap<u64, Arc<Link>>>,
}

struct Link {
    join: mpsc::UnboundedSender<Frames>,
    /// Streams that are not over; `None` once the link broke.
    open: Mutex<Option<HashMap<u64, Open>>>,
    next: AtomicU64,
}

struct Open {
    answers: mpsc::UnboundedSender<Answer>,
    requests: Arc<Requests>,
}

/// The requests of one stream.
struct Requests {
    /// `None` once they are over, or nobody waits for the answers.
    source: Mutex<Option<BoxStream<'static, Bytes>>>,
    unanswered: Mutex<Unanswered>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Unanswered {
    sizes: VecDeque<usize>,
    bytes: usize,
}

impl AppendLinks {
    pub(super) fn new(peers: Arc<Peers>) -> AppendLinks {
        AppendLinks {
            peers,
            links: Mutex::default(),
        }
    }

    /// Opens a stream to a replica on `node`. Failures come as answers.
    pub(super) fn open(
        &self,
        node: u64,
        target: Target,
        requests: BoxStream<'static, Bytes>,
    ) -> Result<BoxStream<'static, Answer>, NetworkError> {
        let link = self.link(node)?;
        let id = link.next.fetch_add(1, Ordering::Relaxed);
        let requests = Arc::new(Requests {
            source: Mutex::new(Some(requests)),
            unanswered: Mutex::default(),
            waker: AtomicWaker::new(),
        });
        let (tell, answers) = mpsc::unbounded_channel();
        let broke = || NetworkError::Unreachable(format!("the link to node {node} broke"));
        link.open.lock().as_mut().ok_or_else(broke)?.insert(
            id,
            Open {
                answers: tell,
                requests: requests.clone(),
            },
        );
        let frames = RequestFrames {
            requests: requests.clone(),
            id,
            target: Some(target),
            ended: false,
        };
        let answers = Answers {
            answers,
            link: link.clone(),
            id,
            requests,
        };
        link.join.send(frames.boxed()).map_err(|_| broke())?;
        Ok(answers.boxed())
    }

    fn link(&self, node: u64) -> Result<Arc<Link>, NetworkError> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&node)
            && link.open.lock().is_some()
        {
            return Ok(link.clone());
        }
        let channel = self.peers.channel(node, Purpose::Log);
        let channel = channel.map_err(super::transport::failed)?;
        let (join, gather) = Gather::new();
        let link = Arc::new(Link {
            join,
            open: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(1),
        });
        links.insert(node, link.clone());
        tokio::spawn(run(self.peers.clone(), node, channel, gather, link.clone()));
        Ok(link)
    }
}

async fn run(peers: Arc<Peers>, node: u64, channel: Channel, gather: Gather, link: Arc<Link>) {
    let mut client = RaftClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let opening = client.append(peers.request(gather, None));
    let broken = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
        Err(_) => NetworkError::Timeout(OPEN_TIMEOUT),
        Ok(Err(status)) => super::transport::failed(status),
        Ok(Ok(replies)) => {
            let mut replies = replies.into_inner();
            loop {
                match replies.message().await {
                    Ok(Some(AppendFrames { frames })) => {
                        peers.answered(node);
                        frames.into_iter().for_each(|frame| link.answered(frame));
                    }
                    Ok(None) => break NetworkError::Unreachable(format!("node {node} closed the link")),
                    Err(status) => break super::transport::failed(status),
                }
            }
        }
    };
    let open = link.open.lock().take();
    for stream in open.into_iter().flat_map(HashMap::into_values) {
        // Who does not wait any more need not know.
        let _ = stream.answers.send(Err(broken.clone()));
    }
}

impl Link {
    fn answered(&self, frame: AppendFrame) {
        let mut open = self.open.lock();
        let Some(open) = open.as_mut() else { return };
        let Some(stream) = open.get(&frame.stream) else {
            return;
        };
        if !frame.end {
            stream.requests.answered();
            // Who does not wait any more closes the stream.
            let _ = stream.answers.send(Ok(frame.payload));
            return;
        }
        if !frame.error.is_empty() {
            let _ = stream.answers.send(Err(NetworkError::Refused(frame.error)));
        }
        open.remove(&frame.stream);
    }
}

impl Requests {
    fn answered(&self) {
        let mut unanswered = self.unanswered.lock();
        let was_full = unanswered.bytes >= WINDOW_BYTES;
        unanswered.bytes -= unanswered.sizes.pop_front().unwrap_or(0);
        if was_full && unanswered.bytes < WINDOW_BYTES {
            drop(unanswered);
            self.waker.wake();
        }
    }
}

/// The requests of a stream as frames, and a last frame that ends it.
struct RequestFrames {
    requests: Arc<Requests>,
    id: u64,
    /// Until the first frame named it.
    target: Option<Target>,
    ended: bool,
}

impl Stream for RequestFrames {
    type Item = AppendFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AppendFrame>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let requests = self.requests.clone();
        requests.waker.register(cx.waker());
        let mut source = requests.source.lock();
        let next = match source.as_mut() {
            Some(_) if requests.unanswered.lock().bytes >= WINDOW_BYTES => return Poll::Pending,
            Some(stream) => std::task::ready!(stream.poll_next_unpin(cx)),
            None => None,
        };
        let mut frame = AppendFrame {
            stream: self.id,
            ..AppendFrame::default()
        };
        match next {
            Some(payload) => {
                let mut unanswered = requests.unanswered.lock();
                unanswered.bytes += payload.len();
                unanswered.sizes.push_back(payload.len());
                frame.payload = payload;
            }
            None => {
                *source = None;
                self.ended = true;
                frame.end = true;
            }
        }
        if let Some(target) = self.target.take() {
            frame.group = target.group;
            frame.target_replica = target.replica;
        }
        Poll::Ready(Some(frame))
    }
}

/// The answers of a stream. Dropping them ends it.
struct Answers {
    answers: mpsc::UnboundedReceiver<Answer>,
    link: Arc<Link>,
    id: u64,
    requests: Arc<Requests>,
}

impl Stream for Answers {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        self.answers.poll_recv(cx)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if let Some(open) = self.link.open.lock().as_mut() {
            open.remove(&self.id);
        }
        // At once, whatever the connection does: openraft's next stream waits for what this one holds.
        let source = self.requests.source.lock().take();
        drop(source);
        self.requests.waker.wake();
    }
}
