//! From query text to syntax tree and back.

mod check;
mod duration;
mod duration_expr;
mod expression;
mod features;
pub mod functions;
mod histogram;
mod lexer;
mod number;
mod parser;
mod prettifier;
mod printer;
mod quote;
mod selector;
pub mod series;
mod token;

use std::fmt;

use quorate_storage::Matcher;

pub use duration::{DurationContext, DurationError, DurationExprError, format_duration, parse_duration};
pub use features::{Features, UnknownFeature};
pub use number::format_number;
pub use prettifier::{MAX_PRETTY_HEIGHT, prettify};
pub use quote::quote;

use crate::ast::{Expr, Span};
use parser::Parser;

/// The longest query that is read, in bytes. A tree takes some hundred times as much memory as its text.
pub const MAX_QUERY_BYTES: usize = 1 << 18;

/// How many expressions may stand within each other: parentheses, arguments, right operands, signs. The parser, and
/// what walks its trees, recurse this deep at most (a chain of left operands is walked without recursion).
pub const MAX_NESTING: usize = 512;

/// Why a text isn't PromQL. Displays as Prometheus does: `1:5: parse error: …`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    span: Span,
    line: usize,
    column: usize,
    message: String,
}

impl ParseError {
    pub(crate) fn new(input: &str, span: Span, message: impl Into<String>) -> ParseError {
        let (line, column) = span.line_column(input);
        ParseError {
            span,
            line,
            column,
            message: message.into(),
        }
    }

    /// The bytes that are wrong.
    pub fn span(&self) -> Span {
        self.span
    }

    /// What is wrong, without the position.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Line and column of the first wrong byte, counted from 1, the column in bytes.
    pub fn line_column(&self) -> (usize, usize) {
        (self.line, self.column)
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: parse error: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Reads a PromQL expression and checks its types. All experimental parts are accepted.
pub fn parse(query: &str) -> Result<Expr, ParseError> {
    parse_with(query, Features::ALL)
}

/// Reads a PromQL expression and checks its types. Only these experimental parts are accepted.
pub fn parse_with(query: &str, features: Features) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(query)?;
    parser.features = features;
    let mut expr = parser.whole_expression()?;
    check::check(query, &mut expr)?;
    Ok(expr)
}

/// Reads a series selector, as in the HTTP API's `match[]`: `metric{label="value"}`. The matcher on the metric name
/// comes last. Whether any matcher excludes the empty string is left to the caller.
pub fn parse_selector(selector: &str) -> Result<Vec<Matcher>, ParseError> {
    let mut parser = Parser::new(selector)?;
    let selector = parser.vector_selector()?;
    parser.expect_end()?;
    Ok(selector.matchers)
}
