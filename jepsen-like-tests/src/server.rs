//! Nodes run one by one with `quorate server`, for tests of what a single node does when it starts and ends.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::ports;
use crate::process::{self, Process};

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

    /// Starts it.
    pub fn start(&self) -> Result<Process> {
        let mut command = Command::new(process::quorate_binary()?);
        command.arg("server");
        command.args(["--node-id", &self.id.to_string(), "--peers", &self.peers]);
        command.args(["--http-listen", &self.http, "--grpc-listen", &self.grpc]);
        command.args(["--replication-factor", &self.copies.to_string()]);
        command.arg("--data-dir").arg(&self.data_dir);
        Process::spawn(&format!("node {}", self.id), command, &self.log)
    }
}
