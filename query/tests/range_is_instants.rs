//! A range query is, at each step, what an instant query gives at that time.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_query::value::{EvalOptions, Value};
use quorate_query::{SampleColumns, SelectRequest, SeriesCursor, Source, SourceError};
use quorate_query::{eval_instant, eval_range, parse};
use quorate_storage::Labels;

const QUERIES: [&str; 34] = [
    "m",
    "m offset 25s",
    "timestamp(m)",
    "abs(-m)",
    "rate(m[1m])",
    "increase(m[35s] offset 10s)",
    "irate(m[1m])",
    "delta(m[45s])",
    "changes(m[1m]) + resets(m[1m])",
    "deriv(m[1m])",
    "predict_linear(m[1m], 30)",
    "sum_over_time(m[1m])",
    "max_over_time(m[1m])",
    "min_over_time(m[50s])",
    "quantile_over_time(0.3, m[5m])",
    "stddev_over_time(m[1m])",
    "absent_over_time(m{b=\"1\"}[15s])",
    "absent(m{b=\"1\"})",
    "sum by (a) (m)",
    "avg without (b) (m)",
    "stdvar(m)",
    "topk(2, m)",
    "bottomk by (a) (1, m)",
    "quantile(0.6, m)",
    "count_values(\"v\", m)",
    "m * on (b, a) m",
    "m > on (a) group_left () sum by (a) (m offset 1m)",
    "m and m{b=\"1\"} offset 20s",
    "m{b=\"1\"} or m",
    "m unless on (a) (m > 2)",
    "max_over_time(rate(m[40s])[1m:15s])",
    "scalar(m{b=\"1\"}) + vector(time())",
    "histogram_quantile(0.7, label_replace(m, \"le\", \"$1\", \"b\", \"(.)\"))",
    "minute() + hour(m) + clamp_max(m, 3)",
];

struct Fixed(Vec<(Labels, BTreeMap<i64, f64>)>);

struct Cursor(Labels, SampleColumns);

impl SeriesCursor for Cursor {
    fn labels(&self) -> &Labels {
        &self.0
    }

    fn samples(&mut self, out: &mut SampleColumns) -> Result<(), SourceError> {
        self.1
            .iter()
            .for_each(|(timestamp_ms, value)| out.push(timestamp_ms, value));
        Ok(())
    }
}

impl Source for Fixed {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError> {
        let matches = |labels: &Labels| {
            let value = |name| labels.get(name).unwrap_or("");
            request
                .matchers
                .iter()
                .all(|matcher| matcher.matches(value(matcher.name())))
        };
        let mut cursors: Vec<Box<dyn SeriesCursor>> = Vec::new();
        for (labels, samples) in self.0.iter().filter(|(labels, _)| matches(labels)) {
            let mut columns = SampleColumns::new();
            for (timestamp_ms, value) in samples.range(request.start_ms..=request.end_ms) {
                columns.push(*timestamp_ms, *value);
            }
            cursors.push(Box::new(Cursor(labels.clone(), columns)));
        }
        Ok(cursors)
    }
}

/// The samples of a result by labels and time, as bits; any NaN is one NaN.
fn by_labels_and_time(value: Value) -> BTreeMap<(Labels, i64), u64> {
    let bits = |value: f64| {
        if value.is_nan() {
            f64::NAN.to_bits()
        } else {
            value.to_bits()
        }
    };
    let mut samples = BTreeMap::new();
    match value {
        Value::Vector(vector) => {
            for sample in vector {
                samples.insert((sample.labels, sample.timestamp_ms), bits(sample.value));
            }
        }
        Value::Matrix(matrix) => {
            for series in matrix {
                for (timestamp_ms, value) in series.timestamps_ms.iter().zip(series.values) {
                    samples.insert((series.labels.clone(), *timestamp_ms), bits(value));
                }
            }
        }
        other => panic!("a vector or a matrix was expected, not {other:?}"),
    }
    samples
}

fn sample() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (0_i32..6).prop_map(f64::from),
        1 => Just(f64::NAN),
        1 => Just(f64::from_bits(0x7ff0_0000_0000_0002)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn at_each_step(
        series in proptest::collection::vec(proptest::collection::btree_map(0_i64..600, sample(), 0..60), 4),
        step_ms in 1_000_i64..200_000,
    ) {
        let names = [("1", "1"), ("1", "2"), ("2", "1"), ("2", "3")];
        let series = names.iter().zip(series).map(|((a, b), samples)| {
            let labels = Labels::from_pairs([("__name__", "m"), ("a", a), ("b", b)]).expect("three labels");
            (labels, samples.into_iter().map(|(second, value)| (second * 1000, value)).collect())
        });
        let source = Fixed(series.collect());
        let options = EvalOptions::default();
        let (start_ms, end_ms) = (-20_000, 700_000);
        for query in QUERIES {
            let expr = parse(query).unwrap();
            let mut instants = BTreeMap::new();
            let mut failed = false;
            for time_ms in (start_ms..=end_ms).step_by(step_ms as usize) {
                match eval_instant(&expr, &source, time_ms, &options) {
                    Ok(evaluated) => instants.extend(by_labels_and_time(evaluated.value)),
                    Err(_) => failed = true,
                }
            }
            match eval_range(&expr, &source, (start_ms, end_ms, step_ms), &options) {
                Ok(evaluated) => {
                    prop_assert!(!failed, "{}: a step fails alone", query);
                    prop_assert_eq!(by_labels_and_time(evaluated.value), instants, "{}", query);
                }
                Err(error) => prop_assert!(failed, "{}: {}", query, error),
            }
        }
    }
}
