//! The highest of something in each shard's log that was known by a given time.

use std::collections::BTreeMap;

use crate::history::{Action, Operation, Receipt, Stage};

/// High-water marks of shards over time. Marks are raised in the order of time.
#[derive(Debug, Default)]
pub(super) struct Marks<T>(BTreeMap<u32, Vec<(u64, T)>>);

impl<T: Copy + Ord> Marks<T> {
    /// Raises a shard's mark at this time, if it is higher.
    pub(super) fn raise(&mut self, shard: u32, time_us: u64, mark: T) {
        let marks = self.0.entry(shard).or_default();
        if marks.last().is_none_or(|(_, highest)| *highest < mark) {
            marks.push((time_us, mark));
        }
    }

    /// The shard's mark before this time.
    pub(super) fn before(&self, shard: u32, time_us: u64) -> Option<T> {
        let marks = self.0.get(&shard)?;
        let count = marks.partition_point(|(raised_us, _)| *raised_us < time_us);
        marks.get(count.checked_sub(1)?).map(|(_, mark)| *mark)
    }
}

/// Receipts of a history, with the times at which they arrived.
pub(super) fn acknowledged(history: &[Operation]) -> impl Iterator<Item = (u64, &Receipt)> {
    history.iter().flat_map(|operation| {
        let receipts = match &operation.action {
            Action::Write { receipts, .. } if operation.stage == Stage::Ok => receipts.as_slice(),
            _ => &[],
        };
        receipts.iter().map(|receipt| (operation.time_us, receipt))
    })
}
