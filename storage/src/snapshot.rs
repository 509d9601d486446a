//! Sending the durable state of a shard.
//!
//! A snapshot is a sequence of frames: `length u32 | kind u8 | payload | crc32c(kind, payload)`, numbers
//! little endian. Kind 1, first: `version`, then the meta row. Kind 2: `family u8`, then rows as
//! length-prefixed key (without the replica's prefix) and value, ascending within a family; all rows of
//! `series` come before those of `chunks`. Kind 3, last: the number of rows. Frames may be cut into
//! chunks anywhere.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::StorageError;
use crate::flushed::{Flushed, RowRange};
use crate::meta::ShardMeta;
use crate::recover::range_iterator;
use crate::rows::{CF_SERIES, Db, ReplicaKey};
use crate::shard::{LogPosition, Shard};
use crate::varint::{put_bytes, put_u64};

pub(crate) const VERSION: u8 = 1;
pub(crate) const KIND_META: u8 = 1;
pub(crate) const KIND_ROWS: u8 = 2;
pub(crate) const KIND_END: u8 = 3;
pub(crate) const FAMILY_SERIES: u8 = 1;
pub(crate) const FAMILY_CHUNKS: u8 = 2;
/// A frame of rows is closed when it has this many bytes.
const FRAME_BYTES: usize = 512 * 1024;
/// Bytes of shard and replica at the front of every key.
pub(crate) const PREFIX_BYTES: usize = 12;

/// The durable state of a shard at one position, pinned until dropped.
pub struct ShardSnapshot {
    /// The last entry contained.
    pub position: LogPosition,
    /// The membership in force there.
    pub membership: Option<Bytes>,
    db: Arc<Db>,
    key: ReplicaKey,
    meta: ShardMeta,
    /// Keeps the rows from being deleted.
    _pin: Arc<Flushed>,
    ranges: Vec<RowRange>,
    at: Place,
    rows: u64,
}

/// What comes next.
enum Place {
    Meta,
    /// A range, and the key in it to go on from.
    Rows {
        range: usize,
        from: Vec<u8>,
    },
    End,
    Done,
}

impl Shard {
    /// Takes a snapshot of what is durable. Flush before if nothing is.
    pub fn snapshot(&self) -> Result<ShardSnapshot, StorageError> {
        self.check_poison()?;
        let pin = self.state.read().flushed.clone();
        let Some(meta) = pin.meta.clone() else {
            return Err(StorageError::misuse(
                self.key.shard,
                "nothing is durable yet; flush before a snapshot",
            ));
        };
        let copy = |range: &RowRange| RowRange {
            cf: range.cf,
            from: range.from.clone(),
            to: range.to.clone(),
        };
        let forgotten = usize::from(mutant!("snapshot_drops_range"));
        // Labels registered later lie behind `next_id` in the same epoch.
        let labels_end = self.key.labels(meta.epoch, meta.next_id);
        let labels = pin.labels.iter().map(|range| RowRange {
            to: labels_end.clone(),
            ..copy(range)
        });
        let activity = pin.activity.iter().map(|range| copy(range));
        let ranges: Vec<RowRange> = activity
            .chain(labels)
            .chain(pin.state.iter().map(|range| copy(range)))
            .chain(pin.chunks.iter().skip(forgotten).map(|range| copy(range)))
            .collect();
        Ok(ShardSnapshot {
            position: meta.position,
            membership: meta.membership.clone(),
            db: self.db.clone(),
            key: self.key,
            meta,
            _pin: pin,
            ranges,
            at: Place::Meta,
            rows: 0,
        })
    }
}

impl ShardSnapshot {
    /// The next piece, `None` after the last. Pieces have about half a megabyte.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StorageError> {
        loop {
            match std::mem::replace(&mut self.at, Place::Done) {
                Place::Meta => {
                    self.at = self.begin(0);
                    let mut payload = vec![VERSION];
                    payload.extend_from_slice(&self.meta.encode());
                    return Ok(Some(frame(KIND_META, &payload)));
                }
                Place::Rows { range, from } => {
                    crash_point!("snapshot_read");
                    if let Some(frame) = self.rows_frame(range, from)? {
                        return Ok(Some(frame));
                    }
                }
                Place::End => {
                    let mut payload = Vec::new();
                    put_u64(&mut payload, self.rows);
                    return Ok(Some(frame(KIND_END, &payload)));
                }
                Place::Done => return Ok(None),
            }
        }
    }

    fn begin(&self, range: usize) -> Place {
        match self.ranges.get(range) {
            Some(rows) => Place::Rows {
                range,
                from: rows.from.clone(),
            },
            None => Place::End,
        }
    }

    /// Rows of one range from a key on; `None` when there are no more. Sets the next place.
    fn rows_frame(&mut self, range: usize, from: Vec<u8>) -> Result<Option<Bytes>, StorageError> {
        let family = if self.ranges[range].cf == CF_SERIES {
            FAMILY_SERIES
        } else {
            FAMILY_CHUNKS
        };
        let mut payload = vec![family];
        let mut iterator = range_iterator(&self.db, self.key.shard, &self.ranges[range])?;
        iterator.seek(&from);
        let mut next = None;
        let mut rows = 0;
        while let Some((key, value)) = iterator.item() {
            if payload.len() >= FRAME_BYTES {
                next = Some(key.to_vec());
                break;
            }
            put_bytes(&mut payload, key.get(PREFIX_BYTES..).unwrap_or_default());
            put_bytes(&mut payload, value);
            rows += 1;
            iterator.next();
        }
        iterator
            .status()
            .map_err(StorageError::rocks(self.key.shard, "reading a snapshot's rows"))?;
        drop(iterator);
        self.rows += rows;
        self.at = match next {
            Some(from) => Place::Rows { range, from },
            None => self.begin(range + 1),
        };
        Ok((rows > 0).then(|| frame(KIND_ROWS, &payload)))
    }
}

fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 9);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c(&out[4..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.into()
}
