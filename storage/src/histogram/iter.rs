//! Walks over buckets.

use super::bounds::bound;
use super::side::{forward, reverse};
use super::{CUSTOM_SCHEMA, Histogram};

/// One bucket and what is in it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Whether an observation equal to the lower bound belongs here.
    pub lower_inclusive: bool,
    /// Whether an observation equal to the upper bound belongs here.
    pub upper_inclusive: bool,
    /// Observations.
    pub count: f64,
}

impl Histogram {
    /// The zero bucket.
    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    /// The positive buckets, or the custom ones, ascending.
    pub fn positive(&self) -> impl Iterator<Item = Bucket> + '_ {
        forward(&self.positive_spans, &self.positive_buckets)
            .map(|(index, count)| self.positive_bucket(index, count))
    }

    /// The positive buckets, or the custom ones, descending.
    pub fn positive_descending(&self) -> impl Iterator<Item = Bucket> + '_ {
        reverse(&self.positive_spans, &self.positive_buckets)
            .map(|(index, count)| self.positive_bucket(index, count))
    }

    /// The negative buckets by ascending distance from zero.
    pub fn negative(&self) -> impl Iterator<Item = Bucket> + '_ {
        forward(&self.negative_spans, &self.negative_buckets)
            .map(|(index, count)| self.negative_bucket(index, count))
    }

    /// The negative buckets by descending distance from zero: by ascending bounds.
    pub fn negative_descending(&self) -> impl Iterator<Item = Bucket> + '_ {
        reverse(&self.negative_spans, &self.negative_buckets)
            .map(|(index, count)| self.negative_bucket(index, count))
    }

    /// All buckets by ascending bounds, the zero bucket only if something is in it. Buckets that reach into the zero
    /// bucket end there.
    pub fn ascending(&self) -> impl Iterator<Item = Bucket> + '_ {
        let zero = Some(self.zero_bucket()).filter(|zero| zero.count > 0.0);
        let negative = self.negative_descending().map(|bucket| self.outside_zero(bucket));
        let positive = self.positive().map(|bucket| self.outside_zero(bucket));
        negative.chain(zero).chain(positive)
    }

    /// All buckets by descending bounds, as [`Histogram::ascending`].
    pub fn descending(&self) -> impl Iterator<Item = Bucket> + '_ {
        let zero = Some(self.zero_bucket()).filter(|zero| zero.count > 0.0);
        let positive = self.positive_descending().map(|bucket| self.outside_zero(bucket));
        let negative = self.negative().map(|bucket| self.outside_zero(bucket));
        positive.chain(zero).chain(negative)
    }

    fn outside_zero(&self, mut bucket: Bucket) -> Bucket {
        if bucket.upper < 0.0 && bucket.upper > -self.zero_threshold {
            bucket.upper = -self.zero_threshold;
        } else if bucket.lower > 0.0 && bucket.lower < self.zero_threshold {
            bucket.lower = self.zero_threshold;
        }
        bucket
    }

    fn positive_bucket(&self, index: i64, count: f64) -> Bucket {
        let lower = bound(index - 1, self.schema, &self.custom_values);
        let upper = bound(index, self.schema, &self.custom_values);
        let is_custom = self.schema == CUSTOM_SCHEMA;
        Bucket {
            lower,
            upper,
            lower_inclusive: if is_custom { index == 0 } else { lower < 0.0 },
            upper_inclusive: is_custom || upper > 0.0,
            count,
        }
    }

    fn negative_bucket(&self, index: i64, count: f64) -> Bucket {
        let lower = -bound(index, self.schema, &self.custom_values);
        let upper = -bound(index - 1, self.schema, &self.custom_values);
        Bucket {
            lower,
            upper,
            lower_inclusive: lower < 0.0,
            upper_inclusive: upper > 0.0,
            count,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::Span;
    use crate::histogram::tests::histograms;

    proptest! {
        #[test]
        fn both_directions_meet_the_same_buckets(histogram in histograms()) {
            let up: Vec<Bucket> = histogram.ascending().filter(|bucket| !bucket.count.is_nan()).collect();
            let mut down: Vec<Bucket> = histogram.descending().filter(|bucket| !bucket.count.is_nan()).collect();
            down.reverse();
            prop_assert_eq!(&up, &down);
            // A wide zero bucket swallows others.
            prop_assert!(histogram.zero_threshold > 0.0 || up.is_sorted_by(|a, b| a.upper <= b.upper));
        }
    }

    #[test]
    fn buckets_by_hand() {
        let histogram = Histogram {
            count: 7.0,
            sum: 2.0,
            zero_threshold: 1.25,
            zero_count: 1.0,
            positive_spans: vec![Span { offset: 1, length: 1 }, Span { offset: 1, length: 1 }],
            positive_buckets: vec![2.0, 3.0],
            negative_spans: vec![Span { offset: 0, length: 1 }],
            negative_buckets: vec![1e7],
            ..Histogram::default()
        };
        let bounds: Vec<(f64, f64)> = histogram
            .ascending()
            .map(|bucket| (bucket.lower, bucket.upper))
            .collect();
        assert_eq!(bounds, [(-1.0, -1.25), (-1.25, 1.25), (1.25, 2.0), (4.0, 8.0)]);
        assert_eq!(
            histogram.to_string(),
            "{count:7, sum:2, [-1,-0.5):1e+07, [-1.25,1.25]:1, (1,2]:2, (4,8]:3}"
        );
        let custom = Histogram {
            schema: CUSTOM_SCHEMA,
            custom_values: vec![5.0],
            positive_spans: vec![Span { offset: 0, length: 2 }],
            positive_buckets: vec![1.0, 2.0],
            ..Histogram::default()
        };
        assert_eq!(custom.to_string(), "{count:0, sum:0, [-Inf,5]:1, (5,+Inf]:2}");
    }
}
