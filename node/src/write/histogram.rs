//! From the fields of a native histogram as they were sent to the histogram that is stored.

use quorate_ingest::{HistogramRef, SeriesRef, WireCount};
use quorate_storage::histogram::{MAX_SCHEMA, Span};
use quorate_storage::{CounterResetHint, Histogram, HistogramError, MAX_HISTOGRAM_CELLS};

use super::place::refuse;
use crate::api::Refused;

/// Counts up to here are kept exactly.
const MAX_COUNT: u64 = 1 << 53;
/// The finest schema that is reserved for exponential buckets.
const FINEST_SCHEMA: i32 = 52;

/// Why a histogram is refused for good.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum BadHistogram {
    /// It contradicts itself.
    #[error(transparent)]
    Invalid(#[from] HistogramError),
    /// A count that would not be kept exactly.
    #[error("a count is above 2^53, more than can be stored exactly")]
    Count,
    /// More than a histogram may have.
    #[error(
        "it has {0} buckets, spans and custom bounds, more than {MAX_HISTOGRAM_CELLS}; lower its resolution"
    )]
    TooLarge(usize),
}

impl BadHistogram {
    /// The reason's stable name, in snake case.
    fn reason(&self) -> &'static str {
        match self {
            BadHistogram::Invalid(_) => "invalid_histogram",
            BadHistogram::Count => "histogram_count_too_large",
            BadHistogram::TooLarge(_) => "histogram_too_large",
        }
    }
}

/// The valid histograms of a series, with their times; others are added to `refused`.
pub(super) fn histograms_of(series: &SeriesRef<'_>, refused: &mut Vec<Refused>) -> Vec<(i64, Histogram)> {
    let sent = series.histograms();
    let mut valid = Vec::with_capacity(sent.len());
    for histogram in sent {
        match to_stored(&histogram) {
            Ok(stored) => valid.push((histogram.timestamp_ms, stored)),
            Err(e) => refuse(refused, e.reason(), 1, || {
                format!("{} at {}: {e}", name_of(series), histogram.timestamp_ms)
            }),
        }
    }
    valid
}

/// A series' labels, for people.
fn name_of(series: &SeriesRef<'_>) -> String {
    let mut canonical = Vec::new();
    let limits = quorate_ingest::DecodeLimits::DEFAULT;
    match series.canonicalize(&limits, &mut canonical) {
        Ok(labels) => labels.metric().to_owned(),
        Err(_) => "a series".to_owned(),
    }
}

fn to_stored(sent: &HistogramRef<'_>) -> Result<Histogram, BadHistogram> {
    let cells = [
        sent.positive_spans.len(),
        sent.negative_spans.len(),
        sent.positive_deltas.len().max(sent.positive_counts.len()),
        sent.negative_deltas.len().max(sent.negative_counts.len()),
        sent.custom_values.len(),
    ];
    let cells: usize = cells.iter().sum();
    if cells > MAX_HISTOGRAM_CELLS {
        return Err(BadHistogram::TooLarge(cells));
    }
    let float = matches!(sent.count, WireCount::Float(_));
    let side = |deltas: &[i64], counts: &[f64]| match float {
        true => Ok(counts.to_vec()),
        false => absolute(deltas),
    };
    let spans = |spans: &[quorate_ingest::BucketSpan]| -> Vec<Span> {
        let span = |span: &quorate_ingest::BucketSpan| Span {
            offset: span.offset,
            length: span.length,
        };
        spans.iter().map(span).collect()
    };
    // Finer than any that is stored: Prometheus lowers their resolution instead of refusing them.
    let finer = (MAX_SCHEMA + 1..=FINEST_SCHEMA).contains(&sent.schema);
    let mut histogram = Histogram {
        counter_reset_hint: match sent.reset_hint {
            1 => CounterResetHint::Reset,
            2 => CounterResetHint::NotReset,
            3 => CounterResetHint::Gauge,
            _ => CounterResetHint::Unknown,
        },
        schema: if finer { MAX_SCHEMA } else { sent.schema },
        zero_threshold: sent.zero_threshold,
        zero_count: count(sent.zero_count, float)?,
        count: count(sent.count, float)?,
        sum: sent.sum,
        positive_spans: spans(sent.positive_spans),
        negative_spans: spans(sent.negative_spans),
        positive_buckets: side(sent.positive_deltas, sent.positive_counts)?,
        negative_buckets: side(sent.negative_deltas, sent.negative_counts)?,
        custom_values: sent.custom_values.to_vec(),
    };
    match float {
        true => histogram.validate()?,
        false => histogram.validate_integer()?,
    }
    if finer {
        histogram.schema = sent.schema;
        histogram.reduce_resolution(MAX_SCHEMA);
    }
    Ok(histogram)
}

/// A count of the histogram's own kind; one of the other kind is taken as left out, as Prometheus does.
fn count(sent: WireCount, float: bool) -> Result<f64, BadHistogram> {
    match sent {
        WireCount::Float(count) if float => Ok(count),
        WireCount::Int(count) if !float && count <= MAX_COUNT => Ok(count as f64),
        WireCount::Int(_) if !float => Err(BadHistogram::Count),
        _ => Ok(0.0),
    }
}

/// Counts of buckets from their differences.
fn absolute(deltas: &[i64]) -> Result<Vec<f64>, BadHistogram> {
    let mut count = 0i64;
    let add = |delta: &i64| {
        count = count.checked_add(*delta).ok_or(BadHistogram::Count)?;
        match count.unsigned_abs() <= MAX_COUNT {
            true => Ok(count as f64),
            false => Err(BadHistogram::Count),
        }
    };
    deltas.iter().map(add).collect()
}

