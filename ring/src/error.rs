//! The one error type of the crate. Every message says what is wrong, where, and what to do about it.

use thiserror::Error;

use crate::{MAX_NODES, MAX_REPLICAS, MAX_SHARDS, MAX_SPREAD, MAX_WEIGHT, MIN_SLOTS_PER_SHARD, MIN_WEIGHT};

/// Why a table could not be made or read.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum RingError {
    /// The list of shards is empty.
    #[error("no shards given: name at least one shard")]
    NoShards,

    /// The list of shards is longer than [`MAX_SHARDS`].
    #[error("{count} shards given, at most {max} are supported: use fewer, larger shards", max = MAX_SHARDS)]
    TooManyShards {
        /// Shards given.
        count: usize,
    },

    /// Shard 0 was given. Group 0 is the metadata group and owns no slots.
    #[error("shard 0 is reserved for cluster metadata: number data shards from 1")]
    ReservedShard,

    /// A shard is listed twice.
    #[error("shard {shard} is listed twice: list every shard once")]
    DuplicateShard {
        /// The repeated shard.
        shard: u32,
    },

    /// A weight isn't a number in the supported range.
    #[error("weight {weight} of {owner} is out of range: use a number from {min} to {max}", min = MIN_WEIGHT, max = MAX_WEIGHT)]
    WeightOutOfRange {
        /// Whose weight it is, for example `shard 3`.
        owner: String,
        /// The weight given.
        weight: f64,
    },

    /// A shard's weight is so small beside the others' that its share of the slots can't be kept within 5 %.
    #[error(
        "shard {shard} would own {slots:.2} slots, fewer than {min}: raise its weight or remove it",
        min = MIN_SLOTS_PER_SHARD
    )]
    ShareTooSmall {
        /// The shard with the small weight.
        shard: u32,
        /// Its ideal share, in slots.
        slots: f64,
    },

    /// The spread is zero or larger than [`MAX_SPREAD`].
    #[error("spread {spread} is out of range: use 1 to {max}", max = MAX_SPREAD)]
    SpreadOutOfRange {
        /// The spread given.
        spread: u32,
    },

    /// A new table must have a higher epoch than the one it follows.
    #[error("epoch {epoch} doesn't follow epoch {current}: read the newest ring and use a higher epoch")]
    StaleEpoch {
        /// The epoch asked for.
        epoch: u64,
        /// The epoch of the ring that was to be followed.
        current: u64,
    },

    /// The number of replicas is zero or larger than [`MAX_REPLICAS`].
    #[error("{replicas} replicas asked for: use 1 to {max}", max = MAX_REPLICAS)]
    ReplicasOutOfRange {
        /// The number asked for.
        replicas: usize,
    },

    /// There are fewer nodes than replicas, and two replicas never share a node.
    #[error(
        "{nodes} nodes can't hold {replicas} replicas of a shard on distinct nodes: add nodes or ask for fewer replicas"
    )]
    TooFewNodes {
        /// Nodes given.
        nodes: usize,
        /// Replicas asked for.
        replicas: usize,
    },

    /// The list of nodes is longer than [`MAX_NODES`].
    #[error("{count} nodes given, at most {max} are supported: use fewer, larger nodes", max = MAX_NODES)]
    TooManyNodes {
        /// Nodes given.
        count: usize,
    },

    /// A node is listed twice.
    #[error("node {node} is listed twice: give every node its own id")]
    DuplicateNode {
        /// The repeated node.
        node: u64,
    },

    /// A placement puts two replicas of a shard on one node.
    #[error("placement of shard {shard} names node {node} twice: place replicas on distinct nodes")]
    DuplicateReplica {
        /// The shard with the repeated node.
        shard: u32,
        /// The repeated node.
        node: u64,
    },

    /// A placement gives its shards different numbers of replicas.
    #[error(
        "placement of shard {shard} has {found} replicas, other shards have {expected}: place all shards alike"
    )]
    UnevenReplicas {
        /// The shard that differs.
        shard: u32,
        /// Its replicas.
        found: usize,
        /// Replicas of the first shard.
        expected: usize,
    },

    /// The bytes are of a newer (or never released) version of the format.
    #[error("{what} has format version {found}, this build reads version {supported}: upgrade this node")]
    UnsupportedVersion {
        /// What was read: `ring` or `placement`.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The version that this build reads.
        supported: u8,
    },

    /// The bytes are damaged, or aren't what they should be.
    #[error("{what} is corrupt at byte {offset}: {problem}; fetch it again from another node")]
    Corrupt {
        /// What was read: `ring` or `placement`.
        what: &'static str,
        /// Where in the input, in bytes from its start.
        offset: usize,
        /// What is wrong there.
        problem: String,
    },
}
