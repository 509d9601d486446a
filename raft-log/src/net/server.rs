//! The receiving side: what a node passes in from its transport.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, future, stream};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{TransferLeaderError, TransferLeaderRequest, VoteRequest};
use openraft::storage::{Snapshot, SnapshotMeta};
use openraft::{AsyncRuntime, Raft};

use super::NetworkError;
use super::frame::{self, Control, TransferAnswer, TransferAsk, VoteAnswer, VoteAsk};
use super::snapshot_frame::{self, Frame, SnapshotHeader, Total};
use crate::config::GroupConfig;
use crate::group::Contact;
use crate::machine::{Machine, SnapshotBody, StateMachine};
use crate::membership;
use crate::offload;
use crate::type_config::{EntryPayload, TypeConfig, log_id, position};

type C<R> = TypeConfig<R>;

/// Whether there is room for commands of so many bytes. Entries without a command are never asked for.
pub type Room = Arc<dyn Fn(usize) -> bool + Send + Sync>;

/// Answers the messages of one replica's peers.
pub(crate) struct Server<R: AsyncRuntime> {
    pub(crate) raft: Raft<C<R>, Machine<R>>,
    pub(crate) contact: Arc<Contact<R>>,
    pub(crate) machine: Arc<dyn StateMachine>,
    pub(crate) config: GroupConfig,
    /// Until then no vote is given, see [`Server::vote`].
    pub(crate) votes_from: Option<R::Instant>,
    /// One snapshot is received at a time.
    pub(crate) receiving: Arc<tokio::sync::Mutex<()>>,
}

fn refused(error: impl ToString) -> NetworkError {
    NetworkError::Refused(error.to_string())
}

