//! What the log asks of a state machine, and its adapter for openraft.

mod adapter;

use std::io;

use bytes::Bytes;

use crate::position::LogPosition;

pub(crate) use adapter::{Machine, MachineState, SnapshotBody};

/// What of a state machine survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// The last entry whose effect is durable; `None` before the first.
    pub position: Option<LogPosition>,
    /// The membership at that entry: the bytes of the last [`Payload::Membership`] at or before it.
    pub membership: Option<Bytes>,
}

/// What an entry carries to the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A proposed command.
    Command(&'a Bytes),
    /// Nothing, but the position counts as applied.
    Blank,
    /// A membership: opaque bytes to keep and give back from [`StateMachine::durable`].
    Membership(Bytes),
}

/// A deterministic state machine: what it becomes depends on the entries alone.
///
/// Calls come from one thread at a time, except `snapshot` and `begin_install`, which may run beside
/// `apply`. Any error stops the group (see [`GroupStatus::fatal`](crate::GroupStatus::fatal)), so
/// errors are for I/O and corruption only; what is wrong with a command goes into its reply.
pub trait StateMachine: Send + Sync + 'static {
    /// What would be left after a restart now. Entries after it are applied again then.
    fn durable(&self) -> io::Result<Durable>;

    /// Applies the entry at `position`; positions ascend without holes. Returns the reply, which is
    /// looked at only if `want_reply`.
    fn apply(&self, position: LogPosition, payload: Payload<'_>, want_reply: bool) -> io::Result<Bytes>;

    /// The durable state, pinned until the reader is dropped. Must be quick; the work is in reading.
    fn snapshot(&self) -> io::Result<SnapshotOut>;

    /// Begins to stage a state received from elsewhere. Dropping the writer discards it.
    fn begin_install(&self) -> io::Result<Box<dyn SnapshotWriter>>;
}

/// A durable state on its way out.
pub struct SnapshotOut {
    /// The last entry in it.
    pub position: LogPosition,
    /// The membership at that entry; empty if none was applied yet.
    pub membership: Bytes,
    /// Its content.
    pub chunks: Box<dyn SnapshotReader>,
}

/// Reads the content of a snapshot.
pub trait SnapshotReader: Send {
    /// The next piece, at most a few MiB; `None` at the end.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>>;
}

/// Stages a snapshot.
pub trait SnapshotWriter: Send {
    /// Takes the next piece, exactly as the sender's reader gave it.
    fn write(&mut self, chunk: Bytes) -> io::Result<()>;

    /// Replaces the whole state by the staged one, atomically; durable on return.
    fn finish(self: Box<Self>, position: LogPosition, membership: Bytes) -> io::Result<()>;
}
