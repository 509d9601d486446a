//! openraft's network over the node's transport.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use openraft::async_runtime::Select3;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, Instant, OptionalSend, RaftNetworkFactory, Snapshot};
use parking_lot::Mutex;
use rand::Rng;

use super::frame::{self, Control, FrameError, TransferAnswer, TransferAsk, VoteAnswer, VoteAsk};
use super::hold::PurgeHolds;
use super::snapshot_frame::{SnapshotHeader, Total, encode_chunk, encode_end};
use super::{Network, NetworkError, Target};
use crate::config::GroupConfig;
use crate::machine::{SnapshotBody, SnapshotReader};
use crate::membership;
use crate::offload;
use crate::position::{GroupId, ReplicaId};
use crate::type_config::{CommittedLeaderId, TypeConfig, Vote, log_id, position};

type C<R> = TypeConfig<R>;
type Snap = Snapshot<CommittedLeaderId, ReplicaId, (), SnapshotBody>;
type Answers<'s, R> = BoxStream<'s, Result<StreamAppendResult<C<R>>, RPCError<C<R>>>>;

/// First and longest pause after a peer was unreachable.
const BACKOFF_FIRST_MS: u64 = 50;
const BACKOFF_LONGEST_MS: u64 = 1_000;
/// How long a follower may learn later than it could that entries are committed, see [`commits_ride`].
const COMMIT_WAIT: Duration = Duration::from_millis(20);

/// What all connections of a group share.
pub(crate) struct Peers<R: AsyncRuntime> {
    pub(crate) group: GroupId,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) holds: PurgeHolds<R>,
    pub(crate) config: GroupConfig,
}

/// Makes a [`Peer`] per member.
pub(crate) struct PeerFactory<R: AsyncRuntime>(pub(crate) Arc<Peers<R>>);

impl<R: AsyncRuntime> PeerFactory<R> {
    fn peer(&self, replica: ReplicaId, heartbeats: bool) -> Peer<R> {
        Peer {
            peers: self.0.clone(),
            target: Target {
                group: self.0.group,
                replica,
            },
            heartbeats,
        }
    }
}

impl<R: AsyncRuntime> RaftNetworkFactory<C<R>> for PeerFactory<R> {
    type Network = Peer<R>;

    async fn new_client(&mut self, target: ReplicaId, _node: &()) -> Peer<R> {
        self.peer(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, _node: &()) -> Peer<R> {
        self.peer(target, true)
    }
}

/// One member of the group, seen from here.
pub(crate) struct Peer<R: AsyncRuntime> {
    peers: Arc<Peers<R>>,
    target: Target,
    /// Sends AppendEntries as control messages, so that they never wait behind bulk.
    heartbeats: bool,
}

impl<R: AsyncRuntime> Peer<R> {
    async fn control<A: serde::de::DeserializeOwned>(
        &self,
        kind: Control,
        ask: &impl serde::Serialize,
        option: &RPCOption,
    ) -> Result<A, RPCError<C<R>>> {
        let payload = frame::encode(ask).map_err(unreachable)?;
        let answer = self.send_control(kind, payload, option.hard_ttl()).await?;
        frame::decode(&answer).map_err(unreachable)
    }

    async fn send_control(
        &self,
        kind: Control,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RPCError<C<R>>> {
        let call = self
            .peers
            .network
            .control(self.target, kind as u32, payload, timeout);
        // The transport has the deadline too; this one holds even if the transport forgets it.
        match R::timeout(timeout, call).await {
            Ok(answer) => answer.map_err(unreachable),
            Err(_) => Err(unreachable(NetworkError::Timeout(timeout))),
        }
    }

    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<C<R>>,
        option: RPCOption,
    ) -> Result<StreamAppendResult<C<R>>, RPCError<C<R>>> {
        let payload = frame::encode_append(request).map_err(unreachable)?;
        let answer = self
            .send_control(Control::Heartbeat, payload, option.hard_ttl())
            .await?;
        frame::decode_append_answer(&answer).map_err(unreachable)
    }

