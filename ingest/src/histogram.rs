//! Native histograms of a remote write request, field by field.
//!
//! ```proto
//! message Histogram {
//!   oneof count      { uint64 count_int = 1; double count_float = 2; }
//!   double sum = 3;  sint32 schema = 4;  double zero_threshold = 5;
//!   oneof zero_count { uint64 zero_count_int = 6; double zero_count_float = 7; }
//!   repeated BucketSpan negative_spans = 8;   repeated sint64 negative_deltas = 9;
//!   repeated double negative_counts = 10;     repeated BucketSpan positive_spans = 11;
//!   repeated sint64 positive_deltas = 12;     repeated double positive_counts = 13;
//!   ResetHint reset_hint = 14;  int64 timestamp = 15;  repeated double custom_values = 16;
//! }
//! message BucketSpan { sint32 offset = 1; uint32 length = 2; }
//! ```
//!
//! Whether the fields make a valid histogram is not judged here.

use std::ops::Range;

use crate::DecodeError;
use crate::wire::{self, end_of_field, fixed64_key, len_key, malformed, varint_key};

const COUNT_INT: u32 = varint_key(1);
const COUNT_FLOAT: u32 = fixed64_key(2);
const SUM: u32 = fixed64_key(3);
const SCHEMA: u32 = varint_key(4);
const ZERO_THRESHOLD: u32 = fixed64_key(5);
const ZERO_COUNT_INT: u32 = varint_key(6);
const ZERO_COUNT_FLOAT: u32 = fixed64_key(7);
const NEGATIVE_SPANS: u32 = 8;
const NEGATIVE_DELTAS: u32 = 9;
const NEGATIVE_COUNTS: u32 = 10;
const POSITIVE_SPANS: u32 = 11;
const POSITIVE_DELTAS: u32 = 12;
const POSITIVE_COUNTS: u32 = 13;
const RESET_HINT: u32 = varint_key(14);
const TIMESTAMP: u32 = varint_key(15);
const CUSTOM_VALUES: u32 = 16;
const KNOWN: [u32; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

const SPAN_OFFSET: u32 = varint_key(1);
const SPAN_LENGTH: u32 = varint_key(2);

/// A run of adjacent buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BucketSpan {
    /// Gap to the span before, in buckets; of the first one, the index of its first bucket.
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// A count as it was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WireCount {
    /// Of an integer histogram, or left out.
    Int(u64),
    /// Of a float histogram.
    Float(f64),
}

/// A native histogram with the fields and bits that were sent; what was left out is zero or empty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HistogramRef<'a> {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// All observations. [`WireCount::Float`] makes it a float histogram: its buckets are in the
    /// `counts`, those of an integer histogram in the `deltas`.
    pub count: WireCount,
    /// Sum of all observations; the stale marker, if its bits are that.
    pub sum: f64,
    /// Resolution, or −53 for custom buckets.
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: WireCount,
    /// 0 unknown, 1 reset, 2 no reset, 3 gauge.
    pub reset_hint: i32,
    /// Where the negative buckets are.
    pub negative_spans: &'a [BucketSpan],
    /// Negative buckets of an integer histogram, each as the difference from the one before.
    pub negative_deltas: &'a [i64],
    /// Negative buckets of a float histogram.
    pub negative_counts: &'a [f64],
    /// Where the positive buckets are.
    pub positive_spans: &'a [BucketSpan],
    /// Positive buckets of an integer histogram, each as the difference from the one before.
    pub positive_deltas: &'a [i64],
    /// Positive buckets of a float histogram.
    pub positive_counts: &'a [f64],
    /// Upper bounds of custom buckets.
    pub custom_values: &'a [f64],
}

/// The histograms of a batch. What repeats lies in columns that all share, so that reading a request
/// allocates nothing in steady state.
#[derive(Debug, Default)]
pub(crate) struct Histograms {
    entries: Vec<Fixed>,
    negative_spans: Vec<BucketSpan>,
    positive_spans: Vec<BucketSpan>,
    negative_deltas: Vec<i64>,
    positive_deltas: Vec<i64>,
    negative_counts: Vec<f64>,
    positive_counts: Vec<f64>,
    custom_values: Vec<f64>,
}

/// Where the columns end behind a histogram. 32 bits are enough: see [`crate::MAX_REQUEST_BYTES`].
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    negative_spans: u32,
    positive_spans: u32,
    negative_deltas: u32,
    positive_deltas: u32,
    negative_counts: u32,
    positive_counts: u32,
    custom_values: u32,
}

