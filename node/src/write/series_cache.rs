//! Remembers which id a series has, by the hash of its label bytes as they arrived, so that labels
//! are neither sorted nor compared again. Only a cache: a miss costs time, a stale id is answered
//! "send labels" by the shard.
//!
//! Senders repeat themselves: the series of a scrape come in the same order every time. So series are kept in
//! the order in which they were learnt, and the one behind the last hit is tried first: the memory is read
//! from front to back, where a hash table would miss the CPU's caches for every series.

use hashbrown::HashTable;
use parking_lot::{RwLock, RwLockReadGuard};

/// Where a series lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownSeries {
    /// Its shard.
    pub shard: u32,
    /// Its id in that shard.
    pub id: u64,
}

/// A bounded map from hash to series. When it is full, the older half of it goes.
pub(super) struct SeriesCache {
    state: RwLock<State>,
    per_generation: usize,
}

#[derive(Default)]
struct State {
    young: Generation,
    old: Generation,
    epoch: u64,
}

#[derive(Default)]
struct Generation {
    slots: Vec<Slot>,
    /// Positions in `slots` by key.
    index: HashTable<u32>,
}

struct Slot {
    key: u128,
    id: u64,
    shard: u32,
    forgotten: bool,
}

impl SeriesCache {
    /// A cache of at most `capacity` series.
    pub(super) fn new(capacity: usize) -> SeriesCache {
        SeriesCache {
            state: RwLock::default(),
            per_generation: (capacity / 2).clamp(1, u32::MAX as usize),
        }
    }

    /// Forgets everything when the ring changed: ids are known per shard, and shards may have moved.
    pub(super) fn enter_epoch(&self, epoch: u64) {
        if self.state.read().epoch == epoch {
            return;
        }
        let mut state = self.state.write();
        if state.epoch != epoch {
            *state = State {
                epoch,
                ..State::default()
            };
        }
    }

    /// Looks up the series of one request, in its order.
    pub(super) fn look_up(&self) -> LookUp<'_> {
        LookUp {
            state: self.state.read(),
            expected: 0,
            strayed: 0,
            learnt: Vec::new(),
        }
    }

    /// Remembers series, in the order in which they will be looked up.
    pub(super) fn insert(&self, series: impl IntoIterator<Item = (u128, KnownSeries)>) {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return;
        }
        let mut state = self.state.write();
        for (key, known) in series {
            if state.young.index.len() >= self.per_generation {
                state.old = std::mem::take(&mut state.young);
            }
            state.young.put(key, known);
        }
    }

    /// Forgets a series.
    pub(super) fn remove(&self, key: u128) {
        let mut state = self.state.write();
        state.young.remove(key);
        state.old.remove(key);
    }

    /// Series remembered.
    pub(super) fn len(&self) -> usize {
        let state = self.state.read();
        state.young.index.len() + state.old.index.len()
    }
}

impl Generation {
    /// The position of a series.
    fn find(&self, key: u128) -> Option<u32> {
        self.index
            .find(key as u64, |at| {
                self.slots.get(*at as usize).is_some_and(|s| s.key == key)
            })
            .copied()
    }

    fn at(&self, position: u32, key: u128) -> Option<KnownSeries> {
        let slot = self.slots.get(position as usize)?;
        (slot.key == key && !slot.forgotten).then_some(KnownSeries {
            shard: slot.shard,
            id: slot.id,
        })
    }

    fn put(&mut self, key: u128, known: KnownSeries) {
        let slot = Slot {
            key,
            id: known.id,
            shard: known.shard,
            forgotten: false,
        };
        if let Some(position) = self.find(key)
            && let Some(old) = self.slots.get_mut(position as usize)
        {
            *old = slot;
            return;
        }
        let position = self.slots.len() as u32;
        self.slots.push(slot);
        let slots = &self.slots;
        let hash = |at: &u32| slots.get(*at as usize).map_or(0, |slot| slot.key as u64);
        self.index.insert_unique(key as u64, position, hash);
    }

    fn remove(&mut self, key: u128) {
        let slots = &mut self.slots;
        let is = |at: &u32| slots.get(*at as usize).is_some_and(|slot| slot.key == key);
        if let Ok(entry) = self.index.find_entry(key as u64, is) {
            let (position, _) = entry.remove();
            if let Some(slot) = slots.get_mut(position as usize) {
                slot.forgotten = true;
            }
        }
    }
}

