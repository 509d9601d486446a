//! Which kernel is which function.

use quorate_storage::SampleColumns;

use super::counter::{Count, Extrapolated, Instantaneous, Transition};
use super::extended::{AnchoredCount, Extended, boundary_of};
use super::histograms;
use super::over_time::{self, Extreme, Simple, SimpleHistograms};
use super::regression::{Deriv, DoubleExponentialSmoothing, PredictLinear};
use super::spread::{self, MedianAbsoluteDeviation, Quantile};
use super::{Kernel, RangeVector, Rolling, Window};
use crate::ast::{Call, Expr};
use crate::eval::annotate;
use crate::eval::context::Context;
use crate::eval::format::fixed_six;
use crate::eval::grid::Grid;
use crate::eval::labelset::metric_name;
use crate::eval::scalar::{self, Scalar};
use crate::eval::vector::{Vector, relabel};
use crate::value::EvalError;

/// Evaluates a function of a range vector; `None` if it isn't one.
pub(in crate::eval) fn call<'q>(
    ctx: &'q Context<'q>,
    call: &'q Call,
    grid: Grid,
) -> Result<Option<Vector<'q>>, EvalError> {
    use SimpleHistograms::{Alike, By, Ignored};
    let name = call.func.name;
    let open = |index: usize| RangeVector::open(ctx, &call.args[index], grid, Some(name));
    let parameter = |index: usize| scalar::evaluate(ctx, &call.args[index], grid);
    let simple = |looks_at_all, function: fn(&Window<'_>) -> f64, histograms| -> Result<_, EvalError> {
        rolling(
            ctx,
            call,
            grid,
            open(0)?,
            Simple {
                function,
                looks_at_all,
                histograms,
            },
        )
    };
    let vector = match name {
        "rate" | "increase" | "delta" if let Some(boundary) = boundary_of(&call.args[0]) => {
            let input = open(0)?;
            let kernel = Extended {
                boundary,
                is_counter: name != "delta",
                range_seconds: (name == "rate").then_some(input.range_ms as f64 / 1000.0),
            };
            rolling(ctx, call, grid, input, kernel)
        }
        "changes" | "resets" if boundary_of(&call.args[0]).is_some() => {
            let transition = if name == "changes" {
                Transition::CHANGE
            } else {
                Transition::RESET
            };
            rolling(ctx, call, grid, open(0)?, AnchoredCount { transition })
        }
        "rate" | "increase" | "delta" => {
            let input = open(0)?;
            let kernel = Extrapolated::new(name != "delta", name == "rate", input.range_ms);
            rolling(ctx, call, grid, input, kernel)
        }
        "irate" | "idelta" => rolling(
            ctx,
            call,
            grid,
            open(0)?,
            Instantaneous {
                is_rate: name == "irate",
            },
        ),
        "changes" => rolling(ctx, call, grid, open(0)?, Count::new(Transition::CHANGE)),
        "resets" => rolling(ctx, call, grid, open(0)?, Count::new(Transition::RESET)),
        "deriv" => rolling(ctx, call, grid, open(0)?, Deriv),
        "predict_linear" => {
            let seconds = parameter(1)?;
            rolling(ctx, call, grid, open(0)?, PredictLinear { seconds })
        }
        "double_exponential_smoothing" => {
            let (smoothing, trend) = (parameter(1)?, parameter(2)?);
            let input = open(0)?;
            if !input.labels.is_empty() {
                check_factor("smoothing factor. Expected: 0 < sf < 1", &smoothing, grid)?;
                check_factor("trend factor. Expected: 0 < tf < 1", &trend, grid)?;
            }
            rolling(
                ctx,
                call,
                grid,
                input,
                DoubleExponentialSmoothing { smoothing, trend },
            )
        }
        "sum_over_time" => simple(true, over_time::sum, By(histograms::sum)),
        "avg_over_time" => simple(true, over_time::avg, By(histograms::avg)),
        "count_over_time" => simple(false, over_time::count, Alike),
        "present_over_time" => simple(false, over_time::present, Alike),
        "first_over_time" => simple(false, over_time::first, By(histograms::first)),
        "last_over_time" => simple(false, over_time::last, By(histograms::last)),
        "stddev_over_time" => simple(true, spread::standard_deviation, Ignored),
        "stdvar_over_time" => simple(true, spread::variance, Ignored),
        "ts_of_first_over_time" => simple(false, over_time::timestamp_of_first, Alike),
        "ts_of_last_over_time" => simple(false, over_time::timestamp_of_last, Alike),
        "ts_of_max_over_time" => simple(true, over_time::timestamp_of_max, Ignored),
        "ts_of_min_over_time" => simple(true, over_time::timestamp_of_min, Ignored),
        "max_over_time" => rolling(ctx, call, grid, open(0)?, Extreme::max()),
        "min_over_time" => rolling(ctx, call, grid, open(0)?, Extreme::min()),
        "mad_over_time" => rolling(ctx, call, grid, open(0)?, MedianAbsoluteDeviation::default()),
        "quantile_over_time" => {
            let phi = parameter(0)?;
            let span = call.args[0].without_parens().span();
            rolling(
                ctx,
                call,
                grid,
                open(1)?,
                Quantile {
                    ctx,
                    phi,
                    span,
                    sliding: Default::default(),
                },
            )
        }
        _ => return Ok(None),
    };
    vector.map(Some)
}

fn check_factor(what: &str, factor: &Scalar<'_>, grid: Grid) -> Result<(), EvalError> {
    let wrong = (0..grid.count)
        .map(|step| factor.get(step))
        .find(|factor| !(*factor > 0.0 && *factor < 1.0));
    match wrong {
        Some(factor) => Err(EvalError::Execution(format!(
            "invalid {what}, got: {}",
            fixed_six(factor)
        ))),
        None => Ok(()),
    }
}

/// Slides `kernel` over `input`.
fn rolling<'q>(
    ctx: &'q Context<'q>,
    call: &'q Call,
    grid: Grid,
    input: RangeVector<'q>,
    kernel: impl Kernel + 'q,
) -> Result<Vector<'q>, EvalError> {
    let labels = match call.func.name {
        "last_over_time" | "first_over_time" => input.labels.clone(),
        _ => input
            .labels
            .iter()
            .map(|labels| ctx.drop_metadata(labels))
            .collect(),
    };
    // Of `quantile_over_time` too it is the first argument that Prometheus points at.
    let span = call
        .args
        .first()
        .map_or(call.span, |argument| argument.without_parens().span());
    let seen =
        matches!(call.func.name, "rate" | "increase").then(|| counter_names(ctx, &call.args[0], &input));
    relabel(
        ctx,
        labels,
        Rolling {
            ctx,
            grid,
            input,
            kernel,
            span,
            seen,
            series: 0,
            numbers: SampleColumns::new(),
        },
    )
}

/// Tells the user when a series that gave a rate doesn't look like a counter.
fn counter_names<'q>(
    ctx: &'q Context<'q>,
    argument: &'q Expr,
    input: &RangeVector<'q>,
) -> Box<dyn FnMut(usize) + 'q> {
    let span = argument.without_parens().span();
    let labels = input.labels.clone();
    // Series of one name mostly come together.
    let mut told: Option<usize> = None;
    Box::new(move |series| {
        let name = metric_name(&labels[series]);
        if told.is_some_and(|told| metric_name(&labels[told]) == name) {
            return;
        }
        told = Some(series);
        annotate::possible_non_counter(ctx, name, span);
    })
}
