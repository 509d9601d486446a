//! `*_over_time` functions that look at values one by one.

use std::collections::VecDeque;

use quorate_storage::{Labels, SampleColumns};

use super::{Kernel, OnHistograms, RangeVector, Series, Window};
use crate::eval::column::{Bits, Cell, Column};
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::kahan::{Mean, Sum};
use crate::eval::vector::{Columns, Vector};
use crate::value::EvalError;

/// A function that needs nothing but the window.
pub(super) struct Simple {
    pub(super) function: fn(&Window<'_>) -> f64,
    pub(super) looks_at_all: bool,
    pub(super) histograms: SimpleHistograms,
}

/// What such a function does with histograms.
#[derive(Clone, Copy)]
pub(super) enum SimpleHistograms {
    /// It leaves them out.
    Ignored,
    /// It doesn't look at values.
    Alike,
    /// It has another function for windows with some.
    By(fn(&Window<'_>, &Series<'_>) -> Option<Cell>),
}

impl Kernel for Simple {
    fn looks_at_all(&self) -> bool {
        self.looks_at_all
    }

    fn on_histograms(&self) -> OnHistograms {
        match self.histograms {
            SimpleHistograms::Ignored => OnHistograms::Ignore,
            SimpleHistograms::Alike => OnHistograms::EvaluateAlike,
            SimpleHistograms::By(_) => OnHistograms::EvaluateApart,
        }
    }

    fn evaluate_histograms(
        &mut self,
        window: &Window<'_>,
        series: &Series<'_>,
    ) -> Result<Option<Cell>, EvalError> {
        match self.histograms {
            SimpleHistograms::By(function) => Ok(function(window, series)),
            SimpleHistograms::Ignored | SimpleHistograms::Alike => {
                Ok(self.evaluate(window).map(Cell::Number))
            }
        }
    }

    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        Some((self.function)(window))
    }
}

pub(super) fn sum(window: &Window<'_>) -> f64 {
    let mut sum = Sum::default();
    window.values().iter().for_each(|value| sum.add(*value));
    sum.total()
}

pub(super) fn avg(window: &Window<'_>) -> f64 {
    let values = window.values();
    let mut mean = Mean::first(values[0]);
    values[1..].iter().for_each(|value| mean.add(*value));
    mean.mean()
}

pub(super) fn count(window: &Window<'_>) -> f64 {
    window.len() as f64
}

pub(super) fn present(_: &Window<'_>) -> f64 {
    1.0
}

pub(super) fn first(window: &Window<'_>) -> f64 {
    window.values()[0]
}

pub(super) fn last(window: &Window<'_>) -> f64 {
    window.values()[window.len() - 1]
}

pub(super) fn timestamp_of_first(window: &Window<'_>) -> f64 {
    seconds(window.timestamps()[0])
}

pub(super) fn timestamp_of_last(window: &Window<'_>) -> f64 {
    seconds(window.timestamps()[window.len() - 1])
}

/// When the largest value was seen last.
pub(super) fn timestamp_of_max(window: &Window<'_>) -> f64 {
    timestamp_of_best(window, |value, best| value >= best)
}

/// When the smallest value was seen last.
pub(super) fn timestamp_of_min(window: &Window<'_>) -> f64 {
    timestamp_of_best(window, |value, best| value <= best)
}

fn timestamp_of_best(window: &Window<'_>, better: impl Fn(f64, f64) -> bool) -> f64 {
    let values = window.values();
    let mut best = 0;
    for index in 1..values.len() {
        if better(values[index], values[best]) || values[best].is_nan() {
            best = index;
        }
    }
    seconds(window.timestamps()[best])
}

fn seconds(timestamp_ms: i64) -> f64 {
    timestamp_ms as f64 / 1000.0
}

/// `max_over_time` and `min_over_time`: any number beats NaN, the first of equals wins.
pub(super) struct Extreme {
    better: fn(f64, f64) -> bool,
    /// Indices of samples that are better than all later ones seen so far, oldest and best first.
    candidates: VecDeque<usize>,
    /// The next sample to look at.
    next: usize,
}

impl Extreme {
    pub(super) fn max() -> Extreme {
        Extreme {
            better: |value, other| value > other,
            candidates: VecDeque::new(),
            next: 0,
        }
    }

