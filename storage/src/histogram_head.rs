//! The unflushed native histograms of one series.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chunk::{Chunk, ChunkError};
use crate::histogram::{Histogram, HistogramDecodeError};
use crate::histogram_chunk::{self, HistogramSample};

/// So many histograms wait encoded one by one, then they become a chunk.
const OPEN_MAX: usize = 60;
/// What an encoded histogram takes besides its bytes.
const OVERHEAD: usize = 48;

/// A native histogram as [`Histogram::encode`] writes it, and its time.
pub(crate) type EncodedSample = (i64, Arc<[u8]>);

/// Histograms of a head, in the order of their kinds: sealed, open, late.
#[derive(Debug, Default)]
pub(crate) struct HistogramHead {
    sealed: Vec<Chunk>,
    /// In order of time, behind all that is sealed.
    open: Vec<EncodedSample>,
    /// Those that came out of order.
    late: BTreeMap<i64, Arc<[u8]>>,
}

impl HistogramHead {
    /// Appends a histogram later than all before it.
    pub(crate) fn append(&mut self, timestamp_ms: i64, encoded: &[u8]) -> Result<(), ChunkError> {
        if self.open.len() >= OPEN_MAX {
            let samples = decode_all(std::mem::take(&mut self.open))?;
            self.sealed.extend(histogram_chunk::encode_all(&samples));
        }
        self.open.push((timestamp_ms, encoded.into()));
        Ok(())
    }

    /// Adds a histogram whose timestamp is not present.
    pub(crate) fn insert_late(&mut self, timestamp_ms: i64, encoded: &[u8]) {
        self.late.insert(timestamp_ms, encoded.into());
    }

    /// The histogram at a timestamp, encoded.
    pub(crate) fn lookup(&self, timestamp_ms: i64) -> Result<Option<Arc<[u8]>>, ChunkError> {
        if let Ok(at) = self.open.binary_search_by_key(&timestamp_ms, |(t, _)| *t) {
            return Ok(Some(self.open[at].1.clone()));
        }
        if let Some(encoded) = self.late.get(&timestamp_ms) {
            return Ok(Some(encoded.clone()));
        }
        let found = histogram_chunk::find_in(&self.sealed, timestamp_ms)?;
        Ok(found.map(|histogram| encoded(&histogram)))
    }

    /// Copies what overlaps the inclusive window.
    pub(crate) fn copy_into(&self, start_ms: i64, end_ms: i64, out: &mut HistogramCopy) {
        let sealed = self
            .sealed
            .iter()
            .filter(|chunk| chunk.overlaps(start_ms, end_ms));
        out.chunks.extend(sealed.cloned());
        let inside = |(t, _): &&EncodedSample| (start_ms..=end_ms).contains(t);
        out.encoded.extend(self.open.iter().filter(inside).cloned());
        if start_ms <= end_ms {
            let late = self.late.range(start_ms..=end_ms);
            out.encoded.extend(late.map(|(t, encoded)| (*t, encoded.clone())));
        }
    }

    /// All of it in chunks that are disjoint and in time order.
    pub(crate) fn into_chunks(self) -> Result<Vec<Chunk>, ChunkError> {
        let mut chunks = self.sealed;
        chunks.extend(histogram_chunk::encode_all(&decode_all(self.open)?));
        let disjoint = chunks.windows(2).all(|two| two[0].last_ms < two[1].first_ms);
        if disjoint && self.late.is_empty() {
            return Ok(chunks);
        }
        let mut samples = histogram_chunk::decode_all(&chunks)?;
        samples.append(&mut decode_all(self.late)?);
        samples.sort_by_key(|(t, _)| *t);
        Ok(histogram_chunk::encode_all(&samples))
    }

    /// Puts chunks back that [`Self::into_chunks`] gave.
    pub(crate) fn put_back(&mut self, chunks: &[Chunk]) {
        self.sealed.splice(0..0, chunks.iter().cloned());
    }

    /// Chunks held, and bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        let sealed: usize = self
            .sealed
            .iter()
            .map(|chunk| chunk.bytes.len() + size_of::<Chunk>() + 16)
            .sum();
        let encoded = self
            .open
            .iter()
            .map(|(_, encoded)| encoded)
            .chain(self.late.values());
        let encoded: usize = encoded.map(|encoded| encoded.len() + OVERHEAD).sum();
        let chunks = self.sealed.len() + usize::from(!self.open.is_empty());
        (chunks as u64, (size_of::<Self>() + sealed + encoded) as u64)
    }
}

/// What a reader takes along of one series' unflushed histograms.
#[derive(Clone, Debug, Default)]
pub(crate) struct HistogramCopy {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) encoded: Vec<EncodedSample>,
}

impl HistogramCopy {
    pub(crate) fn bytes(&self) -> u64 {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        let encoded: usize = self.encoded.iter().map(|(_, encoded)| encoded.len() + 16).sum();
        (chunks + encoded) as u64
    }

    /// The histograms of the inclusive window, in no particular order.
    pub(crate) fn decode(&self, start_ms: i64, end_ms: i64) -> Result<Vec<HistogramSample>, ChunkError> {
        let mut samples = histogram_chunk::decode_all(&self.chunks)?;
        samples.append(&mut decode_all(self.encoded.iter().cloned())?);
        samples.retain(|(t, _)| (start_ms..=end_ms).contains(t));
        Ok(samples)
    }
}

/// A histogram as it is compared and kept.
pub(crate) fn encoded(histogram: &Histogram) -> Arc<[u8]> {
    let mut out = Vec::new();
    histogram.encode(&mut out);
    out.into()
}

fn decode_all(samples: impl IntoIterator<Item = EncodedSample>) -> Result<Vec<HistogramSample>, ChunkError> {
    let decode = |(t, encoded): EncodedSample| -> Result<HistogramSample, HistogramDecodeError> {
        Ok((t, Arc::new(Histogram::decode(&encoded)?)))
    };
    let decoded: Result<Vec<_>, _> = samples.into_iter().map(decode).collect();
    decoded.map_err(|_| ChunkError::Malformed)
}
