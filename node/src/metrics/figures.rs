//! Figures of the node's core, read at the scrape.

use std::fmt::{self, Debug};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Gives the figures of the moment. Called at every scrape, so it must be quick and must not block.
pub trait FigureSource: Send + Sync + Debug + 'static {
    /// The figures of now.
    fn figures(&self) -> Figures;
}

/// Figures of one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Each group with a replica on this node.
    pub groups: Vec<GroupFigures>,
    /// How long the log writer's synced writes took, in seconds.
    pub log_sync: HistogramFigures,
    /// Gauges of the whole node: full name with unit, help, value.
    pub gauges: Vec<(&'static str, &'static str, f64)>,
    /// Counters of the whole node: full name without `_total`, help, value.
    pub counters: Vec<(&'static str, &'static str, u64)>,
}

/// A histogram kept elsewhere.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistogramFigures {
    /// Upper bound of each bucket and how many observations fell into it and no lower one. The last
    /// bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all observations.
    pub sum: f64,
}

/// Figures of one group's replica on this node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupFigures {
    /// 0 is the meta group; shards count from 1.
    pub group: u32,
    /// Raft term.
    pub term: u64,
    /// Node that leads, if one is known.
    pub leader_node: Option<u64>,
    /// Whether this replica leads.
    pub leads: bool,
    /// Whether no majority of the group was heard of for too long.
    pub quorum_lost: bool,
    /// Newest entry in the log.
    pub last_log_index: u64,
    /// Newest entry known to be committed.
    pub committed_index: u64,
    /// Newest entry applied.
    pub applied_index: u64,
    /// Newest entry that storage holds without the log.
    pub flushed_index: u64,
    /// Newest entry that is gone from the log.
    pub purged_index: u64,
    /// Series that are not retired.
    pub series: u64,
    /// Memory of samples that aren't flushed, in bytes.
    pub head_bytes: u64,
    /// Sets of stored samples that a read of everything goes through.
    pub generations: u64,
    /// Samples in storage.
    pub stored_samples: u64,
    /// Bytes that they take before compression by blocks.
    pub stored_bytes: u64,
    /// Proposals waiting for a batch.
    pub queue_depth: u64,
}

/// Adapts a [`FigureSource`] to the registry.
#[derive(Debug)]
pub(super) struct FigureCollector(pub(super) Arc<dyn FigureSource>);

type GroupGauge = (&'static str, &'static str, fn(&GroupFigures) -> Option<u64>);

const GROUP_GAUGES: [GroupGauge; 15] = [
    ("quorate_group_term", "Raft term", |group| Some(group.term)),
    (
        "quorate_group_leader_node",
        "Node that leads the group; absent while unknown",
        |group| group.leader_node,
    ),
    (
        "quorate_group_leads",
        "1 where this node leads the group",
        |group| Some(u64::from(group.leads)),
    ),
    (
        "quorate_group_quorum_lost",
        "1 while no majority of the group was heard of for raft.quorum_timeout",
        |group| Some(u64::from(group.quorum_lost)),
    ),
    (
        "quorate_group_last_log_index",
        "Newest entry in the log",
        |group| Some(group.last_log_index),
    ),
    (
        "quorate_group_committed_index",
        "Newest entry known to be committed",
        |group| Some(group.committed_index),
    ),
    ("quorate_group_applied_index", "Newest entry applied", |group| {
        Some(group.applied_index)
    }),
    (
        "quorate_group_flushed_index",
        "Newest entry in storage",
        |group| Some(group.flushed_index),
    ),
    (
        "quorate_group_purged_index",
        "Newest entry that is gone from the log",
        |group| Some(group.purged_index),
    ),
    ("quorate_group_series", "Series that are not retired", |group| {
        Some(group.series)
    }),
    (
        "quorate_group_head_bytes",
        "Memory of unflushed samples",
        |group| Some(group.head_bytes),
    ),
    (
        "quorate_group_generations",
        "Sets of stored samples that are not merged",
        |group| Some(group.generations),
    ),
    ("quorate_group_stored_samples", "Samples in storage", |group| {
        Some(group.stored_samples)
    }),
    (
        "quorate_group_stored_bytes",
        "Bytes of samples in storage, before compression by blocks",
        |group| Some(group.stored_bytes),
    ),
    (
        "quorate_group_queue_depth",
        "Proposals waiting for a batch",
        |group| Some(group.queue_depth),
    ),
];

impl Collector for FigureCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = self.0.figures();
        for (name, help, read) in GROUP_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for group in &figures.groups {
                let Some(value) = read(group) else { continue };
                let labels = [("group", group.group)];
                ConstGauge::<u64>::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in &figures.gauges {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::<f64>::new(*value).encode(gauge)?;
        }
        for (name, help, value) in &figures.counters {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::<u64>::new(*value).encode(counter)?;
        }
        let sync = &figures.log_sync;
        if sync.buckets.is_empty() {
            return Ok(());
        }
        let help = "Time of the log writer's synced writes";
        let mut encoder =
            encoder.encode_descriptor("quorate_log_sync_seconds", help, None, MetricType::Histogram)?;
        let count = sync.buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sync.sum, count, &sync.buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;
    use crate::config::Config;

    #[derive(Debug)]
    struct Source;

    impl FigureSource for Source {
        fn figures(&self) -> Figures {
            let led = GroupFigures {
                group: 3,
                term: 7,
                leader_node: Some(2),
                applied_index: 40,
                ..Default::default()
            };
            Figures {
                groups: vec![GroupFigures::default(), led],
                log_sync: HistogramFigures {
                    buckets: vec![(0.001, 2), (f64::INFINITY, 1)],
                    sum: 0.5,
                },
                gauges: vec![(
                    "quorate_log_queue_bytes",
                    "Bytes waiting for the log writer",
                    12.0,
                )],
                counters: vec![("quorate_log_syncs", "Synced writes", 3)],
            }
        }
    }

    #[test]
    fn groups_and_histograms_are_rendered() {
        let metrics = Metrics::new(&Config::default());
        metrics.collect_from(Arc::new(Source));
        let text = metrics.render().unwrap();
        for line in [
            "quorate_group_term{group=\"3\"} 7",
            "quorate_group_leader_node{group=\"3\"} 2",
            "quorate_group_applied_index{group=\"0\"} 0",
            "quorate_log_queue_bytes 12.0",
            "quorate_log_syncs_total 3",
            "quorate_log_sync_seconds_bucket{le=\"0.001\"} 2",
            "quorate_log_sync_seconds_bucket{le=\"+Inf\"} 3",
            "quorate_log_sync_seconds_count 3",
            "quorate_log_sync_seconds_sum 0.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("quorate_group_leader_node{group=\"0\"}"));
    }
}
