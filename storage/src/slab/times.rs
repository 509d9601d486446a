//! Rows of timestamp columns.
//!
//! `version varint(columns)`, the length of each column, the columns, `crc32c`. A column is
//! `varint(samples)` and a column of integers (`codec::ints`).

use std::sync::Arc;

use hashbrown::HashMap;
use xxhash_rust::xxh3::xxh3_64;

use super::{COLUMN_SAMPLES, ROW_BYTES};
use crate::codec::ints::{self, IntsEncoder};
use crate::frame::{open_row, seal};
use crate::varint::{Reader, put_u64};

const VERSION: u8 = 1;
/// Columns of one row; the place of a column is its row's number times this plus its place there.
const ROW_COLUMNS: u64 = 256;
/// Timestamps that are remembered to find equal columns. Beyond it, columns are stored again.
const KNOWN_TIMESTAMPS: usize = 8 << 20;

/// A finished row.
pub(super) struct FinishedRow {
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
}

/// Gives columns their places, equal ones the same.
#[derive(Default)]
pub(super) struct TimesBuilder {
    known: HashMap<u64, (u64, Arc<[i64]>)>,
    known_timestamps: usize,
    /// The place given last, and to what: adjacent series mostly share it.
    row: u64,
    columns: u64,
    lengths: Vec<u8>,
    data: Vec<u8>,
    encoder: IntsEncoder,
}

impl TimesBuilder {
    /// The place of a column, and a row that became full by it.
    pub(super) fn place(&mut self, timestamps: &[i64]) -> (u64, Option<FinishedRow>) {
        let hash = hash(timestamps);
        // Another column with the same hash takes the place of the one remembered.
        if let Some((place, known)) = self.known.get(&hash)
            && **known == *timestamps
        {
            return (*place, None);
        }
        let place = self.row * ROW_COLUMNS + self.columns;
        let from = self.data.len();
        put_u64(&mut self.data, timestamps.len() as u64);
        self.encoder.encode(timestamps, &mut self.data);
        put_u64(&mut self.lengths, (self.data.len() - from) as u64);
        self.columns += 1;
        if self.known_timestamps + timestamps.len() > KNOWN_TIMESTAMPS {
            self.known.clear();
            self.known_timestamps = 0;
        }
        self.known_timestamps += timestamps.len();
        self.known.insert(hash, (place, timestamps.into()));
        let full = self.columns >= ROW_COLUMNS || self.data.len() >= ROW_BYTES;
        (place, if full { self.finish() } else { None })
    }

    /// The row that is not full yet.
    pub(super) fn finish(&mut self) -> Option<FinishedRow> {
        if self.columns == 0 {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.lengths.len() + self.data.len() + 8);
        bytes.push(VERSION);
        put_u64(&mut bytes, self.columns);
        for part in [&mut self.lengths, &mut self.data] {
            bytes.extend_from_slice(part);
            part.clear();
        }
        seal(&mut bytes);
        let number = self.row;
        self.row += 1;
        self.columns = 0;
        Some(FinishedRow { number, bytes })
    }
}

fn hash(timestamps: &[i64]) -> u64 {
    let mut hash = timestamps.len() as u64;
    let mut bytes = [0u8; 512];
    for part in timestamps.chunks(bytes.len() / 8) {
        for (to, timestamp) in bytes.chunks_exact_mut(8).zip(part) {
            to.copy_from_slice(&timestamp.to_le_bytes());
        }
        hash = hash.rotate_left(23) ^ xxh3_64(&bytes[..part.len() * 8]);
    }
    hash
}

/// The row of a column's place.
pub(super) fn row_of(place: u64) -> u64 {
    place / ROW_COLUMNS
}

/// A row whose directory is read.
#[derive(Debug)]
pub(crate) struct TimesRow {
    bytes: Vec<u8>,
    /// Where each column ends; the first begins at `from`.
    ends: Vec<usize>,
    from: usize,
}

