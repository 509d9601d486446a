//! The log of one node: all its groups over one writer.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use openraft::AsyncRuntime;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::config::{GroupConfig, LogOptions};
use crate::group::{Group, OnGroupFatal, OpenError, Parts};
use crate::log::{DeviceOp, LogDevice, LogWriter, OnFatal, RiderRow, WriterStats};
use crate::machine::StateMachine;
use crate::net::{Control, Network, NetworkError, Room};
use crate::position::{GroupId, LogKey, ReplicaId};
use crate::runtime::TokioRuntime;

/// What the log calls when something died.
#[derive(Clone)]
pub struct Hooks {
    /// A write or sync of the log failed, or never ended. Must end the process in production; the default does.
    pub on_fatal: OnFatal,
    /// A group stopped because of an error. The default only logs, which happens anyway.
    pub on_group_fatal: OnGroupFatal,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            on_fatal: Arc::new(|reason| {
                tracing::error!(reason, "aborting");
                std::process::abort();
            }),
            on_group_fatal: Arc::new(|_, _, _| {}),
        }
    }
}

/// The log of one node.
pub struct RaftLog<R: AsyncRuntime = TokioRuntime> {
    device: Arc<dyn LogDevice>,
    network: Arc<dyn Network>,
    writer: Arc<LogWriter>,
    options: LogOptions,
    hooks: Hooks,
    groups: RwLock<Groups<R>>,
}

struct Groups<R: AsyncRuntime> {
    /// `None` while a group is being opened.
    open: HashMap<LogKey, Option<Group<R>>>,
    shut_down: bool,
}

/// Forgets a replica whose opening failed or was given up.
struct Opening<'a, R: AsyncRuntime> {
    groups: &'a RwLock<Groups<R>>,
    log: LogKey,
}

impl<R: AsyncRuntime> Drop for Opening<'_, R> {
    fn drop(&mut self) {
        let mut groups = self.groups.write();
        if groups.open.get(&self.log).is_some_and(Option::is_none) {
            groups.open.remove(&self.log);
        }
    }
}

impl<R: AsyncRuntime> RaftLog<R> {
    /// Starts the log writer over `device`.
    pub fn open(
        device: Arc<dyn LogDevice>,
        network: Arc<dyn Network>,
        options: LogOptions,
        hooks: Hooks,
    ) -> io::Result<Self> {
        let writer = Arc::new(LogWriter::start::<R>(
            device.clone(),
            &options,
            hooks.on_fatal.clone(),
        )?);
        let groups = RwLock::new(Groups {
            open: HashMap::new(),
            shut_down: false,
        });
        Ok(Self {
            device,
            network,
            writer,
            options,
            hooks,
            groups,
        })
    }

    /// Opens a replica and starts taking part in its group. A new replica waits for
    /// [`Group::initialize`], or for a leader that adds it.
    pub async fn open_group(
        &self,
        group: GroupId,
        replica: ReplicaId,
        machine: Arc<dyn StateMachine>,
        config: GroupConfig,
    ) -> Result<Group<R>, OpenError> {
        let log = LogKey { group, replica };
        {
            let mut groups = self.groups.write();
            if groups.shut_down {
                return Err(OpenError::ShutDown);
            }
            if groups.open.contains_key(&log) {
                return Err(OpenError::AlreadyOpen(log));
            }
            groups.open.insert(log, None);
        }
        let _opening = Opening {
            groups: &self.groups,
            log,
        };
        let parts = Parts {
            device: self.device.clone(),
            writer: self.writer.clone(),
            network: self.network.clone(),
            tail_bytes: self.options.tail_bytes,
            stalled: self.writer.stalled(),
            on_group_fatal: self.hooks.on_group_fatal.clone(),
        };
        let opened = Group::open(parts, log, machine, config).await?;
        let shut_down = {
            let mut groups = self.groups.write();
            groups.open.insert(log, Some(opened.clone()));
            groups.shut_down
        };
        if shut_down {
            opened.shutdown().await;
            return Err(OpenError::ShutDown);
        }
        Ok(opened)
    }

    /// Stops a replica and forgets it, keeping its log.
    pub async fn close_group(&self, group: GroupId, replica: ReplicaId) {
        let log = LogKey { group, replica };
        let open = self.group(group, replica).ok();
        if let Some(open) = open {
            open.shutdown().await;
            self.groups.write().open.remove(&log);
        }
    }

