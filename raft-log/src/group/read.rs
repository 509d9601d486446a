//! Read index: up to where a replica must have applied for a read to see all that was acknowledged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::Select2;
use openraft::errors::{ForwardReason, LinearizableReadError, RaftError};
use openraft::{AsyncRuntime, Instant, LinearizerOption, ReadPolicy};
use parking_lot::Mutex;
use thiserror::Error;

use super::contact::Hopeless;
use super::{Group, Role};
use crate::net::{Control, NetworkError, Target, frame};
use crate::position::ReplicaId;

/// Why there is no read index.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// No leader is known, or the leader that was asked does not lead any more.
    #[error("no leader to ask; the leader is {leader:?}")]
    NotLeader {
        /// The leader, if known.
        leader: Option<ReplicaId>,
    },
    /// No quorum confirmed the leader in time.
    #[error("no quorum confirmed the leader within {0:?}")]
    NoQuorum(Duration),
    /// The leader lost its quorum: no majority was heard of for so long.
    #[error("no majority of the replicas was heard of for {0:?}")]
    QuorumLost(Duration),
    /// The device of the leader's log does not answer, so it gives leadership up.
    #[error("the device of the leader's log does not answer")]
    Stalled,
    /// The leader did not answer.
    #[error("the leader did not answer: {0}")]
    Unreachable(NetworkError),
    /// The group does not run.
    #[error("the group stopped: {0}")]
    Stopped(String),
}

type Answer = Result<u64, ReadError>;

/// How a leader makes sure that it still leads. A lease would rest on the vote guard of restarted replicas
/// (RFT-6); asking the quorum rests on nothing, so without a lease a missing guard is not seen.
fn read_policy() -> ReadPolicy {
    if mutant!("no_vote_guard") {
        return ReadPolicy::LeaseRead;
    }
    ReadPolicy::ReadIndex
}

/// Rounds of asking the quorum. A caller joins the round that has not started yet: one that is under
/// way may have taken its index before the call.
#[derive(Default)]
pub(super) struct Rounds {
    next: Mutex<Option<Arc<Round>>>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Round {
    answer: Mutex<Option<Answer>>,
}

impl Rounds {
    async fn join(&self, ask: impl Future<Output = Answer> + Send) -> Answer {
        let round = self.next.lock().get_or_insert_default().clone();
        let _turn = self.turn.lock().await;
        if let Some(answer) = round.answer.lock().clone() {
            return answer;
        }
        // First of its round to get the turn: closes it and asks for all. If this caller gives up
        // half way, the next one of the round finds no answer and asks itself.
        {
            let mut next = self.next.lock();
            if next.as_ref().is_some_and(|n| Arc::ptr_eq(n, &round)) {
                *next = None;
            }
        }
        let answer = ask.await;
        *round.answer.lock() = Some(answer.clone());
        answer
    }
}

impl<R: AsyncRuntime> Group<R> {
    /// The index up to which a replica must have applied ([`wait_applied`](Self::wait_applied)) so that
    /// a read there sees everything acknowledged before this call. Confirmed by a quorum; asked of the
    /// leader if this replica is not it. Concurrent callers share one round.
    pub async fn read_index(&self, timeout: Duration) -> Result<u64, ReadError> {
        let asked = self.inner.reads.join(self.ask_read_index(timeout));
        match R::timeout(timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(ReadError::NoQuorum(timeout)),
        }
    }

    async fn ask_read_index(&self, timeout: Duration) -> Answer {
        let leader = match self.local_read_index(timeout).await {
            Err(ReadError::NotLeader { leader: Some(leader) }) if leader != self.replica() => leader,
            other => return other,
        };
        let target = Target {
            group: self.group(),
            replica: leader,
        };
        let millis = timeout.as_millis().min(u128::from(u64::MAX)) as u64;
        let ask = frame::encode(&millis)
            .map_err(|e| ReadError::Unreachable(NetworkError::Refused(e.to_string())))?;
        let call = self
            .inner
            .peers
            .network
            .control(target, Control::ReadIndex as u32, ask, timeout);
        let answer = match R::timeout(timeout, call).await {
            Ok(answer) => answer.map_err(ReadError::Unreachable)?,
            Err(_) => return Err(ReadError::Unreachable(NetworkError::Timeout(timeout))),
        };
        match frame::decode(&answer) {
            Ok(frame::ReadAnswer::Index(index)) => Ok(index),
            Ok(frame::ReadAnswer::NotLeader(leader)) => Err(ReadError::NotLeader { leader }),
            Ok(frame::ReadAnswer::NoQuorum) => Err(ReadError::NoQuorum(timeout)),
            Ok(frame::ReadAnswer::QuorumLost(ms)) => Err(ReadError::QuorumLost(Duration::from_millis(ms))),
            Ok(frame::ReadAnswer::Stalled) => Err(ReadError::Stalled),
            Err(error) => Err(ReadError::Unreachable(NetworkError::Refused(error.to_string()))),
        }
    }

