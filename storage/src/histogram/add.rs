//! Adding histograms of different layouts, with or without compensation for rounding.

use super::bounds::exponential_bound;
use super::side::{Number, Side, forward};
use super::{CounterResetHint, Histogram, Span};

/// Histograms with exponential and with custom buckets don't mix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot apply this operation on histograms with a mix of exponential and custom bucket schemas")]
pub struct IncompatibleSchemas;

/// What had to be settled to add two histograms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reconciled {
    /// One says that there was a counter reset, the other that there was none.
    pub counter_reset_collision: bool,
    /// Custom bounds differed; those that both have were kept.
    pub custom_bounds: bool,
}

/// A histogram whose counts are of some kind of number.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum<T> {
    pub(super) hint: CounterResetHint,
    pub(super) schema: i32,
    pub(super) zero_threshold: f64,
    pub(super) zero_count: T,
    pub(super) count: T,
    pub(super) sum: T,
    pub(super) positive: Side<T>,
    pub(super) negative: Side<T>,
    pub(super) custom_values: Vec<f64>,
}

impl Sum<f64> {
    /// Takes a histogram's parts.
    pub(super) fn take(histogram: &mut Histogram) -> Sum<f64> {
        let own = std::mem::take(histogram);
        Sum {
            hint: own.counter_reset_hint,
            schema: own.schema,
            zero_threshold: own.zero_threshold,
            zero_count: own.zero_count,
            count: own.count,
            sum: own.sum,
            positive: Side::of(own.positive_spans, own.positive_buckets),
            negative: Side::of(own.negative_spans, own.negative_buckets),
            custom_values: own.custom_values,
        }
    }

    /// The histogram of these parts.
    pub(super) fn into_histogram(self) -> Histogram {
        Histogram {
            counter_reset_hint: self.hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count,
            count: self.count,
            sum: self.sum,
            positive_spans: self.positive.spans,
            negative_spans: self.negative.spans,
            positive_buckets: self.positive.buckets,
            negative_buckets: self.negative.buckets,
            custom_values: self.custom_values,
        }
    }
}

impl<T: Number> Sum<T> {
    /// Adds `sign` times `other`.
    pub(super) fn add(&mut self, other: &Histogram, sign: f64) -> Result<Reconciled, IncompatibleSchemas> {
        if (self.schema == super::CUSTOM_SCHEMA) != other.uses_custom_buckets() {
            return Err(IncompatibleSchemas);
        }
        let mut reconciled = Reconciled {
            counter_reset_collision: self.adjust_hint(other.counter_reset_hint),
            custom_bounds: false,
        };
        self.count.add(sign * other.count);
        self.sum.add(sign * other.sum);
        if other.uses_custom_buckets() {
            reconciled.custom_bounds = self.add_custom(other, sign);
        } else {
            self.add_exponential(other, sign);
        }
        Ok(reconciled)
    }

    /// Settles what is known of counter resets; says whether the two contradict each other.
    fn adjust_hint(&mut self, other: CounterResetHint) -> bool {
        use CounterResetHint::{Gauge, Unknown};
        if self.hint == other {
            return false;
        }
        let is_known = |hint| hint != Unknown && hint != Gauge;
        let collides = is_known(self.hint) && is_known(other);
        self.hint = if self.hint == Gauge || other == Gauge {
            Gauge
        } else {
            Unknown
        };
        collides
    }

    /// Says whether bounds differed.
    fn add_custom(&mut self, other: &Histogram, sign: f64) -> bool {
        let theirs = Side::of(other.positive_spans.clone(), other.positive_buckets.clone());
        if self.custom_values == other.custom_values {
            self.positive.add(&theirs, sign, None);
            return false;
        }
        let common = common_bounds(&self.custom_values, &other.custom_values);
        self.positive = self.positive.with_bounds(&self.custom_values, &common);
        self.positive
            .add(&theirs.with_bounds(&other.custom_values, &common), sign, None);
        self.custom_values = common;
        true
    }

