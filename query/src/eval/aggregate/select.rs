//! Aggregations that pass some samples of each group on: `topk`, `bottomk`, `limitk`.

use std::collections::HashMap;
use std::sync::Arc;

use quorate_storage::{Histogram, Labels};

use super::{Grouped, Limits};
use crate::ast::{AggregateOp, Span};
use crate::eval::annotate;
use crate::eval::column::{Column, samples_of};
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::memory::Charge;
use crate::eval::vector::{Columns, Ready, Vector};
use crate::value::EvalError;

/// A sample that was selected.
#[derive(Clone, Copy, Debug)]
struct Picked {
    /// Arbitrary if the sample is a histogram.
    value: f64,
    series: usize,
}

/// The selected samples that are histograms, by series and step. Only `limitk` selects any.
type Histograms = HashMap<(usize, usize), Arc<Histogram>>;

/// What is selected of one group at one step.
type Heap = Vec<Picked>;

/// Evaluates the selection. Which series come out depends on all values, so all are read first. `span`
/// is where the vector was written.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    input: Grouped<'q>,
    grid: Grid,
    limits: Limits,
    op: AggregateOp,
    span: Span,
) -> Result<Vector<'q>, EvalError> {
    let Grouped {
        mut vector,
        group_of,
        groups,
    } = input;
    let is_less: fn(f64, f64) -> bool = match op {
        AggregateOp::Topk => |a, b| a.is_nan() || a < b,
        _ => |a, b| a.is_nan() || a > b,
    };
    let mut charge = ctx
        .memory
        .charge(groups.len() * grid.count * size_of::<Heap>(), 0)?;
    let mut heaps: Vec<Heap> = vec![Heap::new(); groups.len() * grid.count];
    let mut histograms = Histograms::new();
    let mut column = Column::new(&ctx.memory, grid.count)?;
    for (series, group) in group_of.iter().enumerate() {
        vector.next(&mut column)?;
        if op != AggregateOp::Limitk && column.drop_histograms() {
            annotate::ignored_in_aggregation(ctx, op.as_str(), span);
        }
        for (step, histogram) in column.histograms() {
            ctx.work(1)?;
            let heap = &mut heaps[group * grid.count + step];
            if heap.len() < limits.at(step) {
                charge.grow(
                    size_of::<Picked>() + histogram.memory_bytes(),
                    samples_of(histogram),
                )?;
                heap.push(Picked {
                    value: f64::NAN,
                    series,
                });
                histograms.insert((series, step), Arc::clone(histogram));
            }
        }
        for (step, value) in column.iter() {
            ctx.work(1)?;
            let heap = &mut heaps[group * grid.count + step];
            let picked = Picked { value, series };
            if heap.len() < limits.at(step) {
                charge.grow(size_of::<Picked>(), 1)?;
                heap.push(picked);
                if op != AggregateOp::Limitk {
                    sift_up(heap, is_less);
                }
            } else if op != AggregateOp::Limitk
                && let Some(worst) = heap.first_mut()
                && (is_less(worst.value, value) && !(worst.value.is_nan() && value.is_nan()))
            {
                *worst = picked;
                sift_down(heap, is_less);
            }
        }
    }
    let labels = std::mem::take(&mut vector.labels);
    if grid.count == 1 {
        return ranked(ctx, labels, heaps, histograms, op, is_less);
    }
    by_series(ctx, labels, heaps, histograms, grid, charge)
}

/// Go's `container/heap` `up` from the last element. That it is the same algorithm matters: it decides which of
/// equal samples is pushed out.
fn sift_up(heap: &mut Heap, is_less: fn(f64, f64) -> bool) {
    let mut child = heap.len() - 1;
    while child > 0 {
        let parent = (child - 1) / 2;
        if !is_less(heap[child].value, heap[parent].value) {
            break;
        }
        heap.swap(parent, child);
        child = parent;
    }
}

