//! Putting commands into the log.

use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::Select2;
use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::{AsyncRuntime, Instant};
use rand::Rng;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;

use super::Group;
use super::contact::Hopeless;
use crate::position::{LogPosition, ReplicaId};
use crate::type_config::{Command, PermitResponder, position};

/// A command that is committed and applied on the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Where it is in the log.
    pub position: LogPosition,
    /// What the state machine answered.
    pub reply: Bytes,
}

/// Why a command is not known to be committed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Too much is in flight. Nothing was proposed.
    #[error("{bytes} B do not fit: the group's limit of {limit} B in flight (max_inflight_bytes) is reached")]
    Overloaded {
        /// Length of the command.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The command is longer than any may be. Nothing was proposed.
    #[error("a command of {bytes} B exceeds the limit of {limit} B (max_command_bytes)")]
    TooLarge {
        /// Length of the command.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// This replica does not lead. Nothing was proposed.
    #[error("not the leader; the leader is {leader:?}")]
    NotLeader {
        /// The leader, if known.
        leader: Option<ReplicaId>,
    },
    /// The leader could not reach a quorum before the deadline. Nothing was proposed.
    #[error("no quorum answered within {0:?}")]
    NoQuorum(Duration),
    /// The leader lost its quorum: no majority was heard of for so long. Nothing was proposed.
    #[error("no majority of the replicas was heard of for {0:?}")]
    QuorumLost(Duration),
    /// The device of this node's log does not answer. Nothing was proposed.
    #[error("the device of this node's log does not answer")]
    Stalled,
    /// It was proposed, and may or may not be committed, now or later.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The group does not run.
    #[error("the group stopped: {0}")]
    Stopped(String),
}

/// What became of one try.
enum Try {
    Done(Result<Committed, ProposeError>),
    /// Not proposed for a reason that passes; the permit comes back.
    Again(OwnedSemaphorePermit),
}

impl<R: AsyncRuntime> Group<R> {
    /// Proposes a command and waits until it is committed and applied here, at most
    /// [`GroupConfig::propose_timeout_ms`](crate::GroupConfig::propose_timeout_ms).
    pub async fn propose(&self, command: Bytes) -> Result<Committed, ProposeError> {
        let timeout = Duration::from_millis(self.inner.config.propose_timeout_ms);
        self.propose_within(command, timeout).await
    }

    /// Proposes a command and waits until it is committed and applied here, at most `timeout`.
    /// A caller that stops waiting does not take the command back.
    pub async fn propose_within(&self, command: Bytes, timeout: Duration) -> Result<Committed, ProposeError> {
        let deadline = R::Instant::now() + timeout;
        let mut permit = self.admit(command.len())?;
        loop {
            if self.inner.is_stalled() {
                return Err(ProposeError::Stalled);
            }
            // Before anything is proposed, so that the outcome is known. Another replica may lead, though.
            if let Some(age) = self.inner.quorum_lost()
                && self.inner.status.borrow().leader == Some(self.replica())
            {
                return Err(ProposeError::QuorumLost(age));
            }
            self.wait_hand_over(deadline, timeout).await?;
            permit = match self.try_propose(command.clone(), permit, deadline, timeout).await {
                Try::Done(result) => return result,
                Try::Again(permit) => permit,
            };
            if R::Instant::now() >= deadline {
                return Err(ProposeError::NoQuorum(timeout));
            }
            R::sleep(self.pause()).await;
        }
    }

    fn admit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ProposeError> {
        let config = &self.inner.config;
        if bytes > config.max_command_bytes {
            return Err(ProposeError::TooLarge {
                bytes,
                limit: config.max_command_bytes,
            });
        }
        // Empty commands cost something too.
        let permits = bytes.max(1) as u32;
        let permit = self.inner.inflight.clone().try_acquire_many_owned(permits);
        permit.map_err(|_| ProposeError::Overloaded {
            bytes,
            limit: config.max_inflight_bytes,
        })
    }

    async fn try_propose(
        &self,
        command: Bytes,
        permit: OwnedSemaphorePermit,
        deadline: R::Instant,
        timeout: Duration,
    ) -> Try {
        let (responder, outcome) = PermitResponder::<R, _>::new(permit);
        let submitted = self
            .inner
            .raft
            .client_write_ff(Command(command), Some(responder))
            .await;
        if let Err(fatal) = submitted {
            return Try::Done(Err(ProposeError::Stopped(fatal.to_string())));
        }
        let unknown = |why: String| Try::Done(Err(ProposeError::OutcomeUnknown(why)));
        let outcome = R::timeout_at(deadline, outcome);
        let (result, permit) = match R::select2(outcome, self.inner.until_hopeless()).await {
            Select2::First(Ok(Ok(outcome))) => outcome,
            Select2::First(Ok(Err(_))) => return unknown("the group stopped".into()),
            Select2::First(Err(_)) => return unknown(format!("not applied within {timeout:?}")),
            Select2::Second(Hopeless::QuorumLost(age)) => {
                return unknown(format!("no majority of the replicas was heard of for {age:?}"));
            }
            Select2::Second(Hopeless::Stalled) => {
                return unknown("the device of this node's log does not answer".into());
            }
        };
        let error = match result {
            Ok(written) => {
                let position = position(&written.log_id);
                return Try::Done(Ok(Committed {
                    position,
                    reply: written.data.0,
                }));
            }
            Err(error) => error,
        };
        let forward = match error {
            ClientWriteError::ForwardToLeader(forward) => forward,
            other => return unknown(other.to_string()),
        };
        match (forward.reason, permit) {
            // The lease ran out under a backlog, no one else leads yet; or leadership is being handed
            // over and may stay here. Both pass.
            (ForwardReason::LeaseExpired | ForwardReason::LeadershipTransfer, Some(permit)) => {
                Try::Again(permit)
            }
            _ => Try::Done(Err(ProposeError::NotLeader {
                leader: forward.leader_id,
            })),
        }
    }

    async fn wait_hand_over(&self, deadline: R::Instant, timeout: Duration) -> Result<(), ProposeError> {
        let mut handing_over = self.inner.handing_over.subscribe();
        if !*handing_over.borrow_and_update() {
            return Ok(());
        }
        // The guard of the value must not leave the future.
        let over = async move { handing_over.wait_for(|busy| !busy).await.map(drop) };
        match R::timeout_at(deadline, over).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ProposeError::NoQuorum(timeout)),
        }
    }

    /// Half a heartbeat, give or take a quarter, so that waiting proposals do not come back in step.
    pub(super) fn pause(&self) -> Duration {
        let heartbeat = self.inner.config.heartbeat_interval_ms.max(4);
        Duration::from_millis(heartbeat / 4 + R::thread_rng().next_u64() % (heartbeat / 2))
    }

    /// Bytes of commands in flight now.
    pub fn inflight_bytes(&self) -> usize {
        self.inner.config.max_inflight_bytes - self.inner.inflight.available_permits()
    }
}
