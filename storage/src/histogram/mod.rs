//! Native histograms: samples that hold a whole distribution.
//!
//! A histogram counts observations in exponential buckets of a resolution called schema, mirrored for negative
//! numbers around a zero bucket, or in custom buckets between explicit bounds. Only populated stretches of buckets,
//! *spans*, are kept. What operations do is what Prometheus does, to the bit as far as its sources tell.

mod add;
mod bounds;
mod bytes;
mod iter;
mod reset;
mod side;
mod text;
mod total;
mod trim;
mod validate;

pub use add::{IncompatibleSchemas, Reconciled};
pub use bounds::{bound, exponential_bound};
pub use bytes::HistogramDecodeError;
pub use iter::Bucket;
pub use total::{HistogramMean, HistogramSum};
pub use trim::Keep;
pub use validate::HistogramError;

/// The schema of custom buckets.
pub const CUSTOM_SCHEMA: i32 = -53;

/// The coarsest exponential schema.
pub const MIN_SCHEMA: i32 = -4;

/// The finest exponential schema.
pub const MAX_SCHEMA: i32 = 8;

/// The sum of a histogram that is a stale marker: the bits of Prometheus's stale NaN.
const STALE_SUM_BITS: u64 = 0x7ff0_0000_0000_0002;

/// What is known of a counter reset between a histogram and the one before it in its series.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum CounterResetHint {
    /// Nothing: compare them.
    #[default]
    Unknown,
    /// There was a reset.
    Reset,
    /// There was none.
    NotReset,
    /// The series is a gauge: counts may fall.
    Gauge,
}

/// A stretch of buckets without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Span {
    /// For the first span the index of its first bucket, for others the number of buckets skipped since the last.
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// A native histogram. Counts are floats and absolute; those of integer histograms below 2^53 are exact.
///
/// Operations expect a layout that [`Histogram::check_layout`] accepts, and give such a layout.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Of a reset since the sample before.
    pub counter_reset_hint: CounterResetHint,
    /// Each bucket is 2^(2^-schema) times as wide as the one before; [`CUSTOM_SCHEMA`] for custom buckets.
    pub schema: i32,
    /// Half the width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations.
    pub count: f64,
    /// Sum of all observations; the stale NaN for a stale marker.
    pub sum: f64,
    /// Where the positive buckets, or the custom ones, are.
    pub positive_spans: Vec<Span>,
    /// Where the negative buckets are.
    pub negative_spans: Vec<Span>,
    /// One count for each bucket of the positive spans.
    pub positive_buckets: Vec<f64>,
    /// One count for each bucket of the negative spans.
    pub negative_buckets: Vec<f64>,
    /// Upper bounds of custom buckets, ascending, without the last one, +Inf.
    pub custom_values: Vec<f64>,
}

impl Histogram {
    /// The marker that ends a series.
    pub fn stale() -> Histogram {
        Histogram {
            sum: f64::from_bits(STALE_SUM_BITS),
            ..Histogram::default()
        }
    }

    /// Whether it is a stale marker.
    pub fn is_stale(&self) -> bool {
        self.sum.to_bits() == STALE_SUM_BITS
    }

    /// Whether the buckets have explicit bounds.
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_SCHEMA
    }

    /// What it takes in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        let spans = self.positive_spans.len() + self.negative_spans.len();
        let floats = self.positive_buckets.len() + self.negative_buckets.len() + self.custom_values.len();
        size_of::<Histogram>() + spans * size_of::<Span>() + floats * size_of::<f64>()
    }
}