/// Go's `container/heap` `down` from the first element.
fn sift_down(heap: &mut Heap, is_less: fn(f64, f64) -> bool) {
    let mut parent = 0;
    loop {
        let left = 2 * parent + 1;
        if left >= heap.len() {
            return;
        }
        let right = left + 1;
        let child = if right < heap.len() && is_less(heap[right].value, heap[left].value) {
            right
        } else {
            left
        };
        if !is_less(heap[child].value, heap[parent].value) {
            return;
        }
        heap.swap(parent, child);
        parent = child;
    }
}

/// The samples of a single step, each group's best first.
fn ranked<'q>(
    ctx: &'q Context<'q>,
    labels: Vec<Labels>,
    heaps: Vec<Heap>,
    mut histograms: Histograms,
    op: AggregateOp,
    is_less: fn(f64, f64) -> bool,
) -> Result<Vector<'q>, EvalError> {
    let mut out_labels = Vec::new();
    let mut columns = Vec::new();
    for mut heap in heaps {
        if op != AggregateOp::Limitk {
            heap.sort_by(|a, b| match (a.value.is_nan(), b.value.is_nan()) {
                (false, false) => is_less(a.value, b.value).cmp(&is_less(b.value, a.value)),
                (a_is_nan, b_is_nan) => a_is_nan.cmp(&b_is_nan),
            });
        }
        for picked in heap {
            let mut column = Column::new(&ctx.memory, 1)?;
            match histograms.remove(&(picked.series, 0)) {
                None => column.set(0, picked.value),
                Some(histogram) => column.set_histogram(0, histogram)?,
            }
            columns.push(column);
            out_labels.push(labels[picked.series].clone());
        }
    }
    Vector::new(ctx, out_labels, Ready::new(columns))
}

/// The samples of all steps, by series.
fn by_series<'q>(
    ctx: &'q Context<'q>,
    labels: Vec<Labels>,
    heaps: Vec<Heap>,
    histograms: Histograms,
    grid: Grid,
    mut charge: Charge<'q>,
) -> Result<Vector<'q>, EvalError> {
    let count = heaps.iter().map(Vec::len).sum::<usize>();
    let mut samples: Vec<(usize, usize, f64)> = Vec::with_capacity(count);
    charge.grow(count * size_of::<(usize, usize, f64)>(), count)?;
    for (index, heap) in heaps.into_iter().enumerate() {
        samples.extend(
            heap.iter()
                .map(|picked| (picked.series, index % grid.count, picked.value)),
        );
    }
    samples.sort_unstable_by_key(|(series, step, _)| (*series, *step));
    let out_labels = samples
        .chunk_by(|a, b| a.0 == b.0)
        .map(|chunk| labels[chunk[0].0].clone())
        .collect();
    Vector::new(
        ctx,
        out_labels,
        Selection {
            samples,
            histograms,
            next: 0,
            _charge: charge,
        },
    )
}

struct Selection<'q> {
    /// (series, step, value), sorted.
    samples: Vec<(usize, usize, f64)>,
    histograms: Histograms,
    next: usize,
    _charge: Charge<'q>,
}

impl<'q> Columns<'q> for Selection<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        out.clear();
        let rest = &self.samples[self.next..];
        let Some((series, ..)) = rest.first() else {
            return Ok(());
        };
        let samples = rest.iter().take_while(|sample| sample.0 == *series);
        for (series, step, value) in samples {
            out.set(*step, *value);
            if !self.histograms.is_empty()
                && let Some(histogram) = self.histograms.remove(&(*series, *step))
            {
                out.set_histogram(*step, histogram)?;
            }
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_keeps_the_worst_on_top() {
        let is_less: fn(f64, f64) -> bool = |a, b| a.is_nan() || a < b;
        let mut heap = Heap::new();
        for (series, value) in [5.0, 1.0, f64::NAN, 3.0].into_iter().enumerate() {
            heap.push(Picked { value, series });
            sift_up(&mut heap, is_less);
        }
        assert!(heap[0].value.is_nan());
        heap[0] = Picked {
            value: 4.0,
            series: 9,
        };
        sift_down(&mut heap, is_less);
        assert_eq!(heap[0].value, 1.0);
    }
}
