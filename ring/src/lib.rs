//! Which shard a series belongs to, and which nodes hold that shard.
//!
//! Two separate questions, two separate tables:
//!
//! * **[`Ring`]**: series → [`shard_key`] → [`slot_of`] → shard. There are [`SLOTS`] slots, for ever; only
//!   the owner of a slot changes, and only from one epoch to the next. [`Ring::build`] makes the first
//!   table, [`Ring::rebuild`] the following ones with as few moved slots as balance allows.
//! * **[`Placement`]**: shard → the nodes that hold its replicas, preferred leader first, made by [`place`]
//!   and followed by [`Placement::rebalance`] when nodes come and go.
//!
//! Everything here is a pure function: no I/O, no clock, no randomness, no floating point beyond reading
//! the weights. The same input gives the same bytes on every machine and in every version of the crate,
//! because nodes compute these tables independently and must agree. What is hashed is therefore always a
//! specified string of bytes (modules `hash` and `key`), never `std::hash::Hash` of our types.
//!
//! The durable form of both tables is described in `docs/FORMATS.md`, section "Ring table".

mod error;
mod flow;
mod frame;
mod hash;
mod key;
mod placement;
mod placement_codec;
mod plan;
mod preference;
mod quota;
mod table;
mod table_codec;
mod weight;

pub use error::RingError;
pub use key::{shard_key, slot_of, target_key, target_keys};
pub use placement::{NodeSpec, Placement, ReplicaChange, place};
pub use table::{Move, Ring, ShardWeight};

/// Number of slots in every ring. Part of the durable format: it never changes.
pub const SLOTS: usize = 65_536;

/// Most shards that one ring or placement may name.
pub const MAX_SHARDS: usize = 1_024;

/// Fewest slots that a shard's weight may entitle it to. With 20 or more, rounding a share up to a whole
/// slot adds at most 5 %, so no shard ever holds more than 1.05 of its ideal share.
pub const MIN_SLOTS_PER_SHARD: usize = 20;

/// Largest number of keys over which the metrics of one scrape target are spread.
pub const MAX_SPREAD: u32 = 1_024;

/// Most nodes that one placement may use.
pub const MAX_NODES: usize = 256;

/// Most replicas of one shard.
pub const MAX_REPLICAS: usize = 9;

/// Smallest weight of a shard or node.
pub const MIN_WEIGHT: f64 = 0.001;

/// Largest weight of a shard or node. Weights are kept to the millionth.
pub const MAX_WEIGHT: f64 = 1_000_000.0;
