//! A network in memory: links can be cut, messages recorded, bulk stalled, snapshots broken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, future, stream};
use parking_lot::Mutex;
use quorate_raft_log::{AsyncRuntime, GroupId, Network, NetworkError, RaftLog, ReplicaId, Target};
use tokio::sync::watch;

pub type Node = u64;

/// Kinds of control messages, as they are sent.
pub const HEARTBEAT: u32 = 1;
pub const VOTE: u32 = 2;
pub const PRE_VOTE: u32 = 3;

/// All links of a cluster.
pub struct Hub<R: AsyncRuntime> {
    state: Mutex<State<R>>,
    pub opened_streams: AtomicU64,
    /// Frames of snapshots delivered.
    pub snapshot_frames: watch::Sender<u64>,
}

struct State<R: AsyncRuntime> {
    nodes: BTreeMap<Node, Weak<RaftLog<R>>>,
    homes: BTreeMap<(GroupId, ReplicaId), Node>,
    cut: BTreeSet<(Node, Node)>,
    /// Control kinds that get lost.
    lost: BTreeSet<u32>,
    bulk_stalled: watch::Sender<bool>,
    /// Snapshots stop before this frame.
    snapshot_gate: watch::Sender<Option<u64>>,
    recorded: Vec<(Target, u32, Bytes)>,
}

impl<R: AsyncRuntime> Hub<R> {
    pub fn new() -> Arc<Self> {
        let state = State {
            nodes: BTreeMap::new(),
            homes: BTreeMap::new(),
            cut: BTreeSet::new(),
            lost: BTreeSet::new(),
            bulk_stalled: watch::channel(false).0,
            snapshot_gate: watch::channel(None).0,
            recorded: Vec::new(),
        };
        let snapshot_frames = watch::channel(0).0;
        Arc::new(Self {
            state: Mutex::new(state),
            opened_streams: AtomicU64::new(0),
            snapshot_frames,
        })
    }

    pub fn attach(&self, node: Node, log: &Arc<RaftLog<R>>) {
        self.state.lock().nodes.insert(node, Arc::downgrade(log));
    }

    pub fn detach(&self, node: Node) {
        self.state.lock().nodes.remove(&node);
    }

    pub fn home(&self, group: GroupId, replica: ReplicaId, node: Node) {
        self.state.lock().homes.insert((group, replica), node);
    }

    pub fn cut(&self, from: Node, to: Node) {
        self.state.lock().cut.insert((from, to));
    }

    /// Cuts a node off, both ways.
    pub fn isolate(&self, node: Node) {
        let mut state = self.state.lock();
        let others: Vec<Node> = state
            .homes
            .values()
            .copied()
            .filter(|other| *other != node)
            .collect();
        for other in others {
            state.cut.insert((node, other));
            state.cut.insert((other, node));
        }
    }

    pub fn heal(&self) {
        self.state.lock().cut.clear();
    }

    pub fn lose(&self, kinds: &[u32]) {
        self.state.lock().lost = kinds.iter().copied().collect();
    }

    /// Keeps AppendEntries streams from delivering anything, without breaking them.
    pub fn stall_bulk(&self, stalled: bool) {
        self.state.lock().bulk_stalled.send_replace(stalled);
    }

    /// Lets only so many snapshot frames pass; `None` lets all pass.
    pub fn gate_snapshots(&self, frames: Option<u64>) {
        self.state.lock().snapshot_gate.send_replace(frames);
    }

    pub fn recorded(&self, kind: u32) -> Vec<(Target, Bytes)> {
        let state = self.state.lock();
        state
            .recorded
            .iter()
            .filter(|(_, k, _)| *k == kind)
            .map(|(t, _, p)| (*t, p.clone()))
            .collect()
    }

    fn reach(&self, from: Node, to: Target) -> Result<(Node, Arc<RaftLog<R>>), NetworkError> {
        let state = self.state.lock();
        let down = |why: &str| NetworkError::Unreachable(format!("{to:?}: {why}"));
        let node = *state
            .homes
            .get(&(to.group, to.replica))
            .ok_or_else(|| down("no such replica"))?;
        if state.cut.contains(&(from, node)) {
            return Err(down("link cut"));
        }
        let log = state
            .nodes
            .get(&node)
            .and_then(Weak::upgrade)
            .ok_or_else(|| down("node down"))?;
        Ok((node, log))
    }

