//! The series of a shard: ids in order of registration, labels, index, and each series' head.

use hashbrown::{HashMap, HashTable};
use roaring::RoaringBitmap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::blocks::Blocks;
use crate::chunk::{Chunk, ChunkError};
use crate::head::{Head, HeadChunks, HeadCopy};
use crate::heads::Heads;
use crate::labels::{self, LabelError, Labels};
use crate::pair_lists::{PairIter, PairLists};
use crate::pairs::spread;
use crate::postings::TenantIndex;
use crate::series_rows::SeriesState;

/// Postings hold 32-bit ids. A shard stops registering here whatever its limits say.
pub(crate) const SERIES_MAX: u64 = u32::MAX as u64 - 1;

/// The index is built anew once so many series were retired since, and a quarter as many as there are.
const REBUILD_MIN: u64 = 1024;

/// Chunks of series, ascending by id; those of a series are disjoint and in time order.
pub(crate) type SeriesChunks = Vec<(u64, Vec<Chunk>)>;

#[derive(Debug)]
struct Tenant {
    name: Box<str>,
    index: TenantIndex,
}

/// All series of a shard. Ids start at 1 and are given out in order; those of retired series are never
/// used again. What is kept of a series lies in columns: heads for apply, pairs for its labels, the hash table
/// for finding its id.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    tenants: Vec<Tenant>,
    tenant_numbers: HashMap<Box<str>, u32>,
    heads: Heads,
    blocks: Blocks,
    pairs: PairLists,
    by_hash: HashTable<u32>,
    /// Retired series that index and pairs still know of.
    dead: u64,
}

/// Where the memory of a table goes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableBytes {
    /// Heads without their samples, and the table that finds ids.
    pub(crate) series: u64,
    /// The pairs of each series.
    pub(crate) labels: u64,
    /// Names and values.
    pub(crate) symbols: u64,
    pub(crate) postings: u64,
    /// Open and sealed chunks.
    pub(crate) chunks: u64,
    /// How many chunks that is.
    pub(crate) chunk_count: u64,
}

impl SeriesTable {
    /// How many series there are, retired ones not included.
    pub(crate) fn len(&self) -> u64 {
        self.heads.live()
    }

    /// The id that the next series gets.
    pub(crate) fn next_id(&self) -> u64 {
        self.heads.len() as u64 + 1
    }

    /// Leaves out ids up to one, as if their series had been retired.
    pub(crate) fn skip_to(&mut self, id: u64) {
        let slot = slot(id).unwrap_or_default();
        self.heads.skip_to(slot);
        self.pairs.skip_to(slot);
    }

