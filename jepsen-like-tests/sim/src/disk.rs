//! A node's disk: production's RocksDB, with the log and the series store in it, on a file system in memory.
//!
//! At the moment of a crash the files are copied to a new directory, which is what the next process opens.
//! RocksDB itself syncs SST files and its manifest before it counts on them, so those are kept. Its write-ahead
//! log is kept up to where it was synced last, and beyond that as far as the crash says: whole after SIGKILL,
//! cut at any byte after a power cut. Destructors of the killed process still run, over the old directory.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_raft_log::{DeviceOp, LogDevice, LogKey, Record, RecoveredLog, RocksDevice};
use quorate_storage::{Store, StoreOptions};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamilyDescriptor, DBWithThreadMode, LogLevel, MultiThreaded, Options};

use crate::random::Random;

/// The database of a node.
pub type Db = DBWithThreadMode<MultiThreaded>;

/// How the disk misbehaves now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskMood {
    /// A sync takes at least so long.
    pub sync_min: Duration,
    /// And at most so long.
    pub sync_max: Duration,
    /// The next sync fails, and what it should have synced is lost from the page cache.
    pub fail_next_sync: bool,
}

/// What survives of a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Everything written.
    Written,
    /// What was synced, and a part of what was written after.
    Synced,
}

/// A node's disk. Outlives the node's processes.
pub struct Disk {
    root: PathBuf,
    state: Mutex<DiskState>,
}

struct DiskState {
    /// Number of the directory in use.
    image: u64,
    mood: DiskMood,
    random: Random,
    /// The write-ahead log in use and how much of it is synced.
    synced: Option<(PathBuf, u64)>,
    /// RocksDB may have begun another write-ahead log.
    wal_may_be_new: bool,
    /// Bytes of the write-ahead log that a failed sync lost.
    lost: Option<(PathBuf, Range<u64>)>,
    syncs: u64,
    failed_syncs: u64,
}

/// What a started process has open.
pub struct Mounted {
    /// The database.
    pub db: Arc<Db>,
    /// The series store in it.
    pub store: Arc<Store>,
}

impl Disk {
    /// An empty disk below `root`.
    pub fn new(root: PathBuf, random: Random, mood: DiskMood) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&root)?;
        let state = DiskState {
            image: 0,
            mood,
            random,
            synced: None,
            wal_may_be_new: true,
            lost: None,
            syncs: 0,
            failed_syncs: 0,
        };
        Ok(Arc::new(Self {
            root,
            state: Mutex::new(state),
        }))
    }

    /// Changes how the disk behaves from the next sync on.
    pub fn set_mood(&self, change: impl FnOnce(&mut DiskMood)) {
        change(&mut self.state.lock().mood);
    }

    /// Syncs done, and syncs that failed.
    pub fn syncs(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.syncs, state.failed_syncs)
    }

    fn image(&self, number: u64) -> PathBuf {
        self.root.join(number.to_string())
    }

    /// Opens the database as a node does.
    pub fn mount(&self) -> anyhow::Result<Mounted> {
        let image = self.image(self.state.lock().image);
        let (dir, scratch) = (image.join("db"), image.join("scratch"));
        fs::create_dir_all(&dir)?;
        let db = Arc::new(Db::open_cf_descriptors(&options()?, &dir, families())?);
        let store = Store::open(db.clone(), &scratch, StoreOptions::default())?;
        let mut state = self.state.lock();
        state.synced = None;
        state.wal_may_be_new = true;
        state.lost = None;
        Ok(Mounted { db, store })
    }

    /// Notes that everything written so far was synced.
    pub fn note_synced(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.syncs += 1;
        match &mut state.synced {
            // The path of nearly every sync: a directory is not listed for each.
            Some((wal, synced)) if !state.wal_may_be_new => *synced = fs::metadata(wal)?.len(),
            _ => {
                state.synced = newest_wal(&self.image(state.image).join("db"))?;
                state.wal_may_be_new = false;
            }
        }
        Ok(())
    }

    /// Notes that SST files were ingested: RocksDB may have flushed a memtable before, and begun another
    /// write-ahead log.
    pub fn note_ingested(&self) {
        self.state.lock().wal_may_be_new = true;
    }

    /// The crash of a process that has `db` open: from here on the disk has what survives, and that process
    /// can't change it any more. Tells how many bytes that were written and not synced are lost.
    pub fn crash(&self, db: &Db, survival: Survival) -> anyhow::Result<u64> {
        let mut state = self.state.lock();
        let (old, new) = (self.image(state.image), self.image(state.image + 1));
        fs::create_dir_all(&new)?;
        // Links SST files and copies the rest, whatever RocksDB's threads are doing. It must not flush.
        Checkpoint::new(db)?.create_checkpoint_with_log_size(new.join("db"), u64::MAX)?;
        let (old_scratch, new_scratch) = (old.join("scratch"), new.join("scratch"));
        fs::create_dir_all(&new_scratch)?;
        for file in fs::read_dir(&old_scratch)? {
            let file = file?;
            fs::copy(file.path(), new_scratch.join(file.file_name()))?;
        }
        let lost = match survival {
            Survival::Written => 0,
            Survival::Synced => state.lose_unsynced(&new.join("db"))?,
        };
        state.image += 1;
        state.mood.fail_next_sync = false;
        Ok(lost)
    }

    /// Removes directories that no process has open any more.
    pub fn forget_old(&self) -> io::Result<()> {
        let image = self.state.lock().image;
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if number.is_some_and(|number: u64| number < image) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Replaces the disk by an empty one.
    pub fn wipe(&self) {
        let mut state = self.state.lock();
        state.image += 1;
        state.synced = None;
        state.lost = None;
    }
}

