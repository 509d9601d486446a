//! What the engine asks of its source, and how it stops.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use quorate_query::ast::ValueType;
use quorate_query::value::{Abort, EvalError, EvalOptions, LimitKind, Value};
use quorate_query::{SampleColumns, SelectRequest, SeriesCursor, Source, SourceError};
use quorate_query::{eval_instant, eval_range, parse};
use quorate_storage::histogram::Span;
use quorate_storage::{Histogram, Labels};

/// Series `m{i="0"}`, `m{i="1"}`, … with a sample of value 1 every second of the requested time.
struct Generated {
    series: usize,
    requests: Mutex<Vec<(i64, i64)>>,
}

impl Generated {
    fn new(series: usize) -> Generated {
        Generated {
            series,
            requests: Mutex::default(),
        }
    }

    fn requests(&self) -> Vec<(i64, i64)> {
        self.requests
            .lock()
            .expect("no test panics with the lock held")
            .clone()
    }
}

struct Cursor {
    labels: Labels,
    start_ms: i64,
    end_ms: i64,
}

impl SeriesCursor for Cursor {
    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn samples(&mut self, out: &mut SampleColumns) -> Result<(), SourceError> {
        let mut time_ms = self.start_ms + (-self.start_ms).rem_euclid(1000);
        while time_ms <= self.end_ms {
            out.push(time_ms, 1.0);
            time_ms += 1000;
        }
        Ok(())
    }
}

impl Source for Generated {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError> {
        self.requests
            .lock()
            .expect("no test panics with the lock held")
            .push((request.start_ms, request.end_ms));
        let cursor = |index: usize| {
            let index = index.to_string();
            let labels = Labels::from_pairs([("__name__", "m"), ("i", index.as_str())]).expect("two labels");
            Box::new(Cursor {
                labels,
                start_ms: request.start_ms,
                end_ms: request.end_ms,
            }) as Box<dyn SeriesCursor>
        };
        Ok((0..self.series).map(cursor).collect())
    }
}

struct Broken;

