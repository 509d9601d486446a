//! Range vectors, and functions of them.

mod counter;
mod extended;
mod histograms;
mod over_time;
mod regression;
mod spread;
mod table;

use std::sync::Arc;

use quorate_storage::{CounterResetHint, Histogram, Labels, SampleColumns};

use super::annotate;
use super::build;
use super::column::{Cell, Column};
use super::context::Context;
use super::grid::{Grid, Times};
use super::labelset::metric_name;
use super::memory::Charge;
use super::select::{Selected, is_stale};
use super::vector::{Columns, Unlabelled};
use crate::ast::{Boundary, Expr, Span};
use crate::source::SelectHints;
use crate::value::EvalError;

pub(super) use extended::{check_call, interpolate, interpolate_histograms};
pub(super) use histograms::Noticed;
pub(super) use over_time::absent_over_time;
pub(super) use table::call;

/// What one function makes of the windows of one series.
trait Kernel {
    /// A new series begins. `samples` are all that its windows can hold.
    fn begin(&mut self, samples: &SampleColumns) {
        let _ = samples;
    }

    /// The function's value over a window, which holds at least one sample.
    fn evaluate(&mut self, window: &Window<'_>) -> Option<f64>;

    /// What the function does with histograms.
    fn on_histograms(&self) -> OnHistograms {
        OnHistograms::Ignore
    }

    /// The function's value over a window with at least one histogram, if that is what it does with them.
    fn evaluate_histograms(
        &mut self,
        window: &Window<'_>,
        series: &Series<'_>,
    ) -> Result<Option<Cell>, EvalError> {
        let _ = series;
        Ok(self.evaluate(window).map(Cell::Number))
    }

    /// Whether `evaluate` looks at every sample of the window.
    fn looks_at_all(&self) -> bool {
        true
    }
}

/// What a function does with the histograms of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OnHistograms {
    /// It leaves them out and says so if there are numbers too.
    Ignore,
    /// It looks at times alone, or knew them from the start: its kernel evaluates all windows alike.
    EvaluateAlike,
    /// Its kernel evaluates windows with histograms in another way.
    EvaluateApart,
}

/// The series a window is of, and where the user is told of it.
struct Series<'a> {
    ctx: &'a Context<'a>,
    name: &'a str,
    /// Where the argument was written.
    span: Span,
}

/// The samples of one series that one step looks at.
#[derive(Clone, Copy, Debug)]
struct Window<'a> {
    samples: &'a SampleColumns,
    /// Index of the first sample in the window.
    first: usize,
    /// One past the index of the last.
    end: usize,
    /// Where the window begins; a sample at this time is outside.
    start_ms: i64,
    /// Where the window ends; a sample at this time is inside.
    end_ms: i64,
    /// The step's time, which `@` and `offset` don't change.
    time_ms: i64,
    /// The step's number.
    step: usize,
}

impl<'a> Window<'a> {
    fn values(&self) -> &'a [f64] {
        &self.samples.values[self.first..self.end]
    }

    fn timestamps(&self) -> &'a [i64] {
        &self.samples.timestamps[self.first..self.end]
    }

    fn len(&self) -> usize {
        self.end - self.first
    }

    /// The histograms of the window.
    fn histograms(&self) -> &'a [(usize, Arc<Histogram>)] {
        let all = self.samples.histograms.as_slice();
        let first = all.partition_point(|(index, _)| *index < self.first);
        let end = all.partition_point(|(index, _)| *index < self.end);
        &all[first..end]
    }

    /// A sample by its place in the window.
    fn cell(&self, place: usize) -> Cell {
        let index = self.first + place;
        match self.samples.histogram(index) {
            Some(histogram) => Cell::Histogram(Arc::clone(histogram)),
            None => Cell::Number(self.samples.values[index]),
        }
    }
}

/// A range vector over the steps of a grid: each series' samples once, for all windows.
pub(super) struct RangeVector<'q> {
    pub(super) labels: Vec<Labels>,
    samples: Samples<'q>,
    times: Times,
    range_ms: i64,
    /// How far outside of its bounds, before and after, a window sees samples too.
    outside_ms: (i64, i64),
    _charge: Charge<'q>,
}

enum Samples<'q> {
    None,
    Selected(Selected<'q>),
    Subquery(Box<Resampled<'q>>),
}

/// An instant vector whose steps become samples.
struct Resampled<'q> {
    ctx: &'q Context<'q>,
    grid: Grid,
    vector: Unlabelled<'q>,
    column: Column<'q>,
    samples: SampleColumns,
    _charge: Charge<'q>,
}

/// A sample of a subquery: nobody looked at what lies between it and the one before.
fn resampled(histogram: &Arc<Histogram>) -> Arc<Histogram> {
    match histogram.counter_reset_hint {
        CounterResetHint::Unknown | CounterResetHint::Gauge => Arc::clone(histogram),
        CounterResetHint::Reset | CounterResetHint::NotReset => Arc::new(Histogram {
            counter_reset_hint: CounterResetHint::Unknown,
            ..Histogram::clone(histogram)
        }),
    }
}

