//! The arithmetic of classic histograms.

/// What is at most this much apart, relatively, counts as equal: rounding of sums over buckets.
const SMALL_DELTA: f64 = 1e-12;

/// One bucket of a classic histogram.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Bucket {
    /// The highest value that falls into it.
    pub(super) upper_bound: f64,
    /// How many observations are not above the bound.
    pub(super) count: f64,
}

/// What was raised so that counts don't fall from bucket to bucket.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Forced {
    /// The bound of the lowest bucket that was raised.
    pub(super) min_bucket: f64,
    /// The bound of the highest.
    pub(super) max_bucket: f64,
    /// The largest change.
    pub(super) max_difference: f64,
}

/// The φ-quantile of the observations, and what had to be forced. Reorders and merges the buckets, of which there is
/// at least one.
pub(super) fn quantile(phi: f64, buckets: &mut Vec<Bucket>) -> (f64, Option<Forced>) {
    if phi.is_nan() {
        return (f64::NAN, None);
    }
    if phi < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if phi > 1.0 {
        return (f64::INFINITY, None);
    }
    if !sort_and_merge(buckets) {
        return (f64::NAN, None);
    }
    let forced = force_monotonic(buckets);
    (interpolate(phi, buckets), forced)
}

/// The value below which a share `phi` of the observations is, if they are spread evenly within their bucket.
fn interpolate(phi: f64, buckets: &[Bucket]) -> f64 {
    let [below @ .., top] = buckets else {
        return f64::NAN;
    };
    let (Some(highest), false) = (below.last(), top.count == 0.0) else {
        return f64::NAN;
    };
    let mut rank = phi * top.count;
    // As Go's sort.Search, which bisects: that matters if a count is NaN.
    let reaches = |bucket: &Bucket| bucket.count >= rank;
    let index = below.partition_point(|bucket| !reaches(bucket));
    let Some(bucket) = below.get(index) else {
        return highest.upper_bound;
    };
    if index == 0 && bucket.upper_bound <= 0.0 {
        return bucket.upper_bound;
    }
    let (mut start, mut count) = (0.0, bucket.count);
    if let Some(before) = index.checked_sub(1) {
        start = below[before].upper_bound;
        count -= below[before].count;
        rank -= below[before].count;
    }
    start + (bucket.upper_bound - start) * (rank / count)
}

/// The share of the observations between two values. Reorders and merges the buckets, of which there is at least one.
pub(super) fn fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !sort_and_merge(buckets) {
        return f64::NAN;
    }
    let total = buckets[buckets.len() - 1].count;
    if total == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank_of(upper, buckets).min(total) - rank_of(lower, buckets).min(total)) / total
}

/// How many observations are below a value, if they are spread evenly within their bucket.
fn rank_of(value: f64, buckets: &[Bucket]) -> f64 {
    let (mut lower_bound, mut rank) = (f64::NEG_INFINITY, 0.0);
    for bucket in buckets {
        if lower_bound == value {
            return rank;
        }
        if lower_bound < value && bucket.upper_bound > value {
            // Nothing is known of how the first bucket's observations are spread if it has no lower end.
            if lower_bound == f64::NEG_INFINITY {
                return bucket.count;
            }
            return rank
                + (bucket.count - rank) * ((value - lower_bound) / (bucket.upper_bound - lower_bound));
        }
        rank = bucket.count;
        lower_bound = bucket.upper_bound;
    }
    f64::INFINITY
}

/// Sorts by bound and adds up equal ones; says whether the highest is +Inf, without which nothing can be said.
fn sort_and_merge(buckets: &mut Vec<Bucket>) -> bool {
    buckets.sort_by(|a, b| a.upper_bound.total_cmp(&b.upper_bound));
    if buckets.last().is_none_or(|top| top.upper_bound != f64::INFINITY) {
        return false;
    }
    buckets.dedup_by(|next, kept| {
        let same = next.upper_bound == kept.upper_bound;
        if same {
            kept.count += next.count;
        }
        same
    });
    true
}

/// Raises counts that are below the bucket before. Tiny differences in either direction are rounding, of which
/// nobody is told.
fn force_monotonic(buckets: &mut [Bucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut previous = buckets.first()?.count;
    for bucket in &mut buckets[1..] {
        let current = bucket.count;
        if current == previous {
            continue;
        }
        if almost_equal(previous, current) {
            bucket.count = previous;
        } else if current < previous {
            let difference = previous - current;
            let so_far = forced.get_or_insert(Forced {
                min_bucket: bucket.upper_bound,
                max_bucket: bucket.upper_bound,
                max_difference: difference,
            });
            so_far.max_bucket = bucket.upper_bound;
            so_far.max_difference = so_far.max_difference.max(difference);
            bucket.count = previous;
        } else {
            previous = current;
        }
    }
    forced
}

fn almost_equal(a: f64, b: f64) -> bool {
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let sum = a.abs() + b.abs();
    let difference = (a - b).abs();
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < SMALL_DELTA * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < SMALL_DELTA
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
        pairs
            .iter()
            .map(|(upper_bound, count)| Bucket {
                upper_bound: *upper_bound,
                count: *count,
            })
            .collect()
    }

    const INF: f64 = f64::INFINITY;

    #[test]
    fn quantiles_by_hand() {
        let histogram = [(INF, 10.0), (1.0, 2.0), (2.0, 6.0), (4.0, 8.0)];
        let of = |phi| quantile(phi, &mut buckets(&histogram)).0;
        assert_eq!(of(0.1), 0.5);
        assert_eq!(of(0.4), 1.5);
        assert_eq!(of(0.7), 3.0);
        assert_eq!(of(0.9), 4.0);
        assert_eq!(of(-1.0), f64::NEG_INFINITY);
        assert!(quantile(0.5, &mut buckets(&[(1.0, 2.0)])).0.is_nan());
        assert!(quantile(0.5, &mut buckets(&[(1.0, 0.0), (INF, 0.0)])).0.is_nan());
        assert_eq!(quantile(0.5, &mut buckets(&[(-1.0, 2.0), (INF, 3.0)])).0, -1.0);
    }

    #[test]
    fn falling_counts_are_raised_and_rounding_is_silent() {
        let (value, forced) = quantile(
            0.5,
            &mut buckets(&[(1.0, 4.0), (2.0, 3.0), (3.0, 1.0), (INF, 4.0)]),
        );
        assert_eq!(value, 0.5);
        assert_eq!(
            forced,
            Some(Forced {
                min_bucket: 2.0,
                max_bucket: 3.0,
                max_difference: 3.0
            })
        );
        let (_, forced) = quantile(
            0.5,
            &mut buckets(&[(1.0, 4.0), (2.0, 3.9999999999999996), (INF, 4.0)]),
        );
        assert_eq!(forced, None);
    }

    #[test]
    fn fractions_by_hand() {
        let histogram = [(1.0, 2.0), (2.0, 6.0), (INF, 8.0)];
        let between = |lower, upper| fraction(lower, upper, &mut buckets(&histogram));
        assert_eq!(between(1.0, 1.5), 0.25);
        assert_eq!(between(f64::NEG_INFINITY, INF), 1.0);
        assert_eq!(between(2.0, 1.0), 0.0);
        assert_eq!(between(1.0, 5.0), 0.5);
    }
}
