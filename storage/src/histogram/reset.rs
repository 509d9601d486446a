//! Counter resets: a histogram that is not what the one before can have grown to.

use super::add::common_bounds;
use super::bounds::exponential_bound;
use super::side::Side;
use super::{CounterResetHint, Histogram};

impl Histogram {
    /// Whether a counter was reset between `previous` and this. A hint that says so decides; else the two are compared,
    /// whether or not they are gauges.
    pub fn detect_reset(&self, previous: &Histogram) -> bool {
        match self.counter_reset_hint {
            CounterResetHint::Reset => true,
            CounterResetHint::NotReset => false,
            CounterResetHint::Unknown | CounterResetHint::Gauge => self.has_fallen(previous),
        }
    }

    /// Whether this can't be what `previous` has grown to.
    fn has_fallen(&self, previous: &Histogram) -> bool {
        if self.count < previous.count || self.uses_custom_buckets() != previous.uses_custom_buckets() {
            return true;
        }
        let side = |spans: &[_], buckets: &[f64]| Side::of(spans.to_vec(), buckets.to_vec());
        let own = side(&self.positive_spans, &self.positive_buckets);
        let before = side(&previous.positive_spans, &previous.positive_buckets);
        if self.uses_custom_buckets() {
            if self.custom_values == previous.custom_values {
                return falls(&own, &before, |_| true);
            }
            let common = common_bounds(&self.custom_values, &previous.custom_values);
            return falls(
                &own.with_bounds(&self.custom_values, &common),
                &before.with_bounds(&previous.custom_values, &common),
                |_| true,
            );
        }
        // A counter never gets finer, nor its zero bucket narrower.
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero_count, zero_threshold) = previous.zero_bucket_view().widened(self.zero_threshold);
        if zero_threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        let reduced = |side: Side<f64>| {
            if previous.schema == self.schema {
                side
            } else {
                side.reduced(previous.schema, self.schema)
            }
        };
        let outside_zero = |index| exponential_bound(index, self.schema) > self.zero_threshold;
        falls(&own, &reduced(before), outside_zero)
            || falls(
                &side(&self.negative_spans, &self.negative_buckets),
                &reduced(side(&previous.negative_spans, &previous.negative_buckets)),
                outside_zero,
            )
    }
}

impl Histogram {
    /// The hint of a sample that is read back from storage, as Prometheus's chunks give it: a gauge stays one; a sample
    /// that can have grown from `previous`, the sample just before it in its series, is known not to be a reset; of
    /// any other nothing is known, because what lies between may be lost. `previous` is `None` if there is no sample
    /// before or if it is a number.
    pub fn stored_hint(&self, previous: Option<&Histogram>) -> CounterResetHint {
        if self.counter_reset_hint == CounterResetHint::Gauge {
            return CounterResetHint::Gauge;
        }
        let Some(previous) = previous else {
            return CounterResetHint::Unknown;
        };
        let continues = previous.counter_reset_hint != CounterResetHint::Gauge
            && self.counter_reset_hint != CounterResetHint::Reset
            && !self.is_stale()
            && !previous.is_stale()
            && self.schema == previous.schema
            && self.zero_threshold == previous.zero_threshold
            && self.custom_values == previous.custom_values
            && !self.has_fallen(previous);
        if continues {
            CounterResetHint::NotReset
        } else {
            CounterResetHint::Unknown
        }
    }
}

