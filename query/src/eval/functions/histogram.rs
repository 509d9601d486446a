//! `histogram_quantile` and `histogram_fraction` of classic histograms.

use std::collections::HashMap;

use quorate_storage::Labels;

use super::buckets::{self, Bucket};
use super::{build, scalar};
use crate::ast::{Expr, Span};
use crate::eval::annotate::{self, ForcedMonotonicity};
use crate::eval::column::Column;
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::labelset::{BUCKET, filter};
use crate::eval::scalar::Scalar;
use crate::eval::vector::{Columns, Vector, relabel};
use crate::value::EvalError;

/// `histogram_quantile(φ, buckets)`.
pub(super) fn quantile<'q>(
    ctx: &'q Context<'q>,
    args: &'q [Expr],
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let phi = scalar::evaluate(ctx, &args[0], grid)?;
    let phi_span = args[0].without_parens().span();
    // Prometheus warns even if there is no histogram.
    let steps = if matches!(phi, Scalar::Constant(_)) {
        1
    } else {
        grid.count
    };
    (0..steps).for_each(|step| annotate::invalid_quantile(ctx, phi.get(step), phi_span));
    over_histograms(
        ctx,
        &args[1],
        grid,
        Quantile {
            ctx,
            grid,
            phi,
            span: args[1].without_parens().span(),
            forced: None,
        },
    )
}

/// `histogram_fraction(lower, upper, buckets)`.
pub(super) fn fraction<'q>(
    ctx: &'q Context<'q>,
    args: &'q [Expr],
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let lower = scalar::evaluate(ctx, &args[0], grid)?;
    let upper = scalar::evaluate(ctx, &args[1], grid)?;
    over_histograms(ctx, &args[2], grid, move |step, buckets: &mut Vec<Bucket>| {
        buckets::fraction(lower.get(step), upper.get(step), buckets)
    })
}

/// What is computed of each histogram at each step.
trait OfHistogram {
    fn evaluate(&mut self, step: usize, buckets: &mut Vec<Bucket>) -> f64;

    /// All histograms are done.
    fn finish(&mut self) {}
}

impl<F: FnMut(usize, &mut Vec<Bucket>) -> f64> OfHistogram for F {
    fn evaluate(&mut self, step: usize, buckets: &mut Vec<Bucket>) -> f64 {
        self(step, buckets)
    }
}

struct Quantile<'q> {
    ctx: &'q Context<'q>,
    grid: Grid,
    phi: Scalar<'q>,
    /// Where the buckets were written.
    span: Span,
    forced: Option<ForcedMonotonicity>,
}

impl OfHistogram for Quantile<'_> {
    fn evaluate(&mut self, step: usize, buckets: &mut Vec<Bucket>) -> f64 {
        let (value, forced) = buckets::quantile(self.phi.get(step), buckets);
        if let Some(forced) = forced {
            let time_ms = self.grid.time_ms(step);
            let forced = ForcedMonotonicity {
                min_bucket: forced.min_bucket,
                max_bucket: forced.max_bucket,
                max_difference: forced.max_difference,
                samples: 1,
                first_ms: time_ms,
                last_ms: time_ms,
            };
            match &mut self.forced {
                Some(so_far) => so_far.merge(forced),
                None => self.forced = Some(forced),
            }
        }
        value
    }

    fn finish(&mut self) {
        if let Some(forced) = self.forced.take() {
            forced.tell(self.ctx, self.span);
        }
    }
}

