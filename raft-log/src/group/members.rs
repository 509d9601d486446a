//! Who belongs to a group, and who leads it.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::raft::Precondition;
use openraft::{AsyncRuntime, ChangeMembers};
use thiserror::Error;

use super::{Group, Role};
use crate::position::ReplicaId;

/// Why a membership did not change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MembershipChangeError {
    /// This replica does not lead.
    #[error("not the leader; the leader is {leader:?}")]
    NotLeader {
        /// The leader, if known.
        leader: Option<ReplicaId>,
    },
    /// An earlier change is half way; [`Group::finish_joint`] completes it.
    #[error("an earlier membership change is half way: {0:?}")]
    Joint(Vec<Vec<ReplicaId>>),
    /// It was not done in time; it may still happen, or be half way.
    #[error("not done within {0:?}, outcome unknown")]
    Timeout(Duration),
    /// A change that cannot be: no voters, a voter that was not a learner, a concurrent change.
    #[error("refused: {0}")]
    Refused(String),
    /// The group does not run.
    #[error("the group stopped: {0}")]
    Stopped(String),
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TransferError {
    /// This replica does not lead.
    #[error("not the leader; the leader is {leader:?}")]
    NotLeader {
        /// The leader, if known.
        leader: Option<ReplicaId>,
    },
    /// The target has no vote in the group.
    #[error("replica {0} is no voter")]
    NotVoter(ReplicaId),
    /// Another handover is under way.
    #[error("leadership is being handed over already")]
    Busy,
    /// The target did not catch up in time. Nothing was given up.
    #[error("replica {to} has {matched:?}, the log ends at {last:?}")]
    Lagging {
        /// The target.
        to: ReplicaId,
        /// What it has.
        matched: Option<u64>,
        /// The leader's last entry.
        last: Option<u64>,
    },
    /// Leadership was offered but the target did not take it in time.
    #[error("replica {to} did not take over within {timeout:?}; the leader is {leader:?}")]
    NotTaken {
        /// The target.
        to: ReplicaId,
        /// How long it had.
        timeout: Duration,
        /// Who leads now.
        leader: Option<ReplicaId>,
    },
    /// The group does not run.
    #[error("the group stopped: {0}")]
    Stopped(String),
}

/// Ends a handover also when the caller gives up.
struct HandOver<'a>(&'a tokio::sync::watch::Sender<bool>);

