//! Evaluation of PromQL, series at a time.
//!
//! Each expression becomes a vector whose labels are known first and whose series then come one by one, as a column
//! of values over all steps. Functions and operators work on a column at a time and let go of it; aggregations keep
//! their state for each group and step, joins keep one side. An instant query is a range query of one step.

mod aggregate;
mod annotate;
mod binary;
mod build;
mod column;
mod context;
mod format;
mod functions;
mod grid;
mod kahan;
mod labelset;
mod memory;
mod operator;
mod plan;
mod quantile;
mod range;
mod scalar;
mod select;
mod smoothed;
mod vector;

use std::sync::Arc;

use quorate_storage::Labels;

use column::{Cell, Column};
use context::Context;
use grid::Grid;
use labelset::{drop_marked, is_marked};
use memory::Charge;
use range::RangeVector;
use vector::Vector;

use crate::ast::{Boundary, Expr, ValueType};
use crate::source::Source;
use crate::value::{EvalError, EvalOptions, Evaluated, LimitKind, MatrixSeries, Value, VectorSample};

/// How many levels an expression may have. Evaluation recurses this deep, which must fit the stack of a thread that
/// a runtime keeps for blocking work.
pub const MAX_HEIGHT: usize = 384;

/// Times beyond this, in milliseconds, are refused: room is left for ranges and offsets to be added.
const MAX_TIME_MS: i64 = i64::MAX / 4;

/// Evaluates an expression at one time, Unix milliseconds.
pub fn eval_instant(
    expr: &Expr,
    source: &dyn Source,
    time_ms: i64,
    options: &EvalOptions<'_>,
) -> Result<Evaluated, EvalError> {
    check(expr, &[time_ms])?;
    let ctx = Context::new(source, options, expr, (time_ms, time_ms, 0));
    ctx.check_abort()?;
    let value = instant_value(&ctx, expr, time_ms)?;
    Ok(finish(&ctx, value))
}

/// Evaluates an expression at `start_ms` and every `step_ms` up to and including `end_ms`, Unix milliseconds. The
/// result is always a matrix.
pub fn eval_range(
    expr: &Expr,
    source: &dyn Source,
    (start_ms, end_ms, step_ms): (i64, i64, i64),
    options: &EvalOptions<'_>,
) -> Result<Evaluated, EvalError> {
    check(expr, &[start_ms, end_ms])?;
    if step_ms <= 0 {
        return Err(EvalError::BadRequest(
            "the step of a range query must be above zero".to_owned(),
        ));
    }
    if end_ms < start_ms {
        return Err(EvalError::BadRequest(
            "end timestamp must not be before start time".to_owned(),
        ));
    }
    let value_type = expr.value_type();
    if !matches!(value_type, ValueType::Scalar | ValueType::Vector) {
        let kind = value_type.documented();
        return Err(EvalError::BadRequest(format!(
            "invalid expression type \"{kind}\" for range query, must be Scalar or instant Vector"
        )));
    }
    let ctx = Context::new(source, options, expr, (start_ms, end_ms, step_ms));
    ctx.check_abort()?;
    let grid = Grid::range(start_ms, end_ms, step_ms, options.max_steps)?;
    let value = Value::Matrix(range_matrix(&ctx, expr, grid)?);
    Ok(finish(&ctx, value))
}

/// Refuses what can't be evaluated safely.
fn check(expr: &Expr, times_ms: &[i64]) -> Result<(), EvalError> {
    if times_ms
        .iter()
        .any(|time_ms| !(-MAX_TIME_MS..=MAX_TIME_MS).contains(time_ms))
    {
        return Err(EvalError::BadRequest(
            "the time of the query is out of range".to_owned(),
        ));
    }
    if expr.height() > MAX_HEIGHT {
        return Err(EvalError::Limit {
            limit: LimitKind::Nesting,
            max: MAX_HEIGHT as u64,
        });
    }
    check_boundaries(expr)
}

/// Refuses `anchored` and `smoothed` where they mean nothing.
fn check_boundaries(expr: &Expr) -> Result<(), EvalError> {
    match expr {
        Expr::Call(call) => range::check_call(call)?,
        Expr::VectorSelector(selector) if selector.boundary == Some(Boundary::Anchored) => {
            let message = "anchored modifier is not supported for instant vector selectors";
            return Err(EvalError::Execution(message.to_owned()));
        }
        _ => {}
    }
    expr.children().into_iter().try_for_each(check_boundaries)
}

fn finish(ctx: &Context<'_>, value: Value) -> Evaluated {
    let (warnings, infos) = ctx.take_annotations();
    Evaluated {
        value,
        warnings,
        infos,
        stats: ctx.stats(),
    }
}

