//! `rate` and its kin: differences within a window, extrapolated or not, and how often values change.

use quorate_storage::{Histogram, SampleColumns};

use super::histograms;
use super::{Kernel, OnHistograms, Series, Window};
use crate::eval::annotate;
use crate::eval::column::Cell;
use crate::value::EvalError;

/// `rate`, `increase` and `delta`.
pub(super) struct Extrapolated {
    /// Whether a falling value is a reset to zero.
    is_counter: bool,
    /// Whether the result is per second.
    per_second: bool,
    range_seconds: f64,
    /// Index of each sample whose value is below the one before.
    resets: Vec<usize>,
    /// The first of `resets` that may be in the next window.
    next_reset: usize,
}

impl Extrapolated {
    pub(super) fn new(is_counter: bool, per_second: bool, range_ms: i64) -> Extrapolated {
        Extrapolated {
            is_counter,
            per_second,
            range_seconds: range_ms as f64 / 1000.0,
            resets: Vec::new(),
            next_reset: 0,
        }
    }

    /// What the counter gained over the window, resets counted from zero.
    fn gain(&mut self, window: &Window<'_>) -> f64 {
        let values = &window.samples.values;
        let mut gain = values[window.end - 1] - values[window.first];
        if self.is_counter {
            while self
                .resets
                .get(self.next_reset)
                .is_some_and(|reset| *reset <= window.first)
            {
                self.next_reset += 1;
            }
            for reset in self.resets[self.next_reset..]
                .iter()
                .take_while(|reset| **reset < window.end)
            {
                gain += values[reset - 1];
            }
        }
        gain
    }
}

impl Extrapolated {
    /// Prometheus's `extrapolatedRate`: by what the gain from the first to the last sample is multiplied. The samples
    /// are taken to reach to the window's bounds if they end within 1.1 of their average distance, else by half that
    /// distance; a counter is not followed below zero. There are at least two samples.
    fn factor(&self, window: &Window<'_>, gain: f64, first_value: f64) -> f64 {
        let timestamps = window.timestamps();
        let (first_ms, last_ms) = (timestamps[0], timestamps[timestamps.len() - 1]);
        let mut to_start = (first_ms - window.start_ms) as f64 / 1000.0;
        let mut to_end = (window.end_ms - last_ms) as f64 / 1000.0;
        let sampled = (last_ms - first_ms) as f64 / 1000.0;
        let average = sampled / (window.len() - 1) as f64;
        let threshold = average * 1.1;
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if self.is_counter && gain > 0.0 && first_value >= 0.0 {
            let to_zero = sampled * (first_value / gain);
            if to_zero < to_start {
                to_start = to_zero;
            }
        }
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        let mut factor = (sampled + to_start + to_end) / sampled;
        if self.per_second {
            factor /= self.range_seconds;
        }
        factor
    }
}

impl Kernel for Extrapolated {
    fn begin(&mut self, samples: &SampleColumns) {
        self.resets.clear();
        self.next_reset = 0;
        if self.is_counter {
            let pairs = samples.values.windows(2).enumerate();
            self.resets.extend(
                pairs
                    .filter(|(_, pair)| pair[1] < pair[0])
                    .map(|(index, _)| index + 1),
            );
        }
    }

    fn looks_at_all(&self) -> bool {
        false
    }

    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        if window.len() < 2 {
            return None;
        }
        let first_value = window.values()[0];
        let gain = self.gain(window);
        Some(gain * self.factor(window, gain, first_value))
    }

    fn on_histograms(&self) -> OnHistograms {
        OnHistograms::EvaluateApart
    }

    fn evaluate_histograms(
        &mut self,
        window: &Window<'_>,
        series: &Series<'_>,
    ) -> Result<Option<Cell>, EvalError> {
        let points = window.histograms();
        if points.len() < window.len() {
            annotate::mixed_floats_histograms(series.ctx, series.name, series.span);
            return Ok(None);
        }
        let Some(mut gain) = histograms::gain(points, self.is_counter, series) else {
            return Ok(None);
        };
        gain.scale(self.factor(window, gain.count, points[0].1.count));
        Ok(Some(Cell::histogram(gain)))
    }
}