impl<'q> Resampled<'q> {
    fn next(&mut self) -> Result<&SampleColumns, EvalError> {
        self.vector.next(&mut self.column)?;
        self.ctx.work(self.column.len())?;
        self.samples.clear();
        if !self.column.may_hold_histograms() {
            for (step, value) in self.column.iter() {
                self.samples.push(self.grid.time_ms(step), value);
            }
            return Ok(&self.samples);
        }
        for step in self.column.present().iter() {
            let time_ms = self.grid.time_ms(step);
            match self.column.cell(step) {
                Some(Cell::Number(value)) => self.samples.push(time_ms, value),
                Some(Cell::Histogram(histogram)) => {
                    self.samples.push_histogram(time_ms, resampled(&histogram));
                }
                None => {}
            }
        }
        Ok(&self.samples)
    }
}

impl<'q> RangeVector<'q> {
    /// Evaluates a range selector or a subquery. `function` is what is called on it.
    pub(super) fn open(
        ctx: &'q Context<'q>,
        expr: &'q Expr,
        grid: Grid,
        function: Option<&'q str>,
    ) -> Result<RangeVector<'q>, EvalError> {
        match expr.without_parens() {
            Expr::MatrixSelector(matrix) => {
                let selector = &matrix.selector;
                let range_ms = ctx.positive_ms(&matrix.range)?;
                let times = Times::new(ctx, selector.at, ctx.offset_ms(selector.offset.as_ref())?);
                let hints = SelectHints {
                    step_ms: grid.step_ms(),
                    range_ms,
                    function,
                };
                let lookback_ms = ctx.options.lookback_ms;
                let outside_ms = match selector.boundary {
                    None => (0, 0),
                    Some(Boundary::Anchored) => (lookback_ms, 0),
                    Some(Boundary::Smoothed) => (lookback_ms, lookback_ms),
                };
                let span = grid
                    .span(times)
                    .map(|(first, last)| (first, last.saturating_add(outside_ms.1)));
                let depth_ms = range_ms.saturating_add(outside_ms.0);
                let selected = Selected::open(ctx, selector, span, depth_ms, hints)?;
                let labels = selected.as_ref().map(Selected::labels).unwrap_or_default();
                Self::new(
                    ctx,
                    labels,
                    selected.map_or(Samples::None, Samples::Selected),
                    times,
                    range_ms,
                    outside_ms,
                )
            }
            Expr::Subquery(subquery) => {
                let range_ms = ctx.positive_ms(&subquery.range)?;
                let times = Times::new(ctx, subquery.at, ctx.offset_ms(subquery.offset.as_ref())?);
                let inner = Grid::of_subquery(ctx, subquery, times, range_ms, grid)?;
                let (labels, vector) = build::vector(ctx, &subquery.expr, inner)?.split();
                let resampled = Resampled {
                    ctx,
                    grid: inner,
                    vector,
                    column: Column::new(&ctx.memory, inner.count)?,
                    samples: SampleColumns::default(),
                    _charge: ctx.memory.charge(inner.count * 16, inner.count)?,
                };
                Self::new(
                    ctx,
                    labels,
                    Samples::Subquery(Box::new(resampled)),
                    times,
                    range_ms,
                    (0, 0),
                )
            }
            _ => Err(EvalError::Execution("expected a range vector".to_owned())),
        }
    }

    fn new(
        ctx: &'q Context<'q>,
        labels: Vec<Labels>,
        samples: Samples<'q>,
        times: Times,
        range_ms: i64,
        outside_ms: (i64, i64),
    ) -> Result<RangeVector<'q>, EvalError> {
        let charge = ctx.memory.charge(Context::labels_bytes(&labels), 0)?;
        Ok(RangeVector {
            labels,
            samples,
            times,
            range_ms,
            outside_ms,
            _charge: charge,
        })
    }

    /// The next series' samples without stale markers. Some may be in no window.
    pub(super) fn next(&mut self) -> Result<&SampleColumns, EvalError> {
        match &mut self.samples {
            Samples::None => Err(EvalError::Execution("read beyond the last series".to_owned())),
            Samples::Selected(selected) => {
                let samples = selected.next()?;
                drop_stale(samples);
                Ok(samples)
            }
            Samples::Subquery(resampled) => resampled.next(),
        }
    }

    /// The window of a step: from when, exclusive, to when, inclusive.
    pub(super) fn bounds_ms(&self, time_ms: i64) -> (i64, i64) {
        let end_ms = self.times.reference_ms(time_ms);
        (end_ms.saturating_sub(self.range_ms), end_ms)
    }
}

fn drop_stale(samples: &mut SampleColumns) {
    if samples.values.iter().any(|value| is_stale(*value)) {
        retain(samples, |_, value| !is_stale(value));
    }
}

