//! Puts a storage shard under a Raft group, as the node does, and shows the observer what is applied.

use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use quorate_raft_log::{
    Durable, LogPosition, Payload, SnapshotOut, SnapshotReader, SnapshotWriter, StateMachine,
};
use quorate_storage::{
    ApplyOutcome, EntryError, PartOutcome, Shard, ShardSnapshot, SnapshotInstall, StorageError,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::disk::Disk;
use crate::network::Place;
use crate::observer::Kind;
use crate::world::World;

/// Checksums are compared at every index that is a multiple of this.
const CHECKSUM_EVERY: u64 = 32;

/// A storage shard as a Raft state machine.
pub struct ShardMachine {
    /// The shard.
    pub shard: Arc<Shard>,
    /// The node's disk.
    pub disk: Arc<Disk>,
    /// The node.
    pub node: Place,
    /// Who watches.
    pub world: Weak<World>,
}

fn to_storage(position: LogPosition) -> quorate_storage::LogPosition {
    quorate_storage::LogPosition {
        term: position.term,
        index: position.index,
    }
}

fn to_raft(position: quorate_storage::LogPosition) -> LogPosition {
    LogPosition {
        term: position.term,
        index: position.index,
    }
}

fn io(error: StorageError) -> io::Error {
    io::Error::other(error)
}

/// The outcomes of all parts, one after the other.
fn encode_outcome(outcome: &ApplyOutcome) -> Bytes {
    let mut out = Vec::new();
    for part in &outcome.parts {
        part.encode(&mut out);
    }
    out.into()
}

/// The outcomes of an entry's parts.
pub fn decode_outcome(mut bytes: &[u8]) -> Result<Vec<PartOutcome>, EntryError> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let (part, rest) = PartOutcome::decode(bytes)?;
        parts.push(part);
        bytes = rest;
    }
    Ok(parts)
}

impl ShardMachine {
    fn seen(&self, at: LogPosition, kind: Kind, outcome: &ApplyOutcome) -> io::Result<()> {
        let Some(world) = self.world.upgrade() else {
            return Ok(());
        };
        let compare = at.index.is_multiple_of(CHECKSUM_EVERY);
        let checksum = if compare {
            Some(self.shard.checksum().map_err(io)?.checksum)
        } else {
            None
        };
        let mut observer = world.observer();
        observer.applied(self.node, at, kind, outcome);
        if let Some(checksum) = checksum {
            observer.checksum(self.node, at.index, checksum);
        }
        drop(observer);
        world.trace(format_args!("node {} applied {at}", self.node));
        Ok(())
    }
}

impl StateMachine for ShardMachine {
    fn durable(&self) -> io::Result<Durable> {
        let durable = self.shard.durable();
        Ok(Durable {
            position: durable.position.map(to_raft),
            membership: durable.membership,
        })
    }

    fn apply(&self, at: LogPosition, payload: Payload<'_>, want_reply: bool) -> io::Result<Bytes> {
        let position = to_storage(at);
        let nothing = ApplyOutcome::default();
        match payload {
            Payload::Command(entry) => {
                let outcome = self.shard.apply(position, entry).map_err(io)?;
                self.seen(at, Kind::Command(xxh3_64(entry)), &outcome)?;
                Ok(if want_reply {
                    encode_outcome(&outcome)
                } else {
                    Bytes::new()
                })
            }
            Payload::Blank => {
                self.shard.apply_blank(position).map_err(io)?;
                self.seen(at, Kind::Blank, &nothing)?;
                Ok(Bytes::new())
            }
            Payload::Membership(membership) => {
                let digest = xxh3_64(&membership);
                self.shard.apply_membership(position, membership).map_err(io)?;
                self.seen(at, Kind::Membership(digest), &nothing)?;
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
        let inner = self.shard.begin_install().map_err(io)?;
        if let Some(world) = self.world.upgrade() {
            world.observer().begins_install(self.node);
        }
        Ok(Box::new(Install {
            inner: Some(inner),
            shard: self.shard.clone(),
            disk: self.disk.clone(),
            node: self.node,
            world: self.world.clone(),
        }))
    }
}

struct Chunks(ShardSnapshot);

impl SnapshotReader for Chunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.0.next_chunk().map_err(io)
    }
}

struct Install {
    /// Taken by the end.
    inner: Option<SnapshotInstall>,
    shard: Arc<Shard>,
    disk: Arc<Disk>,
    node: Place,
    world: Weak<World>,
}

impl SnapshotWriter for Install {
    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        let inner = self
            .inner
            .as_mut()
            .ok_or_else(|| io::Error::other("the snapshot has ended"))?;
        inner.write(&chunk).map_err(io)
    }

    fn finish(mut self: Box<Self>, position: LogPosition, membership: Bytes) -> io::Result<()> {
        let inner = self
            .inner
            .take()
            .ok_or_else(|| io::Error::other("the snapshot has ended"))?;
        inner.finish(to_storage(position), Some(membership)).map_err(io)?;
        // The one write of storage that syncs by itself.
        self.disk.note_ingested();
        self.disk.note_synced()?;
        if let Some(world) = self.world.upgrade() {
            world.trace(format_args!(
                "node {} installed a snapshot up to {position}",
                self.node
            ));
            world.observer().installed(self.node, position.index);
            world.snapshot_installed(self.node, position.index, &self.shard);
        }
        Ok(())
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if let Some(world) = self.world.upgrade() {
            world.observer().ends_install(self.node);
        }
    }
}
