//! What is known about an expression before it is evaluated.

use crate::ast::Expr;

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
}
