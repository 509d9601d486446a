//! Nodes run one by one with `quorate server`, for tests of what a single node does when it starts and ends.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use quorate_client::Client;

use crate::cluster::Node;
use crate::http::Http;
use crate::ports;
use crate::process::{self, Process};
use crate::wait;

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Server {
    /// Node id.
    pub id: u64,
    /// `host:port` of its HTTP.
    pub http: String,
    /// `host:port` of its gRPC.
    pub grpc: String,
    /// Its data.
    pub data_dir: PathBuf,
    /// The value of `--peers`.
    pub peers: String,
    /// Copies of each sample.
    pub copies: u64,
    /// Its output.
    pub log: PathBuf,
    /// Keys and values of its configuration that differ from the defaults.
    pub settings: Vec<(String, String)>,
    /// A configuration file. It has the peers then.
    pub config: Option<PathBuf>,
}

impl Server {
    /// Servers of a cluster of `count` nodes with their data below `directory`. None is started.
    pub fn cluster(count: u64, directory: &std::path::Path) -> Result<Vec<Server>> {
        let mut servers = Vec::new();
        for id in 1..=count {
            servers.push(Server {
                id,
                http: ports::free_address()?,
                grpc: ports::free_address()?,
                data_dir: directory.join(format!("node-{id}")),
                peers: String::new(),
                copies: count.min(3),
                log: directory.join(format!("node-{id}.log")),
                settings: Vec::new(),
                config: None,
            });
        }
        let peers: Vec<String> = servers
            .iter()
            .map(|server| format!("{}={}", server.id, server.grpc))
            .collect();
        servers
            .iter_mut()
            .for_each(|server| server.peers = peers.join(","));
        Ok(servers)
    }

    /// As the helpers for whole clusters want it.
    pub fn as_node(&self) -> Node {
        Node {
            id: self.id,
            pid: 0,
            http: self.http.clone(),
            grpc: self.grpc.clone(),
            dir: self.data_dir.clone(),
        }
    }

    /// A client of this node alone.
    pub fn client(&self) -> Result<Client> {
        let client = Client::builder().endpoint(self.grpc.as_str());
        Ok(client.timeout(Duration::from_secs(10)).connect()?)
    }

    /// Starts it.
    pub fn start(&self) -> Result<Process> {
        let mut command = Command::new(process::quorate_binary()?);
        command.arg("server");
        command.args(["--node-id", &self.id.to_string()]);
        match &self.config {
            Some(file) => command.arg("--config").arg(file),
            None => command.args(["--peers", &self.peers]),
        };
        command.args(["--http-listen", &self.http, "--grpc-listen", &self.grpc]);
        command.args(["--replication-factor", &self.copies.to_string()]);
        command.arg("--data-dir").arg(&self.data_dir);
        for (key, value) in &self.settings {
            let variable = format!("QUORATE_{}", key.replace('.', "_").to_ascii_uppercase());
            command.env(variable, value);
        }
        Process::spawn(&format!("node {}", self.id), command, &self.log)
    }
}

/// Starts servers, all at once, and returns when each says that it is ready.
pub fn start_all(servers: &[Server], limit: Duration) -> Result<Vec<Process>> {
    let mut processes = servers.iter().map(Server::start).collect::<Result<Vec<_>>>()?;
    for (server, process) in servers.iter().zip(&mut processes) {
        let client = Http::new(&server.http, Duration::from_secs(2));
        wait::until(format_args!("node {} to be ready", server.id), limit, || {
            if let Err(ended) = process.check_running() {
                return Ok(Err(ended));
            }
            let answer = client.get("/-/ready")?;
            ensure!(answer.status == 200, "{}", answer.text());
            Ok(Ok(()))
        })??;
    }
    Ok(processes)
}
