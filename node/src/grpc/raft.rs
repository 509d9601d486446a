//! The Raft service: hands opaque messages of peers to `raft-log`.
//!
//! Below the disk reserve, commands and snapshots are refused here, before they reach the disk. Heartbeats,
//! votes and entries without data go on: the node still takes part, and its replicas still answer what they have.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use quorate_proto::internal::raft_server::Raft;
use quorate_proto::internal::{ControlRequest, RaftFrame, SnapshotFrame};
use quorate_proto::{ErrorCode, GROUP_HEADER, REPLICA_HEADER};
use quorate_raft_log::NetworkError;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::cluster::{Gate, Peers};
use crate::raft::RaftLog;

type Frames = Pin<Box<dyn Stream<Item = Result<RaftFrame, Status>> + Send>>;

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
    type AppendStream = Frames;

    async fn append(&self, request: Request<Streaming<RaftFrame>>) -> Result<Response<Frames>, Status> {
        let log = self.log(request.metadata())?;
        let number = |key| -> Option<u64> { request.metadata().get(key)?.to_str().ok()?.parse().ok() };
        let group = number(GROUP_HEADER).and_then(|g| u32::try_from(g).ok());
        let (Some(group), Some(replica)) = (group, number(REPLICA_HEADER)) else {
            return Err(status(
                ErrorCode::BadData,
                "an append stream names its group and replica",
            ));
        };
        let gate = self.gate.clone();
        let requests = until_error(request.into_inner(), |frame| frame.payload);
        let room = Arc::new(move |bytes| gate.room_for(bytes));
        let replies = log
            .handle_append(group, replica, requests.boxed(), room)
            .map_err(refused)?;
        let frames = replies.map(|reply| reply.map(|payload| RaftFrame { payload }).map_err(refused));
        Ok(Response::new(Box::pin(frames)))
    }

    async fn control(&self, request: Request<ControlRequest>) -> Result<Response<RaftFrame>, Status> {
        let log = self.log(request.metadata())?;
        let ControlRequest {
            group,
            target_replica,
            kind,
            payload,
        } = request.into_inner();
        let payload = log
            .handle_control(group, target_replica, kind, payload)
            .await
            .map_err(refused)?;
        Ok(Response::new(RaftFrame { payload }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotFrame>>,
    ) -> Result<Response<RaftFrame>, Status> {
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
        Ok(Response::new(RaftFrame { payload }))
    }
}

/// The messages up to the first transport error, which ends the stream: `raft-log` treats an early
/// end as a broken connection.
fn until_error<T: Send + 'static>(
    stream: Streaming<T>,
    payload: impl Fn(T) -> Bytes + Send + 'static,
) -> impl Stream<Item = Bytes> + Send + 'static {
    stream
        .take_while(|message| std::future::ready(message.is_ok()))
        .filter_map(move |message| std::future::ready(message.ok().map(&payload)))
}

fn refused(error: impl std::fmt::Display) -> Status {
    status(ErrorCode::NoLeader, error.to_string())
}
