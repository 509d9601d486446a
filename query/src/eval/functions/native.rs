//! The arithmetic of native histograms: quantiles, fractions, moments.

use quorate_storage::Histogram;
use quorate_storage::histogram::Bucket;

use crate::eval::annotate::NanObservations;
use crate::eval::kahan::Sum;

/// The function of one histogram with this name.
pub(super) fn of_one_histogram(name: &str) -> Option<fn(&Histogram) -> f64> {
    Some(match name {
        "histogram_count" => |histogram| histogram.count,
        "histogram_sum" => |histogram| histogram.sum,
        "histogram_avg" => |histogram| histogram.sum / histogram.count,
        "histogram_stdvar" => variance,
        "histogram_stddev" => |histogram| variance(histogram).sqrt(),
        _ => return None,
    })
}

/// The variance, if all observations were in the middle of their buckets.
fn variance(histogram: &Histogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let mut squares = Sum::default();
    for bucket in histogram.ascending().filter(|bucket| bucket.count != 0.0) {
        let value = if histogram.uses_custom_buckets() {
            (bucket.upper + bucket.lower) / 2.0
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            let middle = (bucket.upper * bucket.lower).sqrt();
            if bucket.upper < 0.0 { -middle } else { middle }
        };
        let delta = value - mean;
        squares.add(bucket.count * delta * delta);
    }
    squares.total() / histogram.count
}

/// The zero bucket reaches to one side only if the histogram has buckets on that side alone.
fn one_sided(histogram: &Histogram, mut bucket: Bucket) -> Bucket {
    if histogram.negative_buckets.is_empty() && !histogram.positive_buckets.is_empty() {
        bucket.lower = 0.0;
    } else if histogram.positive_buckets.is_empty() && !histogram.negative_buckets.is_empty() {
        bucket.upper = 0.0;
    }
    bucket
}

const NO_BUCKET: Bucket = Bucket {
    lower: 0.0,
    upper: 0.0,
    lower_inclusive: false,
    upper_inclusive: false,
    count: 0.0,
};

/// The φ-quantile of the observations, and whether NaN among them shows. Within a bucket, observations are taken to be
/// spread evenly on a logarithmic scale; within the zero bucket and custom ones, on a linear one.
pub(super) fn quantile(phi: f64, histogram: &Histogram) -> (f64, Option<NanObservations>) {
    if phi < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if phi > 1.0 {
        return (f64::INFINITY, None);
    }
    if histogram.count == 0.0 || phi.is_nan() {
        return (f64::NAN, None);
    }
    // NaN is counted but in no bucket, as if it were above all others: ranks are right from below only.
    let has_nan = histogram.sum.is_nan();
    let from_below = has_nan || phi < 0.5;
    let (mut rank, (bucket, count)) = if from_below {
        let rank = phi * histogram.count;
        (rank, bucket_at(rank, histogram.ascending()))
    } else {
        let rank = (1.0 - phi) * histogram.count;
        (rank, bucket_at(rank, histogram.descending()))
    };
    let mut bucket = bucket.unwrap_or(NO_BUCKET);
    if histogram.uses_custom_buckets() {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return (bucket.upper, None);
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return (bucket.lower, None);
        }
    } else if bucket.lower < 0.0 && bucket.upper > 0.0 {
        bucket = one_sided(histogram, bucket);
    }
    let count = count.min(histogram.count);
    if count < rank {
        if has_nan {
            return (f64::NAN, Some(NanObservations::QuantileIsNan));
        }
        // Rounding: the rank is beyond the last bucket.
        return (bucket.upper, None);
    }
    let effect = has_nan.then_some(NanObservations::QuantileIsSkewed);
    if from_below {
        rank -= count - bucket.count;
    } else {
        rank = count - rank;
    }
    let share = rank / bucket.count;
    if histogram.uses_custom_buckets() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return (bucket.lower + (bucket.upper - bucket.lower) * share, effect);
    }
    let (log_lower, log_upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    let value = if bucket.lower > 0.0 {
        (log_lower + (log_upper - log_lower) * share).exp2()
    } else {
        -(log_upper + (log_lower - log_upper) * (1.0 - share)).exp2()
    };
    (value, effect)
}

/// The bucket in which the observation of this rank is, or the last one, and how many are in it and those before.
fn bucket_at(rank: f64, buckets: impl Iterator<Item = Bucket>) -> (Option<Bucket>, f64) {
    let (mut last, mut count) = (None, 0.0);
    for bucket in buckets {
        last = Some(bucket);
        if bucket.count == 0.0 {
            continue;
        }
        count += bucket.count;
        if count >= rank {
            break;
        }
    }
    (last, count)
}

