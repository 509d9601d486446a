//! Nodes that can lose power and come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_raft_log::{
    AsyncRuntime, Group, GroupConfig, GroupStatus, Hooks, LogOptions, MemDisk, OpenError, RaftLog, ReplicaId,
    Role, WriterMode,
};

use super::machine::{MachineDisk, TestMachine};
use super::network::{Hub, Link, Node};

pub const GROUP: u32 = 1;
/// Long enough for a loaded machine; conditions end waits, not this.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Cluster<R: AsyncRuntime> {
    pub hub: Arc<Hub<R>>,
    pub config: GroupConfig,
    pub options: LogOptions,
    nodes: BTreeMap<Node, NodeState<R>>,
    /// What the hooks were called with.
    pub fatals: Arc<Mutex<Vec<String>>>,
    pub group_fatals: Arc<Mutex<Vec<String>>>,
}

struct NodeState<R: AsyncRuntime> {
    replica: ReplicaId,
    disk: MemDisk,
    machine_disk: MachineDisk,
    running: Option<Running<R>>,
}

struct Running<R: AsyncRuntime> {
    log: Arc<RaftLog<R>>,
    group: Group<R>,
    machine: Arc<TestMachine>,
}

impl<R: AsyncRuntime> Cluster<R> {
    /// Nodes 1..=n with replicas 101..=100+n, not started.
    pub fn new(nodes: u64, writer: WriterMode) -> Self {
        let mut cluster = Self {
            hub: Hub::new(),
            config: GroupConfig::default(),
            options: LogOptions {
                writer,
                ..LogOptions::default()
            },
            nodes: BTreeMap::new(),
            fatals: Arc::default(),
            group_fatals: Arc::default(),
        };
        for node in 1..=nodes {
            cluster.add(node, 100 + node);
        }
        cluster
    }

    /// Adds an empty node with a replica, not started.
    pub fn add(&mut self, node: Node, replica: ReplicaId) {
        self.hub.home(GROUP, replica, node);
        let (disk, machine_disk) = (MemDisk::new(), MachineDisk::default());
        self.nodes.insert(
            node,
            NodeState {
                replica,
                disk,
                machine_disk,
                running: None,
            },
        );
    }

    /// A started and initialized cluster, and its leader's node.
    pub async fn formed(nodes: u64, writer: WriterMode) -> (Self, Node) {
        let mut cluster = Self::new(nodes, writer);
        let leader = cluster.form().await;
        (cluster, leader)
    }

    /// Starts and initializes all nodes; returns the leader.
    pub async fn form(&mut self) -> Node {
        let voters: Vec<_> = self.nodes.values().map(|n| n.replica).collect();
        for node in self.ids() {
            self.start(node).await;
        }
        for node in self.ids() {
            self.group(node).initialize(&voters).await.unwrap();
        }
        self.leader().await
    }

    pub fn ids(&self) -> Vec<Node> {
        self.nodes.keys().copied().collect()
    }

    pub async fn start(&mut self, node: Node) {
        self.try_start(node).await.unwrap();
    }

    pub async fn try_start(&mut self, node: Node) -> Result<(), OpenError> {
        let (fatals, group_fatals) = (self.fatals.clone(), self.group_fatals.clone());
        let hooks = Hooks {
            on_fatal: Arc::new(move |reason| fatals.lock().push(reason.into())),
            on_group_fatal: Arc::new(move |_, _, reason| group_fatals.lock().push(reason.into())),
        };
        let link = Arc::new(Link {
            hub: self.hub.clone(),
            node,
        });
        let state = self.nodes.get_mut(&node).unwrap();
        let log = RaftLog::open(state.disk.mount(), link, self.options.clone(), hooks).unwrap();
        let log = Arc::new(log);
        let machine = TestMachine::open(state.machine_disk.clone());
        self.hub.attach(node, &log);
        let group = log
            .open_group(GROUP, state.replica, machine.clone(), self.config.clone())
            .await?;
        state.running = Some(Running { log, group, machine });
        Ok(())
    }

