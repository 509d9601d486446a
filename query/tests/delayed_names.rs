//! Delayed removal of metric names: functions below see them, the final result doesn't.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quorate_query::source::{SelectRequest, SeriesCursor, Source, SourceError};
use quorate_query::value::{EvalOptions, Value};
use quorate_query::{eval_instant, parse};
use quorate_storage::{Labels, SampleColumns};

struct Two;

struct One(Labels, f64);

impl SeriesCursor for One {
    fn labels(&self) -> &Labels {
        &self.0
    }
    fn samples(&mut self, out: &mut SampleColumns) -> Result<(), SourceError> {
        (0..3).for_each(|step| out.push(step * 60_000, self.1 * step as f64));
        Ok(())
    }
}

impl Source for Two {
    fn select(&self, _: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError> {
        let series = |name, slope| {
            let labels =
                Labels::from_pairs([("__name__", name), ("__type__", "counter"), ("env", "1")]).unwrap();
            Box::new(One(labels, slope)) as Box<dyn SeriesCursor>
        };
        Ok(vec![series("a_total", 60.0), series("b_total", 120.0)])
    }
}

/// The result's label sets, or the error.
fn labels(query: &str, delayed: bool) -> Result<Vec<String>, String> {
    let options = EvalOptions {
        delayed_name_removal: delayed,
        ..EvalOptions::default()
    };
    let got = eval_instant(&parse(query).unwrap(), &Two, 120_000, &options).map_err(|e| e.to_string())?;
    let Value::Vector(samples) = got.value else {
        panic!("{:?}", got.value)
    };
    Ok(samples.iter().map(|sample| sample.labels.to_string()).collect())
}

#[test]
fn functions_below_see_the_name() {
    let query = r#"label_replace(rate(x[2m]), "was", "$1", "__name__", "(.)_total")"#;
    let seen = [r#"{env="1", was="a"}"#, r#"{env="1", was="b"}"#].map(str::to_owned);
    assert_eq!(labels(query, true), Ok(seen.to_vec()));
    assert!(labels(query, false).unwrap_err().contains("same labelset"));
    let query = r#"label_replace(rate(x[2m]), "__name__", "rate_$1", "__name__", "(.)_total")"#;
    let named = labels(query, true).unwrap();
    assert!(
        named[0].contains("rate_a") && named[1].contains("rate_b"),
        "{named:?}"
    );
}

#[test]
fn the_final_result_has_no_names() {
    for query in [
        "rate(x[2m])",
        "-x",
        "x * 2",
        "sum by (__name__) (rate(x[2m]))",
        "timestamp(x)",
    ] {
        let error = labels(query, true).unwrap_err();
        assert_eq!(
            error, "vector cannot contain metrics with the same labelset",
            "{query}"
        );
    }
    for query in [
        "sum(rate(x[2m]))",
        "sum without (__type__) (-x)",
        "topk(1, x * 2)",
    ] {
        let got = labels(query, true).unwrap();
        assert!(
            got.len() == 1 && !got[0].contains("_total") && !got[0].contains("counter"),
            "{query}: {got:?}"
        );
    }
    // What only selects keeps them.
    assert!(labels("last_over_time(x[2m]) > 0", true).unwrap()[0].contains("a_total"));
}