impl TimesRow {
    /// Reads the directory; the error says what does not fit.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let mut reader = open_row(&bytes, VERSION)?;
        let (from, ends) = directory(&mut reader).ok_or("its directory is malformed")?;
        Ok(Self { bytes, ends, from })
    }

    /// How many columns there are.
    pub(crate) fn len(&self) -> u64 {
        self.ends.len() as u64
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * 8 + 100
    }

    /// The timestamps of the column at a place, strictly ascending; the error says what does not fit.
    pub(crate) fn column(&self, place: u64) -> Result<Vec<i64>, &'static str> {
        let at = (place % ROW_COLUMNS) as usize;
        let to = *self.ends.get(at).ok_or("it lacks a column")?;
        let from = at
            .checked_sub(1)
            .map_or(Some(&self.from), |before| self.ends.get(before));
        let column = from
            .and_then(|from| self.bytes.get(*from..to))
            .unwrap_or_default();
        let mut reader = Reader::new(column);
        let mut timestamps = Vec::new();
        reader
            .varint_usize()
            .filter(|n| (1..=COLUMN_SAMPLES).contains(n))
            .and_then(|count| ints::decode(&mut reader, count, &mut timestamps).ok())
            .filter(|()| reader.is_empty())
            .ok_or("a column of it is malformed")?;
        if timestamps.windows(2).any(|two| two[0] >= two[1]) {
            return Err("timestamps of it do not ascend");
        }
        Ok(timestamps)
    }
}

fn directory(reader: &mut Reader<'_>) -> Option<(usize, Vec<usize>)> {
    let count = reader.varint().filter(|n| (1..=ROW_COLUMNS).contains(n))?;
    let lengths = (0..count)
        .map(|_| reader.varint_usize())
        .collect::<Option<Vec<_>>>()?;
    let from = reader.position();
    let mut ends = Vec::with_capacity(lengths.len());
    let mut at = from;
    for length in lengths {
        at = at.checked_add(length)?;
        ends.push(at);
    }
    (at == from + reader.remaining()).then_some((from, ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> Vec<u8> {
        let mut builder = TimesBuilder::default();
        for column in 0..4 {
            let times: Vec<i64> = (0..30)
                .map(|i| 1_700_000_000_000 + column + i * 15_000 + i % 3)
                .collect();
            assert!(builder.place(&times).1.is_none());
        }
        builder.finish().unwrap().bytes
    }

    #[test]
    fn golden() {
        let bytes = row();
        crate::golden::check("times-v1", &bytes);
        let row = TimesRow::parse(bytes).unwrap();
        for place in 0..4 {
            let times = row.column(place).unwrap();
            assert_eq!((times.len(), times[0]), (30, 1_700_000_000_000 + place as i64));
        }
        assert!(row.column(4).is_err());
    }

    #[test]
    fn equal_columns_share_a_place() {
        let mut builder = TimesBuilder::default();
        let column = |from: i64| (from..from + 100).collect::<Vec<i64>>();
        assert_eq!(builder.place(&column(0)).0, 0);
        assert_eq!(builder.place(&column(7)).0, 1);
        assert_eq!(builder.place(&column(0)).0, 0);
        assert_eq!(builder.place(&column(0)[..99]).0, 2);
        let mut rows = 0;
        for from in 100..400 {
            rows += usize::from(builder.place(&column(from)).1.is_some());
        }
        assert_eq!(rows, 1);
        assert_eq!(builder.finish().unwrap().number, 1);
        assert_eq!(builder.place(&column(7)).0, 1, "places outlive their row");
    }

    #[test]
    fn timestamps_that_do_not_ascend_are_refused() {
        let mut builder = TimesBuilder::default();
        builder.place(&[1, 2, 2]);
        let row = TimesRow::parse(builder.finish().unwrap().bytes).unwrap();
        assert!(row.column(0).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_seen(at: usize, xor in 1u8..=255) {
            let mut bytes = row();
            let at = at % bytes.len();
            bytes[at] ^= xor;
            prop_assert!(TimesRow::parse(bytes.clone()).is_err());
            bytes.truncate(at);
            prop_assert!(TimesRow::parse(bytes).is_err());
        }

        #[test]
        fn garbage_with_a_fitting_checksum_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            bytes.insert(0, VERSION);
            let crc = crc32c::crc32c(&bytes);
            bytes.extend(crc.to_le_bytes());
            if let Ok(row) = TimesRow::parse(bytes) {
                for place in 0..=ROW_COLUMNS {
                    let _ = row.column(place);
                }
            }
        }
    }
}
