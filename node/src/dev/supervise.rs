//! The supervisor: starts the nodes, tells what happens to them, restarts one when asked, ends them all.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, bail};
use quorate_client::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::control::{self, Call, Reply, Request};
use super::directory::{ClusterFile, Directory, NodeEntry};
use super::node::{self, Stop};
use super::ports::Addresses;
use super::ready::{self, Progress};
use super::show::{LiveLine, restart_command};
use crate::collector::{Collector, CollectorOptions, Target};

const POLL_INTERVAL: Duration = Duration::from_millis(100);
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const COLLECT_INTERVAL: Duration = Duration::from_secs(1);

/// Lines of a dead node's log in the error message.
const LOG_TAIL_LINES: usize = 15;

/// A node's process ended.
type Exit = (u64, std::io::Result<ExitStatus>);

/// The cluster's processes.
pub(super) struct Supervisor {
    directory: Directory,
    cluster: ClusterFile,
    /// How to stop each node that runs.
    running: BTreeMap<u64, oneshot::Sender<Stop>>,
    exits: JoinSet<Exit>,
    targets: watch::Sender<Vec<Target>>,
    calls: mpsc::Receiver<Call>,
    interrupts: Interrupts,
}

/// SIGINT and SIGTERM.
struct Interrupts(Signal, Signal);

