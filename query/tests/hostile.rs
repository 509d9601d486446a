//! Queries that are meant to hurt: each gets a clear refusal, and neither stack nor memory suffer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quorate_query::source::{SelectRequest, SeriesCursor, Source, SourceError};
use quorate_query::value::{EvalError, EvalOptions};
use quorate_query::{eval_instant, eval_range, parse};

struct Nothing;

impl Source for Nothing {
    fn select(&self, _: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError> {
        Ok(Vec::new())
    }
}

/// Runs on a stack as small as those of a runtime's threads.
fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    thread.spawn(run).unwrap().join().unwrap();
}

#[test]
fn long_and_deep_queries_are_refused_by_the_parser() {
    on_a_small_stack(|| {
        let cases = [
            (
                format!("sum({})", "a".repeat(1 << 20)),
                "more than the 262144 allowed",
            ),
            (
                format!("a{{b=~\"{}\"}}", "x|".repeat(1 << 19)),
                "more than the 262144 allowed",
            ),
            ("(".repeat(100_000), "nests deeper than the 512 levels allowed"),
            (
                format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000)),
                "nests deeper than the 512 levels allowed",
            ),
            (
                format!("{}a", "-".repeat(100_000)),
                "nests deeper than the 512 levels allowed",
            ),
            (
                format!("{}a{}", "abs(".repeat(50_000), ")".repeat(50_000)),
                "nests deeper than the 512 levels allowed",
            ),
            (format!("a{{b=~\"{}\"}}", "(".repeat(100_000)), ""),
            (
                format!("a{{b=~\"{}a{}\"}}", "(".repeat(50_000), ")".repeat(50_000)),
                "",
            ),
            ("a{b=~\"((a{1,1000}){1,1000}){1,1000}\"}".to_owned(), ""),
        ];
        for (query, expected) in cases {
            let error = parse(&query).unwrap_err();
            assert!(
                error.message().contains(expected),
                "{:.40}: {:.200}",
                query,
                error.to_string()
            );
            assert!(error.to_string().len() < 300_000, "{:.40}", query);
        }
    });
}

#[test]
fn a_long_chain_is_refused_by_the_engine() {
    on_a_small_stack(|| {
        let chain = vec!["a"; 30_000].join("+");
        let expr = parse(&chain).unwrap();
        assert_eq!(expr.to_string().len(), chain.len() + 2 * 29_999);
        let error = eval_instant(&expr, &Nothing, 0, &EvalOptions::default()).unwrap_err();
        assert!(error.to_string().contains("nested too deeply"), "{error}");
    });
}

#[test]
fn too_many_steps_are_refused_before_memory_is_taken() {
    let options = EvalOptions::default();
    let steps = 1i64 << 60;
    let query = parse("a").unwrap();
    let error = eval_range(&query, &Nothing, (0, steps, 1), &options).unwrap_err();
    assert!(matches!(error, EvalError::Limit { .. }), "{error}");
    let query = parse("count_over_time(vector(1)[100y:1ms])").unwrap();
    let error = eval_instant(&query, &Nothing, 0, &options).unwrap_err();
    assert!(matches!(error, EvalError::Limit { .. }), "{error}");
}
