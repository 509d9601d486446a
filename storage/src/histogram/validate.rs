//! What a histogram must satisfy, in Prometheus's words.

use super::{CUSTOM_SCHEMA, Histogram, MAX_SCHEMA, MIN_SCHEMA, Span};

/// Why a histogram is refused.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum HistogramError {
    /// The schema is none that is known.
    #[error(
        "histogram has an invalid schema, which must be between {MIN_SCHEMA} and {MAX_SCHEMA} for exponential \
         buckets, or {CUSTOM_SCHEMA} for custom buckets, got schema {0}"
    )]
    Schema(i32),
    /// A span begins before the end of the one before it.
    #[error("{side}span number {number} with offset {offset}: histogram has a span whose offset is negative")]
    SpanOffset {
        /// Which side, with what separates it from the rest.
        side: &'static str,
        /// Counted from 1.
        number: usize,
        /// Its offset.
        offset: i32,
    },
    /// There are more or fewer counts than buckets in spans.
    #[error(
        "{side}spans need {needed} buckets, have {found} buckets: histogram spans specify different number of \
         buckets than provided"
    )]
    SpansBuckets {
        /// Which side, with what separates it from the rest.
        side: &'static str,
        /// Buckets of the spans.
        needed: u64,
        /// Counts.
        found: usize,
    },
    /// The spans reach further than any bucket may.
    #[error("{0}spans reach beyond the last possible bucket")]
    SpanRange(&'static str),
    /// No zero bucket is that wide.
    #[error("histogram has a zero threshold of {0}, which must be a number that is not negative")]
    ZeroThreshold(f64),
    /// A bucket's count is below zero.
    #[error(
        "{side}bucket number {number} has observation count of {count}: histogram has a bucket whose observation \
         count is negative"
    )]
    NegativeBucket {
        /// Which side, with what separates it from the rest.
        side: &'static str,
        /// Counted from 1.
        number: usize,
        /// The count.
        count: f64,
    },
    /// The zero bucket's count is below zero.
    #[error(
        "zero bucket has observation count of {0}: histogram has a bucket whose observation count is negative"
    )]
    NegativeZeroBucket(f64),
    /// The count of all observations is below zero.
    #[error("observation count is {0}: histogram's observation count is negative")]
    NegativeCount(f64),
    /// A custom bound isn't above the one before it.
    #[error(
        "custom buckets: previous bound is {previous:.6} and current is {current:.6}: histogram custom bounds must \
         be in strictly increasing order"
    )]
    CustomOrder {
        /// The bound before.
        previous: f64,
        /// The bound.
        current: f64,
    },
    /// A custom bound is NaN.
    #[error("custom buckets: histogram custom bounds must not be NaN")]
    CustomNan,
    /// The last bound, +Inf, is implied.
    #[error(
        "custom buckets: last +Inf bound must not be explicitly defined: histogram custom bounds must be finite"
    )]
    CustomInfinite,
    /// There are more buckets than bounds.
    #[error(
        "custom buckets: only {bounds} custom bounds defined which is insufficient to cover total span length of \
         {length}: histogram custom bounds are too few"
    )]
    CustomBounds {
        /// How many bounds there are.
        bounds: usize,
        /// How many there should be, less one.
        length: u64,
    },
    /// Custom buckets have no zero bucket.
    #[error("custom buckets: must have zero count of 0")]
    CustomZeroCount,
    /// Custom buckets have no zero bucket.
    #[error("custom buckets: must have zero threshold of 0")]
    CustomZeroThreshold,
    /// Custom buckets have one side only.
    #[error("custom buckets: must not have negative spans")]
    CustomNegativeSpans,
    /// Custom buckets have one side only.
    #[error("custom buckets: must not have negative buckets")]
    CustomNegativeBuckets,
    /// Exponential buckets have no explicit bounds.
    #[error("histogram with exponential schema must not have custom bounds")]
    ExponentialCustomBounds,
    /// The counts of an integer histogram don't add up.
    #[error(
        "{found} observations found in buckets, but the Count field is {count}: histogram's observation count should \
         equal the number of observations found in the buckets (in absence of NaN)"
    )]
    CountMismatch {
        /// In buckets.
        found: f64,
        /// In all.
        count: f64,
    },
    /// The counts of an integer histogram don't add up.
    #[error(
        "{found} observations found in buckets, but the Count field is {count}: histogram's observation count should \
         be at least the number of observations found in the buckets"
    )]
    CountTooSmall {
        /// In buckets.
        found: f64,
        /// In all.
        count: f64,
    },
}

