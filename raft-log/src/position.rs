//! The names of things in the log: groups, replicas, positions.

use std::fmt;

/// Number of a Raft group. Group 0 is `meta`, data shards are 1, 2, 3, …
pub type GroupId = u32;

/// Id of one replica of one group. Allotted once by the whole cluster and never reused, not even
/// when a shard moves away from a node and back: openraft cannot detect a known id with an empty
/// log, and that is a split brain.
pub type ReplicaId = u64;

/// A place in a group's log: an entry is identified by the term of the leader that proposed it and
/// its index. The first index is 0.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct LogPosition {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Index of the entry, from 0.
    pub index: u64,
}

impl LogPosition {
    /// The position `index` of `term`.
    pub fn new(term: u64, index: u64) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}

/// One replica's log on this node, the unit by which the device stores and forgets things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogKey {
    /// The group.
    pub group: GroupId,
    /// The replica of the group that lives on this node.
    pub replica: ReplicaId,
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {} replica {}", self.group, self.replica)
    }
}
