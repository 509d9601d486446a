//! Retry storms: the same batch to every node at once, by both protocols, and again while the first is under way.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::now_ms;
use super::pace::{Batches, Pace};
use super::send::{Target, send};
use crate::cluster::Node;
use crate::history::Recorder;

/// Series of a writer.
pub(super) const SERIES: u32 = 16;
/// Between batches.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) fn start(
    tasks: &mut JoinSet<()>,
    nodes: &[Node],
    writer: u32,
    recorder: &Recorder,
    stopped: &watch::Receiver<bool>,
) -> Result<()> {
    let mut targets = Vec::new();
    for node in nodes {
        targets.extend(Target::of_node(node)?);
    }
    let (recorder, stopped) = (recorder.clone(), stopped.clone());
    tasks.spawn(async move {
        let mut batches = Batches::new(writer, SERIES, 0);
        let mut pace = Pace::new(INTERVAL, stopped);
        while let Some(slot) = pace.next().await {
            let batch = batches.next(now_ms());
            let mut slot = Some(slot);
            for target in &targets {
                // More targets than slots only means that the last ones come while the first are under way.
                let Some(own) = (match slot.take() {
                    Some(slot) => Some(slot),
                    None => pace.another().await,
                }) else {
                    break;
                };
                send(batch, target, &recorder, own).await;
            }
        }
        pace.drain().await;
    });
    Ok(())
}
