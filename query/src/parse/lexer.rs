//! Splits a query into tokens. What a character means depends on where it stands: within braces only label matchers
//! are read, within brackets a colon separates a subquery's step.

use crate::ast::{BinaryOp, Span};
use crate::parse::ParseError;
use crate::parse::quote::{quote, quote_char, read_quoted};
use crate::parse::token::{Token, TokenKind};

/// The tokens of a query. They end with [`TokenKind::End`], or with [`TokenKind::Error`] where the lexer stopped.
pub(crate) struct Tokens {
    pub(crate) tokens: Vec<Token>,
    /// Why the lexer stopped early.
    pub(crate) error: Option<ParseError>,
}

/// Splits `input`; the caller has checked that it is short enough for `u32` offsets.
pub(crate) fn tokenize(input: &str) -> Tokens {
    let mut lexer = Lexer::new(input);
    loop {
        match lexer.next_token() {
            Ok(token) => {
                lexer.tokens.push(token);
                if token.kind == TokenKind::End {
                    return Tokens {
                        tokens: lexer.tokens,
                        error: None,
                    };
                }
            }
            Err(message) => {
                let span = lexer.span_here();
                lexer.tokens.push(Token {
                    kind: TokenKind::Error,
                    span,
                });
                let error = ParseError::new(input, span, message);
                return Tokens {
                    tokens: lexer.tokens,
                    error: Some(error),
                };
            }
        }
    }
}

struct Lexer<'a> {
    input: &'a str,
    tokens: Vec<Token>,
    /// Start of the token being read.
    start: usize,
    /// Next byte to read.
    at: usize,
    paren_depth: usize,
    in_braces: bool,
    in_brackets: bool,
    /// Whether the brackets had their colon.
    had_colon: bool,
}

