//! A device in memory that loses what was not synced, for tests and simulation.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::device::{DeviceOp, LogDevice, RecoveredLog, StoredVote};
use super::record::Record;
use crate::position::{LogKey, LogPosition};

/// The medium: survives the process that mounted it, minus what was not synced.
#[derive(Clone, Default)]
pub struct MemDisk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<DiskState>,
    changed: Condvar,
}

#[derive(Default)]
struct DiskState {
    durable: Content,
    live: Content,
    /// Written but not synced, in order.
    unsynced: VecDeque<DeviceOp>,
    /// Counts mounts; a device of an older one is dead.
    mounted: u64,
    hold_syncs: bool,
    /// Syncs that wait for `release_syncs` now.
    held: usize,
    fail_writes: bool,
    sync_delay: Duration,
    syncs: u64,
    writes: u64,
}

#[derive(Default, Clone)]
struct Content {
    logs: BTreeMap<LogKey, MemLog>,
    riders: BTreeMap<(&'static str, Vec<u8>), Vec<u8>>,
}

#[derive(Default, Clone)]
struct MemLog {
    vote: Option<StoredVote>,
    committed: Option<LogPosition>,
    purged: Option<LogPosition>,
    entries: BTreeMap<u64, Record>,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the disk to a new process; what an older one still writes is refused.
    pub fn mount(&self) -> Arc<MemDevice> {
        let mut state = self.shared.state.lock();
        state.mounted += 1;
        self.shared.changed.notify_all();
        Arc::new(MemDevice {
            shared: self.shared.clone(),
            mount: state.mounted,
        })
    }

    /// Cuts the power: the mounted device dies, and of the operations not synced only the first
    /// `surviving` are kept (a WAL may have reached the medium further than it was synced).
    pub fn power_cut(&self, surviving: usize) {
        let mut state = self.shared.state.lock();
        state.mounted += 1;
        let kept: Vec<_> = state.unsynced.drain(..).take(surviving).collect();
        for op in &kept {
            state.durable.apply(op);
        }
        state.live = state.durable.clone();
        state.hold_syncs = false;
        state.fail_writes = false;
        self.shared.changed.notify_all();
    }

    /// Makes every sync from now on wait for [`release_syncs`](Self::release_syncs). Only for
    /// [`WriterMode::Thread`](crate::WriterMode::Thread).
    pub fn hold_syncs(&self) {
        self.shared.state.lock().hold_syncs = true;
    }

    /// Lets held syncs go on.
    pub fn release_syncs(&self) {
        self.shared.state.lock().hold_syncs = false;
        self.shared.changed.notify_all();
    }

    /// Blocks until a sync is being held, or `timeout` passed; tells which.
    pub fn wait_for_held_sync(&self, timeout: Duration) -> bool {
        let mut state = self.shared.state.lock();
        let _ = self
            .shared
            .changed
            .wait_while_for(&mut state, |s| s.held == 0, timeout);
        state.held > 0
    }

    /// Makes every write from now on fail.
    pub fn fail_writes(&self) {
        self.shared.state.lock().fail_writes = true;
    }

    /// How long each sync takes in virtual time.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.shared.state.lock().sync_delay = delay;
    }

    /// (writes, syncs) so far.
    pub fn operations(&self) -> (u64, u64) {
        let state = self.shared.state.lock();
        (state.writes, state.syncs)
    }

    /// The durable value of a rider row.
    pub fn durable_rider(&self, cf: &'static str, key: &[u8]) -> Option<Vec<u8>> {
        self.shared
            .state
            .lock()
            .durable
            .riders
            .get(&(cf, key.to_vec()))
            .cloned()
    }
}

/// A mounted [`MemDisk`].
pub struct MemDevice {
    shared: Arc<Shared>,
    mount: u64,
}

impl MemDevice {
    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, DiskState>> {
        let state = self.shared.state.lock();
        if state.mounted == self.mount {
            Ok(state)
        } else {
            Err(io::Error::other("the power of this device was cut"))
        }
    }
}

impl LogDevice for MemDevice {
    fn write(&self, ops: &[DeviceOp], sync: bool) -> io::Result<()> {
        let mut state = self.state()?;
        if state.fail_writes {
            return Err(io::Error::other("injected write failure"));
        }
        state.writes += 1;
        for op in ops {
            state.live.apply(op);
            state.unsynced.push_back(op.clone());
        }
        if !sync {
            return Ok(());
        }
        while state.hold_syncs && state.mounted == self.mount {
            state.held += 1;
            self.shared.changed.notify_all();
            self.shared.changed.wait(&mut state);
            state.held -= 1;
        }
        if state.mounted != self.mount {
            return Err(io::Error::other("the power of this device was cut"));
        }
        state.syncs += 1;
        let synced: Vec<_> = state.unsynced.drain(..).collect();
        for op in &synced {
            state.durable.apply(op);
        }
        Ok(())
    }

    fn read(&self, log: LogKey, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Record>> {
        let state = self.state()?;
        let mut found: Vec<Record> = Vec::new();
        let mut bytes = 0;
        let entries = state.live.logs.get(&log).map(|l| l.entries.range(range.clone()));
        for (expected, (index, record)) in (range.start..).zip(entries.into_iter().flatten()) {
            bytes += record.cost();
            if *index != expected || (bytes > max_bytes && !found.is_empty()) {
                break;
            }
            found.push(record.clone());
        }
        Ok(found)
    }

    fn recover(&self, log: LogKey) -> io::Result<RecoveredLog> {
        let state = self.state()?;
        let Some(log) = state.live.logs.get(&log) else {
            return Ok(RecoveredLog::default());
        };
        let first = log.entries.first_key_value().map(|(index, _)| *index);
        let last = log.entries.last_key_value().map(|(_, record)| record.position);
        Ok(RecoveredLog {
            vote: log.vote,
            committed: log.committed,
            purged: log.purged,
            first,
            last,
        })
    }

    fn logs(&self) -> io::Result<Vec<LogKey>> {
        Ok(self.state()?.live.logs.keys().copied().collect())
    }

    fn simulated_sync(&self) -> Duration {
        self.shared.state.lock().sync_delay
    }
}

impl Content {
    fn apply(&mut self, op: &DeviceOp) {
        match op {
            DeviceOp::Append(log, records) => {
                let entries = &mut self.logs.entry(*log).or_default().entries;
                entries.extend(records.iter().map(|r| (r.position.index, r.clone())));
            }
            DeviceOp::Vote(log, vote) => self.logs.entry(*log).or_default().vote = Some(*vote),
            DeviceOp::Committed(log, at) => self.logs.entry(*log).or_default().committed = *at,
            DeviceOp::Truncate(log, from) => {
                self.logs.entry(*log).or_default().entries.split_off(from);
            }
            DeviceOp::Purge(log, range, upto) => {
                let log = self.logs.entry(*log).or_default();
                log.entries.retain(|index, _| !range.contains(index));
                log.purged = Some(*upto);
            }
            DeviceOp::Erase(log) => {
                self.logs.remove(log);
            }
            DeviceOp::Rider(rows) => {
                for row in rows {
                    let key = (row.cf, row.key.clone());
                    match &row.value {
                        Some(value) => self.riders.insert(key, value.clone()),
                        None => self.riders.remove(&key),
                    };
                }
            }
        }
    }
}