/// Bits of all numbers: a NaN equals itself, zero does not equal minus zero.
impl PartialEq for Histogram {
    fn eq(&self, other: &Histogram) -> bool {
        let same = |a: f64, b: f64| a.to_bits() == b.to_bits();
        let all_same =
            |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(*a, *b));
        self.counter_reset_hint == other.counter_reset_hint
            && self.schema == other.schema
            && same(self.zero_threshold, other.zero_threshold)
            && same(self.zero_count, other.zero_count)
            && same(self.count, other.count)
            && same(self.sum, other.sum)
            && self.positive_spans == other.positive_spans
            && self.negative_spans == other.negative_spans
            && all_same(&self.positive_buckets, &other.positive_buckets)
            && all_same(&self.negative_buckets, &other.negative_buckets)
            && all_same(&self.custom_values, &other.custom_values)
    }
}

impl Eq for Histogram {}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Spans, and a count for each of their buckets.
    fn side(integral: bool) -> impl Strategy<Value = (Vec<Span>, Vec<f64>)> {
        vec((0..9_i32, 0..5_u32), 0..4).prop_flat_map(move |raw| {
            let spans: Vec<Span> = raw
                .into_iter()
                .enumerate()
                .map(|(place, (offset, length))| Span {
                    offset: if place == 0 { offset - 4 } else { offset },
                    length,
                })
                .collect();
            let buckets: u32 = spans.iter().map(|span| span.length).sum();
            let count =
                (0..1_000_u32, any::<f64>()).prop_map(
                    move |(whole, float)| {
                        if integral { f64::from(whole) } else { float.abs() }
                    },
                );
            (Just(spans), vec(count, buckets as usize))
        })
    }

    /// Histograms with a valid layout.
    pub(crate) fn histograms() -> impl Strategy<Value = Histogram> {
        any::<bool>().prop_flat_map(|integral| {
            let zero_threshold = prop_oneof![Just(0.0), Just(2f64.powi(-128)), 0.0..1.0];
            let counts = (0..100_000_u32, 0..1000_u32).prop_map(|(a, b)| (f64::from(a), f64::from(b)));
            let sum = prop_oneof![any::<f64>(), Just(f64::from_bits(STALE_SUM_BITS))];
            let head = (0..4_u8, MIN_SCHEMA..=MAX_SCHEMA + 2, zero_threshold, counts, sum);
            (head, side(integral), side(integral)).prop_map(|(head, positive, negative)| {
                let (hint, schema, zero_threshold, (count, zero_count), sum) = head;
                let mut histogram = Histogram {
                    counter_reset_hint: match hint {
                        0 => CounterResetHint::Unknown,
                        1 => CounterResetHint::Reset,
                        2 => CounterResetHint::NotReset,
                        _ => CounterResetHint::Gauge,
                    },
                    schema,
                    zero_threshold,
                    zero_count,
                    count,
                    sum,
                    positive_spans: positive.0,
                    positive_buckets: positive.1,
                    negative_spans: negative.0,
                    negative_buckets: negative.1,
                    custom_values: Vec::new(),
                };
                if schema > MAX_SCHEMA {
                    make_custom(&mut histogram);
                }
                histogram
            })
        })
    }

    fn make_custom(histogram: &mut Histogram) {
        histogram.schema = CUSTOM_SCHEMA;
        (histogram.zero_threshold, histogram.zero_count) = (0.0, 0.0);
        histogram.negative_spans.clear();
        histogram.negative_buckets.clear();
        if let Some(first) = histogram.positive_spans.first_mut() {
            first.offset = first.offset.abs();
        }
        let buckets: i64 = histogram
            .positive_spans
            .iter()
            .map(|span| i64::from(span.offset) + i64::from(span.length))
            .sum();
        histogram.custom_values = (0..buckets).map(|index| index as f64 * 2.5 - 3.0).collect();
    }

    #[test]
    fn a_stale_marker_is_known_by_its_sum() {
        assert!(Histogram::stale().is_stale());
        let nan = Histogram {
            sum: f64::NAN,
            ..Histogram::default()
        };
        assert!(!nan.is_stale());
        assert_eq!(nan, nan.clone());
        assert_ne!(nan, Histogram::stale());
    }
}
