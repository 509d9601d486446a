//! Binary expressions. A chain of them is as high as the query is long, so nothing here recurses into left operands.

use std::fmt;

use super::{Expr, NumberLiteral, Span};

/// The operators between two expressions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum BinaryOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `^`
    Pow,
    /// `atan2`
    Atan2,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `>`
    Gt,
    /// `<`
    Lt,
    /// `>=`
    Ge,
    /// `<=`
    Le,
    /// `and`
    And,
    /// `or`
    Or,
    /// `unless`
    Unless,
    /// `</`: trims a native histogram's observations above the right side.
    TrimUpper,
    /// `>/`: trims a native histogram's observations below the right side.
    TrimLower,
}

impl BinaryOp {
    /// The operator as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "^",
            BinaryOp::Atan2 => "atan2",
            BinaryOp::Eq => "==",
            BinaryOp::Ne => "!=",
            BinaryOp::Gt => ">",
            BinaryOp::Lt => "<",
            BinaryOp::Ge => ">=",
            BinaryOp::Le => "<=",
            BinaryOp::And => "and",
            BinaryOp::Or => "or",
            BinaryOp::Unless => "unless",
            BinaryOp::TrimUpper => "</",
            BinaryOp::TrimLower => ">/",
        }
    }

    /// Whether it compares, and so filters unless `bool` is written.
    pub fn is_comparison(self) -> bool {
        matches!(
            self,
            BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Gt | BinaryOp::Lt | BinaryOp::Ge | BinaryOp::Le
        )
    }

    /// Whether it is `and`, `or` or `unless`.
    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
    }
}

/// How many series of each side may match.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Cardinality {
    /// One to one.
    OneToOne,
    /// `group_left`: many on the left.
    ManyToOne,
    /// `group_right`: many on the right.
    OneToMany,
    /// Set operators.
    ManyToMany,
}

/// How series of two vectors find each other.
#[derive(Clone, Debug)]
pub struct VectorMatching {
    /// How many series of each side may match.
    pub cardinality: Cardinality,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// Whether `labels` came with `on`; otherwise they are ignored (`ignoring`, or nothing was written).
    pub on: bool,
    /// The labels of `group_left` or `group_right`: copied from the "one" side.
    pub include: Vec<String>,
    /// Stands for a missing left side (`fill`, `fill_left`).
    pub fill_left: Option<f64>,
    /// Stands for a missing right side (`fill`, `fill_right`).
    pub fill_right: Option<f64>,
}

impl PartialEq for VectorMatching {
    /// Fill values are compared bitwise, so that a tree that holds NaN equals itself.
    fn eq(&self, other: &Self) -> bool {
        let fills =
            |matching: &Self| [matching.fill_left, matching.fill_right].map(|fill| fill.map(f64::to_bits));
        self.cardinality == other.cardinality
            && self.labels == other.labels
            && self.on == other.on
            && self.include == other.include
            && fills(self) == fills(other)
    }
}

/// `lhs op rhs`.
pub struct BinaryExpr {
    /// The operator.
    pub op: BinaryOp,
    /// Left operand.
    pub lhs: Expr,
    /// Right operand.
    pub rhs: Expr,
    /// How the sides match; always there when both are vectors, and only then.
    pub matching: Option<VectorMatching>,
    /// Whether a comparison answers 0 or 1.
    pub bool_modifier: bool,
}

impl BinaryExpr {
    /// From the start of the left operand to the end of the right one.
    pub fn span(&self) -> Span {
        Span::new(self.lhs.start(), self.rhs.span().end)
    }

    /// This node with another left operand and copies of all else.
    fn with_lhs(&self, lhs: Expr) -> BinaryExpr {
        BinaryExpr {
            op: self.op,
            lhs,
            rhs: self.rhs.clone(),
            matching: self.matching.clone(),
            bool_modifier: self.bool_modifier,
        }
    }

    /// The binary expressions from this one down its left operands.
    pub(crate) fn left_spine(&self) -> impl Iterator<Item = &BinaryExpr> {
        std::iter::successors(Some(self), |node| match &node.lhs {
            Expr::Binary(next) => Some(next),
            _ => None,
        })
    }
}

impl Clone for BinaryExpr {
    fn clone(&self) -> Self {
        let spine: Vec<&BinaryExpr> = self.left_spine().collect();
        let mut nodes = spine.into_iter().rev();
        let lowest = nodes.next().expect("the spine begins with the node itself");
        let mut built = lowest.with_lhs(lowest.lhs.clone());
        for node in nodes {
            built = node.with_lhs(Expr::Binary(Box::new(built)));
        }
        built
    }
}

impl PartialEq for BinaryExpr {
    fn eq(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self, other);
        loop {
            let same = left.op == right.op
                && left.rhs == right.rhs
                && left.matching == right.matching
                && left.bool_modifier == right.bool_modifier;
            if !same {
                return false;
            }
            match (&left.lhs, &right.lhs) {
                (Expr::Binary(next_left), Expr::Binary(next_right)) => {
                    (left, right) = (next_left, next_right)
                }
                (a, b) => return a == b,
            }
        }
    }
}

impl Drop for BinaryExpr {
    fn drop(&mut self) {
        let placeholder = || {
            Expr::Number(NumberLiteral {
                value: 0.0,
                is_duration: false,
                span: Span::default(),
            })
        };
        let mut lhs = std::mem::replace(&mut self.lhs, placeholder());
        while let Expr::Binary(mut node) = lhs {
            lhs = std::mem::replace(&mut node.lhs, placeholder());
        }
    }
}

impl fmt::Debug for BinaryExpr {
    /// The chain flattened: `[first, (op, operand), …]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spine: Vec<&BinaryExpr> = self.left_spine().collect();
        let mut list = f.debug_list();
        for (position, node) in spine.iter().rev().enumerate() {
            if position == 0 {
                list.entry(&node.lhs);
            }
            list.entry(&(node.op, node.bool_modifier, &node.matching, &node.rhs));
        }
        list.finish()
    }
}
