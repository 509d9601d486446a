//! One local replica of a shard, and the table of all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use quorate_raft_log::{GroupStatus, ReplicaId};
use quorate_storage::Shard;
use tokio::sync::watch;

use crate::cluster::Gate;
use crate::raft::Group;
use crate::write::{BatchLimits, Batcher};

/// A replica of one shard on this node.
pub struct ShardReplica {
    id: u32,
    replica: ReplicaId,
    shard: Arc<Shard>,
    status: watch::Receiver<GroupStatus>,
    group: Group,
    unflushed: Arc<AtomicU64>,
    reads: AtomicU64,
}

impl ShardReplica {
    /// A replica whose storage and Raft group are open. Its state machine counts the bytes of applied
    /// entries in `unflushed`.
    pub fn new(
        id: u32,
        replica: ReplicaId,
        shard: Arc<Shard>,
        group: Group,
        unflushed: Arc<AtomicU64>,
    ) -> Arc<ShardReplica> {
        Arc::new(ShardReplica {
            id,
            replica,
            shard,
            status: group.watch(),
            group,
            unflushed,
            reads: AtomicU64::new(0),
        })
    }

    /// Bytes of entries applied since the last flush: what a restart would replay.
    pub fn unflushed_bytes(&self) -> u64 {
        self.unflushed.load(Ordering::Relaxed)
    }

    /// Notes that `bytes` of them are flushed.
    pub fn flushed(&self, bytes: u64) {
        self.unflushed.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Selections that this replica answered.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Notes one of them.
    pub fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// The shard, which is also the number of its Raft group.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The replica id.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The stored series.
    pub fn storage(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// The Raft group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The replica that leads, as far as this one knows. Asked for every part of every write, so it reads
    /// the watched status, which is a few milliseconds old, instead of making a new one.
    pub fn leader(&self) -> Option<ReplicaId> {
        self.status.borrow().leader
    }

    /// Whether this replica leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.leader() == Some(self.replica)
    }

    /// Waits until another replica than `than` leads, as far as this one knows. Never returns when the
    /// group is closed first.
    pub async fn led_by_another(&self, than: ReplicaId) {
        let mut status = self.status.clone();
        let moved = |s: &GroupStatus| s.leader.is_some_and(|leader| leader != than);
        if status.wait_for(moved).await.is_err() {
            std::future::pending().await
        }
    }
}

#[derive(Clone)]
struct Open {
    replica: Arc<ShardReplica>,
    batcher: Batcher,
}

/// The open shard replicas of this node.
pub struct Shards {
    open: RwLock<BTreeMap<u32, Open>>,
    limits: BatchLimits,
    gate: Arc<Gate>,
}

impl Shards {
    /// An empty table; replicas opened later batch by `limits`, while `gate` lets them.
    pub fn new(limits: BatchLimits, gate: Arc<Gate>) -> Arc<Shards> {
        Arc::new(Shards {
            open: RwLock::new(BTreeMap::new()),
            limits,
            gate,
        })
    }

    /// Whether the disk of this node does not answer: what replicas here know is not told any more.
    pub fn stalled(&self) -> bool {
        self.gate.log_stalled()
    }

    /// Adds a replica and starts its batching task. It replaces an earlier replica of the same shard.
    pub fn insert(&self, replica: Arc<ShardReplica>) {
        let batcher = Batcher::start(replica.clone(), self.limits, self.gate.clone());
        self.open.write().insert(replica.id(), Open { replica, batcher });
    }

    /// Takes a replica out; its batching task ends.
    pub fn remove(&self, shard: u32) -> Option<Arc<ShardReplica>> {
        self.open.write().remove(&shard).map(|open| open.replica)
    }

    /// The local replica of a shard.
    pub fn get(&self, shard: u32) -> Option<Arc<ShardReplica>> {
        self.open.read().get(&shard).map(|open| open.replica.clone())
    }

    /// The batcher of the local replica of a shard.
    pub fn batcher(&self, shard: u32) -> Option<Batcher> {
        self.open.read().get(&shard).map(|open| open.batcher.clone())
    }

    /// Every local replica, by shard.
    pub fn all(&self) -> Vec<Arc<ShardReplica>> {
        self.open
            .read()
            .values()
            .map(|open| open.replica.clone())
            .collect()
    }
}