/// Puts the series of one histogram together and computes `function` of it.
fn over_histograms<'q>(
    ctx: &'q Context<'q>,
    argument: &'q Expr,
    grid: Grid,
    function: impl OfHistogram + 'q,
) -> Result<Vector<'q>, EvalError> {
    let span = argument.without_parens().span();
    let input = build::vector(ctx, argument, grid)?;
    let mut histograms: HashMap<Labels, usize> = HashMap::new();
    let mut labels: Vec<Labels> = Vec::new();
    let mut last_series: Vec<usize> = Vec::new();
    let mut series = Vec::with_capacity(input.labels.len());
    for (index, set) in input.labels.iter().enumerate() {
        let le = set.get(BUCKET).unwrap_or("");
        let Some(upper_bound) = parse_bound(le) else {
            series.push(None);
            continue;
        };
        let without_bound = filter(set, |name| name != BUCKET);
        let histogram = *histograms.entry(without_bound.clone()).or_insert_with(|| {
            labels.push(without_bound);
            last_series.push(0);
            labels.len() - 1
        });
        last_series[histogram] = index;
        series.push(Some((histogram, upper_bound)));
    }
    drop(histograms);
    // Histograms are complete, and come out, in the order of their last series.
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|histogram| last_series[*histogram]);
    let out_labels = order
        .iter()
        .map(|histogram| ctx.drop_metadata(&labels[*histogram]))
        .collect();
    let pending = labels.iter().map(|_| Vec::new()).collect();
    let mut columns = Histograms {
        ctx,
        span,
        input,
        series,
        order: order
            .into_iter()
            .map(|histogram| (histogram, last_series[histogram]))
            .collect(),
        pending,
        function,
        next_series: 0,
        next_histogram: 0,
    };
    if columns.order.is_empty() {
        columns.read_rest(grid.count)?;
    }
    relabel(ctx, out_labels, columns)
}

/// A bucket's bound as Go's `strconv.ParseFloat` reads it.
fn parse_bound(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" if text.starts_with('-') => Some(f64::NEG_INFINITY),
        "inf" | "infinity" => Some(f64::INFINITY),
        // Rust reads what Go reads in decimals, but for its words.
        _ if unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') => text.parse().ok(),
        "nan" if unsigned == text => Some(f64::NAN),
        _ => None,
    }
}

struct Histograms<'q, F> {
    ctx: &'q Context<'q>,
    span: Span,
    input: Vector<'q>,
    /// For each series of `input`, its histogram and its bound, if it has one.
    series: Vec<Option<(usize, f64)>>,
    /// The histograms in order of their last series, with that series.
    order: Vec<(usize, usize)>,
    /// For each histogram, the buckets read so far.
    pending: Vec<Vec<(f64, Column<'q>)>>,
    function: F,
    next_series: usize,
    next_histogram: usize,
}

impl<'q, F: OfHistogram> Histograms<'q, F> {
    /// Reads the next series of the input.
    fn read(&mut self, steps: usize) -> Result<(), EvalError> {
        let mut column = Column::new(&self.ctx.memory, steps)?;
        self.input.next(&mut column)?;
        match self.series[self.next_series] {
            Some((histogram, upper_bound)) => self.pending[histogram].push((upper_bound, column)),
            None if column.present().is_empty() => {}
            None => {
                let labels = &self.input.labels[self.next_series];
                annotate::bad_bucket_label(self.ctx, labels, labels.get(BUCKET).unwrap_or(""), self.span);
            }
        }
        self.next_series += 1;
        Ok(())
    }

    /// Reads the series behind the last histogram's, which belong to none; the user is told of them.
    fn read_rest(&mut self, steps: usize) -> Result<(), EvalError> {
        while self.next_series < self.series.len() {
            self.read(steps)?;
        }
        Ok(())
    }
}

impl<'q, F: OfHistogram> Columns<'q> for Histograms<'q, F> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        let (histogram, last_series) = self.order[self.next_histogram];
        while self.next_series <= last_series {
            self.read(out.len())?;
        }
        out.clear();
        let columns = std::mem::take(&mut self.pending[histogram]);
        let mut scratch = Vec::with_capacity(columns.len());
        for step in 0..out.len() {
            self.ctx.work(columns.len())?;
            scratch.clear();
            scratch.extend(columns.iter().filter_map(|(upper_bound, column)| {
                column.get(step).map(|count| Bucket {
                    upper_bound: *upper_bound,
                    count,
                })
            }));
            if !scratch.is_empty() {
                out.set(step, self.function.evaluate(step, &mut scratch));
            }
        }
        self.next_histogram += 1;
        if self.next_histogram == self.order.len() {
            self.read_rest(out.len())?;
            self.function.finish();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_as_go_reads_them() {
        assert_eq!(parse_bound("+Inf"), Some(f64::INFINITY));
        assert_eq!(parse_bound("-infinity"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_bound("1e-3"), Some(0.001));
        assert_eq!(parse_bound(".5"), Some(0.5));
        assert!(parse_bound("NaN").is_some_and(f64::is_nan));
        for wrong in ["", "Hello", "1x", "+", "++1", " 1"] {
            assert_eq!(parse_bound(wrong), None, "{wrong}");
        }
    }
}
