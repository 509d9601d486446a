//! Faults as the history has them.

use serde::{Deserialize, Serialize};

/// What is done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// SIGKILL of a node that leads.
    KillLeader,
    /// SIGKILL of any node.
    KillRandom,
    /// SIGKILL of all nodes at once.
    KillAll,
    /// One node loses what it has not synced.
    PowerCutOne,
    /// All nodes lose what they have not synced, at once.
    PowerCutAll,
    /// The leader stays with a majority.
    PartitionMajority,
    /// The leader stays with a minority.
    PartitionMinority,
    /// One direction of a link is cut.
    PartitionOneWay,
    /// Two halves that reach each other through one node only.
    PartitionBridge,
    /// Clients don't reach a node that its peers reach.
    PartitionClients,
    /// A link goes down and up again many times a second.
    FlappingLink,
    /// Packets are late.
    Delay,
    /// Packets are lost.
    Loss,
    /// Packets come twice.
    Duplicate,
    /// Packets come in another order.
    Reorder,
    /// A process stands still beyond its lease.
    Pause,
    /// The wall clock jumps ahead.
    ClockForward,
    /// The wall clock jumps back.
    ClockBack,
    /// A clock runs at another rate.
    ClockDrift,
    /// No space is left.
    DiskFull,
    /// Every sync takes long.
    SlowDisk,
    /// No sync returns.
    HungDisk,
    /// A sync fails.
    FsyncEio,
    /// The end of the log is gone or damaged when a node starts.
    TornLogTail,
    /// Bits of a file are flipped while the node is down.
    BitRot,
    /// A node comes back with an empty disk.
    WipedDisk,
    /// A snapshot's sender or receiver dies in its midst.
    InterruptedSnapshot,
    /// Leaders are moved about.
    TransferStorm,
    /// All nodes are restarted in order, one after another.
    RollingRestart,
    /// No file descriptor is left.
    FdExhaustion,
    /// A process gets a fraction of a core.
    CpuStarvation,
    /// A process dies at a named point of its code.
    CrashPoint,
    /// Memory is short.
    MemoryPressure,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [FaultKind; 33] = [
        FaultKind::KillLeader,
        FaultKind::KillRandom,
        FaultKind::KillAll,
        FaultKind::PowerCutOne,
        FaultKind::PowerCutAll,
        FaultKind::PartitionMajority,
        FaultKind::PartitionMinority,
        FaultKind::PartitionOneWay,
        FaultKind::PartitionBridge,
        FaultKind::PartitionClients,
        FaultKind::FlappingLink,
        FaultKind::Delay,
        FaultKind::Loss,
        FaultKind::Duplicate,
        FaultKind::Reorder,
        FaultKind::Pause,
        FaultKind::ClockForward,
        FaultKind::ClockBack,
        FaultKind::ClockDrift,
        FaultKind::DiskFull,
        FaultKind::SlowDisk,
        FaultKind::HungDisk,
        FaultKind::FsyncEio,
        FaultKind::TornLogTail,
        FaultKind::BitRot,
        FaultKind::WipedDisk,
        FaultKind::InterruptedSnapshot,
        FaultKind::TransferStorm,
        FaultKind::RollingRestart,
        FaultKind::FdExhaustion,
        FaultKind::CpuStarvation,
        FaultKind::CrashPoint,
        FaultKind::MemoryPressure,
    ];

    /// Its name in a history, e.g. `kill_leader`.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::KillLeader => "kill_leader",
            FaultKind::KillRandom => "kill_random",
            FaultKind::KillAll => "kill_all",
            FaultKind::PowerCutOne => "power_cut_one",
            FaultKind::PowerCutAll => "power_cut_all",
            FaultKind::PartitionMajority => "partition_majority",
            FaultKind::PartitionMinority => "partition_minority",
            FaultKind::PartitionOneWay => "partition_one_way",
            FaultKind::PartitionBridge => "partition_bridge",
            FaultKind::PartitionClients => "partition_clients",
            FaultKind::FlappingLink => "flapping_link",
            FaultKind::Delay => "delay",
            FaultKind::Loss => "loss",
            FaultKind::Duplicate => "duplicate",
            FaultKind::Reorder => "reorder",
            FaultKind::Pause => "pause",
            FaultKind::ClockForward => "clock_forward",
            FaultKind::ClockBack => "clock_back",
            FaultKind::ClockDrift => "clock_drift",
            FaultKind::DiskFull => "disk_full",
            FaultKind::SlowDisk => "slow_disk",
            FaultKind::HungDisk => "hung_disk",
            FaultKind::FsyncEio => "fsync_eio",
            FaultKind::TornLogTail => "torn_log_tail",
            FaultKind::BitRot => "bit_rot",
            FaultKind::WipedDisk => "wiped_disk",
            FaultKind::InterruptedSnapshot => "interrupted_snapshot",
            FaultKind::TransferStorm => "transfer_storm",
            FaultKind::RollingRestart => "rolling_restart",
            FaultKind::FdExhaustion => "fd_exhaustion",
            FaultKind::CpuStarvation => "cpu_starvation",
            FaultKind::CrashPoint => "crash_point",
            FaultKind::MemoryPressure => "memory_pressure",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<FaultKind> {
        FaultKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Which end of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is about to be injected.
    Begin,
    /// It is healed: what was cut is joined, what was killed runs and listens.
    End,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_those_of_the_history() {
        let mut names = BTreeSet::new();
        for kind in FaultKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(FaultKind::from_name(kind.name()), Some(kind));
            names.insert(kind.name());
        }
        assert_eq!(names.len(), FaultKind::ALL.len());
    }
}
