//! The columnar form of one write request.

use std::ops::Range;

use crate::extras::{ExemplarEntry, ExemplarRef, MetadataEntry, MetadataRef};
use crate::histogram::{HistogramRef, Histograms};
use crate::remote_write::{LABEL_NAME, LABEL_VALUE, LABELS, too_many_samples};
use crate::wire::{put_varint, varint_len};
use crate::{CanonicalLabels, DecodeError, DecodeLimits, SeriesError, canonicalize};

/// The series and samples of one request, in request order.
///
/// Reused: decoding into it replaces what it holds and keeps the memory, so that in steady state
/// nothing is allocated, neither per series nor per label.
#[derive(Debug, Default)]
pub struct Batch {
    /// The request, followed by label bytes that don't lie next to each other in it. All label
    /// ranges point in here, and those of texts. May hold stale bytes while nothing points at them.
    pub(crate) bytes: Vec<u8>,
    /// Gathered label bytes during a walk; empty otherwise.
    pub(crate) gathered: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) timestamps: Vec<i64>,
    pub(crate) values: Vec<f64>,
    pub(crate) histograms: Histograms,
    pub(crate) exemplars: Vec<ExemplarEntry>,
    pub(crate) metadata: Vec<MetadataEntry>,
}

/// Where the parts of a series are. 32 bits are enough: see [`crate::MAX_REQUEST_BYTES`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    labels_start: u32,
    labels_end: u32,
    samples_start: u32,
    samples_end: u32,
    exemplars: (u32, u32),
    histograms: (u32, u32),
}

impl Entry {
    pub(crate) fn new(
        labels: Range<usize>,
        samples: Range<usize>,
        exemplars: Range<usize>,
        histograms: Range<usize>,
    ) -> Self {
        Entry {
            labels_start: labels.start as u32,
            labels_end: labels.end as u32,
            samples_start: samples.start as u32,
            samples_end: samples.end as u32,
            exemplars: (exemplars.start as u32, exemplars.end as u32),
            histograms: (histograms.start as u32, histograms.end as u32),
        }
    }
}

impl Batch {
    /// An empty batch; memory is reserved as requests need it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops all series and samples, and keeps the memory.
    pub fn clear(&mut self) {
        // `bytes` keeps its length on purpose: bytes below it need no zeroing before the next
        // decompression. Without entries nothing points at them.
        self.entries.clear();
        self.timestamps.clear();
        self.values.clear();
        self.histograms.clear();
        self.exemplars.clear();
        self.metadata.clear();
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no series.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of samples, native histograms included.
    pub fn samples(&self) -> usize {
        self.timestamps.len() + self.histograms.len()
    }

    /// The series, in request order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = SeriesRef<'_>> {
        self.entries.iter().map(|entry| SeriesRef { batch: self, entry })
    }

