//! The other ways in which an instant query must give the same: pinned with `@` and asked at other times.

use crate::ast::{At, DurationExpr, DurationValue, Expr, VectorSelector};

/// Functions whose result depends on the evaluation time even if all selectors are pinned.
const TIME_DEPENDENT: [&str; 15] = [
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "end",
    "hour",
    "minute",
    "month",
    "predict_linear",
    "range",
    "start",
    "step",
    "time",
    "timestamp",
    "year",
];

/// The query with every selector that has no `@` pinned to `at_ms`; nothing if the query's result would still depend
/// on when it is asked.
pub(super) fn pinned(expr: &Expr, at_ms: i64) -> Option<Expr> {
    if depends_on_time(expr) {
        return None;
    }
    let mut pinned = expr.clone();
    pin(&mut pinned, at_ms);
    Some(pinned)
}

/// The other times a query pinned to `at_ms` is asked at.
pub(super) fn other_times(at_ms: i64) -> Vec<i64> {
    if at_ms == 0 {
        vec![-1000, 0, 1000]
    } else {
        vec![-10 * at_ms, 0, at_ms / 5, at_ms, 10 * at_ms]
    }
}

/// Whether the query asks for its own start, end, range or step, and so differs when asked as a range.
pub(super) fn depends_on_range(expr: &Expr) -> bool {
    let own = match expr {
        Expr::Call(call) => matches!(call.func.name, "start" | "end" | "range" | "step"),
        Expr::VectorSelector(selector) => selector_depends(selector),
        Expr::MatrixSelector(node) => selector_depends(&node.selector) || varies(&node.range),
        Expr::Subquery(node) => {
            is_relative(node.at)
                || [Some(&node.range), node.step.as_ref(), node.offset.as_ref()]
                    .into_iter()
                    .flatten()
                    .any(varies)
        }
        _ => false,
    };
    own || expr.children().into_iter().any(depends_on_range)
}

fn selector_depends(selector: &VectorSelector) -> bool {
    is_relative(selector.at) || selector.offset.as_ref().is_some_and(varies)
}

fn is_relative(at: Option<At>) -> bool {
    matches!(at, Some(At::Start | At::End))
}

fn varies(duration: &DurationValue) -> bool {
    fn expr_varies(expr: &DurationExpr) -> bool {
        match expr {
            DurationExpr::Number(_) => false,
            DurationExpr::Step(_) | DurationExpr::Range(_) => true,
            DurationExpr::Unary { expr, .. } | DurationExpr::Paren { expr, .. } => expr_varies(expr),
            DurationExpr::Binary { lhs, rhs, .. }
            | DurationExpr::MinOf { lhs, rhs, .. }
            | DurationExpr::MaxOf { lhs, rhs, .. } => expr_varies(lhs) || expr_varies(rhs),
        }
    }
    matches!(duration, DurationValue::Expr(expr) if expr_varies(expr))
}

fn depends_on_time(expr: &Expr) -> bool {
    let own = matches!(expr, Expr::Call(call) if TIME_DEPENDENT.contains(&call.func.name));
    own || expr.children().into_iter().any(depends_on_time)
}

fn pin(expr: &mut Expr, at_ms: i64) {
    let time = Some(At::Timestamp(at_ms));
    match expr {
        Expr::Number(_) | Expr::String(_) => {}
        Expr::VectorSelector(node) => node.at = node.at.or(time),
        Expr::MatrixSelector(node) => node.selector.at = node.selector.at.or(time),
        // What a pinned subquery holds is evaluated at times that it fixes.
        Expr::Subquery(node) => node.at = node.at.or(time),
        Expr::Aggregate(node) => {
            pin(&mut node.expr, at_ms);
            if let Some(param) = &mut node.param {
                pin(param, at_ms);
            }
        }
        Expr::Call(node) => node.args.iter_mut().for_each(|arg| pin(arg, at_ms)),
        Expr::Binary(node) => {
            pin(&mut node.lhs, at_ms);
            pin(&mut node.rhs, at_ms);
        }
        Expr::Unary(node) => pin(&mut node.expr, at_ms),
        Expr::Paren(node) => pin(&mut node.expr, at_ms),
    }
}
