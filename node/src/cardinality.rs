//! What the series on this node look like: how many per metric and label, and where memory and disk go.

use std::sync::Arc;

use quorate_storage::{Cardinality, Shard};

/// A series counts as active for this long after its newest sample, by its shard's log time: about how
/// long Prometheus keeps a series in its head.
const ACTIVE_MS: i64 = 60 * 60 * 1000;

/// Cardinality of a tenant over this node's replicas. On clusters of more nodes than copies a node
/// holds a part of the shards only.
#[derive(Clone, Debug, Default)]
pub struct NodeCardinality {
    /// The replicas counted.
    pub shards: u32,
    /// Series and memory.
    pub series: Cardinality,
    /// Samples that are not flushed, of all tenants.
    pub head_samples: u64,
    /// Flushed chunks, of all tenants.
    pub flushed_chunks: u64,
    /// Flushed samples, of all tenants.
    pub flushed_samples: u64,
    /// Bytes of flushed chunks, of all tenants.
    pub flushed_bytes: u64,
}

impl NodeCardinality {
    /// Counts. Blocks for as long as looking at every series and label takes; each shard's writes wait
    /// while one of its labels is counted.
    pub fn of(shards: &[Arc<Shard>], tenant: &str) -> NodeCardinality {
        let mut sum = NodeCardinality::default();
        for shard in shards {
            let stats = shard.stats();
            let since_ms = stats.now_ms.saturating_sub(ACTIVE_MS);
            sum.series.add(shard, tenant, since_ms);
            sum.shards += 1;
            sum.head_samples += stats.head_samples;
            sum.flushed_chunks += stats.flushed_chunks;
            sum.flushed_samples += stats.flushed_samples;
            sum.flushed_bytes += stats.flushed_bytes;
        }
        sum
    }
}
