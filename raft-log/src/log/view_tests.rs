//! What readers see while the writer lags behind.

use std::sync::Arc;

use bytes::Bytes;

use super::conformance::LOG;
use super::{DeviceOp, EntryKind, LogDevice, LogView, MemDisk, Record, RecoveredLog};
use crate::position::LogPosition;

fn record(term: u64, index: u64, len: usize) -> Record {
    Record {
        position: LogPosition::new(term, index),
        kind: EntryKind::Command,
        payload: Bytes::from(vec![term as u8; len]),
    }
}

fn view(tail_bytes: usize) -> (Arc<LogView>, Arc<dyn LogDevice>) {
    let device: Arc<dyn LogDevice> = MemDisk::new().mount();
    (
        Arc::new(LogView::new(
            LOG,
            device.clone(),
            tail_bytes,
            RecoveredLog::default(),
        )),
        device,
    )
}

async fn positions(view: &Arc<LogView>, range: std::ops::Range<u64>, max_bytes: usize) -> Vec<(u64, u64)> {
    let records = view.read(range, max_bytes).await.unwrap();
    records
        .iter()
        .map(|r| (r.position.term, r.position.index))
        .collect()
}

#[tokio::test]
async fn entries_are_readable_before_they_are_written_and_after_they_left_memory() {
    let (view, device) = view(0);
    let records = [record(1, 0, 10), record(1, 1, 10)];
    let append = view.append(&records).unwrap();
    assert_eq!(positions(&view, 0..9, 1 << 20).await, [(1, 0), (1, 1)]);
    device
        .write(&[DeviceOp::Append(LOG, records.to_vec())], true)
        .unwrap();
    view.written(append);
    assert_eq!(positions(&view, 0..9, 1 << 20).await, [(1, 0), (1, 1)]);
}

#[tokio::test]
async fn a_read_is_capped_by_bytes_but_gives_one_entry() {
    for tail_bytes in [0, 1 << 30] {
        let (view, device) = view(tail_bytes);
        let records: Vec<_> = (0..10).map(|i| record(1, i, 300 << 10)).collect();
        let append = view.append(&records).unwrap();
        device.write(&[DeviceOp::Append(LOG, records)], true).unwrap();
        view.written(append);
        assert_eq!(positions(&view, 2..10, 1 << 20).await, [(1, 2), (1, 3), (1, 4)]);
        assert_eq!(positions(&view, 2..10, 1).await, [(1, 2)]);
    }
}

/// RFT-8
#[tokio::test]
async fn a_hole_is_refused() {
    let (view, _) = view(1 << 20);
    view.append(&[record(1, 0, 1)]).unwrap();
    assert!(view.append(&[record(1, 2, 1)]).is_err());
}

#[tokio::test]
async fn what_was_truncated_is_replaced_even_if_the_device_still_has_it() {
    let (view, device) = view(0);
    let old: Vec<_> = (0..4).map(|i| record(1, i, 1)).collect();
    let append = view.append(&old).unwrap();
    device.write(&[DeviceOp::Append(LOG, old)], true).unwrap();
    view.written(append);
    assert_eq!(view.truncate(Some(LogPosition::new(1, 1))), 2);
    assert_eq!(positions(&view, 0..9, 1 << 20).await, [(1, 0), (1, 1)]);
    view.truncate(Some(LogPosition::new(1, 3)));
    assert_eq!(
        view.bounds().1,
        Some(LogPosition::new(1, 1)),
        "nothing is there to truncate"
    );
    view.append(&[record(2, 2, 1)]).unwrap();
    assert_eq!(positions(&view, 2..9, 1 << 20).await, [(2, 2)]);
}

/// RFT-4
#[tokio::test]
async fn what_was_purged_is_gone_even_if_the_device_still_has_it() {
    let (view, device) = view(0);
    let records: Vec<_> = (0..4).map(|i| record(1, i, 1)).collect();
    let append = view.append(&records).unwrap();
    device.write(&[DeviceOp::Append(LOG, records)], true).unwrap();
    view.written(append);
    assert_eq!(view.purge(LogPosition::new(1, 1)), 0..2);
    assert_eq!(positions(&view, 0..9, 1 << 20).await, [(1, 2), (1, 3)]);
    // A snapshot ahead of the log: the next entry follows it.
    assert_eq!(view.purge(LogPosition::new(3, 9)), 2..10);
    assert_eq!(view.bounds().1, Some(LogPosition::new(3, 9)));
    assert!(view.append(&[record(3, 4, 1)]).is_err());
    view.append(&[record(3, 10, 1)]).unwrap();
    assert_eq!(positions(&view, 0..99, 1 << 20).await, [(3, 10)]);
}