    fn add_exponential(&mut self, other: &Histogram, sign: f64) {
        let zero_count = self.reconcile_zero_bucket(other);
        self.zero_count.add(sign * zero_count);
        let mut positive = Side::of(other.positive_spans.clone(), other.positive_buckets.clone());
        let mut negative = Side::of(other.negative_spans.clone(), other.negative_buckets.clone());
        if other.schema < self.schema {
            self.positive = self.positive.reduced(self.schema, other.schema);
            self.negative = self.negative.reduced(self.schema, other.schema);
            self.schema = other.schema;
        } else if other.schema > self.schema {
            positive = positive.reduced(other.schema, self.schema);
            negative = negative.reduced(other.schema, self.schema);
        }
        let zero = Some((self.zero_threshold, self.schema));
        self.positive.add(&positive, sign, zero);
        self.negative.add(&negative, sign, zero);
    }

    /// Widens the zero bucket until it is one that both can have; returns what `other` has in it.
    fn reconcile_zero_bucket(&mut self, other: &Histogram) -> f64 {
        let (mut their_count, mut their_threshold) = (other.zero_count, other.zero_threshold);
        // Ends because a threshold only grows, and only to the bounds of buckets.
        while their_threshold != self.zero_threshold {
            if self.zero_threshold > their_threshold {
                (their_count, their_threshold) = other.zero_bucket_view().widened(self.zero_threshold);
            }
            if their_threshold > self.zero_threshold {
                (self.zero_count, self.zero_threshold) = ZeroBucket {
                    schema: self.schema,
                    threshold: self.zero_threshold,
                    count: self.zero_count,
                    positive: (&self.positive.spans, &self.positive.buckets),
                    negative: (&self.negative.spans, &self.negative.buckets),
                }
                .widened(their_threshold);
                let (schema, threshold) = (self.schema, self.zero_threshold);
                let outside = |index: i64, _| exponential_bound(index - 1, schema) >= threshold;
                self.positive.retain(outside);
                self.negative.retain(outside);
            }
        }
        their_count
    }
}

/// The zero bucket and what may fall into it if it is widened.
pub(super) struct ZeroBucket<'a, T> {
    schema: i32,
    threshold: f64,
    count: T,
    positive: (&'a [Span], &'a [T]),
    negative: (&'a [Span], &'a [T]),
}

impl<T: Number> ZeroBucket<'_, T> {
    /// The count, and the threshold, of a zero bucket that reaches to `threshold` at least: it never cuts a populated
    /// bucket.
    pub(super) fn widened(&self, mut threshold: f64) -> (T, f64) {
        if threshold == self.threshold {
            return (self.count, threshold);
        }
        'widen: loop {
            let mut count = self.count;
            for ((spans, buckets), is_first) in [(self.positive, true), (self.negative, false)] {
                for (index, content) in forward(spans, buckets) {
                    if exponential_bound(index - 1, self.schema) >= threshold {
                        break;
                    }
                    count.merge(content);
                    let upper = exponential_bound(index, self.schema);
                    if upper > threshold {
                        if !content.is_zero() {
                            threshold = upper;
                            if !is_first {
                                // What was done on the other side isn't enough any more.
                                continue 'widen;
                            }
                        }
                        break;
                    }
                }
            }
            return (count, threshold);
        }
    }
}

/// The bounds that both have.
pub(super) fn common_bounds(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter()
        .copied()
        .filter(|bound| b.binary_search_by(|other| other.total_cmp(bound)).is_ok())
        .collect()
}

