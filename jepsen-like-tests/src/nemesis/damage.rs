//! Data that is destroyed: a torn log, rotten bits, a new disk.
//!
//! With three nodes, one may lose its data, and nobody else until it has everything again. So the victim
//! goes down first, the others have to be complete then, and the claim on data is held until the victim is.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::claims::Claim;
use super::fault::Fault;
use super::scene::{Scene, Started};
use crate::bed::Rot;

/// Longest torn tail in bytes: more than an entry.
const MAX_TORN_BYTES: u64 = 64 << 10;

/// What happens to the data of a node while it is down.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// The log's last bytes are missing.
    TornTail { bytes: u64 },
    /// Bits are flipped.
    Rot { what: Rot, seed: u64 },
    /// The disk is a new one.
    Wipe,
}

/// A node goes down, loses data, and comes back: as if nothing had been, or by way of its operator.
pub(super) struct Damage {
    victim: u64,
    harm: Harm,
    done: String,
    outcome: &'static str,
}

impl Damage {
    pub(super) fn torn_tail(scene: &Scene<'_>, rng: &mut StdRng) -> Damage {
        let bytes = rng.random_range(1..=MAX_TORN_BYTES);
        Self::of(scene.some_node(rng), Harm::TornTail { bytes })
    }

    pub(super) fn rot(scene: &Scene<'_>, rng: &mut StdRng) -> Damage {
        let what = [Rot::Wal, Rot::Sst, Rot::Manifest].choose(rng).copied();
        let (what, seed) = (what.unwrap_or(Rot::Wal), rng.random());
        Self::of(scene.some_node(rng), Harm::Rot { what, seed })
    }

    pub(super) fn wipe(scene: &Scene<'_>, rng: &mut StdRng) -> Damage {
        Self::of(scene.some_node(rng), Harm::Wipe)
    }

    fn of(victim: u64, harm: Harm) -> Damage {
        Damage {
            victim,
            harm,
            done: String::new(),
            outcome: "",
        }
    }

    /// Does it, and says what it did.
    fn harm(&self, scene: &Scene<'_>) -> Result<String> {
        match self.harm {
            Harm::TornTail { bytes } => scene.bed.tear_log_tail(self.victim, bytes),
            Harm::Rot { what, seed } => scene.bed.rot(self.victim, what, seed),
            Harm::Wipe => scene.bed.wipe(self.victim).map(|()| "empty disk".to_owned()),
        }
    }
}

impl Fault for Damage {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn detail(&self) -> String {
        match self.outcome {
            "" => format!("{:?}", self.harm),
            outcome => format!("{}; {outcome}", self.done),
        }
    }

    fn claims(&self) -> Vec<Claim> {
        data_of(self.victim)
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.will_be_down(&[self.victim]);
        scene.bed.kill(self.victim)?;
        // From now on nothing is acknowledged that the victim has and only one of the others.
        scene.await_complete(&scene.others(&[self.victim]))?;
        if !matches!(self.harm, Harm::Wipe) {
            scene.note_damage(self.victim);
        }
        self.done = self.harm(scene)?;
        Ok(())
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        let before = replica_ids(scene, self.victim);
        match (scene.start(self.victim)?, self.harm) {
            (Started::Ready, Harm::TornTail { .. }) => {
                self.outcome = "repaired";
                scene.await_complete(&scene.ids())?;
                scene.forget_damage(self.victim);
            }
            (Started::Ready, Harm::Rot { .. }) => {
                self.outcome = rescan(scene, self.victim);
                // Whether all of it was met is not known: nobody relies on this disk any more.
                if scene.bed.is_running(self.victim) {
                    scene.will_be_down(&[self.victim]);
                    scene.bed.kill(self.victim)?;
                }
                scene.replace_disk(self.victim, "rotten bits")?;
            }
            (Started::Ready, Harm::Wipe) => {
                self.outcome = "joined again";
                scene.await_complete(&scene.ids())?;
                let after = replica_ids(scene, self.victim);
                let kept: Vec<_> = after.iter().filter(|id| before.contains(id)).collect();
                ensure!(
                    kept.is_empty(),
                    "node {} kept its replica ids {kept:?}",
                    self.victim
                );
            }
            (Started::Refused(why), Harm::Wipe) => {
                scene.blame_crash(self.victim);
                bail!("node {} does not start on an empty disk: {why}", self.victim);
            }
            (Started::Refused(why), _) => {
                self.outcome = "refused to start, new disk";
                scene.replace_disk(self.victim, &why)?;
            }
        }
        Ok(())
    }
}

