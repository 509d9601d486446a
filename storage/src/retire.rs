//! Retiring series: one that has no sample left within retention is forgotten, so that churn costs
//! neither memory nor a tenant's limit.
//!
//! Which series go, and when, follows from the log alone: retention drops whole spans of activity
//! (`activity.rs`), and a series goes with the last span that knows of it. Its id is never used again; a
//! write that names it is answered like one with an unknown id, and labels that come again get a new one.
//! On disk a series is there as long as an activity row names it. Its label row is deleted after the next
//! flush, once nobody reads by an older one; its columns go with their generation, or at a merge.

use roaring::RoaringBitmap;
use rocksdb::WriteBatch;

use crate::activity::{ACTIVITY_SPAN_MS, span_of};
use crate::error::StorageError;
use crate::flushed::cf;
use crate::rows::CF_SERIES;
use crate::shard::{Shard, State};

/// Label rows of retired series, waiting for their last reader.
#[derive(Debug, Default)]
pub(crate) struct StaleLabels {
    pub(crate) epoch: u64,
    pub(crate) ids: RoaringBitmap,
}

/// The same for tenants that keep samples for a shorter time than others.
fn drop_of_tenants(state: &mut State) -> RoaringBitmap {
    let (mut gone, mut due_ms) = (RoaringBitmap::new(), i64::MAX);
    for (tenant, cut_ms) in state.retentions.cuts(&state.clock) {
        let next = span_of(cut_ms).saturating_add(1).saturating_mul(ACTIVITY_SPAN_MS);
        due_ms = due_ms.min(state.retentions.reaches(tenant, next));
        let index = state
            .table
            .tenant(tenant)
            .and_then(|number| state.table.index(number));
        if let Some(index) = index {
            gone |= state.activity.drop_of(index.all(), cut_ms);
        }
    }
    state.tenant_cuts_due_ms = due_ms;
    gone
}

impl Shard {
    /// Brings what is kept to the retention cut: spans, and the series that were active in no later one.
    pub(crate) fn apply_cut(&self, state: &mut State) -> Result<(), StorageError> {
        let mut gone = state.activity.drop_before(state.clock.cut_ms).unwrap_or_default();
        if state.clock.now_ms >= state.tenant_cuts_due_ms {
            gone |= drop_of_tenants(state);
        }
        if gone.is_empty() {
            return Ok(());
        }
        for id in gone.iter().map(u64::from) {
            // All of them lie before the cut.
            let chunks = state.table.take_head(id);
            let chunks = chunks.map_err(StorageError::chunk(self.key.shard, id))?;
            let chunks = chunks.floats.iter().chain(&chunks.histograms);
            let samples = chunks.map(|chunk| u64::from(chunk.samples)).sum();
            state.head_samples = state.head_samples.saturating_sub(samples);
        }
        state.table.retire(&gone);
        state.vacant -= &gone;
        state.with_histograms -= &gone;
        state.retired_series += gone.len();
        state.retired |= gone;
        Ok(())
    }

    /// Takes note of label rows that no meta row needs any more.
    pub(crate) fn forget_labels(&self, epoch: u64, ids: &RoaringBitmap) {
        let mut stale = self.stale_labels.lock();
        if stale.epoch != epoch {
            *stale = StaleLabels::default();
            stale.epoch = epoch;
        }
        stale.ids |= ids;
    }

    /// Deletes those rows; unsynced, because whoever finds them later skips them and deletes them again.
    pub(crate) fn delete_stale_labels(&self) -> Result<(), StorageError> {
        let stale = {
            let mut stale = self.stale_labels.lock();
            let epoch = stale.epoch;
            let ids = std::mem::take(&mut stale.ids);
            StaleLabels { epoch, ids }
        };
        if stale.ids.is_empty() {
            return Ok(());
        }
        let family = cf(&self.db, self.key.shard, CF_SERIES)?;
        let mut batch = WriteBatch::default();
        for id in &stale.ids {
            batch.delete_cf(&family, self.key.labels(stale.epoch, u64::from(id)));
        }
        self.db.write(batch).map_err(StorageError::rocks(
            self.key.shard,
            "deleting labels of retired series",
        ))
    }
}