impl Histogram {
    pub(super) fn zero_bucket_view(&self) -> ZeroBucket<'_, f64> {
        ZeroBucket {
            schema: self.schema,
            threshold: self.zero_threshold,
            count: self.zero_count,
            positive: (&self.positive_spans, &self.positive_buckets),
            negative: (&self.negative_spans, &self.negative_buckets),
        }
    }

    /// Adds another histogram. The result has the coarser schema, the wider zero bucket, or the common custom bounds.
    /// After an error nothing has changed.
    pub fn add(&mut self, other: &Histogram) -> Result<Reconciled, IncompatibleSchemas> {
        self.add_signed(other, 1.0)
    }

    /// Subtracts another histogram, as [`Histogram::add`].
    pub fn sub(&mut self, other: &Histogram) -> Result<Reconciled, IncompatibleSchemas> {
        self.add_signed(other, -1.0)
    }

    fn add_signed(&mut self, other: &Histogram, sign: f64) -> Result<Reconciled, IncompatibleSchemas> {
        let mut sum = Sum::take(self);
        let outcome = sum.add(other, sign);
        *self = sum.into_histogram();
        outcome
    }

    /// Multiplies all counts and the sum. By a negative factor it becomes a gauge.
    pub fn scale(&mut self, factor: f64) {
        if factor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
        self.counts_mut().for_each(|count| *count *= factor);
    }

    /// Divides all counts and the sum. By a negative divisor it becomes a gauge; by zero it loses its buckets.
    pub fn divide(&mut self, divisor: f64) {
        if divisor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
        if divisor == 0.0 {
            self.positive_spans.clear();
            self.positive_buckets.clear();
            self.negative_spans.clear();
            self.negative_buckets.clear();
        }
        self.counts_mut().for_each(|count| *count /= divisor);
    }

    fn counts_mut(&mut self) -> impl Iterator<Item = &mut f64> {
        [&mut self.zero_count, &mut self.count, &mut self.sum]
            .into_iter()
            .chain(&mut self.positive_buckets)
            .chain(&mut self.negative_buckets)
    }

    /// Drops empty buckets.
    pub fn compact(&mut self) {
        for (spans, buckets) in [
            (&mut self.positive_spans, &mut self.positive_buckets),
            (&mut self.negative_spans, &mut self.negative_buckets),
        ] {
            let is_compact = buckets.iter().all(|count| *count != 0.0)
                && spans.iter().all(|span| span.length > 0)
                && spans.iter().skip(1).all(|span| span.offset > 0);
            if !is_compact {
                let mut side = Side::of(std::mem::take(spans), std::mem::take(buckets));
                side.retain(|_, count| count != 0.0);
                (*spans, *buckets) = (side.spans, side.buckets);
            }
        }
    }

    /// Lowers the resolution of exponential buckets; a schema that is not coarser changes nothing.
    pub fn reduce_resolution(&mut self, target: i32) {
        if self.uses_custom_buckets() || target >= self.schema {
            return;
        }
        let mut sum = Sum::take(self);
        sum.positive = sum.positive.reduced(sum.schema, target);
        sum.negative = sum.negative.reduced(sum.schema, target);
        sum.schema = target;
        *self = sum.into_histogram();
    }

    /// Whether both hold the same counts in the same buckets, bit by bit. What is known of counter resets doesn't
    /// matter. This is what `==` of PromQL and `changes` go by; it expects compact histograms.
    pub fn same_counts(&self, other: &Histogram) -> bool {
        let same = |a: f64, b: f64| a.to_bits() == b.to_bits();
        let all_same =
            |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(*a, *b));
        let same_places = |a: &[Span], b: &[Span], buckets: &[f64]| {
            a == b
                || forward(a, buckets)
                    .map(|at| at.0)
                    .eq(forward(b, buckets).map(|at| at.0))
        };
        self.schema == other.schema
            && same(self.count, other.count)
            && same(self.sum, other.sum)
            && self.custom_values == other.custom_values
            && self.zero_threshold == other.zero_threshold
            && same(self.zero_count, other.zero_count)
            && all_same(&self.positive_buckets, &other.positive_buckets)
            && all_same(&self.negative_buckets, &other.negative_buckets)
            && same_places(
                &self.positive_spans,
                &other.positive_spans,
                &self.positive_buckets,
            )
            && same_places(
                &self.negative_spans,
                &other.negative_spans,
                &self.negative_buckets,
            )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::tests::histograms;
    use crate::histogram::{CUSTOM_SCHEMA, HistogramMean, HistogramSum};

    fn span(offset: i32, length: u32) -> Span {
        Span { offset, length }
    }

    proptest! {
        #[test]
        fn sums_have_a_valid_layout_and_the_order_does_not_matter(a in histograms(), b in histograms()) {
            let mut sum = a.clone();
            let outcome = sum.add(&b);
            prop_assert_eq!(outcome.is_err(), a.uses_custom_buckets() != b.uses_custom_buckets());
            if outcome.is_err() {
                prop_assert_eq!(sum, a);
                return Ok(());
            }
            prop_assert_eq!(sum.check_layout(), Ok(()));
            let mut other = b.clone();
            other.add(&a).unwrap();
            prop_assert_eq!(sum.schema, other.schema);
            prop_assert_eq!(sum.zero_threshold, other.zero_threshold);
            prop_assert_eq!(sum.count, other.count);
            let mut total = HistogramSum::first(&a);
            total.add(&b).unwrap();
            prop_assert_eq!(total.total().check_layout(), Ok(()));
            prop_assert_eq!(total.total().positive_spans, sum.positive_spans);
        }

        #[test]
        fn every_operation_keeps_the_layout_valid(a in histograms(), b in histograms(), value in -20.0..20.0_f64) {
            let mut h = a.clone();
            h.compact();
            prop_assert_eq!(h.check_layout(), Ok(()));
            h.reduce_resolution(-1);
            prop_assert_eq!(h.check_layout(), Ok(()));
            h.trim(value, crate::histogram::Keep::Below);
            prop_assert_eq!(h.check_layout(), Ok(()));
            h.trim(-value, crate::histogram::Keep::Above);
            prop_assert_eq!(h.check_layout(), Ok(()));
            let _ = a.detect_reset(&b);
            prop_assert!(!a.same_counts(&b) || a.positive_buckets.len() == b.positive_buckets.len());
            prop_assert!(a.same_counts(&a));
        }
    }

    #[test]
    fn the_wider_zero_bucket_takes_buckets_in() {
        let mut narrow = Histogram {
            zero_threshold: 0.25,
            zero_count: 1.0,
            count: 8.0,
            positive_spans: vec![span(0, 3)],
            positive_buckets: vec![1.0, 2.0, 4.0],
            ..Histogram::default()
        };
        // Reaches into the bucket (1, 2], which is populated, so the zero bucket has to end at 2.
        let wide = Histogram {
            zero_threshold: 1.5,
            zero_count: 10.0,
            count: 10.0,
            ..Histogram::default()
        };
        let mut other_way = wide.clone();
        narrow.add(&wide).unwrap();
        assert_eq!((narrow.zero_threshold, narrow.zero_count), (2.0, 14.0));
        assert_eq!(narrow.positive_spans, [span(2, 1)]);
        assert_eq!(narrow.positive_buckets, [4.0]);
        other_way
            .sub(&Histogram {
                zero_threshold: 2.0,
                zero_count: 14.0,
                ..Histogram::default()
            })
            .unwrap();
        assert_eq!((other_way.zero_threshold, other_way.zero_count), (2.0, -4.0));
    }

    #[test]
    fn custom_bounds_shrink_to_the_common_ones() {
        let custom = |bounds: &[f64], buckets: &[f64]| Histogram {
            schema: CUSTOM_SCHEMA,
            custom_values: bounds.to_vec(),
            positive_spans: vec![span(0, buckets.len() as u32)],
            positive_buckets: buckets.to_vec(),
            ..Histogram::default()
        };
        let mut sum = custom(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0, 5.0]);
        let reconciled = sum
            .add(&custom(&[2.0, 4.0, 6.0], &[10.0, 20.0, 30.0, 40.0]))
            .unwrap();
        assert!(reconciled.custom_bounds && !reconciled.counter_reset_collision);
        assert_eq!(sum.custom_values, [2.0, 4.0]);
        assert_eq!(sum.positive_buckets, [13.0, 27.0, 75.0]);
    }

    #[test]
    fn hints_meet() {
        use CounterResetHint::{Gauge, NotReset, Reset, Unknown};
        let add = |a, b| {
            let hinted = |counter_reset_hint| Histogram {
                counter_reset_hint,
                ..Histogram::default()
            };
            let mut sum = hinted(a);
            let reconciled = sum.add(&hinted(b)).unwrap();
            (sum.counter_reset_hint, reconciled.counter_reset_collision)
        };
        assert_eq!(add(NotReset, NotReset), (NotReset, false));
        assert_eq!(add(NotReset, Unknown), (Unknown, false));
        assert_eq!(add(Reset, Gauge), (Gauge, false));
        assert_eq!(add(Reset, NotReset), (Unknown, true));
    }

    #[test]
    fn small_counts_survive_large_ones() {
        let of_sum = |sum| Histogram {
            count: 1.0,
            sum,
            ..Histogram::default()
        };
        let mut sum = HistogramSum::first(&of_sum(1.0));
        let mut mean = HistogramMean::first(&of_sum(1.0));
        for value in [1e100, 1.0, -1e100] {
            sum.add(&of_sum(value)).unwrap();
            mean.add(&of_sum(value)).unwrap();
        }
        assert_eq!(sum.total().sum, 2.0);
        assert_eq!(mean.mean().sum, 0.5);
        let mut overflowing = HistogramMean::first(&of_sum(1.5e308));
        overflowing.add(&of_sum(1.5e308)).unwrap();
        overflowing.add(&of_sum(1.5e308)).unwrap();
        assert_eq!(overflowing.mean().sum, 1.5e308);
    }
}
