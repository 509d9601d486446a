//! A [`StateMachine`] as openraft wants it.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, SnapshotMeta};
use openraft::{AsyncRuntime, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Durable, Payload, SnapshotReader, SnapshotWriter, StateMachine};
use crate::membership;
use crate::offload;
use crate::position::{LogPosition, ReplicaId};
use crate::type_config::{
    CommittedLeaderId, Entry, EntryPayload, LogId, Reply, StoredMembership, TypeConfig, log_id, position,
};

/// Entries applied in one go.
const APPLY_BATCH_ENTRIES: usize = 64;
/// From so many bytes of commands on, applying them leaves the runtime's worker.
const APPLY_OFFLOAD_BYTES: usize = 64 << 10;

type Meta = SnapshotMeta<CommittedLeaderId, ReplicaId, ()>;
type Snap = Snapshot<CommittedLeaderId, ReplicaId, (), SnapshotBody>;

/// What openraft hands around as a snapshot.
pub(crate) enum SnapshotBody {
    /// The local durable state, to be sent.
    Outgoing(Box<dyn SnapshotReader>),
    /// A received state, staged, to be installed.
    Incoming(Box<dyn SnapshotWriter>),
}

/// What is applied, shared by the adapter and the group.
pub(crate) struct MachineState {
    pub(crate) machine: Arc<dyn StateMachine>,
    applied: watch::Sender<Option<LogPosition>>,
    membership: Mutex<StoredMembership>,
}

impl MachineState {
    /// Starts where the machine's durable state ends.
    pub(crate) fn open(machine: Arc<dyn StateMachine>) -> io::Result<Arc<Self>> {
        let Durable { position, membership } = machine.durable()?;
        let membership = decode(membership.as_ref())?;
        let (applied, _) = watch::channel(position);
        Ok(Arc::new(Self {
            machine,
            applied,
            membership: Mutex::new(membership),
        }))
    }

    /// Goes on as if everything up to `position` were applied.
    pub(crate) fn skip_to(&self, position: LogPosition) {
        self.applied.send_replace(Some(position));
    }

    pub(crate) fn applied(&self) -> watch::Receiver<Option<LogPosition>> {
        self.applied.subscribe()
    }

    fn apply(&self, batch: &[(Entry, bool)]) -> io::Result<Vec<Bytes>> {
        let mut replies = Vec::with_capacity(batch.len());
        for (entry, want_reply) in batch {
            let at = position(&entry.log_id);
            let reply = match &entry.payload {
                EntryPayload::Blank => self.machine.apply(at, Payload::Blank, *want_reply)?,
                EntryPayload::Normal(command) => {
                    self.machine
                        .apply(at, Payload::Command(&command.0), *want_reply)?
                }
                EntryPayload::Membership(members) => {
                    let bytes = membership::encode(Some(at), members);
                    let reply = self.machine.apply(at, Payload::Membership(bytes), *want_reply)?;
                    *self.membership.lock() = StoredMembership::new(Some(entry.log_id), members.clone());
                    reply
                }
            };
            replies.push(reply);
            self.applied.send_replace(Some(at));
        }
        Ok(replies)
    }

    /// The durable state; `None` while nothing is durable.
    fn snapshot(&self) -> io::Result<Option<Snap>> {
        if self.machine.durable()?.position.is_none() {
            return Ok(None);
        }
        let out = self.machine.snapshot()?;
        let meta = Meta {
            last_log_id: Some(log_id(out.position)),
            last_membership: decode(Some(&out.membership))?,
        };
        Ok(Some(Snap {
            meta,
            snapshot: SnapshotBody::Outgoing(out.chunks),
        }))
    }
}

/// The state before the first entry, which openraft asks for at a forced start over an empty machine.
struct NoChunks;

impl SnapshotReader for NoChunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

/// Bytes that are missing or empty mean that no membership was applied yet.
fn decode(bytes: Option<&Bytes>) -> io::Result<StoredMembership> {
    match bytes.filter(|bytes| !bytes.is_empty()) {
        None => Ok(StoredMembership::default()),
        Some(bytes) => membership::decode_stored(bytes)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string())),
    }
}

