//! Range vectors, and functions of them.

mod counter;
mod extended;
mod over_time;
mod regression;
mod spread;
mod table;

use quorate_storage::{Labels, SampleColumns};

use super::build;
use super::column::Column;
use super::context::Context;
use super::grid::{Grid, Times};
use super::memory::Charge;
use super::select::{Selected, is_stale};
use super::vector::{Columns, Unlabelled};
use crate::ast::{Boundary, Expr};
use crate::source::SelectHints;
use crate::value::EvalError;

pub(super) use extended::{check_call, interpolate};
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

    /// Whether `evaluate` looks at every sample of the window.
    fn looks_at_all(&self) -> bool {
        true
    }
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

impl<'q> Resampled<'q> {
    fn next(&mut self) -> Result<&SampleColumns, EvalError> {
        self.vector.next(&mut self.column)?;
        self.ctx.work(self.column.len())?;
        self.samples.clear();
        for (step, value) in self.column.iter() {
            self.samples.push(self.grid.time_ms(step), value);
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
    if !samples.values.iter().any(|value| is_stale(*value)) {
        return;
    }
    let mut kept = 0;
    for index in 0..samples.values.len() {
        if !is_stale(samples.values[index]) {
            samples.values[kept] = samples.values[index];
            samples.timestamps[kept] = samples.timestamps[index];
            kept += 1;
        }
    }
    samples.values.truncate(kept);
    samples.timestamps.truncate(kept);
}

/// A function over a range vector: slides the window over each series.
struct Rolling<'q, K> {
    ctx: &'q Context<'q>,
    grid: Grid,
    input: RangeVector<'q>,
    kernel: K,
    /// Called with the number of a series that gave a sample.
    seen: Option<Box<dyn FnMut(usize) + 'q>>,
    series: usize,
}

impl<'q, K: Kernel> Columns<'q> for Rolling<'q, K> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        out.clear();
        let (times, range_ms) = (self.input.times, self.input.range_ms);
        let (before_ms, after_ms) = self.input.outside_ms;
        let samples = self.input.next()?;
        let timestamps = samples.timestamps.as_slice();
        self.kernel.begin(samples);
        let (mut first, mut end) = (0, 0);
        let mut any = false;
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
            if let Some(value) = self.kernel.evaluate(&window) {
                out.set(step, value);
                any = true;
            }
        }
        if any && let Some(seen) = &mut self.seen {
            seen(self.series);
        }
        self.series += 1;
        Ok(())
    }
}
