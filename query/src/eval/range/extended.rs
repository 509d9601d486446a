//! Windows with a value at each bound: `anchored` takes the last sample before it, `smoothed` interpolates.
//!
//! Both see samples up to the lookback outside of the window; `Window` then holds those too, and its `start_ms` and
//! `end_ms` are the bounds as written.

use quorate_storage::{CounterResetHint, Histogram};

use super::counter::Transition;
use super::{Kernel, OnHistograms, Series, Window, histograms};
use crate::ast::{Boundary, Call, Expr};
use crate::eval::annotate;
use crate::eval::column::Cell;
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

impl Extended {
    /// The samples, by place in the window, that the values at the bounds are taken from: the last at or before the
    /// start, and the last before the end or, if smoothed, the first not before it. `None` if all are on one side.
    fn ends(&self, window: &Window<'_>) -> Option<(usize, usize)> {
        let times = window.timestamps();
        let first = anchor(times, window.start_ms);
        let mut last = times.len() - 1;
        if self.boundary == Boundary::Smoothed {
            last = times[..last].partition_point(|time_ms| *time_ms < window.end_ms);
        }
        (times[last] > window.start_ms && times[first] <= window.end_ms).then_some((first, last))
    }

    /// [`Kernel::evaluate`] for the histograms of a window from `first` to `last`.
    fn gain(&self, window: &Window<'_>, points: &[&Histogram], series: &Series<'_>) -> Option<Histogram> {
        let (first, last) = self.ends(window)?;
        let times = &window.timestamps()[first..=last];
        let smoothed = self.boundary == Boundary::Smoothed;
        let end = points.len() - 1;
        let between = |from: usize, time_ms: i64| {
            let (from_ms, to_ms) = (times[from], times[from + 1]);
            let share = (time_ms - from_ms) as f64 / (to_ms - from_ms) as f64;
            let between = interpolate_histograms(points[from], points[from + 1], share, self.is_counter);
            if between.is_none() {
                annotate::mixed_schemas(series.ctx, series.name, series.span);
            }
            between
        };
        let starts_between = smoothed && times[0] < window.start_ms;
        let left = if starts_between {
            between(0, window.start_ms)?
        } else {
            points[0].clone()
        };
        let ends_between = smoothed && end > 0 && times[end] > window.end_ms;
        let right = if ends_between {
            between(end - 1, window.end_ms)?
        } else {
            points[end].clone()
        };
        let mut gain = right.clone();
        histograms::subtract(&mut gain, &left, series)?;
        if self.is_counter {
            // If the start lies between two samples, a reset between them is in `left` already.
            let begin = usize::from(starts_between);
            let inner_end = if ends_between { end } else { end + 1 };
            for (before, current) in (begin..inner_end).zip(begin + 1..inner_end) {
                if points[current].detect_reset(points[before]) {
                    gain.add(points[before]).ok()?;
                }
            }
            if ends_between && begin < inner_end && right.detect_reset(points[inner_end - 1]) {
                gain.add(points[inner_end - 1]).ok()?;
            }
        }
        if let Some(seconds) = self.range_seconds {
            gain.divide(seconds);
        }
        gain.counter_reset_hint = CounterResetHint::Gauge;
        gain.compact();
        Some(gain)
    }
}

/// The histogram at a share of the way between two; `None` if one has custom buckets and the other has not. A counter
/// that was reset between them begins at zero.
pub(in crate::eval) fn interpolate_histograms(
    from: &Histogram,
    to: &Histogram,
    share: f64,
    is_counter: bool,
) -> Option<Histogram> {
    let mut way = to.clone();
    if is_counter && from.uses_custom_buckets() == to.uses_custom_buckets() && to.detect_reset(from) {
        way.scale(share);
        way.counter_reset_hint = CounterResetHint::Reset;
        return Some(way);
    }
    way.sub(from).ok()?;
    way.scale(share);
    way.add(from).ok()?;
    let is_gauge = |histogram: &Histogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
    way.counter_reset_hint = if is_gauge(from) && is_gauge(to) {
        CounterResetHint::Gauge
    } else {
        CounterResetHint::Unknown
    };
    Some(way)
}

impl Kernel for Extended {
    fn on_histograms(&self) -> OnHistograms {
        OnHistograms::EvaluateApart
    }

    fn evaluate_histograms(
        &mut self,
        window: &Window<'_>,
        series: &Series<'_>,
    ) -> Result<Option<Cell>, EvalError> {
        let Some((first, last)) = self.ends(window) else {
            return Ok(None);
        };
        let all = window.first + first..window.first + last + 1;
        let points: Vec<&Histogram> = window
            .histograms()
            .iter()
            .filter(|(index, _)| all.contains(index))
            .map(|(_, histogram)| histogram.as_ref())
            .collect();
        if points.is_empty() {
            return Ok(self.evaluate(window).map(Cell::Number));
        }
        if points.len() < all.len() {
            annotate::mixed_floats_histograms(series.ctx, series.name, series.span);
            return Ok(None);
        }
        let is_gauge = |histogram: &&Histogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
        if self.is_counter && points.iter().any(is_gauge) {
            annotate::not_a_counter(series.ctx, series.name, series.span);
        }
        if !self.is_counter && !points.first().into_iter().chain(points.last()).all(is_gauge) {
            annotate::not_a_gauge(series.ctx, series.name, series.span);
        }
        let is_custom = points[0].uses_custom_buckets();
        if points
            .iter()
            .any(|histogram| histogram.uses_custom_buckets() != is_custom)
        {
            annotate::mixed_schemas(series.ctx, series.name, series.span);
            return Ok(None);
        }
        Ok(self.gain(window, &points, series).map(Cell::histogram))
    }

    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        let (times, values) = (window.timestamps(), window.values());
        let smoothed = self.boundary == Boundary::Smoothed;
        let (mut first, last) = self.ends(window)?;
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
    pub(super) transition: Transition,
}

impl Kernel for AnchoredCount {
    fn on_histograms(&self) -> OnHistograms {
        OnHistograms::EvaluateAlike
    }

    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        let times = window.timestamps();
        if times[times.len() - 1] <= window.start_ms {
            return None;
        }
        let anchor = window.first + anchor(times, window.start_ms);
        let count = (anchor + 1..window.end)
            .filter(|index| self.transition.counts(window.samples, *index))
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
            transition: Transition::CHANGE,
        };
        let samples = [(0, 2.0), (60_000, 1.0), (120_000, 1.0)];
        assert_eq!(value(changes(), &samples, (30_000, 120_000)), Some(1.0));
        assert_eq!(value(changes(), &samples, (60_000, 120_000)), Some(0.0));
    }
}