#[cfg(test)]
mod tests {
    use quorate_ingest::{Batch, BucketSpan, DecodeLimits};

    use super::*;

    const STALE: u64 = 0x7ff0_0000_0000_0002;

    fn sent() -> HistogramRef<'static> {
        HistogramRef {
            timestamp_ms: 5,
            count: WireCount::Int(9),
            sum: 2.5,
            schema: 2,
            zero_threshold: 0.001,
            zero_count: WireCount::Int(1),
            reset_hint: 1,
            negative_spans: &[],
            negative_deltas: &[],
            negative_counts: &[],
            positive_spans: &[
                BucketSpan {
                    offset: -1,
                    length: 2,
                },
                BucketSpan { offset: 3, length: 1 },
            ],
            positive_deltas: &[3, 1, -3],
            positive_counts: &[],
            custom_values: &[],
        }
    }

    #[test]
    fn integer_and_float_histograms_are_taken_with_all_their_bits() {
        let stored = to_stored(&sent()).unwrap();
        assert_eq!(stored.positive_buckets, [3.0, 4.0, 1.0]);
        assert_eq!((stored.count, stored.zero_count), (9.0, 1.0));
        assert_eq!(stored.counter_reset_hint, CounterResetHint::Reset);
        let float = HistogramRef {
            count: WireCount::Float(8.5),
            zero_count: WireCount::Float(0.5),
            positive_counts: &[1.0, 2.0, 5.0],
            reset_hint: 3,
            ..sent()
        };
        let stored = to_stored(&float).unwrap();
        assert_eq!((stored.count, stored.zero_count), (8.5, 0.5));
        assert_eq!(
            stored.positive_buckets,
            [1.0, 2.0, 5.0],
            "deltas are those of integers"
        );
        let stale = HistogramRef {
            count: WireCount::Int(0),
            zero_count: WireCount::Int(0),
            positive_spans: &[],
            positive_deltas: &[],
            sum: f64::from_bits(STALE),
            ..sent()
        };
        assert_eq!(to_stored(&stale).unwrap().sum.to_bits(), STALE);
        let custom = HistogramRef {
            schema: -53,
            zero_threshold: 0.0,
            zero_count: WireCount::Int(0),
            count: WireCount::Int(8),
            positive_spans: &[BucketSpan { offset: 0, length: 3 }],
            custom_values: &[0.1, 1.0],
            ..sent()
        };
        assert_eq!(to_stored(&custom).unwrap().custom_values, [0.1, 1.0]);
    }

    #[test]
    fn a_resolution_finer_than_any_stored_is_lowered() {
        let fine = HistogramRef {
            schema: 9,
            positive_spans: &[BucketSpan { offset: 1, length: 4 }],
            positive_deltas: &[1, 1, 1, 1],
            count: WireCount::Int(11),
            ..sent()
        };
        let stored = to_stored(&fine).unwrap();
        assert_eq!((stored.schema, stored.count), (8, 11.0));
        assert_eq!(stored.positive_buckets, [3.0, 7.0], "two buckets become one");
        assert_eq!(stored.check_layout(), Ok(()));
    }

    #[test]
    fn bad_histograms_are_refused_by_reason_and_the_rest_is_kept() {
        let large = 1u64 << 53;
        let buckets = vec![1i64; MAX_HISTOGRAM_CELLS];
        let bad = [
            (HistogramRef { schema: 53, ..sent() }, "invalid_histogram"),
            (
                HistogramRef {
                    count: WireCount::Int(8),
                    ..sent()
                },
                "invalid_histogram",
            ),
            (
                HistogramRef {
                    positive_deltas: &[3, 1],
                    ..sent()
                },
                "invalid_histogram",
            ),
            (
                HistogramRef {
                    positive_deltas: &[3, -5, 10],
                    ..sent()
                },
                "invalid_histogram",
            ),
            (
                HistogramRef {
                    count: WireCount::Int(large + 1),
                    ..sent()
                },
                "histogram_count_too_large",
            ),
            (
                HistogramRef {
                    positive_deltas: &[i64::MAX, 1, 0],
                    ..sent()
                },
                "histogram_count_too_large",
            ),
            (
                HistogramRef {
                    positive_deltas: &buckets,
                    ..sent()
                },
                "histogram_too_large",
            ),
        ];
        let limits = DecodeLimits::DEFAULT;
        let mut batch = Batch::new();
        batch.push_series([("__name__", "latency")], [], &limits).unwrap();
        for (histogram, reason) in &bad {
            assert_eq!(to_stored(histogram).unwrap_err().reason(), *reason);
            batch.push_histogram(histogram, &limits).unwrap();
        }
        batch.push_histogram(&sent(), &limits).unwrap();
        let mut refused = Vec::new();
        let kept = histograms_of(&batch.get(0).unwrap(), &mut refused);
        assert_eq!(kept.len(), 1);
        let counts: Vec<_> = refused.iter().map(|r| (r.reason, r.samples)).collect();
        let expected = [
            ("invalid_histogram", 4),
            ("histogram_count_too_large", 2),
            ("histogram_too_large", 1),
        ];
        assert_eq!(counts, expected);
        let first = &refused[0].first;
        assert!(
            first.starts_with("latency at 5: histogram has an invalid schema"),
            "{first}"
        );
    }
}
