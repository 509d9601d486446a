//! Clients that load all nodes at a set pace, in every way that the cluster promises to bear, and record what
//! came of everything they asked for. What each kind of writer does is said at [`crate::values::Kind`].

mod append;
mod ask;
mod overwrite;
mod pace;
mod questions;
mod readers;
mod send;
mod storm;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Node;
use crate::history::Recorder;
use crate::probes::Probes;
use crate::values::Kind;
use pace::Batches;
use questions::Catalogue;
use send::Target;

pub use append::{Load, LoadOptions};
pub use ask::read_level;
pub use readers::ask_in_the_end;
pub use send::{conclude, series_of};

/// Series of each load writer.
const LOAD_SERIES: u32 = 200;
/// Load writers.
const LOAD_WRITERS: u32 = 6;

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

/// A small writer that runs beside the load.
#[derive(Debug, Clone, Copy)]
struct Side {
    kind: Kind,
    writers: u32,
    series: u32,
    /// Of each writer.
    batches_per_second: u32,
}

/// Those that send each batch by itself.
const SIDES: [Side; 3] = [
    Side {
        kind: Kind::Whole,
        writers: 3,
        series: 24,
        batches_per_second: 4,
    },
    Side {
        kind: Kind::Late,
        writers: 2,
        series: 12,
        batches_per_second: 4,
    },
    Side {
        kind: Kind::Churn,
        writers: 2,
        series: 10,
        batches_per_second: 3,
    },
];

/// All workloads, running. Stop it, or it goes on while the runtime lives.
#[derive(Debug)]
pub struct Workload {
    load: Load,
    probes: Probes,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Starts every kind of writer and reader. The cluster must take writes: a series is looked for in each shard.
pub async fn start_all(nodes: &[Node], options: WorkloadOptions, recorder: &Recorder) -> Result<Workload> {
    let probes = Probes::start(nodes, options.shards, recorder).await?;
    let mut rng = StdRng::seed_from_u64(options.seed);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut catalogue = Catalogue::default();
    for side in SIDES {
        for at in 0..side.writers {
            let writer = side.kind.writer(at);
            let batches = Batches::new(writer, side.series, rng.random());
            let interval = std::time::Duration::from_secs(1) / side.batches_per_second;
            let target = Target::new(nodes, at)?;
            tasks.spawn(pace::write_paced(
                batches,
                interval,
                target,
                recorder.clone(),
                stopped.clone(),
            ));
            catalogue.add(writer, side.series);
        }
    }
    for at in 0..2 {
        let writer = Kind::Storm.writer(at);
        storm::start(&mut tasks, nodes, writer, recorder, &stopped)?;
        catalogue.add(writer, storm::SERIES);
        let writer = Kind::Overwrite.writer(at);
        overwrite::start(&mut tasks, nodes, writer, rng.random(), recorder, &stopped)?;
        catalogue.add(writer, overwrite::SERIES);
    }
    for writer in 0..LOAD_WRITERS {
        catalogue.add(writer, LOAD_SERIES);
    }
    readers::start(&mut tasks, nodes, catalogue, rng.random(), recorder, &stopped)?;
    let sides: u32 = SIDES
        .iter()
        .map(|side| side.writers * side.series * side.batches_per_second)
        .sum();
    let load = LoadOptions {
        samples_per_second: options
            .samples_per_second
            .saturating_sub(u64::from(sides))
            .max(100),
        writers: LOAD_WRITERS,
        series: LOAD_SERIES,
    };
    let load = Load::start(nodes, load, recorder)?;
    Ok(Workload {
        load,
        probes,
        stop,
        tasks,
    })
}

impl Workload {
    /// Stops sending and waits for the outcome of everything that was sent.
    pub async fn stop(self) -> Result<()> {
        let Workload {
            load,
            probes,
            stop,
            mut tasks,
        } = self;
        stop.send_replace(true);
        let others = async {
            while let Some(ended) = tasks.join_next().await {
                ended?;
            }
            Ok(())
        };
        let (load, probes, others) = tokio::join!(load.stop(), probes.stop(), others);
        load.and(probes).and(others)
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
