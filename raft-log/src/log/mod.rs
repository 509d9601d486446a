//! The log: one writer, one batch, one sync for all groups of a node.

#[cfg(test)]
mod conformance;
mod device;
mod entry_key;
mod inspect;
mod mem;
mod queue;
mod record;
mod rocks;
#[cfg(test)]
mod rocks_tests;
mod state_row;
mod stats;
mod store;
mod view;
#[cfg(test)]
mod view_tests;
mod watchdog;
mod writer;

pub use device::{DeviceOp, LogDevice, RecoveredLog, RiderRow, StoredVote};
pub use inspect::{LogReport, inspect_logs};
pub use mem::{MemDevice, MemDisk};
pub use record::{EntryKind, Record};
pub(crate) use record::{from_record, to_record};
pub use rocks::{ENTRIES_CF, RocksDevice, STATE_CF, column_families, tune_database};
pub use stats::{Histogram, WriterStats};
pub(crate) use store::LogStore;
pub(crate) use view::LogView;
pub(crate) use writer::{LogWriter, OnFatal};