    /// The series at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<SeriesRef<'_>> {
        self.entries
            .get(index)
            .map(|entry| SeriesRef { batch: self, entry })
    }

    /// Timestamps of all float samples, in ms since the Unix epoch; see [`SeriesRef::sample_range`].
    pub fn timestamps(&self) -> &[i64] {
        &self.timestamps
    }

    /// Values of all float samples, parallel to [`Batch::timestamps`], with the bits that were sent.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// What the request says of metrics: type, help, unit.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = MetadataRef<'_>> {
        self.metadata.iter().map(|entry| entry.view(&self.bytes))
    }

    /// Number of exemplars.
    pub fn exemplars(&self) -> usize {
        self.exemplars.len()
    }

    /// Memory held for reuse, in bytes. A pool drops batches that one huge request has blown up.
    pub fn retained_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.gathered.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.timestamps.capacity() * size_of::<i64>()
            + self.values.capacity() * size_of::<f64>()
            + self.histograms.retained_bytes()
            + self.exemplars.capacity() * size_of::<ExemplarEntry>()
            + self.metadata.capacity() * size_of::<MetadataEntry>()
    }

    /// Appends a series that did not arrive as remote write. Its raw label bytes are framed exactly
    /// as a remote write sender does, so that the cache key is the same on both ways.
    ///
    /// Labels may come in any order and are not judged here but by [`SeriesRef::canonicalize`].
    /// Samples are (ms since the Unix epoch, value).
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] when the batch would exceed a limit of a request. The batch then is
    /// as before the call.
    pub fn push_series<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        samples: impl IntoIterator<Item = (i64, f64)>,
        limits: &DecodeLimits,
    ) -> Result<(), DecodeError> {
        if self.entries.is_empty() && self.metadata.is_empty() {
            self.bytes.clear();
        }
        let (bytes_before, samples_before) = (self.bytes.len(), self.timestamps.len());
        let result = self.push_parts(labels, samples, limits);
        if result.is_err() {
            self.bytes.truncate(bytes_before);
            self.timestamps.truncate(samples_before);
            self.values.truncate(samples_before);
        }
        result
    }

    fn push_parts<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        samples: impl IntoIterator<Item = (i64, f64)>,
        limits: &DecodeLimits,
    ) -> Result<(), DecodeError> {
        let max_series = limits.max_series_per_request;
        if self.entries.len() >= max_series {
            return Err(DecodeError::too_large(
                "max_series_per_request",
                max_series + 1,
                max_series,
            ));
        }
        let labels_start = self.bytes.len();
        for (name, value) in labels {
            push_label(&mut self.bytes, name, value, limits.request_bytes())?;
        }
        let samples_start = self.timestamps.len();
        let max_samples = limits.request_samples();
        for (timestamp_ms, value) in samples {
            if self.timestamps.len() >= max_samples {
                return Err(too_many_samples(max_samples));
            }
            self.timestamps.push(timestamp_ms);
            self.values.push(value);
        }
        let labels = labels_start..self.bytes.len();
        let (exemplars, histograms) = (self.exemplars.len(), self.histograms.len());
        self.entries.push(Entry::new(
            labels,
            samples_start..self.timestamps.len(),
            exemplars..exemplars,
            histograms..histograms,
        ));
        Ok(())
    }

    /// Adds a native histogram to the series that [`Batch::push_series`] added last; without one
    /// nothing happens.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] when the batch would exceed a limit of a request.
    pub fn push_histogram(
        &mut self,
        histogram: &HistogramRef<'_>,
        limits: &DecodeLimits,
    ) -> Result<(), DecodeError> {
        let max_samples = limits.request_samples();
        if self.histograms.len() >= max_samples {
            return Err(too_many_samples(max_samples));
        }
        if let Some(entry) = self.entries.last_mut() {
            self.histograms.push(histogram);
            entry.histograms.1 = self.histograms.len() as u32;
        }
        Ok(())
    }
}

/// Appends one label field of a `TimeSeries`.
fn push_label(bytes: &mut Vec<u8>, name: &str, value: &str, max_bytes: usize) -> Result<(), DecodeError> {
    let field_len = |text: &str| 1 + varint_len(text.len() as u64) + text.len();
    let label_len = field_len(name) + field_len(value);
    let total = bytes.len() + 1 + varint_len(label_len as u64) + label_len;
    if total > max_bytes {
        return Err(DecodeError::too_large("max_decompressed_bytes", total, max_bytes));
    }
    put_varint(bytes, u64::from(LABELS));
    put_varint(bytes, label_len as u64);
    for (key, text) in [(LABEL_NAME, name), (LABEL_VALUE, value)] {
        put_varint(bytes, u64::from(key));
        put_varint(bytes, text.len() as u64);
        bytes.extend_from_slice(text.as_bytes());
    }
    Ok(())
}

/// One series of a [`Batch`].
#[derive(Debug, Clone, Copy)]
pub struct SeriesRef<'a> {
    batch: &'a Batch,
    entry: &'a Entry,
}

