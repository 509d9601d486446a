//! What a kind of fault has to tell and to do.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::claims::Claim;
use super::scene::Scene;

/// One fault, with its victims chosen. It begins, lasts, and is undone.
pub(super) trait Fault: Send {
    /// The nodes it hits.
    fn victims(&self) -> Vec<u64>;

    /// What the kind and the victims don't say.
    fn detail(&self) -> String {
        String::new()
    }

    /// What nobody else may break meanwhile.
    fn claims(&self) -> Vec<Claim>;

    /// Whether the victims are still what they were chosen for, once the claims are granted.
    fn still_fits(&self, _scene: &Scene<'_>) -> bool {
        true
    }

    /// Injects it.
    fn begin(&mut self, scene: &Scene<'_>) -> Result<()>;

    /// Lets it last.
    fn during(&mut self, scene: &Scene<'_>, hold: Duration) -> Result<()> {
        scene.hold(hold, || false);
        Ok(())
    }

    /// Whether anything was felt of it, as far as that can be counted. If not, it did not fire.
    fn was_felt(&self) -> bool {
        true
    }

    /// Undoes it, and waits until what it broke works again. Called once, also after an error.
    fn end(&mut self, scene: &Scene<'_>) -> Result<()>;
}

/// The claims of a fault that takes the processes of some nodes away. Three times of four a majority of the
/// cluster is left running; else such faults may meet.
pub(super) fn processes(victims: &[u64], rng: &mut StdRng) -> Vec<Claim> {
    let mut claims: Vec<Claim> = victims.iter().map(|id| Claim::Process(*id)).collect();
    if rng.random_ratio(3, 4) {
        claims.push(Claim::Majority);
    }
    claims
}
