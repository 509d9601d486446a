//! The way of a sample from a frontend to the shard leaders: decode, place, forward, batch, reply.

mod batcher;
mod forward;
mod leaders;
mod place;
mod receive;
mod series_cache;
mod serve;

pub use batcher::{BatchLimits, Batcher, Committed, propose_error};
pub use forward::Forwarder;
pub use leaders::{Leader, Leaders};
pub use receive::{Receipt, WriteOutcome, WritePath};
pub use serve::serve_forwarded;
