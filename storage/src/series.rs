//! The series of a shard: dense ids in order of registration, labels, index, and each series' head.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashTable};
use xxhash_rust::xxh3::Xxh3;

use crate::chunk::{self, Chunk, ChunkError, OpenChunk};
use crate::labels::Labels;
use crate::postings::TenantIndex;
use crate::series_rows::SeriesState;

/// Postings hold 32-bit ids. A shard stops registering here whatever its limits say.
pub(crate) const SERIES_MAX: u64 = u32::MAX as u64 - 1;

/// Chunks of series, ascending by id; those of a series are disjoint and in time order.
pub(crate) type SeriesChunks = Vec<(u64, Vec<Chunk>)>;

/// What apply touches for each sample. Kept apart from labels, so that adjacent ids share cache lines.
#[derive(Debug)]
pub(crate) struct Head {
    /// `i64::MIN` while the series has no sample.
    pub(crate) newest_ms: i64,
    pub(crate) newest_bits: u64,
    pub(crate) tenant: u32,
    open: OpenChunk,
    rest: Option<Box<Rest>>,
}

/// Head data that most series lack.
#[derive(Debug, Default)]
struct Rest {
    sealed: Vec<Chunk>,
    /// Samples that came out of order.
    late: BTreeMap<i64, u64>,
}

impl Head {
    fn new(tenant: u32) -> Self {
        Self {
            newest_ms: i64::MIN,
            newest_bits: 0,
            tenant,
            open: OpenChunk::empty(),
            rest: None,
        }
    }

    /// Appends a sample later than `newest_ms`.
    #[inline]
    pub(crate) fn append(&mut self, timestamp_ms: i64, bits: u64) {
        if self.open.is_full() {
            self.seal_open();
        }
        self.open.append(timestamp_ms, bits);
        self.newest_ms = timestamp_ms;
        self.newest_bits = bits;
    }

    fn seal_open(&mut self) {
        let chunk = self.open.seal();
        self.open = OpenChunk::empty();
        self.rest.get_or_insert_default().sealed.push(chunk);
    }

    /// Adds a sample whose timestamp is not present and not the newest.
    pub(crate) fn insert_late(&mut self, timestamp_ms: i64, bits: u64) {
        self.rest.get_or_insert_default().late.insert(timestamp_ms, bits);
    }

