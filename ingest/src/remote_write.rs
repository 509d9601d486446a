//! Prometheus remote write 1.0: one walk over `prometheus.WriteRequest`, without building it.
//!
//! ```proto
//! message WriteRequest   { repeated TimeSeries timeseries = 1; repeated MetricMetadata metadata = 3; }
//! message TimeSeries     { repeated Label labels = 1; repeated Sample samples = 2;
//!                          repeated Exemplar exemplars = 3; repeated Histogram histograms = 4; }
//! message Label          { string name = 1; string value = 2; }
//! message Sample         { double value = 1; int64 timestamp = 2; }
//! ```
//!
//! The walk checks the structure of all of that, so that a broken request is refused before any of
//! it is stored. What labels mean is checked by [`crate::canonicalize`], for series not seen before.

use std::ops::Range;

use crate::batch::{Batch, Entry};
use crate::extras::{ExemplarEntry, MetadataEntry};
use crate::wire::{self, end_of_field, fixed64_key, len_key, malformed, varint_key};
use crate::{DecodeError, DecodeLimits, decompress_snappy};

const TIMESERIES: u32 = len_key(1);
const METADATA: u32 = len_key(3);
/// Top-level fields of `io.prometheus.write.v2.Request`, chosen to be unused by 1.0.
const V2_SYMBOLS: u32 = len_key(4);
const V2_TIMESERIES: u32 = len_key(5);

/// Field key of `TimeSeries.labels`; frames each label in raw label bytes.
pub(crate) const LABELS: u32 = len_key(1);
const SAMPLES: u32 = len_key(2);
const EXEMPLARS: u32 = len_key(3);
const HISTOGRAMS: u32 = len_key(4);

pub(crate) const LABEL_NAME: u32 = len_key(1);
pub(crate) const LABEL_VALUE: u32 = len_key(2);

const SAMPLE_VALUE: u32 = fixed64_key(1);
const SAMPLE_TIMESTAMP: u32 = varint_key(2);

/// Decompresses the snappy block `body` into `batch` and reads it as a `prometheus.WriteRequest`.
/// What `batch` held is replaced; its memory is reused.
///
/// # Errors
/// See [`DecodeError`]. `batch` is empty then.
pub fn decode_snappy_write_request(
    body: &[u8],
    limits: &DecodeLimits,
    batch: &mut Batch,
) -> Result<(), DecodeError> {
    batch.clear();
    decompress_snappy(body, limits.request_bytes(), &mut batch.bytes)?;
    walk_request(limits, batch)
}

/// Like [`decode_snappy_write_request`], of a request that is not compressed.
///
/// # Errors
/// See [`DecodeError`]. `batch` is empty then.
pub fn decode_write_request(raw: &[u8], limits: &DecodeLimits, batch: &mut Batch) -> Result<(), DecodeError> {
    batch.clear();
    if raw.len() > limits.request_bytes() {
        return Err(DecodeError::too_large(
            "max_decompressed_bytes",
            raw.len(),
            limits.request_bytes(),
        ));
    }
    batch.bytes.clear();
    batch.bytes.extend_from_slice(raw);
    walk_request(limits, batch)
}

fn walk_request(limits: &DecodeLimits, batch: &mut Batch) -> Result<(), DecodeError> {
    let raw = std::mem::take(&mut batch.bytes);
    let result = walk_message(&raw, limits, batch);
    batch.bytes = raw;
    // Ranges of gathered labels start behind the request; see `LabelRun`.
    batch.bytes.extend_from_slice(&batch.gathered);
    batch.gathered.clear();
    if result.is_err() {
        batch.clear();
    }
    result
}

fn walk_message(raw: &[u8], limits: &DecodeLimits, batch: &mut Batch) -> Result<(), DecodeError> {
    let mut pos = 0;
    while pos < raw.len() {
        match wire::key(raw, &mut pos)? {
            TIMESERIES => {
                let end = end_of_field(raw, &mut pos)?;
                if batch.entries.len() >= limits.max_series_per_request {
                    let max = limits.max_series_per_request;
                    return Err(DecodeError::too_large("max_series_per_request", max + 1, max));
                }
                walk_series(raw, pos..end, limits.request_samples(), batch)?;
                pos = end;
            }
            METADATA => {
                let end = end_of_field(raw, &mut pos)?;
                if batch.metadata.len() >= limits.max_series_per_request {
                    let max = limits.max_series_per_request;
                    return Err(DecodeError::too_large("max_series_per_request", max + 1, max));
                }
                batch.metadata.push(MetadataEntry::read(raw, pos..end)?);
                pos = end;
            }
            V2_SYMBOLS | V2_TIMESERIES => return Err(DecodeError::RemoteWrite2),
            key => wire::skip_unknown(raw, &mut pos, key, &[1, 3])?,
        }
    }
    Ok(())
}

