//! Which cluster a command talks to.

use std::time::Duration;

use clap::Args;
use quorate_client::{Client, ReadLevel};

use crate::config::Config;
use crate::{dev, duration};

/// Flags of every command that talks to a cluster.
#[derive(Debug, Clone, Args)]
pub(super) struct ConnectArgs {
    /// gRPC addresses of nodes, host:port[,host:port]. Default: the running development cluster, else this
    /// machine's node.
    #[arg(
        long,
        env = "QUORATE_ENDPOINT",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    endpoint: Vec<String>,
    /// The tenant.
    #[arg(long, env = "QUORATE_TENANT", default_value = quorate_proto::DEFAULT_TENANT)]
    tenant: String,
    /// Longest time for the command's answer.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    timeout: Duration,
}

impl ConnectArgs {
    /// The client for these flags.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let endpoints = match self.endpoint.is_empty() {
            true => discover(),
            false => self.endpoint.clone(),
        };
        self.client_for(endpoints)
    }

    /// The tenant.
    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// A client with these flags for other endpoints.
    pub(super) fn client_for(&self, endpoints: Vec<String>) -> anyhow::Result<Client> {
        let builder = Client::builder()
            .endpoints(endpoints)
            .tenant(&self.tenant)
            .timeout(self.timeout);
        Ok(builder.connect()?)
    }
}

fn discover() -> Vec<String> {
    let cluster = dev::default_dir().ok().and_then(|dir| dev::running_cluster(&dir));
    match cluster {
        Some(cluster) => cluster.nodes.into_iter().map(|node| node.grpc).collect(),
        None => vec![Config::default().grpc_listen.to_string()],
    }
}

/// Flags of every command that reads.
#[derive(Debug, Clone, Args)]
pub(super) struct ReadArgs {
    /// How fresh the answer has to be. Default: what the server is configured for.
    #[arg(long, value_enum)]
    read: Option<Level>,
    /// With `--read bounded`: the oldest data that may be returned.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    max_staleness: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// Sees every write acknowledged before.
    Linearizable,
    /// Sees all but the newest writes.
    Bounded,
    /// Sees what the asked node has.
    Local,
}

impl ReadArgs {
    pub(super) fn level(&self) -> ReadLevel {
        match self.read {
            None => ReadLevel::ServerDefault,
            Some(Level::Linearizable) => ReadLevel::Linearizable,
            Some(Level::Bounded) => ReadLevel::Bounded(self.max_staleness),
            Some(Level::Local) => ReadLevel::Local,
        }
    }
}

/// For clap: a duration as Prometheus writes it.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = duration::parse(text).filter(|duration| !duration.is_zero());
    parsed.ok_or_else(|| "expected a duration like 15s, 5m or 1h30m".to_owned())
}
