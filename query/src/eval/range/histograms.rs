//! What windows of histograms become: gains, sums, means.

use std::sync::Arc;

use quorate_storage::histogram::{HistogramMean, HistogramSum, Reconciled};
use quorate_storage::{CounterResetHint, Histogram};

use super::{Series, Window};
use crate::eval::annotate::{self, HistogramOperation};
use crate::eval::column::Cell;

/// What the histograms gained from the first to the last, resets of a counter counted from zero: Prometheus's
/// `histogramRate`. `None` if there are less than two, or if they can't be subtracted, of which the user is told.
pub(super) fn gain(
    points: &[(usize, Arc<Histogram>)],
    is_counter: bool,
    series: &Series<'_>,
) -> Option<Histogram> {
    let ([(_, first), .., (_, last)], Some((_, second))) = (points, points.get(1)) else {
        return None;
    };
    let is_gauge = |histogram: &Histogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
    let is_any_gauge = points.iter().any(|(_, histogram)| is_gauge(histogram));
    // If there is a reset after the first sample, nothing is subtracted and its layout doesn't matter.
    let empty;
    let first: &Histogram = if is_counter && second.detect_reset(first) {
        empty = Histogram {
            schema: second.schema,
            custom_values: second.custom_values.clone(),
            ..Histogram::default()
        };
        &empty
    } else {
        first
    };
    let inner = &points[1..points.len() - 1];
    let is_custom = first.uses_custom_buckets();
    let is_mixed = last.uses_custom_buckets() != is_custom
        || (is_counter
            && inner
                .iter()
                .any(|(_, histogram)| histogram.uses_custom_buckets() != is_custom));
    if is_counter && is_any_gauge {
        annotate::not_a_counter(series.ctx, series.name, series.span);
    }
    if is_mixed {
        annotate::mixed_schemas(series.ctx, series.name, series.span);
        return None;
    }
    let mut coarsest = first.schema.min(last.schema);
    if is_counter {
        coarsest = inner
            .iter()
            .map(|(_, histogram)| histogram.schema)
            .fold(coarsest, i32::min);
    }
    let mut gain = Histogram::clone(last);
    gain.reduce_resolution(coarsest);
    subtract(&mut gain, first, series)?;
    if is_counter {
        let mut previous = first;
        for (_, current) in &points[1..] {
            if current.detect_reset(previous) {
                let reconciled = gain.add(previous).ok()?;
                if reconciled.custom_bounds {
                    annotate::custom_bounds_reconciled(series.ctx, HistogramOperation::Addition, series.span);
                }
            }
            previous = current;
        }
    } else if !is_gauge(&points[0].1) || !is_gauge(last) {
        annotate::not_a_gauge(series.ctx, series.name, series.span);
    }
    gain.counter_reset_hint = CounterResetHint::Gauge;
    gain.compact();
    Some(gain)
}

/// Subtracts; `None` if that can't be done. Contradicting hints don't matter: resets are looked for.
pub(super) fn subtract(from: &mut Histogram, histogram: &Histogram, series: &Series<'_>) -> Option<()> {
    let Ok(reconciled) = from.sub(histogram) else {
        annotate::mixed_schemas(series.ctx, series.name, series.span);
        return None;
    };
    if reconciled.custom_bounds {
        annotate::custom_bounds_reconciled(series.ctx, HistogramOperation::Subtraction, series.span);
    }
    Some(())
}

/// What was gained from one histogram to the next; a reset of a counter is counted from zero.
pub(super) fn last_gain(
    before: &Histogram,
    last: &Histogram,
    is_counter: bool,
    series: &Series<'_>,
) -> Option<Histogram> {
    let is_gauge = |histogram: &Histogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
    let gauges = usize::from(is_gauge(before)) + usize::from(is_gauge(last));
    if is_counter && gauges > 0 {
        annotate::not_a_counter(series.ctx, series.name, series.span);
    }
    if !is_counter && gauges < 2 {
        annotate::not_a_gauge(series.ctx, series.name, series.span);
    }
    let mut gain = last.clone();
    if !is_counter || !last.detect_reset(before) {
        subtract(&mut gain, before, series)?;
    }
    gain.counter_reset_hint = CounterResetHint::Gauge;
    gain.compact();
    Some(gain)
}

/// What is noticed while histograms become one.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::eval) struct Noticed {
    resets: bool,
    non_resets: bool,
    custom_bounds: bool,
}

impl Noticed {
    /// Takes note of a histogram's hint.
    pub(in crate::eval) fn hint(&mut self, histogram: &Histogram) {
        self.resets |= histogram.counter_reset_hint == CounterResetHint::Reset;
        self.non_resets |= histogram.counter_reset_hint == CounterResetHint::NotReset;
    }

    /// Takes note of what an addition had to settle.
    pub(in crate::eval) fn reconciled(&mut self, reconciled: Reconciled) {
        self.custom_bounds |= reconciled.custom_bounds;
    }

    /// Whether hints contradict each other.
    pub(in crate::eval) fn counter_reset_collision(&self) -> bool {
        self.resets && self.non_resets
    }

    /// Whether custom bounds differed.
    pub(in crate::eval) fn custom_bounds(&self) -> bool {
        self.custom_bounds
    }
}

/// `sum_over_time` of a window with histograms.
pub(super) fn sum(window: &Window<'_>, series: &Series<'_>) -> Option<Cell> {
    over_time(
        window,
        series,
        HistogramSum::first,
        HistogramSum::add,
        HistogramSum::total,
    )
}

/// `avg_over_time` of a window with histograms.
pub(super) fn avg(window: &Window<'_>, series: &Series<'_>) -> Option<Cell> {
    over_time(
        window,
        series,
        HistogramMean::first,
        HistogramMean::add,
        HistogramMean::mean,
    )
}

fn over_time<S, E>(
    window: &Window<'_>,
    series: &Series<'_>,
    begin: fn(&Histogram) -> S,
    add: fn(&mut S, &Histogram) -> Result<Reconciled, E>,
    finish: fn(&S) -> Histogram,
) -> Option<Cell> {
    let points = window.histograms();
    if points.len() < window.len() {
        annotate::mixed_floats_histograms(series.ctx, series.name, series.span);
        return None;
    }
    let ((_, first), rest) = points.split_first()?;
    let mut noticed = Noticed::default();
    noticed.hint(first);
    let mut state = begin(first);
    for (_, histogram) in rest {
        noticed.hint(histogram);
        let Ok(reconciled) = add(&mut state, histogram) else {
            annotate::mixed_schemas(series.ctx, series.name, series.span);
            return None;
        };
        noticed.reconciled(reconciled);
    }
    if noticed.counter_reset_collision() {
        annotate::counter_reset_collision(series.ctx, HistogramOperation::Aggregation, series.span);
    }
    if noticed.custom_bounds() {
        annotate::custom_bounds_reconciled(series.ctx, HistogramOperation::Aggregation, series.span);
    }
    Some(Cell::histogram(finish(&state)))
}

/// `first_over_time` of a window with histograms.
pub(super) fn first(window: &Window<'_>, _: &Series<'_>) -> Option<Cell> {
    Some(window.cell(0))
}

/// `last_over_time` of a window with histograms.
pub(super) fn last(window: &Window<'_>, _: &Series<'_>) -> Option<Cell> {
    Some(window.cell(window.len() - 1))
}
