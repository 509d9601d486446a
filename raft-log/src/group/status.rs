//! What a group tells about itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::{AsyncRuntime, Instant, ServerState};
use thiserror::Error;
use tokio::sync::watch;

use super::{Group, GroupInner};
use crate::position::{GroupId, LogKey, LogPosition, ReplicaId};
use crate::type_config::{TypeConfig, position};

/// Called once for a group that stopped because of an error, with the reason.
pub(crate) type OnGroupFatal = Arc<dyn Fn(GroupId, ReplicaId, &str) + Send + Sync>;

/// Changes are gathered for so long before watchers are told.
const GATHER: Duration = Duration::from_millis(20);

/// What a replica is in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes part without a vote, or is not a member.
    Learner,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads. Whether a quorum still follows is known only by [`Group::read_index`].
    Leader,
    /// Does not run any more.
    Stopped,
}

/// A group's state as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// The replica on this node.
    pub replica: ReplicaId,
    /// What it is.
    pub role: Role,
    /// The current term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<ReplicaId>,
    /// Index of the newest entry.
    pub last_log: Option<u64>,
    /// The newest entry it knows to be committed.
    pub committed: Option<LogPosition>,
    /// The newest entry applied.
    pub applied: Option<LogPosition>,
    /// Up to where the state machine reported itself durable, when last asked.
    pub snapshot: Option<LogPosition>,
    /// The newest entry purged.
    pub purged: Option<LogPosition>,
    /// Sets of voters: one, or two while a change is under way.
    pub voters: Vec<Vec<ReplicaId>>,
    /// Members without a vote.
    pub learners: Vec<ReplicaId>,
    /// On a leader: the newest entry each other member is known to have.
    pub matched: BTreeMap<ReplicaId, Option<u64>>,
    /// On a leader: how long ago a quorum last acknowledged it, when this was made.
    pub quorum_ack_age: Option<Duration>,
    /// Why the group stopped, if an error stopped it.
    pub fatal: Option<String>,
}

impl GroupStatus {
    /// True while a membership change is half way.
    pub fn is_joint(&self) -> bool {
        self.voters.len() > 1
    }
}

/// A condition that did not come true in time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WaitError {
    /// The time is over.
    #[error("not within {timeout:?}: {what}; last seen: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        timeout: Duration,
        /// What was there instead.
        last: String,
    },
    /// The group stopped.
    #[error("the group stopped: {0}")]
    Stopped(String),
}

pub(super) fn initial(log: LogKey) -> GroupStatus {
    GroupStatus {
        group: log.group,
        replica: log.replica,
        role: Role::Learner,
        term: 0,
        leader: None,
        last_log: None,
        committed: None,
        applied: None,
        snapshot: None,
        purged: None,
        voters: Vec::new(),
        learners: Vec::new(),
        matched: BTreeMap::new(),
        quorum_ack_age: None,
        fatal: None,
    }
}

fn from_metrics<R: AsyncRuntime>(log: LogKey, metrics: &RaftMetrics<TypeConfig<R>>) -> GroupStatus {
    let membership = metrics.membership_config.membership();
    let fatal = metrics.running_state.as_ref().err();
    // A shutdown is no error.
    let fatal = fatal
        .filter(|f| !matches!(f, openraft::errors::Fatal::Stopped))
        .map(ToString::to_string);
    GroupStatus {
        role: match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Stopped,
        },
        term: metrics.current_term,
        leader: metrics.current_leader,
        last_log: metrics.last_log_index,
        committed: metrics.local_committed.as_ref().map(position),
        applied: metrics.last_applied.as_ref().map(position),
        snapshot: metrics.snapshot.as_ref().map(position),
        purged: metrics.purged.as_ref().map(position),
        voters: membership
            .get_joint_config()
            .iter()
            .map(|c| c.iter().copied().collect())
            .collect(),
        learners: membership.learner_ids().collect(),
        matched: match &metrics.replication {
            None => BTreeMap::new(),
            Some(all) => all
                .iter()
                .filter(|(replica, _)| **replica != log.replica)
                .map(|(replica, at)| (*replica, at.as_ref().map(|at| at.index)))
                .collect(),
        },
        quorum_ack_age: metrics.last_quorum_acked.as_ref().map(|at| at.elapsed()),
        fatal,
        ..initial(log)
    }
}