const POSITIVE: &str = "positive side: ";
const NEGATIVE: &str = "negative side: ";
const CUSTOM: &str = "custom buckets: ";

impl Histogram {
    /// Checks all that is expected of a float histogram that comes from outside. Counts need not add up, because
    /// floats don't.
    pub fn validate(&self) -> Result<(), HistogramError> {
        self.check_layout()?;
        check_counts(&self.negative_buckets, NEGATIVE)?;
        check_counts(&self.positive_buckets, POSITIVE)?;
        if self.zero_count < 0.0 {
            return Err(HistogramError::NegativeZeroBucket(self.zero_count));
        }
        if self.count < 0.0 {
            return Err(HistogramError::NegativeCount(self.count));
        }
        Ok(())
    }

    /// Checks a histogram whose counts are integers: they must add up to the count, or stay below it if the sum is
    /// NaN, because NaN is in no bucket.
    pub fn validate_integer(&self) -> Result<(), HistogramError> {
        self.validate()?;
        let buckets = self.negative_buckets.iter().chain(&self.positive_buckets);
        let found = buckets.sum::<f64>() + self.zero_count;
        let count = self.count;
        if self.sum.is_nan() {
            if found > count {
                return Err(HistogramError::CountTooSmall { found, count });
            }
        } else if found != count {
            return Err(HistogramError::CountMismatch { found, count });
        }
        Ok(())
    }

    /// Checks schema, spans and bounds: what operations rely on.
    pub fn check_layout(&self) -> Result<(), HistogramError> {
        if self.zero_threshold.is_nan() || self.zero_threshold < 0.0 {
            return Err(HistogramError::ZeroThreshold(self.zero_threshold));
        }
        match self.schema {
            CUSTOM_SCHEMA => self.check_custom(),
            MIN_SCHEMA..=MAX_SCHEMA => {
                check_spans(&self.positive_spans, self.positive_buckets.len(), POSITIVE)?;
                check_spans(&self.negative_spans, self.negative_buckets.len(), NEGATIVE)?;
                if !self.custom_values.is_empty() {
                    return Err(HistogramError::ExponentialCustomBounds);
                }
                Ok(())
            }
            unknown => Err(HistogramError::Schema(unknown)),
        }
    }

    fn check_custom(&self) -> Result<(), HistogramError> {
        let mut previous = f64::NEG_INFINITY;
        for current in self.custom_values.iter().copied() {
            if current.is_nan() {
                return Err(HistogramError::CustomNan);
            }
            if current <= previous {
                return Err(HistogramError::CustomOrder { previous, current });
            }
            previous = current;
        }
        if previous == f64::INFINITY {
            return Err(HistogramError::CustomInfinite);
        }
        if let Some(first) = self.positive_spans.first().filter(|first| first.offset < 0) {
            return Err(HistogramError::SpanOffset {
                side: CUSTOM,
                number: 1,
                offset: first.offset,
            });
        }
        check_spans(&self.positive_spans, self.positive_buckets.len(), CUSTOM)?;
        let spans = self.positive_spans.iter();
        let length: u64 = spans
            .map(|span| u64::from(span.offset.unsigned_abs()) + u64::from(span.length))
            .sum();
        let bounds = self.custom_values.len();
        if length > bounds as u64 + 1 {
            return Err(HistogramError::CustomBounds { bounds, length });
        }
        if self.zero_count != 0.0 {
            return Err(HistogramError::CustomZeroCount);
        }
        if self.zero_threshold != 0.0 {
            return Err(HistogramError::CustomZeroThreshold);
        }
        if !self.negative_spans.is_empty() {
            return Err(HistogramError::CustomNegativeSpans);
        }
        if !self.negative_buckets.is_empty() {
            return Err(HistogramError::CustomNegativeBuckets);
        }
        Ok(())
    }
}