/// Keeps the samples that `keep` says by index and value.
fn retain(samples: &mut SampleColumns, keep: impl Fn(usize, f64) -> bool) {
    let mut histograms = std::mem::take(&mut samples.histograms).into_iter().peekable();
    let mut kept = 0;
    for index in 0..samples.values.len() {
        let histogram = histograms.next_if(|(at, _)| *at == index);
        if !keep(index, samples.values[index]) {
            continue;
        }
        samples.values[kept] = samples.values[index];
        samples.timestamps[kept] = samples.timestamps[index];
        samples
            .histograms
            .extend(histogram.map(|(_, histogram)| (kept, histogram)));
        kept += 1;
    }
    samples.values.truncate(kept);
    samples.timestamps.truncate(kept);
}

/// The numbers among samples.
fn numbers_of(samples: &SampleColumns, out: &mut SampleColumns) {
    out.clear();
    let mut histograms = samples.histograms.iter().peekable();
    for (index, (time_ms, value)) in samples.iter().enumerate() {
        if histograms.next_if(|(at, _)| *at == index).is_none() {
            out.push(time_ms, value);
        }
    }
}

/// Whether a histogram lies between two times: after the first, not after the second.
fn has_histogram(samples: &SampleColumns, start_ms: i64, end_ms: i64) -> bool {
    let times = |(index, _): &(usize, Arc<Histogram>)| samples.timestamps[*index];
    let first = samples
        .histograms
        .partition_point(|entry| times(entry) <= start_ms);
    samples
        .histograms
        .get(first)
        .is_some_and(|entry| times(entry) <= end_ms)
}

/// A function over a range vector: slides the window over each series.
struct Rolling<'q, K> {
    ctx: &'q Context<'q>,
    grid: Grid,
    input: RangeVector<'q>,
    kernel: K,
    /// Where the range vector was written.
    span: Span,
    /// Called with the number of a series that gave a number.
    seen: Option<Box<dyn FnMut(usize) + 'q>>,
    series: usize,
    /// The numbers of a series that holds histograms too.
    numbers: SampleColumns,
}

impl<'q, K: Kernel> Columns<'q> for Rolling<'q, K> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        out.clear();
        let (times, range_ms) = (self.input.times, self.input.range_ms);
        let (before_ms, after_ms) = self.input.outside_ms;
        let number = self.series;
        self.series += 1;
        let labels = self.input.labels[number].clone();
        let series = Series {
            ctx: self.ctx,
            name: metric_name(&labels),
            span: self.span,
        };
        let all = self.input.next()?;
        let on_histograms = if all.histograms.is_empty() {
            OnHistograms::EvaluateAlike
        } else {
            self.kernel.on_histograms()
        };
        let ignores = on_histograms == OnHistograms::Ignore;
        let samples = if ignores {
            numbers_of(all, &mut self.numbers);
            &self.numbers
        } else {
            all
        };
        let timestamps = samples.timestamps.as_slice();
        self.kernel.begin(samples);
        let (mut first, mut end) = (0, 0);
        let mut any_number = false;
        for step in 0..self.grid.count {
            let time_ms = self.grid.time_ms(step);
            let end_ms = times.reference_ms(time_ms);
            let start_ms = end_ms.saturating_sub(range_ms);
            while end < timestamps.len() && timestamps[end] <= end_ms.saturating_add(after_ms) {
                end += 1;
            }
            while first < end && timestamps[first] <= start_ms.saturating_sub(before_ms) {
                first += 1;
            }
            if first == end {
                continue;
            }
            self.ctx.work(if self.kernel.looks_at_all() {
                end - first
            } else {
                0
            })?;
            let window = Window {
                samples,
                first,
                end,
                start_ms,
                end_ms,
                time_ms,
                step,
            };
            if ignores && has_histogram(all, start_ms, end_ms) {
                annotate::ignored_in_mixed_range(series.ctx, series.name, series.span);
            }
            if on_histograms == OnHistograms::EvaluateApart && !window.histograms().is_empty() {
                if let Some(cell) = self.kernel.evaluate_histograms(&window, &series)? {
                    any_number |= matches!(cell, Cell::Number(_));
                    out.set_cell(step, cell)?;
                }
            } else if let Some(value) = self.kernel.evaluate(&window) {
                out.set(step, value);
                any_number = true;
            }
        }
        if any_number && let Some(seen) = &mut self.seen {
            seen(number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_keep_their_times_when_others_go() {
        let mut samples = SampleColumns::new();
        samples.push(0, 1.0);
        samples.push_histogram(10, Arc::new(Histogram::stale()));
        samples.push_histogram(
            20,
            Arc::new(Histogram {
                sum: 7.0,
                ..Histogram::default()
            }),
        );
        samples.push(30, 3.0);
        drop_stale(&mut samples);
        assert_eq!(samples.timestamps, [0, 20, 30]);
        assert_eq!(samples.values, [1.0, 7.0, 3.0]);
        assert_eq!(samples.histogram(1).map(|histogram| histogram.sum), Some(7.0));
        assert!(has_histogram(&samples, 10, 20) && !has_histogram(&samples, 20, 30));
        let mut numbers = SampleColumns::new();
        numbers_of(&samples, &mut numbers);
        assert_eq!(
            (numbers.timestamps, numbers.values),
            (vec![0, 30], vec![1.0, 3.0])
        );
    }
}
