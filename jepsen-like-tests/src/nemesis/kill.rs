//! Processes that die, all of a sudden or in order, and stand still.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::claims::Claim;
use super::fault::{Fault, processes};
use super::scene::Scene;

/// How long an orderly stop may take: the configured bound of 20 s, and some for a starved machine.
const STOP: Duration = Duration::from_secs(40);

/// SIGKILL of one node.
pub(super) struct Kill {
    victim: u64,
    leader: bool,
    claims: Vec<Claim>,
}

impl Kill {
    /// Of a node that leads shards.
    pub(super) fn leader(scene: &Scene<'_>, rng: &mut StdRng) -> Kill {
        let victim = scene.some_leader(rng);
        Kill {
            victim,
            leader: true,
            claims: processes(&[victim], rng),
        }
    }

    /// Of any node.
    pub(super) fn any(scene: &Scene<'_>, rng: &mut StdRng) -> Kill {
        let victim = scene.some_node(rng);
        Kill {
            victim,
            leader: false,
            claims: processes(&[victim], rng),
        }
    }
}

impl Fault for Kill {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn claims(&self) -> Vec<Claim> {
        self.claims.clone()
    }

    fn still_fits(&self, scene: &Scene<'_>) -> bool {
        !self.leader || !scene.led(self.victim).is_empty()
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.will_be_down(&[self.victim]);
        scene.bed.kill(self.victim)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.start_sound(self.victim)
    }
}

/// SIGKILL of all nodes at once.
pub(super) struct KillAll {
    /// In the order in which they come back.
    ids: Vec<u64>,
}

impl KillAll {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> KillAll {
        let mut ids = scene.ids();
        ids.shuffle(rng);
        KillAll { ids }
    }
}

impl Fault for KillAll {
    fn victims(&self) -> Vec<u64> {
        self.ids.clone()
    }

    fn claims(&self) -> Vec<Claim> {
        self.ids.iter().map(|id| Claim::Process(*id)).collect()
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.will_be_down(&self.ids);
        scene.bed.kill_all()
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.start_all_sound(&self.ids)
    }
}

/// SIGTERM to one node after another; each is back before the next one goes.
pub(super) struct RollingRestart {
    ids: Vec<u64>,
    /// Nodes whose requests could not all be answered in time, as when they can't reach the others.
    in_haste: Vec<u64>,
}

impl RollingRestart {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> RollingRestart {
        let mut ids = scene.ids();
        ids.shuffle(rng);
        RollingRestart {
            ids,
            in_haste: Vec::new(),
        }
    }
}

impl Fault for RollingRestart {
    fn victims(&self) -> Vec<u64> {
        self.ids.clone()
    }

    fn detail(&self) -> String {
        match self.in_haste.is_empty() {
            true => String::new(),
            false => format!("requests were left unanswered by {:?}", self.in_haste),
        }
    }

    fn claims(&self) -> Vec<Claim> {
        self.ids.iter().map(|id| Claim::Process(*id)).collect()
    }

    fn begin(&mut self, _scene: &Scene<'_>) -> Result<()> {
        Ok(())
    }

    fn during(&mut self, scene: &Scene<'_>, hold: Duration) -> Result<()> {
        for id in &self.ids {
            scene.will_be_down(&[*id]);
            if let Err(error) = scene.bed.stop_node(*id, STOP) {
                // It says so with its status, and ends all the same.
                let ended = !scene.bed.is_running(*id);
                let exit = scene.bed.exit_of(*id).unwrap_or_default();
                ensure!(ended && exit == "exit status: 1", "{exit}: {error:#}");
                self.in_haste.push(*id);
            }
            scene.start_sound(*id)?;
            scene.hold(hold, || false);
        }
        Ok(())
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        for id in &self.ids {
            if !scene.bed.is_running(*id) {
                scene.start_sound(*id)?;
            }
        }
        Ok(())
    }
}

/// A process that stands still, longer than its lease, and then goes on as if nothing had been.
pub(super) struct Pause {
    victim: u64,
    claims: Vec<Claim>,
}

impl Pause {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> Pause {
        let victim = scene.some_leader(rng);
        Pause {
            victim,
            claims: processes(&[victim], rng),
        }
    }
}

impl Fault for Pause {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn claims(&self) -> Vec<Claim> {
        self.claims.clone()
    }

    fn still_fits(&self, scene: &Scene<'_>) -> bool {
        scene.bed.is_running(self.victim)
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        match scene.bed.is_running(self.victim) {
            true => scene.bed.pause(self.victim),
            false => Ok(()),
        }
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        match scene.bed.is_running(self.victim) {
            true => scene.bed.resume(self.victim),
            // The watch over processes has seen it.
            false => Ok(()),
        }
    }
}
