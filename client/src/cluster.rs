//! How the cluster stands, and moving leaders.

use crate::call::{Client, Patience};
use crate::error::ClientError;
use quorate_proto::v1;

impl Client {
    /// The cluster as one of its nodes sees it.
    pub async fn status(&self) -> Result<v1::StatusResponse, ClientError> {
        self.call(Patience::Attempt, async |attempt| {
            let request = self.request(v1::StatusRequest {}, Some(attempt.timeout));
            let reply = attempt.cluster().status(request).await;
            Ok(reply.map_err(|status| attempt.error(&status))?.into_inner())
        })
        .await
    }

    /// Checksums of the answering node's replicas, rescanned from storage. With several endpoints any of
    /// them answers: use a client per node to compare replicas. No groups means all.
    pub async fn checksum(&self, groups: &[u32]) -> Result<v1::ChecksumResponse, ClientError> {
        self.call(Patience::WholeCall, async |attempt| {
            let message = v1::ChecksumRequest {
                groups: groups.to_vec(),
            };
            let reply = attempt
                .cluster()
                .checksum(self.request(message, Some(attempt.timeout)))
                .await;
            Ok(reply.map_err(|status| attempt.error(&status))?.into_inner())
        })
        .await
    }

    /// Moves a group's leadership to a node that has a caught-up replica of it.
    pub async fn transfer_leader(&self, group: u32, to_node: u64) -> Result<(), ClientError> {
        self.call(Patience::Attempt, async |attempt| {
            let message = v1::TransferLeaderRequest { group, to_node };
            let reply = attempt
                .cluster()
                .transfer_leader(self.request(message, Some(attempt.timeout)))
                .await;
            reply.map(|_| ()).map_err(|status| attempt.error(&status))
        })
        .await
    }
}
