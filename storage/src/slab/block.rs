//! One slab: a directory and columns of values, or of histograms.
//!
//! `version varint(columns)`, then for all columns the series ids, the places of their timestamps, both
//! as zigzag differences, and their lengths, then the columns, `crc32c`.

use super::SLAB_COLUMNS;
use crate::frame::{open_row, seal};
use crate::varint::{Reader, put_i64, put_u64};

const VERSION: u8 = 1;

/// Collects columns until the slab is full.
#[derive(Default)]
pub(super) struct SlabBuilder {
    series: Vec<u8>,
    times: Vec<u8>,
    lengths: Vec<u8>,
    data: Vec<u8>,
    columns: usize,
    last: (u64, u64),
}

impl SlabBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.columns == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.columns >= SLAB_COLUMNS || self.data.len() >= super::ROW_BYTES
    }

    /// Adds a column, which `encode` appends; returns how many bytes it takes.
    pub(super) fn push(&mut self, series: u64, times: u64, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let from = self.data.len();
        encode(&mut self.data);
        let length = (self.data.len() - from) as u64;
        put_i64(&mut self.series, series.wrapping_sub(self.last.0) as i64);
        put_i64(&mut self.times, times.wrapping_sub(self.last.1) as i64);
        put_u64(&mut self.lengths, length);
        self.last = (series, times);
        self.columns += 1;
        length
    }

    /// The slab's bytes; the builder is empty again.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let directory = self.series.len() + self.times.len() + self.lengths.len();
        let mut out = Vec::with_capacity(directory + self.data.len() + 8);
        out.push(VERSION);
        put_u64(&mut out, self.columns as u64);
        for part in [
            &mut self.series,
            &mut self.times,
            &mut self.lengths,
            &mut self.data,
        ] {
            out.extend_from_slice(part);
            part.clear();
        }
        self.columns = 0;
        self.last = (0, 0);
        seal(&mut out);
        out
    }
}

/// Where a column lies in its slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) series: u64,
    /// The place of its timestamps, see `TimesBuilder::place`.
    pub(crate) times: u64,
    from: u32,
    to: u32,
}

/// A slab whose directory is read.
#[derive(Debug)]
pub(crate) struct Slab {
    bytes: Vec<u8>,
    columns: Vec<Column>,
}

impl Slab {
    /// Reads the directory; the error says what does not fit.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let columns = parse_columns(&bytes)?;
        Ok(Self { bytes, columns })
    }

    /// In order of metric, series and time; at least one.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The bytes of a column of this slab.
    pub(crate) fn data(&self, column: &Column) -> &[u8] {
        self.bytes
            .get(column.from as usize..column.to as usize)
            .unwrap_or_default()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.columns.len() * size_of::<Column>() + 100
    }
}

fn parse_columns(bytes: &[u8]) -> Result<Vec<Column>, &'static str> {
    let mut reader = open_row(bytes, VERSION)?;
    directory(&mut reader).ok_or("its directory is malformed")
}

fn directory(reader: &mut Reader<'_>) -> Option<Vec<Column>> {
    let count = reader.varint_usize().filter(|n| (1..=SLAB_COLUMNS).contains(n))?;
    let mut columns = Vec::with_capacity(count);
    let mut last = 0u64;
    for _ in 0..count {
        last = last.wrapping_add(reader.varint_i64()? as u64);
        columns.push(Column {
            series: last,
            times: 0,
            from: 0,
            to: 0,
        });
    }
    last = 0;
    for column in &mut columns {
        last = last.wrapping_add(reader.varint_i64()? as u64);
        column.times = last;
    }
    for column in &mut columns {
        column.to = u32::try_from(reader.varint()?).ok()?;
    }
    let mut at = u32::try_from(reader.position()).ok()?;
    for column in &mut columns {
        column.from = at;
        at = at.checked_add(column.to)?;
        column.to = at;
    }
    (at as usize == reader.position() + reader.remaining()).then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::values::{ValuesDecoder, ValuesEncoder};
    use proptest::prelude::*;

    fn slab() -> Vec<u8> {
        let mut encoder = ValuesEncoder::new();
        let mut builder = SlabBuilder::default();
        for column in 0..5u64 {
            let bits: Vec<u64> = (0..20).map(|i| ((i * column) as f64).to_bits()).collect();
            builder.push(100 - column * 7, 512 + column / 2, |out| {
                encoder.encode(&bits, out)
            });
        }
        builder.finish()
    }

    #[test]
    fn golden() {
        let bytes = slab();
        crate::golden::check("slab-v1", &bytes);
        let slab = Slab::parse(bytes).unwrap();
        assert_eq!(slab.columns().len(), 5);
        for (at, column) in (0u64..).zip(slab.columns()) {
            assert_eq!((column.series, column.times), (100 - at * 7, 512 + at / 2));
            let mut values = Vec::new();
            ValuesDecoder::new()
                .decode(slab.data(column), 20, &mut values)
                .unwrap();
            assert_eq!(values[3], (3 * at) as f64);
        }
    }

    proptest! {
        #[test]
        fn damage_is_seen(at: usize, xor in 1u8..=255) {
            let mut bytes = slab();
            let at = at % bytes.len();
            bytes[at] ^= xor;
            prop_assert!(Slab::parse(bytes.clone()).is_err());
            bytes.truncate(at);
            prop_assert!(Slab::parse(bytes).is_err());
        }

        #[test]
        fn garbage_with_a_fitting_checksum_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            bytes.insert(0, VERSION);
            let crc = crc32c::crc32c(&bytes);
            bytes.extend(crc.to_le_bytes());
            if let Ok(slab) = Slab::parse(bytes) {
                for column in slab.columns() {
                    let _ = slab.data(column);
                }
            }
        }
    }
}