/// `irate` and `idelta`: the last two samples.
pub(super) struct Instantaneous {
    pub(super) is_rate: bool,
}

impl Kernel for Instantaneous {
    fn looks_at_all(&self) -> bool {
        false
    }

    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        let (&[.., before, last], &[.., before_ms, last_ms]) = (window.values(), window.timestamps()) else {
            return None;
        };
        let interval_ms = last_ms - before_ms;
        if interval_ms == 0 {
            return None;
        }
        if !self.is_rate {
            return Some(last - before);
        }
        let gain = if last < before { last } else { last - before };
        Some(gain / (interval_ms as f64 / 1000.0))
    }

    fn on_histograms(&self) -> OnHistograms {
        OnHistograms::EvaluateApart
    }

    fn evaluate_histograms(
        &mut self,
        window: &Window<'_>,
        series: &Series<'_>,
    ) -> Result<Option<Cell>, EvalError> {
        let &[.., before_ms, last_ms] = window.timestamps() else {
            return Ok(None);
        };
        let last_two = (window.cell(window.len() - 2), window.cell(window.len() - 1));
        let (before, last) = match &last_two {
            (Cell::Number(_), Cell::Number(_)) => return Ok(self.evaluate(window).map(Cell::Number)),
            (Cell::Histogram(before), Cell::Histogram(last)) => (before, last),
            _ => {
                annotate::mixed_floats_histograms(series.ctx, series.name, series.span);
                return Ok(None);
            }
        };
        let Some(mut gain) = histograms::last_gain(before, last, self.is_rate, series) else {
            return Ok(None);
        };
        if self.is_rate {
            gain.divide((last_ms - before_ms) as f64 / 1000.0);
        }
        Ok(Some(Cell::histogram(gain)))
    }
}

/// Which samples count, given the one before. A histogram that follows a number, or the other way round, always does.
#[derive(Clone, Copy)]
pub(super) struct Transition {
    pub(super) of_numbers: fn(f64, f64) -> bool,
    pub(super) of_histograms: fn(&Histogram, &Histogram) -> bool,
}

impl Transition {
    /// Those that differ from the one before.
    pub(super) const CHANGE: Transition = Transition {
        of_numbers: |previous, current| current != previous && !(current.is_nan() && previous.is_nan()),
        of_histograms: |previous, current| !current.same_counts(previous),
    };

    /// Those that are below the one before.
    pub(super) const RESET: Transition = Transition {
        of_numbers: |previous, current| current < previous,
        of_histograms: |previous, current| current.detect_reset(previous),
    };

    /// Whether the sample with this index, which isn't the first, counts.
    pub(super) fn counts(self, samples: &SampleColumns, index: usize) -> bool {
        match (samples.histogram(index - 1), samples.histogram(index)) {
            (None, None) => (self.of_numbers)(samples.values[index - 1], samples.values[index]),
            (Some(previous), Some(current)) => (self.of_histograms)(previous, current),
            _ => true,
        }
    }
}

/// `changes` and `resets`: how many samples differ from, or are below, the one before.
pub(super) struct Count {
    transition: Transition,
    /// For each sample, how many up to it count.
    before: Vec<u32>,
}

impl Count {
    pub(super) fn new(transition: Transition) -> Count {
        Count {
            transition,
            before: Vec::new(),
        }
    }
}

impl Kernel for Count {
    fn begin(&mut self, samples: &SampleColumns) {
        self.before.clear();
        let numbers_only = samples.histograms.is_empty();
        let mut total = 0;
        for (index, value) in samples.values.iter().enumerate() {
            if index > 0 {
                let counts = if numbers_only {
                    (self.transition.of_numbers)(samples.values[index - 1], *value)
                } else {
                    self.transition.counts(samples, index)
                };
                total += u32::from(counts);
            }
            self.before.push(total);
        }
    }

    fn on_histograms(&self) -> OnHistograms {
        OnHistograms::EvaluateAlike
    }

