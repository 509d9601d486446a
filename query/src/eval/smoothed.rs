//! `metric smoothed`: at each step the value between the samples around it.

use std::sync::Arc;

use quorate_storage::{CounterResetHint, Labels};

use super::annotate;
use super::column::{Cell, Column};
use super::context::Context;
use super::grid::{Grid, Times};
use super::labelset::metric_name;
use super::range::{interpolate, interpolate_histograms};
use super::select::{Selected, is_stale};
use super::vector::{Columns, Vector};
use crate::ast::Span;
use crate::value::EvalError;

/// Interpolates between the last sample before each step and the first after it, both within the lookback. Behind
/// the newest sample its value is carried on; before the first there is none.
pub(super) fn between<'q>(
    ctx: &'q Context<'q>,
    labels: Vec<Labels>,
    selected: Selected<'q>,
    grid: Grid,
    times: Times,
    span: Span,
) -> Result<Vector<'q>, EvalError> {
    let columns = Smoothed {
        ctx,
        selected,
        grid,
        times,
        span,
        labels: labels.clone().into_iter(),
    };
    Vector::new(ctx, labels, columns)
}

struct Smoothed<'q> {
    ctx: &'q Context<'q>,
    selected: Selected<'q>,
    grid: Grid,
    times: Times,
    /// Where the selector was written.
    span: Span,
    /// The labels of the series to come.
    labels: std::vec::IntoIter<Labels>,
}

impl<'q> Columns<'q> for Smoothed<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        out.clear();
        self.ctx.work(self.grid.count)?;
        let lookback_ms = self.ctx.options.lookback_ms;
        let labels = self.labels.next().unwrap_or_default();
        let name = metric_name(&labels);
        let samples = self.selected.next()?;
        let mut points: Vec<(i64, Cell)> = Vec::with_capacity(samples.len());
        for (index, (time_ms, value)) in samples.iter().enumerate() {
            if !is_stale(value) {
                let cell = match samples.histogram(index) {
                    Some(histogram) => Cell::Histogram(Arc::clone(histogram)),
                    None => Cell::Number(value),
                };
                points.push((time_ms, cell));
            }
        }
        let _charge = self
            .ctx
            .memory
            .charge(points.len() * size_of::<(i64, Cell)>(), points.len())?;
        let mut next = 0;
        for step in 0..self.grid.count {
            let time_ms = self.times.reference_ms(self.grid.time_ms(step));
            while next < points.len() && points[next].0 < time_ms {
                next += 1;
            }
            let after = points
                .get(next)
                .filter(|point| point.0 <= time_ms.saturating_add(lookback_ms));
            let before = next
                .checked_sub(1)
                .map(|last| &points[last])
                .filter(|point| point.0 > time_ms.saturating_sub(lookback_ms));
            let cell = match (before, after) {
                (_, Some(exact)) if exact.0 == time_ms => Some(exact.1.clone()),
                (Some(before), Some(after)) => self.between_points(before, after, time_ms, name),
                (Some(before), None) => Some(before.1.clone()),
                (None, _) => None,
            };
            if let Some(cell) = cell {
                out.set_cell(step, cell)?;
            }
        }
        Ok(())
    }
}

impl Smoothed<'_> {
    /// The value between two samples; none, of which the user is told, if they are of different kinds.
    fn between_points(
        &self,
        (from_ms, from): &(i64, Cell),
        (to_ms, to): &(i64, Cell),
        time_ms: i64,
        name: &str,
    ) -> Option<Cell> {
        match (from, to) {
            (Cell::Number(from), Cell::Number(to)) => {
                let value = interpolate((*from_ms, *from), (*to_ms, *to), time_ms, false);
                Some(Cell::Number(value))
            }
            (Cell::Histogram(from), Cell::Histogram(to)) => {
                let share = (time_ms - from_ms) as f64 / (to_ms - from_ms) as f64;
                let is_counter = to.counter_reset_hint != CounterResetHint::Gauge;
                let between = interpolate_histograms(from, to, share, is_counter);
                if between.is_none() {
                    annotate::mixed_schemas(self.ctx, name, self.span);
                }
                between.map(Cell::histogram)
            }
            _ => {
                annotate::mixed_floats_histograms(self.ctx, name, self.span);
                None
            }
        }
    }
}
