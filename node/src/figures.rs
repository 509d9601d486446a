//! The node's own figures for `/metrics`.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::metrics::{FigureSource, Figures, GroupFigures, HistogramFigures};
use crate::node::Node;
use crate::raft::Group;

/// Reads figures of a node while it lives.
pub(crate) struct NodeFigures(Weak<Node>);

impl NodeFigures {
    /// Does not keep the node alive.
    pub(crate) fn new(node: &Arc<Node>) -> NodeFigures {
        NodeFigures(Arc::downgrade(node))
    }
}

impl fmt::Debug for NodeFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeFigures")
    }
}

impl FigureSource for NodeFigures {
    fn figures(&self) -> Figures {
        let Some(node) = self.0.upgrade() else {
            return Figures::default();
        };
        let (mut reads, mut retired_series) = (0, 0);
        let mut groups = vec![group_figures(&node, &node.meta().group)];
        for replica in node.shards().all() {
            let stats = replica.storage().stats();
            let mut figures = group_figures(&node, replica.group());
            figures.flushed_index = replica.storage().durable().position.map_or(0, |p| p.index);
            figures.series = stats.series;
            figures.head_bytes = stats.head_bytes;
            figures.generations = stats.generations;
            figures.stored_samples = stats.flushed_samples;
            figures.stored_bytes = stats.flushed_bytes;
            figures.queue_depth = node
                .shards()
                .batcher(replica.id())
                .map_or(0, |b| b.depth() as u64);
            reads += replica.reads();
            retired_series += stats.retired_series;
            groups.push(figures);
        }
        let log = node.log().stats();
        let buckets = log.sync.buckets.iter().map(|&(bound_us, count)| {
            let bound = if bound_us == u64::MAX {
                f64::INFINITY
            } else {
                bound_us as f64 / 1e6
            };
            (bound, count)
        });
        Figures {
            groups,
            log_sync: HistogramFigures {
                buckets: buckets.collect(),
                sum: log.sync.sum_us as f64 / 1e6,
            },
            gauges: vec![
                (
                    "quorate_memory_budget_bytes",
                    "Resident memory above which writes are refused",
                    node.memory().bytes() as f64,
                ),
                (
                    "quorate_memory_shedding",
                    "1 while writes are refused because the memory budget is used up",
                    f64::from(u8::from(node.memory().sheds())),
                ),
                (
                    "quorate_log_queued_operations",
                    "Operations waiting for the log writer",
                    log.queued_operations as f64,
                ),
                (
                    "quorate_log_queued_bytes",
                    "Bytes waiting for the log writer",
                    log.queued_bytes as f64,
                ),
                (
                    "quorate_cached_series",
                    "Series whose ids are remembered",
                    node.write().cached_series() as f64,
                ),
                (
                    "quorate_clock_skew_seconds",
                    "How far this clock is ahead of the cluster's median",
                    node.gate().skew_ms() as f64 / 1e3,
                ),
                (
                    "quorate_disk_stalled",
                    "1 while the disk of the log does not answer",
                    f64::from(u8::from(log.stalled)),
                ),
                (
                    "quorate_disk_reserve_reached",
                    "1 while free disk space is below the reserve",
                    f64::from(u8::from(node.gate().disk_low())),
                ),
            ],
            counters: [
                (
                    "quorate_log_batches",
                    "Batches that the log writer wrote",
                    log.batches,
                ),
                (
                    "quorate_disk_stalls",
                    "How often the disk of the log did not answer",
                    log.stalls,
                ),
                (
                    "quorate_replica_reads",
                    "Selections that the replicas of this node answered, for any node",
                    reads,
                ),
                (
                    "quorate_retired_series",
                    "Series of shards here that were forgotten because retention took their last sample",
                    retired_series,
                ),
                ("quorate_log_operations", "Operations in them", log.operations),
                ("quorate_log_bytes", "Bytes of entries in them", log.bytes),
            ]
            .into_iter()
            .chain(node.compaction().counters())
            .collect(),
        }
    }
}

fn group_figures(node: &Node, group: &Group) -> GroupFigures {
    let status = group.status();
    let leader_node = status.leader.and_then(|leader| {
        let known = node.view().get()?.node_of(group.group(), leader);
        known.or((leader == group.replica()).then(|| node.peers().own()))
    });
    GroupFigures {
        group: group.group(),
        term: status.term,
        leader_node,
        leads: status.leader == Some(group.replica()),
        last_log_index: status.last_log.unwrap_or(0),
        committed_index: status.committed.map_or(0, |p| p.index),
        quorum_lost: group.quorum_lost().is_some(),
        applied_index: status.applied.map_or(0, |p| p.index),
        purged_index: status.purged.map_or(0, |p| p.index),
        flushed_index: status.snapshot.map_or(0, |p| p.index),
        ..GroupFigures::default()
    }
}
