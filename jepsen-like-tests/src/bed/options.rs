//! What a bed is made of, and what is done to it.

use std::path::PathBuf;

use anyhow::{Result, ensure};

/// What a bed is made of.
#[derive(Debug, Clone)]
pub struct BedOptions {
    /// Number of nodes, 1 to 9.
    pub nodes: usize,
    /// What connects them.
    pub network: Wire,
    /// Where their disks are.
    pub medium: Medium,
    /// Size of each disk. It takes space as it fills.
    pub disk_mib: u64,
    /// The `quorate` binary; empty: the one that other tests run, see [`crate::process::quorate_binary`].
    pub binary: PathBuf,
    /// Configuration by key, as in `("flush.interval", "5s")`.
    pub settings: Vec<(String, String)>,
    /// Environment of the nodes.
    pub environment: Vec<(String, String)>,
    /// Leaves logs and the images of the disks behind.
    pub keep: bool,
    /// What the switch's chances follow from.
    pub seed: u64,
}

impl Default for BedOptions {
    fn default() -> Self {
        BedOptions {
            nodes: 3,
            network: Wire::Bridge,
            medium: Medium::Memory,
            disk_mib: 1024,
            binary: PathBuf::new(),
            settings: Vec::new(),
            environment: Vec::new(),
            keep: false,
            seed: 1,
        }
    }
}

impl BedOptions {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            (1..=9).contains(&self.nodes),
            "{} nodes: a bed has 1 to 9",
            self.nodes
        );
        ensure!(self.disk_mib >= 64, "{} MiB is too small a disk", self.disk_mib);
        Ok(())
    }
}

/// What connects nodes with each other and with clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The kernel's bridge.
    Bridge,
    /// A switch in the orchestrator's process that can also delay, lose, duplicate and reorder.
    Switch,
}

/// Where disks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// In memory, where syncing takes no time.
    Memory,
    /// On the machine's disk, and syncing means it.
    Disk,
}

/// An end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// A node.
    Node(u64),
    /// Everything that isn't a node: the orchestrator and its clients.
    Clients,
}

/// What happens to frames on a link, of what is said of it alone or else of all links.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Disturbance {
    /// Added to the way in this direction.
    pub delay_ms: u64,
    /// At most this is added besides. It doesn't change the order.
    pub jitter_ms: u64,
    /// Share of frames that never arrive.
    pub loss_percent: f64,
    /// Share of frames that arrive twice.
    pub duplicate_percent: f64,
    /// Share of frames that are overtaken by later ones.
    pub reorder_percent: f64,
    /// The one link meant, in this direction. `None`: all, clients' included.
    pub only: Option<(Peer, Peer)>,
}

/// What the switch has done to frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Switched {
    /// Lost by chance or for want of space.
    pub lost: u64,
    /// Lost in a cut.
    pub cut: u64,
    /// Held back.
    pub delayed: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Overtaken.
    pub reordered: u64,
}

/// What a node takes for the time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// How far the wall clock is ahead of the true one from now on; negative: behind.
    pub offset_ms: i64,
    /// How fast it runs, 1.0 being right.
    pub rate: f64,
    /// Whether the monotonic clock runs at that rate, too. It never jumps.
    pub monotonic_too: bool,
}

impl Clock {
    /// The true time. A monotonic clock that has drifted goes on from where it is, at the right rate.
    pub const TRUE: Clock = Clock {
        offset_ms: 0,
        rate: 1.0,
        monotonic_too: false,
    };
}

/// What happens to syncs and writes of a node's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// Nothing.
    None,
    /// Every sync fails with EIO, and syncs nothing.
    FsyncEio,
    /// The next sync fails with EIO, and syncs nothing.
    FsyncEioOnce,
    /// Every sync takes so much longer.
    Slow {
        /// Longer by this.
        ms: u64,
    },
    /// No sync returns until another fault, or none, is set.
    Hang,
    /// Every sync succeeds at once, and syncs nothing: what the disk of a careless machine does, and what a
    /// program without syncs would look like.
    FsyncLies,
    /// Every write fails with ENOSPC.
    WriteNoSpace,
    /// Every write fails with EIO.
    WriteEio,
    /// Every write takes so much longer.
    SlowWrites {
        /// Longer by this.
        ms: u64,
    },
}

/// What disk faults have done to a node since its bed was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faked {
    /// Syncs that were made to fail.
    pub syncs_failed: u64,
    /// Syncs that were made slow, or hung.
    pub syncs_delayed: u64,
    /// Writes that were made to fail.
    pub writes_failed: u64,
    /// Writes that were made slow.
    pub writes_delayed: u64,
    /// Syncs that did nothing and said that they had.
    pub syncs_skipped: u64,
}

/// Which file rots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rot {
    /// The newest log of RocksDB.
    Wal,
    /// One of its tables.
    Sst,
    /// Its list of files.
    Manifest,
}
