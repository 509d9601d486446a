//! Expressions: operators by precedence, calls, aggregations, literals.

use crate::ast::{
    AggregateExpr, AggregateOp, BinaryExpr, BinaryOp, Call, Cardinality, Expr, Grouping, NumberLiteral,
    ParenExpr, Span, StringLiteral, UnaryExpr, UnaryOp, VectorMatching,
};
use crate::parse::ParseError;
use crate::parse::functions::find_function;
use crate::parse::parser::Parser;
use crate::parse::quote::quote;
use crate::parse::token::{Keyword, TokenKind};

/// What a sign's operand binds at least: `-a ^ b` is `-(a ^ b)`, `-a * b` is `(-a) * b`.
const SIGN_OPERAND_PRECEDENCE: u8 = 6;

impl Parser<'_> {
    /// The whole input as one expression.
    pub(super) fn whole_expression(&mut self) -> Result<Expr, ParseError> {
        if self.peek_kind() == TokenKind::End {
            return Err(self.error(Span::default(), "no expression found in input"));
        }
        let expr = self.expression()?;
        self.expect_end()?;
        Ok(expr)
    }

    fn expression(&mut self) -> Result<Expr, ParseError> {
        self.binary(0)
    }

    /// Operands joined by operators that bind at least as tight as `min_precedence`.
    fn binary(&mut self, min_precedence: u8) -> Result<Expr, ParseError> {
        self.nested(|parser| {
            let mut lhs = parser.signed()?;
            while let TokenKind::Operator(op) = parser.peek_kind() {
                let precedence = precedence(op);
                if precedence < min_precedence {
                    break;
                }
                parser.advance();
                let (bool_modifier, matching) = parser.binary_modifiers()?;
                let right_associative = op == BinaryOp::Pow;
                let rhs = parser.binary(precedence + u8::from(!right_associative))?;
                let node = BinaryExpr {
                    op,
                    lhs,
                    rhs,
                    matching: Some(matching),
                    bool_modifier,
                };
                lhs = Expr::Binary(Box::new(node));
            }
            Ok(lhs)
        })
    }

    fn signed(&mut self) -> Result<Expr, ParseError> {
        let Some((sign, negative)) = self.accept_sign() else {
            let primary = self.primary()?;
            return self.postfix(primary);
        };
        let operand = self.binary(SIGN_OPERAND_PRECEDENCE)?;
        let span = sign.to(operand.span());
        Ok(match operand {
            Expr::Number(number) => {
                let value = if negative { -number.value } else { number.value };
                Expr::Number(NumberLiteral {
                    value,
                    span,
                    ..number
                })
            }
            expr => {
                let op = if negative { UnaryOp::Minus } else { UnaryOp::Plus };
                Expr::Unary(Box::new(UnaryExpr { op, expr, span }))
            }
        })
    }

    /// What stands between an operator and its right operand.
    fn binary_modifiers(&mut self) -> Result<(bool, VectorMatching), ParseError> {
        let bool_modifier = self.accept_keyword(Keyword::Bool).is_some();
        let mut matching = VectorMatching {
            cardinality: Cardinality::OneToOne,
            labels: Vec::new(),
            on: false,
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        };
        if let TokenKind::Keyword(keyword @ (Keyword::On | Keyword::Ignoring)) = self.peek_kind() {
            self.advance();
            matching.on = keyword == Keyword::On;
            matching.labels = self.grouping_labels()?;
            if let TokenKind::Keyword(side @ (Keyword::GroupLeft | Keyword::GroupRight)) = self.peek_kind() {
                self.advance();
                matching.cardinality = if side == Keyword::GroupLeft {
                    Cardinality::ManyToOne
                } else {
                    Cardinality::OneToMany
                };
                if self.peek_kind() == TokenKind::LeftParen {
                    matching.include = self.grouping_labels()?;
                }
            }
        }
        while self.peek_second_kind() == TokenKind::LeftParen {
            let (left, right) = match self.peek_kind() {
                TokenKind::Keyword(Keyword::Fill) => (true, true),
                TokenKind::Keyword(Keyword::FillLeft) => (true, false),
                TokenKind::Keyword(Keyword::FillRight) => (false, true),
                _ => break,
            };
            if (left && matching.fill_left.is_some()) || (right && matching.fill_right.is_some()) {
                return Err(self.unexpected("", ""));
            }
            if !self.features.binop_fill_modifiers {
                let message = "fill modifiers are experimental and not enabled";
                return Err(self.error(self.peek().span, message));
            }
            let value = self.fill_value()?;
            if left {
                matching.fill_left = Some(value);
            }
            if right {
                matching.fill_right = Some(value);
            }
        }
        Ok((bool_modifier, matching))
    }

    /// `fill(value)`.
    fn fill_value(&mut self) -> Result<f64, ParseError> {
        self.advance();
        self.expect(TokenKind::LeftParen, "fill value", "\"(\"")?;
        let negative = self.accept_sign().is_some_and(|(_, negative)| negative);
        let Some(number) = self.accept_number()? else {
            return Err(self.unexpected("fill value", "number"));
        };
        self.expect(TokenKind::RightParen, "fill value", "\")\"")?;
        Ok(if negative { -number.value } else { number.value })
    }

    /// `(label, "quoted label", …)`.
    fn grouping_labels(&mut self) -> Result<Vec<String>, ParseError> {
        const CONTEXT: &str = "grouping opts";
        self.expect(TokenKind::LeftParen, CONTEXT, "\"(\"")?;
        let mut labels = Vec::new();
        while self.accept(TokenKind::RightParen).is_none() {
            let token = self.peek();
            labels.push(match token.kind {
                TokenKind::String => self.unquote_utf8(token, "label name")?,
                kind if kind.names_label() => self.text(token.span).to_owned(),
                // `inf` and `nan` are words too.
                TokenKind::Number
                    if self
                        .text(token.span)
                        .starts_with(|c: char| c.is_ascii_alphabetic()) =>
                {
                    self.text(token.span).to_owned()
                }
                _ => return Err(self.unexpected(CONTEXT, "label")),
            });
            self.advance();
            if self.accept(TokenKind::Comma).is_none() && self.peek_kind() != TokenKind::RightParen {
                return Err(self.unexpected(CONTEXT, "\",\" or \")\""));
            }
        }
        Ok(labels)
    }

    fn primary(&mut self) -> Result<Expr, ParseError> {
        if let Some(number) = self.accept_number()? {
            return Ok(Expr::Number(number));
        }
        let first = self.peek();
        let called = self.peek_second_kind() == TokenKind::LeftParen;
        match first.kind {
            TokenKind::String => {
                let value = self.unquote(first)?;
                self.advance();
                Ok(Expr::String(StringLiteral {
                    value,
                    span: first.span,
                }))
            }
            TokenKind::LeftParen => {
                self.advance();
                let expr = self.expression()?;
                let close = self.expect(TokenKind::RightParen, "", "")?;
                Ok(Expr::Paren(Box::new(ParenExpr {
                    expr,
                    span: first.span.to(close.span),
                })))
            }
            TokenKind::Aggregator(op) => match self.peek_second_kind() {
                TokenKind::LeftParen | TokenKind::Keyword(Keyword::By | Keyword::Without) => {
                    self.aggregate(op)
                }
                _ => self.selector_expression(),
            },
            TokenKind::Identifier if called => self.call(),
            TokenKind::Keyword(Keyword::Start | Keyword::End | Keyword::Step | Keyword::Range) if called => {
                self.call()
            }
            _ => self.selector_expression(),
        }
    }

    fn selector_expression(&mut self) -> Result<Expr, ParseError> {
        Ok(Expr::VectorSelector(Box::new(self.vector_selector()?)))
    }

    fn call(&mut self) -> Result<Expr, ParseError> {
        let name = self.advance();
        let args = self.arguments()?;
        // Prometheus's own functions are lower case; `START()` is the keyword.
        let written = self.text(name.span);
        let lowered = written.to_ascii_lowercase();
        let searched = if matches!(name.kind, TokenKind::Keyword(_)) {
            &lowered
        } else {
            written
        };
        let Some(func) = find_function(searched) else {
            let message = format!("unknown function with name {}", quote(written.as_bytes()));
            return Err(self.error(name.span, message));
        };
        if func.experimental && !self.features.experimental_functions {
            let message = format!("function {} is not enabled", quote(written.as_bytes()));
            return Err(self.error(name.span, message));
        }
        let span = Span::new(name.span.start, self.last_end());
        Ok(Expr::Call(Box::new(Call { func, args, span })))
    }

    /// `(expr, …)`.
    fn arguments(&mut self) -> Result<Vec<Expr>, ParseError> {
        self.expect(TokenKind::LeftParen, "", "")?;
        let mut args = Vec::new();
        if self.accept(TokenKind::RightParen).is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expression()?);
            let Some(comma) = self.accept(TokenKind::Comma) else {
                self.expect(TokenKind::RightParen, "", "")?;
                return Ok(args);
            };
            if self.peek_kind() == TokenKind::RightParen {
                return Err(self.error(comma.span, "trailing commas not allowed in function call args"));
            }
        }
    }

    fn aggregate(&mut self, op: AggregateOp) -> Result<Expr, ParseError> {
        let name = self.advance();
        if matches!(op, AggregateOp::Limitk | AggregateOp::LimitRatio)
            && !self.features.experimental_functions
        {
            let message = format!(
                "{}() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
                op.as_str()
            );
            return Err(self.error(name.span, message));
        }
        self.aggregations += 1;
        let before = self.grouping()?;
        let mut args = self.arguments()?;
        let grouping = match before {
            Some(grouping) => grouping,
            None => self.grouping()?.unwrap_or(Grouping::By(Vec::new())),
        };
        self.aggregations -= 1;
        let span = Span::new(name.span.start, self.last_end());
        let expected = 1 + usize::from(op.param_type().is_some());
        let (param, expr) = match (args.len(), args.pop()) {
            (2, Some(expr)) if expected == 2 => (args.pop(), expr),
            (1, Some(expr)) if expected == 1 => (None, expr),
            (0, _) => {
                return Err(self.error(span, "no arguments for aggregate expression provided"));
            }
            (found, _) => {
                let message = format!(
                    "wrong number of arguments for aggregate expression provided, expected {expected}, got {found}"
                );
                return Err(self.error(span, message));
            }
        };
        Ok(Expr::Aggregate(Box::new(AggregateExpr {
            op,
            expr,
            param,
            grouping,
            span,
        })))
    }

    /// `by (…)` or `without (…)`, if it is there.
    fn grouping(&mut self) -> Result<Option<Grouping>, ParseError> {
        let without = match self.peek_kind() {
            TokenKind::Keyword(Keyword::By) => false,
            TokenKind::Keyword(Keyword::Without) => true,
            _ => return Ok(None),
        };
        self.advance();
        let labels = self.grouping_labels()?;
        Ok(Some(if without {
            Grouping::Without(labels)
        } else {
            Grouping::By(labels)
        }))
    }
}

/// How tight an operator binds.
pub(super) fn precedence(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Or => 1,
        BinaryOp::And | BinaryOp::Unless => 2,
        BinaryOp::Pow => 6,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Atan2 => 5,
        BinaryOp::Add | BinaryOp::Sub => 4,
        _ => 3,
    }
}