impl Source for Broken {
    fn select(&self, _: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError> {
        Err(SourceError::new(std::io::Error::other("no quorum")))
    }
}

fn range(query: &str, source: &dyn Source, options: &EvalOptions<'_>) -> Result<Value, EvalError> {
    let expr = parse(query).expect("a query");
    eval_range(&expr, source, (1_000_000, 2_000_000, 10_000), options).map(|evaluated| evaluated.value)
}

#[test]
fn selectors_ask_for_exactly_what_they_need() {
    let cases = [
        ("m", (700_001, 2_000_000)),
        ("m offset 1m", (640_001, 1_940_000)),
        ("m @ 500", (200_001, 500_000)),
        ("m @ end() offset -1m", (1_760_001, 2_060_000)),
        ("rate(m[2m])", (880_001, 2_000_000)),
        ("rate(m[2m] @ start() offset 10s)", (870_001, 990_000)),
        // The first step of the subquery after 940 s is at 960 s.
        ("max_over_time(rate(m[2m])[1m:30s])", (840_001, 1_980_000)),
        ("max_over_time(m[1m:7s] offset 5s)", (638_001, 1_995_000)),
    ];
    for (query, expected) in cases {
        let source = Generated::new(1);
        range(query, &source, &EvalOptions::default()).unwrap();
        assert_eq!(source.requests(), [expected], "{query}");
    }
}

#[test]
fn pinned_parts_are_read_once() {
    let source = Generated::new(2);
    let Value::Matrix(matrix) = range("sum(m @ 500) + time()", &source, &EvalOptions::default()).unwrap()
    else {
        panic!("a range query gives a matrix");
    };
    assert_eq!(source.requests(), [(200_001, 500_000)]);
    assert_eq!((matrix.len(), matrix[0].values.len()), (1, 101));
    assert_eq!(
        (matrix[0].timestamps_ms[100], matrix[0].values[100]),
        (2_000_000, 2_002.0)
    );
}

#[test]
fn the_memory_limit_bounds_what_is_held_and_not_what_streams_past() {
    let options = EvalOptions {
        max_memory_bytes: 200_000,
        ..EvalOptions::default()
    };
    // 500 series of 101 steps are 400 kB of columns.
    for query in [
        "m",
        "quantile(0.5, m)",
        "topk(1000, m)",
        "m * on (i) m",
        "sort(m)",
        "m or m",
    ] {
        let result = range(query, &Generated::new(500), &options);
        assert!(
            matches!(
                result,
                Err(EvalError::Limit {
                    limit: LimitKind::MemoryBytes,
                    max: 200_000
                })
            ),
            "{query}: {result:?}"
        );
    }
    let sum = range("sum(rate(m[1m])) by (job)", &Generated::new(500), &options);
    // Even the labels are too much here; with a little more room the sum fits.
    assert!(sum.is_err());
    let options = EvalOptions {
        max_memory_bytes: 400_000,
        ..EvalOptions::default()
    };
    assert!(range("sum(m)", &Generated::new(500), &options).is_ok());
    assert!(range("m", &Generated::new(500), &options).is_err());
}

/// One series of histograms with a hundred buckets, one every second of the requested time.
struct Histograms;

impl Source for Histograms {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError> {
        let labels = Labels::from_pairs([("__name__", "h")]).map_err(SourceError::new)?;
        let mut samples = SampleColumns::new();
        for time_ms in (request.start_ms..=request.end_ms).filter(|time_ms| time_ms % 1000 == 0) {
            let histogram = Histogram {
                count: 100.0 * time_ms as f64,
                positive_spans: vec![Span {
                    offset: 0,
                    length: 100,
                }],
                positive_buckets: vec![time_ms as f64; 100],
                ..Histogram::default()
            };
            samples.push_histogram(time_ms, Arc::new(histogram));
        }
        Ok(vec![Box::new(HistogramCursor(labels, samples))])
    }
}

struct HistogramCursor(Labels, SampleColumns);

impl SeriesCursor for HistogramCursor {
    fn labels(&self) -> &Labels {
        &self.0
    }

    fn samples(&mut self, out: &mut SampleColumns) -> Result<(), SourceError> {
        *out = std::mem::take(&mut self.1);
        Ok(())
    }
}

#[test]
fn the_memory_limit_counts_histograms() {
    // 101 steps of a kilobyte each.
    for query in [
        "h",
        "sum(h)",
        "avg(h)",
        "sum_over_time(h[10s])",
        "limitk(1, h)",
        "h + h",
        "-h",
    ] {
        for (max_memory_bytes, fits) in [(90_000, false), (2_000_000, true)] {
            let options = EvalOptions {
                max_memory_bytes,
                ..EvalOptions::default()
            };
            let expr = parse(query).unwrap();
            let result = eval_range(&expr, &Histograms, (500_000, 600_000, 1_000), &options);
            assert_eq!(
                result.is_ok(),
                fits,
                "{query} {max_memory_bytes}: {:?}",
                result.err()
            );
        }
    }
    let options = EvalOptions {
        max_samples: 1_000,
        ..EvalOptions::default()
    };
    let result = eval_range(
        &parse("h").unwrap(),
        &Histograms,
        (500_000, 600_000, 1_000),
        &options,
    );
    assert!(matches!(
        result,
        Err(EvalError::Limit {
            limit: LimitKind::Samples,
            max: 1_000
        })
    ));
}

#[test]
fn the_other_limits_are_named() {
    let limit = |query: &str, options: EvalOptions<'_>| match range(query, &Generated::new(10), &options) {
        Err(error @ EvalError::Limit { .. }) => error.to_string(),
        other => panic!("{query}: {other:?}"),
    };
    assert_eq!(
        limit(
            "m",
            EvalOptions {
                max_samples: 900,
                ..EvalOptions::default()
            }
        ),
        "query processing would load too many samples into memory in query execution: the limit is max_samples=900"
    );
    let few_steps = EvalOptions {
        max_steps: 100,
        ..EvalOptions::default()
    };
    assert!(limit("m", few_steps).ends_with("max_steps=100"));
    let fewer_than_inner = EvalOptions {
        max_steps: 200,
        ..EvalOptions::default()
    };
    assert!(limit("max_over_time(m[1h:1s])", fewer_than_inner).ends_with("max_steps=200"));
    let chain = vec!["m"; 2000].join("+");
    assert!(limit(&chain, EvalOptions::default()).contains("nested too deeply"));
}

