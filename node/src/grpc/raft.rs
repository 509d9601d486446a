//! The Raft service: hands opaque messages of peers to `raft-log`.
//!
//! Below the disk reserve, commands and snapshots are refused here, before they reach the disk. Heartbeats,
//! votes and entries without data go on: the node still takes part, and its replicas still answer what they have.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use quorate_proto::ErrorCode;
use quorate_proto::internal::raft_server::Raft;
use quorate_proto::internal::{
    AppendFrame, AppendFrames, ControlReplies, ControlReply, ControlRequest, ControlRequests, SnapshotFrame,
    SnapshotReply,
};
use quorate_raft_log::NetworkError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::cluster::{Gate, Gather, Peers};
use crate::raft::RaftLog;

/// Control messages of a peer that are worked on at a time; more wait in its stream.
const CONTROLS: usize = 1_024;

/// The service, once the log is open.
pub(super) struct RaftService {
    /// Knows callers.
    pub peers: Arc<Peers>,
    /// Empty until the node is bound to a cluster.
    pub log: Arc<std::sync::OnceLock<RaftLog>>,
    /// Knows whether there is space for more.
    pub gate: Arc<Gate>,
}

impl RaftService {
    fn log(&self, metadata: &MetadataMap) -> Result<RaftLog, Status> {
        let caller = self.peers.caller(metadata)?;
        self.peers.answered(caller);
        let log = self.log.get().cloned();
        log.ok_or_else(|| status(ErrorCode::Starting, "this node's log is not open yet; retry"))
    }

    fn space(&self) -> Result<(), Status> {
        match self.gate.disk_low() {
            true => Err(status(
                ErrorCode::DiskReserve,
                "free disk space is below disk_reserve_bytes",
            )),
            false => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    type AppendStream = BoxStream<'static, Result<AppendFrames, Status>>;
    type ControlStream = ControlAnswers;

    async fn append(
        &self,
        request: Request<Streaming<AppendFrames>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let log = self.log(request.metadata())?;
        let (join, gather) = Gather::new();
        let appends = Appends {
            log,
            gate: self.gate.clone(),
            join,
            open: HashMap::new(),
        };
        tokio::spawn(appends.run(request.into_inner()));
        Ok(Response::new(gather.map(Ok).boxed()))
    }

    async fn control(
        &self,
        request: Request<Streaming<ControlRequests>>,
    ) -> Result<Response<ControlAnswers>, Status> {
        let log = self.log(request.metadata())?;
        Ok(Response::new(ControlAnswers {
            log,
            requests: request.into_inner(),
            ended: false,
            running: FuturesUnordered::new(),
        }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotFrame>>,
    ) -> Result<Response<SnapshotReply>, Status> {
        let log = self.log(request.metadata())?;
        self.space()?;
        let mut frames = request.into_inner();
        let first = frames.message().await?;
        let first = first.ok_or_else(|| status(ErrorCode::BadData, "a snapshot begins with a header"))?;
        let chunks = frames.map(|frame| {
            frame
                .map(|f| f.chunk)
                .map_err(|e| NetworkError::Unreachable(e.message().to_string()))
        });
        let SnapshotFrame {
            group,
            target_replica,
            header,
            ..
        } = first;
        let payload = log
            .handle_snapshot(group, target_replica, header, chunks.boxed())
            .await
            .map_err(refused)?;
        Ok(Response::new(SnapshotReply { payload }))
    }
}

/// The append streams that one peer has open here.
struct Appends {
    log: RaftLog,
    gate: Arc<Gate>,
    join: mpsc::UnboundedSender<BoxStream<'static, AppendFrame>>,
    /// What the sender bounds: so many bytes of each stream may be unanswered.
    open: HashMap<u64, mpsc::UnboundedSender<Bytes>>,
}

impl Appends {
    async fn run(mut self, mut messages: Streaming<AppendFrames>) {
        // A transport error ends all streams: `raft-log` treats an early end as a broken connection.
        while let Ok(Some(message)) = messages.message().await {
            for frame in message.frames {
                self.take(frame);
            }
        }
    }

    fn take(&mut self, frame: AppendFrame) {
        if frame.end {
            self.open.remove(&frame.stream);
            return;
        }
        let requests = match self.open.get(&frame.stream) {
            Some(requests) => requests.clone(),
            None if frame.group == 0 && frame.target_replica == 0 => return,
            None => self.open(frame.stream, frame.group, frame.target_replica),
        };
        // A stream that has ended on this side told so.
        let _ = requests.send(frame.payload);
    }

    fn open(&mut self, stream: u64, group: u32, replica: u64) -> mpsc::UnboundedSender<Bytes> {
        let (requests, taken) = mpsc::unbounded_channel();
        let gate = self.gate.clone();
        let room = Arc::new(move |bytes| gate.room_for(bytes));
        let taken = UnboundedReceiverStream::new(taken).boxed();
        let opened = self.log.handle_append(group, replica, taken, room);
        let answers = opened.unwrap_or_else(|error| futures_util::stream::iter([Err(error)]).boxed());
        let frame = move |payload, end, error| AppendFrame {
            stream,
            payload,
            end,
            error,
            ..AppendFrame::default()
        };
        let frames = answers
            .map(move |answer| match answer {
                Ok(payload) => frame(payload, false, String::new()),
                Err(error) => frame(Bytes::new(), true, error.to_string()),
            })
            .chain(futures_util::stream::iter([frame(
                Bytes::new(),
                true,
                String::new(),
            )]));
        // When the peer is gone, nobody takes the answers.
        let _ = self.join.send(frames.boxed());
        self.open.insert(stream, requests.clone());
        requests
    }
}

/// Answers a peer's control messages, each as soon as it can be.
pub(super) struct ControlAnswers {
    log: RaftLog,
    requests: Streaming<ControlRequests>,
    ended: bool,
    running: FuturesUnordered<BoxFuture<'static, ControlReply>>,
}

impl Stream for ControlAnswers {
    type Item = Result<ControlReplies, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended
            && self.running.len() < CONTROLS
            && let Poll::Ready(message) = self.requests.poll_next_unpin(cx)
        {
            match message {
                Some(Ok(message)) => {
                    for request in message.requests {
                        let answer = answer(self.log.clone(), request).boxed();
                        self.running.push(answer);
                    }
                }
                Some(Err(_)) | None => self.ended = true,
            }
        }
        let mut replies = Vec::new();
        while let Poll::Ready(Some(reply)) = self.running.poll_next_unpin(cx) {
            replies.push(reply);
        }
        match replies.is_empty() {
            false => Poll::Ready(Some(Ok(ControlReplies { replies }))),
            true if self.ended && self.running.is_empty() => Poll::Ready(None),
            true => Poll::Pending,
        }
    }
}

async fn answer(log: RaftLog, request: ControlRequest) -> ControlReply {
    let ControlRequest {
        group,
        target_replica,
        kind,
        payload,
        sequence,
        timeout_ms,
    } = request;
    let limit = Duration::from_millis(timeout_ms.into());
    let answer = log.handle_control(group, target_replica, kind, payload);
    let (payload, refused) = match tokio::time::timeout(limit, answer).await {
        Ok(Ok(payload)) => (payload, String::new()),
        Ok(Err(error)) => (Bytes::new(), error.to_string()),
        Err(_) => (Bytes::new(), NetworkError::Timeout(limit).to_string()),
    };
    ControlReply {
        sequence,
        payload,
        refused,
    }
}

fn refused(error: impl std::fmt::Display) -> Status {
    status(ErrorCode::NoLeader, error.to_string())
}
