//! `sort`, `sort_desc`, `sort_by_label`, `sort_by_label_desc`.

use std::cmp::Ordering;

use quorate_storage::Labels;

use super::labels::text_of;
use super::{build, natural_order};
use crate::ast::Expr;
use crate::eval::column::{Cell, Column};
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::vector::{Mapped, Ready, Vector};
use crate::value::EvalError;

/// Orders an instant vector by value, NaN last. The result of a range query is always in order of labels, so there
/// this changes nothing.
pub(super) fn by_value<'q>(
    ctx: &'q Context<'q>,
    argument: &'q Expr,
    grid: Grid,
    descending: bool,
) -> Result<Vector<'q>, EvalError> {
    let (labels, columns) = build::vector(ctx, argument, grid)?.split();
    // Histograms have no order.
    let numbers = Mapped::new(columns, |column: &mut Column<'q>| {
        column.drop_histograms();
        Ok(())
    });
    let vector = Vector::new(ctx, labels, numbers)?;
    if grid.count != 1 {
        return Ok(vector);
    }
    reorder(ctx, vector, |(_, a), (_, b)| match (a.is_nan(), b.is_nan()) {
        (false, false) if descending => b.total_cmp(&a),
        (false, false) => a.total_cmp(&b),
        (a_is_nan, b_is_nan) => a_is_nan.cmp(&b_is_nan),
    })
}

/// Orders an instant vector by the values of labels.
pub(super) fn by_labels<'q>(
    ctx: &'q Context<'q>,
    args: &'q [Expr],
    grid: Grid,
    descending: bool,
) -> Result<Vector<'q>, EvalError> {
    let names: Vec<&str> = args[1..]
        .iter()
        .map(|arg| text_of(arg, "sort_by_label()"))
        .collect::<Result<_, _>>()?;
    let vector = build::vector(ctx, &args[0], grid)?;
    if grid.count != 1 {
        return Ok(vector);
    }
    reorder(ctx, vector, |(a, _), (b, _)| {
        let ascending = compare_labels(a, b, &names);
        if descending {
            ascending.reverse()
        } else {
            ascending
        }
    })
}

fn compare_labels(a: &Labels, b: &Labels, names: &[&str]) -> Ordering {
    for name in names {
        let order = natural_order::compare(a.get(name).unwrap_or(""), b.get(name).unwrap_or(""));
        if order.is_ne() {
            return order;
        }
    }
    a.cmp(b)
}

/// Sorts the samples of a vector at a single step.
fn reorder<'q>(
    ctx: &'q Context<'q>,
    mut vector: Vector<'q>,
    compare: impl Fn((&Labels, f64), (&Labels, f64)) -> Ordering,
) -> Result<Vector<'q>, EvalError> {
    let mut scratch = Column::new(&ctx.memory, 1)?;
    let mut samples: Vec<(Labels, Cell)> = Vec::new();
    for labels in std::mem::take(&mut vector.labels) {
        vector.next(&mut scratch)?;
        if let Some(cell) = scratch.cell(0) {
            samples.push((labels, cell));
        }
    }
    let value_of = |cell: &Cell| match cell {
        Cell::Number(value) => *value,
        Cell::Histogram(_) => f64::NAN,
    };
    samples.sort_by(|(a, of_a), (b, of_b)| compare((a, value_of(of_a)), (b, value_of(of_b))));
    let mut columns = Vec::with_capacity(samples.len());
    let mut labels = Vec::with_capacity(samples.len());
    for (set, cell) in samples {
        let mut column = Column::new(&ctx.memory, 1)?;
        column.set_cell(0, cell)?;
        columns.push(column);
        labels.push(set);
    }
    Vector::new(ctx, labels, Ready::new(columns))
}