impl<'a> Lexer<'a> {
    fn new(input: &'a str) -> Lexer<'a> {
        Lexer {
            input,
            tokens: Vec::new(),
            start: 0,
            at: 0,
            paren_depth: 0,
            in_braces: false,
            in_brackets: false,
            had_colon: false,
        }
    }

    fn span_here(&self) -> Span {
        let offset = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Span::new(offset(self.start), offset(self.at))
    }

    fn peek(&self) -> Option<char> {
        self.input[self.at..].chars().next()
    }

    fn peek_byte(&self, ahead: usize) -> u8 {
        self.input.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Takes the next byte if it is one of `set`.
    fn accept(&mut self, set: &[u8]) -> bool {
        let found = self.at < self.input.len() && set.contains(&self.peek_byte(0));
        self.at += usize::from(found);
        found
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.at < self.input.len() && wanted(self.peek_byte(0)) {
            self.at += 1;
        }
    }

    fn skip_spaces_and_comments(&mut self) {
        loop {
            self.skip_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
            if self.peek() != Some('#') {
                return;
            }
            self.skip_while(|byte| byte != b'\n');
        }
    }

    fn token(&self, kind: TokenKind) -> Token {
        Token {
            kind,
            span: self.span_here(),
        }
    }

    fn next_token(&mut self) -> Result<Token, String> {
        self.skip_spaces_and_comments();
        self.start = self.at;
        let Some(first) = self.peek() else {
            return self.end_of_input();
        };
        let kind = match first {
            '"' | '\'' | '`' => {
                let (_, length) = read_quoted(&self.input[self.at..]).map_err(|error| error.message)?;
                self.at += length;
                TokenKind::String
            }
            ',' => self.single(TokenKind::Comma),
            _ if self.in_braces => self.inside_braces(first)?,
            _ => self.outside_braces(first)?,
        };
        Ok(self.token(kind))
    }

    fn end_of_input(&self) -> Result<Token, String> {
        let message = if self.in_braces {
            "unexpected end of input inside braces"
        } else if self.paren_depth != 0 {
            "unclosed left parenthesis"
        } else if self.in_brackets {
            "unclosed left bracket"
        } else {
            return Ok(self.token(TokenKind::End));
        };
        Err(message.to_owned())
    }

    fn single(&mut self, kind: TokenKind) -> TokenKind {
        self.at += 1;
        kind
    }

    fn inside_braces(&mut self, first: char) -> Result<TokenKind, String> {
        let next = self.input[self.at..].chars().nth(1);
        Ok(match (first, next) {
            ('a'..='z' | 'A'..='Z' | '_', _) => {
                self.skip_while(is_word_byte);
                TokenKind::Identifier
            }
            ('=', Some('~')) => self.double(TokenKind::MatchRegex),
            ('=', _) => self.single(TokenKind::Assign),
            ('!', Some('~')) => self.double(TokenKind::MatchNotRegex),
            ('!', Some('=')) => self.double(TokenKind::Operator(BinaryOp::Ne)),
            ('!', other) => {
                return Err(format!(
                    "unexpected character after '!' inside braces: {}",
                    or_end(other)
                ));
            }
            ('}', _) => {
                self.in_braces = false;
                self.single(TokenKind::RightBrace)
            }
            ('{', _) => return Err("unexpected left brace '{'".to_owned()),
            (other, _) => {
                return Err(format!(
                    "unexpected character inside braces: {}",
                    quote_char(other)
                ));
            }
        })
    }

    fn double(&mut self, kind: TokenKind) -> TokenKind {
        self.at += 2;
        kind
    }

    fn outside_braces(&mut self, first: char) -> Result<TokenKind, String> {
        let next = self.input[self.at..].chars().nth(1);
        if first.is_ascii_digit() || (first == '.' && next.is_some_and(|digit| digit.is_ascii_digit())) {
            return self.number_or_duration();
        }
        if is_word_start(first) || (first == ':' && !self.in_brackets) {
            return Ok(self.word());
        }
        if let Some(operator) = self.operator(first, next)? {
            return Ok(operator);
        }
        match first {
            ':' => {
                if std::mem::replace(&mut self.had_colon, true) {
                    return Err("unexpected colon ':'".to_owned());
                }
                Ok(self.single(TokenKind::Colon))
            }
            '@' => Ok(self.single(TokenKind::At)),
            '(' => {
                self.paren_depth += 1;
                Ok(self.single(TokenKind::LeftParen))
            }
            ')' => {
                self.paren_depth = self
                    .paren_depth
                    .checked_sub(1)
                    .ok_or("unexpected right parenthesis ')'")?;
                Ok(self.single(TokenKind::RightParen))
            }
            '{' => {
                self.in_braces = true;
                Ok(self.single(TokenKind::LeftBrace))
            }
            '[' => {
                if std::mem::replace(&mut self.in_brackets, true) {
                    return Err("unexpected left bracket '['".to_owned());
                }
                self.had_colon = false;
                Ok(self.single(TokenKind::LeftBracket))
            }
            ']' => {
                if !std::mem::replace(&mut self.in_brackets, false) {
                    return Err("unexpected right bracket ']'".to_owned());
                }
                Ok(self.single(TokenKind::RightBracket))
            }
            other => Err(format!("unexpected character: {}", quote_char(other))),
        }
    }

    /// Operators written with signs, and `=`.
    fn operator(&mut self, first: char, next: Option<char>) -> Result<Option<TokenKind>, String> {
        let (operator, length) = match (first, next) {
            ('+', _) => (BinaryOp::Add, 1),
            ('-', _) => (BinaryOp::Sub, 1),
            ('*', _) => (BinaryOp::Mul, 1),
            ('/', _) => (BinaryOp::Div, 1),
            ('%', _) => (BinaryOp::Mod, 1),
            ('^', _) => (BinaryOp::Pow, 1),
            ('=', Some('=')) => (BinaryOp::Eq, 2),
            ('=', Some('~')) => return Err("unexpected character after '=': '~'".to_owned()),
            ('=', _) => return Ok(Some(self.single(TokenKind::Assign))),
            ('!', Some('=')) => (BinaryOp::Ne, 2),
            ('!', other) => return Err(format!("unexpected character after '!': {}", or_end(other))),
            ('<', Some('=')) => (BinaryOp::Le, 2),
            ('<', Some('/')) => (BinaryOp::TrimUpper, 2),
            ('<', _) => (BinaryOp::Lt, 1),
            ('>', Some('=')) => (BinaryOp::Ge, 2),
            ('>', Some('/')) => (BinaryOp::TrimLower, 2),
            ('>', _) => (BinaryOp::Gt, 1),
            _ => return Ok(None),
        };
        self.at += length;
        Ok(Some(TokenKind::Operator(operator)))
    }

    fn word(&mut self) -> TokenKind {
        // Within brackets a colon ends the word: `[step():1m]`.
        let colons = !self.in_brackets;
        self.skip_while(|byte| is_word_byte(byte) || (colons && byte == b':'));
        TokenKind::of_word(&self.input[self.start..self.at])
    }

    fn number_or_duration(&mut self) -> Result<TokenKind, String> {
        if self.number() {
            return Ok(TokenKind::Number);
        }
        if self.rest_of_duration() {
            return Ok(TokenKind::Duration);
        }
        self.at += self.peek().map_or(0, char::len_utf8);
        let text = &self.input[self.start..self.at];
        Err(format!(
            "bad number or duration syntax: {}",
            quote(text.as_bytes())
        ))
    }

    /// Takes digits with at most one point, one exponent and single underscores between them; answers whether that
    /// was a number, that is, whether nothing else of a word follows.
    fn number(&mut self) -> bool {
        if self.peek_byte(0) == b'0' && matches!(self.peek_byte(1), b'x' | b'X') {
            self.at += 2;
            self.skip_while(|byte| byte.is_ascii_hexdigit() || byte == b'_');
            return !is_word_byte(self.peek_byte(0))
                && self.input.as_bytes()[self.at - 1].is_ascii_hexdigit();
        }
        let mut had_point = false;
        let mut had_exponent = false;
        loop {
            self.skip_while(|byte| byte.is_ascii_digit());
            if !had_point && !had_exponent && self.accept(b".") {
                had_point = true;
                if matches!(self.peek_byte(0), b'.' | b'_') {
                    return false;
                }
            } else if !had_exponent && self.accept(b"eE") {
                had_exponent = true;
                self.accept(b"+-");
                if !self.peek_byte(0).is_ascii_digit() {
                    return false;
                }
            } else if self.accept(b"_") {
                if !self.peek_byte(0).is_ascii_digit() {
                    return false;
                }
            } else {
                break;
            }
        }
        let next = self.peek_byte(0);
        !is_word_byte(next) && next != b'.'
    }

    /// The number before the first unit is taken already; takes units and numbers to the end of the duration.
    fn rest_of_duration(&mut self) -> bool {
        let digits_only = self.input.as_bytes()[self.start..self.at]
            .iter()
            .all(u8::is_ascii_digit);
        if !digits_only || !self.accept(b"smhdwy") {
            return false;
        }
        self.accept(b"s");
        while self.peek_byte(0).is_ascii_digit() {
            self.skip_while(|byte| byte.is_ascii_digit());
            // Years come first.
            if !self.accept(b"smhdw") {
                return false;
            }
            self.accept(b"s");
        }
        !is_word_byte(self.peek_byte(0))
    }
}

fn is_word_start(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_'
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn or_end(character: Option<char>) -> String {
    character.map_or_else(|| "end of input".to_owned(), quote_char)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::token::Keyword;

    fn kinds(input: &str) -> Vec<TokenKind> {
        tokenize(input)
            .tokens
            .into_iter()
            .map(|token| token.kind)
            .collect()
    }

    #[test]
    fn numbers_and_durations_are_told_apart() {
        use TokenKind::{Duration, End, Error, Number};
        for text in ["1", ".2", "2.", "1e3", "1e+3", "0x1f", "1_000", "inf", "NaN"] {
            assert_eq!(kinds(text), [Number, End], "{text}");
        }
        for text in ["5m", "1h30m", "1y2d", "7ms", "5mm"] {
            let expected = if text == "5mm" {
                vec![Error]
            } else {
                vec![Duration, End]
            };
            assert_eq!(kinds(text), expected, "{text}");
        }
        for text in ["1..2", "1__0", "1_", "1e", "0x", "1.5m", "1h2y", "2foo"] {
            assert_eq!(kinds(text), [Error], "{text}");
        }
    }

    #[test]
    fn brackets_change_what_a_colon_is() {
        use TokenKind::*;
        assert_eq!(kinds("a:b"), [MetricIdentifier, End]);
        assert_eq!(
            kinds("a[step():1m]"),
            [
                Identifier,
                LeftBracket,
                Keyword(super::tests::Keyword::Step),
                LeftParen,
                RightParen,
                Colon,
                Duration,
                RightBracket,
                End
            ]
        );
        assert_eq!(kinds("a[1m:1m:1m]").last(), Some(&Error));
    }

    #[test]
    fn errors_have_prometheus_s_words() {
        let cases = [
            ("sum(a", 5, "unclosed left parenthesis"),
            ("a)", 1, "unexpected right parenthesis ')'"),
            ("a[5m", 4, "unclosed left bracket"),
            ("a]", 1, "unexpected right bracket ']'"),
            ("a{", 2, "unexpected end of input inside braces"),
            ("a{b!c}", 3, "unexpected character after '!' inside braces: 'c'"),
            ("a{0=\"b\"}", 2, "unexpected character inside braces: '0'"),
            ("a ! b", 2, "unexpected character after '!': ' '"),
            ("a =~ b", 2, "unexpected character after '=': '~'"),
            ("\"x", 0, "unterminated quoted string"),
            ("a § b", 2, "unexpected character: '§'"),
            ("5mm", 0, "bad number or duration syntax: \"5mm\""),
        ];
        for (input, start, message) in cases {
            let error = tokenize(input).error.expect("the input is wrong");
            assert_eq!((error.span().start, error.message()), (start, message), "{input}");
        }
    }
}
