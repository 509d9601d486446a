//! The bulk of the load: writers that append to their series, in every protocol.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::pace::{Batches, write_paced};
use super::send::Target;
use crate::cluster::Node;
use crate::history::Recorder;

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Of all writers together, in samples per second.
    pub samples_per_second: u64,
    /// Concurrent writers; they take turns in the protocol they speak.
    pub writers: u32,
    /// Series of each writer; a batch has a sample of each.
    pub series: u32,
}

/// A running load. Stop it, or it goes on while the runtime lives.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    writers: JoinSet<()>,
}

impl Load {
    /// Starts writing to all nodes.
    pub fn start(nodes: &[Node], options: LoadOptions, recorder: &Recorder) -> Result<Load> {
        let (stop, stopped) = watch::channel(false);
        let mut writers = JoinSet::new();
        let batches_per_second = options.samples_per_second as f64 / f64::from(options.series);
        let interval = Duration::from_secs_f64(f64::from(options.writers) / batches_per_second);
        for writer in 0..options.writers {
            let batches = Batches::new(writer, options.series, 0);
            let target = Target::new(nodes, writer)?;
            writers.spawn(write_paced(
                batches,
                interval,
                target,
                recorder.clone(),
                stopped.clone(),
            ));
        }
        Ok(Load { stop, writers })
    }

    /// Stops sending and waits for the outcome of what was sent.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.writers.join_next().await {
            ended?;
        }
        Ok(())
    }
}
