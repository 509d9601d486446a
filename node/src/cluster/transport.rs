//! Carries `raft-log`'s opaque messages over gRPC: bulk log, heartbeats and votes, and snapshots each
//! on a connection of their own. All groups share the first two.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use quorate_proto::internal::SnapshotFrame;
use quorate_proto::internal::raft_client::RaftClient;
use quorate_raft_log::{Network, NetworkError, ReplicaId, Target};
use tonic::{Code, Status};

use super::append_links::AppendLinks;
use super::control_links::ControlLinks;
use super::meta::META_GROUP;
use super::peers::{MAX_MESSAGE_BYTES, Peers, Purpose};
use super::view::CurrentView;

/// The network of this node's replicas.
pub struct Transport {
    peers: Arc<Peers>,
    view: Arc<CurrentView>,
    /// Replicas of the meta group as this node's identity names them: needed before the meta state is.
    meta_replicas: Vec<(u64, ReplicaId)>,
    appends: AppendLinks,
    controls: Arc<ControlLinks>,
}

impl Transport {
    /// Finds replicas by the current view and, for the meta group, by the node's identity.
    pub fn new(peers: Arc<Peers>, view: Arc<CurrentView>, meta_replicas: Vec<(u64, ReplicaId)>) -> Transport {
        Transport {
            appends: AppendLinks::new(peers.clone()),
            controls: Arc::new(ControlLinks::new(peers.clone())),
            peers,
            view,
            meta_replicas,
        }
    }

    fn node_of(&self, target: Target) -> Result<u64, NetworkError> {
        let placed = self
            .view
            .get()
            .and_then(|view| view.node_of(target.group, target.replica));
        let founded = || {
            let known = self
                .meta_replicas
                .iter()
                .find(|(_, replica)| *replica == target.replica);
            known
                .filter(|_| target.group == META_GROUP)
                .map(|(node, _)| *node)
        };
        placed.or_else(founded).ok_or_else(|| {
            NetworkError::Unreachable(format!(
                "no node is known for replica {} of group {}",
                target.replica, target.group
            ))
        })
    }
}

impl Network for Transport {
    fn append_stream(
        &self,
        target: Target,
        requests: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, NetworkError>>, NetworkError>> {
        let opened = self
            .node_of(target)
            .and_then(|node| self.appends.open(node, target, requests));
        std::future::ready(opened).boxed()
    }

    fn control(
        &self,
        target: Target,
        kind: u32,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let node = self.node_of(target);
        let controls = self.controls.clone();
        async move { controls.send(node?, target, kind, payload, timeout).await }.boxed()
    }

    fn snapshot(
        &self,
        target: Target,
        header: Bytes,
        frames: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let channel = self
            .node_of(target)
            .and_then(|node| self.peers.channel(node, Purpose::Snapshot).map_err(failed));
        let first = SnapshotFrame {
            group: target.group,
            target_replica: target.replica,
            header,
            ..SnapshotFrame::default()
        };
        let frames = frames.map(|chunk| SnapshotFrame {
            chunk,
            ..SnapshotFrame::default()
        });
        let all = futures_util::stream::once(std::future::ready(first))
            .chain(frames)
            .boxed();
        let request = self.peers.request(Messages(all), None);
        async move {
            // raft-log bounds the transfer: by progress while it runs, by time while it is installed.
            let mut client = RaftClient::new(channel?).max_encoding_message_size(MAX_MESSAGE_BYTES);
            Ok(client
                .snapshot(request)
                .await
                .map_err(failed)?
                .into_inner()
                .payload)
        }
        .boxed()
    }
}

/// A named stream: through a bare boxed one the compiler can't prove that the calls' futures are `Send`.
struct Messages<T>(BoxStream<'static, T>);

impl<T> Stream for Messages<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_next_unpin(cx)
    }
}

pub(super) fn failed(status: Status) -> NetworkError {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => {
            NetworkError::Unreachable(status.message().to_string())
        }
        Code::DeadlineExceeded => NetworkError::Unreachable("deadline exceeded".into()),
        _ => NetworkError::Refused(status.message().to_string()),
    }
}
