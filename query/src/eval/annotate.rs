//! The warnings and infos of results, in Prometheus's words.

use super::context::Context;
use super::format::{fixed_two, shortest};
use super::labelset::metric_name;
use crate::ast::Span;
use crate::parse::quote;
use quorate_storage::Labels;

/// The suffixes of counters' names.
const COUNTER_SUFFIXES: [&str; 4] = ["_total", "_sum", "_count", "_bucket"];

/// Warns of a quantile outside of [0, 1].
pub(super) fn invalid_quantile(ctx: &Context<'_>, phi: f64, span: Span) {
    if !(0.0..=1.0).contains(&phi) {
        ctx.warn(
            format!("quantile value should be between 0 and 1, got {}", fixed_two(phi)),
            span,
        );
    }
}

/// Tells of a rate over a metric whose name is not a counter's.
pub(super) fn possible_non_counter(ctx: &Context<'_>, name: &str, span: Span) {
    if !name.is_empty() && !COUNTER_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        let name = quote(name.as_bytes());
        let message =
            format!("metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name}");
        ctx.info(message, span);
    }
}

/// Warns of a classic histogram's series whose `le` is no number.
pub(super) fn bad_bucket_label(ctx: &Context<'_>, labels: &Labels, le: &str, span: Span) {
    let message = format!(
        "bucket label \"le\" is missing or has a malformed value of {}{}",
        quote(le.as_bytes()),
        for_metric(metric_name(labels))
    );
    ctx.warn(message, span);
}

/// Warns of windows that hold both histograms and numbers.
pub(super) fn mixed_floats_histograms(ctx: &Context<'_>, name: &str, span: Span) {
    let name = quote(name.as_bytes());
    ctx.warn(
        format!("encountered a mix of histograms and floats for metric name {name}"),
        span,
    );
}

/// Warns of an aggregation over both histograms and numbers.
pub(super) fn mixed_floats_histograms_in_aggregation(ctx: &Context<'_>, span: Span) {
    ctx.warn(
        "encountered a mix of histograms and floats for aggregation".to_owned(),
        span,
    );
}

/// Warns of histograms with exponential and with custom buckets that should have become one.
pub(super) fn mixed_schemas(ctx: &Context<'_>, name: &str, span: Span) {
    let message = format!(
        "vector contains a mix of histograms with exponential and custom buckets schemas{}",
        for_metric(name)
    );
    ctx.warn(message, span);
}

/// Warns of a classic and a native histogram of the same name and labels.
pub(super) fn mixed_classic_native(ctx: &Context<'_>, name: &str, span: Span) {
    let message = format!(
        "vector contains a mix of classic and native histograms{}",
        for_metric(name)
    );
    ctx.warn(message, span);
}

/// Warns of a rate over gauge histograms.
pub(super) fn not_a_counter(ctx: &Context<'_>, name: &str, span: Span) {
    let name = quote(name.as_bytes());
    ctx.warn(
        format!("this native histogram metric is not a counter: {name}"),
        span,
    );
}

/// Warns of a delta over counter histograms.
pub(super) fn not_a_gauge(ctx: &Context<'_>, name: &str, span: Span) {
    let name = quote(name.as_bytes());
    ctx.warn(
        format!("this native histogram metric is not a gauge: {name}"),
        span,
    );
}

/// Tells that an aggregation left histograms out.
pub(super) fn ignored_in_aggregation(ctx: &Context<'_>, aggregation: &str, span: Span) {
    ctx.info(format!("ignored histogram in {aggregation} aggregation"), span);
}

/// Tells that a function left the histograms of a window with numbers out.
pub(super) fn ignored_in_mixed_range(ctx: &Context<'_>, name: &str, span: Span) {
    let message = format!(
        "ignored histograms in a range containing both floats and histograms{}",
        for_metric(name)
    );
    ctx.info(message, span);
}

/// What is done to histograms when something is worth telling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HistogramOperation {
    Addition,
    Subtraction,
    Aggregation,
}

impl HistogramOperation {
    fn as_str(self) -> &'static str {
        match self {
            HistogramOperation::Addition => "addition",
            HistogramOperation::Subtraction => "subtraction",
            HistogramOperation::Aggregation => "aggregation",
        }
    }
}

