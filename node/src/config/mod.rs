//! The configuration of `quorate server`: one declaration of every key, from which the file's reader,
//! the flags, the environment variables and the commented example follow.
//!
//! A value comes from its flag, else its environment variable, else the file, else the default. Every
//! mistake is reported, with its place, and all at once: see [`load`].

mod args;
mod check;
mod document;
mod example;
mod load;
mod peers;
mod slot;
#[cfg(test)]
mod tests;
mod values;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use args::ServerArgs;
pub(crate) use args::{read_file, report};
pub use example::{effective, example};
pub use load::{Environment, Loaded, Mistake, Origin, Sources, environment_variable, flag, load};
pub use peers::{Peer, Peers};
use slot::section;
pub use values::{
    Balance, ByteSize, HostPort, LogFilter, LogFormat, OriginPattern, QueryFeatures, ReadBalance, ReadLevel,
};

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3_600)
}

section! {
    /// Every key of the configuration file.
    pub struct Config {
        /// This node's number, from 1. Unique in the cluster and the same after every restart.
        pub node_id: u64 = 0,
        /// Where everything durable is kept. Bound to the node and its cluster at the first start.
        pub data_dir: PathBuf = PathBuf::from("/var/lib/quorate"),
        /// Where remote write, the query API and /metrics are served.
        pub http_listen: SocketAddr = loopback(7400),
        /// Where gRPC is served, to clients and to the other nodes.
        pub grpc_listen: SocketAddr = loopback(7401),
        /// Where others reach this node's HTTP, as host:port. Empty: what `peers` says, else `http_listen`.
        pub http_advertise: Option<HostPort> = None,
        /// Where others reach this node's gRPC, as host:port. Empty: what `peers` says, else `grpc_listen`.
        pub grpc_advertise: Option<HostPort> = None,
        /// The failure domain this node is in: a rack, a data centre, an availability zone. Replicas of a
        /// shard are spread over zones where possible. Empty: none.
        pub zone: String = String::new(),
        /// How much of the cluster's data and load this node takes, relative to the others.
        pub weight: f64 = 1.0,
        /// The nodes that form the cluster, this one included, the same list on each of them. Empty: this
        /// node alone. As a flag or variable: `1=host:port,2=host:port` (node id and gRPC address).
        pub peers: Peers = Peers::default(),
        /// Number of shards. Fixed when the cluster is formed.
        pub shards: u32 = 8,
        /// Copies of every sample. A write is acknowledged once a majority of them is on disk.
        pub replication_factor: u32 = 3,
        /// Over how many shards one target's metrics may spread: more for a single target with millions of
        /// series. Fixed when the cluster is formed.
        pub spread: u32 = 1,
        /// Allows listening beyond this machine although nothing is encrypted or authenticated yet.
        pub insecure: bool = false,
        /// Allows the deletion of series, over HTTP as in Prometheus (`/api/v1/admin/tsdb/`) and over gRPC.
        pub enable_admin_api: bool = false,
        /// What is logged: off, error, warn, info, debug, trace, or by module: info,quorate_node=debug.
        pub log_level: LogFilter = LogFilter("info,openraft=error".into()),
        /// How log lines look: text or json.
        pub log_format: LogFormat = LogFormat::Text,
        /// Most HTTP connections at a time; more wait to be accepted.
        pub http_max_connections: u32 = 4_096,
        /// How long a client may take to send a request's headers. An idle connection is closed after it.
        pub http_header_timeout: Duration = Duration::from_secs(60),
        /// A regular expression on the whole origin: pages from there may read answers. As --web.cors.origin of
        /// Prometheus.
        pub http_cors_origin: OriginPattern = OriginPattern(".*".into()),
        /// The consensus protocol.
        pub raft: RaftConfig = RaftConfig::default(),
        /// The way of samples in.
        pub write: WriteConfig = WriteConfig::default(),
        /// Queries.
        pub read: ReadConfig = ReadConfig::default(),
        /// Limits that all replicas of a shard must apply alike, so they are kept in the replicated log.
        /// These values are used once, when the cluster is formed.
        pub limits: LimitsConfig = LimitsConfig::default(),
        /// Moving samples from the log and memory to storage.
        pub flush: FlushConfig = FlushConfig::default(),
        /// Memory.
        pub memory: MemoryConfig = MemoryConfig::default(),
        /// Free disk space below which this node takes no more writes; it goes on answering queries.
        pub disk_reserve_bytes: ByteSize = ByteSize::mib(1_024),
        /// Longest orderly shutdown. What isn't finished then is left to recovery; nothing acknowledged is lost.
        pub shutdown_timeout: Duration = Duration::from_secs(20),
    }
}

