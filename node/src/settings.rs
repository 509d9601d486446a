//! From the configuration to the settings of the parts.

use std::time::Duration;

use quorate_client::balance::Policy;
use quorate_raft_log::{GroupConfig, LogOptions};

use crate::cluster::{ClusterLimits, NodeInfo};
use crate::config::{Balance, Config, LimitsConfig, ReadBalance, ReadConfig, WriteConfig};
use crate::read::{QueryLimits, ReplicaPolicy};
use crate::write::BatchLimits;

/// Entries in flight for each shard: one being synced, one being gathered by the followers, and room
/// for the next to be proposed without waiting.
const ENTRIES_IN_FLIGHT: usize = 4;
/// Parts that wait for a shard's batcher.
const QUEUED_PARTS: usize = 4_096;

/// The nodes of the configuration, by id.
pub(crate) fn nodes(config: &Config) -> Vec<NodeInfo> {
    let peers = config.cluster_nodes();
    peers
        .into_iter()
        .map(|peer| {
            let own = peer.id == config.node_id;
            let http = match own {
                true => config.advertised_http().to_string(),
                false => peer.http.as_ref().map(ToString::to_string).unwrap_or_default(),
            };
            NodeInfo {
                id: peer.id,
                grpc: match own {
                    true => config.advertised_grpc().to_string(),
                    false => peer.grpc.to_string(),
                },
                http,
                zone: peer.zone.unwrap_or_default(),
                weight: peer.weight.unwrap_or(1.0),
            }
        })
        .collect()
}

/// Raft's times.
pub(crate) fn group_config(config: &Config) -> GroupConfig {
    GroupConfig {
        heartbeat_interval_ms: millis(config.raft.heartbeat_interval),
        election_timeout_min_ms: millis(config.raft.election_timeout_min),
        election_timeout_max_ms: millis(config.raft.election_timeout_max),
        propose_timeout_ms: millis(config.write.request_timeout),
        quorum_timeout_ms: millis(config.raft.quorum_timeout),
        ..GroupConfig::default()
    }
}

/// The log writer's settings.
pub(crate) fn log_options(config: &Config) -> LogOptions {
    LogOptions {
        stall_timeout_ms: millis(config.raft.disk_stall_timeout),
        stall_abort_ms: millis(config.raft.disk_stall_abort),
        ..LogOptions::default()
    }
}

/// How replicas are chosen for reads.
pub(crate) fn replica_policy(config: &Config) -> ReplicaPolicy {
    match config.read.balance {
        ReadBalance::LocalFirst => ReplicaPolicy::LocalFirst,
        ReadBalance::RoundRobin => ReplicaPolicy::RoundRobin,
        ReadBalance::Weighted => ReplicaPolicy::Weighted,
    }
}

/// How the peer to ask is chosen for a write to a shard whose leader is not known.
pub(crate) fn forward_policy(config: &Config) -> Policy {
    match config.write.balance {
        Balance::RoundRobin => Policy::RoundRobin,
        Balance::Weighted => Policy::Weighted,
    }
}

/// The limits that a new cluster starts with.
pub(crate) fn cluster_limits(limits: &LimitsConfig) -> ClusterLimits {
    ClusterLimits {
        ooo_window_ms: millis(limits.ooo_window),
        retention_ms: millis(limits.retention),
        max_ahead_ms: millis(limits.max_ahead),
        max_series_per_shard: limits.max_series_per_shard,
        max_labels: limits.max_labels,
        max_label_name_bytes: limits.max_label_name_bytes,
        max_label_value_bytes: limits.max_label_value_bytes,
        max_series: limits.max_series,
        max_samples_per_second: limits.max_samples_per_second,
    }
}

impl BatchLimits {
    /// When entries are closed.
    pub fn new(config: &WriteConfig) -> BatchLimits {
        BatchLimits {
            bytes: usize::try_from(config.batch_bytes.0).unwrap_or(usize::MAX),
            linger: config.linger,
            in_flight: ENTRIES_IN_FLIGHT,
            queue: QUEUED_PARTS,
        }
    }
}

impl QueryLimits {
    /// Bounds of queries.
    pub fn new(config: &ReadConfig) -> QueryLimits {
        QueryLimits {
            level: config.level,
            max_staleness: config.max_staleness,
            timeout: config.timeout,
            max_samples: config.max_samples,
            max_memory_bytes: config.max_memory_bytes_per_query.0,
            max_concurrent: config.max_concurrent,
            lookback_ms: signed_millis(config.lookback),
            features: config.enable_features.0,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn signed_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
