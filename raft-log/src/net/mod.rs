//! How replicas talk: the transport a node provides, the messages, and openraft's view of both.

mod client;
pub(crate) mod frame;
mod hold;
mod server;
mod snapshot_frame;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use thiserror::Error;

use crate::position::{GroupId, ReplicaId};

pub(crate) use client::{PeerFactory, Peers};
pub(crate) use frame::Control;
pub(crate) use hold::PurgeHolds;
pub use server::Room;
pub(crate) use server::Server;

/// A replica somewhere in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The group.
    pub group: GroupId,
    /// The replica of that group.
    pub replica: ReplicaId,
}

/// Why a message was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// No connection, no address, connection lost.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The peer answered that it cannot: wrong replica, group stopped, message damaged.
    #[error("refused by the peer: {0}")]
    Refused(String),
}

impl From<io::Error> for NetworkError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// The transport between nodes. It carries opaque bytes, in order within a stream, and finds the
/// node of a replica by itself. Everything it returns is told to openraft as "unreachable", so that
/// retries back off.
pub trait Network: Send + Sync + 'static {
    /// Opens the bulk stream to a replica: one answer per request, in order. Ends when `requests`
    /// end or the connection breaks. The peer passes both to
    /// [`RaftLog::handle_append`](crate::RaftLog::handle_append).
    fn append_stream(
        &self,
        target: Target,
        requests: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, NetworkError>>, NetworkError>>;

    /// Sends a small message and waits at most `timeout` for the answer. Must never queue behind
    /// the bytes of `append_stream` or `snapshot`: heartbeats and votes come this way. The peer
    /// passes it to [`RaftLog::handle_control`](crate::RaftLog::handle_control).
    fn control(
        &self,
        target: Target,
        kind: u32,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>>;

    /// Sends a snapshot: a header and many frames, answered once. Must apply back-pressure: a frame
    /// is taken from `frames` when the peer can take it. The peer passes it to
    /// [`RaftLog::handle_snapshot`](crate::RaftLog::handle_snapshot).
    fn snapshot(
        &self,
        target: Target,
        header: Bytes,
        frames: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>>;
}
