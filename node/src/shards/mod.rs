//! The shards that this node holds replicas of: storage under Raft, batched writes, flushes.

mod compact;
mod flush;
mod machine;
mod outcome;
mod replica;

pub use compact::CompactionStats;
pub use flush::{FlushPolicy, flush, flush_meta, run_flushes};
pub use machine::ShardMachine;
pub use outcome::{decode_outcome, encode_outcome};
pub use replica::{ShardReplica, Shards};