    async fn local_read_index(&self, timeout: Duration) -> Answer {
        if mutant!("read_without_read_index") {
            return self.unconfirmed_read_index();
        }
        let deadline = R::Instant::now() + timeout;
        loop {
            if self.inner.is_stalled() {
                return Err(self.unreadable(Hopeless::Stalled));
            }
            let left = deadline.saturating_duration_since(R::Instant::now());
            let policy = LinearizerOption::from(read_policy()).with_wait_timeout(left);
            let ask = R::timeout_at(deadline, self.inner.raft.get_read_log_id(policy));
            let error = match R::select2(ask, self.inner.until_hopeless()).await {
                Select2::First(Ok(Ok((read, _applied)))) => return Ok(read.index()),
                Select2::First(Ok(Err(error))) => error,
                Select2::First(Err(_)) => return Err(ReadError::NoQuorum(timeout)),
                Select2::Second(hopeless) => return Err(self.unreadable(hopeless)),
            };
            match error {
                RaftError::Fatal(fatal) => return Err(ReadError::Stopped(fatal.to_string())),
                RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))
                    if forward.reason == ForwardReason::NotLeader =>
                {
                    return Err(ReadError::NotLeader {
                        leader: forward.leader_id,
                    });
                }
                RaftError::APIError(_) => {
                    if R::Instant::now() >= deadline {
                        return Err(ReadError::NoQuorum(timeout));
                    }
                    R::sleep(self.pause()).await;
                }
            }
        }
    }

    /// What a replica that believes to lead has applied, confirmed by nobody.
    fn unconfirmed_read_index(&self) -> Answer {
        let status = self.status();
        match (status.role, status.applied) {
            (Role::Leader, applied) => Ok(applied.map_or(0, |applied| applied.index)),
            _ => Err(ReadError::NotLeader {
                leader: status.leader,
            }),
        }
    }

    /// Another replica may lead although this one's quorum or device is gone: then it is to be asked.
    fn unreadable(&self, hopeless: Hopeless) -> ReadError {
        let leader = self.inner.status.borrow().leader;
        match hopeless {
            _ if leader != Some(self.replica()) => ReadError::NotLeader { leader },
            Hopeless::QuorumLost(age) => ReadError::QuorumLost(age),
            Hopeless::Stalled => ReadError::Stalled,
        }
    }

    /// Answers a read-index question of another replica.
    pub(crate) async fn answer_read_index(&self, payload: Bytes) -> Result<Bytes, NetworkError> {
        let refused = |e: frame::FrameError| NetworkError::Refused(e.to_string());
        let millis: u64 = frame::decode(&payload).map_err(refused)?;
        let timeout = Duration::from_millis(millis.min(60_000));
        let asked = self.inner.reads.join(self.local_read_index(timeout));
        let answer = match R::timeout(timeout, asked).await {
            Ok(Ok(index)) => frame::ReadAnswer::Index(index),
            Ok(Err(ReadError::NotLeader { leader })) => frame::ReadAnswer::NotLeader(leader),
            Ok(Err(ReadError::QuorumLost(age))) => frame::ReadAnswer::QuorumLost(age.as_millis() as u64),
            Ok(Err(ReadError::Stalled)) => frame::ReadAnswer::Stalled,
            Ok(Err(ReadError::Stopped(reason))) => return Err(NetworkError::Refused(reason)),
            Ok(Err(_)) | Err(_) => frame::ReadAnswer::NoQuorum,
        };
        frame::encode(&answer).map_err(refused)
    }
}