    fn connected(&self, from: Node, to: Node) -> bool {
        let state = self.state.lock();
        !state.cut.contains(&(from, to)) && state.nodes.get(&to).is_some_and(|n| n.strong_count() > 0)
    }
}

/// One node's end of the [`Hub`].
pub struct Link<R: AsyncRuntime> {
    pub hub: Arc<Hub<R>>,
    pub node: Node,
}

impl<R: AsyncRuntime> Network for Link<R> {
    fn append_stream(
        &self,
        target: Target,
        requests: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, NetworkError>>, NetworkError>> {
        self.hub.opened_streams.fetch_add(1, SeqCst);
        let (hub, from) = (self.hub.clone(), self.node);
        async move {
            let (to, log) = hub.reach(from, target)?;
            let stalled = hub.state.lock().bulk_stalled.subscribe();
            let requests = requests.then(move |request| {
                let mut stalled = stalled.clone();
                async move {
                    let _ = stalled.wait_for(|stalled| !stalled).await;
                    request
                }
            });
            // What is sent over a cut link is lost, and the connection with it.
            let sending = hub.clone();
            let requests = requests.take_while(move |_| future::ready(sending.connected(from, to)));
            let answers = log.handle_append(
                target.group,
                target.replica,
                Box::pin(requests),
                Arc::new(|_| true),
            )?;
            drop(log);
            // A link that was cut loses what is under way, in both directions.
            let answers = stream::unfold(Some((answers, hub)), move |state| async move {
                let (mut answers, hub) = state?;
                let answer = answers.next().await?;
                if !hub.connected(from, to) || !hub.connected(to, from) {
                    return Some((Err(NetworkError::Unreachable("link cut".into())), None));
                }
                Some((answer, Some((answers, hub))))
            });
            Ok(Box::pin(answers) as BoxStream<'static, _>)
        }
        .boxed()
    }

    fn control(
        &self,
        target: Target,
        kind: u32,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let (hub, from) = (self.hub.clone(), self.node);
        async move {
            hub.state.lock().recorded.push((target, kind, payload.clone()));
            if hub.state.lock().lost.contains(&kind) {
                return Err(NetworkError::Timeout(timeout));
            }
            let (to, log) = hub.reach(from, target)?;
            let answer = log
                .handle_control(target.group, target.replica, kind, payload)
                .await;
            if !hub.connected(to, from) {
                return Err(NetworkError::Unreachable("link cut".into()));
            }
            answer
        }
        .boxed()
    }

    fn snapshot(
        &self,
        target: Target,
        header: Bytes,
        frames: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let (hub, from) = (self.hub.clone(), self.node);
        async move {
            let (to, log) = hub.reach(from, target)?;
            let gate = hub.state.lock().snapshot_gate.subscribe();
            let counting = hub.clone();
            let frames = frames.enumerate().then(move |(i, frame)| {
                let mut gate = gate.clone();
                let hub = counting.clone();
                async move {
                    let _ = gate
                        .wait_for(|gate| gate.is_none_or(|frames| (i as u64) < frames))
                        .await;
                    hub.snapshot_frames.send_modify(|frames| *frames += 1);
                    if hub.connected(from, to) {
                        Ok(frame)
                    } else {
                        Err(NetworkError::Unreachable("link cut".into()))
                    }
                }
            });
            // Whatever follows the first error is lost.
            let frames = frames.scan(false, |broken, frame| {
                let out = (!*broken).then_some(frame);
                *broken |= matches!(&out, Some(Err(_)));
                future::ready(out)
            });
            let answer = log
                .handle_snapshot(target.group, target.replica, header, Box::pin(frames))
                .await;
            if !hub.connected(to, from) {
                return Err(NetworkError::Unreachable("link cut".into()));
            }
            answer
        }
        .boxed()
    }
}
