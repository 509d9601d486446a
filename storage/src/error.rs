//! Errors of the store.

use crate::chunk::ChunkError;
use crate::entry::EntryError;

/// Why the store could not do what was asked. Rejected samples are not errors, see
/// [`crate::PartOutcome`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// RocksDB or the file system failed.
    #[error("shard {shard}: {action} failed: {detail}; check the disk, then restart the node")]
    Io {
        /// The shard, 0 for the whole store.
        shard: u32,
        /// What was being done.
        action: &'static str,
        /// What the lower layer said.
        detail: String,
    },
    /// Stored bytes are damaged.
    #[error("shard {shard}: {what} is damaged: {detail}; drop this replica and let it rejoin")]
    Corrupt {
        /// The shard.
        shard: u32,
        /// Which row or file.
        what: String,
        /// What does not fit.
        detail: String,
    },
    /// A committed entry cannot be read. Applying further would diverge.
    #[error("shard {shard}: entry {index} of the log cannot be applied: {source}")]
    Entry {
        /// The shard.
        shard: u32,
        /// Its position in the log.
        index: u64,
        /// What is wrong with it.
        source: EntryError,
    },
    /// An earlier failure left the shard's state in doubt.
    #[error("shard {shard} refuses work since an earlier failure: {reason}; restart the node")]
    Poisoned {
        /// The shard.
        shard: u32,
        /// The first failure.
        reason: String,
    },
    /// The caller broke the order of calls.
    #[error("shard {shard}: {detail}")]
    Misuse {
        /// The shard.
        shard: u32,
        /// What was called and what has to happen first.
        detail: String,
    },
    /// A query asks for more than its limits allow.
    #[error("the selector matches more than {max} {what}; narrow it or raise the limit")]
    TooMuch {
        /// What is counted.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// A snapshot's bytes do not fit together.
    #[error("shard {shard}: the received snapshot is damaged: {detail}; it has to be sent again")]
    Snapshot {
        /// The shard.
        shard: u32,
        /// What does not fit.
        detail: String,
    },
}

impl StorageError {
    pub(crate) fn rocks(shard: u32, action: &'static str) -> impl FnOnce(rocksdb::Error) -> Self {
        move |error| Self::Io {
            shard,
            action,
            detail: error.to_string(),
        }
    }

    pub(crate) fn io(shard: u32, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io {
            shard,
            action,
            detail: error.to_string(),
        }
    }

    pub(crate) fn chunk(shard: u32, series: u64) -> impl FnOnce(ChunkError) -> Self {
        move |error| Self::corrupt(shard, format!("a chunk of series {series}"), &error.to_string())
    }

    pub(crate) fn corrupt(shard: u32, what: impl Into<String>, detail: &str) -> Self {
        Self::Corrupt {
            shard,
            what: what.into(),
            detail: detail.to_owned(),
        }
    }

    pub(crate) fn misuse(shard: u32, detail: impl Into<String>) -> Self {
        Self::Misuse {
            shard,
            detail: detail.into(),
        }
    }
}
