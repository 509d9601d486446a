//! What will be broken, for how long and in which order: all of it from one seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::mixes::Mix;
use crate::history::FaultKind;

/// A fault to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Counts from 1.
    pub number: u64,
    /// What.
    pub kind: FaultKind,
    /// The pause before it, in its lane.
    pub gap: Duration,
    /// How long it lasts.
    pub hold: Duration,
    /// Of everything else that is left to chance: victims, sides, sizes.
    pub seed: u64,
}

/// An endless plan. Kinds come in rounds, each round in an order of its own, so that none is left out.
#[derive(Debug)]
pub struct Plan {
    rng: StdRng,
    kinds: Vec<FaultKind>,
    max_gap: Duration,
    round: Vec<FaultKind>,
    number: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, mix: &Mix) -> Plan {
        Plan {
            rng: StdRng::seed_from_u64(seed),
            kinds: mix.kinds.to_vec(),
            max_gap: mix.max_gap,
            round: Vec::new(),
            number: 0,
        }
    }
}

impl Iterator for Plan {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if self.round.is_empty() {
            self.round.clone_from(&self.kinds);
            self.round.shuffle(&mut self.rng);
        }
        let kind = self.round.pop()?;
        self.number += 1;
        let max_gap_ms = u64::try_from(self.max_gap.as_millis()).unwrap_or(u64::MAX);
        Some(Planned {
            number: self.number,
            kind,
            gap: Duration::from_millis(self.rng.random_range(max_gap_ms / 5..=max_gap_ms)),
            hold: Duration::from_millis(self.rng.random_range(hold_ms(kind))),
            seed: self.rng.random(),
        })
    }
}

/// How long a fault of a kind lasts, in milliseconds. Long against elections (250 to 375 ms) where the rest of
/// the cluster has to cope without the victim; short where nothing can be acknowledged meanwhile.
fn hold_ms(kind: FaultKind) -> RangeInclusive<u64> {
    match kind {
        FaultKind::KillAll | FaultKind::PowerCutAll => 0..=500,
        FaultKind::KillLeader | FaultKind::KillRandom | FaultKind::PowerCutOne => 0..=2_500,
        FaultKind::Pause => 500..=5_000,
        FaultKind::HungDisk => 500..=6_000,
        FaultKind::TornLogTail | FaultKind::BitRot | FaultKind::WipedDisk => 0..=1_500,
        FaultKind::InterruptedSnapshot | FaultKind::RollingRestart | FaultKind::CrashPoint => 0..=500,
        // Two checks a second apart have to see the clock, or the free space, in any case.
        FaultKind::ClockForward | FaultKind::ClockBack | FaultKind::DiskFull => 1_500..=8_000,
        _ => 1_000..=8_000,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::nemesis::mixes::ROTATION;

    #[test]
    fn a_seed_is_a_plan() {
        for mix in &ROTATION {
            let take = |seed| Plan::new(seed, mix).take(200).collect::<Vec<_>>();
            assert_eq!(take(7), take(7));
            assert_ne!(take(7), take(8));
        }
    }

    #[test]
    fn every_kind_comes_once_a_round() {
        for mix in &ROTATION {
            let plan: Vec<Planned> = Plan::new(1, mix).take(3 * mix.kinds.len()).collect();
            for round in plan.chunks(mix.kinds.len()) {
                let kinds: BTreeSet<String> = round
                    .iter()
                    .map(|planned| format!("{:?}", planned.kind))
                    .collect();
                assert_eq!(kinds.len(), mix.kinds.len());
            }
        }
    }
}
