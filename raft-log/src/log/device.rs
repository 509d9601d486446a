//! What the log asks of a device.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::record::Record;
use crate::position::{LogKey, LogPosition, ReplicaId};

/// A replica's vote: which leader it accepts in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredVote {
    /// The term.
    pub term: u64,
    /// The candidate, or leader, voted for.
    pub voted_for: ReplicaId,
    /// Whether a quorum granted it, which makes it a leader.
    pub committed: bool,
}

/// A row some other part of the node wants written with the next synced batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RiderRow {
    /// Column family it belongs to.
    pub cf: &'static str,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value; `None` deletes the key.
    pub value: Option<Vec<u8>>,
}

/// One change, applied in order with all others of its batch.
#[derive(Debug, Clone)]
pub enum DeviceOp {
    /// Adds entries; their indexes ascend without holes and none of them is stored yet.
    Append(LogKey, Vec<Record>),
    /// Replaces the vote.
    Vote(LogKey, StoredVote),
    /// Replaces the committed position.
    Committed(LogKey, Option<LogPosition>),
    /// Removes every entry from this index on.
    Truncate(LogKey, u64),
    /// Removes the entries of these indexes and records the position of the last one removed.
    Purge(LogKey, Range<u64>, LogPosition),
    /// Removes everything of one replica.
    Erase(LogKey),
    /// Rows that are not ours.
    Rider(Vec<RiderRow>),
}

/// What a device knows of a replica after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The vote, if one was ever saved.
    pub vote: Option<StoredVote>,
    /// The last committed position that was saved.
    pub committed: Option<LogPosition>,
    /// The last purged position.
    pub purged: Option<LogPosition>,
    /// Index of the oldest entry stored after `purged`.
    pub first: Option<u64>,
    /// The newest entry stored after `purged`.
    pub last: Option<LogPosition>,
}

impl RecoveredLog {
    /// True if nothing was ever stored: a replica that is new.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Stores the logs of all groups of a node.
///
/// All writes come from one thread. A batch is atomic and batches are ordered: what survives a
/// crash is a prefix of what was written, at least up to the last sync (RFT-1).
pub trait LogDevice: Send + Sync + 'static {
    /// Writes `ops` as one atomic batch. With `sync`, this and everything written before is durable
    /// on return; `ops` may be empty then.
    fn write(&self, ops: &[DeviceOp], sync: bool) -> io::Result<()>;

    /// Entries of `range` from its start on, without holes, ending before the payloads exceed
    /// `max_bytes` but with at least one entry if the first one exists.
    fn read(&self, log: LogKey, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Record>>;

    /// What is stored of one replica.
    fn recover(&self, log: LogKey) -> io::Result<RecoveredLog>;

    /// All replicas something is stored of.
    fn logs(&self) -> io::Result<Vec<LogKey>>;

    /// Gives back the space of purged entries as far as that is cheap. Called from any thread.
    fn reclaim(&self) -> io::Result<()> {
        Ok(())
    }

    /// How long a sync takes in virtual time, for a device under simulation. A real one takes its
    /// time inside `write`.
    fn simulated_sync(&self) -> Duration {
        Duration::ZERO
    }
}
