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

/// The mixes that the long tier takes turns with.
pub const ROTATION: [Mix; 12] = [
    Mix {
        name: "kills",
        kinds: &[KillLeader],
        lanes: ALONE,
        wire: Wire::Bridge,
        small_logs: false,
        max_gap: GAP,
    },
    Mix {
        name: "processes",
        kinds: &[
            KillLeader,
            KillRandom,
            KillAll,
            Pause,
            RollingRestart,
            CpuStarvation,
        ],
        lanes: OVERLAP,
        wire: Wire::Bridge,
        small_logs: false,
        max_gap: GAP,
    },
    Mix {
        name: "power",
        kinds: &[PowerCutAll, PowerCutOne, KillLeader, SlowDisk],
        lanes: 2,
        wire: Wire::Bridge,
        small_logs: false,
        max_gap: SHORT_GAP,
    },
    Mix {
        name: "partitions",
        kinds: &[
            PartitionMajority,
            PartitionMinority,
            PartitionOneWay,
            PartitionBridge,
            PartitionClients,
            FlappingLink,
            KillRandom,
        ],
        lanes: OVERLAP,
        wire: Wire::Bridge,
        small_logs: false,
        max_gap: SHORT_GAP,
    },
    Mix {
        name: "wire",
        kinds: &[Delay, Loss, Duplicate, Reorder, PartitionMinority, KillLeader],
        lanes: OVERLAP,
        wire: Wire::Switch,
        small_logs: false,
        max_gap: GAP,
    },
    Mix {
        name: "clocks",
        kinds: &[
            ClockForward,
            ClockBack,
            ClockDrift,
            Pause,
            TransferStorm,
            KillLeader,
        ],
        lanes: OVERLAP,
        wire: Wire::Bridge,
        small_logs: false,
        max_gap: GAP,
    },
    Mix {
        name: "disks",
        kinds: &[
            DiskFull,
            SlowDisk,
            HungDisk,
            FsyncEio,
            PowerCutOne,
            PartitionMajority,
        ],
        lanes: OVERLAP,
        wire: Wire::Bridge,
        small_logs: true,
        max_gap: GAP,
    },
    Mix {
        name: "damage",
        kinds: &[TornLogTail, BitRot, WipedDisk, KillRandom, PowerCutAll],
        lanes: OVERLAP,
        wire: Wire::Bridge,
        small_logs: true,
        max_gap: GAP,
    },
    Mix {
        name: "snapshots",
        kinds: &[InterruptedSnapshot, WipedDisk, KillLeader, PartitionOneWay],
        lanes: OVERLAP,
        wire: Wire::Bridge,
        small_logs: true,
        max_gap: GAP,
    },
    Mix {
        name: "leadership",
        kinds: &[TransferStorm, RollingRestart, PartitionOneWay, Pause, KillLeader],
        lanes: OVERLAP,
        wire: Wire::Bridge,
        small_logs: false,
        max_gap: GAP,
    },
    Mix {
        name: "resources",
        kinds: &[
            FdExhaustion,
            MemoryPressure,
            CpuStarvation,
            SlowDisk,
            DiskFull,
            KillRandom,
            Pause,
        ],
        lanes: OVERLAP,
        wire: Wire::Bridge,
        small_logs: true,
        max_gap: GAP,
    },
    Mix {
        name: "everything",
        kinds: &[
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
        lanes: OVERLAP,
        wire: Wire::Switch,
        small_logs: true,
        max_gap: SHORT_GAP,
    },
];

/// Crashes at named places of the code. Needs a binary that has such places.
pub const CRASH_POINTS: Mix = Mix {
    name: "crash-points",
    kinds: &[CrashPoint, KillLeader, PartitionMinority],
    lanes: 2,
    wire: Wire::Bridge,
    small_logs: true,
    max_gap: SHORT_GAP,
};

/// Nothing but power cuts of all voters, back to back.
pub const POWER_CUTS: Mix = Mix {
    name: "power-cuts",
    kinds: &[PowerCutAll],
    lanes: ALONE,
    wire: Wire::Bridge,
    small_logs: false,
    max_gap: GAP,
};

/// What fits into a minute of the tier that every change has to pass.
pub const CHAOS: Mix = Mix {
    name: "chaos",
    kinds: &[
        PowerCutAll,
        KillLeader,
        PartitionMinority,
        PartitionOneWay,
        PartitionClients,
        Pause,
        ClockDrift,
        SlowDisk,
        FsyncEio,
        TornLogTail,
        TransferStorm,
    ],
    lanes: OVERLAP,
    wire: Wire::Bridge,
    small_logs: true,
    max_gap: SHORT_GAP,
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