impl DiskState {
    /// Cuts the newest write-ahead log somewhere behind what was synced of it.
    fn lose_unsynced(&mut self, dir: &Path) -> io::Result<u64> {
        let Some((wal, written)) = newest_wal(dir)? else {
            return Ok(0);
        };
        let same = |other: &PathBuf| other.file_name() == wal.file_name();
        if let Some((_, range)) = self.lost.take().filter(|(file, _)| same(file)) {
            let hole = range.start..range.end.min(written);
            let mut bytes = fs::read(&wal)?;
            bytes[hole.start as usize..hole.end as usize].fill(0);
            fs::write(&wal, bytes)?;
        }
        let synced = match &self.synced {
            Some((file, synced)) if same(file) => (*synced).min(written),
            _ => 0,
        };
        let kept = match self.random.below(3) {
            0 => synced,
            1 => written,
            _ => self.random.between(synced, written),
        };
        fs::OpenOptions::new().write(true).open(&wal)?.set_len(kept)?;
        Ok(written - kept)
    }
}

/// The write-ahead log with the highest number, and its length.
fn newest_wal(dir: &Path) -> io::Result<Option<(PathBuf, u64)>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse().ok());
        let is_wal = path.extension().is_some_and(|extension| extension == "log");
        if let Some(number) = number.filter(|_| is_wal)
            && newest.as_ref().is_none_or(|(highest, _)| *highest < number)
        {
            newest = Some((number, path));
        }
    }
    match newest {
        None => Ok(None),
        Some((_, path)) => {
            let length = fs::metadata(&path)?.len();
            Ok(Some((path, length)))
        }
    }
}

/// As the node opens its database, except for what only costs time here.
fn options() -> anyhow::Result<Options> {
    // Space for 70 MB of log ahead of time is what takes longest here.
    let mut options = Options::default().get_options_from_string("allow_fallocate=false")?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    quorate_raft_log::tune_database(&mut options);
    options.set_log_level(LogLevel::Fatal);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_file_opening_threads(1);
    Ok(options)
}

fn families() -> Vec<ColumnFamilyDescriptor> {
    let mut families = vec![ColumnFamilyDescriptor::new("default", Options::default())];
    families.extend(quorate_raft_log::column_families());
    families.extend(Store::column_families());
    families
}

/// Sees what is written before it is.
pub trait Watcher: Send + Sync {
    /// The operations about to be written.
    fn writing(&self, device: &dyn LogDevice, ops: &[DeviceOp]);
}

/// Production's log device on a [`Disk`].
pub struct FaultyDevice {
    inner: RocksDevice,
    disk: Arc<Disk>,
    watcher: Arc<dyn Watcher>,
}

impl FaultyDevice {
    /// The log device of a mounted disk.
    pub fn new(mounted: &Mounted, disk: Arc<Disk>, watcher: Arc<dyn Watcher>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            inner: RocksDevice::new(mounted.db.clone())?,
            disk,
            watcher,
        }))
    }

    /// The failure of a sync: it says so once, and what was dirty is gone from the page cache.
    fn fail_sync(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.mood.fail_next_sync = false;
        state.failed_syncs += 1;
        let dir = self.disk.image(state.image).join("db");
        if let Some((wal, written)) = newest_wal(&dir)? {
            let from = match &state.synced {
                Some((file, synced)) if *file == wal => *synced,
                _ => 0,
            };
            state.lost = Some((wal, from..written));
        }
        Err(io::Error::other("Input/output error (os error 5), injected"))
    }
}

impl LogDevice for FaultyDevice {
    fn write(&self, ops: &[DeviceOp], sync: bool) -> io::Result<()> {
        self.watcher.writing(&self.inner, ops);
        if sync && self.disk.state.lock().mood.fail_next_sync {
            self.inner.write(ops, false)?;
            return self.fail_sync();
        }
        self.inner.write(ops, sync)?;
        if sync {
            self.disk.note_synced()?;
        }
        Ok(())
    }

    fn read(&self, log: LogKey, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Record>> {
        self.inner.read(log, range, max_bytes)
    }

    fn recover(&self, log: LogKey) -> io::Result<RecoveredLog> {
        self.inner.recover(log)
    }

    fn logs(&self) -> io::Result<Vec<LogKey>> {
        self.inner.logs()
    }

    fn reclaim(&self) -> io::Result<()> {
        self.inner.reclaim()
    }

    fn simulated_sync(&self) -> Duration {
        let mut state = self.disk.state.lock();
        let DiskMood {
            sync_min, sync_max, ..
        } = state.mood;
        let spread = sync_max.saturating_sub(sync_min).as_micros() as u64;
        sync_min + Duration::from_micros(state.random.between(0, spread))
    }
}