/// The claims of a fault that destroys the data of a node.
pub(super) fn data_of(victim: u64) -> Vec<Claim> {
    vec![
        Claim::Data,
        Claim::Process(victim),
        Claim::Majority,
        Claim::Disk(victim),
        // The others have to be complete, so they have to reach each other; and whoever comes back, them.
        Claim::Cuts,
    ]
}

/// The replica ids that the cluster has given to a node.
fn replica_ids(scene: &Scene<'_>, node: u64) -> Vec<u64> {
    let others = scene.others(&[node]);
    let status = others.iter().find_map(|id| scene.status(*id).ok());
    let groups = status.into_iter().flat_map(|status| status.groups);
    let replicas = groups.flat_map(|group| group.replicas);
    replicas
        .filter(|replica| replica.node == node)
        .map(|replica| replica.replica)
        .collect()
}

/// Has a node read everything that it stores.
fn rescan(scene: &Scene<'_>, id: u64) -> &'static str {
    match scene.rescan(id) {
        Ok(()) => "not met when everything was read, new disk",
        Err(_) => "met when everything was read, new disk",
    }
}

/// A node with an empty disk, filled by snapshots, and killed in the middle; then whoever sends is.
pub(super) struct InterruptedSnapshot {
    victim: u64,
    others: Vec<u64>,
    seen: Vec<String>,
}

impl InterruptedSnapshot {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> InterruptedSnapshot {
        let victim = scene.some_node(rng);
        InterruptedSnapshot {
            victim,
            others: scene.others(&[victim]),
            seen: Vec::new(),
        }
    }

    /// Starts the empty node and waits for the moment when it has some of what it needs, and not all.
    fn half_filled(&mut self, scene: &Scene<'_>) -> Result<()> {
        let source = *self.others.first().context("no other node")?;
        let goal = scene.applied(source)?;
        scene.bed.start_node(self.victim)?;
        scene.until_quickly("an empty node to be filled in part", || {
            ensure!(scene.bed.is_running(self.victim), "it has ended");
            let own = scene.applied(self.victim)?;
            let full = |group: &u32| own.get(group).copied() >= goal.get(group).copied();
            let filled = own.iter().filter(|(_, applied)| **applied > 0).count();
            ensure!(filled > 0, "no shard has come");
            let missing = goal.keys().filter(|group| !full(group)).count();
            self.seen.push(format!("{filled} begun, {missing} missing"));
            Ok(())
        })
    }
}

impl Fault for InterruptedSnapshot {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn detail(&self) -> String {
        self.seen.join("; ")
    }

    fn claims(&self) -> Vec<Claim> {
        // Senders are killed as well.
        let senders = self.others.iter().map(|id| Claim::Process(*id));
        data_of(self.victim).into_iter().chain(senders).collect()
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.will_be_down(&[self.victim]);
        scene.bed.kill(self.victim)?;
        scene.await_complete(&self.others)?;
        scene.await_purged(&self.others)?;
        scene.bed.wipe(self.victim)
    }

    fn during(&mut self, scene: &Scene<'_>, hold: Duration) -> Result<()> {
        self.half_filled(scene)?;
        scene.bed.kill(self.victim)?;
        scene.hold(hold, || false);
        self.half_filled(scene)?;
        let leads = |id: &&u64| !scene.led(**id).is_empty();
        let sender = *self.others.iter().find(leads).context("nobody leads")?;
        scene.will_be_down(&[sender]);
        scene.bed.kill(sender)?;
        self.seen.push(format!("sender {sender} killed"));
        scene.hold(hold, || false);
        scene.start_sound(sender)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        for id in scene.ids() {
            scene.revive(id)?;
        }
        scene.await_complete(&scene.ids())
    }
}
