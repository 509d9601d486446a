//! The PromQL syntax tree.
//!
//! Every node knows the bytes of the query it came from, so that errors and annotations can point at them.
//! The parser bounds what recurses in itself (parentheses, calls, brackets: see `parse::MAX_NESTING`), but a chain
//! `a + a + …` is a left-deep tree as high as the query is long. Dropping, cloning, comparing and printing walk such
//! a chain without recursion; any other walker that recurses into `BinaryExpr::lhs` must first refuse trees with
//! [`Expr::height`] above what its stack holds.

mod binary;

use quorate_storage::Matcher;

pub use binary::{BinaryExpr, BinaryOp, Cardinality, VectorMatching};

use crate::parse::functions::FunctionSpec;

/// A half-open range of bytes in the query text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// A span from `start` up to, not including, `end`.
    pub fn new(start: u32, end: u32) -> Span {
        Span { start, end }
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Span) -> Span {
        Span {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// Prometheus's `line:column`, both counted from 1, the column in bytes, of the span's start in `query`.
    pub fn line_column(self, query: &str) -> (usize, usize) {
        let at = (self.start as usize).min(query.len());
        let before = &query.as_bytes()[..at];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let line_start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |position| position + 1);
        (line, at - line_start + 1)
    }
}

/// What an expression evaluates to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ValueType {
    /// One float.
    Scalar,
    /// One string.
    String,
    /// At most one sample for each series, all at the evaluation time.
    Vector,
    /// Many samples for each series.
    Matrix,
}

impl ValueType {
    /// The type's name in Prometheus's documentation and error texts.
    pub fn documented(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::String => "string",
            ValueType::Vector => "instant vector",
            ValueType::Matrix => "range vector",
        }
    }

    /// The type's name in the HTTP API (`resultType`).
    pub fn api_name(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::String => "string",
            ValueType::Vector => "vector",
            ValueType::Matrix => "matrix",
        }
    }
}

/// A PromQL expression.
#[derive(Clone, PartialEq, Debug)]
pub enum Expr {
    /// `1.5`, `0x1f`, `Inf`, `1h30m`.
    Number(NumberLiteral),
    /// `"text"`.
    String(StringLiteral),
    /// `metric{label="value"} offset 5m @ end()`.
    VectorSelector(Box<VectorSelector>),
    /// `metric[5m]`.
    MatrixSelector(Box<MatrixSelector>),
    /// `expr[1h:5m]`.
    Subquery(Box<Subquery>),
    /// `sum by (job) (expr)`.
    Aggregate(Box<AggregateExpr>),
    /// `rate(metric[5m])`.
    Call(Box<Call>),
    /// `lhs + on (job) rhs`.
    Binary(Box<BinaryExpr>),
    /// `-expr`.
    Unary(Box<UnaryExpr>),
    /// `(expr)`.
    Paren(Box<ParenExpr>),
}

/// A number in the query.
#[derive(Clone, Debug)]
pub struct NumberLiteral {
    /// The value; seconds if it was written as a duration.
    pub value: f64,
    /// Whether it was written as a duration (`1h`) and so prints as one.
    pub is_duration: bool,
    /// Where it was written.
    pub span: Span,
}

impl PartialEq for NumberLiteral {
    /// Bitwise, so that a tree that holds NaN equals itself.
    fn eq(&self, other: &Self) -> bool {
        self.value.to_bits() == other.value.to_bits()
            && self.is_duration == other.is_duration
            && self.span == other.span
    }
}

/// A string in the query, unquoted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StringLiteral {
    /// The bytes it stands for; `"\xff"` makes them invalid UTF-8.
    pub value: Vec<u8>,
    /// Where it was written, with its quotes.
    pub span: Span,
}

impl StringLiteral {
    /// The string as text, or nothing if it isn't UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.value).ok()
    }
}

/// A length of time in a range, a subquery step or an offset.
#[derive(Clone, PartialEq, Debug)]
pub enum DurationValue {
    /// Known when parsed, in milliseconds. Ranges and steps are above zero, offsets may be negative.
    Millis(i64),
    /// Depends on the evaluation (`step()`, `range()`) or was written as arithmetic: see
    /// [`DurationExpr::resolve_ms`].
    Expr(Box<DurationExpr>),
}

