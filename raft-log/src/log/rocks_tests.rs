//! What RocksDB keeps over a restart, and what it refuses.

use bytes::Bytes;
use rocksdb::{DBWithThreadMode, MultiThreaded, Options};

use super::conformance::{LOG, open_rocks};
use super::{
    DeviceOp, EntryKind, LogDevice, Record, RecoveredLog, RiderRow, STATE_CF, StoredVote, column_families,
};
use crate::position::{LogKey, LogPosition};

fn record(term: u64, index: u64) -> Record {
    let payload = Bytes::from(format!("{term}-{index}"));
    Record {
        position: LogPosition::new(term, index),
        kind: EntryKind::Command,
        payload,
    }
}

#[test]
fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let other = LogKey { group: 1, replica: 1 };
    let vote = StoredVote {
        term: 3,
        voted_for: 9,
        committed: true,
    };
    {
        let device = open_rocks(&dir);
        let ops = [
            DeviceOp::Append(LOG, (0..10).map(|i| record(1, i)).collect()),
            DeviceOp::Append(other, vec![record(7, 0)]),
            DeviceOp::Vote(LOG, vote),
            DeviceOp::Truncate(LOG, 8),
            DeviceOp::Append(LOG, vec![record(2, 8)]),
            DeviceOp::Committed(LOG, Some(LogPosition::new(1, 7))),
            DeviceOp::Purge(LOG, 0..3, LogPosition::new(1, 2)),
        ];
        device.write(&ops, true).unwrap();
        device.reclaim().unwrap();
    }
    let device = open_rocks(&dir);
    let expected = RecoveredLog {
        vote: Some(vote),
        committed: Some(LogPosition::new(1, 7)),
        purged: Some(LogPosition::new(1, 2)),
        first: Some(3),
        last: Some(LogPosition::new(2, 8)),
    };
    assert_eq!(device.recover(LOG).unwrap(), expected);
    let read = device.read(LOG, 3..100, 1 << 20).unwrap();
    let expected: Vec<_> = (3..8).map(|i| record(1, i)).chain([record(2, 8)]).collect();
    assert_eq!(read, expected);
    assert_eq!(device.read(other, 0..100, 1 << 20).unwrap(), [record(7, 0)]);
    assert_eq!(device.logs().unwrap(), [LOG]);

    device.write(&[DeviceOp::Erase(LOG)], true).unwrap();
    assert!(device.recover(LOG).unwrap().is_empty());
    assert_eq!(device.recover(other).unwrap().last, Some(LogPosition::new(7, 0)));
}

#[test]
fn riders_share_the_batch_and_an_unknown_family_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let device = open_rocks(&dir);
    let row = |cf, key: &[u8]| RiderRow {
        cf,
        key: key.to_vec(),
        value: Some(b"v".to_vec()),
    };
    let vote = StoredVote {
        term: 1,
        voted_for: 1,
        committed: false,
    };
    let refused = device.write(
        &[
            DeviceOp::Vote(LOG, vote),
            DeviceOp::Rider(vec![row("nowhere", b"k")]),
        ],
        true,
    );
    assert!(refused.unwrap_err().to_string().contains("nowhere"));
    assert!(
        device.recover(LOG).unwrap().is_empty(),
        "half a batch was written"
    );
    device
        .write(&[DeviceOp::Rider(vec![row("default", b"k")])], true)
        .unwrap();
}

#[test]
fn a_damaged_state_row_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    {
        let device = open_rocks(&dir);
        device
            .write(&[DeviceOp::Purge(LOG, 0..0, LogPosition::new(1, 2))], true)
            .unwrap();
    }
    {
        let db = DBWithThreadMode::<MultiThreaded>::open_cf_descriptors(
            &Options::default(),
            dir.path(),
            column_families(),
        )
        .unwrap();
        let cf = db.cf_handle(STATE_CF).unwrap();
        let key = super::state_row::key(LOG, super::state_row::Field::Purged);
        let mut value = db.get_cf(&cf, key).unwrap().unwrap();
        value[3] ^= 1;
        db.put_cf(&cf, key, value).unwrap();
    }
    let error = open_rocks(&dir).recover(LOG).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("Purged row of group 1 replica 0 is damaged"),
        "{error}"
    );
}

#[test]
fn a_log_that_does_not_continue_its_purged_part_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let device = open_rocks(&dir);
    let ops = [
        DeviceOp::Purge(LOG, 0..0, LogPosition::new(1, 2)),
        DeviceOp::Append(LOG, vec![record(1, 5)]),
    ];
    device.write(&ops, true).unwrap();
    assert!(device.recover(LOG).unwrap_err().to_string().contains("begins at"));
}
