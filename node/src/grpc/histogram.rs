//! Native histograms in gRPC messages.

use quorate_ingest::{Batch, DecodeError, DecodeLimits, HistogramRef, WireCount};
use quorate_proto::v1::{self, histogram};
use quorate_storage::histogram::Span;
use quorate_storage::{CounterResetHint, Histogram, SampleColumns};

/// Adds a histogram to the series that was added last.
pub(super) fn push(
    batch: &mut Batch,
    sent: &v1::Histogram,
    limits: &DecodeLimits,
) -> Result<(), DecodeError> {
    let spans = |spans: &[v1::BucketSpan]| -> Vec<quorate_ingest::BucketSpan> {
        let span = |span: &v1::BucketSpan| quorate_ingest::BucketSpan {
            offset: span.offset,
            length: span.length,
        };
        spans.iter().map(span).collect()
    };
    let histogram = HistogramRef {
        timestamp_ms: sent.timestamp,
        count: match sent.count {
            None => WireCount::Int(0),
            Some(histogram::Count::CountInt(count)) => WireCount::Int(count),
            Some(histogram::Count::CountFloat(count)) => WireCount::Float(count),
        },
        sum: sent.sum,
        schema: sent.schema,
        zero_threshold: sent.zero_threshold,
        zero_count: match sent.zero_count {
            None => WireCount::Int(0),
            Some(histogram::ZeroCount::ZeroCountInt(count)) => WireCount::Int(count),
            Some(histogram::ZeroCount::ZeroCountFloat(count)) => WireCount::Float(count),
        },
        reset_hint: i32::try_from(sent.reset_hint).unwrap_or_default(),
        negative_spans: &spans(&sent.negative_spans),
        negative_deltas: &sent.negative_deltas,
        negative_counts: &sent.negative_counts,
        positive_spans: &spans(&sent.positive_spans),
        positive_deltas: &sent.positive_deltas,
        positive_counts: &sent.positive_counts,
        custom_values: &sent.custom_values,
    };
    batch.push_histogram(&histogram, limits)
}

/// Takes the histograms out of the columns, which hold numbers only afterwards.
pub(super) fn take(columns: &mut SampleColumns) -> Vec<v1::Histogram> {
    let histograms = std::mem::take(&mut columns.histograms);
    if histograms.is_empty() {
        return Vec::new();
    }
    let messages = histograms
        .iter()
        .filter_map(|(at, histogram)| Some(message(*columns.timestamps.get(*at)?, histogram)))
        .collect();
    let is_float = |at: &usize| histograms.binary_search_by_key(at, |(at, _)| *at).is_err();
    let kept = (0..columns.len()).filter(is_float);
    let (timestamps, values) = kept
        .map(|at| (columns.timestamps[at], columns.values[at]))
        .unzip();
    (columns.timestamps, columns.values) = (timestamps, values);
    messages
}

fn message(timestamp: i64, histogram: &Histogram) -> v1::Histogram {
    let spans = |spans: &[Span]| {
        let span = |span: &Span| v1::BucketSpan {
            offset: span.offset,
            length: span.length,
        };
        spans.iter().map(span).collect()
    };
    v1::Histogram {
        count: Some(histogram::Count::CountFloat(histogram.count)),
        sum: histogram.sum,
        schema: histogram.schema,
        zero_threshold: histogram.zero_threshold,
        zero_count: Some(histogram::ZeroCount::ZeroCountFloat(histogram.zero_count)),
        negative_spans: spans(&histogram.negative_spans),
        negative_deltas: Vec::new(),
        negative_counts: histogram.negative_buckets.clone(),
        positive_spans: spans(&histogram.positive_spans),
        positive_deltas: Vec::new(),
        positive_counts: histogram.positive_buckets.clone(),
        reset_hint: match histogram.counter_reset_hint {
            CounterResetHint::Unknown => 0,
            CounterResetHint::Reset => 1,
            CounterResetHint::NotReset => 2,
            CounterResetHint::Gauge => 3,
        },
        timestamp,
        custom_values: histogram.custom_values.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn histograms_are_told_from_numbers_and_can_be_sent_again() {
        let histogram = Histogram {
            counter_reset_hint: CounterResetHint::Gauge,
            schema: 1,
            count: 4.5,
            sum: -0.0,
            positive_spans: vec![Span { offset: 2, length: 2 }],
            positive_buckets: vec![1.5, 3.0],
            ..Histogram::default()
        };
        let mut columns = SampleColumns::new();
        columns.push(1, 10.0);
        columns.push_histogram(2, Arc::new(histogram.clone()));
        columns.push(3, 30.0);
        let messages = take(&mut columns);
        assert_eq!(
            (columns.timestamps, columns.values),
            (vec![1, 3], vec![10.0, 30.0])
        );
        let limits = DecodeLimits::DEFAULT;
        let mut batch = Batch::new();
        batch.push_series([("__name__", "m")], [], &limits).unwrap();
        push(&mut batch, &messages[0], &limits).unwrap();
        let sent = batch.get(0).unwrap().histograms().next().unwrap();
        assert_eq!((sent.timestamp_ms, sent.count), (2, WireCount::Float(4.5)));
        assert_eq!((sent.reset_hint, sent.sum.to_bits()), (3, (-0.0f64).to_bits()));
        assert_eq!(sent.positive_counts, [1.5, 3.0]);
    }
}
