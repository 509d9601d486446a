//! The way of a sample from a frontend to the shard leaders: decode, place, forward, batch, reply.

mod batcher;
mod command;
mod forward;
mod histogram;
mod leaders;
mod place;
mod quota;
mod rate;
mod receive;
mod series_cache;
mod serve;

pub use batcher::{BatchLimits, Batcher, Committed, propose_error};
pub use command::ShardCommands;
pub use forward::Forwarder;
pub use leaders::{Leader, Leaders};
pub use quota::Quotas;
pub use rate::RateLimits;
pub use receive::{Receipt, WriteOutcome, WritePath};
pub use serve::serve_forwarded;
