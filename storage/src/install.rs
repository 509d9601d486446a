//! Receiving a snapshot: its rows go to a fresh epoch and fresh generations, which nothing refers to
//! until one synced meta row switches to them. A crash before leaves the old state, after it the new.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use rocksdb::WriteOptions;

use crate::activity;
use crate::error::StorageError;
use crate::flushed::{RowRange, cf, chunk_range};
use crate::meta::ShardMeta;
use crate::recover;
use crate::rows::{
    CF_CHUNKS, CF_SERIES, CF_SHARD_META, KIND_ACTIVITY, KIND_LABELS, KIND_STATE, KIND_TIMES, SlabKind,
    successor, trailing_span,
};
use crate::series_rows::{decode_labels_row, decode_states};
use crate::shard::{Gate, LogPosition, Shard, delete_range};
use crate::slab::{Slab, TimesRow};
use crate::snapshot::{FAMILY_CHUNKS, FAMILY_SERIES, KIND_END, KIND_META, KIND_ROWS, VERSION};
use crate::sst::SstFile;
use crate::varint::Reader;

/// The largest frame accepted, in bytes.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Length, kind and checksum around a payload.
const FRAME_OVERHEAD: usize = 9;

/// Takes a snapshot in. Without [`Self::finish`] the shard stays as it is.
pub struct SnapshotInstall {
    shard: Arc<Shard>,
    /// Bytes of a frame that is not complete yet.
    buffer: Vec<u8>,
    incoming: Option<Incoming>,
    rows: u64,
    ended: bool,
    finished: bool,
}

/// What the first frame sets up.
struct Incoming {
    /// The sender's meta row with our numbers.
    meta: ShardMeta,
    source: ShardMeta,
    /// The sender's generation numbers to ours.
    numbers: HashMap<u64, u64>,
    series: SstFile,
    chunks: SstFile,
}

impl Shard {
    /// Begins to receive a snapshot. Applying, reading and flushing go on meanwhile.
    pub fn begin_install(self: &Arc<Self>) -> Result<SnapshotInstall, StorageError> {
        self.check_poison()?;
        Ok(SnapshotInstall {
            shard: self.clone(),
            buffer: Vec::new(),
            incoming: None,
            rows: 0,
            ended: false,
            finished: false,
        })
    }

    /// Waits for a flush to be committed or aborted, then keeps others from beginning.
    fn close_gate(&self) {
        let mut gate = self.gate.lock();
        while *gate != Gate::Idle {
            self.gate_changed.wait(&mut gate);
        }
        *gate = Gate::Installing;
    }
}

