//! The type check: what Prometheus refuses after the grammar accepted it, in its order and with its words.

use crate::ast::{
    AggregateExpr, BinaryExpr, Call, Cardinality, Expr, NumberLiteral, Span, Subquery, UnaryExpr, ValueType,
    VectorSelector,
};
use crate::parse::ParseError;
use crate::parse::functions::Variadic;
use crate::parse::quote::quote;
use crate::parse::selector::METRIC_NAME;

/// Checks the types in `expr`, and leaves vector matching only where both sides are vectors.
pub(super) fn check(query: &str, expr: &mut Expr) -> Result<(), ParseError> {
    Checker { query }.expr(expr).map(|_| ())
}

struct Checker<'a> {
    query: &'a str,
}

impl Checker<'_> {
    fn error(&self, span: Span, message: impl Into<String>) -> ParseError {
        ParseError::new(self.query, span, message)
    }

    fn expr(&self, expr: &mut Expr) -> Result<ValueType, ParseError> {
        match expr {
            Expr::Number(_) => Ok(ValueType::Scalar),
            Expr::String(_) => Ok(ValueType::String),
            Expr::VectorSelector(node) => self.selector(node).map(|()| ValueType::Vector),
            Expr::MatrixSelector(node) => self.selector(&node.selector).map(|()| ValueType::Matrix),
            Expr::Subquery(node) => self.subquery(node),
            Expr::Aggregate(node) => self.aggregate(node),
            Expr::Call(node) => self.call(node),
            Expr::Binary(_) => self.chain(expr),
            Expr::Unary(node) => self.unary(node),
            Expr::Paren(node) => self.expr(&mut node.expr),
        }
    }

    fn expect(&self, expr: &mut Expr, wanted: ValueType, context: &str) -> Result<(), ParseError> {
        let found = self.expr(expr)?;
        if found == wanted {
            return Ok(());
        }
        let message = format!(
            "expected type {} in {context}, got {}",
            wanted.documented(),
            found.documented()
        );
        Err(self.error(expr.span(), message))
    }

    fn selector(&self, selector: &VectorSelector) -> Result<(), ParseError> {
        if let Some(name) = &selector.name {
            let written = &selector.matchers[..selector.matchers.len().saturating_sub(1)];
            return match written.iter().find(|matcher| matcher.name() == METRIC_NAME) {
                None => Ok(()),
                Some(second) => {
                    let names = [quote(name.as_bytes()), quote(second.value().as_bytes())];
                    let message = format!("metric name must not be set twice: {} or {}", names[0], names[1]);
                    Err(self.error(selector.span, message))
                }
            };
        }
        if selector.matchers.iter().all(|matcher| matcher.matches_empty()) {
            let message = "vector selector must contain at least one non-empty matcher";
            return Err(self.error(selector.span, message));
        }
        Ok(())
    }

    fn subquery(&self, node: &mut Subquery) -> Result<ValueType, ParseError> {
        let found = self.expr(&mut node.expr)?;
        if found != ValueType::Vector {
            let message = format!(
                "subquery is only allowed on instant vector, got {} instead",
                found.api_name()
            );
            return Err(self.error(node.span, message));
        }
        Ok(ValueType::Matrix)
    }

    fn aggregate(&self, node: &mut AggregateExpr) -> Result<ValueType, ParseError> {
        self.expect(&mut node.expr, ValueType::Vector, "aggregation expression")?;
        if let (Some(wanted), Some(param)) = (node.op.param_type(), &mut node.param) {
            self.expect(param, wanted, "aggregation parameter")?;
        }
        Ok(ValueType::Vector)
    }

    fn unary(&self, node: &mut UnaryExpr) -> Result<ValueType, ParseError> {
        let found = self.expr(&mut node.expr)?;
        if !matches!(found, ValueType::Scalar | ValueType::Vector) {
            let message = format!(
                "unary expression only allowed on expressions of type scalar or instant vector, got {}",
                quote(found.documented().as_bytes())
            );
            return Err(self.error(node.span, message));
        }
        Ok(found)
    }

    fn call(&self, node: &mut Call) -> Result<ValueType, ParseError> {
        let func = node.func;
        let (listed, found) = (func.arg_types.len(), node.args.len());
        let (least, most) = match func.variadic {
            Variadic::Fixed => (listed, listed),
            Variadic::UpTo(more) => (listed - 1, listed - 1 + more),
            Variadic::Unlimited => (listed - 1, usize::MAX),
        };
        if found < least || found > most {
            let (bound, wanted) = match func.variadic {
                Variadic::Fixed => ("", listed),
                _ if found < least => ("at least ", least),
                _ => ("at most ", most),
            };
            let name = func.name;
            let message = format!("expected {bound}{wanted} argument(s) in call to \"{name}\", got {found}");
            return Err(self.error(node.span, message));
        }
        let context = format!("call to function \"{}\"", func.name);
        for (position, arg) in node.args.iter_mut().enumerate() {
            let wanted = func.arg_types[position.min(listed - 1)];
            if func.name == "info" && position == 1 {
                self.info_matchers(arg, &context)?;
            } else {
                self.expect(arg, wanted, &context)?;
            }
        }
        Ok(func.return_type)
    }

    /// The second argument of `info` only carries matchers, which may match empty.
    fn info_matchers(&self, arg: &mut Expr, context: &str) -> Result<(), ParseError> {
        if let Expr::VectorSelector(selector) = arg {
            if selector.name.is_some() {
                let message = "expected label selectors only, got vector selector instead";
                return Err(self.error(selector.span, message));
            }
            return Ok(());
        }
        self.expect(arg, ValueType::Vector, context)?;
        Err(self.error(arg.span(), "expected label selectors only"))
    }

    /// A binary expression and all those down its left operands, lowest first, without recursion.
    fn chain(&self, expr: &mut Expr) -> Result<ValueType, ParseError> {
        let placeholder = || {
            Expr::Number(NumberLiteral {
                value: 0.0,
                is_duration: false,
                span: Span::default(),
            })
        };
        let mut open = Vec::new();
        let mut lowest = std::mem::replace(expr, placeholder());
        while let Expr::Binary(mut node) = lowest {
            lowest = std::mem::replace(&mut node.lhs, placeholder());
            open.push(node);
        }
        let mut left_type = self.expr(&mut lowest)?;
        let mut checked = lowest;
        while let Some(mut node) = open.pop() {
            node.lhs = checked;
            let right_type = self.expr(&mut node.rhs)?;
            left_type = self.binary(&mut node, left_type, right_type)?;
            checked = Expr::Binary(node);
        }
        *expr = checked;
        Ok(left_type)
    }

    fn binary(
        &self,
        node: &mut BinaryExpr,
        left: ValueType,
        right: ValueType,
    ) -> Result<ValueType, ParseError> {
        let op = node.op;
        let scalars = left == ValueType::Scalar && right == ValueType::Scalar;
        if node.bool_modifier && !op.is_comparison() {
            let message = "bool modifier can only be used on comparison operators";
            return Err(self.error(self.operator_span(node), message));
        }
        if op.is_comparison() && !node.bool_modifier && scalars {
            let message = "comparisons between scalars must use BOOL modifier";
            return Err(self.error(self.operator_span(node), message));
        }
        self.matching_labels(node)?;
        for (found, operand) in [(left, &node.lhs), (right, &node.rhs)] {
            if !matches!(found, ValueType::Scalar | ValueType::Vector) {
                let message = "binary expression must contain only scalar and instant vector types";
                return Err(self.error(operand.span(), message));
            }
        }
        let span = || node.span();
        let matching = node.matching.as_ref();
        if left != ValueType::Vector || right != ValueType::Vector {
            if matching.is_some_and(|matching| !matching.labels.is_empty()) {
                return Err(self.error(span(), "vector matching only allowed between instant vectors"));
            }
            let filled = matching
                .is_some_and(|matching| matching.fill_left.is_some() || matching.fill_right.is_some());
            if filled {
                let message = "filling in missing series only allowed between instant vectors";
                return Err(self.error(span(), message));
            }
            if op.is_set() {
                let message = format!(
                    "set operator {} not allowed in binary scalar expression",
                    quote(op.as_str().as_bytes())
                );
                return Err(self.error(span(), message));
            }
            node.matching = None;
            return Ok(if scalars {
                ValueType::Scalar
            } else {
                ValueType::Vector
            });
        }
        if op.is_set() {
            self.set_operation(node)?;
        }
        Ok(ValueType::Vector)
    }

    /// A label can't both be matched on and be copied.
    fn matching_labels(&self, node: &BinaryExpr) -> Result<(), ParseError> {
        let Some(matching) = node.matching.as_ref().filter(|matching| matching.on) else {
            return Ok(());
        };
        match matching
            .labels
            .iter()
            .find(|label| matching.include.contains(label))
        {
            None => Ok(()),
            Some(label) => {
                let label = quote(label.as_bytes());
                let message = format!("label {label} must not occur in ON and GROUP clause at once");
                Err(self.error(self.operator_span(node), message))
            }
        }
    }

    fn set_operation(&self, node: &mut BinaryExpr) -> Result<(), ParseError> {
        let Some(matching) = &mut node.matching else {
            return Ok(());
        };
        let grouped = matching.cardinality != Cardinality::OneToOne;
        let filled = matching.fill_left.is_some() || matching.fill_right.is_some();
        matching.cardinality = Cardinality::ManyToMany;
        if grouped {
            let message = format!(
                "no grouping allowed for {} operation",
                quote(node.op.as_str().as_bytes())
            );
            return Err(self.error(node.span(), message));
        }
        if filled {
            return Err(self.error(
                node.span(),
                "filling in missing series not allowed for set operators",
            ));
        }
        Ok(())
    }

    /// From the operator to its last modifier.
    fn operator_span(&self, node: &BinaryExpr) -> Span {
        let (from, to) = (node.lhs.span().end, node.rhs.span().start);
        let between = self.query.get(from as usize..to as usize).unwrap_or_default();
        let leading = between.len() - between.trim_start().len();
        let trailing = between.len() - between.trim_end().len();
        // Both are shorter than the query, which is shorter than `u32::MAX`.
        Span::new(from + leading as u32, to - trailing as u32)
    }
}
