//! Compares what a query gave with what the script expects.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_storage::Histogram;

use super::error::{Context as _, Result, bail, ensure};
use super::labels_of;
use super::script::{Eval, EvalTime, Expect, Pattern};
use crate::parse::series::{DescribedValue, STALE_MARKER_BITS, SeriesDescription};
use crate::value::{Annotation, Evaluated, MatrixSeries, Value, VectorSample};

/// Relative difference that Prometheus's own tests allow.
const EPSILON: f64 = 1e-6;

/// Whether the values are the same but for rounding.
fn almost_equal(a: f64, b: f64) -> bool {
    let is_stale = |value: f64| value.to_bits() == STALE_MARKER_BITS;
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < EPSILON * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < EPSILON
}

/// Checks a successful evaluation in full.
pub(super) fn check(eval: &Eval, query: &str, got: &Evaluated) -> Result<()> {
    check_annotations(&eval.expect, query, got)?;
    match eval.time {
        EvalTime::Instant { .. } => check_instant(&eval.expect, &got.value),
        EvalTime::Range { start, step, .. } => {
            let Value::Matrix(series) = &got.value else {
                bail!("a range query gave {:?}", got.value);
            };
            ensure!(
                series.is_sorted_by(|a, b| a.labels <= b.labels),
                "the series are not sorted"
            );
            check_matrix(&eval.expect.series, series, start, step)
        }
    }
}

/// Checks the sample at `at_ms` of a range evaluation of an instant query.
pub(super) fn check_at_step(eval: &Eval, at_ms: i64, got: &Evaluated) -> Result<()> {
    let Value::Matrix(series) = &got.value else {
        bail!("a range query gave {:?}", got.value);
    };
    let mut vector = Vec::new();
    for one in series {
        if let Ok(index) = one.timestamps_ms.binary_search(&at_ms) {
            let histogram = one.histograms.iter().find(|(at, _)| *at == index);
            let sample = VectorSample {
                labels: one.labels.clone(),
                timestamp_ms: at_ms,
                value: one.values[index],
                histogram: histogram.map(|(_, histogram)| Arc::clone(histogram)),
            };
            vector.push(sample);
        }
    }
    if let Some(expected) = eval.expect.scalar {
        let [sample] = vector.as_slice() else {
            bail!("expected {expected} at the step, got {vector:?}");
        };
        ensure!(
            sample.histogram.is_none() && almost_equal(expected, sample.value),
            "expected {expected} at the step, got {sample:?}"
        );
        return Ok(());
    }
    check_vector(&eval.expect, &vector)
}

fn check_annotations(expect: &Expect, query: &str, got: &Evaluated) -> Result<()> {
    let texts = |annotations: &[Annotation]| -> Vec<String> {
        annotations
            .iter()
            .map(|annotation| annotation.render(query))
            .collect()
    };
    let (warnings, infos) = (texts(&got.warnings), texts(&got.infos));
    ensure!(
        !expect.no_warning || warnings.is_empty(),
        "unexpected warnings {warnings:?}"
    );
    ensure!(!expect.no_info || infos.is_empty(), "unexpected infos {infos:?}");
    ensure!(!expect.some_warning || !warnings.is_empty(), "expected a warning");
    ensure!(!expect.some_info || !infos.is_empty(), "expected an info");
    check_texts(&expect.warnings, &warnings).context("warnings")?;
    check_texts(&expect.infos, &infos).context("infos")
}

/// Each pattern must match a text and each text a pattern, if there are patterns.
fn check_texts(patterns: &[Pattern], texts: &[String]) -> Result<()> {
    if patterns.is_empty() {
        return Ok(());
    }
    let unmatched = patterns
        .iter()
        .position(|pattern| !texts.iter().any(|text| pattern.matches(text)));
    ensure!(
        unmatched.is_none(),
        "expected text {} is missing in {texts:?}",
        unmatched.unwrap_or_default() + 1
    );
    let stray = texts
        .iter()
        .find(|text| !patterns.iter().any(|pattern| pattern.matches(text)));
    ensure!(stray.is_none(), "unexpected {stray:?}");
    Ok(())
}

fn check_instant(expect: &Expect, got: &Value) -> Result<()> {
    if let Some(expected) = &expect.string {
        let Value::String { value, .. } = got else {
            bail!("expected a string, got {got:?}");
        };
        ensure!(
            expected == value.as_bytes(),
            "expected another string than {value:?}"
        );
        return Ok(());
    }
    match got {
        Value::String { .. } => bail!("unexpected string {got:?}"),
        Value::Scalar { value, .. } => {
            let Some(expected) = expect.scalar else {
                bail!("unexpected scalar {value}");
            };
            ensure!(almost_equal(expected, *value), "expected {expected}, got {value}");
            Ok(())
        }
        Value::Vector(vector) => {
            ensure!(expect.scalar.is_none(), "expected a scalar, got {vector:?}");
            check_vector(expect, vector)
        }
        Value::Matrix(series) => {
            let (start, step) = expect.range_vector.context("unexpected range vector")?;
            check_matrix(&expect.series, series, start, step)
        }
    }
}