impl<'a> SeriesRef<'a> {
    /// The label fields as sent: the key of a cache of series, to be hashed by
    /// [`crate::CacheHasher`]. Equal bytes mean equal labels; equal labels may have other bytes.
    #[inline]
    pub fn raw_labels(&self) -> &'a [u8] {
        &self.batch.bytes[self.entry.labels_start as usize..self.entry.labels_end as usize]
    }

    /// Where the samples are in [`Batch::timestamps`] and [`Batch::values`].
    #[inline]
    pub fn sample_range(&self) -> Range<usize> {
        self.entry.samples_start as usize..self.entry.samples_end as usize
    }

    /// Timestamps of the samples, in ms since the Unix epoch, in the order sent.
    #[inline]
    pub fn timestamps(&self) -> &'a [i64] {
        &self.batch.timestamps[self.sample_range()]
    }

    /// Values of the samples, parallel to [`SeriesRef::timestamps`].
    #[inline]
    pub fn values(&self) -> &'a [f64] {
        &self.batch.values[self.sample_range()]
    }

    /// Exemplars sent with the series, in the order sent.
    pub fn exemplars(&self) -> impl ExactSizeIterator<Item = ExemplarRef<'a>> + use<'a> {
        let (from, to) = self.entry.exemplars;
        let batch = self.batch;
        let exemplars = &batch.exemplars[from as usize..to as usize];
        exemplars.iter().map(|entry| entry.view(&batch.bytes))
    }

    /// Native histograms sent with the series, in the order sent.
    pub fn histograms(&self) -> impl ExactSizeIterator<Item = HistogramRef<'a>> + use<'a> {
        let (from, to) = self.entry.histograms;
        let batch = self.batch;
        (from as usize..to as usize).map(|index| batch.histograms.get(index))
    }

    /// Validates the labels and writes their canonical bytes to `out`, replacing what it held; see
    /// [`canonicalize`].
    ///
    /// # Errors
    /// See [`canonicalize`].
    pub fn canonicalize<'o>(
        &self,
        limits: &DecodeLimits,
        out: &'o mut Vec<u8>,
    ) -> Result<CanonicalLabels<'o>, SeriesError> {
        canonicalize(self.raw_labels(), limits, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(
        batch: &mut Batch,
        limits: &DecodeLimits,
        value: &str,
        samples: usize,
    ) -> Result<(), DecodeError> {
        let samples = (0..samples).map(|i| (i as i64, i as f64));
        batch.push_series([("__name__", "m"), ("a", value)], samples, limits)
    }

    #[test]
    fn a_series_beyond_a_limit_leaves_the_batch_as_it_was() {
        let limits = DecodeLimits {
            max_series_per_request: 2,
            max_samples_per_request: 5,
            max_decompressed_bytes: 60,
            ..DecodeLimits::DEFAULT
        };
        let mut batch = Batch::new();
        push(&mut batch, &limits, "1", 3).unwrap();
        let limit_of = |error| match error {
            DecodeError::TooLarge { limit, .. } => limit,
            other => panic!("{other}"),
        };
        let error = push(&mut batch, &limits, "2", 3).unwrap_err();
        assert_eq!(limit_of(error), "max_samples_per_request");
        let error = push(&mut batch, &limits, &"2".repeat(60), 1).unwrap_err();
        assert_eq!(limit_of(error), "max_decompressed_bytes");
        assert_eq!((batch.len(), batch.samples()), (1, 3));

        push(&mut batch, &limits, "3", 2).unwrap();
        let error = push(&mut batch, &limits, "4", 0).unwrap_err();
        assert_eq!(limit_of(error), "max_series_per_request");
        assert_eq!(batch.get(1).unwrap().timestamps(), [0, 1]);
        assert_eq!(batch.get(1).unwrap().values(), [0.0, 1.0]);
        assert!(batch.get(2).is_none());
    }

    #[test]
    fn a_cleared_batch_is_refilled_in_the_same_memory() {
        let limits = DecodeLimits::DEFAULT;
        let mut batch = Batch::new();
        for _ in 0..3 {
            push(&mut batch, &limits, "x", 100).unwrap();
        }
        let retained = batch.retained_bytes();
        assert!(retained >= 300 * 16);
        let raw = batch.get(0).unwrap().raw_labels().to_vec();
        for _ in 0..5 {
            batch.clear();
            assert!(batch.is_empty() && batch.samples() == 0 && batch.metadata().len() == 0);
            for _ in 0..3 {
                push(&mut batch, &limits, "x", 100).unwrap();
            }
            assert!(batch.iter().all(|series| series.raw_labels() == raw));
        }
        assert_eq!(batch.retained_bytes(), retained);
    }
}
