//! Remembers which id a series has, by the hash of its label bytes as they arrived, so that labels
//! are neither sorted nor compared again. Only a cache: a miss costs time, a stale id is answered
//! "send labels" by the shard.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

const STRIPES: usize = 64;

/// Where a series lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownSeries {
    /// Its shard.
    pub shard: u32,
    /// Its id in that shard.
    pub id: u64,
}

/// A bounded map from hash to series. When a stripe is full, the older half of it goes.
pub(super) struct SeriesCache {
    stripes: Vec<Mutex<Stripe>>,
    per_generation: usize,
    epoch: AtomicU64,
}

type Map = HashMap<u128, KnownSeries, BuildHasherDefault<AlreadyHashed>>;

#[derive(Default)]
struct Stripe {
    young: Map,
    old: Map,
}

impl SeriesCache {
    /// A cache of at most `capacity` series.
    pub(super) fn new(capacity: usize) -> SeriesCache {
        SeriesCache {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            per_generation: (capacity / STRIPES / 2).max(1),
            epoch: AtomicU64::new(0),
        }
    }

    /// Forgets everything when the ring changed: ids are known per shard, and shards may have moved.
    pub(super) fn enter_epoch(&self, epoch: u64) {
        if self.epoch.swap(epoch, Ordering::AcqRel) != epoch {
            for stripe in &self.stripes {
                *stripe.lock() = Stripe::default();
            }
        }
    }

    /// The series of this hash.
    pub(super) fn get(&self, key: u128) -> Option<KnownSeries> {
        let mut stripe = self.stripe(key).lock();
        if let Some(known) = stripe.young.get(&key) {
            return Some(*known);
        }
        let known = stripe.old.remove(&key)?;
        self.put(&mut stripe, key, known);
        Some(known)
    }

    /// Remembers a series.
    pub(super) fn insert(&self, key: u128, known: KnownSeries) {
        self.put(&mut self.stripe(key).lock(), key, known);
    }

    /// Forgets a series.
    pub(super) fn remove(&self, key: u128) {
        let mut stripe = self.stripe(key).lock();
        stripe.young.remove(&key);
        stripe.old.remove(&key);
    }

    /// Series remembered.
    pub(super) fn len(&self) -> usize {
        self.stripes
            .iter()
            .map(|s| s.lock())
            .map(|s| s.young.len() + s.old.len())
            .sum()
    }

    fn put(&self, stripe: &mut Stripe, key: u128, known: KnownSeries) {
        if stripe.young.len() >= self.per_generation {
            stripe.old = std::mem::take(&mut stripe.young);
        }
        stripe.young.insert(key, known);
    }

    fn stripe(&self, key: u128) -> &Mutex<Stripe> {
        // The top bits: the map inside the stripe uses the low ones.
        &self.stripes[(key >> 122) as usize]
    }
}

/// Keys are hashes already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> u128 {
        u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n)
    }

    #[test]
    fn stays_within_its_bound_and_keeps_what_is_used() {
        let cache = SeriesCache::new(64 * 20);
        for n in 0..100_000 {
            cache.insert(key(n), KnownSeries { shard: 1, id: n });
            assert_eq!(cache.get(key(7)).map(|k| k.id), (n >= 7).then_some(7));
        }
        assert!(cache.len() <= 64 * 21, "{}", cache.len());
        assert_eq!(cache.get(key(50)), None);
    }

    #[test]
    fn a_new_epoch_forgets_all() {
        let cache = SeriesCache::new(1000);
        cache.enter_epoch(1);
        cache.insert(key(1), KnownSeries { shard: 1, id: 1 });
        cache.enter_epoch(1);
        assert!(cache.get(key(1)).is_some());
        cache.enter_epoch(2);
        assert!(cache.get(key(1)).is_none());
    }
}
