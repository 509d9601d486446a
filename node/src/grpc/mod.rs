//! The gRPC frontends, public and internal.

mod cluster;
mod health;
mod histogram;
mod peer;
mod public;
mod query;
mod raft;
mod write;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use quorate_proto::internal::peer_server::PeerServer;
use quorate_proto::internal::raft_server::RaftServer;
use quorate_proto::v1::cluster_server::ClusterServer;
use quorate_proto::v1::query_server::QueryServer;
use quorate_proto::v1::write_server::WriteServer;
use quorate_proto::{ERROR_CODE_HEADER, ErrorCode, FILE_DESCRIPTOR_SET, RETRY_AFTER_MS_HEADER};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub use public::PublicGate;

use crate::api::ApiError;
use crate::clock::Clock;
use crate::cluster::{
    Binding, CONNECTION_WINDOW_BYTES, Gate, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, Peers, STREAM_WINDOW_BYTES,
};
use crate::inflight::BytesInFlight;
use crate::node::Node;
use crate::raft::RaftLog;

/// How long a stopping server waits for open connections.
const DRAIN: Duration = Duration::from_millis(200);
/// How long clients should wait before they retry what was refused for a passing reason.
pub const RETRY_AFTER_MS: u64 = 500;

/// What the services share; the cells fill while the node starts.
#[derive(Clone)]
pub struct Cells {
    /// Nodes, and who calls.
    pub peers: Arc<Peers>,
    /// What this node is bound to.
    pub binding: Arc<Binding>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Filled when the log is open.
    pub log: Arc<OnceLock<RaftLog>>,
    /// Filled when the node is up.
    pub node: Arc<OnceLock<Arc<Node>>>,
    /// Counts and refuses public requests.
    pub public: PublicGate,
    /// The bound on memory that write requests hold.
    pub bytes_in_flight: BytesInFlight,
    /// Longest a write may take.
    pub write_timeout: Duration,
    /// Whether this node may take writes, and entries of its peers.
    pub gate: Arc<Gate>,
}

impl Cells {
    fn node(&self) -> Result<Arc<Node>, Status> {
        self.node
            .get()
            .cloned()
            .ok_or_else(|| status(ErrorCode::Starting, "this node is still starting; retry"))
    }
}

/// Serves every service on `listener` until cancelled.
pub async fn serve(listener: TcpListener, cells: Cells, stop: CancellationToken) -> anyhow::Result<()> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("gRPC reflection")?;
    let raft = raft::RaftService {
        peers: cells.peers.clone(),
        log: cells.log.clone(),
        gate: cells.gate.clone(),
    };
    let peer = peer::PeerService { cells: cells.clone() };
    let raft = RaftServer::new(raft)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let peer = PeerServer::new(peer)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let write = WriteServer::new(write::WriteService { cells: cells.clone() })
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let query = QueryServer::new(query::QueryService { cells: cells.clone() });
    let health = health::follow(cells.clone(), reporter);
    // Without TCP_NODELAY, small messages wait for the acknowledgement of earlier ones.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(raft)
        .add_service(peer)
        .add_service(write)
        .add_service(query)
        .add_service(ClusterServer::new(cluster::ClusterService { cells }))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    // Streams of peers end when the peers notice, which nobody has to wait for.
    let cut_off = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => served.context("gRPC server"),
        () = health => Ok(()),
        () = cut_off => Ok(()),
    }
}

/// A gRPC status from the one error table, with its code in the metadata.
pub fn status(code: ErrorCode, message: impl Into<String>) -> Status {
    let mut status = Status::new(code.grpc(), message);
    status
        .metadata_mut()
        .insert(ERROR_CODE_HEADER, AsciiMetadataValue::from_static(code.name()));
    if code.retryable() {
        status
            .metadata_mut()
            .insert(RETRY_AFTER_MS_HEADER, AsciiMetadataValue::from(RETRY_AFTER_MS));
    }
    status
}

/// The code of a status made by [`status`]; transport failures map to the closest code.
pub fn code_of(status: &Status) -> ErrorCode {
    let named = status
        .metadata()
        .get(ERROR_CODE_HEADER)
        .and_then(|v| v.to_str().ok());
    named
        .and_then(ErrorCode::from_name)
        .unwrap_or(match status.code() {
            tonic::Code::DeadlineExceeded => ErrorCode::Timeout,
            tonic::Code::Cancelled => ErrorCode::Canceled,
            _ => ErrorCode::NoLeader,
        })
}

fn api_status(error: ApiError) -> Status {
    status(error.code, error.message)
}
