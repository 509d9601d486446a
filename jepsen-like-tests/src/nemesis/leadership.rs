//! Leaders that are moved on purpose, many times a second.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::claims::Claim;
use super::fault::Fault;
use super::scene::Scene;

/// Between two transfers.
const PACE: Duration = Duration::from_millis(100);

/// Ten transfers a second, of any shard to any node.
pub(super) struct TransferStorm {
    seed: u64,
    asked: u64,
    done: u64,
}

impl TransferStorm {
    pub(super) fn new(rng: &mut StdRng) -> TransferStorm {
        TransferStorm {
            seed: rng.random(),
            asked: 0,
            done: 0,
        }
    }
}

impl Fault for TransferStorm {
    fn victims(&self) -> Vec<u64> {
        Vec::new()
    }

    fn detail(&self) -> String {
        format!("{} of {} transfers", self.done, self.asked)
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Leadership]
    }

    fn begin(&mut self, _scene: &Scene<'_>) -> Result<()> {
        Ok(())
    }

    fn during(&mut self, scene: &Scene<'_>, hold: Duration) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let ids = scene.ids();
        let until = Instant::now() + hold;
        while Instant::now() < until {
            let from = scene.some_leader(&mut rng);
            let to = scene.others(&[from]).choose(&mut rng).copied().unwrap_or(from);
            if let Some(led) = scene.led(from).choose(&mut rng) {
                self.asked += 1;
                // A node that is down, or a leader that has moved: part of the storm.
                self.done += u64::from(scene.transfer_leader(from, led.shard, to).is_ok());
            }
            scene.hold(PACE, || false);
        }
        ensure!(!ids.is_empty(), "no node");
        Ok(())
    }

    fn was_felt(&self) -> bool {
        self.done > 0
    }

    fn end(&mut self, _scene: &Scene<'_>) -> Result<()> {
        Ok(())
    }
}