    fn looks_at_all(&self) -> bool {
        false
    }

    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        Some(f64::from(self.before[window.end - 1] - self.before[window.first]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(samples: &SampleColumns, start_ms: i64, end_ms: i64) -> Window<'_> {
        Window {
            samples,
            first: 0,
            end: samples.len(),
            start_ms,
            end_ms,
            time_ms: end_ms,
            step: 0,
        }
    }

    fn samples(pairs: &[(i64, f64)]) -> SampleColumns {
        let mut columns = SampleColumns::default();
        pairs
            .iter()
            .for_each(|(timestamp_ms, value)| columns.push(*timestamp_ms, *value));
        columns
    }

    fn evaluate(mut kernel: impl Kernel, samples: &SampleColumns, start_ms: i64, end_ms: i64) -> Option<f64> {
        kernel.begin(samples);
        kernel.evaluate(&window(samples, start_ms, end_ms))
    }

    #[test]
    fn increase_extrapolates_to_near_bounds_only() {
        // 10 s apart; 4 s to the start and 6 s to the end are below 11 s: all 30 s count.
        let near = samples(&[(4_000, 100.0), (14_000, 110.0), (24_000, 120.0)]);
        assert_eq!(
            evaluate(Extrapolated::new(true, false, 30_000), &near, 0, 30_000),
            Some(20.0 * (30.0 / 20.0))
        );
        // 40 s to the start is far: half the distance, 5 s.
        let far = samples(&[(40_000, 100.0), (50_000, 110.0), (60_000, 120.0)]);
        assert_eq!(
            evaluate(Extrapolated::new(true, false, 60_000), &far, 0, 60_000),
            Some(20.0 * (25.0 / 20.0))
        );
        // The counter would have been zero 2 s before its first sample.
        let young = samples(&[(40_000, 2.0), (50_000, 12.0), (60_000, 22.0)]);
        assert_eq!(
            evaluate(Extrapolated::new(true, false, 60_000), &young, 0, 60_000),
            Some(20.0 * (22.0 / 20.0))
        );
        // A gauge may be below zero.
        assert_eq!(
            evaluate(Extrapolated::new(false, false, 60_000), &young, 0, 60_000),
            Some(20.0 * (25.0 / 20.0))
        );
    }

    #[test]
    fn resets_count_from_zero() {
        let columns = samples(&[(0, 5.0), (10_000, 8.0), (20_000, 1.0), (30_000, 4.0)]);
        let value = evaluate(Extrapolated::new(true, true, 30_000), &columns, -10, 30_000);
        // 3 up, reset, 1 and 3 up; the 10 ms to the start are nearer than zero.
        assert_eq!(value, Some(7.0 * ((30.0 + 0.01) / 30.0 / 30.0)));
        assert_eq!(
            evaluate(Count::new(Transition::RESET), &columns, -10, 30_000),
            Some(1.0)
        );
        assert_eq!(
            evaluate(Count::new(Transition::CHANGE), &columns, -10, 30_000),
            Some(3.0)
        );
    }

    #[test]
    fn two_samples_are_needed() {
        let one = samples(&[(0, 5.0)]);
        assert_eq!(
            evaluate(Extrapolated::new(true, true, 30_000), &one, -10, 30_000),
            None
        );
        assert_eq!(evaluate(Instantaneous { is_rate: true }, &one, -10, 30_000), None);
    }

    #[test]
    fn irate_takes_a_reset_from_zero() {
        let columns = samples(&[(0, 5.0), (10_000, 8.0), (20_000, 2.0)]);
        assert_eq!(
            evaluate(Instantaneous { is_rate: true }, &columns, -10, 20_000),
            Some(0.2)
        );
        assert_eq!(
            evaluate(Instantaneous { is_rate: false }, &columns, -10, 20_000),
            Some(-6.0)
        );
    }

    #[test]
    fn nan_to_nan_is_no_change() {
        let columns = samples(&[(0, f64::NAN), (10, f64::NAN), (20, 1.0), (30, f64::NAN)]);
        assert_eq!(
            evaluate(Count::new(Transition::CHANGE), &columns, -10, 30),
            Some(2.0)
        );
    }
}