/// What every histogram has once.
#[derive(Debug, Clone, Copy)]
struct Fixed {
    timestamp_ms: i64,
    count: WireCount,
    sum: f64,
    schema: i32,
    zero_threshold: f64,
    zero_count: WireCount,
    reset_hint: i32,
    from: Ends,
    to: Ends,
}

impl Histograms {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets all but the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
        let ends = self.entries.last().map_or(Ends::default(), |last| last.to);
        self.negative_spans.truncate(ends.negative_spans as usize);
        self.positive_spans.truncate(ends.positive_spans as usize);
        self.negative_deltas.truncate(ends.negative_deltas as usize);
        self.positive_deltas.truncate(ends.positive_deltas as usize);
        self.negative_counts.truncate(ends.negative_counts as usize);
        self.positive_counts.truncate(ends.positive_counts as usize);
        self.custom_values.truncate(ends.custom_values as usize);
    }

    pub(crate) fn retained_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Fixed>()
            + (self.negative_spans.capacity()
                + self.positive_spans.capacity()
                + self.negative_deltas.capacity()
                + self.positive_deltas.capacity()
                + self.negative_counts.capacity()
                + self.positive_counts.capacity()
                + self.custom_values.capacity())
                * 8
    }

    /// The histogram at `index`, which is below [`Self::len`].
    pub(crate) fn get(&self, index: usize) -> HistogramRef<'_> {
        let entry = &self.entries[index];
        let (from, to) = (&entry.from, &entry.to);
        HistogramRef {
            timestamp_ms: entry.timestamp_ms,
            count: entry.count,
            sum: entry.sum,
            schema: entry.schema,
            zero_threshold: entry.zero_threshold,
            zero_count: entry.zero_count,
            reset_hint: entry.reset_hint,
            negative_spans: &self.negative_spans[from.negative_spans as usize..to.negative_spans as usize],
            negative_deltas: &self.negative_deltas
                [from.negative_deltas as usize..to.negative_deltas as usize],
            negative_counts: &self.negative_counts
                [from.negative_counts as usize..to.negative_counts as usize],
            positive_spans: &self.positive_spans[from.positive_spans as usize..to.positive_spans as usize],
            positive_deltas: &self.positive_deltas
                [from.positive_deltas as usize..to.positive_deltas as usize],
            positive_counts: &self.positive_counts
                [from.positive_counts as usize..to.positive_counts as usize],
            custom_values: &self.custom_values[from.custom_values as usize..to.custom_values as usize],
        }
    }

    fn ends(&self) -> Ends {
        Ends {
            negative_spans: self.negative_spans.len() as u32,
            positive_spans: self.positive_spans.len() as u32,
            negative_deltas: self.negative_deltas.len() as u32,
            positive_deltas: self.positive_deltas.len() as u32,
            negative_counts: self.negative_counts.len() as u32,
            positive_counts: self.positive_counts.len() as u32,
            custom_values: self.custom_values.len() as u32,
        }
    }

    /// Appends a histogram that did not arrive as protobuf.
    pub(crate) fn push(&mut self, histogram: &HistogramRef<'_>) {
        let from = self.ends();
        self.negative_spans.extend_from_slice(histogram.negative_spans);
        self.positive_spans.extend_from_slice(histogram.positive_spans);
        self.negative_deltas.extend_from_slice(histogram.negative_deltas);
        self.positive_deltas.extend_from_slice(histogram.positive_deltas);
        self.negative_counts.extend_from_slice(histogram.negative_counts);
        self.positive_counts.extend_from_slice(histogram.positive_counts);
        self.custom_values.extend_from_slice(histogram.custom_values);
        self.entries.push(Fixed {
            timestamp_ms: histogram.timestamp_ms,
            count: histogram.count,
            sum: histogram.sum,
            schema: histogram.schema,
            zero_threshold: histogram.zero_threshold,
            zero_count: histogram.zero_count,
            reset_hint: histogram.reset_hint,
            from,
            to: self.ends(),
        });
    }

    /// Reads the `Histogram` at `at` in `raw`. On an error the columns may hold parts of it.
    pub(crate) fn read(&mut self, raw: &[u8], at: Range<usize>) -> Result<(), DecodeError> {
        let (msg, mut pos) = (&raw[..at.end], at.start);
        let from = self.ends();
        let mut fixed = Fixed {
            timestamp_ms: 0,
            count: WireCount::Int(0),
            sum: 0.0,
            schema: 0,
            zero_threshold: 0.0,
            zero_count: WireCount::Int(0),
            reset_hint: 0,
            from,
            to: from,
        };
        while pos < msg.len() {
            // Of a field that occurs more than once, the last one counts: proto3 says so.
            match wire::key(msg, &mut pos)? {
                COUNT_INT => fixed.count = WireCount::Int(wire::varint(msg, &mut pos)?),
                COUNT_FLOAT => fixed.count = WireCount::Float(double(msg, &mut pos)?),
                SUM => fixed.sum = double(msg, &mut pos)?,
                SCHEMA => fixed.schema = sint32(msg, &mut pos)?,
                ZERO_THRESHOLD => fixed.zero_threshold = double(msg, &mut pos)?,
                ZERO_COUNT_INT => fixed.zero_count = WireCount::Int(wire::varint(msg, &mut pos)?),
                ZERO_COUNT_FLOAT => fixed.zero_count = WireCount::Float(double(msg, &mut pos)?),
                RESET_HINT => fixed.reset_hint = wire::varint(msg, &mut pos)? as i32,
                TIMESTAMP => fixed.timestamp_ms = wire::varint(msg, &mut pos)?.cast_signed(),
                key => self.read_repeated(msg, &mut pos, key)?,
            }
        }
        fixed.to = self.ends();
        self.entries.push(fixed);
        Ok(())
    }

    fn read_repeated(&mut self, msg: &[u8], pos: &mut usize, key: u32) -> Result<(), DecodeError> {
        match key >> 3 {
            NEGATIVE_SPANS if key == len_key(NEGATIVE_SPANS) => span(msg, pos, &mut self.negative_spans),
            POSITIVE_SPANS if key == len_key(POSITIVE_SPANS) => span(msg, pos, &mut self.positive_spans),
            NEGATIVE_DELTAS => deltas(msg, pos, key, &mut self.negative_deltas),
            POSITIVE_DELTAS => deltas(msg, pos, key, &mut self.positive_deltas),
            NEGATIVE_COUNTS => doubles(msg, pos, key, &mut self.negative_counts),
            POSITIVE_COUNTS => doubles(msg, pos, key, &mut self.positive_counts),
            CUSTOM_VALUES => doubles(msg, pos, key, &mut self.custom_values),
            _ => wire::skip_unknown(msg, pos, key, &KNOWN),
        }
    }
}

