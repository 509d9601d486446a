//! Series selectors, their matchers and modifiers.

use quorate_storage::{MatchOp, Matcher};

use crate::ast::{
    At, BinaryOp, Boundary, DurationValue, Expr, MatrixSelector, Span, Subquery, VectorSelector,
};
use crate::parse::ParseError;
use crate::parse::parser::Parser;
use crate::parse::token::{Keyword, TokenKind};

/// The label that holds the metric name.
pub(super) const METRIC_NAME: &str = "__name__";

impl Parser<'_> {
    /// `metric`, `metric{…}` or `{…}`, without modifiers.
    pub(super) fn vector_selector(&mut self) -> Result<VectorSelector, ParseError> {
        let start = self.peek().span.start;
        let name = if self.peek_kind().names_metric() {
            let token = self.advance();
            Some(self.text(token.span).to_owned())
        } else if self.peek_kind() == TokenKind::LeftBrace {
            None
        } else {
            return Err(self.unexpected("", ""));
        };
        let mut matchers = Vec::new();
        if self.accept(TokenKind::LeftBrace).is_some() {
            matchers = self.matchers()?;
        }
        let span = Span::new(start, self.last_end());
        if let Some(name) = &name {
            matchers.push(self.matcher(span, MatchOp::Eq, METRIC_NAME, name)?);
        }
        Ok(VectorSelector {
            name,
            matchers,
            offset: None,
            at: None,
            boundary: None,
            span,
        })
    }

    /// The matchers after an opening brace, and the closing one.
    fn matchers(&mut self) -> Result<Vec<Matcher>, ParseError> {
        const CONTEXT: &str = "label matching";
        let mut matchers = Vec::new();
        while self.accept(TokenKind::RightBrace).is_none() {
            matchers.push(self.label_matcher(CONTEXT)?);
            if self.accept(TokenKind::Comma).is_none() && self.peek_kind() != TokenKind::RightBrace {
                return Err(self.unexpected(CONTEXT, "\",\" or \"}\""));
            }
        }
        Ok(matchers)
    }

    /// `name="value"`, `"quoted name"=~"value"` or a quoted metric name alone.
    fn label_matcher(&mut self, context: &str) -> Result<Matcher, ParseError> {
        let first = self.peek();
        let name = match first.kind {
            TokenKind::Identifier => self.text(first.span).to_owned(),
            TokenKind::String => self.unquote_utf8(first, "name")?,
            _ => return Err(self.unexpected(context, "identifier or \"}\"")),
        };
        self.advance();
        let op = match self.peek_kind() {
            TokenKind::Assign => MatchOp::Eq,
            TokenKind::Operator(BinaryOp::Ne) => MatchOp::Ne,
            TokenKind::MatchRegex => MatchOp::Re,
            TokenKind::MatchNotRegex => MatchOp::Nre,
            _ if first.kind == TokenKind::String => {
                return self.matcher(first.span, MatchOp::Eq, METRIC_NAME, &name);
            }
            _ => return Err(self.unexpected(context, "label matching operator")),
        };
        self.advance();
        let value = self.expect(TokenKind::String, context, "string")?;
        let text = self.unquote_utf8(value, "label value")?;
        self.matcher(first.span.to(value.span), op, &name, &text)
    }

    fn matcher(&self, span: Span, op: MatchOp, name: &str, value: &str) -> Result<Matcher, ParseError> {
        Matcher::new(op, name, value).map_err(|error| self.error(span, error.source.to_string()))
    }

    /// Brackets, `offset` and `@` after an expression, in any number.
    pub(super) fn postfix(&mut self, mut expr: Expr) -> Result<Expr, ParseError> {
        loop {
            expr = match self.peek_kind() {
                TokenKind::LeftBracket => self.brackets(expr)?,
                TokenKind::Keyword(Keyword::Offset) => self.offset(expr)?,
                TokenKind::At => self.at(expr)?,
                TokenKind::Keyword(Keyword::Anchored) => self.boundary(expr, Boundary::Anchored)?,
                TokenKind::Keyword(Keyword::Smoothed) => self.boundary(expr, Boundary::Smoothed)?,
                _ => return Ok(expr),
            };
        }
    }

    /// `[range]` or `[range:step]`.
    fn brackets(&mut self, expr: Expr) -> Result<Expr, ParseError> {
        let open = self.advance();
        let range = self.positive_duration("subquery or range selector")?;
        if self.accept(TokenKind::Colon).is_some() {
            let step = match self.peek_kind() {
                TokenKind::RightBracket => None,
                _ => Some(self.positive_duration("subquery selector")?),
            };
            let close = self.expect(TokenKind::RightBracket, "subquery selector", "\"]\"")?;
            let span = Span::new(expr.span().start, close.span.end);
            // The type check would say the same, but it recurses.
            if matches!(expr, Expr::MatrixSelector(_) | Expr::Subquery(_)) {
                return Err(self.error(
                    span,
                    "subquery is only allowed on instant vector, got matrix instead",
                ));
            }
            let subquery = Subquery {
                expr,
                range,
                step,
                offset: None,
                at: None,
                span,
            };
            return Ok(Expr::Subquery(Box::new(subquery)));
        }
        let close = self.expect(TokenKind::RightBracket, "subquery or range", "\":\" or \"]\"")?;
        let brackets = open.span.to(close.span);
        let Expr::VectorSelector(selector) = expr else {
            return Err(self.error(brackets, "ranges only allowed for vector selectors"));
        };
        if selector.offset.is_some() {
            return Err(self.error(brackets, "no offset modifiers allowed before range"));
        }
        if selector.at.is_some() {
            return Err(self.error(brackets, "no @ modifiers allowed before range"));
        }
        let span = Span::new(selector.span.start, close.span.end);
        Ok(Expr::MatrixSelector(Box::new(MatrixSelector {
            selector: *selector,
            range,
            span,
        })))
    }

    fn offset(&mut self, mut expr: Expr) -> Result<Expr, ParseError> {
        self.advance();
        let duration = self.offset_duration()?;
        let expr_span = expr.span();
        let end = self.last_end();
        let Some(modifiers) = modifiers(&mut expr) else {
            let message = "offset modifier must be preceded by an instant vector selector or range vector \
                           selector or a subquery";
            return Err(self.error(expr_span, message));
        };
        if modifiers.offset.is_some() {
            return Err(self.error(expr_span, "offset may not be set multiple times"));
        }
        // Prometheus can't tell an offset of zero from none.
        *modifiers.offset = (duration != DurationValue::Millis(0)).then_some(duration);
        modifiers.span.end = end;
        Ok(expr)
    }

    /// `anchored` or `smoothed`.
    fn boundary(&mut self, mut expr: Expr, boundary: Boundary) -> Result<Expr, ParseError> {
        self.advance();
        let expr_span = expr.span();
        let end = self.last_end();
        let name = boundary.as_str();
        if !self.features.extended_range_selectors {
            let message = format!("{name} modifier is experimental and not enabled");
            return Err(self.error(expr_span, message));
        }
        let (set, span) = match &mut expr {
            Expr::VectorSelector(node) => {
                let VectorSelector { boundary, span, .. } = &mut **node;
                (boundary, span)
            }
            Expr::MatrixSelector(node) => {
                let MatrixSelector { selector, span, .. } = &mut **node;
                (&mut selector.boundary, span)
            }
            Expr::Subquery(_) => {
                let message = format!("{name} modifier is not supported for subqueries");
                return Err(self.error(expr_span, message));
            }
            _ => return Err(self.error(expr_span, format!("{name} modifier not implemented"))),
        };
        if set.is_some_and(|set| set != boundary) {
            let message = "anchored and smoothed modifiers cannot be used together";
            return Err(self.error(expr_span, message));
        }
        *set = Some(boundary);
        span.end = end;
        Ok(expr)
    }

    fn at(&mut self, mut expr: Expr) -> Result<Expr, ParseError> {
        self.advance();
        let expr_span = expr.span();
        let at = self.at_time(expr_span)?;
        let end = self.last_end();
        let Some(modifiers) = modifiers(&mut expr) else {
            let message = "@ modifier must be preceded by an instant vector selector or range vector selector \
                           or a subquery";
            return Err(self.error(expr_span, message));
        };
        if modifiers.at.is_some() {
            return Err(self.error(expr_span, "@ <timestamp> may not be set multiple times"));
        }
        *modifiers.at = Some(at);
        modifiers.span.end = end;
        Ok(expr)
    }

    fn at_time(&mut self, expr_span: Span) -> Result<At, ParseError> {
        if let TokenKind::Keyword(keyword @ (Keyword::Start | Keyword::End)) = self.peek_kind() {
            self.advance();
            self.expect(TokenKind::LeftParen, "@", "timestamp")?;
            self.expect(TokenKind::RightParen, "@", "timestamp")?;
            return Ok(if keyword == Keyword::Start {
                At::Start
            } else {
                At::End
            });
        }
        let negative = self.accept_sign().is_some_and(|(_, negative)| negative);
        if self.peek_kind() != TokenKind::Number {
            return Err(self.unexpected("@", "timestamp"));
        }
        let Some(number) = self.accept_number()? else {
            return Err(self.unexpected("@", "timestamp"));
        };
        let seconds = if negative { -number.value } else { number.value };
        let millis = (seconds * 1000.0).round();
        // NaN fails the comparison.
        if millis.abs() < i64::MAX as f64 {
            return Ok(At::Timestamp(millis as i64));
        }
        let shown = match seconds {
            finite if finite.is_finite() => format!("{finite:.6}"),
            other => crate::parse::format_number(other),
        };
        Err(self.error(
            expr_span,
            format!("timestamp out of bounds for @ modifier: {shown}"),
        ))
    }
}

/// The parts of a selector or subquery that modifiers set.
struct Modifiers<'a> {
    offset: &'a mut Option<DurationValue>,
    at: &'a mut Option<At>,
    span: &'a mut Span,
}

fn modifiers(expr: &mut Expr) -> Option<Modifiers<'_>> {
    match expr {
        Expr::VectorSelector(node) => Some(Modifiers {
            offset: &mut node.offset,
            at: &mut node.at,
            span: &mut node.span,
        }),
        Expr::MatrixSelector(node) => {
            let MatrixSelector { selector, span, .. } = &mut **node;
            Some(Modifiers {
                offset: &mut selector.offset,
                at: &mut selector.at,
                span,
            })
        }
        Expr::Subquery(node) => Some(Modifiers {
            offset: &mut node.offset,
            at: &mut node.at,
            span: &mut node.span,
        }),
        _ => None,
    }
}
