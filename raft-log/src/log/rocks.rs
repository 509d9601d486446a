//! The production device: two column families of the node's one RocksDB.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, DBWithThreadMode,
    MultiThreaded, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::device::{DeviceOp, LogDevice, RecoveredLog};
use super::record::{EntryKind, Record};
use super::state_row::{self, Field};
use super::{entry_key, state_row::KEY_LEN};
use crate::position::{LogKey, LogPosition};

/// Column family of log entries.
pub const ENTRIES_CF: &str = "raft-entries";
/// Column family of votes, committed and purged positions.
pub const STATE_CF: &str = "raft-state";

type Db = DBWithThreadMode<MultiThreaded>;

/// The log's column families, for the node that opens the database.
pub fn column_families() -> Vec<ColumnFamilyDescriptor> {
    let mut entries = Options::default();
    // Payloads are compressed or dense already, and an entry is read back rarely.
    entries.set_compression_type(DBCompressionType::None);
    entries.set_write_buffer_size(64 << 20);
    entries.set_max_write_buffer_number(4);
    let mut state = Options::default();
    state.set_compression_type(DBCompressionType::None);
    state.set_write_buffer_size(4 << 20);
    vec![
        ColumnFamilyDescriptor::new(ENTRIES_CF, entries),
        ColumnFamilyDescriptor::new(STATE_CF, state),
    ]
}

/// Sets what the log's guarantees need of the database as a whole.
pub fn tune_database(options: &mut Options) {
    // A torn tail is what a power cut leaves and was never acknowledged. Damage before it means
    // that acknowledged entries are gone: refuse to open, the node rejoins under new replica ids.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    if mutant!("wal_checksum_skipped") {
        options.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
    }
    // A recycled WAL file ends in old records, which that mode cannot tell from a torn tail.
    options.set_recycle_log_file_num(0);
    // The quiet column families hold rows too; without a bound they would pin every WAL file.
    options.set_max_total_wal_size(1 << 30);
    options.set_manual_wal_flush(false);
}

/// A [`LogDevice`] over RocksDB.
pub struct RocksDevice {
    db: Arc<Db>,
}

impl RocksDevice {
    /// Uses the column families of `db`, which [`column_families`] described.
    pub fn new(db: Arc<Db>) -> io::Result<Self> {
        let device = Self { db };
        device.cf(ENTRIES_CF)?;
        device.cf(STATE_CF)?;
        Ok(device)
    }

