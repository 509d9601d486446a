//! Breaks things: a seeded plan of faults that overlap, each noted before it is injected and after it is healed.
//!
//! A [`plan`] says what comes next; a [`Nemesis`] has several lanes, each of which takes the next fault of the
//! plan, chooses its victims, waits until nothing that it needs is broken by another one ([`claims`]), and
//! sees it through. Which faults go together is a [`mixes::Mix`]. A fault that ends brings back what it broke.

pub mod claims;
pub mod mixes;
pub mod plan;
pub mod scene;

mod clock;
mod crash;
mod damage;
mod disk;
mod fault;
mod kill;
mod leadership;
mod network;
mod power;
mod resources;
mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use fault::Fault;
use mixes::Mix;
use plan::{Plan, Planned};
use scene::Scene;

use crate::history::{Action, FaultKind, Phase, Stage};

/// How long a fault may wait for others to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often victims are chosen again because they changed while the fault waited.
const CHOICES: usize = 5;

/// Throws the faults of a mix until it is told to stop.
#[derive(Debug)]
pub struct Nemesis<'a> {
    scene: &'a Scene<'a>,
    mix: Mix,
    plan: Mutex<Plan>,
    stop: &'a AtomicBool,
    deadline: Instant,
    fired: Mutex<BTreeMap<FaultKind, u64>>,
    troubles: Mutex<Vec<String>>,
}

/// What a nemesis did.
#[derive(Debug, Clone, Default)]
pub struct Deeds {
    /// How often each kind was begun, felt and ended.
    pub fired: BTreeMap<FaultKind, u64>,
    /// Faults that could not be injected, or from which the cluster did not come back in time.
    pub troubles: Vec<String>,
}

