//! Writes expressions as Prometheus's `String()` does. Reading the text again gives the same expression.

use std::fmt::{self, Display, Formatter, Write};

use quorate_storage::{MatchOp, Matcher};

use crate::ast::{
    AggregateExpr, At, BinaryExpr, BinaryOp, Cardinality, DurationExpr, DurationOp, DurationValue, Expr,
    Grouping, NumberLiteral, Subquery, UnaryOp, VectorMatching, VectorSelector,
};
use crate::parse::duration::format_duration;
use crate::parse::number::format_number;
use crate::parse::quote::quote;
use crate::parse::selector::METRIC_NAME;

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Number(node) => Display::fmt(node, f),
            Expr::String(node) => f.write_str(&quote(&node.value)),
            Expr::VectorSelector(node) => {
                write_selector(f, node)?;
                write_modifiers(f, node.at, node.offset.as_ref())?;
                write_boundary(f, node)
            }
            Expr::MatrixSelector(node) => {
                write_selector(f, &node.selector)?;
                write!(f, "[{}]", Duration(&node.range))?;
                write_boundary(f, &node.selector)?;
                write_modifiers(f, node.selector.at, node.selector.offset.as_ref())
            }
            Expr::Subquery(node) => write!(f, "{}{}", node.expr, SubquerySuffix(node)),
            Expr::Aggregate(node) => write_aggregate(f, node),
            Expr::Call(node) => {
                write!(f, "{}(", node.func.name)?;
                for (position, arg) in node.args.iter().enumerate() {
                    write!(f, "{}{arg}", if position > 0 { ", " } else { "" })?;
                }
                f.write_char(')')
            }
            Expr::Binary(node) => write_chain(f, node),
            Expr::Unary(node) => {
                write!(
                    f,
                    "{}{}",
                    if node.op == UnaryOp::Minus { '-' } else { '+' },
                    node.expr
                )
            }
            Expr::Paren(node) => write!(f, "({})", node.expr),
        }
    }
}

impl Display for NumberLiteral {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.is_duration {
            // It was read from whole milliseconds.
            f.write_str(&format_duration((self.value * 1000.0).round() as i64))
        } else {
            f.write_str(&format_number(self.value))
        }
    }
}

fn write_selector(f: &mut Formatter<'_>, selector: &VectorSelector) -> fmt::Result {
    let name = selector.name.as_deref().unwrap_or_default();
    f.write_str(name)?;
    let is_name = |matcher: &&Matcher| {
        matcher.name() == METRIC_NAME
            && matcher.op() == MatchOp::Eq
            && matcher.value() == name
            && !name.is_empty()
    };
    let mut matchers: Vec<String> = selector
        .matchers
        .iter()
        .filter(|matcher| !is_name(matcher))
        .map(matcher_text)
        .collect();
    if matchers.is_empty() {
        return if name.is_empty() {
            f.write_str("{}")
        } else {
            Ok(())
        };
    }
    matchers.sort();
    write!(f, "{{{}}}", matchers.join(","))
}

fn write_boundary(f: &mut Formatter<'_>, selector: &VectorSelector) -> fmt::Result {
    match selector.boundary {
        Some(boundary) => write!(f, " {}", boundary.as_str()),
        None => Ok(()),
    }
}

fn matcher_text(matcher: &Matcher) -> String {
    let op = match matcher.op() {
        MatchOp::Eq => "=",
        MatchOp::Ne => "!=",
        MatchOp::Re => "=~",
        MatchOp::Nre => "!~",
    };
    format!(
        "{}{op}{}",
        label_text(matcher.name()),
        quote(matcher.value().as_bytes())
    )
}

/// A label name, quoted unless it is a plain word.
fn label_text(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.is_empty() && name.bytes().all(plain) && !name.starts_with(|first: char| first.is_ascii_digit())
    {
        name.to_owned()
    } else {
        quote(name.as_bytes())
    }
}

fn labels_text(labels: &[String]) -> String {
    let labels: Vec<String> = labels.iter().map(|label| label_text(label)).collect();
    labels.join(", ")
}

fn write_modifiers(f: &mut Formatter<'_>, at: Option<At>, offset: Option<&DurationValue>) -> fmt::Result {
    match at {
        Some(At::Start) => f.write_str(" @ start()")?,
        Some(At::End) => f.write_str(" @ end()")?,
        Some(At::Timestamp(millis)) => {
            let sign = if millis < 0 { "-" } else { "" };
            let millis = millis.unsigned_abs();
            write!(f, " @ {sign}{}.{:03}", millis / 1000, millis % 1000)?;
        }
        None => {}
    }
    match offset {
        None => Ok(()),
        Some(offset) => write!(f, " offset {}", Duration(offset)),
    }
}

/// What stands behind a subquery's expression.
pub(super) struct SubquerySuffix<'a>(pub(super) &'a Subquery);