    /// The value bits at a timestamp.
    pub(crate) fn lookup(&self, timestamp_ms: i64) -> Result<Option<u64>, ChunkError> {
        if !self.open.is_empty() && self.open.first_ms() <= timestamp_ms {
            let found = self.open.find(timestamp_ms);
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
    pub(crate) fn copy_into(&self, start_ms: i64, end_ms: i64, out: &mut HeadCopy) {
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
        if !self.open.is_empty() && self.open.first_ms() <= end_ms && self.newest_ms >= start_ms {
            out.chunks.push(self.open.seal());
        }
    }

    /// Empties the head into chunks that are disjoint and in time order.
    pub(crate) fn take(&mut self) -> Result<Vec<Chunk>, ChunkError> {
        let rest = self.rest.take().map(|rest| *rest).unwrap_or_default();
        let mut chunks = rest.sealed;
        if !self.open.is_empty() {
            chunks.push(self.open.seal());
            self.open = OpenChunk::empty();
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
        let samples: Vec<(i64, u64)> = samples.into_iter().collect();
        Ok(chunk::encode_all(&samples))
    }

    /// Puts chunks back that [`Self::take`] gave.
    pub(crate) fn put_back(&mut self, chunks: &[Chunk]) {
        self.rest
            .get_or_insert_default()
            .sealed
            .splice(0..0, chunks.iter().cloned());
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

/// The parts of a series that samples rarely touch.
#[derive(Debug)]
struct Identity {
    labels: Labels,
    /// A lower bound of the series' timestamps; `i64::MAX` while it has no sample.
    oldest_ms: i64,
    fingerprint: u64,
}

#[derive(Debug)]
struct Tenant {
    name: Box<str>,
    index: TenantIndex,
}

/// All series of a shard. Ids start at 1 and have no gaps.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    tenants: Vec<Tenant>,
    tenant_numbers: HashMap<Box<str>, u32>,
    heads: Vec<Head>,
    identities: Vec<Identity>,
    by_fingerprint: HashTable<u32>,
}

impl SeriesTable {
    pub(crate) fn len(&self) -> u64 {
        self.heads.len() as u64
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.len() + 1
    }

    /// The number of a tenant that has series.
    pub(crate) fn tenant(&self, name: &str) -> Option<u32> {
        self.tenant_numbers.get(name).copied()
    }

    pub(crate) fn tenant_name(&self, number: u32) -> &str {
        self.tenants
            .get(number as usize)
            .map_or("", |tenant| &tenant.name)
    }

    pub(crate) fn index(&self, tenant: u32) -> Option<&TenantIndex> {
        self.tenants.get(tenant as usize).map(|tenant| &tenant.index)
    }

    #[inline]
    pub(crate) fn head_mut(&mut self, id: u64) -> Option<&mut Head> {
        self.heads.get_mut(slot(id)?)
    }

    pub(crate) fn head(&self, id: u64) -> Option<&Head> {
        self.heads.get(slot(id)?)
    }

    /// The labels of a series.
    pub(crate) fn labels(&self, id: u64) -> Option<Labels> {
        Some(self.identities.get(slot(id)?)?.labels.clone())
    }

    /// The number of a series' tenant.
    pub(crate) fn tenant_of(&self, id: u64) -> Option<u32> {
        Some(self.head(id)?.tenant)
    }

    /// What recovery needs of a series.
    pub(crate) fn state_of(&self, id: u64) -> Option<SeriesState> {
        let head = self.head(id)?;
        Some(SeriesState {
            oldest_ms: self.oldest_ms(id)?,
            newest_ms: head.newest_ms,
            newest_bits: head.newest_bits,
        })
    }

    /// Takes up a state that [`Self::state_of`] gave; `false` when the series is not registered.
    #[must_use]
    pub(crate) fn restore(&mut self, id: u64, state: SeriesState) -> bool {
        let Some(slot) = slot(id).filter(|slot| *slot < self.heads.len()) else {
            return false;
        };
        self.heads[slot].newest_ms = state.newest_ms;
        self.heads[slot].newest_bits = state.newest_bits;
        self.identities[slot].oldest_ms = state.oldest_ms;
        true
    }

    /// A lower bound of the series' timestamps; `i64::MAX` while it has no sample.
    pub(crate) fn oldest_ms(&self, id: u64) -> Option<i64> {
        Some(self.identities.get(slot(id)?)?.oldest_ms)
    }

    /// Notes a timestamp that may be the series' oldest.
    pub(crate) fn note_oldest(&mut self, id: u64, timestamp_ms: i64) {
        let identity = slot(id).and_then(|slot| self.identities.get_mut(slot));
        if let Some(identity) = identity {
            identity.oldest_ms = identity.oldest_ms.min(timestamp_ms);
        }
    }

    /// Empties all heads, in order of ids. The error names the series whose chunks are damaged.
    pub(crate) fn take_heads(&mut self) -> Result<SeriesChunks, (u64, ChunkError)> {
        let mut taken = Vec::new();
        for (slot, head) in self.heads.iter_mut().enumerate() {
            if !head.is_empty() {
                let id = slot as u64 + 1;
                taken.push((id, head.take().map_err(|error| (id, error))?));
            }
        }
        Ok(taken)
    }

    /// Empties one head.
    pub(crate) fn take_head(&mut self, id: u64) -> Result<Vec<Chunk>, ChunkError> {
        match self.head_mut(id).filter(|head| !head.is_empty()) {
            Some(head) => head.take(),
            None => Ok(Vec::new()),
        }
    }

    /// Returns chunks that [`Self::take_heads`] gave.
    pub(crate) fn put_back(&mut self, id: u64, chunks: &[Chunk]) {
        if let Some(head) = self.head_mut(id) {
            head.put_back(chunks);
        }
    }

    /// Copies what a head holds of the inclusive window.
    pub(crate) fn copy_head(&self, id: u64, start_ms: i64, end_ms: i64, out: &mut HeadCopy) {
        if let Some(head) = self.head(id) {
            head.copy_into(start_ms, end_ms, out);
        }
    }

    pub(crate) fn find(&self, tenant: &str, labels: &[u8]) -> Option<u64> {
        let number = self.tenant(tenant)?;
        let fingerprint = fingerprint(tenant, labels);
        // The fingerprint finds candidates; the full bytes decide.
        let same = |id: &u32| {
            let slot = *id as usize - 1;
            self.heads[slot].tenant == number && self.identities[slot].labels.as_bytes() == labels
        };
        self.by_fingerprint
            .find(fingerprint, same)
            .map(|id| u64::from(*id))
    }

    /// Registers a series that [`Self::find`] does not know, by its canonical label bytes; `None` when
    /// they are not canonical or the table is full.
    pub(crate) fn register(&mut self, tenant: &str, labels: &[u8]) -> Option<u64> {
        let labels = Labels::from_canonical(labels).ok()?;
        let id = u32::try_from(self.next_id())
            .ok()
            .filter(|id| u64::from(*id) <= SERIES_MAX)?;
        let number = match self.tenant(tenant) {
            Some(number) => number,
            None => {
                let number = self.tenants.len() as u32;
                self.tenants.push(Tenant {
                    name: tenant.into(),
                    index: TenantIndex::default(),
                });
                self.tenant_numbers.insert(tenant.into(), number);
                number
            }
        };
        let fingerprint = fingerprint(tenant, labels.as_bytes());
        self.tenants[number as usize].index.insert(id, labels.iter());
        self.heads.push(Head::new(number));
        self.identities.push(Identity {
            labels,
            oldest_ms: i64::MAX,
            fingerprint,
        });
        let identities = &self.identities;
        self.by_fingerprint
            .insert_unique(fingerprint, id, |id| identities[*id as usize - 1].fingerprint);
        Some(u64::from(id))
    }
}

#[inline]
fn slot(id: u64) -> Option<usize> {
    usize::try_from(id.checked_sub(1)?).ok()
}

/// The low half of the 128-bit xxh3 of tenant and labels.
fn fingerprint(tenant: &str, labels: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&(tenant.len() as u64).to_le_bytes());
    hasher.update(tenant.as_bytes());
    hasher.update(labels);
    hasher.digest128() as u64
}