    pub(super) fn min() -> Extreme {
        Extreme {
            better: |value, other| value < other,
            candidates: VecDeque::new(),
            next: 0,
        }
    }
}

impl Kernel for Extreme {
    fn begin(&mut self, _: &SampleColumns) {
        self.candidates.clear();
        self.next = 0;
    }

    fn looks_at_all(&self) -> bool {
        false
    }

    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64> {
        let values = &window.samples.values;
        while self
            .candidates
            .front()
            .is_some_and(|candidate| *candidate < window.first)
        {
            self.candidates.pop_front();
        }
        for index in self.next.max(window.first)..window.end {
            let value = values[index];
            if value.is_nan() {
                continue;
            }
            while self
                .candidates
                .back()
                .is_some_and(|last| (self.better)(value, values[*last]))
            {
                self.candidates.pop_back();
            }
            self.candidates.push_back(index);
        }
        self.next = window.end;
        // Only NaNs: Prometheus gives the first one, bits and all.
        Some(
            self.candidates
                .front()
                .map_or(values[window.first], |best| values[*best]),
        )
    }
}

/// `absent_over_time`: 1 where no series has a sample in its window.
pub(in crate::eval) fn absent_over_time<'q>(
    ctx: &'q Context<'q>,
    labels: Labels,
    input: RangeVector<'q>,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    Vector::new(ctx, vec![labels], AbsentOverTime { ctx, input, grid })
}

struct AbsentOverTime<'q> {
    ctx: &'q Context<'q>,
    input: RangeVector<'q>,
    grid: Grid,
}

impl<'q> Columns<'q> for AbsentOverTime<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        let mut found = Bits::new(self.grid.count);
        let _charge = self.ctx.memory.charge(Bits::bytes(self.grid.count), 0)?;
        let (times, range_ms) = (self.input.times, self.input.range_ms);
        for _ in 0..self.input.labels.len() {
            let samples = self.input.next()?;
            let mut past = 0;
            for step in 0..self.grid.count {
                let end_ms = times.reference_ms(self.grid.time_ms(step));
                while past < samples.len() && samples.timestamps[past] <= end_ms {
                    past += 1;
                }
                if past > 0 && samples.timestamps[past - 1] > end_ms.saturating_sub(range_ms) {
                    found.set(step);
                }
            }
        }
        out.clear();
        (0..self.grid.count)
            .filter(|step| !found.get(*step))
            .for_each(|step| out.set(step, 1.0));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slide(mut kernel: impl Kernel, values: &[f64], width: usize) -> Vec<f64> {
        let mut samples = SampleColumns::default();
        values
            .iter()
            .enumerate()
            .for_each(|(index, value)| samples.push(index as i64, *value));
        kernel.begin(&samples);
        (1..=values.len())
            .map(|end| {
                let first = end.saturating_sub(width);
                let window = Window {
                    samples: &samples,
                    first,
                    end,
                    start_ms: first as i64 - 1,
                    end_ms: end as i64 - 1,
                    time_ms: end as i64 - 1,
                    step: 0,
                };
                kernel.evaluate(&window).unwrap()
            })
            .collect()
    }

    #[test]
    fn extremes_follow_the_window() {
        let values = [3.0, 1.0, 2.0, f64::NAN, 5.0, 4.0, 0.0];
        assert_eq!(
            slide(Extreme::max(), &values, 2),
            [3.0, 3.0, 2.0, 2.0, 5.0, 5.0, 4.0]
        );
        assert_eq!(
            slide(Extreme::min(), &values, 3),
            [3.0, 1.0, 1.0, 1.0, 2.0, 4.0, 0.0]
        );
        assert!(slide(Extreme::max(), &[f64::NAN], 1)[0].is_nan());
        // The first of equals, so the sign of zero is the first one's.
        assert!(slide(Extreme::max(), &[-0.0, 0.0], 2)[1].is_sign_negative());
    }

    #[test]
    fn timestamps_of_extremes_take_the_last() {
        let kernel = |function| Simple {
            function,
            looks_at_all: true,
            histograms: SimpleHistograms::Ignored,
        };
        let values = [5.0, 1.0, 5.0, 1.0, 2.0];
        assert_eq!(slide(kernel(timestamp_of_max), &values, 5)[4], 0.002);
        assert_eq!(slide(kernel(timestamp_of_min), &values, 5)[4], 0.003);
    }
}
