//! The native histograms of a part, behind its floats.
//!
//! Number of groups, groups. A group holds histograms of one series: `length << 1 | ordinal`, the signed
//! distance of the series from where the last group of the same sort left off, and for each histogram the
//! signed difference of its timestamp from that of the one before in the part, and its bytes
//! (`histogram::bytes`), with their length.

use super::part::ORDINAL_BIT;
use super::{EntryError, malformed};
use crate::codec::histograms::fits;
use crate::histogram::Histogram;
use crate::varint::{Reader, put_bytes, put_i64, put_u64};

/// Collects the histograms of a part.
#[derive(Debug, Default)]
pub(super) struct HistogramRows {
    total: u64,
    groups: u64,
    closed: Vec<u8>,
    /// The series of the open group, with the ordinal bit, its length and its histograms.
    series: u64,
    length: u64,
    open: Vec<u8>,
    expected: [u64; 2],
    last_ms: i64,
    scratch: Vec<u8>,
}

impl HistogramRows {
    pub(super) fn len(&self) -> u64 {
        self.total
    }

    pub(super) fn size_estimate(&self) -> usize {
        self.closed.len() + self.open.len()
    }

    /// `series` has the ordinal bit set if it is an ordinal.
    pub(super) fn push(&mut self, series: u64, timestamp_ms: i64, histogram: &Histogram) {
        if series != self.series {
            self.close();
            self.series = series;
        }
        put_i64(&mut self.open, timestamp_ms.wrapping_sub(self.last_ms));
        self.last_ms = timestamp_ms;
        self.scratch.clear();
        histogram.encode(&mut self.scratch);
        put_bytes(&mut self.open, &self.scratch);
        self.length += 1;
        self.total += 1;
    }

    fn close(&mut self) {
        if self.length == 0 {
            return;
        }
        let ordinal = self.series & ORDINAL_BIT != 0;
        let series = self.series & !ORDINAL_BIT;
        put_u64(&mut self.closed, self.length << 1 | u64::from(ordinal));
        let expected = &mut self.expected[usize::from(ordinal)];
        put_i64(&mut self.closed, series.wrapping_sub(*expected) as i64);
        *expected = series + 1;
        self.closed.append(&mut self.open);
        self.length = 0;
        self.groups += 1;
    }

    pub(super) fn encode(mut self, out: &mut Vec<u8>) {
        self.close();
        put_u64(out, self.groups);
        out.extend_from_slice(&self.closed);
    }
}

/// A native histogram of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistogramRow<'a> {
    /// As in `Columns::refs`.
    pub(crate) series: u64,
    /// Unix milliseconds.
    pub(crate) timestamp_ms: i64,
    /// What [`Histogram::encode`] gives, and nothing else.
    pub(crate) encoded: &'a [u8],
}

/// Reads the section, which takes all of `bytes`, of a part with so many series of its own.
pub(super) fn decode(bytes: &[u8], ordinals: u64) -> Result<Vec<HistogramRow<'_>>, EntryError> {
    let cut = || malformed("part", "its histograms are cut");
    let mut reader = Reader::new(bytes);
    let groups = reader.varint().filter(|groups| *groups > 0).ok_or_else(cut)?;
    let mut rows = Vec::new();
    let mut expected = [0u64; 2];
    let mut timestamp_ms = 0i64;
    let mut scratch = Vec::new();
    for _ in 0..groups {
        let head = reader.varint().ok_or_else(cut)?;
        let (length, ordinal) = (head >> 1, head & 1 != 0);
        let step = reader.varint_i64().ok_or_else(cut)?;
        let expected = &mut expected[usize::from(ordinal)];
        let series = expected.wrapping_add(step as u64);
        let limit = if ordinal { ordinals } else { ORDINAL_BIT };
        if series >= limit || (series == 0 && !ordinal) || length == 0 {
            let detail = "a group of histograms is empty or of a series that cannot exist";
            return Err(malformed("part", detail));
        }
        *expected = series + 1;
        let tag = if ordinal { ORDINAL_BIT } else { 0 };
        for _ in 0..length {
            timestamp_ms = timestamp_ms.wrapping_add(reader.varint_i64().ok_or_else(cut)?);
            let encoded = reader.bytes().ok_or_else(cut)?;
            check(encoded, &mut scratch)?;
            rows.push(HistogramRow {
                series: series | tag,
                timestamp_ms,
                encoded,
            });
        }
    }
    if !reader.is_empty() {
        return Err(malformed("part", "bytes follow its end"));
    }
    Ok(rows)
}

/// Two histograms are the same if their bytes are, so each has only one spelling.
fn check(encoded: &[u8], scratch: &mut Vec<u8>) -> Result<(), EntryError> {
    let histogram = Histogram::decode(encoded).map_err(|_| malformed("part", "a histogram is invalid"))?;
    if !fits(&histogram) {
        return Err(malformed("part", "a histogram has too many buckets"));
    }
    scratch.clear();
    histogram.encode(scratch);
    match scratch == encoded {
        true => Ok(()),
        false => Err(malformed("part", "a histogram is not in its only form")),
    }
}
