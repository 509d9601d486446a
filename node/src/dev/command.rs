//! The command `quorate dev`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use tokio::time::Instant;

use super::control::{self, Request};
use super::directory::{Directory, default_dir};
use super::supervise::Supervisor;
use super::{node, ports, ready, show};

const DEFAULT_NODES: u64 = 3;
const MAX_NODES: u64 = 64;

/// A restarted node answers after it has read its log.
const RESTART_TIMEOUT: Duration = Duration::from_secs(60);
const RESTART_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Run a cluster on this machine. Stops with Ctrl-C; started again, it has its data.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DevArgs {
    #[command(subcommand)]
    command: Option<DevCommand>,
    /// How many nodes. Default: 3, or as many as the directory has already.
    #[arg(long)]
    nodes: Option<u64>,
    /// Where the nodes' data, configuration and logs are. Default: ~/.local/share/quorate/dev
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Don't collect this machine's metrics.
    #[arg(long)]
    no_collector: bool,
    /// Print one line of JSON when the cluster is up, and nothing else.
    #[arg(long)]
    json: bool,
    /// The first node's HTTP port; the others follow. Default: free ones.
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// The first node's gRPC port; the others follow. Default: free ones.
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Start a node of a running development cluster again. One that still runs is stopped first.
    Restart {
        /// The cluster's directory. Default: ~/.local/share/quorate/dev
        #[arg(long)]
        dir: Option<PathBuf>,
        /// The node.
        id: u64,
    },
    /// Become a node of a development cluster.
    #[command(hide = true)]
    Exec {
        #[arg(long)]
        parent: u32,
        #[arg(long)]
        config: PathBuf,
    },
}

/// Runs `quorate dev`.
pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    match args.command {
        Some(DevCommand::Restart { dir, id }) => restart(dir, id).await,
        Some(DevCommand::Exec { parent, config }) => node::become_server(parent, &config),
        None => cluster(args).await,
    }
}

async fn cluster(args: DevArgs) -> anyhow::Result<()> {
    if let Some(nodes) = args.nodes {
        ensure!(
            (1..=MAX_NODES).contains(&nodes),
            "expected 1 to {MAX_NODES} nodes, found {nodes}"
        );
    }
    let dir = args.dir.map_or_else(default_dir, Ok)?;
    let directory = Directory::open(&dir)?;
    let nodes = directory.node_count(args.nodes, DEFAULT_NODES)?;
    let addresses = ports::choose(nodes, args.http_port, args.grpc_port)?;
    let mut supervisor = Supervisor::start(directory, &addresses)?;
    let outcome = match supervisor.wait_ready().await {
        Ok(Some(progress)) => {
            let text = match args.json {
                true => serde_json::to_string(supervisor.cluster())? + "\n",
                false => show::overview(supervisor.path(), supervisor.cluster(), &progress),
            };
            serve(&mut supervisor, &text, !args.no_collector).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if outcome.is_ok() && !args.json {
        eprintln!("stopping");
    }
    supervisor.stop().await;
    outcome
}

async fn serve(supervisor: &mut Supervisor, announcement: &str, collect: bool) -> anyhow::Result<()> {
    let collector = if collect {
        Some(supervisor.collect()?)
    } else {
        None
    };
    let mut stdout = std::io::stdout();
    stdout
        .write_all(announcement.as_bytes())
        .and_then(|()| stdout.flush())
        .context("can't write to stdout")?;
    let outcome = supervisor.serve().await;
    if let Some(collector) = collector {
        collector.stop().await;
    }
    outcome
}

async fn restart(dir: Option<PathBuf>, id: u64) -> anyhow::Result<()> {
    let dir = dir.map_or_else(default_dir, Ok)?;
    let node = control::ask(&dir, &Request::Restart(id)).await?;
    let deadline = Instant::now() + RESTART_TIMEOUT;
    while ready::status(node.grpc.clone()).await.is_none() {
        ensure!(
            Instant::now() < deadline,
            "node {id} (pid {}) doesn't answer; see {}",
            node.pid,
            node.dir.join("log").display()
        );
        tokio::time::sleep(RESTART_POLL_INTERVAL).await;
    }
    println!(
        "node {id} runs, pid {}, HTTP {}, gRPC {}",
        node.pid, node.http, node.grpc
    );
    Ok(())
}