fn walk_series(
    raw: &[u8],
    series: Range<usize>,
    max_samples: usize,
    batch: &mut Batch,
) -> Result<(), DecodeError> {
    let (msg, mut pos) = (&raw[..series.end], series.start);
    let mut labels = LabelRun::default();
    let first_sample = batch.timestamps.len();
    let first_exemplar = batch.exemplars.len();
    let first_histogram = batch.histograms.len();
    while pos < msg.len() {
        let start = pos;
        pos = end_of_plain_labels(msg, pos);
        if pos > start {
            labels.extend(msg, start..pos, &mut batch.gathered);
            continue;
        }
        match wire::key(msg, &mut pos)? {
            LABELS => {
                let end = end_of_field(msg, &mut pos)?;
                read_label(&msg[..end], pos)?;
                labels.extend(msg, start..end, &mut batch.gathered);
                pos = end;
            }
            SAMPLES => {
                let end = end_of_field(msg, &mut pos)?;
                let (timestamp_ms, value) = read_sample(raw, pos..end)?;
                if batch.timestamps.len() >= max_samples {
                    return Err(too_many_samples(max_samples));
                }
                batch.timestamps.push(timestamp_ms);
                batch.values.push(value);
                pos = end;
            }
            EXEMPLARS => {
                let end = end_of_field(msg, &mut pos)?;
                if batch.exemplars.len() >= max_samples {
                    return Err(too_many_samples(max_samples));
                }
                batch.exemplars.push(ExemplarEntry::read(raw, pos..end)?);
                pos = end;
            }
            HISTOGRAMS => {
                let end = end_of_field(msg, &mut pos)?;
                if batch.histograms.len() >= max_samples {
                    return Err(too_many_samples(max_samples));
                }
                batch.histograms.read(raw, pos..end)?;
                pos = end;
            }
            key => wire::skip_unknown(msg, &mut pos, key, &[1, 2, 3, 4])?,
        }
    }
    let labels = labels.finish(raw.len());
    batch.entries.push(Entry::new(
        labels,
        first_sample..batch.timestamps.len(),
        first_exemplar..batch.exemplars.len(),
        first_histogram..batch.histograms.len(),
    ));
    Ok(())
}

#[cold]
pub(crate) fn too_many_samples(max: usize) -> DecodeError {
    DecodeError::too_large("max_samples_per_request", max + 1, max)
}

/// The label fields of one series as one range. Senders write them next to each other, and then the
/// range is that of the request itself. Otherwise they are gathered in a side buffer, and the range
/// is the one they get when that buffer is appended to the request.
#[derive(Default)]
struct LabelRun {
    in_request: Range<usize>,
    gathered_from: Option<(usize, usize)>,
}

impl LabelRun {
    #[inline(always)]
    fn extend(&mut self, msg: &[u8], field: Range<usize>, gathered: &mut Vec<u8>) {
        // Once there was a gap, no later field can start at the end of the first run.
        if self.in_request.end == field.start {
            self.in_request.end = field.end;
        } else if self.in_request.is_empty() {
            self.in_request = field;
        } else {
            self.gather(msg, field, gathered);
        }
    }

    #[cold]
    fn gather(&mut self, msg: &[u8], field: Range<usize>, gathered: &mut Vec<u8>) {
        let from = match self.gathered_from {
            Some((from, _)) => from,
            None => {
                let from = gathered.len();
                gathered.extend_from_slice(&msg[self.in_request.clone()]);
                from
            }
        };
        gathered.extend_from_slice(&msg[field]);
        self.gathered_from = Some((from, gathered.len()));
    }

    fn finish(self, raw_len: usize) -> Range<usize> {
        match self.gathered_from {
            Some((from, to)) => raw_len + from..raw_len + to,
            None => self.in_request,
        }
    }
}

/// Passes over label fields in the form in which every known sender writes them: name, value, nothing
/// else, the whole under 128 bytes. Returns where the first field of another form starts.
///
/// This is most of the walk, hence one load for the four bytes in front of a name, and no more work
/// between a label and the next than adding its length.
#[inline(always)]
fn end_of_plain_labels(msg: &[u8], mut pos: usize) -> usize {
    while let Some(span) = plain_label(msg, pos) {
        pos = span.value.end;
    }
    pos
}