fn instant_value<'q>(ctx: &'q Context<'q>, expr: &'q Expr, time_ms: i64) -> Result<Value, EvalError> {
    let grid = Grid::instant(time_ms);
    match expr.value_type() {
        ValueType::Scalar => {
            let value = scalar::evaluate(ctx, expr, grid)?.get(0);
            Ok(Value::Scalar {
                timestamp_ms: time_ms,
                value,
            })
        }
        ValueType::String => {
            let Expr::String(literal) = expr.without_parens() else {
                return Err(EvalError::Execution("expected a string".to_owned()));
            };
            let value = String::from_utf8_lossy(&literal.value).into_owned();
            Ok(Value::String {
                timestamp_ms: time_ms,
                value,
            })
        }
        ValueType::Vector => {
            let mut vector = cleaned(ctx, build::vector(ctx, expr, grid)?)?;
            let mut column = Column::new(&ctx.memory, 1)?;
            let mut samples = Vec::new();
            let mut charge = ctx.memory.nothing();
            for labels in std::mem::take(&mut vector.labels) {
                vector.next(&mut column)?;
                if let Some(cell) = column.cell(0) {
                    charge.grow(size_of::<VectorSample>(), 1)?;
                    samples.push(sample(&mut charge, labels, time_ms, cell)?);
                }
            }
            Ok(Value::Vector(samples))
        }
        ValueType::Matrix => raw_matrix(ctx, expr, grid).map(Value::Matrix),
    }
}

fn sample(
    charge: &mut Charge<'_>,
    labels: Labels,
    time_ms: i64,
    cell: Cell,
) -> Result<VectorSample, EvalError> {
    let (value, histogram) = match cell {
        Cell::Number(value) => (value, None),
        Cell::Histogram(histogram) => {
            charge.grow(histogram.memory_bytes(), column::samples_of(&histogram))?;
            (histogram.sum, Some(histogram))
        }
    };
    Ok(VectorSample {
        labels,
        timestamp_ms: time_ms,
        value,
        histogram,
    })
}

/// Drops the names that were to go from the final result.
fn cleaned<'q>(ctx: &'q Context<'q>, vector: Vector<'q>) -> Result<Vector<'q>, EvalError> {
    if !vector.labels.iter().any(is_marked) {
        return Ok(vector);
    }
    let (labels, columns) = vector.split();
    vector::relabel(ctx, labels.iter().map(drop_marked).collect(), columns)
}

/// The samples of a range vector, as they are.
fn raw_matrix<'q>(ctx: &'q Context<'q>, expr: &'q Expr, grid: Grid) -> Result<Vec<MatrixSeries>, EvalError> {
    let mut input = RangeVector::open(ctx, expr, grid, None)?;
    let (start_ms, end_ms) = input.bounds_ms(grid.time_ms(0));
    let mut matrix = Vec::new();
    let mut charge = ctx.memory.nothing();
    for labels in input.labels.clone() {
        let samples = input.next()?;
        let first = samples
            .timestamps
            .partition_point(|timestamp_ms| *timestamp_ms <= start_ms);
        let end = samples
            .timestamps
            .partition_point(|timestamp_ms| *timestamp_ms <= end_ms);
        if first < end {
            charge.grow((end - first) * 16 + size_of::<MatrixSeries>(), end - first)?;
            let mut histograms = Vec::new();
            for (index, histogram) in &samples.histograms {
                if (first..end).contains(index) {
                    charge.grow(histogram.memory_bytes(), column::samples_of(histogram))?;
                    histograms.push((index - first, Arc::clone(histogram)));
                }
            }
            let labels = if is_marked(&labels) {
                drop_marked(&labels)
            } else {
                labels
            };
            matrix.push(MatrixSeries {
                labels,
                timestamps_ms: samples.timestamps[first..end].to_vec(),
                values: samples.values[first..end].to_vec(),
                histograms,
            });
        }
    }
    matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
    if matrix.windows(2).any(|two| two[0].labels == two[1].labels) {
        return Err(vector::duplicate_labels());
    }
    Ok(matrix)
}

fn range_matrix<'q>(
    ctx: &'q Context<'q>,
    expr: &'q Expr,
    grid: Grid,
) -> Result<Vec<MatrixSeries>, EvalError> {
    let mut vector = cleaned(ctx, build::vector_or_scalar(ctx, expr, grid)?)?;
    let mut column = Column::new(&ctx.memory, grid.count)?;
    let mut matrix = Vec::new();
    let mut charge = ctx.memory.nothing();
    for labels in std::mem::take(&mut vector.labels) {
        vector.next(&mut column)?;
        let count = column.present().count();
        if count == 0 {
            continue;
        }
        charge.grow(count * 16 + size_of::<MatrixSeries>(), count)?;
        let mut series = MatrixSeries {
            labels,
            timestamps_ms: Vec::with_capacity(count),
            values: Vec::with_capacity(count),
            histograms: Vec::new(),
        };
        if column.may_hold_histograms() {
            push_mixed(&mut series, &column, grid, &mut charge)?;
        } else {
            for (step, value) in column.iter() {
                series.timestamps_ms.push(grid.time_ms(step));
                series.values.push(value);
            }
        }
        matrix.push(series);
    }
    matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok(matrix)
}

/// Appends the samples of a column that may hold histograms.
fn push_mixed(
    series: &mut MatrixSeries,
    column: &Column<'_>,
    grid: Grid,
    charge: &mut Charge<'_>,
) -> Result<(), EvalError> {
    for step in column.present().iter() {
        match column.cell(step) {
            Some(Cell::Number(value)) => series.values.push(value),
            Some(Cell::Histogram(histogram)) => {
                charge.grow(histogram.memory_bytes(), column::samples_of(&histogram))?;
                let index = series.values.len();
                series.values.push(histogram.sum);
                series.histograms.push((index, histogram));
            }
            None => continue,
        }
        series.timestamps_ms.push(grid.time_ms(step));
    }
    Ok(())
}
