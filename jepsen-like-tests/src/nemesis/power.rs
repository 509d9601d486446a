//! Power cuts: what was not synced is gone. A kill never shows that, because the kernel keeps what a dead
//! process wrote; and while only one node loses power, the others hide it. So all voters lose it together.

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::claims::Claim;
use super::fault::{Fault, processes};
use super::scene::Scene;

/// A power cut of one node, or of all at once.
pub(super) struct PowerCut {
    ids: Vec<u64>,
    claims: Vec<Claim>,
}

impl PowerCut {
    /// Of one node.
    pub(super) fn one(scene: &Scene<'_>, rng: &mut StdRng) -> PowerCut {
        let ids = vec![scene.some_node(rng)];
        let claims = processes(&ids, rng);
        PowerCut { ids, claims }
    }

    /// Of all.
    pub(super) fn all(scene: &Scene<'_>, rng: &mut StdRng) -> PowerCut {
        let mut ids = scene.ids();
        ids.shuffle(rng);
        let claims = ids.iter().map(|id| Claim::Process(*id)).collect();
        PowerCut { ids, claims }
    }
}

impl Fault for PowerCut {
    fn victims(&self) -> Vec<u64> {
        self.ids.clone()
    }

    fn claims(&self) -> Vec<Claim> {
        // The disk too: one that hangs can't be unmounted.
        let disks = self.ids.iter().map(|id| Claim::Disk(*id));
        self.claims.iter().copied().chain(disks).collect()
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.will_be_down(&self.ids);
        scene.bed.power_cut(&self.ids)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.start_all_sound(&self.ids)
    }
}
