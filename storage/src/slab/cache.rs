//! Timestamp columns at hand.

use std::sync::Arc;

use hashbrown::HashMap;

use super::times::{TimesRow, row_of};
use crate::error::StorageError;
use crate::flushed::cf;
use crate::rows::{CF_CHUNKS, Db, ReplicaKey};

/// Timestamp columns, decoded, and the rows they came from.
#[derive(Debug)]
pub(super) struct TimesCache {
    key: ReplicaKey,
    budget: usize,
    kept: usize,
    /// By generation and row.
    rows: HashMap<(u64, u64), Arc<TimesRow>>,
    /// By generation and place.
    columns: HashMap<(u64, u64), Arc<[i64]>>,
}

impl TimesCache {
    pub(super) fn new(key: ReplicaKey, budget: usize) -> Self {
        Self {
            key,
            budget,
            kept: 0,
            rows: HashMap::new(),
            columns: HashMap::new(),
        }
    }

    pub(super) fn get(&mut self, db: &Db, generation: u64, place: u64) -> Result<Arc<[i64]>, StorageError> {
        if let Some(column) = self.columns.get(&(generation, place)) {
            return Ok(column.clone());
        }
        let row = self.row(db, generation, row_of(place))?;
        let column: Arc<[i64]> = row
            .column(place)
            .map_err(|detail| corrupt_times(self.key.shard, generation, row_of(place), detail))?
            .into();
        self.make_room(column.len() * 8 + 50);
        self.columns.insert((generation, place), column.clone());
        Ok(column)
    }

    fn row(&mut self, db: &Db, generation: u64, number: u64) -> Result<Arc<TimesRow>, StorageError> {
        if let Some(row) = self.rows.get(&(generation, number)) {
            return Ok(row.clone());
        }
        let shard = self.key.shard;
        let handle = cf(db, shard, CF_CHUNKS)?;
        let bytes = db
            .get_cf(&handle, self.key.times(generation, number))
            .map_err(StorageError::rocks(shard, "reading timestamps"))?
            .ok_or_else(|| corrupt_times(shard, generation, number, "it is missing"))?;
        let row =
            TimesRow::parse(bytes).map_err(|detail| corrupt_times(shard, generation, number, detail))?;
        let row = Arc::new(row);
        self.make_room(row.memory_bytes());
        self.rows.insert((generation, number), row.clone());
        Ok(row)
    }

    fn make_room(&mut self, bytes: usize) {
        if self.kept + bytes > self.budget {
            self.rows.clear();
            self.columns.clear();
            self.kept = 0;
        }
        self.kept += bytes;
    }
}

fn corrupt_times(shard: u32, generation: u64, row: u64, detail: &str) -> StorageError {
    let what = format!("row {row} of the timestamps of generation {generation}");
    StorageError::corrupt(shard, what, detail)
}
