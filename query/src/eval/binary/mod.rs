//! Binary operators with a vector on at least one side.

mod fill;
mod join;
mod one_side;
mod operation;
mod set;

use std::sync::Arc;

use quorate_storage::Labels;

use self::operation::Operation;
use super::build;
use super::column::{Cell, Column};
use super::context::Context;
use super::grid::Grid;
use super::labelset::{only, unmark, without_and_nameless};
use super::operator::Operator;
use super::scalar;
use super::vector::{Mapped, Vector, relabel};
use crate::ast::{BinaryExpr, ValueType, VectorMatching};
use crate::value::EvalError;

/// Begins the evaluation.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    expr: &'q BinaryExpr,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    match (expr.lhs.value_type(), expr.rhs.value_type()) {
        (ValueType::Scalar, _) => with_scalar(ctx, expr, grid, true),
        (_, ValueType::Scalar) => with_scalar(ctx, expr, grid, false),
        _ => between_vectors(ctx, expr, grid),
    }
}

fn between_vectors<'q>(
    ctx: &'q Context<'q>,
    expr: &'q BinaryExpr,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let Some(matching) = &expr.matching else {
        return Err(EvalError::Execution(
            "the sides of an operator have no matching".to_owned(),
        ));
    };
    if matching.fill_left.is_some() || matching.fill_right.is_some() {
        return fill::evaluate(ctx, expr, matching, grid);
    }
    if expr.op.is_set() {
        return set::evaluate(ctx, expr, matching, grid);
    }
    join::evaluate(ctx, expr, matching, grid)
}

/// The labels that must be equal for two series to match.
fn signature(labels: &Labels, matching: &VectorMatching) -> Labels {
    if matching.on {
        unmark(&only(labels, &matching.labels))
    } else {
        without_and_nameless(labels, &matching.labels)
    }
}

/// A vector and a scalar.
#[inline(never)]
fn with_scalar<'q>(
    ctx: &'q Context<'q>,
    expr: &'q BinaryExpr,
    grid: Grid,
    scalar_is_left: bool,
) -> Result<Vector<'q>, EvalError> {
    let operation = Operation::of(ctx, expr)?;
    let (scalar_side, vector_side) = if scalar_is_left {
        (&expr.lhs, &expr.rhs)
    } else {
        (&expr.rhs, &expr.lhs)
    };
    let scalar = scalar::evaluate(ctx, scalar_side, grid)?;
    let (labels, columns) = build::vector(ctx, vector_side, grid)?.split();
    let mapped = Mapped::new(columns, move |column: &mut Column<'q>| {
        let of_number = |step: usize, value: f64| {
            let number = scalar.get(step);
            if !scalar_is_left {
                return operation.apply(value, number);
            }
            match operation.operator {
                // The vector's value is kept, whatever side it is on.
                Operator::Comparison(f) if !operation.returns_bool => f(number, value).then_some(value),
                _ => operation.apply(number, value),
            }
        };
        if !column.may_hold_histograms() {
            column.filter_map(of_number);
            return Ok(());
        }
        let numbers: Vec<(usize, f64)> = column.iter().collect();
        column.map_histograms(false, |step, histogram| {
            let (own, number) = (
                Cell::Histogram(Arc::clone(histogram)),
                Cell::Number(scalar.get(step)),
            );
            if scalar_is_left {
                operation.apply_cells(&number, &own)
            } else {
                operation.apply_cells(&own, &number)
            }
        })?;
        for (step, value) in numbers {
            if let Some(value) = of_number(step, value) {
                column.set(step, value);
            }
        }
        Ok(())
    });
    if !operation.is_arithmetic() && !operation.returns_bool {
        return Vector::new(ctx, labels, mapped);
    }
    let labels = labels.iter().map(|labels| ctx.drop_metadata(labels)).collect();
    relabel(ctx, labels, mapped)
}