    fn cf(&self, name: &str) -> io::Result<Arc<BoundColumnFamily<'_>>> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| io::Error::other(format!("the database has no column family {name}")))
    }

    fn state_value(&self, log: LogKey, field: Field) -> io::Result<Option<Vec<u8>>> {
        self.db
            .get_cf(&self.cf(STATE_CF)?, state_row::key(log, field))
            .map_err(io::Error::other)
    }

    /// As [`LogDevice::read`], but what was damaged and is missing is taken for entries without content.
    fn read_over_damage(&self, log: LogKey, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Record>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(entry_key::end(log));
        let mut rows = self.db.raw_iterator_cf_opt(&self.cf(ENTRIES_CF)?, options);
        rows.seek(entry_key::from_index(log, range.start));
        let mut found: Vec<Record> = Vec::new();
        let mut bytes = 0;
        for index in range {
            let Some((key, value)) = rows.item() else { break };
            let (_, position, kind) = entry_key::decode(key)
                .ok_or_else(|| damaged(format!("{log}: damaged entry key {key:02x?}")))?;
            if position.index > index {
                found.push(Record {
                    position: LogPosition::new(position.term, index),
                    kind: EntryKind::Blank,
                    payload: Bytes::new(),
                });
                continue;
            }
            bytes += value.len() + 64;
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(Record {
                position,
                kind,
                payload: Bytes::copy_from_slice(value),
            });
            rows.next();
        }
        rows.status().map_err(io::Error::other)?;
        Ok(found)
    }

    fn add(&self, batch: &mut WriteBatch, op: &DeviceOp) -> io::Result<()> {
        let (entries, state) = (self.cf(ENTRIES_CF)?, self.cf(STATE_CF)?);
        match op {
            DeviceOp::Append(log, records) => {
                for record in records {
                    batch.put_cf(
                        &entries,
                        entry_key::encode(*log, record.position, record.kind),
                        &record.payload,
                    );
                }
            }
            DeviceOp::Vote(log, vote) => {
                batch.put_cf(
                    &state,
                    state_row::key(*log, Field::Vote),
                    state_row::encode_vote(*log, *vote),
                );
            }
            DeviceOp::Committed(log, Some(at)) => {
                let row = state_row::encode_position(*log, Field::Committed, *at);
                batch.put_cf(&state, state_row::key(*log, Field::Committed), row);
            }
            DeviceOp::Committed(log, None) => batch.delete_cf(&state, state_row::key(*log, Field::Committed)),
            DeviceOp::Truncate(log, from) => {
                batch.delete_range_cf(
                    &entries,
                    entry_key::from_index(*log, *from).to_vec(),
                    entry_key::end(*log),
                );
            }
            DeviceOp::Purge(log, range, upto) => {
                let row = state_row::encode_position(*log, Field::Purged, *upto);
                batch.put_cf(&state, state_row::key(*log, Field::Purged), row);
                if !range.is_empty() {
                    let (from, to) = (
                        entry_key::from_index(*log, range.start),
                        entry_key::from_index(*log, range.end),
                    );
                    batch.delete_range_cf(&entries, from, to);
                }
            }
            DeviceOp::Erase(log) => {
                batch.delete_range_cf(
                    &entries,
                    entry_key::from_index(*log, 0).to_vec(),
                    entry_key::end(*log),
                );
                for field in [Field::Vote, Field::Committed, Field::Purged] {
                    batch.delete_cf(&state, state_row::key(*log, field));
                }
            }
            DeviceOp::Rider(rows) => {
                for row in rows {
                    let cf = self.cf(row.cf)?;
                    match &row.value {
                        Some(value) => batch.put_cf(&cf, &row.key, value),
                        None => batch.delete_cf(&cf, &row.key),
                    }
                }
            }
        }
        Ok(())
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn position_of(log: LogKey, key: &[u8]) -> io::Result<LogPosition> {
    let decoded = entry_key::decode(key).map(|(_, position, _)| position);
    decoded.ok_or_else(|| damaged(format!("{log}: damaged entry key {key:02x?}")))
}

impl LogDevice for RocksDevice {
    fn write(&self, ops: &[DeviceOp], sync: bool) -> io::Result<()> {
        if ops.is_empty() {
            return if sync {
                self.db.flush_wal(true).map_err(io::Error::other)
            } else {
                Ok(())
            };
        }
        let mut batch = WriteBatch::default();
        for op in ops {
            self.add(&mut batch, op)?;
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch, &options).map_err(io::Error::other)
    }

    fn read(&self, log: LogKey, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Record>> {
        if mutant!("wal_checksum_skipped") {
            return self.read_over_damage(log, range, max_bytes);
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(entry_key::from_index(log, range.end));
        let mut rows = self.db.raw_iterator_cf_opt(&self.cf(ENTRIES_CF)?, options);
        rows.seek(entry_key::from_index(log, range.start));
        let mut found: Vec<Record> = Vec::new();
        let mut bytes = 0;
        let mut expected = range.start;
        while let Some((key, value)) = rows.item() {
            let (_, position, kind) = entry_key::decode(key)
                .ok_or_else(|| damaged(format!("{log}: damaged entry key {key:02x?}")))?;
            let cost = value.len() + 64;
            if position.index != expected || (bytes + cost > max_bytes && !found.is_empty()) {
                break;
            }
            bytes += cost;
            expected += 1;
            found.push(Record {
                position,
                kind,
                payload: Bytes::copy_from_slice(value),
            });
            rows.next();
        }
        rows.status().map_err(io::Error::other)?;
        Ok(found)
    }

    fn recover(&self, log: LogKey) -> io::Result<RecoveredLog> {
        let vote = self.state_value(log, Field::Vote)?;
        let committed = self.state_value(log, Field::Committed)?;
        let purged = self.state_value(log, Field::Purged)?;
        let purged = purged
            .map(|v| state_row::decode_position(log, Field::Purged, &v))
            .transpose()?;
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(entry_key::from_index(log, purged.map_or(0, |p| p.index + 1)));
        options.set_iterate_upper_bound(entry_key::end(log));
        let mut rows = self.db.raw_iterator_cf_opt(&self.cf(ENTRIES_CF)?, options);
        rows.seek_to_first();
        let first = rows.key().map(|key| position_of(log, key)).transpose()?;
        rows.seek_to_last();
        let last = rows.key().map(|key| position_of(log, key)).transpose()?;
        rows.status().map_err(io::Error::other)?;
        if let (Some(purged), Some(first)) = (purged, first)
            && first.index != purged.index + 1
        {
            return Err(damaged(format!(
                "{log}: purged up to {purged}, but the log begins at {first}"
            )));
        }
        Ok(RecoveredLog {
            vote: vote.map(|v| state_row::decode_vote(log, &v)).transpose()?,
            committed: committed
                .map(|v| state_row::decode_position(log, Field::Committed, &v))
                .transpose()?,
            purged,
            first: first.map(|first| first.index),
            last,
        })
    }

    fn logs(&self) -> io::Result<Vec<LogKey>> {
        let mut logs = Vec::new();
        let mut rows = self
            .db
            .raw_iterator_cf_opt(&self.cf(STATE_CF)?, ReadOptions::default());
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            if key.len() != KEY_LEN {
                return Err(damaged(format!("damaged state key {key:02x?}")));
            }
            if let Some(log) = state_row::log_of(key)
                && logs.last() != Some(&log)
            {
                logs.push(log);
            }
            rows.next();
        }
        rows.status().map_err(io::Error::other)?;
        Ok(logs)
    }

    /// Drops whole files of purged entries. Keys below the purged position may come back to life by
    /// that, when a file held only their deletion: nobody reads below it (RFT-4).
    fn reclaim(&self) -> io::Result<()> {
        let entries = self.cf(ENTRIES_CF)?;
        for log in self.logs()? {
            let Some(row) = self.state_value(log, Field::Purged)? else {
                continue;
            };
            let purged = state_row::decode_position(log, Field::Purged, &row)?;
            let (from, to) = (
                entry_key::from_index(log, 0),
                entry_key::from_index(log, purged.index + 1),
            );
            self.db
                .delete_file_in_range_cf(&entries, from, to)
                .map_err(io::Error::other)?;
        }
        Ok(())
    }
}
