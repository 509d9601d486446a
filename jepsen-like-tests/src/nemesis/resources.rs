//! Too little of what a process needs from its machine: file descriptors, processor time.

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::claims::Claim;
use super::fault::{Fault, processes};
use super::scene::Scene;

/// No more files or connections can be opened.
pub(super) struct NoFiles {
    victim: u64,
    spare: u64,
    claims: Vec<Claim>,
}

impl NoFiles {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> NoFiles {
        let victim = scene.some_leader(rng);
        NoFiles {
            victim,
            spare: rng.random_range(0..=3),
            claims: processes(&[victim], rng),
        }
    }
}

impl Fault for NoFiles {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn detail(&self) -> String {
        format!("{} left", self.spare)
    }

    fn claims(&self) -> Vec<Claim> {
        self.claims.clone()
    }

    fn still_fits(&self, scene: &Scene<'_>) -> bool {
        scene.bed.is_running(self.victim)
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        // It may not be able to open a file that it needs to flush, and end.
        scene.will_be_down(&[self.victim]);
        let open = scene.bed.open_files(self.victim)?;
        scene.bed.limit_files(self.victim, open + self.spare)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        if scene.bed.is_running(self.victim) {
            scene.bed.unlimit_files(self.victim)?;
        }
        scene.revive(self.victim)
    }
}

/// A process gets a small part of a processor.
pub(super) struct Starved {
    victim: u64,
    percent: u32,
    claims: Vec<Claim>,
}

impl Starved {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> Starved {
        let victim = scene.some_leader(rng);
        Starved {
            victim,
            percent: rng.random_range(2..=15),
            claims: processes(&[victim], rng),
        }
    }
}

impl Fault for Starved {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn detail(&self) -> String {
        format!("{} % of a processor", self.percent)
    }

    fn claims(&self) -> Vec<Claim> {
        self.claims.clone()
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.starve_cpu(self.victim, self.percent)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.feed_cpu(self.victim)
    }
}