impl SnapshotInstall {
    /// Takes the next bytes, cut anywhere.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        self.buffer.extend_from_slice(chunk);
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = &buffer[..];
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > FRAME_BYTES_MAX {
                return Err(self.damaged("a frame is too long"));
            }
            let Some(frame) = after.get(..length + FRAME_OVERHEAD - 4) else {
                break;
            };
            self.frame(frame)?;
            rest = &after[frame.len()..];
        }
        self.buffer = rest.to_vec();
        Ok(())
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), StorageError> {
        let Some((body, crc)) = frame.split_last_chunk::<4>() else {
            return Err(self.damaged("a frame is too short"));
        };
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(self.damaged("a frame's checksum does not match"));
        }
        if self.ended {
            return Err(self.damaged("frames follow the last"));
        }
        match body.split_first() {
            Some((&KIND_META, payload)) => self.meta_frame(payload),
            Some((&KIND_ROWS, payload)) => self.rows_frame(payload),
            Some((&KIND_END, payload)) => {
                if Reader::new(payload).varint() != Some(self.rows) {
                    return Err(self.damaged("rows are missing"));
                }
                self.ended = true;
                Ok(())
            }
            _ => Err(self.damaged("a frame has an unknown kind")),
        }
    }

    fn meta_frame(&mut self, payload: &[u8]) -> Result<(), StorageError> {
        let Some((&VERSION, row)) = payload.split_first().filter(|_| self.incoming.is_none()) else {
            return Err(self.damaged("its version is unknown, or it begins twice"));
        };
        let source = ShardMeta::decode(row).map_err(|detail| self.damaged(detail))?;
        let shard = &self.shard;
        let (epoch, first) = {
            let mut state = shard.state.write();
            let numbers = (state.next_epoch, state.next_generation);
            state.next_epoch += 1;
            state.next_generation += source.generations.len() as u64 + 1;
            numbers
        };
        let mut meta = source.clone();
        meta.epoch = epoch;
        let mut numbers = HashMap::new();
        for (offset, generation) in meta.generations.iter_mut().enumerate() {
            let number = first + offset as u64;
            numbers.insert(generation.number, number);
            generation.number = number;
        }
        meta.tombstones.renumber(&source.generations, first);
        meta.state_generation = first + source.generations.len() as u64;
        let series = SstFile::new(shard, CF_SERIES, &format!("{}-received", meta.state_generation));
        let chunks = SstFile::new(shard, CF_CHUNKS, &format!("{}-received", meta.state_generation));
        self.incoming = Some(Incoming {
            meta,
            source,
            numbers,
            series,
            chunks,
        });
        Ok(())
    }

    fn rows_frame(&mut self, payload: &[u8]) -> Result<(), StorageError> {
        let shard = self.shard.clone();
        let Some(incoming) = &mut self.incoming else {
            return Err(self.damaged("rows come before the meta row"));
        };
        let mut reader = Reader::new(payload);
        let family = reader.u8();
        let damaged = |detail| snapshot_error(&shard, detail);
        while !reader.is_empty() {
            let key = reader.bytes().ok_or_else(|| damaged("a row is cut"))?;
            let value = reader.bytes().ok_or_else(|| damaged("a row is cut"))?;
            match family {
                Some(FAMILY_SERIES) => incoming.series_row(&shard, key, value)?,
                Some(FAMILY_CHUNKS) => incoming.chunk_row(&shard, key, value)?,
                _ => return Err(damaged("a frame has an unknown family")),
            }
            self.rows += 1;
        }
        Ok(())
    }

    /// Switches to the received state; durable on return. The shard then stands at `position`, which
    /// has to be the snapshot's, and everything it had before is gone.
    pub fn finish(mut self, position: LogPosition, membership: Option<Bytes>) -> Result<(), StorageError> {
        let shard = self.shard.clone();
        shard.check_poison()?;
        if !self.ended || !self.buffer.is_empty() {
            return Err(self.damaged("it ends too early"));
        }
        let Some(mut incoming) = self.incoming.take() else {
            return Err(self.damaged("it is empty"));
        };
        incoming.meta.membership = membership;
        let ours = cleanup_ranges(&shard, &incoming.meta);
        if incoming.meta.position != position {
            return Err(self.damaged("its position is not the one announced"));
        }
        shard.close_gate();
        let result = switch(&shard, &mut incoming);
        if result.is_err() {
            for range in &ours {
                let _ = delete_range(&shard.db, shard.key.shard, range);
            }
        }
        shard.open_gate();
        self.finished = true;
        result
    }

    fn damaged(&self, detail: &str) -> StorageError {
        snapshot_error(&self.shard, detail)
    }
}

impl Drop for SnapshotInstall {
    /// Deletes what an unfinished transfer ingested; reopening would do so otherwise.
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take().filter(|_| !self.finished) {
            for range in cleanup_ranges(&self.shard, &incoming.meta) {
                let _ = delete_range(&self.shard.db, self.shard.key.shard, &range);
            }
        }
    }
}

impl Incoming {
    fn series_row(&mut self, shard: &Shard, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let damaged = |detail| snapshot_error(shard, detail);
        let mut reader = Reader::new(key);
        let epoch = reader.array().map(u64::from_be_bytes);
        if epoch != Some(self.source.epoch) {
            return Err(damaged("a row belongs to another epoch"));
        }
        let kind = reader.u8();
        let first = reader.array().map(u64::from_be_bytes);
        let second = reader.array().map(u64::from_be_bytes);
        let (epoch, state_generation) = (self.meta.epoch, self.meta.state_generation);
        let key = match (kind, first, second, reader.is_empty()) {
            (Some(KIND_LABELS), Some(id), None, true) if id < self.source.next_id => {
                decode_labels_row(value).map_err(damaged)?;
                shard.key.labels(epoch, id)
            }
            (Some(KIND_ACTIVITY), Some(generation), Some(_), true)
                if generation == self.source.state_generation =>
            {
                activity::decode(value).map_err(damaged)?;
                let span = trailing_span(key).unwrap_or(i64::MAX);
                shard.key.activity(epoch, state_generation, span)
            }
            (Some(KIND_STATE), Some(generation), Some(block), true)
                if generation == self.source.state_generation =>
            {
                decode_states(value).map_err(damaged)?;
                shard.key.state(epoch, state_generation, block)
            }
            _ => return Err(damaged("a row has a malformed key")),
        };
        self.series.put(&key, value)
    }

