//! Windows with a value at each bound: `anchored` takes the last sample before it, `smoothed` interpolates.
//!
//! Both see samples up to the lookback outside of the window; `Window` then holds those too, and its `start_ms` and
//! `end_ms` are the bounds as written.

use super::{Kernel, Window};
use crate::ast::{Boundary, Call, Expr};
use crate::value::EvalError;

const WITH_ANCHORED: [&str; 5] = ["changes", "delta", "increase", "rate", "resets"];
const WITH_SMOOTHED: [&str; 3] = ["delta", "increase", "rate"];

/// The modifier of a call's range selector.
pub(super) fn boundary_of(argument: &Expr) -> Option<Boundary> {
    match argument.without_parens() {
        Expr::MatrixSelector(matrix) => matrix.selector.boundary,
        _ => None,
    }
}

/// Refuses functions that can't be evaluated over such windows.
pub(in crate::eval) fn check_call(call: &Call) -> Result<(), EvalError> {
    let name = call.func.name;
    for boundary in call.args.iter().filter_map(boundary_of) {
        let allowed = match boundary {
            Boundary::Anchored => WITH_ANCHORED.as_slice(),
            Boundary::Smoothed => WITH_SMOOTHED.as_slice(),
        };
        if !allowed.contains(&name) {
            return Err(EvalError::Execution(format!(
                "{} modifier can only be used with: {} - not with {name}",
                boundary.as_str(),
                allowed.join(", ")
            )));
        }
    }
    Ok(())
}

/// `rate`, `increase` and `delta` between the values at the window's bounds: nothing is extrapolated.
pub(super) struct Extended {
    pub(super) boundary: Boundary,
    /// Whether a falling value is a reset to zero.
    pub(super) is_counter: bool,
    /// Divides the result, if it is per second.
    pub(super) range_seconds: Option<f64>,
}

impl Kernel for Extended {
    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        let (times, values) = (window.timestamps(), window.values());
        let smoothed = self.boundary == Boundary::Smoothed;
        let mut first = anchor(times, window.start_ms);
        let mut last = times.len() - 1;
        if smoothed {
            last = times[..last].partition_point(|time_ms| *time_ms < window.end_ms);
        }
        if times[last] <= window.start_ms || times[first] > window.end_ms {
            return None;
        }
        let at = |index: usize| (times[index], values[index]);
        let left = if smoothed && times[first] < window.start_ms {
            interpolate(at(first), at(first + 1), window.start_ms, self.is_counter)
        } else {
            values[first]
        };
        let right = if smoothed && last > 0 && times[last] > window.end_ms {
            interpolate(at(last - 1), at(last), window.end_ms, self.is_counter)
        } else {
            values[last]
        };
        let mut gain = right - left;
        if self.is_counter {
            // What lies at a bound or beyond is in `left` and `right` already.
            first += usize::from(times[first] <= window.start_ms);
            let end = if times[last] >= window.end_ms {
                last
            } else {
                last + 1
            };
            let mut before = left;
            for value in values.get(first..end).unwrap_or_default().iter().chain([&right]) {
                if *value < before {
                    gain += before;
                }
                before = *value;
            }
        }
        Some(self.range_seconds.map_or(gain, |seconds| gain / seconds))
    }
}

/// `changes` and `resets` of an anchored window.
pub(super) struct AnchoredCount {
    /// Whether a value counts, given the one before.
    pub(super) counts: fn(f64, f64) -> bool,
}

impl Kernel for AnchoredCount {
    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        let times = window.timestamps();
        if times[times.len() - 1] <= window.start_ms {
            return None;
        }
        let values = &window.values()[anchor(times, window.start_ms)..];
        let count = values
            .windows(2)
            .filter(|pair| (self.counts)(pair[0], pair[1]))
            .count();
        Some(count as f64)
    }
}

/// Index of the last sample at or before the window's start, or else of the first.
fn anchor(times: &[i64], start_ms: i64) -> usize {
    times[..times.len() - 1]
        .partition_point(|time_ms| *time_ms <= start_ms)
        .saturating_sub(1)
}

/// The value at a time between two samples. A counter that was reset between them begins at zero.
pub(in crate::eval) fn interpolate(from: (i64, f64), to: (i64, f64), time_ms: i64, is_counter: bool) -> f64 {
    let start = if is_counter && to.1 < from.1 { 0.0 } else { from.1 };
    start + (to.1 - start) * (time_ms - from.0) as f64 / (to.0 - from.0) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_storage::SampleColumns;

    fn value(mut kernel: impl Kernel, samples: &[(i64, f64)], (start_ms, end_ms): (i64, i64)) -> Option<f64> {
        let mut columns = SampleColumns::default();
        samples
            .iter()
            .for_each(|(time_ms, value)| columns.push(*time_ms, *value));
        kernel.begin(&columns);
        kernel.evaluate(&Window {
            samples: &columns,
            first: 0,
            end: samples.len(),
            start_ms,
            end_ms,
            time_ms: end_ms,
            step: 0,
        })
    }

    fn increase(boundary: Boundary) -> Extended {
        Extended {
            boundary,
            is_counter: true,
            range_seconds: None,
        }
    }

    #[test]
    fn a_counter_s_resets_are_added_once() {
        let samples = [(0, 10.0), (10_000, 5.0), (20_000, 2.0), (30_000, 4.0)];
        let got = value(increase(Boundary::Smoothed), &samples, (1_000, 15_000));
        assert_eq!(got, Some(5.5));
        let got = value(increase(Boundary::Anchored), &samples[..3], (1_000, 20_000));
        assert_eq!(got, Some(2.0 - 10.0 + 10.0 + 5.0));
    }

    #[test]
    fn samples_on_one_side_alone_give_nothing() {
        let after = [(10_000, 5.0), (20_000, 6.0)];
        assert_eq!(value(increase(Boundary::Smoothed), &after, (0, 5_000)), None);
        let before = [(0, 5.0), (10_000, 6.0)];
        assert_eq!(
            value(increase(Boundary::Smoothed), &before, (10_000, 15_000)),
            None
        );
        assert_eq!(
            value(increase(Boundary::Anchored), &before, (10_000, 15_000)),
            None
        );
    }

    #[test]
    fn the_anchor_counts() {
        let changes = || AnchoredCount {
            counts: |before, value| before != value,
        };
        let samples = [(0, 2.0), (60_000, 1.0), (120_000, 1.0)];
        assert_eq!(value(changes(), &samples, (30_000, 120_000)), Some(1.0));
        assert_eq!(value(changes(), &samples, (60_000, 120_000)), Some(0.0));
    }
}
