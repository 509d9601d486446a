//! How a window's values are spread: variance, quantile, median absolute deviation.

use quorate_storage::SampleColumns;

use super::{Kernel, Window};
use crate::ast::Span;
use crate::eval::annotate;
use crate::eval::context::Context;
use crate::eval::kahan::Sum;
use crate::eval::quantile::{SlidingQuantile, quantile};
use crate::eval::scalar::Scalar;

/// The population variance: Welford's method with compensated sums.
pub(super) fn variance(window: &Window<'_>) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, Sum::default(), Sum::default());
    for value in window.values() {
        count += 1.0;
        let delta = value - mean.total();
        mean.add(delta / count);
        squares.add(delta * (value - mean.total()));
    }
    squares.total() / count
}

pub(super) fn standard_deviation(window: &Window<'_>) -> f64 {
    variance(window).sqrt()
}

/// `quantile_over_time`.
pub(super) struct Quantile<'q> {
    pub(super) ctx: &'q Context<'q>,
    pub(super) phi: Scalar<'q>,
    /// Where φ was written.
    pub(super) span: Span,
    pub(super) sliding: SlidingQuantile,
}

impl Kernel for Quantile<'_> {
    fn begin(&mut self, _: &SampleColumns) {
        self.sliding.restart();
    }

    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        let phi = self.phi.get(window.step);
        annotate::invalid_quantile(self.ctx, phi, self.span);
        Some(
            self.sliding
                .quantile(phi, &window.samples.values, window.first..window.end),
        )
    }
}

/// `mad_over_time`: the median distance from the median.
#[derive(Default)]
pub(super) struct MedianAbsoluteDeviation {
    scratch: Vec<f64>,
}

impl Kernel for MedianAbsoluteDeviation {
    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        // For the quantiles NaN is but a small number; here nothing is known any more.
        if window.values().iter().any(|value| value.is_nan()) {
            return Some(f64::NAN);
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(window.values());
        let median = quantile(0.5, &mut self.scratch);
        self.scratch
            .iter_mut()
            .for_each(|value| *value = (*value - median).abs());
        Some(quantile(0.5, &mut self.scratch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let mut samples = SampleColumns::default();
        for (index, value) in [4.0, 6.0, 2.0, 1.0, 999.0].into_iter().enumerate() {
            samples.push(index as i64, value);
        }
        let window = Window {
            samples: &samples,
            first: 0,
            end: 4,
            start_ms: -1,
            end_ms: 4,
            time_ms: 4,
            step: 0,
        };
        assert_eq!(variance(&window), 3.6875);
        assert_eq!(standard_deviation(&window), 3.6875_f64.sqrt());
        // The median is 4; the distances are 0, 2, 2, 3 and 995.
        let window = Window { end: 5, ..window };
        assert_eq!(MedianAbsoluteDeviation::default().evaluate(&window), Some(2.0));
    }
}
