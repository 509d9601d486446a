//! Clients that load all nodes at a set pace and record what came of everything they asked for.

mod append;

use anyhow::Result;

use crate::cluster::Node;
use crate::history::Recorder;
use crate::probes::Probes;

pub use append::{Load, LoadOptions, conclude, now_ms, series_of};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct WorkloadOptions {
    /// Samples a second of all writers together, about.
    pub samples_per_second: u64,
    /// Data shards of the cluster.
    pub shards: u32,
    /// What everything random comes from.
    pub seed: u64,
}

/// All workloads, running. Stop it, or it goes on while the runtime lives.
#[derive(Debug)]
pub struct Workload {
    load: Load,
    probes: Probes,
}

/// Starts every kind of writer and reader. The cluster must take writes: a series is looked for in each shard.
pub async fn start_all(nodes: &[Node], options: WorkloadOptions, recorder: &Recorder) -> Result<Workload> {
    let probes = Probes::start(nodes, options.shards, recorder).await?;
    let load = LoadOptions {
        samples_per_second: options.samples_per_second,
        writers: 6,
        series: 200,
    };
    let load = Load::start(nodes, load, recorder)?;
    Ok(Workload { load, probes })
}

impl Workload {
    /// Stops sending and waits for the outcome of everything that was sent.
    pub async fn stop(self) -> Result<()> {
        let (load, probes) = tokio::join!(self.load.stop(), self.probes.stop());
        load.and(probes)
    }
}
