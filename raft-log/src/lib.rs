//! A replicated log of opaque bytes: many Raft groups on a node, one log writer, one sync.
//!
//! A node opens a [`RaftLog`] over a [`LogDevice`] and a [`Network`], and in it a [`Group`] per shard
//! replica, each with its [`StateMachine`]. Commands go in by [`Group::propose`]; what is committed is
//! applied on every replica. openraft does the consensus and is named nowhere else.
//!
//! `docs/FORMATS.md` describes the bytes, `docs/INVARIANTS.md` what always holds (RFT-n).

#[macro_use]
mod fault;
mod config;
mod group;
mod log;
mod machine;
mod membership;
mod net;
mod offload;
mod position;
mod raft_log;
mod runtime;
mod type_config;

// The state machine of the tests in `tests/`, which names this crate from outside.
#[cfg(test)]
extern crate self as quorate_raft_log;
#[cfg(test)]
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/support/machine.rs"]
mod test_machine;

pub use config::{ConfigError, GroupConfig, LogOptions, WriterMode};
#[cfg(feature = "mutants")]
pub use fault::{CRASH_POINTS, MUTANTS};
pub use group::{
    Committed, Group, GroupStatus, MembershipChangeError, OpenError, ProposeError, PurgeError, ReadError,
    Role, TransferError, WaitError,
};
pub use log::{
    DeviceOp, ENTRIES_CF, EntryKind, Histogram, LogDevice, LogReport, MemDevice, MemDisk, Record,
    RecoveredLog, RiderRow, RocksDevice, STATE_CF, StoredVote, WriterStats, column_families, inspect_logs,
    tune_database,
};
pub use machine::{Durable, Payload, SnapshotOut, SnapshotReader, SnapshotWriter, StateMachine};
pub use membership::{MembershipError, describe as describe_membership};
pub use net::{Network, NetworkError, Room, Target};
pub use openraft::AsyncRuntime;
pub use position::{GroupId, LogKey, LogPosition, ReplicaId};
pub use raft_log::{Hooks, RaftLog};
pub use runtime::TokioRuntime;