/// From the bits: NaN payloads carry meaning, e.g. the staleness marker.
fn double(msg: &[u8], pos: &mut usize) -> Result<f64, DecodeError> {
    Ok(f64::from_bits(wire::fixed64(msg, pos)?))
}

fn sint32(msg: &[u8], pos: &mut usize) -> Result<i32, DecodeError> {
    let coded = wire::varint(msg, pos)? as u32;
    Ok((coded >> 1).cast_signed() ^ -(coded & 1).cast_signed())
}

fn sint64(msg: &[u8], pos: &mut usize) -> Result<i64, DecodeError> {
    let coded = wire::varint(msg, pos)?;
    Ok((coded >> 1).cast_signed() ^ -(coded & 1).cast_signed())
}

fn span(msg: &[u8], pos: &mut usize, out: &mut Vec<BucketSpan>) -> Result<(), DecodeError> {
    let end = end_of_field(msg, pos)?;
    let msg = &msg[..end];
    let mut span = BucketSpan::default();
    while *pos < end {
        match wire::key(msg, pos)? {
            SPAN_OFFSET => span.offset = sint32(msg, pos)?,
            SPAN_LENGTH => span.length = wire::varint(msg, pos)? as u32,
            key => wire::skip_unknown(msg, pos, key, &[1, 2])?,
        }
    }
    out.push(span);
    Ok(())
}

/// A repeated `sint64`: packed, or one by one.
fn deltas(msg: &[u8], pos: &mut usize, key: u32, out: &mut Vec<i64>) -> Result<(), DecodeError> {
    repeated(msg, pos, key, varint_key(0), |msg, pos| {
        out.push(sint64(msg, pos)?);
        Ok(())
    })
}

/// A repeated `double`: packed, or one by one.
fn doubles(msg: &[u8], pos: &mut usize, key: u32, out: &mut Vec<f64>) -> Result<(), DecodeError> {
    repeated(msg, pos, key, fixed64_key(0), |msg, pos| {
        out.push(double(msg, pos)?);
        Ok(())
    })
}

fn repeated(
    msg: &[u8],
    pos: &mut usize,
    key: u32,
    single: u32,
    mut read: impl FnMut(&[u8], &mut usize) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let wire_type = key & 7;
    if wire_type == single {
        return read(msg, pos);
    }
    if wire_type != len_key(0) {
        return Err(malformed(*pos, "wrong wire type of a known field"));
    }
    let end = end_of_field(msg, pos)?;
    let msg = &msg[..end];
    while *pos < end {
        read(msg, pos)?;
    }
    Ok(())
}