impl<R: AsyncRuntime> Server<R> {
    /// Answers a stream of AppendEntries, each in turn. The answers end at the first message that
    /// cannot be read or has no room, and when the group stops.
    pub(crate) fn append(
        &self,
        requests: BoxStream<'static, Bytes>,
        room: Room,
    ) -> BoxStream<'static, Result<Bytes, NetworkError>> {
        let (metrics, contact) = (self.raft.metrics(), self.contact.clone());
        let requests = requests
            .map(move |bytes| {
                let request = frame::decode_append::<R>(&bytes)?;
                // A leader that sends entries sends no heartbeats.
                if request.vote >= metrics.borrow_watched().vote {
                    contact.heard_now();
                }
                Ok::<_, frame::FrameError>(request)
            })
            .take_while(|decoded| {
                if let Err(error) = decoded {
                    tracing::warn!(%error, "an AppendEntries message cannot be read, closing its stream");
                }
                future::ready(decoded.is_ok())
            });
        let requests = requests.filter_map(|decoded| future::ready(decoded.ok()));
        let requests = requests.take_while(move |request| {
            let commands = request.entries.iter().filter_map(|entry| match &entry.payload {
                EntryPayload::Normal(command) => Some(command.0.len()),
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            });
            let bytes: usize = commands.sum();
            future::ready(bytes == 0 || room(bytes))
        });
        let answers = self.raft.stream_append(Box::pin(requests));
        let answers = answers.map(|answer| match answer {
            Ok(answer) => frame::encode_append_answer::<R>(answer).map_err(refused),
            Err(fatal) => Err(refused(fatal)),
        });
        Box::pin(answers)
    }

    pub(crate) async fn heartbeat(&self, payload: Bytes) -> Result<Bytes, NetworkError> {
        let request = frame::decode_append::<R>(&payload).map_err(refused)?;
        // At its arrival: the answer waits for the log to be flushed, which says nothing about the leader.
        if request.vote >= self.raft.metrics().borrow_watched().vote {
            self.contact.heard_now();
        }
        // The stream gives the position that matched, the one-off call does not.
        let mut answers = Box::pin(self.raft.stream_append(stream::iter([request])));
        match answers.next().await {
            Some(Ok(answer)) => frame::encode_append_answer::<R>(answer).map_err(refused),
            Some(Err(fatal)) => Err(refused(fatal)),
            None => Err(refused("the group has stopped")),
        }
    }

    /// Answers a vote or pre-vote.
    ///
    /// A restarted replica forgot when it last heard from the leader, so for one whole lease it may
    /// not help to elect another: the leader would go on serving reads under a lease that counts
    /// on this replica (RFT-6). An election the leader itself asked for is exempt.
    pub(crate) async fn vote(&self, kind: Control, payload: Bytes) -> Result<Bytes, NetworkError> {
        let ask: VoteAsk = frame::decode(&payload).map_err(refused)?;
        let guarded = self
            .votes_from
            .is_some_and(|from| <R::Instant as openraft::Instant>::now() < from);
        if guarded && !ask.leadership_transfer {
            return Err(refused(
                "restarted less than an election timeout ago, gives no votes yet",
            ));
        }
        let rpc = VoteRequest {
            vote: frame::from_stored(ask.vote),
            last_log_id: ask.last.map(log_id),
            leadership_transfer: ask.leadership_transfer,
        };
        let answer = match kind {
            Control::PreVote => self.raft.pre_vote(rpc).await,
            _ => self.raft.vote(rpc).await,
        };
        let answer = answer.map_err(refused)?;
        let answer = VoteAnswer {
            vote: frame::to_stored(&answer.vote),
            granted: answer.vote_granted,
            last: answer.last_log_id.as_ref().map(position),
        };
        frame::encode(&answer).map_err(refused)
    }

    pub(crate) async fn transfer_leader(&self, payload: Bytes) -> Result<Bytes, NetworkError> {
        let ask: TransferAsk = frame::decode(&payload).map_err(refused)?;
        let request = TransferLeaderRequest::new(frame::from_stored(ask.from), ask.to, ask.last.map(log_id));
        let answer = match self.raft.handle_transfer_leader(request).await.map_err(refused)? {
            Ok(()) => TransferAnswer::Accepted,
            Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                TransferAnswer::VoteChanged(frame::to_stored(&actual))
            }
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                TransferAnswer::NotFlushed(actual.as_ref().map(position))
            }
        };
        frame::encode(&answer).map_err(refused)
    }

    /// Receives a snapshot: stages it, verifies that it is whole, installs it, and answers when it is
    /// durable. A transfer that breaks leaves nothing behind.
    pub(crate) async fn snapshot(
        &self,
        header: Bytes,
        mut frames: BoxStream<'static, Result<Bytes, NetworkError>>,
    ) -> Result<Bytes, NetworkError> {
        let header: SnapshotHeader = frame::decode(&header).map_err(refused)?;
        let last_membership = membership::decode_stored(&header.membership).map_err(refused)?;
        let current = self.raft.metrics().borrow_watched().vote;
        if current > frame::from_stored(header.vote) {
            // The sender is no leader any more; spare both the bytes.
            return frame::encode(&frame::to_stored(&current)).map_err(refused);
        }
        let Ok(_receiving) = self.receiving.try_lock() else {
            return Err(refused("another snapshot is being received"));
        };
        let machine = self.machine.clone();
        let mut writer = offload::run(move || machine.begin_install())
            .await?
            .map_err(refused)?;
        let idle = Duration::from_millis(self.config.snapshot_idle_timeout_ms);
        let mut total = Total::default();
        loop {
            let frame = match R::timeout(idle, frames.next()).await {
                Ok(Some(frame)) => frame?,
                Ok(None) => return Err(refused("the snapshot ended before its end frame")),
                Err(_) => return Err(NetworkError::Timeout(idle)),
            };
            match snapshot_frame::decode(&frame).map_err(refused)? {
                Frame::Chunk(chunk) => {
                    total.add(&chunk);
                    writer = offload::run(move || writer.write(chunk).map(|()| writer))
                        .await?
                        .map_err(refused)?;
                }
                Frame::End(expected) if expected == total => break,
                Frame::End(expected) => {
                    return Err(refused(format!(
                        "received {total:?} of a snapshot of {expected:?}"
                    )));
                }
            }
        }
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(header.position)),
            last_membership,
        };
        let snapshot = Snapshot {
            meta,
            snapshot: SnapshotBody::Incoming(writer),
        };
        let answer = self
            .raft
            .install_full_snapshot(frame::from_stored(header.vote), snapshot)
            .await;
        frame::encode(&frame::to_stored(&answer.map_err(refused)?.vote)).map_err(refused)
    }
}
