//! Expressions as JSON, in the shape of Prometheus's `parse_query`.

use quorate_query::ast::{
    At, BinaryExpr, Boundary, Cardinality, DurationValue, Expr, Grouping, UnaryOp, VectorMatching,
    VectorSelector,
};
use quorate_query::parse::functions::Variadic;
use quorate_storage::Matcher;
use serde_json::{Value, json};

/// Recurses as deep as the tree is high.
pub(super) fn translate(expr: &Expr) -> Value {
    match expr {
        Expr::Number(node) => json!({"type": "numberLiteral", "val": decimal(node.value)}),
        Expr::String(node) => json!({"type": "stringLiteral", "val": String::from_utf8_lossy(&node.value)}),
        Expr::Paren(node) => json!({"type": "parenExpr", "expr": translate(&node.expr)}),
        Expr::Unary(node) => json!({
            "type": "unaryExpr",
            "op": if node.op == UnaryOp::Minus { "-" } else { "+" },
            "expr": translate(&node.expr),
        }),
        Expr::VectorSelector(node) => selector("vectorSelector", node, None),
        Expr::MatrixSelector(node) => selector("matrixSelector", &node.selector, Some(&node.range)),
        Expr::Subquery(node) => json!({
            "type": "subquery",
            "expr": translate(&node.expr),
            "range": millis(Some(&node.range)),
            "offset": millis(node.offset.as_ref()),
            "step": millis(node.step.as_ref()),
            "timestamp": timestamp(node.at),
            "startOrEnd": start_or_end(node.at),
        }),
        Expr::Aggregate(node) => {
            let (grouping, without) = match &node.grouping {
                Grouping::By(labels) => (labels, false),
                Grouping::Without(labels) => (labels, true),
            };
            json!({
                "type": "aggregation",
                "op": node.op.as_str(),
                "expr": translate(&node.expr),
                "param": node.param.as_ref().map(translate),
                "grouping": grouping,
                "without": without,
            })
        }
        Expr::Call(node) => json!({
            "type": "call",
            "func": {
                "name": node.func.name,
                "argTypes": node.func.arg_types.iter().map(|kind| kind.api_name()).collect::<Vec<_>>(),
                "variadic": match node.func.variadic {
                    Variadic::Fixed => 0,
                    Variadic::UpTo(most) => most as i64,
                    Variadic::Unlimited => -1,
                },
                "returnType": node.func.return_type.api_name(),
            },
            "args": node.args.iter().map(translate).collect::<Vec<_>>(),
        }),
        Expr::Binary(node) => binary(node),
    }
}

fn binary(node: &BinaryExpr) -> Value {
    json!({
        "type": "binaryExpr",
        "op": node.op.as_str(),
        "lhs": translate(&node.lhs),
        "rhs": translate(&node.rhs),
        "matching": node.matching.as_ref().map(matching),
        "bool": node.bool_modifier,
    })
}

fn matching(matching: &VectorMatching) -> Value {
    json!({
        "card": match matching.cardinality {
            Cardinality::OneToOne => "one-to-one",
            Cardinality::ManyToOne => "many-to-one",
            Cardinality::OneToMany => "one-to-many",
            Cardinality::ManyToMany => "many-to-many",
        },
        "labels": matching.labels,
        "on": matching.on,
        "include": matching.include,
        "fillValues": {
            "lhs": matching.fill_left.map(decimal),
            "rhs": matching.fill_right.map(decimal),
        },
    })
}

fn selector(kind: &str, selector: &VectorSelector, range: Option<&DurationValue>) -> Value {
    let matcher = |matcher: &Matcher| json!({"name": matcher.name(), "type": matcher.op().as_str(), "value": matcher.value()});
    let mut value = json!({
        "type": kind,
        "name": selector.name.as_deref().unwrap_or_default(),
        "offset": millis(selector.offset.as_ref()),
        "matchers": selector.matchers.iter().map(matcher).collect::<Vec<_>>(),
        "timestamp": timestamp(selector.at),
        "startOrEnd": start_or_end(selector.at),
        "anchored": selector.boundary == Some(Boundary::Anchored),
        "smoothed": selector.boundary == Some(Boundary::Smoothed),
    });
    if let (Some(range), Some(object)) = (range, value.as_object_mut()) {
        object.insert("range".to_owned(), millis(Some(range)));
    }
    value
}

/// What isn't known before the evaluation shows as 0, as in Prometheus.
fn millis(duration: Option<&DurationValue>) -> Value {
    match duration {
        Some(DurationValue::Millis(millis)) => (*millis).into(),
        Some(DurationValue::Expr(_)) | None => 0.into(),
    }
}

fn timestamp(at: Option<At>) -> Value {
    match at {
        Some(At::Timestamp(time_ms)) => time_ms.into(),
        _ => Value::Null,
    }
}

fn start_or_end(at: Option<At>) -> Value {
    match at {
        Some(At::Start) => "start".into(),
        Some(At::End) => "end".into(),
        _ => Value::Null,
    }
}

/// All digits, never an exponent.
fn decimal(value: f64) -> String {
    let mut out = String::new();
    super::number::push_decimal(&mut out, value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_prometheus_s() {
        let expr = quorate_query::parse(
            "-sum by (a) (rate(m{b=~\"c\"}[5m] @ end())) > bool on (x) group_left (y) n offset 1m",
        )
        .unwrap();
        let value = translate(&expr);
        assert_eq!(value["type"], "binaryExpr");
        assert_eq!(value["matching"]["card"], "many-to-one");
        let call = &value["lhs"]["expr"]["expr"];
        assert_eq!(call["func"]["argTypes"], json!(["matrix"]));
        assert_eq!(
            call["args"][0],
            json!({
                "type": "matrixSelector", "name": "m", "range": 300_000, "offset": 0,
                "matchers": [
                    {"name": "b", "type": "=~", "value": "c"},
                    {"name": "__name__", "type": "=", "value": "m"},
                ],
                "timestamp": null, "startOrEnd": "end", "anchored": false, "smoothed": false,
            })
        );
        assert_eq!(value["rhs"]["offset"], 60_000);
    }
}