    fn chunk_row(&mut self, shard: &Shard, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let damaged = |detail| snapshot_error(shard, detail);
        let (generation, tail) = key
            .split_first_chunk::<8>()
            .ok_or_else(|| damaged("a row of samples has a malformed key"))?;
        let number = self
            .numbers
            .get(&u64::from_be_bytes(*generation))
            .ok_or_else(|| damaged("a row of samples belongs to a generation that is not listed"))?;
        let read = match (tail.first(), tail.len()) {
            (Some(kind), 21) if SlabKind::of(*kind).is_some() => Slab::parse(value.to_vec()).map(|_| ()),
            (Some(&KIND_TIMES), 9) => TimesRow::parse(value.to_vec()).map(|_| ()),
            _ => Err("a row of samples has a malformed key"),
        };
        read.map_err(damaged)?;
        let mut key = shard.key.generation(*number);
        key.extend_from_slice(tail);
        self.chunks.put(&key, value)
    }
}

/// Ingests the rows, makes the meta row durable and replaces the state in memory.
fn switch(shard: &Shard, incoming: &mut Incoming) -> Result<(), StorageError> {
    let number = shard.key.shard;
    incoming.series.ingest()?;
    if !mutant!("snapshot_not_atomic") {
        incoming.chunks.ingest()?;
    }
    crash_point!("install_before_switch");
    let mut meta = incoming.meta.clone();
    // Loading before the switch proves that the rows are complete.
    meta.next_generation = shard.state.read().next_generation;
    let mut new = recover::load(&shard.db, shard.key, meta.clone())?;
    {
        let applied = shard.state.read().applied;
        if applied.is_some_and(|applied| applied.index > meta.position.index) {
            return Err(StorageError::misuse(
                number,
                "the snapshot is older than what is applied",
            ));
        }
    }
    let mut options = WriteOptions::default();
    options.set_sync(true);
    let handle = cf(&shard.db, number, CF_SHARD_META)?;
    let written = shard
        .db
        .put_cf_opt(&handle, shard.key.prefix(), meta.encode(), &options)
        .map_err(StorageError::rocks(number, "writing the meta row of a snapshot"));
    // After a failed write nobody knows which state a restart would find.
    shard.or_poison(written)?;
    crash_point!("install_after_switch");
    if mutant!("snapshot_not_atomic") {
        incoming.chunks.ingest()?;
    }
    let (old, flushed) = {
        let mut state = shard.state.write();
        new.next_epoch = new.next_epoch.max(state.next_epoch);
        new.next_generation = new.next_generation.max(state.next_generation);
        let flushed = new.flushed.clone();
        (std::mem::replace(&mut *state, new).flushed, flushed)
    };
    shard.or_poison(shard.retire(old, &flushed))
}

/// The rows that an install may have written.
fn cleanup_ranges(shard: &Shard, meta: &ShardMeta) -> Vec<RowRange> {
    let epoch = shard.key.generation(meta.epoch);
    let mut ranges: Vec<RowRange> = meta
        .generations
        .iter()
        .map(|g| chunk_range(shard.key, g.number))
        .collect();
    ranges.push(RowRange {
        cf: CF_SERIES,
        to: successor(epoch.clone()),
        from: epoch,
    });
    ranges
}

fn snapshot_error(shard: &Shard, detail: &str) -> StorageError {
    StorageError::Snapshot {
        shard: shard.key.shard,
        detail: detail.to_owned(),
    }
}
