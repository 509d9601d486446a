//! The seam between the process and the database in it.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;

use super::Tasks;
use crate::cluster::Readiness;
use crate::config::Config;
use crate::http::Apis;
use crate::metrics::Metrics;

/// What the core is given to start with.
pub struct Start {
    /// The configuration, checked.
    pub config: Arc<Config>,
    /// Bound already; the core serves its gRPC services on it.
    pub grpc: TcpListener,
    /// Where HTTP is served, with the port that was taken if 0 was configured.
    pub http_address: SocketAddr,
    /// Where `grpc` listens.
    pub grpc_address: SocketAddr,
    /// For the core's own figures and the budget of bytes in flight.
    pub metrics: Arc<Metrics>,
    /// Everything that runs in the background is spawned here, by name.
    pub tasks: Tasks,
    /// Where the core says what it waits for while it starts.
    pub readiness: Arc<Readiness>,
}

/// A running database, as the process sees it. The shutdown calls its phases once each, in the order
/// they stand here, each with a limit on its time: a phase's future is dropped when the limit is
/// reached, and the next phase begins. No phase is needed for safety: what was acknowledged survives
/// a kill at any point.
pub trait Core: Send + Sync {
    /// What the frontends call.
    fn apis(&self) -> Apis;

    /// Refuses new client requests on gRPC with `shutting_down` and waits until the running ones are
    /// answered. Peers' traffic, forwarded writes included, goes on: this node may still lead.
    fn stop_taking(&self) -> BoxFuture<'_, ()>;

    /// Hands the leadership of every group that this node leads to a caught-up peer.
    fn hand_over(&self) -> BoxFuture<'_, ()>;

    /// Flushes what is in memory, so that the next start replays little.
    fn flush(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Stops Raft and the gRPC server and closes the database. Tasks are told to stop before it is called.
    fn close(&self) -> BoxFuture<'_, Result<(), String>>;

    /// What the present phase still waits for, for the log: `group 3: no caught-up peer`.
    fn still_pending(&self) -> Vec<String>;
}