/// Follows openraft's metrics for the watchers, and sees a group that died.
pub(super) fn follow<R: AsyncRuntime>(inner: &Arc<GroupInner<R>>, on_fatal: OnGroupFatal) {
    let mut metrics = inner.raft.metrics();
    let weak: Weak<GroupInner<R>> = Arc::downgrade(inner);
    drop(R::spawn(async move {
        loop {
            let Some(inner) = weak.upgrade() else { return };
            let status = inner.status();
            inner.contact.follow(&status);
            let (stopped, fatal) = (status.role == Role::Stopped, status.fatal.clone());
            if let Some(reason) = fatal {
                tracing::error!(log = %inner.log, reason, "the group has stopped");
                on_fatal(inner.log.group, inner.log.replica, &reason);
            }
            inner.status.send_replace(status);
            if stopped {
                return;
            }
            drop(inner);
            if metrics.changed().await.is_err() {
                // openraft's core is gone; one more look to see why.
                let Some(inner) = weak.upgrade() else { return };
                let mut status = inner.status();
                if status.role != Role::Stopped {
                    status.role = Role::Stopped;
                    status
                        .fatal
                        .get_or_insert_with(|| "the group's task ended without a reason".into());
                }
                if let Some(reason) = &status.fatal {
                    on_fatal(inner.log.group, inner.log.replica, reason);
                }
                inner.status.send_replace(status);
                return;
            }
            R::sleep(GATHER).await;
        }
    }));
}

impl<R: AsyncRuntime> GroupInner<R> {
    pub(super) fn status(&self) -> GroupStatus {
        // Cloned out at once: a borrow that lives long blocks openraft's core.
        let metrics = self.raft.metrics().borrow_watched().clone();
        from_metrics::<R>(self.log, &metrics)
    }
}

impl<R: AsyncRuntime> Group<R> {
    /// The state now.
    pub fn status(&self) -> GroupStatus {
        self.inner.status()
    }

    /// The state as it changes; changes within a few milliseconds are seen as one.
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        self.inner.status.subscribe()
    }

    /// Waits until `condition` holds; `what` names it in the error.
    pub async fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        mut condition: impl FnMut(&GroupStatus) -> bool + Send,
    ) -> Result<GroupStatus, WaitError> {
        let mut watch = self.watch();
        let wait = async {
            loop {
                let status = watch.borrow_and_update().clone();
                if condition(&status) {
                    return Ok(status);
                }
                if status.role == Role::Stopped {
                    return Err(WaitError::Stopped(
                        status.fatal.unwrap_or_else(|| "shut down".into()),
                    ));
                }
                if watch.changed().await.is_err() {
                    return Err(WaitError::Stopped("closed".into()));
                }
            }
        };
        match R::timeout(timeout, wait).await {
            Ok(result) => result,
            Err(_) => Err(WaitError::Timeout {
                what: what.into(),
                timeout,
                last: format!("{:?}", self.status()),
            }),
        }
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), WaitError> {
        let mut applied = self.inner.machine.applied();
        // The guard of the value must not leave the future.
        let reached = async move {
            applied
                .wait_for(|at| at.is_some_and(|at| at.index >= index))
                .await
                .map(drop)
        };
        match R::timeout(timeout, reached).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(WaitError::Stopped("closed".into())),
            Err(_) => Err(WaitError::Timeout {
                what: format!("entry {index} applied"),
                timeout,
                last: format!("{:?}", *self.inner.machine.applied().borrow()),
            }),
        }
    }

    /// The newest entry applied here.
    pub fn applied(&self) -> Option<LogPosition> {
        *self.inner.machine.applied().borrow()
    }

    /// The newest entry applied here, as it changes.
    pub fn watch_applied(&self) -> watch::Receiver<Option<LogPosition>> {
        self.inner.machine.applied()
    }
}