/// Arithmetic over durations, `[step() + 1m]`.
#[derive(Clone, PartialEq, Debug)]
pub enum DurationExpr {
    /// A number of seconds.
    Number(NumberLiteral),
    /// `step()`.
    Step(Span),
    /// `range()`: the end of the query less its start.
    Range(Span),
    /// `-duration` or `+duration`; `negative` tells which.
    Unary {
        /// Whether the sign is a minus.
        negative: bool,
        /// What the sign stands before.
        expr: Box<DurationExpr>,
        /// The sign and what it stands before.
        span: Span,
    },
    /// `lhs op rhs`.
    Binary {
        /// The operator.
        op: DurationOp,
        /// Left operand.
        lhs: Box<DurationExpr>,
        /// Right operand.
        rhs: Box<DurationExpr>,
    },
    /// `min_of(lhs, rhs)`.
    MinOf {
        /// First argument.
        lhs: Box<DurationExpr>,
        /// Second argument.
        rhs: Box<DurationExpr>,
        /// The whole call.
        span: Span,
    },
    /// `max_of(lhs, rhs)`.
    MaxOf {
        /// First argument.
        lhs: Box<DurationExpr>,
        /// Second argument.
        rhs: Box<DurationExpr>,
        /// The whole call.
        span: Span,
    },
    /// `(expr)`.
    Paren {
        /// What the parentheses hold.
        expr: Box<DurationExpr>,
        /// With the parentheses.
        span: Span,
    },
}

/// The operators of [`DurationExpr::Binary`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum DurationOp {
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
}

/// The `@` modifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// `@ 1609746000`, in milliseconds.
    Timestamp(i64),
    /// `@ start()`.
    Start,
    /// `@ end()`.
    End,
}

/// Selects series and, for each, its latest sample.
#[derive(Clone, PartialEq, Debug)]
pub struct VectorSelector {
    /// The metric name, if it was written before the braces. `matchers` holds it too.
    pub name: Option<String>,
    /// Every matcher, the one on `__name__` last if it came from `name`.
    pub matchers: Vec<Matcher>,
    /// How far to look into the past; not written is `None`.
    pub offset: Option<DurationValue>,
    /// The time that replaces the evaluation time.
    pub at: Option<At>,
    /// What is taken at the bounds of a range, or between two samples.
    pub boundary: Option<Boundary>,
    /// Where it was written, modifiers included.
    pub span: Span,
}

/// The modifiers that say what stands at the bounds of a range, where mostly is no sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Boundary {
    /// `anchored`: the last sample before the range stands at its start.
    Anchored,
    /// `smoothed`: values are interpolated between the samples on both sides of a bound.
    Smoothed,
}

impl Boundary {
    /// The modifier as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Boundary::Anchored => "anchored",
            Boundary::Smoothed => "smoothed",
        }
    }
}

/// Selects series and, for each, the samples of a range.
#[derive(Clone, PartialEq, Debug)]
pub struct MatrixSelector {
    /// The series, with `offset` and `@`.
    pub selector: VectorSelector,
    /// The length of the range.
    pub range: DurationValue,
    /// Where it was written, modifiers included.
    pub span: Span,
}

/// An instant vector evaluated at the steps of a range.
#[derive(Clone, PartialEq, Debug)]
pub struct Subquery {
    /// What is evaluated.
    pub expr: Expr,
    /// The length of the range.
    pub range: DurationValue,
    /// Distance of the evaluations; the engine's default if not written.
    pub step: Option<DurationValue>,
    /// How far to look into the past; not written is `None`.
    pub offset: Option<DurationValue>,
    /// The time that replaces the evaluation time.
    pub at: Option<At>,
    /// Where it was written, modifiers included.
    pub span: Span,
}

/// What an aggregation does with each group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs, reason = "each is named as PromQL names it")]
pub enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
    LimitRatio,
}

impl AggregateOp {
    /// Every operator.
    pub const ALL: [AggregateOp; 14] = [
        AggregateOp::Sum,
        AggregateOp::Avg,
        AggregateOp::Count,
        AggregateOp::Min,
        AggregateOp::Max,
        AggregateOp::Group,
        AggregateOp::Stddev,
        AggregateOp::Stdvar,
        AggregateOp::Topk,
        AggregateOp::Bottomk,
        AggregateOp::CountValues,
        AggregateOp::Quantile,
        AggregateOp::Limitk,
        AggregateOp::LimitRatio,
    ];

    /// The name in PromQL.
    pub fn as_str(self) -> &'static str {
        match self {
            AggregateOp::Sum => "sum",
            AggregateOp::Avg => "avg",
            AggregateOp::Count => "count",
            AggregateOp::Min => "min",
            AggregateOp::Max => "max",
            AggregateOp::Group => "group",
            AggregateOp::Stddev => "stddev",
            AggregateOp::Stdvar => "stdvar",
            AggregateOp::Topk => "topk",
            AggregateOp::Bottomk => "bottomk",
            AggregateOp::CountValues => "count_values",
            AggregateOp::Quantile => "quantile",
            AggregateOp::Limitk => "limitk",
            AggregateOp::LimitRatio => "limit_ratio",
        }
    }

    /// The type of the parameter before the vector, if there is one.
    pub fn param_type(self) -> Option<ValueType> {
        match self {
            AggregateOp::Topk
            | AggregateOp::Bottomk
            | AggregateOp::Quantile
            | AggregateOp::Limitk
            | AggregateOp::LimitRatio => Some(ValueType::Scalar),
            AggregateOp::CountValues => Some(ValueType::String),
            _ => None,
        }
    }
}

