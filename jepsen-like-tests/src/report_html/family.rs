//! Kinds of faults in families, which share a colour.

use crate::history::FaultKind;

/// What a fault is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    Power,
    Process,
    Network,
    Disk,
    Clock,
    Scarcity,
    Operation,
}

impl Family {
    pub(crate) const ALL: [Family; 7] = [
        Family::Power,
        Family::Process,
        Family::Network,
        Family::Disk,
        Family::Clock,
        Family::Scarcity,
        Family::Operation,
    ];

    /// The family of a kind.
    pub(crate) fn of(kind: FaultKind) -> Family {
        use FaultKind::*;
        match kind {
            PowerCutOne | PowerCutAll => Family::Power,
            KillLeader | KillRandom | KillAll | Pause | CrashPoint => Family::Process,
            PartitionMajority | PartitionMinority | PartitionOneWay | PartitionBridge | PartitionClients
            | FlappingLink | Delay | Loss | Duplicate | Reorder => Family::Network,
            DiskFull | SlowDisk | HungDisk | FsyncEio | TornLogTail | BitRot | WipedDisk => Family::Disk,
            ClockForward | ClockBack | ClockDrift => Family::Clock,
            FdExhaustion | CpuStarvation | MemoryPressure => Family::Scarcity,
            InterruptedSnapshot | TransferStorm | RollingRestart => Family::Operation,
        }
    }

    /// As shown.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::Power => "power",
            Family::Process => "process",
            Family::Network => "network",
            Family::Disk => "disk",
            Family::Clock => "clock",
            Family::Scarcity => "scarcity",
            Family::Operation => "operation",
        }
    }
}

/// A kind as people write it: `power_cut_all` is "power cut all".
pub(crate) fn kind_name(kind: FaultKind) -> String {
    kind.name().replace('_', " ")
}
