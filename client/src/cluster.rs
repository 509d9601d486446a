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

    /// Deletes what is stored of the series that match any of the selectors, in the inclusive window of Unix
    /// milliseconds; no bound means everything. What is written later stays. The server has to allow it
    /// (`enable_admin_api`). After an error some of it may be deleted; trying again is harmless.
    pub async fn delete_series(
        &self,
        matches: &[String],
        start_ms: Option<i64>,
        end_ms: Option<i64>,
    ) -> Result<(), ClientError> {
        self.call(Patience::WholeCall, async |attempt| {
            let message = v1::DeleteSeriesRequest {
                matches: matches.to_vec(),
                start_ms,
                end_ms,
            };
            let request = self.request(message, Some(attempt.timeout));
            let reply = attempt.cluster().delete_series(request).await;
            reply.map(|_| ()).map_err(|status| attempt.error(&status))
        })
        .await
    }

    /// The limits in force for a tenant, or those that count for all.
    pub async fn limits(&self, tenant: Option<&str>) -> Result<v1::LimitsResponse, ClientError> {
        self.call(Patience::Attempt, async |attempt| {
            let message = v1::GetLimitsRequest {
                tenant: tenant.map(str::to_owned),
            };
            let reply = attempt
                .cluster()
                .get_limits(self.request(message, Some(attempt.timeout)))
                .await;
            Ok(reply.map_err(|status| attempt.error(&status))?.into_inner())
        })
        .await
    }

    /// Changes limits by their names, of a tenant or for all. No value gives a tenant's own limit up.
    pub async fn set_limits(
        &self,
        tenant: Option<&str>,
        changes: &[(String, Option<u64>)],
    ) -> Result<v1::LimitsResponse, ClientError> {
        self.call(Patience::Attempt, async |attempt| {
            let change = |(name, value): &(String, Option<u64>)| v1::LimitChange {
                name: name.clone(),
                value: *value,
            };
            let message = v1::SetLimitsRequest {
                tenant: tenant.map(str::to_owned),
                changes: changes.iter().map(change).collect(),
            };
            let reply = attempt
                .cluster()
                .set_limits(self.request(message, Some(attempt.timeout)))
                .await;
            Ok(reply.map_err(|status| attempt.error(&status))?.into_inner())
        })
        .await
    }

    /// The tenant's series by metric and label on the answering node, `limit` entries a list. With
    /// several endpoints any of them answers.
    pub async fn cardinality(&self, limit: u32) -> Result<v1::CardinalityResponse, ClientError> {
        self.call(Patience::WholeCall, async |attempt| {
            let request = self.request(v1::CardinalityRequest { limit }, Some(attempt.timeout));
            let reply = attempt.cluster().cardinality(request).await;
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
