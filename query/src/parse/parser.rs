//! The parser's state: the tokens, the place among them, the depth. The grammar's parts are in `expression`,
//! `selector`, `duration_expr` and `series`.

use crate::ast::{NumberLiteral, Span};
use crate::parse::lexer::{Tokens, tokenize};
use crate::parse::number::parse_number;
use crate::parse::quote::read_quoted;
use crate::parse::token::{Keyword, Token, TokenKind};
use crate::parse::{Features, MAX_NESTING, MAX_QUERY_BYTES, ParseError, parse_duration};

pub(super) struct Parser<'a> {
    pub(super) input: &'a str,
    tokens: Vec<Token>,
    lex_error: Option<ParseError>,
    at: usize,
    depth: usize,
    /// How many aggregations the place stands in; errors within one say so.
    pub(super) aggregations: usize,
    /// Which experimental parts are accepted.
    pub(super) features: Features,
}

impl<'a> Parser<'a> {
    pub(super) fn new(input: &'a str) -> Result<Parser<'a>, ParseError> {
        if input.len() > MAX_QUERY_BYTES {
            let message = format!(
                "the query has {} bytes, more than the {MAX_QUERY_BYTES} allowed",
                input.len()
            );
            return Err(ParseError::new(input, Span::default(), message));
        }
        let Tokens { tokens, error } = tokenize(input);
        Ok(Parser {
            input,
            tokens,
            lex_error: error,
            at: 0,
            depth: 0,
            aggregations: 0,
            features: Features::ALL,
        })
    }

    /// The token at the place; the last one, end or error, is never passed.
    pub(super) fn peek(&self) -> Token {
        self.tokens[self.at]
    }

    pub(super) fn peek_kind(&self) -> TokenKind {
        self.peek().kind
    }

    /// The kind of the token after the one at the place.
    pub(super) fn peek_second_kind(&self) -> TokenKind {
        self.tokens
            .get(self.at + 1)
            .map_or(TokenKind::End, |token| token.kind)
    }

    /// Takes the token at the place.
    pub(super) fn advance(&mut self) -> Token {
        let token = self.peek();
        if !matches!(token.kind, TokenKind::End | TokenKind::Error) {
            self.at += 1;
        }
        token
    }

    /// Takes the token at the place if it is of this kind.
    pub(super) fn accept(&mut self, kind: TokenKind) -> Option<Token> {
        (self.peek_kind() == kind).then(|| self.advance())
    }

    pub(super) fn accept_keyword(&mut self, keyword: Keyword) -> Option<Token> {
        self.accept(TokenKind::Keyword(keyword))
    }

    pub(super) fn expect(
        &mut self,
        kind: TokenKind,
        context: &str,
        expected: &str,
    ) -> Result<Token, ParseError> {
        self.accept(kind)
            .ok_or_else(|| self.unexpected(context, expected))
    }

    pub(super) fn expect_end(&mut self) -> Result<(), ParseError> {
        self.expect(TokenKind::End, "", "").map(|_| ())
    }

    /// End of the token before the place.
    pub(super) fn last_end(&self) -> u32 {
        self.at
            .checked_sub(1)
            .map_or(0, |last| self.tokens[last].span.end)
    }

    pub(super) fn text(&self, span: Span) -> &'a str {
        &self.input[span.start as usize..span.end as usize]
    }

    pub(super) fn error(&self, span: Span, message: impl Into<String>) -> ParseError {
        ParseError::new(self.input, span, message)
    }

    /// The error that the token at the place doesn't fit: the lexer's own if it stopped there.
    pub(super) fn unexpected(&self, context: &str, expected: &str) -> ParseError {
        let token = self.peek();
        if let (TokenKind::Error, Some(error)) = (token.kind, &self.lex_error) {
            return error.clone();
        }
        let mut message = format!("unexpected {}", token.kind.describe(self.text(token.span)));
        let context = if context.is_empty() && self.aggregations > 0 {
            "aggregation"
        } else {
            context
        };
        if !context.is_empty() {
            message.push_str(" in ");
            message.push_str(context);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        self.error(token.span, message)
    }

    /// Runs a part of the grammar that may contain itself, and refuses too many within each other.
    pub(super) fn nested<T>(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        if self.depth == MAX_NESTING {
            let message = format!("the query nests deeper than the {MAX_NESTING} levels allowed");
            return Err(self.error(self.peek().span, message));
        }
        self.depth += 1;
        let result = part(self);
        self.depth -= 1;
        result
    }

    /// Takes a number or a duration, if one is there.
    pub(super) fn accept_number(&mut self) -> Result<Option<NumberLiteral>, ParseError> {
        let token = self.peek();
        let text = self.text(token.span);
        let value = match token.kind {
            TokenKind::Number => parse_number(text)
                .ok_or_else(|| self.error(token.span, format!("error parsing number: {text:?}")))?,
            TokenKind::Duration => {
                let millis =
                    parse_duration(text).map_err(|error| self.error(token.span, error.to_string()))?;
                millis as f64 / 1000.0
            }
            _ => return Ok(None),
        };
        self.advance();
        Ok(Some(NumberLiteral {
            value,
            is_duration: token.kind == TokenKind::Duration,
            span: token.span,
        }))
    }

    /// The bytes a string token stands for.
    pub(super) fn unquote(&self, token: Token) -> Result<Vec<u8>, ParseError> {
        let (value, _) =
            read_quoted(self.text(token.span)).map_err(|error| self.error(token.span, error.message))?;
        Ok(value)
    }

    /// The text a string token stands for, where only UTF-8 makes sense.
    pub(super) fn unquote_utf8(&self, token: Token, what: &str) -> Result<String, ParseError> {
        String::from_utf8(self.unquote(token)?).map_err(|_| {
            self.error(
                token.span,
                format!("invalid UTF-8 in {what} {}", self.text(token.span)),
            )
        })
    }
}
