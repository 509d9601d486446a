//! The unflushed samples of one series.

use std::collections::BTreeMap;

use crate::blocks::Blocks;
use crate::chunk::{self, Chunk, ChunkError, OpenChunk, Sample};

/// What apply touches for each sample. Kept apart from labels and small, because nearly every sample
/// touches another one; adjacent ids share cache lines.
#[derive(Debug)]
pub(crate) struct Head {
    /// `i64::MIN` while the series has no sample.
    pub(crate) newest_ms: i64,
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
        if !self.open.is_empty() {
            let chunk = self.open.seal(blocks, self.newest_ms);
            self.open.clear(blocks);
            self.rest.get_or_insert_default().sealed.push(chunk);
        }
        if !self.open.append(blocks, sample, sample) {
            // Out of blocks, which is billions of samples away; a tree takes anything.
            self.insert_late(sample.0, sample.1);
        }
    }

    /// Adds a sample whose timestamp is not present and not the newest.
    pub(crate) fn insert_late(&mut self, timestamp_ms: i64, bits: u64) {
        self.rest.get_or_insert_default().late.insert(timestamp_ms, bits);
    }

    /// The value bits at a timestamp.
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
        }
        if !self.open.is_empty() && self.open.first_ms(blocks) <= end_ms && self.newest_ms >= start_ms {
            out.chunks.push(self.open.seal(blocks, self.newest_ms));
        }
    }

    /// Empties the head into chunks that are disjoint and in time order.
    pub(crate) fn take(&mut self, blocks: &mut Blocks) -> Result<Vec<Chunk>, ChunkError> {
        let rest = self.rest.take().map(|rest| *rest).unwrap_or_default();
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
        (open + rest.sealed.len() as u64, bytes as u64)
    }
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
}

impl HeadCopy {
    pub(crate) fn bytes(&self) -> u64 {
        let chunks: usize = self.chunks.iter().map(|c| c.bytes.len()).sum();
        (chunks + self.late.len() * 16) as u64
    }
}
