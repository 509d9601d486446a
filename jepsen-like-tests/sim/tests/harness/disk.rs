//! The disk loses what a crash loses, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_raft_log::{DeviceOp, EntryKind, LogDevice, LogKey, LogPosition, Record, RiderRow};
use quorate_sim::disk::{Disk, DiskMood, FaultyDevice, Mounted, Survival, Watcher};
use quorate_sim::random::Random;
use quorate_sim::run::scratch;

const LOG: LogKey = LogKey {
    group: 1,
    replica: 101,
};

struct Nobody;

impl Watcher for Nobody {
    fn writing(&self, _: &dyn LogDevice, _: &[DeviceOp]) {}
}

struct Bench {
    disk: Arc<Disk>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let mood = DiskMood {
            sync_min: Duration::ZERO,
            sync_max: Duration::ZERO,
            fail_next_sync: false,
        };
        let disk = Disk::new(dir.path().join("disk"), Random::new(seed), mood).unwrap();
        Self { disk, _dir: dir }
    }

    fn mount(&self) -> (Mounted, Arc<FaultyDevice>) {
        let mounted = self.disk.mount().unwrap();
        let device = FaultyDevice::new(&mounted, self.disk.clone(), Arc::new(Nobody)).unwrap();
        (mounted, device)
    }

    /// How many entries are there after a crash.
    fn entries_after(&self, mounted: Mounted, device: Arc<FaultyDevice>, survival: Survival) -> usize {
        self.disk.crash(&mounted.db, survival).unwrap();
        // What the dying process still writes reaches nobody.
        device.write(&[entry(1_000)], true).unwrap();
        drop((mounted, device));
        self.disk.forget_old().unwrap();
        let (_mounted, device) = self.mount();
        let found = device.read(LOG, 0..1_000, usize::MAX).unwrap();
        let indexes: Vec<u64> = found.iter().map(|record| record.position.index).collect();
        assert_eq!(indexes, (0..found.len() as u64).collect::<Vec<_>>(), "a prefix");
        found.len()
    }
}

fn entry(index: u64) -> DeviceOp {
    let record = Record {
        position: LogPosition::new(1, index),
        kind: EntryKind::Command,
        payload: Bytes::from(vec![7; 50]),
    };
    DeviceOp::Append(LOG, vec![record])
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_a_prefix_of_the_rest() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..24 {
        let bench = Bench::new(seed);
        let (mounted, device) = bench.mount();
        for index in 0..3 {
            device.write(&[entry(index)], true).unwrap();
        }
        for index in 3..6 {
            device.write(&[entry(index)], false).unwrap();
        }
        let kept = bench.entries_after(mounted, device, Survival::Synced);
        assert!((3..=6).contains(&kept), "seed {seed} kept {kept}");
        seen.insert(kept);
    }
    assert!(
        seen.contains(&3) && seen.contains(&6) && seen.len() > 2,
        "{seen:?}"
    );
}

#[test]
fn a_killed_process_leaves_everything_that_it_wrote() {
    let bench = Bench::new(1);
    let (mounted, device) = bench.mount();
    for index in 0..5 {
        device.write(&[entry(index)], false).unwrap();
    }
    assert_eq!(bench.entries_after(mounted, device, Survival::Written), 5);
}

#[test]
fn a_failed_sync_is_an_error_once_and_its_bytes_are_lost() {
    let bench = Bench::new(1);
    let (mounted, device) = bench.mount();
    device.write(&[entry(0)], true).unwrap();
    bench.disk.set_mood(|mood| mood.fail_next_sync = true);
    device.write(&[entry(1)], true).unwrap_err();
    assert_eq!(bench.disk.syncs(), (1, 1));
    assert_eq!(bench.entries_after(mounted, device, Survival::Synced), 1);
}

#[test]
fn who_ignores_a_failed_sync_loses_what_it_acknowledged() {
    let bench = Bench::new(1);
    let (mounted, device) = bench.mount();
    device.write(&[entry(0)], true).unwrap();
    bench.disk.set_mood(|mood| mood.fail_next_sync = true);
    device.write(&[entry(1)], true).unwrap_err();
    device.write(&[entry(2)], true).unwrap();
    bench.disk.crash(&mounted.db, Survival::Synced).unwrap();
    drop((mounted, device));
    // The hole is in front of bytes that were synced: recovery cuts there, or refuses.
    if let Ok(mounted) = bench.disk.mount() {
        let device = FaultyDevice::new(&mounted, bench.disk.clone(), Arc::new(Nobody)).unwrap();
        assert_eq!(device.read(LOG, 0..10, usize::MAX).unwrap().len(), 1);
    }
}

#[test]
fn a_sync_covers_rows_of_others_and_a_wiped_disk_has_none() {
    let bench = Bench::new(1);
    let (mounted, device) = bench.mount();
    let row = RiderRow {
        cf: quorate_storage::CF_SHARD_META,
        key: b"key".to_vec(),
        value: Some(b"value".to_vec()),
    };
    device
        .write(&[DeviceOp::Rider(vec![row]), entry(0)], true)
        .unwrap();
    assert_eq!(bench.entries_after(mounted, device, Survival::Synced), 1);
    let read = |mounted: &Mounted| {
        let family = mounted.db.cf_handle(quorate_storage::CF_SHARD_META).unwrap();
        mounted.db.get_cf(&family, b"key").unwrap()
    };
    let mounted = bench.disk.mount().unwrap();
    assert_eq!(read(&mounted).as_deref(), Some(&b"value"[..]));
    drop(mounted);
    bench.disk.wipe();
    assert_eq!(read(&bench.disk.mount().unwrap()), None);
}
