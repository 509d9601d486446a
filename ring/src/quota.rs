//! How many slots each shard is to own: exact shares, rounded to whole slots.

use crate::{MIN_SLOTS_PER_SHARD, RingError, SLOTS};

/// A shard's claim on slots.
pub(crate) struct Claim {
    pub(crate) shard: u32,
    /// Weight in units.
    pub(crate) units: u64,
    /// Slots that the shard owns now.
    pub(crate) owned: usize,
}

/// Slots for every claim, in the order of the claims; their sum is [`SLOTS`].
///
/// Every shard gets its ideal share rounded down or up. Between these two, the choice is what moves the
/// fewest slots; then the larger fractions are rounded up first, as in the largest-remainder method.
pub(crate) fn quotas(claims: &[Claim]) -> Result<Vec<usize>, RingError> {
    let total: u64 = claims.iter().map(|claim| claim.units).sum();
    let mut quotas = Vec::with_capacity(claims.len());
    let mut bounds = Vec::with_capacity(claims.len());
    for claim in claims {
        let share = Share::of(claim.units, total);
        if share.floor < MIN_SLOTS_PER_SHARD {
            let slots = SLOTS as f64 * claim.units as f64 / total as f64;
            return Err(RingError::ShareTooSmall {
                shard: claim.shard,
                slots,
            });
        }
        quotas.push(claim.owned.clamp(share.floor, share.ceil()));
        bounds.push(share);
    }

    // Each step below moves one slot more or less than the shards would like, whichever shard it hits.
    let mut by_fraction: Vec<usize> = (0..claims.len()).collect();
    by_fraction.sort_by_key(|&i| (std::cmp::Reverse(bounds[i].remainder), i));
    let mut sum: usize = quotas.iter().sum();
    for &i in &by_fraction {
        if sum < SLOTS && quotas[i] < bounds[i].ceil() {
            quotas[i] += 1;
            sum += 1;
        }
    }
    for &i in by_fraction.iter().rev() {
        if sum > SLOTS && quotas[i] > bounds[i].floor {
            quotas[i] -= 1;
            sum -= 1;
        }
    }
    // Rounding all shares down can't exceed SLOTS, rounding all up can't fall short of it.
    assert_eq!(sum, SLOTS, "quotas add up to all slots");
    Ok(quotas)
}

/// Most slots that a shard may own without exceeding 1.05 of its ideal share.
pub(crate) fn max_owned(units: u64, total_units: u64) -> usize {
    (SLOTS as u128 * u128::from(units) * 21 / (u128::from(total_units) * 20)) as usize
}

/// An ideal share in slots: `floor + remainder / total units`.
struct Share {
    floor: usize,
    remainder: u64,
}

impl Share {
    /// Weights are at most 10^12 units, so the product stays below 2^57.
    fn of(units: u64, total: u64) -> Share {
        let product = SLOTS as u64 * units;
        Share {
            floor: (product / total) as usize,
            remainder: product % total,
        }
    }

    fn ceil(&self) -> usize {
        self.floor + usize::from(self.remainder > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(of: &[(u64, usize)]) -> Vec<Claim> {
        of.iter()
            .zip(1..)
            .map(|(&(units, owned), shard)| Claim { shard, units, owned })
            .collect()
    }

    #[test]
    fn rounds_the_largest_fractions_up() {
        // Ideal shares 43690.67 and 21845.33.
        assert_eq!(quotas(&claims(&[(2, 0), (1, 0)])), Ok(vec![43_691, 21_845]));
    }

    #[test]
    fn keeps_what_is_owned_if_rounding_allows() {
        // 65536 / 3 = 21845.33: one shard gets one more, the one that has it already.
        assert_eq!(
            quotas(&claims(&[(1, 21_845), (1, 21_845), (1, 21_846)])),
            Ok(vec![21_845, 21_845, 21_846])
        );
        assert_eq!(
            quotas(&claims(&[(1, 32_768), (1, 32_768), (1, 0)])),
            Ok(vec![21_846, 21_845, 21_845])
        );
    }

    #[test]
    fn refuses_a_share_that_cannot_be_balanced() {
        let refused = quotas(&claims(&[(1_000_000, 0), (300, 0)]));
        assert!(
            matches!(refused, Err(RingError::ShareTooSmall { shard: 2, .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn the_bound_is_five_percent() {
        assert_eq!(max_owned(1, 1), 68_812);
        assert_eq!(max_owned(1, 64), 1_075);
    }
}