/// Whether a bucket holds less than before. Only those whose index `counts` do.
fn falls(now: &Side<f64>, before: &Side<f64>, counts: impl Fn(i64) -> bool) -> bool {
    let mut now = now.iter().filter(|(index, _)| counts(*index)).peekable();
    for (index, count_before) in before.iter().filter(|(index, _)| counts(*index)) {
        while now.next_if(|(own, _)| *own < index).is_some() {}
        let fell = match now.next_if(|(own, _)| *own == index) {
            Some((_, count)) => count < count_before,
            None => count_before != 0.0,
        };
        if fell {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Span;

    fn histogram(count: f64, start: i32, buckets: &[f64]) -> Histogram {
        Histogram {
            count,
            positive_spans: vec![Span {
                offset: start,
                length: buckets.len() as u32,
            }],
            positive_buckets: buckets.to_vec(),
            ..Histogram::default()
        }
    }

    #[test]
    fn any_bucket_that_falls_is_a_reset() {
        let before = histogram(4.0, 0, &[1.0, 2.0, 1.0]);
        assert!(!histogram(5.0, 0, &[1.0, 2.0, 2.0]).detect_reset(&before));
        assert!(histogram(5.0, 0, &[1.0, 1.0, 3.0]).detect_reset(&before));
        assert!(histogram(3.0, 0, &[1.0, 2.0, 1.0]).detect_reset(&before));
        assert!(histogram(9.0, 1, &[2.0, 7.0]).detect_reset(&before));
        let hinted = |counter_reset_hint| Histogram {
            counter_reset_hint,
            ..histogram(3.0, 0, &[0.0])
        };
        assert!(!hinted(CounterResetHint::NotReset).detect_reset(&before));
        assert!(hinted(CounterResetHint::Gauge).detect_reset(&before));
        assert!(hinted(CounterResetHint::Reset).detect_reset(&Histogram::default()));
    }

    #[test]
    fn coarser_is_no_reset_and_finer_is_one() {
        let fine = Histogram {
            schema: 1,
            ..histogram(3.0, 1, &[1.0, 2.0])
        };
        let coarse = histogram(3.0, 1, &[3.0]);
        assert!(!coarse.detect_reset(&fine));
        assert!(fine.detect_reset(&coarse));
        let wide = Histogram {
            zero_threshold: 2.0,
            zero_count: 3.0,
            count: 3.0,
            ..Histogram::default()
        };
        assert!(!wide.detect_reset(&coarse));
        assert!(coarse.detect_reset(&wide));
    }

    #[test]
    fn custom_bounds_are_compared_where_both_have_them() {
        let custom = |bounds: &[f64], buckets: &[f64]| Histogram {
            schema: crate::histogram::CUSTOM_SCHEMA,
            custom_values: bounds.to_vec(),
            ..histogram(15.0, 0, buckets)
        };
        let before = custom(&[2.0, 4.0, 6.0], &[1.0, 2.0, 5.0, 7.0]);
        assert!(custom(&[2.0, 3.0, 4.0, 6.0], &[1.0, 0.0, 1.0, 5.0, 8.0]).detect_reset(&before));
        assert!(!custom(&[2.0, 3.0, 4.0, 6.0], &[1.0, 1.0, 1.0, 5.0, 8.0]).detect_reset(&before));
    }

    #[test]
    fn only_growth_is_known_not_to_be_a_reset() {
        let before = histogram(4.0, 0, &[1.0, 3.0]);
        let more = histogram(5.0, 0, &[1.0, 4.0]);
        assert_eq!(more.stored_hint(None), CounterResetHint::Unknown);
        assert_eq!(more.stored_hint(Some(&before)), CounterResetHint::NotReset);
        assert_eq!(before.stored_hint(Some(&more)), CounterResetHint::Unknown);
        let finer = Histogram { schema: 1, ..more };
        assert_eq!(finer.stored_hint(Some(&before)), CounterResetHint::Unknown);
        let gauge = Histogram {
            counter_reset_hint: CounterResetHint::Gauge,
            ..before.clone()
        };
        assert_eq!(gauge.stored_hint(Some(&before)), CounterResetHint::Gauge);
        assert_eq!(before.stored_hint(Some(&gauge)), CounterResetHint::Unknown);
        assert_eq!(
            before.stored_hint(Some(&Histogram::stale())),
            CounterResetHint::Unknown
        );
    }
}
