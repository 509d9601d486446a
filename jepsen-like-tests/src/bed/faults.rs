//! What a bed does to its nodes beside starting and killing them.

use anyhow::{Context as _, Result};
use rustix::process::Resource;

use super::network::Network;
use super::{Bed, Clock, DiskFault, Disturbance, Faked, Peer, Rot, Switched, at_once, damage};

/// Scarcity.
impl Bed {
    /// Leaves a node `percent` of one processor, also after restarts.
    pub fn starve_cpu(&self, id: u64, percent: u32) -> Result<()> {
        let mut state = self.host(id)?.lock();
        let pid = state.running_pid(id)?;
        state.cpu.limit(pid, percent)
    }

    /// Ends [`Bed::starve_cpu`].
    pub fn feed_cpu(&self, id: u64) -> Result<()> {
        self.host(id)?.lock().cpu.lift()
    }

    /// How many times a starved node has had to wait for its share.
    pub fn throttled(&self, id: u64) -> Result<u64> {
        self.host(id)?.lock().cpu.throttled()
    }

    /// Lets the process open no file whose number would be `most` or more, until it ends. With a small `most`,
    /// it can open none at all.
    pub fn limit_files(&self, id: u64, most: u64) -> Result<()> {
        self.host(id)?.lock().limit(id, Resource::Nofile, Some(most))
    }

    /// Ends [`Bed::limit_files`].
    pub fn unlimit_files(&self, id: u64) -> Result<()> {
        self.host(id)?.lock().limit(id, Resource::Nofile, None)
    }

    /// Files that the process has open.
    pub fn open_files(&self, id: u64) -> Result<u64> {
        let pid = self.host(id)?.lock().running_pid(id)?;
        Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
    }

    /// Lets the process take `headroom_bytes` of address space more than it has, until it ends.
    pub fn limit_memory(&self, id: u64, headroom_bytes: u64) -> Result<()> {
        let mut state = self.host(id)?.lock();
        let pid = state.running_pid(id)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let size = status
            .lines()
            .find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
        let kib: u64 = size.context("no VmSize")?.parse()?;
        state.limit(id, Resource::As, Some(kib * 1024 + headroom_bytes))
    }

    /// Ends [`Bed::limit_memory`].
    pub fn unlimit_memory(&self, id: u64) -> Result<()> {
        self.host(id)?.lock().limit(id, Resource::As, None)
    }

    /// Takes the disk's space but for about `leave_bytes`.
    pub fn fill_disk(&self, id: u64, leave_bytes: u64) -> Result<()> {
        self.host(id)?.lock().disk.fill(leave_bytes)
    }

    /// Ends [`Bed::fill_disk`].
    pub fn free_disk(&self, id: u64) -> Result<()> {
        self.host(id)?.lock().disk.free()
    }

    /// Free space of a node's disk.
    pub fn free_bytes(&self, id: u64) -> Result<u64> {
        self.host(id)?.lock().disk.free_bytes()
    }
}

/// Power and damage.
impl Bed {
    /// Cuts the power of all these nodes at once. What they had not synced is gone. They stay down, their disks
    /// mounted, until they are started. Nodes that were down before lose what their kernel still held.
    pub fn power_cut(&self, ids: &[u64]) -> Result<()> {
        let hosts = self.hosts(ids)?;
        let mut states: Vec<_> = hosts.iter().map(|host| (host.id, host.lock())).collect();
        // First nobody acts any more, nor is in the middle of a system call: one could tell another of what is
        // about to be lost, and a sync that runs while the file system is shut down may say that it was done.
        for (id, state) in &mut states {
            if state.running_pid(*id).is_ok() {
                state.pause(*id)?;
            }
        }
        states.iter().try_for_each(|(_, state)| state.disk.power_off())?;
        states.iter_mut().try_for_each(|(_, state)| state.kill())?;
        drop(states);
        at_once(&hosts, |host| host.lock().disk.power_on()).map(|_| ())
    }

    /// Mounts a disk as ext4 is by default from now on, and not so that it forgives less. The node must be down.
    pub fn mount_by_default(&self, id: u64) -> Result<()> {
        let mut state = self.host(id)?.lock();
        state.ensure_down(id)?;
        state.disk.mount_by_default()
    }

    /// Replaces a disk by an empty one. The node must be down.
    pub fn wipe(&self, id: u64) -> Result<()> {
        let mut state = self.host(id)?.lock();
        state.ensure_down(id)?;
        state.disk.wipe()
    }

    /// Cuts bytes off the end of the newest log, as if they had never reached the disk, and says what was done.
    /// The node must be down.
    pub fn tear_log_tail(&self, id: u64, bytes: u64) -> Result<String> {
        let host = self.host(id)?;
        let mut state = host.lock();
        state.ensure_down(id)?;
        damage::tear_log_tail(&host.data(&state), bytes)
    }

    /// Flips bits in a file, the same ones for the same seed, and says which. The node must be down.
    pub fn rot(&self, id: u64, what: Rot, seed: u64) -> Result<String> {
        let host = self.host(id)?;
        let mut state = host.lock();
        state.ensure_down(id)?;
        damage::rot(&host.data(&state), what, seed)
    }
}

/// The wire.
impl Bed {
    /// Drops all that the first of each pair sends to the second, besides what is cut already. Pairs are one-way.
    pub fn cut(&self, pairs: &[(Peer, Peer)]) -> Result<()> {
        self.network()?.cut(pairs)
    }

    /// Ends the cuts of these pairs alone.
    pub fn heal(&self, pairs: &[(Peer, Peer)]) -> Result<()> {
        self.network()?.heal(pairs)
    }

    /// Ends all cuts and brings all links up.
    pub fn heal_network(&self) -> Result<()> {
        self.network()?.heal_all()
    }

    /// Unplugs a node.
    pub fn link_down(&self, id: u64) -> Result<()> {
        self.network()?.set_link(self.host(id)?.id, false)
    }

    /// Plugs it in again. Its cuts stay.
    pub fn link_up(&self, id: u64) -> Result<()> {
        self.network()?.set_link(self.host(id)?.id, true)
    }

    /// Disturbs all links, or one; [`Wire::Switch`](super::Wire::Switch) only. Replaces what was said of the same before.
    pub fn disturb(&self, links: Disturbance) -> Result<()> {
        self.network()?.disturb(links)
    }

    /// Ends all disturbances.
    pub fn calm(&self) -> Result<()> {
        self.network()?.calm();
        Ok(())
    }

    /// What the switch has done to frames so far; all 0 with [`Wire::Bridge`](super::Wire::Bridge).
    pub fn switched(&self) -> Switched {
        match &self.network {
            Some(Network::Switch(switch)) => switch.counts(),
            _ => Switched::default(),
        }
    }
}

/// Lies.
impl Bed {
    /// Sets what a node takes for the time, at once, also while it is down and after restarts.
    pub fn clock(&self, id: u64, clock: Clock) -> Result<()> {
        self.host(id)?.lock().control.set_clock(clock)
    }

    /// Sets what happens to a node's syncs and writes, at once, also while it is down and after restarts.
    pub fn disk_fault(&self, id: u64, fault: DiskFault) -> Result<()> {
        let mut state = self.host(id)?.lock();
        let device = state.disk.number()?;
        state.control.set_device(device)?;
        state.control.set_disk(fault)
    }

    /// What disk faults have really done to a node so far.
    pub fn faked(&self, id: u64) -> Result<Faked> {
        self.host(id)?.lock().control.faked()
    }
}