impl Interrupts {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

impl Supervisor {
    /// Writes every node's configuration and starts it.
    pub(super) fn start(directory: Directory, addresses: &[Addresses]) -> anyhow::Result<Self> {
        // First of all: a signal from now on ends the nodes in order.
        let interrupts = Interrupts(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let entry = |(id, own): (u64, &Addresses)| NodeEntry {
            id,
            pid: 0,
            http: own.http.clone(),
            grpc: own.grpc.clone(),
            dir: directory.node(id),
        };
        let nodes: Vec<NodeEntry> = (1..).zip(addresses).map(entry).collect();
        for node in &nodes {
            node::configure(&node.dir, node.id, addresses)?;
        }
        let calls = control::listen(directory.path())?;
        let mut supervisor = Self {
            directory,
            cluster: ClusterFile { nodes },
            running: BTreeMap::new(),
            exits: JoinSet::new(),
            targets: watch::Sender::new(Vec::new()),
            calls,
            interrupts,
        };
        for at in 0..supervisor.cluster.nodes.len() {
            supervisor.start_node(at)?;
        }
        supervisor.publish()?;
        Ok(supervisor)
    }

    pub(super) fn cluster(&self) -> &ClusterFile {
        &self.cluster
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until every shard has a leader; none when a signal asks to stop before.
    pub(super) async fn wait_ready(&mut self) -> anyhow::Result<Option<Progress>> {
        let mut line = LiveLine::default();
        let deadline = Instant::now() + READY_TIMEOUT;
        let started = Instant::now();
        loop {
            let progress = tokio::select! {
                progress = ready::progress(&self.cluster.nodes) => progress,
                Some(exit) = self.exits.join_next() => {
                    line.close();
                    let (id, how) = exit.context("a task of the supervisor failed")?;
                    bail!("node {id} {} while the cluster came up\n{}", describe(&how), self.tail(id));
                }
                () = self.interrupts.next() => {
                    line.close();
                    return Ok(None);
                }
            };
            let mut text = format!("starting: {}", progress.describe());
            if std::io::stderr().is_terminal() {
                text.push_str(&format!(" ({:.1} s)", started.elapsed().as_secs_f64()));
            }
            line.show(&text);
            if progress.is_complete() {
                line.close();
                return Ok(Some(progress));
            }
            if Instant::now() > deadline {
                line.close();
                bail!(
                    "the cluster isn't up after {READY_TIMEOUT:?}: {}",
                    progress.describe()
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Pushes this machine's and the nodes' figures to the cluster.
    pub(super) fn collect(&self) -> anyhow::Result<Collector> {
        let endpoints = self.cluster.nodes.iter().map(|node| node.grpc.clone());
        let client = Client::builder().endpoints(endpoints).connect()?;
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let options = CollectorOptions {
            interval: COLLECT_INTERVAL,
            host_instance: format!("{hostname}:9100"),
        };
        Ok(Collector::start(client, self.targets.subscribe(), options))
    }

    /// Serves until a signal asks to stop.
    pub(super) async fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = self.interrupts.next() => return Ok(()),
                Some(exit) = self.exits.join_next() => {
                    let (id, how) = exit.context("a task of the supervisor failed")?;
                    self.note_exit(id);
                    let again = restart_command(self.path(), id);
                    eprintln!("node {id} {}; start it again with `{again}`", describe(&how));
                }
                Some(call) = self.calls.recv() => {
                    let Request::Restart(id) = call.request;
                    let reply = match self.restart(id).await {
                        Ok(node) => {
                            eprintln!("node {id} started again, pid {}", node.pid);
                            Reply::Started(node)
                        }
                        Err(error) => Reply::Failed(format!("{error:#}")),
                    };
                    if let Err(error) = call.answer(&reply).await {
                        tracing::debug!(%error, "the caller of a restart is gone");
                    }
                }
            }
        }
    }

    /// Ends all nodes: in order, or by SIGKILL after a bound or a second signal.
    pub(super) async fn stop(mut self) {
        for (_, stop) in std::mem::take(&mut self.running) {
            // An error says that it has ended already.
            let _ended = stop.send(Stop::Orderly);
        }
        loop {
            tokio::select! {
                exit = self.exits.join_next() => if exit.is_none() { break },
                () = self.interrupts.next() => {
                    eprintln!("killing the nodes");
                    // Dropping its task leaves a child running; the kernel kills it when we are gone.
                    self.exits.abort_all();
                }
            }
        }
        self.directory.retract();
    }

    async fn restart(&mut self, id: u64) -> anyhow::Result<NodeEntry> {
        let at = self.cluster.nodes.iter().position(|node| node.id == id);
        let at = at.with_context(|| format!("there is no node {id}"))?;
        if let Some(stop) = self.running.remove(&id) {
            let _ended = stop.send(Stop::Orderly);
            while let Some(exit) = self.exits.join_next().await {
                let (ended, how) = exit.context("a task of the supervisor failed")?;
                if ended == id {
                    break;
                }
                self.note_exit(ended);
                eprintln!("node {ended} {}", describe(&how));
            }
        }
        self.start_node(at)?;
        self.publish()?;
        Ok(self.cluster.nodes[at].clone())
    }

    fn start_node(&mut self, at: usize) -> anyhow::Result<()> {
        let node = &mut self.cluster.nodes[at];
        let child = node::start(&node.dir)?;
        let id = node.id;
        node.pid = child.id().with_context(|| format!("node {id} ended at once"))?;
        let (stop, stopped) = oneshot::channel();
        self.running.insert(id, stop);
        self.exits
            .spawn(async move { (id, node::end(child, stopped).await) });
        Ok(())
    }

    fn note_exit(&mut self, id: u64) {
        self.running.remove(&id);
        self.watch_running();
    }

    fn publish(&self) -> anyhow::Result<()> {
        self.watch_running();
        self.directory.publish(&self.cluster)
    }

    fn watch_running(&self) {
        let target = |node: &NodeEntry| Target {
            instance: node.http.clone(),
            pid: self.running.contains_key(&node.id).then_some(node.pid),
        };
        self.targets
            .send_replace(self.cluster.nodes.iter().map(target).collect());
    }

    fn tail(&self, id: u64) -> String {
        let dir = self.directory.node(id);
        match node::log_tail(&dir, LOG_TAIL_LINES) {
            Ok(tail) => format!("the end of {}/log:\n{tail}", dir.display()),
            Err(error) => format!("its log {}/log tells nothing: {error}", dir.display()),
        }
    }
}

fn describe(how: &std::io::Result<ExitStatus>) -> String {
    match how {
        Ok(status) => format!("ended ({status})"),
        Err(error) => format!("was lost ({error})"),
    }
}
