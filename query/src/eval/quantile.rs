//! The quantile of some values.

use std::cmp::Ordering;
use std::ops::Range;

/// Prometheus's order of values for quantiles: NaN below all else.
fn nan_first(a: &f64, b: &f64) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// The φ-quantile, interpolated between the two nearest values. Reorders `values`.
pub(super) fn quantile(phi: f64, values: &mut [f64]) -> f64 {
    match Rank::of(phi, values.len()) {
        Err(value) => value,
        Ok(rank) => {
            let (_, &mut lower, above) = values.select_nth_unstable_by(rank.lower, nan_first);
            rank.interpolate(lower, above.iter().copied().min_by(nan_first))
        }
    }
}

/// The φ-quantile of values that are in order.
fn quantile_of_sorted(phi: f64, values: &[f64]) -> f64 {
    match Rank::of(phi, values.len()) {
        Err(value) => value,
        Ok(rank) => rank.interpolate(values[rank.lower], values.get(rank.lower + 1).copied()),
    }
}

/// Where a quantile lies among sorted values.
struct Rank {
    /// Index of the value below.
    lower: usize,
    /// How much the value above counts.
    weight: f64,
}

impl Rank {
    /// The error is the answer for a φ, or for no values, that no rank belongs to.
    fn of(phi: f64, count: usize) -> Result<Rank, f64> {
        if count == 0 || phi.is_nan() {
            return Err(f64::NAN);
        }
        if phi < 0.0 {
            return Err(f64::NEG_INFINITY);
        }
        if phi > 1.0 {
            return Err(f64::INFINITY);
        }
        let rank = phi * (count - 1) as f64;
        Ok(Rank {
            lower: rank.floor() as usize,
            weight: rank - rank.floor(),
        })
    }

    fn interpolate(&self, lower: f64, upper: Option<f64>) -> f64 {
        lower * (1.0 - self.weight) + upper.unwrap_or(lower) * self.weight
    }
}

/// Quantiles of a window that slides over values.
#[derive(Default)]
pub(super) struct SlidingQuantile {
    /// The window before, as indices.
    window: Range<usize>,
    /// Its values in order, if `is_sorted`.
    values: Vec<f64>,
    is_sorted: bool,
}

impl SlidingQuantile {
    /// Forgets all: other values follow.
    pub(super) fn restart(&mut self) {
        self.window = 0..0;
        self.is_sorted = false;
    }

    /// The φ-quantile of `all[window]`. Windows only move forward.
    pub(super) fn quantile(&mut self, phi: f64, all: &[f64], window: Range<usize>) -> f64 {
        let left = self.window.start..window.start.min(self.window.end);
        let entered = self.window.end.max(window.start)..window.end;
        // Order is worth keeping if it takes fewer moves than to find the quantile anew.
        let overlaps = (left.len() + entered.len()) * 4 <= window.len();
        self.window = window.clone();
        if !overlaps {
            self.is_sorted = false;
            self.values.clear();
            self.values.extend_from_slice(&all[window]);
            return quantile(phi, &mut self.values);
        }
        if self.is_sorted {
            for value in &all[left] {
                let at = self
                    .values
                    .partition_point(|other| nan_first(other, value).is_lt());
                self.values.remove(at);
            }
            for value in &all[entered] {
                let at = self
                    .values
                    .partition_point(|other| nan_first(other, value).is_lt());
                self.values.insert(at, *value);
            }
        } else {
            self.values.clear();
            self.values.extend_from_slice(&all[window]);
            self.values.sort_unstable_by(nan_first);
            self.is_sorted = true;
        }
        quantile_of_sorted(phi, &self.values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn interpolates() {
        assert_eq!(
            quantile(0.8, &mut [4.0, 1.0, 0.0]),
            1.0 * (1.0 - 0.6000000000000001) + 4.0 * 0.6000000000000001
        );
        assert_eq!(quantile(0.0, &mut [4.0, 1.0]), 1.0);
        assert_eq!(quantile(1.0, &mut [4.0, 1.0]), 4.0);
        assert_eq!(
            quantile(0.8, &mut [1.0, 0.0, f64::NAN]),
            0.0 * 0.3999999999999999 + 1.0 * 0.6000000000000001
        );
        assert!(quantile(0.2, &mut [1.0, 0.0, f64::NAN]).is_nan());
        assert_eq!(quantile(-0.1, &mut [1.0]), f64::NEG_INFINITY);
        assert_eq!(quantile(1.1, &mut [1.0]), f64::INFINITY);
        assert!(quantile(f64::NAN, &mut [1.0]).is_nan());
    }

    proptest! {
        #[test]
        fn a_sliding_window_gives_the_same(
            values in proptest::collection::vec(prop_oneof![(-3_i32..3).prop_map(f64::from), Just(f64::NAN)], 1..60),
            moves in proptest::collection::vec((0_usize..4, 0_usize..4), 1..40),
            phi in 0.0..=1.0,
        ) {
            let mut sliding = SlidingQuantile::default();
            let (mut start, mut end) = (0, 0);
            for (forward, more) in moves {
                end = (end + more).min(values.len());
                start = (start + forward).min(end);
                let expected = quantile(phi, &mut values[start..end].to_vec());
                let got = sliding.quantile(phi, &values, start..end);
                prop_assert!(got == expected || (got.is_nan() && expected.is_nan()));
            }
        }
    }
}
