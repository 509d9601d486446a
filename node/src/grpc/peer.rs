//! The Peer service: formation, meta commands, forwarded writes, read indexes, shard reads.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use quorate_proto::ErrorCode;
use quorate_proto::internal::peer_server::Peer;
use quorate_proto::internal::{
    ForwardRequest, ForwardResponse, FoundRequest, FoundResponse, HelloRequest, HelloResponse, MetaRequest,
    MetaResponse, ReadIndexRequest, ReadIndexResponse, ReadShardRequest, ReadShardResponse,
    ShardCommandRequest, ShardCommandResponse,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::Cells;
use crate::cluster::meta::{META_GROUP, decode_command};
use crate::node::Node;
use crate::read::serve_shard;
use crate::write::{propose_error, serve_forwarded};

/// Forwarded parts of one peer that are worked on at a time; more wait in its stream.
const FORWARDS_IN_FLIGHT: usize = 512;
/// Messages of a shard read that wait for a slow peer.
const READ_QUEUE: usize = 4;

/// The service.
pub(super) struct PeerService {
    /// The node, as far as it is up.
    pub cells: Cells,
}

impl PeerService {
    fn node(&self, metadata: &MetadataMap) -> Result<Arc<Node>, Status> {
        self.cells.peers.caller(metadata)?;
        self.cells.node()
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let request = request.into_inner();
        if self.cells.peers.cluster_id() == Some(request.cluster_id.as_str()) {
            self.cells.peers.note_leaving(request.node_id, request.leaving);
        }
        Ok(Response::new(
            self.cells
                .binding
                .hello(request.node_id, self.cells.clock.now_ms()),
        ))
    }

    async fn found(&self, request: Request<FoundRequest>) -> Result<Response<FoundResponse>, Status> {
        let refused = self
            .cells
            .binding
            .found(request.get_ref())
            .err()
            .unwrap_or_default();
        Ok(Response::new(FoundResponse { refused }))
    }

    async fn meta(&self, request: Request<MetaRequest>) -> Result<Response<MetaResponse>, Status> {
        let node = self.node(request.metadata())?;
        Ok(Response::new(meta_command(&node, request.into_inner()).await))
    }

    type ForwardStream = Replies<ForwardResponse>;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let node = self.node(request.metadata())?;
        let mut parts = request.into_inner();
        let (replies, out) = mpsc::channel(FORWARDS_IN_FLIGHT);
        let turns = Arc::new(Semaphore::new(FORWARDS_IN_FLIGHT));
        tokio::spawn(async move {
            while let Ok(Some(part)) = parts.message().await {
                let Ok(turn) = turns.clone().acquire_owned().await else {
                    return;
                };
                let (node, replies) = (node.clone(), replies.clone());
                tokio::spawn(async move {
                    let reply = serve_forwarded(node.leaders(), node.view(), part).await;
                    // The peer may have gone; its part is stored all the same.
                    let _ = replies.send(Ok(reply)).await;
                    drop(turn);
                });
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn command(
        &self,
        request: Request<ShardCommandRequest>,
    ) -> Result<Response<ShardCommandResponse>, Status> {
        let node = self.node(request.metadata())?;
        Ok(Response::new(node.commands().serve(request.into_inner()).await))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexResponse>, Status> {
        let node = self.node(request.metadata())?;
        Ok(Response::new(
            node.reader().indexes().answer(request.into_inner()).await,
        ))
    }

    type ReadShardStream = Replies<ReadShardResponse>;

    async fn read_shard(
        &self,
        request: Request<ReadShardRequest>,
    ) -> Result<Response<Self::ReadShardStream>, Status> {
        let node = self.node(request.metadata())?;
        let (out, replies) = mpsc::channel(READ_QUEUE);
        tokio::spawn(serve_shard(
            node.reader().clone(),
            self.cells.peers.own(),
            request.into_inner(),
            out,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }
}

/// Proposes a command of a peer to the meta group, if this node leads it.
async fn meta_command(node: &Node, request: MetaRequest) -> MetaResponse {
    let meta = node.meta();
    let wait = Duration::from_millis(request.timeout_ms.into());
    // Refused before the log, as every replica would have to.
    if let Err(what) = decode_command(&request.command) {
        return refused(
            ErrorCode::BadData,
            format!("unreadable meta command: {what}"),
            None,
        );
    }
    match meta.group.propose_within(request.command, wait).await {
        Ok(committed) => MetaResponse {
            reply: committed.reply,
            ..MetaResponse::default()
        },
        Err(error) => {
            let leader = meta.group.status().leader;
            let node_of = |replica| node.view().get()?.node_of(META_GROUP, replica);
            let code = propose_error(&error).code;
            refused(code, error.to_string(), leader.and_then(node_of))
        }
    }
}

fn refused(code: ErrorCode, message: String, leader_node: Option<u64>) -> MetaResponse {
    MetaResponse {
        code: code.name().into(),
        message,
        leader_node,
        ..MetaResponse::default()
    }
}
