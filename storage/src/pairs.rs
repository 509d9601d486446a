//! Label pairs of one tenant, each kept once. A series refers to its pairs by number.
//!
//! A pair's bytes are its part of the canonical bytes of a label set (`labels.rs`), so the canonical
//! bytes of a series are its pairs' bytes one behind the other, and comparing needs no allocation.

use hashbrown::{HashMap, HashTable};
use xxhash_rust::xxh3::xxh3_64;

use crate::varint::Reader;

/// The number of a pair; in order of first use.
pub(crate) type PairId = u32;
/// The number of a label name; in order of first use.
pub(crate) type NameId = u32;

/// Pairs in one block. A pair has at most 1 MiB, so places within a block always fit 32 bits.
const BLOCK_PAIRS: usize = 1024;
/// Blocks of a sorted list split at this many entries.
const BLOCK_MAX: usize = 512;

#[derive(Debug)]
struct Pair {
    /// Where its bytes end, from where those of its block begin; they begin where the pair before ends.
    end: u32,
    hash: u32,
    name: NameId,
}

#[derive(Debug)]
struct Name {
    text: Box<str>,
    values: Sorted,
}

/// The pairs of a tenant, found by their bytes and, per name, in order of their values.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    bytes: Vec<u8>,
    /// Where the bytes of each block of pairs begin.
    blocks: Vec<usize>,
    pairs: Vec<Pair>,
    by_hash: HashTable<PairId>,
    names: Vec<Name>,
    by_name: HashMap<Box<str>, NameId>,
}

impl Pairs {
    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// The canonical bytes of a pair.
    #[inline]
    pub(crate) fn bytes(&self, pair: PairId) -> &[u8] {
        let at = pair as usize;
        let block = self.blocks[at / BLOCK_PAIRS];
        let start = match at % BLOCK_PAIRS {
            0 => 0,
            _ => self.pairs[at - 1].end,
        };
        &self.bytes[block + start as usize..block + self.pairs[at].end as usize]
    }

    pub(crate) fn name_of(&self, pair: PairId) -> NameId {
        self.pairs[pair as usize].name
    }

    pub(crate) fn value(&self, pair: PairId) -> &str {
        let mut reader = Reader::new(self.bytes(pair));
        let value = reader.bytes().and_then(|_| reader.bytes());
        value
            .and_then(|value| std::str::from_utf8(value).ok())
            .unwrap_or_default()
    }

    pub(crate) fn find_name(&self, name: &str) -> Option<NameId> {
        self.by_name.get(name).copied()
    }

    /// All names in order of first use.
    pub(crate) fn names(&self) -> impl Iterator<Item = (NameId, &str)> {
        self.names
            .iter()
            .enumerate()
            .map(|(id, name)| (id as NameId, &*name.text))
    }

    /// How many values a name has.
    pub(crate) fn values_len(&self, name: NameId) -> usize {
        self.names[name as usize].values.len
    }

    /// The pairs of a name in order of their values.
    pub(crate) fn values(&self, name: NameId) -> impl Iterator<Item = PairId> + '_ {
        self.names[name as usize].values.blocks.iter().flatten().copied()
    }

    /// The pairs of a name whose values start with `prefix`, in order of their values.
    pub(crate) fn with_prefix<'a>(
        &'a self,
        name: NameId,
        prefix: &'a str,
    ) -> impl Iterator<Item = PairId> + 'a {
        let blocks = &self.names[name as usize].values.blocks;
        let before = |pair: &PairId| self.value(*pair) < prefix;
        let first = blocks.partition_point(|block| block.last().is_some_and(before));
        let skip = blocks.get(first).map_or(0, |block| block.partition_point(before));
        blocks[first..]
            .iter()
            .flatten()
            .skip(skip)
            .copied()
            .take_while(move |pair| self.value(*pair).starts_with(prefix))
    }

    /// The pair of a name and a value.
    pub(crate) fn find(&self, name: &str, value: &str) -> Option<PairId> {
        let mut bytes = Vec::with_capacity(name.len() + value.len() + 8);
        crate::varint::put_bytes(&mut bytes, name.as_bytes());
        crate::varint::put_bytes(&mut bytes, value.as_bytes());
        self.find_bytes(&bytes, hash(&bytes))
    }

    #[inline]
    fn find_bytes(&self, bytes: &[u8], hash: u32) -> Option<PairId> {
        let same = |pair: &PairId| self.pairs[*pair as usize].hash == hash && self.bytes(*pair) == bytes;
        self.by_hash.find(spread(hash), same).copied()
    }

    /// The number of a pair given by its canonical bytes and its name, which the caller has checked.
    /// `None` when there are too many pairs.
    #[inline]
    pub(crate) fn intern(&mut self, bytes: &[u8], name: &[u8]) -> Option<PairId> {
        let hash = hash(bytes);
        match self.find_bytes(bytes, hash) {
            Some(pair) => Some(pair),
            None => self.add(bytes, hash, name),
        }
    }

    fn add(&mut self, bytes: &[u8], hash: u32, name: &[u8]) -> Option<PairId> {
        let pair = PairId::try_from(self.pairs.len()).ok()?;
        if self.pairs.len().is_multiple_of(BLOCK_PAIRS) {
            self.blocks.push(self.bytes.len());
        }
        let block = self.blocks.last().copied().unwrap_or_default();
        let end = u32::try_from(self.bytes.len() + bytes.len() - block).ok()?;
        let name = std::str::from_utf8(name).ok()?;
        let name = match self.by_name.get(name) {
            Some(name) => *name,
            None => self.add_name(name)?,
        };
        self.bytes.extend_from_slice(bytes);
        self.pairs.push(Pair { end, hash, name });
        let pairs = &self.pairs;
        self.by_hash
            .insert_unique(spread(hash), pair, |pair| spread(pairs[*pair as usize].hash));
        let mut values = std::mem::take(&mut self.names[name as usize].values);
        values.insert(pair, |other| self.value(other) < self.value(pair));
        self.names[name as usize].values = values;
        Some(pair)
    }

    fn add_name(&mut self, name: &str) -> Option<NameId> {
        let id = NameId::try_from(self.names.len()).ok()?;
        self.by_name.insert(name.into(), id);
        self.names.push(Name {
            text: name.into(),
            values: Sorted::default(),
        });
        Some(id)
    }

    /// About how many bytes of memory all of this takes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let lists: usize = self.names.iter().map(|name| name.values.memory_bytes()).sum();
        let fixed = self.bytes.capacity()
            + self.pairs.capacity() * size_of::<Pair>()
            + self.by_hash.capacity() * (size_of::<PairId>() + 1)
            + self.names.capacity() * (size_of::<Name>() + 64);
        (fixed + lists) as u64
    }
}