#[test]
fn an_abort_ends_the_evaluation_soon() {
    for (query, abort) in [
        ("sum(m)", Abort::Timeout),
        ("quantile_over_time(0.5, m[10m])", Abort::Canceled),
        ("count_values(\"v\", m)", Abort::Timeout),
        ("topk(3, m)", Abort::Timeout),
    ] {
        let asked = AtomicU64::new(0);
        let check = || (asked.fetch_add(1, Ordering::Relaxed) >= 5).then_some(abort);
        let options = EvalOptions {
            abort: &check,
            ..EvalOptions::default()
        };
        let source = Generated::new(1000);
        let result = range(query, &source, &options);
        assert!(
            matches!(result, Err(EvalError::Aborted(why)) if why == abort),
            "{query}"
        );
        assert_eq!(asked.load(Ordering::Relaxed), 6, "{query}");
    }
}

#[test]
fn the_source_s_error_comes_through() {
    let error = range("sum(m)", &Broken, &EvalOptions::default()).unwrap_err();
    let EvalError::Source(error) = error else {
        panic!("{error}")
    };
    assert!(error.get::<std::io::Error>().is_some());
}

#[test]
fn every_function_is_evaluated() {
    for function in quorate_query::parse::functions::FUNCTIONS {
        let args = function.arg_types.iter().map(|kind| match kind {
            ValueType::Matrix => "m[5m]",
            ValueType::Vector => "m",
            ValueType::Scalar => "0.5",
            ValueType::String => "\"q\"",
        });
        let query = match function.name {
            "info" => r#"info(m, {i="0"})"#.to_owned(),
            name => format!("{name}({})", args.collect::<Vec<_>>().join(", ")),
        };
        let expr = parse(&query).unwrap_or_else(|error| panic!("{query}: {error}"));
        let result = eval_instant(&expr, &Generated::new(1), 1_000_000, &EvalOptions::default());
        assert!(
            !matches!(result, Err(EvalError::Unsupported { .. })),
            "{query}: {result:?}"
        );
    }
}

#[test]
fn an_expression_of_the_greatest_height_fits_a_small_stack() {
    let height = quorate_query::eval::MAX_HEIGHT;
    let nested = |open: &str, close: &str, levels: usize| {
        let (open, close) = (open.repeat(levels), close.repeat(levels));
        format!("{open}m{close}")
    };
    let queries = [
        ("chain", vec!["m"; height].join(" + ")),
        ("nested", nested("abs(", ")", height - 1)),
        ("minuses", nested("-", "", height - 1)),
        ("subqueries", nested("max_over_time(", "[1m:1m])", height / 2 - 1)),
        ("sums", nested("sum(", ")", height - 1)),
        ("counts", nested("histogram_count(", ")", height - 1)),
    ];
    for (name, query) in queries {
        let evaluate = move || {
            let expr = parse(&query).unwrap();
            eval_instant(&expr, &Generated::new(1), 1_000_000, &EvalOptions::default()).unwrap();
        };
        // If it overflows, the process ends with the thread's name.
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(1280 << 10)
            .spawn(evaluate);
        thread.unwrap().join().unwrap();
    }
}
