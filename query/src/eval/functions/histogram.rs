//! `histogram_quantile`, `histogram_quantiles` and `histogram_fraction` of classic and of native histograms.

use std::collections::HashMap;

use quorate_storage::{Histogram, Labels, LabelsBuilder};

use super::buckets::{self, Bucket};
use super::labels::name_of;
use super::{build, native, scalar};
use crate::ast::{Expr, Span};
use crate::eval::annotate::{self, ForcedMonotonicity};
use crate::eval::column::Column;
use crate::eval::context::Context;
use crate::eval::format::open_metrics;
use crate::eval::grid::Grid;
use crate::eval::labelset::{BUCKET, filter, metric_name};
use crate::eval::scalar::Scalar;
use crate::eval::vector::{Columns, Vector, relabel};
use crate::value::EvalError;

/// `histogram_quantile(φ, vector)`.
pub(super) fn quantile<'q>(
    ctx: &'q Context<'q>,
    args: &'q [Expr],
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let function = Quantiles {
        ctx,
        grid,
        phis: vec![phi(ctx, &args[0], grid)?],
        forced: None,
    };
    over_histograms(ctx, &args[1], grid, function, |labels| vec![labels])
}

/// `histogram_quantiles(vector, "label", φ, …)`: each quantile as a series with φ in the label.
pub(super) fn quantiles<'q>(
    ctx: &'q Context<'q>,
    args: &'q [Expr],
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let [vector, label, phis @ ..] = args else {
        return Err(EvalError::Execution(
            "histogram_quantiles lacks arguments".to_owned(),
        ));
    };
    let label = name_of(label, "quantile", "histogram_quantiles()")?;
    let phis = phis
        .iter()
        .map(|arg| phi(ctx, arg, grid))
        .collect::<Result<Vec<_>, _>>()?;
    let values = phis.iter().map(|phi| match phi {
        Scalar::Constant(phi) => Ok(open_metrics(*phi)),
        Scalar::Steps(_) => Err(EvalError::Execution(
            "histogram_quantiles() needs quantiles that are the same at all steps".to_owned(),
        )),
    });
    let values = values.collect::<Result<Vec<_>, _>>()?;
    let function = Quantiles {
        ctx,
        grid,
        phis,
        forced: None,
    };
    over_histograms(ctx, vector, grid, function, move |labels| {
        let with = |value: &String| LabelsBuilder::from(&labels).set(label, value).build();
        values.iter().map(with).collect()
    })
}

/// A φ argument, of which the user is warned if it is no share, even if there is no histogram.
fn phi<'q>(ctx: &'q Context<'q>, arg: &'q Expr, grid: Grid) -> Result<Scalar<'q>, EvalError> {
    let phi = scalar::evaluate(ctx, arg, grid)?;
    let steps = if matches!(phi, Scalar::Constant(_)) {
        1
    } else {
        grid.count
    };
    let span = arg.without_parens().span();
    (0..steps).for_each(|step| annotate::invalid_quantile(ctx, phi.get(step), span));
    Ok(phi)
}

/// `histogram_fraction(lower, upper, vector)`.
pub(super) fn fraction<'q>(
    ctx: &'q Context<'q>,
    args: &'q [Expr],
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let function = Fraction {
        ctx,
        lower: scalar::evaluate(ctx, &args[0], grid)?,
        upper: scalar::evaluate(ctx, &args[1], grid)?,
    };
    over_histograms(ctx, &args[2], grid, function, |labels| vec![labels])
}

/// What is computed of each histogram at each step, maybe several things.
trait OfHistogram {
    /// The result with number `output` of a classic histogram.
    fn classic(&mut self, step: usize, output: usize, buckets: &mut Vec<Bucket>) -> f64;

    /// The result with number `output` of a native histogram, of a series with this name.
    fn native(&mut self, step: usize, output: usize, histogram: &Histogram, name: &str, span: Span) -> f64;

    /// All histograms are done.
    fn finish(&mut self, span: Span) {
        let _ = span;
    }
}

struct Fraction<'q> {
    ctx: &'q Context<'q>,
    lower: Scalar<'q>,
    upper: Scalar<'q>,
}

impl OfHistogram for Fraction<'_> {
    fn classic(&mut self, step: usize, _: usize, buckets: &mut Vec<Bucket>) -> f64 {
        buckets::fraction(self.lower.get(step), self.upper.get(step), buckets)
    }

    fn native(&mut self, step: usize, _: usize, histogram: &Histogram, name: &str, span: Span) -> f64 {
        let (value, effect) = native::fraction(self.lower.get(step), self.upper.get(step), histogram);
        if let Some(effect) = effect {
            annotate::nan_observations(self.ctx, effect, name, span);
        }
        value
    }
}

struct Quantiles<'q> {
    ctx: &'q Context<'q>,
    grid: Grid,
    phis: Vec<Scalar<'q>>,
    forced: Option<ForcedMonotonicity>,
}

impl OfHistogram for Quantiles<'_> {
    fn classic(&mut self, step: usize, output: usize, buckets: &mut Vec<Bucket>) -> f64 {
        let (value, forced) = buckets::quantile(self.phis[output].get(step), buckets);
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

    fn native(&mut self, step: usize, output: usize, histogram: &Histogram, name: &str, span: Span) -> f64 {
        let (value, effect) = native::quantile(self.phis[output].get(step), histogram);
        if let Some(effect) = effect {
            annotate::nan_observations(self.ctx, effect, name, span);
        }
        value
    }

    fn finish(&mut self, span: Span) {
        if let Some(forced) = self.forced.take() {
            forced.tell(self.ctx, span);
        }
    }
}

