//! Expressions that are one number at each step.

use super::build;
use super::column::Column;
use super::context::Context;
use super::grid::Grid;
use super::memory::Charge;
use super::operator::{self, Operator};
use super::plan;
use crate::ast::{Call, Expr, UnaryOp};
use crate::value::EvalError;

/// A number at each step.
#[derive(Debug)]
pub(super) enum Scalar<'q> {
    /// The same at all steps.
    Constant(f64),
    /// One for each step.
    Steps(StepValues<'q>),
}

/// A number for each step.
#[derive(Debug)]
pub(super) struct StepValues<'q> {
    pub(super) values: Vec<f64>,
    _charge: Charge<'q>,
}

impl<'q> Scalar<'q> {
    /// The number at a step.
    #[inline]
    pub(super) fn get(&self, step: usize) -> f64 {
        match self {
            Scalar::Constant(value) => *value,
            Scalar::Steps(steps) => steps.values[step],
        }
    }

    /// Computes the number of each step of `grid`.
    fn steps(ctx: &'q Context<'q>, grid: Grid, f: impl FnMut(usize) -> f64) -> Result<Scalar<'q>, EvalError> {
        let charge = ctx.memory.charge(grid.count * size_of::<f64>(), grid.count)?;
        ctx.work(grid.count)?;
        Ok(Scalar::Steps(StepValues {
            values: (0..grid.count).map(f).collect(),
            _charge: charge,
        }))
    }

    /// The number `f` makes of this one.
    fn map(mut self, f: impl Fn(f64) -> f64) -> Scalar<'q> {
        match &mut self {
            Scalar::Constant(value) => *value = f(*value),
            Scalar::Steps(steps) => steps.values.iter_mut().for_each(|value| *value = f(*value)),
        }
        self
    }

    /// The number `f` makes of this one and another.
    fn zip(
        self,
        ctx: &'q Context<'q>,
        other: Scalar<'q>,
        grid: Grid,
        f: impl Fn(f64, f64) -> f64,
    ) -> Result<Scalar<'q>, EvalError> {
        match (&self, &other) {
            (Scalar::Constant(left), Scalar::Constant(right)) => Ok(Scalar::Constant(f(*left, *right))),
            _ => Scalar::steps(ctx, grid, |step| f(self.get(step), other.get(step))),
        }
    }
}

/// Evaluates a scalar expression at every step of `grid`.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    expr: &'q Expr,
    grid: Grid,
) -> Result<Scalar<'q>, EvalError> {
    if grid.count > 1 && plan::is_step_invariant(expr) {
        let single = evaluate(ctx, expr, grid.first_only())?;
        return Ok(Scalar::Constant(single.get(0)));
    }
    match expr.without_parens() {
        Expr::Number(literal) => Ok(Scalar::Constant(literal.value)),
        Expr::Unary(unary) => {
            let operand = evaluate(ctx, &unary.expr, grid)?;
            Ok(if unary.op == UnaryOp::Minus {
                operand.map(|value| -value)
            } else {
                operand
            })
        }
        Expr::Binary(binary) => {
            let lhs = evaluate(ctx, &binary.lhs, grid)?;
            let rhs = evaluate(ctx, &binary.rhs, grid)?;
            match operator::of(binary.op)? {
                Operator::Arithmetic(f) => lhs.zip(ctx, rhs, grid, f),
                Operator::Comparison(f) => lhs.zip(ctx, rhs, grid, |left, right| f64::from(f(left, right))),
                Operator::Trim(_) => Err(EvalError::Execution(format!(
                    "operator {:?} not allowed for Scalar operations",
                    binary.op.as_str()
                ))),
            }
        }
        Expr::Call(call) => function(ctx, call, grid),
        _ => Err(EvalError::Execution("expected a scalar".to_owned())),
    }
}

/// Evaluates a function that gives a scalar.
fn function<'q>(ctx: &'q Context<'q>, call: &'q Call, grid: Grid) -> Result<Scalar<'q>, EvalError> {
    let seconds = |millis: i64| millis as f64 / 1000.0;
    match call.func.name {
        "pi" => Ok(Scalar::Constant(std::f64::consts::PI)),
        "time" => Scalar::steps(ctx, grid, |step| seconds(grid.time_ms(step))),
        "scalar" => of_vector(ctx, &call.args[0], grid),
        "start" => Ok(Scalar::Constant(seconds(ctx.start_ms))),
        "end" => Ok(Scalar::Constant(seconds(ctx.end_ms))),
        "step" => Ok(Scalar::Constant(seconds(ctx.step_ms))),
        "range" => Ok(Scalar::Constant(seconds(ctx.end_ms.saturating_sub(ctx.start_ms)))),
        name @ ("min_of" | "max_of") => {
            let lhs = evaluate(ctx, &call.args[0], grid)?;
            let rhs = evaluate(ctx, &call.args[1], grid)?;
            lhs.zip(
                ctx,
                rhs,
                grid,
                if name == "min_of" {
                    operator::go_min
                } else {
                    operator::go_max
                },
            )
        }
        name => Err(EvalError::Unsupported {
            feature: format!("{name}()"),
        }),
    }
}

/// `scalar(vector)`: the vector's only sample, or NaN.
fn of_vector<'q>(ctx: &'q Context<'q>, expr: &'q Expr, grid: Grid) -> Result<Scalar<'q>, EvalError> {
    let mut vector = build::vector(ctx, expr, grid)?;
    let charge = ctx
        .memory
        .charge(grid.count * (size_of::<f64>() + 1), grid.count)?;
    let mut values = vec![f64::NAN; grid.count];
    let mut seen = vec![false; grid.count];
    let mut column = Column::new(&ctx.memory, grid.count)?;
    for _ in 0..vector.labels.len() {
        vector.next(&mut column)?;
        for (step, value) in column.iter() {
            values[step] = if seen[step] { f64::NAN } else { value };
            seen[step] = true;
        }
    }
    Ok(Scalar::Steps(StepValues {
        values,
        _charge: charge,
    }))
}
