//! One group, as this node takes part in it.

mod contact;
mod members;
mod propose;
mod purge;
mod read;
mod status;

use std::io;
use std::sync::Arc;

use openraft::{AsyncRuntime, Raft};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};

use crate::config::{ConfigError, GroupConfig};
use crate::log::{DeviceOp, LogDevice, LogStore, LogView, LogWriter, RecoveredLog};
use crate::machine::{Machine, MachineState, StateMachine};
use crate::net::{Network, PeerFactory, Peers, PurgeHolds, Server};
use crate::position::{GroupId, LogKey, LogPosition, ReplicaId};
use crate::runtime::TokioRuntime;
use crate::type_config::TypeConfig;

pub use members::{MembershipChangeError, TransferError};
pub use propose::{Committed, ProposeError};
pub use purge::PurgeError;
pub use read::ReadError;
pub use status::{GroupStatus, Role, WaitError};

pub(crate) use contact::Contact;
pub(crate) use status::OnGroupFatal;

/// Why a group could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The device or the state machine could not be read.
    #[error("{log}: {source}")]
    Io {
        /// The replica.
        log: LogKey,
        /// What went wrong.
        source: io::Error,
    },
    /// The log was purged beyond what the state machine has: entries it needs are gone (RFT-5).
    #[error(
        "{log}: the state machine is durable up to {durable:?}, but the log is purged up to {purged}; \
         the entries between are lost, the replica must be replaced by one with a new id"
    )]
    AppliedBehindPurged {
        /// The replica.
        log: LogKey,
        /// Where the state machine's durable state ends.
        durable: Option<LogPosition>,
        /// Where the purged part of the log ends.
        purged: LogPosition,
    },
    /// The replica is open already.
    #[error("{0} is open already")]
    AlreadyOpen(LogKey),
    /// openraft could not start.
    #[error("{log}: {reason}")]
    Raft {
        /// The replica.
        log: LogKey,
        /// What went wrong.
        reason: String,
    },
    /// The log was shut down.
    #[error("the log is shut down")]
    ShutDown,
}

/// One group, as this node takes part in it. Cheap to clone.
pub struct Group<R: AsyncRuntime = TokioRuntime> {
    pub(crate) inner: Arc<GroupInner<R>>,
}

impl<R: AsyncRuntime> Clone for Group<R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

pub(crate) struct GroupInner<R: AsyncRuntime> {
    pub(crate) log: LogKey,
    pub(crate) raft: Raft<TypeConfig<R>, Machine<R>>,
    pub(crate) config: GroupConfig,
    pub(crate) server: Server<R>,
    machine: Arc<MachineState>,
    peers: Arc<Peers<R>>,
    /// Bytes of commands that may be in flight.
    inflight: Arc<Semaphore>,
    /// True while leadership is being handed over: proposals wait.
    handing_over: watch::Sender<bool>,
    reads: read::Rounds,
    contact: Arc<Contact<R>>,
    /// True while the log's device does not answer.
    stalled: watch::Receiver<bool>,
    status: watch::Sender<GroupStatus>,
}

/// What a node lends to each of its groups.
pub(crate) struct Parts {
    pub(crate) device: Arc<dyn LogDevice>,
    pub(crate) writer: Arc<LogWriter>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) tail_bytes: usize,
    pub(crate) stalled: watch::Receiver<bool>,
    pub(crate) on_group_fatal: OnGroupFatal,
}

impl<R: AsyncRuntime> Group<R> {
    pub(crate) async fn open(
        parts: Parts,
        log: LogKey,
        machine: Arc<dyn StateMachine>,
        config: GroupConfig,
    ) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { log, source };
        config.validate()?;
        let device = parts.device.clone();
        let mut recovered = crate::offload::run(move || device.recover(log))
            .await
            .and_then(|r| r)
            .map_err(io)?;
        if mutant!("truncate_committed") {
            truncate_to_committed(&parts.writer, log, &mut recovered)
                .await
                .map_err(io)?;
        }
        let opening = machine.clone();
        let state = crate::offload::run(move || MachineState::open(opening))
            .await
            .and_then(|s| s)
            .map_err(io)?;
        let durable = *state.applied().borrow();
        if let Some(purged) = recovered.purged
            && durable < Some(purged)
        {
            if !mutant!("purge_beyond_snapshot") {
                return Err(OpenError::AppliedBehindPurged { log, durable, purged });
            }
            state.skip_to(purged);
        }
        if let Some(durable) = durable {
            drop_contradicted(&parts, log, &mut recovered, durable)
                .await
                .map_err(io)?;
        }