/// Numbers in an order given from outside, in blocks, so that an insertion moves few of them.
#[derive(Debug, Default)]
struct Sorted {
    /// None is empty.
    blocks: Vec<Vec<PairId>>,
    len: usize,
}

impl Sorted {
    /// Inserts behind all entries that `before` holds for.
    fn insert(&mut self, pair: PairId, before: impl Fn(PairId) -> bool) {
        self.len += 1;
        let at = self
            .blocks
            .partition_point(|block| block.last().is_some_and(|last| before(*last)))
            .min(self.blocks.len().saturating_sub(1));
        let Some(block) = self.blocks.get_mut(at) else {
            self.blocks.push(vec![pair]);
            return;
        };
        let place = block.partition_point(|other| before(*other));
        if block.len() < BLOCK_MAX {
            block.insert(place, pair);
            return;
        }
        if place == block.len() {
            // Values often come in ascending order: full blocks stay full.
            self.blocks.insert(at + 1, vec![pair]);
            return;
        }
        let mut upper = block.split_off(BLOCK_MAX / 2);
        match place.checked_sub(block.len()) {
            Some(place) => upper.insert(place, pair),
            None => block.insert(place, pair),
        }
        self.blocks.insert(at + 1, upper);
    }

    fn memory_bytes(&self) -> usize {
        self.blocks
            .iter()
            .map(|block| block.capacity() * size_of::<PairId>() + size_of::<Vec<PairId>>())
            .sum()
    }
}

#[inline]
fn hash(bytes: &[u8]) -> u32 {
    xxh3_64(bytes) as u32
}

/// A hash table wants its bits spread over the whole word.
#[inline]
pub(crate) fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::varint::put_bytes;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn bytes_of(name: &str, value: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, name.as_bytes());
        put_bytes(&mut bytes, value.as_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn behaves_like_sorted_maps(
            added in proptest::collection::vec(("[a-c]", "[a-d]{1,4}|\\PC{1,3}"), 0..200),
            prefix in "[a-d]{0,2}",
        ) {
            let mut pairs = Pairs::default();
            let mut numbers: BTreeMap<(String, String), PairId> = BTreeMap::new();
            for (name, value) in &added {
                let next = numbers.len() as PairId;
                let number = *numbers.entry((name.clone(), value.clone())).or_insert(next);
                prop_assert_eq!(pairs.intern(&bytes_of(name, value), name.as_bytes()), Some(number));
            }
            prop_assert_eq!(pairs.len(), numbers.len());
            for ((name, value), number) in &numbers {
                prop_assert_eq!(pairs.find(name, value), Some(*number));
                prop_assert_eq!(pairs.bytes(*number), bytes_of(name, value));
                prop_assert_eq!(pairs.value(*number), value);
                prop_assert_eq!(Some(pairs.name_of(*number)), pairs.find_name(name));
            }
            prop_assert_eq!(pairs.find("a", "no such value"), None);
            for (id, name) in pairs.names() {
                let expected: Vec<PairId> =
                    numbers.iter().filter(|((n, _), _)| n == name).map(|(_, number)| *number).collect();
                prop_assert_eq!(pairs.values_len(id), expected.len());
                prop_assert_eq!(pairs.values(id).collect::<Vec<_>>(), expected.clone());
                let with: Vec<PairId> =
                    expected.into_iter().filter(|pair| pairs.value(*pair).starts_with(&prefix)).collect();
                prop_assert_eq!(pairs.with_prefix(id, &prefix).collect::<Vec<_>>(), with);
            }
        }
    }

    #[test]
    fn many_values_stay_sorted() {
        let mut pairs = Pairs::default();
        let mut expected = BTreeSet::new();
        for i in 0..5_000u64 {
            let value = format!("{:05}", i.wrapping_mul(0x9e37_79b9) % 20_011);
            pairs.intern(&bytes_of("n", &value), b"n").unwrap();
            expected.insert(value);
        }
        for i in 20_100..22_000 {
            let value = format!("{i}");
            pairs.intern(&bytes_of("n", &value), b"n").unwrap();
            expected.insert(value);
        }
        let values: Vec<&str> = pairs.values(0).map(|pair| pairs.value(pair)).collect();
        assert!(values.iter().copied().eq(expected.iter().map(String::as_str)));
        let with: Vec<&str> = pairs.with_prefix(0, "21").map(|pair| pairs.value(pair)).collect();
        assert!(with.iter().all(|value| value.starts_with("21")) && with.len() > 900);
    }
}