    /// Cuts the power of a node: everything not synced is lost, except the first `surviving` operations.
    pub async fn power_cut(&mut self, node: Node, surviving: usize) {
        self.hub.detach(node);
        let state = self.nodes.get_mut(&node).unwrap();
        state.disk.power_cut(surviving);
        if let Some(running) = state.running.take() {
            running.log.shutdown().await;
        }
    }

    pub fn group(&self, node: Node) -> Group<R> {
        self.nodes[&node]
            .running
            .as_ref()
            .expect("node runs")
            .group
            .clone()
    }

    pub fn log(&self, node: Node) -> Arc<RaftLog<R>> {
        self.nodes[&node].running.as_ref().expect("node runs").log.clone()
    }

    pub fn machine(&self, node: Node) -> Arc<TestMachine> {
        self.nodes[&node]
            .running
            .as_ref()
            .expect("node runs")
            .machine
            .clone()
    }

    pub fn disk(&self, node: Node) -> MemDisk {
        self.nodes[&node].disk.clone()
    }

    pub fn machine_disk(&self, node: Node) -> MachineDisk {
        self.nodes[&node].machine_disk.clone()
    }

    pub fn replica(&self, node: Node) -> ReplicaId {
        self.nodes[&node].replica
    }

    pub fn node_of(&self, replica: ReplicaId) -> Node {
        *self.nodes.iter().find(|(_, n)| n.replica == replica).unwrap().0
    }

    fn running(&self) -> Vec<Node> {
        self.nodes
            .iter()
            .filter(|(_, n)| n.running.is_some())
            .map(|(id, _)| *id)
            .collect()
    }

    pub fn others(&self, node: Node) -> Vec<Node> {
        self.running().into_iter().filter(|n| *n != node).collect()
    }

    /// Waits until all running nodes agree on a running leader that leads.
    pub async fn leader(&self) -> Node {
        self.leader_among(&self.running()).await
    }

    /// Waits until these nodes agree on one of them as leader.
    pub async fn leader_among(&self, nodes: &[Node]) -> Node {
        let agreed = async {
            loop {
                let all: Vec<GroupStatus> = nodes.iter().map(|n| self.group(*n).status()).collect();
                let leader = all[0].leader;
                let leads = all
                    .iter()
                    .any(|s| Some(s.replica) == leader && s.role == Role::Leader);
                if leads && all.iter().all(|s| s.leader == leader) {
                    return self.node_of(leader.unwrap());
                }
                R::sleep(Duration::from_millis(10)).await; // between looks; the condition decides
            }
        };
        match R::timeout(LIMIT, agreed).await {
            Ok(leader) => leader,
            Err(_) => {
                let all: Vec<_> = nodes.iter().map(|n| self.group(*n).status()).collect();
                panic!("no leader among {nodes:?}: {all:#?}")
            }
        }
    }

    /// Proposes on whoever leads until it is committed; returns the command's place.
    pub async fn commit(&self, command: impl Into<Bytes>) -> u64 {
        let command = command.into();
        let done = async {
            loop {
                let leader = self.leader().await;
                if let Ok(committed) = self.group(leader).propose(command.clone()).await {
                    return committed.position.index;
                }
            }
        };
        R::timeout(LIMIT, done)
            .await
            .unwrap_or_else(|_| panic!("not committed"))
    }

    /// Waits until all these nodes applied what the leader committed, then compares them.
    pub async fn converge(&self, nodes: &[Node]) -> Vec<Bytes> {
        let leader = self.leader_among(nodes).await;
        let index = self.group(leader).read_index(LIMIT).await.unwrap();
        for node in nodes {
            self.group(*node).wait_applied(index, LIMIT).await.unwrap();
        }
        let commands = |node: Node| {
            let applied = self.machine(node).applied();
            (applied.position.map_or(0, |p| p.index), applied.commands)
        };
        let (_, expected) = commands(nodes[0]);
        for node in nodes {
            let (_, got) = commands(*node);
            assert_eq!(got, expected, "node {node} differs from node {}", nodes[0]);
        }
        expected
    }

    pub async fn shutdown(mut self) {
        for node in self.running() {
            let running = self.nodes.get_mut(&node).unwrap().running.take().unwrap();
            self.hub.detach(node);
            running.log.shutdown().await;
        }
    }
}