    /// The ids of all series, ascending.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.heads.iter().map(|(slot, _)| slot as u64 + 1)
    }

    /// The number of a tenant that has series.
    pub(crate) fn tenant(&self, name: &str) -> Option<u32> {
        self.tenant_numbers.get(name).copied()
    }

    /// How many series a tenant has.
    pub(crate) fn tenant_series(&self, name: &str) -> u64 {
        let index = self.tenant(name).and_then(|number| self.index(number));
        index.map_or(0, |index| index.all().len())
    }

    pub(crate) fn tenant_name(&self, number: u32) -> &str {
        self.tenants
            .get(number as usize)
            .map_or("", |tenant| &tenant.name)
    }

    pub(crate) fn index(&self, tenant: u32) -> Option<&TenantIndex> {
        self.tenants.get(tenant as usize).map(|tenant| &tenant.index)
    }

    /// A series' head, with the blocks that its samples lie in.
    #[inline]
    pub(crate) fn head_mut(&mut self, id: u64) -> Option<(&mut Head, &mut Blocks)> {
        let head = self.heads.get_mut(slot(id)?).filter(|head| !head.is_retired())?;
        Some((head, &mut self.blocks))
    }

    /// The same, if the series is the tenant's.
    #[inline]
    pub(crate) fn head_of(&mut self, tenant: Option<u32>, id: u64) -> Option<(&mut Head, &mut Blocks)> {
        // No tenant's number is that of retired series.
        let head = self
            .heads
            .get_mut(slot(id)?)
            .filter(|head| Some(head.tenant) == tenant)?;
        Some((head, &mut self.blocks))
    }

    /// Has the processor fetch what a sample of the series will be written to.
    #[inline]
    pub(crate) fn prefetch(&self, id: u64) {
        if let Some(head) = slot(id).and_then(|slot| self.heads.get(slot)) {
            head.prefetch(&self.blocks);
        }
    }

    pub(crate) fn head(&self, id: u64) -> Option<&Head> {
        self.heads.get(slot(id)?).filter(|head| !head.is_retired())
    }

    /// The labels of a series, put together anew.
    pub(crate) fn labels(&self, id: u64) -> Option<Labels> {
        let index = self.index(self.tenant_of(id)?)?;
        Some(index.labels(self.pairs_of(id)))
    }

    /// The pairs of a series, numbered by its tenant's index.
    pub(crate) fn pairs_of(&self, id: u64) -> PairIter<'_> {
        self.pairs.get(slot(id).unwrap_or(usize::MAX))
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
        let Some((head, _)) = self.head_mut(id) else {
            return false;
        };
        head.newest_ms = state.newest_ms;
        head.newest_bits = state.newest_bits;
        let oldest_ms = slot(id).and_then(|slot| self.heads.oldest_ms_mut(slot));
        oldest_ms.map(|oldest_ms| *oldest_ms = state.oldest_ms).is_some()
    }

    /// A lower bound of the series' timestamps; `i64::MAX` while it has no sample.
    pub(crate) fn oldest_ms(&self, id: u64) -> Option<i64> {
        self.heads.oldest_ms(slot(id)?)
    }

    /// Notes a timestamp that may be the series' oldest.
    pub(crate) fn note_oldest(&mut self, id: u64, timestamp_ms: i64) {
        if let Some(oldest_ms) = slot(id).and_then(|slot| self.heads.oldest_ms_mut(slot)) {
            *oldest_ms = (*oldest_ms).min(timestamp_ms);
        }
    }

    /// Empties all heads, in order of ids: chunks of floats, and of histograms. The error names the series
    /// whose chunks are damaged.
    pub(crate) fn take_heads(&mut self) -> Result<(SeriesChunks, SeriesChunks), (u64, ChunkError)> {
        let (mut floats, mut histograms) = (Vec::new(), Vec::new());
        for (slot, head) in self.heads.iter_mut() {
            if !head.is_empty() {
                let id = slot as u64 + 1;
                let taken = head.take(&mut self.blocks).map_err(|error| (id, error))?;
                if !taken.floats.is_empty() {
                    floats.push((id, taken.floats));
                }
                if !taken.histograms.is_empty() {
                    histograms.push((id, taken.histograms));
                }
            }
        }
        self.blocks.clear();
        Ok((floats, histograms))
    }

    /// Empties one head.
    pub(crate) fn take_head(&mut self, id: u64) -> Result<HeadChunks, ChunkError> {
        match self.head_mut(id).filter(|(head, _)| !head.is_empty()) {
            Some((head, blocks)) => head.take(blocks),
            None => Ok(HeadChunks::default()),
        }
    }

    /// Returns chunks that [`Self::take_heads`] gave. `false` if the series was retired meanwhile.
    pub(crate) fn put_back(&mut self, id: u64, chunks: &[Chunk]) -> bool {
        let head = self.head_mut(id);
        head.map(|(head, _)| head.put_back(chunks)).is_some()
    }

    /// Returns chunks of histograms that [`Self::take_heads`] gave. `false` if the series was retired
    /// meanwhile.
    pub(crate) fn put_back_histograms(&mut self, id: u64, chunks: &[Chunk]) -> bool {
        let head = self.head_mut(id);
        head.map(|(head, _)| head.put_back_histograms(chunks)).is_some()
    }

    /// Copies what a head holds of the inclusive window.
    pub(crate) fn copy_head(&self, id: u64, start_ms: i64, end_ms: i64, out: &mut HeadCopy) {
        if let Some(head) = self.head(id) {
            head.copy_into(&self.blocks, start_ms, end_ms, out);
        }
    }

    pub(crate) fn find(&self, tenant: &str, labels: &[u8]) -> Option<u64> {
        let number = self.tenant(tenant)?;
        self.find_hashed(number, labels, hash(number, labels))
    }

    fn find_hashed(&self, tenant: u32, labels: &[u8], hash: u32) -> Option<u64> {
        let index = self.index(tenant)?;
        // The hash finds candidates; the full bytes decide.
        let same = |id: &u32| {
            let slot = *id as usize - 1;
            let of_tenant = |head: &Head| head.hash == hash && head.tenant == tenant;
            self.heads.get(slot).is_some_and(of_tenant) && index.same(self.pairs.get(slot), labels)
        };
        self.by_hash.find(spread(hash), same).map(|id| u64::from(*id))
    }

    /// Whether no other series can be registered, of which there may be `max_series`.
    pub(crate) fn is_full(&self, max_series: u64) -> bool {
        self.len() >= max_series || self.next_id() > SERIES_MAX
    }

    /// The id of a series by its canonical label bytes, which it is given if it has none yet and `room`
    /// says so. `Ok(None)` when it gets none; an error when the bytes are not canonical.
    pub(crate) fn find_or_register(
        &mut self,
        tenant: &str,
        labels: &[u8],
        max_series: u64,
    ) -> Result<Option<u64>, LabelError> {
        let known = self.tenant(tenant);
        // A new tenant gets the next number.
        let number = known.unwrap_or(self.tenants.len() as u32);
        let hash = hash(number, labels);
        if known.is_some()
            && let Some(id) = self.find_hashed(number, labels, hash)
        {
            return Ok(Some(id));
        }
        labels::check_canonical(labels)?;
        if self.is_full(max_series) {
            return Ok(None);
        }
        if known.is_none() {
            self.tenants.push(Tenant {
                name: tenant.into(),
                index: TenantIndex::default(),
            });
            self.tenant_numbers.insert(tenant.into(), number);
        }
        Ok(self.add(number, hash, labels))
    }

    fn add(&mut self, tenant: u32, hash: u32, labels: &[u8]) -> Option<u64> {
        let id = u32::try_from(self.next_id()).ok()?;
        let index = &mut self.tenants.get_mut(tenant as usize)?.index;
        let pairs = index.intern(labels::canonical_pairs(labels))?;
        if !self.pairs.push(pairs) {
            return None;
        }
        index.insert_last(id);
        self.heads.push(Head::new(tenant, hash));
        let heads = &self.heads;
        self.by_hash
            .insert_unique(spread(hash), id, |id| hash_of(heads, *id));
        Some(u64::from(id))
    }

    /// Forgets series, whose heads are empty.
    pub(crate) fn retire(&mut self, ids: &RoaringBitmap) {
        for id in ids {
            let slot = id as usize - 1;
            let Some(hash) = self
                .heads
                .get(slot)
                .filter(|head| !head.is_retired())
                .map(|head| head.hash)
            else {
                continue;
            };
            if let Ok(found) = self.by_hash.find_entry(spread(hash), |other| *other == id) {
                found.remove();
            }
            self.heads.retire(slot);
            self.dead += 1;
        }
        for tenant in &mut self.tenants {
            tenant.index.retire(ids);
        }
        if self.dead >= REBUILD_MIN.max(self.len() / 4) {
            self.rebuild();
        }
    }

    /// Builds index and pairs anew, without what only retired series had. The numbers of pairs change,
    /// which nobody sees.
    fn rebuild(&mut self) {
        let mut pairs = PairLists::default();
        let mut tenants: Vec<TenantIndex> = Vec::new();
        tenants.resize_with(self.tenants.len(), TenantIndex::default);
        let mut labels = Vec::new();
        for (slot, head) in self.heads.iter() {
            let number = head.tenant as usize;
            let (Some(old), Some(new)) = (self.tenants.get(number), tenants.get_mut(number)) else {
                continue;
            };
            labels.clear();
            old.index.write_labels(self.pairs.get(slot), &mut labels);
            pairs.skip_to(slot);
            // There are fewer pairs than before, so they fit.
            if let Some(numbers) = new.intern(labels::canonical_pairs(&labels)) {
                let _ = pairs.push(numbers);
            }
            new.insert_last(slot as u32 + 1);
        }
        pairs.skip_to(self.heads.len());
        self.pairs = pairs;
        for (tenant, index) in self.tenants.iter_mut().zip(tenants) {
            tenant.index = index;
        }
        let heads = &self.heads;
        self.by_hash.shrink_to_fit(|id| hash_of(heads, *id));
        self.dead = 0;
    }

    /// Registers a series that [`Self::find`] does not know, by its canonical label bytes; `None` when
    /// they are not canonical or the table is full.
    pub(crate) fn register(&mut self, tenant: &str, labels: &[u8]) -> Option<u64> {
        self.find_or_register(tenant, labels, SERIES_MAX).ok().flatten()
    }

    /// Where the memory goes. Walks over all heads.
    pub(crate) fn memory(&self) -> TableBytes {
        let mut bytes = TableBytes {
            series: self.heads.memory_bytes() + self.by_hash.capacity() as u64 * 5,
            labels: self.pairs.memory_bytes(),
            chunks: self.blocks.bytes(),
            ..TableBytes::default()
        };
        for tenant in &self.tenants {
            let (symbols, postings) = tenant.index.memory_bytes();
            bytes.symbols += symbols;
            bytes.postings += postings;
        }
        for (_, head) in self.heads.iter() {
            let (count, size) = head.size();
            bytes.chunk_count += count;
            bytes.chunks += size;
        }
        bytes
    }
}

#[inline]
fn slot(id: u64) -> Option<usize> {
    usize::try_from(id.checked_sub(1)?).ok()
}

fn hash_of(heads: &Heads, id: u32) -> u64 {
    let head = heads.get(id as usize - 1);
    spread(head.map_or(0, |head| head.hash))
}

fn hash(tenant: u32, labels: &[u8]) -> u32 {
    xxh3_64_with_seed(labels, u64::from(tenant)) as u32
}
