//! Functions that give vectors, except those over windows.

mod absent;
mod buckets;
mod dates;
mod histogram;
mod info;
mod labels;
mod math;
mod native;
mod natural_order;
mod sort;

use quorate_storage::Histogram;

use super::build;
use super::column::{Cell, Column};
use super::context::Context;
use super::grid::Grid;
use super::range;
use super::scalar;
use super::select::{self, Take};
use super::vector::{Mapped, Vector, relabel};
use crate::ast::{Call, Expr};
use crate::value::EvalError;

/// Begins the evaluation of a call that gives an instant vector.
pub(super) fn call<'q>(ctx: &'q Context<'q>, call: &'q Call, grid: Grid) -> Result<Vector<'q>, EvalError> {
    if let Some(vector) = range::call(ctx, call, grid)? {
        return Ok(vector);
    }
    if let Some(function) = math::of_one_number(call.func.name) {
        return map_values(ctx, &call.args[0], grid, function);
    }
    if let Some(function) = native::of_one_histogram(call.func.name) {
        return map_histograms(ctx, &call.args[0], grid, function);
    }
    if let Some(function) = dates::part(call.func.name) {
        return dates::evaluate(ctx, call.args.first(), grid, function);
    }
    let args = call.args.as_slice();
    match call.func.name {
        "vector" => build::from_scalar(ctx, &args[0], grid),
        "timestamp" => timestamp(ctx, &args[0], grid),
        "round" | "clamp" | "clamp_min" | "clamp_max" => math::with_parameters(ctx, call, grid),
        "absent" => absent::absent(ctx, &args[0], grid),
        "absent_over_time" => absent::absent_over_time(ctx, &args[0], grid),
        "info" => info::evaluate(ctx, args, grid),
        "label_replace" => labels::replace(ctx, args, grid),
        "label_join" => labels::join(ctx, args, grid),
        "sort" => sort::by_value(ctx, &args[0], grid, false),
        "sort_desc" => sort::by_value(ctx, &args[0], grid, true),
        "sort_by_label" => sort::by_labels(ctx, args, grid, false),
        "sort_by_label_desc" => sort::by_labels(ctx, args, grid, true),
        "histogram_quantile" => histogram::quantile(ctx, args, grid),
        "histogram_quantiles" => histogram::quantiles(ctx, args, grid),
        "histogram_fraction" => histogram::fraction(ctx, args, grid),
        name => Err(EvalError::Unsupported {
            feature: format!("{name}()"),
        }),
    }
}

/// Applies a function to every sample and drops the metric's name.
fn map_values<'q>(
    ctx: &'q Context<'q>,
    argument: &'q Expr,
    grid: Grid,
    function: fn(f64) -> f64,
) -> Result<Vector<'q>, EvalError> {
    let (labels, columns) = build::vector(ctx, argument, grid)?.split();
    let labels = labels.iter().map(|labels| ctx.drop_metadata(labels)).collect();
    relabel(
        ctx,
        labels,
        Mapped::new(columns, move |column: &mut Column<'q>| {
            column.map(function);
            Ok(())
        }),
    )
}

/// Applies a function to every histogram and drops the metric's name. Numbers have no result.
fn map_histograms<'q>(
    ctx: &'q Context<'q>,
    argument: &'q Expr,
    grid: Grid,
    function: fn(&Histogram) -> f64,
) -> Result<Vector<'q>, EvalError> {
    let (labels, columns) = build::vector(ctx, argument, grid)?.split();
    let labels = labels.iter().map(|labels| ctx.drop_metadata(labels)).collect();
    relabel(
        ctx,
        labels,
        Mapped::new(columns, move |column: &mut Column<'q>| {
            column.map_histograms(false, |_, histogram| Some(Cell::Number(function(histogram))))
        }),
    )
}

/// `timestamp(vector)`: a selector's samples know when they were taken, all else is as old as the step.
fn timestamp<'q>(ctx: &'q Context<'q>, argument: &'q Expr, grid: Grid) -> Result<Vector<'q>, EvalError> {
    let (labels, columns) = match argument.without_parens() {
        Expr::VectorSelector(selector) => {
            select::instant(ctx, selector, grid, Take::Timestamp, Some("timestamp"))?.split()
        }
        _ => build::vector(ctx, argument, grid)?.split(),
    };
    let is_selector = matches!(argument.without_parens(), Expr::VectorSelector(_));
    let labels = labels.iter().map(|labels| ctx.drop_metadata(labels)).collect();
    let mapped = Mapped::new(columns, move |column: &mut Column<'q>| {
        if !is_selector {
            column.replace_all(|step| grid.time_ms(step) as f64 / 1000.0);
        }
        Ok(())
    });
    relabel(ctx, labels, mapped)
}
