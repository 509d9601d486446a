//! Writes expressions over several lines, as Prometheus's `Pretty` does: what doesn't fit on a line is split at its
//! outermost operator, call or parenthesis.

use std::fmt::{self, Write};

use crate::ast::{AggregateExpr, BinaryExpr, Expr, UnaryOp};
use crate::parse::printer;

/// What is longer, in bytes, is split.
const MAX_LINE_BYTES: usize = 100;

/// The highest tree that is written: each level is indented, so the text grows with the square of the height.
pub const MAX_PRETTY_HEIGHT: usize = 384;

/// The expression as `format_query` shows it. Nothing if it is higher than [`MAX_PRETTY_HEIGHT`].
pub fn prettify(expr: &Expr) -> Option<String> {
    (expr.height() <= MAX_PRETTY_HEIGHT).then(|| pretty(expr, 0))
}

fn pretty(expr: &Expr, level: usize) -> String {
    let indent = "  ".repeat(level);
    match expr {
        Expr::Unary(node) => {
            let sign = if node.op == UnaryOp::Minus { '-' } else { '+' };
            format!("{indent}{sign}{}", pretty(&node.expr, level).trim())
        }
        Expr::Subquery(node) => {
            if fits(expr) {
                // Prometheus doesn't indent these.
                return expr.to_string();
            }
            let suffix = printer::SubquerySuffix(node);
            format!("{}{suffix}", pretty(&node.expr, level))
        }
        Expr::Number(_) | Expr::String(_) | Expr::VectorSelector(_) | Expr::MatrixSelector(_) => {
            format!("{indent}{expr}")
        }
        _ if fits(expr) => format!("{indent}{expr}"),
        Expr::Aggregate(node) => aggregate(node, level, &indent),
        Expr::Binary(node) => binary(node, level, &indent),
        Expr::Call(node) => {
            let args: Vec<String> = node.args.iter().map(|arg| pretty(arg, level + 1)).collect();
            format!("{indent}{}(\n{}\n{indent})", node.func.name, args.join(",\n"))
        }
        Expr::Paren(node) => format!("{indent}(\n{}\n{indent})", pretty(&node.expr, level + 1)),
    }
}

fn aggregate(node: &AggregateExpr, level: usize, indent: &str) -> String {
    let mut text = format!("{indent}{}(\n", printer::AggregateHead(node));
    if let Some(param) = &node.param {
        text.push_str(&pretty(param, level + 1));
        text.push_str(",\n");
    }
    text.push_str(&pretty(&node.expr, level + 1));
    text.push('\n');
    text.push_str(indent);
    text.push(')');
    text
}

fn binary(node: &BinaryExpr, level: usize, indent: &str) -> String {
    format!(
        "{}\n{indent}{}\n{}",
        pretty(&node.lhs, level + 1),
        printer::OperatorText(node),
        pretty(&node.rhs, level + 1)
    )
}

/// Whether the text has at most [`MAX_LINE_BYTES`] bytes; stops to write when it hasn't.
fn fits(expr: &Expr) -> bool {
    struct Room(usize);
    impl Write for Room {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.checked_sub(text.len()).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    write!(Room(MAX_LINE_BYTES), "{expr}").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn check(query: &str, expected: &str) {
        assert_eq!(prettify(&parse(query).unwrap()).as_deref(), Some(expected));
    }

    #[test]
    fn what_fits_stays_on_its_line() {
        check("sum  by(job)( rate(a[5m]) ) /2", "sum by (job) (rate(a[5m])) / 2");
        check("-foo", "-foo");
    }

    #[test]
    fn what_does_not_fit_is_split_at_its_outermost_part() {
        check(
            "histogram_quantile(0.9, sum by (le) (rate(some_quite_long_metric_name_bucket{label=\"a longer value\"}[5m]))) > 0.5",
            concat!(
                "  histogram_quantile(\n",
                "    0.9,\n",
                "    sum by (le) (rate(some_quite_long_metric_name_bucket{label=\"a longer value\"}[5m]))\n",
                "  )\n",
                ">\n",
                "  0.5",
            ),
        );
        check(
            "topk without(a) (3, first_metric_name_that_is_long{a=\"b\"} + on (some_label) group_left (another) second_metric_name_that_is_long)",
            concat!(
                "topk without (a) (\n",
                "  3,\n",
                "    first_metric_name_that_is_long{a=\"b\"}\n",
                "  + on (some_label) group_left (another)\n",
                "    second_metric_name_that_is_long\n",
                ")",
            ),
        );
    }

    #[test]
    fn a_chain_that_would_fill_the_memory_is_refused() {
        let chain = vec!["metric"; 20_000].join("+");
        assert_eq!(prettify(&parse(&chain).unwrap()), None);
    }
}