/// The label field at `pos`, if it has the plain form.
#[inline(always)]
fn plain_label(msg: &[u8], pos: usize) -> Option<LabelSpan> {
    const KEYS: u32 = u32::from_le_bytes([LABELS as u8, 0, LABEL_NAME as u8, 0]);
    const KEYS_AND_HIGH_BITS: u32 = u32::from_le_bytes([0xff, 0x80, 0xff, 0x80]);
    let head = u32::from_le_bytes(*msg.get(pos..)?.first_chunk()?);
    if head & KEYS_AND_HIGH_BITS != KEYS {
        return None;
    }
    let label_end = pos + 2 + (head >> 8 & 0x7f) as usize;
    let name = pos + 4..pos + 4 + (head >> 24) as usize;
    let value_head = u16::from_le_bytes(*msg.get(name.end..)?.first_chunk()?);
    let value_len = usize::from(value_head >> 8);
    let value = name.end + 2..label_end;
    let plain = u32::from(value_head & 0x80ff) == LABEL_VALUE
        && name.end + 2 + value_len == label_end
        && label_end <= msg.len();
    plain.then_some(LabelSpan { name, value })
}

/// Where a label's name and value are; empty when the sender left them out.
pub(crate) struct LabelSpan {
    pub(crate) name: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// Reads a `Label` that starts at `pos` and ends with `msg`.
pub(crate) fn read_label(msg: &[u8], mut pos: usize) -> Result<LabelSpan, DecodeError> {
    let mut span = LabelSpan {
        name: 0..0,
        value: 0..0,
    };
    while pos < msg.len() {
        match wire::key(msg, &mut pos)? {
            // Of a field that occurs more than once, the last one counts: proto3 says so.
            LABEL_NAME => {
                let end = end_of_field(msg, &mut pos)?;
                span.name = pos..end;
                pos = end;
            }
            LABEL_VALUE => {
                let end = end_of_field(msg, &mut pos)?;
                span.value = pos..end;
                pos = end;
            }
            key => wire::skip_unknown(msg, &mut pos, key, &[1, 2])?,
        }
    }
    Ok(span)
}

/// Reads the `Sample` at `at` in `raw`.
#[inline(always)]
fn read_sample(raw: &[u8], at: Range<usize>) -> Result<(i64, f64), DecodeError> {
    match plain_sample(raw, at.clone()) {
        Some(sample) => Ok(sample),
        None => read_any_sample(&raw[..at.end], at.start),
    }
}

/// The form in which nearly every sample comes: value, then timestamp. Bytes behind the sample are
/// loaded along with it, which the last one of a request has not: that makes the varint one load.
#[inline(always)]
fn plain_sample(raw: &[u8], at: Range<usize>) -> Option<(i64, f64)> {
    let [value_key, rest @ ..] = raw.get(at.start..)?.first_chunk::<18>()?;
    let (value, rest) = rest.split_first_chunk::<8>()?;
    let (timestamp_key, timestamp) = rest.split_first()?;
    let (timestamp_ms, length) = wire::varint_of_word(u64::from_le_bytes(*timestamp.first_chunk()?))?;
    let plain = u32::from(*value_key) == SAMPLE_VALUE
        && u32::from(*timestamp_key) == SAMPLE_TIMESTAMP
        && at.start + 10 + length == at.end;
    plain.then(|| (timestamp_ms.cast_signed(), f64::from_le_bytes(*value)))
}

/// Reads a `Sample` that starts at `pos` and ends with `msg`. Fields left out are zero.
#[inline(never)]
fn read_any_sample(msg: &[u8], mut pos: usize) -> Result<(i64, f64), DecodeError> {
    let (mut timestamp_ms, mut value) = (0, 0f64);
    while pos < msg.len() {
        match wire::key(msg, &mut pos)? {
            // From the bits: NaN payloads carry meaning, e.g. the staleness marker.
            SAMPLE_VALUE => value = f64::from_bits(wire::fixed64(msg, &mut pos)?),
            SAMPLE_TIMESTAMP => timestamp_ms = wire::varint(msg, &mut pos)?.cast_signed(),
            key => wire::skip_unknown(msg, &mut pos, key, &[1, 2])?,
        }
    }
    Ok((timestamp_ms, value))
}

/// Calls `each` for the labels in raw label bytes, until it fails.
///
/// # Errors
/// [`DecodeError::Protobuf`] when `raw_labels` is not a sequence of label fields, or what `each`
/// fails with.
pub(crate) fn for_each_label<E: From<DecodeError>>(
    raw_labels: &[u8],
    mut each: impl FnMut(LabelSpan) -> Result<(), E>,
) -> Result<(), E> {
    let mut pos = 0;
    while pos < raw_labels.len() {
        if let Some(span) = plain_label(raw_labels, pos) {
            pos = span.value.end;
            each(span)?;
            continue;
        }
        let start = pos;
        if wire::key(raw_labels, &mut pos)? != LABELS {
            return Err(malformed(start, "not a label field").into());
        }
        let end = end_of_field(raw_labels, &mut pos)?;
        each(read_label(&raw_labels[..end], pos)?)?;
        pos = end;
    }
    Ok(())
}
