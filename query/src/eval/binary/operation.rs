//! What an operator makes of two samples.

use std::sync::Arc;

use quorate_storage::histogram::Reconciled;
use quorate_storage::{CounterResetHint, Histogram};

use crate::ast::{BinaryExpr, BinaryOp, Span};
use crate::eval::annotate::{self, HistogramOperation};
use crate::eval::column::Cell;
use crate::eval::context::Context;
use crate::eval::operator::{self, Operator};
use crate::value::EvalError;

/// An operator and whether it answers 0 or 1 instead of filtering.
#[derive(Clone, Copy)]
pub(super) struct Operation<'q> {
    ctx: &'q Context<'q>,
    op: BinaryOp,
    /// Where the whole expression was written.
    span: Span,
    pub(super) operator: Operator,
    pub(super) returns_bool: bool,
}

impl<'q> Operation<'q> {
    pub(super) fn of(ctx: &'q Context<'q>, expr: &BinaryExpr) -> Result<Operation<'q>, EvalError> {
        Ok(Operation {
            ctx,
            op: expr.op,
            span: expr.span(),
            operator: operator::of(expr.op)?,
            returns_bool: expr.bool_modifier,
        })
    }

    /// The result; a comparison that holds keeps the left value.
    #[inline]
    pub(super) fn apply(self, lhs: f64, rhs: f64) -> Option<f64> {
        match self.operator {
            Operator::Arithmetic(f) => Some(f(lhs, rhs)),
            Operator::Comparison(f) if self.returns_bool => Some(f64::from(f(lhs, rhs))),
            Operator::Comparison(f) => f(lhs, rhs).then_some(lhs),
            Operator::Trim(_) => {
                self.incompatible("float", "float");
                None
            }
        }
    }

    /// Whether the result is another quantity than the left side, so that it has another name.
    pub(super) fn is_arithmetic(self) -> bool {
        matches!(self.operator, Operator::Arithmetic(_))
    }

    /// The result of samples that may be histograms. There is none if the operator isn't for them; the user is told.
    pub(super) fn apply_cells(self, lhs: &Cell, rhs: &Cell) -> Option<Cell> {
        match (lhs, rhs) {
            (Cell::Number(lhs), Cell::Number(rhs)) => self.apply(*lhs, *rhs).map(Cell::Number),
            (Cell::Number(lhs), Cell::Histogram(rhs)) => match self.op {
                BinaryOp::Mul => Some(changed(rhs, |histogram| histogram.scale(*lhs))),
                _ => self.incompatible("float", "histogram"),
            },
            (Cell::Histogram(lhs), Cell::Number(rhs)) => match (self.op, self.operator) {
                (BinaryOp::Mul, _) => Some(changed(lhs, |histogram| histogram.scale(*rhs))),
                (BinaryOp::Div, _) => Some(changed(lhs, |histogram| histogram.divide(*rhs))),
                (_, Operator::Trim(keep)) => {
                    let mut trimmed = Histogram::clone(lhs);
                    trimmed.trim(*rhs, keep);
                    Some(Cell::histogram(trimmed))
                }
                _ => self.incompatible("histogram", "float"),
            },
            (Cell::Histogram(lhs), Cell::Histogram(rhs)) => match self.op {
                BinaryOp::Add => self.combine(lhs, rhs, HistogramOperation::Addition),
                BinaryOp::Sub => self.combine(lhs, rhs, HistogramOperation::Subtraction),
                BinaryOp::Eq => self.compare(lhs, lhs.same_counts(rhs)),
                BinaryOp::Ne => self.compare(lhs, !lhs.same_counts(rhs)),
                _ => self.incompatible("histogram", "histogram"),
            },
        }
    }

    fn compare(self, lhs: &Arc<Histogram>, holds: bool) -> Option<Cell> {
        if self.returns_bool {
            return Some(Cell::Number(f64::from(holds)));
        }
        holds.then(|| Cell::Histogram(Arc::clone(lhs)))
    }

    fn combine(self, lhs: &Histogram, rhs: &Histogram, operation: HistogramOperation) -> Option<Cell> {
        let mut result = lhs.clone();
        let outcome = if operation == HistogramOperation::Addition {
            result.add(rhs)
        } else {
            result.sub(rhs)
        };
        let Ok(Reconciled {
            counter_reset_collision,
            custom_bounds,
        }) = outcome
        else {
            annotate::incompatible_buckets(self.ctx, self.op.as_str(), self.span);
            return None;
        };
        if counter_reset_collision {
            annotate::counter_reset_collision(self.ctx, operation, self.span);
        }
        if custom_bounds {
            annotate::custom_bounds_reconciled(self.ctx, operation, self.span);
        }
        if operation == HistogramOperation::Subtraction {
            result.counter_reset_hint = CounterResetHint::Gauge;
        }
        result.compact();
        Some(Cell::histogram(result))
    }

    #[cold]
    #[inline(never)]
    fn incompatible(self, left: &str, right: &str) -> Option<Cell> {
        annotate::incompatible_types(self.ctx, left, self.op.as_str(), right, self.span);
        None
    }
}

fn changed(histogram: &Histogram, change: impl FnOnce(&mut Histogram)) -> Cell {
    let mut changed = histogram.clone();
    change(&mut changed);
    changed.compact();
    Cell::histogram(changed)
}
