//! `deriv` and `predict_linear`: a line through a window; `double_exponential_smoothing`.

use super::{Kernel, Window};
use crate::eval::kahan::Sum;
use crate::eval::scalar::Scalar;

/// Slope per second, and value at `origin_ms`, of the least-squares line.
fn linear_regression(window: &Window<'_>, origin_ms: i64) -> (f64, f64) {
    let values = window.values();
    let (mut sum_x, mut sum_y, mut sum_xy, mut sum_x2) =
        (Sum::default(), Sum::default(), Sum::default(), Sum::default());
    for (timestamp_ms, y) in window.timestamps().iter().zip(values) {
        let x = timestamp_ms.saturating_sub(origin_ms) as f64 / 1e3;
        sum_x.add(x);
        sum_y.add(*y);
        sum_xy.add(x * y);
        sum_x2.add(x * x);
    }
    if values.iter().all(|value| *value == values[0]) {
        return if values[0].is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, values[0])
        };
    }
    let n = values.len() as f64;
    let (sum_x, sum_y, sum_xy, sum_x2) = (sum_x.total(), sum_y.total(), sum_xy.total(), sum_x2.total());
    let covariance = sum_xy - sum_x * sum_y / n;
    let variance = sum_x2 - sum_x * sum_x / n;
    let slope = covariance / variance;
    (slope, sum_y / n - slope * sum_x / n)
}

/// `deriv`.
pub(super) struct Deriv;

impl Kernel for Deriv {
    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        // An origin near the samples keeps the sums exact.
        (window.len() >= 2).then(|| linear_regression(window, window.timestamps()[0]).0)
    }
}

/// `predict_linear`.
pub(super) struct PredictLinear<'q> {
    /// How far to look ahead from the step, seconds.
    pub(super) seconds: Scalar<'q>,
}

impl Kernel for PredictLinear<'_> {
    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        if window.len() < 2 {
            return None;
        }
        let (slope, intercept) = linear_regression(window, window.time_ms);
        Some(slope * self.seconds.get(window.step) + intercept)
    }
}

/// `double_exponential_smoothing`, Holt-Winters without seasons.
pub(super) struct DoubleExponentialSmoothing<'q> {
    pub(super) smoothing: Scalar<'q>,
    pub(super) trend: Scalar<'q>,
}

impl Kernel for DoubleExponentialSmoothing<'_> {
    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        let values = window.values();
        if values.len() < 2 {
            return None;
        }
        let (smoothing, trend_factor) = (self.smoothing.get(window.step), self.trend.get(window.step));
        let mut smoothed = values[0];
        let mut trend = values[1] - values[0];
        let mut before = 0.0;
        for (index, value) in values.iter().enumerate().skip(1) {
            if index > 1 {
                trend = trend_factor * (smoothed - before) + (1.0 - trend_factor) * trend;
            }
            let next = smoothing * value + (1.0 - smoothing) * (smoothed + trend);
            before = smoothed;
            smoothed = next;
        }
        Some(smoothed)
    }
}

#[cfg(test)]
mod tests {
    use quorate_storage::SampleColumns;

    use super::*;

    fn evaluate(mut kernel: impl Kernel, pairs: &[(i64, f64)], time_ms: i64) -> Option<f64> {
        let mut samples = SampleColumns::default();
        pairs
            .iter()
            .for_each(|(timestamp_ms, value)| samples.push(*timestamp_ms, *value));
        kernel.evaluate(&Window {
            samples: &samples,
            first: 0,
            end: samples.len(),
            start_ms: -1,
            end_ms: time_ms,
            time_ms,
            step: 0,
        })
    }

    #[test]
    fn a_line_is_followed() {
        let line = [(0, 1.0), (10_000, 3.0), (20_000, 5.0)];
        assert_eq!(evaluate(Deriv, &line, 20_000), Some(0.2));
        assert_eq!(
            evaluate(
                PredictLinear {
                    seconds: Scalar::Constant(10.0)
                },
                &line,
                20_000
            ),
            Some(7.0)
        );
        assert_eq!(evaluate(Deriv, &line[..1], 20_000), None);
    }

    #[test]
    fn a_constant_is_exact_and_infinity_has_no_slope() {
        assert_eq!(evaluate(Deriv, &[(0, 0.1), (7, 0.1), (11, 0.1)], 11), Some(0.0));
        assert!(evaluate(Deriv, &[(0, f64::INFINITY), (7, f64::INFINITY)], 7).is_some_and(f64::is_nan));
    }

    #[test]
    fn smoothing_by_hand() {
        // s1 = 0.5·4 + 0.5·(0 + 4) = 4; trend = 0.5·4 + 0.5·4 = 4; s2 = 0.5·2 + 0.5·(4 + 4) = 5.
        let kernel = DoubleExponentialSmoothing {
            smoothing: Scalar::Constant(0.5),
            trend: Scalar::Constant(0.5),
        };
        assert_eq!(evaluate(kernel, &[(0, 0.0), (1, 4.0), (2, 2.0)], 2), Some(5.0));
    }
}