/// Tells that histograms with different custom buckets were reduced to the bounds they share.
pub(super) fn custom_bounds_reconciled(ctx: &Context<'_>, operation: HistogramOperation, span: Span) {
    let operation = operation.as_str();
    ctx.info(
        format!("mismatched custom buckets were reconciled during {operation}"),
        span,
    );
}

/// Warns that of two histograms one says that there was a counter reset and one that there was none.
pub(super) fn counter_reset_collision(ctx: &Context<'_>, operation: HistogramOperation, span: Span) {
    let operation = operation.as_str();
    ctx.warn(
        format!("conflicting counter resets during histogram {operation}"),
        span,
    );
}

/// Tells that an operator doesn't apply to these kinds of samples, `float` or `histogram`.
pub(super) fn incompatible_types(ctx: &Context<'_>, left: &str, operator: &str, right: &str, span: Span) {
    let message = format!(
        "incompatible sample types encountered for binary operator {}: {left} {operator} {right}",
        quote(operator.as_bytes())
    );
    ctx.info(message, span);
}

/// Warns of an operator between histograms with exponential and with custom buckets.
pub(super) fn incompatible_buckets(ctx: &Context<'_>, operator: &str, span: Span) {
    ctx.warn(
        format!("incompatible bucket layout encountered for binary operator {operator}"),
        span,
    );
}

/// How NaN among the observations of a histogram shows in a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NanObservations {
    QuantileIsNan,
    QuantileIsSkewed,
    LeftOutOfFractions,
}

/// Tells of NaN among the observations of a histogram.
pub(super) fn nan_observations(ctx: &Context<'_>, effect: NanObservations, name: &str, span: Span) {
    let what = match effect {
        NanObservations::QuantileIsNan => "histogram_quantile has NaN observations, result is NaN",
        NanObservations::QuantileIsSkewed => {
            "histogram_quantile has NaN observations, result is skewed higher"
        }
        NanObservations::LeftOutOfFractions => {
            "histogram_fraction has NaN observations, which are excluded from all fractions"
        }
    };
    ctx.info(format!("input to {what}{}", for_metric(name)), span);
}

/// How classic histograms had to be changed to be monotonic.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct ForcedMonotonicity {
    /// The lowest bucket bound whose count was raised.
    pub(super) min_bucket: f64,
    /// The highest.
    pub(super) max_bucket: f64,
    /// The largest change.
    pub(super) max_difference: f64,
    /// How many histograms were changed.
    pub(super) samples: u64,
    /// The first step with a change.
    pub(super) first_ms: i64,
    /// The last step with a change.
    pub(super) last_ms: i64,
}

impl ForcedMonotonicity {
    /// Takes another changed histogram in.
    pub(super) fn merge(&mut self, other: ForcedMonotonicity) {
        self.min_bucket = self.min_bucket.min(other.min_bucket);
        self.max_bucket = self.max_bucket.max(other.max_bucket);
        self.max_difference = self.max_difference.max(other.max_difference);
        self.samples += other.samples;
        self.first_ms = self.first_ms.min(other.first_ms);
        self.last_ms = self.last_ms.max(other.last_ms);
    }

    /// Tells of the changes.
    pub(super) fn tell(&self, ctx: &Context<'_>, span: Span) {
        let message = format!(
            "input to histogram_quantile needed to be fixed for monotonicity (see \
             https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile), from buckets {} \
             to {}, with a max diff of {}, over {} samples from {} to {}",
            shortest(self.min_bucket),
            shortest(self.max_bucket),
            shortest(significant_four(self.max_difference)),
            self.samples,
            time(self.first_ms),
            time(self.last_ms),
        );
        ctx.info(message, span);
    }
}

/// ` for metric name "m"`, or nothing if there is no name.
fn for_metric(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!(" for metric name {}", quote(name.as_bytes()))
    }
}

/// Go's `%.4g` before it is printed.
fn significant_four(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// RFC 3339 in UTC with whole seconds.
fn time(timestamp_ms: i64) -> String {
    jiff::Timestamp::from_second(timestamp_ms.div_euclid(1000))
        .map_or_else(|_| format!("{timestamp_ms} ms"), |time| time.to_string())
}
