//! Attempts to overwrite: several batches with other values for the same series and timestamp, at once through
//! different nodes, or long after. Whichever comes first in the shard's log stays; the others are refused.
//!
//! Acknowledged means here: all of the batch's values are the ones that stay.

use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::now_ms;
use super::pace::Pace;
use super::send::{Target, send};
use crate::cluster::Node;
use crate::history::Recorder;
use crate::values::Batch;

/// Series of a writer. One batch may win in some of them and lose in others.
pub(super) const SERIES: u32 = 4;
/// Between rounds.
const INTERVAL: Duration = Duration::from_millis(400);

pub(super) fn start(
    tasks: &mut JoinSet<()>,
    nodes: &[Node],
    writer: u32,
    seed: u64,
    recorder: &Recorder,
    stopped: &watch::Receiver<bool>,
) -> Result<()> {
    let mut targets = Vec::new();
    for node in nodes {
        targets.extend(Target::of_node(node)?);
    }
    let (recorder, stopped) = (recorder.clone(), stopped.clone());
    tasks.spawn(async move {
        let mut rounds = Rounds::new(writer, seed);
        let mut pace = Pace::new(INTERVAL, stopped);
        while let Some(slot) = pace.next().await {
            let mut slot = Some(slot);
            let first = rounds.rng.random_range(0..targets.len().max(1));
            let targets = targets.iter().cycle().skip(first);
            for (batch, target) in rounds.next(now_ms()).into_iter().zip(targets) {
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

/// Which batches contend.
#[derive(Debug)]
struct Rounds {
    next: Batch,
    /// Timestamps of earlier rounds.
    times: Vec<i64>,
    rng: StdRng,
}

impl Rounds {
    fn new(writer: u32, seed: u64) -> Rounds {
        Rounds {
            next: Batch {
                writer,
                number: 0,
                series: SERIES,
                timestamp_ms: 0,
            },
            times: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// The contenders of a round: two or three for a new time, or one for a time of an earlier round, whose samples
    /// may be in another file by now.
    fn next(&mut self, now_ms: i64) -> Vec<Batch> {
        let is_old = !self.times.is_empty() && self.rng.random_ratio(1, 3);
        let (timestamp_ms, contenders) = match is_old {
            true => {
                let at = self.rng.random_range(0..self.times.len());
                (self.times.get(at).copied().unwrap_or(now_ms), 1)
            }
            false => {
                let newest_ms = self.times.last().copied().unwrap_or(0);
                let timestamp_ms = now_ms.max(newest_ms + 1);
                self.times.push(timestamp_ms);
                (timestamp_ms, self.rng.random_range(2..=3))
            }
        };
        let batch = |_| {
            let batch = Batch {
                timestamp_ms,
                ..self.next
            };
            self.next.number += 1;
            batch
        };
        (0..contenders).map(batch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Kind;

    #[test]
    fn contenders_have_one_time_and_different_values() {
        let mut rounds = Rounds::new(Kind::Overwrite.writer(0), 3);
        let (mut old, mut bits) = (0, std::collections::HashSet::new());
        for at in 0..300 {
            let contenders = rounds.next(1_000 + at);
            let time = contenders[0].timestamp_ms;
            assert!(contenders.iter().all(|batch| batch.timestamp_ms == time));
            old += usize::from(contenders.len() == 1);
            for batch in contenders {
                bits.extend(batch.entries().map(|entry| entry.bits));
            }
        }
        assert!((50..150).contains(&old));
        // Special values come again.
        assert!(bits.len() > 1_500);
    }
}
