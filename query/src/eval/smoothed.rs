//! `metric smoothed`: at each step the value between the samples around it.

use quorate_storage::Labels;

use super::column::Column;
use super::context::Context;
use super::grid::{Grid, Times};
use super::range::interpolate;
use super::select::{Selected, is_stale};
use super::vector::{Columns, Vector};
use crate::value::EvalError;

/// Interpolates between the last sample before each step and the first after it, both within the lookback. Behind
/// the newest sample its value is carried on; before the first there is none.
pub(super) fn between<'q>(
    ctx: &'q Context<'q>,
    labels: Vec<Labels>,
    selected: Selected<'q>,
    grid: Grid,
    times: Times,
) -> Result<Vector<'q>, EvalError> {
    let columns = Smoothed {
        ctx,
        selected,
        grid,
        times,
    };
    Vector::new(ctx, labels, columns)
}

struct Smoothed<'q> {
    ctx: &'q Context<'q>,
    selected: Selected<'q>,
    grid: Grid,
    times: Times,
}

impl<'q> Columns<'q> for Smoothed<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        out.clear();
        self.ctx.work(self.grid.count)?;
        let lookback_ms = self.ctx.options.lookback_ms;
        let samples = self.selected.next()?;
        let all = samples
            .timestamps
            .iter()
            .copied()
            .zip(samples.values.iter().copied());
        let points: Vec<(i64, f64)> = all.filter(|(_, value)| !is_stale(*value)).collect();
        let _charge = self
            .ctx
            .memory
            .charge(points.len() * size_of::<(i64, f64)>(), points.len())?;
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
                .map(|last| points[last])
                .filter(|point| point.0 > time_ms.saturating_sub(lookback_ms));
            match (before, after) {
                (_, Some(exact)) if exact.0 == time_ms => out.set(step, exact.1),
                (Some(before), Some(after)) => out.set(step, interpolate(before, *after, time_ms, false)),
                (Some(before), None) => out.set(step, before.1),
                (None, _) => {}
            }
        }
        Ok(())
    }
}
