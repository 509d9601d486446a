//! The unflushed samples of one series.

use std::collections::BTreeMap;

use crate::blocks::Blocks;
use crate::chunk::{self, Chunk, ChunkError, OpenChunk, Sample};
use crate::histogram_head::{HistogramCopy, HistogramHead};

/// What apply touches for each sample. Kept apart from labels and small, because nearly every sample
/// touches another one; adjacent ids share cache lines.
#[derive(Debug)]
pub(crate) struct Head {
    /// `i64::MIN` while the series has no sample.
    pub(crate) newest_ms: i64,
    /// Of the newest float; of no use when the newest sample is a histogram.
    pub(crate) newest_bits: u64,
    rest: Option<Box<Rest>>,
    open: OpenChunk,
    pub(crate) tenant: u32,
    /// Of the labels; here because there is room.
    pub(crate) hash: u32,
}

const _: () = assert!(size_of::<Head>() <= 48);

/// Head data that most series lack.
#[derive(Debug, Default)]
struct Rest {
    sealed: Vec<Chunk>,
    /// Samples that came out of order.
    late: BTreeMap<i64, u64>,
    /// `None` in a series of floats.
    histograms: Option<Box<HistogramHead>>,
}

/// The tenant of heads whose series are retired.
const NOBODY: u32 = u32::MAX;

impl Head {
    /// What stays in the place of a retired series.
    pub(crate) fn retired() -> Self {
        Self::new(NOBODY, 0)
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.tenant == NOBODY
    }

    pub(crate) fn new(tenant: u32, hash: u32) -> Self {
        Self {
            newest_ms: i64::MIN,
            newest_bits: 0,
            rest: None,
            open: OpenChunk::EMPTY,
            tenant,
            hash,
        }
    }

    /// Has the processor fetch what [`Self::append`] will write to.
    #[inline]
    pub(crate) fn prefetch(&self, blocks: &Blocks) {
        self.open.prefetch(blocks);
    }

    /// Appends a sample later than `newest_ms`.
    #[inline]
    pub(crate) fn append(&mut self, blocks: &mut Blocks, timestamp_ms: i64, bits: u64) {
        let last = (self.newest_ms, self.newest_bits);
        if !self.open.append(blocks, last, (timestamp_ms, bits)) {
            self.append_to_next(blocks, (timestamp_ms, bits));
        }
        self.newest_ms = timestamp_ms;
        self.newest_bits = bits;
    }

    #[cold]
    fn append_to_next(&mut self, blocks: &mut Blocks, sample: Sample) {
        self.seal_open(blocks);
        if !self.open.append(blocks, sample, sample) {
            // Out of blocks, which is billions of samples away; a tree takes anything.
            self.insert_late(sample.0, sample.1);
        }
    }

    fn seal_open(&mut self, blocks: &mut Blocks) {
        if !self.open.is_empty() {
            let chunk = self.open.seal(blocks, self.newest_ms);
            self.open.clear(blocks);
            self.rest.get_or_insert_default().sealed.push(chunk);
        }
    }

    /// Appends an encoded histogram later than `newest_ms`. The open chunk of floats ends, because it
    /// leans on `newest_ms` for its last sample.
    pub(crate) fn append_histogram(
        &mut self,
        blocks: &mut Blocks,
        timestamp_ms: i64,
        encoded: &[u8],
    ) -> Result<(), ChunkError> {
        self.seal_open(blocks);
        self.histograms_mut().append(timestamp_ms, encoded)?;
        self.newest_ms = timestamp_ms;
        self.newest_bits = 0;
        Ok(())
    }

    fn histograms_mut(&mut self) -> &mut HistogramHead {
        self.rest
            .get_or_insert_default()
            .histograms
            .get_or_insert_default()
    }

    pub(crate) fn histograms(&self) -> Option<&HistogramHead> {
        self.rest.as_ref()?.histograms.as_deref()
    }

    /// Adds an encoded histogram at a time that no sample has.
    pub(crate) fn insert_late_histogram(&mut self, timestamp_ms: i64, encoded: &[u8]) {
        self.histograms_mut().insert_late(timestamp_ms, encoded);
    }

    /// Adds a sample whose timestamp is not present and not the newest.
    pub(crate) fn insert_late(&mut self, timestamp_ms: i64, bits: u64) {
        self.rest.get_or_insert_default().late.insert(timestamp_ms, bits);
    }

    /// The value bits of a float at a timestamp.
    pub(crate) fn lookup(&self, blocks: &Blocks, timestamp_ms: i64) -> Result<Option<u64>, ChunkError> {
        if !self.open.is_empty() && self.open.first_ms(blocks) <= timestamp_ms {
            let found = self.open.find(blocks, timestamp_ms);
            if found.is_some() {
                return Ok(found);
            }
        }
        let Some(rest) = &self.rest else { return Ok(None) };
        if let Some(bits) = rest.late.get(&timestamp_ms) {
            return Ok(Some(*bits));
        }
        find_in(&rest.sealed, timestamp_ms)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.rest.is_none()
    }