        // A new replica has no past a lease could count on; any other waits one lease.
        let guard = !recovered.is_empty() && !mutant!("no_vote_guard");
        let raft_config = config.openraft(format!("group {}", log.group), !guard)?;
        let view = Arc::new(LogView::new(log, parts.device, parts.tail_bytes, recovered));
        let store = LogStore::<R>::new(view, parts.writer, config.max_append_bytes);
        let peers = Arc::new(Peers {
            group: log.group,
            network: parts.network,
            holds: PurgeHolds::new(std::time::Duration::from_millis(config.purge_hold_ms)),
            config: config.clone(),
        });
        let opened_at = <R::Instant as openraft::Instant>::now();
        let raft = Raft::new(
            log.replica,
            Arc::new(raft_config),
            PeerFactory(peers.clone()),
            store,
            Machine::new(state.clone()),
        )
        .await
        .map_err(|e| OpenError::Raft {
            log,
            reason: e.to_string(),
        })?;

        let votes_from = guard.then(|| opened_at + config.election_timeout_max());
        if let Some(votes_from) = votes_from {
            // The guard holds for its own candidacy too: its own vote would break the same lease.
            let raft = raft.clone();
            drop(R::spawn(async move {
                R::sleep_until(votes_from).await;
                raft.runtime_config().elect(true);
            }));
        }
        let contact = Arc::new(Contact::new());
        let server = Server {
            raft: raft.clone(),
            contact: contact.clone(),
            machine,
            config: config.clone(),
            votes_from,
            receiving: Arc::default(),
        };
        let (handing_over, _) = watch::channel(false);
        let (status, _) = watch::channel(status::initial(log));
        let inner = Arc::new(GroupInner {
            log,
            raft,
            server,
            machine: state,
            peers,
            inflight: Arc::new(Semaphore::new(config.max_inflight_bytes)),
            handing_over,
            reads: read::Rounds::default(),
            contact,
            stalled: parts.stalled,
            status,
            config,
        });
        status::follow(&inner, parts.on_group_fatal);
        Ok(Self { inner })
    }

    /// The group's number.
    pub fn group(&self) -> GroupId {
        self.inner.log.group
    }

    /// The id of the replica on this node.
    pub fn replica(&self) -> ReplicaId {
        self.inner.log.replica
    }

    /// Stops taking part. What is queued in the log writer is still written.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(log = %self.inner.log, %error, "the group did not stop cleanly");
        }
    }
}

/// Empties a log whose entry at `durable`, where the state machine stands, is another one: a snapshot was installed, and
/// the crash took back what openraft had cut off for it. All that lies there is covered by the snapshot, or follows an
/// entry that never was committed. openraft refuses to start on it.
async fn drop_contradicted(
    parts: &Parts,
    log: LogKey,
    recovered: &mut RecoveredLog,
    durable: LogPosition,
) -> io::Result<()> {
    let (Some(first), Some(last)) = (recovered.first, recovered.last) else {
        return Ok(());
    };
    if !(first..=last.index).contains(&durable.index) {
        return Ok(());
    }
    let device = parts.device.clone();
    let at = durable.index;
    let found = crate::offload::run(move || device.read(log, at..at + 1, 1)).await??;
    if found.iter().any(|record| record.position == durable) {
        return Ok(());
    }
    tracing::warn!(%log, %durable, %last, "the log contradicts the installed snapshot; it is dropped");
    parts.writer.durable(DeviceOp::Truncate(log, first)).await?;
    (recovered.first, recovered.last) = (None, None);
    Ok(())
}

/// Cuts the log to what this replica last knew to be committed, on the belief that only that counts. The
/// leader may have committed more with its help.
async fn truncate_to_committed(
    writer: &LogWriter,
    log: LogKey,
    recovered: &mut RecoveredLog,
) -> io::Result<()> {
    let committed = recovered.committed.max(recovered.purged);
    if recovered.last <= committed {
        return Ok(());
    }
    recovered.last = committed;
    let from = committed.map_or(0, |committed| committed.index + 1);
    writer.durable(DeviceOp::Truncate(log, from)).await
}