/// Checks one sample.
fn check_value(expected: &DescribedValue, value: f64, histogram: Option<&Histogram>) -> Result<()> {
    match (expected, histogram) {
        (DescribedValue::Number(expected), None) => {
            ensure!(almost_equal(*expected, value), "expected {expected}, got {value}");
            Ok(())
        }
        (DescribedValue::Histogram { histogram, has_hint }, Some(found)) => {
            check_histogram(histogram, *has_hint, found)
        }
        (DescribedValue::Number(expected), Some(found)) => bail!("expected {expected}, got {found}"),
        (DescribedValue::Histogram { histogram, .. }, None) => bail!("expected {histogram}, got {value}"),
    }
}

/// Counts may differ by rounding; nothing else may, once empty buckets are left out.
fn check_histogram(expected: &Histogram, has_hint: bool, found: &Histogram) -> Result<()> {
    let (mut expected, mut found) = (expected.clone(), found.clone());
    expected.compact();
    found.compact();
    let all_equal =
        |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| almost_equal(*a, *b));
    let same = expected.schema == found.schema
        && almost_equal(expected.count, found.count)
        && almost_equal(expected.sum, found.sum)
        && expected.custom_values == found.custom_values
        && expected.zero_threshold == found.zero_threshold
        && almost_equal(expected.zero_count, found.zero_count)
        && expected.positive_spans == found.positive_spans
        && expected.negative_spans == found.negative_spans
        && all_equal(&expected.positive_buckets, &found.positive_buckets)
        && all_equal(&expected.negative_buckets, &found.negative_buckets);
    ensure!(same, "expected {expected:?}, got {found:?}");
    ensure!(
        !has_hint || expected.counter_reset_hint == found.counter_reset_hint,
        "expected {expected} with counter reset hint {:?}, got {:?}",
        expected.counter_reset_hint,
        found.counter_reset_hint
    );
    Ok(())
}

fn check_vector(expect: &Expect, got: &[VectorSample]) -> Result<()> {
    let mut missing = BTreeMap::new();
    for (position, series) in expect.series.iter().enumerate() {
        let [Some(value)] = series.values.as_slice() else {
            bail!("an instant vector has one value for each series");
        };
        missing.insert(labels_of(series)?, (position, value));
    }
    for (position, sample) in got.iter().enumerate() {
        let Some((expected_position, expected)) = missing.remove(&sample.labels) else {
            bail!("unexpected or repeated {} {}", sample.labels, sample.value);
        };
        ensure!(
            !expect.ordered || position == expected_position,
            "{} is at position {position}, not {expected_position}",
            sample.labels
        );
        check_value(expected, sample.value, sample.histogram.as_deref())
            .with_context(|| sample.labels.to_string())?;
    }
    ensure!(missing.is_empty(), "missing {missing:?} in {got:?}");
    Ok(())
}

fn check_matrix(expected: &[SeriesDescription], got: &[MatrixSeries], start: i64, step: i64) -> Result<()> {
    let mut missing = BTreeMap::new();
    for series in expected {
        let times = (0..).map(|index: i64| start + index * step);
        let samples: Vec<(i64, &DescribedValue)> = times
            .zip(&series.values)
            .filter_map(|(time, value)| value.as_ref().map(|value| (time, value)))
            .collect();
        missing.insert(labels_of(series)?, samples);
    }
    for series in got {
        let Some(samples) = missing.remove(&series.labels) else {
            bail!("unexpected or repeated {series:?}");
        };
        let times: Vec<i64> = samples.iter().map(|(time, _)| *time).collect();
        ensure!(
            times == series.timestamps_ms,
            "{} has samples at {:?}, expected at {times:?}",
            series.labels,
            series.timestamps_ms
        );
        for (index, ((time, expected), found)) in samples.iter().zip(&series.values).enumerate() {
            let histogram = series.histograms.iter().find(|(at, _)| *at == index);
            check_value(
                expected,
                *found,
                histogram.map(|(_, histogram)| histogram.as_ref()),
            )
            .with_context(|| format!("{} at {time}", series.labels))?;
        }
    }
    ensure!(missing.is_empty(), "missing {missing:?}");
    Ok(())
}
