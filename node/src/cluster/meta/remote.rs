//! Commands for the meta group from a node that need not lead it, nor even hold a replica.

use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::internal::MetaRequest;
use quorate_proto::internal::peer_client::PeerClient;
use tonic::Status;

use super::state::{Command, Reply};
use super::{decode_reply, encode_command};
use crate::cluster::peers::{Peers, Purpose};
use crate::grpc::status;

/// Proposes `command` at any peer that leads the meta group or knows who does. Commands are
/// idempotent, so the caller may repeat it after any error.
pub async fn propose_remote(peers: &Peers, command: &Command, timeout: Duration) -> Result<Reply, Status> {
    let bytes = encode_command(command).map_err(|e| status(ErrorCode::Internal, e))?;
    let mut failure = status(ErrorCode::NoLeader, "no peer answered for the meta group");
    let mut targets = peers.others();
    let mut next = 0;
    // Each peer once, plus those that answers named as leader.
    while let Some(&node) = targets.get(next) {
        next += 1;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let request = MetaRequest {
            command: bytes.clone(),
            timeout_ms,
        };
        let channel = peers.channel(node, Purpose::Read)?;
        let mut client = PeerClient::new(channel);
        let answer = client.meta(peers.request(request, Some(timeout))).await;
        match answer.map(tonic::Response::into_inner) {
            Ok(reply) if reply.code.is_empty() => {
                return decode_reply(&reply.reply).map_err(|e| status(ErrorCode::Internal, e));
            }
            Ok(refused) => {
                let code = ErrorCode::from_name(&refused.code).unwrap_or(ErrorCode::Internal);
                failure = status(code, refused.message);
                if let Some(leader) = refused.leader_node
                    && !targets.get(next..).unwrap_or_default().contains(&leader)
                    && targets.len() < 8
                    && leader != peers.own()
                {
                    targets.push(leader);
                }
            }
            Err(e) => failure = e,
        }
    }
    Err(failure)
}
