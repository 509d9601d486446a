//! From an expression to the vector it gives.

use quorate_storage::Histogram;

use super::aggregate;
use super::binary;
use super::column::{Cell, Column};
use super::context::Context;
use super::functions;
use super::grid::Grid;
use super::plan;
use super::scalar::{self, Scalar};
use super::select::{self, Take};
use super::vector::{Broadcast, Columns, Mapped, Vector, relabel};
use crate::ast::{Expr, UnaryExpr, UnaryOp, ValueType};
use crate::value::EvalError;

/// Begins the evaluation of an instant vector expression at every step of `grid`.
pub(super) fn vector<'q>(ctx: &'q Context<'q>, expr: &'q Expr, grid: Grid) -> Result<Vector<'q>, EvalError> {
    if grid.count == 0 {
        return Ok(Vector::empty(ctx));
    }
    if grid.count > 1 && plan::is_step_invariant(expr) {
        return Broadcast::over(ctx, vector(ctx, expr, grid.first_only())?);
    }
    match expr.without_parens() {
        Expr::VectorSelector(selector) => select::instant(ctx, selector, grid, Take::Value, None),
        Expr::Aggregate(aggregate) => aggregate::evaluate(ctx, aggregate, grid),
        Expr::Call(call) => functions::call(ctx, call, grid),
        Expr::Binary(binary) => binary::evaluate(ctx, binary, grid),
        Expr::Unary(unary) => negate(ctx, unary, grid),
        _ => Err(EvalError::Execution("expected an instant vector".to_owned())),
    }
}

/// Begins the evaluation of an instant vector, or of a scalar as the only series of one.
pub(super) fn vector_or_scalar<'q>(
    ctx: &'q Context<'q>,
    expr: &'q Expr,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    match expr.value_type() {
        ValueType::Scalar => from_scalar(ctx, expr, grid),
        _ => vector(ctx, expr, grid),
    }
}

/// A scalar as a series without labels.
pub(super) fn from_scalar<'q>(
    ctx: &'q Context<'q>,
    expr: &'q Expr,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let scalar = scalar::evaluate(ctx, expr, grid)?;
    Vector::new(ctx, vec![Default::default()], ScalarColumn(scalar))
}

struct ScalarColumn<'q>(Scalar<'q>);

impl<'q> Columns<'q> for ScalarColumn<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        (0..out.len()).for_each(|step| out.set(step, self.0.get(step)));
        Ok(())
    }
}

fn negate<'q>(ctx: &'q Context<'q>, unary: &'q UnaryExpr, grid: Grid) -> Result<Vector<'q>, EvalError> {
    let operand = vector(ctx, &unary.expr, grid)?;
    if unary.op == UnaryOp::Plus {
        return Ok(operand);
    }
    let (labels, columns) = operand.split();
    let labels = labels.iter().map(|labels| ctx.drop_metadata(labels)).collect();
    relabel(
        ctx,
        labels,
        Mapped::new(columns, |column: &mut Column<'q>| {
            if !column.may_hold_histograms() {
                column.map(|value| -value);
                return Ok(());
            }
            negate_mixed(column)
        }),
    )
}

/// Negates numbers and histograms.
fn negate_mixed(column: &mut Column<'_>) -> Result<(), EvalError> {
    let numbers: Vec<(usize, f64)> = column.iter().collect();
    numbers
        .into_iter()
        .for_each(|(step, value)| column.set(step, -value));
    column.map_histograms(true, |_, histogram| {
        let mut negative = Histogram::clone(histogram);
        negative.scale(-1.0);
        Some(Cell::histogram(negative))
    })
}
