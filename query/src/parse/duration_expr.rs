//! Durations within brackets and after `offset`, with their arithmetic.

use crate::ast::{BinaryOp, DurationExpr, DurationOp, DurationValue, NumberLiteral, Span};
use crate::parse::ParseError;
use crate::parse::duration::seconds_to_ms;
use crate::parse::parser::Parser;
use crate::parse::token::{Keyword, TokenKind};

const EXPECTED: &str = "number, duration, step(), or range()";

/// `+` and `-` bind least, then signs with `*`, `/` and `%`, then `^`.
const SIGN_OPERAND_PRECEDENCE: u8 = 3;

impl Parser<'_> {
    /// A range or a subquery's step: arithmetic is allowed without parentheses, and a known value is above zero.
    pub(super) fn positive_duration(&mut self, context: &str) -> Result<DurationValue, ParseError> {
        let expr = self.duration_arithmetic(0, context)?;
        if let DurationExpr::Number(number) = &expr
            && (number.value <= 0.0 || number.value.is_nan())
        {
            return Err(self.error(number.span, "duration must be greater than 0"));
        }
        self.fold_duration(expr)
    }

    /// What follows `offset`: a sign and one number, call or parenthesis.
    pub(super) fn offset_duration(&mut self) -> Result<DurationValue, ParseError> {
        let expr = match self.accept_sign() {
            Some((span, negative)) => {
                let operand = self.duration_primary("offset")?;
                signed(span, negative, operand)
            }
            None => self.duration_primary("offset")?,
        };
        self.fold_duration(expr)
    }

    fn fold_duration(&self, expr: DurationExpr) -> Result<DurationValue, ParseError> {
        match expr {
            DurationExpr::Number(NumberLiteral { value, span, .. }) => seconds_to_ms(value)
                .map(DurationValue::Millis)
                .ok_or_else(|| self.error(span, "duration out of range")),
            other => Ok(DurationValue::Expr(Box::new(other))),
        }
    }

    fn duration_arithmetic(&mut self, min_precedence: u8, context: &str) -> Result<DurationExpr, ParseError> {
        self.nested(|parser| {
            let mut lhs = match parser.accept_sign() {
                Some((span, negative)) => {
                    let operand = parser.duration_arithmetic(SIGN_OPERAND_PRECEDENCE, context)?;
                    signed(span, negative, operand)
                }
                None => parser.duration_primary(context)?,
            };
            let mut operators = 0;
            while let TokenKind::Operator(operator) = parser.peek_kind() {
                let Some((op, precedence)) = duration_operator(operator) else {
                    break;
                };
                if precedence < min_precedence {
                    break;
                }
                operators += 1;
                if operators > MAX_OPERATORS {
                    let message = format!("a duration has more than the {MAX_OPERATORS} operators allowed");
                    return Err(parser.error(parser.peek().span, message));
                }
                parser.advance();
                let right_associative = op == DurationOp::Pow;
                let rhs = parser.duration_arithmetic(precedence + u8::from(!right_associative), context)?;
                lhs = DurationExpr::Binary {
                    op,
                    lhs: Box::new(lhs),
                    rhs: Box::new(rhs),
                };
            }
            Ok(lhs)
        })
    }

    fn duration_primary(&mut self, context: &str) -> Result<DurationExpr, ParseError> {
        let first = self.peek();
        let is_word = self
            .text(first.span)
            .starts_with(|first: char| first.is_ascii_alphabetic());
        // `inf` and `nan` are numbers, but no durations.
        if !is_word && let Some(number) = self.accept_number()? {
            return Ok(DurationExpr::Number(number));
        }
        match first.kind {
            TokenKind::LeftParen => {
                self.advance();
                let expr = self.duration_arithmetic(0, context)?;
                let close = self.expect(TokenKind::RightParen, context, "\")\"")?;
                Ok(match expr {
                    number @ DurationExpr::Number(_) => number,
                    expr => DurationExpr::Paren {
                        expr: Box::new(expr),
                        span: first.span.to(close.span),
                    },
                })
            }
            TokenKind::Keyword(keyword @ (Keyword::Step | Keyword::Range)) => {
                self.advance();
                self.expect(TokenKind::LeftParen, context, "\"(\"")?;
                let close = self.expect(TokenKind::RightParen, context, "\")\"")?;
                let span = first.span.to(close.span);
                Ok(if keyword == Keyword::Step {
                    DurationExpr::Step(span)
                } else {
                    DurationExpr::Range(span)
                })
            }
            TokenKind::Identifier => {
                let name = self.text(first.span).to_ascii_lowercase();
                let is_min = name == "min_of";
                if !is_min && name != "max_of" {
                    return Err(self.unexpected(context, EXPECTED));
                }
                self.advance();
                self.expect(TokenKind::LeftParen, context, "\"(\"")?;
                let lhs = Box::new(self.duration_arithmetic(0, context)?);
                self.expect(TokenKind::Comma, context, "\",\"")?;
                let rhs = Box::new(self.duration_arithmetic(0, context)?);
                let close = self.expect(TokenKind::RightParen, context, "\")\"")?;
                let span = first.span.to(close.span);
                Ok(if is_min {
                    DurationExpr::MinOf { lhs, rhs, span }
                } else {
                    DurationExpr::MaxOf { lhs, rhs, span }
                })
            }
            _ => Err(self.unexpected(context, EXPECTED)),
        }
    }

    /// Takes a sign, if one is there; answers where it stands and whether it is a minus.
    pub(super) fn accept_sign(&mut self) -> Option<(Span, bool)> {
        let negative = match self.peek_kind() {
            TokenKind::Operator(BinaryOp::Add) => false,
            TokenKind::Operator(BinaryOp::Sub) => true,
            _ => return None,
        };
        Some((self.advance().span, negative))
    }
}

/// How many operators one level of duration arithmetic may chain: its tree is walked with recursion.
const MAX_OPERATORS: usize = 64;

/// A sign before a number is part of the number.
fn signed(sign: Span, negative: bool, operand: DurationExpr) -> DurationExpr {
    let span = sign.to(operand.span());
    match operand {
        DurationExpr::Number(number) => {
            let value = if negative { -number.value } else { number.value };
            DurationExpr::Number(NumberLiteral {
                value,
                span,
                ..number
            })
        }
        operand => DurationExpr::Unary {
            negative,
            expr: Box::new(operand),
            span,
        },
    }
}

fn duration_operator(operator: BinaryOp) -> Option<(DurationOp, u8)> {
    Some(match operator {
        BinaryOp::Add => (DurationOp::Add, 1),
        BinaryOp::Sub => (DurationOp::Sub, 1),
        BinaryOp::Mul => (DurationOp::Mul, 2),
        BinaryOp::Div => (DurationOp::Div, 2),
        BinaryOp::Mod => (DurationOp::Mod, 2),
        BinaryOp::Pow => (DurationOp::Pow, 3),
        _ => return None,
    })
}