impl Drop for HandOver<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl<R: AsyncRuntime> Group<R> {
    /// Makes `voters` the first members of the group. Every one of them may call it, any number of
    /// times, with the same set; once the group has a log it does nothing.
    pub async fn initialize(&self, voters: &[ReplicaId]) -> Result<(), MembershipChangeError> {
        let members: BTreeSet<ReplicaId> = voters.iter().copied().collect();
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(MembershipChangeError::Refused(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(MembershipChangeError::Stopped(fatal.to_string())),
        }
    }

    /// Adds a member without a vote, and waits until it is close to the end of the log. On a timeout it
    /// stays a member and goes on catching up.
    pub async fn add_learner(
        &self,
        replica: ReplicaId,
        timeout: Duration,
    ) -> Result<(), MembershipChangeError> {
        let add = self.inner.raft.add_learner(replica, (), true);
        match R::timeout(timeout, add).await {
            Ok(result) => result.map(drop).map_err(change_error::<R>),
            Err(_) => Err(MembershipChangeError::Timeout(timeout)),
        }
    }

    /// Makes `voters` the voters of the group, by a joint configuration. New ones must be learners
    /// already; old ones that are not in the set leave the group. A leader that dies half way leaves
    /// the joint configuration behind: see [`finish_joint`](Self::finish_joint).
    pub async fn change_membership(
        &self,
        voters: &[ReplicaId],
        timeout: Duration,
    ) -> Result<(), MembershipChangeError> {
        let current = self
            .inner
            .raft
            .metrics()
            .borrow_watched()
            .membership_config
            .clone();
        let joint = current.membership().get_joint_config();
        if joint.len() > 1 {
            let joint = joint.iter().map(|c| c.iter().copied().collect()).collect();
            return Err(MembershipChangeError::Joint(joint));
        }
        let wanted: BTreeSet<ReplicaId> = voters.iter().copied().collect();
        if joint.first() == Some(&wanted) {
            return Ok(());
        }
        // Two reconcilers that both read the old membership must not both succeed.
        let unchanged = Precondition::LastMembershipLogId {
            last_membership_log_id: *current.log_id(),
        };
        let change =
            self.inner
                .raft
                .change_membership_if(ChangeMembers::ReplaceAllVoters(wanted), false, [unchanged]);
        match R::timeout(timeout, change).await {
            Ok(result) => result.map(drop).map_err(change_error::<R>),
            Err(_) => Err(MembershipChangeError::Timeout(timeout)),
        }
    }

    /// Removes members without a vote.
    pub async fn remove_learners(
        &self,
        replicas: &[ReplicaId],
        timeout: Duration,
    ) -> Result<(), MembershipChangeError> {
        let members: BTreeSet<ReplicaId> = replicas.iter().copied().collect();
        let change = self
            .inner
            .raft
            .change_membership(ChangeMembers::RemoveNodes(members), false);
        match R::timeout(timeout, change).await {
            Ok(result) => result.map(drop).map_err(change_error::<R>),
            Err(_) => Err(MembershipChangeError::Timeout(timeout)),
        }
    }

    /// Completes a membership change whose leader died half way. Returns whether there was one. The
    /// node calls it on every leader from time to time.
    pub async fn finish_joint(&self, timeout: Duration) -> Result<bool, MembershipChangeError> {
        let status = self.status();
        if status.role != Role::Leader {
            return Err(MembershipChangeError::NotLeader {
                leader: status.leader,
            });
        }
        if !status.is_joint() {
            return Ok(false);
        }
        let flatten = ChangeMembers::AddVoterIds(BTreeSet::new());
        match R::timeout(timeout, self.inner.raft.change_membership(flatten, false)).await {
            Ok(result) => result.map(|_| true).map_err(change_error::<R>),
            Err(_) => Err(MembershipChangeError::Timeout(timeout)),
        }
    }

    /// Hands leadership to `to`. Proposals wait meanwhile. The target must have the whole log first,
    /// because openraft's leader gives up for good once it offered leadership, and a target that lags
    /// could not take it.
    pub async fn transfer_leader(&self, to: ReplicaId, timeout: Duration) -> Result<(), TransferError> {
        let status = self.status();
        if status.role != Role::Leader {
            return Err(TransferError::NotLeader {
                leader: status.leader,
            });
        }
        if to == self.replica() {
            return Ok(());
        }
        if !status.voters.iter().all(|set| set.contains(&to)) {
            return Err(TransferError::NotVoter(to));
        }
        if self.inner.handing_over.send_replace(true) {
            return Err(TransferError::Busy);
        }
        let _pause = HandOver(&self.inner.handing_over);
        let half = timeout / 2;
        // openraft's own metrics, not the gathered status: what counts is now.
        let mut metrics = self.inner.raft.metrics();
        let caught_up = async { while self.lag_of(to).is_err() && metrics.changed().await.is_ok() {} };
        // Whether it came true is looked at below.
        let _ = R::timeout(half, caught_up).await;
        self.lag_of(to)?;
        let offered = self.inner.raft.trigger().transfer_leader(to).await;
        offered.map_err(|fatal| TransferError::Stopped(fatal.to_string()))?;
        let taken = self
            .wait_for("target leads", half, |s| s.leader == Some(to))
            .await;
        taken.map(drop).map_err(|_| TransferError::NotTaken {
            to,
            timeout: half,
            leader: self.status().leader,
        })
    }

    /// Fails unless this replica leads and `to` has the whole log.
    fn lag_of(&self, to: ReplicaId) -> Result<(), TransferError> {
        let status = self.status();
        match status.role {
            Role::Stopped => Err(TransferError::Stopped(
                status.fatal.unwrap_or_else(|| "shut down".into()),
            )),
            Role::Leader => {
                let matched = status.matched.get(&to).copied().flatten();
                if matched < status.last_log {
                    return Err(TransferError::Lagging {
                        to,
                        matched,
                        last: status.last_log,
                    });
                }
                Ok(())
            }
            _ => Err(TransferError::NotLeader {
                leader: status.leader,
            }),
        }
    }
}

fn change_error<R: AsyncRuntime>(
    error: RaftError<crate::type_config::TypeConfig<R>, ClientWriteError<crate::type_config::TypeConfig<R>>>,
) -> MembershipChangeError {
    match error {
        RaftError::Fatal(fatal) => MembershipChangeError::Stopped(fatal.to_string()),
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => MembershipChangeError::NotLeader {
            leader: forward.leader_id,
        },
        RaftError::APIError(error) => MembershipChangeError::Refused(error.to_string()),
    }
}
