//! Binary operators with a vector on at least one side.

mod fill;
mod join;
mod one_side;
mod set;

use quorate_storage::Labels;

use super::build;
use super::column::Column;
use super::context::Context;
use super::grid::Grid;
use super::labelset::{only, unmark, without_and_nameless};
use super::operator::{self, Operator};
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

/// An operator and whether it answers 0 or 1 instead of filtering.
#[derive(Clone, Copy, Debug)]
struct Operation {
    operator: Operator,
    returns_bool: bool,
}

impl Operation {
    fn of(expr: &BinaryExpr) -> Result<Operation, EvalError> {
        Ok(Operation {
            operator: operator::of(expr.op)?,
            returns_bool: expr.bool_modifier,
        })
    }

    /// The result; a comparison that holds keeps the left value.
    #[inline]
    fn apply(self, lhs: f64, rhs: f64) -> Option<f64> {
        match self.operator {
            Operator::Arithmetic(f) => Some(f(lhs, rhs)),
            Operator::Comparison(f) if self.returns_bool => Some(f64::from(f(lhs, rhs))),
            Operator::Comparison(f) => f(lhs, rhs).then_some(lhs),
        }
    }

    fn is_arithmetic(self) -> bool {
        matches!(self.operator, Operator::Arithmetic(_))
    }
}

/// A vector and a scalar.
fn with_scalar<'q>(
    ctx: &'q Context<'q>,
    expr: &'q BinaryExpr,
    grid: Grid,
    scalar_is_left: bool,
) -> Result<Vector<'q>, EvalError> {
    let operation = Operation::of(expr)?;
    let (scalar_side, vector_side) = if scalar_is_left {
        (&expr.lhs, &expr.rhs)
    } else {
        (&expr.rhs, &expr.lhs)
    };
    let scalar = scalar::evaluate(ctx, scalar_side, grid)?;
    let (labels, columns) = build::vector(ctx, vector_side, grid)?.split();
    let mapped = Mapped::new(columns, move |column: &mut Column<'q>| {
        column.filter_map(|step, value| {
            let number = scalar.get(step);
            if !scalar_is_left {
                return operation.apply(value, number);
            }
            match operation.operator {
                // The vector's value is kept, whatever side it is on.
                Operator::Comparison(f) if !operation.returns_bool => f(number, value).then_some(value),
                _ => operation.apply(number, value),
            }
        });
    });
    if !operation.is_arithmetic() && !operation.returns_bool {
        return Vector::new(ctx, labels, mapped);
    }
    let labels = labels.iter().map(|labels| ctx.drop_metadata(labels)).collect();
    relabel(ctx, labels, mapped)
}
