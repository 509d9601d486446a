//! The series store of one node: label index, in-memory head, codecs, flush to RocksDB, snapshots.
//!
//! A shard is a deterministic, synchronous state machine. What it stores and answers depends on the
//! entries of its log alone: never on a clock, on randomness or on what this replica has flushed.
//! The crate knows nothing of Raft, networks or async runtimes.

#[macro_use]
mod fault;
mod activity;
mod apply;
mod blocks;
mod cardinality;
mod checksum;
mod chunk;
pub mod codec;
pub mod columns;
mod compact;
mod delete;
pub mod entry;
mod error;
mod flush;
mod flushed;
mod frame;
#[cfg(test)]
mod golden;
mod head;
mod heads;
pub mod histogram;
mod histogram_chunk;
mod histogram_head;
pub mod inspect;
mod install;
pub mod labels;
pub mod limits;
pub mod matcher;
mod meta;
mod metrics;
mod pair_lists;
mod pairs;
mod postings;
mod quota;
mod recover;
pub mod regex;
mod retention;
mod retire;
mod rows;
mod select;
mod series;
mod series_rows;
mod shard;
mod slab;
mod snapshot;
mod sst;
mod store;
mod tombstones;
mod varint;

pub use activity::ACTIVITY_SPAN_MS;
pub use apply::ApplyOutcome;
pub use cardinality::{Cardinality, SeriesMemory};
pub use checksum::LogicalChecksum;
pub use codec::histograms::MAX_HISTOGRAM_CELLS;
pub use columns::SampleColumns;
pub use compact::{Merge, MergedGeneration};
pub use entry::{
    Deletion, EntryError, MAX_DELETION_MATCHERS, PartBuilder, PartInfo, PartOutcome, RejectReason, Rejection,
    check_part, encode_deletion_entry, encode_limits_entry, encode_quota_entry, encode_retentions_entry,
    encode_write_entry,
};
pub use error::StorageError;
#[cfg(feature = "mutants")]
pub use fault::{CRASH_POINTS, MUTANTS};
pub use flush::{PendingFlush, RiderRow};
pub use histogram::{CounterResetHint, Histogram, HistogramError};
pub use install::SnapshotInstall;
pub use labels::{LabelError, Labels, LabelsBuilder};
pub use limits::Limits;
pub use matcher::{MatchOp, Matcher, MatcherError};
pub use quota::Quota;
pub use regex::{GoRegex, GoRegexError};
pub use retention::TenantRetentions;
pub use rows::{CF_CHUNKS, CF_SERIES, CF_SHARD_META};
pub use select::{SelectLimits, SelectedSeries};
pub use shard::{DurableState, LogPosition, Shard, ShardStats};
pub use snapshot::ShardSnapshot;
pub use store::{Store, StoreOptions};
