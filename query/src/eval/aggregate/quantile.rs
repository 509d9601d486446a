//! The `quantile` aggregation.

use super::Grouped;
use crate::ast::Span;
use crate::eval::annotate;
use crate::eval::column::Column;
use crate::eval::context::Context;
use crate::eval::quantile::quantile;
use crate::eval::scalar::Scalar;
use crate::eval::vector::{Columns, Vector};
use crate::value::EvalError;

/// Begins the evaluation. `span` is where φ was written, `vector_span` where the vector was.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    input: Grouped<'q>,
    phi: Scalar<'q>,
    span: Span,
    vector_span: Span,
) -> Result<Vector<'q>, EvalError> {
    match &phi {
        Scalar::Constant(phi) => annotate::invalid_quantile(ctx, *phi, span),
        Scalar::Steps(steps) => warn_of_extremes(ctx, &steps.values, span),
    }
    let labels = input.groups.clone();
    Vector::new(
        ctx,
        labels,
        Quantiles {
            ctx,
            phi,
            span: vector_span,
            input: Some(input),
            groups: Vec::new().into_iter(),
        },
    )
}

/// Warns once for NaN, once for the largest and once for the smallest φ, if they are wrong.
fn warn_of_extremes(ctx: &Context<'_>, phis: &[f64], span: Span) {
    if let Some(nan) = phis.iter().find(|phi| phi.is_nan()) {
        annotate::invalid_quantile(ctx, *nan, span);
    }
    for extreme in [
        phis.iter().copied().reduce(f64::max),
        phis.iter().copied().reduce(f64::min),
    ] {
        annotate::invalid_quantile(ctx, extreme.unwrap_or(0.0), span);
    }
}

/// A quantile needs all values at once: the columns of all series are kept until their group is done.
struct Quantiles<'q> {
    ctx: &'q Context<'q>,
    phi: Scalar<'q>,
    /// Where the vector was written.
    span: Span,
    input: Option<Grouped<'q>>,
    groups: std::vec::IntoIter<Vec<Column<'q>>>,
}

impl<'q> Quantiles<'q> {
    fn collect(&mut self, input: Grouped<'q>, steps: usize) -> Result<(), EvalError> {
        let Grouped {
            mut vector,
            group_of,
            groups,
        } = input;
        let mut columns: Vec<Vec<Column<'q>>> = groups.iter().map(|_| Vec::new()).collect();
        for group in group_of {
            let mut column = Column::new(&self.ctx.memory, steps)?;
            vector.next(&mut column)?;
            if column.drop_histograms() {
                annotate::ignored_in_aggregation(self.ctx, "quantile", self.span);
            }
            columns[group].push(column);
        }
        self.groups = columns.into_iter();
        Ok(())
    }
}

impl<'q> Columns<'q> for Quantiles<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        if let Some(input) = self.input.take() {
            self.collect(input, out.len())?;
        }
        out.clear();
        let columns = self.groups.next().unwrap_or_default();
        let _charge = self.ctx.memory.charge(columns.len() * size_of::<f64>(), 0)?;
        let mut values = Vec::with_capacity(columns.len());
        for step in 0..out.len() {
            self.ctx.work(columns.len())?;
            values.clear();
            values.extend(columns.iter().filter_map(|column| column.get(step)));
            if !values.is_empty() {
                out.set(step, quantile(self.phi.get(step), &mut values));
            }
        }
        Ok(())
    }
}