/// The share of the observations between two values, and whether NaN among them shows.
pub(super) fn fraction(lower: f64, upper: f64, histogram: &Histogram) -> (f64, Option<NanObservations>) {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return (f64::NAN, None);
    }
    let has_nan = histogram.sum.is_nan();
    let effect = has_nan.then_some(NanObservations::LeftOutOfFractions);
    if lower >= upper {
        return (0.0, None);
    }
    let mut rank = 0.0;
    let (mut lower_rank, mut upper_rank) = (None, None);
    for mut bucket in histogram.ascending() {
        let is_zero = !histogram.uses_custom_buckets() && bucket.lower <= 0.0 && bucket.upper >= 0.0;
        if is_zero {
            bucket = one_sided(histogram, bucket);
        }
        let is_linear = is_zero || histogram.uses_custom_buckets();
        for (value, found) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
            if found.is_some() {
                continue;
            }
            if bucket.lower >= value {
                *found = Some(rank);
            } else if bucket.upper > value {
                *found = Some(rank_within(&bucket, rank, value, is_linear));
            }
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank += bucket.count;
    }
    // What is above all buckets can only be NaN, which is in no range.
    let all = if has_nan { rank } else { histogram.count };
    let limited = |found: Option<f64>| found.unwrap_or(all).min(histogram.count);
    (
        (limited(upper_rank) - limited(lower_rank)) / histogram.count,
        effect,
    )
}

/// How many observations are below a value within a bucket, where `rank` are below the bucket.
fn rank_within(bucket: &Bucket, rank: f64, value: f64, is_linear: bool) -> f64 {
    if is_linear {
        // Nothing is known of how the first custom bucket's observations are spread.
        if bucket.lower == f64::NEG_INFINITY {
            return bucket.count;
        }
        return rank + bucket.count * (value - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (log_lower, log_upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    let log_value = value.abs().log2();
    let share = if value > 0.0 {
        (log_value - log_lower) / (log_upper - log_lower)
    } else {
        1.0 - (log_value - log_upper) / (log_lower - log_upper)
    };
    rank + bucket.count * share
}

#[cfg(test)]
mod tests {
    use quorate_storage::histogram::{CUSTOM_SCHEMA, Span};

    use super::*;

    fn exponential() -> Histogram {
        Histogram {
            count: 12.0,
            sum: 100.0,
            zero_threshold: 0.001,
            zero_count: 2.0,
            positive_spans: vec![Span { offset: 0, length: 5 }],
            positive_buckets: vec![2.0, 3.0, 0.0, 1.0, 4.0],
            ..Histogram::default()
        }
    }

    #[test]
    fn quantile_and_fraction_are_each_other_s_inverse() {
        let histogram = exponential();
        for phi in [0.05, 0.1, 0.3, 0.55, 0.8, 0.99] {
            let (value, _) = quantile(phi, &histogram);
            let (share, _) = fraction(f64::NEG_INFINITY, value, &histogram);
            assert!((share - phi).abs() < 1e-12, "{phi}: {value} {share}");
        }
        assert!((quantile(0.1, &histogram).0 - 0.0006).abs() < 1e-12);
        assert_eq!(quantile(1.0, &histogram).0, 16.0);
        assert!(quantile(0.5, &Histogram::default()).0.is_nan());
    }

    #[test]
    fn nan_is_above_all_and_told_of() {
        let histogram = Histogram {
            count: 15.0,
            sum: f64::NAN,
            positive_spans: vec![Span { offset: 0, length: 1 }],
            positive_buckets: vec![12.0],
            ..Histogram::default()
        };
        let (value, effect) = quantile(0.81, &histogram);
        assert!(value.is_nan() && effect == Some(NanObservations::QuantileIsNan));
        assert_eq!(
            quantile(0.8, &histogram),
            (1.0, Some(NanObservations::QuantileIsSkewed))
        );
        assert_eq!(fraction(f64::NEG_INFINITY, f64::INFINITY, &histogram).0, 0.8);
    }

    #[test]
    fn custom_buckets_are_linear() {
        let histogram = Histogram {
            schema: CUSTOM_SCHEMA,
            count: 4.0,
            sum: 5.0,
            custom_values: vec![5.0, 10.0],
            positive_spans: vec![Span { offset: 0, length: 3 }],
            positive_buckets: vec![1.0, 2.0, 1.0],
            ..Histogram::default()
        };
        assert_eq!(quantile(0.5, &histogram).0, 7.5);
        assert_eq!(quantile(1.0, &histogram).0, 10.0);
        assert_eq!(fraction(5.0, 7.5, &histogram).0, 0.25);
        assert_eq!(of_one_histogram("histogram_avg").unwrap()(&histogram), 1.25);
    }
}
