//! Puts a storage shard under a Raft group.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quorate_raft_log::{
    Durable, LogPosition, Payload, SnapshotOut, SnapshotReader, SnapshotWriter, StateMachine,
};
use quorate_storage::{Shard, ShardSnapshot, SnapshotInstall, StorageError};

use super::encode_outcome;

/// A storage shard as a Raft state machine.
pub struct ShardMachine {
    shard: Arc<Shard>,
    unflushed: Arc<AtomicU64>,
}

impl ShardMachine {
    /// Wraps a shard. Bytes of applied entries are added to `unflushed`.
    pub fn new(shard: Arc<Shard>, unflushed: Arc<AtomicU64>) -> ShardMachine {
        ShardMachine { shard, unflushed }
    }
}

/// `raft-log` and `storage` don't know each other; their positions are the same two numbers.
fn to_storage(position: LogPosition) -> quorate_storage::LogPosition {
    quorate_storage::LogPosition {
        term: position.term,
        index: position.index,
    }
}

/// See [`to_storage`].
fn to_raft(position: quorate_storage::LogPosition) -> LogPosition {
    LogPosition {
        term: position.term,
        index: position.index,
    }
}

fn io(error: StorageError) -> io::Error {
    io::Error::other(error)
}

impl StateMachine for ShardMachine {
    fn durable(&self) -> io::Result<Durable> {
        let durable = self.shard.durable();
        Ok(Durable {
            position: durable.position.map(to_raft),
            membership: durable.membership,
        })
    }

    fn apply(&self, position: LogPosition, payload: Payload<'_>, want_reply: bool) -> io::Result<Bytes> {
        let position = to_storage(position);
        match payload {
            Payload::Command(entry) => {
                let outcome = self.shard.apply(position, entry).map_err(io)?;
                self.unflushed.fetch_add(entry.len() as u64, Ordering::Relaxed);
                Ok(if want_reply {
                    encode_outcome(&outcome)
                } else {
                    Bytes::new()
                })
            }
            Payload::Blank => {
                self.shard.apply_blank(position).map_err(io)?;
                Ok(Bytes::new())
            }
            Payload::Membership(membership) => {
                self.shard.apply_membership(position, membership).map_err(io)?;
                Ok(Bytes::new())
            }
        }
    }

    fn snapshot(&self) -> io::Result<SnapshotOut> {
        let snapshot = self.shard.snapshot().map_err(io)?;
        Ok(SnapshotOut {
            position: to_raft(snapshot.position),
            membership: snapshot.membership.clone().unwrap_or_default(),
            chunks: Box::new(Chunks(snapshot)),
        })
    }

    fn begin_install(&self) -> io::Result<Box<dyn SnapshotWriter>> {
        Ok(Box::new(Install(self.shard.begin_install().map_err(io)?)))
    }
}

struct Chunks(ShardSnapshot);

impl SnapshotReader for Chunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.0.next_chunk().map_err(io)
    }
}

struct Install(SnapshotInstall);

impl SnapshotWriter for Install {
    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        self.0.write(&chunk).map_err(io)
    }

    fn finish(self: Box<Self>, position: LogPosition, membership: Bytes) -> io::Result<()> {
        self.0.finish(to_storage(position), Some(membership)).map_err(io)
    }
}