    async fn vote_rpc(
        &self,
        kind: Control,
        rpc: VoteRequest<C<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<C<R>>, RPCError<C<R>>> {
        let ask = VoteAsk {
            vote: frame::to_stored(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(position),
            leadership_transfer: rpc.leadership_transfer,
        };
        let answer: VoteAnswer = self.control(kind, &ask, &option).await?;
        Ok(VoteResponse {
            vote: frame::from_stored(answer.vote),
            vote_granted: answer.granted,
            last_log_id: answer.last.map(log_id),
        })
    }
}

/// Everything that goes wrong on the way is reported as "unreachable": other errors make openraft
/// try again at once.
fn unreachable<R: AsyncRuntime>(error: impl ToString) -> RPCError<C<R>> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

impl<R: AsyncRuntime> NetBackoff<C<R>> for Peer<R> {
    fn backoff(&self) -> Option<Backoff> {
        // Doubling pauses, each shortened by up to half at random, so that groups of a returning
        // node do not knock in step.
        let mut random = R::thread_rng();
        let jitter: Vec<u64> = (0..8).map(|_| random.next_u64()).collect();
        let pauses = (0u32..).map(move |i| {
            let pause = BACKOFF_FIRST_MS
                .saturating_mul(1 << i.min(10))
                .min(BACKOFF_LONGEST_MS);
            let cut = jitter[i as usize % jitter.len()] % (pause / 2);
            Duration::from_millis(pause - cut)
        });
        Some(Backoff::new(pauses))
    }
}

/// When each request of a stream that is not answered yet was sent.
type Unanswered<R> = Arc<Mutex<VecDeque<<R as AsyncRuntime>::Instant>>>;

impl<R: AsyncRuntime> NetStreamAppend<C<R>> for Peer<R> {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Answers<'s, R>, RPCError<C<R>>>>
    where
        S: futures_util::Stream<Item = AppendEntriesRequest<C<R>>> + OptionalSend + Unpin + 'static,
    {
        if self.heartbeats {
            let this = &*self;
            let answers = input.then(move |request| this.heartbeat(request, option.clone()));
            return Box::pin(async move { Ok(Box::pin(answers) as Answers<'s, R>) });
        }
        Box::pin(async move {
            // openraft sleeps out its backoff where it hands over a request, so one must be taken
            // before anything is tried: a connection that fails first would never back off.
            let mut input = input;
            let Some(first) = input.next().await else {
                return Ok(Box::pin(stream::empty()) as Answers<'s, R>);
            };
            let input = stream::iter([first]).chain(commits_ride::<R, _>(input, COMMIT_WAIT));
            let sent: Unanswered<R> = Arc::default();
            let noted = sent.clone();
            let requests = input.map(move |request| {
                noted.lock().push_back(R::Instant::now());
                frame::encode_append(request)
            });
            // A request that cannot be encoded ends the stream, and so do its answers.
            let requests = requests
                .take_while(|r| std::future::ready(r.is_ok()))
                .filter_map(|r| std::future::ready(r.ok()));
            let open = self.peers.network.append_stream(self.target, Box::pin(requests));
            let limit = Duration::from_millis(self.peers.config.append_ack_timeout_ms);
            let answers = match R::timeout(limit, open).await {
                Ok(opened) => opened.map_err(unreachable)?,
                Err(_) => return Err(unreachable(NetworkError::Timeout(limit))),
            };
            Ok(with_deadline::<R>(answers, sent, limit))
        })
    }
}

/// Lets a commit index ride with the next entries instead of in a message of its own, for at most `wait`.
///
/// openraft tells followers of each commit at once, which doubles the messages of a group that is busy, and
/// each message costs both ends about as much as one with entries. A request with entries carries the newest
/// commit index anyway, and its answer stands for all requests before it.
fn commits_ride<R, S>(
    input: S,
    wait: Duration,
) -> impl futures_util::Stream<Item = AppendEntriesRequest<C<R>>>
where
    R: AsyncRuntime,
    S: futures_util::Stream<Item = AppendEntriesRequest<C<R>>> + OptionalSend + Unpin,
{
    stream::unfold((input.fuse(), None), move |(mut input, mut held)| async move {
        loop {
            let next = match &held {
                None => input.next().await,
                // The time is up: nothing came that the held request could ride with.
                Some((_, until)) => R::timeout_at(*until, input.next()).await.unwrap_or_default(),
            };
            match next {
                Some(request) if request.entries.is_empty() => {
                    let until = held.map_or_else(|| R::Instant::now() + wait, |(_, until)| until);
                    held = Some((request, until));
                }
                Some(request) => return Some((request, (input, None))),
                None => return held.map(|(request, _)| (request, (input, None))),
            }
        }
    })
}

/// Decodes answers and ends the stream with an error once a request waited longer than `limit`.
/// A stream without unanswered requests may be silent for ever.
fn with_deadline<R: AsyncRuntime>(
    answers: futures_util::stream::BoxStream<'static, Result<Bytes, NetworkError>>,
    sent: Unanswered<R>,
    limit: Duration,
) -> Answers<'static, R> {
    let decoded = stream::unfold(Some((answers, sent)), move |state| async move {
        let (mut answers, sent) = state?;
        loop {
            let next = match R::timeout(limit, answers.next()).await {
                Ok(next) => next,
                Err(_) => {
                    let late = sent.lock().front().is_some_and(|at| at.elapsed() >= limit);
                    if !late {
                        continue;
                    }
                    return Some((Err(unreachable(NetworkError::Timeout(limit))), None));
                }
            };
            sent.lock().pop_front();
            return match next? {
                Ok(bytes) => match frame::decode_append_answer(&bytes) {
                    Ok(answer) => Some((Ok(answer), Some((answers, sent)))),
                    Err(error) => Some((Err(unreachable(error)), None)),
                },
                Err(error) => Some((Err(unreachable(error)), None)),
            };
        }
    });
    Box::pin(decoded)
}

impl<R: AsyncRuntime> NetVote<C<R>> for Peer<R> {
    async fn vote(
        &mut self,
        rpc: VoteRequest<C<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<C<R>>, RPCError<C<R>>> {
        self.vote_rpc(Control::Vote, rpc, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<C<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<C<R>>, RPCError<C<R>>> {
        self.vote_rpc(Control::PreVote, rpc, option).await
    }
}

impl<R: AsyncRuntime> NetTransferLeader<C<R>> for Peer<R> {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<C<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C<R>>, RPCError<C<R>>> {
        let ask = TransferAsk {
            from: frame::to_stored(req.from_leader()),
            to: *req.to_node_id(),
            last: req.last_log_id().map(position),
        };
        let answer: TransferAnswer = self.control(Control::TransferLeader, &ask, &option).await?;
        Ok(match answer {
            TransferAnswer::Accepted => Ok(()),
            TransferAnswer::VoteChanged(actual) => Err(TransferLeaderError::VoteChanged {
                expected: *req.from_leader(),
                actual: frame::from_stored(actual),
            }),
            TransferAnswer::NotFlushed(actual) => Err(TransferLeaderError::LogNotFlushed {
                expected: req.last_log_id().copied(),
                actual: actual.map(log_id),
            }),
        })
    }
}

impl<R: AsyncRuntime> NetSnapshot<C<R>> for Peer<R> {
    type SnapshotData = SnapshotBody;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snap,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C<R>>, StreamingError<C<R>>> {
        let (Some(last), SnapshotBody::Outgoing(reader)) = (&snapshot.meta.last_log_id, snapshot.snapshot)
        else {
            return Err(Unreachable::from_string("the local snapshot has no content to send").into());
        };
        let at = position(last);
        let header = SnapshotHeader {
            vote: frame::to_stored(&vote),
            position: at,
            membership: membership::encode_stored(&snapshot.meta.last_membership).to_vec(),
        };
        let header = frame::encode(&header).map_err(|e: FrameError| Unreachable::from_string(e))?;
        let _hold = self.peers.holds.transfer(self.target.replica, at.index);
        let answer = self.send_snapshot(header, reader, cancel).await?;
        let vote = frame::decode(&answer).map_err(|e: FrameError| Unreachable::from_string(e))?;
        Ok(SnapshotResponse {
            vote: frame::from_stored(vote),
        })
    }
}

impl<R: AsyncRuntime> Peer<R> {
    async fn send_snapshot(
        &self,
        header: Bytes,
        reader: Box<dyn SnapshotReader>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
    ) -> Result<Bytes, StreamingError<C<R>>> {
        let progress = Arc::new(Progress::default());
        let frames = snapshot_frames(reader, progress.clone());
        let transfer = self.peers.network.snapshot(self.target, header, Box::pin(frames));
        let watchdog = stalled::<R>(progress.clone(), &self.peers.config);
        match R::select3(cancel, transfer, watchdog).await {
            Select3::First(closed) => Err(closed.into()),
            Select3::Second(Ok(answer)) => Ok(answer),
            Select3::Second(Err(error)) => {
                let error = progress
                    .failed
                    .lock()
                    .take()
                    .map_or(error.to_string(), |e| e.to_string());
                Err(Unreachable::from_string(error).into())
            }
            Select3::Third(limit) => Err(Unreachable::from_string(NetworkError::Timeout(limit)).into()),
        }
    }
}

/// How far a transfer is.
#[derive(Default)]
struct Progress {
    /// Frames the transport took.
    frames: AtomicU64,
    /// 1 once the end frame is taken.
    finished: AtomicU64,
    /// Why the local snapshot could not be read.
    failed: Mutex<Option<io::Error>>,
}

/// The frames of a snapshot, read as the transport asks for them. An error while reading ends the
/// stream without an end frame, which the receiver refuses.
fn snapshot_frames(
    reader: Box<dyn SnapshotReader>,
    progress: Arc<Progress>,
) -> impl futures_util::Stream<Item = Bytes> + Send + 'static {
    stream::unfold(Some((reader, Total::default(), progress)), |state| async move {
        let (mut reader, mut total, progress) = state?;
        let read = offload::run(move || {
            let chunk = reader.next_chunk();
            (reader, chunk)
        });
        progress.frames.fetch_add(1, Relaxed);
        match read.await {
            Ok((reader, Ok(Some(chunk)))) => {
                total.add(&chunk);
                Some((encode_chunk(&chunk), Some((reader, total, progress))))
            }
            Ok((_, Ok(None))) => {
                progress.finished.store(1, Relaxed);
                Some((encode_end(total), None))
            }
            Ok((_, Err(error))) | Err(error) => {
                *progress.failed.lock() = Some(error);
                None
            }
        }
    })
}

/// Ends when the transfer made no progress for too long; tells for how long.
async fn stalled<R: AsyncRuntime>(progress: Arc<Progress>, config: &GroupConfig) -> Duration {
    let idle = Duration::from_millis(config.snapshot_idle_timeout_ms);
    let install = Duration::from_millis(config.snapshot_install_timeout_ms);
    loop {
        let before = progress.frames.load(Relaxed);
        if progress.finished.load(Relaxed) == 1 {
            R::sleep(install).await;
            return install;
        }
        R::sleep(idle).await;
        if progress.frames.load(Relaxed) == before && progress.finished.load(Relaxed) == 0 {
            return idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::BoxStream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::TokioRuntime;
    use crate::log::StoredVote;
    use crate::position::LogPosition;
    use crate::type_config::{Command, Entry};

    type Request = AppendEntriesRequest<TypeConfig<TokioRuntime>>;

    fn request(commit: u64, entry: Option<u64>) -> Request {
        use openraft::entry::RaftEntry;
        let at = |index| log_id(LogPosition::new(1, index));
        let entry = entry.map(|index| Entry::new_normal(at(index), Command(Bytes::from_static(b"x"))));
        AppendEntriesRequest {
            vote: frame::from_stored(StoredVote {
                term: 1,
                voted_for: 1,
                committed: true,
            }),
            prev_log_id: None,
            leader_commit: Some(at(commit)),
            entries: entry.into_iter().collect(),
        }
    }

    fn riding(wait: Duration) -> (mpsc::UnboundedSender<Request>, BoxStream<'static, Request>) {
        let (send, taken) = mpsc::unbounded_channel();
        let input = stream::unfold(
            taken,
            |mut taken| async move { Some((taken.recv().await?, taken)) },
        );
        (
            send,
            commits_ride::<TokioRuntime, _>(Box::pin(input), wait).boxed(),
        )
    }

    fn seen(request: &Request) -> (Option<u64>, usize) {
        (request.leader_commit.map(|at| at.index()), request.entries.len())
    }

    #[tokio::test]
    async fn a_commit_index_goes_with_the_next_entries() {
        let (send, mut out) = riding(Duration::from_secs(3_600));
        for request in [
            request(1, None),
            request(2, None),
            request(2, Some(3)),
            request(3, Some(4)),
        ] {
            send.send(request).unwrap();
        }
        assert_eq!(seen(&out.next().await.unwrap()), (Some(2), 1));
        assert_eq!(seen(&out.next().await.unwrap()), (Some(3), 1));
    }

    #[tokio::test]
    async fn without_entries_it_goes_alone_and_the_newest_only() {
        let (send, mut out) = riding(Duration::from_millis(5));
        send.send(request(1, None)).unwrap();
        send.send(request(2, None)).unwrap();
        assert_eq!(seen(&out.next().await.unwrap()), (Some(2), 0));
        send.send(request(3, None)).unwrap();
        drop(send);
        assert_eq!(
            seen(&out.next().await.unwrap()),
            (Some(3), 0),
            "the last one is not lost"
        );
        assert!(out.next().await.is_none());
    }
}
