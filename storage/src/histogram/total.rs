//! Sums and means of many histograms with compensation for rounding.

use super::add::{IncompatibleSchemas, Reconciled, Sum};
use super::side::{Number, Side};
use super::{Histogram, Span};

/// A sum and what rounding lost of it: Neumaier's variant of Kahan's method.
#[derive(Clone, Copy, Debug, Default)]
struct Compensated {
    sum: f64,
    lost: f64,
}

impl Number for Compensated {
    #[inline]
    fn add(&mut self, increment: f64) {
        let total = self.sum + increment;
        if total.is_infinite() {
            self.lost = 0.0;
        } else if self.sum.abs() >= increment.abs() {
            self.lost += (self.sum - total) + increment;
        } else {
            self.lost += (increment - total) + self.sum;
        }
        self.sum = total;
    }

    fn merge(&mut self, other: Compensated) {
        self.add(other.sum);
        self.add(other.lost);
    }

    fn is_zero(self) -> bool {
        self.sum == 0.0
    }
}

impl Compensated {
    fn of(sum: f64) -> Compensated {
        Compensated { sum, lost: 0.0 }
    }

    fn total(self) -> f64 {
        self.sum + self.lost
    }
}

impl Sum<Compensated> {
    fn of(histogram: &Histogram) -> Sum<Compensated> {
        let side = |spans: &[Span], buckets: &[f64]| {
            Side::of(
                spans.to_vec(),
                buckets.iter().copied().map(Compensated::of).collect(),
            )
        };
        Sum {
            hint: histogram.counter_reset_hint,
            schema: histogram.schema,
            zero_threshold: histogram.zero_threshold,
            zero_count: Compensated::of(histogram.zero_count),
            count: Compensated::of(histogram.count),
            sum: Compensated::of(histogram.sum),
            positive: side(&histogram.positive_spans, &histogram.positive_buckets),
            negative: side(&histogram.negative_spans, &histogram.negative_buckets),
            custom_values: histogram.custom_values.clone(),
        }
    }

    fn total(&self) -> Histogram {
        let totals = |side: &Side<Compensated>| side.buckets.iter().map(|count| count.total()).collect();
        Histogram {
            counter_reset_hint: self.hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count.total(),
            count: self.count.total(),
            sum: self.sum.total(),
            positive_spans: self.positive.spans.clone(),
            negative_spans: self.negative.spans.clone(),
            positive_buckets: totals(&self.positive),
            negative_buckets: totals(&self.negative),
            custom_values: self.custom_values.clone(),
        }
    }

    fn numbers_mut(&mut self) -> impl Iterator<Item = &mut Compensated> {
        [&mut self.zero_count, &mut self.count, &mut self.sum]
            .into_iter()
            .chain(&mut self.positive.buckets)
            .chain(&mut self.negative.buckets)
    }

    fn map(&mut self, f: impl Fn(f64) -> f64) {
        for number in self.numbers_mut() {
            (number.sum, number.lost) = (f(number.sum), f(number.lost));
        }
    }

    fn has_overflow(&mut self) -> bool {
        self.numbers_mut().any(|number| number.sum.is_infinite())
    }

    fn memory_bytes(&self) -> usize {
        let spans = self.positive.spans.len() + self.negative.spans.len();
        let buckets = self.positive.buckets.len() + self.negative.buckets.len();
        size_of::<Self>()
            + spans * size_of::<Span>()
            + buckets * size_of::<Compensated>()
            + self.custom_values.len() * size_of::<f64>()
    }
}

/// The sum of histograms.
#[derive(Clone, Debug)]
pub struct HistogramSum(Sum<Compensated>);

impl HistogramSum {
    /// The sum of one.
    pub fn first(histogram: &Histogram) -> HistogramSum {
        HistogramSum(Sum::of(histogram))
    }

    /// Adds another. After an error nothing has changed.
    pub fn add(&mut self, histogram: &Histogram) -> Result<Reconciled, IncompatibleSchemas> {
        self.0.add(histogram, 1.0)
    }

    /// The sum so far.
    pub fn total(&self) -> Histogram {
        self.0.total()
    }

    /// What it takes in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

/// As long as all that was added is below this, no sum of it can overflow.
const FAR_FROM_OVERFLOW: f64 = 1e307;

/// The mean of histograms: the sum divided by their number, for as long as no sum overflows; from then on the
/// incremental mean.
#[derive(Clone, Debug)]
pub struct HistogramMean {
    /// The sum, or the mean once `incremental`.
    value: Sum<Compensated>,
    count: f64,
    incremental: bool,
    /// Not less than any number in `value` before it is incremental.
    bound: f64,
}

impl HistogramMean {
    /// The mean of one.
    pub fn first(histogram: &Histogram) -> HistogramMean {
        HistogramMean {
            value: Sum::of(histogram),
            count: 1.0,
            incremental: false,
            bound: magnitude(histogram),
        }
    }

    /// Takes another in. After an error the mean is useless.
    pub fn add(&mut self, histogram: &Histogram) -> Result<Reconciled, IncompatibleSchemas> {
        self.count += 1.0;
        if !self.incremental {
            self.bound += magnitude(histogram);
            if self.bound < FAR_FROM_OVERFLOW {
                return self.value.add(histogram, 1.0);
            }
            let mut next = self.value.clone();
            let reconciled = next.add(histogram, 1.0)?;
            if !next.has_overflow() {
                self.value = next;
                return Ok(reconciled);
            }
            self.incremental = true;
            let before = self.count - 1.0;
            self.value.map(|number| number / before);
        }
        let kept = (self.count - 1.0) / self.count;
        self.value.map(|number| number * kept);
        let mut share = histogram.clone();
        share.divide(self.count);
        self.value.add(&share, 1.0)
    }

    /// The mean so far.
    pub fn mean(&self) -> Histogram {
        if self.incremental {
            return self.value.total();
        }
        let mut mean = self.value.clone();
        mean.map(|number| number / self.count);
        mean.total()
    }

    /// What it takes in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.value.memory_bytes()
    }
}

fn magnitude(histogram: &Histogram) -> f64 {
    let buckets = histogram
        .positive_buckets
        .iter()
        .chain(&histogram.negative_buckets);
    let buckets: f64 = buckets.map(|count| count.abs()).sum();
    buckets + histogram.zero_count.abs() + histogram.count.abs() + histogram.sum.abs()
}
