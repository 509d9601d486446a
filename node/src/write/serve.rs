//! The leader's side of forwarding: parts that other nodes received for shards led here.

use std::sync::Arc;

use quorate_proto::ErrorCode;
use quorate_proto::internal::{ForwardRequest, ForwardResponse};
use quorate_storage::check_part;

use super::Committed;
use super::leaders::{Leader, Leaders};
use crate::api::ApiError;
use crate::cluster::CurrentView;

/// Commits one forwarded part, or says why not and who leads.
pub async fn serve_forwarded(
    leaders: &Arc<Leaders>,
    view: &CurrentView,
    request: ForwardRequest,
) -> ForwardResponse {
    let (sequence, shard) = (request.sequence, request.shard);
    let result = commit(leaders, view, request).await;
    let mut response = ForwardResponse {
        sequence,
        ..ForwardResponse::default()
    };
    match result {
        Ok(committed) => {
            let mut outcome = Vec::new();
            committed.outcome.encode(&mut outcome);
            response.outcome = outcome.into();
            response.term = committed.term;
            response.index = committed.index;
        }
        Err(error) => {
            if error.code == ErrorCode::NotLeader {
                response.leader_node = leaders.node(shard);
            }
            response.code = error.code.name().into();
            response.message = error.message;
        }
    }
    response
}

async fn commit(
    leaders: &Leaders,
    view: &CurrentView,
    request: ForwardRequest,
) -> Result<Committed, ApiError> {
    let shard = request.shard;
    let epoch = view.get().map(|v| v.ring.epoch());
    if epoch != Some(request.ring_epoch) {
        let what = format!(
            "shard {shard}: the part is of ring epoch {}, this node is at {epoch:?}",
            request.ring_epoch
        );
        return Err(ApiError::new(ErrorCode::StaleRing, what));
    }
    // A part damaged on the way must not reach the log, where every replica would stumble over it.
    check_part(&request.part)
        .map_err(|e| ApiError::new(ErrorCode::Internal, format!("shard {shard}: forwarded part: {e}")))?;
    let Leader::Local(batcher) = leaders.find(shard, 0) else {
        return Err(ApiError::new(
            ErrorCode::NotLeader,
            format!("this node does not lead shard {shard}"),
        ));
    };
    let wait = std::time::Duration::from_millis(request.timeout_ms.into());
    tokio::time::timeout(wait, batcher.submit(request.part))
        .await
        .unwrap_or_else(|_| {
            Err(ApiError::new(
                ErrorCode::NoQuorum,
                format!("shard {shard} did not commit in time"),
            ))
        })
}