impl<'a> Nemesis<'a> {
    /// A nemesis that begins no fault after `duration`, but for kinds that did not have their turn yet, and none
    /// once `stop` is set.
    pub fn new(
        scene: &'a Scene<'a>,
        mix: Mix,
        seed: u64,
        duration: Duration,
        stop: &'a AtomicBool,
    ) -> Nemesis<'a> {
        Nemesis {
            scene,
            plan: Mutex::new(Plan::new(seed, &mix)),
            mix,
            stop,
            deadline: Instant::now() + duration,
            fired: Mutex::default(),
            troubles: Mutex::default(),
        }
    }

    /// Runs until the time is up and every fault is undone. Each lane has a thread.
    pub fn run(self) -> Deeds {
        std::thread::scope(|scope| {
            for _ in 0..self.mix.lanes {
                scope.spawn(|| self.lane());
            }
        });
        Deeds {
            fired: self.fired.into_inner().unwrap_or_else(PoisonError::into_inner),
            troubles: self.troubles.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn lane(&self) {
        loop {
            let planned = self.plan.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(planned) = planned.filter(|planned| !self.is_over_before(planned)) else {
                return;
            };
            self.scene.hold(planned.gap, || self.is_over_before(&planned));
            if self.is_over_before(&planned) {
                return;
            }
            if let Err(error) = self.see_through(&planned) {
                let trouble = format!("fault {} {}: {error:#}", planned.number, planned.kind.name());
                self.troubles
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(trouble);
                // The cluster is not what the plan takes it for.
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whether a fault is not to begin any more. The first round of a plan has every kind, and is finished.
    fn is_over_before(&self, planned: &Planned) -> bool {
        let first_round = planned.number <= self.mix.kinds.len() as u64;
        self.stop.load(Ordering::Relaxed) || (Instant::now() >= self.deadline && !first_round)
    }

    /// Chooses victims, waits until they are free, and does it.
    fn see_through(&self, planned: &Planned) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(planned.seed);
        for choice in 1..=CHOICES {
            let mut fault = choose(planned.kind, self.scene, &mut rng)?;
            let Some(_held) = self.scene.claims.take(fault.claims(), PATIENCE) else {
                bail!("what it needs was not free for {PATIENCE:?}");
            };
            if self.is_over_before(planned) {
                return Ok(());
            }
            if choice == CHOICES || fault.still_fits(self.scene) {
                return self.inject(planned, fault.as_mut());
            }
        }
        Ok(())
    }

    fn inject(&self, planned: &Planned, fault: &mut dyn Fault) -> Result<()> {
        let victims = fault.victims();
        let orphaned = match ends_processes(planned.kind) {
            true => self.scene.led_by_any(&victims),
            false => Vec::new(),
        };
        let note = |phase, detail, orphaned| {
            let action = Action::Fault {
                id: planned.number,
                kind: planned.kind,
                phase,
                victims: victims.clone(),
                detail,
                orphaned,
            };
            self.scene.recorder.record(Stage::Info, action);
        };
        note(Phase::Begin, fault.detail(), orphaned);
        let done = fault
            .begin(self.scene)
            .and_then(|()| fault.during(self.scene, planned.hold));
        let undone = fault.end(self.scene);
        let trouble = done.and(undone);
        let detail = match &trouble {
            Ok(()) => fault.detail(),
            Err(error) => format!("{}; {error:#}", fault.detail()),
        };
        note(Phase::End, detail, Vec::new());
        if fault.was_felt() {
            let mut fired = self.fired.lock().unwrap_or_else(PoisonError::into_inner);
            *fired.entry(planned.kind).or_default() += 1;
        }
        trouble
    }
}

/// Whether the victims of a kind stop to lead at its very beginning, all at once.
fn ends_processes(kind: FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::KillLeader
            | FaultKind::KillRandom
            | FaultKind::KillAll
            | FaultKind::PowerCutOne
            | FaultKind::PowerCutAll
            | FaultKind::TornLogTail
            | FaultKind::BitRot
            | FaultKind::WipedDisk
            | FaultKind::InterruptedSnapshot
    )
}

/// A fault of a kind, with victims.
fn choose(kind: FaultKind, scene: &Scene<'_>, rng: &mut StdRng) -> Result<Box<dyn Fault>> {
    use FaultKind as Kind;
    Ok(match kind {
        Kind::KillLeader => Box::new(kill::Kill::leader(scene, rng)),
        Kind::KillRandom => Box::new(kill::Kill::any(scene, rng)),
        Kind::KillAll => Box::new(kill::KillAll::new(scene, rng)),
        Kind::PowerCutOne => Box::new(power::PowerCut::one(scene, rng)),
        Kind::PowerCutAll => Box::new(power::PowerCut::all(scene, rng)),
        Kind::PartitionMajority => Box::new(network::Partition::follower_alone(scene, rng)),
        Kind::PartitionMinority => Box::new(network::Partition::leader_alone(scene, rng)),
        Kind::PartitionOneWay => Box::new(network::Partition::one_way(scene, rng)),
        Kind::PartitionBridge => Box::new(network::Partition::bridge(scene, rng)),
        Kind::PartitionClients => Box::new(network::Partition::from_clients(scene, rng)),
        Kind::FlappingLink => Box::new(network::Flapping::new(scene, rng)),
        Kind::Delay => Box::new(wire::Disturb::delay(scene, rng)),
        Kind::Loss => Box::new(wire::Disturb::loss(scene, rng)),
        Kind::Duplicate => Box::new(wire::Disturb::duplicate(scene, rng)),
        Kind::Reorder => Box::new(wire::Disturb::reorder(scene, rng)),
        Kind::Pause => Box::new(kill::Pause::new(scene, rng)),
        Kind::ClockForward => Box::new(clock::WrongClock::jump(scene, rng, 1)),
        Kind::ClockBack => Box::new(clock::WrongClock::jump(scene, rng, -1)),
        Kind::ClockDrift => Box::new(clock::WrongClock::drift(scene, rng)),
        Kind::DiskFull => Box::new(disk::Full::new(scene, RESERVE_BYTES, rng)),
        Kind::SlowDisk => Box::new(disk::SlowSync::slow(scene, rng)),
        Kind::HungDisk => Box::new(disk::SlowSync::hung(scene, rng)),
        Kind::FsyncEio => Box::new(disk::SyncFails::new(scene, rng)),
        Kind::TornLogTail => Box::new(damage::Damage::torn_tail(scene, rng)),
        Kind::BitRot => Box::new(damage::Damage::rot(scene, rng)),
        Kind::WipedDisk => Box::new(damage::Damage::wipe(scene, rng)),
        Kind::InterruptedSnapshot => Box::new(damage::InterruptedSnapshot::new(scene, rng)),
        Kind::TransferStorm => Box::new(leadership::TransferStorm::new(rng)),
        Kind::RollingRestart => Box::new(kill::RollingRestart::new(scene, rng)),
        Kind::FdExhaustion => Box::new(resources::NoFiles::new(scene, rng)),
        Kind::CpuStarvation => Box::new(resources::Starved::new(scene, rng)),
        Kind::MemoryPressure => Box::new(resources::NoMemory::new(scene, rng)),
        Kind::CrashPoint => Box::new(crash::CrashPoint::new(scene, rng)?),
    })
}

/// `disk_reserve_bytes` of the nodes under test: small against their disks.
pub const RESERVE_BYTES: u64 = 64 << 20;
