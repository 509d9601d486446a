//! Aggregations: series with equal grouping labels become one.

mod count_values;
mod fold;
mod fold_histograms;
mod limit_ratio;
mod quantile;
mod select;

use std::collections::HashMap;

use quorate_storage::Labels;

use super::build;
use super::context::Context;
use super::format;
use super::grid::Grid;
use super::labelset::{only, without_and_nameless};
use super::scalar::{self, Scalar};
use super::vector::Vector;
use crate::ast::{AggregateExpr, AggregateOp, Expr, Grouping};
use crate::value::EvalError;

/// Begins the evaluation of an aggregation.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    expr: &'q AggregateExpr,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    use AggregateOp as Op;
    match expr.op {
        Op::CountValues => return count_values::evaluate(ctx, expr, grid),
        Op::LimitRatio => {
            let ratio = expr
                .param
                .as_ref()
                .map(|param| scalar::evaluate(ctx, param, grid));
            let (ratio, _) = required(expr, ratio.transpose()?)?;
            return limit_ratio::evaluate(ctx, expr, ratio, grid);
        }
        _ => {}
    }
    let parameter = expr
        .param
        .as_ref()
        .map(|param| scalar::evaluate(ctx, param, grid))
        .transpose()?;
    let span = expr.expr.without_parens().span();
    let input = Grouped::new(build::vector(ctx, &expr.expr, grid)?, &expr.grouping);
    match expr.op {
        Op::Sum => fold::evaluate::<fold::Summed>(ctx, input, grid, span),
        Op::Avg => fold::evaluate::<fold::Averaged>(ctx, input, grid, span),
        Op::Count => fold::evaluate::<fold::Counted>(ctx, input, grid, span),
        Op::Min => fold::evaluate::<fold::Smallest>(ctx, input, grid, span),
        Op::Max => fold::evaluate::<fold::Largest>(ctx, input, grid, span),
        Op::Group => fold::evaluate::<fold::Present>(ctx, input, grid, span),
        Op::Stddev => fold::evaluate::<fold::Deviation>(ctx, input, grid, span),
        Op::Stdvar => fold::evaluate::<fold::Variance>(ctx, input, grid, span),
        Op::Quantile => {
            let (phi, param) = required(expr, parameter)?;
            quantile::evaluate(ctx, input, phi, param.without_parens().span(), span)
        }
        op @ (Op::Topk | Op::Bottomk | Op::Limitk) => {
            let (k, _) = required(expr, parameter)?;
            select::evaluate(ctx, input, grid, Limits::new(&k, grid)?, op, span)
        }
        Op::CountValues | Op::LimitRatio => Err(EvalError::Execution("unexpected aggregation".to_owned())),
    }
}

fn required<'q>(
    expr: &'q AggregateExpr,
    parameter: Option<Scalar<'q>>,
) -> Result<(Scalar<'q>, &'q Expr), EvalError> {
    parameter
        .zip(expr.param.as_ref())
        .ok_or_else(|| EvalError::Execution("aggregation lacks its parameter".to_owned()))
}

/// A vector, and to which group each of its series belongs.
struct Grouped<'q> {
    vector: Vector<'q>,
    /// For each series, the index of its group.
    group_of: Vec<usize>,
    /// The groups' labels, in the order of their first series.
    groups: Vec<Labels>,
}

impl<'q> Grouped<'q> {
    fn new(vector: Vector<'q>, grouping: &Grouping) -> Grouped<'q> {
        let mut index: HashMap<Labels, usize> = HashMap::new();
        let mut groups = Vec::new();
        let group_of = vector
            .labels
            .iter()
            .map(|labels| {
                let key = group_labels(labels, grouping);
                *index.entry(key).or_insert_with_key(|key| {
                    groups.push(key.clone());
                    groups.len() - 1
                })
            })
            .collect();
        Grouped {
            vector,
            group_of,
            groups,
        }
    }
}

/// The labels of the group that a series belongs to.
fn group_labels(labels: &Labels, grouping: &Grouping) -> Labels {
    match grouping {
        Grouping::By(names) if names.is_empty() => Labels::empty(),
        Grouping::By(names) => only(labels, names),
        Grouping::Without(names) => without_and_nameless(labels, names),
    }
}

/// How many samples of a group are taken, at each step.
enum Limits {
    Same(usize),
    Steps(Vec<usize>),
}

impl Limits {
    /// Converts `topk`'s parameter as Prometheus does.
    fn new(k: &Scalar<'_>, grid: Grid) -> Result<Limits, EvalError> {
        let convert = |k: f64| {
            if k.is_nan() {
                return Err(EvalError::Execution("Parameter value is NaN".to_owned()));
            }
            if k >= i64::MAX as f64 {
                let k = format::shortest(k);
                return Err(EvalError::Execution(format!("Scalar value {k} overflows int64")));
            }
            if k <= i64::MIN as f64 {
                let k = format::shortest(k);
                return Err(EvalError::Execution(format!("Scalar value {k} underflows int64")));
            }
            Ok(usize::try_from(k as i64).unwrap_or(0))
        };
        match k {
            Scalar::Constant(k) => convert(*k).map(Limits::Same),
            Scalar::Steps(..) => (0..grid.count)
                .map(|step| convert(k.get(step)))
                .collect::<Result<_, _>>()
                .map(Limits::Steps),
        }
    }

    fn at(&self, step: usize) -> usize {
        match self {
            Limits::Same(k) => *k,
            Limits::Steps(steps) => steps[step],
        }
    }
}
