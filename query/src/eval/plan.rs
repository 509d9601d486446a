//! What is known about an expression before it is evaluated.

use crate::ast::{BinaryOp, Expr, VectorSelector};

/// Functions that look at the step's time, so that they change from step to step even if their arguments don't.
const LOOK_AT_THE_TIME: [&str; 11] = [
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "hour",
    "minute",
    "month",
    "predict_linear",
    "time",
    "timestamp",
    "year",
];

/// Whether the expression has the same value at every step, so that one evaluation is enough.
pub(super) fn is_step_invariant(expr: &Expr) -> bool {
    match expr {
        Expr::Number(_) | Expr::String(_) => true,
        Expr::VectorSelector(selector) => selector.at.is_some(),
        Expr::MatrixSelector(matrix) => matrix.selector.at.is_some(),
        Expr::Subquery(subquery) => subquery.at.is_some(),
        Expr::Call(call) => {
            !LOOK_AT_THE_TIME.contains(&call.func.name) && call.args.iter().all(is_step_invariant)
        }
        Expr::Aggregate(_) | Expr::Binary(_) | Expr::Unary(_) | Expr::Paren(_) => {
            expr.children().into_iter().all(is_step_invariant)
        }
    }
}

/// The selectors of whose histograms nothing but count and sum is asked, because `histogram_count` or its like is
/// called on what becomes of them.
pub(super) fn of_totals_only(expr: &Expr) -> Vec<&VectorSelector> {
    let mut found = Vec::new();
    collect_of_totals_only(expr, false, &mut found);
    found
}

fn collect_of_totals_only<'q>(expr: &'q Expr, totals_only: bool, found: &mut Vec<&'q VectorSelector>) {
    let totals_only = match expr {
        Expr::Call(call) => match call.func.name {
            "histogram_count" | "histogram_sum" | "histogram_avg" => true,
            name if name.starts_with("histogram_") => false,
            _ => totals_only,
        },
        // Its samples may lie apart, so resets between them have to be found in the buckets.
        Expr::Subquery(_) => false,
        Expr::Binary(binary) if matches!(binary.op, BinaryOp::TrimLower | BinaryOp::TrimUpper) => false,
        Expr::VectorSelector(selector) if totals_only => {
            found.push(selector);
            return;
        }
        Expr::MatrixSelector(matrix) if totals_only => {
            found.push(&matrix.selector);
            return;
        }
        _ => totals_only,
    };
    for child in expr.children() {
        collect_of_totals_only(child, totals_only, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invariant(query: &str) -> bool {
        is_step_invariant(&crate::parse(query).unwrap())
    }

    #[test]
    fn pinned_expressions_are_invariant() {
        assert!(invariant("sum(rate(x[5m] @ 10)) + 1"));
        assert!(invariant("max_over_time(x[5m:1m] @ end())"));
        assert!(!invariant("sum(x @ 10) + y"));
        assert!(!invariant("topk(scalar(y), x @ 10)"));
        assert!(!invariant("timestamp(x @ 10)"));
        assert!(!invariant("predict_linear(x[5m] @ 10, 60)"));
        assert!(!invariant("time()"));
        assert!(invariant("vector(1)"));
    }

    #[test]
    fn totals_are_enough_below_histogram_count() {
        let count = |query: &str| of_totals_only(&crate::parse(query).unwrap()).len();
        assert_eq!(count("histogram_count(sum(rate(x[5m]))) / histogram_sum(y)"), 2);
        assert_eq!(
            count("histogram_count(x unless histogram_quantile(0.5, x) < 3)"),
            1
        );
        assert_eq!(count("histogram_count(increase(x[40m:9m]))"), 0);
        assert_eq!(count("histogram_count(x </ 3)"), 0);
        assert_eq!(count("histogram_quantile(0.5, x)"), 0);
    }
}
