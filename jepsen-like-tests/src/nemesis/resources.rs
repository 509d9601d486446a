//! Too little of what a process needs from its machine: file descriptors, memory, processor time.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::claims::Claim;
use super::fault::{Fault, processes};
use super::scene::Scene;

/// A flush that failed for want of something ends the process within this time.
const AFTERMATH: Duration = Duration::from_secs(3);

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
        scene.revive_after(self.victim, AFTERMATH)
    }
}

/// No more memory can be had.
pub(super) struct NoMemory {
    victim: u64,
    headroom_bytes: u64,
    claims: Vec<Claim>,
}

impl NoMemory {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> NoMemory {
        let victim = scene.some_leader(rng);
        NoMemory {
            victim,
            headroom_bytes: rng.random_range(0..=8) << 20,
            claims: processes(&[victim], rng),
        }
    }
}

impl Fault for NoMemory {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn detail(&self) -> String {
        format!("{} MiB left", self.headroom_bytes >> 20)
    }

    fn claims(&self) -> Vec<Claim> {
        self.claims.clone()
    }

    fn still_fits(&self, scene: &Scene<'_>) -> bool {
        scene.bed.is_running(self.victim)
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        // Whoever can't have memory that it needs, ends.
        scene.will_be_down(&[self.victim]);
        scene.bed.limit_memory(self.victim, self.headroom_bytes)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        if scene.bed.is_running(self.victim) {
            scene.bed.unlimit_memory(self.victim)?;
        }
        scene.revive_after(self.victim, AFTERMATH)
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

    fn still_fits(&self, scene: &Scene<'_>) -> bool {
        scene.bed.is_running(self.victim)
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.starve_cpu(self.victim, self.percent)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.feed_cpu(self.victim)
    }
}