    /// Copies what overlaps the inclusive window.
    pub(crate) fn copy_into(&self, blocks: &Blocks, start_ms: i64, end_ms: i64, out: &mut HeadCopy) {
        if let Some(rest) = &self.rest {
            out.chunks.extend(
                rest.sealed
                    .iter()
                    .filter(|c| c.overlaps(start_ms, end_ms))
                    .cloned(),
            );
            if start_ms <= end_ms {
                out.late
                    .extend(rest.late.range(start_ms..=end_ms).map(|(t, v)| (*t, *v)));
            }
            if let Some(histograms) = &rest.histograms {
                histograms.copy_into(start_ms, end_ms, &mut out.histograms);
            }
        }
        if !self.open.is_empty() && self.open.first_ms(blocks) <= end_ms && self.newest_ms >= start_ms {
            out.chunks.push(self.open.seal(blocks, self.newest_ms));
        }
    }

    /// Empties the head into chunks.
    pub(crate) fn take(&mut self, blocks: &mut Blocks) -> Result<HeadChunks, ChunkError> {
        let mut rest = self.rest.take().map(|rest| *rest).unwrap_or_default();
        let histograms = match rest.histograms.take() {
            Some(histograms) => histograms.into_chunks()?,
            None => Vec::new(),
        };
        Ok(HeadChunks {
            floats: self.take_floats(rest, blocks)?,
            histograms,
        })
    }

    fn take_floats(&mut self, rest: Rest, blocks: &mut Blocks) -> Result<Vec<Chunk>, ChunkError> {
        let mut chunks = rest.sealed;
        if !self.open.is_empty() {
            chunks.push(self.open.seal(blocks, self.newest_ms));
            self.open.clear(blocks);
        }
        let disjoint = chunks.windows(2).all(|two| two[0].last_ms < two[1].first_ms);
        if disjoint && rest.late.is_empty() {
            return Ok(chunks);
        }
        let mut samples = rest.late;
        for chunk in &chunks {
            chunk::decode(&chunk.bytes, |t, v| {
                samples.insert(t, v);
                true
            })?;
        }
        let samples: Vec<Sample> = samples.into_iter().collect();
        Ok(chunk::encode_in(&samples, blocks))
    }

    /// Puts chunks back that [`Self::take`] gave.
    pub(crate) fn put_back(&mut self, chunks: &[Chunk]) {
        self.rest
            .get_or_insert_default()
            .sealed
            .splice(0..0, chunks.iter().cloned());
    }

    /// Puts chunks of histograms back that [`Self::take`] gave.
    pub(crate) fn put_back_histograms(&mut self, chunks: &[Chunk]) {
        self.histograms_mut().put_back(chunks);
    }

    /// Chunks held, and bytes of the sealed ones and of late samples; blocks count for themselves.
    pub(crate) fn size(&self) -> (u64, u64) {
        let open = u64::from(!self.open.is_empty());
        let Some(rest) = &self.rest else { return (open, 0) };
        let sealed: usize = rest
            .sealed
            .iter()
            .map(|c| c.bytes.len() + size_of::<Chunk>() + 16)
            .sum();
        let bytes = size_of::<Rest>() + sealed + rest.late.len() * 32;
        let (chunks, encoded) = rest
            .histograms
            .as_ref()
            .map_or((0, 0), |histograms| histograms.size());
        (open + rest.sealed.len() as u64 + chunks, bytes as u64 + encoded)
    }
}

/// What a head held. The chunks of a kind are disjoint and in time order.
#[derive(Debug, Default)]
pub(crate) struct HeadChunks {
    pub(crate) floats: Vec<Chunk>,
    pub(crate) histograms: Vec<Chunk>,
}

impl Chunk {
    pub(crate) fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.first_ms <= end_ms && self.last_ms >= start_ms
    }
}

/// The value bits at a timestamp in a chunk.
fn find(chunk: &Chunk, timestamp_ms: i64) -> Result<Option<u64>, ChunkError> {
    let mut found = None;
    chunk::decode(&chunk.bytes, |t, v| {
        if t == timestamp_ms {
            found = Some(v);
        }
        t < timestamp_ms
    })?;
    Ok(found)
}

/// The value bits at a timestamp in any of the chunks.
pub(crate) fn find_in(chunks: &[Chunk], timestamp_ms: i64) -> Result<Option<u64>, ChunkError> {
    for chunk in chunks
        .iter()
        .rev()
        .filter(|c| c.overlaps(timestamp_ms, timestamp_ms))
    {
        let found = find(chunk, timestamp_ms)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// What a reader takes along of one series' unflushed samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeadCopy {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) late: Vec<(i64, u64)>,
    pub(crate) histograms: HistogramCopy,
}

impl HeadCopy {
    pub(crate) fn bytes(&self) -> u64 {
        let chunks: usize = self.chunks.iter().map(|c| c.bytes.len()).sum();
        (chunks + self.late.len() * 16) as u64 + self.histograms.bytes()
    }
}