impl Display for SubquerySuffix<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let SubquerySuffix(node) = self;
        write!(f, "[{}:", Duration(&node.range))?;
        if let Some(step) = &node.step {
            Display::fmt(&Duration(step), f)?;
        }
        f.write_char(']')?;
        write_modifiers(f, node.at, node.offset.as_ref())
    }
}

/// What stands before an aggregation's parentheses.
pub(super) struct AggregateHead<'a>(pub(super) &'a AggregateExpr);

impl Display for AggregateHead<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.op.as_str())?;
        match &self.0.grouping {
            Grouping::By(labels) if labels.is_empty() => Ok(()),
            Grouping::By(labels) => write!(f, " by ({}) ", labels_text(labels)),
            Grouping::Without(labels) => write!(f, " without ({}) ", labels_text(labels)),
        }
    }
}

/// An operator with its modifiers.
pub(super) struct OperatorText<'a>(pub(super) &'a BinaryExpr);

impl Display for OperatorText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.op.as_str())?;
        if self.0.bool_modifier {
            f.write_str(" bool")?;
        }
        match &self.0.matching {
            Some(matching) => write_matching(f, matching),
            None => Ok(()),
        }
    }
}

fn write_aggregate(f: &mut Formatter<'_>, node: &AggregateExpr) -> fmt::Result {
    Display::fmt(&AggregateHead(node), f)?;
    match &node.param {
        Some(param) => write!(f, "({param}, {})", node.expr),
        None => write!(f, "({})", node.expr),
    }
}

/// A binary expression and all those down its left operands, without recursion.
fn write_chain(f: &mut Formatter<'_>, node: &BinaryExpr) -> fmt::Result {
    let spine: Vec<&BinaryExpr> = node.left_spine().collect();
    for (position, node) in spine.into_iter().rev().enumerate() {
        match &node.lhs {
            _ if position > 0 => {}
            // With its sign it would read as `+(Inf ^ …)`.
            Expr::Number(number) if node.op == BinaryOp::Pow && number.value == f64::INFINITY => {
                f.write_str("Inf")?;
            }
            lhs => Display::fmt(lhs, f)?,
        }
        write!(f, " {} {}", OperatorText(node), node.rhs)?;
    }
    Ok(())
}

fn write_matching(f: &mut Formatter<'_>, matching: &VectorMatching) -> fmt::Result {
    let side = match matching.cardinality {
        Cardinality::ManyToOne => Some("left"),
        Cardinality::OneToMany => Some("right"),
        Cardinality::OneToOne | Cardinality::ManyToMany => None,
    };
    if matching.on || !matching.labels.is_empty() || side.is_some() {
        let tag = if matching.on { "on" } else { "ignoring" };
        write!(f, " {tag} ({})", labels_text(&matching.labels))?;
    }
    if let Some(side) = side {
        write!(f, " group_{side} ({})", labels_text(&matching.include))?;
    }
    match (matching.fill_left, matching.fill_right) {
        (Some(left), Some(right)) if left.to_bits() == right.to_bits() => {
            write!(f, " fill ({})", format_number(left))
        }
        (left, right) => {
            if let Some(left) = left {
                write!(f, " fill_left ({})", format_number(left))?;
            }
            if let Some(right) = right {
                write!(f, " fill_right ({})", format_number(right))?;
            }
            Ok(())
        }
    }
}

/// A duration as it is written in brackets and after `offset`.
struct Duration<'a>(&'a DurationValue);

impl Display for Duration<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            DurationValue::Millis(millis) => f.write_str(&format_duration(*millis)),
            DurationValue::Expr(expr) => Display::fmt(expr, f),
        }
    }
}

impl Display for DurationExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            DurationExpr::Number(number) => Display::fmt(number, f),
            DurationExpr::Step(_) => f.write_str("step()"),
            DurationExpr::Range(_) => f.write_str("range()"),
            DurationExpr::Unary { negative, expr, .. } => {
                write!(f, "{}{expr}", if *negative { '-' } else { '+' })
            }
            DurationExpr::MinOf { lhs, rhs, .. } => write!(f, "min_of({lhs}, {rhs})"),
            DurationExpr::MaxOf { lhs, rhs, .. } => write!(f, "max_of({lhs}, {rhs})"),
            DurationExpr::Paren { expr, .. } => write!(f, "({expr})"),
            DurationExpr::Binary { op, lhs, rhs } => {
                let op = match op {
                    DurationOp::Add => '+',
                    DurationOp::Sub => '-',
                    DurationOp::Mul => '*',
                    DurationOp::Div => '/',
                    DurationOp::Mod => '%',
                    DurationOp::Pow => '^',
                };
                write!(f, "{lhs} {op} {rhs}")
            }
        }
    }
}
