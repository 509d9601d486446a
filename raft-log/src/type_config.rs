//! The types openraft is instantiated with.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use openraft::alias::{LogIdOf, OneshotReceiverOf, OneshotSenderOf};
use openraft::async_runtime::OneshotSender;
use openraft::raft::responder::Responder;
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use openraft::{AsyncRuntime, OptionalSend, RaftTypeConfig};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::OwnedSemaphorePermit;

use crate::position::{LogPosition, ReplicaId};

/// openraft's type configuration over the runtime `R`.
///
/// Terms have one leader each (openraft's `leader_id_std`), so that an entry is identified by
/// (term, index) alone, which is what the log's keys and [`LogPosition`] hold.
pub(crate) struct TypeConfig<R>(PhantomData<fn() -> R>);

pub(crate) type LeaderId = openraft::vote::leader_id_std::LeaderId<u64, ReplicaId>;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type EntryPayload = openraft::EntryPayload<Command, ReplicaId, ()>;
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, EntryPayload>;
pub(crate) type Membership = openraft::Membership<ReplicaId, ()>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, ReplicaId, ()>;

pub(crate) fn log_id(position: LogPosition) -> LogId {
    LogId::new_term_index(position.term, position.index)
}

pub(crate) fn position(id: &LogId) -> LogPosition {
    LogPosition::new(id.committed_leader_id().term, id.index())
}

impl<R: AsyncRuntime> RaftTypeConfig for TypeConfig<R> {
    type D = Command;
    type R = Reply;
    type NodeId = ReplicaId;
    type Node = ();
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload;
    type Entry = Entry;
    type AsyncRuntime = R;
    type Responder<T>
        = PermitResponder<R, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

// Derives would ask the same of `R`, which is only a name here.
impl<R> fmt::Debug for TypeConfig<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<R> Clone for TypeConfig<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for TypeConfig<R> {}
impl<R> Default for TypeConfig<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<R> PartialEq for TypeConfig<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<R> Eq for TypeConfig<R> {}
impl<R> PartialOrd for TypeConfig<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<R> Ord for TypeConfig<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// A proposed command: opaque bytes. Prints its length only, openraft logs entries.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub Bytes);

/// The state machine's answer to a command: opaque bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Reply(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0.len())
    }
}
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0.len())
    }
}

// openraft built with its `serde` feature asks for these; nothing here calls them, entries travel
// and are stored in our own formats.
impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}
impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::<u8>::deserialize(deserializer)?.into()))
    }
}
impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}
impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::<u8>::deserialize(deserializer)?.into()))
    }
}

/// Answers a proposer and gives its permit back.
///
/// The permit stays with the entry, not with the caller's future: a caller that gives up leaves its
/// bytes in flight, and they must keep counting until openraft is done with them.
pub(crate) struct PermitResponder<R: AsyncRuntime, T: OptionalSend + 'static> {
    permit: Option<OwnedSemaphorePermit>,
    done: OneshotSenderOf<TypeConfig<R>, (T, Option<OwnedSemaphorePermit>)>,
}

/// Receives the outcome of a proposal together with its permit.
pub(crate) type Outcome<R, T> = OneshotReceiverOf<TypeConfig<R>, (T, Option<OwnedSemaphorePermit>)>;

impl<R: AsyncRuntime, T: OptionalSend + 'static> PermitResponder<R, T> {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> (Self, Outcome<R, T>) {
        let (done, outcome) = TypeConfig::<R>::oneshot();
        let responder = Self {
            permit: Some(permit),
            done,
        };
        (responder, outcome)
    }
}

impl<R: AsyncRuntime, T: OptionalSend + 'static> Responder<TypeConfig<R>, T> for PermitResponder<R, T> {
    fn on_commit(&mut self, _log_id: LogIdOf<TypeConfig<R>>) {}

    fn on_complete(self, result: T) {
        // The proposer may have gone; dropping the tuple releases the permit then.
        let _ = self.done.send((result, self.permit));
    }
}
