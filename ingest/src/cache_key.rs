//! The hash by which the series cache finds a series it has seen.

use std::fmt;

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_secret};

/// Length of the default secret of XXH3; the minimum is 136.
const SECRET_BYTES: usize = 192;

/// Hashes raw label bytes to 128 bits, with XXH3 under a secret that is derived from a seed.
///
/// The seed is drawn once per process. Whoever writes series can't see it, so can't construct two
/// label sets that collide. All of XXH3's secret is derived, not only its 64-bit seed: that blinds
/// inputs of every length, and long inputs don't pay for the derivation on each call.
///
/// The value is a cache key only. It must not be stored, sent, or used to identify a series.
#[derive(Clone)]
pub struct CacheHasher {
    secret: [u8; SECRET_BYTES],
}

impl CacheHasher {
    /// Derives the secret from `seed`, which should be random.
    pub fn new(seed: u128) -> Self {
        let (low, high) = (seed as u64, (seed >> 64) as u64);
        let mut secret = [0; SECRET_BYTES];
        for (index, word) in secret.chunks_exact_mut(8).enumerate() {
            // Nested, since XXH3 of (high, index) under `low` relates the secrets of close seeds.
            let inner = xxh3_64_with_seed(&(index as u64).to_le_bytes(), low);
            let outer = xxh3_64_with_seed(&inner.to_le_bytes(), high);
            word.copy_from_slice(&outer.to_le_bytes());
        }
        CacheHasher { secret }
    }

    /// The cache key of `raw_labels` (see [`crate::SeriesRef::raw_labels`]).
    #[inline]
    pub fn hash(&self, raw_labels: &[u8]) -> u128 {
        xxh3_128_with_secret(raw_labels, &self.secret)
    }
}

impl fmt::Debug for CacheHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret stays out of logs.
        f.debug_struct("CacheHasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_length_depends_on_both_halves_of_the_seed_and_on_every_byte() {
        let hashers = [1u128, 2, 1 << 64, (1 << 64) | 1].map(CacheHasher::new);
        for len in [1, 3, 8, 16, 17, 128, 129, 240, 241, 1000, 5000] {
            let mut seen = HashSet::new();
            let mut bytes = vec![b'a'; len];
            for hasher in &hashers {
                assert!(seen.insert(hasher.hash(&bytes)), "two seeds agree at {len}");
                assert_eq!(hasher.hash(&bytes), hasher.clone().hash(&bytes));
            }
            for at in 0..len {
                bytes[at] ^= 1;
                assert!(
                    seen.insert(hashers[0].hash(&bytes)),
                    "byte {at} of {len} is ignored"
                );
                bytes[at] ^= 1;
            }
        }
    }
}
