//! The way of a query: which shards, which replicas, how fresh; then PromQL over what they hold.

mod freshness;
mod index;
mod local;
mod pinning;
mod queries;
mod raw;
mod reader;
mod remote;
mod session;
mod source;

pub use freshness::Freshness;
pub use index::ReadIndexes;
pub use pinning::shards_of;
pub use queries::{Queries, QueryLimits};
pub use reader::{Reader, ReaderOptions, ReplicaPolicy, ShardQuery};
pub use remote::serve_shard;
pub(crate) use remote::{from_proto as matcher_from_proto, to_proto as matcher_to_proto};
pub use session::{Promise, Session};
pub(crate) use source::LocalCursor;
