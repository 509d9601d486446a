//! A cluster as `quorate dev` runs it: started, tormented, healed and always cleaned up.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::{Client, ClientBuilder, StatusResponse};
use serde::Deserialize;
use tempfile::TempDir;

use crate::history::Orphan;
use crate::http::Http;
use crate::process::{self, Process};
use crate::wait;

/// How long a cluster may take to elect leaders for all shards after its start.
const START: Duration = Duration::from_secs(90);
/// How long `quorate dev` may take to stop in order.
const STOP: Duration = Duration::from_secs(60);

/// A running cluster in a temporary directory.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    dev: Process,
    /// Removed last.
    directory: TempDir,
}

/// One of its nodes.
#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    /// Node id.
    pub id: u64,
    /// The process that serves it, dead or alive.
    pub pid: u32,
    /// `host:port` of its HTTP.
    pub http: String,
    /// `host:port` of its gRPC.
    pub grpc: String,
    /// Its data.
    pub dir: PathBuf,
}

#[derive(Deserialize)]
struct Started {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts a cluster and waits until every shard has a leader.
    pub fn start(nodes: usize) -> Result<Cluster> {
        let directory = tempfile::Builder::new().prefix("quorate-test-").tempdir()?;
        let (dev, nodes) = launch(directory.path(), nodes)?;
        Ok(Cluster {
            nodes,
            dev,
            directory,
        })
    }

    /// Its nodes, by id.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node.
    pub fn node(&self, id: u64) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.id == id)
            .with_context(|| format!("no node {id}"))
    }

    /// Where everything is kept.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A client with every node as endpoint, to be configured further.
    pub fn client(&self) -> ClientBuilder {
        client_of_all(&self.nodes)
    }

    /// SIGKILL. Returns when the process is gone.
    pub fn kill(&self, id: u64) -> Result<()> {
        process::kill_and_wait(self.node(id)?.pid)
    }

    /// SIGKILL to all nodes at once. Returns when all are gone.
    pub fn kill_all(&self) -> Result<()> {
        for node in &self.nodes {
            process::send(node.pid, rustix::process::Signal::KILL)?;
        }
        let gone = || {
            let alive: Vec<u32> = self
                .nodes
                .iter()
                .map(|node| node.pid)
                .filter(|pid| process::is_alive(*pid))
                .collect();
            ensure!(alive.is_empty(), "{alive:?} live");
            Ok(())
        };
        wait::until("the death of all nodes", Duration::from_secs(30), gone)
    }

    /// Starts killed nodes again, all at once, and returns when all listen.
    pub fn restart(&mut self, ids: &[u64]) -> Result<()> {
        let mut restarts = Vec::new();
        for id in ids {
            let mut command = Command::new(process::quorate_binary()?);
            command
                .args(["dev", "restart", "--dir"])
                .arg(self.directory.path())
                .arg(id.to_string());
            let log = self.directory.path().join(format!("restart-{id}.log"));
            restarts.push((*id, Process::spawn("quorate dev restart", command, &log)?));
        }
        for (id, mut restart) in restarts {
            let status = restart.wait(START)?;
            ensure!(
                status.success(),
                "quorate dev restart {id}: {status}: {}",
                restart.log_tail()
            );
            let node = self
                .nodes
                .iter_mut()
                .find(|node| node.id == id)
                .with_context(|| format!("no node {id}"))?;
            node.pid = wait::until(format_args!("node {id} to listen"), START, || {
                let pid = process::listening_on(&node.grpc)?;
                ensure!(pid != node.pid, "only the dead process {pid} listens");
                Ok(pid)
            })?;
        }
        Ok(())
    }

    /// Waits until every node says that it is ready.
    pub fn await_ready(&self, limit: Duration) -> Result<()> {
        for node in &self.nodes {
            await_ready(&node.http, limit).with_context(|| format!("node {}", node.id))?;
        }
        Ok(())
    }

    /// SIGTERM to `quorate dev`, which must stop all in order.
    pub fn stop(mut self) -> Result<()> {
        self.dev.terminate(STOP)?;
        let left: Vec<u32> = process::mentioning(&self.directory.path().display().to_string());
        ensure!(left.is_empty(), "processes {left:?} outlived quorate dev");
        Ok(())
    }

    /// Stops the cluster in order and starts it again on the same data, with free ports.
    pub fn stop_and_start(&mut self) -> Result<()> {
        self.dev.terminate(STOP)?;
        let (dev, nodes) = launch(self.directory.path(), self.nodes.len())?;
        (self.dev, self.nodes) = (dev, nodes);
        Ok(())
    }

    /// The end of every log.
    pub fn logs(&self) -> String {
        let mut out = format!("--- quorate dev\n{}\n", self.dev.log_tail());
        for node in &self.nodes {
            out.push_str(&format!(
                "--- node {}\n{}\n",
                node.id,
                process::tail(&node.dir.join("log"))
            ));
        }
        out
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // In order if it can be, so that the nodes go too; by force in any case.
        let _stopped = self
            .dev
            .signal(rustix::process::Signal::TERM)
            .and_then(|()| self.dev.wait(STOP));
        for pid in process::mentioning(&self.directory.path().display().to_string()) {
            let _gone = process::kill_and_wait(pid);
        }
    }
}