section! {
    /// The consensus protocol.
    pub struct RaftConfig {
        /// How often a leader tells its followers that it is alive.
        pub heartbeat_interval: Duration = Duration::from_millis(75),
        /// A follower that hears nothing starts an election after a random time, at least this long…
        pub election_timeout_min: Duration = Duration::from_millis(250),
        /// …and at most this long.
        pub election_timeout_max: Duration = Duration::from_millis(375),
        /// How long a shard may be without a majority before writes and linearizable reads are answered 503
        /// at once instead of waiting. Where this node doesn't lead, two elections more.
        pub quorum_timeout: Duration = Duration::from_secs(1),
        /// A write or sync of the log that takes longer than this means that the disk hangs: the node hands
        /// leadership over and takes no writes until the disk has worked well for as long.
        pub disk_stall_timeout: Duration = Duration::from_secs(5),
        /// After so long in one write or sync the process ends, to be started anew.
        pub disk_stall_abort: Duration = Duration::from_secs(120),
    }
}

section! {
    /// The way of samples in.
    pub struct WriteConfig {
        /// How a node chooses whom to ask when it passes a write on and knows no leader: round_robin or weighted.
        pub balance: Balance = Balance::RoundRobin,
        /// Most memory that requests being received and decoded may hold. Beyond it, senders get 503.
        pub max_bytes_in_flight: ByteSize = ByteSize::mib(256),
        /// Largest request body as sent, compressed.
        pub max_request_bytes: ByteSize = ByteSize::mib(32),
        /// Largest request body after decompression.
        pub max_decompressed_bytes: ByteSize = ByteSize::mib(64),
        /// How long a write may take before it is answered 503.
        pub request_timeout: Duration = Duration::from_secs(10),
        /// How long a client may take to send a request's body.
        pub read_body_timeout: Duration = Duration::from_secs(10),
        /// Size at which a leader closes a batch and proposes it.
        pub batch_bytes: ByteSize = ByteSize(256 << 10),
        /// How often leaders close their batches and propose them, all shards together. A round costs the
        /// same for many samples as for few, and a write waits half of this for company on average.
        pub linger: Duration = Duration::from_millis(10),
    }
}

section! {
    /// Queries.
    pub struct ReadConfig {
        /// What a query is promised unless it says otherwise: linearizable, bounded or local.
        pub level: ReadLevel = ReadLevel::Linearizable,
        /// Oldest data that `bounded` may return, unless the query says otherwise.
        pub max_staleness: Duration = Duration::from_secs(10),
        /// How a node chooses among replicas that may serve a read: local_first, round_robin or weighted.
        /// While every node holds every shard, as on three nodes, local_first spares the hop: samples are
        /// neither encoded nor sent, and clients that use all nodes spread the load already.
        pub balance: ReadBalance = ReadBalance::LocalFirst,
        /// Longest query. Queries may ask for less, not for more.
        pub timeout: Duration = Duration::from_secs(30),
        /// Most samples one query may hold in memory.
        pub max_samples: u64 = 50_000_000,
        /// Most memory one query may use.
        pub max_memory_bytes_per_query: ByteSize = ByteSize::mib(1_024),
        /// Most queries evaluated at a time; more wait, within their timeout.
        pub max_concurrent: u32 = 20,
        /// How far back an instant selector looks for a sample.
        pub lookback: Duration = Duration::from_secs(300),
        /// What of PromQL is on that Prometheus has behind its flag --enable-feature, by the same names, separated by
        /// commas: promql-experimental-functions, promql-extended-range-selectors, promql-binop-fill-modifiers,
        /// promql-delayed-name-removal. Empty: none.
        pub enable_features: QueryFeatures = QueryFeatures(quorate_query::Features::NONE),
    }
}