/// openraft's state machine over [`MachineState`].
pub(crate) struct Machine<R> {
    state: Arc<MachineState>,
    runtime: PhantomData<fn() -> R>,
}

impl<R> Machine<R> {
    pub(crate) fn new(state: Arc<MachineState>) -> Self {
        Self {
            state,
            runtime: PhantomData,
        }
    }
}

/// Shows openraft the durable state as a snapshot, so that it allows to purge up to it. Nothing is
/// built: the state machine makes its state durable by itself.
pub(crate) struct DurablePosition<R>(Machine<R>);

impl<R: AsyncRuntime> RaftSnapshotBuilder<TypeConfig<R>> for DurablePosition<R> {
    type SnapshotData = SnapshotBody;

    async fn build_snapshot(&mut self) -> Result<Snap, io::Error> {
        let state = self.0.state.clone();
        let snapshot = offload::run(move || state.snapshot()).await??;
        let mut snapshot = snapshot.unwrap_or_else(|| Snap {
            meta: Meta::default(),
            snapshot: SnapshotBody::Outgoing(Box::new(NoChunks)),
        });
        if mutant!("purge_beyond_snapshot") {
            snapshot.meta.last_log_id = self.0.state.applied.borrow().map(log_id);
        }
        Ok(snapshot)
    }
}

impl<R: AsyncRuntime> RaftStateMachine<TypeConfig<R>> for Machine<R> {
    type SnapshotData = SnapshotBody;
    type SnapshotBuilder = DurablePosition<R>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = *self.state.applied.borrow();
        Ok((applied.map(log_id), self.state.membership.lock().clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig<R>>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(APPLY_BATCH_ENTRIES);
        while let Some(items) = batches.next().await {
            let mut batch = Vec::with_capacity(items.len());
            let mut responders: Vec<Option<ApplyResponder<TypeConfig<R>>>> = Vec::with_capacity(items.len());
            let mut bytes = 0;
            for item in items {
                let (entry, responder) = item?;
                if let EntryPayload::Normal(command) = &entry.payload {
                    bytes += command.0.len();
                }
                batch.push((entry, responder.is_some()));
                responders.push(responder);
            }
            crash_point!("apply_before");
            let state = self.state.clone();
            let replies = if bytes >= APPLY_OFFLOAD_BYTES {
                offload::run(move || state.apply(&batch)).await??
            } else {
                state.apply(&batch)?
            };
            crash_point!("apply_after");
            for (responder, reply) in responders.into_iter().zip(replies) {
                if let Some(responder) = responder {
                    responder.send(Reply(reply));
                }
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<DurablePosition<R>> {
        // Before anything is durable there is nothing to report; an error shows when it is built.
        match self.state.machine.durable() {
            Ok(Durable { position: None, .. }) if !force => None,
            _ => Some(DurablePosition(Machine::new(self.state.clone()))),
        }
    }

    async fn get_snapshot_builder(&mut self) -> DurablePosition<R> {
        DurablePosition(Machine::new(self.state.clone()))
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotBody) -> Result<(), io::Error> {
        let Some(last) = &meta.last_log_id else {
            return Err(io::Error::other(
                "a snapshot without a position cannot be installed",
            ));
        };
        let at = position(last);
        let bytes = membership::encode_stored(&meta.last_membership);
        let machine = self.state.machine.clone();
        offload::run(move || match snapshot {
            SnapshotBody::Incoming(writer) => writer.finish(at, bytes),
            SnapshotBody::Outgoing(mut chunks) => {
                let mut writer = machine.begin_install()?;
                while let Some(chunk) = chunks.next_chunk()? {
                    writer.write(chunk)?;
                }
                writer.finish(at, bytes)
            }
        })
        .await??;
        *self.state.membership.lock() = meta.last_membership.clone();
        self.state.applied.send_replace(Some(at));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snap>, io::Error> {
        let state = self.state.clone();
        offload::run(move || state.snapshot()).await?
    }
}