fn launch(directory: &Path, nodes: usize) -> Result<(Process, Vec<Node>)> {
    let (out, log) = (directory.join("dev.out"), directory.join("dev.err"));
    let mut command = Command::new(process::quorate_binary()?);
    command
        .args(["dev", "--no-collector", "--json", "--nodes"])
        .arg(nodes.to_string());
    command.arg("--dir").arg(directory);
    let mut dev = Process::spawn_with_output("quorate dev", command, File::create(&out)?, &log)?;
    let started = wait::until("quorate dev to say that it runs", START, || {
        dev.check_running()?;
        let text = std::fs::read_to_string(&out)?;
        let line = text
            .split_once('\n')
            .with_context(|| format!("no line yet; its log: {}", process::tail(&log)))?
            .0;
        Ok(serde_json::from_str::<Started>(line))
    });
    // Its children would be orphans if it could not be told to stop.
    let started = started.inspect_err(|_| {
        let _stopped = dev
            .signal(rustix::process::Signal::TERM)
            .and_then(|()| dev.wait(STOP));
    })?;
    let mut nodes = started
        .context("quorate dev's line is not what was agreed")?
        .nodes;
    nodes.sort_by_key(|node| node.id);
    Ok((dev, nodes))
}

/// Waits until the node at `http` says that it is ready.
pub fn await_ready(http: &str, limit: Duration) -> Result<()> {
    let client = Http::new(http, Duration::from_secs(5));
    wait::until(format_args!("{http} to be ready"), limit, || {
        let answer = client.get("/-/ready")?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(())
    })
}

/// Waits until some node knows a leader of every group, and returns its view.
pub async fn await_leaders(cluster: &Cluster, limit: Duration) -> Result<StatusResponse> {
    let client = cluster.client().timeout(Duration::from_secs(5)).connect()?;
    wait::until_async("a leader of every group", limit, async || {
        let status = client.status().await?;
        let orphans: Vec<u32> = status
            .groups
            .iter()
            .filter(|group| group.leader_node.is_none())
            .map(|group| group.group)
            .collect();
        ensure!(
            status.groups.len() > 1 && orphans.is_empty(),
            "groups {orphans:?} of {}",
            status.groups.len()
        );
        Ok(status)
    })
    .await
}

/// The number of data shards.
pub fn shards(status: &StatusResponse) -> u32 {
    status.groups.iter().map(|group| group.group).max().unwrap_or(0)
}

/// A client with every node as endpoint, to be configured further.
pub fn client_of_all(nodes: &[Node]) -> ClientBuilder {
    Client::builder().endpoints(nodes.iter().map(|node| node.grpc.as_str()))
}

/// A client of one node, which fails when that node does.
pub fn client_of(node: &Node) -> Result<Client> {
    Ok(Client::builder().endpoint(node.grpc.as_str()).connect()?)
}

/// The data shards that a node leads, as this status has it, with their terms.
pub fn led_by(status: &StatusResponse, node: u64) -> Vec<Orphan> {
    let shards = status.groups.iter().filter(|group| group.group != 0);
    let led = shards.filter(|group| group.leader_node == Some(node));
    led.map(|group| Orphan {
        shard: group.group,
        term: group.term,
    })
    .collect()
}
