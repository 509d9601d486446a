//! Which kinds of faults are thrown together.

use std::time::Duration;

use crate::bed::Wire;
use crate::history::FaultKind::{self, *};

/// A set of faults for one run, and the cluster that gives them a subject.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// For `--mixes` and for the record.
    pub name: &'static str,
    /// The kinds; each has to fire at least once.
    pub kinds: &'static [FaultKind],
    /// How many faults may overlap.
    pub lanes: usize,
    /// How packets travel: only a switch can delay, lose, double and reorder them.
    pub wire: Wire,
    /// Short flush intervals and small logs, so that what a node missed is gone from the others' logs and it
    /// needs a snapshot.
    pub small_logs: bool,
    /// Longest pause between two faults of a lane.
    pub max_gap: Duration,
}

/// Faults one at a time, of a kind, without others beside them: for clean figures.
const ALONE: usize = 1;
const OVERLAP: usize = 3;
const GAP: Duration = Duration::from_millis(2_500);
const SHORT_GAP: Duration = Duration::from_millis(600);

/// Faults that overlap on a bridge, with logs as long as they usually are.
const fn mix(name: &'static str, kinds: &'static [FaultKind]) -> Mix {
    Mix {
        name,
        kinds,
        lanes: OVERLAP,
        wire: Wire::Bridge,
        small_logs: false,
        max_gap: GAP,
    }
}

/// The mixes that the long tier takes turns with.
pub const ROTATION: [Mix; 12] = [
    Mix {
        lanes: ALONE,
        ..mix("kills", &[KillLeader])
    },
    mix(
        "processes",
        &[
            KillLeader,
            KillRandom,
            KillAll,
            Pause,
            RollingRestart,
            CpuStarvation,
        ],
    ),
    Mix {
        lanes: 2,
        max_gap: SHORT_GAP,
        ..mix("power", &[PowerCutAll, PowerCutOne, KillLeader, SlowDisk])
    },
    Mix {
        max_gap: SHORT_GAP,
        ..mix(
            "partitions",
            &[
                PartitionMajority,
                PartitionMinority,
                PartitionOneWay,
                PartitionBridge,
                PartitionClients,
                FlappingLink,
                KillRandom,
            ],
        )
    },
    Mix {
        wire: Wire::Switch,
        ..mix(
            "wire",
            &[Delay, Loss, Duplicate, Reorder, PartitionMinority, KillLeader],
        )
    },
    mix(
        "clocks",
        &[
            ClockForward,
            ClockBack,
            ClockDrift,
            Pause,
            TransferStorm,
            KillLeader,
        ],
    ),
    Mix {
        small_logs: true,
        ..mix(
            "disks",
            &[
                DiskFull,
                SlowDisk,
                HungDisk,
                FsyncEio,
                PowerCutOne,
                PartitionMajority,
            ],
        )
    },
    Mix {
        small_logs: true,
        ..mix(
            "damage",
            &[TornLogTail, BitRot, WipedDisk, KillRandom, PowerCutAll],
        )
    },
    Mix {
        small_logs: true,
        ..mix(
            "snapshots",
            &[InterruptedSnapshot, WipedDisk, KillLeader, PartitionOneWay],
        )
    },
    mix(
        "leadership",
        &[TransferStorm, RollingRestart, PartitionOneWay, Pause, KillLeader],
    ),
    Mix {
        small_logs: true,
        ..mix(
            "resources",
            &[
                FdExhaustion,
                MemoryPressure,
                CpuStarvation,
                SlowDisk,
                DiskFull,
                KillRandom,
                Pause,
            ],
        )
    },
    Mix {
        wire: Wire::Switch,
        small_logs: true,
        max_gap: SHORT_GAP,
        ..mix(
            "everything",
            &[
                KillLeader,
                KillRandom,
                KillAll,
                PowerCutOne,
                PowerCutAll,
                PartitionMajority,
                PartitionMinority,
                PartitionOneWay,
                PartitionBridge,
                PartitionClients,
                FlappingLink,
                Delay,
                Loss,
                Duplicate,
                Reorder,
                Pause,
                ClockForward,
                ClockBack,
                ClockDrift,
                DiskFull,
                SlowDisk,
                HungDisk,
                FsyncEio,
                TornLogTail,
                BitRot,
                WipedDisk,
                InterruptedSnapshot,
                TransferStorm,
                RollingRestart,
                FdExhaustion,
                MemoryPressure,
                CpuStarvation,
            ],
        )
    },
];

/// Crashes at named places of the code. Needs a binary that has such places.
pub const CRASH_POINTS: Mix = Mix {
    lanes: 2,
    small_logs: true,
    max_gap: SHORT_GAP,
    ..mix("crash-points", &[CrashPoint, KillLeader, PartitionMinority])
};

/// Nothing but power cuts of all voters, back to back.
pub const POWER_CUTS: Mix = Mix {
    lanes: ALONE,
    ..mix("power-cuts", &[PowerCutAll])
};

/// What fits into a minute of the tier that every change has to pass.
pub const CHAOS: Mix = Mix {
    small_logs: true,
    max_gap: SHORT_GAP,
    ..mix(
        "chaos",
        &[
            PowerCutAll,
            KillLeader,
            PartitionMinority,
            PartitionOneWay,
            PartitionClients,
            Pause,
            ClockForward,
            SlowDisk,
            FsyncEio,
            TornLogTail,
            TransferStorm,
        ],
    )
};

/// All mixes that can be asked for by name.
pub fn by_name(name: &str) -> Option<Mix> {
    let special = [CRASH_POINTS, POWER_CUTS, CHAOS];
    ROTATION.into_iter().chain(special).find(|mix| mix.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for mix in ROTATION {
            assert_eq!(
                by_name(mix.name).map(|found| found.kinds),
                Some(mix.kinds),
                "{}",
                mix.name
            );
        }
        assert!(by_name("weather").is_none());
    }

    #[test]
    fn only_a_switch_disturbs_packets() {
        for mix in ROTATION.into_iter().chain([CRASH_POINTS, POWER_CUTS, CHAOS]) {
            let disturbs = [Delay, Loss, Duplicate, Reorder]
                .iter()
                .any(|kind| mix.kinds.contains(kind));
            assert!(!disturbs || matches!(mix.wire, Wire::Switch), "{}", mix.name);
        }
    }

    #[test]
    fn the_rotation_leaves_nothing_out() {
        let everything = ROTATION[ROTATION.len() - 1].kinds;
        for mix in ROTATION {
            for kind in mix.kinds {
                assert!(everything.contains(kind), "{kind:?} of {}", mix.name);
                assert_ne!(*kind, CrashPoint, "only a special binary has it");
            }
        }
    }
}
