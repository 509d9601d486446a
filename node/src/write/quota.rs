//! The leader's part in sharing out a tenant's series: its shard's log, and the meta group.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::ErrorCode;
use quorate_raft_log::Role;
use quorate_storage::{Quota, encode_quota_entry};

use super::batcher::propose_error;
use crate::api::ApiError;
use crate::cluster::meta::{Command, LeaseRequest, Reply, decode_reply, encode_command, propose_remote};
use crate::cluster::{CurrentView, Gate, MetaReplica, Peers, View, missing_limits};
use crate::shards::ShardReplica;

/// Longest wait for one command of the meta group.
const META_TIMEOUT: Duration = Duration::from_secs(2);

/// What the meta group answered.
pub(super) enum Lease {
    /// The shard may have so many series of the tenant.
    Series(u64),
    /// These shards have to tell first what they hold.
    Awaits(Vec<u32>),
}

/// Gets shares of tenants' limits for shards that this node leads.
pub struct Quotas {
    view: Arc<CurrentView>,
    meta: MetaReplica,
    peers: Arc<Peers>,
    gate: Arc<Gate>,
    turns: Mutex<HashMap<u32, Arc<tokio::sync::Mutex<()>>>>,
}

impl Quotas {
    /// Asks the meta group through `meta` or through peers.
    pub fn new(view: Arc<CurrentView>, meta: MetaReplica, peers: Arc<Peers>, gate: Arc<Gate>) -> Quotas {
        Quotas {
            view,
            meta,
            peers,
            gate,
            turns: Mutex::default(),
        }
    }

    /// What the requests of one shard take in turns.
    pub(super) fn turn(&self, shard: u32) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().entry(shard).or_default().clone()
    }

    fn view(&self) -> Result<Arc<View>, ApiError> {
        let forming = || ApiError::new(ErrorCode::Starting, "the cluster is still forming; retry");
        self.view.get().ok_or_else(forming)
    }

    /// The epoch of quotas as far as this node knows.
    pub(super) fn epoch(&self) -> Result<u64, ApiError> {
        Ok(self.view()?.quota_epoch())
    }

    /// Brings the limits of the cluster into the shard's log; their epoch.
    pub(super) async fn enter(&self, replica: &ShardReplica) -> Result<u64, ApiError> {
        let view = self.view()?;
        for entry in missing_limits(replica.storage(), &view, || self.gate.stamp())? {
            self.propose(replica, entry).await?;
        }
        Ok(view.quota_epoch())
    }

    /// The quota of a tenant by the shard's log. Brings the shard into the epoch of the cluster first, and
    /// fixes the tenant's quota at what it has if it has none, so that it can be counted on.
    pub(super) async fn held(&self, replica: &ShardReplica, tenant: &str) -> Result<u64, ApiError> {
        if self.enter(replica).await? == 0 {
            return Ok(u64::MAX);
        }
        if let (_, Some(held)) = replica.storage().tenant_series(tenant) {
            return Ok(held);
        }
        self.put(replica, tenant, 0).await?;
        let stale = || {
            let what = format!("the limits of shard {} are changing; retry", replica.id());
            ApiError::new(ErrorCode::Starting, what)
        };
        replica.storage().tenant_series(tenant).1.ok_or_else(stale)
    }

    /// Puts a quota into the shard's log.
    pub(super) async fn put(
        &self,
        replica: &ShardReplica,
        tenant: &str,
        series: u64,
    ) -> Result<(), ApiError> {
        let epoch = self.view()?.quota_epoch();
        let entry = encode_quota_entry(self.gate.stamp()?, tenant, Quota { epoch, series });
        self.propose(replica, entry).await
    }

    async fn propose(&self, replica: &ShardReplica, entry: bytes::Bytes) -> Result<(), ApiError> {
        let proposed = replica.group().propose(entry).await;
        proposed.map(drop).map_err(|e| propose_error(&e))
    }

    /// Tells the meta group what the shard holds and asks for `wanted` more.
    pub(super) async fn lease(
        &self,
        shard: u32,
        tenant: &str,
        held: u64,
        wanted: u64,
    ) -> Result<Lease, ApiError> {
        let epoch = self.view()?.quota_epoch();
        if epoch == 0 {
            return Ok(Lease::Series(u64::MAX));
        }
        let command = Command::Lease(LeaseRequest {
            tenant: tenant.to_owned(),
            shard,
            epoch,
            held,
            wanted,
        });
        match self.command(&command).await? {
            Reply::Leased(series) => Ok(Lease::Series(series)),
            Reply::LeaseAwaits(shards) => Ok(Lease::Awaits(shards)),
            // Another epoch, most likely, which this node is about to learn of.
            Reply::Refused(why) => Err(ApiError::new(ErrorCode::Starting, why)),
            other => {
                let what = format!("the meta group answered {other:?} to a lease");
                Err(ApiError::new(ErrorCode::Internal, what))
            }
        }
    }

    /// Has a command decided by the meta group.
    pub(crate) async fn command(&self, command: &Command) -> Result<Reply, ApiError> {
        let internal = |what: String| ApiError::new(ErrorCode::Internal, what);
        let group = &self.meta.group;
        if group.status().role == Role::Leader {
            let bytes = encode_command(command).map_err(internal)?;
            let proposed = group.propose_within(bytes, META_TIMEOUT).await;
            let committed = proposed.map_err(|e| propose_error(&e))?;
            return decode_reply(&committed.reply).map_err(internal);
        }
        let proposed = propose_remote(&self.peers, command, META_TIMEOUT).await;
        proposed.map_err(|e| ApiError::new(crate::grpc::code_of(&e), format!("meta group: {}", e.message())))
    }
}