/// Puts the series of each classic histogram together and computes `function` of it, and of native ones. A native
/// histogram and the buckets of a classic one belong together if they differ in nothing but `le`. `outputs` gives the
/// labels of the results of a histogram.
fn over_histograms<'q>(
    ctx: &'q Context<'q>,
    argument: &'q Expr,
    grid: Grid,
    function: impl OfHistogram + 'q,
    outputs: impl Fn(Labels) -> Vec<Labels>,
) -> Result<Vector<'q>, EvalError> {
    let span = argument.without_parens().span();
    let input = build::vector(ctx, argument, grid)?;
    let mut ids: HashMap<Labels, usize> = HashMap::new();
    let mut labels: Vec<Labels> = Vec::new();
    let mut last_series: Vec<usize> = Vec::new();
    let mut series = Vec::with_capacity(input.labels.len());
    for (index, set) in input.labels.iter().enumerate() {
        let bound = set.get(BUCKET).and_then(parse_bound);
        let key = match bound {
            Some(_) => filter(set, |name| name != BUCKET),
            None => set.clone(),
        };
        let histogram = *ids.entry(key.clone()).or_insert_with(|| {
            labels.push(key);
            last_series.push(0);
            labels.len() - 1
        });
        last_series[histogram] = index;
        series.push((histogram, bound));
    }
    drop(ids);
    // Histograms are complete, and come out, in the order of their last series.
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|histogram| last_series[*histogram]);
    let out_labels = order
        .iter()
        .flat_map(|histogram| outputs(ctx.drop_metadata(&labels[*histogram])))
        .collect::<Vec<_>>();
    let columns = Histograms {
        ctx,
        span,
        input,
        series,
        outputs: out_labels.len() / order.len().max(1),
        order: order
            .into_iter()
            .map(|histogram| (histogram, last_series[histogram]))
            .collect(),
        pending: labels.iter().map(|_| Parts::default()).collect(),
        labels,
        current: Parts::default(),
        function,
        next_series: 0,
        next_output: 0,
    };
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

/// What was read of a histogram.
#[derive(Default)]
struct Parts<'q> {
    /// Bounds and counts of a classic histogram's buckets.
    buckets: Vec<(f64, Column<'q>)>,
    /// Native histograms; numbers in it were dropped.
    native: Option<Column<'q>>,
}

struct Histograms<'q, F> {
    ctx: &'q Context<'q>,
    span: Span,
    input: Vector<'q>,
    /// For each series of `input`, its histogram and its bound, if it is a bucket.
    series: Vec<(usize, Option<f64>)>,
    /// How many results a histogram has.
    outputs: usize,
    /// The histograms in order of their last series, with that series.
    order: Vec<(usize, usize)>,
    /// For each histogram, what was read so far.
    pending: Vec<Parts<'q>>,
    /// For each histogram, the labels of its series without `le`.
    labels: Vec<Labels>,
    /// The histogram whose results are asked for.
    current: Parts<'q>,
    function: F,
    next_series: usize,
    next_output: usize,
}

impl<'q, F: OfHistogram> Histograms<'q, F> {
    /// Reads the next series of the input.
    fn read(&mut self, steps: usize) -> Result<(), EvalError> {
        let mut column = Column::new(&self.ctx.memory, steps)?;
        self.input.next(&mut column)?;
        let labels = &self.input.labels[self.next_series];
        match self.series[self.next_series] {
            (histogram, Some(upper_bound)) => {
                self.pending[histogram].buckets.push((upper_bound, column));
            }
            (histogram, None) => {
                if column.iter().next().is_some() {
                    annotate::bad_bucket_label(self.ctx, labels, labels.get(BUCKET).unwrap_or(""), self.span);
                }
                if column.may_hold_histograms() {
                    self.pending[histogram].native = Some(column);
                }
            }
        }
        self.next_series += 1;
        Ok(())
    }
}

impl<'q, F: OfHistogram> Columns<'q> for Histograms<'q, F> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        out.clear();
        let Some((histogram, last_series)) = self.order.get(self.next_output / self.outputs).copied() else {
            return Ok(());
        };
        let output = self.next_output % self.outputs;
        self.next_output += 1;
        if output == 0 {
            while self.next_series <= last_series {
                self.read(out.len())?;
            }
            self.current = std::mem::take(&mut self.pending[histogram]);
        }
        let name = metric_name(&self.labels[histogram]);
        let mut scratch = Vec::with_capacity(self.current.buckets.len());
        for step in 0..out.len() {
            self.ctx.work(self.current.buckets.len())?;
            scratch.clear();
            scratch.extend(self.current.buckets.iter().filter_map(|(upper_bound, column)| {
                column.get(step).map(|count| Bucket {
                    upper_bound: *upper_bound,
                    count,
                })
            }));
            let native = self
                .current
                .native
                .as_ref()
                .and_then(|column| column.histogram(step));
            match (scratch.is_empty(), native) {
                (true, None) => {}
                (false, None) => out.set(step, self.function.classic(step, output, &mut scratch)),
                (true, Some(native)) => {
                    let value = self.function.native(step, output, native, name, self.span);
                    out.set(step, value);
                }
                (false, Some(_)) => annotate::mixed_classic_native(self.ctx, name, self.span),
            }
        }
        if self.next_output == self.order.len() * self.outputs {
            self.function.finish(self.span);
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
