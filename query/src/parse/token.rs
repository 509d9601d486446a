//! The tokens of PromQL and how error messages describe them.

use crate::ast::{AggregateOp, BinaryOp, Span};
use crate::parse::quote::quote;

/// A kind of token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenKind {
    End,
    /// The lexer stopped here; its message is kept beside the tokens.
    Error,
    /// A word without a colon that isn't a keyword.
    Identifier,
    /// A word with a colon.
    MetricIdentifier,
    String,
    Number,
    Duration,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    /// `=`
    Assign,
    /// `=~`
    MatchRegex,
    /// `!~`
    MatchNotRegex,
    At,
    Operator(BinaryOp),
    Aggregator(AggregateOp),
    Keyword(Keyword),
}

/// Words with a meaning, besides operators and aggregations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keyword {
    Offset,
    Smoothed,
    Anchored,
    By,
    Without,
    On,
    Ignoring,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Bool,
    Start,
    End,
    Step,
    Range,
}

/// One token and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) span: Span,
}

impl TokenKind {
    /// What a word stands for, keywords in any case.
    pub(crate) fn of_word(word: &str) -> TokenKind {
        const LONGEST_KEYWORD: usize = "count_values".len();
        if word.contains(':') {
            return TokenKind::MetricIdentifier;
        }
        if word.len() > LONGEST_KEYWORD {
            return TokenKind::Identifier;
        }
        let lower = word.to_ascii_lowercase();
        if let Some(op) = AggregateOp::ALL.into_iter().find(|op| op.as_str() == lower) {
            return TokenKind::Aggregator(op);
        }
        match lower.as_str() {
            "and" => TokenKind::Operator(BinaryOp::And),
            "or" => TokenKind::Operator(BinaryOp::Or),
            "unless" => TokenKind::Operator(BinaryOp::Unless),
            "atan2" => TokenKind::Operator(BinaryOp::Atan2),
            "inf" | "nan" => TokenKind::Number,
            "offset" => TokenKind::Keyword(Keyword::Offset),
            "smoothed" => TokenKind::Keyword(Keyword::Smoothed),
            "anchored" => TokenKind::Keyword(Keyword::Anchored),
            "by" => TokenKind::Keyword(Keyword::By),
            "without" => TokenKind::Keyword(Keyword::Without),
            "on" => TokenKind::Keyword(Keyword::On),
            "ignoring" => TokenKind::Keyword(Keyword::Ignoring),
            "group_left" => TokenKind::Keyword(Keyword::GroupLeft),
            "group_right" => TokenKind::Keyword(Keyword::GroupRight),
            "fill" => TokenKind::Keyword(Keyword::Fill),
            "fill_left" => TokenKind::Keyword(Keyword::FillLeft),
            "fill_right" => TokenKind::Keyword(Keyword::FillRight),
            "bool" => TokenKind::Keyword(Keyword::Bool),
            "start" => TokenKind::Keyword(Keyword::Start),
            "end" => TokenKind::Keyword(Keyword::End),
            "step" => TokenKind::Keyword(Keyword::Step),
            "range" => TokenKind::Keyword(Keyword::Range),
            _ => TokenKind::Identifier,
        }
    }

    /// Whether it can name a metric: identifiers, and every keyword that isn't needed to tell what follows an
    /// operator.
    pub(crate) fn names_metric(self) -> bool {
        match self {
            TokenKind::Identifier | TokenKind::MetricIdentifier | TokenKind::Aggregator(_) => true,
            TokenKind::Operator(op) => op.is_set(),
            TokenKind::Keyword(keyword) => !matches!(
                keyword,
                Keyword::Bool | Keyword::On | Keyword::Ignoring | Keyword::GroupLeft | Keyword::GroupRight
            ),
            _ => false,
        }
    }

    /// Whether it can name a label in `by (…)`, `on (…)` and the like: every word can.
    pub(crate) fn names_label(self) -> bool {
        match self {
            TokenKind::Operator(op) => op.is_set() || op == BinaryOp::Atan2,
            TokenKind::Keyword(_) => true,
            kind => kind.names_metric(),
        }
    }

    /// The token in an error message, Prometheus's words; `text` is what was written.
    pub(crate) fn describe(self, text: &str) -> String {
        let shown = || match text.char_indices().nth(10) {
            Some((cut, _)) => format!("{}...", quote(&text.as_bytes()[..cut])),
            None => quote(text.as_bytes()),
        };
        match self {
            TokenKind::End => "end of input".to_owned(),
            TokenKind::Error => "error".to_owned(),
            TokenKind::Identifier => format!("identifier {}", quote(text.as_bytes())),
            TokenKind::MetricIdentifier => format!("metric identifier {}", quote(text.as_bytes())),
            TokenKind::String => format!("string {}", shown()),
            TokenKind::Number => format!("number {}", shown()),
            TokenKind::Duration => format!("duration {}", shown()),
            TokenKind::Operator(_) | TokenKind::MatchRegex | TokenKind::MatchNotRegex | TokenKind::At => {
                format!("<op:{text}>")
            }
            TokenKind::Aggregator(_) => format!("<aggr:{text}>"),
            TokenKind::Keyword(Keyword::Start | Keyword::End | Keyword::Step | Keyword::Range) => shown(),
            TokenKind::Keyword(_) => format!("<{text}>"),
            _ => shown(),
        }
    }
}