fn check_spans(spans: &[Span], found: usize, side: &'static str) -> Result<(), HistogramError> {
    let (mut needed, mut end) = (0_u64, 0_i64);
    for (index, span) in spans.iter().enumerate() {
        if index > 0 && span.offset < 0 {
            return Err(HistogramError::SpanOffset {
                side,
                number: index + 1,
                offset: span.offset,
            });
        }
        needed += u64::from(span.length);
        end += i64::from(span.offset) + i64::from(span.length);
        if end > i64::from(i32::MAX) {
            return Err(HistogramError::SpanRange(side));
        }
    }
    if needed != found as u64 {
        return Err(HistogramError::SpansBuckets { side, needed, found });
    }
    Ok(())
}

fn check_counts(buckets: &[f64], side: &'static str) -> Result<(), HistogramError> {
    match buckets.iter().position(|count| *count < 0.0) {
        Some(index) => Err(HistogramError::NegativeBucket {
            side,
            number: index + 1,
            count: buckets[index],
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::tests::histograms;

    proptest! {
        #[test]
        fn generated_layouts_are_valid(histogram in histograms()) {
            prop_assert_eq!(histogram.check_layout(), Ok(()));
        }
    }

    fn error(histogram: Histogram) -> String {
        histogram.validate_integer().unwrap_err().to_string()
    }

    fn spans(spans: &[(i32, u32)]) -> Vec<Span> {
        let span = |(offset, length): &(i32, u32)| Span {
            offset: *offset,
            length: *length,
        };
        spans.iter().map(span).collect()
    }

    #[test]
    fn what_is_wrong_is_said_in_prometheus_s_words() {
        let none = Histogram::default;
        assert_eq!(
            error(Histogram { schema: 9, ..none() }),
            "histogram has an invalid schema, which must be between -4 and 8 for exponential buckets, or -53 for \
             custom buckets, got schema 9"
        );
        assert_eq!(
            error(Histogram {
                negative_spans: spans(&[(0, 1), (-1, 1)]),
                ..none()
            }),
            "negative side: span number 2 with offset -1: histogram has a span whose offset is negative"
        );
        assert_eq!(
            error(Histogram {
                positive_spans: spans(&[(0, 2)]),
                positive_buckets: vec![1.0],
                ..none()
            }),
            "positive side: spans need 2 buckets, have 1 buckets: histogram spans specify different number of \
             buckets than provided"
        );
        assert_eq!(
            error(Histogram {
                positive_spans: spans(&[(0, 1)]),
                positive_buckets: vec![-1.0],
                ..none()
            }),
            "positive side: bucket number 1 has observation count of -1: histogram has a bucket whose observation \
             count is negative"
        );
        assert_eq!(
            error(Histogram {
                zero_count: 1.0,
                ..none()
            }),
            "1 observations found in buckets, but the Count field is 0: histogram's observation count should equal \
             the number of observations found in the buckets (in absence of NaN)"
        );
        assert_eq!(
            error(Histogram {
                schema: CUSTOM_SCHEMA,
                custom_values: vec![1.0, 1.0],
                ..none()
            }),
            "custom buckets: previous bound is 1.000000 and current is 1.000000: histogram custom bounds must be in \
             strictly increasing order"
        );
        assert_eq!(
            error(Histogram {
                schema: CUSTOM_SCHEMA,
                positive_spans: spans(&[(1, 1)]),
                positive_buckets: vec![0.0],
                ..none()
            }),
            "custom buckets: only 0 custom bounds defined which is insufficient to cover total span length of 2: \
             histogram custom bounds are too few"
        );
        assert!(
            Histogram {
                count: 2.0,
                zero_count: 1.0,
                sum: f64::NAN,
                ..none()
            }
            .validate_integer()
            .is_ok()
        );
    }
}