/// Which labels make a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grouping {
    /// `by (…)`; an aggregation without a clause is `By` of nothing.
    By(Vec<String>),
    /// `without (…)`.
    Without(Vec<String>),
}

/// `op by (labels) (param, expr)`.
#[derive(Clone, PartialEq, Debug)]
pub struct AggregateExpr {
    /// The operator.
    pub op: AggregateOp,
    /// The vector that is aggregated.
    pub expr: Expr,
    /// `k`, the quantile, the ratio or the label: see [`AggregateOp::param_type`].
    pub param: Option<Expr>,
    /// Which labels make a group.
    pub grouping: Grouping,
    /// Where it was written.
    pub span: Span,
}

/// A call of a function; the number and the types of the arguments are right.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    /// The function.
    pub func: &'static FunctionSpec,
    /// The arguments in order.
    pub args: Vec<Expr>,
    /// Where it was written.
    pub span: Span,
}

/// The operators before an expression.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum UnaryOp {
    /// `+`, which changes nothing.
    Plus,
    /// `-`, which drops the metric name.
    Minus,
}

/// `-expr`.
#[derive(Clone, PartialEq, Debug)]
pub struct UnaryExpr {
    /// The operator.
    pub op: UnaryOp,
    /// The operand.
    pub expr: Expr,
    /// The operator and its operand.
    pub span: Span,
}

/// `(expr)`.
#[derive(Clone, PartialEq, Debug)]
pub struct ParenExpr {
    /// What the parentheses hold.
    pub expr: Expr,
    /// With the parentheses.
    pub span: Span,
}

impl Expr {
    /// Where the expression was written.
    pub fn span(&self) -> Span {
        match self {
            Expr::Number(node) => node.span,
            Expr::String(node) => node.span,
            Expr::VectorSelector(node) => node.span,
            Expr::MatrixSelector(node) => node.span,
            Expr::Subquery(node) => node.span,
            Expr::Aggregate(node) => node.span,
            Expr::Call(node) => node.span,
            Expr::Binary(node) => node.span(),
            Expr::Unary(node) => node.span,
            Expr::Paren(node) => node.span,
        }
    }

    /// First byte of the expression, found without recursion.
    fn start(&self) -> u32 {
        let mut expr = self;
        while let Expr::Binary(node) = expr {
            expr = &node.lhs;
        }
        expr.span().start
    }

    /// What the expression evaluates to.
    pub fn value_type(&self) -> ValueType {
        match self {
            Expr::Number(_) => ValueType::Scalar,
            Expr::String(_) => ValueType::String,
            Expr::VectorSelector(_) | Expr::Aggregate(_) => ValueType::Vector,
            Expr::MatrixSelector(_) | Expr::Subquery(_) => ValueType::Matrix,
            Expr::Call(node) => node.func.return_type,
            Expr::Binary(_) => self.binary_type(),
            Expr::Unary(node) => node.expr.value_type(),
            Expr::Paren(node) => node.expr.value_type(),
        }
    }

    /// A chain of operators is a scalar only if every operand is.
    fn binary_type(&self) -> ValueType {
        let mut expr = self;
        while let Expr::Binary(node) = expr {
            if node.rhs.value_type() != ValueType::Scalar {
                return ValueType::Vector;
            }
            expr = &node.lhs;
        }
        match expr.value_type() {
            ValueType::Scalar => ValueType::Scalar,
            _ => ValueType::Vector,
        }
    }

    /// The operands, from left to right.
    pub fn children(&self) -> Vec<&Expr> {
        match self {
            Expr::Number(_) | Expr::String(_) | Expr::VectorSelector(_) | Expr::MatrixSelector(_) => {
                Vec::new()
            }
            Expr::Subquery(node) => vec![&node.expr],
            Expr::Aggregate(node) => node.param.iter().chain([&node.expr]).collect(),
            Expr::Call(node) => node.args.iter().collect(),
            Expr::Binary(node) => vec![&node.lhs, &node.rhs],
            Expr::Unary(node) => vec![&node.expr],
            Expr::Paren(node) => vec![&node.expr],
        }
    }

    /// How many levels the tree has, found without recursion. A walker that recurses checks this first.
    pub fn height(&self) -> usize {
        let mut highest = 0;
        let mut open = vec![(self, 1)];
        while let Some((expr, level)) = open.pop() {
            highest = highest.max(level);
            open.extend(expr.children().into_iter().map(|child| (child, level + 1)));
        }
        highest
    }

    /// The expression within any number of parentheses.
    pub fn without_parens(&self) -> &Expr {
        let mut expr = self;
        while let Expr::Paren(node) = expr {
            expr = &node.expr;
        }
        expr
    }
}