/// The look-ups of one request.
pub(super) struct LookUp<'a> {
    state: RwLockReadGuard<'a, State>,
    /// Where the next series should be.
    expected: u32,
    /// Where it is otherwise: behind the last one that was not where it should have been.
    strayed: u32,
    learnt: Vec<(u128, KnownSeries)>,
}

impl LookUp<'_> {
    /// The series of this hash.
    pub(super) fn get(&mut self, key: u128) -> Option<KnownSeries> {
        let young = &self.state.young;
        if let Some(known) = young.at(self.expected, key) {
            self.expected += 1;
            return Some(known);
        }
        if let Some(known) = young.at(self.strayed, key) {
            // A sender with another order, or another sender: go on there.
            (self.expected, self.strayed) = (self.strayed + 1, self.expected + 1);
            return Some(known);
        }
        if let Some(position) = young.find(key) {
            // One that took the place of another, or the begin of a run.
            self.expected += 1;
            self.strayed = position + 1;
            return young.at(position, key);
        }
        self.expected += 1;
        let known = self
            .state
            .old
            .find(key)
            .and_then(|at| self.state.old.at(at, key))?;
        self.learnt.push((key, known));
        Some(known)
    }

    /// Notes a series to be remembered.
    pub(super) fn learn(&mut self, key: u128, known: KnownSeries) {
        self.learnt.push((key, known));
    }

    /// What has to be [inserted](SeriesCache::insert) now that nothing is looked up any more.
    pub(super) fn finish(self) -> Vec<(u128, KnownSeries)> {
        self.learnt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> u128 {
        u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n)
    }

    fn known(id: u64) -> KnownSeries {
        KnownSeries { shard: 1, id }
    }

    fn get(cache: &SeriesCache, n: u64) -> Option<u64> {
        let mut look_up = cache.look_up();
        let found = look_up.get(key(n)).map(|known| known.id);
        let learnt = look_up.finish();
        cache.insert(learnt);
        found
    }

    #[test]
    fn stays_within_its_bound_and_keeps_what_is_used() {
        let cache = SeriesCache::new(1_000);
        for n in 0..100_000 {
            cache.insert([(key(n), known(n))]);
            assert_eq!(get(&cache, 7), (n >= 7).then_some(7));
            assert!(cache.len() <= 1_000);
        }
        assert_eq!(get(&cache, 50), None);
    }

    #[test]
    fn a_new_epoch_forgets_all() {
        let cache = SeriesCache::new(1000);
        cache.enter_epoch(1);
        cache.insert([(key(1), known(1))]);
        cache.enter_epoch(1);
        assert_eq!(get(&cache, 1), Some(1));
        cache.enter_epoch(2);
        assert_eq!(get(&cache, 1), None);
    }

    #[test]
    fn whatever_the_order_each_series_is_found_as_last_put() {
        let cache = SeriesCache::new(10_000);
        cache.insert((0..1_000).map(|n| (key(n), known(n))));
        cache.remove(key(500));
        cache.insert([(key(600), known(6_000)), (key(2_000), known(2_000))]);
        let expect = |n: u64| match n {
            500 => None,
            600 => Some(6_000),
            n => Some(n),
        };
        let orders: [Vec<u64>; 4] = [
            (0..1_000).collect(),
            (0..1_000).rev().collect(),
            (0..1_000).map(|n| n * 7 % 1_000).collect(),
            (0..1_000).map(|n| if n % 20 == 3 { 2_000 } else { n }).collect(),
        ];
        for order in orders {
            let mut look_up = cache.look_up();
            for n in order {
                assert_eq!(look_up.get(key(n)).map(|k| k.id), expect(n), "{n}");
            }
        }
    }

    #[test]
    fn a_forgotten_series_can_be_learnt_again() {
        let cache = SeriesCache::new(100);
        cache.insert([(key(1), known(1))]);
        cache.remove(key(1));
        assert_eq!((get(&cache, 1), cache.len()), (None, 0));
        cache.insert([(key(1), known(2))]);
        assert_eq!(get(&cache, 1), Some(2));
    }
}
