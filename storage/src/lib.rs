//! The series store of one node: label index, in-memory head, codecs, flush to RocksDB, snapshots.
//!
//! A shard is a deterministic, synchronous state machine. What it stores and answers depends on the
//! entries of its log alone: never on a clock, on randomness or on what this replica has flushed.
//! The crate knows nothing of Raft, networks or async runtimes.

mod chunk;
pub mod columns;
pub mod entry;
#[cfg(test)]
mod golden;
pub mod labels;
pub mod limits;
pub mod matcher;
pub mod regex;
mod varint;

pub use columns::SampleColumns;
pub use entry::{
    EntryError, PartBuilder, PartInfo, PartOutcome, RejectReason, Rejection, check_part, encode_limits_entry,
    encode_write_entry,
};
pub use labels::{LabelError, Labels, LabelsBuilder};
pub use limits::Limits;
pub use matcher::{MatchOp, Matcher, MatcherError};
pub use regex::{GoRegex, GoRegexError};