    /// Stops a replica and erases its log. Only for a replica that left its group for good: its id
    /// must never be used again.
    pub async fn erase_group(&self, group: GroupId, replica: ReplicaId) -> io::Result<()> {
        self.close_group(group, replica).await;
        self.writer
            .durable(DeviceOp::Erase(LogKey { group, replica }))
            .await
    }

    /// The replicas that have a log on this node, open or not.
    pub async fn stored_replicas(&self) -> io::Result<Vec<LogKey>> {
        let device = self.device.clone();
        crate::offload::run(move || device.logs()).await?
    }

    /// An open replica.
    pub fn group(&self, group: GroupId, replica: ReplicaId) -> Result<Group<R>, NetworkError> {
        let open = self
            .groups
            .read()
            .open
            .get(&LogKey { group, replica })
            .cloned()
            .flatten();
        open.ok_or_else(|| {
            NetworkError::Refused(format!("group {group} replica {replica} is not on this node"))
        })
    }

    /// All open replicas.
    pub fn groups(&self) -> Vec<Group<R>> {
        self.groups.read().open.values().flatten().cloned().collect()
    }

    /// Writes rows of other parts of the node with the next synced batch. They are durable when this
    /// returns, and so is everything the log wrote before them.
    pub async fn write_rider(&self, rows: Vec<RiderRow>) -> io::Result<()> {
        self.writer.durable(DeviceOp::Rider(rows)).await
    }

    /// Answers the bulk stream of a peer. See [`Network::append_stream`]. The stream ends at a message for
    /// whose commands there is no `room`.
    pub fn handle_append(
        &self,
        group: GroupId,
        replica: ReplicaId,
        requests: BoxStream<'static, Bytes>,
        room: Room,
    ) -> Result<BoxStream<'static, Result<Bytes, NetworkError>>, NetworkError> {
        Ok(self.group(group, replica)?.inner.server.append(requests, room))
    }

    /// Answers a control message of a peer. See [`Network::control`].
    pub async fn handle_control(
        &self,
        group: GroupId,
        replica: ReplicaId,
        kind: u32,
        payload: Bytes,
    ) -> Result<Bytes, NetworkError> {
        let open = self.group(group, replica)?;
        let kind = Control::from_u32(kind)
            .ok_or_else(|| NetworkError::Refused(format!("control message of unknown kind {kind}")))?;
        let server = &open.inner.server;
        match kind {
            Control::Heartbeat => server.heartbeat(payload).await,
            Control::Vote | Control::PreVote => server.vote(kind, payload).await,
            Control::TransferLeader => server.transfer_leader(payload).await,
            Control::ReadIndex => open.answer_read_index(payload).await,
        }
    }

    /// Receives a snapshot from a peer. See [`Network::snapshot`].
    pub async fn handle_snapshot(
        &self,
        group: GroupId,
        replica: ReplicaId,
        header: Bytes,
        frames: BoxStream<'static, Result<Bytes, NetworkError>>,
    ) -> Result<Bytes, NetworkError> {
        let open = self.group(group, replica)?;
        open.inner.server.snapshot(header, frames).await
    }

    /// True while the log's device does not answer: a write or sync takes longer than
    /// [`LogOptions::stall_timeout_ms`]. Groups refuse proposals and reads meanwhile; who leads should hand
    /// over.
    pub fn stalled(&self) -> watch::Receiver<bool> {
        self.writer.stalled()
    }

    /// What the log writer did so far.
    pub fn stats(&self) -> WriterStats {
        self.writer.stats()
    }

    /// Gives back disk space of purged entries as far as that is cheap. For a timer of the node.
    pub async fn reclaim(&self) -> io::Result<()> {
        let device = self.device.clone();
        crate::offload::run(move || device.reclaim()).await?
    }

    /// Stops all groups, writes what is queued, and ends the writer.
    pub async fn shutdown(&self) {
        let open: Vec<Group<R>> = {
            let mut groups = self.groups.write();
            groups.shut_down = true;
            groups.open.drain().filter_map(|(_, group)| group).collect()
        };
        for group in open {
            group.shutdown().await;
        }
        let writer = self.writer.clone();
        // Joins a thread that may be in a sync.
        let _ = crate::offload::run(move || writer.stop()).await;
    }
}
