//! Disks that are full, slow, hang, or can't sync.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::claims::Claim;
use super::fault::{Fault, processes};
use super::scene::Scene;
use crate::bed::DiskFault;

/// A process that is told that its sync failed has to end within this time: while there is load, it syncs
/// many times a second.
const ABORT: Duration = Duration::from_secs(20);

/// A write that found no space ends the process within this time.
const AFTERMATH: Duration = Duration::from_secs(3);

/// A disk without space.
pub(super) struct Full {
    victim: u64,
    /// Free bytes that are left. Below the reserve a node refuses writes; with none it can't write its log,
    /// and ends.
    leave_bytes: u64,
    claims: Vec<Claim>,
}

impl Full {
    /// `reserve_bytes`: what the nodes are configured to keep free.
    pub(super) fn new(scene: &Scene<'_>, reserve_bytes: u64, rng: &mut StdRng) -> Full {
        let victim = scene.some_node(rng);
        let nothing = rng.random_bool(0.5);
        Full {
            victim,
            leave_bytes: if nothing { 0 } else { reserve_bytes / 2 },
            claims: processes(&[victim], rng),
        }
    }
}

impl Fault for Full {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn detail(&self) -> String {
        format!("{} bytes left", self.leave_bytes)
    }

    fn claims(&self) -> Vec<Claim> {
        [self.claims.clone(), vec![Claim::Disk(self.victim)]].concat()
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        if self.leave_bytes == 0 {
            scene.will_be_down(&[self.victim]);
        }
        scene.bed.fill_disk(self.victim, self.leave_bytes)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.free_disk(self.victim)?;
        match self.leave_bytes {
            0 => scene.revive_after(self.victim, AFTERMATH),
            _ => Ok(()),
        }
    }
}

/// A disk that takes its time, or for a while does nothing at all.
pub(super) struct SlowSync {
    victim: u64,
    fault: DiskFault,
    what: String,
    delayed: u64,
    claims: Vec<Claim>,
}

impl SlowSync {
    /// Every sync takes longer.
    pub(super) fn slow(scene: &Scene<'_>, rng: &mut StdRng) -> SlowSync {
        let victim = scene.some_leader(rng);
        let ms = rng.random_range(20..=400);
        SlowSync {
            victim,
            fault: DiskFault::Slow { ms },
            what: format!("{ms} ms a sync"),
            delayed: 0,
            claims: vec![Claim::Disk(victim)],
        }
    }

    /// No sync ends.
    pub(super) fn hung(scene: &Scene<'_>, rng: &mut StdRng) -> SlowSync {
        let victim = scene.some_leader(rng);
        let claims = [processes(&[victim], rng), vec![Claim::Disk(victim)]].concat();
        SlowSync {
            victim,
            fault: DiskFault::Hang,
            what: "no sync ends".to_owned(),
            delayed: 0,
            claims,
        }
    }
}

impl Fault for SlowSync {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn detail(&self) -> String {
        match self.delayed {
            0 => self.what.clone(),
            syncs => format!("{}: {syncs} syncs", self.what),
        }
    }

    fn claims(&self) -> Vec<Claim> {
        self.claims.clone()
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        self.delayed = scene.bed.faked(self.victim)?.syncs_delayed;
        scene.bed.disk_fault(self.victim, self.fault)
    }

    fn was_felt(&self) -> bool {
        self.delayed > 0
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        let before = self.delayed;
        self.delayed = scene.bed.faked(self.victim)?.syncs_delayed - before;
        scene.bed.disk_fault(self.victim, DiskFault::None)
    }
}

/// A sync that fails. The kernel may have dropped what was written, so the process has to end; it must not
/// try once more and believe the second answer.
pub(super) struct SyncFails {
    victim: u64,
    claims: Vec<Claim>,
}

impl SyncFails {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> SyncFails {
        let victim = scene.some_leader(rng);
        SyncFails {
            victim,
            claims: processes(&[victim], rng),
        }
    }
}

impl Fault for SyncFails {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn claims(&self) -> Vec<Claim> {
        // A node that is cut off has nothing to sync.
        let others = [Claim::Disk(self.victim), Claim::Cuts];
        [self.claims.clone(), others.to_vec()].concat()
    }

    fn still_fits(&self, scene: &Scene<'_>) -> bool {
        !scene.led(self.victim).is_empty()
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.will_be_down(&[self.victim]);
        scene.bed.disk_fault(self.victim, DiskFault::FsyncEio)
    }

    fn during(&mut self, scene: &Scene<'_>, hold: Duration) -> Result<()> {
        scene.hold(ABORT, || !scene.bed.is_running(self.victim));
        ensure!(
            !scene.bed.is_running(self.victim),
            "node {} goes on although its syncs fail",
            self.victim
        );
        scene.hold(hold, || false);
        Ok(())
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.disk_fault(self.victim, DiskFault::None)?;
        scene.revive(self.victim)
    }
}