section! {
    /// Limits kept in the replicated log.
    pub struct LimitsConfig {
        /// How much older than its series' newest sample a sample may be.
        pub ooo_window: Duration = Duration::from_secs(1_800),
        /// How long samples are kept.
        pub retention: Duration = hours(15 * 24),
        /// How far in the future a sample may be.
        pub max_ahead: Duration = Duration::from_secs(600),
        /// Most labels of a series.
        pub max_labels: u32 = 64,
        /// Longest label name in bytes.
        pub max_label_name_bytes: u32 = 1_024,
        /// Longest label value in bytes.
        pub max_label_value_bytes: u32 = 4_096,
        /// Most series of one shard. Samples that would need another are refused.
        pub max_series_per_shard: u64 = 2_000_000,
        /// Most series of one tenant in the whole cluster, 0 for any number. It is never exceeded, and may be
        /// refused from 95 % of it, as shards hold shares of it.
        pub max_series: u64 = 0,
        /// Most samples a second that one node takes of one tenant, 0 for any number. Beyond it, senders get 429.
        pub max_samples_per_second: u64 = 0,
    }
}

section! {
    /// Moving samples from the log and memory to storage.
    pub struct FlushConfig {
        /// Longest time between two flushes of a shard.
        pub interval: Duration = Duration::from_secs(900),
        /// Size of a shard's log at which it is flushed earlier.
        pub log_bytes: ByteSize = ByteSize::mib(256),
        /// Stored bytes that the merging of flushes reads in a second at most.
        pub compaction_rate: ByteSize = ByteSize::mib(8),
    }
}

section! {
    /// Memory.
    pub struct MemoryConfig {
        /// Resident memory above which this node refuses writes (503) until it uses a tenth less. 0: half of what
        /// the machine has, or of the control group's limit. A quarter of it bounds RocksDB's caches and buffers.
        pub budget_bytes: ByteSize = ByteSize(0),
    }
}

impl Config {
    /// Where others reach this node's HTTP.
    pub fn advertised_http(&self) -> HostPort {
        let from_peers = || self.own_peer().and_then(|peer| peer.http.clone());
        self.http_advertise
            .clone()
            .or_else(from_peers)
            .unwrap_or_else(|| self.http_listen.into())
    }

    /// Where others reach this node's gRPC.
    pub fn advertised_grpc(&self) -> HostPort {
        let from_peers = || self.own_peer().map(|peer| peer.grpc.clone());
        self.grpc_advertise
            .clone()
            .or_else(from_peers)
            .unwrap_or_else(|| self.grpc_listen.into())
    }

    /// This node's entry in `peers`.
    pub fn own_peer(&self) -> Option<&Peer> {
        self.peers.0.iter().find(|peer| peer.id == self.node_id)
    }

    /// All nodes that form the cluster, this one included, by id. Each has its zone and weight.
    pub fn cluster_nodes(&self) -> Vec<Peer> {
        let own = Peer {
            id: self.node_id,
            grpc: self.advertised_grpc(),
            http: Some(self.advertised_http()),
            zone: Some(self.zone()),
            weight: Some(self.weight()),
        };
        let others = self
            .peers
            .0
            .iter()
            .filter(|peer| peer.id != self.node_id)
            .cloned();
        let mut nodes: Vec<Peer> = std::iter::once(own).chain(others).collect();
        nodes.sort_by_key(|peer| peer.id);
        nodes
    }

    /// This node's zone: of its own, else of its entry in `peers`.
    pub fn zone(&self) -> String {
        match self.zone.is_empty() {
            true => self
                .own_peer()
                .and_then(|peer| peer.zone.clone())
                .unwrap_or_default(),
            false => self.zone.clone(),
        }
    }

    /// This node's weight: of its entry in `peers`, else of its own.
    pub fn weight(&self) -> f64 {
        self.own_peer()
            .and_then(|peer| peer.weight)
            .unwrap_or(self.weight)
    }
}
